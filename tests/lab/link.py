"""What a link is like, in the units people use, and what it counted.

One direction each: a path has two. The model itself is compiled, in ``_link.pyx``; the simulator of the
tests drives it in virtual time, the lab of namespaces in real time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

DEVICE = "tun0"
#: Most packets a queue may be declared to hold.
MAX_QUEUE = 1_000_000


@dataclass(frozen=True)
class Bursts:
    """Losses that come in bursts: the chain of Gilbert and Elliott, one step per packet.

    Attributes
    ----------
    loss : float
        Fraction of all packets that is lost over a long time, below `within`.
    length : float
        Mean length of a burst, in packets, 1 or more.
    within : float
        Fraction of packets lost inside a burst; outside none is.
    """

    loss: float
    length: float
    within: float = 1.0

    def __post_init__(self) -> None:
        check("within", self.within, 0, 1)
        check("loss", self.loss, 0, 1)
        check("length", self.length, 1)
        if not self.loss < self.within:
            raise ValueError(f"loss={self.loss} is not below within={self.within}")
        if self.begins > 1:
            raise ValueError(f"bursts of {self.length} packets cannot lose as much as {self.loss}")

    @property
    def begins(self) -> float:
        """Probability that a packet outside a burst begins one."""
        share = self.loss / self.within
        return share / (1 - share) / self.length


@dataclass(frozen=True)
class Policer:
    """A token bucket that drops what exceeds it, without a queue.

    Attributes
    ----------
    rate : float
        Mbit/s of IP packets.
    burst : int
        Bytes that may pass at once after a pause; at least one packet of 1,500.
    """

    rate: float
    burst: int

    def __post_init__(self) -> None:
        check("rate", self.rate, 0.001, 100_000)
        check("burst", self.burst, 1500, 1 << 31)


@dataclass(frozen=True)
class LinkConfig:
    """One direction of a path.

    A packet passes the policer, the losses, the queue with its rate, an outage, and the delay, in this
    order: what is lost at random takes no capacity, and what a policer drops neither. Times of `outages`
    and `steps` count from the first packet, or from when the link is told to begin.

    Attributes
    ----------
    rate : float or None
        Mbit/s of IP packets, headers included; None for no limit, and then no queue.
    delay : float
        Milliseconds that every packet takes after its last bit has left the queue.
    loss : float
        Probability of each packet to be lost.
    burst_loss : Bursts or None
        Losses in bursts, besides.
    jitter : float
        Packets take up to this many milliseconds longer, evenly distributed: drawn for each packet with
        `reorder`, else moving up and down slowly, every 10 ms to another value.
    reorder : bool
        Whether jitter lets packets overtake each other.
    queue : int
        Packets that may be in the queue, the one being sent included; what comes then is dropped.
    queue_bytes : int or None
        Bytes that may be there, besides.
    ecn : int or None
        A packet that finds this many packets in the queue is marked if its sender can take it (ECT).
    outages : tuple of (start, length)
        Seconds. Packets that would leave the queue in an outage are lost.
    outage_holds : bool
        Let the queue wait for the end of an outage instead, as radio links do.
    steps : tuple of (time, rate)
        The rate changes at `time` seconds to `rate` Mbit/s; 0 stops the link.
    policer : Policer or None
        A limit that drops instead of queueing, in front of everything else.

    Raises
    ------
    ValueError
        For a value out of its range.
    """

    rate: float | None = None
    delay: float = 0.0
    loss: float = 0.0
    burst_loss: Bursts | None = None
    jitter: float = 0.0
    reorder: bool = False
    queue: int = 1000
    queue_bytes: int | None = None
    ecn: int | None = None
    outages: tuple[tuple[float, float], ...] = ()
    outage_holds: bool = False
    steps: tuple[tuple[float, float], ...] = ()
    policer: Policer | None = None

    def __post_init__(self) -> None:
        if self.rate is not None:
            check("rate", self.rate, 0.001, 100_000)
        check("delay", self.delay, 0, 60_000)
        check("jitter", self.jitter, 0, 60_000)
        check("loss", self.loss, 0, 1)
        check("queue", self.queue, 1, MAX_QUEUE)
        if self.queue_bytes is not None:
            check("queue_bytes", self.queue_bytes, 1500, 1 << 40)
        if self.ecn is not None:
            check("ecn", self.ecn, 0, MAX_QUEUE)
        if self.rate is None and self.steps:
            raise ValueError("steps change a rate: give the one to begin with")
        if self.rate is None and self.outage_holds:
            raise ValueError("without a rate there is no queue that an outage could hold")
        end = 0.0
        for start, length in self.outages:
            check("start of an outage", start, end, 1e6)
            check("length of an outage", length, 0, 1e6)
            end = start + length
        last = 0.0
        for at, rate in self.steps:
            check("time of a step", at, last, 1e6)
            if rate != 0:
                check("rate of a step", rate, 0.001, 100_000)
            last = at
        if self.steps and self.steps[-1][1] == 0:
            raise ValueError("the last step stops the link for good: nothing would leave its queue")

    @property
    def schedule(self) -> tuple[tuple[float, float], ...]:
        """Rates over time as (from second, Mbit/s), ascending, outages that hold the queue included."""
        if self.rate is None:
            return ()
        changes = [(0.0, self.rate), *self.steps]
        if not self.outage_holds:
            return tuple(changes)
        times = {at for at, _ in changes}
        times |= {t for start, length in self.outages for t in (start, start + length)}

        def rate(at: float) -> float:
            if any(start <= at < start + length for start, length in self.outages):
                return 0.0
            return [r for t, r in changes if t <= at][-1]

        return tuple((at, rate(at)) for at in sorted(times))


@dataclass(frozen=True)
class LinkStats:
    """What one direction counted.

    Attributes
    ----------
    packets, bytes : int
        Offered to the link.
    delivered, delivered_bytes : int
        That leave or left it at the other end.
    dropped : dict
        Packets by cause: "policer", "loss", "burst", "queue", "outage".
    marked : int
        Packets that got an ECN mark here.
    overtaken : int
        Packets that arrive before one that was sent earlier.
    queue_delay : tuple of (ms, int)
        Histogram of the time from entering the queue to the first bit leaving it: upper edge of each bin
        that has packets, and how many. Bins are at most 3 % wide.
    rates : tuple of float
        Mbit/s that arrived in each tenth of a second since the link began.
    """

    packets: int = 0
    bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    marked: int = 0
    overtaken: int = 0
    queue_delay: tuple[tuple[float, int], ...] = ()
    rates: tuple[float, ...] = ()

    @property
    def lost(self) -> int:
        """Packets that did not arrive, for whatever cause."""
        return sum(self.dropped.values())

    def queue_delay_ms(self, fraction: float = 0.95) -> float:
        """Milliseconds that this fraction of the packets waited at most; 0 without packets."""
        wanted = math.ceil(fraction * sum(n for _, n in self.queue_delay))
        seen = 0
        for edge, count in self.queue_delay:
            seen += count
            if seen >= wanted:
                return edge
        return 0.0


@dataclass(frozen=True)
class Setup:
    """What a wire is to connect: namespace and device of each end."""

    ends: tuple[tuple[str, str], tuple[str, str]]
    there: LinkConfig
    back: LinkConfig
    seed: int


@dataclass(frozen=True)
class LabStats:
    """What happened on a link since it began.

    Attributes
    ----------
    there, back : LinkStats
        From left to right, and from right to left.
    failed : int
        Packets that the lab itself could not keep or write; anything but 0 spoils a measurement.
    late_ms : tuple of float
        Milliseconds that half, 99 % and all of the packets were written later than the model says.
    cpu_s : float
        Processor time of the wire, the kernel's work to receive what it writes included.
    """

    there: LinkStats = field(default_factory=LinkStats)
    back: LinkStats = field(default_factory=LinkStats)
    failed: int = 0
    late_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    cpu_s: float = 0.0


def check(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:  # also false for what is no number
        raise ValueError(f"{name}={value} is not between {low} and {high}")
