"""What is fuzzed: per target some seeds, and a function that must stand any bytes.

A target may raise only what its documentation names; everything else, also a wrong answer
found by an assertion, is a failure.
"""

from __future__ import annotations

import copy
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from fuzz_acks import ack_seeds, run_acks
from fuzz_connection import connection_seeds, run_connection
from fuzz_dht import dht_seeds, run_dht
from fuzz_dns_server import query_seeds, run_query, run_zone, zone_seeds
from fuzz_levels import level_seeds, run_levels, run_unsealed, unsealed_seeds
from fuzz_lookup import (
    message_seeds,
    run_message,
    run_signed_packet,
    run_txt,
    signed_packet_seeds,
    txt_seeds,
)
from fuzz_mdns import mdns_seeds, run_mdns
from fuzz_mutate import varint
from fuzz_probe import (
    portmap_seeds,
    run_portmap,
    run_stun,
    run_upnp,
    stun_seeds,
    upnp_seeds,
)
from fuzz_relay import relay_seeds, run_relay
from fuzz_service import (
    relay_client_seeds,
    relay_proof_seeds,
    relay_server_seeds,
    run_relay_client,
    run_relay_proof,
    run_relay_server,
)
from fuzz_texts import config_seeds, dns_seeds, run_config, run_dns
from fuzz_traversal import run_traversal, traversal_seeds
from fuzz_x509 import certificate_seeds, run_certificate, run_x509, x509_seeds

from iroh_fast import CustomAddr, EndpointAddr, EndpointId, EndpointTicket, RelayUrl, SocketAddr
from iroh_fast._packet import (
    FrameDecodeError,
    decode_frames,
    decode_pn,
    decode_varint,
    encode_frame,
    encode_varint,
    parse_header,
)
from iroh_fast.errors import AddrError, CustomAddrError, KeyParsingError, RelayUrlError, TicketError
from iroh_fast.keys import SecretKey
from iroh_fast.quic.parameters import ParameterError, TransportParameters
from iroh_fast.quic.tls import Identity, TlsAlert, TlsSession
from iroh_fast.quic.tls.session import Session
from iroh_fast.quic.tls.sessions import ResumptionTicket, ServerTicketStore
from iroh_fast.quic.tls.tokens import TokenKey, validate

VECTORS = Path(__file__).parent.parent / "vectors"


@dataclass(frozen=True)
class Target:
    """Seeds and the function under test."""

    name: str
    seeds: Callable[[], list[bytes]]
    run: Callable[[bytes], None]


def vector(name: str) -> Any:
    return json.loads((VECTORS / name).read_text(encoding="utf-8"))


def hex_strings(value: Any) -> list[bytes]:
    """All hexadecimal strings within a JSON value."""
    if isinstance(value, dict):
        return [found for item in value.values() for found in hex_strings(item)]
    if isinstance(value, list):
        return [found for item in value for found in hex_strings(item)]
    if isinstance(value, str) and len(value) >= 2:
        try:
            return [bytes.fromhex(value)]
        except ValueError:
            return []
    return []


# --- packets: headers of a datagram, one behind the other ----------------------------------


def packet_seeds() -> list[bytes]:
    names = ("quic_client_initial", "quic_server_handshake", "quic_multipath_1rtt")
    found = [data for name in names for data in hex_strings(vector(f"{name}.json"))]
    long = [data for data in found if len(data) > 20]
    retry = b"\xf0\0\0\0\x01\x04scid\x04dcid" + bytes(40)
    negotiation = b"\x80\0\0\0\0\x04scid\x04dcid\0\0\0\x01\x0a\x1a\x2a\x3a"
    return [b"\x08" + data for data in [*long, long[0] + long[-1], retry, negotiation]]


def run_packet(data: bytes) -> None:
    """The first byte is the length of our connection ids."""
    dcid_len = data[0] % 21 if data else 8
    rest = data[1:]
    while rest:
        try:
            header = parse_header(rest, dcid_len)
        except ValueError:
            break
        size = header["packet_len"]
        assert 0 < size <= len(rest)
        assert 0 <= header["pn_offset"] <= len(rest)
        assert len(header["dcid"]) <= 255 and len(header["token"]) <= len(rest)
        rest = rest[size:]
    for offset in (0, len(data) // 2):
        try:
            value, end = decode_varint(data, offset)
        except ValueError:
            continue
        shortest = encode_varint(value)
        assert decode_varint(shortest) == (value, len(shortest))
        assert len(shortest) <= end - offset <= 8
    if 1 <= len(data) <= 4:
        for expected in (0, 2**31, 2**62 - 1):
            assert 0 <= decode_pn(data, expected) < 2**62


# --- frames --------------------------------------------------------------------------------


def single_frames() -> list[bytes]:
    return [bytes.fromhex(frame["hex"]) for frame in vector("quic_frames.json")["frames"]]


def frame_seeds() -> list[bytes]:
    frames = single_frames()
    many_ranges = b"\x02" + varint(5000) + b"\0" + varint(1000) + b"\0" + b"\0\0" * 1000
    mapped = bytes.fromhex("803d7f910100000000000000000000ffffffffffffffff")
    return [*frames, mapped, b"".join(frames[: len(frames) // 2]), b"".join(frames), many_ranges, bytes(300)]


def run_frames(data: bytes) -> None:
    try:
        frames = decode_frames(data)
    except FrameDecodeError as error:
        assert 0 <= error.offset <= len(data)
        return
    if any(frame.get("offset", 0) + len(frame.get("data", b"")) >= 2**62 for frame in frames):
        return  # decoded, so that the stream can name the error; not encoded
    # What was understood survives encoding, where every frame says its own length.
    encoded = b"".join(encode_frame(frame) for frame in frames)
    assert list(plain(decode_frames(encoded))) == list(plain(frames))


ADDRESSES = (0x3D7F90, 0x3D7F91, 0x3D7F92, 0x3D7F93, 0x9F81A6, 0x9F81A7)


def plain(frames: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Remove what encoding changes: which optional fields are there, how padding is cut up."""
    for kind, group in itertools.groupby(frames, lambda frame: frame["type"]):
        if kind == 0:
            yield {"type": 0, "length": sum(frame["length"] for frame in group)}
        elif 0x08 <= kind <= 0x0F:
            yield from (frame | {"type": kind & ~6} for frame in group)
        elif kind in (0x30, 0x31):
            yield from (frame | {"type": 0x30} for frame in group)
        elif kind in ADDRESSES:  # IPv4 within IPv6 is IPv4
            yield from (frame | {"type": kind & ~1} for frame in group)
        else:
            yield from group


# --- transport parameters ------------------------------------------------------------------

PARAMETERS = TransportParameters(
    max_idle_timeout_ms=30_000,
    initial_max_data=(1 << 62) - 1,
    initial_max_stream_data_bidi_local=1_250_000,
    initial_max_stream_data_bidi_remote=1_250_000,
    initial_max_stream_data_uni=1_250_000,
    initial_max_streams_bidi=100,
    initial_max_streams_uni=100,
    max_datagram_frame_size=65_535,
    initial_max_path_id=7,
    n0_nat_traversal=32,
)


def parameter_seeds() -> list[bytes]:
    seeds = [
        bytes((side,)) + PARAMETERS.encode(bool(side), Random(n).randbytes)
        for side in (0, 1)
        for n in range(4)
    ]
    preferred = bytes(4) + b"\0\0" + bytes(16) + b"\x01\xbb\x04" + b"abcd" + bytes(16)
    seeds.append(b"\x01" + varint(13) + varint(len(preferred)) + preferred)
    return seeds


def run_parameters(data: bytes) -> None:
    """The first byte says whether a server sent them."""
    from_server = bool(data[0] & 1) if data else False
    try:
        found = TransportParameters.decode(data[1:], from_server)
    except ParameterError:
        return
    again = TransportParameters.decode(found.encode(from_server, Random(0).randbytes), from_server)
    assert again == found
    found.remembered_for_zero_rtt()
    assert found.accepts_zero_rtt_of(found)


# --- TLS -----------------------------------------------------------------------------------

CLIENT = Identity(bytes(range(1, 33)))
SERVER = Identity(bytes(range(32)))
ALPN = b"fuzz/1"
NOW = 1_700_000_000.0


def new_client(ticket: ResumptionTicket | None = None, tickets: list | None = None) -> Session:
    return TlsSession.client(
        CLIENT,
        expected_peer=SERVER.public_key,
        alpns=[ALPN],
        transport_parameters=PARAMETERS.encode(False),
        ticket=ticket,
        on_ticket=None if tickets is None else tickets.append,
        random=Random(1).randbytes,
        now=lambda: NOW,
    )


def new_server(store: ServerTicketStore | None = None) -> Session:
    return TlsSession.server(
        SERVER,
        alpns=[ALPN],
        transport_parameters=PARAMETERS.encode(True),
        ticket_store=store,
        random=Random(2).randbytes,
        now=lambda: NOW,
    )


def exchange(client: Session, server: Session) -> tuple[list, list]:
    """Complete a handshake; returns what each side sent as (epoch, bytes)."""
    client.start()
    sent: tuple[list, list] = ([], [])
    for _ in range(3):
        for source, target, log in ((client, server, sent[0]), (server, client, sent[1])):
            for epoch, data in source.take_output():
                log.append((epoch, data))
                target.receive(epoch, data)
    assert client.complete and server.complete
    return sent


def pack(role: int, messages: list[tuple[int, bytes]]) -> bytes:
    return bytes((role,)) + b"".join(
        struct.pack("!BH", epoch, len(data)) + data for epoch, data in messages
    )


class Recorded:
    """One full handshake, and what is needed for a resumed one."""

    def __init__(self) -> None:
        tickets: list[ResumptionTicket] = []
        self.store = ServerTicketStore()
        self.full = exchange(new_client(tickets=tickets), new_server(self.store))
        self.ticket = tickets[0]
        self.resumed = exchange(
            new_client(copy.deepcopy(self.ticket)), new_server(copy.deepcopy(self.store))
        )


_recorded: list[Recorded] = []


def recorded() -> Recorded:
    if not _recorded:
        _recorded.append(Recorded())
    return _recorded[0]


def tls_seeds() -> list[bytes]:
    r = recorded()
    seeds = []
    for role, messages in enumerate((r.full[0], r.full[1], r.resumed[0], r.resumed[1])):
        seeds.append(pack(role, messages))
        # Each message alone at its place, so that changes do not mostly hit the first one.
        split = []
        for epoch, data in messages:
            while data:
                size = 4 + int.from_bytes(data[1:4], "big")
                split.append((epoch, data[:size]))
                data = data[size:]
        seeds.append(pack(role, split))
        seeds += [pack(role, split[:n] + split[n + 1 :]) for n in range(len(split))]
        seeds += [pack(role, split[:n] + split[n:][::-1]) for n in range(1, len(split) - 1)]
    return seeds


def run_tls(data: bytes) -> None:
    """Feed a server (role 0, resuming 2) or a client (1, 3) the messages packed in `data`.

    All secrets are fixed, so unchanged messages of a seed are valid.
    """
    role = data[0] % 4 if data else 0
    r = recorded()
    if role % 2 == 0:
        victim = new_server(copy.deepcopy(r.store) if role == 2 else None)
    else:
        victim = new_client(copy.deepcopy(r.ticket) if role == 3 else None)
        victim.start()
    sent = 0
    at = 1
    while at + 3 <= len(data):
        epoch, size = struct.unpack_from("!BH", data, at)
        piece = data[at + 3 : at + 3 + size]
        at += 3 + size
        try:
            victim.receive(epoch % 4, piece)
        except TlsAlert as alert:
            assert 0 <= alert.description <= 255 and alert.reason
            try:
                victim.receive(epoch % 4, b"\0")
            except TlsAlert as again:
                assert again.description == alert.description
            else:
                raise AssertionError("a failed session went on") from None
            return
        sent += sum(len(output) for _, output in victim.take_output())
        assert sent < 16_384
        for _, _, _, secret in victim.take_secrets():
            assert len(secret) in (32, 48)
    if victim.complete:
        expected = (CLIENT, SERVER)[role % 2].public_key
        assert victim.peer_public_key == expected


# --- tickets and addresses -----------------------------------------------------------------


def ticket_seeds() -> list[bytes]:
    id = SecretKey(bytes(32)).public
    addr = EndpointAddr(id)
    full = addr.with_relay_url("https://relay.example/").with_ip_addr("1.2.3.4:5")
    full = full.with_ip_addr("[2001:db8::1]:443").with_ip_addr("[fe80::1]:1")
    texts = [str(EndpointTicket(a)).encode() for a in (addr, full)]
    payloads = [EndpointTicket(a).to_bytes() for a in (addr, full)]
    return [b"T" + text for text in texts] + [b"P" + payload for payload in payloads]


def run_ticket(data: bytes) -> None:
    """T: the text of a ticket; anything else: a payload."""
    try:
        if data[:1] == b"T":
            ticket = EndpointTicket.parse(data[1:].decode("utf-8", "surrogateescape"))
        else:
            ticket = EndpointTicket.from_bytes(data[1:])
    except TicketError:
        return
    assert EndpointTicket.parse(str(ticket)) == ticket
    assert EndpointTicket.from_bytes(ticket.to_bytes()) == ticket


def address_seeds() -> list[bytes]:
    id = SecretKey(bytes(32)).public
    full = EndpointAddr(id).with_relay_url("https://relay.example./a?b#c").with_ip_addr("1.2.3.4:5")
    custom = CustomAddr(7, b"data")
    return [
        b"U" + b"https://user:pw@relay.example:8443/path?x=1#y",
        b"U" + b"http://[::ffff:1.2.3.4]:80/",
        b"S" + b"1.2.3.4:65535",
        b"S" + b"[fe80::1%3]:80",
        b"I" + str(id).encode(),
        b"C" + custom.to_text().encode(),
        b"D" + custom.to_bytes(),
        b"A" + full.to_postcard(),
        b"J" + json.dumps(full.to_json()).encode(),
    ]


def run_address(data: bytes) -> None:
    """The first byte chooses the parser."""
    kind, rest = data[:1], data[1:]
    text = rest.decode("utf-8", "surrogateescape")
    try:
        if kind == b"U":
            url = RelayUrl(text)
            assert RelayUrl(str(url)) == url
        elif kind == b"S":
            socket_addr = SocketAddr.parse(text)
            assert SocketAddr.parse(str(socket_addr)) == socket_addr
        elif kind == b"I":
            id = EndpointId.parse(text)
            assert EndpointId.parse(str(id)) == id
        elif kind == b"C":
            custom = CustomAddr.parse(text)
            assert CustomAddr.parse(custom.to_text()) == custom
        elif kind == b"D":
            custom = CustomAddr.from_bytes(rest)
            assert CustomAddr.from_bytes(custom.to_bytes()) == custom
        elif kind == b"J":
            try:
                value = json.loads(rest)
            except (ValueError, RecursionError):
                return
            addr = EndpointAddr.from_json(value)
            assert EndpointAddr.from_json(addr.to_json()) == addr
        else:
            addr = EndpointAddr.from_postcard(rest)
            assert EndpointAddr.from_postcard(addr.to_postcard()) == addr
    except (AddrError, CustomAddrError, KeyParsingError, RelayUrlError):
        return


# --- tokens --------------------------------------------------------------------------------

TOKEN_KEY = TokenKey(bytes(range(32)))


def token_seeds() -> list[bytes]:
    key = TokenKey(bytes(range(32)), Random(3).randbytes)
    ip = bytes(10) + b"\xff\xff\x7f\0\0\x01"
    return [
        key.seal_retry(ip, 5000, b"original", int(NOW)),
        key.seal_validation(ip, int(NOW)),
        b"",
    ]


def run_token(data: bytes) -> None:
    result = validate(TOKEN_KEY, data, bytes(16), 5000, int(NOW))
    # Sealed for another address: good for nothing whatever was changed.
    assert result.original_dcid is None


def relay_frames() -> list[bytes]:
    groups = vector("relay_frames.json")["frames"].values()
    return [bytes.fromhex(item["hex"]) for group in groups for item in group if "hex" in item]


TARGETS = {
    target.name: target
    for target in (
        Target("packet", packet_seeds, run_packet),
        Target("frames", frame_seeds, run_frames),
        Target("parameters", parameter_seeds, run_parameters),
        Target("tls", tls_seeds, run_tls),
        Target("ticket", ticket_seeds, run_ticket),
        Target("address", address_seeds, run_address),
        Target("token", token_seeds, run_token),
        Target("relay", lambda: relay_seeds(relay_frames()), run_relay),
        Target("relay_proof", relay_proof_seeds, run_relay_proof),
        Target("relay_server", lambda: relay_server_seeds(relay_frames()), run_relay_server),
        Target("relay_client", lambda: relay_client_seeds(relay_frames()), run_relay_client),
        Target("x509", x509_seeds, run_x509),
        Target("certificate", certificate_seeds, run_certificate),
        Target("config", config_seeds, run_config),
        Target("dns", dns_seeds, run_dns),
        Target("dht", dht_seeds, run_dht),
        Target("dns_query", query_seeds, run_query),
        Target("dns_zone", zone_seeds, run_zone),
        Target("dns_message", message_seeds, run_message),
        Target("signed_packet", signed_packet_seeds, run_signed_packet),
        Target("txt", txt_seeds, run_txt),
        Target("mdns", mdns_seeds, run_mdns),
        Target("stun", stun_seeds, run_stun),
        Target("portmap", portmap_seeds, run_portmap),
        Target("upnp", upnp_seeds, run_upnp),
        Target("connection", lambda: connection_seeds(single_frames()), run_connection),
        Target("acks", ack_seeds, run_acks),
        Target("levels", lambda: level_seeds(single_frames()), run_levels),
        Target("traversal", traversal_seeds, run_traversal),
        Target("unsealed", lambda: unsealed_seeds(packet_seeds()), run_unsealed),
    )
}
