"""Numbers of loss recovery with a peer that also acknowledges packets that ask for nothing, as real ones do.

RFC 9002 §5.1 (which packet an RTT sample is taken from), §7.6.2 (persistent congestion), §6.1 (reordering).
"""

from __future__ import annotations

import pytest
from impostor import Impostor, vi
from sim import CALM, MS, SECOND, Transfer, calm, derive, transfer

PING = b"\x01"
PATH_ACK = 0x3E


def hijacked(make_pair, **options):
    """A server whose client was replaced by an impostor; both."""
    lines = []
    pair = make_pair(client_options={"keylog": lines.append}, **options)
    _, server = pair.connect()
    return pair, server, Impostor(pair, lines)


def acknowledge(impostor, numbers):
    """Send a PATH_ACK of these packets of the victim, without delay."""
    ranges = []
    for n in sorted(numbers, reverse=True):
        if ranges and ranges[-1][0] == n + 1:
            ranges[-1][0] = n
        else:
            ranges.append([n, n])
    (low, high), rest = ranges[0], ranges[1:]
    frame = vi(PATH_ACK) + vi(0) + vi(high) + vi(0) + vi(len(rest)) + vi(high - low)
    for start, end in rest:
        frame += vi(low - end - 2) + vi(end - start)
        low = start
    impostor.send(frame)


def sent_by(impostor, mark=0):
    """Numbers of the packets that the victim sent."""
    return [impostor.number(d) for d in impostor.received[mark:]]


def test_round_trip_is_measured_with_the_packet_that_was_acknowledged(make_pair):
    """Data, 30 ms later an acknowledgement of ours, and 2 ms later the peer acknowledges both at once."""
    pair, server, peer = hijacked(make_pair)
    stream = server.open_stream(False)
    for _ in range(60):
        mark = len(peer.received)
        stream.write(b"x")
        pair.flush()
        pair.run_for(30 * MS)
        peer.send(PING)
        peer.send(PING)
        pair.run_for(2 * MS)
        acknowledge(peer, sent_by(peer, mark))
        pair.run_for(100 * MS)
    assert server.close_reason is None
    assert 1.9e-3 < server.path_info(0)["rtt"] < 4e-3


def test_acknowledgement_of_nothing_that_asks_for_one_is_no_sample(make_pair):
    """A peer may acknowledge our acknowledgements whenever it likes: that says nothing about the path."""
    pair, server, peer = hijacked(make_pair)
    before = server.path_info(0)["rtt"]
    for _ in range(20):
        mark = len(peer.received)
        peer.send(PING)
        peer.send(PING)
        pair.run_for(500 * MS)
        acknowledge(peer, sent_by(peer, mark))
    assert server.close_reason is None
    assert server.path_info(0)["rtt"] == before


def silent_period(pair, server, peer):
    """Data that nobody acknowledges for 4 s, with acknowledgements of the server in between: (data, all) numbers."""
    server.open_stream(False).write(bytes(20_000))
    pair.flush()
    data = sent_by(peer)
    mark = len(peer.received)
    for _ in range(8):
        peer.send(PING)
        peer.send(PING)
        pair.run_for(500 * MS)
    return data, sent_by(peer, mark)


def test_persistent_congestion_with_other_packets_between_the_lost_ones(make_pair):
    pair, server, peer = hijacked(make_pair)
    data, later = silent_period(pair, server, peer)
    assert server.close_reason is None
    before = server.path_info(0)["cwnd"]
    acknowledge(peer, [later[-1]])
    pair.run_for(1 * MS)
    assert before > 2 * 1200 == server.path_info(0)["cwnd"]


def test_no_persistent_congestion_when_something_between_arrived(make_pair):
    pair, server, peer = hijacked(make_pair)
    data, later = silent_period(pair, server, peer)
    # every second packet of the whole time
    acknowledge(peer, later[-1::-2])
    pair.run_for(1 * MS)
    assert server.close_reason is None
    assert server.path_info(0)["cwnd"] > 2 * 1200


def late_packets(make_pair, count, late, controller="cubic", **options):
    """The first `count` packets of a flight arrive `late` ns behind the others. (pair, client, its window before)."""
    pair = make_pair(
        latency=10 * MS,
        transport=calm(congestion_controller=controller, stream_receive_window=1 << 24, **options),
    )
    client, server = pair.connect()
    transfer(pair, client, server, bytes(3_000_000))
    window = client.path_info(0)["cwnd"]
    t = Transfer(pair, client, server, bytes(2_000_000))
    t.poll()
    while len(pair.flying) < 2 * count:
        pair.step(pair.now + 1 * MS)
        t.poll()
        pair.flush_side(pair.client)
    flying = sorted(pair.flying)
    pair.flying[:] = sorted(
        [(at + late, order, d) for at, order, d in flying[:count]] + flying[count:]
    )
    pair.run_until(t.poll)
    return pair, client, window


@pytest.mark.parametrize("controller", ["cubic", "newreno"])
@pytest.mark.parametrize("count", [2, 40, 400])
def test_any_number_of_spurious_losses_is_undone(make_pair, controller, count):
    _, client, window = late_packets(make_pair, count, 2 * MS, controller)
    stats = client.path_info(0)["stats"]
    assert stats["lost_packets"] > 0
    assert stats["congestion_events"] == stats["spurious_congestion_events"] == 1
    assert client.path_info(0)["cwnd"] >= window


def test_losses_of_one_recovery_period_are_one_event(make_pair):
    pair = make_pair(latency=10 * MS)
    client, server = pair.connect()
    transfer(pair, client, server, bytes(300_000))
    t = Transfer(pair, client, server, bytes(300_000))
    pair.drop(True, 3, 9, 15)
    pair.run_until(t.poll)
    stats = client.path_info(0)["stats"]
    assert (stats["lost_packets"], stats["congestion_events"]) == (3, 1)


def goodput(make_pair, reorder):
    """Bytes per second over a path of 100 MB/s on which so many of the packets are 5 ms late, and the losses declared."""
    pair = make_pair(
        1,
        transport=derive(CALM, stream_receive_window=1 << 24, send_window=1 << 25),
        latency=25 * MS,
    )
    pair.verbose = False
    client, server = pair.connect()
    transfer(pair, client, server, bytes(6_000_000))
    pair.to_server.reorder, pair.to_server.reorder_by = reorder, 5 * MS
    pair.to_server.rate, pair.to_server.queue = 100_000_000, 4_000_000
    before = client.stats()["lost_packets"]
    taken = transfer(pair, client, server, bytes(8_000_000))
    return 8e15 / taken, client.stats()["lost_packets"] - before


def test_reordering_without_loss_costs_little(make_pair):
    in_order, _ = goodput(make_pair, 0)
    reordered, lost = goodput(make_pair, 0.25)
    assert reordered > in_order / 2
    assert lost < 400  # of 6,700: those of the first milliseconds


def test_reordering_threshold_shrinks_again(make_pair):
    """After reordering was seen only time tells what is lost; sixteen losses later three packets do again."""
    pair, client, _ = late_packets(make_pair, 40, 2 * MS)
    server = pair.server.accepted[0]
    lost = client.stats()["lost_packets"]
    detected = []
    for _ in range(20):
        t = Transfer(pair, client, server, bytes(200_000))
        before = len(pair.client.sent)
        pair.drop(True, 5)
        pair.run_until(lambda: t.poll() or client.stats()["lost_packets"] > lost)  # noqa: B023
        detected.append(pair.now - pair.client.sent[before + 5].sent)
        pair.run_until(t.poll)
        lost = client.stats()["lost_packets"]
    # a quarter of the round trip of 20 ms is waited in the beginning, and no more in the end
    assert set(detected[:10]) == {25 * MS}
    assert max(detected[-2:]) < 25 * MS


def test_calm_connection_after_a_storm_works_as_before(make_pair):
    """What reordering made us remember is given back after seconds without traffic, and nothing is lost by that."""
    pair, client, _ = late_packets(
        make_pair, 400, 2 * MS, default_path_keep_alive_interval=5.0, keep_alive_interval=5.0
    )
    server = pair.server.accepted[0]
    for _ in range(3):
        pair.run_for(20 * SECOND)
        assert transfer(pair, client, server, bytes(500_000)) < 1 * SECOND
        assert transfer(pair, server, client, bytes(500_000)) < 1 * SECOND
    assert client.close_reason is None and server.close_reason is None
