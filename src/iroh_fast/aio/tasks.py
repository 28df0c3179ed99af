"""Tasks that belong to somebody and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Tasks"]


class Tasks:
    """Tasks of one owner, held until they are done.

    Parameters
    ----------
    failed : callable, optional
        Called with what one of them raised; without it the loop reports that.
    """

    __slots__ = ("_failed", "_running")

    def __init__(self, failed: Callable[[BaseException], object] | None = None) -> None:
        self._failed = failed
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in a task of the running loop."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if self._failed is None or task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._failed(error)

    async def end(self) -> None:
        """Cancel all that run, and wait for their end."""
        running = list(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
