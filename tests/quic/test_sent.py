"""Packets in flight and packets declared lost: the tables against a model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.quic._models import SentPackets

MAX_LOST = 32768


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 1000)),
            st.tuples(st.just("ack"), st.integers(0, 3000), st.integers(0, 300)),
            st.tuples(st.just("lose"), st.integers(0, 3000)),
            st.tuples(st.just("arrive"), st.integers(0, 3000), st.integers(0, 3000)),
        ),
        max_size=120,
    )
)
def test_tables_do_what_sets_do(steps):
    table, flying, lost, newest = SentPackets(), [], set(), 0
    for name, *args in steps:
        if name == "send":
            newest += args[0]
            flying.append(newest)
            table.send(newest, newest)
        elif name == "ack":
            lo, hi = args[0], args[0] + args[1]
            want = [n for n in flying if lo <= n <= hi]
            assert table.acknowledge(lo, hi) == want
            flying = [n for n in flying if not lo <= n <= hi]
        elif name == "lose":
            # as loss detection does it: nothing above is declared before
            want = [n for n in flying if n < args[0]]
            assert table.lose(args[0]) == want
            lost |= set(want)
            flying = flying[len(want) :]
        else:
            lo, hi = args[0], args[0] + args[1]
            found = {n for n in lost if lo <= n <= hi}
            assert table.arrived(lo, hi) == (len(found), False)
            lost -= found
        assert table.outstanding == len(flying)
        assert table.remembered == len(lost)


def test_memory_follows_what_is_in_flight_and_not_the_numbers():
    """A peer that acknowledges nothing makes us use up numbers, by the acknowledgements that we send."""
    table = SentPackets()
    for n in range(40):
        table.send(n * 1_000_000_007, n)
    assert table.outstanding == 40 and table.room == 64
    assert table.acknowledge(0, 2**62) == [n * 1_000_000_007 for n in range(40)]
    for n in range(100_000):
        table.send(10**12 + n, n)
        table.acknowledge(10**12 + n, 10**12 + n)
    assert table.room == 64


def test_event_is_undone_when_the_last_of_its_losses_arrives():
    table = SentPackets()
    for n in range(1000):
        table.send(n, n)
    table.lose(300, begins=True)
    table.lose(600, begins=False)
    assert table.arrived(0, 598) == (599, False)
    assert table.arrived(0, 700) == (1, True)
    assert table.arrived(0, 700) == (0, False)


def test_event_with_a_loss_that_never_arrives_is_not_undone():
    table = SentPackets()
    for n in range(1000):
        table.send(n, n)
    table.lose(10, begins=True)
    assert table.arrived(1, 9) == (9, False)
    table.lose(20, keep_from=5)  # number 0 is too old to be waited for
    assert table.arrived(0, 0) == (0, False)
    assert table.arrived(0, 100) == (10, False)


def test_earlier_event_does_not_matter_to_the_last_one():
    table = SentPackets()
    for n in range(100):
        table.send(n, n)
    table.lose(10, begins=True)
    table.lose(20, begins=True)
    assert table.arrived(10, 19) == (10, True)


def test_lost_packets_are_remembered_up_to_a_bound():
    table = SentPackets()
    for n in range(3 * MAX_LOST):
        table.send(n, n)
    table.lose(3 * MAX_LOST, begins=True)
    assert table.remembered == MAX_LOST
    assert table.arrived(0, 3 * MAX_LOST) == (MAX_LOST, False)


def test_what_is_acknowledged_again_and_again_is_leapt_over():
    """A lost packet holds up the table: what arrived behind it stays there, and every acknowledgement names it."""
    table, count = SentPackets(), 10_000
    for n in range(count):
        table.send(n, n)
    steps = 0
    for n in range(2, count, 2):
        assert len(table.acknowledge(1, n)) == 2
        steps += table.leaps(1)
    assert steps < 4 * count
    # Whatever number a range begins with.
    for first in range(1, count):
        assert table.acknowledge(first, count - 1) == ([] if first > 1 else [count - 1])
    assert sum(table.leaps(first) for first in range(1, count)) < 4 * count
    assert table.acknowledge(0, 0) == [0]
