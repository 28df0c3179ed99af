"""The two multicast sockets of a node: one for each IP version, each of which may be missing."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from ...errors import printable
from .interfaces import Interface
from .node import Sender
from .wire import MAX_DATAGRAM

__all__ = ["PORT", "MulticastSocket", "open_sockets"]

log = logging.getLogger("iroh_fast.lookup.mdns")

PORT: Final = 5353
GROUPS: Final = {4: "224.0.0.251", 6: "ff02::fb"}
TTL: Final = 16  # as iroh's; no router passes these groups on
_IP_MULTICAST_ALL: Final = 49  # Linux
_IPV6_MULTICAST_ALL: Final = 29
_PKTINFO6: Final = struct.Struct("@16sI")
# Elsewhere a socket cannot be bound to a group, and gets what is sent to this machine alone, too.
_GROUP_BOUND: Final = sys.platform != "win32"


class MulticastSocket:
    """Sends to the group of one IP version on each interface, and receives what comes to the group there.

    What is sent to an address of this machine alone, as whoever is not on the link may do, is
    not received.

    Raises
    ------
    OSError : the port cannot be had.
    """

    def __init__(self, family: int) -> None:
        self.family = family
        self.links: tuple[Interface, ...] = ()
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        self._sock = sock = socket.socket(kind, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                with contextlib.suppress(OSError):  # one user of the port needs none
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == 4:
                self._set_up4()
            else:
                self._set_up6()
        except BaseException:
            sock.close()
            raise

    def _set_up4(self) -> None:
        sock = self._sock
        sock.bind((GROUPS[4] if _GROUP_BOUND else "", PORT))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
        if sys.platform == "linux":  # not what others on this machine have joined
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)

    def _set_up6(self) -> None:
        sock = self._sock
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if hasattr(socket, "IPV6_RECVPKTINFO") and hasattr(sock, "recvmsg"):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.bind(("::", PORT))
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Leave all groups."""
        self._sock.close()

    # ------------------------------------------------------------ groups
    def join(self, links: Iterable[Interface], *, again: bool = False) -> bool:
        """Be in the group on these interfaces and no others; whether that is a change.

        Parameters
        ----------
        again : leave and join those where it is a member, too, so that switches hear of it.
        """
        wanted = tuple(link for link in links if link.has(self.family))
        before = {link.index for link in self.links}
        now = {link.index for link in wanted}
        for index in before if again else before - now:
            with contextlib.suppress(OSError):  # gone with its interface
                self._member(index, leave=True)
        joined = []
        for link in wanted:
            try:
                if again or link.index not in before:
                    self._member(link.index)
            except OSError as error:
                log.info("no IPv%d multicast on %s: %s", self.family, printable(link.name), error)
                continue
            joined.append(link)
        self.links = tuple(joined)
        return {link.index for link in joined} != before

    def _member(self, index: int, *, leave: bool = False) -> None:
        if self.family == 4:
            option = socket.IP_DROP_MEMBERSHIP if leave else socket.IP_ADD_MEMBERSHIP
            self._sock.setsockopt(socket.IPPROTO_IP, option, _membership4(index))
        else:
            option = socket.IPV6_LEAVE_GROUP if leave else socket.IPV6_JOIN_GROUP
            group = socket.inet_pton(socket.AF_INET6, GROUPS[6])
            self._sock.setsockopt(socket.IPPROTO_IPV6, option, group + struct.pack("@I", index))

    # ------------------------------------------------------------ datagrams
    def send(self, datagram: bytes) -> None:
        """Send to the group on each interface; what does not leave is lost, as on any link."""
        for link in self.links:
            try:
                self._send_on(link, datagram)
            except OSError as error:
                log.debug("not sent on %s: %s", printable(link.name), error)

    def _send_on(self, link: Interface, datagram: bytes) -> None:
        sock = self._sock
        if self.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _interface4(link))
            sock.sendto(datagram, (GROUPS[4], PORT))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, link.index)
            sock.sendto(datagram, (GROUPS[6], PORT, 0, link.index))

    def receive(self) -> tuple[bytes, Sender | None]:
        """The next datagram; without a sender when it is none of the link's.

        Raises
        ------
        BlockingIOError : there is none.
        OSError
        """
        if self.family == 4:
            datagram, source = self._sock.recvfrom(MAX_DATAGRAM + 1)
            return datagram, self._sender4(source[0])
        index = 0
        if hasattr(self._sock, "recvmsg"):
            datagram, extra, _, source = self._sock.recvmsg(
                MAX_DATAGRAM + 1, socket.CMSG_SPACE(_PKTINFO6.size)
            )
            to, index = _destination(extra)
            if to is not None and to != GROUPS[6]:
                return datagram, None
        else:
            datagram, source = self._sock.recvfrom(MAX_DATAGRAM + 1)
        host = source[0].partition("%")[0]
        return datagram, self._sender6(host, source[3] or index, checked=index != 0)

    def _sender4(self, host: str) -> Sender | None:
        ip = IPv4Address(host)
        if ip.is_unspecified:
            return None
        if not _GROUP_BOUND and not any(
            ip in network for link in self.links for network in link.networks4
        ):
            return None
        return Sender(host, 4, local=self._is_own(ip))

    def _sender6(self, host: str, index: int, *, checked: bool) -> Sender | None:
        """Without its destination it is of the link when its sender's address is valid there alone."""
        ip = IPv6Address(host)
        local = self._is_own(ip)
        if not checked and not local and not ip.is_link_local:
            return None
        scoped = f"{host}%{index}" if ip.is_link_local else host
        return Sender(scoped, 6, index, local)

    def _is_own(self, ip: IPv4Address | IPv6Address) -> bool:
        return ip.is_loopback or any(ip in link.addrs for link in self.links)


def _membership4(index: int) -> bytes:
    group = socket.inet_pton(socket.AF_INET, GROUPS[4])
    if sys.platform == "win32":
        return group + struct.pack("!I", index)
    return group + struct.pack("@4xi", index)


def _interface4(link: Interface) -> bytes:
    if sys.platform == "win32":
        return struct.pack("!I", link.index)
    # On loopback the kernel finds no address to send from by itself.
    source = b"\x7f\0\0\1" if link.loopback else bytes(4)
    return struct.pack("@4x4si", source, link.index)


def _destination(extra: Iterable[tuple[int, int, bytes]]) -> tuple[str | None, int]:
    """Where a datagram was sent to, and the index of the interface it came over."""
    for level, kind, data in extra:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(data) >= 20:
            packed, index = _PKTINFO6.unpack_from(data)
            return socket.inet_ntop(socket.AF_INET6, packed), index
    return None, 0


def open_sockets() -> tuple[list[MulticastSocket], list[OSError]]:
    """The sockets that can be had, IPv4 first, and why others cannot."""
    opened, refused = [], []
    for family in (4, 6):
        try:
            opened.append(MulticastSocket(family))
        except OSError as error:
            log.info("no mDNS over IPv%d: %s", family, error)
            refused.append(error)
    return opened, refused
