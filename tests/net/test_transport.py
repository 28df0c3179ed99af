"""Transports: the table between what users see and the addresses of the engine."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from itertools import zip_longest
from typing import Any

import pytest

from iroh_fast.addr import IpAddr, RelayAddr, RelayUrl, SocketAddr, TransportAddr
from iroh_fast.config import BindAddr, QuicTransportConfig
from iroh_fast.net import transport as transport_module
from iroh_fast.net.socket import Driver
from iroh_fast.net.transport import (
    PRIVATE_PREFIX,
    PrivateAddrs,
    SockAddr,
    TransportTable,
    is_private,
)
from iroh_fast.quic.tls import Identity

KEY = bytes(32)
URL = RelayUrl("https://relay.example")
LINK = b"\x00\x09"


class Wire:
    """A transport that carries whole batches to another one of its kind."""

    kind = "wire"
    subnet = LINK
    max_segments = 3
    max_datagram = 0

    def __init__(self) -> None:
        self.addrs: PrivateAddrs[tuple[Any, bytes]] = PrivateAddrs(LINK)
        self.sent: list[tuple[bytes, int, int, bytes]] = []
        self.other: tuple[Driver, bytes] | None = None

    def route(self, addr: TransportAddr, peer: bytes) -> SockAddr | None:
        return self.addrs.sockaddr_of((addr, peer)) if isinstance(addr, RelayAddr) else None

    def addr_of(self, sockaddr: SockAddr) -> TransportAddr | None:
        route = self.addrs.route_of(sockaddr[0])
        return None if route is None else route[0]

    def send(self, ip16: bytes, ecn: int, segment: int, data: bytes) -> None:
        self.sent.append((ip16, ecn, segment, data))
        if self.other is not None:
            driver, source = self.other
            asyncio.get_running_loop().call_soon(driver.inject, source, data, segment)


class Wide(Wire):
    """A transport for large packets, of which nine are more than a frame of a relay holds."""

    max_segments = 64
    max_datagram = 7281


class Mixer(Wire):
    """A transport whose batches arrive glued together, those of several connections in turns."""

    max_segments = 16

    def __init__(self) -> None:
        super().__init__()
        self.waiting: dict[tuple[int, bytes], list[bytes]] = {}
        self.mixed = 0

    def send(self, ip16: bytes, ecn: int, segment: int, data: bytes) -> None:
        if not self.waiting:
            asyncio.get_running_loop().call_later(0.005, self.deliver)
        size = segment or len(data)
        for at in range(0, len(data), size):
            packet = data[at : at + size]
            self.waiting.setdefault((len(packet), packet[1:9]), []).append(packet)

    def deliver(self) -> None:
        waiting, self.waiting = self.waiting, {}
        assert self.other is not None
        driver, source = self.other
        for size in {size for size, _ in waiting}:
            queues = [queue for (n, _), queue in waiting.items() if n == size]
            self.mixed += len(queues) > 1
            packets = [packet for turn in zip_longest(*queues) for packet in turn if packet]
            for at in range(0, len(packets), 40):
                driver.inject(source, b"".join(packets[at : at + 40]), size)


def test_route_has_one_address() -> None:
    table: PrivateAddrs[tuple[str, bytes]] = PrivateAddrs(LINK)
    addr = table.sockaddr_of((URL, KEY))
    assert addr == table.sockaddr_of((RelayUrl("https://relay.example"), bytes(KEY)))
    assert is_private(addr) and addr[0].startswith("fd15:70a:510b:9:")
    assert table.route_of(addr[0]) == table.route_of(table.ip_of((URL, KEY))) == (URL, KEY)
    assert table.sockaddr_of((URL, bytes([1]) * 32)) != addr
    table.forget(lambda route: route[1] == KEY)
    assert table.route_of(addr[0]) is None and len(table) == 1


def test_addresses_cannot_be_foretold() -> None:
    assert PrivateAddrs(LINK).ip_of(KEY) != PrivateAddrs(LINK).ip_of(KEY)


def test_number_of_routes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "MAX_ROUTES", 100)
    table: PrivateAddrs[bytes] = PrivateAddrs(LINK)
    first = table.ip_of(KEY)
    for number in range(1, 1000):
        table.ip_of(number.to_bytes(32, "big"))
        table.ip_of(KEY)  # in use all the time
    assert len(table) == 100
    assert table.route_of(first) == KEY
    assert table.route_of(bytes(16)) is None


def test_table_asks_the_transport_that_an_address_belongs_to() -> None:
    table, wire = TransportTable(), Wire()
    assert table.route(RelayAddr(URL), KEY) is None
    table.add(wire)
    sockaddr = table.route(RelayAddr(URL), KEY)
    assert sockaddr is not None and table.kind(sockaddr) == "wire" and "wire" in table
    assert table.addr_of(sockaddr) == RelayAddr(URL)
    direct = IpAddr(SocketAddr.parse("192.0.2.1:7"))
    assert table.route(direct, KEY) == ("192.0.2.1", 7) and table.kind(("192.0.2.1", 7)) == "ip"
    assert table.addr_of(("192.0.2.1", 7)) == direct


def test_table_takes_each_subnet_once() -> None:
    table = TransportTable()
    table.add(Wire())
    with pytest.raises(ValueError, match="taken"):
        table.add(Wire())


def test_private_address_given_as_ip_address_leads_nowhere() -> None:
    table, wire = TransportTable(), Wire()
    table.add(wire)
    inside = table.route(RelayAddr(URL), KEY)
    assert inside is not None
    assert table.route(IpAddr(SocketAddr.from_tuple(inside)), KEY) is None


async def test_endpoints_talk_over_a_transport_of_their_own() -> None:
    """Datagrams, batches in pieces, both directions; the kind shows up in the counters."""
    here = [BindAddr("127.0.0.1")]
    server = Driver.bind(here, identity=Identity(bytes([1]) * 32))
    client = Driver.bind(here, identity=Identity(bytes([2]) * 32))
    try:
        there, back = Wire(), Wire()
        client.add_transport(there)
        server.add_transport(back)
        to_server = there.route(RelayAddr(URL), bytes([1]) * 32)
        to_client = back.route(RelayAddr(URL), bytes([2]) * 32)
        assert to_server is not None and to_client is not None
        there.other = (server, IPv6Address(to_client[0]).packed)
        back.other = (client, IPv6Address(to_server[0]).packed)
        config = QuicTransportConfig()
        q = client.connect(
            [to_server],
            expected_peer=server.endpoint.identity.public_key,
            alpns=[b"t"],
            transport=config,
        )
        async with asyncio.timeout(60):
            attempt = await server.wait_incoming()
            assert attempt is not None and is_private(attempt.remote)
            accepted = attempt.accept([b"t"], config)
            while not (q.handshake_confirmed and accepted.handshake_confirmed):
                await asyncio.sleep(0.01)
            stream = q.open_stream(False)
            stream.write(bytes(300_000))
            while client.stats()["send_wire"] < 300_000:
                await asyncio.sleep(0.01)
        assert server.stats()["recv_data_wire"] >= 100_000
        for ip16, _, segment, data in there.sent:
            assert ip16.startswith(PRIVATE_PREFIX + LINK)
            assert len(data) <= 3 * (segment or 1500) and (segment == 0 or segment < len(data))
        assert any(segment for _, _, segment, _ in there.sent)
    finally:
        client.stop()
        server.stop()


async def test_packets_become_as_large_as_a_transport_carries() -> None:
    here = [BindAddr("127.0.0.1")]
    server = Driver.bind(here, identity=Identity(bytes([1]) * 32))
    client = Driver.bind(here, identity=Identity(bytes([2]) * 32))
    try:
        there, back = Wide(), Wide()
        client.add_transport(there)
        server.add_transport(back)
        to_server = there.route(RelayAddr(URL), bytes([1]) * 32)
        to_client = back.route(RelayAddr(URL), bytes([2]) * 32)
        assert to_server is not None and to_client is not None
        there.other = (server, IPv6Address(to_client[0]).packed)
        back.other = (client, IPv6Address(to_server[0]).packed)
        config = QuicTransportConfig()
        q = client.connect(
            [to_server],
            expected_peer=server.endpoint.identity.public_key,
            alpns=[b"t"],
            transport=config,
        )
        async with asyncio.timeout(60):
            attempt = await server.wait_incoming()
            assert attempt is not None
            accepted = attempt.accept([b"t"], config)
            while not (q.handshake_confirmed and accepted.handshake_confirmed):
                await asyncio.sleep(0.01)
            stream = q.open_stream(False)
            stream.write(bytes(1_000_000))
            while client.stats()["send_wire"] < 1_000_000:
                await asyncio.sleep(0.01)
        assert max(segment or len(data) for _, _, segment, data in there.sent) == 7281
        assert max(len(data) for _, _, _, data in there.sent) <= 65_500
    finally:
        client.stop()
        server.stop()


async def test_glued_datagrams_of_several_connections_are_all_read() -> None:
    here = [BindAddr("127.0.0.1")]
    server = Driver.bind(here, identity=Identity(bytes([1]) * 32))
    client = Driver.bind(here, identity=Identity(bytes([2]) * 32))
    try:
        there, back = Mixer(), Wire()
        client.add_transport(there)
        server.add_transport(back)
        to_server = there.route(RelayAddr(URL), bytes([1]) * 32)
        to_client = back.route(RelayAddr(URL), bytes([2]) * 32)
        assert to_server is not None and to_client is not None
        there.other = (server, IPv6Address(to_client[0]).packed)
        back.other = (client, IPv6Address(to_server[0]).packed)
        config = QuicTransportConfig()
        dialed: list[Any] = []
        accepted: list[Any] = []
        readers: dict[int, Any] = {}
        async with asyncio.timeout(60):
            for _ in range(3):
                dialed.append(
                    client.connect(
                        [to_server],
                        expected_peer=server.endpoint.identity.public_key,
                        alpns=[b"t"],
                        transport=config,
                    )
                )
                attempt = await server.wait_incoming()
                assert attempt is not None
                accepted.append(attempt.accept([b"t"], config))
            while not all(conn.handshake_confirmed for conn in dialed + accepted):
                await asyncio.sleep(0.01)
            for conn in dialed:
                stream = conn.open_stream(False)
                assert stream is not None
                assert stream.write(bytes(200_000)) == 200_000
                stream.finish()
            got = [0] * len(accepted)
            while min(got) < 200_000:
                await asyncio.sleep(0.01)
                for i, conn in enumerate(accepted):
                    remote = readers[i] = readers.get(i) or conn.accept_stream(False)
                    while remote is not None and (chunk := remote.read(1 << 20)):
                        got[i] += len(chunk)
        assert got == [200_000] * 3
        assert there.mixed > 5
        assert [conn.stats()["lost_packets"] for conn in dialed] == [0] * 3
    finally:
        client.stop()
        server.stop()
