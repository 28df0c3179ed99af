"""Stream buffers and range sets against plain Python models."""

from __future__ import annotations

import gc
import os
import platform
import random
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic._buffers import RangeSetModel, ReceiveBufferModel, SendBufferModel

CHUNK = 65536
FIRST_CHUNK = 2048
MAX_GAPS = 4096
SOURCE = random.Random(7).randbytes(1 << 19)

examples = settings(max_examples=150, deadline=None)


# ---- range set ----------------------------------------------------------------
def as_ranges(points: set[int]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for x in sorted(points):
        if out and out[-1][1] == x:
            out[-1] = (out[-1][0], x + 1)
        else:
            out.append((x, x + 1))
    return out


@examples
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 80), st.integers(0, 12)), max_size=60))
def test_range_set_matches_plain_set(ops: list[tuple[bool, int, int]]) -> None:
    ours, model = RangeSetModel(), set[int]()
    for add, start, n in ops:
        if add:
            ours.add(start, start + n)
            model |= set(range(start, start + n))
        else:
            ours.remove(start, start + n)
            model -= set(range(start, start + n))
        assert ours.ranges() == as_ranges(model)
    assert {x for x in range(100) if x in ours} == model


def test_range_set_extremes_are_handled() -> None:
    top = (1 << 64) - 1
    r = RangeSetModel()
    r.add(5, 5)
    r.add(9, 3)
    assert r.ranges() == []
    r.add(top - 1, top)
    r.add(0, 1)
    assert top not in r and top - 1 in r and 0 in r and 1 not in r
    r.remove(0, top)
    assert r.ranges() == []


# ---- send buffer --------------------------------------------------------------
class SendReference:
    """What a send buffer must do, byte by byte."""

    def __init__(self) -> None:
        self.data = b""
        self.sent = 0
        self.acked: set[int] = set()
        self.lost: set[int] = set()

    def contiguous(self) -> int:
        x = 0
        while x in self.acked:
            x += 1
        return x

    def pending(self) -> set[int]:
        return self.lost | (set(range(self.sent, len(self.data))) - self.acked)


def poll_and_check(
    ours: SendBufferModel, ref: SendReference, maximum: int
) -> tuple[int, int] | None:
    got = ours.poll(maximum)
    if got is None:
        assert not ref.pending() or maximum == 0
        return None
    offset, n, again = got
    span = set(range(offset, offset + n))
    assert 0 < n <= maximum
    assert again == bool(ref.lost)
    if again:
        assert offset == min(ref.lost)
        assert span <= ref.lost
        ref.lost -= span
    else:
        assert offset == ref.sent
        assert not span & ref.acked
        ref.sent = offset + n
        while ref.sent in ref.acked:
            ref.sent += 1
    assert ours.copy(offset, n) == ref.data[offset : offset + n]
    return offset, n


send_op = st.one_of(
    st.tuples(st.just("ref"), st.integers(0, 700)),
    st.tuples(st.just("copy"), st.integers(0, 700)),
    st.tuples(st.just("copy"), st.sampled_from([1, 2047, 2048, 2049, 5000])),
    st.tuples(st.just("poll"), st.integers(0, 400)),
    st.tuples(st.just("poll"), st.integers(100, 400)),
    st.tuples(st.just("ack"), st.integers(0, 1 << 16)),
    st.tuples(st.just("lose"), st.integers(0, 1 << 16)),
    st.tuples(st.just("ack_any"), st.integers(0, 1 << 16)),
    st.tuples(st.just("rewind"), st.just(0)),
)


@examples
@given(st.lists(send_op, max_size=60))
def test_send_buffer_matches_reference(ops: list[tuple[str, int]]) -> None:
    ours, ref = SendBufferModel(), SendReference()
    flight: list[tuple[int, int]] = []

    def ack(offset: int, n: int) -> None:
        ours.ack(offset, n)
        span = set(range(offset, min(offset + n, len(ref.data))))
        ref.acked |= span
        ref.lost -= span
        while ref.sent in ref.acked:
            ref.sent += 1

    for op, x in ops:
        if op in ("ref", "copy"):
            piece = bytes(SOURCE[len(ref.data) : len(ref.data) + x])
            if op == "ref":
                ours.write_ref(piece)
            else:
                ours.write_copy(bytearray(piece))
            ref.data += piece
        elif op == "poll":
            got = poll_and_check(ours, ref, x)
            if got:
                flight.append(got)
        elif op == "ack" and flight:
            ack(*flight.pop(x % len(flight)))
        elif op == "lose" and flight:
            offset, n = flight[x % len(flight)]  # stays: the loss may turn out spurious
            ours.lose(offset, n)
            ref.lost |= set(range(offset, min(offset + n, ref.sent))) - ref.acked
        elif op == "ack_any" and ref.sent:
            ack(x % ref.sent, x % 97)
        elif op == "rewind":
            # Packets sent before are forgotten by whoever rewinds.
            ours.rewind()
            flight.clear()
            ref.lost.clear()
            ref.sent = ref.contiguous()
        assert (ours.acked, ours.next, ours.end) == (ref.contiguous(), ref.sent, len(ref.data))
        assert ours.unacked == len(ref.data) - ref.contiguous()
        assert ours.has_pending == bool(ref.pending())

    while got := poll_and_check(ours, ref, 300):
        flight.append(got)
    assert not ours.has_pending
    random.Random(len(ops)).shuffle(flight)
    for offset, n in flight:
        ack(offset, n)
    assert ours.acked == ours.end == len(ref.data)
    assert not ours.owns_memory


def test_send_buffer_references_return_to_start_after_ack() -> None:
    data = bytes(SOURCE[:5000])
    before = sys.getrefcount(data)
    b = SendBufferModel()
    b.write_ref(data)
    b.write_ref(data)
    assert sys.getrefcount(data) == before + 2
    assert b.send_all(1400, False) == 8
    b.ack(0, 4999)
    assert sys.getrefcount(data) == before + 2
    b.ack(5000, 5000)  # out of order: nothing can go yet
    assert sys.getrefcount(data) == before + 2
    b.ack(4999, 1)
    assert sys.getrefcount(data) == before
    assert b.acked == b.end == 10000


@pytest.mark.parametrize("how", ["clear", "dealloc"])
def test_send_buffer_references_return_to_start_after_free(how: str) -> None:
    data = bytes(SOURCE[:3000])
    before = sys.getrefcount(data)
    b = SendBufferModel()
    for _ in range(9):
        b.write_ref(data)
    assert sys.getrefcount(data) == before + 9
    if how == "clear":
        b.clear()
        assert (b.acked, b.next, b.end, b.owns_memory) == (0, 0, 0, False)
    del b
    gc.collect()
    assert sys.getrefcount(data) == before


def test_send_buffer_write_copy_ignores_later_changes_of_the_source() -> None:
    source = bytearray(b"a" * 100)
    b = SendBufferModel()
    b.write_copy(source)
    source[:] = b"b" * 100
    assert b.copy(0, 100) == b"a" * 100


def test_send_buffer_small_writes_share_segments() -> None:
    b = SendBufferModel()
    for _ in range(6000):
        b.write_copy(b"0123456789")
    # 2 + 4 + 8 KiB, then 16 KiB each.
    assert b.segments == 6
    assert b.copy(0, 60000) == b"0123456789" * 6000


def test_send_buffer_tail_after_reference_starts_new_segment() -> None:
    b = SendBufferModel()
    b.write_copy(b"ab")
    b.write_ref(b"cd")
    b.write_copy(b"ef")
    b.write_copy(b"gh")
    assert b.segments == 3
    assert b.copy(0, 8) == b"abcdefgh"


def test_send_buffer_copy_outside_of_held_data_gives_zeros() -> None:
    b = SendBufferModel()
    assert b.copy(0, 4) == bytes(4)
    b.write_ref(b"abcd")
    b.write_ref(b"efgh")
    assert b.copy(6, 4) == b"gh\0\0"
    assert b.copy(1 << 63, 4) == bytes(4)
    b.ack(0, 4)
    assert b.copy(0, 8) == bytes(8)
    assert b.copy(4, 4) == b"efgh"


def test_send_buffer_ack_and_loss_beyond_sent_data_are_bounded() -> None:
    b = SendBufferModel()
    b.write_copy(b"x" * 100)
    assert b.poll(50) == (0, 50, False)
    b.lose(0, (1 << 64) - 1)
    b.lose(1 << 63, 1 << 63)
    assert b.poll(1000) == (0, 50, True)
    b.ack(200, 10)
    b.ack(10, (1 << 64) - 1)
    assert (b.acked, b.next, b.end) == (0, 100, 100)  # acknowledged bytes are never sent
    assert b.poll(1000) is None
    b.ack(0, 10)
    assert (b.acked, b.owns_memory) == (100, False)


def test_send_buffer_late_ack_cancels_resending() -> None:
    b = SendBufferModel()
    b.write_ref(SOURCE[:1000])
    assert b.send_all(100, False) == 10
    b.lose(200, 600)
    b.ack(400, 100)  # splits what is to be sent again
    b.ack(700, 100)
    assert [b.poll(1000), b.poll(1000), b.poll(1000)] == [(200, 200, True), (500, 200, True), None]
    b.lose(300, 600)
    b.ack(0, 550)
    assert [b.poll(1000), b.poll(1000), b.poll(1000)] == [(550, 150, True), (800, 100, True), None]


def test_send_buffer_ring_grows_while_wrapped() -> None:
    b = SendBufferModel()
    end = 0
    for keep in range(1, 40):  # acknowledge a little less than is written
        for _ in range(4):
            b.write_ref(SOURCE[end : end + 7])
            end += 7
        b.ack(b.acked, 21)
        assert b.segments == keep
        assert b.copy(b.acked, end - b.acked) == SOURCE[b.acked : end]


def test_send_buffer_many_small_segments_are_found_in_constant_steps() -> None:
    count = 10_000
    b = SendBufferModel()
    pieces = [b"%010d" % i for i in range(count)]
    for p in pieces:
        b.write_ref(p)
    assert b.segments == count
    got = b"".join(b.copy(i * 25, 25) for i in range(count * 10 // 25))
    assert got == b"".join(pieces)
    assert b.steps <= 2 * (count * 10 // 25)
    # At random a search may cost a bisection, never a scan.
    before = b.steps
    rng = random.Random(3)
    for _ in range(1000):
        at = rng.randrange(count * 10 - 5)
        assert b.copy(at, 5) == got[at : at + 5]
    assert b.steps - before <= 1000 * (count.bit_length() + 3)
    # Acks from the front move the ring's head under the cursor.
    for i in range(0, count, 2):
        b.ack(i * 10, 20)
        if i + 2 < count:
            assert b.copy((i + 2) * 10, 10) == pieces[i + 2]
    assert not b.owns_memory


# ---- receive buffer -----------------------------------------------------------
span = st.one_of(
    st.tuples(st.integers(0, 300), st.integers(0, 40)),
    st.tuples(st.integers(0, 40_000), st.integers(0, 3000)),
    st.tuples(st.integers(0, 120_000), st.integers(0, 70_000)),
)
recv_op = st.one_of(
    st.tuples(st.just("insert"), span),
    st.tuples(st.just("insert"), span),
    st.tuples(st.just("next"), st.tuples(st.integers(0, 5000), st.integers(0, 0))),
    st.tuples(st.just("take"), st.tuples(st.integers(0, 4000), st.integers(0, 0))),
    st.tuples(st.just("take"), st.tuples(st.just(1 << 20), st.integers(0, 0))),
    st.tuples(st.just("into"), st.tuples(st.integers(0, 90_000), st.integers(0, 0))),
)


def check_pieces(b: ReceiveBufferModel) -> None:
    chunks, pieces = b.layout()
    assert sum(wr - rd for _, rd, wr in chunks) == b.readable
    for cap, rd, wr in chunks:
        assert FIRST_CHUNK <= cap <= CHUNK and rd < wr <= cap
    end = b.tail
    for start, n, _ in pieces:
        assert start >= end and n > 0
        end = start + n


@examples
@given(st.lists(recv_op, max_size=40), st.integers(0, 1 << 30))
def test_assembler_matches_reference(ops: list[tuple[str, tuple[int, int]]], seed: int) -> None:
    ours = ReceiveBufferModel()
    have = bytearray(len(SOURCE) + 1)  # 1: received
    spans: list[tuple[int, int]] = []
    handed: list[bytes] = []
    expected: list[bytes] = []

    def insert(offset: int, n: int) -> None:
        n = min(n, len(SOURCE) - offset)
        ours.insert(offset, SOURCE[offset : offset + n])
        have[offset : offset + n] = b"\1" * n
        spans.append((offset, n))

    def took(data: bytes, at: int) -> None:
        handed.append(data)
        expected.append(bytes(SOURCE[at : at + len(data)]))
        assert ours.read == at + len(data)

    for op, (x, n) in ops:
        at = ours.read
        if op == "insert":
            insert(x, n)
        elif op == "next":
            insert(ours.tail, x)
        elif op == "take":
            ready = ours.readable
            data = ours.take(x)
            assert len(data) <= x and bool(data) == bool(ready and x)
            took(data, at)
        else:
            target = bytearray(x)
            ready = ours.readable
            got = ours.read_into(target)
            assert got == min(x, ready)
            took(bytes(target[:got]), at)
        assert ours.tail == have.index(0)
        check_pieces(ours)

    # Fill all holes in any order: everything comes out, and nothing handed out has changed.
    holes = [(i, 1400) for i in range(0, max([s + n for s, n in spans], default=0), 1400)]
    random.Random(seed).shuffle(holes)
    for offset, n in holes:
        insert(offset, n)
        check_pieces(ours)
    while data := ours.take(1 << 20):
        took(data, ours.read - len(data))
    assert ours.read == ours.tail == have.index(0)
    assert handed == expected
    assert not ours.owns_memory


@examples
@given(st.lists(st.one_of(
    st.tuples(st.just("insert"), st.tuples(st.integers(0, 200), st.integers(0, 30))),
    st.tuples(st.just("insert"), st.tuples(st.integers(0, 9000), st.integers(0, 3000))),
    st.tuples(st.just("take"), st.tuples(st.integers(0, 60), st.integers(0, 0))),
    st.tuples(st.just("take"), st.tuples(st.just(1 << 20), st.integers(0, 0))),
    st.tuples(st.just("ordered"), st.tuples(st.integers(0, 60), st.integers(0, 0))),
), max_size=60))  # fmt: skip
def test_unordered_reads_give_each_byte_once_lowest_first(
    ops: list[tuple[str, tuple[int, int]]],
) -> None:
    ours = ReceiveBufferModel()
    waiting: set[int] = set()
    seen: set[int] = set()
    unordered = False

    def take(maximum: int) -> bool:
        got = ours.take_unordered(maximum)
        if got is None:
            assert not waiting or maximum == 0
            return False
        offset, data = got
        assert 0 < len(data) <= maximum
        assert offset == min(waiting)
        assert data == SOURCE[offset : offset + len(data)]
        span = set(range(offset, offset + len(data)))
        assert span <= waiting
        waiting.difference_update(span)
        return True

    for op, (x, n) in ops:
        if op == "insert":
            ours.insert(x, SOURCE[x : x + n])
            new = set(range(x, x + n)) - seen
            seen |= new
            waiting |= new
        elif op == "take":
            unordered = True
            take(x)
        elif not unordered:  # going back is not allowed
            at = ours.read
            data = ours.take(x)
            assert data == SOURCE[at : at + len(data)]
            waiting.difference_update(range(at, at + len(data)))
        check_pieces(ours)
    while take(777):
        check_pieces(ours)
    prefix = 0
    while prefix in seen:
        prefix += 1
    assert ours.read == ours.tail == prefix
    assert ours.owns_memory == bool(len(seen) > prefix)


def test_unordered_duplicates_of_delivered_data_are_dropped() -> None:
    b = ReceiveBufferModel()
    b.insert(100, SOURCE[100:200])
    assert b.take_unordered(60) == (100, SOURCE[100:160])
    b.insert(90, SOURCE[90:170])
    b.insert(100, SOURCE[100:200])
    assert b.take_unordered(1000) == (90, SOURCE[90:100])
    assert b.take_unordered(1000) == (160, SOURCE[160:200])
    assert b.take_unordered(1000) is None
    assert (b.read, b.tail) == (0, 0)
    assert b.layout() == ([], [(90, 110, False)])
    b.insert(0, SOURCE[:300])
    assert b.take_unordered(1000) == (0, SOURCE[:90])
    assert b.read == b.tail == 200
    assert b.take_unordered(1000) == (200, SOURCE[200:300])
    assert (b.read, b.tail, b.owns_memory) == (300, 300, False)


def test_take_full_chunk_is_handed_over_without_a_copy() -> None:
    b = ReceiveBufferModel()
    b.insert(0, SOURCE[:CHUNK])
    assert b.layout()[0] == [(CHUNK, 0, CHUNK)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        data = b.take(CHUNK)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert data == SOURCE[:CHUNK]
    assert peak < 4096  # a copy would show up as another 64 KiB
    assert not b.owns_memory


def test_delivered_data_before_unread_data_blocks_appending() -> None:
    b = ReceiveBufferModel()
    b.insert(50, SOURCE[50:100])
    assert b.take_unordered(100) == (50, SOURCE[50:100])
    b.insert(0, SOURCE[:50])
    b.insert(100, SOURCE[100:150])
    assert (b.read, b.tail) == (0, 50)
    b.insert(40, SOURCE[40:160])
    assert b.take_unordered(100) == (0, SOURCE[:50])
    assert (b.read, b.tail) == (100, 100)
    assert b.take_unordered(100) == (100, SOURCE[100:160])
    assert (b.read, b.tail, b.owns_memory) == (160, 160, False)


def test_take_never_alters_bytes_handed_out_earlier() -> None:
    b = ReceiveBufferModel()
    b.insert(0, SOURCE[:1000])
    first = b.take(1 << 20)
    b.insert(1000, SOURCE[1000:1900])
    second = b.take(500)
    b.insert(1900, SOURCE[1900:2500])
    third = b.take(1 << 20)
    b.insert(2500, SOURCE[2500:9000])
    assert first == SOURCE[:1000]
    assert second == SOURCE[1000:1500]
    assert third == SOURCE[1500 : 1500 + len(third)]
    assert hash(first) == hash(bytes(bytearray(SOURCE[:1000])))
    assert sys.getrefcount(first) == 2


def test_chunks_double_and_bulk_comes_out_in_full_chunks() -> None:
    b = ReceiveBufferModel()
    b.insert_packets(SOURCE[: 4 * CHUNK], 1400)
    caps = [cap for cap, _, _ in b.layout()[0]]
    assert caps[:7] == [2048, 4096, 8192, 16384, 32768, CHUNK, CHUNK]
    assert [len(b.take(1 << 20)) for _ in range(7)][-2:] == [CHUNK, CHUNK]


def test_large_insert_gets_a_fitting_chunk() -> None:
    b = ReceiveBufferModel()
    b.insert(0, SOURCE[:9000])
    assert b.layout()[0] == [(16384, 0, 9000)]
    b = ReceiveBufferModel()
    b.insert(0, SOURCE[:200_000])
    assert [cap for cap, _, _ in b.layout()[0]] == [CHUNK] * 4
    assert b"".join(iter(lambda: b.take(1 << 20), b"")) == SOURCE[:200_000]


def test_chunk_size_shrinks_again_for_small_messages() -> None:
    b = ReceiveBufferModel()
    b.insert_packets(SOURCE[: 3 * CHUNK], 1400)
    while b.take(1 << 20):
        pass
    caps = []
    for _ in range(8):
        b.insert(b.tail, b"ping")
        caps.append(b.layout()[0][0][0])
        assert b.take(100) == b"ping"
    assert caps[-1] == FIRST_CHUNK


def test_gap_limit_is_reported_and_data_stays_usable() -> None:
    b = ReceiveBufferModel()
    for i in range(MAX_GAPS):
        b.insert(1 + 2 * i, SOURCE[1 + 2 * i : 2 + 2 * i])
    with pytest.raises(OverflowError):
        b.insert(1 + 2 * MAX_GAPS, b"x")
    assert len(b.layout()[1]) == MAX_GAPS
    b.insert(1, SOURCE[1:2])  # a duplicate needs no room
    b.insert(2, SOURCE[2:3])  # and filling a gap makes some
    assert len(b.layout()[1]) == MAX_GAPS - 1
    b.insert(0, SOURCE[: 2 * MAX_GAPS])
    assert b.layout()[1] == []
    got = b"".join(iter(lambda: b.take(1 << 20), b""))
    assert got == SOURCE[: 2 * MAX_GAPS]


def test_gaps_behind_enough_data_have_no_limit() -> None:
    b = ReceiveBufferModel()
    for i in range(3 * MAX_GAPS):
        b.insert((2 * i + 1) * 512, bytes(512))
    b.insert(8 * MAX_GAPS * 512, b"x")
    assert len(b.layout()[1]) == 3 * MAX_GAPS + 1
    with pytest.raises(OverflowError):
        b.insert(9 * MAX_GAPS * 512, b"x")
    for i in range(3 * MAX_GAPS):
        b.insert(2 * i * 512, bytes(512))
    assert b.tail == 6 * MAX_GAPS * 512 and len(b.layout()[1]) == 1


def test_single_byte_pieces_hold_little_memory() -> None:
    b = ReceiveBufferModel()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for i in range(MAX_GAPS):
            b.insert(10 + 3 * i, b"x")
        for i in range(MAX_GAPS):  # growing each by one byte must not reserve kilobytes
            b.insert(11 + 3 * i, b"y")
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < MAX_GAPS * 100


def test_contiguous_out_of_order_data_is_merged() -> None:
    b = ReceiveBufferModel()
    for at in range(1400, 1400 * 100, 1400):
        b.insert(at, SOURCE[at : at + 1400])
    assert len(b.layout()[1]) <= 1400 * 99 // (16384 - 1400) + 1
    b = ReceiveBufferModel()
    for at in range(10_000, 10, -10):  # backwards
        b.insert(at, SOURCE[at : at + 10])
    assert len(b.layout()[1]) <= 10
    b.insert(0, SOURCE[:20])
    assert b.tail == 10_010


def test_insert_rejects_impossible_sizes() -> None:
    b = ReceiveBufferModel()
    with pytest.raises(MemoryError):
        b.insert((1 << 64) - 2, b"abc")
    with pytest.raises(MemoryError):
        b.insert(1 << 62, b"a")
    b.insert((1 << 62) - 1, b"a")
    b.insert(1 << 62, b"")
    assert (b.tail, b.layout()[1]) == (0, [((1 << 62) - 1, 1, True)])


def test_discard_keeps_offsets_and_drops_memory() -> None:
    b = ReceiveBufferModel()
    b.insert(0, SOURCE[:5000])
    b.insert(7000, SOURCE[7000:8000])
    assert len(b.take(100)) == 100
    b.discard()
    assert (b.read, b.tail, b.owns_memory) == (100, 5000, False)
    assert b.take(10) == b"" and b.read_into(bytearray(10)) == 0
    b.insert(4000, SOURCE[4000:5500])  # arrives later all the same
    assert b.take(1000) == SOURCE[5000:5500]
    assert b.read == b.tail == 5500


# ---- memory ---------------------------------------------------------------------
def test_idle_buffers_own_no_memory() -> None:
    s, r = SendBufferModel(), ReceiveBufferModel()
    assert not s.owns_memory and not r.owns_memory
    s.write_copy(b"abc")
    assert s.owns_memory
    assert s.send_all(100, True) == 1
    assert not s.owns_memory and (s.acked, s.end) == (3, 3)
    s.write_copy(b"def")
    assert s.copy(3, 3) == b"def"
    for how in ("take", "into"):
        r.insert(r.tail, b"abc")
        assert r.owns_memory
        assert r.take(3) == b"abc" if how == "take" else r.read_into(bytearray(3)) == 3
        assert not r.owns_memory


def busy() -> None:
    s, r = SendBufferModel(), ReceiveBufferModel()
    for i in range(50):
        s.write_copy(SOURCE[: 100 * i])
        s.write_ref(SOURCE[: 10 * i])
        s.poll(500)
        s.ack(1000 * i + 10, 500)
        s.lose(700 * i, 600)
        r.insert(3000 * i, SOURCE[3000 * i : 3000 * i + 1500 + 40 * i])
        r.take(700)
    r.take_unordered(1000)
    r.take_unordered(5)
    r.insert(0, SOURCE[:20_000])
    r.take(1 << 20)


def test_buffers_leak_nothing() -> None:
    busy()
    gc.collect()
    tracemalloc.start()
    try:
        busy()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            busy()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 2000


def failing(start: int, step: object) -> bool:
    """Run `step` with every allocation from the `start`-th on failing; whether it did."""
    testcapi = pytest.importorskip("_testcapi", reason="CPython built without its test modules")
    testcapi.set_nomemory(start, 0)
    try:
        step()  # type: ignore[operator]
    except MemoryError:
        return True
    finally:
        testcapi.remove_mem_hooks()
    return False


@pytest.mark.parametrize("size", [10, 3000, 20_000])
def test_send_buffer_out_of_memory_accepts_nothing(size: int) -> None:
    failures = 0
    for start in range(12):
        b = SendBufferModel()
        for i in range(4):  # the ring is full, the tail segment not
            b.write_ref(SOURCE[i * 100 : i * 100 + 100])
        data = SOURCE[400 : 400 + size]
        if failing(start, lambda b=b, data=data: b.write_copy(data)):
            failures += 1
            assert b.end == 400
            b.write_copy(data)
        assert b.copy(0, 400 + size) == SOURCE[: 400 + size]
    assert failures


@pytest.mark.parametrize("offset", [0, 500, 3000, 40_000])
@pytest.mark.parametrize("unordered", [False, True])
def test_receive_buffer_out_of_memory_stays_consistent(offset: int, unordered: bool) -> None:
    failures = 0
    for start in range(14):
        b = ReceiveBufferModel()
        for at in range(4000, 36_000, 4000):
            b.insert(at, SOURCE[at : at + 3000])
        out = []
        if unordered:
            out.append(b.take_unordered(1000))
        data = SOURCE[offset : offset + 9000]
        failures += failing(start, lambda b=b, data=data: b.insert(offset, data))
        check_pieces(b)
        out.append(None)  # room first: the test itself must not need memory
        failures += failing(start, lambda b=b, out=out: out.__setitem__(-1, b.take_unordered(100)))
        if out[-1] is None:
            out.pop()
        check_pieces(b)
        b.insert(0, SOURCE[:50_000])
        while got := b.take_unordered(1 << 20):
            out.append(got)
        assert b.read == b.tail == 50_000
        restored = bytearray(50_000)
        covered = 0
        for at, piece in out:
            restored[at : at + len(piece)] = piece
            covered += len(piece)
        assert covered == 50_000 and restored == SOURCE[:50_000]
    assert failures


def test_one_gap_is_one_gap_whatever_waits_behind_it() -> None:
    """64 MiB and more may wait for one lost packet where windows are large."""
    buffer, packet = ReceiveBufferModel(), bytes(1200)
    n = (72 << 20) // 1200
    for k in range(1, n):
        buffer.insert(k * 1200, packet)
        if k % 9973 == 0:
            assert buffer.gaps == 1
    buffer.insert(0, packet)
    assert buffer.gaps == 0
    assert buffer.readable == n * 1200


FAULTS = """
import resource
from iroh_fast.quic._buffers import ReceiveBufferModel

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def turn():
    buffer.insert_packets(block, 1400)
    kept = []
    while chunk := buffer.take(len(block)):
        kept.append(chunk)

block, buffer = bytes(1 << 20), ReceiveBufferModel()
for _ in range(10):
    turn()
before = faults()
for _ in range(50):
    turn()
print(faults() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="about the allocator of glibc, which a sanitizer replaces",
)
def test_memory_of_chunks_is_used_again() -> None:
    """Else the kernel takes 256 pages back for each MiB that is read, and clears them again."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 50 * 16


@examples
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(1, 8), st.sampled_from("iiiitu")), max_size=80
    )
)
def test_gaps_are_counted(ops: list[tuple[int, int, str]]) -> None:
    buffer = ReceiveBufferModel()
    for start, n, what in ops:
        if what == "i":
            buffer.insert(start, SOURCE[start : start + n])
        elif what == "t":
            buffer.take(n)
        else:
            buffer.take_unordered(n)
        buffer.layout()  # raises when the count is wrong
    buffer.discard()
    assert buffer.gaps == 0
