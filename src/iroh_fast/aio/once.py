"""What tasks wait for that is not an event of the core: things that happen once, and room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

from ._waiters import Waiter, WaitQueue

__all__ = ["Once", "Room", "see_through", "seen"]


class Once:
    """Something that happens at most once: ``await once``.

    Unlike ``asyncio.Event``, what waits here is kept alive by its event loop, also when nobody
    else refers to the waiting task or to this object.
    """

    __slots__ = ("__weakref__", "_waiters", "happened")

    def __init__(self) -> None:
        self.happened = False
        self._waiters = WaitQueue()

    def set(self) -> None:
        """It happened: wake everybody."""
        self.happened = True
        self._waiters.wake_all()

    def waiter(self) -> Waiter[None]:
        """The next time that it is set: for those who need a callback."""
        return self._waiters.wait()

    async def wait(self) -> None:
        """Return when it has happened.  Cancel-safe."""
        while not self.happened:
            await self._waiters.wait()

    def __await__(self) -> Generator[Any, Any, None]:
        return self.wait().__await__()


class Room:
    """A number of places; who finds none free waits, first come, first served.

    Parameters
    ----------
    places : int
        How many there are.
    """

    __slots__ = ("_waiters", "free")

    def __init__(self, places: int) -> None:
        self.free = places
        self._waiters = WaitQueue()

    async def take(self) -> None:
        """Take a place.  Cancel-safe: a place that nobody got goes to the next one."""
        if self._waiters.waiting or not self.free:
            await self._waiters.wait()
            while not self.free:
                await self._waiters.wait()
        self.free -= 1

    def leave(self) -> None:
        """Give a place back."""
        self.free += 1
        self._waiters.wake()


async def see_through(
    task: asyncio.Task[None], cancelled: Callable[[], object] = lambda: None
) -> None:
    """Wait for a task that has to come to its end; cancelling the waiter does not stop it.

    The CancelledError is raised when the task is done.

    Parameters
    ----------
    cancelled : called each time that the waiter is cancelled.
    """
    error: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as raised:
            if not task.done():
                error = raised
                cancelled()
    if error is not None:
        raise error
    if not task.cancelled():
        task.result()


def seen(task: asyncio.Future[Any]) -> None:
    """For `add_done_callback`: nobody has to ask how it ended."""
    if not task.cancelled():
        task.exception()
