"""Socket, transport, relay and endpoint addresses, with their text, JSON and postcard forms.

All types are immutable, hashable, ordered and picklable.  Parsers are as strict as
iroh's, since what one side accepts and normalises the other must compare equal to.
Postcard is the compact serde encoding that tickets are made of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Self, TypeAlias

from ._check import Buffer
from .errors import AddrError, CustomAddrError, KeyParsingError, RelayUrlError
from .keys import EndpointId, PublicKey, as_bytes

__all__ = [
    "CustomAddr",
    "EndpointAddr",
    "IpAddr",
    "RelayAddr",
    "RelayUrl",
    "SocketAddr",
    "TransportAddr",
]

JsonValue: TypeAlias = None | bool | int | float | str | list[Any] | dict[str, Any]
"""What `json.loads` returns."""

_parsed: Final = lru_cache(1024)(ip_address)  # sockets tell the same few addresses again and again

_U16_MAX: Final = 2**16 - 1
_U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1


# --- postcard ---------------------------------------------------------------------


class PostcardReader:
    """Cursor over postcard bytes from the network.

    Every method raises `AddrError` when the bytes are cut short or out of range and
    never allocates by an announced size.

    Attributes
    ----------
    data : bytes
        The whole input.
    offset : int
        Index of the next byte.
    """

    __slots__ = ("data", "offset")

    def __init__(self, data: Buffer) -> None:
        self.data = as_bytes(data)
        self.offset = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self.offset + size
        if end > len(self.data):
            raise AddrError(f"cut short at byte {len(self.data)}, {size} bytes expected at {self.offset}")
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk

    def varint(self, bits: int) -> int:
        """Return the next little-endian base-128 number of at most `bits` bits.

        Overlong encodings pass as long as they keep to ceil(bits / 7) bytes, as in
        the Rust decoder.
        """
        start, data = self.offset, self.data
        value = shift = 0
        while shift < bits:
            if self.offset >= len(data):
                raise AddrError(f"number cut short at byte {self.offset}")
            byte = data[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value
            shift += 7
        raise AddrError(f"number at byte {start} does not fit into {bits} bits")

    def sized(self) -> bytes:
        """Return the next byte string with a length in front."""
        return self.take(self.varint(64))


def encode_varint(value: int) -> bytes:
    """Encode a number >= 0 as little-endian base 128, as short as possible."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# --- socket addresses -------------------------------------------------------------

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
class SocketAddr:
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
        """
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

    def __lt__(self, other: SocketAddr) -> bool:
        return self._key() < other._key() if isinstance(other, SocketAddr) else NotImplemented

    def __le__(self, other: SocketAddr) -> bool:
        return self._key() <= other._key() if isinstance(other, SocketAddr) else NotImplemented

    def __gt__(self, other: SocketAddr) -> bool:
        return self._key() > other._key() if isinstance(other, SocketAddr) else NotImplemented

    def __ge__(self, other: SocketAddr) -> bool:
        return self._key() >= other._key() if isinstance(other, SocketAddr) else NotImplemented

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


# --- relay URLs -------------------------------------------------------------------

_SPECIAL_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21}

# URLs that normalising leaves as they are, but for a missing last slash.  A last label
# that starts with a letter cannot be an IPv4 number.  Saves loading the URL parser.
_PLAIN_URL: Final = (
    r"(https?)://((?:[a-z0-9][a-z0-9-]*\.)*[a-z][a-z0-9-]*\.?)(?::([1-9][0-9]{0,3}))?/?"
)
_CREDENTIALS: Final = r"^([a-z][a-z0-9+.-]*://)[^/?#]*@"
_NORMAL_URL: Final = (
    r"(?s)([a-z][a-z0-9+.-]*):(?://(?:[^/?#]*@)?(\[[^\]]*\]|[^/?#:]*)(?::([0-9]+))?)?.*"
)


def _normalise_url(text: str) -> str:
    match = re.fullmatch(_PLAIN_URL, text)
    if match and "xn--" not in match[2] and match[3] != str(_SPECIAL_PORTS[match[1]]):
        return text if text.endswith("/") else text + "/"
    import ada_url  # late: loading it takes longer than everything else here

    try:
        href: str = ada_url.URL(text).href
    except ValueError as err:  # also a lone surrogate
        raise RelayUrlError(f"not an absolute URL: {text[:80]!r}", text=text) from err
    return href


class RelayUrl(str):
    """The URL of a relay server: a `str` holding the normalised text.

    Two relays are the same exactly when these texts are equal, so normalising follows
    the WHATWG URL standard to the letter.  The scheme is not limited here.

    Parameters
    ----------
    url : str
        An absolute URL.

    Raises
    ------
    RelayUrlError
        Not an absolute URL by the WHATWG rules.

    Notes
    -----
    ``https://host.`` and ``https://host`` are different relays.  The trailing dot is
    recommended: it keeps resolvers from trying search domains.
    """

    __slots__ = ()

    def __new__(cls, url: str, /) -> Self:
        if isinstance(url, cls):
            return url
        if not isinstance(url, str):
            raise TypeError(f"a relay URL is made from str, not {type(url).__name__}")
        return super().__new__(cls, _normalise_url(str(url)))

    def _part(self, index: int) -> str | None:
        match = re.fullmatch(_NORMAL_URL, self)
        assert match is not None  # every normalised URL has a scheme
        part: str | None = match[index]
        return part

    @property
    def scheme(self) -> str:
        """The scheme without colon, lower case."""
        return self._part(1) or ""

    @property
    def host(self) -> str:
        """Host name as in the URL (a trailing dot stays), or an IP without brackets."""
        return (self._part(2) or "").strip("[]")

    @property
    def port(self) -> int | None:
        """Port, also when it is the default one of the scheme; None when unknown."""
        port = self._part(3)
        return int(port) if port is not None else _SPECIAL_PORTS.get(self.scheme)

    def without_credentials(self) -> RelayUrl:
        """The same without user and password, as it may be shown to others."""
        bare = re.sub(_CREDENTIALS, r"\1", self, count=1)
        return self if bare == self else RelayUrl(bare)

    def __str__(self) -> str:
        return str.__str__(self)

    def __repr__(self) -> str:
        quoted = self.replace("\\", "\\\\").replace('"', '\\"')
        return f'RelayUrl("{quoted}")'


# --- transport addresses ----------------------------------------------------------


class TransportAddr:
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

    def _key(self) -> tuple[Any, ...]:
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

    def __lt__(self, other: TransportAddr) -> bool:
        return self._key() < other._key() if isinstance(other, TransportAddr) else NotImplemented

    def __le__(self, other: TransportAddr) -> bool:
        return self._key() <= other._key() if isinstance(other, TransportAddr) else NotImplemented

    def __gt__(self, other: TransportAddr) -> bool:
        return self._key() > other._key() if isinstance(other, TransportAddr) else NotImplemented

    def __ge__(self, other: TransportAddr) -> bool:
        return self._key() >= other._key() if isinstance(other, TransportAddr) else NotImplemented


@dataclass(frozen=True, slots=True)
class RelayAddr(TransportAddr):
    """Reachable through a relay.

    Parameters
    ----------
    url : RelayUrl
        Its home relay; other text is normalised.
    """

    url: RelayUrl

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", RelayUrl(self.url))

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


@dataclass(frozen=True, slots=True)
class CustomAddr(TransportAddr):
    """An address of a custom transport.

    Parameters
    ----------
    id : int
        Number of the transport, 64 bits.
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


# --- endpoint addresses -----------------------------------------------------------


AddrLike: TypeAlias = TransportAddr | SocketAddr | RelayUrl | str
"""An address, or its text: ``1.2.3.4:5`` or the URL of a relay."""


def _as_transport_addr(value: AddrLike) -> TransportAddr:
    if isinstance(value, TransportAddr):
        return value
    if isinstance(value, SocketAddr):
        return IpAddr(value)
    if isinstance(value, RelayUrl):
        return RelayAddr(value)
    if isinstance(value, str):
        if "://" in value:
            return RelayAddr(RelayUrl(value))
        return IpAddr(SocketAddr.parse(value))
    raise TypeError(
        "an address is a TransportAddr, SocketAddr, RelayUrl or text like 1.2.3.4:5, "
        f"not {type(value).__name__}"
    )


def _as_transport_addrs(values: Iterable[AddrLike]) -> set[TransportAddr]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"addrs is a list of addresses, not {type(values).__name__}")
    return {_as_transport_addr(value) for value in values}


class EndpointAddr:
    """The id of an endpoint and ways to reach it.  Immutable.

    Parameters
    ----------
    id : EndpointId or str or Buffer
        The endpoint; text and bytes are parsed.
    addrs : iterable of TransportAddr, SocketAddr or RelayUrl
        Ways to reach it, in any order; duplicates are dropped.
    relay_url : RelayUrl or str, optional
        Home relay, added to `addrs`.
    ip_addrs : iterable of SocketAddr or str
        Direct addresses, added to `addrs`.

    Raises
    ------
    KeyParsingError, RelayUrlError, AddrError
        Text that does not parse.
    """

    __slots__ = ("_addrs", "_id")
    _id: EndpointId
    _addrs: tuple[TransportAddr, ...]

    def __init__(
        self,
        id: EndpointId | str | Buffer,
        addrs: Iterable[AddrLike] = (),
        *,
        relay_url: RelayUrl | str | None = None,
        ip_addrs: Iterable[SocketAddr | str] = (),
    ) -> None:
        found = _as_transport_addrs(addrs)
        if relay_url is not None:
            found.add(RelayAddr(RelayUrl(relay_url)))
        if isinstance(ip_addrs, str):
            raise TypeError("ip_addrs is a list of addresses, not one text")
        for ip_addr in ip_addrs:
            found.add(IpAddr(SocketAddr.parse(ip_addr) if isinstance(ip_addr, str) else ip_addr))
        self._id = id if isinstance(id, PublicKey) else PublicKey(id)
        self._addrs = tuple(sorted(found, key=lambda addr: addr._key()))

    @property
    def id(self) -> EndpointId:
        """The endpoint."""
        return self._id

    @property
    def addrs(self) -> tuple[TransportAddr, ...]:
        """All addresses, in ascending order, without duplicates."""
        return self._addrs

    @property
    def relay_urls(self) -> tuple[RelayUrl, ...]:
        """Relays among the addresses; in practice none or one."""
        return tuple(addr.url for addr in self._addrs if isinstance(addr, RelayAddr))

    @property
    def ip_addrs(self) -> tuple[SocketAddr, ...]:
        """Direct addresses among the addresses."""
        return tuple(addr.addr for addr in self._addrs if isinstance(addr, IpAddr))

    @property
    def is_empty(self) -> bool:
        """True when there is no address, only an id."""
        return not self._addrs

    def with_addrs(self, addrs: Iterable[AddrLike], /) -> Self:
        """Return a copy with more addresses."""
        return type(self)(self._id, self._addrs + tuple(_as_transport_addrs(addrs)))

    def with_relay_url(self, url: RelayUrl | str, /) -> Self:
        """Return a copy with one more relay."""
        return type(self)(self._id, self._addrs, relay_url=url)

    def with_ip_addr(self, addr: SocketAddr | str, /) -> Self:
        """Return a copy with one more direct address."""
        return type(self)(self._id, self._addrs, ip_addrs=(addr,))

    def __or__(self, other: EndpointAddr) -> Self:
        """Join the addresses of two values for the same endpoint.

        Raises
        ------
        AddrError
            The ids differ.
        """
        if not isinstance(other, EndpointAddr):
            return NotImplemented
        if other._id != self._id:
            raise AddrError(
                f"cannot join addresses of {self._id:short} and {other._id:short}"
            )
        return self.with_addrs(other._addrs)

    def to_json(self) -> dict[str, JsonValue]:
        """Return a value for `json.dumps`, of the shape serde uses."""
        return {"id": str(self._id), "addrs": [addr.to_json() for addr in self._addrs]}

    @classmethod
    def from_json(cls, value: JsonValue, /) -> Self:
        """Make an address from what `to_json` returned; unknown keys are ignored.

        Raises
        ------
        AddrError, KeyParsingError, RelayUrlError, CustomAddrError
            The value has another shape, or holds something invalid.
        """
        if not isinstance(value, dict):
            raise AddrError("an endpoint address is an object")
        id, addrs = value.get("id"), value.get("addrs")
        if not isinstance(id, str) or not isinstance(addrs, list):
            raise AddrError("an endpoint address has a text id and a list addrs")
        return cls(PublicKey(id), [TransportAddr.from_json(addr) for addr in addrs])

    def to_postcard(self) -> bytes:
        """Encode: id, number of addresses, addresses in ascending order."""
        entries = [addr.to_postcard() for addr in self._addrs]
        return b"".join((bytes(self._id), encode_varint(len(entries)), *entries))

    @classmethod
    def from_postcard(cls, data: Buffer, /) -> Self:
        """Decode what `to_postcard` returned; bytes after it are ignored.

        Raises
        ------
        AddrError
            Cut short, unknown kinds, or something invalid inside (the cause is
            chained).  Order and duplicates do not matter.
        """
        return cls._read(PostcardReader(data))

    @classmethod
    def _read(cls, reader: PostcardReader) -> Self:
        try:
            id = PublicKey(reader.take(32))
            addrs: set[TransportAddr] = set()
            # The count is the sender's word: the loop ends when the bytes do.
            for _ in range(reader.varint(64)):
                addrs.add(TransportAddr._read(reader))
        except (KeyParsingError, RelayUrlError, CustomAddrError) as err:
            raise AddrError(f"invalid endpoint address: {err}") from err
        return cls(id, addrs)

    def __str__(self) -> str:
        return " ".join((str(self._id), *map(str, self._addrs)))

    def __repr__(self) -> str:
        return f"EndpointAddr({self._id:short}, [{', '.join(map(str, self._addrs))}])"

    def _order(self) -> tuple[Any, ...]:
        return self._id, tuple(addr._key() for addr in self._addrs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EndpointAddr):
            return NotImplemented
        return self._id == other._id and self._addrs == other._addrs

    def __hash__(self) -> int:
        return hash((self._id, self._addrs))

    def __lt__(self, other: EndpointAddr) -> bool:
        return self._order() < other._order() if isinstance(other, EndpointAddr) else NotImplemented

    def __le__(self, other: EndpointAddr) -> bool:
        return self._order() <= other._order() if isinstance(other, EndpointAddr) else NotImplemented

    def __gt__(self, other: EndpointAddr) -> bool:
        return self._order() > other._order() if isinstance(other, EndpointAddr) else NotImplemented

    def __ge__(self, other: EndpointAddr) -> bool:
        return self._order() >= other._order() if isinstance(other, EndpointAddr) else NotImplemented

    def __reduce__(self) -> tuple[type[Self], tuple[EndpointId, tuple[TransportAddr, ...]]]:
        return type(self), (self._id, self._addrs)
