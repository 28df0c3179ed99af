"""TLS 1.3 (RFC 8446) as QUIC carries it (RFC 9001): bytes in, bytes and traffic secrets out.

`rawkey` with its two sides `client` and `server` is the profile endpoints speak with each other,
`x509` the one of relays' QUIC listeners; both stand on `session`. `sessions` keeps what resumes a
connection, `tokens` what validates an address.
"""

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
