"""TLS 1.3 (RFC 8446) as QUIC carries it (RFC 9001): bytes in, bytes and traffic secrets out.

`rawkey` with its two sides `client` and `server` is the profile endpoints speak with each other,
`x509` the one of relays' QUIC listeners; both stand on `session`. `sessions` keeps what resumes a
connection, `tokens` what validates an address.

Names are loaded when they are first used: what only catches a `TlsAlert` needs no curves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alerts import Alert, TlsAlert
    from .factory import TlsSession
    from .identity import Identity
    from .session import (
        DEFAULT_SUITES,
        EPOCH_HANDSHAKE,
        EPOCH_INITIAL,
        EPOCH_ONE_RTT,
        EPOCH_ZERO_RTT,
    )
    from .sessions import ResumptionTicket, ServerTicketStore

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

_ROOMS = {
    "alerts": ("Alert", "TlsAlert"),
    "factory": ("TlsSession",),
    "identity": ("Identity",),
    "session": tuple(name for name in __all__ if name.isupper()),
    "sessions": ("ResumptionTicket", "ServerTicketStore"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{room}", __name__), name)
    globals()[name] = value
    return value
