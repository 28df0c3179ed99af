"""TLS 1.3 (RFC 8446) as QUIC carries it (RFC 9001): bytes in, bytes and traffic secrets out.

`rawkey` is the profile endpoints speak with each other, `x509` the one of relays' QUIC listeners;
`sessions` keeps what resumes a connection, `tokens` what validates an address.
"""

from .rawkey import (
    DEFAULT_SUITES,
    EPOCH_HANDSHAKE,
    EPOCH_INITIAL,
    EPOCH_ONE_RTT,
    EPOCH_ZERO_RTT,
    Alert,
    Identity,
    TlsAlert,
    TlsSession,
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
