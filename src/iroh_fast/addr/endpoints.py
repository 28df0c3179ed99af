"""The id of an endpoint together with the ways to reach it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self, TypeAlias

from .._check import Buffer, kind_of
from ..errors import AddrError, CustomAddrError, KeyParsingError, RelayUrlError
from ..keys import EndpointId, PublicKey, as_bytes
from .order import Ordered
from .postcard import PostcardReader, encode_varint
from .relay_url import RelayUrl
from .sockets import SocketAddr
from .transports import IpAddr, JsonValue, RelayAddr, TransportAddr

__all__ = ["AddrLike", "EndpointAddr"]

AddrLike: TypeAlias = TransportAddr | SocketAddr | RelayUrl | str
"""An address, or its text: ``1.2.3.4:5`` or the URL of a relay."""


def as_transport_addr(value: AddrLike) -> TransportAddr:
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


MAX_ADDRS = 8192  # of what somebody else wrote: reading them must not take long


def _as_transport_addrs(values: Iterable[AddrLike]) -> set[TransportAddr]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"addrs is a list of addresses, not {type(values).__name__}")
    return {as_transport_addr(value) for value in values}


class EndpointAddr(Ordered):
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
        if isinstance(ip_addrs, (str, bytes)) or not isinstance(ip_addrs, Iterable):
            raise TypeError(f"ip_addrs is a list of addresses, not {kind_of(ip_addrs)}")
        for ip_addr in ip_addrs:
            found.add(IpAddr(SocketAddr.parse(ip_addr) if isinstance(ip_addr, str) else ip_addr))
        if not isinstance(id, PublicKey):
            id = PublicKey(id if isinstance(id, str) else as_bytes(id, "id"))
        self._id = id
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
            for number in range(reader.varint(64)):
                if number >= MAX_ADDRS:
                    raise AddrError(f"more than {MAX_ADDRS} addresses")
                addrs.add(TransportAddr._read(reader))
        except (KeyParsingError, RelayUrlError, CustomAddrError) as err:
            raise AddrError(f"invalid endpoint address: {err}") from err
        return cls(id, addrs)

    def __str__(self) -> str:
        return " ".join((str(self._id), *map(str, self._addrs)))

    def __repr__(self) -> str:
        return f"EndpointAddr({self._id:short}, [{', '.join(map(str, self._addrs))}])"

    def _key(self) -> tuple[Any, ...]:
        return self._id, tuple(addr._key() for addr in self._addrs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EndpointAddr):
            return NotImplemented
        return self._id == other._id and self._addrs == other._addrs

    def __hash__(self) -> int:
        return hash((self._id, self._addrs))

    def __reduce__(self) -> tuple[type[Self], tuple[EndpointId, tuple[TransportAddr, ...]]]:
        return type(self), (self._id, self._addrs)
