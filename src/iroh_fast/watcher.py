"""Values that change over time, and ways to follow them."""

from __future__ import annotations

from .aio.watcher import Watcher
from .errors import WatcherEnded

__all__ = ["Watcher", "WatcherEnded"]
