"""Path policy: which of the ways to a remote endpoint its connections use.

All connections with one remote share a `RemoteState`: the addresses known for it, and the one
that is selected. The QUIC engine schedules by path status; this module sets the status, opens
what is missing (on the side that dialed) and closes what is redundant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from iroh_fast.aio._waiters import on_paths
from iroh_fast.errors import ConnectionLost, IrohError
from iroh_fast.net.transport import SockAddr, is_private

if TYPE_CHECKING:
    from iroh_fast.quic._connection import QuicConnection

__all__ = ["RemoteMap", "RemoteState", "better"]

logger = logging.getLogger("iroh_fast.net")

IPV6_BONUS_S = 0.003  # IPv6 is preferred unless it is slower by more than this
SWITCH_MARGIN_S = 0.005  # a path of the same kind must be this much better to replace the selected one
RELAY_PATH_IDLE_S = 30.0
OPEN_RETRY_S = 0.333  # path or connection ids ran out: the peer may give more
MAX_OPEN_RETRIES = 60  # that often without a pause; longer than a path that never works lives
REOPEN_S = 5.0  # after the last direct path died
RECHECK_S = 60.0  # known addresses without a path are tried again this often
MAX_OPEN_TRIES = 9  # paths opened to an IP address that never answered
MAX_ADDRS = 30  # IP addresses remembered per remote
MAX_INACTIVE = 10  # of them, those that had a path and have none


def rank(addr: SockAddr, rtt: float) -> tuple[int, float]:
    """Order of paths, lower is better: direct before relayed, then by round-trip time."""
    relayed = is_private(addr)
    bonus = IPV6_BONUS_S if len(addr) == 4 and not relayed else 0.0
    return (1 if relayed else 0, rtt - bonus)


def better(current: tuple[int, float], best: tuple[int, float]) -> bool:
    """Whether to leave the current path for the best one."""
    if best[0] != current[0]:
        return best[0] < current[0]
    return best[1] + SWITCH_MARGIN_S <= current[1]


def same(a: SockAddr, b: SockAddr) -> bool:
    """Equality of host and port; flow label and scope do not identify a path."""
    return bool(a[0] == b[0] and a[1] == b[1])


@dataclass(eq=False, slots=True)
class _Conn:
    paths: dict[int, SockAddr] = field(default_factory=dict)  # established ones
    tries: dict[SockAddr, int] = field(default_factory=dict)
    blocked: int = 0  # attempts in a row for which there were no ids


class RemoteState:
    """What is known about one remote endpoint while there are connections with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self.conns: dict[QuicConnection, _Conn] = {}
        self.addrs: dict[SockAddr, bool] = {}  # address -> a path over it was open at some time
        self.selected: SockAddr | None = None

    # ---------------------------------------------------------------- addresses
    def learn(self, addrs: Iterable[SockAddr]) -> None:
        """Remember addresses of the remote."""
        for addr in addrs:
            self.addrs.setdefault(addr, False)
        self._prune()

    def _prune(self) -> None:
        """Bound what is remembered: a peer that wanders about must not fill our memory.

        Relay addresses stay, of which the peer cannot make any.
        """
        known = [addr for addr in self.addrs if not is_private(addr)]
        if len(known) <= MAX_ADDRS:
            return
        in_use = {addr for state in self.conns.values() for addr in state.paths.values()}
        gone = [addr for addr in known if self.addrs[addr] and addr not in in_use]
        unknown = [addr for addr in known if not self.addrs[addr]]
        for addr in gone[:-MAX_INACTIVE] + unknown[:-MAX_ADDRS]:
            del self.addrs[addr]
            for state in self.conns.values():
                state.tries.pop(addr, None)

    # ---------------------------------------------------------------- connections
    def add(self, conn: QuicConnection) -> None:
        """Take care of the paths of a connection whose handshake is complete."""
        self.conns.setdefault(conn, _Conn())
        self.refresh(conn)
        self._open_missing(conn)
        self._arm(RECHECK_S)

    def remove(self, conn: QuicConnection) -> None:
        """The connection is over."""
        self.conns.pop(conn, None)
        if not self.conns:
            self.selected = None
            self.stop()

    def stop(self) -> None:
        """Cancel timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def refresh(self, conn: QuicConnection) -> None:
        """Compare the paths of a connection with what was known; act on differences."""
        state = self.conns.get(conn)
        if state is None:
            return
        now: dict[int, SockAddr] = {}
        for id in conn.path_ids():
            info = conn.path_info(id)
            if info is not None and info["validated"]:
                now[id] = info["remote"]
        if now == state.paths:
            if state.blocked:
                self._open_missing(conn)  # a path that never worked may have made room
            return
        had_direct = any(not is_private(addr) for addr in state.paths.values())
        fresh = [(id, addr) for id, addr in now.items() if state.paths.get(id) != addr]
        for id, addr in fresh:
            self.addrs.pop(addr, None)
            self.addrs[addr] = True  # the newest last
            state.tries.pop(addr, None)
            if is_private(addr):
                conn.set_path_max_idle(id, RELAY_PATH_IDLE_S)
        state.paths = now
        self._prune()
        self._select()
        self._apply()
        if fresh:
            for other in list(self.conns):
                self._open_missing(other)
        if had_direct and not any(not is_private(addr) for addr in now.values()):
            self._arm(REOPEN_S)

    # ---------------------------------------------------------------- selection
    def _select(self) -> None:
        ranked: dict[SockAddr, tuple[int, float]] = {}
        for conn, state in self.conns.items():
            for id, addr in state.paths.items():
                info = conn.path_info(id)
                if info is not None:
                    key = rank(addr, info["rtt"])
                    if addr not in ranked or key < ranked[addr]:
                        ranked[addr] = key
        if not ranked:
            return
        best = min(ranked, key=lambda a: ranked[a])
        current = self.selected
        if current is None or current not in ranked or better(ranked[current], ranked[best]):
            if best != current:
                logger.debug("selected path %s, was %s", best, current)
            self.selected = best

    def _apply(self) -> None:
        chosen = self.selected
        if chosen is None:
            return
        for conn, state in self.conns.items():
            if conn.close_reason is not None:
                continue
            direct = [id for id, addr in state.paths.items() if not is_private(addr)]
            for id, addr in list(state.paths.items()):
                wanted = addr == chosen
                if wanted or not conn.is_client or is_private(addr) or len(direct) < 2 or (
                    chosen not in state.paths.values()
                ):
                    info = conn.path_info(id)
                    if info is not None and (info["status"] == "available") != wanted:
                        conn.set_path_status(id, wanted)
                    elif info is not None and not info["announced"] and conn.has_multipath:
                        conn.set_path_status(id, wanted)
                else:
                    # One direct path is enough; only the side that dialed closes the others.
                    direct.remove(id)
                    conn.close_path(id)
                    state.paths.pop(id, None)

    # ---------------------------------------------------------------- opening
    def _open_missing(self, conn: QuicConnection) -> None:
        """Client: open what is known but has no path, so that there is a choice and a fallback."""
        state = self.conns.get(conn)
        if state is None or not conn.is_client or conn.close_reason is not None:
            return
        if not conn.has_multipath:
            return
        have = [info["remote"] for id in conn.path_ids() if (info := conn.path_info(id)) is not None]
        direct = any(not is_private(addr) for addr in state.paths.values())
        for addr in self.addrs:
            relayed = is_private(addr)
            if any(same(addr, other) for other in have):
                continue
            if not relayed and (direct or state.tries.get(addr, 0) >= MAX_OPEN_TRIES):
                continue
            try:
                conn.open_path(addr, None, True)
            except ConnectionLost:
                return
            except IrohError as e:
                logger.debug("path to %s not opened yet: %s", addr, e)
                state.blocked += 1
                if state.blocked <= MAX_OPEN_RETRIES:
                    self._arm(OPEN_RETRY_S)
                return
            state.blocked = 0
            if not relayed:
                state.tries[addr] = state.tries.get(addr, 0) + 1

    def _arm(self, delay: float) -> None:
        when = self._loop.time() + delay
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for conn, state in list(self.conns.items()):
            if state.blocked > MAX_OPEN_RETRIES:
                state.blocked = 0
            self._open_missing(conn)
        if self.conns:
            self._arm(RECHECK_S)


class RemoteMap:
    """The remote endpoints an endpoint has connections with.

    A connection without a choice of paths costs nothing here: state appears with a second
    address or path.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        observer: Callable[[QuicConnection], object] | None = None,
    ) -> None:
        self._loop = loop
        self._observer = observer  # is told when paths change, and at the end
        self._remotes: dict[bytes, RemoteState] = {}

    def get(self, key: bytes) -> RemoteState | None:
        """The state of a remote, if there is any."""
        return self._remotes.get(key)

    def attach(self, conn: QuicConnection, addrs: Iterable[SockAddr] = ()) -> None:
        """Follow the paths of a connection whose handshake is complete; `addrs` lead to its peer."""
        key = conn.peer_id
        if key is None or conn.close_reason is not None:
            return  # over already: nothing would ever take its state away again
        on_paths(conn, self._on_paths)
        known = list(addrs)
        path = conn.path_remote(0)
        relayed = path is not None and is_private(path)
        state = self._remotes.get(key)
        if state is None and len(known) < 2 and not relayed and len(conn.path_ids()) < 2:
            return
        if state is None:
            state = self._remotes[key] = RemoteState(self._loop)
        state.learn(known)
        state.add(conn)

    def _on_paths(self, conn: QuicConnection) -> None:
        self._follow(conn)
        if self._observer is not None:
            self._observer(conn)

    def _follow(self, conn: QuicConnection) -> None:
        key = conn.peer_id
        if key is None:
            return
        state = self._remotes.get(key)
        if conn.close_reason is not None:
            if state is not None:
                state.remove(conn)
                if not state.conns:
                    del self._remotes[key]
            return
        if state is None:
            if len(conn.path_ids()) < 2:
                return
            state = self._remotes[key] = RemoteState(self._loop)
            # State begins with the second path: what carried the connection until now is the present choice.
            first = conn.path_info(0)
            if first is not None and first["validated"]:
                state.selected = first["remote"]
        if conn not in state.conns:
            state.add(conn)
        else:
            state.refresh(conn)

    def stop(self) -> None:
        """Cancel every timer."""
        for state in self._remotes.values():
            state.stop()
        self._remotes.clear()
