"""What an endpoint knows about a remote one, put together from connections and lookups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._context import Context
from ._later import Later
from .addr import TransportAddr
from .keys import EndpointId

if TYPE_CHECKING:
    from . import stats as _stats
else:
    _stats = Later("iroh_fast.stats")

__all__ = ["remote_info"]


def remote_info(context: Context, id: EndpointId) -> _stats.RemoteInfo | None:
    """What is known about a remote; None if nothing."""
    now = context.owner.loop.time()
    status: dict[TransportAddr, _stats.AddrStatus] = {}
    told: dict[TransportAddr, dict[str, float]] = {}
    for sockaddr, state, sources in context.remotes.inventory(bytes(id)):
        addr = context.transport_addr(sockaddr)
        status[addr] = state
        told[addr] = {name: max(0.0, now - when) for name, when in sources.items()}
    found = context.lookups.known(id)
    for addr in found:
        status.setdefault(addr, "unknown")
    for book in context.paths_with(id):
        for path in book.get():
            status[path.remote_addr] = "active"
    if not status:
        return None
    infos = []
    for addr in sorted(status):
        last = told.get(addr, {})
        names = dict.fromkeys((*found.get(addr, ()), *last))
        infos.append(_stats.TransportAddrInfo(addr, tuple(names), status[addr], last))
    return _stats.RemoteInfo(id, tuple(infos))
