"""Requests of the throughput test, ``n0/doctor/1``: 16 bytes, the shape that iroh-doctor gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ...addr.postcard import PostcardReader, encode_varint
from ...errors import AddrError

__all__ = ["ALPN", "PING_ALPN", "REQUEST_SIZE", "Kind", "Request"]

ALPN = b"n0/doctor/1"
PING_ALPN = b"iroh/ping/0"
REQUEST_SIZE = 16
MAX_BLOCK = 1 << 24  # bytes; with 0 the real one never ends

Kind: TypeAlias = Literal["echo", "drain", "send"]
KINDS: tuple[Kind, ...] = ("echo", "drain", "send")


@dataclass(frozen=True, slots=True)
class Request:
    """What the active side wants on a stream.

    Parameters
    ----------
    kind : ``"echo"``: give back what comes; ``"drain"``: read it; ``"send"``: send `size` bytes.
    size : of the whole test, bytes. Only ``"send"`` is bound to it.
    block : bytes of each write of ``"send"``.
    """

    kind: Kind
    size: int
    block: int = 1 << 20

    def encode(self) -> bytes:
        """The 16 bytes."""
        block = encode_varint(self.block) if self.kind == "send" else b""
        data = bytes((KINDS.index(self.kind),)) + encode_varint(self.size) + block
        return data.ljust(REQUEST_SIZE, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Request:
        """Read 16 bytes.

        Raises
        ------
        ValueError : they are no request, or one that nobody should follow.
        """
        try:
            reader = PostcardReader(data)
            kind = KINDS[reader.varint(32)]
            size = reader.varint(64)
            block = reader.varint(32) if kind == "send" else 1 << 20
        except (AddrError, IndexError, ValueError):
            raise ValueError("not a request of n0/doctor/1") from None
        if not 0 < block <= MAX_BLOCK:
            raise ValueError(f"blocks of {block} bytes: 1 to {MAX_BLOCK} are possible")
        return cls(kind, size, block)
