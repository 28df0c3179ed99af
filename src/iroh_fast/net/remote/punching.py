"""When rounds of hole punching begin, for one remote endpoint."""

from __future__ import annotations

from collections.abc import Set

from iroh_fast.net.transport import SockAddr

__all__ = ["Punching"]

MIN_INTERVAL_S = 5.0  # between rounds that tell nothing new
BURST = 8  # rounds at once for new candidates; then one for each interval
REFUSED_S = 0.1  # after a round that could not begin, doubling up to the interval
MAX_REFUSED = 10  # in a row, until something happens
# While a remote is reached over relays only; later the look of each minute begins rounds.
FOLLOW_UPS_S = (5.0, 10.0, 20.0)


class Punching:
    """Decides when a round may begin. Pure: it is told the time, and says when to ask again.

    Attributes
    ----------
    due : when to ask again; None when nothing is planned.
    is_follow_up : whether what is due then is of use only while there is no direct path.
    rounds : how many began.
    last_at : when the last one did.
    """

    __slots__ = (
        "_credit",
        "_credit_at",
        "_follow_ups",
        "_local",
        "_refused",
        "_remote",
        "due",
        "is_follow_up",
        "last_at",
        "rounds",
    )

    def __init__(self) -> None:
        self._local: Set[SockAddr] = frozenset()
        self._remote: Set[SockAddr] = frozenset()
        self._credit = float(BURST)
        self._credit_at = 0.0
        self._follow_ups = 0
        self._refused = 0
        self.due: float | None = None
        self.is_follow_up = False
        self.last_at: float | None = None
        self.rounds = 0

    def is_new(self, local: Set[SockAddr], remote: Set[SockAddr]) -> bool:
        """Whether the last round missed any of these candidates."""
        return self.last_at is None or not (local <= self._local and remote <= self._remote)

    def is_recent(self, now: float) -> bool:
        """Whether the last round began only just."""
        return self.last_at is not None and now < self.last_at + MIN_INTERVAL_S

    def may_start(
        self, now: float, local: Set[SockAddr], remote: Set[SockAddr], *, follow_up: bool = False
    ) -> bool:
        """Whether a round with these candidates may begin now; else it is planned."""
        if self.is_new(local, remote):
            # A peer that keeps telling of other addresses must not make us send without end.
            earned = (now - self._credit_at) / MIN_INTERVAL_S
            self._credit, self._credit_at = min(BURST, self._credit + earned), now
            if self._credit < 1:
                self._plan(now + max((1 - self._credit) * MIN_INTERVAL_S, REFUSED_S))
                return False
            self._credit -= 1
            self._follow_ups = 0
            return True
        assert self.last_at is not None
        if self.is_recent(now):
            self._plan(self.last_at + MIN_INTERVAL_S, follow_up=follow_up)
            return False
        return True

    def started(self, now: float, local: Set[SockAddr], remote: Set[SockAddr]) -> None:
        """A round began."""
        self.rounds += 1
        self.last_at, self._local, self._remote = now, local, remote
        self._refused = 0
        self.due = None
        if self._follow_ups < len(FOLLOW_UPS_S):
            self._plan(now + FOLLOW_UPS_S[self._follow_ups], follow_up=True)
            self._follow_ups += 1

    def refused(self, now: float) -> None:
        """A round could not begin: the connection is not ready for one."""
        self.due = None
        if self._refused < MAX_REFUSED:
            self._plan(now + min(REFUSED_S * 2**self._refused, MIN_INTERVAL_S))
            self._refused += 1

    def hopeful(self) -> None:
        """Something changed: what failed before may work."""
        self._follow_ups = self._refused = 0

    def stop(self) -> None:
        """Nothing is planned: something has to happen first."""
        self.due = None

    def _plan(self, when: float, *, follow_up: bool = False) -> None:
        if self.due is not None:
            when, follow_up = min(when, self.due), follow_up and self.is_follow_up
        self.due, self.is_follow_up = when, follow_up
