"""The thread and event loop that an endpoint and everything below it belong to."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from threading import get_ident
from typing import Any

from ..errors import WrongThread

__all__ = ["Owner", "get_ident"]


class Owner:
    """Shared by an endpoint, its connections and their streams.

    Attributes
    ----------
    thread : int
        Identifier of the owning thread; 0 in a forked child, where nothing may be used:
        parent and child would send different packets under one packet number and key.
    loop : asyncio.AbstractEventLoop
        The loop that was running when the endpoint was bound.
    """

    __slots__ = ("__weakref__", "_dropped", "_scheduled", "_tasks", "loop", "thread")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.thread = get_ident()
        self.loop = loop
        self._dropped: list[Callable[[], object]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        with _owners_lock:
            _owners.add(self)

    def check_loop(self) -> None:
        """Raise unless called from a task of the owning loop."""
        if get_ident() != self.thread:
            self.wrong_thread()
        if asyncio.get_running_loop() is not self.loop:
            raise WrongThread("this object belongs to another event loop")

    def wrong_thread(self) -> None:
        """Raise the error for a use from outside the owning thread."""
        if not self.thread:
            raise WrongThread(
                "this object was made before os.fork(); bind a new endpoint in the child"
            )
        raise WrongThread()

    def defer(self, call: Callable[[], object]) -> None:
        """Run `call` on the loop soon.  Safe in finalizers and from any thread.

        A finalizer can run anywhere, even in the middle of a call into the core or on the
        thread that happens to collect garbage, so it must not touch the core itself.
        """
        if not self.thread:
            return
        self._dropped.append(call)
        if self._scheduled:
            return
        self._scheduled = True
        try:
            if get_ident() == self.thread:
                self.loop.call_soon(self._run_dropped)
            else:
                self.loop.call_soon_threadsafe(self._run_dropped)
        except RuntimeError:  # the loop is closed: nothing is left that could be told
            self._dropped.clear()
            self._scheduled = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in a task that lives until it is done; from the loop's thread."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run_dropped(self) -> None:
        self._scheduled = False
        calls, self._dropped = self._dropped, []
        for call in calls:
            call()


_owners: weakref.WeakSet[Owner] = weakref.WeakSet()
_owners_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _owners_lock
    _owners_lock = threading.Lock()  # another thread of the parent may have held it
    for owner in list(_owners):
        owner.thread = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
