"""Packets that hardly ever come, by the letter of RFC 8999, 9000 and 9001."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from impostor import Impostor, vi
from sim import CLIENT, SERVER, Pair, kinds

from iroh_fast._crypto import PacketProtection, initial_secrets, retry_integrity_tag

MakePair = Callable[..., Any]
Hostile = Callable[..., tuple[Pair, Any, Impostor]]
AES = 0x1301
PROTOCOL_VIOLATION = 0x0A
SERVER_ID = b"serverid"


class Dialing:
    """A client whose first Initial is out, and what a server (or somebody on the path) could send it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        pair.filters.append(lambda d: d.to_server)
        self.client: Any = pair.dial()
        pair.flush()
        first = pair.client.sent[0].data
        self.odcid = first[6 : 6 + first[5]]
        self.scid = first[7 + first[5] : 7 + first[5] + first[6 + first[5]]]
        self.keys = PacketProtection(AES, initial_secrets(self.odcid)[1])
        self.pn = -1

    def initial(
        self, payload: bytes, token: bytes = b"", first: int = 0xC3, scid: bytes = SERVER_ID
    ) -> bytes:
        self.pn += 1
        payload += bytes(20)
        header = bytes([first]) + b"\0\0\0\1" + bytes([8]) + self.scid + bytes([len(scid)]) + scid
        header += vi(len(token)) + token + (0x4000 | 4 + len(payload) + 16).to_bytes(2, "big")
        header += self.pn.to_bytes(4, "big")
        body = self.keys.seal(0, self.pn, header, payload)
        mask = self.keys.header_mask(body[:16])
        number = bytes(a ^ b for a, b in zip(header[-4:], mask[1:5], strict=True))
        return bytes([header[0] ^ mask[0] & 0x0F]) + header[1:-4] + number + body

    def send(self, data: bytes) -> None:
        self.pair.inject(False, data)

    def retry(self, token: bytes = b"token", scid: bytes = SERVER_ID, unused: int = 0) -> bytes:
        packet = bytes([0xF0 | unused]) + b"\0\0\0\1" + bytes([8]) + self.scid
        packet += bytes([len(scid)]) + scid + token
        return packet + retry_integrity_tag(self.odcid, packet)

    def versions(self, listed: bytes, first: int = 0x80) -> bytes:
        ids = bytes([8]) + self.scid + bytes([len(self.odcid)]) + self.odcid
        return bytes([first]) + b"\0\0\0\0" + ids + listed

    @property
    def pings(self) -> int:
        return int(self.client.stats()["frame_rx"]["ping"])


@pytest.fixture
def dialing(make_pair: MakePair) -> Dialing:
    return Dialing(make_pair())


# ---------------------------------------------------------------- Initial, Retry, Version Negotiation
def test_servers_initial_is_taken(dialing: Dialing) -> None:
    dialing.send(dialing.initial(b"\x01"))
    assert dialing.pings == 1


def test_servers_initial_with_a_token_is_dropped(dialing: Dialing) -> None:
    sent = len(dialing.pair.client.sent)
    dialing.send(dialing.initial(b"\x01", token=b"token"))
    assert dialing.pings == 0 and len(dialing.pair.client.sent) == sent
    dialing.send(dialing.initial(b"\x01"))
    assert dialing.pings == 1, "and it says nothing about those without"


def test_reserved_bits_of_a_later_long_packet(dialing: Dialing) -> None:
    dialing.send(dialing.initial(b"\x01"))
    dialing.send(dialing.initial(b"\x01", first=0xC3 | 0x04))
    assert dialing.client.close_reason.code == PROTOCOL_VIOLATION


def test_reserved_bits_of_a_short_packet(hostile: Hostile) -> None:
    p, s, attacker = hostile()
    header = bytes([0x43 | 0x08]) + attacker.ids[0] + (2000).to_bytes(4, "big")
    sealed = attacker.tx.seal(0, 2000, header, b"\x01" + bytes(8))
    mask = attacker.tx.header_mask(sealed[:16])
    number = bytes(a ^ b for a, b in zip(header[9:], mask[1:5], strict=True))
    p.inject(True, bytes([header[0] ^ mask[0] & 0x1F]) + header[1:9] + number + sealed)
    assert s.close_reason.code == PROTOCOL_VIOLATION


@pytest.mark.parametrize("unused", [0x0, 0xF])
def test_retry_is_followed_once(dialing: Dialing, unused: int) -> None:
    dialing.send(dialing.retry(unused=unused))
    mark = len(dialing.pair.client.sent)
    again = dialing.pair.client.sent[-1].data
    assert again[6 : 6 + again[5]] == SERVER_ID and b"token" in again
    dialing.send(dialing.retry(token=b"another", scid=b"thirdone"))
    assert len(dialing.pair.client.sent) == mark


@pytest.mark.parametrize("what", ["no token", "own id", "broken tag", "after an Initial", "closed"])
def test_retry_that_is_dropped(dialing: Dialing, what: str) -> None:
    data = dialing.retry()
    if what == "no token":
        data = dialing.retry(token=b"")
    elif what == "own id":
        data = dialing.retry(scid=dialing.odcid)
    elif what == "broken tag":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif what == "after an Initial":
        dialing.send(dialing.initial(b"\x01"))
    else:
        dialing.client.close()
    dialing.pair.flush()
    mark = len(dialing.pair.client.sent)
    dialing.send(data)
    assert not any(b"token" in d.data for d in dialing.pair.client.sent[mark:])


def test_versions_without_ours_end_the_dial(dialing: Dialing) -> None:
    dialing.send(dialing.versions(b"\x0a\x0a\x0a\x0a\xff\0\0\x1d"))
    assert dialing.client.close_reason.kind == "version_mismatch"


@pytest.mark.parametrize(
    "listed",
    [b"", b"\0", b"\xff\0\0\x1d\xff", b"\xff\0\0\x1d\0\0\0\1", b"\0\0\0\1"],
    ids=["none", "a piece", "one and a piece", "ours among them", "ours"],
)
def test_version_negotiation_that_is_ignored(dialing: Dialing, listed: bytes) -> None:
    dialing.send(dialing.versions(listed))
    assert dialing.client.close_reason is None


@pytest.mark.parametrize("before", ["initial", "retry"])
def test_version_negotiation_comes_first_or_not_at_all(dialing: Dialing, before: str) -> None:
    dialing.send(dialing.initial(b"\x01") if before == "initial" else dialing.retry())
    dialing.odcid = SERVER_ID
    dialing.send(dialing.versions(b"\xff\0\0\x1d"))
    assert dialing.client.close_reason is None


# ---------------------------------------------------------------- coalesced packets
def test_coalesced_packet_for_another_id_is_ignored(dialing: Dialing) -> None:
    first, second = dialing.initial(b"\x01"), dialing.initial(b"\x01")
    dialing.send(first + second[:6] + b"\0" * 8 + second[14:])
    assert dialing.pings == 1
    dialing.pn += 10
    dialing.send(dialing.initial(b"\x01") + dialing.initial(b"\x01"))
    assert dialing.pings == 3


def test_short_packet_behind_a_long_one_needs_its_fixed_bit(hostile: Hostile) -> None:
    _, s, attacker = hostile()
    good = attacker.seal(b"\x01" + bytes(10))
    bad = bytes([attacker.seal(b"\x01" + bytes(10))[0] & ~0x40]) + good[1:]
    before = s.stats()["frame_rx"]["ping"]
    long = bytes([0xE0]) + b"\0\0\0\1" + bytes([8]) + attacker.ids[0] + bytes([8]) + bytes(8)
    long += b"\x40\x18" + bytes(24)
    attacker.pair.inject(True, long + bad)
    assert s.stats()["frame_rx"]["ping"] == before
    attacker.pair.inject(True, long + good)
    assert s.stats()["frame_rx"]["ping"] == before + 1


def test_ids_of_one_datagram_are_the_same(make_pair: MakePair) -> None:
    """RFC 9000 §12.2, also while a side moves on to another id of its peer."""
    p = make_pair()
    p.connect()
    for d in p.client.sent + p.server.sent:
        found = set()
        data = d.data
        for kind in kinds(data):
            if kind == "short":
                found.add(data[1:9])
                break
            found.add(data[6 : 6 + data[5]])
            at = 6 + data[5]
            at += 1 + data[at]
            if kind == "initial":
                at += 1
            size = int.from_bytes(data[at : at + 2], "big") & 0x3FFF
            data = data[at + 2 + size :]
        assert len(found) == 1, d.kinds


# ---------------------------------------------------------------- frames where they must not be
@pytest.mark.parametrize(
    "frame",
    [b"\x1e", b"\x07\x05token"],
    ids=["HANDSHAKE_DONE", "NEW_TOKEN"],
)
def test_frame_of_servers_from_a_client(hostile: Hostile, frame: bytes) -> None:
    _, s, attacker = hostile()
    attacker.send(frame)
    assert s.close_reason.code == PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (bytes.fromhex("0d00000b000008000d000400020807"), PROTOCOL_VIOLATION),
        (b"\x18\0\0\x01\0", 0x10A),
        (b"\x08\0\0\x02\0\0", 0x10A),
        (b"\x63\0\0\0", 0x10A),
    ],
    ids=["CertificateRequest", "KeyUpdate", "EncryptedExtensions", "unknown"],
)
def test_tls_message_of_a_server_after_the_handshake(
    hostile: Hostile, message: bytes, code: int
) -> None:
    """RFC 9001 §4.4, §6: nothing but tickets."""
    p, c, attacker = hostile(as_client=False)
    sent = [f for f in attacker.frames(p.server.sent) if f["type"] == 0x06]
    end = max((f["offset"] + len(f["data"]) for f in sent), default=0)
    attacker.send(b"\x06" + vi(end) + vi(len(message)) + message)
    assert c.close_reason.code == code


@pytest.mark.parametrize(
    "frame",
    [
        b"\x04\x00\x00\x00",
        b"\x05\x00\x00",
        b"\x07\x01x",
        b"\x0a\x00\x01x",
        b"\x10\x10",
        b"\x12\x01",
        b"\x18\x01\x00\x08" + bytes(24),
        b"\x19\x00",
        b"\x1a" + bytes(8),
        b"\x1b" + bytes(8),
        b"\x1d\x00\x00",
        b"\x1e",
        b"\x31\x01x",
    ],
    ids=lambda f: f"{f[0]:#x}",
)
def test_frame_that_an_initial_must_not_have(dialing: Dialing, frame: bytes) -> None:
    dialing.send(dialing.initial(frame))
    assert dialing.client.close_reason.code == PROTOCOL_VIOLATION


def test_datagram_never_exceeds_the_mtu_for_acknowledgements(hostile: Hostile) -> None:
    """Acknowledgements of many paths with gaps, and frames that only one path may carry."""
    p, s, attacker = hostile()
    attacker.pn = 20_000
    receive = p.server.endpoint.receive_datagram
    for round_ in range(6):
        for path in sorted(attacker.ids)[:8]:
            for k in range(70):
                pn = 22_000 + (round_ * 70 + k) * 20_000
                receive(attacker.seal(b"\x01", path, pn), CLIENT, p.now, local=SERVER)
        number = 21_900 + (round_ + 1) * 1_400_000
        receive(attacker.seal(b"\x1aabcdefgh", 0, number), CLIENT, p.now, local=SERVER)
        p.flush()
        p.run_for(30_000_000)
    assert s.close_reason is None
    sizes = [len(d.data) for d in attacker.received]
    assert max(sizes) == s.path_info(0)["mtu"], "some were full"
    assert any(f["type"] == 0x1B for f in attacker.frames(attacker.received))
