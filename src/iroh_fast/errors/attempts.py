"""Why an attempt to connect failed."""

from __future__ import annotations

from typing import Any

from .base import IrohError
from .closing import CloseReason
from .connecting import (
    AlpnMismatch,
    ConnectError,
    ConnectionRefused,
    ConnectTimeout,
    EndpointClosed,
    HandshakeFailed,
    WrongIdentity,
)

__all__ = ["attempt_error"]

TLS_ALERT_BASE = 0x100  # RFC 9001 §4.8
CODE_NO_ALPN = TLS_ALERT_BASE + 120
CODE_UNKNOWN_CA = TLS_ALERT_BASE + 48  # what iroh sends for a key that was not expected
CODE_REFUSED = 0x02


def attempt_error(
    reason: CloseReason,
    what: str,
    *,
    remote: str | None,
    alpn: bytes | None,
    closing: bool = False,
    by_key: bool = True,
) -> IrohError:
    """Say why a handshake failed, chained to the error of the connection.

    Parameters
    ----------
    what : beginning of the sentence, "connect to 03a107bff3 (alpn b'x/1')".
    closing : True when the endpoint was closed meanwhile.
    by_key : the peer is known by its key, and not by a certificate.
    """
    error: IrohError
    code = reason.code
    facts: dict[str, Any] = {"remote": remote, "alpn": alpn, "close_reason": reason}
    if reason.kind == "locally_closed":
        if closing:
            error = EndpointClosed(f"{what} failed: the endpoint was closed")
        else:
            error = ConnectError(f"{what} failed: closed by this side", **facts)
    elif reason.kind == "timed_out":
        error = ConnectTimeout(f"{what} failed: no answer in time", **facts)
    elif reason.kind == "transport_peer" and code == CODE_REFUSED:
        error = ConnectionRefused(f"{what} failed: peer refused the connection", **facts)
    elif reason.kind in ("transport_peer", "transport_local") and 0x100 <= code <= 0x1FF:
        alert = code - TLS_ALERT_BASE
        if code == CODE_NO_ALPN:
            cause = "peer accepts none of our ALPNs" if alpn else "no common ALPN"
            error = AlpnMismatch(f"{what} failed: {cause}", alert=alert, **facts)
        elif code == CODE_UNKNOWN_CA and by_key:
            cause = (
                "peer holds another key than the one dialled"
                if reason.kind == "transport_local"
                else "peer did not expect our key"
            )
            error = WrongIdentity(f"{what} failed: {cause}", alert=alert, **facts)
        else:
            error = HandshakeFailed(f"{what} failed: {reason}", alert=alert, **facts)
    else:
        error = ConnectError(f"{what} failed: {reason}", **facts)
    error.__cause__ = reason.to_error()
    return error
