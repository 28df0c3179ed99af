"""A peer with the right keys that misbehaves before the handshake is over, and somebody without keys.

The target ``levels``, by the first byte of an input:

0, 1     a server (0) or a client (1) whose Handshake packets never come gets sealed Initial and
         Handshake packets with the frames of the input;
2        a server gets sealed 0-RTT packets of a client that has a ticket.

The target ``unsealed``: the endpoints get Version Negotiation, Retry, stateless resets and plain
nonsense that name the ids of a connection, before (0), in (1) and after (2) its handshake.
"""

from __future__ import annotations

import struct
from functools import partial

from fuzz_connection import ELSEWHERE, Sealer, client_hello, initial_header, pieces, secret_of, use
from fuzz_mutate import varint
from sim import CALM, MS, SECOND, Datagram, Pair

from iroh_fast._crypto import initial_secrets, retry_integrity_tag
from iroh_fast._packet import parse_header

LIMIT_BYTES = 2_000_000
TWICE = b"\x02\0\0\0\0"  # ACK of packet 0


def ids(dcid: bytes, scid: bytes) -> bytes:
    return bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid


def long_header(first: int, dcid: bytes, scid: bytes, size: int) -> bytes:
    """Of a Handshake or 0-RTT packet with a number of four bytes."""
    return bytes((first,)) + b"\0\0\0\x01" + ids(dcid, scid) + varint(4 + size + 16, 1)


def without_handshake(d: Datagram) -> bool:
    """Keep what comes before the first Handshake packet of a datagram; True: there is nothing."""
    at = 0
    while at < len(d.data):
        if d.data[at] & 0xB0 == 0xA0:
            break
        at += parse_header(d.data[at:], 8)["packet_len"]
    d.data = d.data[:at]
    return not d.data


def finish(pair: Pair) -> None:
    """What has to hold whatever came in."""
    for side in pair.sides:
        for connection in list(side.endpoint.connections.values()):
            use(connection)
    pair.run_for(200 * MS)
    total = sum(len(d.data) for side in pair.sides for d in side.sent)
    assert total < LIMIT_BYTES, f"{total} bytes were sent"
    pair.finish()


def give(pair: Pair, to_server: bool, sealers: list[Sealer], data: bytes) -> None:
    """Deliver the pieces of an input; a flag chooses the level."""
    for flags, frames in pieces(data):
        packet = sealers[flags >> 4 & 1].seal(frames)
        if flags & 32:  # behind each other, as real peers do it
            packet += sealers[1].seal(frames)
        packet += bytes(max(0, 1200 - len(packet)))  # servers want full datagrams
        pair.inject(to_server, packet, ELSEWHERE if flags & 1 else None)
        if flags & 4:
            pair.run_for(30 * MS)
        if flags & 8:
            pair.run_for(SECOND)


def unfinished(to_server: bool, data: bytes) -> None:
    lines: list[str] = []
    pair = Pair(7, transport=CALM, client_options={"keylog": lines.append})
    pair.verbose = False
    try:
        pair.filters.append(lambda d: d.to_server is to_server and without_handshake(d))
        pair.dial()
        pair.run_for(12 * MS)
        original = parse_header(pair.client.sent[0].data)
        (answer, *_) = [d.data for d in pair.server.sent if d.has("initial")]
        servers_id = parse_header(answer)["scid"]
        ours, theirs = original["scid"], servers_id
        dcid, scid = (theirs, ours) if to_server else (ours, theirs)
        secret = initial_secrets(original["dcid"])[0 if to_server else 1]
        who = "CLIENT" if to_server else "SERVER"
        sealers = [
            Sealer(secret, partial(initial_header, dcid, scid)),
            Sealer(
                secret_of(lines, f"{who}_HANDSHAKE_TRAFFIC_SECRET"),
                partial(long_header, 0xE3, dcid, scid),
            ),
        ]
        give(pair, to_server, sealers, data)
        finish(pair)
    finally:
        pair.close()


def early(data: bytes) -> None:
    """0-RTT packets, which belong to the attempt that the client's first datagram began."""
    lines: list[str] = []
    pair = Pair(7, transport=CALM, resumption=True, client_options={"keylog": lines.append})
    pair.verbose = False
    try:
        client, _ = pair.connect()
        pair.run_for(100 * MS)
        client.close(0, b"")
        pair.drain()
        lines.clear()
        before = len(pair.client.sent)
        pair.filters.append(lambda d: not d.to_server)  # the handshake stays where it is
        pair.dial()
        pair.run_for(6 * MS)
        header = parse_header(pair.client.sent[before].data)
        secret = secret_of(lines, "CLIENT_EARLY_TRAFFIC_SECRET")
        sealer = Sealer(secret, partial(long_header, 0xD3, header["dcid"], header["scid"]))
        give(pair, True, [sealer, sealer], data)
        finish(pair)
    finally:
        pair.close()


def run_levels(data: bytes) -> None:
    mode = data[0] % 3 if data else 0
    if mode == 2:
        early(data[1:])
    else:
        unfinished(mode == 0, data[1:])


def level_seeds(frames: list[bytes]) -> list[bytes]:
    """Each kind of frame at each level, and the messages of TLS that come there."""
    hello = client_hello()
    crypto = [
        b"\x06\0" + varint(len(message)) + message
        for message in (
            hello[:1000],
            b"\x02\0\0\x26\x03\x03" + bytes(36),  # ServerHello
            b"\x08\0\0\x02\0\0",  # EncryptedExtensions
            b"\x0b\0\0\x04\0\0\0\0",  # Certificate
            b"\x0f\0\0\x04\x08\x07\0\0",  # CertificateVerify
            b"\x14\0\0\x20" + bytes(32),  # Finished
            b"\x04\0\0\x09" + bytes(9),  # NewSessionTicket
        )
    ]
    small = [frame for frame in frames if len(frame) < 1200]
    seeds = []
    for mode in (0, 1, 2):
        for flags in (0, 16):
            seeds += [bytes((mode,)) + struct.pack("!BH", flags, len(f)) + f for f in small]
            seeds += [bytes((mode,)) + struct.pack("!BH", flags | 4, len(f)) + f for f in crypto]
        mixed = [*crypto, TWICE, b"\x1c\x0a\0\x04text"]
        seeds.append(bytes((mode,)) + b"".join(struct.pack("!BH", 52, len(f)) + f for f in mixed))
    return seeds


# --- without keys --------------------------------------------------------------------------

VERSIONS, RETRY, RESET, PLAIN, LONG, SHORT = range(6)


class Known:
    """What somebody on the way has seen of a connection."""

    def __init__(self, pair: Pair) -> None:
        first = parse_header(pair.client.sent[0].data)
        self.original = first["dcid"]
        self.clients = first["scid"]
        answers = [d.data for d in pair.server.sent if d.has("initial")]
        # Before there is an answer the client takes any id for the server's.
        self.servers = parse_header(answers[0])["scid"] if answers else b"invented"
        self.reachable = self.servers if answers else self.original

    def packet(self, kind: int, to_server: bool, rest: bytes) -> bytes:
        if to_server:
            dcid, scid = self.reachable, self.clients
        else:
            dcid, scid = self.clients, self.servers
        if kind == VERSIONS:
            return b"\x80\0\0\0\0" + ids(dcid, scid if to_server else self.original) + rest
        if kind == RETRY:
            packet = b"\xf0\0\0\0\x01" + ids(dcid, scid) + rest
            return packet + retry_integrity_tag(self.original, packet)
        if kind == RESET:
            return b"\x43" + rest + bytes(max(0, 21 - len(rest)))
        if kind == SHORT:
            return b"\x43" + dcid + rest
        if kind == LONG:
            return long_header(0xC3 | (rest[0] & 0x30 if rest else 0), dcid, scid, len(rest)) + rest
        return rest


def run_unsealed(data: bytes) -> None:
    mode = data[0] % 3 if data else 0
    pair = Pair(7, transport=CALM)
    pair.verbose = False
    try:
        if mode == 2:
            pair.connect()
        else:
            pair.dial()
            pair.run_for(6 * MS if mode == 1 else 0)
            pair.flush()
        known = Known(pair)
        for flags, rest in pieces(data[1:]):
            to_server = bool(flags & 1)
            source = ELSEWHERE if flags & 2 else None
            packet = known.packet(flags >> 4 & 7, to_server, rest)
            if flags & 8 and to_server:
                packet += bytes(max(0, 1200 - len(packet)))
            if packet:
                pair.inject(to_server, packet, source)
            while pair.server.incoming:
                pair.server.accepted.append(pair.accept(pair.server.incoming.pop()))
            if flags & 4:
                pair.run_for(30 * MS)
        finish(pair)
    finally:
        pair.close()


def unsealed_seeds(packets: list[bytes]) -> list[bytes]:
    """The kinds of `Known.packet` in both directions, and whole datagrams from the outside."""
    rests = {
        VERSIONS: [b"\0\0\0\x01", b"\x0a\x1a\x2a\x3a\xff\0\0\x1d", b"", b"\0\0\0"],
        RETRY: [b"token", b"", bytes(1000)],
        RESET: [bytes(range(8)) + bytes(30), bytes(1180)],
        PLAIN: [
            b"\x40",
            b"\xc0",
            b"\xc0\0\0\0\x02\x08abcdefgh\x08hgfedcba" + bytes(1180),
            *packets,
        ],
        LONG: [bytes(30), b"\x20" + bytes(30), b"\x10" + bytes(60)],
        SHORT: [bytes(30), bytes(12)],
    }
    seeds = []
    for mode in (0, 1, 2):
        for kind, found in rests.items():
            for rest in found:
                for flags in (0, 1, 10):
                    flags |= kind << 4
                    seeds.append(bytes((mode,)) + struct.pack("!BH", flags, len(rest)) + rest)
    return seeds
