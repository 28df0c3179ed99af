"""Windows that grow: as fast as the application reads, within limits, and back when they are not needed any more."""

from __future__ import annotations

from typing import Any

import pytest
from sim import MS, SECOND, Pair, calm

from iroh_fast.errors import StreamReset
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._streams import QuicStream

FIRST, MOST = 1_250_000, 32 << 20
# The same, a hundred times slower.
SMALL, LARGE = 12_500, 400_000
FLOW_CONTROL_ERROR = 0x03
DATA = bytes(1 << 20)

small = calm(stream_receive_window=SMALL, max_stream_receive_window=LARGE)


class Flow:
    """One stream of a connection: who writes it has always more, `speed` limits who reads it."""

    def __init__(self, pair: Pair, sender: QuicConnection, receiver: QuicConnection) -> None:
        self.pair, self.receiver = pair, receiver
        self.stream: QuicStream = sender.open_stream(False)
        self.reader: QuicStream | None = None
        self.speed: int | None = None  # bytes per second, None: all there is
        self.began = pair.now
        self.got = self.most_unread = 0
        self.windows: list[int] = []

    @property
    def window(self) -> int:
        return 0 if self.reader is None else self.reader.receive_window

    def work(self) -> None:
        while self.stream.send_state == "ready" and self.stream.write(DATA):
            pass
        self.reader = self.reader or self.receiver.accept_stream(False)
        if self.reader is None:
            return
        self.most_unread = max(self.most_unread, self.reader.readable)
        if self.windows[-1:] != [self.window]:
            self.windows.append(self.window)
        while (room := self.allowance()) > 0 and (data := self.reader.read(room)):
            self.got += len(data)

    def allowance(self) -> int:
        if self.speed is None:
            return 1 << 20
        return min(1 << 20, self.speed * (self.pair.now - self.began) // SECOND - self.got)


def run(duration: int, *flows: Flow, tick: int = 10 * MS) -> None:
    """Let time pass while the flows work, at least once in a `tick`."""
    pair = flows[0].pair
    end = pair.now + duration
    while pair.now < end:
        for flow in flows:
            flow.work()
        pair.step(min(end, pair.now + tick))


def link(
    make_pair: Any, *, rate: int, latency: int, queue: int | None = None, **options: Any
) -> Pair:
    """A pair on a link without losses, with a buffer of ten times bandwidth and round trip."""
    pair = make_pair(latency=latency, **options)
    pair.verbose = False
    pair.to_server.rate = pair.to_client.rate = rate
    pair.to_server.queue = pair.to_client.queue = queue or 20 * rate * latency // SECOND
    return pair


def used(pair: Pair) -> tuple[int, int]:
    return pair.client.endpoint.window_budget_used, pair.server.endpoint.window_budget_used


# ---------------------------------------------------------------- as fast as the link
@pytest.mark.parametrize("latency", [50, 100])
def test_one_stream_fills_400_megabits_across_a_continent(make_pair, latency):
    rate = 50_000_000
    p = link(make_pair, rate=rate, latency=latency * MS, transport=calm())
    flow = Flow(p, *p.connect())
    run(2 * SECOND if latency == 50 else 3 * SECOND, flow)
    before = flow.got
    run(SECOND, flow)
    assert flow.got - before > 0.95 * rate
    # The window of the first second would have been 1,250,000 bytes in each round trip.
    assert flow.got - before > 3 * FIRST * SECOND // (2 * latency * MS)
    assert 2 * rate * latency * 2 * MS // SECOND <= flow.window <= MOST


def test_window_doubles_from_where_it_begins_to_its_limit(make_pair):
    p = link(make_pair, rate=4_000_000, latency=50 * MS, transport=small)
    flow = Flow(p, *p.connect())
    run(5 * SECOND, flow)
    assert flow.windows == [SMALL << k for k in range(6)]
    assert flow.window == LARGE
    assert used(p)[1] == LARGE - SMALL


def test_window_is_between_two_and_four_times_what_arrives_in_a_round_trip(make_pair):
    rate, latency = 1_000_000, 50 * MS
    p = link(make_pair, rate=rate, latency=latency, queue=100_000, transport=small)
    flow = Flow(p, *p.connect())
    run(8 * SECOND, flow)
    in_one = 2 * rate * latency // SECOND
    # The shortest round trip counts at most twice: half of the queue's delay may be in it.
    assert 2 * in_one <= flow.window <= 4 * in_one


def test_window_that_was_set_is_fixed(make_pair):
    p = link(
        make_pair, rate=4_000_000, latency=50 * MS, transport=calm(stream_receive_window=50_000)
    )
    flow = Flow(p, *p.connect())
    run(3 * SECOND, flow)
    assert flow.windows == [50_000]
    assert flow.got <= 50_000 * 31
    assert used(p)[1] == 0


def test_window_smaller_than_the_first_is_a_limit_from_the_beginning(make_pair):
    p = make_pair(transport=calm(max_stream_receive_window=50_000))
    c, s = p.connect()
    assert c.open_stream(False).write(DATA) == 50_000


# ---------------------------------------------------------------- readers that are slow
def test_slow_reader_keeps_the_first_window(make_pair):
    p = link(make_pair, rate=4_000_000, latency=10 * MS, transport=small)
    flow = Flow(p, *p.connect())
    flow.speed = 200_000  # a third of a window in each round trip
    run(10 * SECOND, flow)
    assert flow.got > 1_900_000
    assert flow.windows == [SMALL]
    assert flow.most_unread <= SMALL
    assert used(p)[1] == 0


def test_reader_that_stops_keeps_what_it_had(make_pair):
    p = link(make_pair, rate=4_000_000, latency=50 * MS, transport=small)
    flow = Flow(p, *p.connect())
    while flow.window <= SMALL:
        run(20 * MS, flow)
    window = flow.window
    assert SMALL < window < LARGE
    flow.speed = 0
    run(5 * SECOND, flow)
    assert flow.window == window
    assert flow.reader.readable <= window
    # It goes on where it was, and then grows again.
    flow.speed = None
    run(5 * SECOND, flow)
    assert flow.window == LARGE


def test_peer_that_holds_acknowledgements_back_makes_no_slow_reader_fast(make_pair):
    """It can feign a long way: two seconds are the most that is believed."""
    p = link(make_pair, rate=4_000_000, latency=10 * MS, transport=small)
    p.to_client.latency = 10 * SECOND
    p.to_server.latency = 10 * SECOND
    transport = calm(
        stream_receive_window=SMALL,
        max_stream_receive_window=LARGE,
        initial_rtt=20.0,
        max_idle_timeout=None,
    )
    p.client.transport = p.server.transport = transport
    c, s = p.connect()
    assert s.path_rtt(0) > 10
    flow = Flow(p, c, s)
    flow.speed = SMALL // 10
    flow.began += 10 * SECOND  # what it may read is not saved up before anything has come
    run(200 * SECOND, flow, tick=200 * MS)
    assert flow.windows == [SMALL]


def test_windows_of_many_streams_that_nobody_reads_are_the_first_ones(hostile):
    p, victim, peer = hostile(transport=small)
    part = 1000
    for offset in range(0, SMALL, part):
        for id in range(2, 402, 4):
            n = min(part, SMALL - offset)
            peer.send(
                bytes([0x0E]) + varint(id) + varint(offset) + varint(n) + bytes(n), flush=False
            )
    p.run_for(5 * SECOND)
    assert victim.close_reason is None
    streams = list(iter(lambda: victim.accept_stream(False), None))
    assert [stream.readable for stream in streams] == [SMALL] * 100
    assert p.server.endpoint.window_budget_used == 0
    assert victim.stats()["window_growth"] == 0
    peer.send(bytes([0x0E]) + varint(2) + varint(SMALL) + b"\1x")
    assert victim.close_reason is not None
    assert victim.close_reason.code == FLOW_CONTROL_ERROR


def varint(value: int) -> bytes:
    size = next(n for n in (1, 2, 4, 8) if value < 1 << (8 * n - 2))
    return (value | (size.bit_length() - 1) << (8 * size - 2)).to_bytes(size, "big")


# ---------------------------------------------------------------- limits of several streams and connections
def test_windows_of_a_connection_grow_within_its_limit(make_pair):
    limit = 500_000
    transport = calm(
        stream_receive_window=SMALL,
        max_stream_receive_window=LARGE,
        receive_window_growth=limit,
    )
    p = link(make_pair, rate=40_000_000, latency=50 * MS, transport=transport)
    c, s = p.connect()
    flows = [Flow(p, c, s) for _ in range(4)]
    run(3 * SECOND, *flows)
    grown = sum(flow.window - SMALL for flow in flows)
    assert grown == s.stats()["window_growth"] == used(p)[1]
    assert 0.8 * limit < grown <= limit
    # Nobody is below where streams begin, and a stream that comes now begins there too.
    late = Flow(p, c, s)
    run(SECOND, *flows, late)
    assert late.windows[0] == SMALL
    assert late.got > 5 * SMALL


def test_connections_share_the_budget_and_later_ones_find_some(make_pair):
    budget = 1_200_000
    p = link(
        make_pair,
        rate=40_000_000,
        latency=50 * MS,
        transport=small,
        server_options={"window_budget": budget},
    )
    flows: list[Flow] = []
    taken = []
    for _ in range(6):
        flows.append(Flow(p, *p.connect()))
        run(2 * SECOND, *flows)
        taken.append(flows[-1].window - SMALL)
        assert flows[-1].windows[0] == SMALL
        assert used(p)[1] == sum(flow.window - SMALL for flow in flows) <= budget
    # Nobody has more than was left for the next one, less what is not worth a larger window.
    assert taken[0] == LARGE - SMALL
    assert all(flow.got > 15 * SMALL for flow in flows)
    assert taken[1] > 0
    assert p.server.endpoint.window_budget_refused > 0
    # Who ends makes room for others.
    before = flows[-1].window
    for flow in flows[:3]:
        flow.stream.reset(0)
    rest = flows[3:]
    run(3 * SECOND, *rest)
    assert rest[-1].window > before
    assert used(p)[1] == sum(flow.window - SMALL for flow in rest)


def test_without_budget_everything_works_with_the_first_windows(make_pair):
    options = {"window_budget": 0}
    p = link(
        make_pair,
        rate=4_000_000,
        latency=50 * MS,
        transport=calm(),
        client_options=options,
        server_options=options,
    )
    c, s = p.connect()
    flow = Flow(p, c, s)
    run(4 * SECOND, flow)
    assert flow.windows == [FIRST]
    assert c.stats()["send_window"] == 1 << 20
    assert flow.got > 0.9 * 4_000_000 * 3
    assert used(p) == (0, 0)


def test_budget_that_is_lowered_stops_growth_and_takes_nothing_away(make_pair):
    p = link(make_pair, rate=4_000_000, latency=50 * MS, transport=small)
    flow = Flow(p, *p.connect())
    while flow.window <= SMALL:
        run(20 * MS, flow)
    window = flow.window
    assert SMALL < window < LARGE
    p.server.endpoint.window_budget = 1000
    assert p.server.endpoint.window_budget == 1000
    run(2 * SECOND, flow)
    assert flow.window == window
    p.server.endpoint.window_budget = 64 << 20
    run(2 * SECOND, flow)
    assert flow.window == LARGE


# ---------------------------------------------------------------- given back
def grown(make_pair: Any, **options: Any) -> tuple[Pair, QuicConnection, QuicConnection, Flow]:
    p = link(make_pair, rate=4_000_000, latency=50 * MS, transport=small, **options)
    c, s = p.connect()
    flow = Flow(p, c, s)
    run(3 * SECOND, flow)
    assert used(p)[1] == LARGE - SMALL
    return p, c, s, flow


@pytest.mark.parametrize("how", ["finish", "reset", "stop", "drop"])
def test_budget_comes_back_when_a_stream_ends(make_pair, how):
    p, c, s, flow = grown(make_pair)
    assert flow.reader is not None
    if how == "finish":
        flow.stream.finish()
    elif how == "reset":
        flow.stream.reset(7)
    elif how == "stop":
        flow.reader.stop(7)
        flow.stream.reset(7)
    else:
        flow.reader.drop_recv()
        flow.reader = None
    if how in ("finish", "reset"):
        try:
            run(2 * SECOND, flow)
        except StreamReset:
            pass
    assert used(p)[1] == 0
    assert s.stats()["window_growth"] == 0
    p.drive()
    # What was sent is acknowledged: nothing is kept.
    assert used(p) == (0, 0)


def test_finished_stream_counts_until_it_was_read(make_pair):
    p, c, s, flow = grown(make_pair)
    flow.speed = 0
    run(2 * SECOND, flow)
    flow.stream.finish()
    p.drive()
    assert used(p)[1] == LARGE - SMALL
    assert flow.reader is not None
    assert flow.reader.readable > SMALL
    while flow.reader.read(1 << 20):
        pass
    p.drive()
    while flow.reader.read(1 << 20):
        pass
    assert used(p) == (0, 0)


@pytest.mark.parametrize("unread", [False, True])
def test_budget_comes_back_when_the_connection_ends(make_pair, unread):
    p, c, s, flow = grown(make_pair)
    assert flow.reader is not None
    if unread:
        flow.speed = 0
        run(2 * SECOND, flow)
    else:
        while p.flying or c.stats()["send_buffered"]:
            p.step()
            while flow.reader.read(1 << 20):
                pass
    assert used(p)[1] == LARGE - SMALL
    c.close(0, b"")
    p.drain()
    assert used(p)[0] == 0
    if unread:
        # What came is still there to be read, and counts as long as it is.
        assert used(p)[1] == LARGE - SMALL
        while flow.reader.readable:
            flow.reader.read(1 << 20)
    assert used(p)[1] == 0
    assert s.stats()["window_growth"] == 0


def test_budget_comes_back_when_nobody_has_the_connection_any_more(make_pair):
    p, c, s, flow = grown(make_pair)
    flow.speed = 0
    run(2 * SECOND, flow)
    c.close(0, b"")
    p.drain()
    p.server.accepted.clear()
    assert used(p)[1] == LARGE - SMALL
    del s, flow
    assert used(p)[1] == 0


def test_streams_that_grow_and_are_reset_leave_nothing_behind(make_pair):
    p = link(make_pair, rate=4_000_000, latency=20 * MS, transport=small)
    c, s = p.connect()
    for _ in range(30):
        flow = Flow(p, c, s)
        run(300 * MS, flow)
        assert flow.window > SMALL
        flow.stream.reset(0)
        p.run_for(100 * MS)
        assert used(p)[1] == 0
    assert s.close_reason is None


# ---------------------------------------------------------------- sending
def test_peer_that_acknowledges_nothing_keeps_the_least_send_window(hostile):
    p, victim, peer = hostile(transport=calm(stream_receive_window=64 << 20))
    kept = 0
    for _ in range(4):
        stream = victim.open_stream(False)
        while n := stream.write(DATA):
            kept += n
    p.run_for(20 * SECOND)
    assert kept == victim.stats()["send_buffered"] == 1 << 20
    assert victim.stats()["send_window"] == 1 << 20
    assert p.server.endpoint.window_budget_used == 0


def test_what_a_peer_that_falls_silent_makes_us_keep_counts_until_it_is_gone(make_pair):
    p = link(make_pair, rate=20_000_000, latency=50 * MS, transport=calm(), queue=4_000_000)
    c, s = p.connect()
    flow = Flow(p, c, s)
    run(3 * SECOND, flow)
    kept = c.stats()["send_buffered"]
    assert kept > 4 << 20
    # From now on only a little at a time gets through: the congestion window falls, what is kept stays.
    p.to_server.rate, p.to_server.queue = 5_000, 3_000
    run(10 * SECOND, flow)
    stats = c.stats()
    assert stats["send_window"] < kept // 2
    assert stats["send_buffered"] > stats["send_window"]
    assert stats["window_growth"] == stats["send_buffered"] - (1 << 20)
    assert used(p)[0] == stats["window_growth"]
    c.close(0, b"")
    p.to_server.rate = None
    assert used(p)[0] == 0


def test_send_windows_of_connections_share_the_budget(make_pair):
    budget = 6 << 20
    p = link(
        make_pair,
        rate=100_000_000,
        latency=50 * MS,
        transport=calm(),
        queue=20_000_000,
        client_options={"window_budget": budget},
    )
    flows = []
    for _ in range(3):
        flows.append(Flow(p, *p.connect()))
        run(SECOND, *flows)
    stats = [flow.stream.connection.stats() for flow in flows]
    kept = [each["send_buffered"] - (1 << 20) for each in stats]
    assert sum(kept) == used(p)[0] <= budget
    assert max(kept) <= budget // 2
    assert min(kept) > budget // 16
    assert p.client.endpoint.window_budget_refused > 0
