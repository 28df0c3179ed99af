"""One lookup at a time for each remote, shared by all attempts to reach it; and what was found in the last minute."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..addr import TransportAddr
from ..aio._waiters import WaitQueue
from ..errors import AddressLookupFailed, EndpointClosed
from ..keys import EndpointId
from .registry import AddressLookupServices
from .services import LookupAnswer, LookupFailure, LookupItem

__all__ = ["Search", "SharedLookups"]

KEPT_S = 60.0  # what was found serves the next attempts so long, as in iroh
MAX_REMOTES = 1024  # of whom that is kept
PER_SERVICE = 24  # addresses of one remote from each service: none crowds out the others
MAX_FOUND = 64  # of all together
MAX_SOURCES = 8  # names shown for one address
LINGER_S = 15.0  # a lookup goes on so long for a connection that came about before its end


@dataclass(eq=False, slots=True)
class Search:
    """A lookup that is running.

    Attributes
    ----------
    found : the addresses so far, in the order in which they came, and the services that told of each.
    failures : of services.
    over : nothing more will come.
    news : woken at each change of those.
    """

    id: EndpointId
    found: dict[TransportAddr, tuple[str, ...]] = field(default_factory=dict)
    failures: tuple[LookupFailure, ...] = ()
    error: AddressLookupFailed | None = None
    over: bool = False
    news: WaitQueue = field(default_factory=WaitQueue)
    attempts: int = 0
    succeeded: bool = False
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    def take(self, item: LookupItem) -> None:
        """Remember addresses."""
        name = item.provenance
        mine = sum(services[0] == name for services in self.found.values())
        for addr in item.info.data.addrs:
            services = self.found.get(addr)
            if services is not None:
                if name not in services and len(services) < MAX_SOURCES:
                    self.found[addr] = (*services, name)
            elif mine < PER_SERVICE and len(self.found) < MAX_FOUND:
                self.found[addr] = (name,)
                mine += 1


@dataclass(eq=False, slots=True)
class _Kept:
    until: float
    addrs: dict[TransportAddr, tuple[str, ...]]


class SharedLookups:
    """The lookups of an endpoint's connection attempts.

    Parameters
    ----------
    services : who is asked.
    told : called with each answer: who was looked for, and what a service said.
    """

    def __init__(
        self,
        services: AddressLookupServices,
        told: Callable[[EndpointId, LookupAnswer], object],
    ) -> None:
        self.services = services
        self._told = told
        self._running: dict[EndpointId, Search] = {}
        self._kept: OrderedDict[EndpointId, _Kept] = OrderedDict()

    # --- what is known
    def known(self, id: EndpointId) -> Mapping[TransportAddr, tuple[str, ...]]:
        """What lookups found lately: the addresses, and the services that told of each."""
        kept = self._kept.get(id)
        if kept is None:
            return {}
        if kept.until < self._now():
            del self._kept[id]
            return {}
        return kept.addrs

    def forget(self, id: EndpointId) -> None:
        """What was found is of no use."""
        self._kept.pop(id, None)

    def _keep(self, search: Search) -> None:
        now = self._now()
        self._kept[search.id] = _Kept(now + KEPT_S, dict(search.found))
        self._kept.move_to_end(search.id)
        while len(self._kept) > MAX_REMOTES or next(iter(self._kept.values())).until < now:
            self._kept.popitem(last=False)

    def _now(self) -> float:
        return self.services.owner.loop.time()

    # --- lookups
    def join(self, id: EndpointId) -> Search:
        """Take part in the lookup of a remote, which begins if there is none; `leave` it later."""
        search = self._running.get(id)
        if search is None:
            search = self._running[id] = Search(id)
            search.task = self.services.owner.loop.create_task(self._run(search))
        search.attempts += 1
        self._stop_timer(search)
        return search

    def leave(self, search: Search, *, connected: bool) -> None:
        """An attempt is over.

        What nobody waits for any more is ended: at once, or some time later when there is a
        connection that other ways may be good for.
        """
        search.attempts -= 1
        search.succeeded = search.succeeded or connected
        if search.attempts or search.over:
            return
        if search.succeeded:
            loop = self.services.owner.loop
            search.timer = loop.call_later(LINGER_S, self._end, search)
        else:
            self._end(search)

    def _end(self, search: Search) -> None:
        if not search.attempts:
            self._cancel(search)

    def _cancel(self, search: Search) -> None:
        task = search.task
        self._over(search)
        if task is not None:
            task.cancel()

    async def _run(self, search: Search) -> None:
        try:
            async with self.services.resolve(search.id) as lookup:
                async for answer in lookup:
                    self._told(search.id, answer)
                    if isinstance(answer, LookupItem):
                        search.take(answer)
                        if search.found:
                            self._keep(search)
                    else:
                        search.failures = lookup.failures
                    search.news.wake_all()
        except AddressLookupFailed as error:
            search.error = error
        except EndpointClosed:
            pass
        finally:
            self._over(search)

    def _stop_timer(self, search: Search) -> None:
        if search.timer is not None:
            search.timer.cancel()
            search.timer = None

    def _over(self, search: Search) -> None:
        search.over = True
        search.task = None
        self._stop_timer(search)
        if self._running.get(search.id) is search:
            del self._running[search.id]
        search.news.wake_all()

    def stop(self) -> None:
        """End all lookups."""
        for search in list(self._running.values()):
            self._cancel(search)
