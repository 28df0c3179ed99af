"""0-RTT, Retry and address validation tokens of a simulated pair."""

from __future__ import annotations

import pytest
from sim import ALPN, CLIENT, MS, SECOND, SERVER, calm, frames, read_all, transfer

from iroh_fast.errors import StreamClosed, ZeroRttRejected
from iroh_fast.quic.tls.sessions import ServerTicketStore

covers = pytest.mark.covers


@pytest.fixture
def resumable(make_pair):
    """A pair whose client has tickets of an earlier connection, which is over."""

    def make(seed=0, **options):
        p = make_pair(seed, resumption=True, **options)
        c, s = p.connect()
        assert not c.resumed and not s.resumed
        p.run_for(100 * MS)
        c.close(0, b"")
        p.drain()
        p.trace.clear()
        return p

    return make


# ---------------------------------------------------------------- 0-RTT
@covers("noq:zero_rtt_happypath")
@covers("runner:zerortt")
def test_early_data_arrive_with_the_first_flight(resumable):
    p = resumable()
    start, first = p.now, len(p.client.sent)
    c = p.dial()
    assert c.has_0rtt
    stream = c.open_stream(True)
    stream.write(b"early bird")
    stream.finish()
    p.run_for(6 * MS)
    s = p.server.accepted[-1]
    r = s.accept_stream(True)
    assert r.read() == b"early bird"
    assert p.now - start < 10 * MS
    assert "0rtt" in {k for d in p.client.sent[first:] for k in d.kinds}
    r.write(b"worm")
    r.finish()
    p.drive()
    assert c.early_data_accepted is True and s.early_data_accepted is True
    assert c.resumed and s.resumed
    assert stream.read() == b"worm"
    assert stream.send_state == "acked"
    assert not c.has_0rtt


def test_resumption_sends_no_certificate(resumable):
    p = resumable()
    full = sum(len(d.data) for d in p.server.sent if d.has("handshake"))
    before = len(p.server.sent)
    c, s = p.connect()
    assert c.resumed and s.resumed
    assert sum(len(d.data) for d in p.server.sent[before:] if d.has("handshake")) <= full
    assert s.peer_id == p.client.endpoint.identity.public_key
    assert c.peer_id == p.server.endpoint.identity.public_key


def test_early_datagram_arrives(resumable):
    p = resumable()
    c = p.dial()
    c.send_datagram(b"early")
    p.run_for(6 * MS)
    assert p.server.accepted[-1].read_datagram() == b"early"
    p.drive()


@covers("noq:zero_rtt_rejection")
def test_rejected_early_data_are_gone_and_streams_start_anew(resumable):
    p = resumable()
    p.tickets._tickets.clear()  # the server lost its tickets
    c = p.dial()
    assert c.has_0rtt
    early = c.open_stream(True)
    early.write(b"lost")
    p.drive()
    s = p.server.accepted[-1]
    assert c.early_data_accepted is False
    assert not c.resumed
    assert s.accept_stream(True) is None
    with pytest.raises((ZeroRttRejected, StreamClosed)):
        early.write(b"more")
    with pytest.raises((ZeroRttRejected, StreamClosed)):
        early.read()
    again = c.open_stream(True)
    assert again.id == early.id
    assert c.path_info(0)["in_flight"] == 0
    again.write(b"new")
    p.drive()
    assert s.accept_stream(True).read() == b"new"
    assert c.close_reason is None and s.close_reason is None


def test_large_early_data_are_bounded_by_the_window(resumable):
    p = resumable()
    before = len(p.client.sent)
    c = p.dial()
    stream = c.open_stream(False)
    assert stream.write(bytes(100_000)) == 100_000
    stream.finish()
    p.flush()
    assert sum(len(d.data) for d in p.client.sent[before:]) <= 14_000
    p.run_until(lambda: stream.send_state == "acked")
    r = p.server.accepted[-1].accept_stream(False)
    assert read_all(r) == bytes(100_000)


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1), (1, 2, 3)])
def test_lost_early_data_are_sent_again(resumable, lost):
    p = resumable()
    p.drop(True, *lost)
    c = p.dial()
    stream = c.open_stream(False)
    stream.write(bytes(5000))
    stream.finish()
    p.run_until(lambda: stream.send_state == "acked")
    assert read_all(p.server.accepted[-1].accept_stream(False)) == bytes(5000)
    p.drive()
    assert c.path_info(0)["in_flight"] == 0


def test_early_data_before_the_initial_are_kept(resumable):
    p = resumable()
    c = p.dial()
    stream = c.open_stream(False)
    stream.write(bytes(3000))
    stream.finish()
    p.flush()
    held = p.hold(True)
    p.release(held[:1], 5 * MS)
    p.release(held[1:], 0)
    p.run_until(lambda: stream.send_state == "acked")
    assert read_all(p.server.accepted[-1].accept_stream(False)) == bytes(3000)


def test_each_ticket_is_used_once(resumable):
    p = resumable()
    count = len(p.cache._peers)
    assert count == 1
    seen = []
    for _ in range(3):
        c, s = p.connect()
        seen.append(c.resumed)
        c.close(0, b"")
        p.drain()
    assert seen == [True, True, True]


def test_no_early_data_under_another_protocol(resumable):
    p = resumable(alpns=[ALPN, b"other"])
    c = p.dial(alpns=[b"other"])
    assert not c.has_0rtt
    p.drive()
    assert c.alpn == b"other"


@covers("noq:zero_rtt_incoming_buffer_size")
@covers("noq:zero_rtt_incoming_buffer_size_total")
@pytest.mark.parametrize("total", [False, True])
def test_early_data_of_undecided_attempts_are_bounded(resumable, total):
    p = resumable()
    p.server.auto = None
    if total:
        p.server.endpoint.incoming_total = 4000
    else:
        p.server.endpoint.incoming_buffer = 4000
    c = p.dial()
    stream = c.open_stream(False)
    stream.write(bytes(9000))
    stream.finish()
    p.run_for(20 * MS)
    (i,) = p.server.incoming
    p.server.incoming.clear()
    s = p.accept(i)
    p.server.accepted.append(s)
    p.flush()
    r = s.accept_stream(False)
    assert 0 < len(read_all(r)) <= 4000
    p.server.auto = p.accept
    rest = bytearray()

    def done() -> bool:
        rest.extend(read_all(r))
        return stream.send_state == "acked"

    p.run_until(done)


def test_expired_tickets_are_not_offered(resumable):
    p = resumable()
    p.now += 90_000 * SECOND
    c = p.dial()
    assert not c.has_0rtt
    p.drive()
    assert c.handshake_confirmed and not c.resumed


@covers("noq:address_discovery_zero_rtt_accepted")
def test_observed_address_after_accepted_early_data(resumable):
    p = resumable(
        transport=calm(send_observed_address_reports=True, receive_observed_address_reports=True)
    )
    c = p.dial()
    stream = c.open_stream(False)
    stream.write(b"early")
    p.drive()
    s = p.server.accepted[-1]
    assert c.early_data_accepted
    assert frames(c)["observed_addr"] == frames(s)["observed_addr"] == 1
    assert [e[2] for e in c.path_events() if e[0] == "observed"] == [CLIENT]


def test_handshake_with_0rtt_over_heavy_loss(resumable):
    p = resumable(3)
    for link in (p.to_server, p.to_client):
        link.loss, link.burst, link.reorder = 0.3, 3, 0.2
    for _ in range(30):
        c = p.dial()
        stream = c.open_stream(False)
        stream.write(bytes(4000))
        stream.finish()

        def done(c=c, stream=stream) -> bool:
            if c.close_reason:
                p.fail(str(c.close_reason))
            return c.handshake_confirmed and (
                c.early_data_accepted is False or stream.send_state == "acked"
            )

        p.run_until(done, limit=100 * SECOND)
        s = p.server.accepted[-1]
        if c.early_data_accepted:
            assert read_all(s.accept_stream(False)) == bytes(4000)
        c.close(0, b"")
        p.drain()


# ---------------------------------------------------------------- Retry
def retry_first(p):
    seen = []

    def auto(i):
        seen.append(i.validated)
        if not i.validated:
            return i.retry()
        return p.accept(i)

    p.server.auto = auto
    return seen


@covers("noq:stateless_retry")
@covers("runner:retry")
def test_retry_validates_the_address_and_numbers_go_on(make_pair):
    p = make_pair()
    seen = retry_first(p)
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    assert seen == [False, True]
    assert p.server.sent[0].kinds == ["retry"]
    token = p.server.sent[0].data[7 + p.server.sent[0].data[5] + 8 : -16]
    again = p.client.sent[1].data
    assert again[0] & 0xF0 == 0xC0
    assert token in again
    assert p.client.sent[1].dst == SERVER
    s = p.server.accepted[-1]
    p.drive()
    transfer(p, c, s, bytes(20_000))
    # the server need not hold back: the address is proven
    assert s.path_info(0)["validated"]


@covers("noq:stateless_retry")
@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("to_server", [True, False])
def test_retry_with_losses(make_pair, lost, to_server):
    p = make_pair()
    retry_first(p)
    p.drop(to_server, *lost)
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    transfer(p, c, p.server.accepted[-1], bytes(5000))


def test_second_retry_and_forged_retry_are_ignored(make_pair):
    p = make_pair()
    retry_first(p)
    c = p.dial()
    p.run_for(6 * MS)
    retry = p.server.sent[0]
    p.run_for(5 * MS)
    p.inject(False, retry.data, src=SERVER)
    broken = bytearray(retry.data)
    broken[-1] ^= 1
    p.inject(False, bytes(broken), src=SERVER)
    p.run_until(lambda: c.handshake_confirmed)
    assert [d.kinds for d in p.server.sent].count(["retry"]) == 1


def test_forged_retry_before_the_real_answer_is_ignored(make_pair):
    p = make_pair()
    retry_first(p)
    c = p.dial()
    p.flush()
    scid = p.client.sent[0].data[27:35]
    p.inject(
        False, b"\xf0\0\0\0\1\x08" + scid + b"\x08" + bytes(8) + b"token" + bytes(16), src=SERVER
    )
    p.run_until(lambda: c.handshake_confirmed)


@covers("noq:retry_token_expired")
def test_expired_retry_token_is_refused(make_pair):
    p = make_pair()
    seen = retry_first(p)
    c = p.dial()
    p.run_for(6 * MS)
    # the client's second Initial is slow
    p.run_for(5 * MS)
    held = p.hold(True)
    assert held
    p.filters.append(lambda d: d.to_server)
    p.now += 16 * SECOND
    p.filters.clear()
    p.release(held)
    p.run_until(lambda: c.close_reason)
    assert seen == [False]
    assert (c.close_reason.kind, c.close_reason.code) == ("transport_peer", 0x0B)


def test_retry_token_of_another_address_is_refused(make_pair):
    p = make_pair()
    seen = retry_first(p)
    c = p.dial()
    p.run_for(11 * MS)
    p.hold(True)
    at = len(p.server.sent)
    p.inject(True, p.client.sent[1].data, src=("10.6.6.6", 666))
    assert seen == [False]
    assert p.server.sent[at].kinds == ["initial"] and p.server.sent[at].dst == ("10.6.6.6", 666)
    p.run_until(lambda: c.handshake_confirmed)


def test_retry_with_early_data(resumable):
    p = resumable()
    retry_first(p)
    c = p.dial()
    stream = c.open_stream(False)
    stream.write(bytes(5000))
    stream.finish()
    p.run_until(lambda: stream.send_state == "acked")
    assert c.early_data_accepted
    assert read_all(p.server.accepted[-1].accept_stream(False)) == bytes(5000)
    p.drive()
    assert c.path_info(0)["in_flight"] == 0


# ---------------------------------------------------------------- NEW_TOKEN
@covers("noq:use_token")
def test_tokens_of_a_new_token_frame_are_sent_back_in_the_next_initial(make_pair):
    p = make_pair(resumption=True)
    peer = p.server.endpoint.identity.public_key
    p.cache.put_token(peer, b"opaque token of an earlier connection")
    c = p.dial()
    p.flush()
    assert b"opaque token of an earlier connection" in p.client.sent[0].data
    # a server that does not know it treats it as none
    p.drive()
    assert c.handshake_confirmed
    assert p.cache.take_token(peer) is None


def test_unknown_token_still_allows_retry(make_pair):
    p = make_pair(resumption=True)
    seen = retry_first(p)
    p.cache.put_token(p.server.endpoint.identity.public_key, b"x" * 100)
    c = p.dial()
    p.run_until(lambda: c.handshake_confirmed)
    assert seen == [False, True]


def test_store_of_tickets_is_bounded():
    store = ServerTicketStore(2)
    for i in range(5):
        store.put(bytes([i]) * 32, None)
    assert len(store) == 2


def test_retry_is_answered_to_the_address_that_asked(make_pair):
    """A token is bound to the client's address as that server socket saw it: no other gets it."""
    other, second = ("10.0.1.2", 2222), ("10.0.1.1", 1111)
    p = make_pair(3, server_addresses=(SERVER, other), client_addresses=(CLIENT, second))

    def decide(incoming):
        if not incoming.validated:
            incoming.retry()
            return None
        return p.accept(incoming)

    p.server.auto = decide
    send = p.send

    def route(side, src, dst, data, ecn):
        # The kernel sends from another address towards the server's second one.
        if side is p.client and dst == other:
            src = second
        return send(side, src, dst, data, ecn)

    p.send = route
    c = p.dial([SERVER, other])
    p.run_for(500 * MS)
    assert c.handshake_complete, c.close_reason
