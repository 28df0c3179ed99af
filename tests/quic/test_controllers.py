"""Each congestion controller on random links, in virtual time: transfers end, nothing is broken, promises are kept.

A kind of link and a seed make one link and one run. ``SEEDS=1000 pytest tests/quic/test_controllers.py`` takes that many
of each kind; a failure names kind, controller and seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from emulated import SECOND, Flow, LinkConfig, Wire, settings, start
from links_table import bdp, controllers
from sim import MS, Side
from tests.lab.link import Bursts, Policer

SEEDS = range(int(os.environ.get("SEEDS", "2")))
PACKET = 1500
UNPACED = 18_000  # bytes with which a path may begin
WINDOWS = {"stream_receive_window": 1 << 26, "send_window": 1 << 26}


@dataclass
class Case:
    """A link, and what each controller promises on it: the share of its rate, where it promises any."""

    link: LinkConfig
    promised: dict[str, float]
    seconds: float = 3.0
    capacity: float | None = None  # Mbit/s, where it is not the link's rate


def between(r: random.Random, low: float, high: float) -> float:
    """A value whose magnitude is evenly distributed."""
    return low * (high / low) ** r.random()


def path(
    r: random.Random, low: float = 1, high: float = 120, delay: float = 80
) -> tuple[float, float]:
    """Mbit/s and ms: a path of at most 4000 packets."""
    rate = between(r, low, high)
    return rate, between(r, 2, min(delay, 24_000 / rate))


def clean(r: random.Random) -> Case:
    rate, delay = path(r)
    queue = max(30, bdp(rate, delay, between(r, 1, 3)))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=queue),
        {"cubic": 0.75, "newreno": 0.6, "bbr": 0.75},
    )


def lossy(r: random.Random) -> Case:
    rate, delay = path(r, high=60, delay=40)
    loss = between(r, 0.001, 0.05)
    queue = max(50, bdp(rate, delay, 2))
    link = LinkConfig(rate=rate, delay=delay, queue=queue, loss=loss)
    return Case(link, {"bbr": 0.7}, 4.0, rate * (1 - loss))


def reordering(r: random.Random) -> Case:
    rate, delay = path(r, low=10, delay=20)
    jitter = min(10, between(r, 0.5, 1.5) * delay)
    queue = max(100, bdp(rate, delay + jitter, 3))
    link = LinkConfig(rate=rate, delay=delay, queue=queue, jitter=jitter, reorder=True)
    return Case(link, {"cubic": 0.6, "newreno": 0.5, "bbr": 0.6}, 4.0)


def bursty(r: random.Random) -> Case:
    rate, delay = path(r, high=50, delay=40)
    bursts = Bursts(between(r, 0.001, 0.02), between(r, 2, 30))
    return Case(LinkConfig(rate=rate, delay=delay, queue=200, burst_loss=bursts), {}, 2.0)


def shallow(r: random.Random) -> Case:
    rate, delay = path(r, low=20, delay=60)
    queue = max(12, bdp(rate, delay, between(r, 0.1, 0.5)))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=queue),
        {"cubic": 0.5, "newreno": 0.4, "bbr": 0.55},
        4.0,
    )


def deep(r: random.Random) -> Case:
    rate, delay = path(r, high=60, delay=30)
    queue = max(100, bdp(rate, delay, between(r, 5, 10)))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=queue),
        {"cubic": 0.8, "newreno": 0.8, "bbr": 0.8},
        4.0,
    )


def marking(r: random.Random) -> Case:
    rate, delay = path(r, low=5, high=80, delay=40)
    queue = max(200, bdp(rate, delay, 4))
    ecn = max(20, bdp(rate, delay, between(r, 0.2, 1)))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=queue, ecn=ecn),
        {"cubic": 0.5, "newreno": 0.4, "bbr": 0.5},
    )


def dark(r: random.Random) -> Case:
    rate, delay = path(r, low=5, high=40, delay=40)
    out = ((0.5 + r.random(), between(r, 0.2, 2)),)
    holds = r.random() < 0.5
    link = LinkConfig(
        rate=rate, delay=delay, queue=max(50, bdp(rate, delay, 2)), outages=out, outage_holds=holds
    )
    return Case(link, {}, 4.0)


def steps(r: random.Random) -> Case:
    rate, delay = path(r, low=5, high=60, delay=40)
    changes = tuple((0.5 + i * 0.7, between(r, 0.1 * rate, rate)) for i in range(4))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=max(50, bdp(rate, delay, 2)), steps=changes),
        {},
        2.0,
    )


def policed(r: random.Random) -> Case:
    rate, delay = path(r, low=10, high=100, delay=40)
    allowed = rate * (0.2 + 0.6 * r.random())
    burst = max(30_000, round(allowed * 1e6 / 8 * between(r, 0.01, 0.1)))
    link = LinkConfig(rate=rate, delay=delay, queue=300, policer=Policer(allowed, burst))
    return Case(link, {"bbr": 0.4, "cubic": 0.3}, 4.0, allowed)


def wobbling(r: random.Random) -> Case:
    rate, delay = path(r, high=80, delay=60)
    link = LinkConfig(
        rate=rate,
        delay=delay,
        queue=max(50, bdp(rate, delay, 2)),
        jitter=between(r, 0.1, 1) * delay,
    )
    return Case(link, {"cubic": 0.5, "newreno": 0.5, "bbr": 0.5})


def slow(r: random.Random) -> Case:
    rate, delay = between(r, 0.5, 2), between(r, 20, 300)
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=40),
        {"cubic": 0.6, "newreno": 0.6, "bbr": 0.6},
        8.0,
    )


def fast(r: random.Random) -> Case:
    rate, delay = between(r, 200, 1000), between(r, 0.1, 2)
    queue = max(200, bdp(rate, delay, 2))
    return Case(
        LinkConfig(rate=rate, delay=delay, queue=queue),
        {"cubic": 0.6, "newreno": 0.6, "bbr": 0.6},
        0.3,
    )


KINDS: dict[str, Callable[[random.Random], Case]] = {
    kind.__name__: kind
    for kind in (
        *(clean, lossy, reordering, bursty, shallow, deep, marking),
        *(dark, steps, policed, wobbling, slow, fast),
    )
}


class Rules:
    """What must hold whenever a sender has had its turn."""

    def __init__(self, wire: Wire, flow: Flow, case: Case) -> None:
        self.wire, self.flow = wire, flow
        self.turns = self.sent = 0
        link = case.link
        assert link.rate is not None
        rates = [link.rate, *(rate for _, rate in link.steps)]
        self.most = 4 * PACKET * (bdp(max(rates), link.delay + link.jitter) + link.queue) + 100_000
        wire.checks.append(self)

    def __call__(self, side: Side, left: int) -> None:
        if side is not self.wire.client or not left:
            return
        self.turns += 1
        self.sent += left
        if left <= 2 * PACKET and self.turns % 8:
            return
        info = self.flow.connection.path_info(0)
        assert info is not None
        # Two packets may be probes, whatever the window says; one may cross it.
        if left > 2 * PACKET and info["in_flight"] > info["cwnd"] + 3 * PACKET:
            self.wire.fail(f"{info['in_flight']} bytes in flight of {info['cwnd']}")
        if info["cwnd"] > self.most:
            self.wire.fail(f"a window of {info['cwnd']} bytes, {self.most} are more than enough")
        rate = 1.25 * info["cwnd"] / info["rtt"]  # of those that say no other
        rate = max(rate, info.get("controller", {}).get("pacing_rate", 0.0))
        allowed = UNPACED + 2 * max(rate / 1000, 2 * PACKET) + 3 * PACKET
        if left > allowed:
            self.wire.fail(f"{left} bytes at once at {rate:.0f} bytes/s")


def run(kind: str, controller: str, seed: int) -> tuple[Case, Wire, Flow]:
    """A transfer as long as the link needs `seconds` for at its full rate; it must end."""
    r = random.Random(f"{kind} {seed}")
    case = KINDS[kind](r)
    back = LinkConfig(
        rate=case.link.rate, delay=case.link.delay, queue=1000, jitter=case.link.jitter
    )
    wire = Wire(case.link, back, seed, server_transport=settings("cubic", **WINDOWS))
    try:
        size = round((case.capacity or case.link.rate or 0) * 125_000 * case.seconds)
        flow = start(wire, controller, size, **WINDOWS)
        wire.begin()
        flow.begins = wire.now
        rules = Rules(wire, flow, case)
        begin = wire.steps
        wire.run_until(
            lambda: flow.done_at is not None or flow.connection.close_reason,
            limit=round(60 * SECOND + 20 * case.seconds * SECOND),
            steps=10**9,
        )
        if flow.connection.close_reason is not None:
            wire.fail(f"closed: {flow.connection.close_reason}")
        assert flow.received == size
        # Something that is done again and again without getting anywhere shows in turns without packets.
        taken = (wire.now - flow.begins) / SECOND
        assert wire.steps - begin <= 8 * rules.sent / 1000 + 400 * taken + 2000
    finally:
        wire.close()
    return case, wire, flow


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("controller", controllers())
def test_controller_on_a_random_link(controller: str, kind: str, seed: int) -> None:
    case, wire, flow = run(kind, controller, seed)
    taken = (wire.now - flow.begins) / SECOND
    round_trip = 2 * (case.link.delay + case.link.jitter) / 1e3
    stats = flow.stats()
    lost = stats["lost_packets"] / stats["udp_tx"]["datagrams"]
    dropped = wire.there.stats()
    print(f"{case.link} {taken:.3f} s, {lost:.2%} lost, dropped {dropped.dropped}")
    promised = case.promised.get(controller)
    if promised is not None and taken > 10 * round_trip:
        capacity = case.capacity or case.link.rate
        # A start of some round trips is granted.
        rate = flow.received * 8e-6 / max(1e-3, taken - 10 * round_trip)
        assert rate >= promised * capacity
    # What is sent again is what the link drops, and few that were only late.
    assert stats["lost_packets"] <= 1.2 * dropped.lost + 0.05 * stats["udp_tx"]["datagrams"] + 30
    assert lost <= 0.5
    if controller == "bbr" and kind == "deep":
        # It begins with 32 packets and doubles before it knows: on links that hold less these are the queue.
        beginning = 64 * PACKET * 8e-3 / (case.link.rate or 1)
        assert dropped.queue_delay_ms(0.95) <= max(1.5e3 * round_trip, beginning)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("controller", controllers())
def test_full_rate_again_after_an_outage(controller: str, seed: int) -> None:
    r = random.Random(seed)
    rate, delay = between(r, 5, 50), between(r, 5, 40)
    link = LinkConfig(
        rate=rate, delay=delay, queue=max(50, bdp(rate, delay)), outages=((2.0, 2.0),)
    )
    wire = Wire(link, link, seed, server_transport=settings("cubic", **WINDOWS))
    try:
        flow = start(wire, controller, **WINDOWS)
        wire.begin()
        flow.begins = wire.now
        wire.run_for(8 * SECOND, steps=10**9)
        assert flow.connection.close_reason is None
        # After persistent congestion Cubic and NewReno begin with the least window, and what they knew before halved.
        assert flow.between(6, 8) >= (0.8 if controller == "bbr" else 0.35) * rate
    finally:
        wire.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("controller", controllers())
def test_two_flows_share_a_link(controller: str, seed: int) -> None:
    r = random.Random(seed)
    rate, delay = between(r, 10, 30), between(r, 5, 30)
    link = LinkConfig(rate=rate, delay=delay, queue=max(30, bdp(rate, delay)))
    wire = Wire(link, link, seed, server_transport=settings("cubic", **WINDOWS))
    try:
        flows = [start(wire, controller, **WINDOWS) for _ in range(2)]
        wire.begin()
        flows[0].begins = wire.now
        flows[1].begins = wire.now + 500 * MS
        wire.run_for(20 * SECOND, steps=10**9)
        first, second = (flow.between(8, 18) for flow in flows)
        # Jain's index: 0.5 is one for all, 0.9 is one twice the other.
        fairness = (first + second) ** 2 / (2 * (first**2 + second**2))
        print(f"{link} {first:.1f} {second:.1f} Mbit/s")
        assert fairness >= 0.8
        assert first + second >= 0.8 * rate
    finally:
        wire.close()
