"""Address lookup in memory: what the program itself knows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from threading import Lock
from typing import TypeAlias

from ..addr import EndpointAddr
from ..keys import EndpointId, PublicKey
from ..ticket import EndpointTicket, to_endpoint_addr
from .info import EndpointData, EndpointInfo
from .services import LookupAnswer, LookupItem

__all__ = ["MemoryLookup"]

Known: TypeAlias = EndpointInfo | EndpointAddr | EndpointTicket | str
"""An endpoint and its addresses; text is a ticket."""


class MemoryLookup:
    """Finds endpoints that the program has told it of.

    One object may serve several endpoints.  What they publish is not kept: what is known is
    what :meth:`add` and :meth:`set` were given.

    Parameters
    ----------
    known : endpoints to begin with.
    provenance : name under which addresses from here are shown.
    """

    def __init__(self, known: Iterable[Known] = (), *, provenance: str = "memory_lookup") -> None:
        self.provenance = provenance
        self._lock = Lock()  # endpoints of several threads may share it
        self._known: dict[EndpointId, tuple[EndpointData, int]] = {}
        for info in known:
            self.add(info)

    def add(self, info: Known, /) -> None:
        """Add addresses to those that are known of an endpoint; user data is replaced."""
        id, data = _read(info)
        with self._lock:
            if (before := self._known.get(id)) is not None:
                data = EndpointData((*before[0].addrs, *data.addrs), data.user_data)
            self._known[id] = data, _now()

    def set(self, info: Known, /) -> EndpointData | None:
        """Replace what is known of an endpoint; what was known is returned."""
        id, data = _read(info)
        with self._lock:
            before = self._known.get(id)
            self._known[id] = data, _now()
        return None if before is None else before[0]

    def get(self, id: EndpointId | str, /) -> EndpointInfo | None:
        """What is known of an endpoint."""
        id = _id(id)
        found = self._known.get(id)
        return None if found is None else EndpointInfo(id, found[0])

    def remove(self, id: EndpointId | str, /) -> EndpointInfo | None:
        """Forget an endpoint; what was known is returned."""
        id = _id(id)
        found = self._known.pop(id, None)
        return None if found is None else EndpointInfo(id, found[0])

    def __len__(self) -> int:
        return len(self._known)

    def __bool__(self) -> bool:
        return True

    # --- as a service
    def publish(self, data: EndpointData, /) -> None:
        """Nothing: only the program's word counts."""

    def resolve(self, id: EndpointId, /) -> AsyncIterator[LookupAnswer] | None:
        """What is known, once."""
        found = self._known.get(id)
        if found is None:
            return None
        return _once(LookupItem(EndpointInfo(id, found[0]), self.provenance, found[1]))

    def __repr__(self) -> str:
        return f"<MemoryLookup of {len(self._known)} endpoints>"


async def _once(item: LookupItem) -> AsyncIterator[LookupAnswer]:
    yield item


def _now() -> int:
    return time.time_ns() // 1000


def _id(id: EndpointId | str) -> EndpointId:
    return id if isinstance(id, PublicKey) else EndpointId(id)


def _read(info: Known) -> tuple[EndpointId, EndpointData]:
    if isinstance(info, EndpointInfo):
        return info.id, info.data
    addr = to_endpoint_addr(info)
    return addr.id, EndpointData(addr.addrs)
