"""Streams, flow control and datagrams of a simulated pair."""

from __future__ import annotations

import random

import pytest
from sim import MS, SECOND, Transfer, calm, frames, read_all, transfer

from iroh_fast.errors import (
    DatagramDisabled,
    DatagramTooLarge,
    DatagramUnsupported,
    StreamClosed,
    StreamReset,
    StreamStopped,
)

covers = pytest.mark.covers


@covers("noq:finish_stream_simple")
@pytest.mark.parametrize("bidi", [True, False])
def test_finished_stream_arrives_whole_and_is_acknowledged(make_pair, bidi):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(bidi)
    assert stream.write(b"hello") == 5
    stream.finish()
    assert stream.send_state == "finished"
    p.drive()
    assert stream.send_state == "acked" and stream.fin_acked
    r = s.accept_stream(bidi)
    assert r.id == stream.id
    assert r.read() == b"hello"
    assert r.read() == b""
    assert r.recv_finished
    assert s.accept_stream(bidi) is None
    with pytest.raises(StreamClosed):
        stream.write(b"more")
    with pytest.raises(StreamClosed):
        stream.finish()
    assert frames(c)["stream"] == 1


def test_empty_stream_with_fin_arrives(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.finish()
    p.drive()
    assert s.accept_stream(False).read() == b""
    assert stream.send_state == "acked"


def test_fin_after_all_data_were_acknowledged(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"data")
    p.drive()
    r = s.accept_stream(False)
    assert r.read() == b"data" and r.read() is None
    stream.finish()
    p.drive()
    assert r.read() == b""
    assert stream.send_state == "acked"


@covers("noq:reset_stream")
def test_reset_discards_and_reports_the_code_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"hello")
    p.drive()
    stream.reset(42)
    p.drive()
    r = s.accept_stream(False)
    assert r.reset_code == 42
    with pytest.raises(StreamReset) as e:
        r.read()
    assert e.value.code == 42
    with pytest.raises(StreamClosed):
        r.read()
    with pytest.raises(StreamClosed):
        stream.write(b"x")
    assert frames(c)["reset_stream"] == 1


def test_reset_before_anything_was_sent_opens_the_stream(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"never")
    stream.reset(1)
    p.drive()
    with pytest.raises(StreamReset):
        s.accept_stream(False).read()


@covers("noq:stop_stream")
def test_stop_reaches_the_writer(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"hello")
    p.drive()
    r = s.accept_stream(False)
    r.stop(7)
    p.drive()
    assert stream.stop_code == 7
    assert stream.send_state == "stopped"
    with pytest.raises(StreamStopped) as e:
        stream.write(b"more")
    assert e.value.code == 7
    stream.finish()  # harmless: becomes a reset with the peer's code
    p.drive()
    assert stream.send_state == "acked"
    assert frames(c)["reset_stream"] == 1
    assert frames(s)["stop_sending"] == 1


@covers("noq:stop_opens_bidi")
def test_stop_of_an_unused_bidi_stream_opens_it(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(True)
    stream.stop(5)
    p.drive()
    r = s.accept_stream(True)
    assert r is not None
    with pytest.raises(StreamStopped):
        r.write(b"x")


@covers("noq:implicit_open")
def test_a_higher_stream_opens_the_lower_ones(make_pair):
    p = make_pair()
    c, s = p.connect()
    first, second = c.open_stream(False), c.open_stream(False)
    second.write(b"2")
    p.drive()
    assert s.accept_stream(False).id == first.id
    assert s.accept_stream(False).id == second.id
    assert s.accept_stream(False) is None


@covers("noq:stop_before_finish")
def test_stop_before_finish_frees_the_stream(make_pair):
    p = make_pair(transport=calm(max_concurrent_uni_streams=1))
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"x")
    p.drive()
    s.accept_stream(False).stop(0)
    p.drive()
    stream.finish()
    p.drive()
    assert c.open_stream(False) is not None


@covers("noq:stop_during_finish")
def test_stop_that_crosses_the_fin(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"x")
    p.drive()
    r = s.accept_stream(False)
    stream.finish()
    r.stop(3)
    p.drive()
    assert stream.send_state in ("acked", "stopped", "finished")
    for _ in range(150):  # and the stream's credit returns
        t = c.open_stream(False)
        assert t is not None
        t.finish()
        p.drive()
        r = s.accept_stream(False)
        while r is not None:
            read_all(r)
            r = s.accept_stream(False)
        p.drive()


@covers("noq:finish_acked")
def test_finish_without_data_after_ack(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"abc")
    p.drive()
    stream.finish()
    p.drive()
    assert stream.fin_acked
    r = s.accept_stream(False)
    assert read_all(r) == b"abc"


@covers("noq:finish_retransmit")
def test_lost_fin_is_sent_again(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"abc")
    stream.finish()
    p.drop(True, count=1)
    p.drive()
    assert stream.send_state == "acked"
    assert read_all(s.accept_stream(False)) == b"abc"
    assert frames(c)["stream"] == 2
    assert c.stats()["lost_packets"] == 1


@covers("noq:finish_stream_flow_control_reordered")
def test_fin_that_overtakes_a_window_update(make_pair):
    p = make_pair(transport=calm(stream_receive_window=4000))
    c, s = p.connect()
    t = Transfer(p, c, s, bytes(20_000))
    p.to_client.reorder, p.to_client.reorder_by = 0.5, 40 * MS
    p.run_until(t.poll)
    assert len(t.received) == 20_000


@covers("noq:repeated_request_response")
def test_repeated_requests_and_responses(make_pair):
    p = make_pair(transport=calm(max_concurrent_bidi_streams=1))
    c, s = p.connect()
    for i in range(30):
        q = c.open_stream(True)
        assert q is not None
        q.write(b"request %d" % i)
        q.finish()
        p.drive()
        r = s.accept_stream(True)
        assert read_all(r) == b"request %d" % i
        r.write(b"response %d" % i)
        r.finish()
        p.drive()
        assert read_all(q) == b"response %d" % i
        p.drive()


@covers("noq:stream_id_limit")
def test_streams_beyond_the_limit_wait_for_closed_ones(make_pair):
    p = make_pair(transport=calm(max_concurrent_uni_streams=4))
    c, s = p.connect()
    streams = [c.open_stream(False) for _ in range(4)]
    assert all(x is not None for x in streams)
    assert c.open_stream(False) is None
    for x in streams:
        x.finish()
    p.drive()
    assert c.open_stream(False) is None  # the peer has not looked yet
    for _ in range(4):
        assert read_all(s.accept_stream(False)) == b""
    p.drive()
    assert c.open_stream(False) is not None


@covers("noq:streams_blocked")
@covers("noq:streams_blocked_not_sent_under_limit")
def test_streams_blocked_is_sent_once_and_only_at_the_limit(make_pair):
    p = make_pair(transport=calm(max_concurrent_bidi_streams=3))
    c, s = p.connect()
    for _ in range(3):
        c.open_stream(True).write(b"x")
    p.drive()
    assert "streams_blocked_bidi" not in frames(c)
    assert c.open_stream(True) is None
    assert c.open_stream(True) is None
    p.drive()
    assert frames(c)["streams_blocked_bidi"] == 1
    assert frames(s, "frame_rx")["streams_blocked_bidi"] == 1
    assert "streams_blocked_uni" not in frames(c)


def test_max_concurrent_can_be_raised(make_pair):
    p = make_pair(transport=calm(max_concurrent_bidi_streams=1))
    c, s = p.connect()
    assert c.open_stream(True) is not None
    assert c.open_stream(True) is None
    s.set_max_concurrent(bidi=5)
    p.drive()
    assert [c.open_stream(True) is not None for _ in range(5)] == [True] * 4 + [False]


@covers("noq:stream_flow_control")
def test_stream_window_bounds_what_a_writer_may_queue(make_pair):
    window = 2000
    p = make_pair(transport=calm(stream_receive_window=window))
    c, s = p.connect()
    stream = c.open_stream(False)
    assert stream.write(bytes(3000)) == window
    assert stream.write(b"x") == 0
    p.drive()
    r = s.accept_stream(False)
    assert len(read_all(r)) == window
    p.drive()
    assert stream.write(bytes(3000)) == window
    p.drive()
    assert frames(s)["max_stream_data"] == 1


@covers("noq:conn_flow_control")
def test_connection_window_is_shared_by_all_streams(make_pair):
    p = make_pair(transport=calm(receive_window=3000))
    c, s = p.connect()
    a, b = c.open_stream(False), c.open_stream(False)
    assert a.write(bytes(2000)) == 2000
    assert b.write(bytes(2000)) == 1000
    assert a.write(b"x") == 0
    p.drive()
    first = s.accept_stream(False)
    assert len(read_all(first)) == 2000
    p.drive()
    # The first of the room belongs to who was blocked first.
    assert b.write(bytes(5000)) == 1999
    assert a.write(b"x") == 1
    p.drive()
    assert frames(s)["max_data"] == 1


def test_reset_and_stopped_data_return_connection_credit(make_pair):
    p = make_pair(transport=calm(receive_window=3000))
    c, s = p.connect()
    for i in range(20):
        stream = c.open_stream(False)
        assert stream.write(bytes(2000)) == 2000, i
        p.drive()
        r = s.accept_stream(False)
        if i % 2:
            r.stop(0)
            p.drive()
            stream.reset(0)
            p.drive()
        else:
            stream.reset(0)
            p.drive()
            with pytest.raises(StreamReset):
                read_all(r)
        p.drive()


def test_send_window_bounds_unacknowledged_data(make_pair):
    p = make_pair(transport=calm(send_window=5000))
    c, s = p.connect()
    a, b = c.open_stream(False), c.open_stream(False)
    assert a.write(bytes(4000)) == 4000
    assert b.write(bytes(4000)) == 1000
    p.drive()
    assert b.write(bytes(4000)) == 4000


def test_higher_priority_goes_first(make_pair):
    p = make_pair()
    c, s = p.connect()
    low, high = c.open_stream(False), c.open_stream(False)
    high.priority = 5
    low.write(bytes(300_000))
    high.write(bytes(300_000))
    high.finish()
    readers: list = []
    got = [0, 0]

    def turn() -> bool:
        while (r := s.accept_stream(False)) is not None:
            readers.append(r)
        for r in readers:
            got[r.id == high.id] += len(read_all(r))
        if got[1] < 300_000:
            assert got[0] == 0
        return got == [300_000, 300_000]

    p.run_until(turn)


def test_equal_streams_share_the_connection(make_pair):
    p = make_pair()
    c, s = p.connect()
    streams = [c.open_stream(False) for _ in range(4)]
    for x in streams:
        x.write(bytes(100_000))
    p.run_for(25 * MS)
    got = []
    while (r := s.accept_stream(False)) is not None:
        got.append(len(read_all(r)))
    assert len(got) == 4
    assert max(got) - min(got) <= 3 * 1200


def test_unordered_reader_gets_what_is_there(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"a" * 1000)
    p.drop(True, count=1)
    p.flush()
    p.run_for(MS)
    stream.write(b"b" * 1000)
    p.run_for(7 * MS)
    r = s.accept_stream(False)
    assert r.read() is None
    assert r.read_unordered() == (1000, b"b" * 1000)
    p.drive()
    assert r.read_unordered() == (0, b"a" * 1000)


@pytest.mark.parametrize("seed", range(8))
def test_many_streams_both_ways_over_a_bad_link(make_pair, seed):
    p = make_pair(seed)
    c, s = p.connect()
    for link in (p.to_server, p.to_client):
        link.loss, link.reorder, link.duplicate, link.jitter = 0.05, 0.2, 0.05, 3 * MS
    r = random.Random(seed)
    moves = []
    for i in range(16):
        sender, receiver = (c, s) if i % 2 else (s, c)
        moves.append(Transfer(p, sender, receiver, r.randbytes(r.randrange(60_000)), False))
    # accept order is id order, so each direction's streams find their transfer by position
    p.run_until(lambda: sum(not m.poll() for m in moves) == 0, limit=60 * SECOND)
    for m in moves:
        assert bytes(m.received) == m.data
    p.to_server.loss = p.to_client.loss = 0
    p.drive()
    assert c.path_info(0)["in_flight"] == s.path_info(0)["in_flight"] == 0


@covers("runner:multiplexing")
def test_two_thousand_small_files_on_one_connection(make_pair):
    p = make_pair(transport=calm(max_concurrent_bidi_streams=1000))
    c, s = p.connect()
    started = answered = 0
    open_requests: list = []
    serving: list = []

    def turn() -> bool:
        nonlocal started, answered
        while started < 1999:
            q = c.open_stream(True)
            if q is None:
                break
            q.write(b"GET %d" % started)
            q.finish()
            started += 1
            open_requests.append([q, b""])
        while (r := s.accept_stream(True)) is not None:
            serving.append(r)
        for r in serving[:]:
            if read_all(r) and r.recv_finished:
                r.write(bytes(32))
                r.finish()
                serving.remove(r)
        for entry in open_requests[:]:
            entry[1] += read_all(entry[0])
            if entry[0].recv_finished:
                assert len(entry[1]) == 32
                open_requests.remove(entry)
                answered += 1
        return answered == 1999

    p.run_until(turn, limit=60 * SECOND)


# ---------------------------------------------------------------- datagrams
@covers("noq:datagram_send_recv")
def test_datagram_arrives(make_pair):
    p = make_pair()
    c, s = p.connect()
    assert s.read_datagram() is None
    assert c.send_datagram(b"hello")
    assert c.send_datagram(b"")
    p.drive()
    assert s.read_datagram() == b"hello"
    assert s.read_datagram() == b""
    assert s.read_datagram() is None
    assert frames(c)["datagram"] == 2


@covers("noq:datagram_recv_buffer_overflow")
def test_full_datagram_buffer_drops_the_oldest(make_pair):
    p = make_pair(transport=calm(datagram_receive_buffer_size=2500))
    c, s = p.connect()
    for i in range(4):
        assert c.send_datagram(bytes([i]) * 800)
        p.drive()
    got = []
    while (d := s.read_datagram()) is not None:
        got.append(d[0])
    assert got == [1, 2, 3]


@covers("noq:datagram_unsupported")
def test_datagrams_need_both_sides(make_pair):
    p = make_pair(server_transport=calm(datagram_receive_buffer_size=None))
    c, s = p.connect()
    assert c.max_datagram_size is None and s.max_datagram_size is None
    with pytest.raises(DatagramUnsupported):
        c.send_datagram(b"x")
    with pytest.raises(DatagramDisabled):
        s.send_datagram(b"x")


def test_largest_datagram_fits_and_one_more_byte_does_not(make_pair):
    p = make_pair()
    c, s = p.connect()
    assert c.max_datagram_size == 1162
    c.send_datagram(bytes(1162))
    with pytest.raises(DatagramTooLarge):
        c.send_datagram(bytes(1163))
    p.drive()
    assert s.read_datagram() == bytes(1162)


@covers("noq:datagram_larger_than_send_buffer_is_too_large")
def test_datagram_larger_than_the_send_buffer_is_too_large(make_pair):
    p = make_pair(transport=calm(datagram_send_buffer_size=500))
    c, s = p.connect()
    with pytest.raises(DatagramTooLarge):
        c.send_datagram(bytes(501))
    assert c.send_datagram(bytes(500))


def test_full_send_buffer_blocks_or_drops_the_oldest(make_pair):
    p = make_pair(transport=calm(datagram_send_buffer_size=2000))
    c, s = p.connect()
    assert c.send_datagram(b"1" * 900, False)
    assert c.send_datagram(b"2" * 900, False)
    assert not c.send_datagram(b"3" * 900, False)
    assert c.send_datagram(b"4" * 900, True)
    assert c.datagram_send_buffer_space == 200
    p.drive()
    got = []
    while (d := s.read_datagram()) is not None:
        got.append(d[:1])
    assert got == [b"2", b"4"]


@covers("noq:large_datagram_with_acks")
def test_large_datagrams_and_due_acknowledgements_take_two_packets(make_pair):
    p = make_pair()
    c, s = p.connect()
    # the server owes an acknowledgement while its datagram fills a packet
    for _ in range(2):
        c.ping()
        p.flush_side(p.client)
    while p.flying:
        p.deliver(p.flying.pop(0)[2])
    s.send_datagram(bytes(s.max_datagram_size))
    before = len(p.server.sent), frames(s)["path_acks"]
    p.flush_side(p.server)
    assert len(p.server.sent) - before[0] <= 2
    assert frames(s)["path_acks"] == before[1] + 1
    p.drive()
    assert c.read_datagram() is not None


def test_datagrams_are_not_retransmitted(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.drop(True, count=1)
    c.send_datagram(b"gone")
    p.drive()
    assert s.read_datagram() is None
    assert frames(c)["datagram"] == 1


@covers("noq:datagram_gso")
@covers("noq:gso_truncation")
def test_equal_datagrams_share_a_transmit_and_an_odd_one_ends_it(make_pair):
    p = make_pair()
    c, s = p.connect()
    size = c.max_datagram_size
    for n in (size, size, size, 200, size):
        c.send_datagram(bytes(n))
    turns = []
    while (out := p.client.endpoint.transmit(c, p.now, 10)) is not None:
        turns.append((len(out[4]), out[3]))
    assert turns[0][0] > turns[0][1]
    assert all(total <= 10 * segment for total, segment in turns)
    assert len(turns) <= 3


@covers("noq:stream_gso")
def test_stream_data_leave_in_few_transmits(make_pair):
    p = make_pair()
    c, s = p.connect()
    transfer(p, c, s, bytes(200_000))  # opens the window
    stream = c.open_stream(False)
    stream.write(bytes(20 * 1024))
    before = p.client.transmits
    p.flush_side(p.client)
    assert p.client.transmits - before <= 2


def test_no_segmentation_when_it_is_off(make_pair):
    p = make_pair(transport=calm(enable_segmentation_offload=False))
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(bytes(8000))
    while (out := p.client.endpoint.transmit(c, p.now, 10)) is not None:
        assert len(out[4]) == out[3]
