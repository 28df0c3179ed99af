"""BBR's phases, what it holds of a path, and which losses it takes for congestion; on emulated links, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any

import pytest
from emulated import MS, SECOND, Flow, LinkConfig, Wire, settings, start
from links_table import bdp
from tests.lab.link import Policer

CYCLE = {"probe_down", "probe_cruise", "probe_refill", "probe_up"}
#: of the bandwidth: pacing gain and the hundredth that is left (§5.3, §5.6.2)
RATE = {
    "startup": 2.77 * 0.99,
    "drain": 0.5 * 0.99,
    "probe_down": 0.9 * 0.99,
    "probe_cruise": 0.99,
    "probe_refill": 0.99,
    "probe_up": 1.25 * 0.99,
    "probe_rtt": 0.99,
}


@dataclass
class Watched:
    """A transfer, and what BBR thought after each acknowledgement."""

    wire: Wire
    flow: Flow
    seen: list[dict[str, Any]] = field(default_factory=list)

    def look(self, side: object) -> None:
        if side is self.wire.client:
            info = self.flow.connection.path_info(0)
            assert info is not None
            self.seen.append(
                {**info["controller"], "cwnd": info["cwnd"], "in_flight": info["in_flight"]}
                | {"at": self.wire.now - self.flow.begins}
            )

    def run(self, seconds: float) -> None:
        self.wire.run_for(round(seconds * SECOND), steps=10**9)

    @property
    def modes(self) -> list[str]:
        return [mode for mode, _ in groupby(view["mode"] for view in self.seen)]

    @property
    def last(self) -> dict[str, Any]:
        return self.seen[-1]

    def lost(self) -> float:
        stats = self.flow.stats()
        return stats["lost_packets"] / stats["udp_tx"]["datagrams"]


@pytest.fixture
def bulk() -> Any:
    wires: list[Wire] = []

    def make(
        link: LinkConfig, *, seed: int = 1, size: int | None = None, **options: Any
    ) -> Watched:
        wire = Wire(link, link, seed, server_transport=settings("cubic"))
        wires.append(wire)
        flow = start(wire, "bbr", size, **options)
        wire.begin()
        flow.begins = wire.now
        watched = Watched(wire, flow)
        wire.watchers.append(watched.look)
        return watched

    yield make
    for wire in wires:
        wire.close()


Bulk = Callable[..., Watched]


# ---------------------------------------------------------------- phases
def test_phases_follow_each_other_and_each_has_its_rate(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=10, queue=400))
    w.run(8)
    assert w.modes[:2] == ["startup", "drain"]
    cycle = w.modes[2:]
    assert cycle.count("probe_up") >= 2
    # Down may be over within the acknowledgement that it begins with.
    follow = {
        "probe_down": {"probe_cruise", "probe_refill"},
        "probe_cruise": {"probe_refill"},
        "probe_refill": {"probe_up"},
        "probe_up": {"probe_down", "probe_cruise"},
    }
    for mode, following in pairwise(cycle):
        assert following in follow[mode], (mode, following)
    for view in w.seen:
        if view["bandwidth"] and view["mode"] != "startup":
            assert view["pacing_rate"] == pytest.approx(RATE[view["mode"]] * view["bandwidth"])


def test_bandwidth_and_round_trip_are_those_of_the_link(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=10, queue=400))
    w.run(3)
    # The link carries headers, too: 28 bytes of each datagram.
    assert 0.95 * 50e6 / 8 <= w.last["bandwidth"] <= 1.01 * 50e6 / 8
    assert 0.020 <= w.last["min_rtt"] <= 0.0205


def test_startup_doubles_each_round_trip(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=1000, delay=50, queue=8000))
    w.run(1)
    rates = {n: max(v["bandwidth"] for v in w.seen if v["at"] <= n * 105 * MS) for n in range(2, 8)}
    for n in range(3, 8):
        assert rates[n] >= 1.6 * rates[n - 1], rates
    assert w.modes == ["startup"]


def test_first_window_is_paced_once_the_round_trip_is_known(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=100, delay=50, queue=1000))
    w.run(0.02)
    assert w.last["cwnd"] >= 32 * 1200
    assert w.last["pacing_rate"] == pytest.approx(2.77 * w.last["cwnd"] / 0.1, rel=0.1)


def test_drain_ends_when_what_is_in_flight_fits_the_path(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=20, queue=1000))
    w.run(2)
    after = next(v for v in w.seen if v["mode"] in CYCLE)
    assert after["in_flight"] <= 1.05 * after["bandwidth"] * after["min_rtt"] + 4 * 1452
    most = max(v["in_flight"] for v in w.seen if v["mode"] == "startup")
    assert most > 1.5 * after["in_flight"]


def test_least_round_trip_is_not_probed_for_while_it_is_seen(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=20, delay=10, queue=200))
    w.run(12)
    assert "probe_rtt" not in w.modes


def test_least_round_trip_is_probed_for_where_others_keep_a_queue(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=20, delay=10, queue=200))
    other = start(w.wire, "cubic")
    w.run(16)
    probes = [v for v in w.seen if v["mode"] == "probe_rtt"]
    assert probes
    assert min(v["cwnd"] for v in probes) < 0.7 * max(
        v["cwnd"] for v in w.seen if v["mode"] in CYCLE
    )
    assert "probe_rtt" != w.last["mode"] or w.last["at"] - probes[0]["at"] > SECOND
    assert other.received > 0


# ---------------------------------------------------------------- what the application does
def test_application_that_sends_little_makes_the_path_no_slower(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=10, queue=400))
    w.run(3)
    known = w.last["bandwidth"]
    stream = w.flow.stream
    w.wire.watchers.remove(w.flow.pump)
    for _ in range(200):
        stream.write(bytes(2000))
        while w.flow.remote.read():
            pass
        w.run(0.02)
    assert w.last["bandwidth"] >= 0.9 * known


def test_silence_is_followed_by_the_rate_that_was_known(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=10, queue=400))
    w.run(3)
    known = w.last["bandwidth"]
    w.wire.watchers.remove(w.flow.pump)
    for _ in range(300):
        w.flow.read()
        w.run(0.01)
    w.wire.watchers.append(w.flow.pump)
    before, w.seen[:] = w.flow.received, []
    w.flow.write()
    w.wire.due.clear()
    w.run(1)
    assert "startup" not in w.modes and w.last["bandwidth"] >= 0.9 * known
    assert w.flow.received - before >= 0.85 * 50e6 / 8


# ---------------------------------------------------------------- losses
@pytest.mark.parametrize("loss", [0.005, 0.03, 0.05, 0.08])
def test_losses_that_do_not_depend_on_the_rate_cost_little_more_than_they_are(
    bulk: Bulk, loss: float
) -> None:
    w = bulk(LinkConfig(rate=50, delay=20, loss=loss, queue=300))
    w.run(8)
    assert w.flow.between(2, 8) >= 0.85 * (1 - loss) * 50
    assert w.last["own_loss"] < 2 * loss + 0.01
    if loss >= 0.03:
        assert max(v["own_loss"] for v in w.seen) > loss / 3


@pytest.mark.parametrize("seed", range(3))
def test_policer_is_not_taken_for_a_path_that_loses_by_itself(bulk: Bulk, seed: int) -> None:
    w = bulk(LinkConfig(rate=100, delay=20, queue=400, policer=Policer(30, 100_000)), seed=seed)
    w.run(10)
    assert w.last["own_loss"] <= 0.05
    assert w.flow.between(2, 10) >= 0.8 * 30
    before = w.flow.stats()
    w.run(5)
    after = w.flow.stats()
    sent = after["udp_tx"]["datagrams"] - before["udp_tx"]["datagrams"]
    assert after["lost_packets"] - before["lost_packets"] <= 0.12 * sent


@pytest.mark.parametrize("depth", [0.1, 0.2, 0.3])
def test_shallow_buffer_bounds_what_is_in_flight(bulk: Bulk, depth: float) -> None:
    w = bulk(LinkConfig(rate=100, delay=20, queue=bdp(100, 20, depth)))
    w.run(4)
    assert w.last["inflight_longterm"] is not None
    assert w.last["own_loss"] < 0.02
    assert w.flow.between(1, 4) >= 0.85 * 100
    before = w.flow.stats()
    w.run(5)
    after = w.flow.stats()
    sent = after["udp_tx"]["datagrams"] - before["udp_tx"]["datagrams"]
    assert after["lost_packets"] - before["lost_packets"] <= 0.03 * sent


def test_deep_buffer_stays_nearly_empty(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=20, queue=bdp(50, 20, 10)))
    w.run(8)
    assert w.wire.there.stats().queue_delay_ms(0.95) < 1.5 * 40
    assert w.lost() == 0


def test_marks_bound_what_is_in_flight(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=100, delay=20, queue=1000, ecn=60))
    w.run(8)
    assert w.last["inflight_longterm"] is not None
    assert w.lost() == 0
    assert w.flow.between(2, 8) >= 0.85 * 100


def test_marks_that_bursts_get_cost_little(bulk: Bulk) -> None:
    # A millisecond of jitter makes bursts: some packets of many rounds are marked, although little waits in the queue.
    w = bulk(LinkConfig(rate=100, delay=20, queue=1000, ecn=65, jitter=1))
    w.run(6)
    stats = w.wire.there.stats()
    assert stats.marked > 0 and w.lost() == 0
    assert w.flow.between(0, 6) >= 0.88 * 95
    assert stats.queue_delay_ms(0.95) < 20


def test_outage_shrinks_the_window_and_is_soon_forgotten(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=20, queue=400, outages=((2.0, 2.0),)))
    w.run(8)
    # What arrived before it is acknowledged after it, and lets the window begin with as much.
    known = max(v["cwnd"] for v in w.seen if SECOND < v["at"] < 2 * SECOND)
    assert min(v["cwnd"] for v in w.seen if v["at"] > 2 * SECOND) <= 0.4 * known
    assert w.flow.between(6, 8) >= 0.9 * 50 * 1400 / 1500


def test_other_controllers_have_no_mode(bulk: Bulk) -> None:
    w = bulk(LinkConfig(rate=50, delay=10, queue=400))
    w.run(1)
    assert w.flow.stats()["congestion_mode"] == w.last["mode"]
    other = start(w.wire, "newreno")
    info = other.connection.path_info(0)
    assert info is not None
    assert info["controller"]["mode"] == "" and info["controller"]["bandwidth"] == 0
