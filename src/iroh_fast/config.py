"""Options of endpoints and of their QUIC connections.

Values are checked when an endpoint is bound, or when the object that holds them is made, so a
wrong option fails at the line that wrote it and not in the middle of a handshake.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import _option_checks as _checks
from ._check import check_alpns, check_flag, shown
from ._later import Later
from .addr import RelayUrl, SocketAddr
from .errors import ConfigError
from .hooks import EndpointHooks
from .keys import SecretKey
from .net.bind import BindAddr, BindAddrLike, plan_sockets
from .quic.config import (
    WINDOW_BUDGET,
    AckFrequencyConfig,
    MtuDiscoveryConfig,
    QuicTransportConfig,
)
from .relay.client.home import HomePolicy
from .relay.map import RelayConfig, RelayMap

if TYPE_CHECKING:
    from .lookup import filters as _filters
    from .lookup import services as _lookup
    from .net import custom as _custom
    from .net.remote import selection as _selection
    from .net_report import config as _report_config
    from .portmapper import model as _portmap
    from .web import ca as _ca_config
    from .web import proxy as _proxies
    from .web import resolver as _resolver
else:
    _custom = Later("iroh_fast.net.custom")
    _selection = Later("iroh_fast.net.remote.selection")
    _filters = Later("iroh_fast.lookup.filters")
    _lookup = Later("iroh_fast.lookup.services")
    _report_config = Later("iroh_fast.net_report.config")
    _portmap = Later("iroh_fast.portmapper.model")
    _ca_config, _proxies = Later("iroh_fast.web.ca"), Later("iroh_fast.web.proxy")
    _resolver = Later("iroh_fast.web.resolver")

__all__ = [
    "AckFrequencyConfig",
    "BindAddr",
    "BindAddrLike",
    "EndpointConfig",
    "MtuDiscoveryConfig",
    "Preset",
    "QuicTransportConfig",
    "RelaysLike",
    "ServerConfig",
    "check_alpns",
    "plan_sockets",
]

MAX_PENDING = 256  # connections that are being made or wait to be taken, see Connections

RelaysLike: TypeAlias = (
    Literal["default", "staging"] | Iterable[RelayConfig | RelayUrl | str] | RelayMap | None
)
"""What `relays` takes: a name, or relays in the order in which they are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Settings for accepting one connection, see :meth:`Incoming.accept`.

    Parameters
    ----------
    alpns : protocols to offer instead of the endpoint's.
    transport : QUIC parameters instead of the endpoint's; None keeps those.
    """

    alpns: tuple[bytes, ...]
    transport: QuicTransportConfig | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpns", check_alpns(self.alpns))
        if self.transport is not None:
            _checks.check_transport("transport", self.transport)


def _option(default: Any, check: Callable[[str, Any], Any]) -> Any:
    """An option of endpoints: its default, and the function that checks and reads it."""
    return dataclasses.field(default=default, metadata={"check": check})


@dataclass(slots=True, kw_only=True)
class EndpointConfig:
    """Options of :meth:`Endpoint.bind`, reusable and changed by presets.

    This is the one place where they are defined: ``bind`` takes the same, with these types.

    Parameters
    ----------
    secret_key : identity; None makes a new random one.
    alpns : protocols to accept, in order of preference; empty accepts nothing: attempts are
        not answered at all.
    bind_addrs : sockets to open, see :class:`BindAddr`; empty means ``0.0.0.0:0`` (required)
        and ``[::]:0`` (if the machine has IPv6).
    ip_transports : False opens no sockets at all: relays and custom transports only.
    custom_transports : ways of your own for datagrams, see :class:`iroh_fast.CustomTransport`.
    path_selector : chooses which of the paths to a peer carries data, see
        :data:`iroh_fast.PathSelector`; None prefers direct ones, then short round-trip times.
    external_addrs : extra addresses at which this endpoint can be reached, to advertise.
    transport : QUIC parameters of every connection.
    hooks : called in order, see :class:`iroh_fast.hooks.EndpointHooks`.
    keylog : write TLS secrets to the file named by ``SSLKEYLOGFILE``.
    max_tls_tickets : how many session tickets to keep for 0-RTT; 0 switches resumption off.
    key_exchange : key exchanges to offer; only ``["x25519"]``.
    window_budget : bytes by which the windows of all connections together may grow beyond
        what they begin with, see :class:`QuicTransportConfig`; a connection has at most as
        much as it leaves free. Without budget windows stop growing, nothing fails.
    linger : seconds that leaving a connection's block, or the last reference to it, waits
        until what was finished is acknowledged; 0 does not wait, None has no limit.
    relays : None, "default" (iroh's), "staging", or relays to use: URLs, RelayConfig, a
        RelayMap.
    home_policy : chooses the home relay, see :class:`iroh_fast.relay.HomePolicy`; None takes
        the nearest one, with fail-over.
    proxy, proxy_from_env : HTTP proxy for connections to relays and pkarr servers.
    ca : what to trust at relays and pkarr servers: an ``ssl.SSLContext`` or a CaConfig; None is
        iroh's roots.
    address_lookup : services that find endpoints by their id and publish this one, see
        :mod:`iroh_fast.lookup`; replaces those of the preset.
    extra_address_lookup : further ones, beside those.
    addr_filter : which own addresses services get to publish, and in which order: a function
        from a list of addresses to those to publish, ``"relay_only"`` or ``"ip_only"``.
    user_data : text of at most 245 bytes that is published with the addresses.
    portmapper : ask the gateway of this network to pass a port of its public address on to our
        IPv4 socket, by PCP, NAT-PMP and UPnP: True, False, or a list of ``"pcp"``, ``"nat_pmp"``,
        ``"upnp"``; None: for an endpoint with relays or address lookup.
    dns_resolver : asked for names of relays and by lookups: a
        :class:`iroh_fast.lookup.DnsResolver`, or an object like one; None asks the system's.
    net_report : how to find out what others see of this endpoint and how far relays are, see
        :class:`iroh_fast.net_report.NetReportConfig`; False does not. Without relays there is
        nobody to ask.
    """

    secret_key: SecretKey | None = _option(None, _checks.secret_key)
    alpns: Sequence[bytes] = _option((), _checks.alpns)
    bind_addrs: Sequence[BindAddrLike] = _option((), _checks.bind_addrs)
    ip_transports: bool = _option(True, check_flag)
    custom_transports: Sequence[_custom.CustomTransport] = _option((), _checks.custom_transports)
    path_selector: _selection.PathSelector | None = _option(None, _checks.path_selector)
    external_addrs: Sequence[str | SocketAddr] = _option((), _checks.external_addrs)
    transport: QuicTransportConfig = _option(QuicTransportConfig(), _checks.check_transport)
    hooks: Sequence[EndpointHooks] = _option((), _checks.hooks)
    keylog: bool = _option(False, check_flag)
    max_tls_tickets: int = _option(256, _checks.tickets)
    key_exchange: Sequence[str] = _option(("x25519",), _checks.key_exchange)
    window_budget: int = _option(WINDOW_BUDGET, _checks.size)
    linger: float | None = _option(5.0, _checks.linger)
    relays: RelaysLike = _option(None, _checks.relays)
    home_policy: HomePolicy | None = _option(None, _checks.home_policy)
    proxy: str | _proxies.Proxy | None = _option(None, _checks.proxy)
    proxy_from_env: bool = _option(False, check_flag)
    ca: _ca_config.CaConfig | ssl.SSLContext | None = _option(None, _checks.ca)
    address_lookup: Sequence[_lookup.AddressLookupLike] | None = _option((), _checks.lookups)
    extra_address_lookup: Sequence[_lookup.AddressLookupLike] | None = _option((), _checks.lookups)
    addr_filter: _filters.AddrFilterLike = _option(None, _checks.addr_filter)
    user_data: str | None = _option(None, _checks.user_data)
    portmapper: bool | Sequence[_portmap.ProtocolName] | None = _option(None, _checks.portmapper)
    dns_resolver: _resolver.DnsResolver | _resolver.Resolver | None = _option(
        None, _checks.dns_resolver
    )
    net_report: _report_config.NetReportConfig | bool = _option(True, _checks.reports)

    def merge(self, other: EndpointConfig) -> None:
        """Take over every field of `other` that differs from its default."""
        base = EndpointConfig()
        for item in dataclasses.fields(EndpointConfig):
            value = getattr(other, item.name)
            if value != getattr(base, item.name):
                setattr(self, item.name, value)

    def apply(self, preset: Preset) -> None:
        """Apply one preset, or several in order.

        Raises
        ------
        ConfigError : it is neither a function nor an EndpointConfig, nor a list of those.
        """
        if isinstance(preset, EndpointConfig):
            self.merge(preset)
        elif callable(preset) and not isinstance(preset, type):
            preset(self)
        elif isinstance(preset, (list, tuple)):
            for part in preset:
                self.apply(part)
        else:
            raise ConfigError(
                f"preset is a function of iroh_fast.presets or an EndpointConfig, "
                f"not {shown(preset)}"
            )

    def update(self, options: dict[str, Any]) -> None:
        """Set options by name.

        Raises
        ------
        TypeError : there is no such option; the message names the nearest one.
        """
        names = [item.name for item in dataclasses.fields(EndpointConfig)]
        for name, value in options.items():
            if name in names:
                setattr(self, name, value)
            else:
                import difflib

                near = difflib.get_close_matches(name, names, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise TypeError(f"Endpoint.bind() has no option {name!r}{hint}")

    def check(self) -> None:
        """Read every option into its final form.

        Raises
        ------
        ConfigError : one is wrong, or they do not go together; the message names it.
        """
        for item in dataclasses.fields(EndpointConfig):
            value = item.metadata["check"](item.name, getattr(self, item.name))
            setattr(self, item.name, value)
        if self.relays is None and not self.ip_transports and not self.custom_transports:
            raise ConfigError(
                "ip_transports=False without relays or custom_transports leaves no way to send"
            )
        lookups = self.address_lookup or self.extra_address_lookup
        if self.relays is None and not lookups and (self.proxy is not None or self.proxy_from_env):
            raise ConfigError(
                "proxy is for connections to relays and pkarr servers; give relays as well"
            )
        if self.relays is None and self.home_policy is not None:
            raise ConfigError("home_policy chooses among relays; give relays as well")


Preset: TypeAlias = (
    Callable[[EndpointConfig], None]
    | EndpointConfig
    | Sequence[Callable[[EndpointConfig], None] | EndpointConfig]
)
