"""Addresses of remote endpoints that there are no connections with any more, for some time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from .inventory import Inventory

__all__ = ["KEPT_S", "Resting"]

KEPT_S = 60.0
MAX_REMOTES = 1024


class Resting:
    """Keeps what was known of a remote for a minute after its last connection."""

    __slots__ = ("_kept", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._kept: OrderedDict[bytes, tuple[float, Inventory]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, key: bytes, inventory: Inventory) -> None:
        """The last connection with a remote is over."""
        self._kept[key] = (self._loop.time() + KEPT_S, inventory)
        self._kept.move_to_end(key)
        if len(self._kept) > MAX_REMOTES:
            self._kept.popitem(last=False)
        self._arm()

    def get(self, key: bytes) -> Inventory | None:
        """What is known of a remote."""
        kept = self._kept.get(key)
        return None if kept is None else kept[1]

    def take(self, key: bytes) -> Inventory | None:
        """The same, for connections that begin: it is theirs now."""
        kept = self._kept.pop(key, None)
        return None if kept is None else kept[1]

    def _arm(self) -> None:
        if self._timer is None and self._kept:
            until, _ = next(iter(self._kept.values()))
            self._timer = self._loop.call_at(until, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._kept and next(iter(self._kept.values()))[0] <= now:
            self._kept.popitem(last=False)
        self._arm()

    def stop(self) -> None:
        """Forget all."""
        self._kept.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
