"""Sockets that break, or whose network moved, are opened again at the same port."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, cast

import pytest
from tests.virtual import VirtualLoop

from iroh_fast import Connection, Endpoint, presets
from iroh_fast._batch import UdpSocket
from iroh_fast.config import BindAddr
from iroh_fast.net._socket import DriverCore
from iroh_fast.net.local_addrs import NetworkState
from iroh_fast.net.rebind import Rebinder

ALPN = b"rebind/1"
MAJOR = NetworkState.of([ip_address("192.0.2.1")])
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="shutdown() of UDP is Linux's")


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Connection, Endpoint, Endpoint]]:
    """A connection whose other side echoes; its endpoints."""

    async def echo(server: Endpoint) -> None:
        incoming = await server.accept()
        assert incoming is not None
        conn = await incoming
        while True:
            send, recv = await conn.accept_bi()
            await send.write(await recv.read_to_end(1 << 20))
            send.finish()

    options: dict[str, Any] = {"preset": presets.minimal, "bind_addrs": ["127.0.0.1:0"]}
    async with Endpoint.bind(alpns=[ALPN], **options) as server, Endpoint.bind(**options) as client:
        task = asyncio.create_task(echo(server))
        conn = await client.connect(server.addr, ALPN)
        try:
            yield conn, client, server
        finally:
            task.cancel()


async def echoed(conn: Connection, data: bytes) -> None:
    send, recv = await conn.open_bi()
    await send.write(data)
    send.finish()
    assert await recv.read_to_end(1 << 20) == data


def sock(ep: Endpoint) -> UdpSocket:
    found = ep._driver._core.sockets[0]
    assert found.local_address[0] == "127.0.0.1"
    return found


async def test_connections_go_on_over_sockets_opened_again() -> None:
    async with pair() as (conn, client, server):
        for ep in (client, server, client):
            before, old = ep.bound_sockets, sock(ep)
            ep._driver.rebind()
            assert old.fileno() == -1 and sock(ep) is not old
            assert sock(ep).local_address == (str(before[0].ip), before[0].port)
            await echoed(conn, b"x" * 100_000)
        assert client.metrics.snapshot()["socket:rebinds"] == 2 * len(client.bound_sockets)
        assert len(conn.paths) == 1


@linux_only
async def test_socket_that_cannot_send_is_opened_again() -> None:
    async with pair() as (conn, client, _):
        old = sock(client)
        with pytest.raises(OSError):  # it says so and does it
            old.sock.shutdown(socket.SHUT_WR)
        await echoed(conn, b"x" * 10_000)
        assert sock(client) is not old and old.fileno() == -1
        assert client.metrics.snapshot()["socket:rebinds"] == 1


@linux_only
async def test_socket_that_is_readable_without_end_is_opened_again() -> None:
    async with pair() as (conn, client, server):
        old = sock(server)
        with pytest.raises(OSError):
            old.sock.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(30):
            while sock(server) is old:
                await asyncio.sleep(0.01)
        await echoed(conn, b"x" * 10_000)


async def test_socket_that_is_only_idle_stays() -> None:
    async with pair() as (conn, client, _):
        old = sock(client)
        for _ in range(200):
            client._driver._core.on_readable(0)
        await asyncio.sleep(0)
        await echoed(conn, b"x")
        assert sock(client) is old
        for _ in range(2):
            client._driver._rebinder.network_changed(MAJOR)
        if sys.platform == "linux":
            assert sock(client) is old  # the kernel keeps it usable


class Core:
    """Stands for the engine: which sockets are open."""

    stopped = False

    def __init__(self) -> None:
        self.log: list[str] = []
        self.sockets: list[object] = [object(), object()]
        self.on_broken: object = None

    def shut_socket(self, index: int) -> None:
        self.log.append(f"shut {index}")

    def replace_socket(self, index: int, new: object) -> None:
        self.log.append(f"open {index} {new}")
        self.sockets[index] = new


class Ports:
    """Stands for the system: binding may fail for some time."""

    def __init__(self, *bound: tuple[BindAddr, tuple[Any, ...]], always: bool = False) -> None:
        self.fails = 0
        self.times: list[float] = []
        self.core = Core()
        self.loop = asyncio.get_running_loop()
        self.rebinder = Rebinder(
            cast(DriverCore, self.core), self.loop, bound, bind=self._bind, always=always
        )

    def _bind(self, sockaddr: tuple[Any, ...]) -> UdpSocket:
        self.times.append(round(self.loop.time(), 3))
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EADDRINUSE, "in use")
        return cast(UdpSocket, sockaddr)

    def breaks(self, index: int, error: int = errno.EPIPE) -> None:
        self.rebinder.broken(cast(UdpSocket, self.core.sockets[index]), error)

    def log(self) -> list[str]:
        found, self.core.log[:] = list(self.core.log), []
        return found


ANY = (BindAddr("0.0.0.0"), ("0.0.0.0", 4433))
SIX = (BindAddr("::", 5), ("::", 5, 0, 0))


def virtual(main: Any) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_port_that_is_taken_is_waited_for_with_growing_pauses() -> None:
    async def main() -> None:
        ports = Ports(ANY, SIX)
        ports.fails = 9
        ports.breaks(0)
        ports.breaks(0)  # known
        await asyncio.sleep(60)
        assert ports.times == [0.0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 11.3, 16.3, 21.3]
        assert ports.log() == ["shut 0", "open 0 ('0.0.0.0', 4433)"]
        ports.times.clear()
        ports.breaks(0)  # it worked for long: at once
        ports.breaks(0)  # and not so soon again
        assert len(ports.times) == 1
        await asyncio.sleep(60)
        assert [round(t - ports.times[0], 3) for t in ports.times] == [0.0, 0.1]
        ports.fails = 100
        ports.breaks(1, errno.ENOTCONN)
        await asyncio.sleep(30)
        before = len(ports.times)
        ports.fails = 0
        ports.rebinder.network_changed(MAJOR)  # perhaps now
        assert len(ports.times) == before + 1 and ports.log()[-1] == "open 1 ('::', 5, 0, 0)"
        ports.fails = 100
        ports.rebinder.rebind()
        ports.breaks(0)
        ports.rebinder.broken(cast(UdpSocket, object()), errno.EPIPE)  # of before
        ports.rebinder.stop()
        ports.times.clear()
        await asyncio.sleep(60)
        assert ports.times == []

    virtual(main)


def test_where_the_system_does_not_keep_them_all_are_opened_again_at_major_changes() -> None:
    async def main() -> None:
        ports = Ports(ANY, SIX, always=True)
        ports.rebinder.network_changed(NetworkState(major=False))
        assert ports.log() == []
        ports.rebinder.network_changed(MAJOR)
        assert ports.log() == [
            *("shut 0", "open 0 ('0.0.0.0', 4433)", "shut 1", "open 1 ('::', 5, 0, 0)"),
        ]
        assert ports.rebinder.rebinds == 2

    virtual(main)


def test_socket_of_an_interface_follows_it_to_its_new_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        names = {"eth0": 3}

        def index_of(name: str) -> int:
            if name not in names:
                raise OSError(errno.ENODEV, "no such device")
            return names[name]

        monkeypatch.setattr("iroh_fast.net.rebind.socket.if_nametoindex", index_of)
        ports = Ports((BindAddr("fe80::1%eth0", 7), ("fe80::1", 7, 0, 3)), ANY)
        ports.rebinder.network_changed(MAJOR)
        del names["eth0"]
        ports.rebinder.network_changed(MAJOR)
        assert ports.log() == []
        names["eth0"] = 9
        ports.rebinder.network_changed(MAJOR)
        ports.rebinder.network_changed(MAJOR)
        assert ports.log() == ["shut 0", "open 0 ('fe80::1', 7, 0, 9)"]

    virtual(main)
