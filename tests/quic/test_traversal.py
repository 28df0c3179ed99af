"""NAT traversal between two simulated endpoints: both NATs closed, a relay between them."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import pytest
from sim import MS, SECOND, Address, Datagram, Nat, Pair, calm, frames, transfer

from iroh_fast._packet import encode_frame
from iroh_fast.quic._connection import WAIT_PATHS, QuicConnection

covers = pytest.mark.covers

#: what stands for the relay inside the engine of each side
C_RELAY, S_RELAY = ("10.9.0.1", 12345), ("10.9.0.2", 12345)
C_HOME, S_HOME = ("192.168.1.2", 1111), ("192.168.2.2", 2222)
C_NAT, S_NAT = "198.51.100.1", "203.0.113.1"
C_OUTSIDE, S_OUTSIDE = (C_NAT, 40_000), (S_NAT, 40_000)
PROBE = 35
ADD, REACH, REMOVE = 0x3D7F90, 0x3D7F92, 0x3D7F94
#: offsets of the attempts in microseconds, for a first estimate of 333 ms
SCHEDULE = [0, 33_300, 66_600, 133_200, 266_400, 532_800, 1_065_600, 2_131_200, 4_131_200]


class Homes(NamedTuple):
    """Two endpoints that are connected over a relay, each behind a NAT."""

    pair: Pair
    client: QuicConnection
    server: QuicConnection

    def direct(self, connection: QuicConnection) -> list[Address]:
        """Where the proven paths lead that are not relayed."""
        return [
            remote
            for _, remote, validated, *_ in connection.path_states()
            if validated and not remote[0].startswith("10.9.")
        ]

    def announce(self, client: list[Address], server: list[Address]) -> None:
        self.server.set_nat_addresses(server)
        self.pair.drive()
        self.client.set_nat_addresses(client)
        assert self.client.start_nat_round()

    def probes(self, to_server: bool) -> list[tuple[int, Address]]:
        """When and where probes left."""
        side = self.pair.client if to_server else self.pair.server
        return [(d.sent, d.dst) for d in side.sent if is_probe(d)]


def is_probe(d: Datagram) -> bool:
    return len(d.data) == PROBE and not d.dst[0].startswith("10.9.")


def by_destination(relay: Address, home: Address):
    return lambda dst: relay if dst[0].startswith("10.9.") else home


@pytest.fixture
def homes(make_pair):
    def make(
        client_nat: Nat | None | str = "default",
        server_nat: Nat | None | str = "default",
        **options,
    ) -> Homes:
        pair = make_pair(
            client_addresses=[C_RELAY, C_HOME], server_addresses=[S_RELAY, S_HOME], **options
        )
        pair.client.route = by_destination(C_RELAY, C_HOME)
        pair.server.route = by_destination(S_RELAY, S_HOME)
        pair.client.nat = Nat(C_HOME, C_NAT) if client_nat == "default" else client_nat
        pair.server.nat = Nat(S_HOME, S_NAT) if server_nat == "default" else server_nat
        # As an endpoint's address discovery at its relay leaves them: the first port is in use.
        for side in pair.sides:
            if side.nat is not None:
                side.nat.leave(("10.9.0.9", 7842))
        client, server = pair.connect()
        assert client.has_nat_traversal and server.has_nat_traversal
        return Homes(pair, client, server)

    return make


# ---------------------------------------------------------------- how paths come to be
@covers("noq:test_simple_nat_traveral_opens_path")
def test_two_closed_nats_are_crossed(homes):
    h = homes()
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    took = h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    assert h.direct(h.client) == [S_OUTSIDE]
    assert h.direct(h.server) == [C_OUTSIDE]
    # Over the relay in 5 ms, the first retry, an answer, and the path's own challenge.
    assert took < 100 * MS
    assert h.client.path_info(1)["status"] == "backup"
    assert h.client.path_info(0)["remote"] == S_RELAY  # nothing has migrated
    assert h.server.path_info(0)["remote"] == C_RELAY
    assert frames(h.client)["reach_out"] == 1
    assert frames(h.server)["add_address"] == 1
    transfer(h.pair, h.client, h.server, b"x" * 100_000)


def test_probes_are_small_and_paths_are_proven_by_full_packets(homes):
    h = homes(client_nat=None, server_nat=None)
    before = len(h.pair.client.sent), len(h.pair.server.sent)
    h.announce([C_HOME], [S_HOME])
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    to_server = [len(d.data) for d in h.pair.client.sent[before[0] :] if d.dst == S_HOME]
    to_client = [len(d.data) for d in h.pair.server.sent[before[1] :] if d.dst == C_HOME]
    # The probe, the answer to the other side's, and what proves the path.
    assert to_server[0] == PROBE and to_server[2] == 1200
    assert PROBE in to_client[:2] and to_client[2] == 1200
    marked = [d for d in h.pair.client.sent if is_probe(d) and d.ecn]
    assert marked == []


def test_probes_follow_the_schedule_of_both_roles(homes):
    h = homes()
    h.pair.filters.append(is_probe)
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    started = h.pair.now
    h.pair.run_for(10 * SECOND)
    ours = [(at - started) // 1000 for at, _ in h.probes(True)]
    theirs = [(at - h.probes(False)[0][0]) // 1000 for at, _ in h.probes(False)]
    assert ours == SCHEDULE
    assert theirs == SCHEDULE
    assert h.client.nat_state()["candidates"] == [
        {"addr": S_OUTSIDE, "probes": 9, "answered": False, "barred": False}
    ]
    assert not h.client.nat_state()["probing"] and not h.server.nat_state()["probing"]


@covers("noq:test_nat_traversal_challenge_with_response")
@covers("noq:test_hard_nat_server_opens_path")
def test_hard_nat_of_the_server_is_found_by_the_challenge_beside_the_response(homes):
    """The server's port for the client is another one than it announced; the client is open."""
    h = homes(
        client_nat=Nat(C_HOME, C_NAT, filtering="independent"),
        server_nat=Nat(S_HOME, S_NAT, mapping="dependent"),
    )
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    assert h.direct(h.client) == [(S_NAT, 40_001)]
    assert h.client.nat_addresses() == [S_OUTSIDE]


@covers("noq:test_hard_nat_client_opens_path")
def test_hard_nat_of_the_client_is_found_by_its_probe(homes):
    h = homes(
        client_nat=Nat(C_HOME, C_NAT, mapping="dependent"),
        server_nat=Nat(S_HOME, S_NAT, filtering="independent"),
    )
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    assert h.direct(h.server) == [(C_NAT, 40_001)]


def test_two_hard_nats_stay_relayed(homes):
    h = homes(
        client_nat=Nat(C_HOME, C_NAT, mapping="dependent"),
        server_nat=Nat(S_HOME, S_NAT, mapping="dependent"),
    )
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    h.pair.run_for(10 * SECOND)
    assert h.direct(h.client) == h.direct(h.server) == []
    transfer(h.pair, h.client, h.server, b"x" * 10_000)


# ---------------------------------------------------------------- addresses
def test_server_tells_what_came_and_went(homes):
    h = homes()
    a, b, c = ("198.18.0.1", 1), ("198.18.0.2", 2), ("2001:db8::1", 3)
    h.server.set_nat_addresses([a, b])
    h.pair.drive()
    assert h.client.nat_addresses() == [a, b]
    h.server.set_nat_addresses([c, a])
    h.pair.drive()
    assert [x[:2] for x in h.client.nat_addresses()] == [a, c]
    assert frames(h.server)["add_address"] == 3
    assert frames(h.server)["remove_address"] == 1
    h.server.set_nat_addresses([c, a])
    h.pair.drive()
    assert frames(h.server)["add_address"] == 3


def test_round_needs_an_own_address(homes):
    h = homes()
    h.server.set_nat_addresses([S_OUTSIDE])
    h.pair.drive()
    assert not h.client.start_nat_round()
    assert not h.server.start_nat_round()
    h.client.set_nat_addresses([C_OUTSIDE])
    assert h.client.start_nat_round()
    assert not h.server.start_nat_round()


def test_no_traversal_without_the_peers_consent(make_pair):
    pair = make_pair(server_transport=calm(max_remote_nat_traversal_addresses=0))
    client, server = pair.connect()
    assert not client.has_nat_traversal and not server.has_nat_traversal
    client.set_nat_addresses([C_OUTSIDE])
    server.set_nat_addresses([S_OUTSIDE])
    assert not client.start_nat_round()
    pair.drive()
    assert not frames(server)["add_address"]


# ---------------------------------------------------------------- bounds
def test_probes_to_an_address_are_bounded_over_rounds(homes):
    """A server names a victim; a client that begins a round after each of its changes sends little there."""
    h = homes()
    victim = ("192.0.2.9", 53)
    h.server.set_nat_addresses([victim])
    h.pair.drive()
    h.client.set_nat_addresses([C_OUTSIDE])
    for _ in range(1000):
        h.client.start_nat_round()
        h.pair.run_for(10 * MS)
    sent = len([1 for _, dst in h.probes(True) if dst == victim])
    assert 64 <= sent <= 64 + 8 * 11
    assert h.client.nat_state()["held"] == h.pair.client.endpoint.held_probes > 500


def test_probes_to_a_host_are_bounded_over_its_ports(homes):
    h = homes()
    h.client.set_nat_addresses([C_OUTSIDE])
    for k in range(100):
        h.server.set_nat_addresses([("192.0.2.9", 1 + 32 * k + i) for i in range(32)])
        h.pair.run_for(50 * MS)
        h.client.start_nat_round()
        h.pair.run_for(50 * MS)
    sent = len([1 for _, dst in h.probes(True) if dst[0] == "192.0.2.9"])
    assert 1024 <= sent <= 1024 + 128 * 11


UNFIT = [
    ("0.0.0.0", 5),
    ("0.1.2.3", 5),
    ("224.0.0.251", 5353),
    ("255.255.255.255", 5),
    ("240.0.0.1", 5),
    ("198.51.100.7", 0),
    ("::", 5),
    ("::2", 5),
    ("ff02::fb", 5353),
    ("fe80::1", 5),
    ("fd15:70a:510b::1", 12345),
    ("fd15:70a:510b:1::1", 12345),
    ("fd15:70a:510b:3::1", 12345),
]


def address_frame(kind: int, number: int, addr: Address) -> bytes:
    return encode_frame({"type": kind, "seq" if kind < 0x3D7F92 else "round": number, "addr": addr})


def test_what_nobody_may_be_sent_to_is_counted_and_not_probed(hostile):
    pair, client, peer = hostile(as_client=False)
    client.set_nat_addresses([C_OUTSIDE])
    for seq, addr in enumerate(UNFIT):
        peer.send(address_frame(ADD, seq, addr))
    assert client.nat_addresses() == []
    assert client.nat_state()["refused"] == len(UNFIT)
    assert client.start_nat_round()
    pair.run_for(6 * SECOND)
    assert client.nat_state()["probes"] == 0
    assert client.close_reason is None


def test_own_addresses_and_loopback_are_barred(hostile):
    pair, client, peer = hostile(as_client=False)
    client.set_nat_addresses([C_OUTSIDE])
    peer.send(address_frame(ADD, 0, C_OUTSIDE))
    peer.send(address_frame(ADD, 1, ("127.0.0.1", 22)))
    peer.send(address_frame(ADD, 2, ("::1", 22)))
    peer.send(address_frame(ADD, 3, ("192.168.1.77", 22)))
    assert client.start_nat_round()
    pair.run_for(6 * SECOND)
    assert client.nat_state()["probes"] == 9
    assert [c["barred"] for c in client.nat_state()["candidates"]] == [True, True, True, False]
    # Where loopback is all there is, it is used.
    client.set_nat_addresses([("127.0.0.1", 1111)])
    assert client.start_nat_round()
    pair.run_for(6 * SECOND)
    assert client.nat_state()["probes"] == 9 + 4 * 9


def test_thirty_three_addresses_in_a_round_are_a_violation(hostile):
    pair, server, peer = hostile()
    for i in range(32):
        peer.send(address_frame(REACH, 7, ("198.18.0.1", 1 + i)))
        peer.send(address_frame(REACH, 7, ("198.18.0.1", 1 + i)))
    assert server.close_reason is None
    assert len(server.nat_addresses()) == 32
    # A new round has room for as many again, an old one counts for nothing.
    peer.send(address_frame(REACH, 8, ("198.18.0.2", 1)))
    peer.send(address_frame(REACH, 7, ("198.18.0.1", 99)))
    assert server.nat_addresses() == [("198.18.0.2", 1)]
    for i in range(32):
        peer.send(address_frame(REACH, 8, ("198.18.0.3", 1 + i)))
    assert server.close_reason.code == 0x0A


def test_more_addresses_than_we_take_are_left_out(hostile):
    pair, client, peer = hostile(as_client=False)
    for i in range(5000):
        peer.send(address_frame(ADD, i, ("198.18.0.1", 1 + i)))
    assert len(client.nat_addresses()) == 32
    assert client.nat_state()["refused"] == 5000 - 32
    peer.send(encode_frame({"type": REMOVE, "seq": 3}))
    peer.send(encode_frame({"type": REMOVE, "seq": 4000}))
    peer.send(address_frame(ADD, 7, ("198.18.0.9", 9)))  # another address under a known number
    assert len(client.nat_addresses()) == 31
    assert ("198.18.0.9", 9) in client.nat_addresses()
    assert client.close_reason is None


@pytest.mark.parametrize("as_client", [True, False])
def test_frames_of_the_other_side_are_a_violation(hostile, as_client):
    pair, victim, peer = hostile(as_client=as_client)
    kind = ADD if as_client else REACH
    peer.send(address_frame(kind, 1, ("198.18.0.1", 1)))
    assert victim.close_reason.code == 0x0A


def test_frames_without_agreement_are_a_violation(hostile):
    pair, victim, peer = hostile(transport=calm(max_remote_nat_traversal_addresses=0))
    peer.send(address_frame(REACH, 1, ("198.18.0.1", 1)))
    assert victim.close_reason.code == 0x0A


def test_ipv4_in_ipv6_is_ipv4(hostile):
    pair, client, peer = hostile(as_client=False)
    v4 = address_frame(ADD, 5, ("198.18.0.1", 9))
    v6 = v4[:3] + b"\x91\x05" + bytes(10) + b"\xff\xff" + bytes([198, 18, 0, 1]) + v4[-2:]
    peer.send(v6)
    assert client.nat_addresses() == [("198.18.0.1", 9)]


def test_nobody_else_can_answer_a_probe(hostile):
    """The right token from the wrong address, and the wrong token from the right one, lead nowhere."""
    pair, client, peer = hostile(as_client=False)
    client.set_nat_addresses([C_OUTSIDE])
    peer.send(address_frame(ADD, 0, ("198.18.0.1", 9)))
    client.start_nat_round()
    pair.flush()
    probe = next(d for d in peer.received if d.dst == ("198.18.0.1", 9))
    token = next(f["data"] for f in peer.frames([probe]) if f["type"] == 0x1A)
    peer.send(b"\x1b" + token, src=("198.18.0.2", 9))
    peer.send(b"\x1b" + bytes(8), src=("198.18.0.1", 9))
    assert client.path_ids() == [0] and client.nat_state()["answers"] == 0
    peer.send(b"\x1b" + token, src=("198.18.0.1", 9))
    assert client.path_ids() == [0, 1] and client.nat_state()["answers"] == 1
    # A new round forgets what the last one asked.
    client.start_nat_round()
    client.close_path(1)
    peer.send(b"\x1b" + token, src=("198.18.0.1", 9))
    assert client.path_ids() == [0]


def test_more_than_the_peer_takes_is_not_said(homes):
    h = homes(server_transport=calm(max_remote_nat_traversal_addresses=8))
    many = [("198.18.0.1", 1 + i) for i in range(40)]
    h.client.set_nat_addresses(many)
    h.server.set_nat_addresses(many[::-1])
    h.client.start_nat_round()
    h.pair.drive()
    assert h.server.nat_addresses() == many[:8]
    assert h.client.nat_addresses() == many[::-1][:32]
    assert h.client.close_reason is None and h.server.close_reason is None


# ---------------------------------------------------------------- paths that have to wait
def test_path_waits_for_ids(homes):
    h = homes(client_nat=None, server_nat=None, transport=calm(max_concurrent_multipath_paths=2))
    h.server.set_nat_addresses([S_HOME])
    h.pair.drive()
    extra = h.client.open_path(("10.9.7.7", 1), None, True)  # nobody is there
    h.client.set_nat_addresses([C_HOME])
    h.client.start_nat_round()
    h.pair.run_for(300 * MS)
    assert h.client.path_ids() == [0, extra]
    assert h.client.nat_state()["waiting"] == [S_HOME]
    h.client.close_path(extra)
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    assert h.client.nat_state()["waiting"] == []


@covers("noq:nat_traversal_revalidates_existing_path")
def test_round_over_an_open_path_opens_no_second_one(homes):
    h = homes()
    h.announce([C_OUTSIDE], [S_OUTSIDE])
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    h.pair.drive()
    answers = h.client.nat_state()["answers"]
    assert h.client.start_nat_round()
    h.pair.drive()
    assert h.client.nat_state()["answers"] > answers
    assert h.client.path_ids() == [0, 1]


@covers("noq:test_peer_may_probe")
def test_probes_migrate_nothing(homes):
    h = homes(client_nat=None, server_nat=None)
    h.pair.filters.append(lambda d: not d.to_server and d.dst == C_HOME)
    h.announce([C_HOME], [S_HOME])
    h.pair.run_for(5 * SECOND)
    assert len([1 for _, dst in h.probes(True) if dst == S_HOME]) == 9
    assert h.server.path_remote(0) == C_RELAY


def test_lost_announcements_are_repeated_and_old_rounds_are_not(homes):
    h = homes()
    h.server.set_nat_addresses([S_OUTSIDE])
    h.pair.drive()
    h.client.set_nat_addresses([C_OUTSIDE])
    h.pair.drop(True, count=3)
    h.client.start_nat_round()
    h.pair.flush()
    h.client.start_nat_round()
    h.pair.run_until(lambda: h.direct(h.client) and h.direct(h.server))
    assert h.server.nat_state()["round"] == 2
    assert frames(h.server, "frame_rx")["reach_out"] == 1


def test_addresses_that_change_faster_than_the_peer_hears(homes):
    """Nothing grows, and the peer knows the present ones when it hears again."""
    h = homes()
    h.pair.filters.append(lambda d: not d.to_server)
    for k in range(200):
        h.server.set_nat_addresses([("198.18.0.1", 1 + 32 * k + i) for i in range(32)])
        h.pair.run_for(5 * MS)
    h.pair.filters.clear()
    h.pair.run_for(10 * SECOND)
    assert h.client.close_reason is None and h.server.close_reason is None
    assert h.client.nat_addresses() == h.server.nat_state()["own"]


# ---------------------------------------------------------------- how soon
def test_data_take_the_direct_path_with_the_answer_to_a_probe(homes):
    """Both sides have a proof of the other's address then: neither waits for the path's own challenge."""
    h = homes(client_nat=None, server_nat=None, latency=20 * MS)
    h.server.set_nat_addresses([S_HOME])
    h.pair.drive()
    h.client.set_nat_addresses([C_HOME])
    start = h.pair.now
    assert h.client.start_nat_round()
    h.pair.run_until(lambda: h.direct(h.client))
    assert h.pair.now - start == 40 * MS  # there and back
    assert h.client.path_rtt(1) == pytest.approx(0.04)
    h.pair.run_until(lambda: h.direct(h.server))
    assert h.pair.now - start == 60 * MS  # ... and there
    assert h.server.path_rtt(1) == pytest.approx(0.04)


def test_path_that_carries_small_packets_only_carries_no_data(homes):
    h = homes(client_nat=None, server_nat=None)
    h.announce([C_HOME], [S_HOME])
    h.pair.filters.append(
        lambda d: len(d.data) > 1100 and (d.dst in (S_HOME, C_HOME) or d.src in (S_HOME, C_HOME))
    )
    h.pair.run_until(lambda: h.direct(h.client))
    h.client.set_path_status(0, False)
    h.client.set_path_status(1, True)
    taken = transfer(h.pair, h.client, h.server, b"x" * 3_000_000)
    # The relay's path alone needs half a second for it: the other one costs a few probe timeouts, not one each round.
    assert taken < 3 * SECOND


def test_answer_that_comes_after_the_path_proves_it(homes):
    """The client's path overtakes its answer to the server's probe by a moment."""
    h = homes(client_nat=None, server_nat=None, latency=20 * MS)
    h.server.set_nat_addresses([S_HOME])
    h.pair.drive()
    h.client.set_nat_addresses([C_HOME])

    def late(d):
        if d.dst == S_HOME and not is_probe(d):  # the answer, just before the path's challenge
            h.pair.filters.remove(late)
            h.pair.order += 1
            heapq.heappush(h.pair.flying, (h.pair.now + 22 * MS, h.pair.order, d))
            return True
        return False

    h.pair.filters.append(late)
    start = h.pair.now
    assert h.client.start_nat_round()
    h.pair.run_until(lambda: h.direct(h.server))
    assert late not in h.pair.filters
    assert h.pair.now - start == 62 * MS


def test_own_change_of_status_wakes_who_follows_the_paths(homes):
    h = homes()
    h.client.poll_events()
    h.client.set_path_status(0, True)
    assert not h.client.poll_events()[0] & 1 << WAIT_PATHS
    h.client.set_path_status(0, False)
    assert h.client.poll_events()[0] & 1 << WAIT_PATHS
