"""Loss, congestion, timers and acknowledgements of a simulated pair."""

from __future__ import annotations

import random

import pytest
from sim import CE, MS, SECOND, START, Transfer, calm, frames, read_all, transfer

from iroh_fast.config import AckFrequencyConfig

covers = pytest.mark.covers


def info(connection, path=0):
    return connection.path_info(path)


# ---------------------------------------------------------------- loss
@covers("noq:throughput")
def test_throughput_reaches_the_rate_of_a_slow_link(make_pair):
    p = make_pair(latency=20 * MS)
    p.to_server.rate, p.to_server.queue = 100_000, 20_000
    c, s = p.connect()
    taken = transfer(p, c, s, random.Random(1).randbytes(1_000_000))
    assert 10 * SECOND <= taken <= 13 * SECOND
    assert info(c)["in_flight"] == 0


@covers("runner:goodput")
def test_ten_megabytes_over_ten_megabit(make_pair):
    p = make_pair(latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.rate, link.queue = 1_250_000, 25 * 1252
    c, s = p.connect()
    taken = transfer(p, s, c, bytes(10_000_000))
    assert 8 * SECOND <= taken <= 11 * SECOND  # at least 73 % of the link


@covers("noq:congestion")
def test_loss_shrinks_the_window_and_the_data_still_arrive(make_pair):
    p = make_pair()
    c, s = p.connect()
    transfer(p, c, s, bytes(300_000))
    before = info(c)["cwnd"]
    t = Transfer(p, c, s, bytes(300_000))
    p.drop(True, 3, 4, 5)
    p.run_until(t.poll)
    stats = info(c)["stats"]
    assert stats["congestion_events"] == 1
    assert stats["lost_packets"] == 3
    assert info(c)["cwnd"] < before * 1.5
    assert bytes(t.received) == bytes(300_000)


@covers("runner:transferloss")
@pytest.mark.parametrize("seed", range(4))
def test_transfer_over_a_lossy_link(make_pair, seed):
    p = make_pair(seed, latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.rate, link.queue, link.loss, link.burst = 1_250_000, 25 * 1252, 0.02, 3
    c, s = p.connect()
    assert transfer(p, c, s, random.Random(seed).randbytes(2_000_000)) < 30 * SECOND
    assert info(c)["stats"]["lost_packets"] > 0


@covers("runner:transfercorruption")
def test_transfer_over_a_corrupting_link(make_pair):
    p = make_pair(latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.rate, link.queue, link.corrupt = 1_250_000, 25 * 1252, 0.02
    c, s = p.connect()
    assert transfer(p, s, c, random.Random(1).randbytes(2_000_000)) < 30 * SECOND


@covers("runner:blackhole")
def test_transfer_over_a_link_with_dark_phases(make_pair):
    """Dark 2 s out of every 7 s, 10 MB at 10 Mbit/s."""
    p = make_pair(latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.rate, link.queue = 1_250_000, 25 * 1252
    p.filters.append(lambda d: (p.now - START) % (7 * SECOND) >= 5 * SECOND)
    c, s = p.connect()
    assert transfer(p, s, c, bytes(10_000_000)) < 40 * SECOND


@covers("noq:congested_tail_loss")
def test_lost_tail_is_recovered_by_a_probe(make_pair):
    p = make_pair(latency=10 * MS)
    c, s = p.connect()
    transfer(p, c, s, bytes(100_000))
    stream = c.open_stream(False)
    stream.write(b"tail")
    stream.finish()
    p.drop(True, count=1)
    start = p.now
    p.run_until(lambda: stream.send_state == "acked")
    # one probe timeout, one round trip, one more for what the probe made known as lost
    assert p.now - start < 300 * MS
    assert frames(c)["stream"] >= 2
    assert c.stats()["lost_packets"] == 1


@covers("noq:loss_probe_requests_immediate_ack")
def test_probe_asks_for_an_immediate_acknowledgement(make_pair):
    p = make_pair()
    c, s = p.connect()
    before = frames(c)["immediate_ack"]
    stream = c.open_stream(False)
    stream.write(b"x")
    p.drop(True, count=1)
    p.drive()
    assert frames(c)["immediate_ack"] > before
    assert read_all(s.accept_stream(False)) == b"x"


def test_reordering_below_the_threshold_is_no_loss(make_pair):
    p = make_pair(3, latency=50 * MS)
    c, s = p.connect()
    p.to_server.rate = 12_500_000
    p.to_server.jitter = 200_000  # less than the time between three packets on this link
    transfer(p, c, s, bytes(50_000))
    assert c.stats()["lost_packets"] == 0


def test_spurious_loss_is_noticed_and_undone(make_pair):
    p = make_pair(latency=10 * MS)
    c, s = p.connect()
    transfer(p, c, s, bytes(200_000))
    window = info(c)["cwnd"]
    t = Transfer(p, c, s, bytes(60_000))
    t.poll()
    p.flush_side(p.client)
    # the first packet arrives behind all the others
    first = min(p.flying)
    p.flying.remove(first)
    p.flying.append((first[0] + 12 * MS, first[1], first[2]))
    p.flying.sort()
    p.run_until(t.poll)
    stats = info(c)["stats"]
    assert stats["lost_packets"] >= 1
    assert stats["spurious_congestion_events"] == 1
    assert info(c)["cwnd"] >= window


def test_long_outage_within_the_idle_timeout_is_survived(make_pair):
    p = make_pair(transport=calm(keep_alive_interval=5.0))
    c, s = p.connect()
    t = Transfer(p, c, s, bytes(500_000))
    t.poll()
    p.run_for(20 * MS)
    dark = lambda d: True  # noqa: E731
    p.filters.append(dark)
    p.run_for(20 * SECOND)
    p.filters.remove(dark)
    start = p.now
    p.run_until(t.poll)
    # the probe interval is capped
    assert p.now - start < 4 * SECOND
    assert bytes(t.received) == bytes(500_000)


@covers("noq:path_recovers_after_silent_gap_via_keepalive")
def test_recovery_after_a_silent_gap_within_the_probe_cap(make_pair):
    p = make_pair(transport=calm(keep_alive_interval=5.0, default_path_keep_alive_interval=5.0))
    c, s = p.connect()
    dark = lambda d: True  # noqa: E731
    p.filters.append(dark)
    p.run_for(14 * SECOND)
    p.filters.remove(dark)
    stream = c.open_stream(False)
    stream.write(b"back")
    stream.finish()
    assert p.run_until(lambda: stream.send_state == "acked") < 2500 * MS


# ---------------------------------------------------------------- timers
@covers("noq:idle_timeout")
def test_idle_connection_times_out_on_both_sides_silently(make_pair):
    p = make_pair(
        transport=calm(max_idle_timeout=10.0), server_transport=calm(max_idle_timeout=60.0)
    )
    c, s = p.connect()
    start = p.now
    sent = len(p.client.sent) + len(p.server.sent)
    p.run_until(lambda: c.close_reason and s.close_reason)
    assert c.close_reason.kind == s.close_reason.kind == "timed_out"
    assert 9 * SECOND <= p.now - start <= 10 * SECOND + 100 * MS
    assert len(p.client.sent) + len(p.server.sent) == sent
    assert c.drained and s.drained
    p.check_forgotten()


def test_own_retransmissions_do_not_keep_a_dead_connection_alive(make_pair):
    p = make_pair(transport=calm(max_idle_timeout=10.0))
    c, s = p.connect()
    p.filters.append(lambda d: True)
    start = p.now
    c.open_stream(False).write(b"x")
    p.run_until(lambda: c.close_reason)
    assert c.close_reason.kind == "timed_out"
    assert p.now - start < 2 * 10 * SECOND


@covers("noq:keep_alive")
def test_keep_alive_outlives_the_idle_timeout(make_pair):
    p = make_pair(
        transport=calm(max_idle_timeout=10.0, keep_alive_interval=4.0),
        server_transport=calm(max_idle_timeout=10.0),
    )
    c, s = p.connect()
    p.run_for(100 * SECOND)
    assert c.close_reason is None and s.close_reason is None
    pings = frames(c)["ping"]
    assert 20 <= pings <= 26
    assert "ping" not in frames(s)


def test_no_timer_without_anything_to_wait_for(make_pair):
    p = make_pair(transport=calm(max_idle_timeout=None))
    p.connect()
    assert p.next_event() is None
    p.run_for(1000 * SECOND)
    assert p.steps < 200


# ---------------------------------------------------------------- congestion control
def test_window_grows_while_it_is_used_and_not_without(make_pair):
    p = make_pair()
    c, s = p.connect()
    start = info(c)["cwnd"]
    for _ in range(30):
        transfer(p, c, s, b"small")
    assert info(c)["cwnd"] <= start + 2 * 1200
    transfer(p, c, s, bytes(500_000))
    assert info(c)["cwnd"] > 5 * start


@covers("noq:cwnd_limited_is_not_reported_when_only_pacing_blocks")
def test_pacer_spreads_a_window_over_the_round_trip(make_pair):
    p = make_pair(latency=50 * MS)
    c, s = p.connect()
    transfer(p, c, s, bytes(300_000))
    t = Transfer(p, c, s, bytes(200_000))
    before = len(p.client.sent)
    p.run_until(t.poll)
    times = [d.sent for d in p.client.sent[before:] if len(d.data) >= 1200]
    assert len(set(times)) >= 4  # not one burst


@covers("noq:send_quantum_bounds_the_gso_batch")
@pytest.mark.parametrize("limit", [1, 3, 10])
def test_a_transmit_has_no_more_segments_than_asked_for(make_pair, limit):
    p = make_pair(max_segments=limit)
    c, s = p.connect()
    t = Transfer(p, c, s, bytes(100_000))
    t.poll()
    while (out := p.client.endpoint.transmit(c, p.now, limit)) is not None:
        assert len(out[4]) <= limit * out[3]
    p.run_until(t.poll)


def test_persistent_congestion_collapses_the_window(make_pair):
    p = make_pair(latency=10 * MS)
    c, s = p.connect()
    transfer(p, c, s, bytes(300_000))
    t = Transfer(p, c, s, bytes(2_000_000))
    t.poll()
    p.run_for(5 * MS)
    dark = lambda d: True  # noqa: E731
    p.filters.append(dark)
    p.run_for(3 * SECOND)
    p.filters.remove(dark)
    lowest = [10**9]

    def watch() -> bool:
        lowest[0] = min(lowest[0], info(c)["cwnd"])
        return t.poll()

    p.run_until(watch)
    assert lowest[0] <= 5 * 1200


def test_newreno_transfers_as_well(make_pair):
    p = make_pair(latency=15 * MS, transport=calm(congestion_controller="newreno"))
    for link in (p.to_server, p.to_client):
        link.rate, link.queue = 1_250_000, 25 * 1252
    c, s = p.connect()
    assert transfer(p, c, s, bytes(3_000_000)) < 5 * SECOND


# ---------------------------------------------------------------- ECN
@covers("runner:ecn")
def test_packets_carry_ect0_and_acks_carry_counts(make_pair):
    p = make_pair()
    c, s = p.connect()
    transfer(p, c, s, bytes(50_000))
    assert {d.ecn for side in p.sides for d in side.sent} == {2}
    assert info(c)["stats"]["congestion_events"] == 0


def test_congestion_experienced_shrinks_the_window(make_pair):
    p = make_pair()
    c, s = p.connect()
    transfer(p, c, s, bytes(300_000))
    p.to_server.mark = 0.02
    transfer(p, c, s, bytes(300_000))
    stats = info(c)["stats"]
    assert stats["congestion_events"] >= 1
    assert stats["lost_packets"] == 0


def test_bleached_marks_switch_ecn_off(make_pair):
    p = make_pair()
    p.to_server.bleach = p.to_client.bleach = True
    c, s = p.connect()
    before = len(p.client.sent)
    transfer(p, c, s, bytes(50_000))
    assert {d.ecn for d in p.client.sent[before:]} == {0}


# ---------------------------------------------------------------- acknowledgements
@covers("noq:single_ack_eliciting_packet_triggers_ack_after_delay")
def test_single_packet_is_acknowledged_after_the_delay(make_pair):
    p = make_pair()
    c, s = p.connect()
    before = frames(s)["path_acks"]
    sent = len(p.server.sent)
    start = p.now
    c.ping()
    p.run_for(29 * MS)
    assert frames(s)["path_acks"] == before
    p.run_for(2 * MS)
    assert frames(s)["path_acks"] == before + 1
    assert p.server.sent[sent].sent - start == 5 * MS + 25 * MS


def test_two_packets_are_acknowledged_at_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    sent = len(p.server.sent)
    start = p.now
    for _ in range(2):
        c.ping()
        p.flush()
    p.run_for(6 * MS)
    assert [d.sent - start for d in p.server.sent[sent:]] == [5 * MS]


@covers("noq:immediate_ack_triggers_ack")
def test_immediate_ack_is_obeyed(make_pair):
    p = make_pair()
    c, s = p.connect()
    sent = len(p.server.sent)
    start = p.now
    c.network_changed()  # PING and IMMEDIATE_ACK
    p.run_for(6 * MS)
    assert p.server.sent[sent].sent - start == 5 * MS


@covers("noq:out_of_order_ack_eliciting_packet_triggers_ack")
def test_gap_is_reported_at_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.drop(True, 0)
    c.ping()
    p.flush()
    sent = len(p.server.sent)
    start = p.now
    c.ping()
    p.run_for(6 * MS)
    assert [d.sent - start for d in p.server.sent[sent : sent + 1]] == [5 * MS]


@covers("noq:single_ack_eliciting_packet_with_ce_bit_triggers_immediate_ack")
def test_ce_mark_is_reported_at_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.to_server.mark = 1.0
    sent = len(p.server.sent)
    start = p.now
    c.ping()
    p.run_for(6 * MS)
    assert p.server.sent[sent].sent - start == 5 * MS
    assert CE == 3


@covers("noq:pure_sender_voluntarily_acks")
def test_pure_sender_acknowledges_acknowledgements_now_and_then(make_pair):
    p = make_pair()
    c, s = p.connect()
    before = frames(c)["path_acks"]
    transfer(p, c, s, bytes(500_000))
    assert frames(c)["path_acks"] - before >= 2
    assert frames(c)["path_acks"] - before <= frames(s)["path_acks"] // 5


def test_acknowledgements_alone_are_never_answered(make_pair):
    p = make_pair()
    c, s = p.connect()
    for _ in range(40):
        c.ping()
        p.drive()
    sent = len(p.client.sent)
    p.run_for(5 * SECOND)
    assert len(p.client.sent) == sent


@covers("noq:connection_close_sends_acks")
def test_close_carries_the_due_acknowledgement(make_pair):
    p = make_pair()
    c, s = p.connect()
    for _ in range(2):
        c.ping()
        p.flush_side(p.client)
    while p.flying:
        p.deliver(p.flying.pop(0)[2])
    before = frames(s)["path_acks"]
    s.close(1, b"")
    p.flush()
    assert frames(s)["path_acks"] == before + 1
    assert frames(s)["connection_close"] == 1


def test_all_acknowledgements_are_path_acks_once_multipath_is_on(make_pair):
    p = make_pair()
    c, s = p.connect()
    before = frames(c)["acks"], frames(s)["acks"]
    transfer(p, c, s, bytes(100_000))
    assert (frames(c)["acks"], frames(s)["acks"]) == before
    assert frames(s)["path_acks"] > 5


def test_plain_acks_without_multipath(make_pair):
    p = make_pair(transport=calm(max_concurrent_multipath_paths=0))
    c, s = p.connect()
    assert not c.has_multipath
    transfer(p, c, s, bytes(100_000))
    assert "path_acks" not in frames(s)
    assert "path_new_connection_id" not in frames(s)
    assert frames(s)["new_connection_id"] >= 4


# ---------------------------------------------------------------- ACK frequency
@covers("noq:ack_frequency")
def test_ack_frequency_threshold_thins_acknowledgements(make_pair):
    counts = {}
    for name, af in (("default", None), ("ten", AckFrequencyConfig(ack_eliciting_threshold=10))):
        p = make_pair(transport=calm(ack_frequency=af), server_transport=calm())
        c, s = p.connect()
        # packets that arrive one by one
        stream = c.open_stream(False)
        for _ in range(60):
            stream.write(bytes(100))
            p.run_for(200_000)
        p.drive()
        counts[name] = frames(s)["path_acks"]
        assert frames(c)["ack_frequency"] == (1 if af else 0)
    assert counts["ten"] * 2 < counts["default"]


def test_ack_frequency_max_delay_is_obeyed(make_pair):
    p = make_pair(
        latency=100 * MS,
        transport=calm(ack_frequency=AckFrequencyConfig(max_ack_delay=0.05)),
        server_transport=calm(),
    )
    c, s = p.connect()
    sent = len(p.server.sent)
    start = p.now
    c.ping()
    p.drive()
    assert p.server.sent[sent].sent - start == 150 * MS
