"""The model of a link, in virtual time: exact where it is exact, within the bounds of chance elsewhere."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab._link import Link
from tests.lab.link import Bursts, LinkConfig, LinkStats, Policer

START = 10**12
US = 1000
MS = 10**6
SECOND = 10**9
SIZE = 1500


def send(
    link: Link, count: int, gap: int = 0, *, size: int = SIZE, start: int = START, ecn: int = 0
) -> list[tuple[int, int]]:
    """Send packets `gap` ns apart; what became of each."""
    return [link.push(start + i * gap, size, ecn) for i in range(count)]


def arrivals(results: list[tuple[int, int]]) -> list[int]:
    return [at for at, _ in results if at >= 0]


def binomial(count: int, chance: float) -> tuple[float, float]:
    """Bounds that one run of two thousand million leaves: six standard deviations."""
    spread = 6 * math.sqrt(count * chance * (1 - chance))
    return count * chance - spread, count * chance + spread


# ---------------------------------------------------------------- rate and delay
def test_link_without_limits_only_delays() -> None:
    link = Link(LinkConfig(delay=12.5))
    assert send(link, 3, 7) == [(START + 12_500_000 + 7 * i, 0) for i in range(3)]
    assert link.stats().queue_delay == ((0.0, 3),) and link.waiting(START) == 0


@given(
    rate=st.floats(0.01, 10_000),
    sizes=st.lists(st.integers(1, 65_535), min_size=1, max_size=200),
)
def test_link_with_rate_sends_back_to_back_exactly(rate: float, sizes: list[int]) -> None:
    link = Link(LinkConfig(rate=rate, queue=len(sizes)))
    per_second = round(rate * 125_000)
    total = 0
    for size in sizes:
        at, _ = link.push(START, size)
        total += size
        # Whole nanoseconds, without an error that grows.
        assert at - START == math.floor(Fraction(total * SECOND, per_second))


def test_link_with_rate_that_is_idle_sends_at_once() -> None:
    link = Link(LinkConfig(rate=12, delay=1))
    gap = 10 * MS
    assert arrivals(send(link, 50, gap)) == [START + i * gap + MS + MS for i in range(50)]
    assert link.stats().queue_delay_ms(1.0) == 0


def test_link_counts_how_long_packets_waited() -> None:
    link = Link(LinkConfig(rate=12, queue=100))  # a packet each ms
    send(link, 100)
    stats = link.stats()
    assert sum(count for _, count in stats.queue_delay) == 100
    assert [stats.queue_delay_ms(f) for f in (0.5, 0.95, 1.0)] == pytest.approx(
        [49, 94, 99], rel=0.033
    )
    assert all(
        stats.queue_delay_ms(f) >= waited for f, waited in ((0.5, 49), (0.95, 94), (1.0, 99))
    )


def test_link_counts_rates_over_time() -> None:
    link = Link(LinkConfig(rate=12, queue=1000))
    send(link, 299)
    assert link.stats().rates == pytest.approx((11.88, 12, 12))
    link.begin(START + SECOND)
    send(link, 50, start=START + SECOND)
    assert link.stats().rates == (pytest.approx(6),)
    assert link.stats().delivered == 50


# ---------------------------------------------------------------- the queue
@pytest.mark.parametrize("queue", [1, 2, 50])
def test_queue_that_is_full_drops_what_comes(queue: int) -> None:
    link = Link(LinkConfig(rate=12, queue=queue))
    results = send(link, 60)
    assert [at >= 0 for at, _ in results] == [i < queue for i in range(60)]
    assert link.waiting(START) == queue
    assert link.stats().dropped["queue"] == link.stats().lost == 60 - queue
    # A place is free when a packet has left as a whole.
    assert link.push(START + MS - 1, SIZE)[0] == -1
    assert link.push(START + MS, SIZE)[0] == START + (queue + 1) * MS if queue > 1 else 2 * MS


def test_queue_in_bytes_takes_small_packets_where_large_ones_do_not_fit() -> None:
    link = Link(LinkConfig(rate=1, queue=1000, queue_bytes=4000))
    assert [at >= 0 for at, _ in send(link, 4)] == [True, True, False, False]
    assert [at >= 0 for at, _ in send(link, 4, size=400)] == [True, True, False, False]


@given(seed=st.integers(0, 2**64 - 1), queue=st.integers(1, 40), load=st.floats(0.5, 3))
def test_queue_never_holds_more_than_its_places(seed: int, queue: int, load: float) -> None:
    config = LinkConfig(rate=12, delay=3, loss=0.1, queue=queue)
    link = Link(config, seed)
    gap = round(MS / load)
    inside: list[int] = []
    for i in range(400):
        now = START + i * gap
        inside = [leaves for leaves in inside if leaves > now]
        assert link.waiting(now) == len(inside) <= queue
        at, _ = link.push(now, SIZE)
        if at >= 0:
            inside.append(at - 3 * MS)


# ---------------------------------------------------------------- losses
@pytest.mark.parametrize("loss", [0.0005, 0.03, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_random_loss_is_as_frequent_as_asked(loss: float, seed: int) -> None:
    link = Link(LinkConfig(loss=loss), seed)
    send(link, 200_000, 10)
    low, high = binomial(200_000, loss)
    stats = link.stats()
    assert low < stats.dropped["loss"] < high and stats.lost == stats.dropped["loss"]
    assert stats.delivered + stats.lost == stats.packets == 200_000


def test_random_loss_of_nothing_and_of_all() -> None:
    assert len(arrivals(send(Link(LinkConfig(loss=0)), 1000))) == 1000
    assert arrivals(send(Link(LinkConfig(loss=1)), 1000)) == []


def test_random_loss_takes_none_of_the_rate() -> None:
    link = Link(LinkConfig(rate=12, loss=0.3, queue=1000), 5)
    got = arrivals(send(link, 1000))
    assert got == [START + (i + 1) * MS for i in range(len(got))] and 600 < len(got) < 800


@pytest.mark.parametrize("bursts", [Bursts(0.02, 10), Bursts(0.05, 4), Bursts(0.1, 20, 0.6)])
def test_bursts_lose_as_much_and_last_as_long_as_asked(bursts: Bursts) -> None:
    link = Link(LinkConfig(burst_loss=bursts), 1)
    lost = [at < 0 for at, _ in send(link, 400_000, 10)]
    assert (
        sum(lost) == link.stats().dropped["burst"] == pytest.approx(400_000 * bursts.loss, rel=0.1)
    )
    begins = sum(now and not before for before, now in zip([False, *lost], lost))
    if bursts.within == 1:
        assert sum(lost) / begins == pytest.approx(bursts.length, rel=0.1)
    else:
        # Losses follow losses far more often than chance would have it.
        after = sum(before and now for before, now in zip(lost, lost[1:])) / sum(lost)
        assert after == pytest.approx(bursts.within * (1 - 1 / bursts.length), rel=0.1)


@pytest.mark.parametrize(
    "config",
    [
        LinkConfig(rate=100, delay=1, loss=0.01, jitter=1, reorder=True, queue=50),
        LinkConfig(delay=1, burst_loss=Bursts(0.05, 5), jitter=3),
    ],
)
def test_one_seed_gives_one_run(config: LinkConfig) -> None:
    runs = [send(Link(config, seed), 5000, 100 * US) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_losses_are_the_same_whatever_else_is_set() -> None:
    plain = send(Link(LinkConfig(loss=0.1), 3), 5000, 10)
    other = LinkConfig(loss=0.1, delay=5, jitter=9, reorder=True)
    assert [at < 0 for at, _ in plain] == [at < 0 for at, _ in send(Link(other, 3), 5000, 10)]


# ---------------------------------------------------------------- jitter
@pytest.mark.parametrize("jitter", [3, 30])
def test_jitter_without_reordering_keeps_the_order_and_varies(jitter: int) -> None:
    link = Link(LinkConfig(delay=5, jitter=jitter), 1)
    got = arrivals(send(link, 100_000, 40 * US))
    assert got == sorted(got) and link.stats().overtaken == 0
    late = [(at - START - i * 40 * US - 5 * MS) / jitter / MS for i, at in enumerate(got)]
    assert 0 <= min(late) < 0.1 and 0.9 < max(late) <= 1
    assert 0.4 < sum(late) / len(late) < 0.6 + (jitter == 30) * 0.2
    # It is not there and gone: neighbours have nearly the same.
    steps = [abs(a - b) for a, b in zip(late, late[1:])]
    assert max(steps) < 0.02


def test_jitter_with_reordering_is_even_and_lets_packets_overtake() -> None:
    link = Link(LinkConfig(delay=2, jitter=3, reorder=True), 1)
    got = arrivals(send(link, 20_000, 40 * US))
    late = [at - START - i * 40 * US - 2 * MS for i, at in enumerate(got)]
    assert 0 <= min(late) and max(late) <= 3 * MS
    for tenth in range(10):
        low, high = binomial(20_000, 0.1)
        here = sum(tenth * 300 * US <= x < (tenth + 1) * 300 * US for x in late)
        assert low < here < high
    latest, overtaken = 0, 0
    for at in got:
        overtaken += at < latest
        latest = max(latest, at)
    assert link.stats().overtaken == overtaken > 5000


def test_jitter_takes_none_of_the_rate() -> None:
    config = LinkConfig(rate=12, delay=10, jitter=5, reorder=True, queue=2000)
    got = arrivals(send(Link(config, 1), 2000))
    assert 2 * SECOND <= max(got) - START - 10 * MS <= 2 * SECOND + 5 * MS


# ---------------------------------------------------------------- ECN
def test_packets_that_find_a_long_queue_are_marked_if_their_sender_takes_it() -> None:
    marks = {}
    for ecn in range(4):
        link = Link(LinkConfig(rate=12, ecn=5, queue=20))
        marks[ecn] = [bits for _, bits in send(link, 20, ecn=ecn)]
        assert link.stats().marked == (15 if ecn in (1, 2) else 0) and link.stats().lost == 0
    assert marks[0] == [0] * 20 and marks[3] == [3] * 20
    assert marks[1] == [1] * 5 + [3] * 15 and marks[2] == [2] * 5 + [3] * 15


# ---------------------------------------------------------------- outages and steps
def test_outage_loses_what_would_leave_in_it() -> None:
    link = Link(LinkConfig(delay=7, outages=((1, 2), (5, 0.5))))
    got = {round((at - START) / 1e8) for at in arrivals(send(link, 70, SECOND // 10))}
    expected = set(range(70)) - set(range(10, 30)) - set(range(50, 55))
    assert got == expected and link.stats().dropped["outage"] == 25


def test_outage_that_holds_keeps_the_queue_and_its_places() -> None:
    config = LinkConfig(rate=12, queue=100, outages=((0.01, 2),), outage_holds=True)
    link = Link(config)
    got = [(at - START) // MS for at in arrivals(send(link, 200, MS // 2))]
    assert got[:10] == list(range(1, 11)) and got[10:] == list(range(2011, 2011 + len(got) - 10))
    stats = link.stats()
    assert stats.dropped["queue"] == stats.lost == 200 - len(got) > 80
    assert stats.queue_delay_ms(1.0) >= 2000


def test_steps_change_the_rate_when_they_say() -> None:
    link = Link(LinkConfig(rate=12, queue=1000, steps=((0.1, 1.2), (0.3, 24))))
    got = [at - START for at in arrivals(send(link, 220))]
    assert got[:100] == [(i + 1) * MS for i in range(100)]
    assert got[100:120] == [100 * MS + (i + 1) * 10 * MS for i in range(20)]
    assert got[120:] == [300 * MS + (i + 1) * MS // 2 for i in range(100)]


def test_step_in_the_middle_of_a_packet_sends_its_rest_at_the_new_rate() -> None:
    link = Link(LinkConfig(rate=12, queue=10, steps=((0.0005, 0), (0.0015, 1.2))))
    assert link.push(START, SIZE)[0] == START + 1_500 * US + 5 * MS


def test_times_of_steps_count_from_the_first_packet_or_from_begin() -> None:
    config = LinkConfig(rate=12, outages=((0.5, 1),))
    link = Link(config)
    link.push(START, SIZE)
    link.begin(START + 10 * SECOND)
    assert link.push(START + 10 * SECOND, SIZE)[0] > 0
    assert link.push(START + 11 * SECOND, SIZE)[0] == -1


# ---------------------------------------------------------------- the policer
def test_policer_lets_the_burst_through_and_then_its_rate() -> None:
    link = Link(LinkConfig(policer=Policer(12, 15_000)))  # ten packets, then one each ms
    passed = [at >= 0 for at, _ in send(link, 30)]
    assert passed == [True] * 10 + [False] * 20
    results = send(link, 1000, 100 * US, start=START + 1)
    assert len(arrivals(results)) == 99
    assert link.stats().dropped["policer"] == 20 + 901
    # After a pause the bucket is full, and not fuller.
    assert len(arrivals(send(link, 30, start=START + 10**15))) == 10


# ---------------------------------------------------------------- what may be asked
@pytest.mark.parametrize(
    "values",
    [
        {"rate": 0},
        {"rate": -1},
        {"rate": math.nan},
        {"delay": -1},
        {"loss": 1.01},
        {"loss": math.nan},
        {"jitter": -0.1},
        {"queue": 0},
        {"queue": 10**7},
        {"ecn": -1},
        {"queue_bytes": 100},
        {"outages": ((1, 5), (3, 1))},
        {"steps": ((1, 5),)},
        {"rate": 1, "steps": ((2, 5), (1, 6))},
        {"rate": 1, "steps": ((2, 0),)},
        {"outages": ((1, 1),), "outage_holds": True},
    ],
)
def test_config_refuses_what_no_link_can_be(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        LinkConfig(**values)


@pytest.mark.parametrize("values", [(0.5, 0.5), (0.6, 10, 0.5), (0.9, 2)])
def test_bursts_refuse_what_no_chain_can_do(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Bursts(*values)


def test_link_wants_a_config() -> None:
    with pytest.raises(TypeError, match="LinkConfig"):
        Link({"rate": 1})


def test_stats_without_packets_are_empty() -> None:
    assert Link(LinkConfig()).stats() == LinkStats(
        dropped=dict.fromkeys(("policer", "loss", "burst", "queue", "outage"), 0)
    )
    assert LinkStats().queue_delay_ms() == 0
