"""IP addresses with a port."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Self

from .._check import is_integer, kind_of
from ..errors import AddrError
from .order import Ordered
from .postcard import PostcardReader, encode_varint

__all__ = ["SocketAddr"]

_U16_MAX: Final = 2**16 - 1
_U32_MAX: Final = 2**32 - 1

_parsed: Final = lru_cache(1024)(ip_address)  # sockets tell the same few addresses again and again

_OCTET = "(?:0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])"
# Text: `re` compiles and keeps them when they are first used, not with every import.
_V4: Final = rf"((?:{_OCTET}\.){{3}}{_OCTET}):([0-9]+)"
_V6: Final = r"\[([0-9A-Fa-f:.]+)(?:%([0-9]+))?\]:([0-9]+)"


def _number(digits: str, limit: int, text: str) -> int:
    """Read decimal digits, leading zeros allowed, without quadratic conversions."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > 10 or int(digits) > limit:
        raise AddrError(f"number out of range in socket address {text[:80]!r}")
    return int(digits)


@dataclass(frozen=True, slots=True)
class SocketAddr(Ordered):
    """An IP address with a UDP port.

    Ordered as in iroh: IPv4 before IPv6, then address, port, scope.

    Parameters
    ----------
    ip : IPv4Address or IPv6Address
        A scope within an `IPv6Address` must be a number and moves to `scope_id`.
    port : int
        0 to 65535.
    scope_id : int
        Interface index of a link-local IPv6 address, 0 for none; 32 bits.

    Raises
    ------
    AddrError
        A number is out of range, or a scope is given with IPv4.
    """

    ip: IPv4Address | IPv6Address
    port: int
    scope_id: int = 0

    def __post_init__(self) -> None:
        ip = self.ip
        if not isinstance(ip, (IPv4Address, IPv6Address)):
            raise TypeError(f"ip must be an IPv4Address or IPv6Address, not {type(ip).__name__}")
        if isinstance(ip, IPv6Address) and ip.scope_id is not None:
            scope = ip.scope_id
            if not (scope.isascii() and scope.isdigit()):
                raise AddrError(f"scope {scope!r} is not a number")
            object.__setattr__(self, "ip", IPv6Address(int(ip)))
            object.__setattr__(self, "scope_id", _number(scope, _U32_MAX, str(ip)))
        if not is_integer(self.port):
            raise TypeError(f"port is an integer, not {kind_of(self.port)}")
        if not is_integer(self.scope_id):
            raise TypeError(f"scope_id is an integer, not {kind_of(self.scope_id)}")
        if not 0 <= self.port <= _U16_MAX:
            raise AddrError(f"port {self.port} is not in 0..65535")
        if not 0 <= self.scope_id <= _U32_MAX:
            raise AddrError(f"scope id {self.scope_id} does not fit into 32 bits")
        if self.scope_id and isinstance(ip, IPv4Address):
            raise AddrError("an IPv4 address has no scope")

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Parse ``1.2.3.4:5``, ``[::1]:5`` or ``[fe80::1%3]:5``.

        Raises
        ------
        AddrError
            Anything else: host names, short forms, leading zeros in an octet, blanks,
            named scopes.
        """
        if not isinstance(text, str):
            raise TypeError(f"a socket address is parsed from str, not {kind_of(text)}")
        if match := re.fullmatch(_V4, text):
            return cls(IPv4Address(match[1]), _number(match[2], _U16_MAX, text))
        if match := re.fullmatch(_V6, text):
            try:
                ip = IPv6Address(match[1])
            except ValueError:
                raise AddrError(f"not an IPv6 address: {match[1][:80]!r}") from None
            return cls(
                ip, _number(match[3], _U16_MAX, text), _number(match[2] or "0", _U32_MAX, text)
            )
        raise AddrError(f"not a socket address: {text[:80]!r}")

    @classmethod
    def from_tuple(cls, address: Sequence[Any], /) -> Self:
        """Make an address from what the `socket` module returns.

        Parameters
        ----------
        address : tuple
            ``(host, port)`` or ``(host, port, flowinfo, scope_id)``.

        Raises
        ------
        TypeError, AddrError
        """
        if not isinstance(address, (tuple, list)) or len(address) not in (2, 3, 4):
            raise TypeError(
                f"a socket address is a tuple of (host, port), not {kind_of(address)}"
            )
        host = str(address[0])
        try:
            ip = _parsed(host.partition("%")[0])
        except ValueError:
            raise AddrError(f"not an IP address: {host[:80]!r}") from None
        scope = int(address[3]) if len(address) > 3 else 0
        return cls(ip, int(address[1]), scope)

    def as_tuple(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return the form the `socket` module takes."""
        if isinstance(self.ip, IPv4Address):
            return str(self.ip), self.port
        return str(self.ip), self.port, 0, self.scope_id

    def __str__(self) -> str:
        ip = self.ip
        if isinstance(ip, IPv4Address):
            return f"{ip}:{self.port}"
        # RFC 5952 §5; Python prints mapped addresses in hex before 3.13.
        host = f"::ffff:{ip.ipv4_mapped}" if ip.ipv4_mapped is not None else str(ip)
        scope = f"%{self.scope_id}" if self.scope_id else ""
        return f"[{host}{scope}]:{self.port}"

    def _key(self) -> tuple[int, int, int, int]:
        return self.ip.version, int(self.ip), self.port, self.scope_id

    def to_postcard(self) -> bytes:
        """Encode; the scope is not carried."""
        family = b"\x00" if self.ip.version == 4 else b"\x01"
        return family + self.ip.packed + encode_varint(self.port)

    @classmethod
    def _read(cls, reader: PostcardReader) -> Self:
        family = reader.varint(32)
        if family > 1:
            raise AddrError(f"unknown IP family {family}")
        ip = IPv6Address(reader.take(16)) if family else IPv4Address(reader.take(4))
        return cls(ip, reader.varint(16))
