"""Port Control Protocol (RFC 6887): messages, and mappings by them."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from ..errors import PortmapError, PortmapErrorKind
from .exchange import Exchange, UdpExchange
from .model import Gateway, Lease, ProtocolName, check_external

__all__ = ["Announced", "Mapped", "Pcp", "decode", "encode_announce", "encode_map"]

VERSION = 2
ANNOUNCE, MAP = 0, 1
RESPONSE = 0x80
UDP, TCP = 17, 6
HEADER = 24
MAP_SIZE = 60
MAX_SIZE = 1100
NONCE_SIZE = 12
LIFETIME_S = 3600
ANY = IPv4Address(0)
UNSUPPORTED_OPCODE = 4
RESULTS = {
    1: "the gateway speaks another version",
    2: "the gateway does not allow it",
    3: "the gateway does not understand the request",
    4: "the gateway does not know how",
    5: "the gateway does not know an option",
    6: "the gateway does not understand an option",
    7: "the gateway is without network",
    8: "the gateway has no room for more mappings",
    9: "the gateway does not know the protocol",
    10: "too many mappings are ours already",
    11: "the gateway cannot give that port",
    12: "there is another NAT before the gateway",
    13: "too many peers",
}
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96


@dataclass(frozen=True, slots=True)
class Announced:
    """Answer to the question whether there is somebody."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """Answer to a request for a mapping."""

    epoch: int
    lifetime: int
    nonce: bytes
    protocol: int
    internal: int
    external: int
    ip: IPv6Address


def _header(opcode: int, lifetime: int, client: IPv4Address) -> bytes:
    return struct.pack("!BBHI", VERSION, opcode, 0, lifetime) + _MAPPED + client.packed


def encode_announce(client: IPv4Address) -> bytes:
    """The question whether there is somebody."""
    return _header(ANNOUNCE, 0, client)


def encode_map(
    client: IPv4Address,
    nonce: bytes,
    port: int,
    lifetime: int,
    wish: tuple[IPv4Address, int] = (ANY, 0),
) -> bytes:
    """A request for a mapping of a UDP port; with lifetime 0 to end it.

    Parameters
    ----------
    nonce : 12 bytes that belong to the mapping for all of its life.
    wish : address and port to have, if possible.
    """
    ports = struct.pack("!B3xHH", UDP, port, wish[1])
    return _header(MAP, lifetime, client) + nonce + ports + _MAPPED + wish[0].packed


def decode(data: bytes) -> Announced | Mapped:
    """Read an answer; what it has in options is ignored.

    Raises
    ------
    PortmapError : the gateway said no, or this is no answer; its `kind` tells.
    """
    if len(data) >= 8 and data[0] == 0 and data[1] & RESPONSE:
        raise PortmapError("unavailable", RESULTS[1], code=1)  # NAT-PMP alone
    if not HEADER <= len(data) <= MAX_SIZE or data[0] != VERSION or not data[1] & RESPONSE:
        raise PortmapError("bad_answer", "not an answer of PCP")
    opcode = data[1] - RESPONSE
    result, lifetime, epoch = data[3], *struct.unpack_from("!II", data, 4)
    if opcode not in (ANNOUNCE, MAP):
        raise PortmapError("bad_answer", f"an answer to {opcode}, which nobody asked")
    if result:
        text = RESULTS.get(result)
        if text is None:
            raise PortmapError("bad_answer", f"result {result}, which there is not", code=result)
        kind: PortmapErrorKind = "unavailable" if result == 1 else "refused"
        raise PortmapError(kind, text, code=result, wait=float(lifetime))
    if opcode == ANNOUNCE:
        return Announced(epoch)
    if len(data) < MAP_SIZE or data[36] not in (UDP, TCP):
        raise PortmapError("bad_answer", "a mapping that is none")
    internal, external = struct.unpack_from("!HH", data, 40)
    ip = IPv6Address(data[44:60])
    return Mapped(epoch, lifetime, data[24:36], data[36], internal, external, ip)


class Pcp:
    """Mappings by PCP.

    Parameters
    ----------
    random : gives that many unpredictable bytes.
    """

    def __init__(
        self, exchange: Exchange | None = None, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._exchange = exchange or UdpExchange()
        self._random = random

    @property
    def name(self) -> ProtocolName:
        """It is this one."""
        return "pcp"

    async def probe(self, gateway: Gateway) -> None:
        """Ask whether there is somebody."""

        def announced(data: bytes) -> Announced | None:
            if data[1:2] != bytes((RESPONSE + ANNOUNCE,)):
                return None
            answer = decode(data)
            return answer if isinstance(answer, Announced) else None

        try:
            await self._exchange.ask(gateway, encode_announce(gateway.local), announced)
        except PortmapError as error:
            if error.code != UNSUPPORTED_OPCODE:  # that it says in PCP
                raise

    async def map(self, gateway: Gateway, port: int, old: Lease | None) -> Lease:
        """Ask for a mapping."""
        # DIFFERS: iroh renews with another nonce, which RFC 6887 §11.2 lets a gateway refuse.
        nonce = self._random(NONCE_SIZE) if old is None else old.token
        assert isinstance(nonce, bytes)
        wish = (ANY, port)
        if old is not None and isinstance(old.external.ip, IPv4Address):
            wish = (old.external.ip, old.external.port)

        def mapped(data: bytes) -> Mapped | None:
            # Errors repeat the request as well, and so do not come for another mapping.
            if data[1:2] != bytes((RESPONSE + MAP,)) or data[24:36] not in (nonce, b""):
                return None
            answer = decode(data)
            good = isinstance(answer, Mapped) and (answer.protocol, answer.internal) == (UDP, port)
            return answer if isinstance(answer, Mapped) and good else None

        request = encode_map(gateway.local, nonce, port, LIFETIME_S, wish)
        got = await self._exchange.ask(gateway, request, mapped)
        ip = got.ip.ipv4_mapped
        if ip is None or got.lifetime == 0:
            raise PortmapError("bad_answer", "the gateway gave no IPv4 address, or lifetime 0")
        return Lease("pcp", port, check_external(ip, got.external), got.lifetime, nonce)

    async def release(self, gateway: Gateway, lease: Lease) -> None:
        """End the mapping."""
        assert isinstance(lease.token, bytes)
        await self._exchange.tell(gateway, encode_map(gateway.local, lease.token, lease.port, 0))

    async def close(self) -> None:
        """Nothing is open."""
