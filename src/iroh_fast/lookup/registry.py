"""All address lookup services of an endpoint, as one."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from ..aio.owner import Owner
from ..errors import ConfigError, EndpointClosed
from ..keys import EndpointId, PublicKey
from .filters import AddrFilterLike, as_filter
from .info import EndpointData
from .merge import Lookup, Merge
from .services import (
    AddressLookup,
    AddressLookupLike,
    LookupAnswer,
    LookupHost,
    LookupItem,
    build,
    check_service,
    name_of,
)

__all__ = ["AddressLookupServices", "LookupCounters"]

log = logging.getLogger("iroh_fast.lookup")

MAX_SERVICES = 64
MAX_NAMES = 64  # of services in counters; what comes then is counted as "other"
CLOSE_TIMEOUT_S = 2.0  # for each service


class LookupCounters:
    """The counters of the group ``address_lookup``."""

    __slots__ = ("_errors", "_results", "failed", "lookups")

    def __init__(self) -> None:
        self.lookups = 0
        self.failed = 0
        self._results: dict[str, int] = {}
        self._errors: dict[str, int] = {}

    def count(self, answer: LookupAnswer | None) -> None:
        """An answer was given on; None: there was none at all."""
        if answer is None:
            self.failed += 1
            return
        counts = self._results if isinstance(answer, LookupItem) else self._errors
        name = answer.provenance
        if name not in counts and len(counts) >= MAX_NAMES:
            name = "other"
        counts[name] = counts.get(name, 0) + 1

    def snapshot(self) -> dict[str, int]:
        """All by name; those of a service have it as a label."""
        found = {
            "address_lookup:lookups": self.lookups,
            "address_lookup:lookups_failed": self.failed,
        }
        for family, counts in (
            ("service_results", self._results),
            ("service_errors", self._errors),
        ):
            for name, number in counts.items():
                found[f'address_lookup:{family}{{service="{_label(name)}"}}'] = number
        return found


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class AddressLookupServices:
    """The address lookup services of an endpoint: :attr:`Endpoint.address_lookup`.

    What the endpoint publishes goes to all of them, a question too; their answers come as one
    stream.  Services can be added at any time.

    Parameters
    ----------
    host : what builders get to see.
    addr_filter : see :meth:`set_addr_filter`.
    """

    __slots__ = (
        "__weakref__",
        "_closed",
        "_closing",
        "_filter",
        "_host",
        "_last",
        "_running",
        "_services",
        "counters",
        "owner",
    )

    def __init__(self, host: LookupHost, addr_filter: AddrFilterLike | None = None) -> None:
        self._host = host
        self.owner: Owner = host.owner
        self._filter = as_filter(addr_filter, "addr_filter")
        self._services: list[AddressLookup] = []
        self._last: EndpointData | None = None  # before the filter
        self._running: weakref.WeakSet[Merge] = weakref.WeakSet()
        self._closing: set[asyncio.Task[None]] = set()  # services that were taken out
        self._closed = False
        self.counters = LookupCounters()

    # --- the services
    def __len__(self) -> int:
        return len(self._services)

    def __bool__(self) -> bool:
        return True  # an endpoint has it, be there services in it or not

    def __iter__(self) -> Iterator[AddressLookup]:
        return iter(tuple(self._services))

    @property
    def is_empty(self) -> bool:
        """True when there is no service."""
        return not self._services

    def add(self, service: AddressLookupLike, /) -> AddressLookup:
        """Add a service, or what a builder makes; it learns at once what was published last.

        Raises
        ------
        ConfigError : it is neither, or there are 64 services already.
        AddressLookupError : the builder failed.
        EndpointClosed : the endpoint is closed.
        """
        self.owner.check_loop()
        if self._closed:
            raise EndpointClosed()
        check_service("address_lookup.add", service)
        if len(self._services) >= MAX_SERVICES:
            raise ConfigError(f"an endpoint has at most {MAX_SERVICES} address lookup services")
        made = build(service, self._host)
        if (data := self._filtered()) is not None:
            _publish(made, data)
        self._services.append(made)
        return made

    def clear(self) -> None:
        """Take all services out; they are closed in the background."""
        self.owner.check_loop()
        services, self._services = self._services, []
        for service in services:
            if callable(getattr(service, "close", None)):
                task = self.owner.loop.create_task(_close(service))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    # --- publishing
    def set_addr_filter(self, addr_filter: AddrFilterLike | None, /) -> None:
        """Which addresses all services get to publish, and in which order.

        Parameters
        ----------
        addr_filter : a function from addresses to those to publish, a name as in the option
            ``addr_filter``, or None for all.  What was published before is published anew.
        """
        self.owner.check_loop()
        self._filter = as_filter(addr_filter, "addr_filter")
        self._spread()

    def publish(self, data: EndpointData) -> None:
        """Hand own addresses to all services, if they are others than before.

        Without any address and user data nothing is published.
        """
        if self._closed or data == self._last or data.is_empty:
            return
        self._last = data
        self._spread()

    def _spread(self) -> None:
        if (data := self._filtered()) is not None:
            for service in self._services:
                _publish(service, data)

    def _filtered(self) -> EndpointData | None:
        """What services may know; None for nothing at all."""
        if self._last is None:
            return None
        try:
            return self._last.filtered(self._filter)
        except Exception:
            # Not the whole list instead: it may be there for privacy.
            log.exception("addr_filter failed: nothing is published")
            return None

    def network_changed(self) -> None:
        """Tell those services that want to know."""
        for service in self._services:
            changed = getattr(service, "network_changed", None)
            if callable(changed):
                try:
                    changed()
                except Exception:
                    log.exception("%s failed at a change of the network", name_of(service))

    # --- resolving
    def resolve(self, id: EndpointId | str, /) -> Lookup:
        """Ask all services for an endpoint; they begin at once.

        ``async with services.resolve(id) as lookup: async for answer in lookup: ...``
        """
        self.owner.check_loop()
        if self._closed:
            raise EndpointClosed()
        if not isinstance(id, PublicKey):
            id = EndpointId(id)
        self.counters.lookups += 1
        merge = Merge(self.owner, id, self._services, self.counters.count)
        self._running.add(merge)
        return Lookup(merge)

    # --- the end
    def stop(self) -> None:
        """End all lookups; nothing is published or asked any more."""
        self._closed = True
        for merge in list(self._running):
            merge.cancel(endpoint_closed=True)

    async def close(self) -> None:
        """The same, then close the services."""
        self.stop()
        self.clear()
        if self._closing:
            await asyncio.wait(set(self._closing))

    @property
    def metrics(self) -> Mapping[str, int]:
        """Counters by full name."""
        return self.counters.snapshot()

    def __repr__(self) -> str:
        return f"<AddressLookupServices {', '.join(map(name_of, self._services)) or 'none'}>"


def _publish(service: AddressLookup, data: EndpointData) -> None:
    try:
        service.publish(data)
    except Exception:
        log.exception("address lookup %s failed to publish", name_of(service))


async def _close(service: Any) -> None:
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await service.close()
    except TimeoutError:
        log.warning("address lookup %s did not end within %g s", name_of(service), CLOSE_TIMEOUT_S)
    except Exception:
        log.exception("the end of address lookup %s failed", name_of(service))
