"""Handshakes of a simulated pair: versions, loss in every flight, admission, ALPN, closing early."""

from __future__ import annotations

import pytest
from sim import ALPN, CLIENT, MS, SECOND, SERVER, Pair, calm, frames, kinds, read_all, transfer

from iroh_fast._crypto import PacketProtection
from iroh_fast.errors import ConnectionLost, IrohError

covers = pytest.mark.covers

CRYPTO_ERROR = 0x100
BAD_CERTIFICATE_KINDS = {0x100 + n for n in (40, 42, 48, 51, 116)}
NO_APPLICATION_PROTOCOL = 0x178


def sent_kinds(side, since=0):
    return ["+".join(d.kinds) for d in side.sent[since:]]


@covers("noq:lifecycle")
def test_lifecycle_close_reaches_the_peer_and_nothing_is_left(make_pair):
    p = make_pair()
    c, s = p.connect()
    assert c.peer_id == p.server.endpoint.identity.public_key
    assert s.peer_id == p.client.endpoint.identity.public_key
    assert c.alpn == s.alpn == ALPN
    c.close(42, b"whee")
    p.drive()
    assert c.close_reason.kind == "locally_closed"
    assert not c.close_reason.by_peer
    assert (s.close_reason.kind, s.close_reason.code, s.close_reason.reason) == (
        "application",
        42,
        b"whee",
    )
    assert s.close_reason.by_peer
    assert c.drained and s.drained
    p.check_forgotten()
    with pytest.raises(ConnectionLost):
        c.open_stream(True)


@covers("noq:handshake")
def test_handshake_takes_the_expected_datagrams(make_pair):
    p = make_pair()
    c, s = p.connect()
    assert sent_kinds(p.client)[:2] == ["initial", "initial+handshake+short"]
    assert sent_kinds(p.server)[0] == "initial+handshake"
    assert len(p.client.sent[0].data) == 1200
    assert len(p.server.sent[0].data) >= 1200
    # nobody sends Initial or Handshake packets once the keys are gone
    assert all(k == "short" for k in sent_kinds(p.client)[2:] + sent_kinds(p.server)[1:])
    assert frames(c, "frame_rx")["handshake_done"] == 1
    assert frames(s)["crypto"] == 2
    assert c.stats()["lost_packets"] == s.stats()["lost_packets"] == 0
    assert c.path_info(0)["in_flight"] == s.path_info(0)["in_flight"] == 0


@covers("noq:high_latency_handshake")
def test_handshake_over_high_latency(make_pair):
    p = make_pair(latency=200 * MS)
    c, s = p.connect()
    assert c.path_info(0)["in_flight"] == s.path_info(0)["in_flight"] == 0
    assert c.path_info(0)["rtt"] == pytest.approx(0.4, rel=0.02)
    # The server knows the round trip after the handshake as well.
    assert s.path_info(0)["rtt"] == pytest.approx(0.4, rel=0.1)
    before = len(p.client.sent)
    transfer(p, c, s, b"ping")
    assert all(d.ecn == 2 for d in p.client.sent[before : before + 1])


@covers("runner:longrtt")
def test_handshake_over_very_long_round_trip(make_pair):
    p = make_pair(latency=750 * MS)
    c, s = p.connect()
    assert transfer(p, c, s, b"x" * 1000, bidi=True) < 10 * SECOND
    assert len(p.server.accepted) == 1


@covers("noq:initial_retransmit")
def test_lost_initial_is_sent_again_after_the_initial_pto(make_pair):
    p = make_pair()
    p.drop(True, 0)
    c, s = p.connect()
    again = [d for d in p.client.sent if d.has("initial") and not d.has("handshake")]
    assert len(again) >= 2
    # PTO of 3 × 333 ms: smoothed + 4 × half
    assert again[1].sent - again[0].sent == 999 * MS


@covers("noq:server_hs_retransmit")
def test_lost_server_flight_is_sent_again(make_pair):
    p = make_pair()
    p.drop(False, 0)
    c, s = p.connect()
    flights = [d for d in p.server.sent if d.has("initial")]
    assert len(flights) >= 2
    assert flights[1].sent - flights[0].sent <= 1000 * MS


@covers("noq:initial_tail_loss_probe")
@pytest.mark.parametrize("lost", range(1, 7))
def test_losing_the_first_datagrams_of_the_client_only_delays(make_pair, lost):
    p = make_pair()
    p.drop(True, *range(lost))
    c, s = p.connect()
    assert transfer(p, c, s, b"after all") < 10 * SECOND


@pytest.mark.parametrize("lost", range(1, 7))
def test_losing_the_first_datagrams_of_the_server_only_delays(make_pair, lost):
    p = make_pair()
    p.drop(False, *range(lost))
    c, s = p.connect()
    assert transfer(p, s, c, b"after all") < 10 * SECOND


@pytest.mark.parametrize("side", [True, False])
@pytest.mark.parametrize("number", range(1, 5))
def test_losing_one_datagram_of_the_handshake_only_delays(make_pair, side, number):
    p = make_pair()
    p.drop(side, number)
    c, s = p.connect()
    assert c.path_info(0)["in_flight"] == s.path_info(0)["in_flight"] == 0
    transfer(p, c, s, b"up")
    transfer(p, s, c, b"down")


@covers("noq:handshake_anti_deadlock_probe")
def test_client_probes_when_the_server_is_blocked_by_amplification(make_pair):
    """The server's flight is lost; it may send no more until the client speaks again."""
    p = make_pair()
    dark = [True]
    p.filters.append(lambda d: dark[0] and not d.to_server)
    c = p.dial()
    p.run_for(500 * MS)
    received = sum(len(d.data) for d in p.client.sent)
    assert sum(len(d.data) for d in p.server.sent) <= 3 * received + 1200
    dark[0] = False
    p.run_until(lambda: c.handshake_confirmed, limit=5 * SECOND)


@covers("runner:amplificationlimit")
def test_server_stays_within_three_times_what_it_received(make_pair):
    p = make_pair()
    p.filters.append(lambda d: d.to_server and d.number > 0)
    p.dial()
    p.run_for(20 * SECOND)
    got = len(p.client.sent[0].data)
    out = sum(len(d.data) for d in p.server.sent)
    # a datagram may be started while any of the limit is left
    assert 1200 <= out <= 3 * got + 1200
    assert all(len(d.data) >= 1200 for d in p.server.sent if d.has("initial"))


@covers("noq:handshake_1rtt_handling")
@pytest.mark.parametrize("forged", [0, 10], ids=["alone", "after-forged-large-ones"])
def test_early_one_rtt_packets_are_kept_until_their_keys_exist(make_pair, forged):
    """The client's Finished comes after its 1-RTT data: no retransmission is needed.

    Datagrams that nobody can check yet take no room beyond what honest ones need.
    """
    p = make_pair(transport=calm(initial_mtu=1452))
    p.dial()
    p.run_until(
        lambda: (
            p.client.endpoint.connections
            and next(iter(p.client.endpoint.connections.values())).handshake_complete
        )
    )
    (c,) = p.client.endpoint.connections.values()
    stream = c.open_stream(False)
    stream.write(bytes(10_000))
    stream.finish()
    # what is in the network now carries the Finished: hold that, let the data overtake
    held = p.hold(True)
    assert any(x[2].has("handshake") for x in held)
    (s,) = p.server.accepted
    sent = len(p.client.sent)
    p.flush()
    early = p.client.sent[sent:]
    assert len(early) >= 7 and all(d.kinds == ["short"] for d in early)
    for _ in range(forged):
        p.inject(True, early[0].data[:9] + bytes(65_000))
    p.run_for(6 * MS)
    assert not s.handshake_complete
    p.release(held)
    p.flush()
    p.run_for(6 * MS)
    r = s.accept_stream(False)
    assert r is not None
    assert len(read_all(r)) == 10_000


@covers("runner:handshakeloss")
def test_fifty_connections_over_heavy_loss_in_bursts(make_pair):
    p = make_pair(7, latency=15 * MS)
    for link in (p.to_server, p.to_client):
        link.loss, link.burst = 0.3, 3
    for _ in range(50):
        c = p.dial()
        p.run_until(lambda c=c: c.handshake_confirmed, limit=60 * SECOND)
        count = len(p.server.accepted)
        transfer(p, c, p.server.accepted[-1], b"k" * 1024)
        c.close(0, b"")
        p.run_until(
            lambda: not p.client.endpoint.connections and not p.server.endpoint.connections,
            limit=200 * SECOND,
        )
        assert len(p.server.accepted) == count
    assert p.now < 10**12 + 300 * SECOND + 50 * 30 * SECOND


@covers("runner:handshakecorruption")
def test_connections_over_heavy_corruption(make_pair):
    p = make_pair(8, latency=15 * MS)
    p.to_server.corrupt = p.to_client.corrupt = 0.3
    for _ in range(20):
        c = p.dial()
        p.run_until(lambda c=c: c.handshake_confirmed, limit=60 * SECOND)
        transfer(p, c, p.server.accepted[-1], b"k" * 1024)
        c.close(0, b"")
        p.run_until(lambda: not p.client.endpoint.connections, limit=60 * SECOND)
    p.to_server.corrupt = p.to_client.corrupt = 0


def test_duplicated_and_reordered_handshake(make_pair):
    p = make_pair(9)
    for link in (p.to_server, p.to_client):
        link.duplicate, link.reorder, link.reorder_by = 1.0, 0.5, 30 * MS
    c, s = p.connect()
    assert len(p.server.accepted) == 1
    transfer(p, c, s, bytes(50_000))


# ---------------------------------------------------------------- versions
@covers("noq:version_negotiate_server")
def test_unknown_version_is_answered_with_a_list(make_pair):
    p = make_pair()
    packet = b"\x80\x0a\x1a\x2a\x3a" + b"\x04" + bytes(4) + b"\x00" + bytes(1189)
    p.inject(True, b"\xc0" + packet[1:], src=CLIENT)
    (answer,) = p.server.sent
    data = answer.data
    assert data[0] & 0x80 and data[1:5] == bytes(4)
    assert data[5] == 0  # their source id is our destination
    assert data[6] == 4
    versions = [data[i : i + 4] for i in range(11, len(data), 4)]
    assert b"\0\0\0\1" in versions
    assert any(all(b & 0x0F == 0x0A for b in v) and v != b"\x0a\x1a\x2a\x3a" for v in versions)
    assert p.server.endpoint.known_ids() == 0


@covers("noq:version_negotiate_client")
def test_client_fails_when_its_version_is_not_offered(make_pair):
    p = make_pair()
    c = p.dial()
    p.flush()
    initial = p.client.sent[0].data
    dcid, scid = initial[6:26], initial[27:35]
    p.lose_flying(True)
    p.inject(False, b"\xc0\0\0\0\0" + b"\x08" + scid + b"\x14" + dcid + b"\x0a\x1a\x2a\x3a")
    assert c.close_reason.kind == "version_mismatch"
    assert c.drained


def test_version_negotiation_that_lists_ours_is_ignored(make_pair):
    p = make_pair()
    c = p.dial()
    p.flush()
    initial = p.client.sent[0].data
    p.inject(
        False, b"\xc0\0\0\0\0" + b"\x08" + initial[27:35] + b"\x14" + initial[6:26] + b"\0\0\0\1"
    )
    p.drive()
    assert c.handshake_confirmed


def test_late_version_negotiation_is_ignored(make_pair):
    p = make_pair()
    c, s = p.connect()
    initial = p.client.sent[0].data
    p.inject(
        False,
        b"\xc0\0\0\0\0" + b"\x08" + initial[27:35] + b"\x14" + initial[6:26] + b"\x0a\x1a\x2a\x3a",
    )
    assert c.close_reason is None


# ---------------------------------------------------------------- identities and ALPN
@covers("noq:reject_self_signed_server_cert")
def test_wrong_server_identity_fails_the_handshake_on_both_sides(make_pair):
    p = make_pair()
    c = p.dial(expected_peer=p.client.endpoint.identity.public_key)
    p.drive()
    assert c.close_reason.kind == "transport_local"
    assert c.close_reason.code & ~0xFF == CRYPTO_ERROR
    (s,) = p.server.accepted
    assert s.close_reason.kind == "transport_peer"
    assert s.close_reason.code == c.close_reason.code
    assert not s.handshake_complete


@covers("noq:alpn_success")
def test_alpn_prefers_the_servers_order(make_pair):
    p = make_pair(alpns=[b"a", b"b", b"c"], server_alpns=[b"x", b"c", b"b"])
    c, s = p.connect()
    assert c.alpn == s.alpn == b"c"


@covers("noq:alpn_mismatch")
@covers("noq:server_alpn_unset")
@pytest.mark.parametrize("ours", [[b"other"], []])
def test_alpn_mismatch_fails_both_sides(make_pair, ours):
    p = make_pair(server_alpns=ours)
    c = p.dial()
    p.drive()
    (s,) = p.server.accepted
    assert (s.close_reason.kind, s.close_reason.code) == (
        "transport_local",
        NO_APPLICATION_PROTOCOL,
    )
    assert (c.close_reason.kind, c.close_reason.code) == ("transport_peer", NO_APPLICATION_PROTOCOL)
    assert c.close_reason.by_peer


@covers("noq:incoming_alpns")
def test_incoming_shows_the_offered_protocols_before_the_decision(make_pair):
    p = make_pair(alpns=[b"one", b"two"])
    seen = []

    def auto(i):
        seen.append((i.alpns, i.remote, i.local, i.validated))
        return p.accept(i)

    p.server.auto = auto
    p.connect()
    assert seen == [([b"one", b"two"], CLIENT, SERVER, False)]


@covers("noq:export_keying_material")
def test_keying_material_is_equal_and_bound_to_label_and_context(make_pair):
    p = make_pair()
    c, s = p.connect()
    assert c.tls.export_keying_material(b"label", b"context", 64) == s.tls.export_keying_material(
        b"label", b"context", 64
    )
    values = {
        c.tls.export_keying_material(label, context, 64)
        for label in (b"a", b"b")
        for context in (b"1", b"2")
    }
    assert len(values) == 4


# ---------------------------------------------------------------- admission
@covers("noq:reject_manually")
def test_refused_connection_gets_the_code_and_leaves_nothing(make_pair):
    p = make_pair()

    def refuse(i):
        i.refuse()
        with pytest.raises(IrohError):
            i.accept([ALPN], p.server.transport, p.now)

    p.server.auto = refuse
    c = p.dial()
    p.drive()
    assert (c.close_reason.kind, c.close_reason.code) == ("transport_peer", 0x02)
    assert p.server.endpoint.known_ids() == 0
    assert p.server.endpoint.counters["refused_handshakes"] == 1
    assert sent_kinds(p.server) == ["initial"]


@covers("noq:validate_then_reject_manually")
def test_retried_then_refused(make_pair):
    p = make_pair()
    seen = []

    def auto(i):
        seen.append(i.validated)
        i.refuse() if i.validated else i.retry()

    p.server.auto = auto
    c = p.dial()
    p.drive()
    assert seen == [False, True]
    assert (c.close_reason.kind, c.close_reason.code) == ("transport_peer", 0x02)


@covers("noq:silently_drop_rejected_initials")
def test_ignored_connection_hears_nothing_and_times_out(make_pair):
    p = make_pair()
    p.server.auto = lambda i: i.ignore()
    c = p.dial()
    p.drive(quiet=40 * SECOND)
    assert p.server.sent == []
    assert c.close_reason.kind == "timed_out"
    assert p.server.endpoint.counters["ignored_handshakes"] >= 2
    assert p.server.endpoint.known_ids() == 0


def test_ignored_first_attempt_then_accepted(make_pair):
    p = make_pair()
    calls = []

    def auto(i):
        calls.append(i)
        return i.ignore() if len(calls) == 1 else p.accept(i)

    p.server.auto = auto
    p.connect()
    assert len(calls) == 2


@covers("noq:reject_short_idcid")
def test_initial_with_a_short_destination_id_is_refused(make_pair):
    p = make_pair()
    c = p.dial()
    p.flush()
    p.lose_flying(True)
    d = p.client.sent[0].data
    short = d[:5] + b"\x07" + d[6:13] + d[26:] + bytes(13)
    p.inject(True, short, src=CLIENT)
    assert p.server.endpoint.known_ids() == 0
    assert sent_kinds(p.server) == ["initial"]
    p.lose_flying(False)
    p.drive()
    assert c.handshake_confirmed


@covers("noq:malformed_token_len")
@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8) + b"\xff" * 8 + bytes(1180),
        b"\xc0\0\0\0\1\x08" + bytes(8) + b"\x08" + bytes(8) + b"\x7f\xff" + bytes(1190),
        b"\xc0\0\0\0\1\xff" + bytes(1200),
        b"\xc0\0\0\0\1",
        b"\xff" * 1200,
        b"\x40" * 21,
        b"",
    ],
)
def test_garbage_makes_no_attempt(make_pair, data):
    p = make_pair()
    p.inject(True, data, src=CLIENT)
    assert p.server.incoming == []
    assert p.server.endpoint.known_ids() == 0


def test_small_initial_datagrams_are_ignored(make_pair):
    p = make_pair()
    p.dial()
    p.flush()
    p.lose_flying(True)
    p.inject(True, p.client.sent[0].data[:1199], src=CLIENT)
    assert p.server.incoming == [] and p.server.sent == []
    p.drive()


def test_initial_that_does_not_authenticate_is_no_attempt(make_pair):
    p = make_pair()
    p.dial()
    p.flush()
    p.lose_flying(True)
    broken = bytearray(p.client.sent[0].data)
    broken[-1] ^= 1
    p.inject(True, bytes(broken), src=CLIENT)
    assert p.server.incoming == []
    p.drive()


def test_no_connection_while_the_endpoint_refuses_new_ones(make_pair):
    p = make_pair()
    p.server.endpoint.accepting = False
    c = p.dial()
    p.run_for(500 * MS)
    assert p.server.sent == [] and p.server.endpoint.known_ids() == 0
    p.server.endpoint.accepting = True
    p.drive()
    assert c.handshake_confirmed


def test_pending_incomings_are_limited(make_pair):
    p = make_pair()
    p.server.auto = None
    p.server.endpoint.max_incoming = 3
    for _ in range(5):
        p.dial()
    p.run_for(10 * MS)
    assert len(p.server.incoming) == 3
    assert p.server.endpoint.counters["dropped_datagrams"] == 2
    for i in p.server.incoming:
        i.ignore()
    assert p.server.endpoint.known_ids() == 0
    p.server.incoming.clear()
    p.server.auto = lambda i: i.ignore()


@covers("noq:connect_too_low_mtu")
def test_handshake_fails_when_the_path_takes_less_than_1200_bytes(make_pair):
    p = make_pair()
    p.to_server.mtu = 1199
    c = p.dial()
    p.drive(quiet=40 * SECOND)
    assert c.close_reason.kind == "timed_out"
    p.to_server.mtu = 65535


# ---------------------------------------------------------------- several addresses
def test_dialing_tries_every_candidate_address(make_pair):
    dead = ("10.9.9.9", 9)
    p = make_pair()
    c, s = p.connect(to=[dead, SERVER])
    assert c.path_info(0)["remote"] == SERVER
    assert {d.dst for d in p.client.sent[:2]} == {dead, SERVER}
    before = len(p.client.sent)
    transfer(p, c, s, b"x" * 5000)
    assert {d.dst for d in p.client.sent[before:]} == {SERVER}


# ---------------------------------------------------------------- closing early
@covers("noq:instant_close_1")
def test_closing_before_anything_was_sent(make_pair):
    p = make_pair()
    c = p.dial()
    c.close(9, b"never mind")
    p.run_until(lambda: c.drained)
    for s in p.server.accepted:
        assert s.close_reason.kind == "transport_peer" and s.close_reason.code == 0x0C
    p.drain()


@covers("noq:instant_close_2")
def test_closing_while_the_handshake_runs(make_pair):
    p = make_pair()
    c = p.dial()
    p.flush()
    c.close(9, b"secret reason")
    p.run_until(lambda: c.drained)
    p.drive()
    (s,) = p.server.accepted
    # RFC 9000 §10.2.3: codes and reasons of applications are not for the handshake
    assert (s.close_reason.kind, s.close_reason.code, s.close_reason.reason) == (
        "transport_peer",
        0x0C,
        b"",
    )
    p.drain()


def test_dial_that_nobody_answered_ends_at_once(make_pair):
    """Nobody can have packets under way to it: there is nothing to drain."""
    p = make_pair()
    p.filters.append(lambda d: d.to_server)
    c = p.dial()
    p.run_for(3 * SECOND)
    mark = len(p.client.sent)
    c.close()
    assert p.run_until(lambda: c.drained) == 0
    assert [d.kinds for d in p.client.sent[mark:]] == [["initial"]], (
        "the close is sent all the same"
    )
    assert p.client.endpoint.known_ids() == 0


@covers("noq:instant_server_close")
def test_server_closes_at_once(make_pair):
    p = make_pair()

    def auto(i):
        s = p.accept(i)
        s.close(42, b"no")
        return s

    p.server.auto = auto
    c = p.dial()
    p.drive()
    assert c.close_reason.by_peer
    assert (c.close_reason.kind, c.close_reason.code) in {
        ("transport_peer", 0x0C),
        ("application", 42),
    }
    p.drain()


def test_handshake_times_out_when_the_server_falls_silent(make_pair):
    p = make_pair(transport=calm(max_idle_timeout=10.0))
    c = p.dial()
    p.filters.append(lambda d: not d.to_server)
    start = p.now
    p.run_until(lambda: c.close_reason, limit=60 * SECOND)
    assert c.close_reason.kind == "timed_out"
    assert 10 * SECOND <= p.now - start <= 20 * SECOND
    # probes back off but go on
    assert 5 <= len(p.client.sent) <= 40
    p.run_until(lambda: not p.server.endpoint.connections, limit=60 * SECOND)


def test_two_connections_between_the_same_endpoints_are_independent(make_pair):
    p = make_pair()
    a, b = p.connect()
    c, d = p.connect()
    a.close(1, b"")
    p.drive()
    assert c.close_reason is None and d.close_reason is None
    transfer(p, c, d, bytes(10_000))


def test_same_seed_gives_the_same_bytes():
    runs = []
    for _ in range(2):
        p = Pair(5)
        p.to_server.loss = p.to_client.loss = 0.1
        c, s = p.connect()
        transfer(p, c, s, bytes(100_000))
        runs.append([(d.sent, d.data) for side in p.sides for d in side.sent])
        p.close()
    assert runs[0] == runs[1]


def test_kinds_reads_coalesced_packets(make_pair):
    p = make_pair()
    p.connect()
    assert kinds(p.client.sent[1].data) == ["initial", "handshake", "short"]


def test_a_dial_that_cannot_start_leaves_nothing(make_pair):
    p = make_pair(0)
    ep, options = p.client.endpoint, {"transport": p.client.transport, "now": p.now}
    for remote, alpn in ((("no address", 1), b"x"), (SERVER, "text")):
        with pytest.raises((ValueError, TypeError, OSError)):
            ep.connect([remote], expected_peer=bytes(32), alpns=[alpn], **options)
        assert ep.known_ids() == 0
        assert not ep.connections


def handshake_pings(lines, p, number):
    """Handshake packets of the client with a PING, which it is able to make but does not send."""
    secret = next(line for line in lines if line.startswith("CLIENT_HANDSHAKE")).split()[2]
    suite = 0x1301 if len(secret) == 64 else 0x1302
    keys = PacketProtection(suite, bytes.fromhex(secret))
    data = p.server.sent[0].data
    client_id = data[6 : 6 + data[5]]
    server_id = data[7 + len(client_id) : 15 + len(client_id)]
    for pn in range(1000, 1000 + number):
        header = b"\xe3\0\0\0\1\x08" + server_id + bytes([len(client_id)]) + client_id
        header += (0x4000 | 4 + 20 + 16).to_bytes(2, "big") + pn.to_bytes(4, "big")
        sealed = keys.seal(0, pn, header, b"\1" + bytes(19))
        mask = keys.header_mask(sealed[:16])
        number_at = len(header) - 4
        masked = bytes(a ^ b for a, b in zip(header[number_at:], mask[1:5], strict=True))
        yield bytes([header[0] ^ mask[0] & 15]) + header[1:number_at] + masked + sealed


@pytest.mark.parametrize(("idle", "limit"), [(None, 60), (1e6, 60), (30, 30), (2, 10)])
def test_half_open_handshake_ends_however_lively_the_client_is(make_pair, idle, limit):
    lines = []
    p = make_pair(transport=calm(max_idle_timeout=idle), client_options={"keylog": lines.append})
    p.verbose = False
    p.dial()
    p.filters.append(lambda d: d.to_server and d.has("handshake"))
    p.run_for(40 * MS)
    server, began = p.server.accepted[0], p.now
    for packet in handshake_pings(lines, p, 100):
        p.inject(True, packet)
        p.run_for(SECOND)
        if server.close_reason is not None:
            break
    assert server.close_reason.kind == "timed_out"
    assert (p.now - began) / SECOND == pytest.approx(limit, abs=1.5)
    assert p.server.endpoint.known_ids() == 0


def test_long_candidate_lists_get_a_few_copies_per_flight(make_pair):
    p = make_pair()
    p.verbose = False
    addresses = [(f"10.0.1.{n}", 1000) for n in range(200)]
    c = p.dial(to=addresses)
    p.flush()
    first = [d.dst for d in p.client.sent]
    assert len(first) == len(set(first)) == 16
    p.run_for(12 * SECOND)
    flights = len(p.client.sent) / 16
    assert flights <= 16  # 16 copies of 1,200 bytes per probe, whatever the length of the list
    reached = {d.dst for d in p.client.sent}
    assert 32 < len(reached) <= 64
    c.close(0, b"")


def test_server_behind_any_of_many_candidates_is_reached(make_pair):
    p = make_pair()
    p.verbose = False
    c = p.dial(to=[*((f"10.0.1.{n}", 1000) for n in range(40)), SERVER])
    p.run_until(lambda: c.handshake_confirmed)
