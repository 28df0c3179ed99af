"""The network paths of a connection: snapshots, changes, events."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from ._later import Later
from .addr import TransportAddr
from .aio._core_events import wait
from .aio.watcher import Source, Watcher
from .quic._connection import WAIT_PATHS, QuicConnection

if TYPE_CHECKING:
    from . import stats as _stats
else:
    _stats = Later("iroh_fast.stats")

__all__ = ["PathEvents", "Paths"]

AddrOf: TypeAlias = Callable[[tuple[Any, ...]], TransportAddr]
"""Turns an address of the engine into one that users know."""


class PathEvents:
    """Iterator over what happens to the paths of a connection.

    Events of the last moment may be missing when the consumer is slow; then a
    :class:`PathsLagged` tells how many.
    """

    __slots__ = ("__weakref__", "_buffer", "_missed", "_paths")

    LIMIT = 8  # as many as iroh keeps for a consumer

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._buffer: deque[_stats.PathEvent] = deque()
        self._missed = 0

    def _put(self, event: _stats.PathEvent) -> None:
        if len(self._buffer) == self.LIMIT:
            self._buffer.popleft()
            self._missed += 1
        self._buffer.append(event)

    def __aiter__(self) -> PathEvents:
        return self

    async def __anext__(self) -> _stats.PathEvent:
        paths = self._paths
        while True:
            paths.pull()
            if self._missed:
                missed, self._missed = self._missed, 0
                return _stats.PathsLagged(missed)
            if self._buffer:
                return self._buffer.popleft()
            if paths.ended():
                raise StopAsyncIteration
            await paths.wait()


class Paths(Source["list[_stats.PathInfo]"]):
    """What a connection knows of its paths."""

    __slots__ = ("_addr_of", "_consumers", "_q")

    def __init__(self, q: QuicConnection, addr_of: AddrOf) -> None:
        self._q = q
        self._addr_of = addr_of
        self._consumers: weakref.WeakSet[PathEvents] | None = None

    def get(self) -> list[_stats.PathInfo]:
        """The paths in use now."""
        q, addr_of = self._q, self._addr_of
        found = [path for id in q.path_ids() if (path := q.path_info(id)) is not None]
        selected = next(
            (path["id"] for path in found if path["status"] == "available" and path["validated"]),
            found[0]["id"] if found else None,
        )
        return [
            _stats.PathInfo(
                id=path["id"],
                remote_addr=addr_of(path["remote"]),
                local_addr=addr_of(path["local"]) if path["local"] else None,
                status=path["status"],
                is_selected=path["id"] == selected,
                validated=path["validated"],
                rtt=path["rtt"],
                cwnd=path["cwnd"],
                mtu=path["mtu"],
                stats=_stats.PathStats.from_core(path["stats"]),
            )
            for path in found
        ]

    def rtt(self) -> float:
        """Round-trip time of the selected path, seconds."""
        paths = self.get()
        for path in paths:
            if path.is_selected:
                return path.rtt
        return paths[0].rtt if paths else 0.0

    def version(self) -> object:
        """What a watcher compares: everything but the figures that always change."""
        return [
            (path.id, path.remote_addr, path.local_addr, path.status, path.is_selected)
            for path in self.get()
        ]

    def ended(self) -> bool:
        """True when the connection is over."""
        return self._q.close_reason is not None

    async def wait(self) -> None:
        """Return when something may have changed."""
        await wait(self._q, WAIT_PATHS)

    def watch(self) -> Watcher[list[_stats.PathInfo]]:
        """Follow the set of paths and their status."""
        return Watcher(self)

    def events(self) -> PathEvents:
        """A new consumer of what happens from now on."""
        if self._consumers is None:
            self._q.path_events()  # what happened before is not for this consumer
            self._q.record_paths(True)
            self._consumers = weakref.WeakSet()
        else:
            self.pull()
        consumer = PathEvents(self)
        self._consumers.add(consumer)
        return consumer

    def pull(self) -> None:
        """Give what the core recorded to all consumers."""
        if self._consumers is not None:
            for raw in self._q.path_events():
                event = self._event(raw)
                for consumer in self._consumers:
                    consumer._put(event)

    def _event(self, event: tuple[Any, ...]) -> _stats.PathEvent:
        addr_of = self._addr_of
        kind = event[0]
        if kind == "opened":
            _, id, remote, local = event
            return _stats.PathOpened(id, addr_of(remote), addr_of(local) if local else None)
        if kind == "closed":
            _, id, remote, local, reason, stats = event
            return _stats.PathClosed(
                id,
                addr_of(remote),
                addr_of(local) if local else None,
                reason,
                _stats.PathStats.from_core(stats),
            )
        if kind == "status":
            return _stats.PathStatusChanged(event[1], event[2])
        if kind == "observed":
            return _stats.ObservedAddr(event[1], addr_of(event[2]))
        return _stats.PathsLagged(event[1])
