"""How long direct ways last, for networks that drop each mapping after a fixed time."""

from __future__ import annotations

from iroh_fast.net.transport import SockAddr

__all__ = ["Lifetimes"]

ALIKE = 3  # deaths in a row after times that are alike tell of a rule
SPREAD = 0.2  # of the longest: that much may they differ
SHORTEST_S, LONGEST_S = 15.0, 3600.0  # what is shorter is trouble, what is longer no trouble
LEAD_S = 5.0  # before the expected end


class Lifetimes:
    """Learns from deaths of direct ways when the next one is to be expected; pure.

    Attributes
    ----------
    alive : direct addresses that work, and since when.
    due : when another way should be looked for; None while there is no rule.
    """

    __slots__ = ("_lasted", "alive", "due")

    def __init__(self) -> None:
        self._lasted: tuple[float, ...] = ()
        self.alive: dict[SockAddr, float] = {}
        self.due: float | None = None

    def works(self, addr: SockAddr, now: float) -> None:
        """The address answers."""
        self.alive.setdefault(addr, now)

    def died(self, addr: SockAddr, now: float) -> None:
        """It stopped to answer by itself."""
        since = self.alive.pop(addr, None)
        if since is not None:
            self._lasted = (*self._lasted[1 - ALIKE :], now - since)

    def left(self, addr: SockAddr) -> None:
        """It is not used any more, for another reason."""
        self.alive.pop(addr, None)

    def moved(self, now: float) -> None:
        """The network of this machine is another one, and all mappings are new."""
        self._lasted = ()
        self.due = None
        self.alive = dict.fromkeys(self.alive, now)

    def expected(self) -> float | None:
        """After how many seconds the next one will die; None when there is no rule."""
        if len(self._lasted) < ALIKE:
            return None
        shortest, longest = min(self._lasted), max(self._lasted)
        if shortest < SHORTEST_S or longest > LONGEST_S or longest - shortest > SPREAD * longest:
            return None
        return shortest

    def plan(self, selected: SockAddr | None, now: float) -> None:
        """Set `due`: shortly before the mapping in use goes, for another way to be there, and when it goes."""
        lifetime = self.expected()
        since = None if selected is None else self.alive.get(selected)
        self.due = None
        if lifetime is not None and since is not None:
            ahead = (since + lifetime - LEAD_S, since + lifetime)
            self.due = next((when for when in ahead if when > now), None)

    def ends_soon(self, selected: SockAddr | None, now: float) -> bool:
        """Whether a second direct way should be kept for the end of the one in use."""
        lifetime = self.expected()
        since = None if selected is None else self.alive.get(selected)
        return lifetime is not None and since is not None and now >= since + lifetime - LEAD_S
