"""The inside of an endpoint, put together: engine, context, services."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from . import events as _events
from ._context import Context
from ._option_checks import socket_addr
from .addr import EndpointAddr, IpAddr, SocketAddr
from .aio.owner import Owner
from .aio.services import ServiceHost
from .aio.watcher import Watchable
from .config import EndpointConfig, plan_sockets
from .errors import AddressLookupError, BindError
from .keys import SecretKey
from .lookup.registry import AddressLookupServices
from .lookup.service import EndpointHost, LookupService
from .metrics import EndpointMetrics
from .net.local_addrs import NetworkState
from .net.monitor.service import Monitor
from .net.monitor.ways import keeper
from .net.service import (
    EndpointService,
    EndpointServices,
    Interfaces,
    OwnAddrs,
    ServiceContext,
)
from .net.socket import Driver
from .quic.tls import Identity
from .relay.map import RelayMap, RelayStatus

if TYPE_CHECKING:
    from .net.custom import CustomTransports
    from .net_report.report import NetReport
    from .net_report.service import NetReports
    from .portmapper.model import ProtocolName
    from .relay.client.transport import RelayTransport
    from .web.proxy import Proxy
    from .web.resolver import DnsResolver

__all__ = ["USER", "Inside", "assemble", "named"]

log = logging.getLogger("iroh_fast.endpoint")

USER = "user"  # the source of the addresses that the user gives

# What an endpoint with relays needs besides, in steps of a few milliseconds.
_RELAY_ROOMS = (
    *(".web.client", ".web.resolver", ".web.resolver.stub"),
    *(".web.dial", ".relay.wire", ".relay.client.transport", ".net_report.service"),
)


@dataclass(slots=True, eq=False)
class Inside:
    """What an endpoint is made of.

    Nothing here refers to the endpoint itself, which must be free to go.
    """

    owner: Owner
    secret_key: SecretKey
    context: Context
    addrs: OwnAddrs
    alpns: Watchable[tuple[bytes, ...]]
    home: Watchable[tuple[RelayStatus, ...]]
    services: EndpointServices
    host: EndpointHost
    lookup: LookupService
    monitor: Monitor
    reports: Watchable[NetReport | None]
    custom: CustomTransports | None = None
    net_reports: NetReports | None = None


async def assemble(config: EndpointConfig) -> Inside:
    """Open the sockets and start the services; nothing is left behind when that fails.

    Raises
    ------
    BindError : a required address cannot be bound, or an address lookup cannot be set up.
    ConfigError : what an address lookup needs is not installed.
    """
    loop = asyncio.get_running_loop()
    secret_key = config.secret_key or SecretKey.generate()
    driver = _open_driver(config, secret_key, loop)
    try:
        inside = _inside(config, secret_key, driver, Owner(loop))
        if isinstance(config.relays, RelayMap):
            await _load_relay_rooms()
        await inside.services.start(_services(config, inside))
    except AddressLookupError as error:
        driver.stop()
        raise BindError(str(error)) from error
    except BaseException:
        driver.stop()
        raise
    driver.accepting = bool(inside.context.alpns)
    log.info(
        "%s: endpoint bound to %s", f"{secret_key.public:short}", named(inside.context.sockets)
    )
    return inside


def _inside(config: EndpointConfig, secret_key: SecretKey, driver: Driver, owner: Owner) -> Inside:
    def counters() -> tuple[Mapping[str, int], int, Mapping[str, int]]:
        sockets = {**driver.stats(), **context.remotes.counters}
        return sockets, len(context.live()), services.metrics()

    def addr_changed(addr: EndpointAddr) -> None:
        lookup.publish()
        if context.events.wants(_events.AddrChanged):
            context.events.emit(_events.AddrChanged(addr))

    sockets = tuple(SocketAddr.from_tuple(bound) for bound in driver.bound_sockets)
    host = EndpointHost(
        owner,
        secret_key,
        resolver=cast("DnsResolver | None", config.dns_resolver),  # what check() made of it
        ca=config.ca,
        proxy=lambda: _proxy(config),
    )
    # What check() made of them.
    found_by = (*(config.address_lookup or ()), *(config.extra_address_lookup or ()))
    lookups = AddressLookupServices(host, config.addr_filter)
    lookup = LookupService(host, lookups, found_by, config.user_data)
    context = Context(
        owner=owner,
        driver=driver,
        id=secret_key.public,
        config=config,
        sockets=sockets,
        metrics=EndpointMetrics(counters),
        lookups=lookups,
    )

    def candidates_changed(candidates: list[SocketAddr]) -> None:
        context.remotes.set_candidates([addr.as_tuple() for addr in candidates])

    addrs = OwnAddrs(secret_key.public, owner, addr_changed, candidates_changed)

    def network_changed(state: NetworkState) -> None:
        driver.network_changed(state)
        services.network_changed(state)

    reports: Watchable[NetReport | None] = Watchable(None, owner)
    context.reports = reports
    monitor = Monitor(network_changed, lambda *states: _tell_connections(context, *states))
    services: EndpointServices = ServiceHost(
        ServiceContext(owner, secret_key, driver, sockets, addrs, lambda: monitor.state)
    )
    addrs.put(USER, [IpAddr(socket_addr(addr, "external_addrs")) for addr in config.external_addrs])
    return Inside(
        owner=owner,
        secret_key=secret_key,
        context=context,
        addrs=addrs,
        alpns=Watchable(context.alpns, owner),
        home=Watchable((), owner),
        services=services,
        host=host,
        lookup=lookup,
        monitor=monitor,
        reports=reports,
    )


def _tell_connections(context: Context, old: NetworkState, new: NetworkState) -> None:
    """Packets can leave again, perhaps another way than before."""
    keep = keeper(old, new, context.driver.transports)
    for q in list(context.driver.endpoint.connections.values()):
        # Net reports see to their own, which have no peer.
        if q.close_reason is None and (q.peer_id is not None or not q.handshake_complete):
            q.network_changed(keep)
    context.remotes.network_changed(new.major)


def _services(config: EndpointConfig, inside: Inside) -> list[EndpointService]:
    """The background work that the options ask for, in the order of its start."""
    chosen: list[EndpointService] = [inside.monitor, Interfaces()]
    if config.custom_transports:
        from .net.custom import CustomTransports

        inside.custom = CustomTransports(config.custom_transports)
        chosen.append(inside.custom)
    if protocols := _portmap_protocols(config):
        from .portmapper.service import PortMapper

        chosen.append(PortMapper(protocols))
    if isinstance(config.relays, RelayMap):  # what check() made of it
        relay = inside.context.relay = _relay_transport(config, config.relays, inside)
        chosen.append(relay)
    if config.net_report and (isinstance(config.relays, RelayMap) or _stun_servers(config)):
        relay_map = config.relays if isinstance(config.relays, RelayMap) else RelayMap()
        inside.net_reports = _net_reports(config, relay_map, inside)
        chosen.append(inside.net_reports)
    chosen.append(inside.lookup)
    return chosen


def _portmap_protocols(config: EndpointConfig) -> Collection[ProtocolName]:
    """By what to ask for port mappings, if at all."""
    if config.portmapper is None:
        if config.relays is None and not (config.address_lookup or config.extra_address_lookup):
            return ()  # whoever gives addresses by hand gives all there are
        from .portmapper.model import PROTOCOLS

        return PROTOCOLS
    return cast("Collection[ProtocolName]", config.portmapper)  # what check() made of it


def _stun_servers(config: EndpointConfig) -> bool:
    """Whether there is somebody besides relays who tells our address."""
    return bool(getattr(config.net_report, "stun_servers", ()))


def _proxy(config: EndpointConfig) -> Proxy | None:
    """The HTTP proxy of all connections to servers."""
    from .web.proxy import Proxy, proxy_from_env

    if isinstance(config.proxy, Proxy):  # what check() made of it
        return config.proxy
    return proxy_from_env() if config.proxy_from_env else None


async def _load_relay_rooms() -> None:
    """Load what only relays need; the loop goes on in between."""
    for name in _RELAY_ROOMS:
        importlib.import_module(name, __package__)
        await asyncio.sleep(0)


def _relay_transport(config: EndpointConfig, relay_map: RelayMap, inside: Inside) -> RelayTransport:
    """The way over relays."""
    from .relay.client.transport import RelayTransport

    events = inside.context.events

    def changed(status: RelayStatus | None) -> None:
        if inside.net_reports is not None:
            inside.net_reports.home_changed(status)
        if events.wants(_events.RelayChanged):
            events.emit(_events.RelayChanged(status))

    return RelayTransport(
        secret_key=inside.secret_key,
        relay_map=relay_map,
        ca=config.ca,
        proxy=_proxy(config),
        statuses=inside.home,
        on_status=changed,
        home_policy=config.home_policy,
        report_due=bool(config.net_report),
        resolver=inside.host.dns_resolver,
    )


def _net_reports(config: EndpointConfig, relay_map: RelayMap, inside: Inside) -> NetReports:
    """What looks at the network."""
    from .net_report.config import NetReportConfig
    from .net_report.means import Outside
    from .net_report.service import NetReports
    from .relay.client.qad import trust_roots
    from .web.dial import StreamDialer
    from .web.race import resolved_by

    events, relay, host = inside.context.events, inside.context.relay, inside.host

    def published(report: NetReport) -> None:
        inside.reports.set(report)
        if events.wants(_events.NetReportMade):
            events.emit(_events.NetReportMade(report))

    def dialer() -> StreamDialer:
        resolve = resolved_by(host.dns_resolver)
        return StreamDialer(ca=config.ca, proxy=_proxy(config), resolve=resolve)

    given = config.net_report
    return NetReports(
        given if isinstance(given, NetReportConfig) else NetReportConfig(),
        relay_map,
        Outside(
            trust=lambda: trust_roots(config.ca),
            names=lambda: host.dns_resolver,
            dialer=dialer,
            published=published,
            home=lambda report: None if relay is None else relay.pool.reported(report),
        ),
        fixed_ports=[
            bound.port
            for bound in plan_sockets(config.bind_addrs)
            if bound.port and ":" not in bound.host
        ],
    )


def _open_driver(
    config: EndpointConfig, secret_key: SecretKey, loop: asyncio.AbstractEventLoop
) -> Driver:
    plan = plan_sockets(config.bind_addrs) if config.ip_transports else []
    try:
        return Driver.bind(
            plan,
            identity=Identity(secret_key.to_bytes()),
            max_tls_tickets=config.max_tls_tickets,
            keylog=config.keylog,
            window_budget=config.window_budget,
            loop=loop,
        )
    except BindError:
        raise
    except OSError as error:
        wanted = ", ".join(str(addr) for addr in plan if addr.required)
        raise BindError(
            f"cannot bind {wanted}: {error.strerror or error}", errno=error.errno
        ) from error


def named(sockets: Iterable[SocketAddr]) -> str:
    """The addresses of sockets as text."""
    return ", ".join(map(str, sockets)) or "no IP address"
