"""Order of the ways to a remote."""

from __future__ import annotations

from iroh_fast.net.transport import SockAddr, is_private

__all__ = ["IPV6_BONUS_S", "SWITCH_MARGIN_S", "better", "rank", "same"]

IPV6_BONUS_S = 0.003  # IPv6 is preferred unless it is slower by more than this
SWITCH_MARGIN_S = 0.005  # a path of the same kind must be this much better to replace the selected one


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
