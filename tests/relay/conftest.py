"""Relay tests: under plain asyncio and under uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from pairs import Net

from iroh_fast.relay.server.server import RelayServer


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


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    made = Net()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def relay() -> AsyncIterator[RelayServer]:
    async with RelayServer() as server:
        yield server


@pytest.fixture
def no_stray_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which an exception ended in the event loop's handler."""
    yield
    stray = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name == "asyncio" and record.levelname == "ERROR"
    ]
    assert not stray, stray
