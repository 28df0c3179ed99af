"""TLS 1.3 (RFC 8446) in the narrow profile iroh speaks over QUIC (RFC 9001).

Both sides authenticate with Ed25519 raw public keys (RFC 7250); the only group is X25519;
ALPN is mandatory and made of arbitrary bytes; there is no HelloRetryRequest, no X.509 and no
TLS key update. Sessions can be resumed with single-use tickets, with 0-RTT.

Messages are read and written in `_wire`, secrets derived in `_schedule`; curve arithmetic and
signatures are libsodium's (PyNaCl). The two sides are in `client` and `server`, this module has
what they share, `factory` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nacl.bindings import crypto_scalarmult

from ._schedule import SHA256, Kdf, equal
from ._wire import (
    FINISHED,
    MESSAGE_NAMES,
    message,
    read_certificate_verify,
    write_certificate_verify,
)
from .alerts import CANNOT_DECRYPT, Alert, TlsAlert, misbehaved
from .identity import Identity, verify
from .session import EPOCH_ONE_RTT, Session

__all__ = ["RawKeySession"]

SERVER_SIGNATURE_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify\x00"
CLIENT_SIGNATURE_CONTEXT = b" " * 64 + b"TLS 1.3, client CertificateVerify\x00"

# What may come next: a method for each kind of message; anything else is unexpected_message.
Handlers = dict[int, Callable[[Any, bytes], None]]
_NOTHING: Handlers = {}


class Handshake:
    """What is needed only until the handshake completes."""

    __slots__ = (
        "alpns",
        "client_random",
        "client_secret",
        "master",
        "peer_key",
        "private_key",
        "server_secret",
        "transcript",
        "transport_parameters",
    )

    def __init__(self, alpns: tuple[bytes, ...], transport_parameters: bytes) -> None:
        self.alpns = alpns
        self.transport_parameters = transport_parameters
        self.client_random = b""
        self.private_key = b""
        self.client_secret = b""  # handshake traffic secrets
        self.server_secret = b""
        self.master = b""
        self.peer_key: bytes | None = None
        self.transcript: Any = None  # hash object, once the hash is known


class RawKeySession(Session):
    """One side of one handshake between endpoints: what `client` and `server` share."""

    __slots__ = ("_expected", "_handshake", "_identity", "_kdf", "_now", "_random")

    def __init__(
        self,
        is_client: bool,
        identity: Identity,
        handshake: Handshake,
        random: Callable[[int], bytes],
        keylog: Callable[[str], None] | None,
        now: Callable[[], float],
    ) -> None:
        super().__init__(is_client, keylog)
        self._identity = identity
        self._handshake: Handshake | None = handshake
        self._random = random
        self._now = now
        self._kdf: Kdf = SHA256
        self._expected = _NOTHING

    # --- messages ----------------------------------------------------------------------

    def _handle(self, kind: int, message: bytes) -> None:
        self._expected[kind](self, message)

    def _check_kind(self, kind: int) -> None:
        if kind not in self._expected:
            names = " or ".join([MESSAGE_NAMES[due] for due in self._expected])
            self._unexpected(kind, names or "nothing")

    def _forget(self) -> None:
        self._handshake = None

    def _progress(self) -> Handshake:
        """The state of a handshake that is under way."""
        assert self._handshake is not None
        return self._handshake

    def _done(self, expected: Handlers) -> None:
        self._handshake = None
        self._expected = expected
        self._read_epoch = EPOCH_ONE_RTT
        self.complete = True

    # --- key schedule ------------------------------------------------------------------

    def _derive_handshake_secrets(self, hs: Handshake, psk: bytes | None, share: bytes) -> None:
        """Run the schedule from the key exchange to the handshake traffic secrets."""
        try:
            shared = crypto_scalarmult(hs.private_key, share)
        except RuntimeError:
            # libsodium refuses points that give an all-zero secret (RFC 8446 §7.4.2).
            misbehaved("InvalidKeyShare")
        hs.private_key = b""
        kdf = self._kdf
        if psk is None:
            salt = kdf.early_derived
        else:
            salt = kdf.derive(kdf.extract(kdf.zeros, psk), b"derived", kdf.empty_hash)
        secret = kdf.extract(salt, shared)
        digest = hs.transcript.digest()
        hs.client_secret = kdf.derive(secret, b"c hs traffic", digest)
        hs.server_secret = kdf.derive(secret, b"s hs traffic", digest)
        hs.master = kdf.extract(kdf.derive(secret, b"derived", kdf.empty_hash), kdf.zeros)
        if self._keylog is not None:
            self._log("CLIENT_HANDSHAKE_TRAFFIC_SECRET", hs.client_random, hs.client_secret)
            self._log("SERVER_HANDSHAKE_TRAFFIC_SECRET", hs.client_random, hs.server_secret)

    def _derive_application_secrets(self, hs: Handshake) -> tuple[bytes, bytes]:
        """Return (client, server) 1-RTT secrets; the transcript must end at server Finished."""
        kdf = self._kdf
        digest = hs.transcript.digest()
        client = kdf.derive(hs.master, b"c ap traffic", digest)
        server = kdf.derive(hs.master, b"s ap traffic", digest)
        self._exporter_secret = kdf.derive(hs.master, b"exp master", digest)
        if self._keylog is not None:
            self._log("CLIENT_TRAFFIC_SECRET_0", hs.client_random, client)
            self._log("SERVER_TRAFFIC_SECRET_0", hs.client_random, server)
            self._log("EXPORTER_SECRET", hs.client_random, self._exporter_secret)
        return client, server

    # --- authentication ----------------------------------------------------------------

    def _certificate_verify(self, hs: Handshake, context: bytes) -> bytes:
        return write_certificate_verify(self._identity.sign(context + hs.transcript.digest()))

    def _check_certificate_verify(
        self, hs: Handshake, public_key: bytes, context: bytes, message: bytes
    ) -> None:
        signature = read_certificate_verify(message)
        verify(public_key, context + hs.transcript.digest(), signature)
        hs.transcript.update(message)
        self.peer_public_key = public_key

    def _finished(self, hs: Handshake, secret: bytes) -> bytes:
        return message(FINISHED, self._kdf.finished(secret, hs.transcript.digest()))

    def _check_finished(self, hs: Handshake, secret: bytes, message: bytes) -> None:
        if not equal(self._finished(hs, secret), message):
            raise TlsAlert(Alert.DECRYPT_ERROR, CANNOT_DECRYPT)
        hs.transcript.update(message)
