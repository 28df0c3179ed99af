"""Peer-to-peer QUIC connections dialed by public key, wire-compatible with iroh 1.x.

    async with Endpoint.bind(alpns=[b"my-protocol/1"]) as ep:
        async with ep.connect(ticket, b"my-protocol/1") as conn:
            send, recv = await conn.open_bi()

Names are loaded when first used, so that importing the package is cheap.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, which takes longer to load than this whole module
if TYPE_CHECKING:
    from typing import Any

    from . import errors as errors
    from . import lookup as lookup
    from . import presets as presets
    from . import relay as relay
    from .addr import (
        AddrLike,
        CustomAddr,
        EndpointAddr,
        IpAddr,
        RelayAddr,
        RelayUrl,
        SocketAddr,
        TransportAddr,
        TransportId,
    )
    from .aio.watcher import Watcher
    from .buildinfo import build_info
    from .config import EndpointConfig, Preset, RelaysLike, ServerConfig
    from .connection import Connection, WeakConnection
    from .endpoint import Endpoint
    from .errors import CloseReason, IrohError, NotAllowed
    from .events import (
        AcceptFailed,
        AddrChanged,
        AddressFound,
        ConnectionClosed,
        ConnectionOpened,
        DialFailed,
        Dialing,
        EndpointEvents,
        Event,
        EventsLagged,
        LookupFailed,
        NetReportMade,
        PathsChanged,
        RelayChanged,
    )
    from .handshake import Accepting, Connecting
    from .hooks import EndpointHooks, HookOutcome, Reject
    from .incoming import Connections, DecryptedInitial, Incoming, IncomingAttempts
    from .keys import EndpointId, PublicKey, SecretKey, Signature
    from .metrics import EndpointMetrics
    from .net.bind import BindAddr, BindAddrLike
    from .net.custom import CustomEndpoint, CustomInbox, CustomTransport
    from .net.remote.selection import PathSelector, PathTuple
    from .paths import PathEvents
    from .quic.config import AckFrequencyConfig, MtuDiscoveryConfig, QuicTransportConfig
    from .router import Handler, IncomingFilter, IncomingOutcome, ProtocolHandler, Router
    from .stats import (
        Closed,
        ConnectionStats,
        FrameStats,
        ObservedAddr,
        PathClosed,
        PathEvent,
        PathInfo,
        PathOpened,
        PathSelected,
        PathsLagged,
        PathStats,
        PathStatusChanged,
        RemoteInfo,
        TransportAddrInfo,
        UdpStats,
    )
    from .streams import (
        BiStream,
        ConnectionLike,
        RecvStream,
        SendStream,
        StreamId,
        UnorderedChunks,
    )
    from .ticket import EndpointTicket, Ticket
    from .zero_rtt import (
        IncomingZeroRttConnection,
        OutgoingZeroRttConnection,
        ZeroRttStatus,
    )

__version__ = "0.1.0"

_MODULE_OF = {
    "build_info": "buildinfo",
    "AddrLike": "addr",
    "CustomAddr": "addr",
    "EndpointAddr": "addr",
    "IpAddr": "addr",
    "RelayAddr": "addr",
    "RelayUrl": "addr",
    "SocketAddr": "addr",
    "TransportAddr": "addr",
    "TransportId": "addr",
    "Watcher": "aio.watcher",
    "EndpointConfig": "config",
    "Preset": "config",
    "RelaysLike": "config",
    "ServerConfig": "config",
    "Connection": "connection",
    "WeakConnection": "connection",
    "Endpoint": "endpoint",
    "CloseReason": "errors",
    "IrohError": "errors",
    "NotAllowed": "errors",
    "AcceptFailed": "events",
    "AddrChanged": "events",
    "AddressFound": "events",
    "ConnectionClosed": "events",
    "ConnectionOpened": "events",
    "DialFailed": "events",
    "Dialing": "events",
    "EndpointEvents": "events",
    "Event": "events",
    "EventsLagged": "events",
    "LookupFailed": "events",
    "NetReportMade": "events",
    "PathsChanged": "events",
    "RelayChanged": "events",
    "Accepting": "handshake",
    "Connecting": "handshake",
    "IncomingZeroRttConnection": "zero_rtt",
    "OutgoingZeroRttConnection": "zero_rtt",
    "ZeroRttStatus": "zero_rtt",
    "EndpointHooks": "hooks",
    "HookOutcome": "hooks",
    "Reject": "hooks",
    "Connections": "incoming",
    "DecryptedInitial": "incoming",
    "Incoming": "incoming",
    "IncomingAttempts": "incoming",
    "EndpointId": "keys",
    "PublicKey": "keys",
    "SecretKey": "keys",
    "Signature": "keys",
    "EndpointMetrics": "metrics",
    "BindAddr": "net.bind",
    "BindAddrLike": "net.bind",
    "CustomEndpoint": "net.custom",
    "CustomInbox": "net.custom",
    "CustomTransport": "net.custom",
    "PathSelector": "net.remote.selection",
    "PathTuple": "net.remote.selection",
    "PathEvents": "paths",
    "AckFrequencyConfig": "quic.config",
    "MtuDiscoveryConfig": "quic.config",
    "QuicTransportConfig": "quic.config",
    "Handler": "router",
    "IncomingFilter": "router",
    "IncomingOutcome": "router",
    "ProtocolHandler": "router",
    "Router": "router",
    "Closed": "stats",
    "ConnectionStats": "stats",
    "FrameStats": "stats",
    "ObservedAddr": "stats",
    "PathClosed": "stats",
    "PathEvent": "stats",
    "PathInfo": "stats",
    "PathOpened": "stats",
    "PathSelected": "stats",
    "PathStats": "stats",
    "PathStatusChanged": "stats",
    "PathsLagged": "stats",
    "RemoteInfo": "stats",
    "TransportAddrInfo": "stats",
    "UdpStats": "stats",
    "BiStream": "streams",
    "ConnectionLike": "streams",
    "RecvStream": "streams",
    "SendStream": "streams",
    "StreamId": "streams",
    "UnorderedChunks": "streams",
    "EndpointTicket": "ticket",
    "Ticket": "ticket",
}
_SUBMODULES = ("errors", "lookup", "presets", "relay")

__all__ = [
    "AcceptFailed",
    "Accepting",
    "AckFrequencyConfig",
    "AddrChanged",
    "AddrLike",
    "AddressFound",
    "BiStream",
    "BindAddr",
    "BindAddrLike",
    "CloseReason",
    "Closed",
    "Connecting",
    "Connection",
    "ConnectionClosed",
    "ConnectionLike",
    "ConnectionOpened",
    "ConnectionStats",
    "Connections",
    "CustomAddr",
    "CustomEndpoint",
    "CustomInbox",
    "CustomTransport",
    "DecryptedInitial",
    "DialFailed",
    "Dialing",
    "Endpoint",
    "EndpointAddr",
    "EndpointConfig",
    "EndpointEvents",
    "EndpointHooks",
    "EndpointId",
    "EndpointMetrics",
    "EndpointTicket",
    "Event",
    "EventsLagged",
    "FrameStats",
    "Handler",
    "HookOutcome",
    "Incoming",
    "IncomingAttempts",
    "IncomingFilter",
    "IncomingOutcome",
    "IncomingZeroRttConnection",
    "IpAddr",
    "IrohError",
    "LookupFailed",
    "MtuDiscoveryConfig",
    "NetReportMade",
    "NotAllowed",
    "ObservedAddr",
    "OutgoingZeroRttConnection",
    "PathClosed",
    "PathEvent",
    "PathEvents",
    "PathInfo",
    "PathOpened",
    "PathSelected",
    "PathSelector",
    "PathStats",
    "PathStatusChanged",
    "PathTuple",
    "PathsChanged",
    "PathsLagged",
    "Preset",
    "ProtocolHandler",
    "PublicKey",
    "QuicTransportConfig",
    "RecvStream",
    "Reject",
    "RelayAddr",
    "RelayChanged",
    "RelayUrl",
    "RelaysLike",
    "RemoteInfo",
    "Router",
    "SecretKey",
    "SendStream",
    "ServerConfig",
    "Signature",
    "SocketAddr",
    "StreamId",
    "Ticket",
    "TransportAddr",
    "TransportAddrInfo",
    "TransportId",
    "UdpStats",
    "UnorderedChunks",
    "Watcher",
    "WeakConnection",
    "ZeroRttStatus",
    "__version__",
    "build_info",
    "errors",
    "lookup",
    "presets",
    "relay",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
