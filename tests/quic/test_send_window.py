"""The send window: a fixed number of bytes, or what the congestion window makes of it."""

from __future__ import annotations

import pytest
from sim import MS, SECOND, calm

from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._streams import QuicStream

LEAST, FAR, MOST = 1_048_576, 10_000_000, 64 << 20


def send_window(congestion_window: int) -> int:
    """What it is for a congestion window, where no budget and no option limit it."""
    return min(max(LEAST, min(4 * congestion_window, FAR), 2 * congestion_window), MOST)


DATA = bytes(1 << 20)


class Bulk:
    """A writer that never has less than it may write, and a reader that takes everything."""

    def __init__(self, pair, client: QuicConnection, server: QuicConnection) -> None:
        self.pair, self.client, self.server = pair, client, server
        self.stream: QuicStream = client.open_stream(False)
        self.reader: QuicStream | None = None
        self.got = self.most_kept = self.most_window = 0

    @property
    def kept(self) -> int:
        """Bytes accepted that the peer has not read: more than what is not acknowledged."""
        return self.stream.bytes_written - self.got

    def run(self, duration: int) -> None:
        end = self.pair.now + duration
        while self.pair.now < end:
            while self.stream.write(DATA):
                pass
            self.pair.step(end)
            self.reader = self.reader or self.server.accept_stream(False)
            while self.reader and (data := self.reader.read(1 << 20)):
                self.got += len(data)
            window = self.client.path_info(0)["cwnd"]
            self.most_kept = max(self.most_kept, self.kept)
            self.most_window = max(self.most_window, send_window(window))


def bulk(
    make_pair, *, rate: int | None, latency: int, queue: int = 64_000, **options: object
) -> Bulk:
    pair = make_pair(transport=calm(stream_receive_window=64 << 20, **options), latency=latency)
    pair.verbose = False
    client, server = pair.connect()
    pair.to_server.rate, pair.to_server.queue = rate, queue
    return Bulk(pair, client, server)


def test_send_window_of_a_new_connection_is_the_least(make_pair):
    p = make_pair(transport=calm(stream_receive_window=64 << 20))
    c, s = p.connect()
    assert c.open_stream(False).write(bytes(2 * LEAST)) == LEAST


def test_send_window_on_a_slow_path_stays_at_the_least(make_pair):
    transfer = bulk(make_pair, rate=100_000, latency=20 * MS, queue=20_000)
    transfer.run(20 * SECOND)
    # The rate is the link's, although the writer is held back.
    assert transfer.got > 0.9 * 100_000 * 20
    # Acknowledged, but not read yet: what is on its way, and what waits for an acknowledgement.
    assert transfer.most_kept < LEAST + 60_000


def test_send_window_follows_the_congestion_window_up_to_the_most(make_pair):
    transfer = bulk(make_pair, rate=40_000_000, latency=50 * MS, queue=4_000_000)
    transfer.run(6 * SECOND)
    assert transfer.most_kept > 1.5 * FAR
    # What was read and is not acknowledged yet is not kept, what is acknowledged and not read yet is not in the window.
    slack = 40_000_000 // 10
    assert FAR < transfer.most_window < MOST
    assert transfer.most_kept <= transfer.most_window + slack
    assert transfer.got > 0.8 * 40_000_000 * 5


def test_send_window_stays_below_the_most_that_was_asked_for(make_pair):
    transfer = bulk(
        make_pair, rate=20_000_000, latency=50 * MS, queue=4_000_000, max_send_window=3 << 20
    )
    transfer.run(3 * SECOND)
    assert transfer.client.path_info(0)["cwnd"] > 2 << 20
    assert transfer.client.stats()["send_window"] == 3 << 20
    assert transfer.most_kept <= (3 << 20) + 2_000_000


def test_send_window_below_the_least_is_where_it_begins(make_pair):
    p = make_pair(transport=calm(max_send_window=100_000))
    c, s = p.connect()
    assert c.open_stream(False).write(bytes(200_000)) == 100_000


def test_send_window_shrinks_with_the_congestion_window(make_pair):
    transfer = bulk(make_pair, rate=20_000_000, latency=50 * MS, queue=2_000_000)
    transfer.run(3 * SECOND)
    assert transfer.kept > 2 * LEAST
    transfer.pair.to_server.rate, transfer.pair.to_server.queue = 400_000, 20_000
    transfer.run(60 * SECOND)
    assert transfer.client.path_info(0)["cwnd"] < LEAST // 4
    assert transfer.kept < LEAST + 60_000


@pytest.mark.parametrize("window", [60_000, 3 << 20])
def test_send_window_that_was_set_is_fixed(make_pair, window):
    transfer = bulk(make_pair, rate=100_000, latency=20 * MS, queue=20_000, send_window=window)
    assert transfer.stream.write(bytes(window + 1)) == window
    transfer.run(5 * SECOND)
    assert window - 60_000 < transfer.most_kept < window + 60_000


def test_writers_that_wait_are_woken_when_the_window_grows(make_pair):
    """Growth alone makes room: the stream that fills the window is never touched again."""
    p = make_pair(transport=calm(stream_receive_window=64 << 20), latency=20 * MS)
    c, s = p.connect()
    first, second = c.open_stream(False), c.open_stream(False)
    assert first.write(bytes(2 << 20)) == LEAST
    assert second.write(bytes(100_000)) == 0
    c.poll_events()
    p.run_until(
        lambda: any(stream is second for stream, _ in c.poll_events()[1]), limit=10 * SECOND
    )
    assert second.write(bytes(100_000)) > 0
