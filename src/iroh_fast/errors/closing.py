"""Why connections end, and the errors that say so."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Literal

from .base import IrohError, printable

__all__ = [
    "ApplicationClosed",
    "CloseKind",
    "CloseReason",
    "ConnectionLost",
    "LocallyClosed",
    "NotDelivered",
    "PeerAborted",
    "StatelessReset",
    "TimedOut",
    "TransportViolation",
    "VersionMismatch",
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
        words = printable(self.text or self.reason.decode("utf-8", "replace"))
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
            return f"nothing can be sent to {words}"
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
