"""Options of endpoints and of their QUIC connections.

All classes here are plain data.  Values are checked when an object is made, so a wrong
option fails at the line that wrote it and not in the middle of a handshake.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .errors import ConfigError

if TYPE_CHECKING:
    from .addr import SocketAddr
    from .hooks import EndpointHooks
    from .keys import SecretKey

__all__ = [
    "AckFrequencyConfig",
    "BindAddr",
    "EndpointConfig",
    "MtuDiscoveryConfig",
    "Preset",
    "QuicTransportConfig",
    "ServerConfig",
]

VARINT_MAX = 2**62 - 1
MAX_STREAMS = 2**60  # RFC 9000 §4.6: a larger stream count cannot be encoded as an id
MIN_UDP_PAYLOAD = 1200  # RFC 9000 §14: every QUIC path carries at least this
MAX_UDP_PAYLOAD = 65527

Duration: TypeAlias = "float | timedelta"


def _seconds(name: str, value: object, *, none: bool = False, zero: bool = False) -> float | None:
    """Turn a duration option into seconds, or raise :class:`ConfigError`."""
    if value is None and none:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is a number of seconds or a timedelta, not {value!r}")
    seconds = float(value)
    if seconds == 0 and zero:
        return 0.0
    if not 0 < seconds <= VARINT_MAX / 1000:
        hint = "; None switches it off" if none else ""
        raise ConfigError(f"{name} must be a positive number of seconds, not {seconds!r}{hint}")
    return seconds


def _integer(
    name: str, value: object, low: int, high: int = VARINT_MAX, *, none: bool = False
) -> int | None:
    if value is None and none:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is an integer, not {value!r}")
    if not low <= value <= high:
        raise ConfigError(f"{name} must be between {low} and {high}, not {value}")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is True or False, not {value!r}")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class MtuDiscoveryConfig:
    """How a path looks for a larger datagram size (RFC 8899).

    Parameters
    ----------
    interval : seconds between two searches on a path that has reached its limit.
    upper_bound : largest UDP payload tried, bytes.
    black_hole_cooldown : seconds to wait after large datagrams stopped arriving.
    minimum_change : stop searching when the remaining interval is below this, bytes.
    """

    interval: float = 600.0
    upper_bound: int = 1452
    black_hole_cooldown: float = 60.0
    minimum_change: int = 20

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "interval", _seconds("mtu_discovery.interval", self.interval))
        _integer("mtu_discovery.upper_bound", self.upper_bound, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        put(
            self,
            "black_hole_cooldown",
            _seconds("mtu_discovery.black_hole_cooldown", self.black_hole_cooldown),
        )
        _integer("mtu_discovery.minimum_change", self.minimum_change, 1, MAX_UDP_PAYLOAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class AckFrequencyConfig:
    """What to ask of the peer's acknowledgements (QUIC ACK frequency draft).

    Parameters
    ----------
    ack_eliciting_threshold : packets the peer may receive without acknowledging at once.
    max_ack_delay : seconds the peer may wait, or None for its own announced delay.
    reordering_threshold : gap in packet numbers that asks for an immediate answer; 0 never.
    """

    ack_eliciting_threshold: int = 1
    max_ack_delay: float | None = None
    reordering_threshold: int = 2

    def __post_init__(self) -> None:
        _integer("ack_frequency.ack_eliciting_threshold", self.ack_eliciting_threshold, 0)
        object.__setattr__(
            self,
            "max_ack_delay",
            _seconds("ack_frequency.max_ack_delay", self.max_ack_delay, none=True),
        )
        _integer("ack_frequency.reordering_threshold", self.reordering_threshold, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuicTransportConfig:
    """QUIC parameters of a connection.

    Defaults are iroh's.  Durations are seconds (a ``timedelta`` is accepted and stored as
    seconds), sizes are bytes.  Use :func:`dataclasses.replace` or :meth:`replace` to derive
    a changed copy.

    Raises
    ------
    ConfigError : a value has the wrong type, is out of range, or is one that iroh would
        silently ignore (fewer paths, longer path timeouts or fewer NAT traversal addresses
        than hole punching needs).
    """

    max_concurrent_bidi_streams: int = 100
    max_concurrent_uni_streams: int = 100
    max_idle_timeout: float | None = 30.0
    stream_receive_window: int = 1_250_000
    receive_window: int = VARINT_MAX
    send_window: int = 10_000_000
    send_fairness: bool = True
    packet_threshold: int = 3
    time_threshold: float = 1.125
    initial_rtt: float = 0.333
    initial_mtu: int = 1200
    min_mtu: int = 1200
    mtu_discovery: MtuDiscoveryConfig | None = field(default_factory=MtuDiscoveryConfig)
    pad_to_mtu: bool = False
    ack_frequency: AckFrequencyConfig | None = None
    persistent_congestion_threshold: int = 3
    keep_alive_interval: float | None = 5.0
    crypto_buffer_size: int = 16 * 1024
    allow_spin: bool = True
    datagram_receive_buffer_size: int | None = 1_250_000
    datagram_send_buffer_size: int = 1024 * 1024
    congestion_controller: Literal["cubic", "newreno"] = "cubic"
    enable_segmentation_offload: bool = True
    send_observed_address_reports: bool = False
    receive_observed_address_reports: bool = False
    max_concurrent_multipath_paths: int = 8
    default_path_max_idle_timeout: float = 15.0
    default_path_keep_alive_interval: float = 5.0
    max_remote_nat_traversal_addresses: int = 32
    qlog_dir: str | None = None
    qlog_prefix: str = ""

    def __post_init__(self) -> None:
        put = object.__setattr__
        for name in ("max_concurrent_bidi_streams", "max_concurrent_uni_streams"):
            _integer(name, getattr(self, name), 0, MAX_STREAMS)
        for name in ("max_idle_timeout", "keep_alive_interval"):
            put(self, name, _seconds(name, getattr(self, name), none=True))
        for name in ("stream_receive_window", "receive_window", "send_window"):
            _integer(name, getattr(self, name), 1)
        for name in (
            "send_fairness",
            "pad_to_mtu",
            "allow_spin",
            "enable_segmentation_offload",
            "send_observed_address_reports",
            "receive_observed_address_reports",
        ):
            _flag(name, getattr(self, name))
        # RFC 9002 §6.1.1: below three, ordinary reordering counts as loss.
        _integer("packet_threshold", self.packet_threshold, 3)
        factor = self.time_threshold
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 < factor < 100:
            raise ConfigError(
                f"time_threshold is a multiple of the round-trip time above 1, not {factor!r}"
            )
        put(self, "initial_rtt", _seconds("initial_rtt", self.initial_rtt))
        _integer("min_mtu", self.min_mtu, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        _integer("initial_mtu", self.initial_mtu, MIN_UDP_PAYLOAD, MAX_UDP_PAYLOAD)
        if self.initial_mtu < self.min_mtu:
            raise ConfigError(
                f"initial_mtu {self.initial_mtu} is below min_mtu {self.min_mtu}: "
                "a path cannot start with less than its guaranteed size"
            )
        mtu = self.mtu_discovery
        if mtu is not None and not isinstance(mtu, MtuDiscoveryConfig):
            raise ConfigError(f"mtu_discovery is a MtuDiscoveryConfig or None, not {mtu!r}")
        frequency = self.ack_frequency
        if frequency is not None and not isinstance(frequency, AckFrequencyConfig):
            raise ConfigError(f"ack_frequency is an AckFrequencyConfig or None, not {frequency!r}")
        _integer("persistent_congestion_threshold", self.persistent_congestion_threshold, 1, 2**31)
        # RFC 9000 §7.5: an endpoint must be able to buffer 4096 bytes of handshake data.
        _integer("crypto_buffer_size", self.crypto_buffer_size, 4096, 2**31)
        _integer(
            "datagram_receive_buffer_size", self.datagram_receive_buffer_size, 1, 2**62, none=True
        )
        _integer("datagram_send_buffer_size", self.datagram_send_buffer_size, 1)
        if self.congestion_controller not in ("cubic", "newreno"):
            raise ConfigError(
                f'congestion_controller is "cubic" or "newreno", not {self.congestion_controller!r}'
            )
        _integer("max_concurrent_multipath_paths", self.max_concurrent_multipath_paths, 0, 2**31)
        if self.max_concurrent_multipath_paths < 8:
            raise ConfigError(
                "max_concurrent_multipath_paths must be at least 8, "
                f"not {self.max_concurrent_multipath_paths}: hole punching needs that many"
            )
        for name, limit in (
            ("default_path_max_idle_timeout", 15.0),
            ("default_path_keep_alive_interval", 5.0),
        ):
            seconds = _seconds(name, getattr(self, name))
            assert seconds is not None
            if seconds > limit:
                raise ConfigError(
                    f"{name} must be at most {limit:g} seconds, not {seconds:g}: "
                    "dead paths would hold up the switch to a working one"
                )
            put(self, name, seconds)
        _integer(
            "max_remote_nat_traversal_addresses", self.max_remote_nat_traversal_addresses, 0, 255
        )
        if self.max_remote_nat_traversal_addresses < 8:
            raise ConfigError(
                "max_remote_nat_traversal_addresses must be at least 8, "
                f"not {self.max_remote_nat_traversal_addresses}: hole punching needs that many"
            )
        if self.qlog_dir is not None:
            directory = os.fspath(self.qlog_dir)
            if not isinstance(directory, str):
                raise ConfigError(f"qlog_dir is a text path, not {directory!r}")
            put(self, "qlog_dir", directory)
        if not isinstance(self.qlog_prefix, str):
            raise ConfigError(f"qlog_prefix is text, not {self.qlog_prefix!r}")

    def replace(self, **changes: Any) -> QuicTransportConfig:
        """Return a copy with some fields changed; the copy is checked like a new object."""
        return dataclasses.replace(self, **changes)

    def with_qlog_from_env(self, prefix: str = "") -> QuicTransportConfig:
        """Return a copy that writes qlog files into ``$QLOGDIR``, or self when it is unset."""
        directory = os.environ.get("QLOGDIR")
        if not directory:
            return self
        return dataclasses.replace(self, qlog_dir=directory, qlog_prefix=prefix)


@dataclass(frozen=True, slots=True)
class BindAddr:
    """One UDP socket to open.

    Parameters
    ----------
    host : IPv4 or IPv6 address as text, never a name; ``%<number>`` selects an IPv6 scope.
    port : 0..65535; 0 lets the system choose.
    prefix_len : the socket serves destinations in this subnet of ``host``; 0 is everything.
    required : False lets the endpoint start when this address cannot be bound.
    default_route : serve destinations no other socket matches; None means
        ``prefix_len == 0``.  At most one such address per family.
    """

    host: str
    port: int = 0
    prefix_len: int = 0
    required: bool = True
    default_route: bool | None = None

    def __post_init__(self) -> None:
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError as error:
            raise ConfigError(
                f"bind address {self.host!r} is not an IP address; names are not resolved"
            ) from error
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise ConfigError(f"port is an integer, not {self.port!r}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be between 0 and 65535, not {self.port}")
        if not isinstance(self.prefix_len, int) or not 0 <= self.prefix_len <= ip.max_prefixlen:
            raise ConfigError(
                f"prefix length of an IPv{ip.version} address must be between 0 and "
                f"{ip.max_prefixlen}, not {self.prefix_len!r}"
            )
        if self.default_route is None:
            object.__setattr__(self, "default_route", self.prefix_len == 0)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    @classmethod
    def parse(cls, value: BindAddrLike) -> BindAddr:
        """Read ``"1.2.3.4:5"``, ``"[::1]:0"``, ``(host, port)``, a SocketAddr or a BindAddr."""
        if isinstance(value, BindAddr):
            return value
        if isinstance(value, str):
            host, colon, port = value.rpartition(":")
            if host.startswith("[") and host.endswith("]"):
                host = host[1:-1]
                if ":" not in host:
                    raise ConfigError(f"bind address {value!r}: brackets are for IPv6")
            elif ":" in host:
                raise ConfigError(f"bind address {value!r}: write IPv6 as [address]:port")
            if not colon or not (port.isascii() and port.isdigit() and len(port) <= 6):
                raise ConfigError(f"bind address {value!r} is not of the form address:port")
            return cls(host, int(port))
        if isinstance(value, tuple):
            if len(value) == 2:
                return cls(str(value[0]), value[1])
            raise ConfigError(f"bind address {value!r} is not a (host, port) pair")
        ip = getattr(value, "ip", None)
        if isinstance(ip, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            host = str(ip)
            if value.scope_id and "%" not in host:
                host += f"%{value.scope_id}"
            return cls(host, value.port)
        raise ConfigError(f"bind address {value!r} is not an address")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.version == 6 else f"{self.host}:{self.port}"


BindAddrLike: TypeAlias = "str | tuple[str, int] | SocketAddr | BindAddr"


def plan_sockets(addrs: Iterable[BindAddrLike]) -> list[BindAddr]:
    """Work out which sockets to open for the addresses a user gave.

    The built-in wildcard socket of a family is replaced by a default-route address of that
    family and kept otherwise: an IPv4 address alone still opens ``[::]:0``.

    Raises
    ------
    ConfigError : two default-route addresses of one family.
    """
    chosen = [BindAddr.parse(addr) for addr in addrs]
    routes: dict[int, BindAddr] = {}
    for addr in chosen:
        if addr.default_route:
            other = routes.setdefault(addr.version, addr)
            if other is not addr:
                raise ConfigError(
                    f"{other} and {addr} are both default-route addresses of IPv{addr.version}; "
                    "give one of them a prefix length"
                )
    builtin = [
        BindAddr(host, 0, required=required)
        for host, required, version in (("0.0.0.0", True, 4), ("::", False, 6))
        if version not in routes
    ]
    return chosen + builtin


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
        _flag("keylog", self.keylog)
        _integer("max_tls_tickets", self.max_tls_tickets, 0, 2**20)
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
