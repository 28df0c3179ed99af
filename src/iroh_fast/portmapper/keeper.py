"""Keeps one mapping: chooses a protocol, renews in time, tries again with patience."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from ..aio._waiters import WaitQueue
from ..errors import PortmapError
from .model import Gateway, Lease, MappingProtocol, ProtocolName

__all__ = ["Keeper", "new_counters", "probe"]

log = logging.getLogger("iroh_fast.portmapper")

TRUST_S = 600.0  # that a protocol is there
RENEW_S = 900.0  # at the latest: a router that restarted has forgotten
MIN_RENEW_S = 10.0
RETRY_S = 25.0  # as often as iroh's net reports have it tried
PATIENT_S = 300.0  # after some failures
FAILURES = 5
MAX_WAIT_S = 1800.0  # that a gateway may ask for
CALM_S = 5.0  # between questions to a gateway, however often the network changes
CALM_OTHER_S = 0.5  # the same when it is another one
STEP_S = 15.0  # for one step of one protocol, whatever it does
RELEASE_S = 0.5

T = TypeVar("T")


def new_counters() -> dict[str, int]:
    """Counters of a port mapper; names are iroh's where it has them."""
    names = (
        *("probes_started", "mapping_attempts", "mapping_failures", "renewals"),
        *("external_address_updated", "upnp_probes", "upnp_probes_failed", "upnp_available"),
        *("pcp_probes", "pcp_available", "nat_pmp_probes", "nat_pmp_available"),
    )
    return {f"portmap:{name}": 0 for name in names}


async def _limited(step: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(STEP_S):
            return await step
    except TimeoutError:
        raise PortmapError("timeout", f"the gateway took more than {STEP_S:g} s") from None


async def probe(
    protocols: Sequence[MappingProtocol], gateway: Gateway, counters: dict[str, int] | None = None
) -> dict[ProtocolName, PortmapError | None]:
    """Find out which protocols a gateway speaks, all at the same time.

    Returns
    -------
    dict
        For each protocol None if it does, otherwise why not.
    """
    counters = new_counters() if counters is None else counters

    async def one(protocol: MappingProtocol) -> PortmapError | None:
        counters[f"portmap:{protocol.name}_probes"] += 1
        try:
            await _limited(protocol.probe(gateway))
        except PortmapError as error:
            log.debug("%s at %s: %s", protocol.name, gateway.ip, error)
            if protocol.name == "upnp":
                counters["portmap:upnp_probes_failed"] += 1
            return error
        counters[f"portmap:{protocol.name}_available"] += 1
        return None

    counters["portmap:probes_started"] += 1
    tasks: dict[ProtocolName, asyncio.Task[PortmapError | None]] = {}
    async with asyncio.TaskGroup() as group:
        for protocol in protocols:
            tasks[protocol.name] = group.create_task(one(protocol))
    return {name: task.result() for name, task in tasks.items()}


class Keeper:
    """Keeps a mapping for a port as long as there is a gateway that gives one.

    Parameters
    ----------
    protocols : the best first.
    port : of ours.
    changed : called with the lease at each change of its address, None without one.
    """

    def __init__(
        self,
        protocols: Sequence[MappingProtocol],
        port: int,
        changed: Callable[[Lease | None], object],
    ) -> None:
        self.counters = new_counters()
        self.lease: Lease | None = None
        self.error: PortmapError | None = None  # why there is none
        self._protocols: dict[ProtocolName, MappingProtocol] = {}
        for protocol in protocols:
            self._protocols[protocol.name] = protocol
        self._port = port
        self._changed = changed
        self._gateway: Gateway | None = None
        self._lease_of: Gateway | None = None  # that gave the lease
        self._expires = 0.0
        self._seen: dict[ProtocolName, float] = {}  # when it was last found
        self._failures = 0
        self._asked: Gateway | None = None  # which one, and when
        self._asked_at = float("-inf")
        self._news = WaitQueue()
        self._look = False
        self._loop = asyncio.get_running_loop()

    def look(self, gateway: Gateway | None) -> None:
        """The network is like this now, or may have been interrupted."""
        if gateway != self._gateway:
            self._seen.clear()
        self._gateway = gateway
        self._failures = 0
        self._look = True
        self._news.wake_all()

    async def run(self) -> None:
        """Until it is cancelled; then see `close`."""
        while True:
            self._look = False
            wait = await self._turn()
            await self._pause(wait)

    async def _pause(self, wait: float | None) -> None:
        """Wait, or until there is news, though not at once again after the last time."""
        try:
            async with asyncio.timeout(wait):
                while not self._look:
                    await self._news.wait()
        except TimeoutError:
            return
        calm = CALM_S if self._gateway == self._asked else CALM_OTHER_S
        await asyncio.sleep(self._asked_at + calm - self._loop.time())

    async def _turn(self) -> float | None:
        """Do what is due; seconds until something is again, None for never."""
        gateway, lease = self._gateway, self.lease
        if lease is not None and gateway != self._lease_of:
            # What the old gateway keeps ends by itself: there is no way to it any more.
            self._set(None, None)
            lease = None
        if gateway is None:
            self.error = PortmapError("no_gateway", "this network has no gateway to ask")
            return None
        self._asked, self._asked_at = gateway, self._loop.time()
        if lease is not None and (wait := await self._renew(gateway, lease)) is not None:
            return wait
        return await self._obtain(gateway)

    async def _renew(self, gateway: Gateway, lease: Lease) -> float | None:
        """Seconds until the next time, None when the lease is lost."""
        self.counters["portmap:renewals"] += 1
        try:
            return await self._map(gateway, self._protocols[lease.protocol], lease)
        except PortmapError as error:
            log.debug("renewing %s at %s: %s", lease.external, gateway.ip, error)
            left = self._expires - self._loop.time()
            silent = error.kind in ("timeout", "no_gateway")
            if silent and (lease.lifetime == 0 or left > MIN_RENEW_S):
                return RETRY_S if lease.lifetime == 0 else max(left / 2, MIN_RENEW_S)
            self._set(None, None)
            return None

    async def _obtain(self, gateway: Gateway) -> float:
        """Ask by one protocol after the other; seconds until the next time."""
        error = PortmapError("unavailable", "the gateway knows no port mapping")
        for name in await self._available(gateway):
            self.counters["portmap:mapping_attempts"] += 1
            try:
                return await self._map(gateway, self._protocols[name], None)
            except PortmapError as failed:
                self.counters["portmap:mapping_failures"] += 1
                log.debug("no mapping by %s from %s: %s", name, gateway.ip, failed)
                error = failed
                self._seen.pop(name, None)
        if self.error is None or str(self.error) != str(error):
            log.info("no port mapping from %s: %s", gateway.ip, error)
        self.error = error
        self._failures += 1
        wait = RETRY_S if self._failures < FAILURES else PATIENT_S
        return max(wait, min(error.wait, MAX_WAIT_S))

    async def _available(self, gateway: Gateway) -> list[ProtocolName]:
        """The protocols that the gateway speaks, the best first."""
        now = self._loop.time()
        known: list[ProtocolName] = [
            name for name in self._protocols if now - self._seen.get(name, -TRUST_S) < TRUST_S
        ]
        if known:
            return known
        found = await probe(list(self._protocols.values()), gateway, self.counters)
        now = self._loop.time()
        there: list[ProtocolName] = [name for name, why in found.items() if why is None]
        self._seen = dict.fromkeys(there, now)
        return there

    async def _map(self, gateway: Gateway, protocol: MappingProtocol, old: Lease | None) -> float:
        """Have a mapping made or renewed; seconds until it has to be renewed."""
        lease = await _limited(protocol.map(gateway, self._port, old))
        self._expires = self._loop.time() + lease.lifetime
        self._failures = 0
        self._set(lease, gateway)
        half = lease.lifetime / 2 if lease.lifetime else RENEW_S
        return max(MIN_RENEW_S, min(half, RENEW_S))

    def _set(self, lease: Lease | None, gateway: Gateway | None) -> None:
        before = self.lease and self.lease.external
        self.lease, self._lease_of = lease, gateway
        if lease is not None:
            self.error = None
        if (lease and lease.external) == before:
            return
        if lease is None:
            log.info("the port mapping %s is gone", before)
        else:
            self.counters["portmap:external_address_updated"] += 1
            log.info("port %d is mapped to %s by %s", lease.port, lease.external, lease.protocol)
        self._changed(lease)

    async def close(self) -> None:
        """Give the mapping back, when `run` has ended."""
        await self._release()
        for protocol in self._protocols.values():
            await protocol.close()

    async def _release(self) -> None:
        lease, gateway = self.lease, self._lease_of
        self.lease = self._lease_of = None
        if lease is None or gateway is None:
            return
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._protocols[lease.protocol].release(gateway, lease)
        except (PortmapError, TimeoutError) as error:
            log.debug("giving %s back: %s", lease.external, error)
