"""Order of the ways to a remote, and how the one that carries data is chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from iroh_fast.addr import TransportAddr
from iroh_fast.net.transport import SockAddr, is_private, is_relay

__all__ = [
    "IPV6_BONUS_S",
    "SWITCH_MARGIN_S",
    "Chooser",
    "PathSelector",
    "PathTuple",
    "better",
    "by_rtt",
    "by_user",
    "rank",
    "same",
]

logger = logging.getLogger("iroh_fast.net")

IPV6_BONUS_S = 0.003  # IPv6 is preferred unless it is slower by more than this
SWITCH_MARGIN_S = 0.005  # to replace the selected path, one of the same kind is better by this


def rank(addr: SockAddr, rtt: float) -> tuple[int, float]:
    """Order of paths, lower is better: direct before relayed, then by round-trip time."""
    private = is_private(addr)
    bonus = IPV6_BONUS_S if len(addr) == 4 and not private else 0.0
    return (1 if private and is_relay(addr) else 0, rtt - bonus)


def better(current: tuple[int, float], best: tuple[int, float]) -> bool:
    """Whether to leave the current path for the best one."""
    if best[0] != current[0]:
        return best[0] < current[0]
    return best[1] + SWITCH_MARGIN_S <= current[1]


def same(a: SockAddr, b: SockAddr) -> bool:
    """Equality of host and port; flow label and scope do not identify a path."""
    return bool(a[0] == b[0] and a[1] == b[1])


Chooser: TypeAlias = Callable[[SockAddr | None, Mapping[SockAddr, float]], SockAddr | None]
"""Chooses among addresses of the engine with their round-trip times in seconds; the first argument is
the present choice, which may be gone. None keeps it."""


def by_rtt(current: SockAddr | None, found: Mapping[SockAddr, float]) -> SockAddr | None:
    """The choice of iroh: the best by `rank`, but the present one unless that is clearly better."""
    if not found:
        return None
    best = min(found, key=lambda addr: rank(addr, found[addr]))
    if current is None or current not in found:
        return best
    leave = better(rank(current, found[current]), rank(best, found[best]))
    return best if leave else None


@dataclass(frozen=True, slots=True)
class PathTuple:
    """A way to a remote, as a path selector sees it.

    Attributes
    ----------
    kind : what it leads over.
    remote : where it leads.
    """

    kind: Literal["ipv4", "ipv6", "relay", "custom"]
    remote: TransportAddr


PathSelector: TypeAlias = Callable[
    [PathTuple | None, Iterable[tuple[PathTuple, float]]], PathTuple | None
]
"""Chooses the way that carries data: of the present one, None at first, and all that work now with their
round-trip times in seconds. None keeps the present one.  Called when a path comes or goes: it must be quick."""


def by_user(selector: PathSelector, addr_of: Callable[[SockAddr], TransportAddr]) -> Chooser:
    """Let a selector of a user choose; one that raises, or chooses what is not there, changes nothing."""

    def tuple_of(addr: SockAddr) -> PathTuple:
        if not is_private(addr):
            return PathTuple("ipv6" if len(addr) == 4 else "ipv4", addr_of(addr))
        return PathTuple("relay" if is_relay(addr) else "custom", addr_of(addr))

    def choose(current: SockAddr | None, found: Mapping[SockAddr, float]) -> SockAddr | None:
        if not found:
            return None
        ways = {tuple_of(addr): addr for addr in found}
        kept = None if current is None else tuple_of(current)
        try:
            chosen = selector(kept, [(way, found[addr]) for way, addr in ways.items()])
            addr = None if chosen is None else ways.get(chosen)
        except Exception:
            logger.warning("path_selector failed, the path is kept", exc_info=True)
            addr = None
        else:
            if chosen is not None and addr is None:
                logger.warning("path_selector chose %r, which is none of the paths", chosen)
        if addr is None and (current is None or current not in found):
            return by_rtt(current, found)
        return addr

    return choose
