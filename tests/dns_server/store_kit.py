"""What tests of stores share: packets without signatures, a clock, and a model of the rules."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from iroh_fast.dns_server.store import Retention

SECOND = 1_000_000
START = 1_800_000_000 * SECOND


@dataclass(frozen=True)
class FakePacket:
    """A packet that no store can tell from a real one: none verifies signatures."""

    public_key: bytes
    timestamp: int
    dns: bytes = b"dns"

    def to_bytes(self) -> bytes:
        return self.public_key + bytes(64) + struct.pack(">Q", self.timestamp) + self.dns


def key(number: int) -> bytes:
    return struct.pack(">Q", number * 0x9E3779B97F4A7C15 & 2**64 - 1) + number.to_bytes(24, "big")


class Clock:
    """Microseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)


@dataclass
class Record:
    packet: FakePacket
    since: int
    published: int
    settled: bool = False


@dataclass
class Model:
    """The rules of the module `store`, as plainly as can be."""

    retention: Retention
    records: dict[bytes, Record] = field(default_factory=dict)

    def put(self, packet: FakePacket, now: int) -> bool:
        """What `put` says; room is made by `make_room`, after each group."""
        old = self.records.get(packet.public_key)
        published = min(packet.timestamp, now)
        if old is None:
            self.records[packet.public_key] = Record(packet, now, published)
            return True
        new, kept = (packet.timestamp, packet.dns), (old.packet.timestamp, old.packet.dns)
        if new > kept:
            settled = old.settled or now - old.since >= 60 * SECOND
            self.records[packet.public_key] = Record(packet, old.since, published, settled)
        return new >= kept

    def _oldest(self, settled: bool) -> bytes:
        found = [k for k, r in self.records.items() if r.settled == settled]
        return min(found, key=lambda k: self.records[k].published)  # of equals, the first

    def make_room(self) -> None:
        while len(self.records) > self.retention.max_records:
            newcomers = sum(not r.settled for r in self.records.values())
            del self.records[self._oldest(newcomers <= self.retention.newcomers)]

    def expire(self, now: int) -> None:
        before = now - int(self.retention.max_age * SECOND)
        self.records = {k: r for k, r in self.records.items() if r.published >= before}
