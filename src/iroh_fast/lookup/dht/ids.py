"""Ids of DHT nodes: how far they are apart, and which of them an address may have."""

from __future__ import annotations

from hashlib import sha1
from ipaddress import IPv4Address
from socket import inet_aton
from typing import Final

from .krpc import Address

__all__ = ["is_private", "is_secure", "may_name", "number", "place", "secure_id", "target_of"]


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_CRC32C: Final = _crc32c_table()
_MASK: Final = 0x030F3FFF


def target_of(key: bytes) -> bytes:
    """Where the item of a public key lies (BEP 44, no salt)."""
    return sha1(key).digest()


def number(id: bytes) -> int:
    """An id as a number; the distance of two is their exclusive or."""
    return int.from_bytes(id, "big")


def _crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _prefix(host: str, last: int) -> int:
    """The first 21 bits that BEP 42 gives an id at an address, as it ends in `last`."""
    masked = int.from_bytes(inet_aton(host), "big") & _MASK | (last & 7) << 29
    return _crc32c(masked.to_bytes(4, "big")) >> 11


def is_secure(id: bytes, host: str) -> bool:
    """Whether an address may have an id (BEP 42): nobody can choose both.

    At private addresses every id counts, as in n0-mainline.
    """
    return is_private(host) or int.from_bytes(id[:3], "big") >> 3 == _prefix(host, id[19])


def secure_id(host: str, rest: bytes) -> bytes:
    """An id that an address may have, from 20 random bytes."""
    first = _prefix(host, rest[19]) << 3 | rest[2] & 7
    return first.to_bytes(3, "big") + rest[3:]


def place(id: bytes, host: str) -> tuple[str, int]:
    """Of nodes in one place only one counts: one for an address, or eight with secure ids."""
    return host, int.from_bytes(id[:3], "big") >> 3 if is_secure(id, host) else -1


def is_private(host: str) -> bool:
    """Whether an address means something in a local network alone."""
    return not IPv4Address(host).is_global


def may_name(named: Address, by: Address) -> bool:
    """Whether a node at `by` may send us to another one.

    Nobody outside sends us into our own network, or to what is no address of a host.
    """
    address = IPv4Address(named[0])
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return False
    if address.is_loopback:
        return IPv4Address(by[0]).is_loopback
    return address.is_global or is_private(by[0])
