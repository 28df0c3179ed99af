"""What an endpoint answers and keeps for those who have shown nothing yet."""

from __future__ import annotations

import random

import pytest
from impostor import Impostor, vi
from sim import ALPN, MS, SECOND

from iroh_fast._crypto import PacketProtection, initial_secrets
from iroh_fast.errors import IrohError
from iroh_fast.quic._client_hello import client_hello_alpns, peek_alpns

STRANGER = ("10.0.9.9", 999)


def initial_packet(payload: bytes, *, dcid: bytes = b"original", pn: int = 0) -> bytes:
    """A client's Initial in a datagram of 1,200 bytes."""
    keys = PacketProtection(0x1301, initial_secrets(dcid)[0])
    header = b"\xc3\0\0\0\1" + bytes([len(dcid)]) + dcid + b"\x08clientid" + b"\0"
    payload += bytes(max(0, 1200 - len(header) - 2 - 4 - 16 - len(payload)))
    header += (0x4000 | 4 + len(payload) + 16).to_bytes(2, "big") + pn.to_bytes(4, "big")
    sealed = keys.seal(0, pn, header, payload)
    mask = keys.header_mask(sealed[:16])
    number = bytes(a ^ b for a, b in zip(header[-4:], mask[1:5], strict=True))
    return bytes([header[0] ^ mask[0] & 15]) + header[1:-4] + number + sealed


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + vi(offset) + vi(len(data)) + data


def hello(alpns: bytes = b"\x05sim/1") -> bytes:
    extension = len(alpns).to_bytes(2, "big") + alpns
    extension = b"\x00\x10" + len(extension).to_bytes(2, "big") + extension
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\2\x13\x01" + b"\1\0"
    body += len(extension).to_bytes(2, "big") + extension
    return b"\1" + len(body).to_bytes(3, "big") + body


# ---------------------------------------------------------------- ids and tokens
def test_ids_and_reset_tokens_do_not_come_again(make_pair):
    p = make_pair()
    ids = [p.server.endpoint.fresh_cid() for _ in range(50_000)]
    assert len(set(ids)) == len(ids)
    # Every byte varies: none is the same function of the others for all.
    for at in range(8):
        assert len({id[at] for id in ids[:5000]}) == 256


def test_tokens_of_many_connections_are_all_different(make_pair):
    lines: list[str] = []
    p = make_pair(client_options={"keylog": lines.append})
    ids, tokens = [], []
    for _ in range(80):
        lines.clear()
        c, s = p.connect()
        sent = len(p.server.sent)
        peer = Impostor(p, lines)
        frames = [f for f in peer.frames(p.server.sent) if f["type"] in (0x18, 0x3E78)]
        ids += [f["cid"] for f in frames]
        tokens += [f["token"] for f in frames]
        p.filters.clear()
        c.close(0, b"")
        p.drain()
        del p.server.sent[:], p.client.sent[:]
        assert sent
    assert len(ids) > 1000
    assert len(set(ids)) == len(ids) and len(set(tokens)) == len(tokens)


def test_reset_is_for_ids_that_were_ours(make_pair):
    p = make_pair()
    p.connect()
    cid = [d for d in p.client.sent if d.kinds == ["short"]][-1].data[1:9]
    p.finish()
    before = len(p.server.sent)
    rng = random.Random(1)
    for _ in range(50):
        p.inject(True, b"\x40" + rng.randbytes(60), src=STRANGER)
        p.run_for(30 * MS)
    assert len(p.server.sent) == before
    p.inject(True, b"\x40" + cid + bytes(60), src=STRANGER)
    assert len(p.server.sent) == before + 1


# ---------------------------------------------------------------- versions
@pytest.mark.parametrize("size", [23, 60, 300, 1199, 1200, 1452])
@pytest.mark.parametrize("first", [0x80, 0xC0, 0xFF])
def test_only_datagrams_of_full_size_draw_a_version_list(make_pair, size, first):
    p = make_pair()
    data = bytes([first]) + b"\x0b\x0b\x0b\x0b\x08" + b"d" * 8 + b"\x08" + b"s" * 8
    p.inject(True, data + bytes(size - len(data)) if size > len(data) else data, src=STRANGER)
    assert len(p.server.sent) == (size >= 1200)
    assert all(len(d.data) <= size for d in p.server.sent)


@pytest.mark.parametrize("first", [0x80, 0x8F, 0xBF, 0xC0, 0xFF])
def test_version_list_is_heeded_whatever_its_unused_bits(make_pair, first):
    p = make_pair()
    c = p.dial()
    p.flush()
    data = p.client.sent[0].data
    dcid, scid = data[6:26], data[27:35]
    p.lose_flying(True)
    ids = b"\x08" + scid + b"\x14" + dcid
    p.inject(False, bytes([first]) + bytes(4) + ids + b"\x0b\x0b\x0b\x0b")
    assert c.close_reason.kind == "version_mismatch"


# ---------------------------------------------------------------- what attempts may cost
def test_first_datagrams_count_towards_the_limit(make_pair):
    p = make_pair()
    p.server.auto = None
    p.server.endpoint.incoming_total = 1 << 20
    rng = random.Random(1)
    for number in range(200):
        data = initial_packet(crypto(0, bytes(100)), dcid=rng.randbytes(8))
        source = (f"10.1.0.{number}", 1000)
        p.inject(True, data + bytes(20_000 - len(data)), src=source)
    held = len(p.server.incoming) * 20_000
    assert 900_000 < held <= 1 << 20
    assert p.server.endpoint.counters["dropped_datagrams"] == 200 - len(p.server.incoming)
    for attempt in p.server.incoming:
        attempt.ignore()
    p.inject(True, initial_packet(crypto(0, bytes(100))), src=STRANGER)
    assert not p.server.incoming[-1].decided
    p.server.incoming[-1].ignore()
    p.server.incoming.clear()
    assert p.server.endpoint.known_ids() == 0


def test_attempts_that_nobody_decides_give_way_when_the_limit_is_reached(make_pair):
    p = make_pair()
    p.server.auto = None
    p.server.endpoint.max_incoming = 2
    rng = random.Random(1)

    def attempt() -> None:
        p.inject(True, initial_packet(crypto(0, bytes(100)), dcid=rng.randbytes(8)), src=STRANGER)

    for _ in range(3):
        attempt()
    assert len(p.server.incoming) == 2
    p.run_for(11 * SECOND)
    assert not any(i.decided for i in p.server.incoming)  # there is no need yet
    attempt()
    assert [i.decided for i in p.server.incoming] == [True, False, False]
    with pytest.raises(IrohError, match="gave way"):
        p.server.incoming[0].accept([ALPN], p.server.transport, p.now)
    for left in p.server.incoming[1:]:
        left.ignore()
    p.server.incoming.clear()
    assert p.server.endpoint.known_ids() == 0


# ---------------------------------------------------------------- reading the first flight
def packets(pieces, dcid=b"12345678"):
    return [initial_packet(piece, dcid=dcid, pn=pn) for pn, piece in enumerate(pieces)]


def test_offer_is_read_from_pieces_in_any_order():
    message = hello()
    pieces = [crypto(at, message[at : at + 7]) for at in range(0, len(message), 7)]
    random.Random(3).shuffle(pieces)
    assert peek_alpns(b"12345678", packets(pieces[:20])) == [b"sim/1"]


def test_offer_is_read_again_only_when_more_came(make_pair):
    p = make_pair()
    p.server.auto = None
    message = hello()
    first, second = packets([crypto(0, message[:30]), crypto(30, message[30:])])
    p.inject(True, first, src=STRANGER)
    (attempt,) = p.server.incoming
    assert attempt.alpns is None
    p.inject(True, second, src=STRANGER)
    assert attempt.alpns == [b"sim/1"]
    attempt.ignore()
    p.server.incoming.clear()


def test_work_for_an_offer_is_bounded():
    """One-byte pieces for ever: only the first packets are looked at."""
    frames = [
        b"".join(crypto(at, b"\1") for at in range(n * 100, n * 100 + 100)) for n in range(32)
    ]
    flood = packets(frames)
    message = hello()
    assert peek_alpns(b"12345678", [*flood, *packets([crypto(0, message)])]) == []
    assert peek_alpns(b"12345678", [flood[1], *packets([crypto(0, message)])]) == [b"sim/1"]


def test_offer_beyond_what_a_handshake_takes_is_unreadable():
    beyond = crypto(16_383, b"12")
    assert peek_alpns(b"12345678", packets([beyond, crypto(0, hello())])) == []


@pytest.mark.parametrize("names", [b"\0", b"\x05sim", b"\x05sim/1\0", b""])
def test_malformed_protocol_lists_give_nothing(names):
    assert client_hello_alpns(hello(names)) == []


def test_hello_reads_every_name_and_survives_every_cut():
    message = hello(b"\1a\2bc\3def")
    assert client_hello_alpns(message) == [b"a", b"bc", b"def"]
    for size in range(len(message)):
        assert client_hello_alpns(message[:size]) == []
