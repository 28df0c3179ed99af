"""Pkarr relays that cannot be used."""

from __future__ import annotations

from typing import Literal

from .services import AddressLookupError

__all__ = ["PkarrError", "PkarrErrorKind"]

PkarrErrorKind = Literal[
    "InvalidRelayUrl", "HttpSend", "HttpRequest", "HttpPayload", "Verify", "Encoding"
]
"""What went wrong with a pkarr relay; see `PkarrError`."""


class PkarrError(AddressLookupError):
    """A pkarr relay could not be used, or what it gave cannot be trusted.

    Attributes
    ----------
    kind : PkarrErrorKind
        ``"InvalidRelayUrl"`` the URL of the relay, ``"HttpSend"`` no answer, ``"HttpRequest"``
        an answer with another status than success, ``"HttpPayload"`` an answer that ends early
        or is too large, ``"Verify"`` a packet that this key did not sign or that holds no
        addresses, ``"Encoding"`` our own addresses do not fit into a packet.
    url : str
        The relay.
    status : int or None
        HTTP status that it answered, of ``"HttpRequest"``.
    retry_after : float or None
        Seconds after which it wants to be asked again, at most 300.
    """

    _default = "the pkarr relay failed"
    kind: PkarrErrorKind
    url: str
    status: int | None
    retry_after: float | None

    def __init__(
        self,
        kind: PkarrErrorKind,
        message: str | None = None,
        *,
        url: str = "",
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, provenance="pkarr")
        self.kind = kind
        self.url = url
        self.status = status
        self.retry_after = retry_after
