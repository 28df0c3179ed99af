"""What both ends of a relay connection share: sub-protocols, and authentication without I/O.

The messages are payloads of binary WebSocket messages. A client proves that it owns its key by a
signature over a challenge, or in the request head over keying material exported from the TLS
session (RFC 5705, RFC 8446 §7.5), which saves a round trip.

    client = ClientHandshake(secret_key)
    while not client.done:
        reply = client.feed(await receive())
        if reply is not None:
            await send(reply)
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from ..errors import KeyParsingError, RelayDenied, RelayHandshakeError, SignatureError
from ..keys import EndpointId, PublicKey, SecretKey

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "AUTH_HEADER",
    "EXPORTER_LABEL",
    "PROTOCOLS",
    "ClientHandshake",
    "Exporter",
    "RelayDenied",
    "RelayHandshakeError",
    "ServerHandshake",
    "accept_value",
    "choose_protocol",
    "export_tls13",
]

PROTOCOLS: Final = {"iroh-relay-v2": 2, "iroh-relay-v1": 1}
"""Sub-protocols by name, the preferred one first."""

AUTH_HEADER: Final = "x-iroh-relay-client-auth-v1"
EXPORTER_LABEL: Final = b"iroh-relay handshake v1"
CHALLENGE_CONTEXT: Final = "iroh-relay handshake v1 challenge signature"

_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
CHALLENGE_SIZE: Final = 16
EXPORT_SIZE: Final = 32
_SIGNATURE_SIZE: Final = 64
_MAX_REASON: Final = 4096  # a reason is for people; the rest is cut off
_MAX_HEADER: Final = 1024

_CHALLENGE, _CLIENT_AUTH, _CONFIRMS, _DENIES = range(4)

Exporter: TypeAlias = Callable[[bytes, bytes, int], bytes | None]
"""Exports keying material: (label, context, length) to bytes, or None when it cannot."""


def choose_protocol(offered: str) -> tuple[str, int] | None:
    """Pick the highest known version of a ``Sec-WebSocket-Protocol`` value.

    Returns
    -------
    tuple of (str, int) or None
        Name and version; None when nothing known is offered. Names are case-sensitive.
    """
    names = {name.strip(" \t") for name in offered.split(",")}
    return next(((name, version) for name, version in PROTOCOLS.items() if name in names), None)


def accept_value(key: bytes) -> str:
    """What a server answers to the text of ``Sec-WebSocket-Key`` (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1(key.strip() + _WEBSOCKET_GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


def export_tls13(secret: bytes, label: bytes, context: bytes, length: int, hash_name: str) -> bytes:
    """Derive exported keying material from the exporter secret of a TLS 1.3 session.

    Parameters
    ----------
    secret : bytes
        ``EXPORTER_SECRET`` of a key log.
    length : int
        At most the size of the hash.
    hash_name : str
        Hash of the cipher suite: ``"sha256"`` or ``"sha384"``.

    Notes
    -----
    RFC 8446 §7.5 and §7.1; one block of HKDF-Expand is enough for `length`.
    """

    def expand(key: bytes, name: bytes, data: bytes, size: int) -> bytes:
        full = b"tls13 " + name
        info = size.to_bytes(2, "big") + bytes((len(full),)) + full + bytes((len(data),)) + data
        return hmac.digest(key, info + b"\x01", hash_name)[:size]

    size = hashlib.new(hash_name).digest_size
    if length > size:
        raise ValueError(f"at most {size} bytes with {hash_name}")
    derived = expand(secret, label, hashlib.new(hash_name).digest(), size)
    return expand(derived, b"exporter", hashlib.new(hash_name, context).digest(), length)


def challenge_message(challenge: bytes) -> bytes:
    """What a client signs for a challenge: 32 bytes of BLAKE3 in key derivation mode."""
    from blake3 import blake3

    return blake3(challenge, derive_key_context=CHALLENGE_CONTEXT).digest()


def _frame(message: Buffer) -> tuple[int, bytes]:
    """Split a message into its type, a variable-length integer (RFC 9000 §16), and the body."""
    data = bytes(message)
    size = 1 << (data[0] >> 6) if data else 1
    if len(data) < size:
        raise RelayHandshakeError("handshake frame is cut short")
    return int.from_bytes(data[:size], "big") & ((1 << (8 * size - 2)) - 1), data[size:]


def _parse_signed(body: bytes) -> tuple[EndpointId, bytes, bytes]:
    """Split key, signature with its length, and the rest."""
    end = 33 + _SIGNATURE_SIZE
    if len(body) < end or body[32] != _SIGNATURE_SIZE:
        raise RelayHandshakeError("malformed authentication")
    try:
        key = PublicKey(body[:32])
    except KeyParsingError as err:
        raise RelayHandshakeError("malformed authentication: not a key") from err
    return key, body[33:end], body[end:]


def _parse_header(value: str) -> tuple[EndpointId, bytes, bytes]:
    """Decode the authentication header: key, signature and suffix."""
    try:
        raw = value.encode("ascii")
        body = base64.b64decode(raw + b"=" * (-len(raw) % 4), altchars=b"-_", validate=True)
    except ValueError as err:
        raise RelayHandshakeError("malformed authentication header") from err
    # The decoder of the standard library also takes "+/" and stray bits at the end.
    if len(raw) > _MAX_HEADER or base64.urlsafe_b64encode(body).rstrip(b"=") != raw:
        raise RelayHandshakeError("malformed authentication header")
    key, signature, rest = _parse_signed(body)
    if len(rest) < EXPORT_SIZE - 16:
        raise RelayHandshakeError("malformed authentication header")
    return key, signature, rest[: EXPORT_SIZE - 16]


class ClientHandshake:
    """The client's side.

    Parameters
    ----------
    secret_key : SecretKey
        The key to prove.

    Attributes
    ----------
    done : bool
        The relay accepted; relay frames follow.
    """

    def __init__(self, secret_key: SecretKey) -> None:
        self._secret_key = secret_key
        self._answered = False
        self.done = False

    def header(self, exporter: Exporter) -> str | None:
        """Make the value of the header `AUTH_HEADER`, for the request over TLS.

        None when keying material cannot be exported. The relay may still send a challenge.
        """
        key = bytes(self._secret_key.public)
        material = exporter(EXPORTER_LABEL, key, EXPORT_SIZE)
        if material is None:
            return None
        signature = bytes(self._secret_key.sign(material[:16]))
        body = key + bytes((len(signature),)) + signature + material[16:]
        return base64.urlsafe_b64encode(body).rstrip(b"=").decode("ascii")

    def feed(self, message: Buffer) -> bytes | None:
        """Take the payload of a binary message.

        Returns
        -------
        bytes or None
            The payload to answer with, if any.

        Raises
        ------
        RelayDenied
            The relay refuses; `reason` tells what it said.
        RelayHandshakeError
            Anything that the handshake does not allow here.
        """
        if self.done:
            raise RelayHandshakeError("handshake message after the end of the handshake")
        kind, body = _frame(message)
        if kind == _CHALLENGE and not self._answered:
            if len(body) < CHALLENGE_SIZE:
                raise RelayHandshakeError("malformed challenge")
            self._answered = True
            signature = bytes(self._secret_key.sign(challenge_message(body[:CHALLENGE_SIZE])))
            key = bytes(self._secret_key.public)
            return bytes((_CLIENT_AUTH,)) + key + bytes((len(signature),)) + signature
        if kind == _CONFIRMS:
            self.done = True
            return None
        if kind == _DENIES:
            raise RelayDenied(reason=_decode_reason(body))
        raise RelayHandshakeError(f"unexpected handshake frame of type {kind}")


def _decode_reason(body: bytes) -> str:
    size = shift = used = 0
    while True:
        if used == len(body) or used == 10:
            raise RelayHandshakeError("malformed denial")
        byte = body[used]
        size |= (byte & 0x7F) << shift
        shift += 7
        used += 1
        if byte < 0x80:
            break
    if len(body) - used < size:
        raise RelayHandshakeError("malformed denial")
    try:
        return body[used : used + size].decode()[:_MAX_REASON]
    except UnicodeDecodeError as err:
        raise RelayHandshakeError("malformed denial") from err


class ServerHandshake:
    """The relay's side: finds out who the client is.

    After `start` and, where that gave a challenge, one `feed`, either `endpoint_id` is set or the
    connection has to be dropped. Whether the endpoint is let in is another question; the answer is
    `confirm` or `deny`.

    Parameters
    ----------
    header : str, optional
        Value of the request header `AUTH_HEADER`.
    exporter : callable, optional
        Exports keying material of the TLS session, where that can be had.
    challenge : bytes, optional
        16 bytes for tests; random otherwise.

    Attributes
    ----------
    endpoint_id : EndpointId or None
        Set once the client has proven it.
    """

    def __init__(
        self,
        *,
        header: str | None = None,
        exporter: Exporter | None = None,
        challenge: bytes | None = None,
    ) -> None:
        self._header = header
        self._exporter = exporter
        self._challenge = os.urandom(CHALLENGE_SIZE) if challenge is None else challenge
        self.endpoint_id: EndpointId | None = None

    def start(self) -> bytes | None:
        """Begin; gives the challenge to send, or None when the header already proved the key.

        Raises
        ------
        RelayHandshakeError
            There is a header, and it is malformed. One that does not fit the TLS session is
            no error: proxies that terminate TLS make that happen.
        """
        if self._header is not None:
            key, signature, suffix = _parse_header(self._header)
            if self._exporter is not None and self._fits(key, signature, suffix):
                self.endpoint_id = key
                return None
        return bytes((_CHALLENGE,)) + self._challenge

    def _fits(self, key: EndpointId, signature: bytes, suffix: bytes) -> bool:
        assert self._exporter is not None
        material = self._exporter(EXPORTER_LABEL, bytes(key), EXPORT_SIZE)
        if material is None or not hmac.compare_digest(material[16:], suffix):
            return False
        try:
            key.verify(material[:16], signature)
        except SignatureError:
            return False
        return True

    def feed(self, message: Buffer) -> bytes | None:
        """Take the client's answer to the challenge.

        Returns
        -------
        bytes or None
            None when it is right; otherwise what to send before the connection is dropped.

        Raises
        ------
        RelayHandshakeError
            Not an answer at all: drop the connection without a word.
        """
        kind, body = _frame(message)
        if kind != _CLIENT_AUTH or self.endpoint_id is not None:
            raise RelayHandshakeError(f"unexpected handshake frame of type {kind}")
        key, signature, _ = _parse_signed(body)
        try:
            key.verify(challenge_message(self._challenge), signature)
        except SignatureError:
            return self.deny("signature invalid")
        self.endpoint_id = key
        return None

    @staticmethod
    def confirm() -> bytes:
        """The message that lets the client in."""
        return bytes((_CONFIRMS,))

    @staticmethod
    def deny(reason: str = "not authorized") -> bytes:
        """The message that refuses the client."""
        text = reason.encode()[:_MAX_REASON]
        size, prefix = len(text), b""
        while size > 0x7F:
            prefix += bytes((size & 0x7F | 0x80,))
            size >>= 7
        return bytes((_DENIES,)) + prefix + bytes((size,)) + text
