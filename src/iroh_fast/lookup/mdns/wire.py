"""Questions and answers on the link, in the form of iroh's: like mDNS, but not all of it.

There is no probing, no conflict, no farewell and no suppression of known answers.  Times to live
mean nothing: peers up to iroh 1.3 send 0 everywhere and leave the PTR record out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from ...addr import IpAddr, RelayAddr, RelayUrl, SocketAddr
from ...errors import AddrError, KeyParsingError, RelayUrlError
from ...keys import EndpointId, PublicKey, base32_encode
from ..info import EndpointData
from ._message import read

__all__ = [
    "MAX_DATAGRAM",
    "Heard",
    "Names",
    "Told",
    "encode_answer",
    "encode_query",
    "label_of",
    "parse_label",
    "parse_told",
]

MAX_DATAGRAM: Final = 1472  # iroh's reads no more
# What fits into a packet of 1500 bytes over IPv6.
MAX_SENT: Final = 1452
MAX_ADDRS: Final = 96  # more than fit in any case
MAX_RELAY: Final = 249  # bytes of its URL; INTEROP: iroh's counts without the "="
TTL_S: Final = 120

_A, _PTR, _TXT, _AAAA, _SRV = 1, 12, 16, 28, 33
_IN: Final = 1
_ANSWER: Final = 0x8400  # QR and AA
_FIXED: Final = struct.Struct("!HHIH")  # type, class, time to live, size


def _labels(*labels: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode("ascii") for label in labels)


class Names:
    """The names of one service and one node, as they stand on the wire.

    Parameters
    ----------
    service_name : text of its label without the underscore.
    """

    __slots__ = ("_lower", "_token", "peer", "service")

    def __init__(self, service_name: str, id: EndpointId) -> None:
        self.service = _labels(f"_{service_name}", "_udp", "local") + b"\0"
        self.peer = label_of(id)
        # What a message for us contains in any case, pointers or not.
        self._token = _labels(f"_{service_name}").lower()
        self._lower = self.service.lower()

    def concerns(self, datagram: bytes) -> bool:
        """Whether a datagram can be about this service: most on the link are about others."""
        return self._token in datagram.lower()

    def read(self, datagram: bytes) -> Heard:
        """What a datagram asks and tells; nothing for one that is broken."""
        return Heard(*read(datagram, self._lower))


@dataclass(frozen=True, slots=True)
class Heard:
    """What stood in a datagram.

    Attributes
    ----------
    everybody : it asks who is there.
    wanted : labels of peers that it asks for.
    peers : of each peer that it tells of: label, (packed IP, port) each, strings.
    """

    everybody: bool
    wanted: list[bytes]
    peers: list[tuple[bytes, list[tuple[bytes, int]], list[bytes]]]


@dataclass(frozen=True, slots=True)
class Told:
    """What a message tells of a peer.

    Attributes
    ----------
    addrs : in the order told, without duplicates.
    """

    addrs: tuple[SocketAddr, ...]
    relay: RelayUrl | None
    user_data: str | None


def label_of(id: EndpointId) -> bytes:
    """The first label of a node's name."""
    return base32_encode(bytes(id)).encode("ascii")


def parse_label(label: bytes) -> EndpointId | None:
    """The id that a label stands for, or None.  Takes 0.1 ms."""
    try:
        return PublicKey(label.decode("ascii"))
    except (UnicodeDecodeError, KeyParsingError):
        return None


def parse_told(
    addrs: Iterable[tuple[bytes, int]], strings: Iterable[bytes], *, scope_id: int, local: bool
) -> Told:
    """Make sense of what stands in a message.

    Parameters
    ----------
    scope_id : index of the interface it came over, 0 when that is not known.
    local : it came from this machine.
    """
    # A string has 255 bytes at most: neither value can be too long.
    found = dict.fromkeys(
        addr for packed, port in addrs if (addr := _addr(packed, port, scope_id, local)) is not None
    )
    relay, user_data, seen = None, None, set()
    for string in strings:
        key, equals, value = string.partition(b"=")
        if key in seen:
            continue
        seen.add(key)
        if not equals:  # a key alone
            continue
        if key == b"relay":
            relay = _relay(value)
        elif key == b"user-data":
            user_data = _text(value)
    return Told(tuple(found), relay, user_data)


def _addr(packed: bytes, port: int, scope_id: int, local: bool) -> SocketAddr | None:
    """An address that can be dialed; None for nonsense."""
    ip = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    plain = getattr(ip, "ipv4_mapped", None) or ip
    if port == 0 or plain.is_unspecified or plain.is_multicast or plain == _BROADCAST:
        return None
    if plain.is_loopback and not local:  # would be our own, not the sender's
        return None
    if ip.version == 6 and ip.is_link_local:
        return SocketAddr(ip, port, scope_id) if scope_id else None
    try:
        return SocketAddr(ip, port)
    except AddrError:
        return None


_BROADCAST: Final = IPv4Address("255.255.255.255")


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _relay(value: bytes) -> RelayUrl | None:
    text = _text(value)
    try:
        return None if text is None else RelayUrl(text)
    except RelayUrlError:
        return None


def encode_query(names: Names, wanted: Sequence[bytes] = ()) -> bytes:
    """Ask who is there, and for some peers by name.

    DIFFERS: iroh's asks the first only, and does not answer the second.
    """
    header = struct.pack("!6H", 0, 0, 1 + len(wanted), 0, 0, 0)
    parts = [header, names.service, struct.pack("!HH", _PTR, _IN)]
    for label in wanted:
        pointer = struct.pack("!HHH", 0xC000 | len(header), _SRV, _IN)
        parts += [bytes((len(label),)), label, pointer]
    return b"".join(parts)


def encode_answer(names: Names, data: EndpointData) -> tuple[bytes | None, int]:
    """Tell where this node is.

    Returns
    -------
    tuple
        The datagram, None where there is no IP address to tell of; and how many addresses,
        from the end, had to be left out for it to fit.
    """
    strings = _strings(data)
    addrs = [(addr.addr.ip, addr.addr.port) for addr in data.addrs if isinstance(addr, IpAddr)]
    addrs = [(ip, port) for ip, port in addrs if port]
    for kept in range(min(len(addrs), MAX_ADDRS), 0, -1):
        datagram = _answer(names, addrs[:kept], strings)
        if len(datagram) <= MAX_SENT:
            return datagram, len(addrs) - kept
    return None, len(addrs)


def _strings(data: EndpointData) -> list[bytes]:
    """The attributes, in the order of their keys."""
    strings = []
    relay = next((addr.url for addr in data.addrs if isinstance(addr, RelayAddr)), None)
    if relay is not None and len(relay.encode("utf-8")) <= MAX_RELAY:
        strings.append(b"relay=" + relay.encode("utf-8"))
    if data.user_data is not None:
        strings.append(b"user-data=" + data.user_data.encode("utf-8"))
    return strings


def _answer(
    names: Names, addrs: Sequence[tuple[IPv4Address | IPv6Address, int]], strings: list[bytes]
) -> bytes:
    """Names are compressed as iroh's does it: by pointers to the service, our name and the hosts."""
    by_port: dict[int, list[IPv4Address | IPv6Address]] = {}
    for ip, port in sorted(addrs, key=lambda addr: (addr[1], addr[0].version, addr[0].packed)):
        by_port.setdefault(port, []).append(ip)
    answers = 1 + len(by_port) + bool(strings)
    out = bytearray(struct.pack("!6H", 0, _ANSWER, 0, answers, 0, len(addrs)))
    service_at = len(out)
    out += names.service
    own_name = bytes((len(names.peer),)) + names.peer + struct.pack("!H", 0xC000 | service_at)
    out += _FIXED.pack(_PTR, _IN, TTL_S, len(own_name))
    own_pointer = struct.pack("!H", 0xC000 | len(out))
    out += own_name
    host_pointers = {}
    for port in by_port:
        host = _labels(f"{names.peer.decode()}-{port}", "local") + b"\0"
        out += own_pointer + _FIXED.pack(_SRV, _IN, TTL_S, 6 + len(host))
        out += struct.pack("!HHH", 0, 0, port)
        host_pointers[port] = struct.pack("!H", 0xC000 | len(out))
        out += host
    if strings:
        text = b"".join(bytes((len(string),)) + string for string in strings)
        out += own_pointer + _FIXED.pack(_TXT, _IN, TTL_S, len(text)) + text
    for port, ips in by_port.items():
        for ip in ips:
            kind = _A if ip.version == 4 else _AAAA
            out += host_pointers[port] + _FIXED.pack(kind, _IN, TTL_S, len(ip.packed)) + ip.packed
    return bytes(out)
