"""The server that endpoints publish their addresses to, and that answers for them over DNS.

`DnsServer` is one to embed or to run by ``python -m iroh_fast dns-server``. It needs the extra
``dns-server``. Names are loaded when first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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


def __getattr__(name: str) -> Any:
    from importlib import import_module

    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(module, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
