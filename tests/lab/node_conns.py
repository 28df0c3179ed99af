"""Connections of a node, with what happened to their paths and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from iroh_fast import Connection
from iroh_fast.addr import TransportAddr
from iroh_fast.errors.closing import CloseReason
from iroh_fast.stats import PathInfo
from tests.lab import node_traffic

__all__ = ["Held", "address", "kind_of", "path_facts"]

Tell = Callable[..., None]


def address(addr: TransportAddr | None) -> str | None:
    """An address in the words of the protocol."""
    if addr is None:
        return None
    if addr.is_relay:
        return f"relay:{getattr(addr, 'url', addr)}"
    return str(getattr(addr, "addr", addr)) if addr.is_ip else f"custom:{addr}"


def kind_of(address: str) -> str:
    """The kind of an address of the protocol."""
    for kind in ("relay", "custom"):
        if address.startswith(f"{kind}:"):
            return kind
    return "ip6" if address.startswith("[") else "ip4"


def path_facts(path: PathInfo) -> dict[str, Any]:
    remote = address(path.remote_addr) or ""
    return {
        "id": str(path.id),
        "remote": remote,
        "kind": kind_of(remote),
        "local": address(path.local_addr),
        "selected": path.is_selected,
        "status": path.status,
        "rtt": path.rtt,
        "mtu": path.mtu,
        "tx": path.stats.udp_tx.bytes,
        "rx": path.stats.udp_rx.bytes,
        "lost": path.stats.lost_packets,
    }


#: The names that iroh has for the ends of a connection.
END_KINDS = {
    "application": "ApplicationClosed",
    "transport_peer": "PeerAborted",
    "transport_local": "TransportViolation",
    "locally_closed": "LocallyClosed",
    "timed_out": "TimedOut",
    "reset": "Reset",
    "version_mismatch": "VersionMismatch",
    "cids_exhausted": "CidsExhausted",
    "unreachable": "Unreachable",
}


class Held:
    """A connection, watched from when it is complete."""

    def __init__(self, number: int, conn: Connection, tell: Tell) -> None:
        self.number, self.conn = number, conn
        self.complete = time.monotonic()
        self._tell = tell
        self._open: dict[int, str] = {}
        self._selected: tuple[float, str] | None = None
        self._changed = asyncio.Condition()
        self.end: tuple[float, CloseReason] | None = None
        what = "connected" if conn.side == "client" else "accepted"
        tell(what, conn=number, remote=str(conn.remote_id), t=self.complete)
        self._look(conn.paths)
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._serve())]

    async def _serve(self) -> None:
        await node_traffic.serve(self.conn)

    async def _watch(self) -> None:
        async for paths in self.conn.watch_paths():
            self._look(paths)
            async with self._changed:
                self._changed.notify_all()
        reason = await self.conn.wait_closed()
        self.end = time.monotonic(), reason
        self._tell("closed", conn=self.number, kind=END_KINDS[reason.kind], reason=str(reason))
        async with self._changed:
            self._changed.notify_all()

    def _look(self, paths: list[PathInfo]) -> None:
        """Tell what is different from before."""
        seen = {path.id: address(path.remote_addr) or "" for path in paths}
        for id, remote in self._open.items():
            if id not in seen:
                self._happened("closed", id, remote)
        for id, remote in seen.items():
            if id not in self._open:
                self._happened("opened", id, remote)
            elif self._open[id] != remote:
                self._happened("moved", id, remote)
        self._open = seen
        for path in paths:
            if path.is_selected and (self._selected or (0, ""))[1] != seen[path.id]:
                self._selected = time.monotonic(), seen[path.id]
                self._happened("selected", path.id, seen[path.id])

    def _happened(self, what: str, id: int, remote: str) -> None:
        self._tell(
            "path", conn=self.number, what=what, id=str(id), remote=remote, kind=kind_of(remote)
        )

    async def wait_path(self, kind: str, prefix: str, other_than: list[str]) -> dict[str, Any]:
        """Wait until a path of a kind is the selected one."""

        def wanted(remote: str) -> bool:
            is_kind = kind_of(remote).startswith(kind)
            return is_kind and remote.startswith(prefix) and remote not in other_than

        async with self._changed:
            while True:
                if self._selected is not None and wanted(self._selected[1]):
                    break
                if self.end is not None:
                    raise ValueError(f"the connection has ended: {self.end[1]}")
                await self._changed.wait()
        at = self._selected[0]
        path = next((path for path in self.conn.paths if path.is_selected), None)
        facts = None if path is None else path_facts(path)
        return {"path": facts, "t": at, "since": at - self.complete}

    async def wait_closed(self) -> dict[str, Any]:
        async with self._changed:
            await self._changed.wait_for(lambda: self.end is not None)
        assert self.end is not None
        at, reason = self.end
        return {"t": at, "kind": END_KINDS[reason.kind], "reason": str(reason)}

    def describe(self) -> dict[str, Any]:
        return {
            "conn": self.number,
            "remote": str(self.conn.remote_id),
            "side": self.conn.side,
            "t": self.complete,
            "closed": None if self.end is None else str(self.end[1]),
        }

    async def stop(self) -> None:
        """Watch and serve no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
