"""TLS profile: vectors of a real peer, pairs of ours, aioquic as peer, every failure."""

from __future__ import annotations

import hashlib
import json
import random as random_module
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aioquic.buffer import Buffer
from hypothesis import given, settings
from hypothesis import strategies as st

from iroh_fast.quic import tls
from iroh_fast.quic.parameters import TransportParameters
from iroh_fast.quic.tls import Identity, TlsAlert, TlsSession, _schedule, _wire, rawkey
from iroh_fast.quic.tls import client as tls_client
from iroh_fast.quic.tls.session import HELLO_RETRY_RANDOM, Session
from iroh_fast.quic.tls.sessions import (
    ClientSessionCache,
    ResumptionTicket,
    ServerTicketStore,
)

VECTORS = Path(__file__).parent.parent / "vectors"
CLIENT = Identity(bytes(range(1, 33)))
SERVER = Identity(bytes(range(32)))
ALPN = b"\xff\x00test/1"  # not ASCII on purpose

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
CLIENT_PARAMETERS = PARAMETERS.encode(False)
SERVER_PARAMETERS = PARAMETERS.encode(True)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def seeded(seed: int) -> Callable[[int], bytes]:
    return random_module.Random(seed).randbytes


def make_client(**options: object) -> Session:
    arguments = {
        "expected_peer": SERVER.public_key,
        "alpns": [ALPN],
        "transport_parameters": CLIENT_PARAMETERS,
        "random": seeded(1),
    }
    return TlsSession.client(CLIENT, **(arguments | options))


def make_server(**options: object) -> Session:
    arguments = {
        "alpns": [ALPN],
        "transport_parameters": SERVER_PARAMETERS,
        "random": seeded(2),
    }
    return TlsSession.server(SERVER, **(arguments | options))


Edit = Callable[[int, bytes], bytes]


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = 4 + int.from_bytes(data[1:4], "big")
        found.append(data[:size])
        data = data[size:]
    return found


def relay(source: Session, target: Session, edit: Edit | None = None) -> int:
    """Deliver everything message by message, edited by (epoch, message); count the bytes."""
    count = 0
    for epoch, data in source.take_output():
        for message in messages(data):
            if edit is not None:
                message = edit(epoch, message)
            count += len(message)
            target.receive(epoch, message)
    return count


def handshake(
    client: Session,
    server: Session,
    from_client: Edit | None = None,
    from_server: Edit | None = None,
) -> None:
    client.start()
    relay(client, server, from_client)
    relay(server, client, from_server)
    relay(client, server, from_client)
    relay(server, client, from_server)


def with_length(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def extensions_start(message: bytes) -> int:
    if message[0] == 8:
        return 4
    if message[0] in (1, 2):
        at = 4 + 34
        at += 1 + message[at]
        if message[0] == 2:
            return at + 3
        at += 2 + int.from_bytes(message[at : at + 2], "big")
        return at + 1 + message[at]
    raise AssertionError(message[0])


def split_extensions(message: bytes) -> list[tuple[int, bytes]]:
    at = extensions_start(message) + 2
    found = []
    while at < len(message):
        kind = int.from_bytes(message[at : at + 2], "big")
        size = int.from_bytes(message[at + 2 : at + 4], "big")
        found.append((kind, message[at + 4 : at + 4 + size]))
        at += 4 + size
    return found


def join_extensions(message: bytes, extensions: list[tuple[int, bytes]]) -> bytes:
    block = b"".join(
        kind.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value
        for kind, value in extensions
    )
    body = message[4 : extensions_start(message)] + len(block).to_bytes(2, "big") + block
    return with_length(message[0], body)


def replace_extension(kind: int, value: bytes | None, message_type: int = 1) -> Edit:
    """Make an edit that sets (or with None removes) one extension of one message."""

    def edit(epoch: int, message: bytes) -> bytes:
        if message[0] != message_type:
            return message
        rest = [item for item in split_extensions(message) if item[0] != kind]
        if value is not None:
            rest.append((kind, value))
        return join_extensions(message, rest)

    return edit


def replace_message(message_type: int, replacement: bytes | Callable[[bytes], bytes]) -> Edit:
    def edit(epoch: int, message: bytes) -> bytes:
        if message[0] != message_type:
            return message
        return replacement(message) if callable(replacement) else replacement

    return edit


def certificate(*entries: bytes) -> bytes:
    block = b"".join(len(e).to_bytes(3, "big") + e + b"\0\0" for e in entries)
    return with_length(11, b"\0" + len(block).to_bytes(3, "big") + block)


def obtain_tickets(
    store: ServerTicketStore, clock: Clock, server_parameters: bytes = SERVER_PARAMETERS
) -> list[ResumptionTicket]:
    tickets: list[ResumptionTicket] = []
    client = make_client(on_ticket=tickets.append, now=clock)
    server = make_server(
        ticket_store=store, now=clock, transport_parameters=server_parameters, random=seeded(77)
    )
    handshake(client, server)
    return tickets


# --- a pair of ours --------------------------------------------------------------------


@pytest.mark.parametrize("suite", tls.DEFAULT_SUITES)
def test_full_handshake_agrees_on_everything(suite: int) -> None:
    client, server = make_client(suites=[suite]), make_server()
    handshake(client, server)
    assert client.complete and server.complete
    assert client.suite == server.suite == suite
    assert client.alpn == server.alpn == ALPN
    assert client.peer_public_key == SERVER.public_key
    assert server.peer_public_key == CLIENT.public_key
    assert client.peer_transport_parameters == SERVER_PARAMETERS
    assert server.peer_transport_parameters == CLIENT_PARAMETERS
    assert server.client_alpn_offers == (ALPN,)
    assert not client.resumed and not server.resumed
    assert client.early_data_accepted is False and server.early_data_accepted is False

    ours, theirs = client.take_secrets(), server.take_secrets()
    assert [(w, e) for w, e, _, _ in ours] == [(False, 2), (True, 2), (False, 3), (True, 3)]
    # The server reads nothing in 1-RTT before the client's Finished.
    assert [(w, e) for w, e, _, _ in theirs] == [(True, 2), (False, 2), (True, 3), (False, 3)]
    assert {(not w, e, s, x) for w, e, s, x in ours} == set(theirs)
    assert len({x for _, _, _, x in ours}) == 4
    size = 48 if suite == 0x1302 else 32
    assert {len(x) for _, _, _, x in ours} == {size}
    assert client.take_secrets() == []


def test_flight_sizes_are_those_of_a_real_peer() -> None:
    client = make_client(suites=[0x1302], alpns=[b"spec/0"])
    server = make_server(alpns=[b"spec/0"], ticket_store=ServerTicketStore())
    client.start()
    relay(client, server)
    flight = server.take_output()
    assert [epoch for epoch, _ in flight] == [0, 2]
    real = load("quic_server_handshake.json")["server_handshake_messages"]
    parameters = next(e for e in real[0]["extensions_in_wire_order"] if e["type"] == 57)
    expected = sum(len(m["hex"]) for m in real) // 2 - len(parameters["hex"]) // 2
    assert len(flight[1][1]) - len(SERVER_PARAMETERS) == expected
    for epoch, data in flight:
        client.receive(epoch, data)
    ((epoch, data),) = client.take_output()
    assert (epoch, len(data)) == (2, 181)
    server.receive(2, data)
    assert server.take_output() == []  # the client asked for no tickets


def test_client_hello_has_the_profile_and_no_server_name() -> None:
    client = make_client(on_ticket=[].append)
    client.start()
    ((epoch, hello),) = client.take_output()
    assert epoch == 0
    extensions = dict(split_extensions(hello))
    assert extensions.keys() == {10, 13, 16, 19, 20, 43, 45, 51, 57}
    assert extensions[10] == bytes.fromhex("0002001d")
    assert extensions[13] == bytes.fromhex("00020807")
    assert extensions[19] == extensions[20] == b"\x01\x02"
    assert extensions[43] == bytes.fromhex("020304")
    assert extensions[45] == bytes.fromhex("0101")
    assert extensions[16] == b"\0\x09\x08" + ALPN
    assert hello[38:49] == bytes.fromhex("00 0006 1301 1302 1303 01 00")


def test_client_hello_order_differs_between_connections() -> None:
    orders = set()
    for seed in range(20):
        client = make_client(random=seeded(seed))
        client.start()
        orders.add(tuple(kind for kind, _ in split_extensions(client.take_output()[0][1])))
    assert len(orders) > 15


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_messages_in_pieces_are_reassembled(size: int) -> None:
    client, server = make_client(), make_server()
    client.start()
    for _ in range(2):
        for source, target in ((client, server), (server, client)):
            for epoch, data in source.take_output():
                for at in range(0, len(data), size):
                    target.receive(epoch, data[at : at + size])
    assert client.complete and server.complete


def test_server_picks_suite_by_client_and_alpn_by_its_own_order() -> None:
    client = make_client(suites=[0x1303, 0x1301], alpns=[b"a", b"b", b"c"])
    server = make_server(alpns=[b"z", b"c", b"b"])
    handshake(client, server)
    assert client.suite == 0x1303
    assert client.alpn == b"c"
    assert server.client_alpn_offers == (b"a", b"b", b"c")


def test_server_accepts_what_it_may_ignore() -> None:
    """Session id, unknown extensions, SNI, more groups and shares, more certificate types."""

    def edit(epoch: int, message: bytes) -> bytes:
        if message[0] != 1:
            return message
        extensions = dict(split_extensions(message))
        extensions[0] = bytes.fromhex("000e00000b6578616d706c652e636f6d")
        extensions[0x2A2A] = b"grease"
        extensions[10] = bytes.fromhex("00061a1a11ec001d")
        shares = bytes.fromhex("1a1a000100") + extensions[51][2:]
        extensions[51] = len(shares).to_bytes(2, "big") + shares
        extensions[19] = extensions[20] = b"\x02\x00\x02"
        message = join_extensions(message, list(extensions.items()))
        return with_length(1, message[4:38] + b"\x20" + bytes(32) + message[39:])

    client, server = make_client(), make_server()
    client.start()
    relay(client, server, edit)
    hello = server.take_output()[0][1]
    assert hello[38] == 32 and hello[39:71] == bytes(32)  # echoed
    assert server.alpn == ALPN


def test_server_without_alpns_takes_a_client_without() -> None:
    client, server = make_client(), make_server(alpns=[])
    client.start()
    relay(client, server, replace_extension(16, None))
    assert server.alpn is None
    with pytest.raises(TlsAlert) as failure:
        relay(server, client)
    assert failure.value.description == 120


def test_client_accepts_a_server_that_wants_no_certificate() -> None:
    client, server = make_client(), make_server()
    client.start()
    relay(client, server)
    hello, flight = (data for _, data in server.take_output())
    client.receive(0, hello)
    # Rebuild the flight without CertificateRequest, as such a server would sign it.
    kdf, hs = client._kdf, client._handshake
    extensions, _, own, _, _ = messages(flight)
    transcript = hs.transcript.copy()
    transcript.update(extensions + own)
    verify = with_length(
        15,
        bytes.fromhex("08070040")
        + SERVER.sign(rawkey.SERVER_SIGNATURE_CONTEXT + transcript.digest()),
    )
    transcript.update(verify)
    finished = with_length(20, kdf.finished(hs.server_secret, transcript.digest()))
    client.receive(2, extensions + own + verify + finished)
    assert client.complete
    ((_, data),) = client.take_output()
    assert [m[0] for m in messages(data)] == [20]


def test_exporter_agrees_and_depends_on_its_inputs() -> None:
    client, server = make_client(), make_server()
    with pytest.raises(RuntimeError):
        client.export_keying_material(b"label", b"", 32)
    handshake(client, server)
    base = client.export_keying_material(b"label", b"context", 100)
    assert base == server.export_keying_material(b"label", b"context", 100)
    assert len(base) == 100
    others = {
        client.export_keying_material(b"other", b"context", 100),
        client.export_keying_material(b"label", b"", 100),
        client.export_keying_material(b"label", b"context", 99),
    }
    assert base not in others and base[:99] not in others
    assert len(client.export_keying_material(b"x", b"", 255 * 32)) == 255 * 32
    for length in (0, -1, 255 * 32 + 1):
        with pytest.raises(ValueError):
            client.export_keying_material(b"x", b"", length)
    with pytest.raises(ValueError):
        client.export_keying_material(bytes(250), b"", 1)


def test_key_log_lines_agree() -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    ours: list[str] = []
    theirs: list[str] = []
    client = make_client(ticket=ticket, keylog=ours.append, now=clock)
    server = make_server(ticket_store=store, keylog=theirs.append, now=clock)
    handshake(client, server)
    assert sorted(ours) == sorted(theirs)
    assert [line.split()[0] for line in theirs] == [
        "CLIENT_EARLY_TRAFFIC_SECRET",
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    ]
    assert {line.split()[1] for line in ours} == {seeded(1)(80)[:32].hex()}


def test_release_keeps_exporter_and_ticket_ability() -> None:
    clock, store, tickets = Clock(), ServerTicketStore(), []
    client = make_client(on_ticket=tickets.append, now=clock)
    server = make_server(ticket_store=store, now=clock)
    client.start()
    with pytest.raises(RuntimeError):
        client.release_handshake_state()
    relay(client, server)
    relay(server, client)
    relay(client, server)
    expected = client.export_keying_material(b"l", b"c", 32)
    client.release_handshake_state()
    relay(server, client)  # the tickets come late
    server.release_handshake_state()
    assert len(tickets) == 2
    assert client.export_keying_material(b"l", b"c", 32) == expected
    assert server.export_keying_material(b"l", b"c", 32) == expected
    assert server.peer_public_key == CLIENT.public_key and client.alpn == ALPN
    for session in (client, server):
        assert session._handshake is None


# --- resumption and 0-RTT --------------------------------------------------------------


def test_resumption_with_early_data() -> None:
    clock, store = Clock(), ServerTicketStore()
    tickets = obtain_tickets(store, clock)
    assert len(tickets) == len(store) == 2
    assert tickets[0].psk != tickets[1].psk
    assert len(tickets[0].identity) == 32 and tickets[0].lifetime_s == 86_400
    assert tickets[0].max_early_data == 0xFFFFFFFF
    clock.now += 1000

    more: list[ResumptionTicket] = []
    client = make_client(ticket=tickets[0], on_ticket=more.append, now=clock, random=seeded(5))
    server = make_server(ticket_store=store, now=clock, random=seeded(6))
    client.start()
    ((write, epoch, suite, early),) = client.take_secrets()
    assert (write, epoch, suite) == (True, 1, tickets[0].suite)
    assert client.early_data_offered and client.early_data_accepted is None
    relay(client, server)
    secrets = server.take_secrets()
    assert secrets[0] == (False, 1, suite, early)
    assert server.early_data_accepted is True and server.resumed
    assert server.peer_public_key == CLIENT.public_key
    ((_, hello), (_, flight)) = server.take_output()
    assert dict(split_extensions(hello))[41] == b"\0\0"
    assert [m[0] for m in messages(flight)] == [8, 20]
    client.receive(0, hello)
    client.receive(2, flight)
    relay(client, server)
    relay(server, client)
    assert client.complete and client.resumed and client.early_data_accepted is True
    assert client.peer_public_key == SERVER.public_key
    assert len(more) == 2 and len(store) == 3  # one used, two new
    mine = {(not w, e, s, x) for w, e, s, x in client.take_secrets()}
    assert mine == set(secrets[1:] + server.take_secrets())


def test_ticket_is_good_for_one_use_only() -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    for expected in (True, False):
        client = make_client(ticket=ticket, now=clock)
        server = make_server(ticket_store=store, now=clock)
        handshake(client, server)
        assert client.complete and server.complete
        assert client.resumed is server.resumed is expected
        assert client.early_data_accepted is server.early_data_accepted is expected
        assert server.peer_public_key == CLIENT.public_key


@pytest.mark.parametrize("situation", ["no store", "expired", "suite", "foreign"])
def test_unusable_ticket_falls_back_to_a_full_handshake(situation: str) -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    server_store: ServerTicketStore | None = store
    suites = tls.DEFAULT_SUITES
    client_clock = clock
    if situation == "no store":
        server_store = None
    elif situation == "expired":
        client_clock, clock = clock, Clock()
        clock.now += 86_401
    elif situation == "suite":
        suites = (0x1303, 0x1301, 0x1302)
    else:
        server_store = ServerTicketStore()
    client = make_client(ticket=ticket, now=client_clock, suites=suites)
    server = make_server(ticket_store=server_store, now=clock)
    handshake(client, server)
    assert client.complete and server.complete
    assert client.early_data_offered and client.early_data_accepted is False
    assert not client.resumed and not server.resumed
    assert [e for _, e, _, _ in server.take_secrets()] == [2, 2, 3, 3]


@pytest.mark.parametrize("situation", ["alpn", "skew", "shrunk", "nat"])
def test_early_data_is_refused_but_the_session_resumed(situation: str) -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    server_clock = Clock()
    alpns = [ALPN]
    parameters = SERVER_PARAMETERS
    if situation == "alpn":
        alpns = [b"other", ALPN]
    elif situation == "skew":
        server_clock.now += 61
    else:
        changed = TransportParameters.decode(SERVER_PARAMETERS, from_server=True)
        if situation == "shrunk":
            changed.initial_max_streams_bidi -= 1
        else:
            changed.n0_nat_traversal = 33
        parameters = changed.encode(True)
    client = make_client(ticket=ticket, now=clock, alpns=[ALPN, b"other"])
    server = make_server(
        ticket_store=store, now=server_clock, alpns=alpns, transport_parameters=parameters
    )
    handshake(client, server)
    assert client.complete and server.complete and client.resumed and server.resumed
    assert client.early_data_accepted is False and server.early_data_accepted is False


@pytest.mark.parametrize("situation", ["expired", "peer", "suite"])
def test_client_does_not_offer_a_ticket_that_cannot_work(situation: str) -> None:
    clock = Clock()
    ticket = obtain_tickets(ServerTicketStore(), clock)[0]
    options: dict[str, object] = {"now": clock, "ticket": ticket}
    if situation == "expired":
        clock.now += 86_400
    elif situation == "peer":
        options["expected_peer"] = CLIENT.public_key
    else:
        options["suites"] = [0x1303]
    client = make_client(**options)
    client.start()
    assert not client.early_data_offered and client.take_secrets() == []
    assert not {41, 42} & dict(split_extensions(client.take_output()[0][1])).keys()


def test_no_early_data_under_another_protocol() -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    client = make_client(ticket=ticket, now=clock, alpns=[b"other"])
    server = make_server(ticket_store=store, now=clock, alpns=[b"other"])
    handshake(client, server)
    assert client.resumed and not client.early_data_offered
    assert client.early_data_accepted is False


def test_wrong_binder_is_decrypt_error() -> None:
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    client = make_client(ticket=ticket, now=clock)
    server = make_server(ticket_store=store, now=clock)
    client.start()
    flip = replace_message(1, lambda m: m[:-1] + bytes((m[-1] ^ 1,)))
    with pytest.raises(TlsAlert) as failure:
        relay(client, server, flip)
    assert failure.value.description == 51


def test_pre_shared_key_must_be_last() -> None:
    clock = Clock()
    ticket = obtain_tickets(ServerTicketStore(), clock)[0]
    client = make_client(ticket=ticket, now=clock)
    client.start()

    def edit(epoch: int, message: bytes) -> bytes:
        extensions = split_extensions(message)
        return join_extensions(message, extensions[-1:] + extensions[:-1])

    with pytest.raises(TlsAlert) as failure:
        relay(client, make_server(), edit)
    assert failure.value.description == 47


def test_session_cache_with_remembered_parameters() -> None:
    clock, cache = Clock(), ClientSessionCache()
    for ticket in obtain_tickets(ServerTicketStore(), clock):
        cache.put_ticket(ticket)
    ticket = cache.take_ticket(SERVER.public_key, clock.now)
    assert ticket is not None
    remembered = ticket.remembered_parameters()
    assert remembered.initial_max_streams_bidi == 100
    assert remembered.initial_max_path_id is None
    assert ticket.psk.hex() not in repr(ticket)
    assert cache.take_ticket(SERVER.public_key, clock.now + 86_400) is None
    assert len(cache) == 0


# --- every row of the failure table ----------------------------------------------------

UNKNOWN_ISSUER = "invalid peer certificate: UnknownIssuer"
BAD_SIGNATURE = "invalid peer certificate: BadSignature"
BAD_ENCODING = "invalid peer certificate: BadEncoding"
NO_ALPN = "peer doesn't support any known protocol"
WRONG_TYPE = "peer is incompatible: IncorrectCertificateTypeExtension"
OTHER = Identity(bytes(32))


def flip_last(message: bytes) -> bytes:
    return message[:-1] + bytes((message[-1] ^ 1,))


FROM_CLIENT = {
    "signature": (replace_message(15, flip_last), 51, BAD_SIGNATURE),
    "other key": (replace_message(11, certificate(OTHER.spki)), 51, BAD_SIGNATURE),
    "off the curve": (
        replace_message(11, certificate(SERVER.spki[:12] + b"\x02" + bytes(31))),
        51,
        BAD_SIGNATURE,
    ),
    "small order": (
        replace_message(11, certificate(SERVER.spki[:12] + b"\x01" + bytes(31))),
        51,
        BAD_SIGNATURE,
    ),
    "no certificate": (replace_message(11, certificate()), 116, "peer sent no certificates"),
    "garbage": (replace_message(11, certificate(b"garbage")), 42, BAD_ENCODING),
    "spki too long": (replace_message(11, certificate(CLIENT.spki + b"x")), 42, BAD_ENCODING),
    "other oid": (replace_message(11, certificate(b"\x31" + CLIENT.spki[1:])), 42, BAD_ENCODING),
    "two entries": (
        replace_message(11, certificate(CLIENT.spki, CLIENT.spki)),
        48,
        UNKNOWN_ISSUER,
    ),
    "no 19": (replace_extension(19, None), 40, WRONG_TYPE),
    "no 20": (replace_extension(20, None), 40, WRONG_TYPE),
    "19 without 2": (replace_extension(19, b"\x01\x00"), 40, WRONG_TYPE),
    "20 without 2": (replace_extension(20, b"\x02\x00\x01"), 40, WRONG_TYPE),
    "schemes": (
        replace_extension(13, bytes.fromhex("00040403 0804")),
        40,
        "peer is incompatible: NoSignatureSchemesInCommon",
    ),
    "groups": (
        replace_extension(10, bytes.fromhex("00040017 0018")),
        40,
        "peer is incompatible: NoKxGroupsInCommon",
    ),
    "no x25519 share": (
        replace_extension(51, b"\0\0"),
        40,
        "peer is incompatible: NoKxGroupsInCommon",
    ),
    "suites": (
        replace_message(
            1, lambda m: m.replace(bytes.fromhex("130113021303"), bytes.fromhex("130413051306"), 1)
        ),
        40,
        "peer is incompatible: NoCipherSuitesInCommon",
    ),
    "alpn": (replace_extension(16, b"\0\3\2zz"), 120, NO_ALPN),
    "no alpn": (replace_extension(16, None), 120, NO_ALPN),
    "no parameters": (
        replace_extension(57, None),
        109,
        "peer misbehaved: MissingQuicTransportParameters",
    ),
    "compression": (
        replace_message(
            1, lambda m: with_length(1, m[4:].replace(b"\x01\x00", b"\x02\x00\x01", 1))
        ),
        47,
        "peer is incompatible: NullCompressionRequired",
    ),
    "early data with content": (
        replace_extension(42, b"x"),
        50,
        "received corrupt message of type EarlyDataExtension",
    ),
    "no version": (
        replace_extension(43, None),
        70,
        "peer is incompatible: SupportedVersionsExtensionRequired",
    ),
    "only 1.2": (
        replace_extension(43, b"\x02\x03\x03"),
        70,
        "peer is incompatible: Tls13RequiredForQuic",
    ),
    "zero share": (
        replace_extension(51, bytes.fromhex("0024001d0020") + bytes(32)),
        47,
        "peer misbehaved: InvalidKeyShare",
    ),
    "short share": (
        replace_extension(51, bytes.fromhex("0023001d001f") + bytes(31)),
        47,
        "peer misbehaved: InvalidKeyShare",
    ),
    "finished": (replace_message(20, flip_last), 51, "cannot decrypt peer's message"),
    "other scheme": (
        replace_message(15, lambda m: m[:4] + b"\x04\x03" + m[6:]),
        47,
        "peer misbehaved: SignedHandshakeWithUnadvertisedSigScheme",
    ),
    "context": (
        replace_message(11, lambda m: with_length(11, b"\x01x" + m[5:])),
        50,
        "received corrupt message of type CertificateRequestContext",
    ),
    "entry extension": (
        replace_message(
            11,
            lambda m: with_length(11, m[4:5] + b"\0\0\x35" + m[8:-2] + b"\0\4" + b"\0\5\0\0"),
        ),
        110,
        "peer misbehaved: UnsolicitedCertExtension",
    ),
}

FROM_SERVER = {
    "signature": (replace_message(15, flip_last), 51, BAD_SIGNATURE),
    "other key": (replace_message(11, certificate(OTHER.spki)), 48, UNKNOWN_ISSUER),
    "garbage": (replace_message(11, certificate(b"garbage")), 48, UNKNOWN_ISSUER),
    "two entries": (
        replace_message(11, certificate(SERVER.spki, SERVER.spki)),
        48,
        UNKNOWN_ISSUER,
    ),
    "no certificate": (replace_message(11, certificate()), 50, "peer sent no certificates"),
    "no 19": (replace_extension(19, None, 8), 40, WRONG_TYPE),
    "no 20": (replace_extension(20, None, 8), 40, WRONG_TYPE),
    "list in 19": (replace_extension(19, b"\x01\x02", 8), 40, WRONG_TYPE),
    "no alpn": (replace_extension(16, None, 8), 120, NO_ALPN),
    "two alpns": (
        replace_extension(16, b"\0\x04\x01a\x01b", 8),
        50,
        "received corrupt message of type ProtocolNameList",
    ),
    "other alpn": (
        replace_extension(16, b"\0\x02\x01a", 8),
        47,
        "peer misbehaved: SelectedUnofferedApplicationProtocol",
    ),
    "no parameters": (
        replace_extension(57, None, 8),
        109,
        "peer misbehaved: MissingQuicTransportParameters",
    ),
    "unsolicited early data": (
        replace_extension(42, b"", 8),
        110,
        "peer misbehaved: UnsolicitedEncryptedExtension",
    ),
    "unsolicited in hello": (
        replace_extension(0x1234, b"", 2),
        110,
        "peer misbehaved: UnsolicitedServerHelloExtension",
    ),
    "known extension in the wrong hello": (
        replace_extension(16, b"\0\x02\x01a", 2),
        47,
        "peer misbehaved: UnsolicitedServerHelloExtension",
    ),
    "known extension in the wrong flight": (
        replace_extension(43, b"\x03\x04", 8),
        47,
        "peer misbehaved: UnsolicitedEncryptedExtension",
    ),
    "unknown extension in the flight": (
        replace_extension(0x1234, b"", 8),
        110,
        "peer misbehaved: UnsolicitedEncryptedExtension",
    ),
    "unsolicited psk": (
        replace_extension(41, b"\0\0", 2),
        110,
        "peer misbehaved: UnsolicitedServerHelloExtension",
    ),
    "version": (
        replace_extension(43, b"\x03\x03", 2),
        70,
        "peer is incompatible: ServerDoesNotSupportTls12Or13",
    ),
    "group": (
        replace_extension(51, bytes.fromhex("00170020") + bytes(32), 2),
        47,
        "peer misbehaved: WrongGroupForKeyShare",
    ),
    "zero share": (
        replace_extension(51, bytes.fromhex("001d0020") + bytes(32), 2),
        47,
        "peer misbehaved: InvalidKeyShare",
    ),
    "suite": (
        replace_message(2, lambda m: m.replace(b"\x13\x01\x00", b"\x13\x04\x00", 1)),
        47,
        "peer misbehaved: SelectedUnofferedCipherSuite",
    ),
    "retry request": (
        replace_message(2, lambda m: m[:6] + HELLO_RETRY_RANDOM + m[38:]),
        40,
        "peer is incompatible: HelloRetryRequest is not supported",
    ),
    "finished": (replace_message(20, flip_last), 51, "cannot decrypt peer's message"),
    "request schemes": (
        replace_message(13, bytes.fromhex("0d00000b000008000d000400020403")),
        40,
        "peer is incompatible: NoCertificateRequestSignatureSchemesInCommon",
    ),
}


def check_failure(session: Session, error: TlsAlert, description: int, reason: str) -> None:
    assert (error.description, error.reason) == (description, reason)
    assert session._handshake is None
    with pytest.raises(TlsAlert) as again:
        session.receive(2, b"\0")
    assert (again.value.description, again.value.reason) == (description, reason)


@pytest.mark.parametrize("case", FROM_CLIENT)
def test_server_refuses(case: str) -> None:
    edit, description, reason = FROM_CLIENT[case]
    client, server = make_client(), make_server()
    with pytest.raises(TlsAlert) as failure:
        handshake(client, server, from_client=edit)
    check_failure(server, failure.value, description, reason)
    assert not server.complete and server.peer_public_key is None or case == "finished"


@pytest.mark.parametrize("case", FROM_SERVER)
def test_client_refuses(case: str) -> None:
    edit, description, reason = FROM_SERVER[case]
    client, server = make_client(), make_server()
    with pytest.raises(TlsAlert) as failure:
        handshake(client, server, from_server=edit)
    check_failure(client, failure.value, description, reason)
    assert not client.complete


def test_dialling_the_wrong_identity_is_unknown_issuer_at_certificate_verify() -> None:
    client, server = make_client(expected_peer=OTHER.public_key), make_server()
    client.start()
    relay(client, server)
    hello, flight = (data for _, data in server.take_output())
    client.receive(0, hello)
    parts = messages(flight)
    client.receive(2, b"".join(parts[:3]))  # EE, CertificateRequest, Certificate
    with pytest.raises(TlsAlert) as failure:
        client.receive(2, parts[3])
    check_failure(client, failure.value, 48, UNKNOWN_ISSUER)


@pytest.mark.parametrize("kind", [0, 1, 2, 5, 8, 11, 13, 20, 24, 99])
def test_post_handshake_messages_are_unexpected(kind: int) -> None:
    for at_server in (False, True):
        client, server = make_client(on_ticket=[].append), make_server()
        handshake(client, server)
        target = server if at_server else client
        with pytest.raises(TlsAlert) as failure:
            target.receive(3, with_length(kind, b"\0"))
        assert failure.value.description == 10
        assert failure.value.reason.startswith("received unexpected message: got ")
        # RFC 9001 §4.4, §6: authentication after the handshake violates QUIC, all else is an alert.
        violation = kind == 13 and not at_server
        assert failure.value.code == (0x0A if violation else 0x10A)
        with pytest.raises(TlsAlert) as again:
            target.receive(3, with_length(4, b""))
        assert again.value.code == failure.value.code


def test_post_handshake_ticket_to_a_server_is_unexpected() -> None:
    client, server = make_client(), make_server()
    handshake(client, server)
    with pytest.raises(TlsAlert) as failure:
        server.receive(3, with_length(4, bytes(20)))
    assert failure.value.description == 10


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_wrong_epoch_is_unexpected(epoch: int) -> None:
    client, server = make_client(), make_server()
    client.start()
    with pytest.raises(TlsAlert) as failure:
        server.receive(epoch, client.take_output()[0][1])
    assert failure.value.description == 10


def test_nothing_may_follow_a_message_that_changes_keys() -> None:
    client, server = make_client(), make_server()
    client.start()
    with pytest.raises(TlsAlert) as failure:
        server.receive(0, client.take_output()[0][1] + b"\x01")
    assert failure.value.description == 10


def test_duplicate_extension_is_refused() -> None:
    def edit(epoch: int, message: bytes) -> bytes:
        extensions = split_extensions(message)
        return join_extensions(message, extensions + extensions[:1])

    client, server = make_client(), make_server()
    client.start()
    with pytest.raises(TlsAlert) as failure:
        relay(client, server, edit)
    assert failure.value.description == 47
    assert "DuplicateExtension" in failure.value.reason


def test_oversized_message_is_refused_by_its_header() -> None:
    for size, refused in ((16_384, False), (16_385, True)):
        server = make_server()
        header = b"\x01" + size.to_bytes(3, "big")
        if refused:
            with pytest.raises(TlsAlert) as failure:
                server.receive(0, header)
            assert failure.value.description == 50
        else:
            server.receive(0, header)


def test_total_size_is_bounded() -> None:
    client, server = make_client(), make_server()
    client.start()
    relay(client, server)
    client.receive(0, server.take_output()[0][1])
    huge = with_length(8, b"\x3e\xfc" + b"\0\x0a\x3e\xf8" + bytes(0x3EF8))
    with pytest.raises(TlsAlert):
        client.receive(2, huge + bytes(60_000))
    assert client._partial == b""


@pytest.mark.parametrize(
    ("body", "description"),
    [
        (bytes.fromhex("00015180 00000000 00 0000 0000"), 50),  # empty ticket
        (bytes.fromhex("00093a81 00000000 00 000141 0000"), 47),  # more than seven days
        (bytes.fromhex("00015180 00000000 00 000141 0008002a000400000001"), 47),
        (bytes.fromhex("00015180 00000000 00 000141 0008002a000400000000"), 47),
        (bytes.fromhex("00015180 00000000 00 000141 0007002a0003000000"), 50),
        (bytes.fromhex("00015180 00000000 00 000141"), 50),
    ],
)
def test_bad_ticket_is_refused(body: bytes, description: int) -> None:
    client, server = make_client(on_ticket=[].append), make_server()
    handshake(client, server)
    with pytest.raises(TlsAlert) as failure:
        client.receive(3, with_length(4, body))
    assert failure.value.description == description
    # RFC 9001 §4.6.1: a QUIC server says 0xffffffff or nothing.
    violation = bytes.fromhex("002a0004") in body
    assert failure.value.code == (0x0A if violation else 0x100 + description)


def test_tickets_too_large_to_keep_are_ignored() -> None:
    tickets: list[ResumptionTicket] = []
    client, server = make_client(on_ticket=tickets.append), make_server()
    handshake(client, server)
    for size in (5000, 100):
        identity = bytes(size)
        body = bytes.fromhex("00015180 00000000 00") + size.to_bytes(2, "big") + identity + b"\0\0"
        client.receive(3, with_length(4, body))
    assert [len(t.identity) for t in tickets] == [100]


def test_tickets_are_taken_in_limited_number() -> None:
    tickets: list[ResumptionTicket] = []
    client, server = make_client(on_ticket=tickets.append), make_server()
    handshake(client, server)
    body = bytes.fromhex("00015180 00000000 00 000141 0004 12340000")  # unknown extension
    client.receive(3, with_length(4, b"\0\0\0\0" + body[4:]))  # lifetime 0: of no use
    for _ in range(50):
        client.receive(3, with_length(4, body))
    assert len(tickets) == tls_client.MAX_TICKETS_RECEIVED
    assert tickets[0].max_early_data == 0


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError):
        Identity(bytes(31))
    for options in (
        {"alpns": []},
        {"alpns": [b""]},
        {"alpns": [bytes(256)]},
        {"alpns": [bytes(255)] * 257},
        {"suites": []},
        {"suites": [0x1304]},
        {"expected_peer": bytes(31)},
    ):
        with pytest.raises(ValueError):
            make_client(**options)
    with pytest.raises(ValueError):
        make_server(alpns=[b""])
    client = make_client()
    client.start()
    for session in (client, make_server()):
        with pytest.raises(RuntimeError):
            session.start()


# --- hostile input ---------------------------------------------------------------------


def recorded() -> list[tuple[str, int, bytes]]:
    """Record every message of a resumed and a full handshake."""
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    found = []
    for offered in (None, ticket):
        client = make_client(ticket=offered, on_ticket=[].append, now=clock)
        server = make_server(ticket_store=store, now=clock)

        def note(side: str) -> Edit:
            def edit(epoch: int, message: bytes) -> bytes:
                found.append((side, epoch, message))
                return message

            return edit

        handshake(client, server, note("client"), note("server"))
    return found


RECORDED = recorded()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_messages_raise_only_alerts(data: st.DataObject) -> None:
    target = data.draw(st.integers(0, 15))
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0] if data.draw(st.booleans()) else None
    client = make_client(ticket=ticket, on_ticket=[].append, now=clock)
    server = make_server(ticket_store=store, now=clock)
    count = 0
    altered = None

    def mutate(epoch: int, message: bytes) -> bytes:
        nonlocal altered, count
        count += 1
        if count - 1 != target:
            return message
        changed = bytearray(message)
        for _ in range(data.draw(st.integers(1, 4))):
            if len(changed) < 6:
                break
            at = data.draw(st.integers(4, len(changed) - 1))
            action = data.draw(st.sampled_from(["set", "delete", "insert", "cut"]))
            if action == "set":
                changed[at] = data.draw(st.integers(0, 255))
            elif action == "delete":
                del changed[at]
            elif action == "insert":
                changed[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            else:
                del changed[at:]
        changed[1:4] = (len(changed) - 4).to_bytes(3, "big")
        if changed != message:
            altered = changed[0]
        return bytes(changed)

    try:
        handshake(client, server, mutate, mutate)
    except TlsAlert as alert:
        assert 0 <= alert.description <= 255 and alert.reason
    else:
        # Only what no Finished covers may change without notice: tickets.
        assert altered in (None, 4)
        assert client.complete and server.complete


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 3), st.sampled_from([1, 2, 4, 8, 11, 13, 15, 20]))
def test_random_messages_raise_only_alerts(body: bytes, epoch: int, kind: int) -> None:
    client, server = make_client(), make_server()
    client.start()
    for session in (client, server):
        try:
            session.receive(epoch, with_length(kind, body))
        except TlsAlert:
            pass
        assert not session.complete


@pytest.mark.parametrize("index", range(len(RECORDED)))
def test_every_truncation_with_fixed_length_raises_an_alert(index: int) -> None:
    """Each message cut anywhere (its length made right) is refused by its receiver."""
    side, epoch, message = RECORDED[index]
    clock, store = Clock(), ServerTicketStore()
    ticket = obtain_tickets(store, clock)[0]
    first_resumed = next(i for i in range(1, len(RECORDED)) if RECORDED[i][2][0] == 1)
    resumed = index >= first_resumed
    start = first_resumed if resumed else 0
    step = 1 if len(message) < 120 else 7
    for size in range(0, len(message) - 4, step):
        store_copy = ServerTicketStore()
        store_copy._tickets.update(store._tickets)
        client = make_client(ticket=ticket if resumed else None, on_ticket=[].append, now=clock)
        server = make_server(ticket_store=store_copy, now=clock)
        count = start - 1

        def cut(epoch: int, message: bytes, size: int = size) -> bytes:
            nonlocal count
            count += 1
            return with_length(message[0], message[4 : 4 + size]) if count == index else message

        with pytest.raises(TlsAlert):
            handshake(client, server, cut, cut)


READERS = (
    lambda message: _wire.read_client_hello(message, (ALPN,)),
    lambda message: _wire.read_server_hello(message, HELLO_RETRY_RANDOM, tls.DEFAULT_SUITES, True),
    lambda message: _wire.read_encrypted_extensions(message, (ALPN,), True),
    _wire.check_certificate_request,
    _wire.read_certificate,
    _wire.read_certificate_verify,
    _wire.read_ticket,
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(READERS), st.sampled_from(RECORDED), st.data())
def test_readers_raise_only_alerts(
    reader: Callable[[bytes], object], record: tuple[str, int, bytes], data: st.DataObject
) -> None:
    """Any message, also of another kind, cut and changed: an answer or an alert."""
    changed = bytearray(record[2])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed) - 1)) if changed else 0
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        reader(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
    except TlsAlert as alert:
        assert alert.reason


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", range(4))
def test_readers_stand_less_than_a_header(reader: Callable[[bytes], object], size: int) -> None:
    with pytest.raises(TlsAlert):
        reader(bytes(size))


@settings(max_examples=100, deadline=None)
@given(
    alpns=st.lists(st.binary(min_size=1, max_size=255), min_size=1, max_size=20),
    parameters=st.binary(max_size=300),
    flags=st.tuples(st.booleans(), st.booleans()),
    noise=st.binary(min_size=12, max_size=12),
)
def test_client_hello_round_trip(
    alpns: list[bytes], parameters: bytes, flags: tuple[bool, bool], noise: bytes
) -> None:
    message = _wire.write_client_hello(
        bytes(range(32)),
        bytes(range(32, 64)),
        b"\x13\x03\x13\x01",
        _wire.alpn_extension(alpns),
        parameters,
        *flags,
        noise,
    )
    hello = _wire.read_client_hello(message, (alpns[-1],))
    assert hello.random + hello.share == bytes(range(64)) and hello.session_id == b""
    assert (hello.suite, hello.alpn, hello.parameters) == (0x1303, alpns[-1], parameters)
    assert hello.alpns == tuple(alpns)
    assert (hello.tickets_wanted, hello.early_data) == flags
    assert hello.identity is hello.binder is None


def test_every_group_and_extension_number_is_told_apart() -> None:
    """As many unknown extensions and shares as fit: taken once, refused twice."""
    client = make_client()
    client.start()
    hello = client.take_output()[0][1]
    many = [(kind, b"") for kind in range(0x8000, 0x8000 + 3000)]
    extensions = split_extensions(hello) + many
    assert _wire.read_client_hello(join_extensions(hello, extensions), (ALPN,)).alpn == ALPN
    with pytest.raises(TlsAlert, match="DuplicateExtension"):
        _wire.read_client_hello(join_extensions(hello, [*extensions, many[0]]), (ALPN,))
    own = dict(extensions)[51][2:]
    for count, fits in ((2000, True), (2001, False)):
        group = [(0x4000 + i % 2000).to_bytes(2, "big") + b"\0\0" for i in range(count)]
        shares = own + b"".join(group)
        changed = [
            (kind, len(shares).to_bytes(2, "big") + shares if kind == 51 else value)
            for kind, value in split_extensions(hello)
        ]
        message = join_extensions(hello, changed)
        if fits:
            assert _wire.read_client_hello(message, (ALPN,)).share == own[4:]
        else:
            with pytest.raises(TlsAlert, match="OfferedDuplicateKeyShares"):
                _wire.read_client_hello(message, (ALPN,))


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(tls.DEFAULT_SUITES)),
    st.binary(min_size=1, max_size=64),
    st.binary(max_size=249),
    st.binary(max_size=255),
    st.integers(1, 255 * 32),
)
def test_expand_label_is_hkdf(
    suite: int, secret: bytes, label: bytes, context: bytes, length: int
) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

    info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label
    info += bytes([len(context)]) + context
    algorithm = hashes.SHA384() if suite == 0x1302 else hashes.SHA256()
    expected = HKDFExpand(algorithm, length, info).derive(secret)
    assert _schedule.KDF[suite].expand_label(secret, label, context, length) == expected


# --- vectors of a real peer ------------------------------------------------------------


def load(name: str) -> dict:
    return json.loads((VECTORS / name).read_text())


@pytest.mark.parametrize(
    ("name", "early"),
    [("quic_client_initial.json", False), ("quic_client_initial_resumed.json", True)],
)
def test_server_answers_a_real_client_hello(name: str, early: bool) -> None:
    vector = load(name)
    hello = bytes.fromhex(vector["client_hello_hex"])
    server = make_server(alpns=[vector["alpn"].encode()], ticket_store=ServerTicketStore())
    server.receive(0, hello)
    assert server.suite == 0x1302  # the first of its list
    assert server.alpn == b"spec/0" and server.client_alpn_offers == (b"spec/0",)
    assert server.early_data_offered is early and server.early_data_accepted is False
    parameters = TransportParameters.decode(server.peer_transport_parameters, from_server=False)
    assert parameters.initial_source_connection_id == bytes.fromhex(vector["scid"])
    assert [epoch for epoch, _ in server.take_output()] == [0, 2]
    ours = make_client(suites=[0x1302, 0x1301, 0x1303])
    ours.start()
    our_extensions = split_extensions(ours.take_output()[0][1])
    theirs = dict(split_extensions(hello))
    for kind, value in our_extensions:
        if kind not in (10, 16, 51, 57):  # those differ by policy or by connection
            assert theirs[kind] == value


def initial_crypto(datagram: bytes, dcid: bytes) -> bytes:
    """Decrypt a client Initial and return its CRYPTO bytes (RFC 9001 §5)."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    kdf = _schedule.SHA256
    salt = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
    secret = kdf.expand_label(kdf.extract(salt, dcid), b"client in", b"", 32)
    key = kdf.expand_label(secret, b"quic key", b"", 16)
    iv = kdf.expand_label(secret, b"quic iv", b"", 12)
    hp = kdf.expand_label(secret, b"quic hp", b"", 16)
    at = 5
    at += 1 + datagram[at]
    at += 1 + datagram[at]
    assert datagram[at] == 0  # no token
    at += 1
    length = int.from_bytes(datagram[at : at + 2], "big") & 0x3FFF
    at += 2
    sample = datagram[at + 4 : at + 20]
    encryptor = Cipher(algorithms.AES(hp), modes.ECB()).encryptor()
    mask = encryptor.update(sample)
    first = datagram[0] ^ (mask[0] & 0x0F)
    size = (first & 3) + 1
    number = bytes(a ^ b for a, b in zip(datagram[at : at + size], mask[1:]))
    header = bytes((first,)) + datagram[1:at] + number
    nonce = (int.from_bytes(iv, "big") ^ int.from_bytes(number, "big")).to_bytes(12, "big")
    plain = AESGCM(key).decrypt(nonce, datagram[at + size : at + length], header)
    plain = plain.lstrip(b"\0")
    assert plain[0] == 6 and plain[1] == 0
    length = int.from_bytes(plain[2:4], "big") & 0x3FFF
    return plain[4 : 4 + length]


def test_client_accepts_the_flight_of_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    vector = load("quic_server_handshake.json")
    secrets = {k: bytes.fromhex(v) for k, v in vector["traffic_secrets"].items()}
    hello = initial_crypto(
        bytes.fromhex(vector["handshake_datagrams"][0]["datagram"]),
        bytes.fromhex(vector["client_original_dcid"]),
    )
    assert hello[6:38].hex() == vector["client_random"]
    identity = Identity(bytes.fromhex(vector["client_secret_key"]))
    assert identity.public_key.hex() == vector["client_endpoint_id"]
    tickets: list[ResumptionTicket] = []
    client = TlsSession.client(
        identity,
        expected_peer=bytes.fromhex(vector["server_endpoint_id"]),
        alpns=[b"spec/0"],
        transport_parameters=b"",
        on_ticket=tickets.append,
    )
    client.start()
    client.take_output()

    # The private X25519 key of the capture is not known, its handshake secrets are.
    def known(
        self: rawkey.RawKeySession, hs: rawkey.Handshake, psk: bytes | None, share: bytes
    ) -> None:
        hs.client_secret = secrets["client_HANDSHAKE"]
        hs.server_secret = secrets["server_HANDSHAKE"]
        hs.master = bytes(48)

    monkeypatch.setattr(rawkey.RawKeySession, "_derive_handshake_secrets", known)
    client._handshake.transcript = hello
    client.receive(0, bytes.fromhex(vector["server_hello_hex"]))
    assert client.suite == 0x1302
    flight = [bytes.fromhex(m["hex"]) for m in vector["server_handshake_messages"]]
    assert flight[1] == _wire.CERTIFICATE_REQUEST_MESSAGE
    assert flight[2] == Identity(bytes.fromhex(vector["server_secret_key"])).certificate_message
    client.receive(2, b"".join(flight))
    assert client.complete and client.alpn == b"spec/0"
    assert client.peer_public_key.hex() == vector["server_endpoint_id"]
    # Ed25519 is deterministic: our flight is the one of the capture, to the byte.
    ((epoch, data),) = client.take_output()
    captured = next(
        packet["payload_without_padding"]
        for datagram in vector["handshake_datagrams"]
        for packet in datagram["packets"]
        if datagram["dir"] == "client->server"
        and packet["space"] == "H"
        and packet["payload_without_padding"].startswith("0600")
    )
    assert epoch == 2 and captured == "060040b5" + data.hex()
    for message in vector["new_session_ticket_messages"]:
        client.receive(3, bytes.fromhex(message))
    assert [t.lifetime_s for t in tickets] == [86_400, 86_400]
    assert tickets[0].identity.hex() in vector["new_session_ticket_messages"][0]
    assert tickets[0].remembered_parameters().n0_nat_traversal == 32


def test_key_derivations_of_a_real_connection() -> None:
    vector = load("quic_server_handshake.json")
    kdf = _schedule.SHA384
    for name, derived in vector["derived"].items():
        secret = bytes.fromhex(vector["traffic_secrets"][name])
        assert kdf.expand_label(secret, b"quic key", b"", 32).hex() == derived["key"]
        assert kdf.expand_label(secret, b"quic iv", b"", 12).hex() == derived["iv"]
        assert kdf.expand_label(secret, b"quic hp", b"", 32).hex() == derived["hp"]


@pytest.mark.parametrize("suite", tls.DEFAULT_SUITES)
def test_key_schedule_equals_that_of_aioquic(suite: int) -> None:
    import aioquic.tls

    kdf = _schedule.KDF[suite]
    theirs = aioquic.tls.KeySchedule(aioquic.tls.CipherSuite(suite))
    psk, shared, secret = bytes(range(kdf.size)), bytes(range(32)), b""
    for step, key in ((kdf.zeros, psk), (None, shared), (None, kdf.zeros)):
        salt = step if step is not None else kdf.derive(secret, b"derived", kdf.empty_hash)
        secret = kdf.extract(salt, key)
        theirs.extract(key)
        assert theirs.secret == secret
    theirs.update_hash(b"transcript")
    digest = kdf.new(b"transcript").digest()
    for label in (b"c ap traffic", b"s ap traffic", b"exp master", b"res master"):
        derived = kdf.derive(secret, label, digest)
        assert derived == theirs.derive_secret(label)
        assert derived == kdf.expand_label(secret, label, digest, kdf.size)
    assert theirs.finished_verify_data(derived) == kdf.finished(derived, digest)
    assert hashlib.new(kdf.name).digest() == kdf.empty_hash


# --- aioquic as an independent peer ----------------------------------------------------


class AioquicPeer:
    """aioquic's TLS engine, bent to raw public keys, behind the interface of ours."""

    def __init__(self, is_client: bool, **attributes: object) -> None:
        import ssl

        import aioquic.tls as their
        from cryptography.hazmat.primitives.asymmetric import ed25519

        self.their = their
        peer = self

        class RawKey:
            def __init__(self, spki: bytes) -> None:
                self.spki = spki

            def public_bytes(self, encoding: object) -> bytes:
                return self.spki

            def public_key(self) -> ed25519.Ed25519PublicKey:
                return ed25519.Ed25519PublicKey.from_public_bytes(self.spki[12:])

        class Context(their.Context):
            def _set_peer_certificate(self, certificate: their.Certificate) -> None:
                ((spki, _),) = certificate.certificates
                self._peer_certificate = RawKey(spki)

            def _set_state(self, state: their.State) -> None:
                if state is their.State.SERVER_EXPECT_CERTIFICATE and self._session_resumed:
                    self._server_expect_finished()
                else:
                    super()._set_state(state)

        self.context = Context(
            is_client=is_client,
            alpn_protocols=["test"],
            verify_mode=ssl.CERT_NONE,
            max_early_data=None if is_client else 0xFFFFFFFF,
        )
        seed, own = (bytes(range(1, 33)), CLIENT) if is_client else (bytes(range(32)), SERVER)
        self.context._signature_algorithms = [their.SignatureAlgorithm.ED25519]
        self.context._supported_groups = [their.Group.X25519]
        self.context.certificate = RawKey(own.spki)
        self.context.certificate_private_key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)
        self.context._request_client_certificate = not is_client
        types = b"\x01\x02" if is_client else b"\x02"
        parameters = CLIENT_PARAMETERS if is_client else SERVER_PARAMETERS
        self.context.handshake_extensions = [(57, parameters), (19, types), (20, types)]
        for name, value in attributes.items():
            setattr(self.context, name, value)
        self.secrets: dict[tuple[bool, int], bytes] = {}

        def note(direction: object, epoch: object, suite: object, secret: bytes) -> None:
            peer.secrets[direction is their.Direction.ENCRYPT, epoch.value] = secret

        self.context.update_traffic_key_cb = note
        self.buffers = {
            epoch: Buffer(capacity=8192)
            for epoch in (their.Epoch.INITIAL, their.Epoch.HANDSHAKE, their.Epoch.ONE_RTT)
        }

    @property
    def complete(self) -> bool:
        return self.context.state in (
            self.their.State.CLIENT_POST_HANDSHAKE,
            self.their.State.SERVER_POST_HANDSHAKE,
        )

    def start(self) -> None:
        self.context.handle_message(b"", self.buffers)

    def receive(self, epoch: int, data: bytes) -> None:
        self.context.handle_message(data, self.buffers)

    def take_output(self) -> list[tuple[int, bytes]]:
        output = []
        for epoch, buffer in self.buffers.items():
            if buffer.tell():
                output.append((epoch.value, buffer.data))
                buffer.seek(0)
        return output


def check_same_secrets(ours: Session, theirs: AioquicPeer, early: bool) -> None:
    mine = {(not write, epoch): secret for write, epoch, _, secret in ours.take_secrets()}
    assert mine == theirs.secrets
    assert len(mine) == (5 if early else 4)


def test_aioquic_client_against_our_server() -> None:
    store = ServerTicketStore()
    tickets: list = []
    for resumed in (False, True):
        theirs = AioquicPeer(True, new_session_ticket_cb=tickets.append)
        if resumed:
            theirs.context.session_ticket = tickets[0]
        server = make_server(alpns=[b"test"], ticket_store=store, now=time.time)
        handshake(theirs, server)
        assert theirs.complete and server.complete
        assert server.resumed is theirs.context.session_resumed is resumed
        assert server.early_data_accepted is theirs.context.early_data_accepted is resumed
        assert server.peer_public_key == CLIENT.public_key
        assert server.alpn == b"test"
        check_same_secrets(server, theirs, early=resumed)
    assert len(tickets) == 4


def test_our_client_against_aioquic_server() -> None:
    store: dict = {}
    tickets: list[ResumptionTicket] = []
    for resumed in (False, True):
        theirs = AioquicPeer(
            False,
            new_session_ticket_cb=lambda ticket: store.update({ticket.ticket: ticket}),
            get_session_ticket_cb=lambda name: store.pop(name, None),
        )
        client = make_client(
            # aioquic picks by its own order and wants the ticket's suite again.
            suites=[0x1302, 0x1301],
            alpns=[b"test"],
            on_ticket=tickets.append,
            ticket=tickets[0] if resumed else None,
        )
        handshake(client, theirs)
        assert client.complete and theirs.complete
        assert client.resumed is theirs.context.session_resumed is resumed
        assert client.early_data_accepted is theirs.context.early_data_accepted is resumed
        assert client.peer_transport_parameters == SERVER_PARAMETERS
        check_same_secrets(client, theirs, early=resumed)
    assert len(tickets) == 2
