"""Which connections with a remote have a path to which of its addresses, and how fast that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from iroh_fast.net.transport import SockAddr

from .users import Followed, PathUser

__all__ = ["Usage"]

SAMPLED = 8  # connections that are asked how fast an address is: the newest


class Usage:
    """The addresses in use.

    Parameters
    ----------
    conns : what is remembered of each connection.
    """

    __slots__ = ("_conns", "_users")

    def __init__(self, conns: Mapping[PathUser, Followed]) -> None:
        self._conns = conns
        self._users: dict[SockAddr, dict[PathUser, int]] = {}  # by address: connection, and path

    def __contains__(self, addr: SockAddr | None) -> bool:
        return addr in self._users

    def add(self, addr: SockAddr, conn: PathUser, id: int) -> None:
        """A connection has a path there."""
        self._users.setdefault(addr, {})[conn] = id

    def remove(self, addr: SockAddr, conn: PathUser) -> bool:
        """It has none any more; whether it was the last one."""
        users = self._users.get(addr)
        if users is None or users.pop(conn, None) is None or users:
            return False
        del self._users[addr]
        return True

    def rtt(self, addr: SockAddr, *, silent: bool = False) -> float | None:
        """How fast an address is by the newest connections, of those where it answers, or does not."""
        found: Iterable[float] = (
            rtt
            for conn, id in islice(reversed(self._users.get(addr, {}).items()), SAMPLED)
            if (id in self._conns[conn].silent) == silent and (rtt := conn.path_rtt(id)) is not None
        )
        return min(found, default=None)

    def choices(self) -> dict[SockAddr, float]:
        """The addresses that answer and how fast; when none does, those that do not."""
        for silent in (False, True):
            found = {
                addr: rtt
                for addr in self._users
                if (rtt := self.rtt(addr, silent=silent)) is not None
            }
            if found:
                return found
        return {}
