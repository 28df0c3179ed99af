"""A block that something else ends early, as ``asyncio.timeout`` does by time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from ._waiters import Waiter

__all__ = ["Unless"]


class Unless:
    """``async with Unless(waiter) as unless``: the block is cancelled when the wait is over.

    Its CancelledError ends at the end of the block, where `happened` tells whether that was so.
    Cancelling the task from elsewhere is not touched.

    Parameters
    ----------
    waiter : a wait of :mod:`iroh_fast.aio` that nobody awaits.
    counts : asked when the wait is over; False lets the block go on.
    """

    __slots__ = ("_cancelling", "_counts", "_task", "_waiter", "happened")

    def __init__(self, waiter: Waiter[Any], counts: Callable[[], bool] = lambda: True) -> None:
        self._waiter = waiter
        self._counts = counts
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self.happened = False

    async def __aenter__(self) -> Self:
        self._task = task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._waiter.future.add_done_callback(self._over)
        return self

    def _over(self, _: object) -> None:
        if self._task is not None and self._counts():
            self.happened = True
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        task, self._task = self._task, None
        self._waiter.close()
        if not self.happened or task is None:
            return False
        ours = task.uncancel() <= self._cancelling
        return ours and kind is not None and issubclass(kind, asyncio.CancelledError)
