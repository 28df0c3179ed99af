"""qlog files: their form, their events, and that failing to write them harms nothing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sim import CLIENT, MS, SECOND, SERVER, Pair, calm, transfer

from iroh_fast._packet import encode_frame
from iroh_fast.errors import CloseReason
from iroh_fast.quic import qlog
from iroh_fast.quic.qlog import QlogWriter

MakePair = Callable[..., Pair]

# draft-ietf-quic-qlog-quic-events-12: event, its section's category, and what its data may have
SCHEMA = {
    "connectivity:connection_started": {"local", "remote"},
    "connectivity:connection_closed": {
        *("initiator", "connection_error", "application_error", "error_code"),
        *("internal_code", "reason", "trigger"),
    },
    "connectivity:tuple_assigned": {"tuple_id", "tuple_remote", "tuple_local"},
    "transport:parameters_set": None,  # parameters of extensions are named by their drafts
    "transport:parameters_restored": {
        *("disable_active_migration", "max_idle_timeout", "max_udp_payload_size"),
        *("active_connection_id_limit", "initial_max_data", "initial_max_stream_data_bidi_local"),
        *("initial_max_stream_data_bidi_remote", "initial_max_stream_data_uni"),
        *("initial_max_streams_bidi", "initial_max_streams_uni", "max_datagram_frame_size"),
    },
    "transport:packet_sent": {"header", "frames", "raw"},
    "transport:packet_received": {"header", "frames", "raw"},
    "transport:timer_updated": {"timer_type", "timer_id", "event_type", "delta"},
    "security:key_updated": {"key_type", "key_phase", "trigger"},
    "security:key_discarded": {"key_type", "key_phase", "trigger"},
    "recovery:parameters_set": {
        *("reordering_threshold", "time_threshold", "timer_granularity", "initial_rtt"),
        *("max_datagram_size", "initial_congestion_window", "persistent_congestion_threshold"),
        "congestion_control",
    },
    "recovery:metrics_updated": {
        *("min_rtt", "smoothed_rtt", "latest_rtt", "rtt_variance", "pto_count"),
        *("congestion_window", "bytes_in_flight", "ssthresh", "packets_in_flight", "pacing_rate"),
        # any number of others is allowed
        *("path_id", "bandwidth_estimate", "inflight_longterm", "inflight_shortterm"),
    },
    "recovery:congestion_state_updated": {"old", "new", "trigger", "path_id"},
    "recovery:packet_lost": {"header", "is_mtu_probe_packet", "trigger"},
    "recovery:spurious_loss": {"header", "packets", "congestion_event_undone"},
}
NAMES = set(SCHEMA)
# visualizations/src/data/QlogSchema02.ts of qvis: what its graphs are made of
QVIS = {
    *("transport:packet_sent", "transport:packet_received", "transport:parameters_set"),
    *("recovery:packet_lost", "recovery:metrics_updated"),
}
Record = dict[str, Any]


def records(path: Path) -> list[Record]:
    """The JSON texts of a file; each must be framed as RFC 7464 says."""
    parts = path.read_bytes().split(b"\x1e")
    assert parts[0] == b"" and all(p.endswith(b"\n") and p.count(b"\n") == 1 for p in parts[1:])
    return [json.loads(p) for p in parts[1:]]


def logs(directory: Path, prefix: str = "") -> tuple[list[Record], list[Record]]:
    """Records of the client and of the server; there is one file of each."""
    out = []
    for side in ("client", "server"):
        (path,) = directory.glob(f"{prefix}*-{side}.qlog")
        out.append(records(path))
    return out[0], out[1]


def named(log: list[Record], name: str) -> list[Record]:
    """Data of the events of a name as in the draft."""
    shown = f"{qlog.EVENTS[name]}:{name.removeprefix('recovery_')}"
    return [e["data"] for e in log[1:] if e["name"] == shown]


def frame_types(log: list[Record], name: str) -> Counter[str]:
    return Counter(f["frame_type"] for d in named(log, name) for f in d["frames"])


def logged_pair(make_pair: MakePair, directory: Path, **options: Any) -> Pair:
    return make_pair(9, transport=calm(qlog_dir=str(directory), qlog_prefix="t"), **options)


def test_file_has_name_header_and_ascending_times(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path / "new" / "folder")
    pair.connect()
    pair.finish()
    names = sorted(p.name for p in (tmp_path / "new" / "folder").iterdir())
    assert len(names) == 2
    prefix, unix_ms, cid, tail = names[0].split("-")
    assert (prefix, tail) == ("t", "client.qlog")
    assert unix_ms == "1700000000000"
    assert len(bytes.fromhex(cid)) == 20
    # both sides name the client's first destination id
    assert names[1].split("-")[2:] == [cid, "server.qlog"]
    for log, side in zip(logs(tmp_path / "new" / "folder", "t"), ("client", "server"), strict=True):
        head = log[0]
        assert head["file_schema"] == "urn:ietf:params:qlog:file:sequential"
        assert head["serialization_format"] == "application/qlog+json-seq"
        assert head["trace"]["vantage_point"]["type"] == side
        assert head["trace"]["event_schemas"] == ["urn:ietf:params:qlog:events:quic-12"]
        common = head["trace"]["common_fields"]
        assert common["group_id"] == cid
        assert common["reference_time"]["wall_clock_time"].startswith("2023-11-14T22:13:20")
        times = [e["time"] for e in log[1:]]
        assert times == sorted(times) and times[0] == 0
        assert {e["name"] for e in log[1:]} <= NAMES


def test_connection_tells_start_parameters_keys_and_end(
    make_pair: MakePair, tmp_path: Path
) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    client.close(7, b"done")
    pair.run_until(lambda: server.closing)
    pair.finish()
    c, s = logs(tmp_path)
    (started,) = named(c, "connection_started")
    assert started["remote"]["ip_v4"] == SERVER[0] and started["remote"]["port_v4"] == SERVER[1]
    (started,) = named(s, "connection_started")
    assert started["remote"]["ip_v4"] == CLIENT[0]
    assert started["local"]["port_v4"] == SERVER[1]

    sent, got = ({d["initiator"]: d for d in named(log, "parameters_set")} for log in (c, s))
    assert set(sent) == set(got) == {"local", "remote"}
    for ours, theirs in ((sent, got), (got, sent)):
        a, b = ours["local"], theirs["remote"]
        assert {k: v for k, v in a.items() if k not in ("initiator", "owner")} == {
            k: v for k, v in b.items() if k not in ("initiator", "owner")
        }
    assert sent["local"]["initial_max_path_id"] == 7
    assert sent["local"]["active_connection_id_limit"] == 5

    assert {d["key_type"] for d in named(c, "key_updated")} == {
        f"{side}_{level}_secret" for side in ("client", "server") for level in ("handshake", "1rtt")
    }
    (end,) = named(c, "connection_closed")
    assert end == {
        "initiator": "local",
        "trigger": "application",
        "application_error": "unknown",
        "error_code": 7,
    }
    (end,) = named(s, "connection_closed")
    assert (end["initiator"], end["error_code"], end["reason"]) == ("remote", 7, "done")


def test_packets_and_frames_of_one_side_are_those_of_the_other(
    make_pair: MakePair, tmp_path: Path
) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    transfer(pair, client, server, bytes(200_000))
    counted = client.stats()["frame_tx"], server.stats()["frame_rx"]
    pair.finish()
    c, s = logs(tmp_path)

    def key(d: Record) -> tuple[Any, ...]:
        header = d["header"]
        frames = json.dumps([{k: v for k, v in f.items() if k != "ack_delay"} for f in d["frames"]])
        return header["packet_type"], header["packet_number"], d["raw"]["length"], frames

    for a, b in ((c, s), (s, c)):
        sent, received = named(a, "packet_sent"), named(b, "packet_received")
        assert {key(d) for d in received} <= {key(d) for d in sent}
        assert len({key(d)[:2] for d in sent}) == len(sent)
        # the last packets may meet a side that has already forgotten the connection
        assert len(sent) - len(received) <= 2
    types = frame_types(c, "packet_sent")
    assert types["stream"] == counted[0]["stream"] == counted[1]["stream"] > 100
    assert {"crypto", "ack", "padding", "path_new_connection_id"} <= set(types)
    assert {d["header"]["packet_type"] for d in named(c, "packet_sent")} == {
        "initial",
        "handshake",
        "1RTT",
    }
    stream = [
        f for d in named(c, "packet_sent") for f in d["frames"] if f["frame_type"] == "stream"
    ]
    assert sum(f["raw"]["payload_length"] for f in stream) == 200_000
    assert stream[-1]["fin"] is True
    # nothing of the user's data is in the file
    assert "00" * 64 not in json.dumps(c)
    sizes = sum(d["raw"]["length"] for d in named(c, "packet_sent"))
    assert sizes == sum(len(d.data) for d in pair.client.sent)


def test_losses_are_those_of_the_counters(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    pair.to_server.loss = 0.05
    transfer(pair, client, server, bytes(400_000))
    pair.to_server.loss = 0
    lost = client.stats()["lost_packets"]
    pair.finish()
    c, _ = logs(tmp_path)
    events = named(c, "packet_lost")
    assert len(events) == lost > 3
    assert {e["trigger"] for e in events} <= {"reordering_threshold", "time_threshold"}
    sent = {
        (d["header"]["packet_type"], d["header"]["packet_number"]) for d in named(c, "packet_sent")
    }
    assert {(e["header"]["packet_type"], e["header"]["packet_number"]) for e in events} <= sent


def test_metrics_hold_only_what_changed(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    transfer(pair, client, server, bytes(300_000))
    info = client.path_info(0)
    pair.finish()
    c, _ = logs(tmp_path)
    events = named(c, "recovery_metrics_updated")
    state: dict[str, Any] = {}
    for e in events:
        assert e["path_id"] == 0 and len(e) > 1
        for name, value in e.items():
            if name != "path_id":
                assert state.get(name) != value
                state[name] = value
    assert state["min_rtt"] == pytest.approx(10, abs=1)
    assert state["congestion_window"] == info["cwnd"]
    assert state["bytes_in_flight"] == 0 and state["packets_in_flight"] == 0
    # slow start: there is no threshold to tell
    assert "ssthresh" not in state


def test_key_update_names_who_began(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    client.force_key_update()
    transfer(pair, client, server, bytes(5000))
    pair.finish()
    for log, trigger in zip(logs(tmp_path), ("local_update", "remote_update"), strict=True):
        updates = [d for d in named(log, "key_updated") if d["trigger"] != "tls"]
        assert [(d["key_type"], d["key_phase"], d["trigger"]) for d in updates] == [
            ("client_1rtt_secret", 1, trigger),
            ("server_1rtt_secret", 1, trigger),
        ]


def test_paths_are_tuples(make_pair: MakePair, tmp_path: Path) -> None:
    other = ("10.0.1.1", 1111)
    pair = logged_pair(make_pair, tmp_path, client_addresses=(CLIENT, other))
    client, server = pair.connect()
    path = client.open_path(SERVER, local=other)
    pair.drive()
    transfer(pair, client, server, bytes(20_000))
    client.close_path(path)
    pair.run_for(3 * 10**9)
    pair.finish()
    c, s = logs(tmp_path)
    mine = [d for d in named(c, "tuple_assigned") if d["tuple_id"] == str(path)]
    assert mine[0]["tuple_local"]["ip_v4"] == other[0]
    assert mine[-1] == {"tuple_id": str(path)}
    seen = [d for d in named(s, "tuple_assigned") if d["tuple_id"] == str(path)]
    assert seen[0]["tuple_remote"]["ip_v4"] == other[0]
    on_path = [
        e for e in c[1:] if e.get("tuple") == str(path) and e["name"] == "transport:packet_sent"
    ]
    assert on_path and all(e["data"]["header"]["path_id"] == path for e in on_path)
    assert "path_abandon" in frame_types(c, "packet_sent")


def test_silence_shows_probes_and_the_idle_timeout(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, _ = pair.connect()
    pair.filters.append(lambda d: True)
    client.open_stream(False).write(b"hello")
    pair.run_until(lambda: client.closing, limit=100 * 10**9)
    pair.finish()
    c, _ = logs(tmp_path)
    (end,) = named(c, "connection_closed")
    assert end == {"initiator": "local", "trigger": "idle_timeout"}
    assert max(d.get("pto_count", 0) for d in named(c, "recovery_metrics_updated")) >= 1


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (
            {"type": 0x02, "largest": 9, "delay": 125, "ranges": [(7, 9), (3, 3)]},
            {"frame_type": "ack", "ack_delay": 1.0, "acked_ranges": [[7, 9], [3]]},
        ),
        (
            {
                "type": 0x3F,
                "path_id": 2,
                "largest": 1,
                "delay": 0,
                "ranges": [(0, 1)],
                "ecn": (5, 0, 1),
            },
            {
                "frame_type": "path_ack",
                "path_id": 2,
                "ack_delay": 0.0,
                "acked_ranges": [[0, 1]],
                "ect0": 5,
                "ect1": 0,
                "ce": 1,
            },
        ),
        (
            {"type": 0x04, "id": 4, "error": 9, "final_size": 100},
            {
                "frame_type": "reset_stream",
                "stream_id": 4,
                "error": "unknown",
                "error_code": 9,
                "final_size": 100,
            },
        ),
        (
            {"type": 0x13, "count": 7},
            {"frame_type": "max_streams", "stream_type": "unidirectional", "maximum": 7},
        ),
        (
            {"type": 0x1C, "code": 0x0A, "frame_type": 6, "reason": b"no"},
            {
                "frame_type": "connection_close",
                "error_space": "transport",
                "error": "protocol_violation",
                "trigger_frame_type": 6,
                "reason": "no",
            },
        ),
        (
            {"type": 0x1C, "code": 0x12A, "frame_type": 0, "reason": b"\xff"},
            {
                "frame_type": "connection_close",
                "error_space": "transport",
                "error": "crypto_error_0x12a",
                "reason": "\ufffd",
            },
        ),
        (
            {"type": 0x18, "seq": 1, "retire_prior_to": 0, "cid": b"\1\2\3\4", "token": bytes(16)},
            {
                "frame_type": "new_connection_id",
                "sequence_number": 1,
                "retire_prior_to": 0,
                "connection_id": "01020304",
                "stateless_reset_token": "00" * 16,
            },
        ),
        (
            {"type": 0x9F81A6, "seq": 3, "addr": ("192.0.2.1", 80)},
            {
                "frame_type": "observed_address",
                "sequence_number": 3,
                "ip_v4": "192.0.2.1",
                "port_v4": 80,
            },
        ),
        ({"type": 0x31, "data": b"abc"}, {"frame_type": "datagram", "raw": {"payload_length": 3}}),
        (
            {"type": 0x1A, "data": b"12345678"},
            {"frame_type": "path_challenge", "data": b"12345678".hex()},
        ),
    ],
)
def test_frames_are_named_as_the_schema_says(frame: Record, expected: Record) -> None:
    assert qlog._frames(encode_frame(frame), 3) == [expected]


def test_every_frame_the_codec_knows_has_a_name() -> None:
    streams = range(0x08, 0x10)
    for kind in [*range(0x20), 0x30, 0x31, 0x3E, 0x3F, 0xAF, *range(0x3E75, 0x3E7D)]:
        assert (kind in qlog.FRAME_NAMES) != (kind in streams), hex(kind)


def open_writer(directory: Path) -> QlogWriter:
    writer = QlogWriter.open(str(directory), "", True, b"\1" * 8, 1000, 1.5)
    assert writer is not None
    return writer


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_directory_that_cannot_be_made_gives_one_warning_and_a_connection(
    make_pair: MakePair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    pair = make_pair(9, transport=calm(qlog_dir=str(blocker / "sub")), server_transport=calm())
    client, server = pair.connect()
    transfer(pair, client, server, bytes(5000))
    assert len(warnings(caplog)) == 1 and "no qlog" in warnings(caplog)[0]


def test_failing_write_ends_the_log_with_one_warning_not_the_connection(
    make_pair: MakePair,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()

    class Full:
        closed = False

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

        flush = write

        def close(self) -> None:
            self.closed = True

    full = Full()
    client.qlog._file.close()
    client.qlog._file = full
    transfer(pair, client, server, bytes(50_000))
    assert full.closed
    assert len(warnings(caplog)) == 1 and "No space left" in warnings(caplog)[0]


def test_event_that_cannot_be_decoded_ends_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = open_writer(tmp_path)
    writer.packet(2000, True, 3, 0, 1, 30, b"\x01")
    writer.packet(3000, False, 3, 0, 1, 30, b"\x06")
    writer.packet(4000, True, 3, 0, 2, 30, b"\x01")
    assert len(warnings(caplog)) == 1
    (path,) = tmp_path.iterdir()
    assert len(records(path)) == 2


def test_file_of_the_same_name_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = open_writer(tmp_path)
    assert QlogWriter.open(str(tmp_path), "", True, b"\1" * 8, 1000, 1.5) is None
    assert len(warnings(caplog)) == 1
    first.finish()
    first.finish()
    assert len(records(Path(first.path))) == 1


def test_dropped_writer_leaves_a_complete_file(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    path = Path(writer.path)
    writer.lost(2_000_000, 3, 1, 5, True, True)
    writer.closed(3_000_000, CloseReason("reset", 0, b"", True), 0, False)
    del writer
    _, lost, closed = records(path)
    assert lost == {
        "time": 1.999,
        "name": "recovery:packet_lost",
        "tuple": "1",
        "data": {
            "header": {"packet_type": "1RTT", "packet_number": 5, "path_id": 1},
            "is_mtu_probe_packet": True,
            "trigger": "time_threshold",
        },
    }
    assert closed["data"] == {"initiator": "remote", "trigger": "stateless_reset"}


def test_nothing_is_written_unless_asked(make_pair: MakePair, tmp_path: Path) -> None:
    pair = make_pair(9)
    client, server = pair.connect()
    assert client.qlog is None and server.qlog is None
    assert list(tmp_path.iterdir()) == []


def busy_pair(make_pair: MakePair, directory: Path, **options: Any) -> tuple[Any, ...]:
    """Both logs of a transfer over a narrow, lossy link that reorders."""
    pair = logged_pair(make_pair, directory, **options)
    client, server = pair.connect()
    pair.to_server.rate, pair.to_server.queue = 500_000, 40_000
    pair.to_server.loss, pair.to_server.reorder = 0.01, 0.02
    transfer(pair, client, server, bytes(600_000))
    pair.to_server.loss = pair.to_server.reorder = 0
    client.force_key_update()
    transfer(pair, client, server, bytes(20_000))
    pair.run_for(2 * SECOND)
    stats = client.path_info(0)["stats"]
    pair.finish()
    return *logs(directory), stats


def test_events_and_their_fields_are_those_of_the_schema(
    make_pair: MakePair, tmp_path: Path
) -> None:
    c, s, _ = busy_pair(make_pair, tmp_path)
    for event in [*c[1:], *s[1:]]:
        allowed = SCHEMA[event["name"]]
        assert set(event) <= {"time", "name", "tuple", "data"}
        assert allowed is None or set(event["data"]) <= allowed, event
    assert {e["name"] for e in c[1:]} == NAMES - {"transport:parameters_restored"}


def test_file_is_one_that_qvis_takes(make_pair: MakePair, tmp_path: Path) -> None:
    """Its loader looks for the version and "JSON-SEQ" in the first characters, and for names by category."""
    c, _, _ = busy_pair(make_pair, tmp_path)
    raw = next(tmp_path.glob("*client.qlog")).read_bytes()
    assert raw.startswith(b'\x1e{"qlog_version":"0.3","qlog_format":"JSON-SEQ"')
    assert {e["name"] for e in c[1:]} >= QVIS
    # flow control of the peer: it goes by the owner
    assert {d["owner"] for d in named(c, "parameters_set")} == {"local", "remote"}


def test_mode_rate_and_window_follow_the_controller(make_pair: MakePair, tmp_path: Path) -> None:
    c, _, stats = busy_pair(make_pair, tmp_path)
    (first,) = named(c, "recovery_parameters_set")
    assert first["congestion_control"] == "cubic" and first["initial_rtt"] == 333
    states = named(c, "congestion_state_updated")
    assert "old" not in states[0]
    assert all(a["new"] == b["old"] != b["new"] for a, b in zip(states, states[1:]))
    seen = {d["new"] for d in states}
    assert {"slow_start", "recovery", "congestion_avoidance"} <= seen
    assert seen <= {"slow_start", "recovery", "congestion_avoidance", "application_limited"}
    assert stats["congestion_events"] >= 1
    rates = [d["pacing_rate"] for d in named(c, "recovery_metrics_updated") if "pacing_rate" in d]
    # Bits per second: up to five quarters of what the window allows, on a link of 4 Mbit/s.
    assert 2e6 < sorted(rates)[len(rates) // 2] < 4e7


def test_modes_and_estimates_of_bbr_are_told(make_pair: MakePair, tmp_path: Path) -> None:
    pair = make_pair(9, transport=calm(qlog_dir=str(tmp_path), congestion_controller="bbr"))
    client, server = pair.connect()
    pair.to_server.rate, pair.to_server.queue = 1_000_000, 100_000
    transfer(pair, client, server, bytes(3_000_000))
    pair.finish()
    c, _ = logs(tmp_path)
    assert named(c, "recovery_parameters_set")[0]["congestion_control"] == "bbr"
    modes = [d["new"] for d in named(c, "congestion_state_updated")]
    assert modes[:2] == ["startup", "drain"]
    assert {"probe_down", "probe_cruise"} <= set(modes)
    metrics = named(c, "recovery_metrics_updated")
    believed = [d["bandwidth_estimate"] for d in metrics if "bandwidth_estimate" in d]
    # The link takes 8 Mbit/s.
    assert believed[-1] == pytest.approx(8e6, rel=0.1)
    # The shortest round trip is 10 ms and the time to send a packet.
    assert min(d["min_rtt"] for d in metrics if "min_rtt" in d) == pytest.approx(11, abs=1.5)


def test_losses_that_were_none_are_told(make_pair: MakePair, tmp_path: Path) -> None:
    c, _, stats = busy_pair(make_pair, tmp_path)
    lost = {d["header"]["packet_number"] for d in named(c, "packet_lost")}
    spurious = named(c, "spurious_loss")
    assert spurious and {d["header"]["packet_number"] for d in spurious} <= lost
    assert sum(d["packets"] for d in spurious) <= len(lost) == stats["lost_packets"]
    undone = [d for d in spurious if d.get("congestion_event_undone")]
    assert len(undone) >= stats["spurious_congestion_events"]


def test_keys_are_told_to_be_gone(make_pair: MakePair, tmp_path: Path) -> None:
    c, s, _ = busy_pair(make_pair, tmp_path)
    both = {
        f"{side}_{level}_secret"
        for side in ("client", "server")
        for level in ("initial", "handshake")
    }
    for log in (c, s):
        gone = named(log, "key_discarded")
        assert {d["key_type"] for d in gone if "key_phase" not in d} == both
        old = [(d["key_type"], d["key_phase"]) for d in gone if "key_phase" in d]
        assert old == [("client_1rtt_secret", 0), ("server_1rtt_secret", 0)]
        assert len(gone) == 6


def test_remembered_parameters_and_early_keys(make_pair: MakePair, tmp_path: Path) -> None:
    pair = logged_pair(make_pair, tmp_path, resumption=True)
    client, _ = pair.connect()
    client.close()
    pair.drain()
    for path in tmp_path.iterdir():
        path.unlink()
    pair.now += SECOND
    client, server = pair.connect()
    pair.run_for(SECOND)
    assert client.resumed
    pair.finish()
    c, s = logs(tmp_path)
    (restored,) = named(c, "parameters_restored")
    told = next(d for d in named(s, "parameters_set") if d["initiator"] == "local")
    assert restored and all(told[name] == value for name, value in restored.items())
    assert not named(s, "parameters_restored")
    assert ["client_0rtt_secret"] == [
        d["key_type"] for d in named(c, "key_discarded") if "0rtt" in d["key_type"]
    ]


def test_timers_are_set_due_and_cancelled(make_pair: MakePair, tmp_path: Path) -> None:
    c, s, _ = busy_pair(make_pair, tmp_path)
    for log in (c, s):
        running: dict[tuple[int, str], float] = {}
        for event in log[1:]:
            if event["name"] != "transport:timer_updated":
                continue
            data = event["data"]
            key = (data["timer_id"], data["timer_type"])
            if data["event_type"] == "set":
                assert data["delta"] >= 0
                running[key] = event["time"] + data["delta"]
            else:
                due = running.pop(key)
                slack = 100 if "idle" in key[1] or "alive" in key[1] else 1.001
                assert data["event_type"] == "cancelled" or event["time"] >= due - slack
    kinds = {(d["timer_type"], d["event_type"]) for d in named(c, "timer_updated")}
    assert {
        ("pto", "set"),
        ("pto", "cancelled"),
        ("loss_timeout", "set"),
        ("pacing", "expired"),
    } <= kinds
    assert ("ack", "set") in {(d["timer_type"], d["event_type"]) for d in named(s, "timer_updated")}
    # What moves with every packet by less than it may slip is not told each time.
    assert len(named(c, "timer_updated")) < 4 * len(named(c, "packet_sent"))
    idle = [d for d in named(c, "timer_updated") if d["timer_type"] == "idle_timeout"]
    assert len(idle) < 100


def test_a_log_that_nobody_stops_ends(
    make_pair: MakePair,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qlog, "BYTES_MOST", 50_000)
    pair = logged_pair(make_pair, tmp_path)
    client, server = pair.connect()
    transfer(pair, client, server, bytes(300_000))
    pair.run_for(10 * MS)
    assert all(path.stat().st_size <= 50_000 for path in tmp_path.iterdir())
    assert len(warnings(caplog)) == 2 and "more than 50000 bytes" in warnings(caplog)[0]
    c, _ = logs(tmp_path)
    assert len(c) > 20
