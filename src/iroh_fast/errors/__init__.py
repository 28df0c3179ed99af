"""Every exception this package raises, and the reason a connection closed.

One class is one thing a caller can do differently.  All derive from `IrohError`
and, where a built-in says the same, from that built-in too, so ``except
TimeoutError`` works without importing this module.  Facts are typed attributes;
the text is for people.  Every instance survives `pickle` and `copy`.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: F401 - for typing.get_type_hints, as these:
from typing import Any, ClassVar, Literal  # noqa: F401

from .base import (
    IrohError,
    NotAllowed,
    WatcherEnded,
    WrongThread,
    printable,
)
from .closing import (
    ApplicationClosed,
    CloseKind,
    CloseReason,
    ConnectionLost,
    LocallyClosed,
    NotDelivered,
    PeerAborted,
    StatelessReset,
    TimedOut,
    TransportViolation,
    VersionMismatch,
    transport_code_text,
)
from .connecting import (
    AlpnMismatch,
    BindError,
    ConnectError,
    ConnectionRefused,
    ConnectTimeout,
    EndpointClosed,
    HandshakeFailed,
    InvalidAlpn,
    LocallyRejected,
    NoAddress,
    SelfConnect,
    WrongIdentity,
)
from .services import (
    AddressLookupError,
    DialError,
    DialErrorKind,
    DnsMessageError,
    EndpointInfoError,
    PortmapError,
    RelayClientError,
    RelayDenied,
    RelayError,
    RelayErrorKind,
    RelayFrameError,
    RelayHandshakeError,
    SignedPacketError,
    SignedPacketErrorKind,
    WsProtocolError,
)
from .streams import (
    DatagramDisabled,
    DatagramError,
    DatagramTooLarge,
    DatagramUnsupported,
    FinishedEarly,
    StreamClosed,
    StreamError,
    StreamReset,
    StreamStopped,
    StreamTooLong,
    ZeroRttRejected,
)
from .values import (
    AddrError,
    ConfigError,
    CustomAddrError,
    KeyParsingError,
    KeyParsingReason,
    RelayUrlError,
    SignatureError,
    SignatureParsingError,
    TicketContentError,
    TicketEncodingError,
    TicketError,
    TicketKindError,
    UserDataTooLong,
)

__all__ = [
    "AddrError",
    "AddressLookupError",
    "AlpnMismatch",
    "ApplicationClosed",
    "BindError",
    "CloseKind",
    "CloseReason",
    "ConfigError",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionLost",
    "ConnectionRefused",
    "CustomAddrError",
    "DatagramDisabled",
    "DatagramError",
    "DatagramTooLarge",
    "DatagramUnsupported",
    "DialError",
    "DialErrorKind",
    "DnsMessageError",
    "EndpointClosed",
    "EndpointInfoError",
    "FinishedEarly",
    "HandshakeFailed",
    "InvalidAlpn",
    "IrohError",
    "KeyParsingError",
    "KeyParsingReason",
    "LocallyClosed",
    "LocallyRejected",
    "NoAddress",
    "NotAllowed",
    "NotDelivered",
    "PeerAborted",
    "PortmapError",
    "RelayClientError",
    "RelayDenied",
    "RelayError",
    "RelayErrorKind",
    "RelayFrameError",
    "RelayHandshakeError",
    "RelayUrlError",
    "SelfConnect",
    "SignatureError",
    "SignatureParsingError",
    "SignedPacketError",
    "SignedPacketErrorKind",
    "StatelessReset",
    "StreamClosed",
    "StreamError",
    "StreamReset",
    "StreamStopped",
    "StreamTooLong",
    "TicketContentError",
    "TicketEncodingError",
    "TicketError",
    "TicketKindError",
    "TimedOut",
    "TransportViolation",
    "UserDataTooLong",
    "VersionMismatch",
    "WatcherEnded",
    "WrongIdentity",
    "WrongThread",
    "WsProtocolError",
    "ZeroRttRejected",
    "printable",
    "transport_code_text",
]

# They belong here: that is where messages, pickles and documents say they are.
for _name in __all__:
    _value = globals()[_name]
    if isinstance(_value, type):
        _value.__module__ = __name__
del _name, _value
