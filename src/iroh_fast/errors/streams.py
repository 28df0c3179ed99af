"""Streams and datagrams."""

from __future__ import annotations

import asyncio

from .base import IrohError

__all__ = [
    "DatagramDisabled",
    "DatagramError",
    "DatagramTooLarge",
    "DatagramUnsupported",
    "FinishedEarly",
    "StreamClosed",
    "StreamError",
    "StreamReset",
    "StreamStopped",
    "StreamTooLong",
    "ZeroRttRejected",
]


class StreamError(IrohError):
    """One stream failed; the connection is still usable."""

    _default = "stream error"


class StreamReset(StreamError, ConnectionResetError):
    """The peer abandoned sending on this stream (RFC 9000 §19.4).

    Also a ``ConnectionResetError``: code written for sockets catches it.

    Attributes
    ----------
    code : int
        Application error code.
    """

    code: int

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(f"stream reset by peer: code {code}" if message is None else message)
        self.code = code


class StreamStopped(StreamError, BrokenPipeError):
    """The peer no longer wants to receive on this stream (RFC 9000 §19.5).

    Also a ``BrokenPipeError``: code written for sockets catches it.

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
