"""z-base-32: how keys are written in DNS names and in the URLs of pkarr relays, and nowhere else."""

from __future__ import annotations

import base64
from typing import Final

__all__ = ["decode", "encode"]

_Z32: Final = b"ybndrfg8ejkmcpqxot1uwisza345h769"
_TO_Z32: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", _Z32)
_TO_DIGITS: Final = bytes.maketrans(_Z32, b"0123456789abcdefghijklmnopqrstuv")


def encode(data: bytes, /) -> str:
    """Encode, without padding: 32 bytes become 52 symbols."""
    return base64.b32encode(data).rstrip(b"=").translate(_TO_Z32).decode("ascii")


def decode(text: str, /) -> bytes:
    """Decode; lower-case a label of a DNS name before.

    Raises
    ------
    ValueError
        Another symbol (case counts), an impossible length, or trailing bits that are not zero.
    """
    symbols = text.encode("ascii", "replace")
    if symbols.translate(None, _Z32):
        raise ValueError("not z-base-32: an invalid symbol")
    size, spare = divmod(5 * len(symbols), 8)
    if spare > 4:
        raise ValueError(f"not z-base-32: invalid length {len(symbols)}")
    # As the digits of a number: ten times as fast as by base64, and done for each publish.
    number = int(symbols.translate(_TO_DIGITS) or b"0", 32)
    if number & ((1 << spare) - 1):
        raise ValueError(f"not z-base-32: non-zero trailing bits at {len(symbols) - 1}")
    return (number >> spare).to_bytes(size, "big")
