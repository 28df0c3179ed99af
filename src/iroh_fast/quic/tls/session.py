"""What both kinds of TLS sessions share: framing of messages, bounds, outcome, exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from ._schedule import (
    AES_128_GCM_SHA256,
    AES_256_GCM_SHA384,
    CHACHA20_POLY1305_SHA256,
    KDF,
)
from ._wire import CERTIFICATE_REQUEST, MESSAGE_NAMES
from .alerts import Alert, QuicViolation, TlsAlert, corrupt, misbehaved

__all__ = [
    "DEFAULT_SUITES",
    "EPOCH_HANDSHAKE",
    "EPOCH_INITIAL",
    "EPOCH_ONE_RTT",
    "EPOCH_ZERO_RTT",
    "Session",
]

EPOCH_INITIAL: Final = 0
EPOCH_ZERO_RTT: Final = 1
EPOCH_HANDSHAKE: Final = 2
EPOCH_ONE_RTT: Final = 3

# AES-128 is the cheapest; a server takes the first of this list it knows.
DEFAULT_SUITES: Final = (AES_128_GCM_SHA256, AES_256_GCM_SHA384, CHACHA20_POLY1305_SHA256)

MAX_MESSAGE_BYTES: Final = 16_384  # body of one handshake message
MAX_HANDSHAKE_BYTES: Final = 65_536  # all messages of one handshake, one direction

# RFC 8446 §4.1.3: this ServerHello.random marks a HelloRetryRequest.
HELLO_RETRY_RANDOM: Final = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)

# (epoch, CRYPTO bytes) to send, and (is_write, epoch, suite, secret)
Output = list[tuple[int, bytes]]
Secrets = list[tuple[bool, int, int, bytes]]


# In the place of both when nothing can come any more: a tuple, shared, where each connection would keep two lists.
_CLOSED: Any = ()


class Session:
    """One side of one handshake, and what remains of it.

    Feed CRYPTO bytes with :meth:`receive`; after every call collect :meth:`take_secrets` and
    :meth:`take_output`.

    Attributes
    ----------
    is_client : bool
    complete : bool
        True once the peer's Finished was verified; on the client, its own is then in the output.
    suite : int or None
        Negotiated cipher suite.
    alpn : bytes or None
        Negotiated protocol; known to servers after the ClientHello.
    peer_public_key : bytes or None
        The peer's proven identity (32 bytes). None on a server before the client's
        CertificateVerify, except on resumption; and where a certificate proves a name instead.
    peer_transport_parameters : bytes or None
        As received. Not authenticated before `complete`.
    client_alpn_offers : sequence of bytes
        What the client offered, in its order.
    resumed : bool
    early_data_offered : bool
    early_data_accepted : bool or None
        None until decided.
    """

    __slots__ = (
        "__weakref__",
        "_alert",
        "_exporter_secret",
        "_keylog",
        "_output",
        "_partial",
        "_read_epoch",
        "_received_bytes",
        "_secrets",
        "alpn",
        "client_alpn_offers",
        "complete",
        "early_data_accepted",
        "early_data_offered",
        "is_client",
        "peer_public_key",
        "peer_transport_parameters",
        "resumed",
        "suite",
    )

    def __init__(self, is_client: bool, keylog: Callable[[str], None] | None) -> None:
        self.is_client = is_client
        self.complete = False
        self.suite: int | None = None
        self.alpn: bytes | None = None
        self.peer_public_key: bytes | None = None
        self.peer_transport_parameters: bytes | None = None
        self.client_alpn_offers: tuple[bytes, ...] = ()
        self.resumed = False
        self.early_data_offered = False
        self.early_data_accepted: bool | None = None
        self._keylog = keylog
        self._alert: TlsAlert | None = None
        self._exporter_secret: bytes | None = None
        self._output: Output = []
        self._secrets: Secrets = []
        self._partial = b""
        self._read_epoch = EPOCH_INITIAL
        self._received_bytes = 0

    def start(self) -> None:
        """Produce the ClientHello, and the 0-RTT secret if a ticket allows it.

        For clients, once.
        """
        raise RuntimeError("start() is for a fresh client session")

    def receive(self, epoch: int, data: bytes) -> None:
        """Process CRYPTO bytes of one epoch, in order and without gaps.

        Copies what it keeps: at most one unfinished message of 16 KiB.

        Raises
        ------
        TlsAlert
            The handshake failed. The session is dead: every later call raises the same.
        """
        if self._alert is not None:
            raise self._alert.again()
        try:
            self._receive(epoch, bytes(data))
        except TlsAlert as alert:
            self._alert = alert.again()
            self._partial = b""
            self._forget()
            raise

    def take_output(self) -> Output:
        """Return and forget the CRYPTO bytes to send, as (epoch, bytes) in order."""
        output = self._output
        if output:
            self._output = []
        return output

    def take_secrets(self) -> Secrets:
        """Return and forget new traffic secrets, as (is_write, epoch, suite, secret)."""
        secrets = self._secrets
        if secrets:
            self._secrets = []
        return secrets

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Derive `length` bytes bound to this connection (RFC 8446 §7.5).

        Both sides get the same bytes for the same label and context.

        Raises
        ------
        RuntimeError
            The handshake is not complete.
        ValueError
            The label has more than 249 bytes, or `length` is not in 1 … 255 hash lengths.
        """
        if not self.complete or self._exporter_secret is None or self.suite is None:
            raise RuntimeError("the handshake is not complete")
        kdf = KDF[self.suite]
        if len(label) > 249:
            raise ValueError("an exporter label has at most 249 bytes")
        if not 1 <= length <= 255 * kdf.size:
            raise ValueError(f"length must be in 1..{255 * kdf.size}")
        secret = kdf.derive(self._exporter_secret, bytes(label), kdf.empty_hash)
        return kdf.expand_label(secret, b"exporter", kdf.new(context).digest(), length)

    def release_handshake_state(self) -> None:
        """Forget what a confirmed connection does not need.

        Kept: the exporter secret, the negotiated values and identities, and what a client needs
        to make tickets. `client_alpn_offers` and, unless tickets may still come,
        `peer_transport_parameters` are cleared.
        """
        if not self.complete:
            raise RuntimeError("the handshake is not complete")
        self._secrets = self._output = _CLOSED
        self._keylog = None
        self.client_alpn_offers = ()
        self.peer_transport_parameters = None
        self._forget()

    # --- for the kinds of sessions -----------------------------------------------------

    def _handle(self, kind: int, message: bytes) -> None:
        """Process one whole message, its header included; TlsAlert."""
        raise NotImplementedError

    def _check_kind(self, kind: int) -> None:
        """Refuse a message that is not due, as soon as its first byte is known."""

    def _unexpected(self, kind: int, expected: str) -> NoReturn:
        got = MESSAGE_NAMES.get(kind, f"Unknown({kind})")
        reason = f"received unexpected message: got {got} when expecting {expected}"
        if self.complete and self.is_client and kind == CERTIFICATE_REQUEST:
            # Authentication after the handshake (RFC 9001 §4.4)
            raise QuicViolation(Alert.UNEXPECTED_MESSAGE, reason)
        raise TlsAlert(Alert.UNEXPECTED_MESSAGE, reason)

    def _forget(self) -> None:
        """Drop what only a handshake in progress needs."""

    def _log(self, label: str, client_random: bytes, secret: bytes) -> None:
        if self._keylog is not None:
            self._keylog(f"{label} {client_random.hex()} {secret.hex()}")

    # --- framing -----------------------------------------------------------------------

    def _receive(self, epoch: int, data: bytes) -> None:
        if not data:
            return
        if epoch != self._read_epoch:
            raise TlsAlert(
                Alert.UNEXPECTED_MESSAGE, "received unexpected message: wrong encryption level"
            )
        if not self.complete:
            self._received_bytes += len(data)
            if self._received_bytes > MAX_HANDSHAKE_BYTES:
                corrupt("HandshakePayloadTooLarge")
        if self._partial:
            data = self._partial + data
            self._partial = b""
        start = 0
        available = len(data)
        while available > start:
            kind = data[start]
            self._check_kind(kind)
            if available - start < 4:
                break
            size = data[start + 1] << 16 | data[start + 2] << 8 | data[start + 3]
            if size > MAX_MESSAGE_BYTES:
                corrupt("HandshakePayloadTooLarge")
            stop = start + 4 + size
            if stop > available:
                break
            self._handle(kind, data if stop - start == available else data[start:stop])
            start = stop
            if self._read_epoch != epoch:
                # RFC 8446 §5.1: nothing may follow a message that changes keys.
                if start != available:
                    misbehaved("KeyEpochWithPendingFragment", Alert.UNEXPECTED_MESSAGE)
                return
        if start < available:
            self._partial = data[start:]
