"""The network paths of a connection: snapshots, changes, events, and which of them carries data."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ._check import check_seconds
from ._later import Later
from .addr import RelayAddr, TransportAddr
from .aio._core_events import wait
from .aio.owner import Owner
from .aio.watcher import Source, Watcher
from .errors import NotDirect
from .quic._connection import WAIT_PATHS, QuicConnection

if TYPE_CHECKING:
    from . import stats as _stats
    from .net.transport import SockAddr
    from .quic._connection import _PathInfo
else:
    _stats = Later("iroh_fast.stats")

__all__ = ["ConnectionPaths", "PathEvents", "PathHome", "Paths"]

AddrOf: TypeAlias = Callable[[tuple[Any, ...]], TransportAddr]
"""Turns an address of the engine into one that users know."""


class PathHome(Protocol):
    """What the paths of a connection need of its endpoint."""

    @property
    def transport_addr(self) -> AddrOf:
        """Turns an address of the engine into one that users know."""
        ...

    def selected_way(self, q: QuicConnection, /) -> SockAddr | None:
        """The address that path selection chose for a connection; None where there was no choice."""
        ...

    def why_relayed(self, q: QuicConnection, /) -> str:
        """Why data of a connection goes over a relay, in words."""
        ...

    def stays_relayed(self, q: QuicConnection, /) -> bool:
        """Whether a connection never gets a direct path, whatever happens."""
        ...


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

    __slots__ = ("_consumers", "_home", "_open", "_q", "_selected")

    def __init__(self, q: QuicConnection, home: PathHome) -> None:
        self._q = q
        self._home = home
        self._consumers: weakref.WeakSet[PathEvents] | None = None
        # What the consumers were told: paths that are open, and which of them is selected.
        self._open: dict[int, _stats.PathOpened] = {}
        self._selected: int | None = None

    # --- snapshots
    def get(self) -> list[_stats.PathInfo]:
        """The paths in use now."""
        q = self._q
        found = [path for id in q.path_ids() if (path := q.path_info(id)) is not None]
        selected = self._selected_of(found)
        return [self._info(path, path["id"] == selected) for path in found]

    def selected(self) -> _stats.PathInfo | None:
        """The path that carries data."""
        return next((path for path in self.get() if path.is_selected), None)

    def _selected_of(self, found: list[_PathInfo]) -> int | None:
        way = self._home.selected_way(self._q)
        if way is not None:
            chosen = next((path["id"] for path in found if path["remote"][:2] == way[:2]), None)
            if chosen is not None:
                return chosen
        for path in found:
            if path["status"] == "available" and path["validated"]:
                return path["id"]
        return found[0]["id"] if found else None

    def _info(self, path: _PathInfo, is_selected: bool) -> _stats.PathInfo:
        remote, local = self._ends(path["remote"], path["local"])
        return _stats.PathInfo(
            id=path["id"],
            remote_addr=remote,
            local_addr=local,
            status=path["status"],
            is_selected=is_selected,
            validated=path["validated"],
            rtt=path["rtt"],
            cwnd=path["cwnd"],
            mtu=path["mtu"],
            stats=_stats.PathStats.from_core(path["stats"]),
        )

    def _ends(
        self, remote: SockAddr, local: SockAddr | None
    ) -> tuple[TransportAddr, TransportAddr | None]:
        """Where a path leads and starts, as users see it."""
        addr_of = self._home.transport_addr
        there = addr_of(remote)
        if isinstance(there, RelayAddr):
            return there, there
        return there, addr_of(local) if local else None

    def rtt(self) -> float:
        """Round-trip time of the selected path, seconds."""
        path = self.selected()
        return path.rtt if path is not None else 0.0

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

    # --- direct or not
    async def direct(self) -> _stats.PathInfo:
        """Wait until data goes over a path that is no relay's."""
        while True:
            if (reason := self._q.close_reason) is not None:
                raise reason.to_error()
            path = self.selected()
            if path is not None and not path.is_relay:
                return path
            if self._home.stays_relayed(self._q):
                raise NotDirect(reason=self._home.why_relayed(self._q))
            await self.wait()

    def why_relayed(self) -> str | None:
        """Why data goes over a relay; None when it does not."""
        path = self.selected()
        if self.ended() or path is None or not path.is_relay:
            return None
        return self._home.why_relayed(self._q)

    # --- events
    def events(self) -> PathEvents:
        """A new consumer of what happens from now on."""
        if self._consumers is None:
            self._q.path_events()  # what happened before is not for this consumer
            self._q.record_paths(True)
            self._consumers = weakref.WeakSet()
            for path in self.get():
                self._open[path.id] = _stats.PathOpened(path.id, path.remote_addr, path.local_addr)
                if path.is_selected:
                    self._selected = path.id
        else:
            self.pull()
        consumer = PathEvents(self)
        self._consumers.add(consumer)
        return consumer

    def pull(self) -> None:
        """Give what the core recorded, and which path is selected now, to all consumers."""
        if self._consumers is None:
            return
        for raw in self._q.path_events():
            self._tell(self._event(raw))
            if raw[0] == "lagged":
                self._resync()
        path = None if self.ended() else self.selected()
        if path is not None and path.id != self._selected and path.id in self._open:
            self._selected = path.id
            self._tell(_stats.PathSelected(path.id, path.remote_addr, path.local_addr))

    def _tell(self, event: _stats.PathEvent) -> None:
        match event:
            case _stats.PathOpened():
                self._open[event.id] = event
            case _stats.PathClosed():
                self._open.pop(event.id, None)
        for consumer in self._consumers or ():
            consumer._put(event)

    def _resync(self) -> None:
        """The core dropped events: tell what came of them."""
        now = {path.id: path for path in self.get()}
        for id, opened in list(self._open.items()):
            if id not in now:
                gone = (id, opened.remote_addr, opened.local_addr, "unknown", _stats.PathStats())
                self._tell(_stats.PathClosed(*gone))
        for id, path in now.items():
            if id not in self._open:
                self._tell(_stats.PathOpened(id, path.remote_addr, path.local_addr))

    def _event(self, event: tuple[Any, ...]) -> _stats.PathEvent:
        kind = event[0]
        if kind == "opened":
            _, id, remote, local = event
            return _stats.PathOpened(id, *self._ends(remote, local))
        if kind == "closed":
            _, id, remote, local, reason, stats = event
            ends = self._ends(remote, local)
            return _stats.PathClosed(id, *ends, reason, _stats.PathStats.from_core(stats))
        if kind == "status":
            return _stats.PathStatusChanged(event[1], event[2])
        if kind == "observed":
            return _stats.ObservedAddr(event[1], self._home.transport_addr(event[2]))
        return _stats.PathsLagged(event[1])


class ConnectionPaths:
    """What a connection says of its paths."""

    __slots__ = ("_home", "_owner", "_paths", "_q")

    _q: QuicConnection
    _owner: Owner
    _home: PathHome
    _paths: Paths | None  # made when asked for

    def _path_book(self) -> Paths:
        if (paths := self._paths) is None:
            paths = self._paths = Paths(self._q, self._home)
        return paths

    @property
    def rtt(self) -> float:
        """Round-trip time of the selected path, seconds."""
        return self._path_book().rtt()

    @property
    def paths(self) -> list[_stats.PathInfo]:
        """The network paths in use, as a snapshot."""
        return self._path_book().get()

    def watch_paths(self) -> Watcher[list[_stats.PathInfo]]:
        """Follow the set of paths and their status; ends with the connection."""
        return self._path_book().watch()

    def path_events(self) -> PathEvents:
        """Iterate over path events from now on; ends with the connection.

        The paths that are open already are not told of: call this, then read :attr:`paths`.
        """
        return self._path_book().events()

    async def direct(  # the error tells more than that of asyncio.timeout
        self,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> _stats.PathInfo:
        """Wait until data goes over a direct path, one that is no relay's.

        Parameters
        ----------
        timeout : seconds to wait at most; 0 only looks, None has no limit.

        Returns
        -------
        PathInfo
            That path.  It may be gone again a moment later: then data goes over the relay.

        Raises
        ------
        NotDirect
            There is none in time, or there never will be one; ``reason`` is what
            :meth:`why_relayed` said.
        ConnectionLost

        Notes
        -----
        Cancel-safe.
        """
        self._owner.check_loop()
        timeout = check_seconds("timeout", timeout, none=True, zero=True)
        book = self._path_book()
        try:
            async with asyncio.timeout(timeout or None):
                if timeout != 0:
                    return await book.direct()
        except TimeoutError:
            pass
        path = book.selected()
        if (end := self._q.close_reason) is not None:
            raise end.to_error()
        if path is None or path.is_relay:
            raise NotDirect(reason=self._home.why_relayed(self._q))
        return path

    def why_relayed(self) -> str | None:
        """Say in words why data goes over a relay; None when it does not.

        For people to read: the words change between versions.
        """
        return self._path_book().why_relayed()
