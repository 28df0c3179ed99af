"""What is known about one remote endpoint while there are connections with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from iroh_fast.errors import ConnectionLost, IrohError
from iroh_fast.net.transport import SockAddr, is_private

from .selection import better, rank, same

__all__ = ["PathUser", "RemoteState"]

logger = logging.getLogger("iroh_fast.net")

RELAY_PATH_IDLE_S = 30.0
OPEN_RETRY_S = 0.333  # path or connection ids ran out: the peer may give more
MAX_OPEN_RETRIES = 60  # that often without a pause; longer than a path that never works lives
REOPEN_S = 5.0  # after the last direct path died
RECHECK_S = 60.0  # known addresses without a path are tried again this often
MAX_OPEN_TRIES = 9  # paths opened to an IP address that never answered
MAX_ADDRS = 30  # IP addresses remembered per remote
MAX_INACTIVE = 10  # of them, those that had a path and have none
SAMPLED = 8  # connections that are asked how fast an address is: the newest


class PathUser(Protocol):
    """The part of a connection that the policy uses."""

    @property
    def is_client(self) -> bool: ...
    @property
    def has_multipath(self) -> bool: ...
    @property
    def close_reason(self) -> object | None: ...
    def path_states(self) -> list[tuple[int, SockAddr, bool, float, bool, bool]]:
        """Of each open path: id, remote, validated, round-trip time, available, announced."""
        ...

    def path_rtt(self, id: int, /) -> float | None:
        """Round-trip time of a path in seconds, None when it is gone."""
        ...

    def open_path(self, remote: SockAddr, local: SockAddr | None, backup: bool, /) -> int: ...
    def close_path(self, id: int, /) -> None: ...
    def set_path_status(self, id: int, available: bool, /) -> None: ...
    def set_path_max_idle(self, id: int, seconds: float, /) -> None: ...


@dataclass(eq=False, slots=True)
class _Conn:
    paths: dict[int, SockAddr] = field(default_factory=dict)  # established ones
    tries: dict[SockAddr, int] = field(default_factory=dict)
    blocked: int = 0  # attempts in a row for which there were no ids

    def has_direct(self) -> bool:
        return any(not is_private(addr) for addr in self.paths.values())


class RemoteState:
    """What is known about one remote endpoint while there are connections with it.

    Whatever happens on one connection costs the same however many there are, unless it changes
    something for all of them: a new address, another selection.

    Parameters
    ----------
    time : gives the time in seconds, of a clock that never goes back.
    """

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._retry_at: float | None = None  # connections that wait for ids ask again
        self._look_at: float | None = None  # everything is looked at again
        self.conns: dict[PathUser, _Conn] = {}
        self.addrs: dict[SockAddr, bool] = {}  # address -> a path over it was open at some time
        self.selected: SockAddr | None = None
        self._users: dict[SockAddr, dict[PathUser, int]] = {}  # connections with a path there, and its id
        self._blocked: set[PathUser] = set()  # connections that wait for ids

    @property
    def deadline(self) -> float | None:
        """When `expire` is due, None for never."""
        if self._retry_at is None or self._look_at is None:
            return self._look_at if self._retry_at is None else self._retry_at
        return min(self._retry_at, self._look_at)

    # ---------------------------------------------------------------- addresses
    def learn(self, addrs: Iterable[SockAddr]) -> None:
        """Remember addresses of the remote."""
        before = len(self.addrs)
        for addr in addrs:
            self.addrs.setdefault(addr, False)
        if len(self.addrs) > before:
            self._prune()

    def learn_more(self, addrs: Iterable[SockAddr]) -> None:
        """The same while there are connections: they try what is new."""
        before = len(self.addrs)
        self.learn(addrs)
        if len(self.addrs) != before:
            for conn in list(self.conns):
                self._open_missing(conn)

    def _prune(self) -> None:
        """Bound what is remembered: a peer that wanders about must not fill our memory.

        Relay addresses stay, of which the peer cannot make any.
        """
        known = [addr for addr in self.addrs if not is_private(addr)]
        if len(known) <= MAX_ADDRS:
            return
        gone = [addr for addr in known if self.addrs[addr] and addr not in self._users]
        unknown = [addr for addr in known if not self.addrs[addr]]
        for addr in gone[:-MAX_INACTIVE] + unknown[:-MAX_ADDRS]:
            del self.addrs[addr]

    # ---------------------------------------------------------------- connections
    def add(self, conn: PathUser) -> None:
        """Take care of the paths of a connection whose handshake is complete."""
        self.conns.setdefault(conn, _Conn())
        self.refresh(conn)
        self._open_missing(conn)
        self._look_again(RECHECK_S)

    def remove(self, conn: PathUser) -> None:
        """The connection is over."""
        state = self.conns.pop(conn, None)
        self._blocked.discard(conn)
        if state is not None:
            for addr in state.paths.values():
                self._leave(conn, addr)
        if not self.conns:
            self.selected = self._retry_at = self._look_at = None

    def refresh(self, conn: PathUser) -> None:
        """Compare the paths of a connection with what was known; act on differences."""
        state = self.conns.get(conn)
        if state is None:
            return
        now = {id: remote for id, remote, validated, *_ in conn.path_states() if validated}
        if now == state.paths:
            if state.blocked:
                self._open_missing(conn)  # a path that never worked may have made room
            return
        had_direct = state.has_direct()
        fresh = [(id, addr) for id, addr in now.items() if state.paths.get(id) != addr]
        for id, addr in state.paths.items():
            if now.get(id) != addr:
                self._leave(conn, addr)
        news = False
        for id, addr in fresh:
            news = not self.addrs.pop(addr, False) or news
            self.addrs[addr] = True  # the newest last
            state.tries.pop(addr, None)
            if is_private(addr):
                conn.set_path_max_idle(id, RELAY_PATH_IDLE_S)
        state.paths = now
        for id, addr in now.items():
            self._users.setdefault(addr, {})[conn] = id
        self._prune()
        if self._select():
            for other in self.conns:
                self._apply(other)
        else:
            self._apply(conn)
        if news:
            for other in list(self.conns):
                self._open_missing(other)
        elif fresh:
            self._open_missing(conn)
        if had_direct and not state.has_direct():
            self._look_again(REOPEN_S)

    def _leave(self, conn: PathUser, addr: SockAddr) -> None:
        users = self._users.get(addr)
        if users is not None and users.pop(conn, None) is not None and not users:
            del self._users[addr]

    # ---------------------------------------------------------------- selection
    def _rank(self, addr: SockAddr) -> tuple[int, float] | None:
        """How good an address is, by the newest connections that use it."""
        found = [
            rtt
            for conn, id in islice(reversed(self._users[addr].items()), SAMPLED)
            if (rtt := conn.path_rtt(id)) is not None
        ]
        return rank(addr, min(found)) if found else None

    def _select(self) -> bool:
        """Choose the address for all connections; whether that changed anything."""
        ranked = {addr: key for addr in self._users if (key := self._rank(addr)) is not None}
        if not ranked:
            return False
        best = min(ranked, key=lambda addr: ranked[addr])
        current = self.selected
        if best == current:
            return False
        if current is None or current not in ranked or better(ranked[current], ranked[best]):
            logger.debug("selected path %s, was %s", best, current)
            self.selected = best
            return True
        return False

    def _apply(self, conn: PathUser) -> None:
        """Make a connection use the selected address, if it can."""
        chosen, state = self.selected, self.conns.get(conn)
        if chosen is None or state is None or conn.close_reason is not None:
            return
        direct = sum(not is_private(addr) for addr in state.paths.values())
        may_close = conn.is_client and chosen in state.paths.values()
        for id, addr, _, _, available, announced in conn.path_states():
            if state.paths.get(id) != addr:
                continue
            wanted = addr == chosen
            if wanted or not may_close or is_private(addr) or direct < 2:
                if available != wanted or (not announced and conn.has_multipath):
                    conn.set_path_status(id, wanted)
            else:
                # One direct path is enough; only the side that dialed closes the others.
                direct -= 1
                conn.close_path(id)
                del state.paths[id]
                self._leave(conn, addr)

    # ---------------------------------------------------------------- opening
    def _open_missing(self, conn: PathUser) -> None:
        """Client: open what is known but has no path, so that there is a choice and a fallback."""
        state = self.conns.get(conn)
        if state is None or not conn.is_client or conn.close_reason is not None:
            return
        if not conn.has_multipath:
            return
        have = [remote for _, remote, *_ in conn.path_states()]
        direct = state.has_direct()
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
                    self._blocked.add(conn)
                    if self._retry_at is None:
                        self._retry_at = self._time() + OPEN_RETRY_S
                return
            state.blocked = 0
            if not relayed:
                self._count_try(state, addr)
        self._blocked.discard(conn)

    def _count_try(self, state: _Conn, addr: SockAddr) -> None:
        state.tries[addr] = state.tries.get(addr, 0) + 1
        if len(state.tries) > 2 * MAX_ADDRS:
            state.tries = {known: n for known, n in state.tries.items() if known in self.addrs}

    # ---------------------------------------------------------------- time
    def _look_again(self, delay: float) -> None:
        when = self._time() + delay
        if self._look_at is None or when < self._look_at:
            self._look_at = when

    def expire(self) -> None:
        """Do what is due: ask again for ids, or now and then look at every connection."""
        now = self._time()
        waiting, self._blocked = self._blocked, set()
        if self._look_at is not None and now >= self._look_at:
            self._look_at = now + RECHECK_S if self.conns else None
            chosen: Iterable[PathUser] = list(self.conns)
        elif self._retry_at is not None and now >= self._retry_at:
            chosen = waiting
        else:
            self._blocked = waiting
            return
        self._retry_at = None
        for conn in chosen:
            state = self.conns[conn]
            if state.blocked > MAX_OPEN_RETRIES:
                state.blocked = 0
            self._open_missing(conn)
