"""Options of endpoints and of their QUIC connections.

All classes here are plain data.  Values are checked when an object is made, so a wrong
option fails at the line that wrote it and not in the middle of a handshake.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ._check import check_flag, check_integer
from .errors import ConfigError
from .net.bind import BindAddr, BindAddrLike, plan_sockets
from .quic.config import AckFrequencyConfig, MtuDiscoveryConfig, QuicTransportConfig

if TYPE_CHECKING:
    from .addr import SocketAddr
    from .hooks import EndpointHooks
    from .keys import SecretKey

__all__ = [
    "AckFrequencyConfig",
    "BindAddr",
    "BindAddrLike",
    "EndpointConfig",
    "MtuDiscoveryConfig",
    "Preset",
    "QuicTransportConfig",
    "ServerConfig",
    "plan_sockets",
]


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


def check_alpns(alpns: Iterable[bytes]) -> tuple[bytes, ...]:
    """Check a list of protocol names: each 1..255 bytes, in order of preference."""
    if isinstance(alpns, (bytes, bytearray, str)):
        raise ConfigError(f"alpns is a list of protocol names, not the single value {alpns!r}")
    checked = []
    for alpn in alpns:
        if not isinstance(alpn, (bytes, bytearray, memoryview)):
            raise ConfigError(f"an ALPN is bytes, not {alpn!r}")
        alpn = bytes(alpn)
        if not 1 <= len(alpn) <= 255:
            raise ConfigError(f"an ALPN has 1 to 255 bytes; {alpn[:16]!r} has {len(alpn)}")
        checked.append(alpn)
    return tuple(checked)


_NOT_YET = "{} is not part of this version yet; leave it out"


@dataclass(slots=True, kw_only=True)
class EndpointConfig:
    """Options of :meth:`Endpoint.bind`, reusable and changed by presets.

    Parameters
    ----------
    secret_key : identity; None makes a new random one.
    alpns : protocols to accept, in order of preference; empty accepts nothing: attempts are
        not answered at all.
    bind_addrs : sockets to open, see :class:`BindAddr`; empty means ``0.0.0.0:0`` (required)
        and ``[::]:0`` (if the machine has IPv6).
    external_addrs : extra addresses at which this endpoint can be reached, to advertise.
    transport : QUIC parameters of every connection.
    hooks : called in order, see :class:`iroh_fast.hooks.EndpointHooks`.
    keylog : write TLS secrets to the file named by ``SSLKEYLOGFILE``.
    max_tls_tickets : how many session tickets to keep for 0-RTT; 0 switches resumption off.
    relays : None, "default" (iroh's), "staging", or relays to use: URLs, RelayConfig, a
        RelayMap. The first one is the home relay. Needs ``iroh-fast[relay]``.
    proxy, proxy_from_env : HTTP proxy for connections to relays.
    ca : what to trust at relays: an ``ssl.SSLContext`` or a CaConfig; None is iroh's roots.
    address_lookup, extra_address_lookup, addr_filter, user_data, dns_resolver,
    portmapper, net_report, custom_transports, path_selector :
        not part of this version yet; any value other than the default raises ConfigError.
    """

    secret_key: SecretKey | None = None
    alpns: Sequence[bytes] = ()
    bind_addrs: Sequence[BindAddrLike] = ()
    ip_transports: bool = True
    external_addrs: Sequence[str | SocketAddr] = ()
    transport: QuicTransportConfig = field(default_factory=QuicTransportConfig)
    hooks: Sequence[EndpointHooks] = ()
    keylog: bool = False
    max_tls_tickets: int = 256
    key_exchange: Sequence[str] = ("x25519",)
    relays: object = None
    address_lookup: object = ()
    extra_address_lookup: object = ()
    addr_filter: object = None
    user_data: str | None = None
    dns_resolver: object = None
    proxy: str | None = None
    proxy_from_env: bool = False
    ca: object = None
    portmapper: object = False
    net_report: object = None
    custom_transports: object = ()
    path_selector: object = None

    def merge(self, other: EndpointConfig) -> None:
        """Take over every field of `other` that differs from its default."""
        base = EndpointConfig()
        for item in dataclasses.fields(self):
            value = getattr(other, item.name)
            if value != getattr(base, item.name):
                setattr(self, item.name, value)

    def apply(self, preset: Preset) -> None:
        """Apply one preset, or several in order."""
        if isinstance(preset, EndpointConfig):
            self.merge(preset)
        elif callable(preset):
            preset(self)
        else:
            for part in preset:
                self.apply(part)

    def check(self) -> None:
        """Raise :class:`ConfigError` for options that are wrong or not available."""
        self.alpns = check_alpns(self.alpns)
        if not isinstance(self.transport, QuicTransportConfig):
            raise ConfigError(f"transport is a QuicTransportConfig, not {self.transport!r}")
        if isinstance(self.bind_addrs, (str, BindAddr)) or (
            isinstance(self.bind_addrs, tuple)
            and len(self.bind_addrs) == 2
            and isinstance(self.bind_addrs[1], int)
        ):
            raise ConfigError(f"bind_addrs is a list of addresses, not {self.bind_addrs!r}")
        check_flag("keylog", self.keylog)
        check_integer("max_tls_tickets", self.max_tls_tickets, 0, 2**20)
        if tuple(self.key_exchange) != ("x25519",):
            raise ConfigError(f'key_exchange can only be ["x25519"], not {self.key_exchange!r}')
        if self.relays is None and not self.ip_transports:
            raise ConfigError("ip_transports=False without relays leaves no way to send")
        if self.relays is None and (self.proxy is not None or self.proxy_from_env):
            raise ConfigError("proxy is for connections to relays; give relays as well")
        for name in (
            "address_lookup",
            "extra_address_lookup",
            "addr_filter",
            "user_data",
            "dns_resolver",
            "portmapper",
            "net_report",
            "custom_transports",
            "path_selector",
        ):
            value = getattr(self, name)
            if value is not None and value is not False and value != () and value != []:
                raise ConfigError(_NOT_YET.format(name))


Preset: TypeAlias = (
    "Callable[[EndpointConfig], None] | EndpointConfig "
    "| Sequence[Callable[[EndpointConfig], None] | EndpointConfig]"
)
