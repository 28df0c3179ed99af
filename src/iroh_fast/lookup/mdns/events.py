"""Who comes and goes on the link, for those who want to see it."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeAlias, TypeVar

from ...aio._waiters import WaitQueue
from ...keys import EndpointId
from ..info import EndpointInfo

__all__ = ["QUEUE", "Discovered", "Expired", "MdnsEvent", "MdnsEvents", "Queue"]

log = logging.getLogger("iroh_fast.lookup.mdns")

QUEUE: Final = 20  # events that wait for one consumer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Discovered:
    """An endpoint is on the local network, or tells something else than before.

    Attributes
    ----------
    info : who it says it is, and where.  Anybody on the link can say that: its addresses are for
        dialing, which proves the id, and its user data proves nothing.
    last_updated : None.
    """

    info: EndpointInfo
    last_updated: int | None = None


@dataclass(frozen=True, slots=True)
class Expired:
    """An endpoint was not heard of for some time."""

    id: EndpointId


MdnsEvent: TypeAlias = Discovered | Expired


class Queue(Generic[T]):
    """Things for one consumer, an asynchronous iterator: what comes when QUEUE of them wait is dropped."""

    __slots__ = ("__weakref__", "_items", "_news", "ended", "missed")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._news = WaitQueue()
        self.ended = False
        self.missed = 0

    def put(self, item: T) -> bool:
        """Add something; False when it is dropped."""
        if self.ended:
            return False
        if len(self._items) >= QUEUE:
            self.missed += 1
            return False
        self._items.append(item)
        self._news.wake_all()
        return True

    def end(self) -> None:
        """Nothing comes any more."""
        self.ended = True
        self._news.wake_all()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._items:
            if self.ended:
                raise StopAsyncIteration
            await self._news.wait()
        return self._items.popleft()


class MdnsEvents(Queue[MdnsEvent]):
    """Iterator of :meth:`MdnsLookup.subscribe`; ends when the endpoint is closed.

    Attributes
    ----------
    missed : int
        How many events were dropped because 20 were waiting.
    """

    __slots__ = ()

    def put(self, item: MdnsEvent) -> bool:
        """Add an event."""
        taken = super().put(item)
        if not taken and self.missed == 1:
            log.warning("a subscriber of mDNS events does not take them: new ones are dropped")
        return taken

    async def aclose(self) -> None:
        """Take no more events."""
        self._items.clear()
        self.end()
