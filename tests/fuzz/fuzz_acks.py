"""Acknowledgements and ECN counts as a peer pleases, to a sender with any controller and packets of any size.

The first byte of an input chooses controller and size, each three behind it are one step: what to do, and two values.
"""

from __future__ import annotations

from typing import Any

from acks import Reader, ack, runs
from impostor import Impostor
from sim import MS, Pair, calm

CONTROLLERS = ("cubic", "newreno", "bbr")
JUMBO = 8000
BLOCK = bytes(200_000)
MOST_STEPS = 40
PROTOCOL_VIOLATION = 0x0A
#: bytes that leave where nothing is ever acknowledged: a window, probes, what is said besides
SILENT = 300_000


def act(what: int, a: int, b: int, pair: Pair, reader: Reader) -> bytes | None:
    """One step; a packet's payload, or None."""
    seen = reader.numbers
    if what == 0:
        pair.run_for((1 + a) * (MS if b < 200 else 10 * MS))
    elif what == 1:
        pair.stream.write(BLOCK)
    elif not seen:
        return None
    elif what == 2:
        return ack(runs(seen))
    elif what == 3:
        return ack(runs(seen[-(b or 1) :: -(a % 5 + 1)] or seen[:1]))
    elif what == 4:
        return ack([(max(0, seen[-1] - a), max(0, seen[-1] - a))]) * (b % 50 + 1)
    elif what == 5:
        return ack(runs(seen), (a << (b % 54)) & (1 << 62) - 1)
    elif what == 6:
        return ack(runs(seen), ecn=(a, 0, len(seen) * b // 255))
    elif what == 7:
        return ack(runs(seen), ecn=(a << (b % 54), b & 1, b << (a % 54)))
    elif what == 8:
        return ack([(n, n) for n in seen[-2 * b - 1 :: 2]])
    elif what == 9:
        return ack([(max(0, seen[-1] - b), seen[-1] + a)])
    return None


def check(victim: Any) -> None:
    """What holds whatever a peer says."""
    info = victim.path_info(0)
    if info is None or victim.closing:
        return
    mtu = info["mtu"]
    assert 2 * mtu <= info["cwnd"] <= 1 << 30, info["cwnd"]
    assert 0 <= info["in_flight"] <= 1 << 30, info["in_flight"]
    assert 0 < info["rtt"] < 100
    assert 0 <= info["controller"]["pacing_rate"] < 1e12
    assert 0 <= info["controller"]["bandwidth"] < 1e12


def run_acks(data: bytes) -> None:
    mode = data[0] if data else 0
    lines: list[str] = []
    size = JUMBO if mode & 4 else 1200
    transport = calm(
        congestion_controller=CONTROLLERS[(mode & 3) % 3],
        initial_mtu=size,
        stream_receive_window=1 << 30,
    )
    pair = Pair(7, transport=transport, client_options={"keylog": lines.append})
    pair.verbose = False
    try:
        _, victim = pair.connect()
        pair.stream = victim.open_stream(False)
        peer = Impostor(pair, lines)
        reader = Reader(peer)
        pair.stream.write(BLOCK)
        pair.flush()
        claimed = 0
        for at in range(1, min(len(data) - 2, 3 * MOST_STEPS), 3):
            reader.take()
            payload = act(data[at] % 10, data[at + 1], data[at + 2], pair, reader)
            if payload is not None:
                claimed = len(reader.peer.received)
                peer.send(payload[:1300])
            check(victim)
            if victim.close_reason is not None:
                break
        reason = victim.close_reason
        assert reason is None or reason.code in (PROTOCOL_VIOLATION, 0x07), reason
        if not claimed:
            assert reader.bytes() < SILENT
        pair.finish()
    finally:
        pair.close()


def ack_seeds() -> list[bytes]:
    steps = [
        bytes((0, 20, 0, 2, 0, 0, 1, 0, 0)) * 8,
        bytes((0, 20, 0, 3, 1, 40, 0, 20, 0, 3, 1, 20, 2, 0, 0)) * 5,
        bytes((2, 0, 0, 0, 250, 0, 4, 3, 49, 4, 7, 49)) * 4,
        bytes((0, 30, 0, 5, 255, 53, 1, 0, 0, 5, 9, 9)) * 5,
        bytes((0, 20, 0, 6, 8, 255, 1, 0, 0)) * 8,
        bytes((0, 20, 0, 7, 255, 53, 0, 20, 0, 6, 0, 0)) * 4,
        bytes((0, 20, 0, 8, 0, 60, 0, 20, 0, 2, 0, 0, 1, 0, 0)) * 5,
        bytes((0, 20, 0, 9, 200, 10)),
        bytes((0, 250, 255)) * 10,
    ]
    return [bytes((mode,)) + script for mode in (0, 1, 2, 6) for script in steps]
