"""How much of what arrives is looked at: a bucket for all, and one for each sender."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

__all__ = ["Bucket", "Budget"]

# A link of a thousand nodes has about ten messages in a second, more while many start at once.
PER_S: Final = 500.0
BURST: Final = 500.0
SENDER_PER_S: Final = 50.0
SENDER_BURST: Final = 100.0
MAX_SENDERS: Final = 512
# Peers not known before: telling whether an id is one takes 0.1 ms.
NEW_PER_S: Final = 100.0
NEW_BURST: Final = 256.0


class Bucket:
    """So many a second, and `burst` at once."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, now: float, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._at = burst, now

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Budget:
    """Messages that may be read: 500 a second in all, 50 of one sender.

    One that sends more does not take from the others.  Senders can be forged: then the
    first number holds.
    """

    __slots__ = ("_all", "_new", "_senders")

    def __init__(self, now: float) -> None:
        self._all = Bucket(now, PER_S, BURST)
        self._new = Bucket(now, NEW_PER_S, NEW_BURST)
        self._senders: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, sender: str, now: float) -> bool:
        """Whether a message of this sender may be read now."""
        bucket = self._senders.get(sender)
        if bucket is None:
            if len(self._senders) >= MAX_SENDERS:
                self._senders.popitem(last=False)
            bucket = self._senders[sender] = Bucket(now, SENDER_PER_S, SENDER_BURST)
        else:
            self._senders.move_to_end(sender)
        return bucket.take(now) and self._all.take(now)

    def take_new(self, now: float) -> bool:
        """Whether a peer that was not known before may be looked at now."""
        return self._new.take(now)
