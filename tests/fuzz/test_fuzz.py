"""Some cases of every fuzz target in each run, and the fuzzer itself."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from functools import partial, partialmethod
from pathlib import Path

import fuzz_connection
import fuzz_dht
import fuzz_levels
import fuzz_service
import pytest
from fuzz_mutate import MAX_BYTES, case
from fuzz_targets import TARGETS
from sim import CALM, Pair

import iroh_fast

CASES = {
    **dict.fromkeys(
        ("acks", "connection", "levels", "traversal", "unsealed", "x509", "relay_server"), 300
    ),
    "dht": 500,
    "dns": 50,
    "tls": 1000,
}
RUN = Path(__file__).parent / "run.py"


# Certificates with mistakes that the parser tells.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_fuzz_target_stands_some_cases(name: str) -> None:
    target = TARGETS[name]
    corpus = target.seeds()
    for data in corpus:
        target.run(data)
    for index in range(CASES.get(name, 3000)):
        data = case(name, 0, index, corpus)
        assert len(data) <= MAX_BYTES
        try:
            target.run(data)
        except Exception as error:
            error.add_note(f"case {index} of seed 0: {data.hex()}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_fuzz_cases_are_the_same_in_every_run(name: str) -> None:
    one, other = TARGETS[name].seeds(), TARGETS[name].seeds()
    assert one == other
    cases = [case(name, 5, index, one) for index in range(50)]
    assert cases == [case(name, 5, index, other) for index in range(50)]
    assert len(set(cases)) > 25
    assert cases != [case(name, 6, index, one) for index in range(50)]


def test_fuzz_sealed_packets_reach_the_frame_parser() -> None:
    """Otherwise the connection target would test nothing but decryption."""
    lines: list[str] = []
    pair = Pair(7, transport=CALM, client_options={"keylog": lines.append})
    try:
        close = b"\x1d\x07\x03bye"
        fuzz_connection.sealed(pair, lines, True, struct.pack("!BH", 0, len(close)) + close)
        reason = pair.server.accepted[0].close_reason
        assert (reason.code, reason.reason, reason.by_peer) == (7, b"bye", True)
        pair.finish()
    finally:
        pair.close()


def test_fuzz_sealed_initials_reach_the_handshake() -> None:
    hello = fuzz_connection.client_hello()
    pair = Pair(7, transport=CALM)
    try:
        crypto = b"\x06\0" + struct.pack("!H", 0x4000 | len(hello)) + hello
        fuzz_connection.initials(pair, struct.pack("!BH", 1, len(crypto)) + crypto)
        (server,) = pair.server.accepted
        assert server.tls.client_alpn_offers
        pair.finish()
    finally:
        pair.close()


def test_fuzz_sealed_packets_of_every_level_reach_the_frame_parser() -> None:
    """A close frame ends the victim, at whichever level it comes."""
    frame = b"\x1c\x0a\0\x04text"
    for mode, flags in ((0, 0), (0, 16), (1, 0), (1, 16), (2, 0)):
        found: list[object] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fuzz_levels, "finish", partial(note_reasons, found))
            fuzz_levels.run_levels(bytes((mode,)) + struct.pack("!BH", flags, len(frame)) + frame)
        (reason,) = (r for r in found if r is not None)
        assert (reason.kind, reason.code) == ("transport_peer", 10)  # type: ignore[attr-defined]


def note_reasons(found: list[object], pair: Pair) -> None:
    for side in pair.sides:
        found += [c.close_reason for c in side.endpoint.connections.values()]


@pytest.mark.parametrize(
    ("kind", "rest", "reason"),
    [
        (fuzz_levels.VERSIONS, b"\xff\0\0\x1d", "version_mismatch"),
        (fuzz_levels.RETRY, b"token", None),
    ],
)
def test_fuzz_unsealed_packets_are_those_of_a_server(
    kind: int, rest: bytes, reason: str | None
) -> None:
    pair = Pair(7, transport=CALM)
    try:
        client = pair.dial()
        pair.flush()
        known = fuzz_levels.Known(pair)
        pair.flying.clear()
        pair.inject(False, known.packet(kind, False, rest))
        assert (client.close_reason and client.close_reason.kind) == reason
        if reason is None:
            assert rest in pair.client.sent[-1].data  # the Initial again, with the token
    finally:
        pair.close()


async def test_fuzz_relay_ends_are_let_in_and_exchange_frames() -> None:
    """Otherwise their targets would test the way there alone."""
    seen: list[bytes] = []
    owner = fuzz_service.Owner
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "on_datagrams", lambda _, src, ecn, size, data: seen.append(data))
        frame = bytes.fromhex("06") + fuzz_service.KEYS[1] + b"\0datagram"
        await fuzz_service.dial(fuzz_service.split(3, [frame]))
    assert seen == [b"datagram"]
    frame = fuzz_service.encode_frame(
        {
            "type": 4,
            "dst": fuzz_service.KEYS[1],
            "ecn": 0,
            "segment_size": None,
            "contents": b"to you",
        }
    )
    written: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz_service.Transport, "take", partialmethod(note_written, written))
        await fuzz_service.serve(fuzz_service.split(3, [frame]))
    assert any(b"to you" in data for data in written)


def test_fuzz_answers_of_the_dht_reach_the_search() -> None:
    """Otherwise its target would test the parser alone."""
    found = [search.best for search in map(fuzz_dht.run_dht, fuzz_dht.dht_seeds())]
    assert [best and best.timestamp for best in found] == [None, None, 5, 6, None, None, None]
    asked = [fuzz_dht.run_dht(data).requests for data in fuzz_dht.dht_seeds()]
    assert min(asked) >= 3 and max(asked) > 5


def note_written(transport: fuzz_service.Transport, written: list[bytes]) -> bytes:
    data = bytes(transport.written)
    transport.written.clear()
    written.append(data)
    return data


def run(script: Path, *args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(iroh_fast.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(script), *args],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=170,
    )


def test_fuzz_command_runs_targets_in_turn(tmp_path: Path) -> None:
    done = run(RUN, "--target", "packet,ticket", "--seconds", "0.4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["packet", "ticket"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "told"),
    [("raise ValueError('found')", "failed"), ("import os; os.abort()", "died with status")],
)
def test_fuzz_command_saves_what_it_finds(tmp_path: Path, how: str, told: str) -> None:
    """A target that fails in Python or takes the process down is told with its input."""
    script = tmp_path / "broken.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(RUN.parent)!r})
import run
import fuzz_targets
def target(data):
    if b"needle" in data:
        {how}
fuzz_targets.TARGETS["packet"] = fuzz_targets.Target("packet", lambda: [b"hay", b"needle"], target)
sys.exit(run.main())
""")
    done = run(script, "--target", "packet", "--seconds", "5", cwd=tmp_path)
    assert done.returncode == 1
    assert f"case 0 of seed 1 {told}" in done.stdout
    (found,) = (tmp_path / "build" / "fuzz").iterdir()
    assert found.read_bytes() == b"needle"
    again = run(script, "--target", "packet", "--replay", str(found), cwd=tmp_path)
    assert again.returncode != 0


def test_fuzz_short_header_is_sealed_as_the_core_seals_it() -> None:
    """The harness' packet protection against the core's: what it makes, the same keys open."""
    sealer = fuzz_connection.Sealer(bytes(32), partial(fuzz_connection.short_header, bytes(8)))
    packet = sealer.seal(b"\x01payload")
    mask = sealer.keys.header_mask(packet[13:29])
    first = packet[0] ^ mask[0] & 0x1F
    number = bytes(a ^ b for a, b in zip(packet[9:13], mask[1:], strict=True))
    assert (first, int.from_bytes(number, "big")) == (0x43, sealer.pn)
    header = bytes((first,)) + packet[1:9] + number
    assert sealer.keys.open(0, sealer.pn, header, packet[13:]) == b"\x01payload"
