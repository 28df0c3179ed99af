"""Acknowledgements of an impostor's own making."""

from __future__ import annotations

from collections.abc import Iterable

from impostor import Impostor, vi
from sim import ECT0

ACK, ACK_ECN = b"\x02", b"\x03"


def ack(
    ranges: Iterable[tuple[int, int]], delay: int = 0, ecn: tuple[int, int, int] | None = None
) -> bytes:
    """An ACK frame for ranges (low, high) in any order."""
    (low, high), *rest = sorted(ranges, reverse=True)
    out = vi(high) + vi(delay) + vi(len(rest)) + vi(high - low)
    for lo, hi in rest:
        out += vi(low - hi - 2) + vi(hi - lo)
        low = lo
    if ecn is None:
        return ACK + out
    return ACK_ECN + out + b"".join(map(vi, ecn))


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as ranges."""
    out: list[list[int]] = []
    for n in sorted(numbers):
        if out and n == out[-1][1] + 1:
            out[-1][1] = n
        else:
            out.append([n, n])
    return [(lo, hi) for lo, hi in out]


class Reader:
    """What the impostor sees of a victim that sends a lot."""

    def __init__(self, peer: Impostor) -> None:
        self.peer = peer
        self.taken = 0
        self.numbers: list[int] = []
        self.marked = 0

    def take(self) -> list[int]:
        """Numbers of the packets that came since the last call."""
        new = []
        for d in self.peer.received[self.taken :]:
            if d.data[0] & 0x80:
                continue
            low = self.peer.number(d)
            base = self.numbers[-1] if self.numbers else 0
            # No more than 128 packets apart: one byte is enough to know the rest.
            number = base + ((low - base + 128) & 0xFF) - 128
            self.numbers.append(number)
            new.append(number)
            self.marked += d.ecn == ECT0
        self.taken = len(self.peer.received)
        return new

    def bytes(self) -> int:
        return sum(len(d.data) for d in self.peer.received)
