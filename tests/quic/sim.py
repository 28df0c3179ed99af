"""A deterministic network between two sans-IO endpoints, on a virtual clock.

Nothing here reads a clock, opens a socket or sleeps: one seed gives one run.
Times are integer nanoseconds, rates bytes per second.
"""

from __future__ import annotations

import dataclasses
import heapq
import logging
import random as random_module
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from iroh_fast.config import QuicTransportConfig
from iroh_fast.errors import IrohError
from iroh_fast.quic._admission import QuicIncoming
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.tls import Identity
from iroh_fast.quic.tls.sessions import ClientSessionCache, ServerTicketStore

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000

ALPN = b"sim/1"
CLIENT = ("10.0.0.1", 1111)
SERVER = ("10.0.0.2", 2222)
WALL_START = 1_700_000_000.0
START = 10**12  # the monotonic clock of a machine that runs for a while

# Longer than the largest probe timeout step, shorter than the 5 s heartbeat.
QUIET = 2500 * MS

ECT0 = 2
CE = 3

Address = tuple[str, int]

LONG_NAMES = {0: "initial", 1: "0rtt", 2: "handshake", 3: "retry"}

#: What the public configuration refuses because it would disturb hole punching.
UNCHECKED = (
    "max_concurrent_multipath_paths",
    "default_path_keep_alive_interval",
    "default_path_max_idle_timeout",
    "max_remote_nat_traversal_addresses",
)


def derive(base: QuicTransportConfig, **changes: Any) -> QuicTransportConfig:
    """A changed copy; also with values that the public configuration refuses."""
    copy = QuicTransportConfig(
        **{
            f.name: changes.get(f.name, getattr(base, f.name))
            for f in dataclasses.fields(base)
            if f.name not in UNCHECKED
        }
    )
    for name in UNCHECKED:
        object.__setattr__(copy, name, changes.get(name, getattr(base, name)))
    return copy


#: iroh's defaults without anything that happens by itself: heartbeats and MTU probes. With Cubic, whose window tests can
#: reckon with; `test_controllers` and `test_bbr` have the others.
CALM = derive(
    QuicTransportConfig(),
    congestion_controller="cubic",
    keep_alive_interval=None,
    default_path_keep_alive_interval=None,
    mtu_discovery=None,
)


def calm(**changes: Any) -> QuicTransportConfig:
    """Iroh's configuration without heartbeat and MTU probes, with changes."""
    return derive(CALM, **changes)


class SimulationError(AssertionError):
    """The simulated endpoints did something that must never happen."""


def kinds(data: bytes) -> list[str]:
    """Names of the packets of a datagram, as far as their headers tell without keys."""
    found: list[str] = []
    try:
        split(data, found)
    except IndexError:
        found.append("garbage")
    return found


def split(data: bytes, found: list[str]) -> None:
    at = 0
    while at < len(data):
        first = data[at]
        if not first & 0x80:
            found.append("short")
            break
        version = data[at + 1 : at + 5]
        if version == b"\0\0\0\0":
            found.append("version")
            break
        kind = LONG_NAMES[(first >> 4) & 3]
        found.append(kind)
        if kind == "retry":
            break
        i = at + 5
        i += 1 + data[i]
        i += 1 + data[i]
        if kind == "initial":
            n, i = varint(data, i)
            i += n
        n, i = varint(data, i)
        at = i + n


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A QUIC variable-length integer and the offset behind it."""
    size = 1 << (data[at] >> 6)
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size


@dataclass
class Datagram:
    """One datagram in the network."""

    sent: int
    to_server: bool
    src: Address
    dst: Address
    data: bytes
    ecn: int
    number: int  # per direction, from 0

    @property
    def kinds(self) -> list[str]:
        return kinds(self.data)

    def has(self, kind: str) -> bool:
        return kind in self.kinds


@dataclass
class Link:
    """One direction of the network.

    Attributes
    ----------
    latency, jitter : ns
    rate : bytes per second or None for no limit
    queue : bytes that may wait for the link; more are dropped at the tail
    loss, duplicate, corrupt, mark : probabilities (mark: CE on ECT datagrams)
    reorder : probability to be delayed by `reorder_by` ns on top
    burst : at most this many losses in a row; 0 for any number
    mtu : largest UDP payload, larger ones vanish
    bleach : clear ECN marks
    """

    latency: int = 5 * MS
    jitter: int = 0
    rate: int | None = None
    queue: int = 64_000
    loss: float = 0.0
    burst: int = 0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    reorder_by: int = 10 * MS
    mark: float = 0.0
    mtu: int = 65_535
    bleach: bool = False
    free_at: int = 0
    run: int = 0
    sent: int = 0
    dropped: int = 0


@dataclass
class Nat:
    """What stands between one own address and the network.

    Attributes
    ----------
    inside : the own address
    outside : IP that the network sees
    mapping : "independent", one port for all destinations, or "dependent", one for each
    filtering : "independent", lets everybody in, or "dependent", whom a datagram went to
    """

    inside: Address
    outside: str
    mapping: str = "independent"
    filtering: str = "dependent"
    next_port: int = 40_000
    ports: dict[Address | None, int] = field(default_factory=dict)
    asked: set[tuple[int, Address]] = field(default_factory=set)

    def leave(self, dst: Address) -> Address:
        key = dst if self.mapping == "dependent" else None
        if key not in self.ports:
            self.ports[key] = self.next_port
            self.next_port += 1
        self.asked.add((self.ports[key], dst))
        return (self.outside, self.ports[key])

    def enter(self, src: Address, dst: Address) -> Address | None:
        if dst[1] not in self.ports.values():
            return None
        if self.filtering == "dependent" and (dst[1], src) not in self.asked:
            return None
        return self.inside

    def flush(self) -> None:
        """Forget every mapping; what comes next has other ports."""
        self.ports.clear()
        self.asked.clear()


@dataclass
class Side:
    """One endpoint with its addresses and its connections."""

    name: str
    endpoint: QuicEndpoint
    addresses: list[Address]
    transport: QuicTransportConfig
    alpns: list[bytes]
    incoming: list[QuicIncoming] = field(default_factory=list)
    accepted: list[QuicConnection] = field(default_factory=list)
    auto: Callable[[QuicIncoming], QuicConnection | None] | None = None
    #: what the network shows instead of an own address (NAT)
    outside: dict[Address, Address] = field(default_factory=dict)
    sent: list[Datagram] = field(default_factory=list)
    transmits: int = 0
    max_segments: int = 10
    #: bytes of the largest datagram that the system takes, 0 for any
    interface: int = 0
    refused: int = 0
    #: which own address reaches a destination, where the engine does not say; else the first one
    route: Callable[[Address], Address] | None = None
    nat: Nat | None = None

    def set_interface(self, size: int, *, told: bool = True) -> None:
        """Have an interface of this size; `told`: the system says so when it is asked."""
        self.interface = size
        self.endpoint.interface_limit = size if told else 0

    def source(self, local: Address | None, remote: Address | None = None) -> Address:
        if local is not None:
            for address in self.addresses:
                if address[0] == local[0]:
                    return address
        if self.route is not None and remote is not None:
            return self.route(remote)
        return self.addresses[0]

    def shown(self, src: Address, dst: Address) -> Address:
        """What the network shows of an own address."""
        if self.nat is not None and src == self.nat.inside:
            return self.nat.leave(dst)
        return self.outside.get(src, src)

    def inside(self, dst: Address, src: Address | None = None) -> Address | None:
        """The own address behind what the network shows, None when nobody listens there."""
        if self.nat is not None and src is not None and dst[0] == self.nat.outside:
            return self.nat.enter(src, dst)
        for address in self.addresses:
            if self.outside.get(address, address) == dst:
                return address
        return None


class ErrorCatcher(logging.Handler):
    """Exceptions that the core swallowed must not go unnoticed."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Pair:
    """A client and a server endpoint, and the network between them.

    Parameters
    ----------
    seed : int
        Everything random derives from it, TLS keys and connection ids included.
    transport, server_transport : QuicTransportConfig
        The server's is the client's unless given.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        transport: QuicTransportConfig | None = None,
        server_transport: QuicTransportConfig | None = None,
        latency: int = 5 * MS,
        client_addresses: Iterable[Address] = (CLIENT,),
        server_addresses: Iterable[Address] = (SERVER,),
        alpns: Iterable[bytes] = (ALPN,),
        server_alpns: Iterable[bytes] | None = None,
        resumption: bool = False,
        max_segments: int = 10,
        client_options: dict[str, Any] | None = None,
        server_options: dict[str, Any] | None = None,
    ) -> None:
        self.rng = random_module.Random(seed)
        self.seed = seed
        self.now = START
        self.to_server = Link(latency)
        self.to_client = Link(latency)
        #: links of single (source, destination) pairs, else the two above
        self.links: dict[tuple[Address, Address], Link] = {}
        #: called with each datagram before the link; True drops it
        self.filters: list[Callable[[Datagram], bool]] = []
        self.flying: list[tuple[int, int, Datagram]] = []
        self.order = 0
        self.steps = 0
        self.trace: deque[str] = deque(maxlen=500)
        self.verbose = True
        self.cache = ClientSessionCache() if resumption else None
        self.tickets = ServerTicketStore() if resumption else None
        transport = transport or CALM
        self.client = Side(
            "client",
            self.make_endpoint(b"\1" * 32, session_cache=self.cache, **(client_options or {})),
            list(client_addresses),
            transport,
            list(alpns),
            max_segments=max_segments,
        )
        self.server = Side(
            "server",
            self.make_endpoint(b"\2" * 32, server_tickets=self.tickets, **(server_options or {})),
            list(server_addresses),
            server_transport or transport,
            list(server_alpns if server_alpns is not None else alpns),
            max_segments=max_segments,
        )
        self.server.auto = self.accept
        self.server.endpoint.on_incoming = self.server.incoming.append
        self.sides = (self.client, self.server)
        self.catcher = ErrorCatcher()
        self.logger = logging.getLogger("iroh_fast")
        self.logger.addHandler(self.catcher)

    def make_endpoint(self, secret: bytes, **options: Any) -> QuicEndpoint:
        stream = random_module.Random(self.rng.getrandbits(64))
        return QuicEndpoint(
            Identity(secret),
            wall_clock=self.wall_clock,
            clock=self.clock,
            **{"random": stream.randbytes, **options},
        )

    def close(self) -> None:
        """Stop watching the log."""
        self.logger.removeHandler(self.catcher)

    def clock(self) -> int:
        return self.now

    def wall_clock(self) -> float:
        return WALL_START + (self.now - START) / 1e9

    def accept(self, incoming: QuicIncoming) -> QuicConnection | None:
        return incoming.accept(self.server.alpns, self.server.transport, self.now)

    def log(self, text: str) -> None:
        if self.verbose:
            self.trace.append(f"{(self.now - START) / 1e6:12.3f} ms  {text}")

    def fail(self, text: str) -> None:
        raise SimulationError(f"{text} (seed {self.seed})\n" + "\n".join(list(self.trace)[-80:]))

    # ---------------------------------------------------------------- setting up
    def dial(self, to: Iterable[Address] | None = None, **options: Any) -> QuicConnection:
        """Start a connection; nothing is sent yet."""
        options.setdefault("alpns", self.client.alpns)
        options.setdefault("expected_peer", self.server.endpoint.identity.public_key)
        options.setdefault("transport", self.client.transport)
        remotes = list(to) if to is not None else [self.server.addresses[0]]
        return self.client.endpoint.connect(remotes, now=self.now, **options)

    def connect(self, **options: Any) -> tuple[QuicConnection, QuicConnection]:
        """A connection that both sides have confirmed, after things went quiet."""
        count = len(self.server.accepted)
        client = self.dial(**options)
        self.run_until(lambda: client.handshake_confirmed or client.close_reason)
        if not client.handshake_confirmed:
            self.fail(f"not connected: {client.close_reason}")
        self.drive()
        server = self.server.accepted[count]
        if not server.handshake_confirmed:
            self.fail(f"the server is not confirmed: {server.close_reason}")
        return client, server

    # ---------------------------------------------------------------- the network
    def send(self, side: Side, src: Address, dst: Address, data: bytes, ecn: int) -> None:
        to_server = side is self.client
        outside = side.shown(src, dst)
        d = Datagram(self.now, to_server, outside, dst, data, ecn, len(side.sent))
        side.sent.append(d)
        link = self.links.get((outside, dst)) or (self.to_server if to_server else self.to_client)
        note = f"{side.name:6} {outside[0]}:{outside[1]} > {dst[0]}:{dst[1]} {len(data):4} {'+'.join(d.kinds)}"
        link.sent += 1
        for f in list(self.filters):
            if f(d):
                link.dropped += 1
                self.log(note + "  FILTERED")
                return
        if len(data) > link.mtu:
            link.dropped += 1
            self.log(note + "  TOO LARGE")
            return
        if link.loss and self.rng.random() < link.loss and not 0 < link.burst <= link.run:
            link.run += 1
            link.dropped += 1
            self.log(note + "  LOST")
            return
        link.run = 0
        at = self.now + link.latency
        if link.rate is not None:
            waiting = max(0, link.free_at - self.now) * link.rate // SECOND
            if waiting + len(data) > link.queue:
                link.dropped += 1
                self.log(note + "  TAIL DROP")
                return
            link.free_at = max(link.free_at, self.now) + len(data) * SECOND // link.rate
            at = link.free_at + link.latency
        if link.jitter:
            at += self.rng.randrange(link.jitter)
        if link.reorder and self.rng.random() < link.reorder:
            at += link.reorder_by
            note += "  DELAYED"
        if link.corrupt and self.rng.random() < link.corrupt:
            broken = bytearray(data)
            broken[self.rng.randrange(len(broken))] ^= 1 << self.rng.randrange(8)
            d.data = bytes(broken)
            note += "  CORRUPT"
        if link.bleach:
            d.ecn = 0
        elif link.mark and ecn and self.rng.random() < link.mark:
            d.ecn = CE
            note += "  CE"
        self.log(note)
        for _ in range(2 if link.duplicate and self.rng.random() < link.duplicate else 1):
            self.order += 1
            heapq.heappush(self.flying, (at, self.order, d))

    def inject(
        self, to_server: bool, data: bytes, src: Address | None = None, dst: Address | None = None
    ) -> None:
        """Deliver a forged datagram now."""
        side = self.server if to_server else self.client
        other = self.client if to_server else self.server
        self.log(f"inject {len(data)} {'+'.join(kinds(data))}")
        side.endpoint.receive_datagram(
            data, src or other.addresses[0], self.now, local=dst or side.addresses[0]
        )
        self.flush()

    def deliver(self, d: Datagram) -> None:
        side = self.server if d.to_server else self.client
        local = side.inside(d.dst, d.src)
        if local is None:
            self.log(f"nobody listens on {d.dst}")
            return
        side.endpoint.receive_datagram(d.data, d.src, self.now, local=local, ecn=d.ecn)
        while side.incoming and side.auto is not None:
            connection = side.auto(side.incoming.pop(0))
            if connection is not None:
                side.accepted.append(connection)

    def flush_side(self, side: Side) -> int:
        """Send what a side has to send; the number of datagrams."""
        count = 0
        for connection in list(side.endpoint.connections.values()):
            turns = 0
            while True:
                out = side.endpoint.transmit(connection, self.now, side.max_segments)
                if out is None:
                    break
                turns += 1
                if turns > 5000:
                    self.fail(f"{side.name} does not stop sending")
                remote, local, ecn, segment, data, extra = out
                side.transmits += 1
                if not data:
                    self.fail("an empty transmit")
                src = side.source(local, remote)
                if 0 < side.interface < segment:
                    side.refused += 1
                    self.log(f"{side.name:6} REFUSED {segment}")
                    side.endpoint.too_big(connection, remote, segment, self.now)
                    continue
                for at in range(0, len(data), segment):
                    count += 1
                    for dst in [remote, *extra]:
                        self.send(side, src, dst, data[at : at + segment], ecn)
        for remote, local, data in side.endpoint.take_replies():
            count += 1
            self.send(side, side.source(local), remote, data, 0)
        return count

    def flush(self) -> int:
        return sum(self.flush_side(side) for side in self.sides)

    # ---------------------------------------------------------------- time
    def next_timeout(self) -> int | None:
        times = [
            t
            for side in self.sides
            for c in side.endpoint.connections.values()
            if (t := side.endpoint.timeout(c)) is not None
        ]
        return min(times) if times else None

    def next_event(self) -> int | None:
        times = [
            t
            for t in (self.next_timeout(), self.flying[0][0] if self.flying else None)
            if t is not None
        ]
        return min(times) if times else None

    def step(self, until: int | None = None) -> bool:
        """Jump to the next event, at most to `until`, and handle it. False when there is none."""
        self.flush()
        at = self.next_event()
        if at is None or (until is not None and at > until):
            if until is not None:
                self.now = max(self.now, until)
            return False
        self.now = max(self.now, at)
        self.steps += 1
        while self.flying and self.flying[0][0] <= self.now:
            self.deliver(heapq.heappop(self.flying)[2])
        for side in self.sides:
            for connection in list(side.endpoint.connections.values()):
                for _ in range(20):
                    due = side.endpoint.timeout(connection)
                    if due is None or due > self.now:
                        break
                    side.endpoint.handle_timeout(connection, self.now)
                else:
                    # A deadline that stays in the past may only wait for the next transmit.
                    self.flush()
                    due = side.endpoint.timeout(connection)
                    if due is not None and due <= self.now:
                        self.fail(f"{side.name}: the deadline {due - self.now} ns ago stays")
        self.flush()
        return True

    def drive(self, steps: int = 20_000, quiet: int = QUIET) -> int:
        """Go on until no datagram flies and no timer is due within `quiet`. The number of steps."""
        for i in range(steps):
            self.flush()
            if not self.flying:
                t = self.next_timeout()
                if t is None or t > self.now + quiet:
                    return i
            self.step()
        self.fail(f"not idle after {steps} steps")
        raise AssertionError

    def run_for(self, duration: int, steps: int = 200_000) -> None:
        """Let exactly this much time pass."""
        end = self.now + duration
        for _ in range(steps):
            if not self.step(end):
                return
        self.fail(f"more than {steps} steps in {duration} ns")

    def run_until(
        self, done: Callable[[], Any], limit: int = 60 * SECOND, steps: int = 200_000
    ) -> int:
        """Go on until `done()`; the time that took. Fails after `limit`."""
        start = self.now
        self.flush()
        for _ in range(steps):
            if done():
                return self.now - start
            if not self.step(start + limit):
                if done():
                    return self.now - start
                self.fail(f"it did not happen within {limit / SECOND} s")
        self.fail(f"it did not happen within {steps} steps")
        raise AssertionError

    # ---------------------------------------------------------------- conveniences
    def drop(
        self,
        to_server: bool | None,
        *numbers: int,
        count: int | None = None,
        kind: str | None = None,
    ) -> None:
        """Drop coming datagrams of a direction: those with the given index from now on, or the first `count`."""
        base = {True: len(self.client.sent), False: len(self.server.sent)}
        left = [count if count is not None else -1]

        def rule(d: Datagram) -> bool:
            if to_server is not None and d.to_server is not to_server:
                return False
            if numbers:
                return d.number - base[d.to_server] in numbers
            if kind is not None and not d.has(kind):
                return False
            if left[0] == 0:
                return False
            left[0] -= 1
            return True

        self.filters.append(rule)

    def rebind(self, side: Side, address: Address, outside: Address) -> None:
        """Passive migration: from now on the network shows another address."""
        side.outside[address] = outside

    def lose_flying(self, to_server: bool) -> int:
        """Drop what flies towards a side."""
        kept = [x for x in self.flying if x[2].to_server is not to_server]
        lost = len(self.flying) - len(kept)
        self.flying = kept
        heapq.heapify(self.flying)
        return lost

    def hold(self, to_server: bool) -> list[tuple[int, int, Datagram]]:
        """Take what flies towards a side out of the network."""
        held = [x for x in self.flying if x[2].to_server is to_server]
        self.flying = [x for x in self.flying if x[2].to_server is not to_server]
        heapq.heapify(self.flying)
        return held

    def release(self, held: list[tuple[int, int, Datagram]], delay: int = 0) -> None:
        """Let held datagrams arrive `delay` ns from now."""
        for _, order, d in held:
            heapq.heappush(self.flying, (self.now + delay, order, d))

    def check_log(self) -> None:
        """Fail when the core logged an error."""
        if self.catcher.records:
            formatter = logging.Formatter()
            self.fail("\n".join(formatter.format(r) for r in self.catcher.records))

    def check_forgotten(self) -> None:
        """Both endpoints have forgotten every connection and id."""
        for side in self.sides:
            if side.endpoint.connections or side.endpoint.known_ids():
                self.fail(f"{side.name} still knows {side.endpoint.known_ids()} ids")

    def drain(self) -> None:
        """Wait until both sides have forgotten every connection."""
        self.run_until(
            lambda: not any(s.endpoint.connections for s in self.sides), limit=200 * SECOND
        )
        self.check_forgotten()

    def finish(self) -> None:
        """Close what is open, wait until both sides have forgotten everything."""
        for side in self.sides:
            for c in list(side.endpoint.connections.values()):
                if not c.closing:
                    c.close(0, b"")
        self.filters.clear()
        self.drain()
        self.check_log()


class Firewall:
    """Lets a datagram in only from where its address has sent to (endpoint-dependent filter)."""

    def __init__(self, *protected: Address) -> None:
        self.protected = set(protected)
        self.open: set[tuple[Address, Address]] = set()

    def __call__(self, d: Datagram) -> bool:
        if d.src in self.protected:
            self.open.add((d.src, d.dst))
        return d.dst in self.protected and (d.dst, d.src) not in self.open


class Transfer:
    """Moves bytes over one stream, as fast as both ends allow."""

    def __init__(
        self,
        pair: Pair,
        sender: QuicConnection,
        receiver: QuicConnection,
        data: bytes,
        bidi: bool = False,
    ) -> None:
        self.pair = pair
        self.receiver = receiver
        self.bidi = bidi
        self.data = data
        self.stream = sender.open_stream(bidi)
        if self.stream is None:
            pair.fail("the peer allows no stream")
        self.offset = 0
        self.remote: Any = None
        self.received = bytearray()
        self.ended = False

    def poll(self) -> bool:
        """Write and read what is possible. True when all of it arrived and was acknowledged."""
        s = self.stream
        if s.send_state == "ready":
            while self.offset < len(self.data):
                n = s.write(self.data, self.offset)
                self.offset += n
                if n == 0:
                    break
            if self.offset == len(self.data):
                s.finish()
        if self.remote is None:
            self.remote = self.receiver.accept_stream(self.bidi)
        if self.remote is not None and not self.ended:
            while (chunk := self.remote.read()) is not None:
                if not chunk:
                    self.ended = True
                    break
                self.received += chunk
        return self.ended and s.send_state == "acked"


def transfer(
    pair: Pair,
    sender: QuicConnection,
    receiver: QuicConnection,
    data: bytes,
    *,
    bidi: bool = False,
    limit: int = 120 * SECOND,
) -> int:
    """Send `data` on a new stream and check it. The time until everything was acknowledged."""
    t = Transfer(pair, sender, receiver, data, bidi)

    def done() -> bool:
        if sender.close_reason or receiver.close_reason:
            pair.fail(f"closed: {sender.close_reason} / {receiver.close_reason}")
        return t.poll()

    taken = pair.run_until(done, limit)
    if bytes(t.received) != data:
        pair.fail("the data differ")
    return taken


def frames(connection: QuicConnection, which: str = "frame_tx") -> Counter[str]:
    """Frame counters of a connection, without zeros."""
    return Counter({name: n for name, n in connection.stats()[which].items() if n})


def read_all(stream: Any) -> bytes:
    """What is readable now; fails on an error of the stream."""
    out = b""
    while (chunk := stream.read()) is not None:
        if not chunk:
            break
        out += chunk
    return out


__all__ = [
    "ALPN",
    "CALM",
    "CE",
    "CLIENT",
    "ECT0",
    "Firewall",
    "IrohError",
    "Link",
    "MS",
    "Nat",
    "Pair",
    "QUIET",
    "SECOND",
    "SERVER",
    "START",
    "SimulationError",
    "Transfer",
    "US",
    "calm",
    "derive",
    "frames",
    "kinds",
    "read_all",
    "transfer",
]
