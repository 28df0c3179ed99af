"""Answers that are still good."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["Cache", "Records"]

MAX_ENTRIES: Final = 4096
MAX_BYTES: Final = 4 << 20
MAX_TTL_S: Final = 86400
_OVERHEAD: Final = 200  # bytes that an entry costs besides its records, about


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one kind that a name has.

    Attributes
    ----------
    values : the four or sixteen bytes of each address, or the joined strings of each TXT record
        as a tuple of them.
    ttl : seconds for which they hold, the least of all records on the way.
    """

    values: tuple[tuple[bytes, ...], ...]
    ttl: int


class Cache:
    """Positive answers, each for its time to live; who was asked for long ago goes first.

    There are no negative ones: an endpoint that is not published yet may be in a second.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._entries: OrderedDict[tuple[bytes, int], tuple[float, int, Records]] = OrderedDict()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: tuple[bytes, int], now: float) -> Records | None:
        """What is known of a name and type, at a time of the event loop."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[0] <= now:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry[2]

    def put(self, key: tuple[bytes, int], records: Records, now: float) -> None:
        """Keep an answer; one without a time to live is not kept."""
        if key in self._entries:
            self._drop(key)
        if records.ttl <= 0:
            return
        size = _size(key[0], records.values)
        if size > self._max_bytes // 16:
            return
        self._entries[key] = (now + min(records.ttl, MAX_TTL_S), size, records)
        self._bytes += size
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _drop(self, key: tuple[bytes, int]) -> None:
        self._bytes -= self._entries.pop(key)[1]


def _size(name: bytes, values: Sequence[Sequence[bytes]]) -> int:
    return _OVERHEAD + len(name) + sum(64 + sum(33 + len(s) for s in value) for value in values)
