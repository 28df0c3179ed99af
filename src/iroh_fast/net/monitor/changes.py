"""When a change of the network counts, and how much: without clock, loop or system."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from ..local_addrs import NetworkState, is_usable

__all__ = ["Change", "Pace", "RouteWait", "change_between"]

Change: TypeAlias = Literal["major", "minor"]

DEBOUNCE_S: Final = 0.25  # news of one change come in a row
LONGEST_S: Final = 1.0  # those that do not end are not waited for longer
BURST: Final = 8  # looks as fast as they are wanted, then one a second
REFILL_S: Final = 1.0
ROUTE_PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.0)
ROUTE_LIMIT_S: Final = 5.0


def _essence(state: NetworkState) -> tuple[object, ...]:
    """What of a network connections depend on.

    An interface that has no address for others to reach does not count: those of containers
    come and go.
    """
    used = [
        (interface.name, interface.index, interface.mac, good)
        for interface in state.interfaces
        if (good := frozenset(filter(is_usable, interface.fresh)))
    ]
    return frozenset(used), state.default_routes, state.gateway


def change_between(old: NetworkState, new: NetworkState) -> Change | None:
    """Tell ``"major"``: what is in use may be broken; ``"minor"``: only details; None: the same."""
    if _essence(old) != _essence(new):
        return "major"
    return "minor" if old.interfaces != new.interfaces else None


class Pace:
    """When to look: once news pause, for a limited time, and not too often.

    Parameters
    ----------
    now : the time.
    """

    __slots__ = ("_first", "_full_at", "_last", "_looked")

    def __init__(self, now: float) -> None:
        self._first: float | None = None
        self._last = now
        self._looked = float("-inf")
        self._full_at = now  # when all of the burst is there again

    def heard(self, now: float) -> None:
        """There is news."""
        if self._first is None:
            self._first = now
        self._last = now

    @property
    def due(self) -> float | None:
        """When to look because of what was heard; None without news."""
        if self._first is None:
            return None
        calm = min(self._last + DEBOUNCE_S, self._first + LONGEST_S)
        return max(calm, self._allowed)

    @property
    def _allowed(self) -> float:
        return max(self._looked + DEBOUNCE_S, self._full_at - (BURST - 1) * REFILL_S)

    def may_look(self, now: float) -> bool:
        """Whether somebody who asks for it may have it at once."""
        return now >= self._allowed

    def looked(self, now: float) -> None:
        """What was heard until now is known."""
        self._first = None
        self._looked = now
        self._full_at = max(self._full_at, now) + REFILL_S


class RouteWait:
    """How long to wait, after a change, for a way to the internet.

    Parameters
    ----------
    now : when the change was noticed.
    """

    __slots__ = ("_tries", "_until")

    def __init__(self, now: float) -> None:
        self._until = now + ROUTE_LIMIT_S
        self._tries = 0

    def next(self, now: float) -> float | None:
        """When to look for it again; None when it was enough."""
        pause = ROUTE_PAUSES_S[min(self._tries, len(ROUTE_PAUSES_S) - 1)]
        self._tries += 1
        return now + pause if now + pause <= self._until else None
