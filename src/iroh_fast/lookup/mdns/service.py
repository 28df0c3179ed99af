"""Address lookup on the local network: what users see."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable
from typing import Final, Self

from ..._check import check_flag, check_items, check_seconds, check_text, shown
from ...errors import ConfigError
from ...keys import EndpointId
from ..filters import AddrFilterLike, as_filter
from ..info import EndpointData, EndpointInfo
from ..services import LookupHost
from .events import MdnsEvents
from .running import PROVENANCE, Lookup, Running

__all__ = ["MdnsLookup"]

SERVICE_NAME: Final = "irohv1"
CADENCE_S: Final = 0.7
MAX_CADENCE_S: Final = 3600.0

_SERVICE_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,60}[A-Za-z0-9])?"


class MdnsLookup:
    """Finds endpoints on the local network, and lets them find this one, without any server.

    Wire-compatible with iroh's ``MdnsAddressLookup``.  Give it to ``Endpoint.bind`` in
    ``address_lookup``, or to ``ep.address_lookup.add``; one object serves one endpoint.

    Parameters
    ----------
    advertise : tell others where this endpoint is; without, it only listens and asks.
    service_name : nodes with different names do not see each other: 1 to 62 letters, digits,
        hyphens and underscores.
    filter : which addresses are told, see ``addr_filter`` of an endpoint; all by default, IP
        addresses among them, which is the point.  At most one relay is told, and no address of
        a custom transport.
    discovery_cadence : seconds between questions to the link, 3600 at most.  More of them make
        less traffic, and it takes longer to see who has gone.
    interfaces : names of those to use; all that are up by default, loopback only where there is
        nothing else.

    Raises
    ------
    ConfigError : an option is wrong.
    """

    provenance = PROVENANCE

    def __init__(
        self,
        *,
        advertise: bool = True,
        service_name: str = SERVICE_NAME,
        filter: AddrFilterLike | None = None,
        discovery_cadence: float = CADENCE_S,
        interfaces: Iterable[str] | None = None,
    ) -> None:
        self._advertise = check_flag("advertise", advertise)
        self._service_name = _checked_name(service_name)
        self._filter = as_filter(filter, "filter")
        self._cadence = _checked_cadence(discovery_cadence)
        self._interfaces = _checked_interfaces(interfaces)
        self._running: Running | None = None
        self._closed = False
        self._subscribers: weakref.WeakSet[MdnsEvents] = weakref.WeakSet()

    def into_address_lookup(self, endpoint: LookupHost, /) -> Self:
        """Begin, for this endpoint.

        Raises
        ------
        AddressLookupError : no UDP socket at port 5353 can be had, over neither IP version.
        ConfigError : it began already.
        """
        if self._running is not None or self._closed:
            raise ConfigError("this MdnsLookup had an endpoint already; make one for each")
        self._running = Running(
            endpoint.id,
            endpoint.owner,
            service_name=self._service_name,
            cadence=self._cadence,
            interfaces=self._interfaces,
            subscribers=self._subscribers,
        )
        return self

    def publish(self, data: EndpointData, /) -> None:
        """Tell these addresses from now on."""
        if self._advertise and self._running is not None:
            self._running.publish(data.filtered(self._filter))

    def resolve(self, id: EndpointId, /) -> Lookup:
        """Look for an endpoint: what is known of it, and news for 10 s (more with a slow cadence)."""
        if self._running is None:
            raise ConfigError("this MdnsLookup has no endpoint: give it to one, in address_lookup")
        return self._running.resolve(id)

    def subscribe(self) -> MdnsEvents:
        """Who comes and goes from now on: an asynchronous iterator of Discovered and Expired.

        At most 20 events wait for whoever iterates; then new ones are dropped, with a warning.
        What answers a running lookup of that endpoint is not told here.
        """
        events = MdnsEvents()
        if self._closed:
            events.end()
        self._subscribers.add(events)
        return events

    @property
    def peers(self) -> tuple[EndpointInfo, ...]:
        """Who is on the link now, as far as was heard."""
        return () if self._running is None else self._running.node.peers.infos()

    @property
    def counters(self) -> dict[str, int]:
        """Messages by what became of them: asked, answered, heard, foreign, refused."""
        return {} if self._running is None else self._running.node.counters.as_dict()

    def network_changed(self) -> None:
        """Join the groups of the interfaces there are now, and ask there."""
        if self._running is not None:
            self._running.look(again=True)

    async def close(self) -> None:
        """End; iterators of events and lookups end, too.  Others see us gone in some seconds."""
        self._closed = True
        if self._running is not None:
            self._running.stop()
        for events in list(self._subscribers):
            events.end()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._running is None else "running"
        return f"<MdnsLookup {self._service_name} {state}>"


def _checked_name(value: object) -> str:
    name = check_text("service_name", value)
    assert name is not None
    if not re.fullmatch(_SERVICE_NAME, name):
        raise ConfigError(
            f"service_name is 1 to 62 letters, digits, hyphens and underscores, not {shown(name)}"
        )
    return name


def _checked_cadence(value: object) -> float:
    cadence = check_seconds("discovery_cadence", value)
    assert cadence is not None
    if cadence > MAX_CADENCE_S:
        raise ConfigError(f"discovery_cadence is at most {MAX_CADENCE_S:g} s, not {shown(value)}")
    return cadence


def _checked_interfaces(value: Iterable[str] | None) -> frozenset[str] | None:
    if value is None:
        return None
    names = check_items("interfaces", value, "names of interfaces")
    if not names:
        raise ConfigError("interfaces is empty; None means all")
    for name in names:
        check_text("a name in interfaces", name)
    return frozenset(names)
