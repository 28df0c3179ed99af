"""Signed packets as items of BEP 44: in both, the same bytes are signed."""

from __future__ import annotations

from ...errors import SignedPacketError
from ..signed_packet import SignedPacket
from .krpc import Item

__all__ = ["item_of", "verified"]


def item_of(packet: SignedPacket) -> Item:
    """What nodes store of a packet."""
    return Item(packet.public_key, packet.timestamp, packet.signature, packet.dns)


def verified(item: Item) -> SignedPacket | None:
    """The packet in an item; None when the signature is not strictly right or it holds no packet.

    INTEROP: n0-mainline verifies less strictly; what passes there alone is no answer here.
    """
    seq = item.seq.to_bytes(8, "big")
    try:
        return SignedPacket.from_bytes(item.key + item.signature + seq + item.value)
    except SignedPacketError:
        return None
