"""One way to reach an endpoint, of whatever kind."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Any, Final, Self, TypeAlias

from .._check import Buffer, is_integer, kind_of
from ..errors import AddrError, CustomAddrError
from ..keys import as_bytes
from .order import Ordered
from .postcard import PostcardReader, encode_varint
from .relay_url import RelayUrl
from .sockets import SocketAddr

__all__ = ["CustomAddr", "IpAddr", "JsonValue", "RelayAddr", "TransportAddr", "TransportId"]

JsonValue: TypeAlias = None | bool | int | float | str | list[Any] | dict[str, Any]
"""What `json.loads` returns."""

_U64_MAX: Final = 2**64 - 1


class TransportAddr(Ordered):
    """One way to reach an endpoint: `RelayAddr`, `IpAddr` or `CustomAddr`.

    Ordered as in iroh: relays, then IP addresses, then custom ones.  More kinds may
    come; test with the predicates, not by exclusion.
    """

    __slots__ = ()

    @property
    def is_relay(self) -> bool:
        """True for a `RelayAddr`."""
        return isinstance(self, RelayAddr)

    @property
    def is_ip(self) -> bool:
        """True for an `IpAddr`."""
        return isinstance(self, IpAddr)

    @property
    def is_custom(self) -> bool:
        """True for a `CustomAddr`."""
        return isinstance(self, CustomAddr)

    def to_postcard(self) -> bytes:
        """Encode with the kind in front."""
        raise NotImplementedError

    def to_json(self) -> dict[str, JsonValue]:
        """Return a value for `json.dumps`, of the shape serde uses."""
        raise NotImplementedError

    @staticmethod
    def from_json(value: JsonValue, /) -> TransportAddr:
        """Make an address from what `to_json` returned.

        Raises
        ------
        AddrError, RelayUrlError, CustomAddrError
            The value has another shape, or holds an invalid address.
        """
        if not isinstance(value, dict) or len(value) != 1:
            raise AddrError("a transport address is an object with one key")
        ((kind, inner),) = value.items()
        if kind == "Relay" and isinstance(inner, str):
            return RelayAddr(RelayUrl(inner))
        if kind == "Ip" and isinstance(inner, str):
            return IpAddr(SocketAddr.parse(inner))
        if kind == "Custom" and isinstance(inner, dict):
            number, data = inner.get("id"), inner.get("data")
            if type(number) is int and isinstance(data, list) and all(
                type(item) is int and 0 <= item <= 255 for item in data
            ):
                return CustomAddr(number, bytes(data))
        raise AddrError(f"not a transport address: kind {str(kind)[:40]!r}")

    @staticmethod
    def _read(reader: PostcardReader) -> TransportAddr:
        kind = reader.varint(32)
        if kind == 0:
            try:
                return RelayAddr(RelayUrl(reader.sized().decode("utf-8")))
            except UnicodeDecodeError:
                raise AddrError("relay URL is not UTF-8") from None
        if kind == 1:
            return IpAddr(SocketAddr._read(reader))
        if kind == 2:
            return CustomAddr(reader.varint(64), reader.sized())
        raise AddrError(f"unknown kind of transport address {kind}")



@dataclass(frozen=True, slots=True)
class RelayAddr(TransportAddr):
    """Reachable through a relay.

    Parameters
    ----------
    url : RelayUrl
        Its home relay; other text is normalised.  A user, a password or a ``token=...`` in it
        is dropped: addresses and tickets are given away and stand in logs.  A token belongs
        into the `relays` of whoever dials.
    """

    url: RelayUrl

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", RelayUrl(self.url).without_credentials())

    def __str__(self) -> str:
        return f"relay:{self.url}"

    def to_postcard(self) -> bytes:
        """Encode with the kind in front."""
        text = self.url.encode("utf-8")
        return b"\x00" + encode_varint(len(text)) + text

    def to_json(self) -> dict[str, JsonValue]:
        """Return ``{"Relay": url}``."""
        return {"Relay": str(self.url)}

    def _key(self) -> tuple[Any, ...]:
        return 0, self.url


@dataclass(frozen=True, slots=True)
class IpAddr(TransportAddr):
    """Reachable directly by UDP.

    Parameters
    ----------
    addr : SocketAddr
        Where.
    """

    addr: SocketAddr

    def __post_init__(self) -> None:
        if not isinstance(self.addr, SocketAddr):
            raise TypeError(f"addr must be a SocketAddr, not {type(self.addr).__name__}")

    def __str__(self) -> str:
        return f"ip:{self.addr}"

    def to_postcard(self) -> bytes:
        """Encode with the kind in front; the scope is not carried."""
        return b"\x01" + self.addr.to_postcard()

    def to_json(self) -> dict[str, JsonValue]:
        """Return ``{"Ip": text}``."""
        return {"Ip": str(self.addr)}

    def _key(self) -> tuple[Any, ...]:
        return 1, self.addr


_LOWER_HEX: Final = r"(?:[0-9a-f]{2})*"
_ANY_HEX: Final = r"[0-9A-Fa-f]+"


class TransportId(enum.IntEnum):
    """Numbers of custom transports that are given out; 0 to 0x1f are reserved.

    Whoever makes a transport for others picks a number at random, or asks iroh's registry for one.
    """

    TEST = 0x20
    """For tests; addresses are keys of endpoints, 32 bytes."""

    TOR = 0x544F52
    """Onion services; addresses are their keys, 32 bytes."""

    BLE = 0x424C45
    """Bluetooth Low Energy; addresses are of devices, 6 bytes."""


@dataclass(frozen=True, slots=True)
class CustomAddr(TransportAddr):
    """An address of a custom transport.

    Parameters
    ----------
    id : int
        Number of the transport, 64 bits, see :class:`TransportId`.
    data : bytes
        Address in that transport's own form.

    Raises
    ------
    CustomAddrError
        The id does not fit into 64 bits.

    Notes
    -----
    Wire: the postcard layout used since iroh 1.1; earlier ones cannot be told apart
    and are not read.
    """

    id: int
    data: bytes

    def __post_init__(self) -> None:
        if not is_integer(self.id):
            raise TypeError(f"id is an integer, not {kind_of(self.id)}")
        if not 0 <= self.id <= _U64_MAX:
            raise CustomAddrError(f"transport id {self.id:#x} does not fit into 64 bits", reason="id")
        object.__setattr__(self, "data", as_bytes(self.data))

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Parse ``<id in hex>_<data in lower-case hex>``, as `to_text` gives it.

        Raises
        ------
        CustomAddrError
            `reason` tells which part is wrong.
        """
        if not isinstance(text, str):
            raise TypeError(f"a custom address is parsed from str, not {kind_of(text)}")
        number, separator, data = text.partition("_")
        if not separator:
            raise CustomAddrError("no _ in custom address", reason="separator")
        if not re.fullmatch(_ANY_HEX, number) or len(number.lstrip("0")) > 16:
            raise CustomAddrError(f"bad transport id {number[:40]!r}", reason="id")
        if not re.fullmatch(_LOWER_HEX, data):
            raise CustomAddrError("bad data in custom address", reason="data")
        return cls(int(number, 16), bytes.fromhex(data))

    @classmethod
    def from_bytes(cls, data: Buffer, /) -> Self:
        """Read 8 bytes of little-endian id followed by the data.

        Raises
        ------
        CustomAddrError
            Fewer than 8 bytes.
        """
        raw = as_bytes(data)
        if len(raw) < 8:
            raise CustomAddrError("data too short", reason="length")
        return cls(int.from_bytes(raw[:8], "little"), raw[8:])

    def to_bytes(self) -> bytes:
        """Return 8 bytes of little-endian id followed by the data."""
        return self.id.to_bytes(8, "little") + self.data

    def to_text(self) -> str:
        """Return ``<id in hex>_<data in hex>``; ``str()`` puts ``custom:`` in front."""
        return f"{self.id:x}_{self.data.hex()}"

    def __str__(self) -> str:
        return f"custom:{self.to_text()}"

    def to_postcard(self) -> bytes:
        """Encode with the kind in front."""
        return b"\x02" + encode_varint(self.id) + encode_varint(len(self.data)) + self.data

    def to_json(self) -> dict[str, JsonValue]:
        """Return ``{"Custom": {"id": number, "data": list of numbers}}``."""
        return {"Custom": {"id": self.id, "data": list(self.data)}}

    def _key(self) -> tuple[Any, ...]:
        # INTEROP: iroh keeps up to 30 bytes inline with the size in front and compares
        # that; longer data lives on the heap and compares as bytes, after the former.
        size = len(self.data)
        return (2, self.id, 0, size, self.data) if size <= 30 else (2, self.id, 1, 0, self.data)
