"""The relay client against our relay server: the whole way of a datagram."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from iroh_fast import SecretKey
from iroh_fast.addr import RelayUrl
from iroh_fast.errors import RelayClientError
from iroh_fast.relay.client.pool import RelayPool
from iroh_fast.relay.map import RelayConfig, RelayMap
from iroh_fast.relay.server.access import AllowList, SharedToken
from iroh_fast.relay.server.config import RelayLimits, RelayServerConfig, RelayTlsConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.web.ca import CaConfig

pytestmark = pytest.mark.timeout(30)

A, B = SecretKey(bytes([1]) * 32), SecretKey(bytes([2]) * 32)
KEY_A, KEY_B = bytes(A.public), bytes(B.public)


class Side:
    """A pool with what it received."""

    def __init__(self, secret: SecretKey, **options: Any) -> None:
        self.frames: list[tuple[Any, ...]] = []
        options.setdefault("relay_map", RelayMap())
        self.pool = RelayPool(secret_key=secret, on_datagrams=self.take, **options)

    def take(self, *frame: Any) -> None:
        self.frames.append(frame)


@asynccontextmanager
async def side(secret: SecretKey, home: str, **options: Any) -> AsyncIterator[Side]:
    made = Side(secret, **options)
    made.pool.set_home(RelayUrl(home))
    try:
        yield made
    finally:
        await made.pool.close()


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def test_two_clients_exchange_datagrams() -> None:
    async with RelayServer() as server, side(A, server.url) as a, side(B, server.url) as b:
        url = RelayUrl(server.url)
        await eventually(lambda: a.pool.connected() and b.pool.connected())
        assert a.pool.send(url, KEY_B, 2, 0, b"hello")
        assert a.pool.send(url, KEY_B, 1, 1200, bytes(65_500))
        await eventually(lambda: len(b.frames) == 2)
        assert b.frames == [
            (url, KEY_A, 2, 0, b"hello"),
            (url, KEY_A, 1, 1200, bytes(65_500)),
        ]
        assert b.pool.send(url, KEY_A, 0, 0, bytes(65_502))
        await eventually(lambda: a.frames)
        assert a.frames == [(url, KEY_B, 0, 0, bytes(65_502))]
        # An endpoint that leaves is forgotten as a route.
        (active,) = a.pool._active.values()
        assert KEY_B in active.present
        await b.pool.close()
        await eventually(lambda: KEY_B not in active.present)


async def test_datagrams_over_tls() -> None:
    config = RelayServerConfig.dev(
        tls=RelayTlsConfig(cert_mode="SelfSigned", https_bind_addr=("127.0.0.1", 0))
    )
    async with RelayServer(config) as server:
        assert server.certificate is not None
        pem = server.certificate.decode()
        port = server.addresses["https"][1]
        url = RelayUrl(f"https://localhost.:{port}")
        ca = CaConfig(roots="none", extra=[pem])
        async with side(A, url, ca=ca) as a, side(B, url, ca=ca) as b:
            await eventually(lambda: a.pool.connected() and b.pool.connected())
            sent = [index.to_bytes(2, "big") * 5000 for index in range(100)]
            for payload in sent:
                while not a.pool.send(url, KEY_B, 0, 1000, payload):
                    await asyncio.sleep(0.001)
            await eventually(lambda: len(b.frames) == len(sent))
            assert [frame[4] for frame in b.frames] == sent
        async with side(A, url) as stranger:
            await eventually(lambda: stranger.pool.stats.relay_conns_failed)
            assert stranger.pool.home_status is not None
            error = stranger.pool.home_status.last_error
            assert isinstance(error, RelayClientError) and error.kind == "tls"


async def test_refused_client_learns_the_reason_and_gets_in_once_allowed() -> None:
    async with RelayServer(RelayServerConfig.dev(access=SharedToken(["good"]))) as server:
        relays = RelayMap([RelayConfig(server.url, auth_token="bad")])
        async with side(A, server.url, relay_map=relays) as a:
            await eventually(lambda: a.pool.home_status and a.pool.home_status.auth_denied_reason)
            assert a.pool.home_status is not None
            assert a.pool.home_status.auth_denied_reason == "not authorized"
            relays.with_auth_token("good")
            await eventually(lambda: a.pool.home_status and a.pool.home_status.connected)
            assert a.pool.home_status.last_error is None


async def test_client_that_is_not_on_the_list_stays_out() -> None:
    access = AllowList([B.public])
    async with RelayServer(RelayServerConfig.dev(access=access)) as server:
        async with side(A, server.url) as a, side(B, server.url) as b:
            await eventually(lambda: b.pool.connected())
            await eventually(lambda: a.pool.stats.relay_conns_failed >= 3)
            assert not a.pool.connected()


async def test_server_that_comes_back_is_found_again() -> None:
    async with RelayServer() as server:
        port = server.addresses["http"][1]
        async with side(A, server.url) as a, side(B, server.url) as b:
            url = RelayUrl(server.url)
            await eventually(lambda: a.pool.connected() and b.pool.connected())
            await server.stop()
            await eventually(lambda: not a.pool.connected() and not b.pool.connected())
            async with RelayServer(RelayServerConfig.dev(port=port)):
                await eventually(lambda: a.pool.connected() and b.pool.connected())
                assert a.pool.send(url, KEY_B, 0, 0, b"again")
                await eventually(lambda: b.frames)
                assert b.frames == [(url, KEY_A, 0, 0, b"again")]


async def test_pings_keep_a_quiet_connection_alive() -> None:
    limits = RelayLimits(ping_interval=0.05, ping_jitter=0)
    async with RelayServer(RelayServerConfig.dev(limits=limits)) as server:
        async with side(A, server.url) as a:
            await eventually(lambda: server.metrics()["sent_pong"] >= 1)
            before = server.metrics()["disconnects"]
            await asyncio.sleep(0.5)
            assert a.pool.stats.relay_conns_success == 1
            assert server.metrics()["disconnects"] == before
