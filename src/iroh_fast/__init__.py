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
    from . import presets as presets
    from .addr import (
        CustomAddr,
        EndpointAddr,
        IpAddr,
        RelayAddr,
        RelayUrl,
        SocketAddr,
        TransportAddr,
    )
    from .config import (
        AckFrequencyConfig,
        BindAddr,
        EndpointConfig,
        MtuDiscoveryConfig,
        QuicTransportConfig,
        ServerConfig,
    )
    from .connection import Connection, WeakConnection
    from .endpoint import Endpoint
    from .errors import CloseReason, IrohError, NotAllowed
    from .handshake import (
        Accepting,
        Connecting,
        IncomingZeroRttConnection,
        OutgoingZeroRttConnection,
        ZeroRttStatus,
    )
    from .hooks import EndpointHooks, HookOutcome, Reject
    from .incoming import Incoming
    from .keys import EndpointId, PublicKey, SecretKey, Signature
    from .router import IncomingOutcome, ProtocolHandler, Router
    from .stats import ConnectionStats, PathInfo, PathStats, RemoteInfo
    from .streams import BiStream, RecvStream, SendStream
    from .ticket import EndpointTicket, Ticket
    from .watcher import Watcher

__version__ = "0.1.0"

_MODULE_OF = {
    "AckFrequencyConfig": "quic.config",
    "BindAddr": "net.bind",
    "EndpointConfig": "config",
    "MtuDiscoveryConfig": "quic.config",
    "QuicTransportConfig": "quic.config",
    "ServerConfig": "config",
    "Accepting": "handshake",
    "Connecting": "handshake",
    "Connection": "connection",
    "Incoming": "incoming",
    "IncomingZeroRttConnection": "handshake",
    "OutgoingZeroRttConnection": "handshake",
    "WeakConnection": "connection",
    "ZeroRttStatus": "handshake",
    "CustomAddr": "addr",
    "EndpointAddr": "addr",
    "IpAddr": "addr",
    "RelayAddr": "addr",
    "RelayUrl": "addr",
    "SocketAddr": "addr",
    "TransportAddr": "addr",
    "Endpoint": "endpoint",
    "CloseReason": "errors",
    "IrohError": "errors",
    "NotAllowed": "errors",
    "EndpointHooks": "hooks",
    "HookOutcome": "hooks",
    "Reject": "hooks",
    "EndpointId": "keys",
    "PublicKey": "keys",
    "SecretKey": "keys",
    "Signature": "keys",
    "IncomingOutcome": "router",
    "ProtocolHandler": "router",
    "Router": "router",
    "ConnectionStats": "stats",
    "PathInfo": "stats",
    "PathStats": "stats",
    "RemoteInfo": "stats",
    "BiStream": "streams",
    "RecvStream": "streams",
    "SendStream": "streams",
    "EndpointTicket": "ticket",
    "Ticket": "ticket",
    "Watcher": "watcher",
}
_SUBMODULES = ("errors", "presets")

__all__ = [
    "Accepting",
    "AckFrequencyConfig",
    "BiStream",
    "BindAddr",
    "CloseReason",
    "Connecting",
    "Connection",
    "ConnectionStats",
    "CustomAddr",
    "Endpoint",
    "EndpointAddr",
    "EndpointConfig",
    "EndpointHooks",
    "EndpointId",
    "EndpointTicket",
    "HookOutcome",
    "Incoming",
    "IncomingOutcome",
    "IncomingZeroRttConnection",
    "IpAddr",
    "IrohError",
    "MtuDiscoveryConfig",
    "NotAllowed",
    "OutgoingZeroRttConnection",
    "PathInfo",
    "PathStats",
    "ProtocolHandler",
    "PublicKey",
    "QuicTransportConfig",
    "RecvStream",
    "Reject",
    "RelayAddr",
    "RelayUrl",
    "RemoteInfo",
    "Router",
    "SecretKey",
    "SendStream",
    "ServerConfig",
    "Signature",
    "SocketAddr",
    "Ticket",
    "TransportAddr",
    "Watcher",
    "WeakConnection",
    "ZeroRttStatus",
    "__version__",
    "build_info",
    "errors",
    "presets",
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


def build_info() -> dict[str, Any]:
    """Tell how this copy was built and what it found at run time.

    Returns
    -------
    dict
        ``version``; ``python``; ``crypto``: libraries and the backend of each cipher suite;
        ``build``: compiler and switches; ``socket``: whether the system sends and receives
        batches of datagrams (segmentation offload), tried on a loopback socket.
    """
    import platform

    from . import _batch, _crypto

    sock = _batch.UdpSocket.bind(("127.0.0.1", 0))
    try:
        features = {
            "gso": sock.gso,
            "gro": sock.gro,
            "max_segments": sock.max_segments,
            "may_fragment": sock.may_fragment,
        }
    finally:
        sock.close()
    return {
        "version": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "crypto": dict(_crypto.backend()),
        "build": dict(_crypto.build_switches()),
        "socket": features,
    }
