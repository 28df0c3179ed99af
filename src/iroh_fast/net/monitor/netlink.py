"""What the Linux kernel says of links, addresses and routes, and that they changed (rtnetlink(7)).

Answers to questions are there as soon as these are sent, so asking never waits.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeAlias

__all__ = ["GROUPS", "Address", "Link", "Netlink", "Way", "tells_of_change"]

IpAddress: TypeAlias = IPv4Address | IPv6Address

# linux/rtnetlink.h, linux/netlink.h
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE = 32, 33
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP, _DUMP_INTR = 0x1, 0x300, 0x10
_UNICAST, _LOCAL_TABLE = 1, 255
_IFF_UP, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x8, 0x40
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_EXT_MASK, _SKIP_STATS = 1, 3, 29, 8
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_DADFAILED, _DEPRECATED, _TENTATIVE, _OPTIMISTIC = 0x08, 0x20, 0x40, 0x04
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 2, 4, 5, 15

# Links; addresses, routes and rules of both families.
GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18

READ_BYTES: Final = 65536
MAX_READS: Final = 4096  # of one answer: some hosts have ten thousand links
TRIES: Final = 3  # a list that changed while it was given

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # family, dst, src, tos, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")

# Somewhere in the internet: what leads there is the default route, whatever rules and tables
# there are. The first root name server; nothing is sent to it.
_FAR: Final[tuple[IpAddress, IpAddress]] = (
    IPv4Address("198.41.0.4"),
    IPv6Address("2001:503:ba3e::2:30"),
)


@dataclass(frozen=True, slots=True)
class Link:
    """An interface."""

    index: int
    name: str
    mac: str
    up: bool
    loopback: bool


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the interface `index` that can be used."""

    index: int
    ip: IpAddress
    deprecated: bool


@dataclass(frozen=True, slots=True)
class Way:
    """The first step towards somewhere."""

    index: int
    gateway: IpAddress | None


def _family(ip: IpAddress) -> int:
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def _ip(packed: bytes) -> IpAddress | None:
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed) if len(packed) == 16 else None


def _attributes(data: bytes, at: int, wanted: tuple[int, ...]) -> dict[int, bytes]:
    """The attributes of a message from `at` on; what is cut short is left out."""
    found: dict[int, bytes] = {}
    end = len(data)
    while at + 4 <= end and len(found) < len(wanted):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= size <= end - at:
            break
        if (kind := kind & 0x3FFF) in wanted:
            found[kind] = data[at + 4 : at + size]
        at += size + 3 & ~3
    return found


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence and body of each message in what was read at once."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= size <= len(data) - at:
            break
        yield kind, flags, sequence, data[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def _u32(data: bytes | None) -> int | None:
    return None if data is None or len(data) != 4 else int(_U32.unpack(data)[0])


def _link(body: bytes) -> Link | None:
    if len(body) < _LINK.size:
        return None
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body, _LINK.size, (_IFLA_IFNAME, _IFLA_ADDRESS))
    return Link(
        index=index,
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        # Without a cable it is not running.
        up=flags & (_IFF_UP | _IFF_RUNNING) == _IFF_UP | _IFF_RUNNING,
        loopback=bool(flags & _IFF_LOOPBACK),
    )


def _address(body: bytes) -> Address | None:
    if len(body) < _ADDRESS.size:
        return None
    _, _, flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body, _ADDRESS.size, (_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS))
    flags = _u32(found.get(_IFA_FLAGS)) or flags
    ip = _ip(found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b""))
    # Another machine may have the address, or it is not known yet whether one has.
    if ip is None or flags & _DADFAILED or flags & _TENTATIVE and not flags & _OPTIMISTIC:
        return None
    return Address(index, ip, bool(flags & _DEPRECATED))


def _concerns_internet(body: bytes) -> bool:
    """Whether a route that came or went may be the one to the internet."""
    if len(body) < _ROUTE.size:
        return True
    family, dst_len, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = _attributes(body, _ROUTE.size, (_RTA_DST, _RTA_TABLE))
    if (_u32(found.get(_RTA_TABLE)) or table) == _LOCAL_TABLE or kind > 9:
        return False
    for far in _FAR:
        if _family(far) == family:
            shift = far.max_prefixlen - dst_len
            dst = int.from_bytes(found.get(_RTA_DST, b""), "big")
            return bool(shift < 0 or dst >> shift == int(far) >> shift)
    return False


def tells_of_change(data: bytes) -> bool:
    """Whether what was read of the groups says that the network of this machine may be another."""
    for kind, _, _, body in _messages(data):
        if kind in (_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWRULE, _DELRULE):
            return True
        if kind in (_NEWROUTE, _DELROUTE) and _concerns_internet(body):
            return True
    return False


class Netlink:
    """A socket to the routing part of the kernel.

    Parameters
    ----------
    groups : what it hears of by itself, `GROUPS` or nothing.

    Raises
    ------
    OSError : such sockets are not to be had here.
    """

    def __init__(self, groups: int = 0) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._sock = socket.socket(socket.AF_NETLINK, kind, 0)
        self._sequence = 0
        try:
            self._sock.bind((0, groups))
        except BaseException:
            self._sock.close()
            raise

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def fileno(self) -> int:
        """For the event loop; -1 when it is closed."""
        return self._sock.fileno()

    def read(self) -> bytes:
        """What the kernel said next; empty when that was somebody else, who is not believed.

        Raises
        ------
        BlockingIOError : there is nothing.
        OSError : with ENOBUFS, something was lost.
        """
        data, _, flags, sender = self._sock.recvmsg(READ_BYTES)
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.ENOBUFS, "a netlink message was cut short")
        return data if sender[0] == 0 else b""

    def links(self) -> list[Link]:
        """All interfaces."""
        mask = _ATTRIBUTE.pack(8, _IFLA_EXT_MASK) + _U32.pack(_SKIP_STATS)
        found = map(_link, self._dump(_GETLINK, _LINK.pack(0, 0, 0, 0, 0) + mask))
        return [link for link in found if link is not None]

    def addresses(self) -> list[Address]:
        """The addresses of all interfaces."""
        found = map(_address, self._dump(_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)))
        return [address for address in found if address is not None]

    def ways(self) -> tuple[Way | None, Way | None]:
        """How packets leave for the internet, with IPv4 and with IPv6."""
        return self.way(_FAR[0]), self.way(_FAR[1])

    def way(self, destination: IpAddress, source: IpAddress | None = None) -> Way | None:
        """How packets leave for an address, from one of this machine's or from the usual; None when they cannot."""
        header = _ROUTE.pack(
            *(_family(destination), destination.max_prefixlen),
            *(0 if source is None else source.max_prefixlen, 0, 0, 0, 0, 0, 0),
        )
        body = header + _ATTRIBUTE.pack(4 + len(destination.packed), _RTA_DST) + destination.packed
        if source is not None:
            body += _ATTRIBUTE.pack(4 + len(source.packed), _RTA_SRC) + source.packed
        self._send(_GETROUTE, _REQUEST, body)
        for kind, _, answer in self._answer():
            if kind != _NEWROUTE or len(answer) < _ROUTE.size or answer[7] != _UNICAST:
                return None
            found = _attributes(answer, _ROUTE.size, (_RTA_OIF, _RTA_GATEWAY))
            index = _u32(found.get(_RTA_OIF))
            return None if index is None else Way(index, _ip(found.get(_RTA_GATEWAY, b"")))
        return None

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0)
        self._sock.sendto(header + body, (0, 0))

    def _answer(self) -> Iterator[tuple[int, int, bytes]]:
        """Messages that answer the last question; what is heard besides is dropped."""
        for _ in range(MAX_READS):
            for kind, flags, sequence, body in _messages(self.read()):
                if sequence == self._sequence:
                    yield kind, flags, body
        raise OSError(errno.EOVERFLOW, "a netlink answer has no end")

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        found: list[bytes] = []
        for _ in range(TRIES):
            self._send(kind, _REQUEST | _DUMP, body)
            found = []
            whole = True
            for got, flags, payload in self._answer():
                whole = whole and not flags & _DUMP_INTR
                if got == _DONE:
                    break
                if got == _ERROR:
                    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
                    raise OSError(number or errno.EPROTO, "the kernel refuses to answer")
                found.append(payload)
            if whole:
                break
        return found
