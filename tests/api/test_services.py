"""Services of an endpoint: what they get, what they add, and what a failing one leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Mapping

import pytest

from iroh_fast import Endpoint, IpAddr, SocketAddr, _assembly, presets
from iroh_fast.net.local_addrs import NetworkState
from iroh_fast.net.service import EndpointService, ServiceContext

from .conftest import ALPN, LOOPBACK, Bind

FOUND = IpAddr(SocketAddr.parse("203.0.113.7:4433"))


class Mapper:
    """As a port mapper would do: finds an address, loses it when the network changes."""

    name = "mapper"
    metrics: Mapping[str, int] = {"portmap:found": 1}

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.error: Exception | None = None

    async def start(self, context: ServiceContext) -> None:
        self.log.append("start")
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        self.context = context
        context.addrs.put(self.name, [FOUND])

    def network_changed(self, state: NetworkState) -> None:
        self.log.append(f"{len(state.ips) > 0}")
        self.context.addrs.put(self.name, [])

    async def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def mapper(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Mapper]:
    """Makes the service that every endpoint of the test has besides its own."""
    log: list[str] = []
    usual = _assembly._services
    made: list[Mapper] = []

    def services(*args: object) -> list[EndpointService]:
        return [*usual(*args), made[-1]]  # type: ignore[arg-type]

    monkeypatch.setattr(_assembly, "_services", services)

    def make() -> Mapper:
        made.append(Mapper(log))
        return made[-1]

    return make


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


async def test_service_adds_addresses_and_counters_and_is_told(
    bind: Bind, mapper: Callable[[], Mapper]
) -> None:
    service = mapper()
    ep = await bind(alpns=[ALPN])
    assert service.context.secret_key == ep.secret_key
    assert service.context.sockets == ep.bound_sockets
    assert FOUND in ep.addr.addrs and len(ep.addr.addrs) > 1
    assert ep.metrics.snapshot()["portmap:found"] == 1
    watcher = ep.watch_addr()
    await ep.network_change()
    assert FOUND not in (await watcher.changed()).addrs
    await ep.close()
    assert service.log == ["start", "True", "close"]


async def test_service_that_does_not_start_ends_the_bind(mapper: Callable[[], Mapper]) -> None:
    before = descriptors()
    service = mapper()
    service.error = OSError("no gateway")
    with pytest.raises(OSError, match="no gateway"):
        await Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK)
    assert service.log == ["start", "close"]
    assert descriptors() == before


async def test_bind_cancelled_while_a_service_starts_leaves_nothing(
    mapper: Callable[[], Mapper],
) -> None:
    before = descriptors()
    service = mapper()
    service.go_on.clear()
    task = asyncio.create_task(Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK))
    while not service.log:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.log == ["start", "close"]
    del task
    assert descriptors() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
