"""Relays, servers on the way to them, address lookup, port mapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .base import IrohError, printable

__all__ = [
    "AddressLookupError",
    "AddressLookupFailed",
    "BadQuery",
    "DialError",
    "DialErrorKind",
    "DnsMessageError",
    "EndpointInfoError",
    "LookupFailedKind",
    "PacketStoreError",
    "PacketStoreErrorKind",
    "PortmapError",
    "PortmapErrorKind",
    "RelayClientError",
    "RelayDenied",
    "RelayError",
    "RelayErrorKind",
    "RelayFrameError",
    "RelayHandshakeError",
    "SignedPacketError",
    "SignedPacketErrorKind",
    "StunDecodeError",
    "StunError",
    "StunErrorKind",
    "WsProtocolError",
]


class AddressLookupError(IrohError):
    """An address lookup service failed.

    Attributes
    ----------
    provenance : str
        Name of the service.
    """

    _default = "address lookup failed"
    provenance: str

    def __init__(self, message: str | None = None, *, provenance: str = "") -> None:
        super().__init__(message)
        self.provenance = provenance


class DnsMessageError(IrohError, ValueError):
    """The bytes are not a DNS message, or what they should say does not fit into one."""

    _default = "not a DNS message"


class BadQuery(IrohError, ValueError):
    """A message or parameters over HTTP that are no DNS query; the text says why, for status 400."""

    _default = "not a DNS query"


class EndpointInfoError(IrohError, ValueError):
    """The TXT records are not those of an endpoint.

    Attributes
    ----------
    kind : str
        ``UnexpectedFormat``: a record without ``=``.  Of the name: ``NumLabels``,
        ``NotAnIrohRecord`` (it does not begin with ``_iroh``), ``DecodingError`` (no key follows).
    """

    _default = "not the records of an endpoint"
    kind: str

    def __init__(self, message: str | None = None, *, kind: str = "UnexpectedFormat") -> None:
        super().__init__(message)
        self.kind = kind


SignedPacketErrorKind = Literal[
    "TooShort",
    "TooLarge",
    "InvalidKey",
    "SignatureError",
    "DnsError",
    "PacketTooLarge",
]
"""What is wrong with a signed packet; see `SignedPacketError`."""


class SignedPacketError(IrohError, ValueError):
    """The bytes are not a signed packet, or the records do not fit into one.

    Attributes
    ----------
    kind : SignedPacketErrorKind
        Of bytes: ``"TooShort"``, ``"TooLarge"``, ``"InvalidKey"``, ``"SignatureError"`` or
        ``"DnsError"``.  Of records: ``"PacketTooLarge"`` together, or ``"DnsError"``: one of them is.
    """

    _default = "not a signed packet"
    kind: SignedPacketErrorKind

    def __init__(self, kind: SignedPacketErrorKind, message: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


LookupFailedKind = Literal["no_service", "no_results"]
"""Why a lookup found nothing; see `AddressLookupFailed`."""


class AddressLookupFailed(AddressLookupError):
    """No address lookup service found an endpoint.

    Attributes
    ----------
    kind : LookupFailedKind
        ``"no_service"``: there is none to ask; ``"no_results"``: none had an answer.
    errors : tuple of AddressLookupError
        Of services that failed; the `provenance` of each names it.  Those that just know
        nothing are not among them.
    """

    _default = "no address lookup service found the endpoint"
    kind: LookupFailedKind
    errors: tuple[AddressLookupError, ...]

    def __init__(
        self,
        message: str | None = None,
        *,
        kind: LookupFailedKind = "no_results",
        errors: Sequence[AddressLookupError] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.errors = tuple(errors)


class RelayError(IrohError):
    """A relay server could not be used.

    Attributes
    ----------
    url : str
        The relay.
    status : int or None
        HTTP status it answered, when it got that far.
    """

    _default = "relay error"
    url: str
    status: int | None

    def __init__(self, message: str | None = None, *, url: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


DialErrorKind = Literal[
    "invalid_tls_servername",
    "dns",
    "timeout",
    "io",
    "tls",
    "closed",
    "proxy_invalid_url",
    "proxy_invalid_target_port",
    "proxy_invalid_tls_servername",
    "proxy_connect",
    "proxy_connect_invalid_status",
]
"""The step of dialling a server that failed; see `DialError`."""


class DialError(IrohError):
    """No stream to a server could be opened: name, address, TLS or proxy.

    Attributes
    ----------
    kind : DialErrorKind
        The step that failed.
    status : int or None
        HTTP status that a proxy answered.
    """

    _default = "cannot connect"
    kind: DialErrorKind
    status: int | None

    def __init__(
        self, kind: DialErrorKind, message: str | None = None, *, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status


RelayErrorKind = Literal[
    "invalid_relay_url",
    "invalid_auth_token",
    "invalid_tls_servername",
    "dns",
    "timeout",
    "io",
    "tls",
    "no_local_addr",
    "proxy_invalid_url",
    "proxy_invalid_target_port",
    "proxy_invalid_tls_servername",
    "proxy_connect",
    "proxy_connect_invalid_status",
    "unexpected_upgrade_status",
    "bad_version_header",
    "websocket",
    "handshake",
    "protocol",
    "closed",
    "ping_timeout",
    "send_timeout",
    "network_changed",
]
"""What went wrong with a relay; see `RelayClientError`."""


class RelayClientError(RelayError):
    """A relay could not be reached, refused us, or its connection ended.

    Attributes
    ----------
    kind : RelayErrorKind
        The step that failed.  From dialling: everything up to ``"handshake"``.  From a
        connection that was up: ``"protocol"`` the relay broke the protocol, ``"closed"`` it
        ended the connection, ``"ping_timeout"`` it did not answer, ``"send_timeout"`` it did
        not read, ``"network_changed"`` our address is gone, or ``"io"``.
    denied_reason : str or None
        What the relay said when it refused this endpoint.
    url, status :
        As in `RelayError`.
    """

    kind: RelayErrorKind
    denied_reason: str | None

    def __init__(
        self,
        kind: RelayErrorKind,
        message: str | None = None,
        *,
        url: str = "",
        status: int | None = None,
        denied_reason: str | None = None,
    ) -> None:
        super().__init__(message, url=url, status=status)
        self.kind = kind
        self.denied_reason = denied_reason


class RelayFrameError(RelayError):
    """What the peer sent is no frame of the relay protocol, or a frame cannot be sent.

    The connection it came from has to be dropped: there is no rule to skip frames.

    Attributes
    ----------
    kind : str
        ``UnexpectedEnd``, ``UnknownFrameType``, ``InvalidFrameType``, ``FrameTooLarge``,
        ``InvalidFrame``, ``InvalidPublicKey``, ``FrameNotAllowedInVersion``,
        ``InvalidProtocolMessageEncoding`` or, only when encoding, ``EmptyPacket``.
    """

    _default = "not a frame of the relay protocol"
    kind: str

    def __init__(self, message: str | None = None, *, kind: str = "InvalidFrame") -> None:
        super().__init__(message)
        self.kind = kind


class WsProtocolError(RelayError):
    """The peer broke the rules of RFC 6455.

    Attributes
    ----------
    code : int
        Close code that fits: 1002 protocol error, 1009 message too big.
    """

    _default = "the peer broke the rules of WebSocket"
    code: int

    def __init__(self, message: str | None = None, *, code: int = 1002) -> None:
        super().__init__(message)
        self.code = code


class RelayHandshakeError(RelayError):
    """The other side broke the authentication handshake of a relay; drop the connection."""

    _default = "relay handshake failed"


class RelayDenied(RelayHandshakeError):
    """The relay refuses to serve this endpoint.

    Attributes
    ----------
    reason : str
        What the relay said.
    """

    _default = "the relay denied access"
    reason: str

    def __init__(self, message: str | None = None, *, reason: str = "") -> None:
        super().__init__(
            f"the relay denied access: {printable(reason)}"
            if message is None and reason
            else message
        )
        self.reason = reason


PortmapErrorKind = Literal["no_gateway", "timeout", "unavailable", "refused", "bad_answer", "not_public"]
"""Why there is no port mapping; see `PortmapError`."""


class PortmapError(IrohError):
    """No port mapping could be had from the gateway.

    Attributes
    ----------
    kind : PortmapErrorKind
        ``"no_gateway"`` this network has none for IPv4, or we need none; ``"timeout"`` it does not
        answer; ``"unavailable"`` it does not speak this protocol; ``"refused"`` it said no;
        ``"bad_answer"`` what it said makes no sense; ``"not_public"`` it is behind another NAT itself.
    code : int or None
        What the gateway gave as reason, a number of the protocol.
    wait : float
        Seconds that the gateway wants us to wait, 0 if it does not say.
    """

    _default = "port mapping failed"
    kind: PortmapErrorKind
    code: int | None
    wait: float

    def __init__(
        self,
        kind: PortmapErrorKind,
        message: str | None = None,
        *,
        code: int | None = None,
        wait: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.wait = wait


StunErrorKind = Literal["timeout", "rejected", "bad_answer", "busy", "closed"]
"""Why a STUN server was of no use; see `StunError`."""


class StunError(IrohError):
    """A STUN server did not tell our address.

    Attributes
    ----------
    kind : StunErrorKind
        ``"timeout"`` no answer; ``"rejected"`` it answered with an error, or sent us elsewhere twice;
        ``"bad_answer"`` it told an address that cannot be ours, or none; ``"busy"`` too many are asked
        already; ``"closed"`` no socket is there for it.
    """

    _default = "no answer from a STUN server"
    kind: StunErrorKind

    def __init__(self, kind: StunErrorKind, message: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind


class StunDecodeError(IrohError, ValueError):
    """The bytes are not a STUN message."""

    _default = "not a STUN message"


PacketStoreErrorKind = Literal[
    "open", "corrupt", "version", "in_use", "write", "unavailable", "closed"
]
"""What is wrong with a store of signed packets; see `PacketStoreError`."""


class PacketStoreError(IrohError):
    """The store of a DNS server could not be opened, read or written.

    Attributes
    ----------
    kind : PacketStoreErrorKind
        ``"open"`` it cannot be reached, made or read; ``"corrupt"`` it is damaged or no such store;
        ``"version"`` it was made by a newer version; ``"in_use"`` another process has it;
        ``"write"`` nothing can be written any more, so the server has to stop; ``"unavailable"``
        the database is away, later it may work; ``"closed"`` it is closed.
    """

    _default = "the store of signed packets failed"
    kind: PacketStoreErrorKind

    def __init__(self, kind: PacketStoreErrorKind, message: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
