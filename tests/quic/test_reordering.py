"""Links that reorder, in virtual time: what overtakes is lost for nobody once that was learned, and nothing is paid for it."""

from __future__ import annotations

import pytest
from emulated import SECOND, LinkConfig, Wire, settings, start

WIFI = {"rate": 300, "delay": 2, "queue": 1000, "jitter": 3, "reorder": True}
WAN = {"rate": 100, "delay": 20, "queue": 400, "jitter": 8, "reorder": True}
each_controller = pytest.mark.parametrize("controller", ["cubic", "newreno", "bbr"])


class Seconds:
    """A transfer second by second."""

    def __init__(self, controller: str, link: LinkConfig, seed: int = 1) -> None:
        # A window that the queue of the link holds: nothing is lost for want of room.
        receiver = settings("cubic", stream_receive_window=1_250_000)
        self.wire = Wire(link, link, seed, server_transport=receiver)
        self.flow = start(self.wire, controller)
        self.wire.begin()
        self.before = (0, 0, 0)

    def next(self) -> tuple[int, int, int]:
        """What was sent, declared lost and really lost in one second."""
        self.wire.run_for(SECOND, steps=10**9)
        stats = self.flow.stats()
        dropped = sum(self.wire.there.stats().dropped.values())
        now = (stats["udp_tx"]["datagrams"], stats["lost_packets"], dropped)
        taken = tuple(a - b for a, b in zip(now, self.before, strict=True))
        self.before = now
        return taken


@pytest.fixture
def transfer(request):
    made = []

    def make(*args, **options):
        made.append(Seconds(*args, **options))
        return made[-1]

    yield make
    for seconds in made:
        seconds.wire.close()


@each_controller
@pytest.mark.parametrize("seed", range(2))
def test_nothing_counts_as_lost_after_the_first_second(transfer, controller, seed):
    seconds = transfer(controller, LinkConfig(**WIFI), seed)
    sent, lost, really = seconds.next()
    assert really == 0 and lost < sent // 200
    for _ in range(2):
        sent, lost, really = seconds.next()
        assert really == 0
        assert lost <= sent // 10_000
    assert seconds.flow.between(1, 3) > 0.85 * 300


@each_controller
def test_what_arrived_after_all_is_taken_back(transfer, controller):
    """No packet is lost on this link: every event was for nothing, and nothing of it stays."""
    seconds = transfer(controller, LinkConfig(**WIFI))
    seconds.next()
    seconds.next()
    stats = seconds.flow.stats()
    assert stats["congestion_events"] > 0
    assert stats["spurious_congestion_events"] == stats["congestion_events"]


@each_controller
def test_what_is_lost_is_found_among_what_overtakes(transfer, controller):
    """One packet of a thousand is lost: hardly more count as lost, and what did not come is sent again."""
    seconds = transfer(controller, LinkConfig(loss=0.001, **WIFI))
    seconds.next()
    declared = really = 0
    for _ in range(3):
        _, lost, gone = seconds.next()
        declared += lost
        really += gone
    assert really <= declared + 40  # still waited for
    assert declared <= 1.3 * really + 5
    assert seconds.flow.received > 0


@each_controller
def test_reordering_by_less_than_a_round_trip_on_a_long_way(transfer, controller):
    seconds = transfer(controller, LinkConfig(**WAN))
    seconds.next()
    for _ in range(2):
        sent, lost, really = seconds.next()
        assert lost <= really + sent // 1000


def test_without_reordering_three_packets_tell_what_is_lost(transfer):
    """As RFC 9002 has it: what nobody saw overtaken is declared lost with the third packet behind it, not later."""
    seconds = transfer("cubic", LinkConfig(rate=100, delay=20, queue=400, loss=0.002))
    for _ in range(3):
        seconds.next()
    assert seconds.flow.stats()["spurious_congestion_events"] == 0
    assert not seconds.flow.wire.there.stats().dropped["queue"]
