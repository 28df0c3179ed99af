"""TLS 1.3 (RFC 8446) in the narrow profile iroh speaks over QUIC (RFC 9001).

Both sides authenticate with Ed25519 raw public keys (RFC 7250); the only group is X25519;
ALPN is mandatory and made of arbitrary bytes; there is no HelloRetryRequest, no X.509 and no
TLS key update. Sessions can be resumed with single-use tickets, with 0-RTT.

The module is sans-IO: CRYPTO bytes go in, CRYPTO bytes and traffic secrets come out. It
parses with aioquic's bounds-checked buffer; curve arithmetic and signatures are libsodium's
(PyNaCl), hashing is hashlib's. aioquic's own ``KeySchedule`` is not imported, because its
module pulls in the whole X.509 stack (about 100 ms); the tests check ours against it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aioquic.buffer import Buffer, BufferReadError
from nacl.bindings import (
    crypto_scalarmult,
    crypto_scalarmult_base,
    crypto_sign,
    crypto_sign_seed_keypair,
)

from .._parameters import same_promises
from .sessions import (
    MAX_TICKET_AGE_SKEW_S,
    MAX_TICKET_LIFETIME_S,
    SERVER_TICKET_LIFETIME_S,
    ResumptionTicket,
    ServerTicket,
    ServerTicketStore,
)

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = [
    "DEFAULT_SUITES",
    "EPOCH_HANDSHAKE",
    "EPOCH_INITIAL",
    "EPOCH_ONE_RTT",
    "EPOCH_ZERO_RTT",
    "Alert",
    "Identity",
    "ResumptionTicket",
    "ServerTicketStore",
    "TlsAlert",
    "TlsSession",
]

EPOCH_INITIAL: Final = 0
EPOCH_ZERO_RTT: Final = 1
EPOCH_HANDSHAKE: Final = 2
EPOCH_ONE_RTT: Final = 3

AES_128_GCM_SHA256: Final = 0x1301
AES_256_GCM_SHA384: Final = 0x1302
CHACHA20_POLY1305_SHA256: Final = 0x1303

# AES-128 is the cheapest; a server takes the first of this list it knows.
DEFAULT_SUITES: Final = (AES_128_GCM_SHA256, AES_256_GCM_SHA384, CHACHA20_POLY1305_SHA256)

MAX_MESSAGE_BYTES: Final = 16_384  # body of one handshake message
MAX_HANDSHAKE_BYTES: Final = 65_536  # all messages of one handshake, one direction
MAX_TICKETS_RECEIVED: Final = 16  # per connection; later ones are ignored
TICKETS_SENT: Final = 2
TICKET_BYTES: Final = 32
MAX_EARLY_DATA: Final = 0xFFFFFFFF  # RFC 9001 §4.6.1: the only value besides "none"

SPKI_PREFIX: Final = bytes.fromhex("302a300506032b6570032100")  # RFC 8410, Ed25519
SPKI_BYTES: Final = len(SPKI_PREFIX) + 32

_VERSION_1_2 = 0x0303
_VERSION_1_3 = 0x0304
_X25519 = 0x001D
_ED25519 = 0x0807
_RAW_PUBLIC_KEY = 2
_PSK_DHE_KE = 1

# RFC 8446 §4.1.3: this ServerHello.random marks a HelloRetryRequest.
_HELLO_RETRY_RANDOM = bytes.fromhex(
    "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c"
)

# Handshake types
_CLIENT_HELLO = 1
_SERVER_HELLO = 2
_NEW_SESSION_TICKET = 4
_ENCRYPTED_EXTENSIONS = 8
_CERTIFICATE = 11
_CERTIFICATE_REQUEST = 13
_CERTIFICATE_VERIFY = 15
_FINISHED = 20
_MESSAGE_NAMES = {
    0: "HelloRequest",
    _CLIENT_HELLO: "ClientHello",
    _SERVER_HELLO: "ServerHello",
    _NEW_SESSION_TICKET: "NewSessionTicket",
    5: "EndOfEarlyData",
    _ENCRYPTED_EXTENSIONS: "EncryptedExtensions",
    _CERTIFICATE: "Certificate",
    _CERTIFICATE_REQUEST: "CertificateRequest",
    _CERTIFICATE_VERIFY: "CertificateVerify",
    _FINISHED: "Finished",
    24: "KeyUpdate",
    25: "CompressedCertificate",
    254: "MessageHash",
}

# Extensions
_SUPPORTED_GROUPS = 10
_SIGNATURE_ALGORITHMS = 13
_ALPN = 16
_CLIENT_CERTIFICATE_TYPE = 19
_SERVER_CERTIFICATE_TYPE = 20
_PRE_SHARED_KEY = 41
_EARLY_DATA = 42
_SUPPORTED_VERSIONS = 43
_PSK_KEY_EXCHANGE_MODES = 45
_KEY_SHARE = 51
_QUIC_TRANSPORT_PARAMETERS = 57

_SERVER_HELLO_EXTENSIONS = frozenset((_KEY_SHARE, _PRE_SHARED_KEY, _SUPPORTED_VERSIONS))
_ENCRYPTED_EXTENSIONS_EXPECTED = frozenset(
    (
        _SUPPORTED_GROUPS,  # a server may list its groups (RFC 8446 §4.2.7); ignored
        _ALPN,
        _CLIENT_CERTIFICATE_TYPE,
        _SERVER_CERTIFICATE_TYPE,
        _EARLY_DATA,
        _QUIC_TRANSPORT_PARAMETERS,
    )
)


class Alert(IntEnum):
    """TLS alert descriptions used here (RFC 8446 §6); QUIC closes with 0x100 + value."""

    UNEXPECTED_MESSAGE = 10
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class TlsAlert(Exception):
    """The handshake failed; nothing more can be done with the session.

    Attributes
    ----------
    description : int
        TLS alert number; the connection closes with code 0x100 + description.
    reason : str
        Text for the close frame, worded as iroh's TLS library does.
    """

    def __init__(self, description: int, reason: str) -> None:
        super().__init__(description, reason)
        self.description = int(description)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.reason} (alert {self.description})"


# INTEROP: reason texts are those rustls puts into the close frame.
_UNKNOWN_ISSUER = "invalid peer certificate: UnknownIssuer"
_BAD_SIGNATURE = "invalid peer certificate: BadSignature"
_BAD_ENCODING = "invalid peer certificate: BadEncoding"
_NO_CERTIFICATES = "peer sent no certificates"
_NO_ALPN = "peer doesn't support any known protocol"
_CANNOT_DECRYPT = "cannot decrypt peer's message"


def _incompatible(what: str, alert: Alert = Alert.HANDSHAKE_FAILURE) -> NoReturn:
    raise TlsAlert(alert, f"peer is incompatible: {what}")


def _misbehaved(what: str, alert: Alert = Alert.ILLEGAL_PARAMETER) -> NoReturn:
    raise TlsAlert(alert, f"peer misbehaved: {what}")


def _corrupt(what: str, alert: Alert = Alert.DECODE_ERROR) -> NoReturn:
    raise TlsAlert(alert, f"received corrupt message of type {what}")


# --- key schedule (RFC 8446 §7.1) ------------------------------------------------------


class _Kdf:
    """Everything that depends only on the hash: constants and label encodings."""

    __slots__ = ("_prefixes", "early_derived", "empty_hash", "name", "new", "size", "zeros")

    def __init__(self, name: str) -> None:
        self.name = name
        self.new: Callable[..., _Hash] = getattr(hashlib, name)
        self.empty_hash = self.new(b"").digest()
        self.size = len(self.empty_hash)
        self.zeros = bytes(self.size)
        self._prefixes = {
            label: self.size.to_bytes(2, "big") + bytes((6 + len(label),)) + b"tls13 " + label
            for label in (
                b"derived",
                b"res binder",
                b"c e traffic",
                b"c hs traffic",
                b"s hs traffic",
                b"c ap traffic",
                b"s ap traffic",
                b"exp master",
                b"res master",
                b"finished",
                b"resumption",
            )
        }
        # Without a PSK the first two steps of the schedule are constants.
        self.early_derived = self.derive(
            self.extract(self.zeros, self.zeros), b"derived", self.empty_hash
        )

    def extract(self, salt: bytes, key: bytes) -> bytes:
        return hmac.digest(salt, key, self.name)

    def derive(self, secret: bytes, label: bytes, context: bytes) -> bytes:
        """HKDF-Expand-Label to one hash length, for the labels of this protocol."""
        # One block of HKDF-Expand is a single HMAC over info and the counter byte 1.
        return hmac.digest(
            secret,
            b"%b%c%b\x01" % (self._prefixes[label], len(context), context),
            self.name,
        )

    def expand_label(self, secret: bytes, label: bytes, context: bytes, length: int) -> bytes:
        """HKDF-Expand-Label with any label and length (RFC 8446 §7.1, RFC 5869)."""
        info = b"%b%c%b%b%c%b" % (
            length.to_bytes(2, "big"),
            6 + len(label),
            b"tls13 ",
            label,
            len(context),
            context,
        )
        block = output = b""
        counter = 1
        while len(output) < length:
            block = hmac.digest(secret, b"%b%b%c" % (block, info, counter), self.name)
            output += block
            counter += 1
        return output[:length]

    def finished(self, traffic_secret: bytes, transcript_hash: bytes) -> bytes:
        return hmac.digest(
            self.derive(traffic_secret, b"finished", b""), transcript_hash, self.name
        )


_SHA256 = _Kdf("sha256")
_SHA384 = _Kdf("sha384")
_KDF = {
    AES_128_GCM_SHA256: _SHA256,
    AES_256_GCM_SHA384: _SHA384,
    CHACHA20_POLY1305_SHA256: _SHA256,
}

# --- encoding --------------------------------------------------------------------------


def _message(kind: int, body: bytes) -> bytes:
    return b"%c%b%b" % (kind, len(body).to_bytes(3, "big"), body)


def _vector8(value: bytes) -> bytes:
    return b"%c%b" % (len(value), value)


def _vector16(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _extension(kind: int, value: bytes) -> bytes:
    return b"%b%b%b" % (kind.to_bytes(2, "big"), len(value).to_bytes(2, "big"), value)


_CERTIFICATE_REQUEST_MESSAGE = bytes.fromhex("0d00000b000008000d000400020807")
_EXTENSION_SUPPORTED_GROUPS = _extension(_SUPPORTED_GROUPS, b"\x00\x02\x00\x1d")
_EXTENSION_SIGNATURE_ALGORITHMS = _extension(_SIGNATURE_ALGORITHMS, b"\x00\x02\x08\x07")
_EXTENSION_SUPPORTED_VERSIONS = _extension(_SUPPORTED_VERSIONS, b"\x02\x03\x04")
_EXTENSION_SELECTED_VERSION = _extension(_SUPPORTED_VERSIONS, b"\x03\x04")
_EXTENSION_PSK_MODES = _extension(_PSK_KEY_EXCHANGE_MODES, b"\x01\x01")
_EXTENSION_EARLY_DATA = _extension(_EARLY_DATA, b"")
_EXTENSION_FIRST_PSK = _extension(_PRE_SHARED_KEY, b"\x00\x00")
_EXTENSIONS_OFFERED_TYPES = _extension(_CLIENT_CERTIFICATE_TYPE, b"\x01\x02"), _extension(
    _SERVER_CERTIFICATE_TYPE, b"\x01\x02"
)
_EXTENSIONS_SELECTED_TYPES = _extension(_CLIENT_CERTIFICATE_TYPE, b"\x02") + _extension(
    _SERVER_CERTIFICATE_TYPE, b"\x02"
)
_TICKET_EXTENSIONS = _vector16(_extension(_EARLY_DATA, MAX_EARLY_DATA.to_bytes(4, "big")))

_SERVER_SIGNATURE_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify\x00"
_CLIENT_SIGNATURE_CONTEXT = b" " * 64 + b"TLS 1.3, client CertificateVerify\x00"

# --- decoding --------------------------------------------------------------------------
# A read past the end raises BufferReadError, which receive() turns into decode_error.


def _end(buf: Buffer, what: str) -> None:
    if not buf.eof():
        _corrupt(f"TrailingData({what!r})")


def _list16(value: bytes, what: str) -> list[int]:
    """Decode a non-empty u16-prefixed list of u16."""
    count = len(value) - 2
    if count < 2 or count & 1 or int.from_bytes(value[:2], "big") != count:
        _corrupt(what)
    return [value[i] << 8 | value[i + 1] for i in range(2, len(value), 2)]


def _list8(value: bytes, what: str) -> bytes:
    """Decode a non-empty u8-prefixed list of u8."""
    if len(value) < 2 or value[0] != len(value) - 1:
        _corrupt(what)
    return value[1:]


def _alpn_list(value: bytes) -> list[bytes]:
    buf = Buffer(data=value)
    if buf.pull_uint16() != len(value) - 2 or len(value) < 4:
        _corrupt("ProtocolNameList")
    names = []
    while not buf.eof():
        length = buf.pull_uint8()
        if length == 0:
            _corrupt("EmptyProtocolName")
        names.append(buf.pull_bytes(length))
    return names


def _extensions(buf: Buffer) -> dict[int, bytes]:
    """Decode an extension block that ends the message; order is kept, duplicates rejected."""
    end = buf.pull_uint16() + buf.tell()
    found: dict[int, bytes] = {}
    while buf.tell() < end:
        kind = buf.pull_uint16()
        if kind in found:
            _corrupt(f"DuplicateExtension({kind})", Alert.ILLEGAL_PARAMETER)
        found[kind] = buf.pull_bytes(buf.pull_uint16())
    if buf.tell() != end:
        _corrupt("ExtensionLength")
    _end(buf, "extensions")
    return found


def _offered_psks(value: bytes) -> tuple[list[tuple[bytes, int]], list[bytes], int]:
    """Decode a ClientHello's pre_shared_key: identities with age, binders, binders' size."""
    buf = Buffer(data=value)
    end = buf.pull_uint16() + 2
    identities = []
    while buf.tell() < end:
        identity = buf.pull_bytes(buf.pull_uint16())
        if not identity:
            _corrupt("EmptyTicketValue")
        identities.append((identity, buf.pull_uint32()))
    if buf.tell() != end:
        _corrupt("PresharedKeyIdentity")
    size = buf.pull_uint16()
    if size != len(value) - end - 2:
        _corrupt("PresharedKeyBinder")
    binders = []
    while not buf.eof():
        binder = buf.pull_bytes(buf.pull_uint8())
        if len(binder) < 32:
            _corrupt("PresharedKeyBinder")
        binders.append(binder)
    if not identities or len(binders) != len(identities):
        _misbehaved("PskWithMismatchedBinder")
    return identities, binders, size + 2


def _certificate_entries(message: bytes) -> list[bytes]:
    """Decode a Certificate message into its entries (without extensions)."""
    buf = Buffer(data=message)
    buf.seek(4)
    if buf.pull_uint8() != 0:  # the request context we use is empty
        _corrupt("CertificateRequestContext")
    if int.from_bytes(buf.pull_bytes(3), "big") != len(message) - buf.tell():
        _corrupt("CertificatePayload")
    entries = []
    while not buf.eof():
        entries.append(buf.pull_bytes(int.from_bytes(buf.pull_bytes(3), "big")))
        if buf.pull_bytes(buf.pull_uint16()):
            # No extension that goes here was offered (RFC 8446 §4.4.2).
            _misbehaved("UnsolicitedCertExtension", Alert.UNSUPPORTED_EXTENSION)
    return entries


def _verify_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Verify strictly (no small-order key or R, canonical S); TlsAlert on failure."""
    # Imported here: keys.py is a sibling layer and not needed to build a ClientHello.
    from ...errors import SignatureError
    from ...keys import PublicKey

    if len(signature) != 64:
        raise TlsAlert(Alert.DECRYPT_ERROR, _BAD_SIGNATURE)
    try:
        # The constructor's check of the point is left out: libsodium decompresses the key
        # itself, so that anything that is no point of the curve is a bad signature.
        PublicKey._from_valid(public_key).verify(message, signature)
    except SignatureError as error:
        raise TlsAlert(Alert.DECRYPT_ERROR, _BAD_SIGNATURE) from error


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
    """

    __slots__ = ("_secret", "certificate_message", "public_key", "spki")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("an Ed25519 secret key has 32 bytes")
        self.public_key, self._secret = crypto_sign_seed_keypair(bytes(seed))
        self.spki = SPKI_PREFIX + self.public_key
        entry = len(self.spki).to_bytes(3, "big") + self.spki + b"\x00\x00"
        self.certificate_message = _message(
            _CERTIFICATE, b"\x00" + len(entry).to_bytes(3, "big") + entry
        )

    def __repr__(self) -> str:
        return f"<Identity {self.public_key[:5].hex()}>"

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `data`."""
        return crypto_sign(data, self._secret)[:64]


class _State(IntEnum):
    START = 0
    CLIENT_SERVER_HELLO = 1
    CLIENT_ENCRYPTED_EXTENSIONS = 2
    CLIENT_CERTIFICATE_OR_REQUEST = 3
    CLIENT_CERTIFICATE = 4
    CLIENT_CERTIFICATE_VERIFY = 5
    CLIENT_FINISHED = 6
    CLIENT_DONE = 7
    SERVER_CLIENT_HELLO = 8
    SERVER_CERTIFICATE = 9
    SERVER_CERTIFICATE_VERIFY = 10
    SERVER_FINISHED = 11
    SERVER_DONE = 12


class _Handshake:
    """What is needed only until the handshake completes."""

    __slots__ = (
        "alpns",
        "certificate_requested",
        "client_finished_secret",
        "client_random",
        "expected_peer",
        "master",
        "peer_key",
        "private_key",
        "received_bytes",
        "secret",
        "server_finished_secret",
        "suites",
        "ticket",
        "tickets_wanted",
        "transcript",
        "transport_parameters",
    )

    alpns: list[bytes]
    certificate_requested: bool
    client_finished_secret: bytes
    client_random: bytes
    expected_peer: bytes
    master: bytes
    peer_key: bytes | None
    private_key: bytes
    received_bytes: int
    secret: bytes
    server_finished_secret: bytes
    suites: tuple[int, ...]
    ticket: ResumptionTicket | None
    tickets_wanted: bool
    transcript: Any
    transport_parameters: bytes


def _checked_alpns(alpns: Sequence[bytes]) -> list[bytes]:
    names = [bytes(name) for name in alpns]
    for name in names:
        if not 1 <= len(name) <= 255:
            raise ValueError("an ALPN has 1 to 255 bytes")
    if sum(map(len, names)) + len(names) > 0xFFFF:
        raise ValueError("the ALPN list is too long")
    return names


class TlsSession:
    """One side of one handshake, and what remains of it.

    Use :meth:`client` or :meth:`server`. Feed CRYPTO bytes with :meth:`receive`; after every
    call collect :meth:`take_secrets` and :meth:`take_output`.

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
        CertificateVerify, except on resumption.
    peer_transport_parameters : bytes or None
        As received. Not authenticated before `complete`.
    client_alpn_offers : list of bytes
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
        "_handshake",
        "_identity",
        "_kdf",
        "_keylog",
        "_now",
        "_on_ticket",
        "_output",
        "_partial",
        "_random",
        "_read_epoch",
        "_resumption_secret",
        "_secrets",
        "_state",
        "_ticket_store",
        "_tickets_received",
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

    def __init__(
        self,
        is_client: bool,
        identity: Identity,
        random: Callable[[int], bytes],
        keylog: Callable[[str], None] | None,
        now: Callable[[], float],
    ) -> None:
        self.is_client = is_client
        self.complete = False
        self.suite: int | None = None
        self.alpn: bytes | None = None
        self.peer_public_key: bytes | None = None
        self.peer_transport_parameters: bytes | None = None
        self.client_alpn_offers: list[bytes] = []
        self.resumed = False
        self.early_data_offered = False
        self.early_data_accepted: bool | None = None
        self._identity = identity
        self._random = random
        self._keylog = keylog
        self._now = now
        self._alert: TlsAlert | None = None
        self._exporter_secret: bytes | None = None
        self._resumption_secret: bytes | None = None
        self._on_ticket: Callable[[ResumptionTicket], None] | None = None
        self._ticket_store: ServerTicketStore | None = None
        self._tickets_received = 0
        self._output: list[tuple[int, bytes]] = []
        self._secrets: list[tuple[bool, int, int, bytes]] = []
        self._partial = b""
        self._read_epoch = EPOCH_INITIAL
        self._kdf: _Kdf = _SHA256
        self._state = _State.START
        self._handshake: _Handshake | None = _Handshake()
        self._handshake.received_bytes = 0

    @classmethod
    def client(
        cls,
        identity: Identity,
        *,
        expected_peer: bytes,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        ticket: ResumptionTicket | None = None,
        random: Callable[[int], bytes] = os.urandom,
        on_ticket: Callable[[ResumptionTicket], None] | None = None,
        keylog: Callable[[str], None] | None = None,
        suites: Sequence[int] = DEFAULT_SUITES,
        now: Callable[[], float] = time.time,
    ) -> TlsSession:
        """Prepare the dialling side.

        Parameters
        ----------
        identity : Identity
            Our key.
        expected_peer : bytes
            32-byte EndpointId the server must prove.
        alpns : sequence of bytes
            At least one protocol, preferred first, each 1 to 255 bytes.
        transport_parameters : bytes
            Encoded QUIC transport parameters.
        ticket : ResumptionTicket, optional
            Offered for resumption, and for 0-RTT if its protocol is among `alpns`; it is
            used up by this call. Ignored if expired, of another peer or of a suite not in `suites`.
        random : callable
            ``random(n)`` returns n unpredictable bytes.
        on_ticket : callable, optional
            Called with each new ticket, inside :meth:`receive`; None asks for no tickets.
        keylog : callable, optional
            Called with each NSS key-log line.
        suites : sequence of int
            Cipher suites to offer, preferred first.
        now : callable
            Wall clock in seconds, only for ticket ages.

        Raises
        ------
        ValueError
            An argument is out of range.
        """
        if len(expected_peer) != 32:
            raise ValueError("an endpoint id has 32 bytes")
        if not suites or any(suite not in _KDF for suite in suites):
            raise ValueError("no or unknown cipher suites")
        names = _checked_alpns(alpns)
        if not names:
            raise ValueError("at least one ALPN is needed")
        self = cls(True, identity, random, keylog, now)
        hs = self._handshake
        assert hs is not None
        hs.expected_peer = bytes(expected_peer)
        hs.alpns = names
        hs.transport_parameters = bytes(transport_parameters)
        hs.suites = tuple(suites)
        hs.ticket = ticket
        if ticket is not None and (
            ticket.peer != hs.expected_peer
            or ticket.suite not in hs.suites
            or not ticket.is_valid(now())
        ):
            hs.ticket = None
        self.client_alpn_offers = names
        self._on_ticket = on_ticket
        return self

    @classmethod
    def server(
        cls,
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        ticket_store: ServerTicketStore | None = None,
        random: Callable[[int], bytes] = os.urandom,
        keylog: Callable[[str], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> TlsSession:
        """Prepare the accepting side.

        Parameters
        ----------
        alpns : sequence of bytes
            Accepted protocols, preferred first. With an empty list only a client that offers
            none is accepted, and `alpn` stays None.
        ticket_store : ServerTicketStore, optional
            Where sessions are remembered; None turns resumption off.

        The other parameters are those of :meth:`client`.

        Raises
        ------
        ValueError
            An ALPN is empty or longer than 255 bytes.
        """
        self = cls(False, identity, random, keylog, now)
        hs = self._handshake
        assert hs is not None
        hs.alpns = _checked_alpns(alpns)
        hs.transport_parameters = bytes(transport_parameters)
        self._ticket_store = ticket_store
        self._state = _State.SERVER_CLIENT_HELLO
        return self

    # --- driving -----------------------------------------------------------------------

    def start(self) -> None:
        """Produce the ClientHello, and the 0-RTT secret if a ticket allows it.

        For clients, once.
        """
        if self._state is not _State.START:
            raise RuntimeError("start() is for a fresh client session")
        self._send_client_hello()
        self._state = _State.CLIENT_SERVER_HELLO

    def receive(self, epoch: int, data: bytes) -> None:
        """Process CRYPTO bytes of one epoch, in order and without gaps.

        Copies what it keeps: at most one unfinished message of 16 KiB.

        Raises
        ------
        TlsAlert
            The handshake failed. The session is dead: every later call raises the same.
        """
        if self._alert is not None:
            raise TlsAlert(self._alert.description, self._alert.reason)
        try:
            self._receive(epoch, bytes(data))
        except TlsAlert as alert:
            self._fail(alert)
            raise
        except BufferReadError:
            error = TlsAlert(
                Alert.DECODE_ERROR, "received corrupt message of type MissingData"
            )
            self._fail(error)
            raise error from None

    def take_output(self) -> list[tuple[int, bytes]]:
        """Return and forget the CRYPTO bytes to send, as (epoch, bytes) in order."""
        output = self._output
        self._output = []
        return output

    def take_secrets(self) -> list[tuple[bool, int, int, bytes]]:
        """Return and forget new traffic secrets, as (is_write, epoch, suite, secret)."""
        secrets = self._secrets
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
        if not self.complete or self._exporter_secret is None:
            raise RuntimeError("the handshake is not complete")
        kdf = self._kdf
        if len(label) > 249:
            raise ValueError("an exporter label has at most 249 bytes")
        if not 1 <= length <= 255 * kdf.size:
            raise ValueError(f"length must be in 1..{255 * kdf.size}")
        secret = kdf.expand_label(self._exporter_secret, bytes(label), kdf.empty_hash, kdf.size)
        return kdf.expand_label(secret, b"exporter", kdf.new(context).digest(), length)

    def release_handshake_state(self) -> None:
        """Forget what a confirmed connection does not need.

        Kept: the exporter secret, the negotiated values and identities, and on a client that
        wants tickets what turns them into :class:`ResumptionTicket`. `client_alpn_offers`
        and, unless tickets may still come, `peer_transport_parameters` are cleared.
        """
        if not self.complete:
            raise RuntimeError("the handshake is not complete")
        self._handshake = None
        self._secrets = []
        self._output = []
        self._keylog = None
        self._ticket_store = None
        self.client_alpn_offers = []
        if self._on_ticket is None:
            self._resumption_secret = None
            self.peer_transport_parameters = None

    # --- common ------------------------------------------------------------------------

    def _fail(self, alert: TlsAlert) -> None:
        self._alert = TlsAlert(alert.description, alert.reason)  # without the traceback
        self._handshake = None
        self._partial = b""

    def _receive(self, epoch: int, data: bytes) -> None:
        if not data:
            return
        if epoch != self._read_epoch:
            raise TlsAlert(
                Alert.UNEXPECTED_MESSAGE, "received unexpected message: wrong encryption level"
            )
        hs = self._handshake
        if hs is not None:
            hs.received_bytes += len(data)
            if hs.received_bytes > MAX_HANDSHAKE_BYTES:
                _corrupt("HandshakePayloadTooLarge")
        if self._partial:
            data = self._partial + data
            self._partial = b""
        start = 0
        available = len(data)
        while available > start:
            kind = data[start]
            handler = _HANDLERS[self._state].get(kind)
            if handler is None:
                self._unexpected(kind)
            if available - start < 4:
                break
            stop = start + 4 + int.from_bytes(data[start + 1 : start + 4], "big")
            if stop - start - 4 > MAX_MESSAGE_BYTES:
                _corrupt("HandshakePayloadTooLarge")
            if stop > available:
                break
            handler(self, data if stop - start == available else data[start:stop])
            start = stop
            if self._read_epoch != epoch:
                # RFC 8446 §5.1: nothing may follow a message that changes keys.
                if start != available:
                    _misbehaved("KeyEpochWithPendingFragment", Alert.UNEXPECTED_MESSAGE)
                return
        self._partial = data[start:]

    def _unexpected(self, kind: int) -> NoReturn:
        got = _MESSAGE_NAMES.get(kind, f"Unknown({kind})")
        expected = " or ".join(_MESSAGE_NAMES[k] for k in _HANDLERS[self._state]) or "nothing"
        raise TlsAlert(
            Alert.UNEXPECTED_MESSAGE,
            f"received unexpected message: got {got} when expecting {expected}",
        )

    def _send(self, epoch: int, data: bytes) -> None:
        self._output.append((epoch, data))

    def _log(self, label: str, secret: bytes) -> None:
        if self._keylog is not None:
            assert self._handshake is not None
            self._keylog(f"{label} {self._handshake.client_random.hex()} {secret.hex()}")

    def _derive_handshake_secrets(self, hs: _Handshake, psk: bytes | None, share: bytes) -> None:
        """Run the schedule from the key exchange to the handshake traffic secrets."""
        try:
            shared = crypto_scalarmult(hs.private_key, share)
        except RuntimeError:
            # libsodium refuses points that give an all-zero secret (RFC 8446 §7.4.2).
            _misbehaved("InvalidKeyShare")
        hs.private_key = b""
        kdf = self._kdf
        if psk is None:
            salt = kdf.early_derived
        else:
            salt = kdf.derive(kdf.extract(kdf.zeros, psk), b"derived", kdf.empty_hash)
        secret = kdf.extract(salt, shared)
        digest = hs.transcript.digest()
        hs.client_finished_secret = kdf.derive(secret, b"c hs traffic", digest)
        hs.server_finished_secret = kdf.derive(secret, b"s hs traffic", digest)
        hs.master = kdf.extract(kdf.derive(secret, b"derived", kdf.empty_hash), kdf.zeros)
        if self._keylog is not None:
            self._log("CLIENT_HANDSHAKE_TRAFFIC_SECRET", hs.client_finished_secret)
            self._log("SERVER_HANDSHAKE_TRAFFIC_SECRET", hs.server_finished_secret)

    def _derive_application_secrets(self, hs: _Handshake) -> tuple[bytes, bytes]:
        """Return (client, server) 1-RTT secrets; the transcript must end at server Finished."""
        kdf = self._kdf
        digest = hs.transcript.digest()
        client = kdf.derive(hs.master, b"c ap traffic", digest)
        server = kdf.derive(hs.master, b"s ap traffic", digest)
        self._exporter_secret = kdf.derive(hs.master, b"exp master", digest)
        if self._keylog is not None:
            self._log("CLIENT_TRAFFIC_SECRET_0", client)
            self._log("SERVER_TRAFFIC_SECRET_0", server)
            self._log("EXPORTER_SECRET", self._exporter_secret)
        return client, server

    def _certificate_verify(self, hs: _Handshake, context: bytes) -> bytes:
        signature = self._identity.sign(context + hs.transcript.digest())
        return b"\x0f\x00\x00\x44\x08\x07\x00\x40" + signature

    def _check_certificate_verify(
        self, hs: _Handshake, public_key: bytes, context: bytes, message: bytes
    ) -> None:
        buf = Buffer(data=message)
        buf.seek(4)
        scheme = buf.pull_uint16()
        signature = buf.pull_bytes(buf.pull_uint16())
        _end(buf, "CertificateVerify")
        if scheme != _ED25519:
            _misbehaved("SignedHandshakeWithUnadvertisedSigScheme")
        _verify_signature(public_key, context + hs.transcript.digest(), signature)
        hs.transcript.update(message)

    def _check_finished(self, hs: _Handshake, secret: bytes, message: bytes) -> None:
        expected = self._kdf.finished(secret, hs.transcript.digest())
        if not hmac.compare_digest(expected, message[4:]):
            raise TlsAlert(Alert.DECRYPT_ERROR, _CANNOT_DECRYPT)
        hs.transcript.update(message)

    # --- client ------------------------------------------------------------------------

    def _send_client_hello(self) -> None:
        hs = self._handshake
        assert hs is not None
        # One call to the source of randomness: hello random, key, and bits for the order.
        noise = self._random(32 + 32 + 16)
        hs.client_random = noise[:32]
        hs.private_key = noise[32:64]
        share = crypto_scalarmult_base(hs.private_key)
        ticket = hs.ticket
        extensions = [
            _EXTENSION_SUPPORTED_GROUPS,
            _EXTENSION_SIGNATURE_ALGORITHMS,
            _EXTENSION_SUPPORTED_VERSIONS,
            *_EXTENSIONS_OFFERED_TYPES,
            _extension(_ALPN, _vector16(b"".join(map(_vector8, hs.alpns)))),
            _extension(_KEY_SHARE, b"\x00\x24\x00\x1d\x00\x20" + share),
            _extension(_QUIC_TRANSPORT_PARAMETERS, hs.transport_parameters),
        ]
        if self._on_ticket is not None or ticket is not None:
            extensions.append(_EXTENSION_PSK_MODES)
        if ticket is not None and ticket.max_early_data and ticket.alpn in hs.alpns:
            extensions.append(_EXTENSION_EARLY_DATA)
            self.early_data_offered = True
        # INTEROP: rustls shuffles its extensions on every connection, so a fixed order would
        # give us away (Fisher-Yates, one byte per step; the slight bias does not matter).
        for i in range(len(extensions) - 1, 0, -1):
            j = noise[64 + i] % (i + 1)
            extensions[i], extensions[j] = extensions[j], extensions[i]
        if ticket is not None:
            age_ms = int((self._now() - ticket.issued_s) * 1000)
            kdf = _KDF[ticket.suite]
            age = (age_ms + ticket.age_add) & 0xFFFFFFFF
            identity = _vector16(ticket.identity) + age.to_bytes(4, "big")
            binders = _vector16(_vector8(kdf.zeros))
            # pre_shared_key must be last (RFC 8446 §4.2.11)
            extensions.append(_extension(_PRE_SHARED_KEY, _vector16(identity) + binders))
        hello = _message(
            _CLIENT_HELLO,
            b"".join(
                (
                    b"\x03\x03",
                    hs.client_random,
                    b"\x00",
                    _vector16(b"".join(suite.to_bytes(2, "big") for suite in hs.suites)),
                    b"\x01\x00",
                    _vector16(b"".join(extensions)),
                )
            ),
        )
        if ticket is not None:
            truncated = hello[: -len(binders)]
            early = kdf.extract(kdf.zeros, ticket.psk)
            binder = kdf.finished(
                kdf.derive(early, b"res binder", kdf.empty_hash), kdf.new(truncated).digest()
            )
            hello = truncated + _vector16(_vector8(binder))
            if self.early_data_offered:
                secret = kdf.derive(early, b"c e traffic", kdf.new(hello).digest())
                self._secrets.append((True, EPOCH_ZERO_RTT, ticket.suite, secret))
                self._log("CLIENT_EARLY_TRAFFIC_SECRET", secret)
        # Which hash the transcript takes is known with the ServerHello; until then, the bytes.
        hs.transcript = hello
        hs.certificate_requested = False
        hs.peer_key = None
        self._send(EPOCH_INITIAL, hello)

    def _client_server_hello(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        buf = Buffer(data=message)
        buf.seek(4)
        if buf.pull_uint16() != _VERSION_1_2:
            _incompatible("ServerDoesNotSupportTls12Or13", Alert.PROTOCOL_VERSION)
        server_random = buf.pull_bytes(32)
        if server_random == _HELLO_RETRY_RANDOM:
            # We offer one group and its share: a retry could not change anything.
            _incompatible("HelloRetryRequest is not supported")
        session_id = buf.pull_bytes(buf.pull_uint8())
        suite = buf.pull_uint16()
        compression = buf.pull_uint8()
        extensions = _extensions(buf)
        if session_id:
            _misbehaved("IncorrectSessionId")
        if compression != 0:
            _misbehaved("SelectedUnofferedCompression")
        if not extensions.keys() <= _SERVER_HELLO_EXTENSIONS:
            _misbehaved("UnsolicitedServerHelloExtension", Alert.UNSUPPORTED_EXTENSION)
        if extensions.get(_SUPPORTED_VERSIONS) != b"\x03\x04":
            _incompatible("ServerDoesNotSupportTls12Or13", Alert.PROTOCOL_VERSION)
        if suite not in hs.suites:
            _misbehaved("SelectedUnofferedCipherSuite")
        share = extensions.get(_KEY_SHARE)
        if share is None:
            _misbehaved("MissingKeyShare", Alert.MISSING_EXTENSION)
        if len(share) != 36 or share[:4] != b"\x00\x1d\x00\x20":
            _misbehaved("WrongGroupForKeyShare")
        psk = None
        selected = extensions.get(_PRE_SHARED_KEY)
        if selected is not None:
            if hs.ticket is None:
                _misbehaved("UnsolicitedServerHelloExtension", Alert.UNSUPPORTED_EXTENSION)
            if selected != b"\x00\x00":
                _misbehaved("SelectedInvalidPsk")
            if _KDF[suite] is not _KDF[hs.ticket.suite]:
                _misbehaved("ResumptionOfferedWithIncompatibleCipherSuite")
            psk = hs.ticket.psk
            self.resumed = True
        self.suite = suite
        kdf = self._kdf = _KDF[suite]
        hs.transcript = kdf.new(hs.transcript)
        hs.transcript.update(message)
        self._derive_handshake_secrets(hs, psk, share[4:])
        self._secrets.append((False, EPOCH_HANDSHAKE, suite, hs.server_finished_secret))
        self._secrets.append((True, EPOCH_HANDSHAKE, suite, hs.client_finished_secret))
        self._read_epoch = EPOCH_HANDSHAKE
        self._state = _State.CLIENT_ENCRYPTED_EXTENSIONS

    def _client_encrypted_extensions(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        buf = Buffer(data=message)
        buf.seek(4)
        extensions = _extensions(buf)
        if not extensions.keys() <= _ENCRYPTED_EXTENSIONS_EXPECTED:
            _misbehaved("UnsolicitedEncryptedExtension", Alert.UNSUPPORTED_EXTENSION)
        value = extensions.get(_ALPN)
        if value is None:
            raise TlsAlert(Alert.NO_APPLICATION_PROTOCOL, _NO_ALPN)
        names = _alpn_list(value)
        if len(names) != 1:
            _corrupt("ProtocolNameList")
        if names[0] not in hs.alpns:
            _misbehaved("SelectedUnofferedApplicationProtocol")
        for kind in (_CLIENT_CERTIFICATE_TYPE, _SERVER_CERTIFICATE_TYPE):
            if extensions.get(kind) != b"\x02":
                _incompatible("IncorrectCertificateTypeExtension")
        parameters = extensions.get(_QUIC_TRANSPORT_PARAMETERS)
        if parameters is None:
            _misbehaved("MissingQuicTransportParameters", Alert.MISSING_EXTENSION)
        early = extensions.get(_EARLY_DATA)
        if early is not None:
            if early:
                _corrupt("EarlyDataExtension")
            if not self.early_data_offered:
                _misbehaved("UnsolicitedEncryptedExtension", Alert.UNSUPPORTED_EXTENSION)
            ticket = hs.ticket
            assert ticket is not None
            if not self.resumed or self.suite != ticket.suite or names[0] != ticket.alpn:
                # RFC 8446 §4.2.10: 0-RTT stands or falls with the ticket's suite and protocol.
                _misbehaved("EarlyDataOfferedWithVariedCipherSuite")
        self.alpn = names[0]
        self.peer_transport_parameters = parameters
        self.early_data_accepted = early is not None
        hs.transcript.update(message)
        if self.resumed:
            self.peer_public_key = hs.expected_peer
            self._state = _State.CLIENT_FINISHED
        else:
            self._state = _State.CLIENT_CERTIFICATE_OR_REQUEST

    def _client_certificate_request(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        buf = Buffer(data=message)
        buf.seek(4)
        if buf.pull_uint8() != 0:
            _corrupt("InvalidCertRequest")
        extensions = _extensions(buf)
        value = extensions.get(_SIGNATURE_ALGORITHMS)
        if value is None:
            _misbehaved("MissingSignatureAlgorithmsExtension", Alert.MISSING_EXTENSION)
        if _ED25519 not in _list16(value, "SignatureSchemes"):
            _incompatible("NoCertificateRequestSignatureSchemesInCommon")
        hs.certificate_requested = True
        hs.transcript.update(message)
        self._state = _State.CLIENT_CERTIFICATE

    def _client_certificate(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        entries = _certificate_entries(message)
        if not entries:
            raise TlsAlert(Alert.DECODE_ERROR, _NO_CERTIFICATES)  # RFC 8446 §4.4.2.4
        # The identity is judged when the signature arrives, as iroh does.
        hs.peer_key = entries[0] if len(entries) == 1 else None
        hs.transcript.update(message)
        self._state = _State.CLIENT_CERTIFICATE_VERIFY

    def _client_certificate_verify(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        if hs.peer_key != SPKI_PREFIX + hs.expected_peer:
            raise TlsAlert(Alert.UNKNOWN_CA, _UNKNOWN_ISSUER)
        self._check_certificate_verify(hs, hs.expected_peer, _SERVER_SIGNATURE_CONTEXT, message)
        self.peer_public_key = hs.expected_peer
        self._state = _State.CLIENT_FINISHED

    def _client_finished(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None and self.suite is not None
        self._check_finished(hs, hs.server_finished_secret, message)
        client, server = self._derive_application_secrets(hs)
        flight = b""
        if hs.certificate_requested:
            certificate = self._identity.certificate_message
            hs.transcript.update(certificate)
            verify = self._certificate_verify(hs, _CLIENT_SIGNATURE_CONTEXT)
            hs.transcript.update(verify)
            flight = certificate + verify
        finished = _message(
            _FINISHED, self._kdf.finished(hs.client_finished_secret, hs.transcript.digest())
        )
        self._send(EPOCH_HANDSHAKE, flight + finished)
        self._secrets.append((False, EPOCH_ONE_RTT, self.suite, server))
        self._secrets.append((True, EPOCH_ONE_RTT, self.suite, client))
        if self._on_ticket is not None:
            hs.transcript.update(finished)
            self._resumption_secret = self._kdf.derive(
                hs.master, b"res master", hs.transcript.digest()
            )
        self._handshake = None
        self._read_epoch = EPOCH_ONE_RTT
        self._state = _State.CLIENT_DONE
        self.complete = True

    def _client_new_session_ticket(self, message: bytes) -> None:
        buf = Buffer(data=message)
        buf.seek(4)
        lifetime = buf.pull_uint32()
        age_add = buf.pull_uint32()
        nonce = buf.pull_bytes(buf.pull_uint8())
        identity = buf.pull_bytes(buf.pull_uint16())
        extensions = _extensions(buf)
        if not identity:
            _corrupt("EmptyTicketValue")
        if lifetime > MAX_TICKET_LIFETIME_S:
            _misbehaved("TicketLifetimeTooLong")
        max_early_data = 0
        early = extensions.get(_EARLY_DATA)
        if early is not None:
            if len(early) != 4:
                _corrupt("EarlyDataExtension")
            max_early_data = int.from_bytes(early, "big")
            if max_early_data not in (0, MAX_EARLY_DATA):
                _misbehaved("InvalidMaxEarlyDataSize")
        if self._on_ticket is None or self._resumption_secret is None or lifetime == 0:
            return
        self._tickets_received += 1
        if self._tickets_received > MAX_TICKETS_RECEIVED:
            return
        assert self.suite is not None and self.alpn is not None
        assert self.peer_public_key is not None and self.peer_transport_parameters is not None
        self._on_ticket(
            ResumptionTicket(
                peer=self.peer_public_key,
                suite=self.suite,
                identity=identity,
                psk=self._kdf.derive(self._resumption_secret, b"resumption", nonce),
                alpn=self.alpn,
                transport_parameters=self.peer_transport_parameters,
                issued_s=self._now(),
                lifetime_s=lifetime,
                age_add=age_add,
                max_early_data=max_early_data,
            )
        )

    # --- server ------------------------------------------------------------------------

    def _server_client_hello(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        buf = Buffer(data=message)
        buf.seek(6)  # type, length, legacy_version (RFC 8446 §4.1.2: not to be used)
        hs.client_random = buf.pull_bytes(32)
        session_id = buf.pull_bytes(buf.pull_uint8())
        suites = buf.pull_bytes(buf.pull_uint16())
        compressions = buf.pull_bytes(buf.pull_uint8())
        extensions = _extensions(buf)
        if len(session_id) > 32:
            _corrupt("SessionID")
        if not suites or len(suites) & 1:
            _corrupt("CipherSuites")

        value = extensions.get(_SUPPORTED_VERSIONS)
        if value is None:
            _incompatible("SupportedVersionsExtensionRequired", Alert.PROTOCOL_VERSION)
        versions = _list8(value, "SupportedVersions")
        if len(versions) & 1:
            _corrupt("SupportedVersions")
        if b"\x03\x04" not in (versions[i : i + 2] for i in range(0, len(versions), 2)):
            _incompatible("Tls13RequiredForQuic", Alert.PROTOCOL_VERSION)
        if 0 not in compressions:
            _incompatible("NullCompressionRequired", Alert.ILLEGAL_PARAMETER)

        value = extensions.get(_SIGNATURE_ALGORITHMS)
        if value is None:
            _incompatible("SignatureAlgorithmsExtensionRequired", Alert.MISSING_EXTENSION)
        if _ED25519 not in _list16(value, "SignatureSchemes"):
            _incompatible("NoSignatureSchemesInCommon")
        suite = next(
            (
                suites[i] << 8 | suites[i + 1]
                for i in range(0, len(suites), 2)
                if suites[i] << 8 | suites[i + 1] in _KDF
            ),
            None,
        )
        if suite is None:
            _incompatible("NoCipherSuitesInCommon")
        share = self._client_share(extensions)

        for kind in (_CLIENT_CERTIFICATE_TYPE, _SERVER_CERTIFICATE_TYPE):
            value = extensions.get(kind)
            if value is None or _RAW_PUBLIC_KEY not in _list8(value, "CertificateTypes"):
                _incompatible("IncorrectCertificateTypeExtension")
        value = extensions.get(_ALPN)
        if value is not None:
            self.client_alpn_offers = _alpn_list(value)
        self.alpn = next((name for name in hs.alpns if name in self.client_alpn_offers), None)
        if self.alpn is None and (hs.alpns or self.client_alpn_offers):
            raise TlsAlert(Alert.NO_APPLICATION_PROTOCOL, _NO_ALPN)
        self.peer_transport_parameters = extensions.get(_QUIC_TRANSPORT_PARAMETERS)
        if self.peer_transport_parameters is None:
            _misbehaved("MissingQuicTransportParameters", Alert.MISSING_EXTENSION)
        value = extensions.get(_PSK_KEY_EXCHANGE_MODES)
        hs.tickets_wanted = value is not None and _PSK_DHE_KE in _list8(value, "PskModes")

        self.suite = suite
        self._kdf = _KDF[suite]
        session = self._resume(hs, message, extensions)
        hs.transcript = self._kdf.new(message)
        if self.early_data_accepted:
            assert session is not None
            secret = self._kdf.derive(
                self._kdf.extract(self._kdf.zeros, session.psk),
                b"c e traffic",
                hs.transcript.digest(),
            )
            self._secrets.append((False, EPOCH_ZERO_RTT, suite, secret))
            self._log("CLIENT_EARLY_TRAFFIC_SECRET", secret)
        self._send_server_flight(hs, session_id, suite, share, session)

    def _client_share(self, extensions: dict[int, bytes]) -> bytes:
        """Return the client's X25519 share."""
        value = extensions.get(_SUPPORTED_GROUPS)
        if value is None:
            _incompatible("NamedGroupsExtensionRequired", Alert.MISSING_EXTENSION)
        groups = _list16(value, "NamedGroups")
        value = extensions.get(_KEY_SHARE)
        if value is None:
            _incompatible("KeyShareExtensionRequired", Alert.MISSING_EXTENSION)
        buf = Buffer(data=value)
        if buf.pull_uint16() != len(value) - 2:
            _corrupt("KeyShareEntries")
        shares: dict[int, bytes] = {}
        while not buf.eof():
            group = buf.pull_uint16()
            if group in shares:
                _misbehaved("OfferedDuplicateKeyShares")
            shares[group] = buf.pull_bytes(buf.pull_uint16())
        # A client that supports X25519 but sends no share for it would need a
        # HelloRetryRequest; every iroh client sends one.
        if _X25519 not in groups or _X25519 not in shares:
            _incompatible("NoKxGroupsInCommon")
        share = shares[_X25519]
        if len(share) != 32:
            _misbehaved("InvalidKeyShare")
        return share

    def _resume(
        self, hs: _Handshake, message: bytes, extensions: dict[int, bytes]
    ) -> ServerTicket | None:
        """Choose a session to resume and decide about 0-RTT; checks the offer in any case."""
        self.early_data_offered = _EARLY_DATA in extensions
        self.early_data_accepted = False
        value = extensions.get(_PRE_SHARED_KEY)
        if value is None:
            return None
        if next(reversed(extensions)) != _PRE_SHARED_KEY:
            _corrupt("PreSharedKeyIsNotFinalExtension", Alert.ILLEGAL_PARAMETER)
        identities, binders, binders_size = _offered_psks(value)
        if _PSK_KEY_EXCHANGE_MODES not in extensions:
            _misbehaved("MissingPskModesExtension", Alert.MISSING_EXTENSION)
        if self._ticket_store is None or not hs.tickets_wanted:
            return None
        # Our clients and iroh's offer one ticket. Of several, only the first is considered:
        # 0-RTT belongs to it (RFC 8446 §4.2.10), and a full handshake serves the rest.
        identity, obfuscated_age = identities[0]
        now_s = self._now()
        session = self._ticket_store.take(identity, now_s)
        if session is None or session.suite != self.suite:
            return None
        kdf = self._kdf
        early = kdf.extract(kdf.zeros, session.psk)
        expected = kdf.finished(
            kdf.derive(early, b"res binder", kdf.empty_hash),
            kdf.new(message[:-binders_size]).digest(),
        )
        if not hmac.compare_digest(expected, binders[0]):
            _misbehaved("IncorrectBinder", Alert.DECRYPT_ERROR)
        self.resumed = True
        self.peer_public_key = session.client
        age_s = ((obfuscated_age - session.age_add) & 0xFFFFFFFF) / 1000
        self.early_data_accepted = (
            self.early_data_offered
            and session.alpn == self.alpn
            and abs(now_s - session.issued_s - age_s) <= MAX_TICKET_AGE_SKEW_S
            and same_promises(session.transport_parameters, hs.transport_parameters)
        )
        return session

    def _send_server_flight(
        self,
        hs: _Handshake,
        session_id: bytes,
        suite: int,
        share: bytes,
        session: ServerTicket | None,
    ) -> None:
        kdf = self._kdf
        noise = self._random(64)
        hs.private_key = noise[32:]
        own_share = crypto_scalarmult_base(hs.private_key)
        extensions = _extension(_KEY_SHARE, b"\x00\x1d\x00\x20" + own_share)
        if session is not None:
            extensions += _EXTENSION_FIRST_PSK
        hello = _message(
            _SERVER_HELLO,
            b"".join(
                (
                    b"\x03\x03",
                    noise[:32],
                    _vector8(session_id),
                    suite.to_bytes(2, "big"),
                    b"\x00",
                    _vector16(extensions + _EXTENSION_SELECTED_VERSION),
                )
            ),
        )
        hs.transcript.update(hello)
        self._send(EPOCH_INITIAL, hello)
        self._derive_handshake_secrets(hs, None if session is None else session.psk, share)
        self._secrets.append((True, EPOCH_HANDSHAKE, suite, hs.server_finished_secret))
        self._secrets.append((False, EPOCH_HANDSHAKE, suite, hs.client_finished_secret))

        extensions = _EXTENSIONS_SELECTED_TYPES + _extension(
            _QUIC_TRANSPORT_PARAMETERS, hs.transport_parameters
        )
        if self.alpn is not None:
            extensions = _extension(_ALPN, _vector16(_vector8(self.alpn))) + extensions
        if self.early_data_accepted:
            extensions += _EXTENSION_EARLY_DATA
        flight = _message(_ENCRYPTED_EXTENSIONS, _vector16(extensions))
        if session is None:
            flight += _CERTIFICATE_REQUEST_MESSAGE + self._identity.certificate_message
            hs.transcript.update(flight)
            verify = self._certificate_verify(hs, _SERVER_SIGNATURE_CONTEXT)
            hs.transcript.update(verify)
            flight += verify
        else:
            hs.transcript.update(flight)
        finished = _message(
            _FINISHED, kdf.finished(hs.server_finished_secret, hs.transcript.digest())
        )
        hs.transcript.update(finished)
        self._send(EPOCH_HANDSHAKE, flight + finished)
        client, server = self._derive_application_secrets(hs)
        self._secrets.append((True, EPOCH_ONE_RTT, suite, server))
        # RFC 9001 §5.7: nothing in 1-RTT is read before the client's Finished.
        hs.secret = client
        self._read_epoch = EPOCH_HANDSHAKE
        self._state = _State.SERVER_CERTIFICATE if session is None else _State.SERVER_FINISHED

    def _server_certificate(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None
        entries = _certificate_entries(message)
        if not entries:
            raise TlsAlert(Alert.CERTIFICATE_REQUIRED, _NO_CERTIFICATES)
        if len(entries) > 1:
            raise TlsAlert(Alert.UNKNOWN_CA, _UNKNOWN_ISSUER)
        spki = entries[0]
        if len(spki) != SPKI_BYTES or not spki.startswith(SPKI_PREFIX):
            raise TlsAlert(Alert.BAD_CERTIFICATE, _BAD_ENCODING)
        hs.peer_key = spki[len(SPKI_PREFIX) :]
        hs.transcript.update(message)
        self._state = _State.SERVER_CERTIFICATE_VERIFY

    def _server_certificate_verify(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None and hs.peer_key is not None
        self._check_certificate_verify(hs, hs.peer_key, _CLIENT_SIGNATURE_CONTEXT, message)
        self.peer_public_key = hs.peer_key
        self._state = _State.SERVER_FINISHED

    def _server_finished(self, message: bytes) -> None:
        hs = self._handshake
        assert hs is not None and self.suite is not None
        self._check_finished(hs, hs.client_finished_secret, message)
        self._secrets.append((False, EPOCH_ONE_RTT, self.suite, hs.secret))
        if self._ticket_store is not None and hs.tickets_wanted and self.alpn is not None:
            self._send_tickets(hs, self._ticket_store)
        self._handshake = None
        self._read_epoch = EPOCH_ONE_RTT
        self._state = _State.SERVER_DONE
        self.complete = True

    def _send_tickets(self, hs: _Handshake, store: ServerTicketStore) -> None:
        assert self.suite is not None and self.alpn is not None
        assert self.peer_public_key is not None
        kdf = self._kdf
        resumption = kdf.derive(hs.master, b"res master", hs.transcript.digest())
        now_s = self._now()
        size = 4 + 32 + TICKET_BYTES
        noise = self._random(TICKETS_SENT * size)
        messages = []
        for at in range(0, len(noise), size):
            age_add = noise[at : at + 4]
            nonce = noise[at + 4 : at + 36]
            identity = noise[at + 36 : at + size]
            store.put(
                identity,
                ServerTicket(
                    client=self.peer_public_key,
                    suite=self.suite,
                    psk=kdf.derive(resumption, b"resumption", nonce),
                    alpn=self.alpn,
                    transport_parameters=hs.transport_parameters,
                    age_add=int.from_bytes(age_add, "big"),
                    issued_s=now_s,
                ),
            )
            messages.append(
                _message(
                    _NEW_SESSION_TICKET,
                    b"".join(
                        (
                            SERVER_TICKET_LIFETIME_S.to_bytes(4, "big"),
                            age_add,
                            _vector8(nonce),
                            _vector16(identity),
                            _TICKET_EXTENSIONS,
                        )
                    ),
                )
            )
        self._send(EPOCH_ONE_RTT, b"".join(messages))


_Handler = Callable[[TlsSession, bytes], None]

# What may come next, per state; anything else is unexpected_message.
_HANDLERS: Final[dict[_State, dict[int, _Handler]]] = {
    _State.START: {},
    _State.CLIENT_SERVER_HELLO: {_SERVER_HELLO: TlsSession._client_server_hello},
    _State.CLIENT_ENCRYPTED_EXTENSIONS: {
        _ENCRYPTED_EXTENSIONS: TlsSession._client_encrypted_extensions
    },
    _State.CLIENT_CERTIFICATE_OR_REQUEST: {
        _CERTIFICATE_REQUEST: TlsSession._client_certificate_request,
        _CERTIFICATE: TlsSession._client_certificate,
    },
    _State.CLIENT_CERTIFICATE: {_CERTIFICATE: TlsSession._client_certificate},
    _State.CLIENT_CERTIFICATE_VERIFY: {
        _CERTIFICATE_VERIFY: TlsSession._client_certificate_verify
    },
    _State.CLIENT_FINISHED: {_FINISHED: TlsSession._client_finished},
    _State.CLIENT_DONE: {_NEW_SESSION_TICKET: TlsSession._client_new_session_ticket},
    _State.SERVER_CLIENT_HELLO: {_CLIENT_HELLO: TlsSession._server_client_hello},
    _State.SERVER_CERTIFICATE: {_CERTIFICATE: TlsSession._server_certificate},
    _State.SERVER_CERTIFICATE_VERIFY: {
        _CERTIFICATE_VERIFY: TlsSession._server_certificate_verify
    },
    _State.SERVER_FINISHED: {_FINISHED: TlsSession._server_finished},
    _State.SERVER_DONE: {},
}
