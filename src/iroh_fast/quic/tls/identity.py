"""The key of an endpoint as TLS uses it: raw public keys (RFC 7250), Ed25519 signatures."""

from __future__ import annotations

from typing import Final

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from ...keys import may_verify
from ._wire import CERTIFICATE, message, vector24
from .alerts import BAD_SIGNATURE, Alert, TlsAlert

__all__ = ["SPKI_PREFIX", "Identity", "spki_key", "verify"]

SPKI_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, Ed25519
SPKI_BYTES: Final = len(SPKI_PREFIX) + 32


class Identity:
    """The endpoint's Ed25519 key with what every handshake repeats.

    Parameters
    ----------
    seed : bytes
        32-byte secret key.

    Attributes
    ----------
    public_key : bytes
        32 bytes, the EndpointId.
    spki : bytes
        44 bytes, the RFC 8410 SubjectPublicKeyInfo.
    certificate_message : bytes
        The Certificate message of every handshake.
    """

    __slots__ = ("_secret", "certificate_message", "public_key", "spki")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("an Ed25519 secret key has 32 bytes")
        self.public_key, self._secret = crypto_sign_seed_keypair(bytes(seed))
        self.spki = SPKI_PREFIX + self.public_key
        entry = vector24(self.spki) + b"\x00\x00"
        self.certificate_message = message(CERTIFICATE, b"\x00" + vector24(entry))

    def __repr__(self) -> str:
        return f"<Identity {self.public_key[:5].hex()}>"

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `data`."""
        return crypto_sign(data, self._secret)[:64]


def spki_key(spki: bytes) -> bytes | None:
    """The key inside an Ed25519 SubjectPublicKeyInfo; None for anything else."""
    if len(spki) != SPKI_BYTES or not spki.startswith(SPKI_PREFIX):
        return None
    return spki[len(SPKI_PREFIX) :]


def verify(public_key: bytes, data: bytes, signature: bytes) -> None:
    """Verify strictly (no small-order key or R, canonical S); TlsAlert on failure."""
    # Whether the key is a point of the curve is not asked: libsodium decompresses it itself, so
    # that anything else is a bad signature.
    if len(signature) == 64 and may_verify(public_key, signature):
        try:
            crypto_sign_open(signature + data, public_key)
            return
        except BadSignatureError:
            pass
    raise TlsAlert(Alert.DECRYPT_ERROR, BAD_SIGNATURE)
