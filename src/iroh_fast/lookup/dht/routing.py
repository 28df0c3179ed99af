"""Nodes that answered, to begin the next search with."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from .ids import is_secure, number, place
from .krpc import Address, Node

__all__ = ["K", "RoutingTable"]

K: Final = 20  # nodes of a bucket, and those an item is stored at
FRESH_S: Final = 900.0  # a node that answered within this time is believed to be there
MAX_FAILURES: Final = 2  # in a row


@dataclass(slots=True, eq=False)
class _Entry:
    node: Node
    number: int
    place: tuple[str, int]
    secure: bool
    seen: float
    failures: int = 0


class RoutingTable:
    """Buckets of nodes by their distance from our own id, at most `K` each.

    In comes who answered under the id it is known by, never who is only named. In one place
    (`ids.place`) there is one node.

    Parameters
    ----------
    own : our id.
    """

    __slots__ = ("_buckets", "_entries", "_own", "_places")

    def __init__(self, own: bytes) -> None:
        self._own = number(own)
        self._entries: dict[Address, _Entry] = {}
        self._places: dict[tuple[str, int], _Entry] = {}
        self._buckets: dict[int, list[_Entry]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, address: Address) -> bool:
        return address in self._entries

    def fresh(self, now: float) -> int:
        """How many nodes answered lately, and did not fail since."""
        return sum(
            not entry.failures and now - entry.seen < FRESH_S for entry in self._entries.values()
        )

    def answered(self, node: Node, now: float) -> Node | None:
        """Note that a node answered.

        Returns
        -------
        A node of a full bucket that nobody heard of for long: asked and silent, it makes room.
        """
        entry = self._entries.get(node.address)
        if entry is not None and entry.node.id != node.id:
            self._remove(entry)
            entry = None
        if entry is not None:
            entry.seen, entry.failures = now, 0
            return None
        far = number(node.id)
        at, distance = place(node.id, node.address[0]), (far ^ self._own).bit_length()
        if not distance or at in self._places:
            return None
        new = _Entry(node, far, at, is_secure(node.id, node.address[0]), now)
        bucket = self._buckets.setdefault(distance, [])
        if len(bucket) >= K:
            worst = min(bucket, key=lambda entry: (not entry.failures, entry.secure, entry.seen))
            if not (worst.failures or new.secure > worst.secure):
                oldest = min(bucket, key=lambda entry: entry.seen)
                return oldest.node if now - oldest.seen >= FRESH_S else None
            self._remove(worst)
            bucket = self._buckets.setdefault(distance, [])
        bucket.append(new)
        self._entries[node.address] = self._places[at] = new
        return None

    def failed(self, address: Address) -> None:
        """Note that a node did not answer."""
        entry = self._entries.get(address)
        if entry is not None:
            entry.failures += 1
            if entry.failures >= MAX_FAILURES:
                self._remove(entry)

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.node.address], self._places[entry.place]
        distance = (entry.number ^ self._own).bit_length()
        self._buckets[distance].remove(entry)
        if not self._buckets[distance]:
            del self._buckets[distance]

    def closest(self, target: bytes, count: int = K) -> list[Node]:
        """The known nodes nearest to a target."""
        to = number(target)
        found = nsmallest(count, self._entries.values(), key=lambda entry: entry.number ^ to)
        return [entry.node for entry in found]
