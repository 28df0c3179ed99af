"""Acknowledgements from a peer that means harm: they make us send no more than the path delivers, and hold no memory."""

from __future__ import annotations

import pytest
from acks import Reader, ack, runs
from impostor import vi
from links_table import controllers
from sim import MS, SECOND, calm, frames

from iroh_fast.quic._models import SentNumbers

PROTOCOL_VIOLATION = 0x0A
MAX_DATA, MAX_STREAM_DATA = 0x10, 0x11
WINDOW = 14_720  # the first one
BURST = 10  # packets that may leave at once

every_controller = pytest.mark.parametrize("controller", controllers())


def bulk(hostile, controller: str = "cubic", amount: int = 4 << 20, **options):
    """A victim that has a lot to send to the impostor, and what that one sees of it."""

    def prepare(pair, client, server):
        pair.stream = server.open_stream(False)
        pair.data = bytes(amount)
        pair.stream.write(pair.data)

    wide = {"stream_receive_window": 1 << 30, "send_window": 8 << 20}
    p, victim, peer = hostile(
        prepare=prepare, transport=calm(congestion_controller=controller, **wide), **options
    )
    return p, victim, peer, Reader(peer)


def honest_rounds(p, peer, reader, rounds: int, rtt: int = 20 * MS) -> None:
    """Acknowledge what came, a round trip later."""
    for _ in range(rounds):
        p.flush()
        p.run_for(rtt)
        if reader.take():
            peer.send(ack(runs(reader.numbers)))


# ---------------------------------------------------------------- packets that were never sent
def test_a_number_that_was_not_sent_yet_ends_the_connection(hostile):
    p, victim, peer, reader = bulk(hostile)
    honest_rounds(p, peer, reader, 2)
    peer.send(ack([(0, max(reader.numbers) + 5000)]))
    assert victim.close_reason.code == PROTOCOL_VIOLATION


@pytest.mark.parametrize("seed", range(8))
def test_who_acknowledges_what_it_did_not_get_is_caught_soon(hostile, seed):
    """As who hides losses does, so that the sender goes on as fast as before."""
    p, victim, peer, reader = bulk(hostile, seed=seed)
    for _ in range(100):
        p.flush()
        p.run_for(20 * MS)
        new = reader.take()
        if victim.close_reason is not None:
            break
        if new:
            peer.send(ack([(0, max(reader.numbers))]))
    assert victim.close_reason.code == PROTOCOL_VIOLATION
    assert len(reader.numbers) < 128


@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_left_out_often_enough_at_speed_and_remembered(seed):
    numbers, sent, skipped = SentNumbers(seed), [], []
    for _ in range(400_000):
        n = numbers.take()
        if sent and n != sent[-1] + 1:
            skipped.append(n - 1)
        sent.append(n)
    gaps = [b - a for a, b in zip(skipped, skipped[1:])]
    # A second at 1 Gbit/s are some 90,000 packets.
    assert max(gaps) <= 32_768
    assert len(set(gaps)) == len(gaps)
    # Whatever may be in flight: 100 ms at 10 Gbit/s are 90,000, too.
    for n in skipped:
        assert numbers.was_skipped(n, n) is (n in skipped[-8:])
        assert not numbers.was_skipped(n + 1, n + 1) and not numbers.was_skipped(n - 1, n - 1)
    assert skipped[-1] - skipped[-8] > 100_000
    assert numbers.was_skipped(skipped[-5] - 100, skipped[-5] + 100)
    assert numbers.was_skipped(0, 1 << 61)


# ---------------------------------------------------------------- late, compressed
@every_controller
def test_acknowledgements_held_back_and_let_go_cause_no_burst(hostile, controller):
    p, victim, peer, reader = bulk(hostile, controller)
    honest_rounds(p, peer, reader, 6)
    window = victim.path_info(0)["cwnd"]
    p.flush()
    p.run_for(400 * MS)
    reader.take()
    before = reader.bytes()
    # One for each packet, all at once.
    for n in reader.numbers[-200:]:
        peer.send(ack([(n, n)]), flush=False)
    p.flush()
    burst = reader.bytes() - before
    assert burst <= max(BURST * 1252, 2 * window * 2 // 20), "more than 2 ms of the rate at once"
    p.run_for(20 * MS)
    assert victim.close_reason is None
    # What it was slow to acknowledge is no reason to believe in a faster path.
    assert victim.path_info(0)["in_flight"] <= victim.path_info(0)["cwnd"] + 1252


# ---------------------------------------------------------------- out of order
@every_controller
def test_acknowledgements_out_of_order_on_purpose_hold_no_more_than_a_window(hostile, controller):
    p, victim, peer, reader = bulk(hostile, controller)
    honest_rounds(p, peer, reader, 4)
    late: list[int] = []
    for _ in range(60):
        p.flush()
        p.run_for(10 * MS)
        new = reader.take()
        odd = [n for n in new if n % 2]
        for n in odd:
            peer.send(ack([(n, n)]), flush=False)
        # The others come when they have just been sent again.
        for n in late:
            peer.send(ack([(n, n)]), flush=False)
        late = [n for n in new if not n % 2]
        before = victim.path_info(0)["in_flight"]
        p.flush()
        info = victim.path_info(0)
        # Two probes, whatever the window says; a window that was cut lets nothing else leave.
        assert info["in_flight"] <= max(before + 2 * 1252, info["cwnd"] + 1252)
    assert victim.close_reason is None
    assert info["stats"]["lost_packets"] <= len(reader.numbers) // 2


# ---------------------------------------------------------------- lies about times
@every_controller
@pytest.mark.parametrize("delay", [(1 << 62) - 1, 1 << 20, 3000])
def test_a_claimed_delay_makes_no_round_trip_shorter_than_the_shortest(hostile, controller, delay):
    p, victim, peer, reader = bulk(hostile, controller, 0)
    for turn in range(30):
        p.stream.write(bytes(20_000))
        p.flush()
        p.run_for((20 if turn < 10 else 60) * MS)
        if reader.take():
            peer.send(ack(runs(reader.numbers), delay))
    assert victim.close_reason is None
    # The truth is 50 to 60 ms by now, of which it may claim 25.
    assert 0.025 <= victim.path_info(0)["rtt"] <= 0.065


# ---------------------------------------------------------------- lies about marks
@every_controller
@pytest.mark.parametrize("lie", [(1 << 61, 0, 1 << 61), (0, 0, 1 << 62 - 1), (5000, 0, 5000)])
def test_more_marks_than_packets_switch_marks_off(hostile, controller, lie):
    p, victim, peer, reader = bulk(hostile, controller)
    honest_rounds(p, peer, reader, 1)
    window = victim.path_info(0)["cwnd"]
    reader.take()
    peer.send(ack(runs(reader.numbers), ecn=lie))
    p.flush()
    honest_rounds(p, peer, reader, 3)
    mark = reader.marked
    honest_rounds(p, peer, reader, 3)
    assert reader.marked == mark, "nothing is marked any more"
    assert victim.path_info(0)["stats"]["congestion_events"] == 0
    assert victim.path_info(0)["cwnd"] >= window


@pytest.mark.parametrize("controller", ["cubic", "newreno"])  # BBR begins fast whatever is marked
def test_marks_on_every_packet_slow_down_and_do_not_stop(hostile, controller):
    p, victim, peer, reader = bulk(hostile, controller)
    # Those that the honest side got, without a mark.
    clean = sum(not d.data[0] & 0x80 for d in p.server.sent)
    counts = []
    for _ in range(80):
        before = len(reader.numbers)
        p.flush()
        p.run_for(20 * MS)
        if reader.take():
            peer.send(ack(runs(reader.numbers), ecn=(clean, 0, len(reader.numbers))))
        counts.append(len(reader.numbers) - before)
    assert victim.close_reason is None
    if controller == "bbr":
        # It probes for more again and again, and each mark ends that.
        assert victim.path_info(0)["controller"]["mode"] != "startup"
        assert 0 < sum(counts[-40:]) <= 40 * 60
        return
    # Two packets are the least, and that is what it comes to; something always arrives.
    assert min(counts[-40:]) >= 1
    assert sum(counts[-40:]) <= 40 * 12
    assert victim.path_info(0)["cwnd"] <= WINDOW


# ---------------------------------------------------------------- limits without end
def test_huge_limits_let_no_more_wait_than_our_own_allow(hostile):
    p, victim, peer = hostile(
        prepare=lambda pair, client, server: setattr(pair, "stream", server.open_stream(False))
    )
    huge = (1 << 62) - 1
    peer.send(vi(MAX_DATA) + vi(huge) + vi(MAX_STREAM_DATA) + vi(p.stream.id) + vi(huge))
    written, block = 0, bytes(1 << 20)
    while n := p.stream.write(block):
        written += n
        assert written <= 2 << 20
    reader = Reader(peer)
    for _ in range(8):
        p.flush()
        p.run_for(20 * MS)
        if reader.take():
            peer.send(ack(runs(reader.numbers)))
        while n := p.stream.write(block):
            written += n
        # Four times what may be in flight.
        held = written - reader.bytes()
        assert held <= max(1 << 20, 4 * victim.path_info(0)["cwnd"]) + len(block)
    assert victim.path_info(0)["in_flight"] <= victim.path_info(0)["cwnd"]


# ---------------------------------------------------------------- too many, none
def test_many_small_acknowledgements_of_the_same_change_nothing(hostile):
    p, victim, peer, reader = bulk(hostile)
    honest_rounds(p, peer, reader, 5)
    info = victim.path_info(0)
    one = ack([(min(reader.numbers), min(reader.numbers))])
    for _ in range(50):
        peer.send(one * (1150 // len(one)), flush=False)
    after = victim.path_info(0)
    assert victim.close_reason is None
    assert (after["cwnd"], after["in_flight"]) == (info["cwnd"], info["in_flight"])
    assert frames(victim, "frame_rx")["acks"] > 50 * 100


def test_as_many_ranges_as_a_packet_takes_are_all_believed(hostile):
    p, victim, peer, reader = bulk(hostile)
    honest_rounds(p, peer, reader, 7)
    p.flush()
    p.run_for(20 * MS)
    new = reader.take()
    assert len(new) > 250
    peer.send(ack([(n, n) for n in new[::2]][-500:]))
    assert victim.close_reason is None
    peer.send(ack(runs(reader.numbers)))
    honest_rounds(p, peer, reader, 2)
    assert victim.close_reason is None


@every_controller
def test_who_never_acknowledges_gets_a_window_and_probes(hostile, controller):
    p, victim, peer, reader = bulk(hostile, controller)
    for _ in range(120):
        p.flush()
        peer.send(b"\x01")  # keeps the connection from being idle
        p.run_for(SECOND // 2)
    reader.take()
    assert victim.close_reason is None
    # A window, and two packets for each probe timeout of at most two seconds more than the one before.
    assert reader.bytes() <= WINDOW + 2 * 1252 * 40 + 120 * 100
    assert victim.path_info(0)["in_flight"] <= WINDOW + 2 * 1252 * 40


# ---------------------------------------------------------------- when the others lie still
@pytest.mark.parametrize("lie", ["gap", "again"])
def test_ranges_beside_what_is_in_flight_are_no_error(hostile, lie):
    p, victim, peer, reader = bulk(hostile)
    honest_rounds(p, peer, reader, 3)
    seen = runs(reader.numbers)
    peer.send(ack(seen[-1:] if lie == "gap" else seen))
    assert victim.close_reason is None
