"""Transports of users' own: datagrams over them, their bounds, their mistakes."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from iroh_fast import (
    CustomAddr,
    CustomEndpoint,
    CustomInbox,
    Endpoint,
    EndpointAddr,
    SecretKey,
    TransportId,
    presets,
)
from iroh_fast.errors import BindError, ConfigError, NoAddress, WrongThread
from iroh_fast.net.custom import QUEUED, QUEUED_BYTES, CustomTransports
from iroh_fast.net.remote.selection import by_rtt
from iroh_fast.net.service import ServiceContext
from iroh_fast.net.transport import is_custom, is_private, is_relay
from iroh_fast.relay import RelayServer

from .conftest import ALPN, Bind, connect

KIND = 0x1234


def place(name: str) -> CustomAddr:
    return CustomAddr(KIND, name.encode())


class Hub:
    """Carries datagrams between the ports of one process."""

    def __init__(self) -> None:
        self.ports: dict[CustomAddr, Port] = {}

    def at(self, *names: str, **options: Any) -> Plug:
        return Plug(self, [place(name) for name in names], options)


class Plug:
    """Joins an endpoint to a hub, at one or several addresses."""

    def __init__(self, hub: Hub, addrs: list[CustomAddr], options: dict[str, Any]) -> None:
        self.hub, self.addrs, self.options = hub, addrs, options
        self.port: Port | None = None

    async def bind(self, inbox: CustomInbox) -> CustomEndpoint:
        self.port = Port(self.hub, self.addrs, inbox)
        for name, value in self.options.items():
            setattr(self.port, name, value)
        return self.port


class Port(CustomEndpoint):
    def __init__(self, hub: Hub, addrs: list[CustomAddr], inbox: CustomInbox) -> None:
        self.hub, self.inbox = hub, inbox
        self.local_addrs = addrs
        self.sent: list[tuple[CustomAddr, CustomAddr | None, int, int | None]] = []
        self.closed = 0
        for addr in addrs:
            hub.ports[addr] = self

    def is_valid_send_addr(self, addr: CustomAddr) -> bool:
        return addr.id == KIND

    def send(
        self, dst: CustomAddr, src: CustomAddr | None, data: bytes, segment_size: int | None
    ) -> None:
        self.sent.append((dst, src, len(data), segment_size))
        if (port := self.hub.ports.get(dst)) is not None:
            port.inbox.put(src or self.local_addrs[0], data, local=dst, segment_size=segment_size)

    async def close(self) -> None:
        self.closed += 1


async def custom_only(bind: Bind, plugs: list[Any], **options: Any) -> Endpoint:
    return await bind(ip_transports=False, custom_transports=plugs, **options)


async def echoed(
    client_ep: Endpoint, server_ep: Endpoint, data: bytes, relay_url: str | None = None
) -> Any:
    client, server = await connect(
        client_ep,
        cast(
            "Any",
            SimpleNamespace(
                addr=EndpointAddr(server_ep.id, server_ep.custom_addrs, relay_url=relay_url),
                accept=server_ep.accept,
            ),
        ),
    )
    send, recv = await client.open_bi()
    back = asyncio.create_task(recv.read_to_end(len(data)))
    await send.write_all(data)
    send.finish()
    there, here = await server.accept_bi()
    await there.write_all(await here.read_to_end(len(data)))
    there.finish()
    assert await back == data
    return client, server


async def test_endpoints_without_any_socket_talk_over_a_transport(bind: Bind) -> None:
    hub = Hub()
    server_ep = await custom_only(bind, [hub.at("server")], alpns=[ALPN])
    client_ep = await custom_only(bind, [hub.at("client")])
    assert server_ep.bound_sockets == () and server_ep.custom_addrs == (place("server"),)
    client, server = await echoed(client_ep, server_ep, os.urandom(300_000))
    [path], [other] = client.paths, server.paths
    assert path.remote_addr == place("server") and other.remote_addr == place("client")
    assert path.local_addr == place("client") and other.local_addr == place("server")
    assert path.is_selected and not path.is_ip and not path.is_relay
    counts = client_ep.metrics.snapshot()
    assert counts["socket:send_custom"] > 300_000 < counts["socket:recv_data_custom"]
    assert counts["socket:send_ipv4"] == counts["socket:recv_data_ipv4"] == 0
    assert counts["socket:num_conns_direct"] == 0
    client.close()
    await server.wait_closed()


async def test_custom_addresses_are_for_who_asks_and_not_published(bind: Bind) -> None:
    endpoint = await bind(custom_transports=[Hub().at("here", "and here")])
    assert endpoint.custom_addrs == (place("here"), place("and here"))
    assert not any(addr.is_custom for addr in endpoint.addr.addrs)
    assert (await bind()).custom_addrs == ()


async def test_answers_leave_from_the_address_that_was_dialed(bind: Bind) -> None:
    hub = Hub()
    at = hub.at("first", "second")
    server_ep = await custom_only(bind, [at], alpns=[ALPN])
    client_ep = await custom_only(bind, [hub.at("client")])
    addr = EndpointAddr(server_ep.id, [place("second")])

    async def accept() -> Any:
        incoming = await server_ep.accept()
        assert incoming is not None and incoming.remote_addr == place("client")
        assert incoming.local_addr == place("second")
        return await incoming

    client, server = await asyncio.gather(client_ep.connect(addr, ALPN), accept())
    assert at.port is not None
    assert {src for _, src, _, _ in at.port.sent} == {place("second")}
    client.close()
    await server.wait_closed()


@pytest.mark.parametrize("most", [1, 3])
async def test_transport_gets_no_more_datagrams_at_once_than_it_takes(
    bind: Bind, most: int
) -> None:
    hub = Hub()
    at = hub.at("client", max_transmit_segments=most)
    server_ep = await custom_only(bind, [hub.at("server")], alpns=[ALPN])
    client_ep = await custom_only(bind, [at])
    client, server = await echoed(client_ep, server_ep, bytes(200_000))
    assert at.port is not None
    pieces = {(size + segment - 1) // segment for _, _, size, segment in at.port.sent if segment}
    assert pieces == ({2, 3} if most == 3 else set())
    client.close()
    await server.wait_closed()


async def test_first_transport_that_can_send_to_an_address_is_used(bind: Bind) -> None:
    hub = Hub()
    server_ep = await custom_only(bind, [hub.at("server")], alpns=[ALPN])
    deaf = hub.at("other", is_valid_send_addr=lambda addr: False)
    plugs = [deaf, hub.at("client"), hub.at("spare")]
    client_ep = await custom_only(bind, plugs)
    client, server = await echoed(client_ep, server_ep, b"x")
    sent = [len(plug.port.sent) if plug.port is not None else -1 for plug in plugs]
    assert sent[0] == sent[2] == 0 < sent[1]
    client.close()
    await server.wait_closed()


async def test_transport_that_raises_loses_packets_and_is_told_of_once(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    server_ep = await custom_only(bind, [hub.at("server")], alpns=[ALPN])
    at = hub.at("client")
    client_ep = await custom_only(bind, [at])
    assert at.port is not None
    right, calls = at.port.send, 0

    def wrong(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 4, 5):
            raise OSError(errno.ENOBUFS, "no room")
        right(*args)

    at.port.send = wrong  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "iroh_fast.net"):
        client, server = await echoed(client_ep, server_ep, bytes(50_000))
    assert calls >= 6
    [record] = [r for r in caplog.records if "custom transport" in r.getMessage()]
    assert record.getMessage() == "custom transport Plug: send failed"
    client.close()
    await server.wait_closed()


async def test_address_that_no_transport_takes_is_named(bind: Bind) -> None:
    def broken(addr: CustomAddr) -> bool:
        raise RuntimeError("oh")

    endpoint = await custom_only(bind, [Hub().at("here", is_valid_send_addr=broken)])
    for addr in (place("there"), CustomAddr(TransportId.TOR, bytes(32))):
        target = EndpointAddr(SecretKey.generate().public, [addr])
        with pytest.raises(NoAddress, match="no transport of this endpoint takes it"):
            await endpoint.connect(target, ALPN)


class Failing:
    """A transport that cannot be bound."""

    def __init__(self, error: BaseException | None, gives: object = None) -> None:
        self.error, self.gives = error, gives

    async def bind(self, inbox: CustomInbox) -> Any:
        if self.error is not None:
            raise self.error
        return self.gives


async def test_transport_that_cannot_be_bound_ends_the_others(bind: Bind) -> None:
    fine = Hub().at("here")
    with pytest.raises(BindError, match="custom transport Failing cannot be bound") as caught:
        await bind(custom_transports=[fine, Failing(PermissionError(errno.EACCES, "no"))])
    assert caught.value.errno == errno.EACCES
    assert fine.port is not None and fine.port.closed == 1


@pytest.mark.parametrize(
    ("gives", "words"),
    [
        (None, "gives a CustomEndpoint"),
        (Hub().at("x", max_transmit_segments=65), "max_transmit_segments"),
        (Hub().at("x", max_datagram_size=500), "max_datagram_size"),
    ],
)
async def test_transport_with_impossible_properties_is_refused(
    bind: Bind, gives: Any, words: str
) -> None:
    with pytest.raises(BindError, match=words):
        await bind(custom_transports=[gives or Failing(None)])


async def test_bind_that_is_cancelled_ends_what_was_bound() -> None:
    class Slow:
        async def bind(self, inbox: CustomInbox) -> CustomEndpoint:
            begun.set()
            await asyncio.sleep(3600)
            raise AssertionError

    begun = asyncio.Event()
    fine = Hub().at("here")

    async def binding() -> Endpoint:
        return await Endpoint.bind(
            preset=presets.minimal, ip_transports=False, custom_transports=[fine, Slow()]
        )

    task = asyncio.create_task(binding())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fine.port is not None and fine.port.closed == 1


async def test_end_that_fails_is_logged_and_nothing_arrives_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken() -> None:
        raise RuntimeError("cannot")

    first, second = Hub().at("first"), Hub().at("second", close=broken)
    async with Endpoint.bind(preset=presets.minimal, custom_transports=[first, second]):
        pass
    assert first.port is not None and second.port is not None and first.port.closed == 1
    assert "custom transport Plug: close failed" in caplog.text
    assert not first.port.inbox.put(place("x"), b"x")
    await first.port.inbox.room()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Hub().at("x"), r"is a list of transports: write \["),
        ([Hub], "objects with an async method bind"),
        ([object()], "objects with an async method bind"),
        ([Hub().at("x")] * 17, "at most 16"),
    ],
)
def test_wrong_option_says_what_it_takes(value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"custom_transports.*{words}"):
        Endpoint.bind(preset=presets.minimal, custom_transports=value)


async def test_custom_transport_is_preferred_to_a_relay(bind: Bind) -> None:
    hub = Hub()
    async with RelayServer() as relay:
        server_ep = await custom_only(bind, [hub.at("server")], relays=[relay.url], alpns=[ALPN])
        client_ep = await custom_only(bind, [hub.at("client")], relays=[relay.url])
        await asyncio.gather(server_ep.online(), client_ep.online())
        client, server = await echoed(client_ep, server_ep, b"x", relay.url)
        path = await client.direct(timeout=30)
        assert path.remote_addr == place("server") and client.why_relayed() is None
        while not any(path.is_relay for path in client.paths):
            await asyncio.sleep(0.01)  # the backup
        assert client.paths[0].is_selected or not client.paths[0].is_relay
        client.close()
        await server.wait_closed()


@pytest.mark.parametrize(("delay", "wins"), [(0.03, "ip"), (0.0, "custom")])
async def test_custom_transport_competes_with_ip_by_round_trip_time(
    bind: Bind, delay: float, wins: str
) -> None:
    """As the selector sees them; a path is left only for one that is 5 ms better."""
    hub = Hub()
    server_ep = await bind(custom_transports=[hub.at("server")], alpns=[ALPN])
    client_ep = await bind(custom_transports=[hub.at("client")])
    ways, _ = client_ep._context.sockaddrs(server_ep.addr.with_addrs(server_ep.custom_addrs))
    [custom] = [way for way in ways if is_custom(way)]
    direct = next(way for way in ways if len(way) == 2)
    found = {custom: delay, direct: 0.01}
    assert by_rtt(direct, found) == (custom if wins == "custom" else None)
    assert by_rtt(None, found) == (custom if wins == "custom" else direct)


# --- what arrives


class Engine:
    """Takes what the transports bring."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def add_transport(self, transport: object) -> None:
        pass

    def inject(self, ip16: bytes, data: bytes, segment: int, local: object, ecn: int) -> None:
        self.taken.append(data)


async def started(plugs: Iterable[Any]) -> tuple[CustomTransports, Engine]:
    service = CustomTransports(list(plugs))
    engine = Engine()
    context = SimpleNamespace(
        driver=engine,
        secret_key=SecretKey.generate(),
        owner=SimpleNamespace(loop=asyncio.get_running_loop()),
    )
    await service.start(cast("ServiceContext", context))
    return service, engine


async def test_transports_that_are_always_ready_take_turns() -> None:
    plugs = [Hub().at("a"), Hub().at("b")]
    service, engine = await started(plugs)
    while len(engine.taken) < 10_000:
        for plug, name in zip(plugs, (b"a", b"b"), strict=True):
            assert plug.port is not None
            while plug.port.inbox.put(place("x"), name):
                pass
        before = len(engine.taken)
        await asyncio.sleep(0)
        assert len(engine.taken) - before <= 64  # the loop has others
    taken = b"".join(engine.taken[:10_000])
    assert taken in (b"ab" * 5000, b"ba" * 5000)
    assert service.metrics["socket:recv_custom_dropped_full"] > 0
    await service.close()


async def test_inbox_is_bounded_and_tells_when_there_is_room() -> None:
    plug = Hub().at("a")
    service, engine = await started([plug])
    assert plug.port is not None
    inbox = plug.port.inbox
    assert [inbox.put(place("x"), b"1") for _ in range(QUEUED + 2)].count(False) == 2
    await inbox.room()
    assert QUEUED // 2 <= len(engine.taken) < QUEUED
    while len(engine.taken) < QUEUED:
        await asyncio.sleep(0)
    large = bytes(60_000)
    fits = QUEUED_BYTES // len(large)
    assert [inbox.put(place("x"), large) for _ in range(fits + 3)].count(True) == fits
    assert service.metrics["socket:recv_custom_dropped_full"] == inbox.dropped == 5
    await service.close()


async def test_inbox_refuses_what_is_no_datagram() -> None:
    plug = Hub().at("a")
    service, engine = await started([plug])
    assert plug.port is not None
    inbox = plug.port.inbox
    with pytest.raises(ValueError, match="at most 65535"):
        inbox.put(place("x"), bytes(65_536))
    for size in (0, 70_000):
        with pytest.raises(ValueError, match="segment_size"):
            inbox.put(place("x"), b"x", segment_size=size)
    with pytest.raises(TypeError, match="CustomAddr"):
        inbox.put("x", b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="CustomAddr"):
        inbox.put(place("x"), b"x", local="y")  # type: ignore[arg-type]
    with pytest.raises(WrongThread, match="call_soon_threadsafe"):
        await asyncio.to_thread(inbox.put, place("x"), b"x")
    assert inbox.put(place("x"), b"") and not engine.taken
    await service.close()


async def test_addresses_of_the_engine_tell_their_kind() -> None:
    service, _ = await started([Hub().at("a")])
    sockaddr = service.route(place("b"), bytes(32))
    assert sockaddr is not None and is_private(sockaddr) and is_custom(sockaddr)
    assert not is_relay(sockaddr)
    assert service.addr_of(sockaddr) == place("b")
    assert not is_custom(("192.0.2.1", 5)) and not is_relay(("fd15:70a:510b:3::1"[:4] + "::1", 5))
    await service.close()
