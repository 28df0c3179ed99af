"""Received packet numbers: what is a duplicate, what an acknowledgement names, what it costs (RFC 9000 §12.3, §13.2)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.quic._models import ReceivedNumbers

WINDOW = (
    256 * 64 - 64
)  # numbers behind the newest that are told apart, whatever its place in a word
MAX_RANGES = 512
USUAL_RANGES = 64


def merged(numbers: set[int]) -> list[tuple[int, int]]:
    """Half-open ranges of some numbers."""
    ranges: list[tuple[int, int]] = []
    for n in sorted(numbers):
        if ranges and ranges[-1][1] == n:
            ranges[-1] = (ranges[-1][0], n + 1)
        else:
            ranges.append((n, n + 1))
    return ranges


@pytest.mark.parametrize("behind", [1, 63, 64, 127, 128, 129, 500, 2_000, 10_000, WINDOW - 1])
@pytest.mark.parametrize("newest", [20_000, 200_000, 2**61])
def test_number_that_comes_late_is_new_once(newest, behind):
    r = ReceivedNumbers()
    assert r.receive(0) and r.receive(newest)
    assert r.receive(newest - behind)
    assert not r.receive(newest - behind)
    assert not r.receive(newest) and not r.receive(0)


def test_number_too_far_behind_counts_as_a_duplicate():
    r = ReceivedNumbers()
    r.receive(1_000_000)
    assert not r.receive(1_000_000 - WINDOW - 128)


@given(
    st.lists(st.integers(0, 3_000), max_size=400),
    st.integers(0, 40_000),
    st.lists(st.integers(0, 3_000), max_size=100),
)
def test_no_number_is_taken_twice_and_none_is_refused(first, jump, second):
    r, seen = ReceivedNumbers(), set()
    for n in first + [jump + n for n in second]:
        fresh = r.receive(n)
        if max(seen, default=0) - n < WINDOW:
            assert fresh == (n not in seen)
        assert not (fresh and n in seen)
        seen.add(n)


@given(st.lists(st.integers(0, 300), max_size=300))
def test_ranges_are_what_was_received(numbers):
    r = ReceivedNumbers()
    for n in numbers:
        r.receive(n)
    assert r.ranges == merged(set(numbers))


def test_in_order_numbers_hold_no_memory():
    r = ReceivedNumbers()
    for n in range(100_000):
        r.receive(n)
    assert r.ranges == [(0, 100_000)] and r.memory == 0


def test_memory_is_bounded_and_given_back():
    r = ReceivedNumbers()
    for n in range(0, 200_000, 2):
        r.receive(n)
    assert len(r.ranges) == MAX_RANGES
    assert r.memory == 8 * 256 + 16 * MAX_RANGES
    r.trim()
    assert r.memory == 0
    assert r.ranges == [(n, n + 1) for n in range(199_992, 200_000, 2)]
    assert not r.receive(199_998) and not r.receive(100_000)
    assert r.receive(199_999) and r.receive(200_000)


def test_acknowledgement_names_old_ranges_only_while_they_are_news():
    r = ReceivedNumbers()
    for n in range(0, 600, 2):
        r.receive(n)
    assert r.first == 0  # all of it is new
    for _ in range(4):
        r.ack_sent()
    assert r.first == 300 - USUAL_RANGES
    r.receive(101)  # fills the gap between ranges 50 and 51
    assert r.first == 50
    for _ in range(3):
        r.ack_sent()
        assert r.first == 50  # repeated, for one of the acknowledgements may be lost
    r.ack_sent()
    assert r.first == 299 - USUAL_RANGES


def test_late_number_below_many_ranges_is_kept():
    """With hundreds of packets overtaken, the late ones have to be acknowledged too."""
    r = ReceivedNumbers()
    for n in range(0, 800, 2):
        r.receive(n)
    assert r.receive(1)
    assert r.ranges[0] == (0, 3)


def test_forgetting_leaves_the_newest_range():
    r = ReceivedNumbers()
    for n in [*range(10), *range(20, 30)]:
        r.receive(n)
    r.forget(24)
    assert r.ranges == [(25, 30)]
    r.forget(29)
    assert r.ranges == [(29, 30)]
    assert not r.receive(5) and not r.receive(29) and r.receive(30)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_stream_of_numbers_is_taken_whole(seed):
    """Everything within a window of 4,000 numbers arrives in any order, once."""
    rng, r = random.Random(seed), ReceivedNumbers()
    order = sorted(range(30_000), key=lambda n: n + rng.random() * 4_000)
    assert all(r.receive(n) for n in order)
    assert not any(r.receive(n) for n in order)
    assert r.ranges[-1][1] == 30_000
