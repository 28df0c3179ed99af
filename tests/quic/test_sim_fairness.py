"""Who sends, who may write, and who is woken: streams of a connection share it."""

from __future__ import annotations

import pytest
from sim import MS, calm, frames, read_all

from iroh_fast.errors import StreamClosed, StreamReset, StreamStopped

EV_READ, EV_WRITE, EV_STOP = 1, 2, 4


def woken(connection, bit=EV_WRITE):
    """Streams with this event since the last call, in order."""
    return [stream for stream, bits in connection.poll_events()[1] if bits & bit]


def blocked_writers(p, c, n, size=16_384):
    """n streams whose writers found no room, after one that fills the send window."""
    bulk = c.open_stream(False)
    while bulk.write(bytes(65_536)):
        pass
    writers = [c.open_stream(False) for _ in range(n)]
    for stream in writers:
        assert stream.write(bytes(size)) == 0
    c.poll_events()
    return bulk, writers


def test_as_many_writers_are_woken_as_have_room_in_the_order_of_their_coming(make_pair):
    p = make_pair(transport=calm(send_window=200_000))
    c, s = p.connect()
    _, writers = blocked_writers(p, c, 60)
    wakes, rest = 0, list(writers)
    for _ in range(400):
        p.run_for(2 * MS)
        for stream in woken(c):
            if stream not in rest:
                continue
            assert stream is rest.pop(0), "first come, first served"
            wakes += 1
            # What was promised is there, although others wait.
            assert stream.write(bytes(16_384)) == 16_384
        if not rest:
            break
    assert not rest
    assert wakes == len(writers), "nobody was woken in vain"


def test_who_comes_later_does_not_take_the_room_of_those_who_wait(make_pair):
    p = make_pair(transport=calm(send_window=100_000))
    c, s = p.connect()
    _, writers = blocked_writers(p, c, 8, size=25_000)
    while not (first := woken(c)):
        p.run_for(MS)
    assert len(first) < len(writers)
    # While others wait and while room is promised, who comes now stands behind them.
    assert c.open_stream(False).write(b"x") == 0
    for stream in first:
        assert stream.write(bytes(25_000)) == 25_000


@pytest.mark.parametrize("end", ["reset", "finish", "drop", "stop"])
def test_a_woken_writer_that_does_not_write_passes_the_room_on(make_pair, end):
    p = make_pair(transport=calm(send_window=60_000))
    c, s = p.connect()
    _, writers = blocked_writers(p, c, 6, size=15_000)
    p.drive()
    first = woken(c)
    assert 0 < len(first) < 6
    rest = writers[len(first) :]
    for stream in first:
        if end == "reset":
            stream.reset(1)
        elif end == "finish":
            stream.finish()
        elif end == "stop":
            # The peer has not seen the stream yet: make it known, then have it stopped.
            stream.write(b"x")
    if end == "stop":
        p.drive()
        for stream in iter(lambda: s.accept_stream(False), None):
            stream.stop(3)
    del stream, first
    if end == "drop":
        writers.clear()
    p.drive()
    assert rest[0] in woken(c) + [rest[0]] * (rest[0].write(bytes(15_000)) > 0)


def test_the_urgent_stream_finds_room_although_bulk_filled_the_window(make_pair):
    p = make_pair(transport=calm(send_window=400_000))
    c, s = p.connect()
    urgent = c.open_stream(False)
    urgent.priority = 10
    bulk = [c.open_stream(False) for _ in range(4)]
    for stream in bulk:
        while stream.write(bytes(50_000)):
            pass
    assert urgent.write(bytes(20_000)) == 20_000
    # Without anybody above them the others may have it all.
    assert sum(stream.bytes_written for stream in bulk) < 400_000
    order = [stream.id for stream in bulk]
    p.run_for(6 * MS)
    seen = [stream for stream in iter(lambda: s.accept_stream(False), None) if stream.readable]
    assert urgent.id in [stream.id for stream in seen]
    assert order


def test_equal_streams_take_turns_and_higher_ones_come_first(make_pair):
    p = make_pair(transport=calm(send_window=1 << 20))
    c, s = p.connect()
    streams = {}
    for priority in (0, 5, -3, 5, 0, -3):
        stream = c.open_stream(False)
        stream.priority = priority
        assert stream.priority == priority
        stream.write(bytes(8000))
        stream.finish()
        streams[stream.id] = priority
    done = []
    inbound = {}
    while len(done) < len(streams):
        p.run_for(MS // 10)
        for stream in iter(lambda: s.accept_stream(False), None):
            inbound[stream.id] = stream
        for id, stream in inbound.items():
            if id not in done and not stream.recv_finished and stream.recv_size_known:
                read_all(stream)
                if stream.recv_finished:
                    done.append(id)
    assert [streams[id] for id in done] == sorted(streams.values(), reverse=True)


def test_the_priority_of_a_waiting_stream_can_change(make_pair):
    p = make_pair()
    c, s = p.connect()
    low, high = c.open_stream(False), c.open_stream(False)
    for stream in (low, high):
        stream.write(bytes(5000))
    for k in range(50):
        low.priority = k % 7 - 3
        high.priority = 3 - k % 5
    p.drive()
    assert [len(read_all(s.accept_stream(False))) for _ in range(2)] == [5000, 5000]


def test_streams_and_datagrams_share(make_pair):
    p = make_pair(transport=calm(send_window=4 << 20, datagram_send_buffer_size=4 << 20))
    c, s = p.connect()
    p.to_server.rate = 2_000_000
    stream = c.open_stream(False)
    stream.write(bytes(1_000_000))
    size = c.max_datagram_size
    for _ in range(1_000_000 // size):
        assert c.send_datagram(bytes(size), False)
    before = frames(c)
    p.run_for(200 * MS)
    sent = frames(c)
    streams, datagrams = (sent[name] - before[name] for name in ("stream", "datagram"))
    assert streams > 50
    assert datagrams > 50
    assert 0.8 < streams / datagrams < 1.25


def test_stop_sending_is_answered_by_the_transport(make_pair):
    p = make_pair(latency=20 * MS)
    p.to_client.rate = 1_000_000
    c, s = p.connect()
    stream = s.open_stream(False)
    assert stream.write(bytes(1_000_000)) == 1_000_000
    p.run_for(100 * MS)
    r = c.accept_stream(False)
    r.read()
    s.poll_events()
    r.stop(7)
    p.run_until(lambda: frames(s, "frame_rx")["stop_sending"])
    mark = sum(len(d.data) for d in p.server.sent)
    p.drive()
    assert frames(s)["reset_stream"] == 1
    assert sum(len(d.data) for d in p.server.sent) - mark < 5000
    assert woken(s, EV_STOP) == [stream]
    # The application learns of the stop, not of the reset that was sent for it.
    assert stream.send_state == "stopped"
    with pytest.raises(StreamStopped) as caught:
        stream.write(b"x")
    assert caught.value.code == 7
    stream.finish()
    with pytest.raises(StreamClosed):
        stream.write(b"x")
    # And the room is free again.
    assert s.open_stream(False).write(bytes(1_000_000)) == 1_000_000


def test_a_lowered_limit_of_streams_holds_once_enough_have_ended(make_pair):
    p = make_pair(transport=calm(max_concurrent_uni_streams=50))
    c, s = p.connect()
    s.set_max_concurrent(uni=3)
    most = 0
    for _ in range(30):
        opened = []
        while (stream := c.open_stream(False)) is not None:
            stream.write(b"x")
            stream.finish()
            opened.append(stream)
        p.drive()
        held = list(iter(lambda: s.accept_stream(False), None))
        for stream in held:
            read_all(stream)
        p.drive()
        most = len(held)
        assert most, "streams can always be opened again"
    assert most <= 3
    s.set_max_concurrent(uni=20)
    p.drive()
    assert sum(c.open_stream(False) is not None for _ in range(30)) == 20


@pytest.mark.parametrize("end", ["stop", "reset"])
def test_bytes_read_out_of_order_are_given_back_once(make_pair, end):
    p = make_pair(transport=calm(receive_window=20_000))
    c, s = p.connect()
    lost = [True]
    p.filters.append(lambda d: d.to_server and len(d.data) > 1000 and lost.pop() if lost else False)
    stream = c.open_stream(False)
    stream.write(bytes(6000))
    p.run_for(6 * MS)
    r = s.accept_stream(False)
    got = 0
    while (piece := r.read_unordered()) is not None:
        got += len(piece[1])
    assert 0 < got < 6000
    if end == "stop":
        r.stop(0)
        p.drive()
    else:
        stream.reset(1)
        p.drive()
        with pytest.raises(StreamReset):
            while r.read_unordered():
                pass
    p.drive()
    # What the window lets through now is the window, not more.
    stream = c.open_stream(False)
    total = 0
    while taken := stream.write(bytes(5000)):
        total += taken
    # (Limits are told in steps of an eighth.)
    assert 17_500 < total <= 20_000


def test_finished_streams_are_counted_until_acknowledged(make_pair):
    from iroh_fast.quic._connection import WAIT_FINISHED

    p = make_pair()
    c, s = p.connect()
    streams = [c.open_stream(False) for _ in range(3)]
    for stream in streams:
        stream.write(b"x" * 3000)
        stream.finish()
    streams.append(c.open_stream(False))
    streams[-1].write(b"open")
    assert c.unconfirmed_streams == 3
    streams[0].reset(0)
    assert c.unconfirmed_streams == 2
    c.poll_events()
    p.drive()
    assert c.unconfirmed_streams == 0
    assert c.poll_events()[0] >> WAIT_FINISHED & 1


def test_an_empty_buffer_takes_nothing_at_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(True)
    assert stream.readinto(bytearray()) == 0
    assert stream.readinto(bytearray(1)) == -1


def test_a_buffer_that_is_not_copied_stays_pinned_until_acknowledged(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    data = bytearray(b"abcd" * 2000)
    assert stream.write(data, 0, False) == 8000
    with pytest.raises(BufferError):
        data.append(0)
    p.drive()
    data.append(0)
    assert read_all(s.accept_stream(False)) == b"abcd" * 2000
