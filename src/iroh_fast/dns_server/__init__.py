"""The server that endpoints publish their addresses to, and that answers for them over DNS.

`DnsServer` is one to embed or to run by ``python -m iroh_fast dns-server``. It needs the extra
``dns-server``. Names are loaded when first used.
"""

from __future__ import annotations

from .._later import public_names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..errors import PacketStoreError
    from .config import DnsServerConfig
    from .postgres import PostgresStore
    from .server import DnsServer
    from .service import DnsLimits
    from .settings import HttpsSettings, StoreSettings, ZoneSettings
    from .sqlite import SqliteStore
    from .store import LocalStore, PacketStore, Retention

_MODULE_OF = {
    "DnsLimits": ".service",
    "DnsServer": ".server",
    "DnsServerConfig": ".config",
    "HttpsSettings": ".settings",
    "LocalStore": ".store",
    "PacketStore": ".store",
    "PacketStoreError": "..errors",
    "PostgresStore": ".postgres",
    "Retention": ".store",
    "SqliteStore": ".sqlite",
    "StoreSettings": ".settings",
    "ZoneSettings": ".settings",
}

__all__ = [
    "DnsLimits",
    "DnsServer",
    "DnsServerConfig",
    "HttpsSettings",
    "LocalStore",
    "PacketStore",
    "PacketStoreError",
    "PostgresStore",
    "Retention",
    "SqliteStore",
    "StoreSettings",
    "ZoneSettings",
]

__getattr__, __dir__ = public_names(__name__, _MODULE_OF)
