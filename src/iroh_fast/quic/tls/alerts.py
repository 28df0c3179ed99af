"""TLS alerts, and what is said about them in the close frame."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn

__all__ = ["Alert", "QuicViolation", "TlsAlert", "corrupt", "incompatible", "misbehaved"]


PROTOCOL_VIOLATION: Final = 0x0A  # RFC 9000 §20.1


class Alert(IntEnum):
    """TLS alert descriptions used here (RFC 8446 §6); QUIC closes with 0x100 + value."""

    UNEXPECTED_MESSAGE = 10
    HANDSHAKE_FAILURE = 40
    BAD_CERTIFICATE = 42
    UNSUPPORTED_CERTIFICATE = 43
    CERTIFICATE_REVOKED = 44
    CERTIFICATE_EXPIRED = 45
    ILLEGAL_PARAMETER = 47
    UNKNOWN_CA = 48
    DECODE_ERROR = 50
    DECRYPT_ERROR = 51
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    MISSING_EXTENSION = 109
    UNSUPPORTED_EXTENSION = 110
    CERTIFICATE_REQUIRED = 116
    NO_APPLICATION_PROTOCOL = 120


class TlsAlert(Exception):
    """The handshake failed; nothing more can be done with the session.

    Attributes
    ----------
    description : int
        TLS alert number.
    code : int
        What the connection closes with: 0x100 + description, but for violations of QUIC's own
        rules about TLS.
    reason : str
        Text for the close frame, worded as iroh's TLS library does.
    """

    def __init__(self, description: int, reason: str) -> None:
        super().__init__(description, reason)
        self.description = int(description)
        self.code = 0x100 + self.description
        self.reason = reason

    def again(self) -> TlsAlert:
        """The same without its traceback."""
        return type(self)(self.description, self.reason)

    def __str__(self) -> str:
        return f"{self.reason} (alert {self.description})"


class QuicViolation(TlsAlert):
    """TLS as such would allow it, QUIC does not: the connection closes with PROTOCOL_VIOLATION."""

    def __init__(self, description: int, reason: str) -> None:
        super().__init__(description, reason)
        self.code = PROTOCOL_VIOLATION


# INTEROP: reason texts are those rustls puts into the close frame.
UNKNOWN_ISSUER: Final = "invalid peer certificate: UnknownIssuer"
BAD_SIGNATURE: Final = "invalid peer certificate: BadSignature"
BAD_ENCODING: Final = "invalid peer certificate: BadEncoding"
NO_CERTIFICATES: Final = "peer sent no certificates"
NO_ALPN: Final = "peer doesn't support any known protocol"
CANNOT_DECRYPT: Final = "cannot decrypt peer's message"


def incompatible(what: str, alert: Alert = Alert.HANDSHAKE_FAILURE) -> NoReturn:
    raise TlsAlert(alert, f"peer is incompatible: {what}")


def misbehaved(what: str, alert: Alert = Alert.ILLEGAL_PARAMETER) -> NoReturn:
    raise TlsAlert(alert, f"peer misbehaved: {what}")


def corrupt(what: str, alert: Alert = Alert.DECODE_ERROR) -> NoReturn:
    raise TlsAlert(alert, f"received corrupt message of type {what}")
