"""Postcard, the compact serde encoding that tickets are made of."""

from __future__ import annotations

from .._check import Buffer
from ..errors import AddrError
from ..keys import as_bytes

__all__ = ["PostcardReader", "encode_varint"]


class PostcardReader:
    """Cursor over postcard bytes from the network.

    Every method raises `AddrError` when the bytes are cut short or out of range and
    never allocates by an announced size.

    Attributes
    ----------
    data : bytes
        The whole input.
    offset : int
        Index of the next byte.
    """

    __slots__ = ("data", "offset")

    def __init__(self, data: Buffer) -> None:
        self.data = as_bytes(data)
        self.offset = 0

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        end = self.offset + size
        if end > len(self.data):
            raise AddrError(f"cut short at byte {len(self.data)}, {size} bytes expected at {self.offset}")
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk

    def varint(self, bits: int) -> int:
        """Return the next little-endian base-128 number of at most `bits` bits.

        Overlong encodings pass as long as they keep to ceil(bits / 7) bytes, as in
        the Rust decoder.
        """
        start, data = self.offset, self.data
        value = shift = 0
        while shift < bits:
            if self.offset >= len(data):
                raise AddrError(f"number cut short at byte {self.offset}")
            byte = data[self.offset]
            self.offset += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value
            shift += 7
        raise AddrError(f"number at byte {start} does not fit into {bits} bits")

    def sized(self) -> bytes:
        """Return the next byte string with a length in front."""
        return self.take(self.varint(64))


def encode_varint(value: int) -> bytes:
    """Encode a number >= 0 as little-endian base 128, as short as possible."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
