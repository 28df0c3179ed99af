"""Asking PostgreSQL for packets: the keys of one turn go together, and no answer is out of date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

from ..aio.once import Once
from ..errors import PacketStoreError
from ._postgres_sql import GET, TROUBLE, explained

__all__ = ["READERS", "Reads"]

logger = logging.getLogger("iroh_fast.dns_server.store")

FETCH_TIMEOUT_S: Final = 2.0
FIRST_DELAY_S: Final = 0.05
READERS: Final = 2  # statements on their way at the same time
READ_BATCH: Final = 256
MAX_WAITING: Final = 20_000  # keys that wait for the database
REFETCHES: Final = 20


class _Asked:
    """Somebody who waits for the packet of a key."""

    __slots__ = ("answer", "answered", "stale")

    def __init__(self) -> None:
        self.answered = Once()
        self.answer: bytes | None | PacketStoreError = None
        self.stale = False

    def give(self, answer: bytes | None | PacketStoreError) -> None:
        self.answer = answer
        self.answered.set()


class Reads:
    """Everybody who waits for packets of a database.

    Parameters
    ----------
    acquire : callable
        Gives a connection of the pool, as a context manager.
    start : callable
        Runs a coroutine in the background.
    unavailable : callable
        Makes an error of a reason.
    """

    def __init__(
        self,
        acquire: Callable[[], Any],
        start: Callable[[Coroutine[Any, Any, None]], object],
        unavailable: Callable[[str], PacketStoreError],
    ) -> None:
        self._acquire = acquire
        self._start = start
        self._unavailable = unavailable
        self._next: dict[bytes, list[_Asked]] = {}  # not asked for yet
        self._all: dict[bytes, set[_Asked]] = {}
        self._running = 0
        self._closed: PacketStoreError | None = None

    async def fetch(self, key: bytes) -> bytes | None:
        """The packet of a key, current when this returns; see `PacketStore.fetch`."""
        for _ in range(REFETCHES):
            asked = _Asked()
            waiting = self._all.setdefault(key, set())
            waiting.add(asked)
            try:
                self._ask(key, asked)
                await asked.answered
            finally:
                waiting.discard(asked)
                if not waiting and self._all.get(key) is waiting:
                    del self._all[key]
            if isinstance(asked.answer, PacketStoreError):
                raise asked.answer
            # What was heard of meanwhile may be missing in the answer.
            if not asked.stale:
                return asked.answer
        raise self._unavailable("the packet of a key changes all the time")

    def changed(self, key: bytes | None) -> None:
        """The packet of a key is another one now; of all keys, maybe, when it is None."""
        if key is not None:
            for asked in self._all.get(key, ()):
                asked.stale = True
        else:
            for waiting in self._all.values():
                for asked in waiting:
                    asked.stale = True

    def close(self, error: PacketStoreError) -> None:
        """Give everybody who waits an error."""
        self._closed = error
        for waiting in self._all.values():
            for asked in waiting:
                asked.give(error)

    def _ask(self, key: bytes, asked: _Asked) -> None:
        if self._closed is not None:
            raise self._closed
        if len(self._next) >= MAX_WAITING:
            raise self._unavailable("too many keys are asked for")
        self._next.setdefault(key, []).append(asked)
        if len(self._next) == 1:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        while self._next and self._running < READERS and self._closed is None:
            keys = list(self._next)[:READ_BATCH]
            self._running += 1
            self._start(self._read({key: self._next.pop(key) for key in keys}))

    async def _read(self, batch: dict[bytes, list[_Asked]]) -> None:
        found: dict[bytes, bytes] | PacketStoreError = self._unavailable("the store failed")
        try:
            found = await self._read_until_answered(list(batch))
        finally:
            for key, waiting in batch.items():
                for asked in waiting:
                    asked.give(found.get(key) if isinstance(found, dict) else found)
            self._running -= 1
            self._begin()

    async def _read_until_answered(
        self, keys: list[bytes]
    ) -> dict[bytes, bytes] | PacketStoreError:
        loop = asyncio.get_running_loop()
        until = loop.time() + FETCH_TIMEOUT_S
        delay = FIRST_DELAY_S
        while True:
            try:
                async with asyncio.timeout_at(until), self._acquire() as connection:
                    rows = await connection.fetch(GET, keys)
                return {row["key"]: row["packet"] for row in rows}
            except TROUBLE as error:
                logger.debug("%s", explained(error))
                if loop.time() + delay >= until:
                    return self._unavailable(explained(error))
                await asyncio.sleep(delay)
                delay *= 2
