"""Which paths a connection has, shown as they change."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ... import Connection
from ...aio.once import seen
from ...stats import PathInfo
from .show import Out, milliseconds

__all__ = ["Follower", "facts_of", "path_line", "table", "used"]


def facts_of(path: PathInfo) -> dict[str, Any]:
    """A path for programs."""
    return {
        "id": path.id,
        "remote": str(path.remote_addr),
        "selected": path.is_selected,
        "status": path.status,
        "validated": path.validated,
        "rtt": path.rtt,
        "mtu": path.mtu,
    }


def used(conn: Connection) -> PathInfo | None:
    """The path that carries data."""
    return next((path for path in conn.paths if path.is_selected), None)


def path_line(path: PathInfo | None) -> str:
    """A path in a line."""
    if path is None:
        return "  no path"
    return f"  over {path.remote_addr}, {milliseconds(path.rtt)}, {path.mtu} bytes a packet"


def table(paths: list[PathInfo]) -> list[str]:
    """All paths, a line for each."""
    lines = []
    for path in sorted(paths, key=lambda path: (not path.is_selected, path.id)):
        mark = "▶" if path.is_selected else " "
        lines.append(
            f"  {mark} {path.remote_addr!s:50} {milliseconds(path.rtt):>10}  MTU {path.mtu:5}"
            f"  {path.status}{'' if path.validated else ', not validated'}"
        )
    return lines


class Follower:
    """Tells within its block whenever another path is selected."""

    def __init__(self, conn: Connection, out: Out) -> None:
        self._conn = conn
        self._out = out
        self._began = time.perf_counter()
        self._task: asyncio.Task[None] | None = None

    async def _follow(self) -> None:
        last = None
        async for paths in self._conn.watch_paths():
            path = next((path for path in paths if path.is_selected), None)
            if path is None or path.remote_addr == last:
                continue
            last = path.remote_addr
            after = time.perf_counter() - self._began
            text = f"  path: {path.remote_addr} (after {after:.2f} s)"
            self._out.tell("path_selected", text, after=after, **facts_of(path))

    async def __aenter__(self) -> Follower:
        self._task = asyncio.create_task(self._follow())
        self._task.add_done_callback(seen)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        await asyncio.sleep(0)  # what changed at last is told
        self._task.cancel()
        await asyncio.wait({self._task})
