"""Relays: servers that pass packets between endpoints which cannot reach each other.

`RelayServer` is a relay to embed or to run by ``python -m iroh_fast relay``; `RelayConfig`,
`RelayMap` and `CaConfig` are what endpoints are told about relays. All of it needs the extra
``relay``. Names are loaded when first used.
"""

from __future__ import annotations

from .._later import public_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..errors import RelayClientError, RelayError
    from ..web.ca import CaConfig
    from ..web.message import Request, Response
    from ..web.proxy import Proxy
    from .client.connection import connect_relay
    from .client.home import Candidate, HomePolicy, ListOrder, Nearest
    from .client.link import Dialer
    from .map import RelayConfig, RelayMap, RelayMode, RelayStatus
    from .server.access import (
        AccessControl,
        AccessRequest,
        AllowList,
        Decision,
        DenyList,
        Everyone,
        HttpAccess,
        SharedToken,
    )
    from .server.config import RelayLimits, RelayServerConfig, RelayTlsConfig
    from .server.server import RelayServer

_MODULE_OF = {
    "AccessControl": ".server.access",
    "AccessRequest": ".server.access",
    "AllowList": ".server.access",
    "CaConfig": "..web.ca",
    "Candidate": ".client.home",
    "Decision": ".server.access",
    "DenyList": ".server.access",
    "Dialer": ".client.link",
    "Everyone": ".server.access",
    "HomePolicy": ".client.home",
    "HttpAccess": ".server.access",
    "ListOrder": ".client.home",
    "Nearest": ".client.home",
    "Proxy": "..web.proxy",
    "RelayClientError": "..errors",
    "RelayConfig": ".map",
    "RelayError": "..errors",
    "RelayLimits": ".server.config",
    "RelayMap": ".map",
    "RelayMode": ".map",
    "RelayServer": ".server.server",
    "RelayServerConfig": ".server.config",
    "RelayStatus": ".map",
    "RelayTlsConfig": ".server.config",
    "Request": "..web.message",
    "Response": "..web.message",
    "SharedToken": ".server.access",
    "connect_relay": ".client.connection",
}

__all__ = [
    "AccessControl",
    "AccessRequest",
    "AllowList",
    "CaConfig",
    "Candidate",
    "Decision",
    "DenyList",
    "Dialer",
    "Everyone",
    "HomePolicy",
    "HttpAccess",
    "ListOrder",
    "Nearest",
    "Proxy",
    "RelayClientError",
    "RelayConfig",
    "RelayError",
    "RelayLimits",
    "RelayMap",
    "RelayMode",
    "RelayServer",
    "RelayServerConfig",
    "RelayStatus",
    "RelayTlsConfig",
    "Request",
    "Response",
    "SharedToken",
    "connect_relay",
]

__getattr__, __dir__ = public_names(__name__, _MODULE_OF)
