"""z-base-32: how keys are written in DNS names and in the URLs of pkarr relays, and nowhere else."""

from __future__ import annotations

import base64
from typing import Final

from ..keys import base32_decode

__all__ = ["decode", "encode"]

_Z32: Final = "ybndrfg8ejkmcpqxot1uwisza345h769"
_B32: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TO_Z32: Final = bytes.maketrans(_B32.encode(), _Z32.encode())
_TO_B32: Final = str.maketrans(_Z32, _B32)
_SYMBOLS: Final = frozenset(_Z32)


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
    if not _SYMBOLS.issuperset(text):
        raise ValueError("not z-base-32: an invalid symbol")
    try:
        return base32_decode(text.translate(_TO_B32))
    except ValueError as err:
        raise ValueError(f"not z-base-32: {err.args[0]}") from None
