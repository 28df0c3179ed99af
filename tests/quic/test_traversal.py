"""NAT traversal between two simulated endpoints: both NATs closed, a relay between them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from sim import MS, SECOND, Address, Datagram, Nat, Pair, calm, frames, transfer

from iroh_fast.quic._connection import QuicConnection

covers = pytest.mark.covers

#: what stands for the relay inside the engine of each side
C_RELAY, S_RELAY = ("10.9.0.1", 12345), ("10.9.0.2", 12345)
C_HOME, S_HOME = ("192.168.1.2", 1111), ("192.168.2.2", 2222)
C_NAT, S_NAT = "198.51.100.1", "203.0.113.1"
C_OUTSIDE, S_OUTSIDE = (C_NAT, 40_000), (S_NAT, 40_000)
PROBE = 35
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
