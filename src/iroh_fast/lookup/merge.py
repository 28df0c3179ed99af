"""The answers of several services as one stream, in the order in which they come."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Self

from ..aio._waiters import WaitQueue
from ..aio.once import Room
from ..aio.owner import Owner
from ..errors import AddressLookupFailed, EndpointClosed
from ..keys import EndpointId
from .services import (
    AddressLookup,
    LookupAnswer,
    LookupFailure,
    LookupItem,
    failure_error,
    name_of,
    summary,
)

__all__ = ["Lookup", "Merge"]

log = logging.getLogger("iroh_fast.lookup")

MAX_WAITING = 16  # answers that nobody has taken yet; then the services wait
MAX_FAILURES = 64  # remembered for the error
CANCEL_TIMEOUT_S = 1.0  # for services that do not take an end for an answer


class Merge:
    """Services at work on one question; each in a task of its own, so that none delays another.

    Parameters
    ----------
    told : called with each answer that is given on, and with None when there was no item at all.
    """

    def __init__(
        self,
        owner: Owner,
        id: EndpointId,
        services: Sequence[AddressLookup],
        told: Callable[[LookupAnswer | None], object],
    ) -> None:
        self.id = id
        self.owner = owner
        self.any_services = bool(services)
        self.failures: list[LookupFailure] = []
        self._told = told
        self._ready: deque[LookupAnswer] = deque()
        self._room = Room(MAX_WAITING)
        self._news = WaitQueue()
        self._found = False
        self._over = False
        self._endpoint_closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        for service in services:
            task = owner.loop.create_task(self._ask(service))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    # --- the side of the services
    async def _ask(self, service: AddressLookup) -> None:
        name = name_of(service)
        try:
            answers = service.resolve(self.id)
            if answers is not None:
                await self._pass_on(answers, name)
        except Exception as error:
            await self._put(LookupFailure(name, error))

    async def _pass_on(self, answers: AsyncIterator[LookupAnswer], name: str) -> None:
        try:
            async for answer in answers:
                if isinstance(answer, LookupItem) and answer.info.id != self.id:
                    log.warning(
                        "lookup of %s: %s told of %s instead; ignored",
                        f"{self.id:short}",
                        name,
                        f"{answer.info.id:short}",
                    )
                elif isinstance(answer, (LookupItem, LookupFailure)):
                    await self._put(answer)
                else:
                    kind = type(answer).__name__
                    raise TypeError(f"it yielded {kind} instead of a LookupItem or LookupFailure")
        finally:
            close = getattr(answers, "aclose", None)  # what is no generator may have none
            if close is not None:
                await close()

    async def _put(self, answer: LookupAnswer) -> None:
        await self._room.take()
        self._ready.append(answer)
        self._news.wake_all()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._news.wake_all()
        if not task.cancelled() and (error := task.exception()) is not None:
            # An exception of ours, or one that is none of a service's business.
            log.error("a lookup of %s broke off", f"{self.id:short}", exc_info=error)

    # --- the side of who asks
    async def take(self) -> LookupAnswer:
        """The next answer; StopAsyncIteration or an error at the end."""
        while not self._ready:
            if self._over:
                if self._endpoint_closed:
                    raise EndpointClosed()
                raise StopAsyncIteration
            if not self._tasks:
                self._finish()
            else:
                await self._news.wait()
        self._room.leave()
        answer = self._ready.popleft()
        self._told(answer)
        if isinstance(answer, LookupItem):
            self._found = True
        elif len(self.failures) < MAX_FAILURES:
            self.failures.append(answer)
        return answer

    def _finish(self) -> None:
        """All services are done."""
        self._over = True
        if not self._found:
            self._told(None)
            raise failed(self.id, self.failures, any_services=self.any_services)

    def cancel(self, *, endpoint_closed: bool = False) -> None:
        """End the work at once; nothing is waited for."""
        if self._over:
            return
        self._over = True
        self._endpoint_closed = endpoint_closed
        self._ready.clear()
        for task in self._tasks:
            task.cancel()
        self._news.wake_all()

    async def end(self) -> None:
        """The same, and wait until it has ended."""
        self.cancel()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=CANCEL_TIMEOUT_S)
            if late:
                log.warning("lookup of %s: a service does not end", f"{self.id:short}")


def failed(
    id: EndpointId, failures: Iterable[LookupFailure], *, any_services: bool
) -> AddressLookupFailed:
    """Say that nothing was found."""
    if not any_services:
        return AddressLookupFailed(
            f"{id:short} cannot be looked up: this endpoint has no address lookup",
            kind="no_service",
        )
    errors = [failure_error(failure) for failure in failures]
    return AddressLookupFailed(
        f"no address of {id:short} found: {summary(errors)}", kind="no_results", errors=errors
    )


class Lookup:
    """What the services find, as they find it: an asynchronous iterator.

    It yields :class:`LookupItem` and, in between, the :class:`LookupFailure` of services that
    could not answer.  Use it with ``async with``, or call :meth:`aclose`, when enough is known.

    Raises
    ------
    AddressLookupFailed
        At the end, when there was no item: no service is there, or none had an answer.
    EndpointClosed
        The endpoint was closed meanwhile.
    """

    __slots__ = ("__weakref__", "_merge")

    def __init__(self, merge: Merge) -> None:
        self._merge = merge

    @property
    def id(self) -> EndpointId:
        """Who is looked for."""
        return self._merge.id

    @property
    def failures(self) -> tuple[LookupFailure, ...]:
        """Which services have failed so far."""
        return tuple(self._merge.failures)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LookupAnswer:
        self._merge.owner.check_loop()
        return await self._merge.take()

    async def aclose(self) -> None:
        """End the work of all services."""
        self._merge.owner.check_loop()
        await self._merge.end()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        try:
            self._merge.owner.defer(self._merge.cancel)
        except AttributeError:  # never made
            pass
