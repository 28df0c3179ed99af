"""NAT-PMP (RFC 6886): messages, and mappings by them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from ..errors import PortmapError
from .exchange import Exchange, UdpExchange
from .model import Gateway, Lease, ProtocolName, check_external

__all__ = ["External", "Mapped", "NatPmp", "decode", "encode_external", "encode_map"]

EXTERNAL, MAP_UDP, MAP_TCP = 0, 1, 2
RESPONSE = 0x80
LIFETIME_S = 7200
RESULTS = {
    1: "the gateway speaks another version",
    2: "port mapping is switched off at the gateway",
    3: "the gateway has no address itself yet",
    4: "the gateway has no room for more mappings",
    5: "the gateway does not know how",
}


@dataclass(frozen=True, slots=True)
class External:
    """Answer to the question for the gateway's address."""

    epoch: int
    ip: IPv4Address


@dataclass(frozen=True, slots=True)
class Mapped:
    """Answer to a request for a mapping."""

    epoch: int
    opcode: int
    internal: int
    external: int
    lifetime: int


def encode_external() -> bytes:
    """The question for the gateway's address."""
    return bytes((0, EXTERNAL))


def encode_map(port: int, external: int, lifetime: int) -> bytes:
    """A request for a mapping of a UDP port; with lifetime 0 to end it.

    Parameters
    ----------
    external : port to have, if possible; 0: any.
    """
    return struct.pack("!BBHHHI", 0, MAP_UDP, 0, port, external, lifetime)


def decode(data: bytes) -> External | Mapped:
    """Read an answer.

    Raises
    ------
    PortmapError : the gateway said no, or this is no answer; its `kind` tells.
    """
    if len(data) < 8 or not data[1] & RESPONSE:
        raise PortmapError("bad_answer", "not an answer of NAT-PMP")
    version, opcode, result, epoch = struct.unpack_from("!BBHI", data)
    if version != 0 or result == 1:
        raise PortmapError("unavailable", RESULTS[1], code=1)
    opcode -= RESPONSE
    if result:
        text = RESULTS.get(result)
        if text is None:
            raise PortmapError("bad_answer", f"result {result}, which there is not", code=result)
        raise PortmapError("refused", text, code=result)
    if opcode == EXTERNAL and len(data) in (12, 16):  # some gateways send 16
        return External(epoch, IPv4Address(data[8:12]))
    if opcode in (MAP_UDP, MAP_TCP) and len(data) == 16:
        return Mapped(epoch, opcode, *struct.unpack_from("!HHI", data, 8))
    raise PortmapError("bad_answer", "an answer of a wrong size")


def _external(data: bytes) -> External | None:
    answer = decode(data) if data[1:2] == bytes((RESPONSE,)) else None
    return answer if isinstance(answer, External) else None


class NatPmp:
    """Mappings by NAT-PMP."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange or UdpExchange()

    @property
    def name(self) -> ProtocolName:
        """It is this one."""
        return "nat_pmp"

    async def probe(self, gateway: Gateway) -> None:
        """Ask for the gateway's address."""
        await self._exchange.ask(gateway, encode_external(), _external)

    async def map(self, gateway: Gateway, port: int, old: Lease | None) -> Lease:
        """Ask for a mapping, then for the address that it is at."""
        wish = old.external.port if old is not None else port

        def mapped(data: bytes) -> Mapped | None:
            answer = decode(data) if data[1:2] == bytes((RESPONSE + MAP_UDP,)) else None
            return answer if isinstance(answer, Mapped) and answer.internal == port else None

        got = await self._exchange.ask(gateway, encode_map(port, wish, LIFETIME_S), mapped)
        if got.external == 0 or got.lifetime == 0:
            raise PortmapError("bad_answer", "the gateway gave port or lifetime 0")
        where = await self._exchange.ask(gateway, encode_external(), _external)
        return Lease("nat_pmp", port, check_external(where.ip, got.external), got.lifetime)

    async def release(self, gateway: Gateway, lease: Lease) -> None:
        """End the mapping of this port."""
        await self._exchange.tell(gateway, encode_map(lease.port, 0, 0))

    async def close(self) -> None:
        """Nothing is open."""
