"""Dialing: what is checked before the first packet, and addresses that are found while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from ._context import Context
from ._later import Later
from ._ways import Ways
from .addr import EndpointAddr
from .aio._core_events import wait
from .aio.unless import Unless
from .connection import ABORTED, Connection
from .errors import (
    ConnectError,
    ConnectionLost,
    EndpointClosed,
    InvalidAlpn,
    LocallyRejected,
    NoAddress,
    NotDirect,
    SelfConnect,
    WrongIdentity,
)
from .handshake import Connecting
from .hooks import run_before_connect
from .keys import EndpointId
from .lookup.services import failure_error, summary
from .lookup.shared import Search
from .net.monitor.read import is_cut_off
from .net.transport import SockAddr
from .quic._connection import WAIT_HANDSHAKE, QuicConnection
from .quic.config import QuicTransportConfig

if TYPE_CHECKING:
    from . import events as _events
else:
    _events = Later("iroh_fast.events")

__all__ = ["connect", "dial"]

DIRECT_S = 10.0  # how long require_direct waits: two rounds of hole punching
MAX_IMPOSTORS = 8  # addresses of an attempt at which somebody else answered
ROUTE_TRIES, ROUTE_PAUSE_S = 3, 0.25  # how long to wait for a route before giving up


async def connect(
    context: Context,
    target: EndpointAddr,
    alpn: bytes,
    *,
    require_direct: bool = False,
    relay_only: bool = False,
) -> Connection:
    """Dial and wait for the handshake; raises as :meth:`Endpoint.connect` says."""
    conn = await _connect(context, target, alpn, relay_only)
    if require_direct:
        await _becomes_direct(context, conn)
    return conn


async def _becomes_direct(context: Context, conn: Connection) -> None:
    """Wait for a direct path, or close the connection.

    Raises
    ------
    NotDirect : there is none after a while, or the connection was lost.
    """
    try:
        await conn.direct(DIRECT_S)
    except BaseException as error:
        conn.close(ABORTED, b"no direct path")
        if not isinstance(error, (NotDirect, ConnectionLost)):
            raise
        reason = error.reason if isinstance(error, NotDirect) else str(error)
        remote = f"{conn.remote_id:short}"
        failure = NotDirect(
            f"connect to {remote} (alpn {conn.alpn!r}) failed: no direct path came about: {reason}",
            reason=reason,
            remote=remote,
            alpn=conn.alpn,
        )
        if context.events.wants(_events.DialFailed):
            context.events.emit(_events.DialFailed(conn.remote_id, conn.alpn, failure))
        raise failure from error


async def _connect(
    context: Context, target: EndpointAddr, alpn: bytes, relay_only: bool
) -> Connection:
    """Dial and wait for the handshake.

    Where lookups take part, somebody else may be the first to answer, at an address that is
    stale or forged: then the others are tried without that one.
    """
    impostors: list[SockAddr] = []
    wrong: WrongIdentity | None = None
    while True:
        try:
            connecting = await dial(context, target, alpn, without=impostors, relay_only=relay_only)
        except NoAddress:
            if wrong is None:
                raise
            raise wrong from wrong.__cause__
        try:
            return await connecting
        except WrongIdentity as error:
            if connecting.answered is None or len(impostors) == MAX_IMPOSTORS:
                raise
            impostors.append(connecting.answered)
            wrong = error


async def dial(
    context: Context,
    target: EndpointAddr,
    alpn: bytes,
    transport: QuicTransportConfig | None = None,
    extra_alpns: tuple[bytes, ...] = (),
    *,
    without: Collection[SockAddr] = (),
    relay_only: bool = False,
) -> Connecting:
    """Start a connection attempt; raises as :meth:`Endpoint.connect` says.

    Parameters
    ----------
    without : addresses that are not dialed.
    relay_only : there is to be no direct path, now or later.
    """
    search = None
    try:
        await _check(context, target, alpn)
        ways = _known_ways(context, target, without, relay_only)
        search = _search(context, target.id, ways)
        await _first_way(context, target, alpn, ways, search)
        q = context.driver.connect(
            ways.sockets,
            expected_peer=bytes(target.id),
            alpns=[alpn, *extra_alpns],
            transport=transport or context.transport,
        )
        if relay_only:
            context.relayed.add(q)
    except BaseException as error:
        if search is not None:
            context.lookups.leave(search, connected=False)
        if isinstance(error, ConnectError) and context.events.wants(_events.DialFailed):
            context.events.emit(_events.DialFailed(target.id, alpn, error))
        raise
    if context.events.wants(_events.Dialing):
        addrs = tuple(context.transport_addr(addr) for addr in ways.sockets)
        context.events.emit(_events.Dialing(target.id, alpn, addrs))
    if search is not None:
        q.expect_addresses(not search.over)
        context.owner.spawn(_feed(context, q, ways, search))
    return Connecting(q, context, target.id, alpn, ways, search)


async def _check(context: Context, target: EndpointAddr, alpn: bytes) -> None:
    """Raise what is wrong with the attempt as such."""
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


def _known_ways(
    context: Context, target: EndpointAddr, without: Collection[SockAddr], relay_only: bool
) -> Ways:
    """Where to dial by what is known now: a connection that is open, the given addresses, those found lately."""
    given = Ways(context, target.id, without, relay_only=relay_only)
    given.take(target.addrs)
    if target.addrs and not given.sockets:
        return given  # of no use: that is told, unless a lookup finds better ones
    ways = Ways(context, target.id, without, relay_only=relay_only)
    if (live := context.way_to(target.id)) is not None:
        ways.add([live])
    ways.join(given)
    ways.take(context.lookups.known(target.id))
    return ways


def _search(context: Context, id: EndpointId, ways: Ways) -> Search | None:
    """Look the remote up, unless a connection shows where it is, or the given addresses are a mistake."""
    if context.lookups.services.is_empty or ways.are_nonsense or context.way_to(id) in ways.sockets:
        return None
    return context.lookups.join(id)


async def _first_way(
    context: Context, target: EndpointAddr, alpn: bytes, ways: Ways, search: Search | None
) -> None:
    """Wait until there is an address to dial.

    Raises
    ------
    NoAddress : there is none, and no lookup will find any.
    EndpointClosed : the endpoint was closed meanwhile.
    """
    cut_off = ways.may_pass and is_cut_off()
    while search is not None:
        ways.take(search.found)
        # Without any network nobody can be asked: what is found meanwhile counts.
        if ways.sockets or search.over or cut_off:
            break
        await search.news.wait()
    for _ in range(ROUTE_TRIES):
        if context.closing:
            raise EndpointClosed()
        if ways.sockets or not ways.may_pass:
            break
        await asyncio.sleep(ROUTE_PAUSE_S)  # the network may just be coming up
        ways.look_again()
        if search is not None:
            ways.take(search.found)
    if context.closing:
        raise EndpointClosed()
    if not ways.sockets:
        raise _no_address(target, alpn, ways, search)


def _no_address(target: EndpointAddr, alpn: bytes, ways: Ways, search: Search | None) -> NoAddress:
    reasons = []
    if ways.refused:
        listed = [f"{addr[:80]} ({reason})" for addr, reason in ways.refused.items()]
        more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
        reasons.append(f"none of its addresses can be used: {', '.join(listed[:8])}{more}")
    errors = [] if search is None else [failure_error(failure) for failure in search.failures]
    if search is None and not reasons:
        reasons.append("no address of it is known, and there is no address lookup")
    elif search is not None and not search.found:
        known = [] if reasons else ["no address of it is known"]
        reasons.append("; ".join([*known, summary(errors)]))
    remote = f"{target.id:short}"
    return NoAddress(
        f"connect to {remote} (alpn {alpn!r}) failed: {'; '.join(reasons)}",
        remote=remote,
        alpn=alpn,
        lookup_errors=errors,
    )


async def _feed(context: Context, q: QuicConnection, ways: Ways, search: Search) -> None:
    """Hand an attempt what its lookup finds, until one of them is over."""
    try:
        while not q.handshake_complete and q.close_reason is None:
            if fresh := ways.take(search.found):
                q.dial_more(fresh)
            if search.over:
                q.expect_addresses(False)
                break
            async with Unless(wait(q, WAIT_HANDSHAKE)):
                await search.news.wait()
    finally:
        context.lookups.leave(search, connected=bool(q.handshake_complete))
