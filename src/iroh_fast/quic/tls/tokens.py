"""Address-validation tokens of a server: Retry and NEW_TOKEN (RFC 9000 §8.1).

A token is a 12-byte random nonce followed by an AES-256-GCM sealed record under a key that
only this endpoint knows. It is opaque to clients, so the layout is a local matter::

    u8 kind, ip (16), [u16 port, u8 length, original destination connection id,] u64 time

Addresses are 16 bytes, IPv4 as ::ffff:a.b.c.d. Times are whole wall-clock seconds and come
from the caller.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "RETRY_LIFETIME_S",
    "VALIDATION_LIFETIME_S",
    "RetryToken",
    "TokenCheck",
    "TokenKey",
    "TokenOutcome",
    "ValidationToken",
    "validate",
]

RETRY_LIFETIME_S: Final = 15  # as noq
VALIDATION_LIFETIME_S: Final = 14 * 86_400  # as noq
MAX_CLOCK_STEP_S: Final = 5  # a token may seem this young if our clock was set back

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_RETRY: Final = 0
_VALIDATION: Final = 1
_MAX_CID_BYTES: Final = 20
_MAX_TOKEN_BYTES: Final = _NONCE_BYTES + 1 + 16 + 2 + 1 + _MAX_CID_BYTES + 8 + _TAG_BYTES
_MIN_TOKEN_BYTES: Final = _NONCE_BYTES + 1 + 16 + 8 + _TAG_BYTES


@dataclass(slots=True, frozen=True)
class RetryToken:
    """What we put into a Retry packet: proves the address of the very next Initial."""

    ip16: bytes
    port: int
    original_dcid: bytes
    issued_s: int


@dataclass(slots=True, frozen=True)
class ValidationToken:
    """What we put into a NEW_TOKEN frame: proves an address in a later connection."""

    ip16: bytes
    issued_s: int


class TokenOutcome(Enum):
    """What a token in an Initial packet means."""

    NONE = "no usable token: the address is not validated, go on as without one"
    RETRY = "valid Retry token: the address is validated, the original DCID is known"
    ADDRESS = "valid NEW_TOKEN token: the address is validated"
    INVALID = "our Retry token, but expired or of another address: close INVALID_TOKEN (0x0b)"


@dataclass(slots=True, frozen=True)
class TokenCheck:
    """Outcome of :func:`validate`; `original_dcid` only with ``TokenOutcome.RETRY``."""

    outcome: TokenOutcome
    original_dcid: bytes | None = None


class TokenKey:
    """Seals and opens tokens of one endpoint.

    Parameters
    ----------
    key : bytes
        32 secret bytes; tokens sealed under another key are as good as none.
    random : callable
        ``random(n)`` returns n random bytes, for nonces.

    Notes
    -----
    Nonces are random, so a key should seal at most 2**32 tokens (NIST SP 800-38D §8.3).
    """

    __slots__ = ("_aead", "_key", "_random")

    def __init__(self, key: bytes, random: Callable[[int], bytes] = os.urandom) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a token key has {KEY_BYTES} bytes")
        self._key = bytes(key)
        self._random = random
        self._aead: AESGCM | None = None

    def __repr__(self) -> str:
        return "<TokenKey>"

    def _cipher(self) -> AESGCM:
        # Most endpoints never see a token: they are spared the import.
        if self._aead is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._aead = AESGCM(self._key)
        return self._aead

    def _seal(self, plain: bytes) -> bytes:
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, plain, None)

    def seal_retry(self, ip16: bytes, port: int, odcid: bytes, now_s: int) -> bytes:
        """Return the token of a Retry packet (at most 76 bytes).

        Parameters
        ----------
        ip16, port : bytes, int
            Where the Initial came from.
        odcid : bytes
            Its destination connection id, at most 20 bytes.
        now_s : int
            Wall clock in seconds.

        Raises
        ------
        ValueError
            An argument has the wrong size.
        """
        if len(ip16) != 16 or len(odcid) > _MAX_CID_BYTES or not 0 <= port <= 0xFFFF:
            raise ValueError("malformed address or connection id")
        return self._seal(
            b"%c%b%b%c%b%b"
            % (
                _RETRY,
                ip16,
                port.to_bytes(2, "big"),
                len(odcid),
                odcid,
                int(now_s).to_bytes(8, "big"),
            )
        )

    def seal_validation(self, ip16: bytes, now_s: int) -> bytes:
        """Return a token for a NEW_TOKEN frame; it is bound to the address, not the port."""
        if len(ip16) != 16:
            raise ValueError("malformed address")
        return self._seal(b"%c%b%b" % (_VALIDATION, ip16, int(now_s).to_bytes(8, "big")))

    def open(self, token: bytes) -> RetryToken | ValidationToken | None:
        """Return what is in a token of ours; None for anything else."""
        if not _MIN_TOKEN_BYTES <= len(token) <= _MAX_TOKEN_BYTES:
            return None
        from cryptography.exceptions import InvalidTag

        try:
            plain = self._cipher().decrypt(token[:_NONCE_BYTES], token[_NONCE_BYTES:], None)
        except InvalidTag:
            return None
        # From here on it is our own encoding.
        issued_s = int.from_bytes(plain[-8:], "big")
        if plain[0] == _VALIDATION:
            return ValidationToken(plain[1:17], issued_s)
        return RetryToken(plain[1:17], int.from_bytes(plain[17:19], "big"), plain[20:-8], issued_s)


def validate(
    key: TokenKey,
    token: bytes,
    ip16: bytes,
    port: int,
    now_s: int,
    *,
    retry_lifetime_s: int = RETRY_LIFETIME_S,
    validation_lifetime_s: int = VALIDATION_LIFETIME_S,
) -> TokenCheck:
    """Judge the token of a client's first Initial.

    Parameters
    ----------
    token : bytes
        From the packet header; may be empty.
    ip16, port : bytes, int
        Where the packet came from.
    now_s : int
        Wall clock in seconds.
    """
    found = key.open(token) if token else None
    if found is None:
        return TokenCheck(TokenOutcome.NONE)
    age_s = now_s - found.issued_s
    if isinstance(found, RetryToken):
        # A client that got our Retry must come from there and at once (RFC 9000 §8.1.3).
        if (
            found.ip16 != ip16
            or found.port != port
            or not -MAX_CLOCK_STEP_S <= age_s <= retry_lifetime_s
        ):
            return TokenCheck(TokenOutcome.INVALID)
        return TokenCheck(TokenOutcome.RETRY, found.original_dcid)
    if found.ip16 != ip16 or not -MAX_CLOCK_STEP_S <= age_s <= validation_lifetime_s:
        return TokenCheck(TokenOutcome.NONE)  # the address may simply have changed
    return TokenCheck(TokenOutcome.ADDRESS)
