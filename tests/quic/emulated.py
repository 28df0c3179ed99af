"""Transfers over an emulated link in virtual time: what the controller suites check and `links_table.py` prints.

The link is the one of the lab (`tests/lab`); the endpoints are the real ones. One seed gives one run.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sim import MS, SECOND, Address, Datagram, Pair, Side, calm
from tests.lab._link import Link
from tests.lab.link import LinkConfig

from iroh_fast.config import QuicTransportConfig
from iroh_fast.quic._connection import QuicConnection

HEADERS = 28  # IPv4 and UDP, which a link carries too
BLOCK = 1 << 21
#: the bytes of every stream: the block over and over
PATTERN = random.Random(7).randbytes(BLOCK)
TWICE = memoryview(PATTERN + PATTERN)


class Wire(Pair):
    """A pair whose datagrams travel over one link each way; quick, since nothing is recorded.

    Parameters
    ----------
    there, back : LinkConfig
        From the client to the server and back.
    """

    def __init__(self, there: LinkConfig, back: LinkConfig, seed: int = 0, **options: Any) -> None:
        super().__init__(seed, **options)
        self.verbose = False
        self.there = Link(there, 2 * seed + 1)
        self.back = Link(back, 2 * seed + 2)
        #: called in every turn of a side that has something to do, before it sends
        self.watchers: list[Callable[[Side], object]] = []
        #: called after it, with the bytes that left
        self.checks: list[Callable[[Side, int], object]] = []
        #: bytes that left in all, of both sides
        self.left = 0
        self.due: dict[str, int | None] = {}

    def send(self, side: Side, src: Address, dst: Address, data: bytes, ecn: int) -> None:
        to_server = side is self.client
        self.left += len(data)
        link = self.there if to_server else self.back
        at, ecn = link.push(self.now, len(data) + HEADERS, ecn)
        if at >= 0:
            self.order += 1
            datagram = Datagram(self.now, to_server, src, dst, data, ecn, self.order)
            heapq.heappush(self.flying, (at, self.order, datagram))

    def begin(self) -> None:
        """From now on count the times of outages and steps, and what the links carry."""
        for link in (self.there, self.back):
            link.begin(self.now)

    def turn(self, side: Side) -> None:
        """What a driver does with one side: timers that are due, applications, what wants to leave."""
        for connection in list(side.endpoint.connections.values()):
            due = side.endpoint.timeout(connection)
            if due is not None and due <= self.now:
                side.endpoint.handle_timeout(connection, self.now)
        for watch in self.watchers:
            watch(side)
        before = self.left
        self.flush_side(side)
        for check in self.checks:
            check(side, self.left - before)
        times = [side.endpoint.timeout(c) for c in side.endpoint.connections.values()]
        self.due[side.name] = min((t for t in times if t is not None), default=None)

    def step(self, until: int | None = None) -> bool:
        if not self.due:
            for side in self.sides:
                self.turn(side)
        times = [t for t in self.due.values() if t is not None]
        if self.flying:
            times.append(self.flying[0][0])
        if not times or (until is not None and min(times) > until):
            if until is not None:
                self.now = max(self.now, until)
            return False
        self.now = max(self.now, min(times))
        self.steps += 1
        awake = {name for name, t in self.due.items() if t is not None and t <= self.now}
        while self.flying and self.flying[0][0] <= self.now:
            datagram = heapq.heappop(self.flying)[2]
            self.deliver(datagram)
            awake.add("server" if datagram.to_server else "client")
        for side in self.sides:
            if side.name in awake:
                self.turn(side)
        return True


@dataclass
class Flow:
    """Bytes from the client to the server on one stream of a connection of its own.

    Attributes
    ----------
    size : bytes to send, None for as many as the link takes
    begins : ns after which it starts
    """

    wire: Wire
    connection: QuicConnection
    peer: QuicConnection
    size: int | None = None
    begins: int = 0
    written: int = 0
    received: int = 0
    done_at: int | None = None
    stream: Any = None
    remote: Any = None
    finished: bool = False
    #: (ns, bytes received by then), one entry each time the amount grew by `grain`
    curve: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wire.watchers.append(self.pump)

    def pump(self, side: Side) -> None:
        if side is self.wire.client:
            self.write()
        else:
            self.read()

    def write(self) -> None:
        if self.finished or self.wire.now < self.begins:
            return
        if self.stream is None:
            self.stream = self.connection.open_stream(False)
        while self.size is None or self.written < self.size:
            at = self.written % BLOCK
            if self.size is None or self.size - self.written >= BLOCK - at:
                taken = self.stream.write(PATTERN, at)
            else:
                taken = self.stream.write(PATTERN[: at + self.size - self.written], at)
            self.written += taken
            if taken == 0:
                return
        self.stream.finish()
        self.finished = True

    def read(self) -> None:
        if self.remote is None:
            self.remote = self.peer.accept_stream(False)
            if self.remote is None:
                return
        before = self.received
        while (chunk := self.remote.read()) is not None:
            if not chunk:
                if self.done_at is None:
                    self.done_at = self.wire.now
                break
            at = self.received % BLOCK
            for start in range(0, len(chunk), BLOCK):
                piece = chunk[start : start + BLOCK]
                if TWICE[at : at + len(piece)] != piece:
                    self.wire.fail("the data differ")
            self.received += len(chunk)
        if self.received != before:
            self.curve.append((self.wire.now - self.begins, self.received))

    def between(self, start: float, end: float) -> float:
        """Mbit/s in the seconds from `start` to `end` after its beginning."""
        return (self.at(end) - self.at(start)) * 8 / 1e6 / (end - start)

    def at(self, second: float) -> int:
        """Bytes received up to a second after the beginning."""
        low, high = 0, len(self.curve)
        while low < high:
            middle = (low + high) // 2
            if self.curve[middle][0] <= second * SECOND:
                low = middle + 1
            else:
                high = middle
        return self.curve[low - 1][1] if low else 0

    def stats(self) -> dict[str, Any]:
        info = self.connection.path_info(0)
        assert info is not None
        return dict(info["stats"])


def settings(controller: str, **changes: Any) -> QuicTransportConfig:
    """A sender's configuration without heartbeats; windows and the packet size as by default."""
    return calm(**{"congestion_controller": controller, **changes})


def start(
    wire: Wire, controller: str, size: int | None = None, begins: int = 0, **changes: Any
) -> Flow:
    """Connect, and send from `begins` ns later on."""
    count = len(wire.server.accepted)
    client = wire.dial(transport=settings(controller, **changes))
    wire.due.clear()
    wire.run_until(lambda: client.handshake_confirmed or client.close_reason, limit=120 * SECOND)
    if client.close_reason:
        wire.fail(f"not connected: {client.close_reason}")
    wire.due.clear()
    return Flow(wire, client, wire.server.accepted[count], size, wire.now + begins)


__all__ = ["MS", "SECOND", "Flow", "Link", "LinkConfig", "Wire", "settings", "start"]
