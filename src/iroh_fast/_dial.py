"""Starting to dial: what is checked before the first packet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ._context import Context
from ._later import Later
from .addr import EndpointAddr
from .aio.unless import Unless
from .errors import (
    ConnectError,
    EndpointClosed,
    InvalidAlpn,
    LocallyRejected,
    NoAddress,
    SelfConnect,
)
from .handshake import Connecting
from .hooks import run_before_connect
from .net.reach import is_passing
from .net.transport import SockAddr
from .quic.config import QuicTransportConfig

if TYPE_CHECKING:
    from . import events as _events
else:
    _events = Later("iroh_fast.events")

__all__ = ["dial"]

ROUTE_TRIES, ROUTE_PAUSE_S = 3, 0.25  # how long to wait for a route before giving up


async def dial(
    context: Context,
    target: EndpointAddr,
    alpn: bytes,
    transport: QuicTransportConfig | None = None,
    extra_alpns: tuple[bytes, ...] = (),
) -> Connecting:
    """Start a connection attempt; raises as :meth:`Endpoint.connect` says."""
    try:
        sockets = await _ways(context, target, alpn)
    except ConnectError as error:
        if context.events.wants(_events.DialFailed):
            context.events.emit(_events.DialFailed(target.id, alpn, error))
        raise
    q = context.driver.connect(
        sockets,
        expected_peer=bytes(target.id),
        alpns=[alpn, *extra_alpns],
        transport=transport or context.transport,
    )
    if context.events.wants(_events.Dialing):
        addrs = tuple(context.transport_addr(addr) for addr in sockets)
        context.events.emit(_events.Dialing(target.id, alpn, addrs))
    return Connecting(q, context, target.id, alpn, sockets)


async def _ways(context: Context, target: EndpointAddr, alpn: bytes) -> list[SockAddr]:
    """Where to dial; raises what is wrong with the attempt before anything is sent."""
    if context.closing:
        raise EndpointClosed()
    remote = f"{target.id:short}"
    what = f"connect to {remote} (alpn {alpn!r})"
    if context.hooks:
        reject = None
        async with Unless(context.ending.waiter()):
            reject = await run_before_connect(context.hooks, target, alpn)
        if context.closing:
            raise EndpointClosed()
        if reject is not None:
            raise LocallyRejected(f"{what} failed: rejected by a hook", remote=remote, alpn=alpn)
    if target.id == context.id:
        raise SelfConnect(f"{what} failed: this is our own id", remote=remote, alpn=alpn)
    if not 1 <= len(alpn) <= 255:
        raise InvalidAlpn(
            f"connect to {remote} failed: an ALPN is 1 to 255 bytes", remote=remote, alpn=alpn
        )
    sockets, refused = context.sockaddrs(target)
    for _ in range(ROUTE_TRIES):
        if sockets or not any(map(is_passing, refused.values())):
            break
        await asyncio.sleep(ROUTE_PAUSE_S)  # the network may just be coming up
        if context.closing:
            raise EndpointClosed()
        sockets, refused = context.sockaddrs(target)
    if not sockets:
        if target.is_empty:
            why = "no address of it is known, and there is no address lookup"
        else:
            listed = [f"{addr[:80]} ({reason})" for addr, reason in refused.items()]
            more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
            why = f"none of its addresses can be used: {', '.join(listed[:8])}{more}"
        raise NoAddress(f"{what} failed: {why}", remote=remote, alpn=alpn)
    return sockets
