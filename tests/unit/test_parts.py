"""Parts of the core: each one's fields are changed by its own rooms, and read elsewhere only where that is said.

Read from the source text: the variables of a function, the structures they point to, and the fields that are named.
What a part offers to others are its functions, many of them inline in its ``.pxd``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.source_tree

QUIC = Path(__file__).parents[2] / "src" / "iroh_fast" / "quic"


class Touch(NamedTuple):
    """A room reads a field, or changes it."""

    room: str
    structure: str
    field: str
    changes: bool


STRUCTURE = re.compile(
    r"^cdef (?:struct|class) (\w+)(?:\((\w+)\))?:[^\n]*\n((?:(?:[ \t]+[^\n]*)?\n)+)", re.M
)
FIELD = re.compile(r"^    (?:cdef )?(?:public |readonly )?(?:const )?(\w+)\** *(.+)$")
BLOCK = re.compile(r"^(?=cdef |def |@|    cdef [\w*\[\] ]+\(|    def |    cdef inline)", re.M)
PARAMETER = re.compile(r"(?:\(|, ?|\n +)(?:const )?(\w+) ?\*{0,2} ?(\w+)(?=[,)=])")
VARIABLE = re.compile(r"^\s+cdef (?:const )?(\w+)\** ([^\n]+)$", re.M)
CHAIN = re.compile(
    r"(?<![\w.])(&?)(\w+)((?:\[[^\]\n]*\])?(?:\.\w+(?:\[[^\]\n]*\])?)+)(\s*(?:[-+*/|&^]|<<|>>|//)?=(?!=))?"
)


def without_text(source: str) -> str:
    """Without comments and strings."""
    source = re.sub(r'("""|\'\'\')(.*?)\1', '""', source, flags=re.S)
    return re.sub(r"#[^\n]*", "", source)


def rooms_of(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.p[yx][xd]")):
        found.setdefault(path.stem, []).append(without_text(path.read_text(encoding="utf-8")))
    return found


def structures_of(rooms: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """The types of the fields of every structure and class."""
    found: dict[str, dict[str, str]] = {}
    bases: dict[str, str] = {}
    for text in (text for texts in rooms.values() for text in texts):
        for structure in STRUCTURE.finditer(text):
            fields = found.setdefault(structure[1], {})
            if structure[2]:
                bases[structure[1]] = structure[2]
            for line in structure[3].splitlines():
                field = FIELD.match(line)
                if field and "(" not in line:
                    for name in field[2].split(","):
                        fields[re.sub(r"\[.*", "", name).strip().lstrip("*")] = field[1]
    for name, base in bases.items():
        # What is inherited belongs to the base: a subclass stands for it.
        found[name] = {**found.get(base, {}), **found[name]}
    return {name: fields for name, fields in found.items() if fields}


def types_in(block: str, structures: dict[str, dict[str, str]]) -> dict[str, str]:
    """The structures that the variables of a function point to, or are."""
    head = block.partition(":\n")[0]
    found = {m[2]: m[1] for m in PARAMETER.finditer(head) if m[1] in structures}
    for variable in VARIABLE.finditer(block):
        if variable[1] in structures:
            for name in re.split(r",(?![^()\[\]]*[)\]])", variable[2]):
                found[re.sub(r"\[.*", "", name.split("=")[0]).strip().lstrip("*")] = variable[1]
    return found


def touches(rooms: dict[str, list[str]]) -> Iterator[Touch]:
    structures = structures_of(rooms)
    for room, texts in rooms.items():
        for text in texts:
            owner = ""
            for block in BLOCK.split(text):
                if begins := re.match(r"cdef class (\w+)", block):
                    owner = begins[1]
                elif re.match(r"(cdef|def) ", block):
                    owner = ""
                types = types_in(block, structures)
                if owner in structures:
                    types["self"] = owner
                for chain in CHAIN.finditer(block):
                    names = re.findall(r"\.(\w+)", chain[3])
                    structure = types.get(chain[2], "")
                    for place, name in enumerate(names, 1):
                        if name not in structures.get(structure, {}):
                            break
                        changes = place == len(names) and bool(chain[4])
                        yield Touch(room, structure, name, changes)
                        structure = structures[structure][name]


class Part(NamedTuple):
    rooms: str
    #: what other rooms may read, "*" for everything
    shown: str = ""


STREAM_ROOMS = "_stream _stream_table _stream_frames _stream_packets _streams _flow _schedule"
RECOVERY_ROOMS = "_recovery_state _recovery _acknowledged _loss _refused"
PATH_ROOMS = "_paths _path_queries _path_table _cids _validation _routing _control"

PARTS: dict[str, Part] = {
    # a connection; it is made in `_endpoint`
    "Connection": Part("_core", "*"),
    "QuicConnection": Part("_core _connection _endpoint", "*"),
    "Agreed": Part("_agreed _core _handshake _path_table", "*"),
    "AckRules": Part("_agreed _core", "*"),
    "Closing": Part("_closing_state _closing", "*"),
    "Failure": Part("_core _closing", "*"),
    "Datagrams": Part("_datagrams", "rx tx"),
    "MessageQueue": Part("_datagrams", "bytes count"),
    "Timers": Part("_timers", "due"),
    # the handshake
    "Handshake": Part(
        "_handshake_state _handshake _first_flight _core",
        "confirmed crypto_rx crypto_tx done first handshake heard initial original ours peer_validated_us theirs until",
    ),
    "HandshakeId": Part("_handshake_state _first_flight", "*"),
    "Stage": Part("_handshake_state", "live rx space tx"),
    # keys
    "KeyRing": Part("_keys", "phase"),
    "LevelKeys": Part("_keys"),
    # control frames
    "Ledger": Part("_ledger _control_queue"),
    "Kind": Part("_control_queue _control"),
    # paths
    "PathTable": Part(
        "_paths _path_queries _path_table _cids _validation _core",
        "done first remote_max sent_max spinning",
    ),
    "CidSet": Part("_paths _path_queries _cids", "active n_remote next_seq remote"),
    "LocalCid": Part("_paths _cids", "value"),
    "RemoteCid": Part("_paths", "cid len seq"),
    "Route": Part(
        "_paths _path_table _validation _first_flight _handshake _receive _acknowledged",
        "ecn flight local mtud received remote sent validated",
    ),
    "Path": Part(
        PATH_ROOMS,
        "abandon_due abandoned cids challenge_due established id idle_from idle_timeout immediate_ack_due last_rx"
        " last_tx next observed observed_due observed_seq ping_due previous recovery response response_due route"
        " silent silent_since spin stats status status_seq timers",
    ),
    "PathStats": Part("_paths _path_table _acknowledged _loss _transmit _write", "*"),
    "AddressBudget": Part("_validation"),
    "RetiredCid": Part("_cids"),
    "IdRanges": Part("_paths"),
    "Mtud": Part("_mtud", "black_holes current next_search probes_lost probes_sent state"),
    # NAT traversal
    "Traversal": Part("_traversal_state", "*"),
    "OwnAddress": Part("_traversal_state _traversal_addresses", "addr gone"),
    "Candidate": Part("_traversal_state", "*"),
    "Asked": Part("_traversal_state"),
    "AskedAlong": Part("_traversal_state"),
    "Proven": Part("_traversal_state", "*"),
    # loss recovery and congestion control
    "Recovery": Part(RECOVERY_ROOMS, "pto_count space"),
    "Flight": Part(RECOVERY_ROOMS + " _paths", "rtt"),
    "PnSpace": Part(
        "_space _packets " + RECOVERY_ROOMS,
        "ack_now ce ect0 ect1 largest_rx_at last_eliciting_at loss_probes received sent",
    ),
    "SentTable": Part("_sent", "head outstanding tail"),
    "LostTable": Part("_sent", "event_generation live log"),
    "PnLog": Part("_sent", "tail"),
    "ReceivedSet": Part("_received", "ends largest n_ranges starts"),
    "Rtt": Part("_rtt", "first_sample_at has_sample latest min smoothed var"),
    "Reordering": Part("_reordering", "seen"),
    "Pacer": Part("_pacer"),
    "Congestion": Part(
        "_controller _controllers _cubic _hystart _newreno _bbr _bbr_model _bbr_loss _bbr_probe",
        "cwnd delivery mtu recovery_start ssthresh",
    ),
    "Delivery": Part("_delivery _controllers", "app_limited arrived delivered lost"),
    "Bbr": Part("_bbr _bbr_model _bbr_loss _bbr_probe"),
    "Cubic": Part("_cubic"),
    "Hystart": Part("_hystart"),
    "NewReno": Part("_newreno"),
    # streams
    "StreamTable": Part(STREAM_ROOMS, "events reason streams_turn unconfirmed"),
    "Stream": Part(STREAM_ROOMS),
    "Flow": Part(STREAM_ROOMS),
    "Schedule": Part("_schedule", "waiting"),
    "Level": Part("_schedule", "priority"),
    "Levels": Part("_schedule", "n"),
    "Queue": Part("_schedule", "head"),
    "Link": Part("_schedule", "queued"),
    "Streams": Part("_streams", "table"),
    "SendBuf": Part("_send_buffer _stream_table", "acked end lost next"),
    "RecvBuf": Part("_receive_buffer _streams", "n_gaps read tail unordered"),
    "Segment": Part("_send_buffer"),
    "Chunk": Part("_receive_buffer"),
    "RangeSet": Part("_ranges _send_buffer", "n v"),
    # an endpoint
    "Budget": Part("_budget", "limit refused used"),
    "IdTable": Part("_id_table", "live"),
    "Admission": Part("_admission", "attempts"),
    "ProbeLimit": Part("_probe_limit", "held"),
    "RandomSource": Part("_random"),
}

# Who else changes single fields, and why.
ALSO: dict[tuple[str, str], str] = {
    # Python objects, which structures cannot hold, stand in the connection beside their part
    ("Connection", "address_token"): "_handshake _first_flight",
    ("Connection", "alpn"): "_handshake",
    ("Connection", "close_reason"): "_closing",
    ("Connection", "close_text"): "_closing _handshake _transmit",
    ("Connection", "early_data_accepted"): "_handshake",
    ("Connection", "early_datagrams"): "_receive",
    ("Connection", "path_log"): "_path_table",
    ("Connection", "path_log_off"): "_path_table",
    ("Connection", "peer_id"): "_handshake",
    ("Connection", "reset_tokens"): "_cids",
    # the state of the whole: a handshake completes, a connection ends
    ("Connection", "deadline"): "_closing",
    ("Connection", "failed"): "_closing",
    ("Connection", "state"): "_closing _handshake",
    # time comes in with a datagram, a timer, or the question what to send
    ("Connection", "now"): "_receive _timeouts _transmit",
    # frames that only one path may carry: whoever writes one clears its mark
    ("Path", "challenge_due"): "_timeouts _write",
    ("Path", "challenge_lost"): "_timeouts",
    ("Path", "immediate_ack_due"): "_write",
    ("Path", "observed_due"): "_write",
    ("Path", "ping_due"): "_write",
    ("Path", "proves_mtu"): "_transmit",
    ("Path", "response_due"): "_write",
    ("Path", "observed"): "_frames",
    ("Path", "observed_seq"): "_frames",
    ("Path", "idle_timeout"): "_connection _handshake",
    # the next turn of streams and datagrams, and events that are taken
    ("StreamTable", "streams_turn"): "_write",
    ("StreamTable", "events"): "_core",
    ("Admission", "max_attempt_bytes"): "_endpoint",
    ("Admission", "max_attempts"): "_endpoint",
    ("Admission", "max_bytes"): "_endpoint",
}

# What is handed from room to room, and lives no longer than a call or a queue: nobody's part.
RECORDS = (
    *(
        "Acked",
        "LostPacket",
        "RateSample",
        "Snapshot",
        "Tally",
        "View",
        "Arrival",
        "ClientKeys",
        "Config",
        "Controller",
        "Curve",
        "FrameRec",
        "Host",
        "IdRange",
    ),
    *(
        "IdEntry",
        "Lost",
        "News",
        "OffPath",
        "Opened",
        "Packet",
        "ParameterCid",
        "Parameters",
        "PathIds",
    ),
    *(
        "PathStatistics",
        "Piece",
        "Plan",
        "PreferredEndpoint",
        "QuicIncoming",
        "QuicStream",
        "SentPn",
    ),
    *("SentRec", "StreamRun", "Transmit", "Writer", "AdmissionHost", "QuicEndpoint"),
)


def is_allowed(touch: Touch) -> bool:
    part = PARTS[touch.structure]
    also = ALSO.get((touch.structure, touch.field), "")
    if touch.room in part.rooms.split() or touch.room in also.split():
        return True
    return not touch.changes and (part.shown == "*" or touch.field in part.shown.split())


def test_parts_every_structure_of_the_core_has_its_place() -> None:
    present = set(structures_of(rooms_of(QUIC)))
    assert sorted(present - set(PARTS) - set(RECORDS)) == []
    assert sorted((set(PARTS) | {name for name, _ in ALSO}) - present) == []


def test_parts_fields_are_touched_by_their_own_rooms() -> None:
    found = {touch for touch in touches(rooms_of(QUIC)) if touch.structure in PARTS}
    assert len(found) > 1000
    foreign = sorted(touch for touch in found if not is_allowed(touch))
    assert [
        f"{t.room} {'changes' if t.changes else 'reads'} {t.structure}.{t.field}" for t in foreign
    ] == []
    # What the table allows beyond the rooms of a part is in use.
    used = {(t.structure, t.field) for t in found if t.changes}
    assert sorted(set(ALSO) - used) == []


def test_parts_reading_and_changing_is_told_apart() -> None:
    rooms = {
        "_low": [
            "cdef struct Inner:\n    int x, y\n\n\ncdef struct Outer:\n    Inner* inner\n    Inner own[2]\n\n"
        ],
        "_high": [
            "cdef int see(Outer* outer, int n) noexcept nogil:\n"
            "    cdef Inner* inner = outer.inner\n"
            "    outer.own[n].x += inner.y\n"
            "    if outer.inner.x == 3:\n"
            "        inner.y = 0\n"
            "    return other(&outer.own[0].y)\n"
        ],
    }
    changed = {(t.structure, t.field) for t in touches(rooms) if t.changes}
    read = {(t.structure, t.field) for t in touches(rooms) if not t.changes}
    assert changed == {("Inner", "x"), ("Inner", "y")}
    assert read == {("Outer", "own"), ("Outer", "inner"), ("Inner", "x"), ("Inner", "y")}
    assert is_allowed(Touch("_frames", "Path", "id", changes=False))
    assert not is_allowed(Touch("_frames", "Path", "id", changes=True))
    assert not is_allowed(Touch("_frames", "Flight", "cc", changes=False))
