"""Which sockets an endpoint opens."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from .._check import check_flag, check_integer, kind_of, shown
from ..addr import SocketAddr
from ..errors import ConfigError

__all__ = ["BindAddr", "BindAddrLike", "plan_sockets"]


@dataclass(frozen=True, slots=True)
class BindAddr:
    """One UDP socket to open.

    Parameters
    ----------
    host : IPv4 or IPv6 address as text, never a name; ``%eth0`` or ``%2`` selects
        the interface of a link-local IPv6 address.
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
        if not isinstance(self.host, str):
            raise ConfigError(f"host is an IP address as text, not {kind_of(self.host)}")
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError as error:
            raise ConfigError(
                f"host {self.host[:80]!r} is not an IP address; names are not resolved"
            ) from error
        check_integer("port", self.port, 0, 65535)
        check_integer(
            f"prefix_len of an IPv{ip.version} address", self.prefix_len, 0, ip.max_prefixlen
        )
        check_flag("required", self.required)
        if self.default_route is None:
            object.__setattr__(self, "default_route", self.prefix_len == 0)
        check_flag("default_route", self.default_route)

    @property
    def is_default(self) -> bool:
        """Whether destinations go here that no other socket matches."""
        return self.prefix_len == 0 if self.default_route is None else self.default_route

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
                    raise ConfigError(f"bind address {shown(value)}: brackets are for IPv6")
            elif ":" in host:
                raise ConfigError(f"bind address {shown(value)}: write IPv6 as [address]:port")
            if not colon or not (port.isascii() and port.isdigit() and len(port) <= 6):
                raise ConfigError(f"bind address {shown(value)} is not of the form address:port")
            return cls(host, int(port))
        if isinstance(value, tuple):
            if len(value) == 2:
                return cls(value[0], value[1])
            raise ConfigError(f"bind address {shown(value)} is not a (host, port) pair")
        ip = getattr(value, "ip", None)
        if isinstance(ip, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
            host = str(ip)
            if value.scope_id and "%" not in host:
                host += f"%{value.scope_id}"
            return cls(host, value.port)
        raise ConfigError(f"{shown(value)} is not an address")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.version == 6 else f"{self.host}:{self.port}"


BindAddrLike: TypeAlias = str | tuple[str, int] | SocketAddr | BindAddr


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
