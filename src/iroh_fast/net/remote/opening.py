"""Opening the paths that a connection lacks, on the side that dialed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from iroh_fast.errors import ConnectionLost, IrohError
from iroh_fast.net.transport import SockAddr, is_private, is_relay

from .inventory import Inventory
from .selection import same
from .users import Followed, PathUser

__all__ = ["MAX_OPEN_RETRIES", "MAX_OPEN_TRIES", "Opening"]

logger = logging.getLogger("iroh_fast.net")

OPEN_RETRY_S = 0.333  # path or connection ids ran out: the peer may give more
MAX_OPEN_RETRIES = 60  # that often without a pause; longer than a path that never works lives
MAX_OPEN_TRIES = 9  # paths opened to an IP address that never answered
MAX_TRIED = 60  # addresses of which that is remembered
MAX_BLIND = 2  # paths to addresses that the peer did not tell of, beside hole punching


class Opening:
    """Opens relays as a backup always, and direct addresses while no direct path is there.

    Attributes
    ----------
    retry_at : when connections that wait for ids ask again; None when none does.
    """

    __slots__ = ("_blocked", "_inventory", "retry_at")

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._blocked: set[PathUser] = set()
        self.retry_at: float | None = None

    def missing(
        self,
        conn: PathUser,
        state: Followed,
        selected: SockAddr | None,
        now: float,
        *,
        blind: bool = False,
    ) -> None:
        """Open what is known but has no path, so that there is a choice and a fallback.

        Parameters
        ----------
        blind : also direct addresses that hole punching does not try, if there is any.
        """
        if not conn.is_client or conn.close_reason is not None or not conn.has_multipath:
            return
        for addr in list(self._wanted(conn, state, selected, blind)):
            try:
                conn.open_path(addr, None, True)
            except ConnectionLost:
                return
            except IrohError as e:
                logger.debug("path to %s not opened yet: %s", addr, e)
                self._wait(conn, state, now)
                return
            state.blocked = 0
            if not is_relay(addr):
                _count_try(state, addr, self._inventory)
        self._blocked.discard(conn)

    def _wanted(
        self, conn: PathUser, state: Followed, selected: SockAddr | None, blind: bool
    ) -> Iterator[SockAddr]:
        have = [remote for _, remote, *_ in conn.path_states()]
        direct = state.has_direct()
        punched = conn.has_nat_traversal
        room = MAX_BLIND - sum(not is_private(addr) for addr in state.trying.values())
        for addr in self._inventory:
            if any(same(addr, other) for other in have):
                continue
            if is_relay(addr):
                yield addr
            elif state.relay_only or state.tries.get(addr, 0) >= MAX_OPEN_TRIES:
                continue
            elif addr == selected:
                yield addr
            elif direct or is_private(addr):
                continue
            elif not punched:
                yield addr
            elif blind and room > 0 and addr not in state.candidates:
                room -= 1
                yield addr

    def _wait(self, conn: PathUser, state: Followed, now: float) -> None:
        """No ids are left: paths that never work may make room, or the peer."""
        state.blocked += 1
        if state.blocked <= MAX_OPEN_RETRIES:
            self._blocked.add(conn)
            if self.retry_at is None:
                self.retry_at = now + OPEN_RETRY_S

    def take_blocked(self) -> set[PathUser]:
        """The connections that wait for ids; from now on none does."""
        waiting, self._blocked = self._blocked, set()
        self.retry_at = None
        return waiting

    def leave(self, conn: PathUser) -> None:
        """The connection is over."""
        self._blocked.discard(conn)


def _count_try(state: Followed, addr: SockAddr, inventory: Inventory) -> None:
    state.tries[addr] = state.tries.get(addr, 0) + 1
    if len(state.tries) > MAX_TRIED:
        state.tries = {known: n for known, n in state.tries.items() if known in inventory}
