"""What a type checker must make of the public API; checked by test_typing.py, never run."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address
from typing import assert_type

from iroh_fast import (
    Accepting,
    BiStream,
    CloseReason,
    Connecting,
    Connection,
    ConnectionStats,
    Endpoint,
    EndpointAddr,
    EndpointConfig,
    EndpointHooks,
    EndpointId,
    EndpointTicket,
    Incoming,
    IncomingOutcome,
    PathInfo,
    QuicTransportConfig,
    RecvStream,
    Reject,
    Router,
    SecretKey,
    SendStream,
    SocketAddr,
    Watcher,
    ZeroRttStatus,
    presets,
)
from iroh_fast.lookup import (
    DhtLookup,
    DnsLookup,
    DnsResolver,
    EndpointData,
    EndpointInfo,
    NameserverConfig,
    PkarrPublisher,
    SignedPacket,
    ip_only,
    lookup_by_domain_name,
    lookup_by_id,
    relay_only,
)
from iroh_fast.stats import Closed, PathEvent


def my_preset(config: EndpointConfig) -> None:
    config.alpns = [b"a"]


async def endpoints() -> None:
    ep = await Endpoint.bind(alpns=[b"a"], bind_addrs=["127.0.0.1:0", ("::1", 0)])
    assert_type(ep, Endpoint)
    async with Endpoint.bind(preset=presets.minimal) as ep:
        assert_type(ep, Endpoint)
    await Endpoint.bind(preset=my_preset, transport=QuicTransportConfig())
    await Endpoint.bind(preset=[my_preset, EndpointConfig()])
    await Endpoint.bind(alpn=[b"a"])  # type: ignore[call-arg]
    await Endpoint.bind(alpns=["a"])  # type: ignore[list-item]
    assert_type(await asyncio.create_task(Endpoint.bind()), Endpoint)
    assert_type(ep.id, EndpointId)
    assert_type(ep.secret_key, SecretKey)
    assert_type(ep.addr, EndpointAddr)
    assert_type(ep.ticket, EndpointTicket)
    assert_type(ep.bound_sockets, tuple[SocketAddr, ...])
    assert_type(ep.watch_addr(), Watcher[EndpointAddr])
    assert_type(await ep.accept(), Incoming | None)
    assert_type(await ep.run_until(asyncio.sleep(1, "x")), str | None)
    assert_type(ep.metrics.snapshot(), dict[str, int])
    async for addr in ep.watch_addr():
        assert_type(addr, EndpointAddr)
    async for incoming in ep.incoming():
        assert_type(incoming, Incoming)
        assert_type(incoming.accept(), Accepting)
        assert_type(await incoming, Connection)


async def dialling(ep: Endpoint, addr: EndpointAddr) -> None:
    for target in (addr, addr.id, EndpointTicket(addr), "text"):
        conn = await ep.connect(target, b"a")
        assert_type(conn, Connection)
    await ep.connect(5, b"a")  # type: ignore[arg-type]
    await ep.connect(addr, "a")  # type: ignore[arg-type]
    async with ep.connect(addr, bytearray(b"a")) as conn:
        assert_type(conn, Connection)
    connecting = await ep.connect_with(addr, b"a", extra_alpns=[b"b"])
    assert_type(connecting, Connecting)
    assert_type(await connecting.alpn(), bytes)
    if (early := connecting.into_0rtt()) is not None:
        status = await early.handshake_completed()
        assert_type(status, ZeroRttStatus)
        assert_type(status.connection, Connection)
    else:
        assert_type(await connecting, Connection)


async def connections(conn: Connection) -> None:
    assert_type(await conn.open_bi(), BiStream)
    assert_type(await conn.open_uni(), SendStream)
    send, recv = await conn.open_bi()
    assert_type(send, SendStream)
    assert_type(recv, RecvStream)
    async with conn.open_bi() as (send, recv):
        assert_type(send, SendStream)
    async with conn.open_uni() as out:
        assert_type(out, SendStream)
    one, two = await asyncio.gather(conn.open_uni(), conn.accept_uni())
    assert_type(one, SendStream)
    assert_type(two, RecvStream)
    async for send, recv in conn.bi_streams():
        assert_type(send, SendStream)
        assert_type(recv, RecvStream)
    async for uni in conn.uni_streams(raise_on_close=True):
        assert_type(uni, RecvStream)
    async for data in conn.datagrams():
        assert_type(data, bytes)
    assert_type(await conn.wait_closed(), CloseReason)
    assert_type(conn.close_reason, CloseReason | None)
    assert_type(conn.stats(), ConnectionStats)
    assert_type(conn.paths, list[PathInfo])
    assert_type(conn.rtt, float)
    async for paths in conn.watch_paths():
        assert_type(paths, list[PathInfo])
    async for event in conn.path_events():
        assert_type(event, PathEvent)
    weak = conn.weak()
    assert_type(weak.upgrade(), Connection | None)
    assert_type(await weak.closed(), Closed)


async def streams(send: SendStream, recv: RecvStream) -> None:
    assert_type(await send.write(memoryview(b"x")), int)
    await send.write_all(bytearray(b"x"))
    await send.write_all("x")  # type: ignore[arg-type]
    assert_type(await send.stopped(), int | None)
    assert_type(await recv.read(), bytes)
    assert_type(await recv.readinto(bytearray(5)), int)
    assert_type(await recv.read_chunk(), bytes | None)
    await recv.read_to_end()  # type: ignore[call-arg]
    async for chunk in recv:
        assert_type(chunk, bytes)
    async for offset, piece in recv.unordered():
        assert_type(offset, int)
        assert_type(piece, bytes)


class Handler:
    async def accept(self, conn: Connection) -> None: ...


class Hooks(EndpointHooks):
    async def before_connect(self, addr: EndpointAddr, alpn: bytes) -> bool:
        return True

    async def after_handshake(self, conn: Connection) -> Reject | None:
        return None


async def function(conn: Connection) -> None: ...


def choose(incoming: Incoming) -> IncomingOutcome:
    return IncomingOutcome.RETRY


async def routers(ep: Endpoint) -> None:
    async with Router(ep, {b"a": Handler(), b"b": function}, incoming_filter=choose) as router:
        assert_type(router, Router)
    assert_type(Router(ep).accept(b"a", Handler()).start(), Router)
    Router(ep, {b"a": 5})  # type: ignore[dict-item]
    await Endpoint.bind(hooks=[Hooks()])


def published() -> None:
    data = EndpointData(["https://relay.example", "1.2.3.4:5", SocketAddr.parse("[::1]:5")], "me")
    assert_type(data.filtered(relay_only), EndpointData)
    assert_type(data.filtered(lambda addrs: addrs[:1]), EndpointData)
    assert_type(data.filtered(ip_only).user_data, str | None)
    EndpointData([b"1.2.3.4:5"])  # type: ignore[list-item]
    data.user_data = "you"  # type: ignore[misc]
    info = EndpointInfo("00" * 32, data)
    assert_type(info.to_addr(), EndpointAddr)
    assert_type(EndpointInfo.from_txt("_iroh.x", ["a=b", b"c=d"]), EndpointInfo)
    packet = SignedPacket.from_endpoint_info(info, SecretKey.generate(), ttl=30)
    assert_type(packet.timestamp, int)
    assert_type(packet.endpoint_info().id, EndpointId)
    assert_type(SignedPacket.from_relay_payload(info.id, packet.relay_payload), SignedPacket)
    EndpointInfo(info.id, ["1.2.3.4:5"])  # type: ignore[arg-type]


class OwnResolver:
    async def lookup_ipv4(self, host: str) -> list[IPv4Address]:
        return []

    async def lookup_ipv6(self, host: str) -> list[IPv6Address]:
        return []

    async def lookup_txt(self, host: str) -> list[list[bytes]]:
        return []

    def clear_cache(self) -> None: ...

    def reset(self) -> OwnResolver:
        return self


async def names(id: EndpointId) -> None:
    server = NameserverConfig.tls("192.0.2.53").with_tls_server_name("dns.example").with_port(8853)
    async with DnsResolver([server, "192.0.2.1:53"], fallback="deferred") as resolver:
        assert_type(await resolver.lookup_ipv4("a."), list[IPv4Address])
        assert_type(await resolver.lookup_ipv4_ipv6("a."), list[IPv4Address | IPv6Address])
        assert_type(await resolver.lookup_txt_staggered("a.", [0.2]), list[list[bytes]])
        async for address in resolver.resolve_host_all("https://a/"):
            assert_type(address, IPv4Address | IPv6Address)
        assert_type(await lookup_by_id(resolver, id, "dns.example."), EndpointInfo)
        assert_type(await lookup_by_domain_name(resolver, "x.dns.example"), EndpointInfo)
    assert_type(DnsResolver.custom(OwnResolver()), DnsResolver)
    DnsResolver.custom("192.0.2.1")  # type: ignore[arg-type]
    DnsResolver(fallback="sometimes")  # type: ignore[arg-type]
    DnsLookup("dns.example.")
    PkarrPublisher("https://a.example/pkarr", addr_filter="unfiltered", ttl=60)
    PkarrPublisher(ttl="60")  # type: ignore[arg-type]


def looked_up() -> None:
    DhtLookup(publish=False, bootstrap=["router.example:6881"], addr_filter="unfiltered", port=0)
    DhtLookup(addr_filter=relay_only, ttl=30, republish_interval=3600)
    DhtLookup(ttl="30")  # type: ignore[arg-type]
    DhtLookup(bootstrap=[6881])  # type: ignore[list-item]
