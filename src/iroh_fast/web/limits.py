"""Who may open a connection: rate, numbers in all and per address, descriptors of the process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

__all__ = ["Admission", "AdmissionLimits", "Seldom", "descriptor_limit", "raise_descriptor_limit"]

logger = logging.getLogger("iroh_fast.web.limits")

RESERVED_DESCRIPTORS: Final = 64  # for files, listeners and questions to other services
MAX_DESCRIPTORS: Final = 1 << 20
NO_LIMIT: Final = 1 << 30


def descriptor_limit() -> int:
    """How many descriptors this process may have open."""
    if sys.platform == "win32":
        return NO_LIMIT
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return NO_LIMIT if soft == resource.RLIM_INFINITY else soft


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard one; returns what holds then.

    The usual soft limit is 1,024, which is a thousand clients.
    """
    if sys.platform == "win32":
        return NO_LIMIT
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as err:
            logger.warning("the limit of open files stays at %d: %s", soft, err)
    return descriptor_limit()


class Seldom:
    """Lets something be told at most once in `interval` seconds, with the number of times."""

    def __init__(self, clock: Callable[[], float], interval: float = 10.0) -> None:
        self._clock = clock
        self._interval = interval
        self._next = float("-inf")
        self._count = 0

    def count(self) -> int:
        """Note one more; 0, or how many there were since the last time that was not 0."""
        self._count += 1
        now = self._clock()
        if now < self._next:
            return 0
        self._next = now + self._interval
        found, self._count = self._count, 0
        return found


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Bounds of an `Admission`.

    Parameters
    ----------
    rate, burst : float and int, optional
        New connections per second and at once; None: unlimited.
    unproven, unproven_per_ip : int
        Connections at the same time that have not shown who they are.
    total, per_ip : int, optional
        All connections. None: what the descriptors of the process allow, and three quarters of
        that for one address.
    """

    rate: float | None = None
    burst: int | None = None
    unproven: int = 8192
    unproven_per_ip: int = 2048
    total: int | None = None
    per_ip: int | None = None


class Admission:
    """Counts connections per address, and says when there are too many.

    A connection enters unproven, may be proven later, and leaves once.
    """

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float]) -> None:
        room = max(descriptor_limit() - RESERVED_DESCRIPTORS, 16)
        self.unproven = 0
        self.total = 0
        self._total_max = min(limits.total or room, room)
        self._per_ip_max = limits.per_ip or max(self._total_max * 3 // 4, 1)
        # Those who have shown nothing get half of the room, one address a quarter of that.
        self._unproven_max = min(limits.unproven, max(room // 2, 1))
        self._unproven_per_ip_max = min(limits.unproven_per_ip, max(room // 8, 1))
        self._rate = limits.rate
        self._burst = limits.burst or max(1.0, limits.rate or 0.0)
        self._fill: float = self._burst
        self._filled_at = clock()
        self._clock = clock
        self._unproven_of: dict[str, int] = {}
        self._total_of: dict[str, int] = {}

    def refusal(self, ip: str) -> str | None:
        """Why a new connection from `ip` may not enter, or None; takes it from the rate."""
        if self.total >= self._total_max:
            return f"{self.total} connections are open"
        if self._total_of.get(ip, 0) >= self._per_ip_max:
            return "too many connections of one address"
        if self.unproven >= self._unproven_max:
            return "too many connections without a proof"
        if self._unproven_of.get(ip, 0) >= self._unproven_per_ip_max:
            return "too many connections of one address without a proof"
        if self._rate is not None:
            now = self._clock()
            self._fill = min(self._burst, self._fill + (now - self._filled_at) * self._rate)
            self._filled_at = now
            if self._fill < 1:
                return "too many new connections per second"
            self._fill -= 1
        return None

    def enter(self, ip: str) -> None:
        """A connection is there."""
        self.total += 1
        self.unproven += 1
        self._total_of[ip] = self._total_of.get(ip, 0) + 1
        self._unproven_of[ip] = self._unproven_of.get(ip, 0) + 1

    def prove(self, ip: str) -> None:
        """A connection has shown who it is."""
        self.unproven -= 1
        _decrease(self._unproven_of, ip)

    def leave(self, ip: str, *, proven: bool = False) -> None:
        """A connection is gone."""
        if not proven:
            self.prove(ip)
        self.total -= 1
        _decrease(self._total_of, ip)


def _decrease(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]
