"""What is known of an endpoint: how to reach it, and what it says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from .._check import Buffer, kind_of
from ..addr import AddrLike, EndpointAddr, IpAddr, RelayAddr, RelayUrl, SocketAddr, TransportAddr
from ..addr.endpoints import as_transport_addr
from ..errors import ConfigError, EndpointInfoError, KeyParsingError, UserDataTooLong, printable
from ..keys import EndpointId, PublicKey, as_bytes
from .attributes import MAX_USER_DATA, format_values, parse_values
from .filters import AddrFilter

__all__ = ["EndpointData", "EndpointInfo", "check_user_data"]


def check_user_data(user_data: str | None) -> str | None:
    """Return `user_data` if it can be published.

    Raises
    ------
    UserDataTooLong
        More than 245 bytes of UTF-8.
    ConfigError
        Text that UTF-8 cannot write: a lone surrogate.
    """
    if user_data is None:
        return None
    if not isinstance(user_data, str):
        raise TypeError(f"user_data is text or None, not {kind_of(user_data)}")
    try:
        size = len(user_data.encode("utf-8"))
    except UnicodeEncodeError:
        raise ConfigError("user_data holds a lone surrogate, which UTF-8 cannot write") from None
    if size > MAX_USER_DATA:
        raise UserDataTooLong(size, MAX_USER_DATA)
    return user_data


class EndpointData:
    """Addresses of an endpoint in the order of their worth, and its user data.  Immutable.

    Parameters
    ----------
    addrs : iterable of TransportAddr, SocketAddr, RelayUrl or str
        Duplicates are dropped, the first one stays.
    user_data : str or None
        At most 245 bytes of UTF-8.  Show it to people escaped when it came from elsewhere.

    Raises
    ------
    UserDataTooLong, ConfigError
        See `check_user_data`.
    AddrError, RelayUrlError
        Text that is no address.

    Notes
    -----
    Endpoints on iroh read user data up to its first ``=`` only.
    """

    __slots__ = ("_addrs", "_user_data")
    _addrs: tuple[TransportAddr, ...]
    _user_data: str | None

    def __init__(self, addrs: Iterable[AddrLike] = (), user_data: str | None = None) -> None:
        if isinstance(addrs, (str, bytes)) or not isinstance(addrs, Iterable):
            raise TypeError(f"addrs is a list of addresses, not {kind_of(addrs)}")
        self._addrs = tuple(dict.fromkeys(map(as_transport_addr, addrs)))
        self._user_data = check_user_data(user_data)

    @property
    def addrs(self) -> tuple[TransportAddr, ...]:
        """All addresses in order, without duplicates."""
        return self._addrs

    @property
    def user_data(self) -> str | None:
        """What the endpoint says of itself."""
        return self._user_data

    @property
    def relay_urls(self) -> tuple[RelayUrl, ...]:
        """Relays among the addresses."""
        return tuple(addr.url for addr in self._addrs if isinstance(addr, RelayAddr))

    @property
    def ip_addrs(self) -> tuple[SocketAddr, ...]:
        """Direct addresses among the addresses."""
        return tuple(addr.addr for addr in self._addrs if isinstance(addr, IpAddr))

    @property
    def is_empty(self) -> bool:
        """True when there is neither an address nor user data: nothing to publish."""
        return not self._addrs and self._user_data is None

    def filtered(self, filter: AddrFilter | None, /) -> EndpointData:
        """Return what a filter leaves of it; user data always stays."""
        if filter is None:
            return self
        return EndpointData(filter(self._addrs), self._user_data)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EndpointData):
            return NotImplemented
        return self._addrs == other._addrs and self._user_data == other._user_data

    def __hash__(self) -> int:
        return hash((self._addrs, self._user_data))

    def __repr__(self) -> str:
        shown = ", ".join(map(str, self._addrs))
        user_data = "" if self._user_data is None else f", user_data={self._user_data!r}"
        return f"EndpointData([{shown}]{user_data})"

    def __reduce__(self) -> tuple[Any, ...]:
        return EndpointData, (self._addrs, self._user_data)


class EndpointInfo:
    """The id of an endpoint together with its `EndpointData`.  Immutable.

    Parameters
    ----------
    id : EndpointId or str or Buffer
        The endpoint; text and bytes are parsed.
    data : EndpointData, optional
        What is known of it.
    """

    __slots__ = ("_data", "_id")
    _id: EndpointId
    _data: EndpointData

    def __init__(self, id: EndpointId | str | Buffer, data: EndpointData | None = None) -> None:
        if data is not None and not isinstance(data, EndpointData):
            raise TypeError(f"data is an EndpointData, not {kind_of(data)}")
        if not isinstance(id, PublicKey):
            id = PublicKey(id if isinstance(id, str) else as_bytes(id, "id"))
        self._id = id
        self._data = EndpointData() if data is None else data

    @property
    def id(self) -> EndpointId:
        """The endpoint."""
        return self._id

    @property
    def data(self) -> EndpointData:
        """What is known of it."""
        return self._data

    @classmethod
    def from_addr(cls, addr: EndpointAddr, user_data: str | None = None, /) -> Self:
        """Make one of an address, with all that is in it."""
        return cls(addr.id, EndpointData(addr.addrs, user_data))

    def to_addr(self) -> EndpointAddr:
        """Return the address; its order and the user data are not kept."""
        return EndpointAddr(self._id, self._data.addrs)

    def to_txt(self) -> list[str]:
        """Return the values of the TXT records that publish it."""
        return format_values(self._data.addrs, self._data.user_data)

    @classmethod
    def from_txt(cls, owner_name: str, values: Iterable[str | bytes], /) -> Self:
        """Read the answer of a DNS server.

        Parameters
        ----------
        owner_name : str
            Of the records: ``_iroh.<key in z-base-32>``, and whatever follows.
        values : iterable of str or bytes
            One of each TXT record: its strings behind each other.  What is not UTF-8 in bytes is
            replaced.  A value that cannot be read, and an unknown key, are left out; at most 256
            addresses are read.

        Raises
        ------
        EndpointInfoError
            The name is another one, or a value has no ``=``.
        """
        id = _id_of(owner_name)
        texts = (
            value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")
            for value in values
        )
        return cls(id, EndpointData(*parse_values(texts)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EndpointInfo):
            return NotImplemented
        return self._id == other._id and self._data == other._data

    def __hash__(self) -> int:
        return hash((self._id, self._data))

    def __repr__(self) -> str:
        return f"EndpointInfo({self._id:short}, {self._data!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return EndpointInfo, (self._id, self._data)


def _id_of(owner_name: str) -> EndpointId:
    """Read the key in a name like ``_iroh.<key>.example.com``."""
    labels = owner_name.split(".")
    if len(labels) < 2:
        raise EndpointInfoError(f"a name of {len(labels)} label, not two or more", kind="NumLabels")
    if labels[0] != "_iroh":
        raise EndpointInfoError(
            f"the name begins with {printable(labels[0], 63)!r}, not with _iroh",
            kind="NotAnIrohRecord",
        )
    try:
        return PublicKey.from_z32(labels[1].lower())
    except KeyParsingError as err:
        raise EndpointInfoError(f"the name holds no key: {err}", kind="DecodingError") from err
