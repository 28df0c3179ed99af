"""Handshakes that lead to connections, of both sides, and their use before they are complete."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._later import Later
from .addr import EndpointAddr, IpAddr, SocketAddr, TransportAddr
from .aio._waiters import wait
from .aio.owner import Owner
from .config import EndpointConfig
from .connection import Connection
from .errors import (
    AlpnMismatch,
    CloseReason,
    ConnectError,
    ConnectionRefused,
    ConnectTimeout,
    EndpointClosed,
    HandshakeFailed,
    InvalidAlpn,
    IrohError,
    LocallyRejected,
    NoAddress,
    SelfConnect,
    WrongIdentity,
)
from .hooks import run_after_handshake, run_before_connect
from .keys import EndpointId, PublicKey
from .metrics import EndpointMetrics
from .net.reach import is_passing, usable
from .net.remote import RemoteMap
from .net.socket import Driver
from .net.transport import is_private
from .paths import Paths
from .quic._connection import WAIT_ALPN, WAIT_HANDSHAKE, QuicConnection
from .quic.config import QuicTransportConfig

if TYPE_CHECKING:
    from . import events as _events
    from . import stats as _stats
    from .relay.client.transport import RelayTransport  # loads more than others need
else:
    _events, _stats = Later("iroh_fast.events"), Later("iroh_fast.stats")

__all__ = [
    "Accepting",
    "Connecting",
    "IncomingZeroRttConnection",
    "OutgoingZeroRttConnection",
    "ZeroRttStatus",
]

TLS_ALERT_BASE = 0x100  # RFC 9001 §4.8
CODE_NO_ALPN = TLS_ALERT_BASE + 120
CODE_UNKNOWN_CA = TLS_ALERT_BASE + 48  # what iroh sends for a key that was not expected
CODE_REFUSED = 0x02

ROUTE_TRIES, ROUTE_PAUSE_S = 3, 0.25  # how long to wait for a route before giving up
MAX_WAYS = 32  # addresses of all kinds that are dialed at once

HOOK_FAILED = 1  # the code a connection is closed with when a hook raised or was cancelled


class Context:
    """What connections need to know of their endpoint.

    They do not hold the endpoint itself: it must be free to go while they are in use.
    """

    __slots__ = (
        "alpns",
        "closing",
        "driver",
        "events",
        "followed",
        "hooks",
        "id",
        "linger",
        "live",
        "metrics",
        "owner",
        "relay",
        "remotes",
        "sockets",
        "transport",
    )

    def __init__(
        self,
        owner: Owner,
        driver: Driver,
        id: EndpointId,
        config: EndpointConfig,
        sockets: tuple[SocketAddr, ...],
        metrics: EndpointMetrics,
    ) -> None:
        self.owner = owner
        self.driver = driver
        self.id = id
        self.alpns = tuple(config.alpns)
        self.transport = config.transport
        self.hooks = tuple(config.hooks)
        self.linger = config.linger
        self.sockets = sockets
        self.metrics = metrics
        self.events = _events.EventHub(owner, id)
        self.followed: dict[int, object] = {}  # connection -> its paths, as last told
        self.closing = False
        self.live: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.remotes = RemoteMap(owner.loop, self.paths_changed)
        self.relay: RelayTransport | None = None

    def opened(self, q: QuicConnection) -> None:
        """A connection passed handshake and hooks."""
        if not self.events.wants(_events.ConnectionOpened):
            return
        path = q.path_info(0)
        assert q.peer_id is not None and q.alpn is not None
        self.events.emit(
            _events.ConnectionOpened(
                q.stable_id,
                PublicKey._from_valid(q.peer_id),
                q.alpn,
                "client" if q.is_client else "server",
                None if path is None else self.transport_addr(path["remote"]),
            )
        )

    def paths_changed(self, q: QuicConnection) -> None:
        """The paths of a connection changed, or it ended."""
        reason = q.close_reason
        if q.peer_id is None:
            return
        if reason is not None:
            self.followed.pop(q.stable_id, None)
            if self.events.wants(_events.ConnectionClosed):
                remote = PublicKey._from_valid(q.peer_id)
                stats = _stats.ConnectionStats.from_core(q.stats())
                self.events.emit(_events.ConnectionClosed(q.stable_id, remote, reason, stats))
        elif self.events.wants(_events.PathsChanged):
            book = Paths(q, self.transport_addr)
            now = book.version()
            if self.followed.get(q.stable_id) != now:
                self.followed[q.stable_id] = now
                remote = PublicKey._from_valid(q.peer_id)
                self.events.emit(_events.PathsChanged(q.stable_id, remote, tuple(book.get())))

    def transport_addr(self, address: tuple[Any, ...]) -> TransportAddr:
        """Convert an address of the driver."""
        return self.driver.transports.addr_of(address)

    def sockaddrs(self, target: EndpointAddr) -> tuple[list[tuple[Any, ...]], dict[str, str]]:
        """The ways to an endpoint that can be tried, and the others with the reason why not.

        Addresses of the driver, direct ones first.
        """
        key = bytes(target.id)
        route = self.driver.transports.route
        chosen, unreachable = usable(target.ip_addrs, self.sockets)
        refused = {str(addr): reason for addr, reason in unreachable.items()}
        found = []
        for addr in (*map(IpAddr, chosen), *(a for a in target.addrs if not a.is_ip)):
            if (sockaddr := route(addr, key)) is not None:
                found.append(sockaddr)
            elif addr.is_relay:
                refused[str(addr)] = "this endpoint has no relays"
            else:
                refused[str(addr)] = "no transport of this endpoint"
        return found[:MAX_WAYS], refused


def handshake_error(
    reason: CloseReason, what: str, *, remote: str | None, alpn: bytes | None, closing: bool
) -> IrohError:
    """Say why a handshake failed, chained to the error of the connection.

    Parameters
    ----------
    what : beginning of the sentence, "connect to 03a107bff3 (alpn b'x/1')".
    closing : True when the endpoint was closed meanwhile.
    """
    error: IrohError
    code = reason.code
    facts: dict[str, Any] = {"remote": remote, "alpn": alpn, "close_reason": reason}
    if reason.kind == "locally_closed":
        if closing:
            error = EndpointClosed(f"{what} failed: the endpoint was closed")
        else:
            error = ConnectError(f"{what} failed: closed by this side", **facts)
    elif reason.kind == "timed_out":
        error = ConnectTimeout(f"{what} failed: no answer in time", **facts)
    elif reason.kind == "transport_peer" and code == CODE_REFUSED:
        error = ConnectionRefused(f"{what} failed: peer refused the connection", **facts)
    elif reason.kind in ("transport_peer", "transport_local") and 0x100 <= code <= 0x1FF:
        alert = code - TLS_ALERT_BASE
        if code == CODE_NO_ALPN:
            cause = "peer accepts none of our ALPNs" if alpn else "no common ALPN"
            error = AlpnMismatch(f"{what} failed: {cause}", alert=alert, **facts)
        elif code == CODE_UNKNOWN_CA:
            cause = (
                "peer holds another key than the one dialled"
                if reason.kind == "transport_local"
                else "peer did not expect our key"
            )
            error = WrongIdentity(f"{what} failed: {cause}", alert=alert, **facts)
        else:
            error = HandshakeFailed(f"{what} failed: {reason}", alert=alert, **facts)
    else:
        error = ConnectError(f"{what} failed: {reason}", **facts)
    error.__cause__ = reason.to_error()
    return error


async def dial(
    context: Context,
    target: EndpointAddr,
    alpn: bytes,
    transport: QuicTransportConfig | None = None,
    extra_alpns: tuple[bytes, ...] = (),
) -> Connecting:
    """Start a connection attempt; raises as :meth:`Endpoint.connect` says."""
    if context.closing:
        raise EndpointClosed()
    remote = f"{target.id:short}"
    what = f"connect to {remote} (alpn {alpn!r})"
    if context.hooks:
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
            listed = [f"{addr} ({reason})" for addr, reason in refused.items()]
            more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
            why = f"none of its addresses can be used: {', '.join(listed[:8])}{more}"
        error = NoAddress(f"{what} failed: {why}", remote=remote, alpn=alpn)
        if context.events.wants(_events.DialFailed):
            context.events.emit(_events.DialFailed(target.id, alpn, error))
        raise error
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


class _Handshake:
    """Common part of dialling and accepting."""

    __slots__ = ("__weakref__", "_addrs", "_context", "_failed", "_q", "_remote_id")

    def __init__(self, q: QuicConnection, context: Context, remote_id: EndpointId | None) -> None:
        self._q: QuicConnection | None = q
        self._context = context
        self._remote_id = remote_id
        self._addrs: list[tuple[Any, ...]] = []  # where the peer was dialled
        self._failed = False

    def __del__(self) -> None:
        try:
            if self._q is not None:
                self._context.owner.defer(self._q.abandon_handle)
        except AttributeError:  # the constructor failed
            pass

    def _peek(self) -> QuicConnection:
        if self._q is None:
            raise RuntimeError(f"this {type(self).__name__} was used already")
        return self._q

    def _take(self) -> QuicConnection:
        q = self._peek()
        self._q = None
        return q

    def _error(self, q: QuicConnection) -> IrohError:
        raise NotImplementedError

    async def alpn(self) -> bytes:
        """Wait until the protocol is agreed on, which is before the handshake completes.

        Raises
        ------
        ConnectError : the handshake failed.
        """
        self._context.owner.check_loop()
        q = self._peek()
        while (alpn := q.alpn) is None:
            if q.close_reason is not None:
                raise self._failure(q)
            await wait(q, WAIT_ALPN)
        return alpn

    def _told(self, error: Exception) -> None:
        """Let it be known why there is no connection."""
        raise NotImplementedError

    async def _complete(self, q: QuicConnection) -> None:
        while not q.handshake_complete:
            if q.close_reason is not None:
                raise self._failure(q)
            await wait(q, WAIT_HANDSHAKE)

    def _failure(self, q: QuicConnection) -> IrohError:
        """Why the handshake failed; that is told once, however often it is asked."""
        error = self._error(q)
        if not self._failed and not isinstance(error, EndpointClosed):
            self._failed = True
            self._told(error)
        return error

    async def _admit(self, conn: Connection) -> None:
        """Run the hooks, once for each connection, and count it.

        Raises
        ------
        LocallyRejected : a hook refuses.
        ConnectionLost : the connection ended while a hook was thinking.
        """
        context = self._context
        if context.hooks:
            q = conn._q
            try:
                reject = await run_after_handshake(context.hooks, conn)
            except BaseException as error:
                q.close(HOOK_FAILED, b"")
                if isinstance(error, Exception):
                    self._told(error)
                raise
            if reject is not None:
                q.close(reject.code, reject.reason)
                rejected = LocallyRejected(
                    f"connection with {conn.remote_id:short} (alpn {q.alpn!r}) was rejected "
                    f"by a hook with code {reject.code}",
                    remote=f"{conn.remote_id:short}",
                    alpn=q.alpn,
                )
                self._told(rejected)
                raise rejected
            if (reason := q.close_reason) is not None:
                lost = reason.to_error()
                self._told(lost)
                raise lost
        context.metrics.opened += 1
        first = conn._q.path_remote(0)
        context.metrics.direct += first is not None and not is_private(first)
        context.live.add(conn)
        context.opened(conn._q)
        context.remotes.attach(conn._q, self._addrs)
        if conn.close_reason is not None:  # too late to be followed
            context.paths_changed(conn._q)
        conn._warn = True

    async def _establish(self) -> Connection:
        self._context.owner.check_loop()
        q = self._take()
        try:
            await self._complete(q)
            context = self._context
            conn = Connection(
                q, context.owner, context.transport_addr, self._remote_id, context.linger
            )
            conn.remote_id  # noqa: B018 - read once now, so that it is there for ever
            await self._admit(conn)
        except BaseException:
            q.abandon_handle()
            raise
        return conn

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._establish().__await__()


class Connecting(_Handshake):
    """A dialled connection whose handshake is going on; await it for the connection."""

    __slots__ = ("_alpn",)

    def __init__(
        self,
        q: QuicConnection,
        context: Context,
        remote_id: EndpointId,
        alpn: bytes,
        addrs: list[tuple[Any, ...]],
    ) -> None:
        super().__init__(q, context, remote_id)
        self._alpn = alpn
        self._addrs = addrs

    @property
    def remote_id(self) -> EndpointId:
        """The endpoint that was dialled."""
        assert self._remote_id is not None
        return self._remote_id

    def into_0rtt(self) -> OutgoingZeroRttConnection | None:
        """Use the connection before the handshake is complete, if a ticket allows it.

        What is sent early can be replayed by an attacker: only for requests that may be
        done twice.

        Returns
        -------
        OutgoingZeroRttConnection or None
            None when there is no ticket of this peer; then await this object as usual.
        """
        self._context.owner.check_loop()
        if not self._peek().has_0rtt:
            return None
        return OutgoingZeroRttConnection(self._take(), self._context, self)

    def _error(self, q: QuicConnection) -> IrohError:
        assert q.close_reason is not None
        context = self._context
        error = handshake_error(
            q.close_reason,
            f"connect to {self.remote_id:short} (alpn {self._alpn!r})",
            remote=f"{self.remote_id:short}",
            alpn=self._alpn,
            closing=context.closing,
        )
        if isinstance(error, ConnectTimeout):
            tried = ", ".join(str(context.transport_addr(addr)) for addr in self._addrs)
            error.add_note(f"tried: {tried}")
            status = None if context.relay is None else context.relay.status
            if status is not None and status.last_error is not None:
                error.add_note(f"the home relay {status.url}: {status.last_error}")
        return error

    def _told(self, error: Exception) -> None:
        events = self._context.events
        if events.wants(_events.DialFailed):
            events.emit(_events.DialFailed(self.remote_id, self._alpn, error))

    def __repr__(self) -> str:
        return f"<Connecting to {self._remote_id:short} alpn={self._alpn!r}>"


class Accepting(_Handshake):
    """An accepted connection whose handshake is going on; await it for the connection."""

    __slots__ = ("_remote",)

    def __init__(self, q: QuicConnection, context: Context, remote: TransportAddr) -> None:
        super().__init__(q, context, None)
        self._remote = remote

    @property
    def remote_addr(self) -> TransportAddr:
        """Where the peer's first packet came from."""
        return self._remote

    def into_0rtt(self) -> IncomingZeroRttConnection:
        """Use the connection before the handshake is complete.

        What the peer sent early may be a replay, and the peer is not known yet; what is
        sent to it early goes to whoever started the handshake.
        """
        self._context.owner.check_loop()
        return IncomingZeroRttConnection(self._take(), self._context, self)

    def _error(self, q: QuicConnection) -> IrohError:
        assert q.close_reason is not None
        return handshake_error(
            q.close_reason,
            f"handshake with {self._remote}",
            remote=str(self._remote),
            alpn=q.alpn,
            closing=self._context.closing,
        )

    def _told(self, error: Exception) -> None:
        context = self._context
        context.metrics.accept_failed += 1
        if context.events.wants(_events.AcceptFailed):
            context.events.emit(_events.AcceptFailed(self._remote, error))

    def __repr__(self) -> str:
        return f"<Accepting from {self._remote}>"


@dataclass(frozen=True, slots=True)
class ZeroRttStatus:
    """What became of early data.

    Attributes
    ----------
    accepted : False when the peer refused it: streams opened before the handshake raise
        ZeroRttRejected and their data must be sent again on new ones.
    connection : the connection, complete now.
    """

    accepted: bool
    connection: Connection


async def _admission(
    ref: weakref.ref[_ZeroRttConnection], q: QuicConnection, handshake: _Handshake
) -> None:
    """Wait for the handshake of a connection in early use, then ask the hooks.

    A task of its own: what the application waits for, or stops waiting for, does not matter.
    It holds the connection only while the hooks look at it.
    """
    await handshake._complete(q)
    if (conn := ref()) is None:
        return  # the application let go of it
    conn._remote_id = None
    conn.remote_id  # noqa: B018 - read once now, so that it is there for ever
    await handshake._admit(conn)


def _seen(task: asyncio.Task[None]) -> None:
    """Nobody has to ask for the outcome."""
    if not task.cancelled():
        task.exception()


class _ZeroRttConnection(Connection):
    __slots__ = ("_admission",)

    def __init__(self, q: QuicConnection, context: Context, handshake: _Handshake) -> None:
        super().__init__(
            q, context.owner, context.transport_addr, handshake._remote_id, context.linger
        )
        self._admission: asyncio.Task[None] = context.owner.loop.create_task(
            _admission(weakref.ref(self), q, handshake)
        )
        self._admission.add_done_callback(_seen)

    async def _admitted(self) -> None:
        """Wait for the one decision about this connection; everybody gets the same."""
        self._owner.check_loop()
        task = self._admission
        if not task.done():
            await asyncio.wait({task})
        task.result()


class OutgoingZeroRttConnection(_ZeroRttConnection):
    """A dialled connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> ZeroRttStatus:
        """Wait for the handshake, and learn whether the early data was accepted.

        Raises
        ------
        ConnectError : the handshake failed.
        LocallyRejected : a hook refuses the connection, which is closed then.
        ConnectionLost : it ended while a hook was thinking.

        Notes
        -----
        Cancel-safe: hooks run once, whether or not somebody waits here.
        """
        await self._admitted()
        return ZeroRttStatus(bool(self._q.early_data_accepted), self)


class IncomingZeroRttConnection(_ZeroRttConnection):
    """An accepted connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> Connection:
        """Wait for the handshake; from then on the peer is known and data is not a replay.

        Raises
        ------
        ConnectError : the handshake failed.
        LocallyRejected : a hook refuses the connection, which is closed then.
        ConnectionLost : it ended while a hook was thinking.

        Notes
        -----
        Cancel-safe: hooks run once, whether or not somebody waits here.
        """
        await self._admitted()
        return self
