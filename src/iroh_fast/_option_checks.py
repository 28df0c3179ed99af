"""What each option of an endpoint takes: ``(name, value)`` as a user gave it, and what is used of it."""

from __future__ import annotations

import inspect
import ssl
from typing import TYPE_CHECKING, Any

from ._check import (
    check_alpns,
    check_integer,
    check_items,
    check_seconds,
    kind_of,
    shown,
)
from ._later import Later
from .addr import SocketAddr
from .errors import AddrError, ConfigError, DialError, RelayUrlError
from .hooks import EndpointHooks
from .keys import SecretKey
from .net.bind import BindAddr, plan_sockets
from .quic.config import (
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
    "addr_filter",
    "alpns",
    "bind_addrs",
    "ca",
    "check_transport",
    "custom_transports",
    "dns_resolver",
    "external_addrs",
    "home_policy",
    "hooks",
    "key_exchange",
    "linger",
    "lookups",
    "path_selector",
    "portmapper",
    "proxy",
    "relays",
    "reports",
    "secret_key",
    "size",
    "socket_addr",
    "tickets",
    "user_data",
]

MAX_SOCKETS = 16
MAX_HOOKS = 64
MAX_CUSTOM = 16


def check_transport(name: str, value: object) -> QuicTransportConfig:
    """Check QUIC parameters."""
    if not isinstance(value, QuicTransportConfig):
        raise ConfigError(f"{name} is a QuicTransportConfig, not {shown(value)}")
    return value


def secret_key(name: str, value: object) -> SecretKey | None:
    if value is not None and not isinstance(value, SecretKey):
        hint = "; SecretKey.parse() reads text" if isinstance(value, str) else ""
        hint = "; SecretKey.from_bytes() takes bytes" if isinstance(value, bytes) else hint
        # The value itself stays out of messages and logs.
        raise ConfigError(f"{name} is a SecretKey or None, not {kind_of(value)}{hint}")
    return value


def alpns(name: str, value: object) -> tuple[bytes, ...]:
    return check_alpns(value, name)


def bind_addrs(name: str, value: Any) -> tuple[BindAddr, ...]:
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


def external_addrs(name: str, value: Any) -> tuple[SocketAddr, ...]:
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


def hooks(name: str, value: Any) -> tuple[EndpointHooks, ...]:
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


def tickets(name: str, value: object) -> int:
    check_integer(name, value, 0, 2**20)
    return value  # type: ignore[return-value]


def key_exchange(name: str, value: Any) -> tuple[str, ...]:
    names = tuple(check_items(name, value, "names"))
    if names != ("x25519",):
        raise ConfigError(f'{name} can only be ["x25519"], not {shown(value)}')
    return names


def size(name: str, value: object) -> int:
    check_integer(name, value, 0)
    return value  # type: ignore[return-value]


def linger(name: str, value: object) -> float | None:
    return check_seconds(name, value, none=True, zero=True)


def relays(name: str, value: Any) -> RelayMap | None:
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


def proxy(name: str, value: object) -> _proxies.Proxy | None:
    if value is None or isinstance(value, _proxies.Proxy):
        return value
    if not isinstance(value, str):
        raise ConfigError(f"{name} is the URL of an HTTP proxy, not {kind_of(value)}")
    try:
        return _proxies.Proxy.parse(value)
    except DialError as error:
        raise ConfigError(f"{name} is the URL of an HTTP proxy: {error}") from error


def ca(name: str, value: object) -> _ca_config.CaConfig | ssl.SSLContext | None:
    if value is not None and not isinstance(value, (_ca_config.CaConfig, ssl.SSLContext)):
        raise ConfigError(
            f"{name} is a CaConfig, an ssl.SSLContext or None, not {shown(value)}; "
            "CaConfig(extra=[pem]) trusts a certificate of your own"
        )
    return value


def home_policy(name: str, value: Any) -> HomePolicy | None:
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


def lookups(name: str, value: Any) -> tuple[_lookup.AddressLookupLike, ...]:
    if value is None:
        return ()
    if hasattr(value, "into_address_lookup") or hasattr(value, "resolve"):
        raise ConfigError(f"{name} is a list of address lookup services: write [{shown(value)}]")
    given = check_items(name, value, "address lookup services")
    return tuple(_lookup.check_service(name, service) for service in given)


def addr_filter(name: str, value: Any) -> _filters.AddrFilter | None:
    if inspect.iscoroutinefunction(value):
        raise ConfigError(f"{name} is a plain function, not an async one")
    return None if value is None else _filters.as_filter(value, name)


def portmapper(name: str, value: Any) -> tuple[_portmap.ProtocolName, ...] | None:
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


def user_data(name: str, value: Any) -> str | None:
    return None if value is None else _info.check_user_data(value)


def dns_resolver(name: str, value: Any) -> _resolver.DnsResolver | None:
    return None if value is None else _resolver.as_resolver(name, value)


def custom_transports(name: str, value: Any) -> tuple[_custom.CustomTransport, ...]:
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


def reports(name: str, value: Any) -> _report_config.NetReportConfig | bool:
    if isinstance(value, bool) or isinstance(value, _report_config.NetReportConfig):
        return value
    raise ConfigError(
        f"{name} is a NetReportConfig, True or False, not {shown(value)}; "
        "False makes no net reports"
    )


def path_selector(name: str, value: Any) -> _selection.PathSelector | None:
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
