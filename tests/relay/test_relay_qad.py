"""QUIC address discovery: server and client against each other, aioquic, NATs and bad peers."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import math
import os
import random
import ssl
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import aioquic.asyncio.server as aio_server
import pytest
from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection as AioConnection
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iroh_fast import Endpoint, presets
from iroh_fast.addr import SocketAddr
from iroh_fast.aio._core_events import wait
from iroh_fast.config import BindAddr
from iroh_fast.errors import (
    AlpnMismatch,
    BindError,
    ConfigError,
    ConnectTimeout,
    HandshakeFailed,
    WrongIdentity,
)
from iroh_fast.net.socket import Driver
from iroh_fast.quic._connection import WAIT_CLOSED
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.parameters import TransportParameters
from iroh_fast.quic.tls import Identity, TlsAlert
from iroh_fast.quic.tls.x509 import (
    TrustRoots,
    X509Client,
    X509Credentials,
    preload,
    preloaded,
)
from iroh_fast.quic.tls.x509_session import X509TlsSession
from iroh_fast.relay.client import qad as client_qad
from iroh_fast.relay.client.qad import QadClient, probe, trust_roots
from iroh_fast.relay.qad import ALPN
from iroh_fast.relay.server.config import RelayServerConfig, RelayTlsConfig
from iroh_fast.relay.server.qad import QadServer
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.web.ca import CaConfig

PATIENCE_S = 60.0
OBSERVED_V4 = 0x9F81A6
OBSERVED_V6 = 0x9F81A7
ADDRESS_DISCOVERY = bytes.fromhex("c00000009f81a176")  # the id of the role, as eight bytes


# --- certificates -------------------------------------------------------------------------


class Pem(NamedTuple):
    chain: bytes
    key: bytes


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sign(subject: str, key: Any, issuer: str, issuer_key: Any, days: int, *extensions: Any) -> Any:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=10))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
    for value in extensions:
        builder = builder.add_extension(value, critical=isinstance(value, x509.BasicConstraints))
    return builder.sign(issuer_key, hashes.SHA256())


@cache
def authority() -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    return sign("root", key, "root", key, 100, x509.BasicConstraints(True, None)), key


@cache
def leaf(
    *names: str, days: int = 50, usage: str | None = "server", kind: str = "p256", deep: bool = False
) -> Pem:
    """A certificate of `authority` for `names`, over an intermediate one if `deep`."""
    key: Any = {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    root, issuer_key = authority()
    issuer, chain = "root", b""
    if deep:
        middle_key = ec.generate_private_key(ec.SECP256R1())
        middle = sign(
            "middle", middle_key, "root", issuer_key, 100, x509.BasicConstraints(True, 0)
        )
        issuer, issuer_key, chain = "middle", middle_key, pem(middle)

    def general(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    extensions: list[Any] = [
        x509.BasicConstraints(False, None),
        x509.SubjectAlternativeName([general(n) for n in names or ("localhost", "127.0.0.1", "::1")]),
    ]
    if usage is not None:
        purpose = {
            "server": ExtendedKeyUsageOID.SERVER_AUTH,
            "client": ExtendedKeyUsageOID.CLIENT_AUTH,
        }[usage]
        extensions.append(x509.ExtendedKeyUsage([purpose]))
    certificate = sign("relay", key, issuer, issuer_key, days, *extensions)
    return Pem(pem(certificate) + chain, key_pem(key))


def roots() -> TrustRoots:
    return TrustRoots(
        certificates=[authority()[0].public_bytes(serialization.Encoding.DER)]
    )


# --- helpers ------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def sockets(*hosts: str) -> AsyncIterator[Driver]:
    driver = Driver.bind(
        [BindAddr(host) for host in hosts or ("127.0.0.1", "::1")],
        identity=Identity(os.urandom(32)),
    )
    try:
        yield driver
    finally:
        driver.stop()


def at(server: QadServer, host: str = "127.0.0.1") -> SocketAddr:
    return SocketAddr(ipaddress.ip_address(host), server.address[1])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def serving(host: str = "127.0.0.1", certificate: Pem | None = None, **options: Any) -> QadServer:
    certificate = certificate or leaf()
    return QadServer((host, 0), certificate.chain, certificate.key, **options)


class Nat(asyncio.DatagramProtocol):
    """Forwards datagrams of one client to a server, from a port of its own that can change."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.client: Any = None
        self.inner: Any = None
        self.outer: Any = None
        self.room = math.inf  # datagrams of the client that still pass

    class Outer(asyncio.DatagramProtocol):
        def __init__(self, nat: Nat) -> None:
            self.nat = nat

        def datagram_received(self, data: bytes, addr: Any) -> None:
            self.nat.inner.sendto(data, self.nat.client)

    async def open(self) -> SocketAddr:
        loop = asyncio.get_running_loop()
        await self.rebind()
        self.inner, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        return SocketAddr.from_tuple(self.inner.get_extra_info("sockname"))

    async def rebind(self) -> SocketAddr:
        old = self.outer
        loop = asyncio.get_running_loop()
        self.outer, _ = await loop.create_datagram_endpoint(
            lambda: Nat.Outer(self), local_addr=("127.0.0.1", 0)
        )
        if old is not None:
            old.close()
        return SocketAddr.from_tuple(self.outer.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.client = addr
        if self.room > 0:
            self.room -= 1
            self.outer.sendto(data, self.server)

    def close(self) -> None:
        self.inner.close()
        self.outer.close()


# --- our client, our server ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "host", "own"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("::1", "::1", "::1"),
        ("::", "127.0.0.1", "127.0.0.1"),
        ("::", "::1", "::1"),
        ("::", "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
async def test_probe_tells_the_address_of_the_socket(bound: str, host: str, own: str) -> None:
    async with serving(bound) as server, sockets() as driver:
        found = await probe(driver, at(server, host), server_name="localhost", trust=roots())
        ports = {sock[0]: sock[1] for sock in driver.bound_sockets}
        assert found.addr == SocketAddr(ipaddress.ip_address(own), ports[own])
        assert 0 < found.latency < PATIENCE_S
        await until(lambda: server.counters()["qad_connections_closed"])
        assert server.counters() == {
            "qad_incoming": 1,
            "qad_incoming_error": 0,
            "qad_connections": 1,
            "qad_connections_closed": 1,
            "qad_connections_errored": 0,
        }


async def test_probe_shares_the_socket_of_peer_connections() -> None:
    async with (
        serving("::") as server,
        Endpoint.bind(preset=presets.minimal, alpns=[b"echo"], bind_addrs=["127.0.0.1:0"]) as answering,
        Endpoint.bind(preset=presets.minimal, bind_addrs=["127.0.0.1:0"]) as asking,
    ):

        async def accept() -> Any:
            incoming = await answering.accept()
            assert incoming is not None
            return await incoming

        connection, accepted = await asyncio.gather(
            asking.connect(answering.addr, b"echo"), accept()
        )
        stream = await connection.open_bi()
        await stream.send.write_all(b"before")
        other = await accepted.accept_bi()
        assert await other.recv.readexactly(6) == b"before"

        reports = await asyncio.gather(
            *(
                probe(asking._driver, at(server), server_name="localhost", trust=roots())
                for _ in range(4)
            )
        )
        assert {report.addr for report in reports} == {asking.bound_sockets[0]}

        await other.send.write_all(b"after")
        assert await stream.recv.readexactly(5) == b"after"
        # The peer of the connection sees the same address as the relay.
        assert reports[0].addr.port == accepted._q.path_info(0)["remote"][1]


async def test_close_that_overtakes_the_handshake_is_one_of_a_satisfied_client() -> None:
    async with serving() as server, sockets() as driver:
        nat = Nat(server.address)
        relay = await nat.open()
        try:
            nat.room = 1
            client = await QadClient.connect(
                driver, relay, server_name="127.0.0.1", trust=roots()
            )
            await client.report()  # came with the server's first flight
            assert server.counters()["qad_connections"] == 0
            nat.room = math.inf
            client.close()
            await until(lambda: server.counters()["qad_connections_closed"])
            assert server.counters() == {
                "qad_incoming": 1,
                "qad_incoming_error": 0,
                "qad_connections": 1,
                "qad_connections_closed": 1,
                "qad_connections_errored": 0,
            }
        finally:
            nat.close()


async def test_observed_address_after_the_nat_gave_another_port() -> None:
    async with serving() as server, sockets() as driver:
        nat = Nat(server.address)
        relay = await nat.open()
        try:
            client = await QadClient.connect(
                driver, relay, server_name="127.0.0.1", trust=roots()
            )
            first = await client.report()
            assert first.addr == SocketAddr.from_tuple(nat.outer.get_extra_info("sockname"))
            waiting = asyncio.ensure_future(client.changed(first.addr))
            new = await nat.rebind()
            assert not waiting.done()
            client._connection.ping()
            async with asyncio.timeout(PATIENCE_S):
                second = await waiting
            assert second.addr == new != first.addr
            assert client.observed == new
            client.close()
            await until(lambda: server.counters()["qad_connections_closed"])
        finally:
            nat.close()


async def test_second_probe_of_the_same_trust_needs_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trust = trust_roots(CaConfig(insecure=True))
    await asyncio.to_thread(preload)
    assert trust.loaded and preloaded()
    monkeypatch.setattr(asyncio, "to_thread", None)
    silent = SocketAddr.parse("127.0.0.1:9")
    async with sockets("127.0.0.1") as driver:
        with pytest.raises(ConnectTimeout):
            await QadClient.connect(
                driver, silent, server_name="a.test", trust=trust, timeout_s=0.05
            )


async def test_shutdown_closes_with_finished() -> None:
    async with sockets() as driver:
        server = serving()
        await server.start()
        client = await QadClient.connect(driver, at(server), server_name="localhost", trust=roots())
        first = await client.report()
        waiting = asyncio.ensure_future(client.changed(first.addr))
        await asyncio.sleep(0)
        await server.close()
        async with asyncio.timeout(PATIENCE_S):
            await wait(client._connection, WAIT_CLOSED)
            with pytest.raises(ConnectionError, match="finished"):
                await waiting
        reason = client._connection.close_reason
        assert reason is not None
        assert (reason.kind, reason.code, reason.reason) == ("application", 1, b"finished")
        assert client.closed and client.observed == first.addr
        assert server.counters()["qad_connections_closed"] == 1
        assert server.counters()["qad_connections_errored"] == 0
        await server.close()


async def test_other_ends_count_as_errors() -> None:
    async with serving() as server, sockets() as driver:
        for code, reason in ((0, b""), (1, b""), (2, b"finished")):
            client = await QadClient.connect(
                driver, at(server), server_name="localhost", trust=roots()
            )
            client._connection.close(code, reason)
        await until(lambda: server.counters()["qad_connections_errored"] == 3)
        assert server.counters()["qad_connections_closed"] == 0


async def test_wrong_alpn_is_refused() -> None:
    async with serving() as server, sockets() as driver:
        connection = driver.connect(
            [at(server).as_tuple()],
            alpns=[b"h3"],
            transport=client_qad._client_transport(),
            tls=X509Client("localhost", roots()),
        )
        async with asyncio.timeout(PATIENCE_S):
            await wait(connection, WAIT_CLOSED)
        reason = connection.close_reason
        assert reason is not None
        assert (reason.kind, reason.code) == ("transport_peer", 0x178)
        await until(lambda: server.counters()["qad_incoming_error"] == 1)
        assert server.counters()["qad_connections"] == 0


@pytest.mark.parametrize(
    ("name", "certificate", "trust", "alert"),
    [
        ("localhost", {}, TrustRoots, 48),
        ("other.example", {}, roots, 42),
        ("127.0.0.2", {}, roots, 42),
        ("localhost", {"days": -1}, roots, 45),
        ("localhost", {"usage": "client"}, roots, 43),
    ],
    ids=["unknown issuer", "other name", "other address", "expired", "not for servers"],
)
async def test_wrong_certificate_is_refused(
    name: str, certificate: dict[str, Any], trust: Callable[[], TrustRoots], alert: int
) -> None:
    async with serving(certificate=leaf(**certificate)) as server, sockets() as driver:
        with pytest.raises(HandshakeFailed) as caught:
            await probe(driver, at(server), server_name=name, trust=trust())
        assert caught.value.alert == alert
        assert not isinstance(caught.value, (AlpnMismatch, WrongIdentity))
        await until(lambda: server.counters()["qad_incoming_error"] == 1)
        assert server.counters()["qad_connections"] == 0
        # For tests there is a way around it.
        insecure = TrustRoots(insecure=True)
        assert (await probe(driver, at(server), server_name=name, trust=insecure)).addr


@pytest.mark.parametrize("kind", ["p256", "p384", "ed25519", "rsa"])
@pytest.mark.parametrize("deep", [False, True], ids=["direct", "intermediate"])
async def test_kinds_of_keys_and_chains(kind: str, deep: bool) -> None:
    certificate = leaf("localhost", "*.relay.example", kind=kind, deep=deep, usage=None)
    async with serving(certificate=certificate) as server, sockets() as driver:
        for name in ("localhost", "localhost.", "a.relay.example"):
            found = await probe(driver, at(server), server_name=name, trust=roots())
            assert found.addr.port == driver.bound_sockets[0][1]


async def test_certificate_is_replaced_while_running() -> None:
    async with serving(certificate=leaf("old.example")) as server, sockets() as driver:
        old = await QadClient.connect(driver, at(server), server_name="old.example", trust=roots())
        new = leaf("new.example")
        server.replace_certificate(new.chain, new.key)
        assert (await probe(driver, at(server), server_name="new.example", trust=roots())).addr
        with pytest.raises(HandshakeFailed):
            await probe(driver, at(server), server_name="old.example", trust=roots())
        with pytest.raises(ConfigError):
            server.replace_certificate(new.chain, leaf("old.example").key)
        assert (await probe(driver, at(server), server_name="new.example", trust=roots())).addr
        assert (await old.report()).addr and not old.closed
        old.close()


async def test_clients_prove_their_address_when_many_are_unfinished() -> None:
    async with serving(retry_above=0) as server, sockets() as driver:
        found = await probe(driver, at(server), server_name="localhost", trust=roots())
        assert found.addr.port == driver.bound_sockets[0][1]
        # A Retry is no attempt yet.
        assert server.counters()["qad_incoming"] == 1


async def test_no_more_connections_than_allowed() -> None:
    async with serving(max_connections=1) as server, sockets() as driver:
        client = await QadClient.connect(driver, at(server), server_name="localhost", trust=roots())
        with pytest.raises(ConnectTimeout):
            await probe(driver, at(server), server_name="localhost", trust=roots(), timeout_s=0.3)
        assert (await client.report()).addr
        assert server.counters()["qad_incoming"] == 1
        client.close()


async def test_probe_without_an_answer_ends_in_time() -> None:
    async with sockets() as driver:
        silent, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        addr = SocketAddr.from_tuple(silent.get_extra_info("sockname"))
        try:
            with pytest.raises(ConnectTimeout, match="no answer in time"):
                await probe(driver, addr, server_name="x", trust=roots(), timeout_s=0.1)
            task = asyncio.ensure_future(probe(driver, addr, server_name="x", trust=roots()))
            await until(lambda: any(c.close_reason is None for c in driver.endpoint.connections.values()))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert all(c.close_reason is not None for c in driver.endpoint.connections.values())
        finally:
            silent.close()


async def test_taken_address_and_bad_settings() -> None:
    async with serving("::") as server:
        for host in ("::", "0.0.0.0"):
            with pytest.raises(BindError) as caught:
                await QadServer((host, server.address[1]), *leaf()).start()
            assert caught.value.errno is not None
    for chain, key in (
        (leaf().chain, leaf("other").key),
        (b"", leaf().key),
        (leaf().chain, b"no key"),
        leaf(kind="p521"),
    ):
        with pytest.raises(ConfigError):
            QadServer(("127.0.0.1", 0), chain, key)
    async with sockets() as driver:
        for name in ("", "ü.example", "." * 300):
            with pytest.raises(ConfigError):
                await probe(driver, at(server), server_name=name, trust=roots())
        with pytest.raises(ConfigError):
            await probe(
                driver, at(server), server_name="x", trust=TrustRoots(cafile=os.devnull + "/none")
            )
        with pytest.raises(ValueError, match="expected_peer"):
            driver.connect([("127.0.0.1", 1)], alpns=[b"x"], transport=client_qad._client_transport())
        assert driver.connections == 0


async def test_roots_from_what_endpoints_trust() -> None:
    root = authority()[0]
    der = root.public_bytes(serialization.Encoding.DER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=der)
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    lax.check_hostname = False
    lax.verify_mode = ssl.CERT_NONE
    good: list[Any] = [
        context,
        lax,
        CaConfig(extra=[der]),
        CaConfig(roots="none", extra=[pem(root).decode()]),
        CaConfig(roots="system", extra=[der]),
        CaConfig(insecure=True),
    ]
    async with serving() as server, sockets() as driver:
        for ca in good:
            trust = trust_roots(ca)
            assert trust_roots(trust) is trust
            assert (await probe(driver, at(server), server_name="localhost", trust=trust)).addr
        for ca in (None, CaConfig(), CaConfig(roots="system"), CaConfig(roots="none")):
            with pytest.raises(HandshakeFailed) as caught:
                await probe(driver, at(server), server_name="localhost", trust=trust_roots(ca))
            assert caught.value.alert == 48


# --- hostile input ------------------------------------------------------------------------


def first_datagram(seed: int) -> bytes:
    rng = random.Random(seed)
    endpoint = QuicEndpoint(Identity(b"\1" * 32), random=rng.randbytes, clock=lambda: 10**12)
    connection = endpoint.connect(
        [("127.0.0.1", 1)],
        alpns=[ALPN],
        transport=client_qad._client_transport(),
        tls=X509Client("localhost", roots()),
        now=10**12,
    )
    sent = endpoint.transmit(connection, 10**12)
    assert sent is not None
    return sent[4]


async def test_garbage_datagrams_do_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(7)
    hello = first_datagram(1)
    garbage = [rng.randbytes(rng.choice((0, 1, 20, 21, 100, 1200, 1452))) for _ in range(300)]
    garbage += [hello[:n] for n in (1, 50, 700, 1199)]
    for _ in range(300):
        mutated = bytearray(hello)
        for _ in range(rng.randint(1, 8)):
            mutated[rng.randrange(len(mutated))] = rng.randrange(256)
        garbage.append(bytes(mutated))
    with caplog.at_level(logging.WARNING, "iroh_fast"):
        async with serving() as server, sockets() as driver:
            loop = asyncio.get_running_loop()
            source, _ = await loop.create_datagram_endpoint(
                asyncio.DatagramProtocol, remote_addr=server.address
            )
            try:
                for number, data in enumerate(garbage):
                    source.sendto(data)
                    if number % 50 == 0:
                        await asyncio.sleep(0.001)
                found = await probe(driver, at(server), server_name="localhost", trust=roots())
                assert found.addr.port == driver.bound_sockets[0][1]
                await until(lambda: server.counters()["qad_connections"] == 1)
            finally:
                source.close()
    assert caplog.records == []


def exchange(client: X509TlsSession, server: X509TlsSession, change: Any = None) -> None:
    """Pass messages until nobody has any; `change` may alter each one."""
    client.start()
    for _ in range(4):
        for source, sink in ((client, server), (server, client)):
            for epoch, data in source.take_output():
                sink.receive(epoch, change(source, data) if change else data)


def pair(**options: Any) -> tuple[X509TlsSession, X509TlsSession]:
    client = X509TlsSession.client(
        server_name="localhost", trust=roots(), alpns=[b"x", ALPN], transport_parameters=b"client",
        keylog=options.get("keylog"),
    )  # fmt: skip
    server = X509TlsSession.server(
        credentials=X509Credentials(*leaf()), alpns=[ALPN], transport_parameters=b"server",
        keylog=options.get("keylog"),
    )  # fmt: skip
    return client, server


def test_session_agrees_on_everything() -> None:
    lines: list[str] = []
    client, server = pair(keylog=lines.append)
    with pytest.raises(RuntimeError):
        client.export_keying_material(b"label", b"", 32)
    exchange(client, server)
    assert client.complete and server.complete
    assert client.alpn == server.alpn == ALPN
    assert client.peer_transport_parameters == b"server"
    assert server.peer_transport_parameters == b"client"
    assert client.peer_public_key is None and server.peer_public_key is None
    assert not client.resumed and not server.early_data_accepted
    theirs = {(not write, *rest) for write, *rest in server.take_secrets()}
    assert set(map(tuple, client.take_secrets())) == theirs and len(theirs) == 4
    assert len(lines) == 8 and len(set(lines)) == 4
    exported = [
        session.export_keying_material(b"label", b"context", 77) for session in (client, server)
    ]
    assert exported[0] == exported[1] and len(exported[0]) == 77
    for session in (client, server):
        session.release_handshake_state()
        assert session.export_keying_material(b"label", b"context", 77) == exported[0]
        with pytest.raises(ValueError):
            session.export_keying_material(b"label", b"", 0)
    # A ticket that nobody asked for is ignored, and only by clients.
    ticket = b"\x04\x00\x00\x01\x00"
    client.receive(3, ticket[:3])
    client.receive(3, ticket[3:])
    for session, data in ((server, ticket), (client, b"\x18\x00\x00\x01\x00")):
        with pytest.raises(TlsAlert) as caught:
            session.receive(3, data)
        assert caught.value.description == 10
        with pytest.raises(TlsAlert):
            session.receive(3, b"")


def test_session_checks_encryption_levels_and_sizes() -> None:
    client, server = pair()
    client.start()
    ((_, hello),) = client.take_output()
    with pytest.raises(TlsAlert) as caught:
        pair()[1].receive(2, hello)
    assert caught.value.description == 10
    with pytest.raises(TlsAlert) as caught:
        pair()[1].receive(0, hello + b"\x0b")
    assert caught.value.description == 10
    with pytest.raises(TlsAlert) as caught:
        pair()[1].receive(0, b"\x01\x00\x40\x01")
    assert caught.value.description == 50
    server.receive(0, hello[:9])
    server.receive(0, hello[9:])
    (_, answer), (_, flight) = server.take_output()
    retry = answer[:6] + bytes.fromhex(
        "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
    ) + answer[38:]
    with pytest.raises(TlsAlert) as caught:
        client.receive(0, retry)
    assert caught.value.description == 47
    with pytest.raises(TlsAlert):
        client.receive(0, answer)
    fresh, _ = pair()
    fresh.start()
    with pytest.raises(TlsAlert) as caught:
        fresh.receive(0, answer + flight)
    assert caught.value.description == 10
    with pytest.raises(RuntimeError):
        server.start()
    with pytest.raises(RuntimeError):
        server.release_handshake_state()
    for bad in ({"alpns": []}, {"alpns": [b"\xff"]}, {"alpns": [b""]}, {"server_name": ""}):
        with pytest.raises(ValueError):
            X509TlsSession.client(
                **{
                    "server_name": "x",
                    "trust": roots(),
                    "alpns": [ALPN],
                    "transport_parameters": b"",
                    **bad,
                }
            )


def test_session_survives_mutated_messages() -> None:
    outcomes = {"complete": 0, "alert": 0}
    for seed in range(400):
        rng = random.Random(seed)

        def change(source: X509TlsSession, data: bytes, rng: random.Random = rng) -> bytes:
            if rng.random() < 0.4:
                return data
            mutated = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(mutated))
                match rng.randrange(4):
                    case 0:
                        mutated[at] ^= 1 << rng.randrange(8)
                    case 1:
                        mutated[at] = rng.choice((0, 1, 127, 255))
                    case 2:
                        mutated[at:at] = rng.randbytes(rng.randint(1, 40))
                    case _:
                        del mutated[at : at + rng.randint(1, 40)]
                if not mutated:
                    break
            return bytes(mutated)

        client, server = pair()
        try:
            exchange(client, server, change)
        except TlsAlert as alert:
            assert 0 < alert.description < 256 and alert.reason
            outcomes["alert"] += 1
        else:
            outcomes["complete"] += client.complete and server.complete
    assert outcomes["alert"] > 200 and outcomes["complete"] > 5


# --- aioquic as the other side ------------------------------------------------------------


class AddressDiscovery(AioConnection):
    """aioquic with the role parameter, and with OBSERVED_ADDRESS frames."""

    role = b"\x01"
    announced: tuple[bytes, int] | None = None
    created: list[AddressDiscovery] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.observed: list[tuple[int, int, bytes, int]] = []
        handlers = self._QuicConnection__frame_handlers
        for kind in (OBSERVED_V4, OBSERVED_V6):
            handlers[kind] = (self._on_observed, frozenset(handlers[0x1C][1]))
        AddressDiscovery.created.append(self)

    def _serialize_transport_parameters(self) -> bytes:
        return super()._serialize_transport_parameters() + ADDRESS_DISCOVERY + b"\x01" + self.role

    def _on_observed(self, context: Any, frame_type: int, buf: Any) -> None:
        sequence = buf.pull_uint_var()
        ip = buf.pull_bytes(4 if frame_type == OBSERVED_V4 else 16)
        self.observed.append((frame_type, sequence, ip, buf.pull_uint16()))

    def _write_ping_frame(self, builder: Any, *args: Any, **options: Any) -> None:
        super()._write_ping_frame(builder, *args, **options)
        if self.announced is not None:
            buf = builder.start_frame(OBSERVED_V6, capacity=32)
            buf.push_uint_var(0)
            buf.push_bytes(self.announced[0])
            buf.push_uint16(self.announced[1])


class Listener(QuicConnectionProtocol):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[Any] = []

    def quic_event_received(self, event: Any) -> None:
        self.seen.append(event)

    def first(self, kind: type) -> Any:
        return next((event for event in self.seen if isinstance(event, kind)), None)


@contextlib.asynccontextmanager
async def aioquic_client(
    server: QadServer, host: str, connection: Callable[..., AioConnection], **options: Any
) -> AsyncIterator[Listener]:
    settings: dict[str, Any] = {
        "alpn_protocols": [ALPN.decode()],
        "cadata": pem(authority()[0]),
        "server_name": "localhost",
        **options,
    }
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Listener(connection(configuration=QuicConfiguration(is_client=True, **settings))),
        local_addr=(host, 0),
    )
    protocol.connect((host, server.address[1], *((0, 0) if ":" in host else ())))
    try:
        yield protocol
        protocol.close(1, reason_phrase="finished")
        async with asyncio.timeout(PATIENCE_S):
            await protocol.wait_closed()
    finally:
        transport.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_aioquic_client_gets_its_address(host: str) -> None:
    async with serving("::") as server:
        async with aioquic_client(server, host, AddressDiscovery) as client:
            quic: Any = client._quic
            await until(lambda: quic.observed)
            assert client.first(events.HandshakeCompleted).alpn_protocol == ALPN.decode()
            own = client._transport.get_extra_info("sockname")
            kind = OBSERVED_V4 if host == "127.0.0.1" else OBSERVED_V6
            packed = ipaddress.ip_address(host).packed
            assert quic.observed[0] == (kind, 0, packed, own[1])
            raw = dict(quic.tls.received_extensions)[57]
            assert ADDRESS_DISCOVERY + b"\x01\x00" in raw
            parameters = TransportParameters().decode(raw, True)
            assert parameters.address_discovery == 0
            assert parameters.initial_max_streams_bidi == parameters.initial_max_streams_uni == 0
            assert parameters.initial_max_path_id is None and parameters.n0_nat_traversal is None
            assert parameters.max_idle_timeout_ms == 30_000
        await until(lambda: server.counters()["qad_connections_closed"] == 1)


async def test_aioquic_client_without_the_role_gets_no_reports() -> None:
    async with serving() as server:
        async with aioquic_client(server, "127.0.0.1", AioConnection) as client:
            await until(lambda: client.first(events.HandshakeCompleted))
            # An OBSERVED_ADDRESS frame would be unknown to it, and end the connection.
            async with asyncio.timeout(PATIENCE_S):
                await client.ping()
            assert client.first(events.ConnectionTerminated) is None
            client._quic._remote_max_streams_bidi = 1
            client._quic.send_stream_data(0, b"streams are not allowed")
            client.transmit()
            await until(lambda: client.first(events.ConnectionTerminated))
            assert client.first(events.ConnectionTerminated).error_code == 0x04
        await until(lambda: server.counters()["qad_connections_errored"] == 1)


async def test_aioquic_client_with_another_protocol_or_trust() -> None:
    async with serving() as server:
        for options, code in (
            ({"alpn_protocols": ["h3"]}, 0x178),
            ({"cadata": pem(sign("x", k := ec.generate_private_key(ec.SECP256R1()), "x", k, 9))}, 0x12A),
            ({"server_name": "other.example"}, 0x12A),
        ):
            async with aioquic_client(server, "127.0.0.1", AioConnection, **options) as client:
                await until(lambda c=client: c.first(events.ConnectionTerminated))
                assert client.first(events.ConnectionTerminated).error_code == code
        await until(lambda: server.counters()["qad_incoming_error"] == 3)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("::ffff:192.0.2.7", "192.0.2.7:4242"),
        ("2001:db8::7", "[2001:db8::7]:4242"),
    ],
    ids=["mapped", "v6"],
)
async def test_report_of_a_dual_stack_server_is_canonical(
    told: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Announcing(AddressDiscovery):
        role = b"\x00"
        announced = (ipaddress.ip_address(told).packed, 4242)

    class Pinging(QuicConnectionProtocol):
        def quic_event_received(self, event: Any) -> None:
            if isinstance(event, events.HandshakeCompleted):
                self._quic.send_ping(1)

    monkeypatch.setattr(aio_server, "QuicConnection", Announcing)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN.decode()])
    certificate = X509Credentials(*leaf())
    configuration.certificate = certificate.certificate
    configuration.private_key = certificate.key
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Pinging)
    try:
        host, port = server._transport.get_extra_info("sockname")[:2]
        async with sockets() as driver:
            found = await probe(
                driver, SocketAddr(ipaddress.ip_address(host), port), server_name="localhost",
                trust=roots(), timeout_s=PATIENCE_S,
            )  # fmt: skip
            assert str(found.addr) == expected
    finally:
        server.close()


# --- in a relay server --------------------------------------------------------------------


def write(folder: Path, certificate: Pem) -> None:
    (folder / "default.crt").write_bytes(certificate.chain)
    (folder / "default.key").write_bytes(certificate.key)


async def fetch(address: tuple[str, int], path: str) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("enable_relay", [True, False])
async def test_relay_server_runs_address_discovery(tmp_path: Path, enable_relay: bool) -> None:
    write(tmp_path, leaf("old.example"))
    config = RelayServerConfig.dev(
        enable_relay=enable_relay,
        enable_quic_addr_discovery=True,
        enable_metrics=True,
        metrics_bind_addr=("127.0.0.1", 0),
        tls=RelayTlsConfig("Manual", ("127.0.0.1", 0), ("127.0.0.1", 0), cert_dir=tmp_path),
    )
    async with sockets() as driver:
        async with RelayServer(config) as server:
            addr = SocketAddr.from_tuple(server.addresses["quic"])
            found = await probe(driver, addr, server_name="old.example", trust=roots())
            assert found.addr == SocketAddr.from_tuple(driver.bound_sockets[0])
            write(tmp_path, leaf("new.example"))
            assert server.reload_certificates()
            client = await QadClient.connect(driver, addr, server_name="new.example", trust=roots())
            assert (await client.report()).addr == found.addr
            await until(lambda: server.metrics()["qad_connections_closed"] == 1)
            text = await fetch(server.addresses["metrics"], "/metrics")
            assert b"\nrelayserver_qad_connections_total 2" in text
            assert b"\nrelayserver_qad_connections_closed_total 1" in text
        async with asyncio.timeout(PATIENCE_S):
            await wait(client._connection, WAIT_CLOSED)
    reason = client._connection.close_reason
    assert reason is not None
    assert (reason.kind, reason.code, reason.reason) == ("application", 1, b"finished")


async def test_relay_server_with_a_certificate_of_its_own() -> None:
    config = RelayServerConfig.dev(
        enable_quic_addr_discovery=True,
        tls=RelayTlsConfig("SelfSigned", ("127.0.0.1", 0), ("127.0.0.1", 0)),
    )
    async with RelayServer(config) as server, sockets() as driver:
        assert server.certificate is not None
        trust = trust_roots(CaConfig(roots="none", extra=[server.certificate.decode()]))
        addr = SocketAddr.from_tuple(server.addresses["quic"])
        assert (await probe(driver, addr, server_name="127.0.0.1", trust=trust)).addr


async def test_relay_server_in_dev_mode_keeps_plain_http(tmp_path: Path) -> None:
    write(tmp_path, leaf())
    text = f"""
        http_bind_addr = "127.0.0.1:0"
        enable_metrics = false
        enable_quic_addr_discovery = true
        [tls]
        cert_mode = "Manual"
        cert_dir = "{tmp_path}"
        quic_bind_addr = "127.0.0.1:0"
    """
    async with (
        RelayServer(RelayServerConfig.from_toml(text, dev=True)) as server,
        sockets() as driver,
    ):
        assert sorted(server.addresses) == ["http", "quic"]
        assert (await fetch(server.addresses["http"], "/ping")).startswith(b"HTTP/1.1 200")
        assert (await fetch(server.addresses["http"], "/generate_204")).startswith(b"HTTP/1.1 204")
        addr = SocketAddr.from_tuple(server.addresses["quic"])
        assert (await probe(driver, addr, server_name="localhost", trust=roots())).addr


async def test_relay_server_does_not_start_without_the_quic_port(tmp_path: Path) -> None:
    write(tmp_path, leaf())
    async with serving() as taken:
        config = RelayServerConfig.dev(
            enable_quic_addr_discovery=True,
            tls=RelayTlsConfig("Manual", ("127.0.0.1", 0), taken.address, cert_dir=tmp_path),
        )
        with pytest.raises(BindError):
            await RelayServer(config).start()
