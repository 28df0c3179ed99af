"""What endpoints publish, as values of TXT records: ``relay=...``, ``addr=...``, ``user-data=...``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..addr import CustomAddr, IpAddr, RelayAddr, RelayUrl, SocketAddr, TransportAddr
from ..errors import AddrError, CustomAddrError, EndpointInfoError, RelayUrlError, printable

__all__ = ["MAX_ADDRS", "MAX_USER_DATA", "format_values", "parse_values"]

MAX_USER_DATA: Final = 245  # bytes: with its key, one string of a TXT record
MAX_ADDRS: Final = 256  # read of one endpoint: a packet has room for 40, TCP for thousands


def format_values(addrs: Sequence[TransportAddr], user_data: str | None) -> list[str]:
    """Write relays, then other addresses, then the user data: one text per TXT record.

    INTEROP: no other key may ever be published, one makes iroh refuse all of the records.
    """
    values = [f"relay={addr.url}" for addr in addrs if isinstance(addr, RelayAddr)]
    for addr in addrs:
        if isinstance(addr, IpAddr):
            values.append(f"addr={addr.addr}")
        elif isinstance(addr, CustomAddr):
            values.append(f"addr={addr.to_text()}")
    if user_data is not None:
        values.append(f"user-data={user_data}")
    return values


def parse_values(values: Iterable[str]) -> tuple[list[TransportAddr], str | None]:
    """Read addresses (relays first, no duplicates, at most `MAX_ADDRS`) and user data.

    A value that cannot be read is left out, and so is user data that is too long.

    Raises
    ------
    EndpointInfoError
        A text has no ``=``.
    """
    relays: dict[TransportAddr, None] = {}
    others: dict[TransportAddr, None] = {}
    user_data: str | None = None
    for text in values:
        key, separator, value = text.partition("=")
        if not separator:
            raise EndpointInfoError(
                f"a TXT record without =: {printable(text, 80)!r}", kind="UnexpectedFormat"
            )
        # DIFFERS: iroh splits at every = and takes what stands before the second one, and it
        # refuses everything for one unknown key.
        if key == "user-data":
            user_data = value if user_data is None else user_data
        elif len(relays) + len(others) >= MAX_ADDRS:
            continue
        elif key == "relay" and (relay := _relay(value)) is not None:
            relays[relay] = None
        elif key == "addr" and (addr := _addr(value)) is not None:
            others[addr] = None
    if user_data is not None and len(user_data.encode("utf-8", "surrogatepass")) > MAX_USER_DATA:
        user_data = None
    return [*relays, *others], user_data


def _relay(text: str) -> TransportAddr | None:
    try:
        return RelayAddr(RelayUrl(text))
    except RelayUrlError:
        return None


def _addr(text: str) -> TransportAddr | None:
    try:
        return IpAddr(SocketAddr.parse(text))
    except AddrError:
        pass
    try:
        return CustomAddr.parse(text)
    except CustomAddrError:
        return None
