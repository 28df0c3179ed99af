"""A simulated pair of connections and a peer, or somebody on the way, that misbehaves.

The first byte of an input chooses:

0        what is behind says which datagrams of a handshake and a transfer are damaged, dropped,
         repeated or answered with invented ones;
1, 2     after the handshake the server (1) or the client (2) gets packets that are properly
         sealed with the peer's keys, with the frames of the input in them;
3        the server gets sealed Initial packets with the frames of the input.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from fuzz_mutate import varint
from sim import CALM, CLIENT, MS, SECOND, SERVER, Datagram, Pair, Transfer, calm

from iroh_fast._crypto import PacketProtection, initial_secrets
from iroh_fast._packet import decode_frames, parse_header
from iroh_fast.errors import IrohError

SUITES = {32: 0x1301, 48: 0x1302}
DATA = bytes(range(256)) * 40
ELSEWHERE = ("10.0.9.9", 999)
# So that no frame is refused unread because it was not negotiated.
TRANSPORT = calm(send_observed_address_reports=True, receive_observed_address_reports=True)


def secret_of(lines: list[str], label: str) -> bytes:
    return next(bytes.fromhex(line.split()[2]) for line in lines if line.split()[0] == label)


class Sealer:
    """Seals 1-RTT or Initial packets as the peer would; `most`: bytes of their payload."""

    def __init__(self, secret: bytes, header: Any, most: int = 1300) -> None:
        self.keys = PacketProtection(SUITES[len(secret)], secret)
        self.header = header
        self.most = most
        self.pn = 1000

    def seal(self, payload: bytes, path_id: int = 0) -> bytes:
        payload = payload[: self.most]
        payload += bytes(max(0, 4 - len(payload)))  # enough for a sample
        self.pn += 1
        header = self.header(len(payload)) + struct.pack("!I", self.pn)
        sealed = self.keys.seal(path_id, self.pn, header, payload)
        mask = self.keys.header_mask(sealed[:16])
        start = len(header) - 4
        first = header[0] ^ mask[0] & (0x0F if header[0] & 0x80 else 0x1F)
        number = bytes(a ^ b for a, b in zip(header[start:], mask[1:], strict=True))
        return bytes((first,)) + header[1:start] + number + sealed


def short_header(dcid: bytes, size: int) -> bytes:
    return b"\x43" + dcid


def initial_header(dcid: bytes, scid: bytes, size: int) -> bytes:
    ids = bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
    return b"\xc3\0\0\0\x01" + ids + b"\0" + varint(4 + size + 16, 1)


def pieces(data: bytes) -> list[tuple[int, bytes]]:
    """Cut an input into (flags, bytes)."""
    found = []
    at = 0
    while at + 3 <= len(data) and len(found) < 40:
        flags, size = struct.unpack_from("!BH", data, at)
        found.append((flags, data[at + 3 : at + 3 + size]))
        at += 3 + size
    return found


def use(connection: Any) -> None:
    """What an application may do at any time; it gets documented errors only."""
    for bidi in (False, True):
        try:
            while (stream := connection.accept_stream(bidi)) is not None:
                while stream.read(70_000):
                    pass
        except IrohError:
            pass
        try:
            stream = connection.open_stream(bidi)
            if stream is not None:
                stream.write(DATA)
                stream.finish()
        except IrohError:
            pass
    try:
        while connection.read_datagram() is not None:
            pass
        if connection.max_datagram_size:
            connection.send_datagram(b"datagram")
    except IrohError:
        pass
    connection.stats()
    for id in connection.path_ids():
        connection.path_info(id)
    connection.path_events()


def wire(pair: Pair, data: bytes) -> None:
    script = iter(data)

    def hit(d: Datagram) -> bool:
        kind = next(script, 0)
        changed = bytearray(d.data)
        at = (next(script, 0) << 8 | next(script, 0)) % len(changed) if kind > 4 else 0
        if kind == 1:
            return True
        if kind == 2:  # again, later
            pair.order += 1
            pair.flying.append((pair.now + SECOND, pair.order, d))
            pair.flying.sort()
        elif kind == 3:  # from elsewhere
            d.src = ELSEWHERE
        elif kind == 4:
            changed = bytearray(next(script, 0) for _ in range(next(script, 0)))
        elif kind == 5:
            del changed[at:]
        elif kind == 6:
            changed[at] ^= next(script, 0)
        elif kind == 7:
            changed[at : at + 8] = varint(2**62 - 1)
        elif kind == 8:
            changed += changed[at:]
        if changed:
            d.data = bytes(changed)
        return False

    pair.filters.append(hit)
    client = pair.dial()
    pair.run_for(300 * MS)
    for connection in (client, *pair.server.accepted):
        use(connection)
    pair.run_for(300 * MS)
    for connection in (client, *pair.server.accepted):
        use(connection)
    pair.run_for(SECOND)


def sealed(pair: Pair, lines: list[str], to_server: bool, data: bytes) -> None:
    client, server = pair.connect()
    victim, peer = (server, client) if to_server else (client, server)
    label = "CLIENT_TRAFFIC_SECRET_0" if to_server else "SERVER_TRAFFIC_SECRET_0"
    sent = (pair.client if to_server else pair.server).sent
    dcid = next(d.data[1:9] for d in reversed(sent) if not d.data[0] & 0x80)
    sealer = Sealer(secret_of(lines, label), partial(short_header, dcid), 65_400)
    transfer = Transfer(pair, victim, peer, DATA)
    transfer.poll()
    for flags, frames in pieces(data):
        source = ELSEWHERE if flags & 1 else None
        pair.inject(to_server, sealer.seal(frames, flags >> 6), source)
        if flags & 2:
            use(victim)
        if flags & 4:
            pair.run_for(30 * MS)
        if flags & 8:
            pair.run_for(SECOND)
    use(victim)
    pair.run_for(200 * MS)


def initials(pair: Pair, data: bytes) -> None:
    dcid, scid = b"original", b"clientid"
    secret, _ = initial_secrets(dcid)
    sealer = Sealer(secret, partial(initial_header, dcid, scid))
    for flags, frames in pieces(data):
        packet = sealer.seal(frames + bytes(max(0, 1200 - len(frames))))
        pair.server.endpoint.receive_datagram(packet, CLIENT, pair.now, local=SERVER)
        pair.flush()
        while pair.server.incoming:
            incoming = pair.server.incoming.pop()
            assert incoming.alpns is None or isinstance(incoming.alpns, list)
            if flags & 1:
                pair.server.accepted.append(pair.accept(incoming))
            elif flags & 2:
                incoming.refuse()
            elif flags & 4:
                incoming.retry()
            else:
                incoming.ignore()
        if flags & 8:
            pair.run_for(100 * MS)
    for connection in pair.server.accepted:
        use(connection)


def run_connection(data: bytes) -> None:
    mode = data[0] % 4 if data else 0
    lines: list[str] = []
    pair = Pair(7, transport=TRANSPORT, client_options={"keylog": lines.append})
    pair.verbose = False
    try:
        if mode == 0:
            wire(pair, data[1:])
        elif mode == 3:
            initials(pair, data[1:])
        else:
            sealed(pair, lines, mode == 1, data[1:])
        total = sum(len(d.data) for side in pair.sides for d in side.sent)
        assert total < 2_000_000, f"{total} bytes were sent"
        pair.finish()
    finally:
        pair.close()


def client_hello() -> bytes:
    """The first message of a client, with parameters as a connection sends them."""
    pair = Pair(7, transport=CALM)
    try:
        pair.dial()
        pair.flush()
        keys = PacketProtection(0x1301, initial_secrets(pair.client.sent[0].data[6:26])[0])
        found: dict[int, bytes] = {}
        for d in pair.client.sent:
            for offset, data in opened_crypto(keys, d.data):
                found[offset] = data
        hello = b""
        while len(hello) in found:
            hello += found[len(hello)]
        assert hello[0] == 1 and len(hello) == 4 + int.from_bytes(hello[1:4], "big")
        return hello
    finally:
        pair.close()


def opened_crypto(keys: PacketProtection, data: bytes) -> list[tuple[int, bytes]]:
    """CRYPTO frames of a client's Initial packet."""
    header = parse_header(data)
    start, end = header["pn_offset"], header["packet_len"]
    mask = keys.header_mask(data[start + 4 : start + 20])
    first = data[0] ^ mask[0] & 0x0F
    size = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(data[start : start + size], mask[1:], strict=False))
    plain = keys.open(
        0,
        int.from_bytes(number, "big"),
        bytes((first,)) + data[1:start] + number,
        data[start + size : end],
    )
    return [(f["offset"], f["data"]) for f in decode_frames(plain) if f["type"] == 6]


def connection_seeds(frames: list[bytes]) -> list[bytes]:
    """From one encoded frame of each kind."""
    seeds = [
        b"\0" + bytes(60),
        bytes((0, 0, 0, 0, 1, 0, 1, 0, 2, 0, 3)),
        b"\0\0\0\x06\x01\x40\x80\0\x02\x08\0\x30",
    ]
    stream = b"\x0e\x00\x00\x05hello"
    more = b"\x0f\x00\x05\x01!"
    sequences = [
        [stream, more],
        [b"\x04\0\x07\x05", stream],  # RESET_STREAM, then data
        [stream, b"\x05\x02\x09"],
        [b"\x1a" + b"challeng", b"\x1b" + b"response"],
        [b"\x02\0\0\0\0", b"\x02" + varint(5) + b"\0\0\x02"],
        [
            b"\x10" + varint(2**30),
            b"\x12" + varint(200),
            b"\x14" + varint(5),
            b"\x16" + varint(100),
        ],
        [b"\x31\x05hello", b"\x30rest"],
        [b"\x0e\x03" + varint(1_000_000) + b"\x01x"],
        [b"\x1c\x0a\0\x04text"],
        [b"\x1d\x07\x03bye"],
    ]
    for mode in (1, 2):
        for flags in (0, 2, 5, 8):
            seeds += [
                bytes((mode,)) + b"".join(struct.pack("!BH", flags, len(f)) + f for f in sequence)
                for sequence in [*sequences, frames[::7]]
            ]
        seeds += [
            bytes((mode,)) + struct.pack("!BH", 6, len(f)) + f for f in frames if len(f) < 1300
        ]
    hello = client_hello()
    crypto = b"\x06\0" + varint(len(hello), 1) + hello
    half = len(hello) // 2
    parts = [
        b"\x06\0" + varint(half, 1) + hello[:half],
        b"\x06" + varint(half, 1) + varint(len(hello) - half, 1) + hello[half:],
    ]
    for flags in (0, 1, 2, 4, 9):
        seeds.append(b"\x03" + struct.pack("!BH", flags, len(crypto)) + crypto)
        seeds.append(b"\x03" + b"".join(struct.pack("!BH", flags, len(p)) + p for p in parts[::-1]))
    seeds.append(b"\x03" + b"".join(struct.pack("!BH", 1, len(f)) + f for f in frames[:20]))
    return seeds
