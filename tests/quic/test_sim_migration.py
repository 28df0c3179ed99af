"""Address changes, MTU discovery and observed addresses of a simulated pair."""

from __future__ import annotations

import pytest
from sim import CLIENT, MS, SECOND, SERVER, Transfer, calm, derive, frames, transfer

from iroh_fast.config import MtuDiscoveryConfig, QuicTransportConfig

covers = pytest.mark.covers

SINGLE = calm(max_concurrent_multipath_paths=0)
MOVED = ("192.0.2.7", 7777)
PROBING = calm(mtu_discovery=MtuDiscoveryConfig())


# ---------------------------------------------------------------- passive migration
@covers("noq:migration")
@covers("runner:rebind-addr")
@pytest.mark.parametrize("moved", [MOVED, (CLIENT[0], 4321)])
@pytest.mark.parametrize("transport", [SINGLE, calm()], ids=["single", "multipath"])
def test_server_follows_the_client_to_a_new_address(make_pair, moved, transport):
    p = make_pair(transport=transport)
    c, s = p.connect()
    p.rebind(p.client, CLIENT, moved)
    before = len(p.server.sent)
    challenges = frames(s)["path_challenge"]
    transfer(p, c, s, bytes(20_000))
    assert s.path_info(0)["remote"] == moved
    assert s.path_info(0)["validated"]
    to_new = [d for d in p.server.sent[before:] if d.dst == moved]
    assert len(to_new[0].data) == 1200  # the challenge comes first and is padded
    assert frames(s)["path_challenge"] >= challenges + 1
    assert frames(c)["path_response"] >= 1
    p.drive()
    before = len(p.server.sent)
    transfer(p, s, c, bytes(20_000))
    assert {d.dst for d in p.server.sent[before:]} == {moved}
    assert s.close_reason is None


def test_migration_uses_a_fresh_destination_id(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    before = {d.data[1:9] for d in p.server.sent if d.kinds == ["short"]}
    p.rebind(p.client, CLIENT, MOVED)
    at = len(p.server.sent)
    transfer(p, c, s, bytes(5000))
    assert not before & {d.data[1:9] for d in p.server.sent[at:] if d.dst == MOVED}
    assert frames(s)["retire_connection_id"] >= 1


def test_unvalidated_address_gets_no_more_than_three_times_what_came_from_it(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    s.open_stream(False).write(bytes(500_000))
    p.run_for(10 * MS)
    # one datagram of an attacker's copy from another address, whose answers go nowhere
    c.ping()
    p.flush_side(p.client)
    copy = p.client.sent[-1]
    p.flying = [x for x in p.flying if x[2] is not copy]
    p.filters.append(lambda d: d.dst == MOVED)
    before = len(p.server.sent)
    p.inject(True, copy.data, src=MOVED)
    p.run_for(20 * MS)
    sent = [d for d in p.server.sent[before:] if d.dst == MOVED]
    assert 1 <= len(sent)
    assert sum(len(d.data) for d in sent) <= 3 * len(copy.data) + 1200


def test_server_returns_when_the_new_address_never_answers(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    c.ping()
    p.flush_side(p.client)
    copy = p.client.sent[-1]
    p.lose_flying(True)
    p.inject(True, copy.data, src=MOVED)
    assert s.path_info(0)["remote"] == MOVED
    p.run_for(5 * SECOND)
    assert s.path_info(0)["remote"] == CLIENT
    transfer(p, s, c, bytes(20_000))
    assert c.close_reason is None
    assert s.path_info(0)["in_flight"] == 0


def test_port_change_keeps_the_window_and_the_round_trip(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    transfer(p, s, c, bytes(500_000))
    window, rtt = s.path_info(0)["cwnd"], s.path_info(0)["rtt"]
    p.rebind(p.client, CLIENT, (CLIENT[0], 9999))
    c.ping()
    p.drive()
    assert s.path_info(0)["remote"] == (CLIENT[0], 9999)
    assert s.path_info(0)["cwnd"] >= window
    assert s.path_info(0)["rtt"] == pytest.approx(rtt, rel=0.5)
    p.rebind(p.client, CLIENT, MOVED)
    c.ping()
    p.drive()
    assert s.path_info(0)["cwnd"] <= 14_520


@covers("noq:close_from_migrated_address")
def test_close_from_a_new_address_is_heard(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    p.rebind(p.client, CLIENT, MOVED)
    c.close(5, b"")
    p.run_for(10 * MS)
    assert s.close_reason.code == 5


@covers("runner:rebind-port")
@pytest.mark.parametrize("transport", [SINGLE, calm()], ids=["single", "multipath"])
def test_rebinding_again_and_again_during_a_transfer(make_pair, transport):
    p = make_pair(transport=transport, latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.rate, link.queue = 1_250_000, 25 * 1252
    c, s = p.connect()
    t = Transfer(p, s, c, bytes(10_000_000))
    next_at = p.now + SECOND
    n = 0

    def turn() -> bool:
        nonlocal next_at, n
        if p.now >= next_at:
            n += 1
            next_at += 5 * SECOND
            p.rebind(p.client, CLIENT, (CLIENT[0], 20_000 + n))
            c.ping()  # a side that only listens would never show its new address
        return t.poll()

    p.run_until(turn)
    assert n >= 2
    assert bytes(t.received) == t.data


@covers("noq:regression_path_validation_stale_local_after_passive_migration")
def test_client_whose_local_address_changes_keeps_its_path(make_pair):
    p = make_pair(transport=calm(), client_addresses=[CLIENT, ("10.0.9.1", 999)])
    c, s = p.connect()
    p.client.addresses.reverse()  # the system now picks the other address
    c.network_changed()
    transfer(p, c, s, bytes(20_000))
    assert s.path_info(0)["remote"] == ("10.0.9.1", 999)
    assert c.path_info(0)["remote"] == SERVER
    transfer(p, s, c, bytes(20_000))
    assert s.path_info(0)["validated"]


@covers("noq:network_change_single_path_recovery")
def test_network_change_rotates_the_id_and_keeps_the_path(make_pair):
    p = make_pair()
    c, s = p.connect()
    events = c.path_events()
    assert [e[0] for e in events] == ["opened"]
    old = p.client.sent[-1].data[1:9]
    at = len(p.client.sent)
    c.network_changed()
    p.drive()
    assert p.client.sent[at].data[1:9] != old
    assert c.path_ids() == [0]
    assert frames(c)["immediate_ack"] == 1 and frames(c)["ping"] == 1
    assert c.path_events() == []


def test_client_ignores_a_server_that_moves(make_pair):
    p = make_pair(transport=SINGLE)
    c, s = p.connect()
    p.rebind(p.server, SERVER, MOVED)
    s.ping()
    p.run_for(20 * MS)
    assert c.path_info(0)["remote"] == SERVER


# ---------------------------------------------------------------- MTU discovery
@covers("noq:connect_detects_mtu")
@pytest.mark.parametrize(
    "limit, found",
    [(65535, 1452), (1451, 1420), (1420, 1420), (1400, 1389), (1326, 1326), (1200, 1200)],
)
def test_mtu_of_the_path_is_found(make_pair, limit, found):
    p = make_pair(transport=PROBING)
    p.to_server.mtu = p.to_client.mtu = limit
    c, s = p.connect()
    p.run_for(20 * SECOND)
    for side in (c, s):
        mtu = side.path_info(0)["mtu"]
        assert mtu <= limit
        assert found - 20 < mtu <= limit
        stats = side.path_info(0)["stats"]
        assert stats["current_mtu"] == mtu
        if limit == 65535:
            assert mtu == 1452
            assert (stats["sent_plpmtud_probes"], stats["lost_plpmtud_probes"]) == (1, 0)


@covers("noq:connect_lost_mtu_probes_do_not_trigger_congestion_control")
def test_lost_probes_are_no_congestion(make_pair):
    p = make_pair(transport=PROBING)
    p.to_server.mtu = p.to_client.mtu = 1200
    c, s = p.connect()
    p.run_for(20 * SECOND)
    for side in (c, s):
        stats = side.path_info(0)["stats"]
        assert stats["congestion_events"] == 0
        assert stats["lost_packets"] == 0
        assert stats["lost_plpmtud_probes"] >= 3
        assert stats["current_mtu"] == 1200
        assert side.path_info(0)["in_flight"] == 0
    sizes = [len(d.data) for d in p.client.sent if len(d.data) > 1200]
    assert max(sizes.count(n) for n in set(sizes)) <= 3, "tries for one size"


@covers("noq:connect_runs_mtud_again_after_600_seconds")
def test_search_runs_again_after_600_seconds(make_pair):
    p = make_pair(transport=derive(PROBING, keep_alive_interval=10.0))
    p.to_server.mtu = p.to_client.mtu = 1300
    c, s = p.connect()
    p.run_for(10 * SECOND)
    first = c.path_info(0)["mtu"]
    assert 1280 < first <= 1300
    p.to_server.mtu = p.to_client.mtu = 1452
    p.run_for(580 * SECOND)
    assert c.path_info(0)["mtu"] == first
    p.run_for(30 * SECOND)
    assert c.path_info(0)["mtu"] > 1430


@covers("noq:blackhole_after_mtu_change_repairs_itself")
def test_black_hole_is_noticed_and_repaired(make_pair):
    p = make_pair(transport=PROBING)
    c, s = p.connect()
    p.run_for(5 * SECOND)
    assert c.path_info(0)["mtu"] == 1452
    p.to_server.mtu = p.to_client.mtu = 1200
    transfer(p, c, s, bytes(200_000), limit=60 * SECOND)
    stats = c.path_info(0)["stats"]
    assert stats["black_holes_detected"] == 1
    assert stats["current_mtu"] == 1200


@covers("noq:mtud_probes_include_immediate_ack")
def test_probes_ask_for_an_immediate_acknowledgement(make_pair):
    p = make_pair(transport=PROBING, server_transport=calm())
    c, s = p.connect()
    p.run_for(5 * SECOND)
    probes = c.path_info(0)["stats"]["sent_plpmtud_probes"]
    assert probes and frames(c)["immediate_ack"] >= probes and frames(c)["ping"] >= probes


@covers("noq:migrate_detects_new_mtu_and_respects_original_peer_max_udp_payload_size")
def test_migration_searches_the_mtu_anew(make_pair):
    p = make_pair(transport=derive(PROBING, max_concurrent_multipath_paths=0))
    c, s = p.connect()
    p.run_for(5 * SECOND)
    assert s.path_info(0)["mtu"] == 1452
    p.to_client.mtu = 1350
    p.rebind(p.client, CLIENT, MOVED)
    c.ping()
    p.run_for(20 * SECOND)
    assert s.path_info(0)["remote"] == MOVED
    assert 1320 < s.path_info(0)["mtu"] <= 1350


@covers("noq:oversized_datagrams_trigger_unblock")
def test_datagrams_too_large_after_a_black_hole_do_not_block_the_rest(make_pair):
    p = make_pair(transport=PROBING)
    c, s = p.connect()
    p.run_for(5 * SECOND)
    big = c.max_datagram_size
    assert big > 1400
    p.to_server.mtu = p.to_client.mtu = 1200
    t = Transfer(p, c, s, bytes(200_000))
    for _ in range(30):
        c.send_datagram(bytes(big))
        t.poll()
        p.run_for(30 * MS)
        if c.max_datagram_size < big:
            break
    p.run_until(t.poll, limit=60 * SECOND)
    c.send_datagram(b"small")
    p.drive()
    got = []
    while (d := s.read_datagram()) is not None:
        got.append(d)
    assert got[-1] == b"small"


@covers("noq:pad_to_mtu")
def test_every_eliciting_packet_is_padded_when_asked_for(make_pair):
    p = make_pair(transport=calm(pad_to_mtu=True))
    c, s = p.connect()
    before = len(p.client.sent)
    transfer(p, c, s, b"tiny")
    c.send_datagram(b"d")
    p.drive()
    data = [d for d in p.client.sent[before:] if len(d.data) > 60]
    assert len(data) >= 2 and {len(d.data) for d in data} == {1200}
    assert s.read_datagram() == b"d"


# ---------------------------------------------------------------- observed addresses
REPORTING = calm(send_observed_address_reports=True, receive_observed_address_reports=True)


def observed(connection):
    return [e[1:3] for e in connection.path_events() if e[0] == "observed"]


@covers("noq:address_discovery")
def test_each_side_reports_the_address_it_sees(make_pair):
    p = make_pair(transport=REPORTING)
    p.rebind(p.client, CLIENT, MOVED)
    c, s = p.connect()
    assert frames(c)["observed_addr"] == frames(s)["observed_addr"] == 1
    assert observed(c) == [(0, MOVED)]
    assert observed(s) == [(0, SERVER)]


@covers("noq:address_discovery")
@pytest.mark.parametrize("sends, receives", [(True, False), (False, True), (False, False)])
def test_reports_need_a_sender_and_a_receiver(make_pair, sends, receives):
    p = make_pair(
        transport=calm(receive_observed_address_reports=receives),
        server_transport=calm(send_observed_address_reports=sends),
    )
    c, s = p.connect()
    assert observed(c) == [] and observed(s) == []
    assert "observed_addr" not in frames(c) and "observed_addr" not in frames(s)


@covers("noq:address_discovery_retransmission")
def test_lost_report_is_sent_again(make_pair):
    p = make_pair(
        transport=calm(receive_observed_address_reports=True),
        server_transport=calm(send_observed_address_reports=True),
    )
    p.drop(False, 0, 1)
    c, s = p.connect()
    assert frames(s)["observed_addr"] >= 2
    assert observed(c) == [(0, CLIENT)]


@covers("noq:address_discovery_rebind_retransmission")
def test_rebinding_reports_the_fresh_address(make_pair):
    p = make_pair(
        transport=calm(receive_observed_address_reports=True),
        server_transport=calm(send_observed_address_reports=True),
    )
    c, s = p.connect()
    assert observed(c) == [(0, CLIENT)]
    p.rebind(p.client, CLIENT, MOVED)
    c.ping()
    p.drive()
    assert observed(c) == [(0, MOVED)]


def test_defaults_of_iroh_search_the_mtu_and_beat(make_pair):
    p = make_pair(transport=QuicTransportConfig())
    c, s = p.connect()
    p.run_for(60 * SECOND)
    assert c.path_info(0)["mtu"] == 1452
    assert frames(c)["ping"] + frames(s)["ping"] >= 11
    transfer(p, c, s, bytes(100_000))
