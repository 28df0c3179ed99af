"""Endpoints that cannot be bound, connections that do not come about."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from .base import IrohError
from .closing import CloseReason

__all__ = [
    "AlpnMismatch",
    "BindError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionRefused",
    "EndpointClosed",
    "HandshakeFailed",
    "InvalidAlpn",
    "LocallyRejected",
    "NoAddress",
    "NotDirect",
    "SelfConnect",
    "WrongIdentity",
]


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


class NotDirect(ConnectError, TimeoutError):
    """Data goes over a relay, and a direct path was asked for.

    Attributes
    ----------
    reason : str
        Why, in words.
    """

    _default = "no direct path came about"
    reason: str

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str = "",
        remote: str | None = None,
        alpn: bytes | None = None,
        close_reason: CloseReason | None = None,
    ) -> None:
        message = message or (f"{self._default}: {reason}" if reason else None)
        super().__init__(message, remote=remote, alpn=alpn, close_reason=close_reason)
        self.reason = reason


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
