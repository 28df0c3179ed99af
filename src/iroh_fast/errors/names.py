"""Names that do not resolve, and HTTP requests that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .base import IrohError

__all__ = [
    "DnsError",
    "DnsInvalidResponse",
    "DnsMissingHost",
    "DnsNoResponse",
    "DnsNxDomain",
    "DnsResolveBoth",
    "DnsResolveFailed",
    "DnsStaggered",
    "DnsTimeout",
    "HttpError",
    "HttpErrorKind",
]


class DnsError(IrohError, OSError):
    """A name could not be resolved.

    Attributes
    ----------
    host : str
        The name that was asked for.
    """

    _default = "cannot resolve the name"
    host: str

    def __init__(self, message: str | None = None, *, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class DnsTimeout(DnsError, TimeoutError):
    """No name server answered in time."""

    _default = "no name server answers"


class DnsNoResponse(DnsError):
    """The name has no record of this kind; it may have others."""

    _default = "no record of this kind"


class DnsNxDomain(DnsError):
    """The name does not exist."""

    _default = "there is no such name"


class DnsResolveBoth(DnsError):
    """Neither an IPv4 nor an IPv6 address was found.

    Attributes
    ----------
    ipv4, ipv6 : IrohError
        Why not, of each family.
    """

    _default = "neither an IPv4 nor an IPv6 address"
    ipv4: IrohError
    ipv6: IrohError

    def __init__(
        self, message: str | None = None, *, host: str = "", ipv4: IrohError, ipv6: IrohError
    ) -> None:
        super().__init__(message, host=host)
        self.ipv4 = ipv4
        self.ipv6 = ipv6


class DnsMissingHost(DnsError, ValueError):
    """The URL has no host to look up."""

    _default = "the URL has no host"


class DnsResolveFailed(DnsError):
    """The name servers refuse to answer or cannot be reached, or there is none to ask."""

    _default = "the name servers do not answer the question"


class DnsInvalidResponse(DnsError):
    """What a name server answered cannot be used."""

    _default = "a name server answered what makes no sense"


class DnsStaggered(DnsError):
    """All calls of a staggered lookup failed.

    Attributes
    ----------
    errors : tuple of IrohError
        What each of them raised, in the order in which they ended.
    """

    _default = "no call succeeded"
    errors: tuple[IrohError, ...]

    def __init__(
        self, message: str | None = None, *, host: str = "", errors: Sequence[IrohError] = ()
    ) -> None:
        super().__init__(message, host=host)
        self.errors = tuple(errors)


HttpErrorKind = Literal[
    "invalid_url", "dns", "timeout", "connect", "tls", "proxy", "redirect", "protocol", "too_large"
]
"""The step of an HTTP request that failed; see `HttpError`."""


class HttpError(IrohError):
    """An HTTP request got no complete answer.

    Attributes
    ----------
    kind : HttpErrorKind
        The step that failed: ``"redirect"`` a redirect that is not followed, ``"protocol"`` the
        answer is no HTTP or ended early, ``"too_large"`` it has more bytes than were asked for.
    url : str
        The request, without user and password.
    status : int or None
        HTTP status of the answer that was not accepted, where there is one.
    """

    _default = "the HTTP request failed"
    kind: HttpErrorKind
    url: str
    status: int | None

    def __init__(
        self,
        kind: HttpErrorKind,
        message: str | None = None,
        *,
        url: str = "",
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.url = url
        self.status = status
