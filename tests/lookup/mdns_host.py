"""The service of mDNS on hosts of a lab, without an endpoint around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

from iroh_fast import EndpointId, RelayUrl, SecretKey, SocketAddr
from iroh_fast.aio.owner import Owner
from iroh_fast.lookup.info import EndpointData
from iroh_fast.lookup.mdns import Discovered, MdnsEvents, MdnsLookup
from tests.lab.lan import Host, entered


class FakeEndpoint:
    """What a service sees of an endpoint."""

    def __init__(self) -> None:
        self.secret_key = SecretKey.generate()
        self.id: EndpointId = self.secret_key.public
        self.owner = Owner(asyncio.get_running_loop())
        self.dns_resolver: Any = None
        self.http: Any = None


@asynccontextmanager
async def node(
    host: Host | None,
    *,
    tell: bool = True,
    relay: str | None = None,
    user_data: str | None = None,
    **options: Any,
) -> AsyncIterator[tuple[MdnsLookup, EndpointId, MdnsEvents]]:
    """A running service with its id and its events."""
    endpoint = FakeEndpoint()
    mdns = MdnsLookup(**options)
    events = mdns.subscribe()
    if host is None:
        mdns.into_address_lookup(endpoint)
    else:
        with entered(host):
            mdns.into_address_lookup(endpoint)
    try:
        if tell:
            mdns.publish(data_of(host, relay, user_data))
        yield mdns, endpoint.id, events
    finally:
        await mdns.close()


def data_of(
    host: Host | None, relay: str | None = None, user_data: str | None = None, port: int = 4000
) -> EndpointData:
    ips = ["127.0.0.1"] if host is None else [ip for ip in (host.ip4, host.ip6) if ip]
    addrs: list[Any] = [SocketAddr(ip_address(ip), port) for ip in ips]
    return EndpointData([*addrs, *([RelayUrl(relay)] if relay else [])], user_data)


async def next_of(events: MdnsEvents, kind: type[Any], id: EndpointId) -> Any:
    async for event in events:
        if (
            isinstance(event, kind)
            and (event.info.id if isinstance(event, Discovered) else event.id) == id
        ):
            return event
    raise AssertionError(f"no {kind.__name__}")


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)
