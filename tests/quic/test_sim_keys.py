"""Key updates, connection ids, stateless resets and the end of simulated connections."""

from __future__ import annotations

import pytest
from sim import CLIENT, MS, SECOND, SERVER, Pair, Transfer, calm, frames, transfer

from iroh_fast._crypto import PacketProtection
from iroh_fast.errors import ConnectionLost, IrohError

covers = pytest.mark.covers
SUITES = {32: 0x1301, 48: 0x1302}  # by the length of their secrets


def key_phase(p, lines, client):
    """The phase bit of the last 1-RTT packet of one side, as an observer with its secret sees it."""
    label = ("CLIENT" if client else "SERVER") + "_TRAFFIC_SECRET_0"
    secret = next(bytes.fromhex(line.split()[2]) for line in lines if line.startswith(label))
    sent = (p.client if client else p.server).sent
    packet = next(d.data for d in reversed(sent) if not d.data[0] & 0x80)
    # Keys of header protection outlive key updates (RFC 9001 §6).
    mask = PacketProtection(SUITES[len(secret)], secret).header_mask(packet[13:29])
    return bool((packet[0] ^ mask[0]) & 4)


# ---------------------------------------------------------------- key updates
@covers("noq:key_update_simple")
@pytest.mark.parametrize("by_client", [True, False])
def test_key_update_is_followed(make_pair, by_client):
    p = make_pair()
    c, s = p.connect()
    a, b = (c, s) if by_client else (s, c)
    a.force_key_update()
    transfer(p, a, b, bytes(20_000))
    transfer(p, b, a, bytes(20_000))
    assert a.close_reason is None and b.close_reason is None


@covers("runner:keyupdate")
def test_many_updates_during_a_transfer(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.to_server.rate = 2_000_000
    t = Transfer(p, c, s, bytes(3_000_000))
    done = 0
    while not t.poll():
        p.run_for(5 * MS)
        for side in (c, s):
            try:
                side.force_key_update()
                done += 1
            except IrohError:
                pass
    assert done >= 4
    assert bytes(t.received) == bytes(3_000_000)


@covers("noq:key_update_reordered")
def test_old_packets_that_arrive_after_the_update_are_read(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"old ")
    p.flush()
    held = p.hold(True)
    c.force_key_update()
    stream.write(b"new")
    p.run_for(6 * MS)
    p.release(held)
    p.run_for(MS)
    assert s.accept_stream(False).read() == b"old new"
    assert s.close_reason is None
    p.drive()
    assert c.close_reason is None


def test_simultaneous_updates_agree(make_pair):
    lines = []
    p = make_pair(client_options={"keylog": lines.append})
    c, s = p.connect()
    for number in range(3):
        c.force_key_update()
        s.force_key_update()
        transfer(p, c, s, bytes(5000))
        transfer(p, s, c, bytes(5000))
        p.run_for(2 * SECOND)
        # One update, not one by each: neither took the other's for a further one.
        assert [key_phase(p, lines, client) for client in (True, False)] == [number % 2 == 0] * 2
    assert c.close_reason is None and s.close_reason is None


def test_second_update_waits_for_the_peer(make_pair):
    p = make_pair()
    c, s = p.connect()
    c.force_key_update()
    with pytest.raises(IrohError):
        c.force_key_update()
    p.run_for(5 * SECOND)
    with pytest.raises(IrohError):  # nothing was sent in the new phase
        c.force_key_update()
    c.ping()
    p.run_for(5 * SECOND)
    c.force_key_update()
    transfer(p, c, s, bytes(1000))


def test_follower_does_not_update_before_its_phase_was_acknowledged(make_pair):
    p = make_pair()
    c, s = p.connect()
    s.force_key_update()
    s.ping()
    p.drop(True, count=1)  # the client follows, the server does not hear it
    p.run_for(206 * MS)
    with pytest.raises(IrohError):  # RFC 9001 §6.1
        c.force_key_update()
    transfer(p, c, s, bytes(1000))
    transfer(p, s, c, bytes(1000))
    p.run_for(2 * SECOND)
    c.force_key_update()
    transfer(p, c, s, bytes(1000))


def test_update_with_loss_and_reordering(make_pair):
    p = make_pair(4)
    c, s = p.connect()
    for link in (p.to_server, p.to_client):
        link.loss, link.reorder, link.reorder_by = 0.1, 0.3, 7 * MS
    for _ in range(20):
        for side in (c, s):
            try:
                side.force_key_update()
            except IrohError:
                pass
        transfer(p, c, s, bytes(10_000))
        transfer(p, s, c, bytes(10_000))
        p.run_for(400 * MS)
    p.to_server.loss = p.to_client.loss = 0
    p.drive()


# ---------------------------------------------------------------- limits of the keys (RFC 9001 §6.6)
AEAD_LIMIT_REACHED = 0x0F


def test_keys_are_updated_before_their_limit(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.to_server.rate = 500_000  # slow beside the time that old keys are kept
    c.lower_key_limits(update_at=50, seal=400)
    transfer(p, c, s, bytes(2_000_000))
    assert c.close_reason is None and s.close_reason is None


def test_no_packet_beyond_the_limit_of_a_key(make_pair):
    """The peer acknowledges nothing, so no update is possible: the connection ends, and nothing more is sent."""
    p = make_pair()
    c, s = p.connect()
    transfer(p, c, s, bytes(100_000))
    p.filters.append(lambda d: not d.to_server)
    c.force_key_update()  # a fresh key, whose update nobody confirms
    mark = len(p.client.sent)
    c.lower_key_limits(seal=20)
    stream = c.open_stream(False)
    for _ in range(200):
        stream.write(b"x")
        p.run_for(2 * SECOND)
        if c.close_reason:
            break
    assert c.close_reason.code == AEAD_LIMIT_REACHED
    assert c.drained and len(p.client.sent) - mark == 20
    p.filters.clear()


def test_forged_packets_end_the_connection_at_the_integrity_limit(make_pair):
    p = make_pair()
    c, s = p.connect()
    s.lower_key_limits(open=10)
    good = next(d.data for d in reversed(p.client.sent) if not d.data[0] & 0x80)
    for k in range(10):
        p.inject(True, good[:9] + bytes([k]) * 30)
    assert s.close_reason is None
    mark = len(p.server.sent)
    p.inject(True, good[:9] + bytes(40))
    assert s.close_reason.code == AEAD_LIMIT_REACHED
    assert s.drained and len(p.server.sent) == mark, "the keys are not used for a close either"


# ---------------------------------------------------------------- connection ids
def test_every_side_gives_five_ids_for_the_open_path_and_two_for_others(make_pair):
    p = make_pair()
    c, s = p.connect()
    # path 0: four besides the handshake's; paths 1 to 7: two each
    assert frames(c, "frame_rx")["path_new_connection_id"] == 4 + 7 * 2
    assert frames(s)["path_new_connection_id"] == 18


@covers("noq:cid_retirement")
def test_a_retired_id_is_replaced(make_pair):
    p = make_pair()
    c, s = p.connect()
    before = frames(s)["path_new_connection_id"]
    for _ in range(20):
        c.network_changed()
        p.drive()
    assert frames(c)["path_retire_connection_id"] == 20
    assert frames(s)["path_new_connection_id"] == before + 20
    transfer(p, c, s, bytes(10_000))


@covers("noq:cid_rotation")
def test_the_id_on_the_wire_changes_with_the_network(make_pair):
    p = make_pair()
    c, s = p.connect()
    seen = set()
    for _ in range(10):
        c.network_changed()
        at = len(p.client.sent)
        p.drive()
        seen.add(p.client.sent[at].data[1:9])
    assert len(seen) == 10


def test_ids_that_arrive_out_of_order_are_all_kept(make_pair):
    p = make_pair(2)
    p.to_server.reorder = p.to_client.reorder = 0.5
    p.to_server.loss = p.to_client.loss = 0.2
    c, s = p.connect()
    p.run_for(3 * SECOND)
    assert "path_retire_connection_id" not in frames(c)
    assert frames(s)["path_retire_connection_id"] <= 3  # the client's handshake id, maybe repeated
    for connection in (c, s):
        assert frames(connection, "frame_rx")["path_new_connection_id"] >= 18


def test_known_ids_do_not_grow_with_rotation(make_pair):
    p = make_pair()
    c, s = p.connect()
    for _ in range(200):
        c.network_changed()
        s.network_changed()
        p.run_for(2 * SECOND)
    assert p.server.endpoint.known_ids() < 150
    assert p.client.endpoint.known_ids() < 150


# ---------------------------------------------------------------- stateless reset
def forget(p: Pair, side) -> None:
    """The side restarts with the same keys and knows nothing any more."""
    for connection in list(side.endpoint.connections.values()):
        connection.close(0, b"")
        lost = lambda d: d.to_server is (side is p.client)  # noqa: E731
        p.filters.append(lost)
        p.run_until(lambda c=connection: c.drained)
        p.filters.remove(lost)


@covers("noq:client_stateless_reset")
@covers("noq:server_stateless_reset")
@pytest.mark.parametrize("server_restarts", [True, False])
def test_stateless_reset_ends_the_connection_at_once(make_pair, server_restarts):
    p = make_pair(transport=calm(max_idle_timeout=None))
    c, s = p.connect()
    alive, side = (c, p.server) if server_restarts else (s, p.client)
    forget(p, side)
    assert alive.close_reason is None
    before = len(side.sent)
    alive.open_stream(False).write(b"are you there?")
    p.run_for(20 * MS)
    assert alive.close_reason.kind == "reset"
    assert alive.drained
    (reset,) = side.sent[before:]
    assert 21 <= len(reset.data) < 60
    assert reset.data[0] & 0xC0 == 0x40
    p.check_forgotten()


@covers("noq:stateless_reset_limit")
def test_stateless_resets_are_rate_limited_and_shorter_than_the_trigger(make_pair):
    p = make_pair()
    c, s = p.connect()
    cid = [d for d in p.client.sent if d.kinds == ["short"]][-1].data[1:9]
    p.finish()
    before = len(p.server.sent)
    for _ in range(100):
        p.inject(True, b"\x40" + cid + bytes(40), src=CLIENT)
        p.run_for(MS)
    answers = p.server.sent[before:]
    assert 4 <= len(answers) <= 6  # one per 20 ms
    assert all(len(d.data) < 49 for d in answers)
    p.run_for(SECOND)
    before = len(p.server.sent)
    p.inject(True, b"\x40" + cid + bytes(13), src=CLIENT)  # 22 bytes
    p.run_for(SECOND)
    p.inject(True, b"\x40" + cid + bytes(12), src=CLIENT)
    p.run_for(SECOND)
    p.inject(True, b"\x40" + bytes(48), src=CLIENT)  # not an id of this endpoint
    assert [len(d.data) for d in p.server.sent[before:]] == [21]


def test_resets_do_not_play_ping_pong(make_pair):
    p = make_pair()
    c, s = p.connect()
    cid = [d for d in p.client.sent if d.kinds == ["short"]][-1].data[1:9]
    p.finish()
    before = len(p.server.sent) + len(p.client.sent)
    p.inject(True, b"\x40" + cid + bytes(100), src=CLIENT)
    p.run_for(10 * SECOND)
    assert len(p.server.sent) + len(p.client.sent) - before == 1


def test_a_wrong_reset_token_is_ignored(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.inject(False, b"\x40" + bytes(40), src=SERVER)
    p.inject(False, p.server.sent[-1].data[:9] + bytes(40), src=SERVER)
    assert c.close_reason is None
    transfer(p, c, s, b"still here")


# ---------------------------------------------------------------- close
@covers("noq:timely_graceful_close")
def test_close_takes_half_a_round_trip_to_the_peer_and_one_to_the_answer(make_pair):
    p = make_pair(latency=50 * MS)
    c, s = p.connect()
    start = p.now
    c.close(0, b"done")
    p.run_until(lambda: s.close_reason)
    assert p.now - start == 50 * MS
    p.run_for(50 * MS)
    assert [d.sent - start for d in p.server.sent[-1:]] == [50 * MS]
    before = len(p.client.sent), len(p.server.sent)
    p.drain()
    assert (len(p.client.sent), len(p.server.sent)) == before


def test_whoever_closed_learns_that_the_peer_knows(make_pair):
    p = make_pair()
    c, s = p.connect()
    p.filters.append(lambda d: d.dst == SERVER)
    c.close(3, b"")
    p.run_for(100 * MS)
    assert c.closing and not c.draining  # nobody has answered
    p.filters.clear()
    s.ping()
    p.run_until(lambda: c.draining)
    assert s.draining and not c.drained


def test_lost_close_is_repeated_when_the_peer_goes_on(make_pair):
    p = make_pair(latency=20 * MS)
    c, s = p.connect()
    t = Transfer(p, s, c, bytes(5_000_000))
    for _ in range(20):
        t.poll()
        p.run_for(10 * MS)
    c.close(3, b"enough")
    p.drop(True, count=1)
    p.run_until(lambda: s.close_reason, limit=SECOND)
    assert (s.close_reason.kind, s.close_reason.code) == ("application", 3)
    assert 2 <= frames(c)["connection_close"] <= 4


def test_lost_close_ends_in_an_idle_timeout(make_pair):
    p = make_pair(transport=calm(max_idle_timeout=10.0))
    c, s = p.connect()
    c.close(0, b"")
    p.drop(True, count=1)
    p.run_until(lambda: s.close_reason)
    assert s.close_reason.kind == "timed_out"


def test_both_sides_close_at_once(make_pair):
    p = make_pair()
    c, s = p.connect()
    c.close(1, b"a")
    s.close(2, b"b")
    p.drain()
    assert c.close_reason.kind == s.close_reason.kind == "locally_closed"


def test_second_close_changes_nothing(make_pair):
    p = make_pair()
    c, s = p.connect()
    c.close(1, b"a")
    c.close(2, b"b")
    p.drive()
    assert s.close_reason.code == 1


def test_long_reason_is_cut_to_one_packet(make_pair):
    p = make_pair()
    c, s = p.connect()
    c.close(1, b"r" * 5000)
    p.drive()
    assert 1000 < len(s.close_reason.reason) < 1200
    assert set(s.close_reason.reason) == {ord("r")}


def test_received_data_stay_readable_after_the_close(make_pair):
    p = make_pair()
    c, s = p.connect()
    stream = c.open_stream(False)
    stream.write(b"last words")
    stream.finish()
    p.drive()
    r = s.accept_stream(False)
    c.close(0, b"")
    p.drive()
    assert s.close_reason is not None
    assert r.read() == b"last words"
    assert r.read() == b""
    with pytest.raises(ConnectionLost):
        s.open_stream(False)
    with pytest.raises(ConnectionLost):
        s.send_datagram(b"x")


def test_close_while_datagrams_and_streams_wait(make_pair):
    p = make_pair()
    c, s = p.connect()
    c.open_stream(False).write(bytes(1_000_000))
    for _ in range(100):
        c.send_datagram(bytes(1000))
    c.close(9, b"")
    before = len(p.client.sent)
    p.drive()
    assert len(p.client.sent) - before == 1
    assert s.close_reason.code == 9
