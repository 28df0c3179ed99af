"""Every exception this package raises, and the reason a connection closed.

One class is one thing a caller can do differently.  All derive from `IrohError`
and, where a built-in says the same, from that built-in too, so ``except
TimeoutError`` works without importing this module.  Facts are typed attributes;
the text is for people.  Every instance survives `pickle` and `copy`.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

__all__ = [
    "AddrError",
    "AddressLookupError",
    "AlpnMismatch",
    "ApplicationClosed",
    "BindError",
    "CloseKind",
    "CloseReason",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "ConnectionRefused",
    "CustomAddrError",
    "DatagramDisabled",
    "DatagramError",
    "DatagramTooLarge",
    "DatagramUnsupported",
    "DialError",
    "DialErrorKind",
    "EndpointClosed",
    "FinishedEarly",
    "HandshakeFailed",
    "InvalidAlpn",
    "IrohError",
    "KeyParsingError",
    "KeyParsingReason",
    "LocallyClosed",
    "LocallyRejected",
    "NoAddress",
    "NotAllowed",
    "NotDelivered",
    "PeerAborted",
    "PortmapError",
    "RelayClientError",
    "RelayError",
    "RelayErrorKind",
    "RelayUrlError",
    "SelfConnect",
    "SignatureError",
    "SignatureParsingError",
    "StatelessReset",
    "StreamClosed",
    "StreamError",
    "StreamReset",
    "StreamStopped",
    "StreamTooLong",
    "TicketContentError",
    "TicketEncodingError",
    "TicketError",
    "TicketKindError",
    "TimedOut",
    "TransportViolation",
    "UserDataTooLong",
    "VersionMismatch",
    "WatcherEnded",
    "WrongIdentity",
    "WrongThread",
    "ZeroRttRejected",
    "transport_code_text",
]

CloseKind = Literal[
    "application",
    "transport_peer",
    "transport_local",
    "locally_closed",
    "timed_out",
    "reset",
    "version_mismatch",
    "cids_exhausted",
    "unreachable",
]
"""Why a connection ended; see `CloseReason`."""

KeyParsingReason = Literal["hex", "base32", "length", "point"]
"""What is wrong with the text or bytes of a key; see `KeyParsingError`."""

# RFC 9000 §20.1.
_TRANSPORT_CODES = {
    0x00: "NO_ERROR",
    0x01: "INTERNAL_ERROR",
    0x02: "CONNECTION_REFUSED",
    0x03: "FLOW_CONTROL_ERROR",
    0x04: "STREAM_LIMIT_ERROR",
    0x05: "STREAM_STATE_ERROR",
    0x06: "FINAL_SIZE_ERROR",
    0x07: "FRAME_ENCODING_ERROR",
    0x08: "TRANSPORT_PARAMETER_ERROR",
    0x09: "CONNECTION_ID_LIMIT_ERROR",
    0x0A: "PROTOCOL_VIOLATION",
    0x0B: "INVALID_TOKEN",
    0x0C: "APPLICATION_ERROR",
    0x0D: "CRYPTO_BUFFER_EXCEEDED",
    0x0E: "KEY_UPDATE_ERROR",
    0x0F: "AEAD_LIMIT_REACHED",
    0x10: "NO_VIABLE_PATH",
}

# RFC 9000 §19 and RFC 9221 §4; STREAM (0x08-0x0f) is handled in the function.
_FRAMES = {
    0x00: "PADDING",
    0x01: "PING",
    0x02: "ACK",
    0x03: "ACK",
    0x04: "RESET_STREAM",
    0x05: "STOP_SENDING",
    0x06: "CRYPTO",
    0x07: "NEW_TOKEN",
    0x10: "MAX_DATA",
    0x11: "MAX_STREAM_DATA",
    0x12: "MAX_STREAMS",
    0x13: "MAX_STREAMS",
    0x14: "DATA_BLOCKED",
    0x15: "STREAM_DATA_BLOCKED",
    0x16: "STREAMS_BLOCKED",
    0x17: "STREAMS_BLOCKED",
    0x18: "NEW_CONNECTION_ID",
    0x19: "RETIRE_CONNECTION_ID",
    0x1A: "PATH_CHALLENGE",
    0x1B: "PATH_RESPONSE",
    0x1C: "CONNECTION_CLOSE",
    0x1D: "APPLICATION_CLOSE",
    0x1E: "HANDSHAKE_DONE",
    0x30: "DATAGRAM",
    0x31: "DATAGRAM",
}


def transport_code_text(code: int) -> str:
    """Name a QUIC transport error code.

    Parameters
    ----------
    code : int
        Code of a CONNECTION_CLOSE frame of type 0x1c.

    Returns
    -------
    str
        The RFC 9000 §20.1 name, the TLS alert number for 0x100 + alert (RFC 9001
        §4.8), or the number in hexadecimal when unknown.
    """
    if 0x100 <= code <= 0x1FF:
        return f"the cryptographic handshake failed: error {code - 0x100}"
    return _TRANSPORT_CODES.get(code, f"unknown error 0x{code:x}")


def _frame_text(frame: int) -> str:
    if 0x08 <= frame <= 0x0F:
        return "STREAM"
    return _FRAMES.get(frame, f"frame 0x{frame:x}")


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a connection is over.  Equality compares every field.

    Parameters
    ----------
    kind : CloseKind
        ``"application"`` the peer called close; ``"transport_peer"`` the peer's QUIC
        layer gave up; ``"transport_local"`` we saw the peer break the protocol;
        ``"locally_closed"`` we called close; ``"timed_out"`` idle timeout;
        ``"reset"`` stateless reset; ``"version_mismatch"`` no common QUIC version;
        ``"cids_exhausted"`` no free connection id; ``"unreachable"`` no datagram can leave
        to any of the addresses, `text` says why for each.
    code : int
        Application or transport error code; 0 where the kind has none.
    reason : bytes
        Reason phrase as it was on the wire, at most one packet long.
    by_peer : bool
        True when the peer ended the connection.
    frame : int or None
        Type of the frame that caused a transport error, when known.
    text : str
        Explanation of a transport error; replaces `reason` in the text when set.
    """

    kind: CloseKind
    code: int = 0
    reason: bytes = b""
    by_peer: bool = False
    frame: int | None = None
    text: str = ""

    def __str__(self) -> str:
        kind = self.kind
        words = self.text or self.reason.decode("utf-8", "replace")
        if kind == "application":
            return f"closed by peer: {words} (code {self.code})" if words else f"closed by peer: {self.code}"
        if kind == "transport_peer":
            tail = f": {words}" if words else ""
            return f"aborted by peer: {transport_code_text(self.code)}{tail}"
        if kind == "transport_local":
            where = f" in {_frame_text(self.frame)}" if self.frame else ""
            tail = f": {words}" if words else ""
            return f"{transport_code_text(self.code)}{where}{tail}"
        if kind == "unreachable":
            return f"nothing can be sent to {self.text}"
        return _FIXED_TEXTS[kind]

    def to_error(self) -> ConnectionLost:
        """Make a new exception for this reason.

        Returns
        -------
        ConnectionLost
            An instance of the subclass for `kind`, holding this very object as
            ``close_reason``.  ``"cids_exhausted"`` has no class of its own: there is
            nothing special a caller could do.
        """
        return _LOST_CLASSES.get(self.kind, ConnectionLost)(self)


_FIXED_TEXTS: dict[str, str] = {
    "locally_closed": "closed",
    "timed_out": "timed out",
    "reset": "reset by peer",
    "version_mismatch": "peer doesn't implement any supported version",
    "cids_exhausted": "CIDs exhausted",
}


def _restore(cls: type[IrohError], args: tuple[Any, ...], state: dict[str, Any]) -> IrohError:
    """Rebuild a pickled error without running its constructor."""
    error = cls.__new__(cls, *args)
    if isinstance(error, OSError):
        OSError.__init__(error, *args)  # fills errno and strerror, which live outside __dict__
    error.__dict__.update(state)
    return error


class IrohError(Exception):
    """Base of everything this package raises on purpose.

    Attributes
    ----------
    message : str
        One sentence; what ``str()`` gives.
    """

    _default: ClassVar[str] = "iroh error"
    message: str

    def __init__(self, message: str | None = None) -> None:
        self.message = self._default if message is None else message
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, dict(self.__dict__))


# --- identity, addresses, tickets -------------------------------------------------


class KeyParsingError(IrohError, ValueError):
    """The text or the bytes of a key are not a key.

    Attributes
    ----------
    reason : {"hex", "base32", "length", "point"}
        Bad hexadecimal, bad base32 (or z-base-32), wrong length, or bytes that are no
        point of the curve.
    """

    _default = "not a key"
    reason: KeyParsingReason

    def __init__(self, message: str | None = None, *, reason: KeyParsingReason = "length") -> None:
        super().__init__(message)
        self.reason = reason


class SignatureError(IrohError):
    """The signature does not belong to this key and message."""

    _default = "Invalid signature"


class SignatureParsingError(IrohError, ValueError):
    """The bytes are not a signature: not 64 bytes."""

    _default = "a signature is 64 bytes"


class RelayUrlError(IrohError, ValueError):
    """The text is not an absolute URL, or not one fit for the purpose.

    Attributes
    ----------
    text : str
        What was given.
    """

    _default = "not a relay URL"
    text: str

    def __init__(self, message: str | None = None, *, text: str = "") -> None:
        super().__init__(message)
        self.text = text


class CustomAddrError(IrohError, ValueError):
    """The text or the bytes are not a custom transport address.

    Attributes
    ----------
    reason : {"separator", "id", "data", "length"}
        No ``_`` in the text, bad transport id, bad data, or too few bytes.
    """

    _default = "not a custom address"
    reason: Literal["separator", "id", "data", "length"]

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: Literal["separator", "id", "data", "length"] = "data",
    ) -> None:
        super().__init__(message)
        self.reason = reason


class AddrError(IrohError, ValueError):
    """The value is not an address: socket, transport or endpoint address."""

    _default = "not an address"


class TicketError(IrohError, ValueError):
    """The text or the bytes are not a ticket of the wanted kind."""

    _default = "not a ticket"


class TicketKindError(TicketError):
    """The text does not start with the kind of ticket that was expected.

    Attributes
    ----------
    expected : str
        The prefix that was looked for.
    """

    expected: str

    def __init__(self, message: str | None = None, *, expected: str = "") -> None:
        super().__init__(f"wrong prefix, expected {expected}" if message is None else message)
        self.expected = expected


class TicketEncodingError(TicketError):
    """The body of the ticket is not base32.

    Attributes
    ----------
    position : int or None
        Index of the first offending character within the whole text.
    """

    _default = "the ticket body is not base32"
    position: int | None

    def __init__(self, message: str | None = None, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class TicketContentError(TicketError):
    """The decoded ticket is cut short or holds something invalid.

    Attributes
    ----------
    offset : int or None
        Byte of the payload at which decoding stopped.
    """

    _default = "the ticket holds invalid data"
    offset: int | None

    def __init__(self, message: str | None = None, *, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


# --- endpoint ---------------------------------------------------------------------


class BindError(IrohError, OSError):
    """A socket could not be opened or bound.  ``errno`` is kept.

    Attributes
    ----------
    address : str or None
        The address that was to be bound.
    """

    _default = "cannot bind"
    address: str | None

    def __init__(
        self,
        message: str | None = None,
        *,
        errno: int | None = None,
        address: str | None = None,
    ) -> None:
        super().__init__(message)
        if errno is not None:
            OSError.__init__(self, errno, self.message)
        self.address = address


class EndpointClosed(IrohError):
    """The endpoint is closed; bind a new one."""

    _default = "the endpoint is closed"


# --- connecting -------------------------------------------------------------------


class ConnectError(IrohError, builtins.ConnectionError):
    """A connection could not be established.

    Attributes
    ----------
    remote : str or None
        Short id of the endpoint that was dialled.
    alpn : bytes or None
        Protocol that was asked for.
    close_reason : CloseReason or None
        How the attempt ended, when it got as far as sending packets.
    """

    _default = "cannot connect"
    remote: str | None
    alpn: bytes | None
    close_reason: CloseReason | None

    def __init__(
        self,
        message: str | None = None,
        *,
        remote: str | None = None,
        alpn: bytes | None = None,
        close_reason: CloseReason | None = None,
    ) -> None:
        super().__init__(message)
        self.remote = remote
        self.alpn = alpn
        self.close_reason = close_reason


class SelfConnect(ConnectError):
    """The endpoint was asked to dial its own id."""

    _default = "connecting to ourself is not supported"


class InvalidAlpn(ConnectError, ValueError):
    """The protocol name is empty or longer than 255 bytes."""

    _default = "an ALPN is 1 to 255 bytes"


class NoAddress(ConnectError):
    """No address of the remote is known and no lookup found one.

    Attributes
    ----------
    lookup_errors : tuple of Exception
        What each address lookup service answered.
    """

    _default = "no address of the remote is known"
    lookup_errors: tuple[Exception, ...]

    def __init__(
        self,
        message: str | None = None,
        *,
        lookup_errors: Sequence[Exception] = (),
        remote: str | None = None,
        alpn: bytes | None = None,
        close_reason: CloseReason | None = None,
    ) -> None:
        super().__init__(message, remote=remote, alpn=alpn, close_reason=close_reason)
        self.lookup_errors = tuple(lookup_errors)


class LocallyRejected(ConnectError):
    """A hook of this endpoint refused the connection."""

    _default = "the connection was rejected locally"


class HandshakeFailed(ConnectError):
    """The TLS handshake failed.

    Attributes
    ----------
    alert : int or None
        TLS alert number (RFC 8446 §6), when one was sent or received.
    """

    _default = "the handshake failed"
    alert: int | None

    def __init__(
        self,
        message: str | None = None,
        *,
        alert: int | None = None,
        remote: str | None = None,
        alpn: bytes | None = None,
        close_reason: CloseReason | None = None,
    ) -> None:
        super().__init__(message, remote=remote, alpn=alpn, close_reason=close_reason)
        self.alert = alert


class AlpnMismatch(HandshakeFailed):
    """The peer accepts none of our ALPNs (TLS alert 120)."""

    _default = "peer accepts none of our ALPNs"


class WrongIdentity(HandshakeFailed):
    """The peer holds another key than the id that was dialled (TLS alert 48)."""

    _default = "peer holds another key than the one dialled"


class ConnectionRefused(ConnectError):
    """The peer's endpoint refused the connection before the handshake."""

    _default = "peer refused the connection"


class ConnectTimeout(ConnectError, TimeoutError):
    """No answer came in time."""

    _default = "no answer in time"


# --- established connections ------------------------------------------------------


class ConnectionLost(IrohError, builtins.ConnectionError):
    """The connection is over.

    Parameters
    ----------
    close_reason : CloseReason
        The same object for everybody who waited on the connection.
    message : str or None
        Text; ``str(close_reason)`` when left out.
    """

    close_reason: CloseReason

    def __init__(self, close_reason: CloseReason, message: str | None = None) -> None:
        super().__init__(str(close_reason) if message is None else message)
        self.close_reason = close_reason


class ApplicationClosed(ConnectionLost):
    """The peer's application closed the connection; see `code` and `reason`."""

    @property
    def code(self) -> int:
        """Code the peer gave to close, 0 to 2**62 - 1."""
        return self.close_reason.code

    @property
    def reason(self) -> bytes:
        """Bytes the peer gave to close."""
        return self.close_reason.reason


class _TransportClosed(ConnectionLost):
    """Common attributes of connections ended by a QUIC layer."""

    @property
    def code(self) -> int:
        """Transport error code (RFC 9000 §20.1)."""
        return self.close_reason.code

    @property
    def frame(self) -> int | None:
        """Type of the offending frame, when known."""
        return self.close_reason.frame

    @property
    def text(self) -> str:
        """Explanation that came with the code, possibly empty."""
        return self.close_reason.text or self.close_reason.reason.decode("utf-8", "replace")


class PeerAborted(_TransportClosed):
    """The peer's QUIC layer closed the connection."""


class TransportViolation(_TransportClosed):
    """The peer broke the protocol, so we closed the connection."""


class LocallyClosed(ConnectionLost):
    """We closed the connection ourselves."""


class TimedOut(ConnectionLost, TimeoutError):
    """Nothing was heard from the peer for the idle timeout."""


class StatelessReset(ConnectionLost):
    """The peer no longer knows the connection, probably it was restarted."""


class VersionMismatch(ConnectionLost):
    """The peer speaks none of our QUIC versions."""


_LOST_CLASSES: dict[str, type[ConnectionLost]] = {
    "application": ApplicationClosed,
    "transport_peer": PeerAborted,
    "transport_local": TransportViolation,
    "locally_closed": LocallyClosed,
    "timed_out": TimedOut,
    "reset": StatelessReset,
    "version_mismatch": VersionMismatch,
}


# --- streams ----------------------------------------------------------------------


class StreamError(IrohError):
    """One stream failed; the connection is still usable."""

    _default = "stream error"


class StreamReset(StreamError):
    """The peer abandoned sending on this stream (RFC 9000 §19.4).

    Attributes
    ----------
    code : int
        Application error code.
    """

    code: int

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(f"stream reset by peer: code {code}" if message is None else message)
        self.code = code


class StreamStopped(StreamError):
    """The peer no longer wants to receive on this stream (RFC 9000 §19.5).

    Attributes
    ----------
    code : int
        Application error code.
    """

    code: int

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(f"sending stopped by peer: code {code}" if message is None else message)
        self.code = code


class StreamClosed(StreamError):
    """The stream was finished, reset, stopped or read to its end before."""

    _default = "closed stream"


class ZeroRttRejected(StreamError):
    """The stream belongs to early data that the peer refused; open a new one."""

    _default = "0-RTT rejected"


class FinishedEarly(StreamError, asyncio.IncompleteReadError):
    """The stream ended before the wanted number of bytes.

    Attributes
    ----------
    partial : bytes
        What was there.
    expected : int
        How many bytes were wanted.
    """

    partial: bytes
    expected: int

    def __init__(self, partial: bytes, expected: int, message: str | None = None) -> None:
        if message is None:
            message = f"stream finished early ({len(partial)} bytes read, {expected} wanted)"
        # Not super(): the second base has a constructor with another meaning.
        EOFError.__init__(self, message)
        self.message = message
        self.partial = partial
        self.expected = expected


class StreamTooLong(StreamError):
    """The stream holds more than the reader allowed.

    Attributes
    ----------
    limit : int
        Largest number of bytes that was allowed.
    """

    limit: int

    def __init__(self, limit: int, message: str | None = None) -> None:
        super().__init__(f"stream longer than {limit} bytes" if message is None else message)
        self.limit = limit


# --- datagrams --------------------------------------------------------------------


class DatagramError(IrohError):
    """A datagram cannot be sent."""

    _default = "datagram error"


class DatagramTooLarge(DatagramError, ValueError):
    """The datagram does not fit into one packet.

    Attributes
    ----------
    size : int
        Bytes given.
    max_size : int
        Bytes that fit at the moment.
    """

    size: int
    max_size: int

    def __init__(self, size: int, max_size: int, message: str | None = None) -> None:
        if message is None:
            message = f"datagram of {size} bytes too large, at most {max_size} fit"
        super().__init__(message)
        self.size = size
        self.max_size = max_size


class DatagramUnsupported(DatagramError):
    """The peer does not accept datagrams."""

    _default = "datagrams not supported by peer"


class DatagramDisabled(DatagramError):
    """Datagrams are switched off in our own configuration."""

    _default = "datagram support disabled"


# --- services and misuse ----------------------------------------------------------


class AddressLookupError(IrohError):
    """An address lookup service failed.

    Attributes
    ----------
    provenance : str
        Name of the service.
    """

    _default = "address lookup failed"
    provenance: str

    def __init__(self, message: str | None = None, *, provenance: str = "") -> None:
        super().__init__(message)
        self.provenance = provenance


class RelayError(IrohError):
    """A relay server could not be used.

    Attributes
    ----------
    url : str
        The relay.
    status : int or None
        HTTP status it answered, when it got that far.
    """

    _default = "relay error"
    url: str
    status: int | None

    def __init__(self, message: str | None = None, *, url: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


DialErrorKind = Literal[
    "invalid_tls_servername",
    "dns",
    "timeout",
    "io",
    "tls",
    "closed",
    "proxy_invalid_url",
    "proxy_invalid_target_port",
    "proxy_invalid_tls_servername",
    "proxy_connect",
    "proxy_connect_invalid_status",
]
"""The step of dialling a server that failed; see `DialError`."""


class DialError(IrohError):
    """No stream to a server could be opened: name, address, TLS or proxy.

    Attributes
    ----------
    kind : DialErrorKind
        The step that failed.
    status : int or None
        HTTP status that a proxy answered.
    """

    _default = "cannot connect"
    kind: DialErrorKind
    status: int | None

    def __init__(
        self, kind: DialErrorKind, message: str | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


RelayErrorKind = Literal[
    "invalid_relay_url",
    "invalid_auth_token",
    "invalid_tls_servername",
    "dns",
    "timeout",
    "io",
    "tls",
    "no_local_addr",
    "proxy_invalid_url",
    "proxy_invalid_target_port",
    "proxy_invalid_tls_servername",
    "proxy_connect",
    "proxy_connect_invalid_status",
    "unexpected_upgrade_status",
    "bad_version_header",
    "websocket",
    "handshake",
    "protocol",
    "closed",
    "ping_timeout",
    "send_timeout",
    "network_changed",
]
"""What went wrong with a relay; see `RelayClientError`."""


class RelayClientError(RelayError):
    """A relay could not be reached, refused us, or its connection ended.

    Attributes
    ----------
    kind : RelayErrorKind
        The step that failed.  From dialling: everything up to ``"handshake"``.  From a
        connection that was up: ``"protocol"`` the relay broke the protocol, ``"closed"`` it
        ended the connection, ``"ping_timeout"`` it did not answer, ``"send_timeout"`` it did
        not read, ``"network_changed"`` our address is gone, or ``"io"``.
    denied_reason : str or None
        What the relay said when it refused this endpoint.
    url, status :
        As in `RelayError`.
    """

    kind: RelayErrorKind
    denied_reason: str | None

    def __init__(
        self,
        kind: RelayErrorKind,
        message: str | None = None,
        *,
        url: str = "",
        status: int | None = None,
        denied_reason: str | None = None,
    ) -> None:
        super().__init__(message, url=url, status=status)
        self.kind = kind
        self.denied_reason = denied_reason


class PortmapError(IrohError):
    """No port mapping could be had from the gateway."""

    _default = "port mapping failed"


class NotDelivered(IrohError, TimeoutError):
    """Leaving the block of a connection, the peer did not acknowledge all that was finished.

    Attributes
    ----------
    streams : int
        How many finished streams were not wholly acknowledged.
    seconds : float
        How long that was waited for.
    """

    streams: int
    seconds: float

    def __init__(self, streams: int, seconds: float, message: str | None = None) -> None:
        if message is None:
            message = f"the peer did not acknowledge {streams} finished streams within {seconds:g} s"
        super().__init__(message)
        self.streams = streams
        self.seconds = seconds


class NotAllowed(IrohError):
    """A protocol handler or a hook refuses the peer."""

    _default = "not allowed"


class WatcherEnded(IrohError):
    """The watched object is closed; the value does not change any more."""

    _default = "the watched object is closed"


class WrongThread(IrohError, RuntimeError):
    """An object was used outside the thread of its event loop."""

    _default = "this object belongs to another thread; use loop.call_soon_threadsafe"


class ConfigError(IrohError, ValueError):
    """An option has an impossible value."""

    _default = "invalid configuration"


class UserDataTooLong(IrohError, ValueError):
    """User data for address lookup is longer than 245 bytes of UTF-8.

    Attributes
    ----------
    size : int
        Bytes given.
    limit : int
        Bytes allowed.
    """

    size: int
    limit: int

    def __init__(self, size: int, limit: int = 245, message: str | None = None) -> None:
        if message is None:
            message = f"user data of {size} bytes is too long, at most {limit} are allowed"
        super().__init__(message)
        self.size = size
        self.limit = limit
