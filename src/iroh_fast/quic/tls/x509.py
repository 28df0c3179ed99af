"""TLS 1.3 with X.509 server certificates, for the one kind of connection that needs it.

Endpoints prove raw public keys to each other (`factory`); the QUIC listener of a relay is an
ordinary server with a certificate instead. The sessions, on aioquic's engine, are in
`x509_session`, which is imported with the first one, or by `preload` in a thread.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .identity import Identity
from .trust import TrustRoots, X509Credentials

if TYPE_CHECKING:
    from .x509_session import X509TlsSession

__all__ = [
    "ClientTls",
    "ServerTls",
    "TrustRoots",
    "X509Client",
    "X509Credentials",
    "X509Server",
    "preload",
]


class ClientTls(Protocol):
    """What a dialling connection takes its TLS session from."""

    @property
    def client(self) -> Callable[..., Any]: ...


class ServerTls(Protocol):
    """What an accepting connection takes its TLS session from."""

    @property
    def server(self) -> Callable[..., Any]: ...


def preloaded() -> bool:
    """Whether `preload` has nothing to do any more."""
    return f"{__package__}.x509_session" in sys.modules


def preload() -> None:
    """Import the engine, which takes a while; safe to call from any thread."""
    from . import x509_session  # noqa: F401


class X509Client:
    """Makes the TLS sessions of connections to one server: the `tls` of a dial.

    Parameters
    ----------
    server_name : str
        Host name or IP address the certificate must be for; a name is sent as SNI.
    trust : TrustRoots
    """

    __slots__ = ("server_name", "trust")

    def __init__(self, server_name: str, trust: TrustRoots) -> None:
        self.server_name = server_name
        self.trust = trust

    def client(
        self,
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
        **unused: Any,
    ) -> X509TlsSession:
        """As `TlsSession.client`; what has no meaning here is ignored: keys and tickets."""
        from .x509_session import X509TlsSession

        return X509TlsSession.client(
            server_name=self.server_name,
            trust=self.trust,
            alpns=alpns,
            transport_parameters=transport_parameters,
            keylog=keylog,
        )


class X509Server:
    """Makes the TLS sessions of a server: the `tls` of a QUIC endpoint.

    Attributes
    ----------
    credentials : X509Credentials
        Of new connections; may be replaced at any time.
    """

    __slots__ = ("credentials",)

    def __init__(self, credentials: X509Credentials) -> None:
        self.credentials = credentials

    def server(
        self,
        identity: Identity,
        *,
        alpns: Sequence[bytes],
        transport_parameters: bytes,
        keylog: Callable[[str], None] | None = None,
        **unused: Any,
    ) -> X509TlsSession:
        """As `TlsSession.server`; what has no meaning here is ignored: keys and tickets."""
        from .x509_session import X509TlsSession

        return X509TlsSession.server(
            credentials=self.credentials,
            alpns=alpns,
            transport_parameters=transport_parameters,
            keylog=keylog,
        )
