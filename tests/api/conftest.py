"""Endpoints on loopback, under plain asyncio and under uvloop."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from iroh_fast import BindAddr, Connection, Endpoint, presets

ALPN = b"test/1"
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path)])}
LOOPBACK = [BindAddr("127.0.0.1"), BindAddr("::1", required=False)]


HANG_S = 100  # a signal cannot interrupt uvloop, so hanging tests are ended from inside


def _limited(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(HANG_S):
            await test(*args, **kwargs)

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            item.obj = _limited(item.obj)
        item.add_marker(pytest.mark.filterwarnings("error::ResourceWarning"))
        item.add_marker(
            pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
        )


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    try:
        import uvloop
    except ImportError:
        return factories
    factories["uvloop"] = uvloop.new_event_loop
    return factories


Bind = Callable[..., Awaitable[Endpoint]]


@pytest.fixture
async def bind() -> AsyncIterator[Bind]:
    """Bind endpoints on loopback that are closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Endpoint:
            options.setdefault("bind_addrs", LOOPBACK)
            options.setdefault("preset", presets.minimal)
            return await stack.enter_async_context(Endpoint.bind(**options))

        yield make


class Pair(NamedTuple):
    """Two connected endpoints; `client` dialled `server`."""

    client_ep: Endpoint
    server_ep: Endpoint
    client: Connection
    server: Connection


@pytest.fixture
async def make_pair(bind: Bind) -> AsyncIterator[Callable[..., Awaitable[Pair]]]:
    """Connect two new endpoints; options are those of both, or of one by prefix."""
    made: list[Pair] = []

    async def make(**options: Any) -> Pair:
        sides: dict[str, dict[str, Any]] = {"client": {}, "server": {"alpns": [ALPN]}}
        for name, value in options.items():
            side, _, rest = name.partition("_")
            if side in sides:
                sides[side][rest] = value
            else:
                for some in sides.values():
                    some[name] = value
        server_ep = await bind(**sides["server"])
        client_ep = await bind(**sides["client"])
        client, server = await connect(client_ep, server_ep)
        made.append(Pair(client_ep, server_ep, client, server))
        return made[-1]

    yield make
    for pair in made:
        pair.client.close()
        pair.server.close()


async def connect(
    client_ep: Endpoint, server_ep: Endpoint, alpn: bytes = ALPN
) -> tuple[Connection, Connection]:
    """Connect and accept at the same time."""

    async def accept() -> Connection:
        incoming = await server_ep.accept()
        assert incoming is not None
        return await incoming

    return await asyncio.gather(client_ep.connect(server_ep.addr, alpn), accept())


@pytest.fixture
async def pair(make_pair: Callable[..., Awaitable[Pair]]) -> Pair:
    return await make_pair()
