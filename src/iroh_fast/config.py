"""Options of endpoints and of their QUIC connections.

Values are checked when an endpoint is bound, or when the object that holds them is made, so a
wrong option fails at the line that wrote it and not in the middle of a handshake.
"""

from __future__ import annotations

import dataclasses
import inspect
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ._check import (
    check_alpns,
    check_flag,
    check_integer,
    check_items,
    check_seconds,
    kind_of,
    shown,
)
from ._later import Later
from .addr import RelayUrl, SocketAddr
from .errors import AddrError, ConfigError, DialError, RelayUrlError
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
from .relay.map import RelayConfig, RelayMap, relay_map

if TYPE_CHECKING:
    from .lookup import filters as _filters
    from .lookup import info as _info
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
    _info = Later("iroh_fast.lookup.info")
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

MAX_SOCKETS = 16
MAX_HOOKS = 64
MAX_CUSTOM = 16
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
            check_transport("transport", self.transport)


# --- checks of single options, (name, value) -> what is used ------------------------------


def check_transport(name: str, value: object) -> QuicTransportConfig:
    """Check QUIC parameters."""
    if not isinstance(value, QuicTransportConfig):
        raise ConfigError(f"{name} is a QuicTransportConfig, not {shown(value)}")
    return value


def _secret_key(name: str, value: object) -> SecretKey | None:
    if value is not None and not isinstance(value, SecretKey):
        hint = "; SecretKey.parse() reads text" if isinstance(value, str) else ""
        hint = "; SecretKey.from_bytes() takes bytes" if isinstance(value, bytes) else hint
        # The value itself stays out of messages and logs.
        raise ConfigError(f"{name} is a SecretKey or None, not {kind_of(value)}{hint}")
    return value


def _alpns(name: str, value: object) -> tuple[bytes, ...]:
    return check_alpns(value, name)


def _bind_addrs(name: str, value: Any) -> tuple[BindAddr, ...]:
    single = isinstance(value, (BindAddr, SocketAddr)) or (
        isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int)
    )
    if single:
        raise ConfigError(f"{name} is a list of addresses, not {shown(value)}")
    given = check_items(name, value, "addresses")
    try:
        addrs = tuple(BindAddr.parse(addr) for addr in given)
        plan = plan_sockets(addrs)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    if len(plan) > MAX_SOCKETS:
        raise ConfigError(
            f"{name} has {len(addrs)} addresses, which is {len(plan)} sockets: "
            f"at most {MAX_SOCKETS} are possible"
        )
    return addrs


def _external_addrs(name: str, value: Any) -> tuple[SocketAddr, ...]:
    return tuple(socket_addr(addr, name) for addr in check_items(name, value, "addresses"))


def socket_addr(value: object, name: str) -> SocketAddr:
    """Read an address that a user gave as an object or as text."""
    if isinstance(value, SocketAddr):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name}: an address is text or a SocketAddr, not {shown(value)}")
    try:
        return SocketAddr.parse(value)
    except AddrError as error:
        raise ConfigError(f"{name}: {error}") from error


def _hooks(name: str, value: Any) -> tuple[EndpointHooks, ...]:
    if isinstance(value, EndpointHooks):
        raise ConfigError(f"{name} is a list of hooks: write [{shown(value)}]")
    hooks = tuple(check_items(name, value, "EndpointHooks"))
    for hook in hooks:
        if isinstance(hook, type):
            raise ConfigError(f"{name} holds the class {hook.__name__}; give an instance of it")
        if not isinstance(hook, EndpointHooks):
            raise ConfigError(f"{name} is a list of EndpointHooks; {shown(hook)} is none")
    if len(hooks) > MAX_HOOKS:
        raise ConfigError(f"{name} has {len(hooks)} hooks, at most {MAX_HOOKS} are possible")
    return hooks


def _tickets(name: str, value: object) -> int:
    check_integer(name, value, 0, 2**20)
    return value  # type: ignore[return-value]


def _key_exchange(name: str, value: Any) -> tuple[str, ...]:
    names = tuple(check_items(name, value, "names"))
    if names != ("x25519",):
        raise ConfigError(f'{name} can only be ["x25519"], not {shown(value)}')
    return names


def _bytes(name: str, value: object) -> int:
    check_integer(name, value, 0)
    return value  # type: ignore[return-value]


def _linger(name: str, value: object) -> float | None:
    return check_seconds(name, value, none=True, zero=True)


def _relays(name: str, value: Any) -> RelayMap | None:
    if value is None:
        return None
    if not isinstance(value, (str, RelayMap)):
        value = check_items(name, value, "URLs or RelayConfig")
        for relay in value:
            if not isinstance(relay, (str, RelayConfig)):
                raise ConfigError(
                    f"{name}: a relay is given by its URL or a RelayConfig, not {shown(relay)}"
                )
    try:
        return relay_map(value)
    except RelayUrlError as error:
        raise ConfigError(f"{name}: {error}") from error


def _proxy(name: str, value: object) -> _proxies.Proxy | None:
    if value is None or isinstance(value, _proxies.Proxy):
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name} is the URL of an HTTP proxy, not {kind_of(value)}")
    try:
        return _proxies.Proxy.parse(value)
    except DialError as error:
        raise ConfigError(f"{name} is the URL of an HTTP proxy: {error}") from error


def _ca(name: str, value: object) -> _ca_config.CaConfig | ssl.SSLContext | None:
    if value is not None and not isinstance(value, (_ca_config.CaConfig, ssl.SSLContext)):
        raise ConfigError(
            f"{name} is a CaConfig, an ssl.SSLContext or None, not {shown(value)}; "
            "CaConfig(extra=[pem]) trusts a certificate of your own"
        )
    return value


def _home_policy(name: str, value: Any) -> HomePolicy | None:
    if value is None:
        return None
    if isinstance(value, type):
        raise ConfigError(f"{name} is the class {value.__name__}; give an instance of it")
    choose = getattr(value, "choose", None)
    if not callable(choose):
        raise ConfigError(
            f"{name} is a HomePolicy (an object with a method choose) or None, not {shown(value)}"
        )
    if inspect.iscoroutinefunction(choose):
        raise ConfigError(f"{name}: choose is a plain method, not an async one")
    return value  # type: ignore[no-any-return]


def _lookups(name: str, value: Any) -> tuple[_lookup.AddressLookupLike, ...]:
    if value is None:
        return ()
    if hasattr(value, "into_address_lookup") or hasattr(value, "resolve"):
        raise ConfigError(f"{name} is a list of address lookup services: write [{shown(value)}]")
    given = check_items(name, value, "address lookup services")
    return tuple(_lookup.check_service(name, service) for service in given)


def _addr_filter(name: str, value: Any) -> _filters.AddrFilter | None:
    if inspect.iscoroutinefunction(value):
        raise ConfigError(f"{name} is a plain function, not an async one")
    return None if value is None else _filters.as_filter(value, name)


def _portmapper(name: str, value: Any) -> tuple[_portmap.ProtocolName, ...] | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return _portmap.PROTOCOLS if value else ()
    if isinstance(value, str):
        raise ConfigError(f"{name} is a list of protocols: write [{shown(value)}]")
    names = check_items(name, value, "names of protocols")
    for protocol in names:
        if protocol not in _portmap.PROTOCOLS:
            known = ", ".join(map(repr, _portmap.PROTOCOLS))
            raise ConfigError(f"{name}: there is no protocol {shown(protocol)}, only {known}")
    return tuple(name for name in _portmap.PROTOCOLS if name in names)


def _user_data(name: str, value: Any) -> str | None:
    return None if value is None else _info.check_user_data(value)


def _dns_resolver(name: str, value: Any) -> _resolver.DnsResolver | None:
    return None if value is None else _resolver.as_resolver(name, value)


def _custom_transports(name: str, value: Any) -> tuple[_custom.CustomTransport, ...]:
    if hasattr(value, "bind"):
        raise ConfigError(f"{name} is a list of transports: write [{shown(value)}]")
    given = tuple(check_items(name, value, "custom transports"))
    for transport in given:
        bind = getattr(transport, "bind", None)
        if isinstance(transport, type) or not inspect.iscoroutinefunction(bind):
            raise ConfigError(
                f"{name} is a list of CustomTransport, objects with an async method bind; "
                f"{shown(transport)} is none"
            )
    if len(given) > MAX_CUSTOM:
        raise ConfigError(f"{name} has {len(given)} transports, at most {MAX_CUSTOM} are possible")
    return given


def _reports(name: str, value: Any) -> _report_config.NetReportConfig | bool:
    if isinstance(value, bool) or isinstance(value, _report_config.NetReportConfig):
        return value
    raise ConfigError(
        f"{name} is a NetReportConfig, True or False, not {shown(value)}; "
        "False makes no net reports"
    )


def _path_selector(name: str, value: Any) -> _selection.PathSelector | None:
    if value is None:
        return None
    if isinstance(value, type) or not callable(value):
        raise ConfigError(
            f"{name} is a function of the present path and of those that work, or None, "
            f"not {shown(value)}"
        )
    if inspect.iscoroutinefunction(value):
        raise ConfigError(f"{name} is a plain function, not an async one")
    return value  # type: ignore[no-any-return]


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

    secret_key: SecretKey | None = _option(None, _secret_key)
    alpns: Sequence[bytes] = _option((), _alpns)
    bind_addrs: Sequence[BindAddrLike] = _option((), _bind_addrs)
    ip_transports: bool = _option(True, check_flag)
    custom_transports: Sequence[_custom.CustomTransport] = _option((), _custom_transports)
    path_selector: _selection.PathSelector | None = _option(None, _path_selector)
    external_addrs: Sequence[str | SocketAddr] = _option((), _external_addrs)
    transport: QuicTransportConfig = _option(QuicTransportConfig(), check_transport)
    hooks: Sequence[EndpointHooks] = _option((), _hooks)
    keylog: bool = _option(False, check_flag)
    max_tls_tickets: int = _option(256, _tickets)
    key_exchange: Sequence[str] = _option(("x25519",), _key_exchange)
    window_budget: int = _option(WINDOW_BUDGET, _bytes)
    linger: float | None = _option(5.0, _linger)
    relays: RelaysLike = _option(None, _relays)
    home_policy: HomePolicy | None = _option(None, _home_policy)
    proxy: str | _proxies.Proxy | None = _option(None, _proxy)
    proxy_from_env: bool = _option(False, check_flag)
    ca: _ca_config.CaConfig | ssl.SSLContext | None = _option(None, _ca)
    address_lookup: Sequence[_lookup.AddressLookupLike] | None = _option((), _lookups)
    extra_address_lookup: Sequence[_lookup.AddressLookupLike] | None = _option((), _lookups)
    addr_filter: _filters.AddrFilterLike = _option(None, _addr_filter)
    user_data: str | None = _option(None, _user_data)
    portmapper: bool | Sequence[_portmap.ProtocolName] | None = _option(None, _portmapper)
    dns_resolver: _resolver.DnsResolver | _resolver.Resolver | None = _option(None, _dns_resolver)
    net_report: _report_config.NetReportConfig | bool = _option(True, _reports)

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
