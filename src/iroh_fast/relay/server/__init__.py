"""The relay server. `RelayServer` and its settings are shown by `iroh_fast.relay`."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .server import RelayServer

__all__ = ["RelayServer"]


def __getattr__(name: str) -> Any:
    if name != "RelayServer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .server import RelayServer

    return RelayServer
