"""Large packets between a simulated pair: what interfaces, peers and paths allow, and when they change."""

from __future__ import annotations

import pytest
from sim import MS, SECOND, Pair, calm, transfer

from iroh_fast.config import MtuDiscoveryConfig

SEARCHING = calm(mtu_discovery=MtuDiscoveryConfig(), keep_alive_interval=5.0)
MB = 1_000_000


def mtu(conn) -> int:
    return conn.path_info(0)["mtu"]


def stats(conn) -> dict:
    return conn.path_info(0)["stats"]


def connected(
    make_pair, interface: int, *, told: bool = True, path: int = 65_535, **options
) -> tuple[Pair, object, object]:
    p = make_pair(**{"transport": SEARCHING, **options})
    p.to_server.mtu = p.to_client.mtu = path
    for side in p.sides:
        side.set_interface(interface, told=told)
    return p, *p.connect()


def sizes(p: Pair, least: int = 1201) -> list[int]:
    return [len(d.data) for d in p.client.sent if len(d.data) >= least]


# ---------------------------------------------------------------- finding the size
@pytest.mark.parametrize("interface", [1300, 1452, 1472, 4000, 8972, 32_000, 65_487, 65_507])
def test_transfer_uses_what_the_interface_takes(make_pair, interface):
    p, c, s = connected(make_pair, interface)
    transfer(p, c, s, bytes(4 * MB))
    expected = min(interface, 65_487)
    assert mtu(c) == expected
    found = stats(c)
    assert (found["sent_plpmtud_probes"], found["lost_plpmtud_probes"]) == (
        1 if expected <= 8972 else 2,
        0,
    )
    assert found["lost_packets"] == 0 and p.client.refused == 0
    assert max(sizes(p)) == expected


def test_large_probe_waits_until_the_window_has_room(make_pair):
    p, c, s = connected(make_pair, 65_507)
    p.run_for(2 * SECOND)
    assert mtu(c) == 1452, "an idle connection has a window of a few packets"
    transfer(p, c, s, bytes(4 * MB))
    assert mtu(c) == 65_487


def test_nothing_is_probed_before_data_flow(make_pair):
    p = make_pair(transport=SEARCHING)
    for side in p.sides:
        side.set_interface(8972)
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    p.run_for(50 * MS)
    assert sizes(p) == []
    c.close(0, b"")
    p.drive()
    assert sizes(p) == []


@pytest.mark.parametrize("limit", [1300, 1452, 1472, 2000, 9000, 40_000])
def test_never_more_than_the_peer_announces(make_pair, limit):
    peer = calm(mtu_discovery=MtuDiscoveryConfig(upper_bound=limit))
    p, c, s = connected(make_pair, 65_507, server_transport=peer)
    transfer(p, c, s, bytes(4 * MB))
    # One that announces what iroh does is sent no more than iroh sends.
    expected = 1452 if limit <= 1472 else limit
    assert max(sizes(p)) == mtu(c) == expected
    transfer(p, s, c, bytes(4 * MB))
    assert mtu(s) <= limit


def test_own_bound_holds_for_both_directions(make_pair):
    own = calm(mtu_discovery=MtuDiscoveryConfig(upper_bound=4000))
    p, c, s = connected(make_pair, 65_507, transport=own, server_transport=SEARCHING)
    transfer(p, c, s, bytes(2 * MB))
    transfer(p, s, c, bytes(2 * MB))
    assert mtu(c) == mtu(s) == 4000


def test_unknown_interface_is_no_reason_for_large_probes(make_pair):
    p, c, s = connected(make_pair, 0)
    transfer(p, c, s, bytes(2 * MB))
    assert mtu(c) == 1452 and max(sizes(p)) == 1452


@pytest.mark.parametrize("path", [1252, 1372, 1452, 1472, 2000, 4000, 8000])
def test_smaller_path_behind_a_large_interface_costs_few_probes(make_pair, path):
    p, c, s = connected(make_pair, 8972, path=path)
    transfer(p, c, s, bytes(8 * MB), limit=120 * SECOND)
    p.run_for(20 * SECOND)
    assert path - 40 < mtu(c) <= path
    sent = sizes(p, path + 1)
    assert sent.count(8972) <= (1 if path <= 1472 else 3)
    assert len(sent) <= 10
    assert stats(c)["lost_packets"] == 0 and stats(c)["congestion_events"] == 0


def test_lossy_path_still_finds_its_size(make_pair):
    for seed in range(8):
        p = make_pair(seed=seed, transport=SEARCHING)
        for side in p.sides:
            side.set_interface(8972)
        p.to_server.loss = p.to_client.loss = 0.02
        c, s = p.connect()
        transfer(p, c, s, bytes(3 * MB), limit=300 * SECOND)
        p.run_for(30 * SECOND)
        assert mtu(c) >= 8900, seed


# ---------------------------------------------------------------- the interface changes
@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("after", [1300, 1472, 8972])
def test_interface_that_shrinks_is_an_answer_and_no_loss(make_pair, after, told):
    p, c, s = connected(make_pair, 65_507)
    transfer(p, c, s, bytes(4 * MB))
    assert mtu(c) == 65_487
    before = stats(c)
    for side in p.sides:
        side.set_interface(after, told=told)
    transfer(p, c, s, bytes(8 * MB))
    now = stats(c)
    assert after - 40 < mtu(c) <= after if told else 1200 < mtu(c) <= after
    assert p.client.refused
    for name in (
        "lost_packets",
        "congestion_events",
        "lost_plpmtud_probes",
        "black_holes_detected",
    ):
        assert now[name] == before[name], name


def test_interface_without_room_for_the_minimum_does_not_spin(make_pair):
    p, c, s = connected(make_pair, 8972)
    p.client.set_interface(1100)
    send = c.open_stream(True)
    send.write(bytes(20_000))
    p.run_for(5 * SECOND)
    assert p.client.refused < 100


def test_first_packets_larger_than_the_interface_are_answered(make_pair):
    p, c, s = connected(
        make_pair, 1472, transport=calm(initial_mtu=9000, mtu_discovery=MtuDiscoveryConfig())
    )
    transfer(p, c, s, bytes(2 * MB))
    assert mtu(c) == 1472 and stats(c)["lost_packets"] == 0


# ---------------------------------------------------------------- black holes
@pytest.mark.parametrize("large", [2000, 8972, 32_000, 65_487])
@pytest.mark.parametrize("small", [1200, 1372, 1472])
def test_black_hole_for_large_packets_ends_with_what_the_path_carries(make_pair, large, small):
    p, c, s = connected(make_pair, large)
    transfer(p, c, s, bytes(4 * MB))
    assert mtu(c) == large
    p.to_server.mtu = p.to_client.mtu = small
    transfer(p, c, s, bytes(4 * MB), limit=120 * SECOND)
    p.run_for(10 * SECOND)
    assert stats(c)["black_holes_detected"] == 1
    assert min(small, 1452) - 40 < mtu(c) <= small
    # When the path carries them again, large packets come back after the cooldown.
    p.to_server.mtu = p.to_client.mtu = 65_535
    p.run_for(70 * SECOND)
    transfer(p, c, s, bytes(8 * MB), limit=120 * SECOND)
    p.run_for(5 * SECOND)
    transfer(p, c, s, bytes(8 * MB), limit=120 * SECOND)
    assert mtu(c) == large


def test_congestion_is_not_taken_for_a_black_hole(make_pair):
    p, c, s = connected(make_pair, 8972)
    p.to_server.rate, p.to_server.queue = 12_500_000, 60_000
    transfer(p, c, s, bytes(20 * MB), limit=120 * SECOND)
    assert stats(c)["lost_packets"] > 10
    assert stats(c)["black_holes_detected"] == 0 and mtu(c) == 8972


# ---------------------------------------------------------------- datagrams, paths, migration
def test_datagrams_grow_and_shrink_with_the_path(make_pair):
    p, c, s = connected(make_pair, 0, path=1200)
    assert c.max_datagram_size == 1162
    p, c, s = connected(make_pair, 8972)
    transfer(p, c, s, bytes(2 * MB))
    assert c.max_datagram_size == 8972 - 38
    c.send_datagram(bytes(8972 - 38))
    p.drive()
    assert s.read_datagram() == bytes(8972 - 38)
    # What was queued for the large size goes when the size does; what is small enough leaves.
    for side in p.sides:
        side.set_interface(1472)
    for _ in range(3):
        c.send_datagram(bytes(8000))
    p.drive()
    c.send_datagram(b"small")
    p.drive()
    assert c.max_datagram_size <= 1472 - 38
    got = []
    while (d := s.read_datagram()) is not None:
        got.append(d)
    assert got == [b"small"]


def test_migration_starts_from_the_minimum(make_pair):
    from sim import CLIENT

    single = calm(mtu_discovery=MtuDiscoveryConfig(), max_concurrent_multipath_paths=0)
    p, c, s = connected(make_pair, 8972, transport=single)
    transfer(p, s, c, bytes(2 * MB))
    assert mtu(s) == 8972
    moved = ("10.9.0.7", 4321)
    p.to_client.mtu = 1472
    p.rebind(p.client, CLIENT, moved)
    c.ping()
    p.run_for(20 * MS)
    assert s.path_info(0)["remote"] == moved and mtu(s) <= 1472
    transfer(p, s, c, bytes(2 * MB))
    p.run_for(10 * SECOND)
    assert 1430 < mtu(s) <= 1472


def test_unproven_address_gets_no_more_than_three_times_what_it_sent(make_pair):
    from sim import CLIENT

    single = calm(mtu_discovery=MtuDiscoveryConfig(), max_concurrent_multipath_paths=0)
    p, c, s = connected(make_pair, 65_507, transport=single)
    transfer(p, s, c, bytes(4 * MB))
    assert mtu(s) == 65_487
    # Only the port changes, so what is known of the path goes on, but the address has to prove itself.
    moved = (CLIENT[0], 999)
    p.filters.append(lambda d: not d.to_server and d.dst == moved)
    stream = s.open_stream(True)
    stream.write(bytes(500_000))
    p.rebind(p.client, CLIENT, moved)
    at = (len(p.client.sent), len(p.server.sent))
    c.ping()
    p.run_for(30 * MS)
    came = sum(len(d.data) for d in p.client.sent[at[0] :] if d.src == moved)
    went = sum(len(d.data) for d in p.server.sent[at[1] :] if d.dst == moved)
    assert 0 < went <= 3 * came
