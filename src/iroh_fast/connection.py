"""Connections: made of streams and datagrams, and the handshakes that lead to them."""

from __future__ import annotations

import warnings
import weakref
from asyncio import CancelledError, get_running_loop
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from ._owner import Owner, get_ident, settled
from .addr import EndpointAddr, TransportAddr
from .config import QuicTransportConfig, ServerConfig
from .errors import (
    AlpnMismatch,
    CloseReason,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    ConnectTimeout,
    EndpointClosed,
    HandshakeFailed,
    IrohError,
    LocallyRejected,
    WrongIdentity,
)
from .hooks import EndpointHooks, run_after_handshake
from .keys import EndpointId, PublicKey
from .net.remote import RemoteMap
from .net.transport import is_private
from .quic._connection import (
    WAIT_ACCEPT_BI,
    WAIT_ACCEPT_UNI,
    WAIT_ALPN,
    WAIT_CLOSED,
    WAIT_DATAGRAM,
    WAIT_DATAGRAM_SPACE,
    WAIT_HANDSHAKE,
    WAIT_OPEN_BI,
    WAIT_OPEN_UNI,
    WAIT_PATHS,
)
from .stats import (
    Closed,
    ConnectionStats,
    EndpointMetrics,
    ObservedAddr,
    PathClosed,
    PathEvent,
    PathInfo,
    PathOpened,
    PathsLagged,
    PathStats,
    PathStatusChanged,
)
from .streams import BiStream, RecvStream, SendStream, check_code
from .watcher import Source, Watcher

if TYPE_CHECKING:
    import asyncio
    import sys

    if sys.version_info >= (3, 12):
        from collections.abc import Buffer
    else:
        from typing_extensions import Buffer

    from typing_extensions import Self

    from .net.driver import Driver
    from .quic._connection import QuicConnection
    from .quic._endpoint import QuicIncoming
    from .quic._streams import QuicStream
    from .relay.transport import RelayTransport

__all__ = [
    "Accepting",
    "Connecting",
    "Connection",
    "DecryptedInitial",
    "Incoming",
    "IncomingZeroRttConnection",
    "OutgoingZeroRttConnection",
    "WeakConnection",
    "ZeroRttStatus",
]

# RFC 8410 §4: what stands before the 32 bytes of an Ed25519 key in DER.
SPKI_PREFIX = bytes.fromhex("302a300506032b6570032100")

TLS_ALERT_BASE = 0x100  # RFC 9001 §4.8
CODE_NO_ALPN = TLS_ALERT_BASE + 120
CODE_UNKNOWN_CA = TLS_ALERT_BASE + 48  # what iroh sends for a key that was not expected
CODE_REFUSED = 0x02


class Context:
    """What connections need to know of their endpoint.

    They do not hold the endpoint itself: it must be free to go while they are in use.
    """

    __slots__ = (
        "alpns",
        "closing",
        "driver",
        "hooks",
        "id",
        "live",
        "metrics",
        "owner",
        "relay",
        "remotes",
        "transport",
    )

    def __init__(
        self,
        owner: Owner,
        driver: Driver,
        id: EndpointId,
        alpns: tuple[bytes, ...],
        transport: QuicTransportConfig,
        hooks: tuple[EndpointHooks, ...],
        metrics: EndpointMetrics,
    ) -> None:
        self.owner = owner
        self.driver = driver
        self.id = id
        self.alpns = alpns
        self.transport = transport
        self.hooks = hooks
        self.metrics = metrics
        self.closing = False
        self.live: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.remotes = RemoteMap(owner.loop)
        self.relay: RelayTransport | None = None

    def transport_addr(self, address: tuple[Any, ...]) -> TransportAddr:
        """Convert an address of the driver."""
        return self.driver.transports.addr_of(address)

    def sockaddrs(self, target: EndpointAddr) -> list[tuple[Any, ...]]:
        """Every way to an endpoint that this one can use, as addresses of the driver."""
        key = bytes(target.id)
        route = self.driver.transports.route
        found = [sockaddr for addr in target.addrs if (sockaddr := route(addr, key)) is not None]
        return sorted(found, key=is_private)  # direct ones first


def is_graceful(reason: CloseReason) -> bool:
    """True when the connection was closed on purpose and without an error code."""
    return reason.kind == "locally_closed" or (reason.kind == "application" and not reason.code)


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


# --- opening streams ----------------------------------------------------------------------


class _Opener:
    """Queue of tasks that wait for stream credit of one kind: first come, first served."""

    __slots__ = ("_armed", "_bidi", "_kind", "_q", "_spare", "_waiters", "busy")

    def __init__(self, q: QuicConnection, bidi: bool) -> None:
        self._q = q
        self._bidi = bidi
        self._kind = WAIT_OPEN_BI if bidi else WAIT_OPEN_UNI
        self._waiters: OrderedDict[asyncio.Future[QuicStream], None] = OrderedDict()
        self._spare: list[QuicStream] = []
        self._armed = False
        self.busy = False  # somebody waits or there is a spare stream: do not open directly

    def wait(self) -> Generator[Any, None, QuicStream]:
        if self._spare and not self._waiters:
            stream = self._spare.pop()
            self.busy = bool(self._spare)
            return stream
        future: asyncio.Future[QuicStream] = get_running_loop().create_future()
        self._waiters[future] = None
        self.busy = True
        if not self._armed:
            self._arm()
        try:
            return (yield from future)
        except CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                # Too late: the stream is open.  The next one who asks gets it.
                self._spare.append(future.result())
            self._waiters.pop(future, None)
            self._serve()
            raise

    def _arm(self) -> None:
        self._armed = True
        self._q.wait(self._kind).add_done_callback(self._event)

    def _event(self, _: asyncio.Future[None]) -> None:
        self._armed = False
        self._serve()

    def _serve(self) -> None:
        waiters = self._waiters
        try:
            while waiters:
                future = next(iter(waiters))
                if future.done():
                    del waiters[future]
                    continue
                stream = self._spare.pop() if self._spare else self._q.open_stream(self._bidi)
                if stream is None:
                    if not self._armed:
                        self._arm()
                    break
                del waiters[future]
                future.set_result(stream)
        except IrohError as error:
            reason = self._q.close_reason
            for future in waiters:
                if not future.done():
                    future.set_exception(error if reason is None else reason.to_error())
            waiters.clear()
        self.busy = bool(waiters or self._spare)


_S = TypeVar("_S", BiStream, SendStream)


class _Opening(Coroutine[Any, Any, _S], Generic[_S]):
    """Result of ``open_bi`` and ``open_uni``: awaitable and context manager."""

    __slots__ = ("_conn", "_run", "_stream")
    _run: Generator[Any, Any, _S]
    _stream: _S

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def __await__(self) -> Generator[Any, Any, _S]:
        raise NotImplementedError

    def send(self, value: Any, /) -> Any:
        try:
            run = self._run
        except AttributeError:
            run = self._run = self.__await__()
        return run.send(value)

    def throw(self, *args: Any) -> Any:
        try:
            run = self._run
        except AttributeError:
            run = self._run = self.__await__()
        return run.throw(*args)

    def close(self) -> None:
        try:
            self._run.close()
        except AttributeError:  # never started
            pass

    async def __aenter__(self) -> _S:
        self._stream = stream = await self
        return stream

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stream = self._stream
        del self._stream
        await stream.__aexit__(kind, error, trace)


class OpeningBi(_Opening[BiStream]):
    """Result of :meth:`Connection.open_bi`."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, BiStream]:
        conn = self._conn
        if get_ident() != conn._owner.thread:
            conn._owner.wrong_thread()
        opener = conn._opener_bi
        q = None if opener.busy else conn._q.open_stream(True)
        if q is None:
            q = yield from opener.wait()
        return BiStream(SendStream(conn, q), RecvStream(conn, q))


class OpeningUni(_Opening[SendStream]):
    """Result of :meth:`Connection.open_uni`."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, SendStream]:
        conn = self._conn
        if get_ident() != conn._owner.thread:
            conn._owner.wrong_thread()
        opener = conn._opener_uni
        q = None if opener.busy else conn._q.open_stream(False)
        if q is None:
            q = yield from opener.wait()
        return SendStream(conn, q)


# --- iterators and watchers ---------------------------------------------------------------


_T = TypeVar("_T")


class Arrivals(Generic[_T]):
    """Iterator over what the peer sends, see :meth:`Connection.bi_streams`."""

    __slots__ = ("_conn", "_raise", "_take")

    def __init__(
        self, conn: Connection, take: Callable[[], Awaitable[_T]], raise_on_close: bool
    ) -> None:
        self._conn = conn
        self._take = take
        self._raise = raise_on_close

    def __aiter__(self) -> Arrivals[_T]:
        return self

    async def __anext__(self) -> _T:
        try:
            return await self._take()
        except ConnectionLost as error:
            if self._raise or not is_graceful(error.close_reason):
                raise
            raise StopAsyncIteration from None


class _PathsSource(Source[list[PathInfo]]):
    __slots__ = ("_conn",)

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def get(self) -> list[PathInfo]:
        return self._conn.paths

    def version(self) -> object:
        return [
            (path.id, path.remote_addr, path.local_addr, path.status, path.is_selected)
            for path in self._conn.paths
        ]

    def ended(self) -> bool:
        return self._conn._q.close_reason is not None

    async def wait(self) -> None:
        await settled(self._conn._q.wait(WAIT_PATHS))


class PathEvents:
    """Iterator over what happens to the paths of a connection.

    Events of the last moment may be missing when the consumer is slow; then a
    :class:`PathsLagged` tells how many.
    """

    __slots__ = ("__weakref__", "_buffer", "_conn", "_missed")

    LIMIT = 8  # as many as iroh keeps for a consumer

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._buffer: deque[PathEvent] = deque()
        self._missed = 0

    def _put(self, event: PathEvent) -> None:
        if len(self._buffer) == self.LIMIT:
            self._buffer.popleft()
            self._missed += 1
        self._buffer.append(event)

    def __aiter__(self) -> PathEvents:
        return self

    async def __anext__(self) -> PathEvent:
        conn = self._conn
        while True:
            conn._pull_path_events()
            if self._missed:
                missed, self._missed = self._missed, 0
                return PathsLagged(missed)
            if self._buffer:
                return self._buffer.popleft()
            if conn._q.close_reason is not None:
                raise StopAsyncIteration
            await settled(conn._q.wait(WAIT_PATHS))


def _path_event(context: Context, event: tuple[Any, ...]) -> PathEvent:
    transport_addr = context.transport_addr
    kind = event[0]
    if kind == "opened":
        _, id, remote, local = event
        return PathOpened(id, transport_addr(remote), transport_addr(local) if local else None)
    if kind == "closed":
        _, id, remote, local, reason, stats = event
        return PathClosed(
            id,
            transport_addr(remote),
            transport_addr(local) if local else None,
            reason,
            PathStats.from_core(stats),
        )
    if kind == "status":
        return PathStatusChanged(event[1], event[2])
    if kind == "observed":
        return ObservedAddr(event[1], transport_addr(event[2]))
    return PathsLagged(event[1])


# --- connections --------------------------------------------------------------------------


class Connection:
    """A connection to one endpoint.

    It stays open while this object or any of its streams is alive; letting go of the last
    one closes it with code 0.  Used as ``async with``, leaving the block closes it.  All
    methods must be called from the event loop of the endpoint.
    """

    __slots__ = (
        "__weakref__",
        "_consumers",
        "_context",
        "_exit",
        "_opener_bi",
        "_opener_uni",
        "_owner",
        "_q",
        "_remote_id",
        "_warn",
    )

    def __init__(self, q: QuicConnection, context: Context, remote_id: EndpointId | None) -> None:
        self._q = q
        self._context = context
        self._owner = context.owner
        self._remote_id = remote_id
        self._opener_bi = _Opener(q, True)
        self._opener_uni = _Opener(q, False)
        self._exit: tuple[int, bytes] = (0, b"")
        self._consumers: weakref.WeakSet[PathEvents] | None = None
        self._warn = False

    def __del__(self) -> None:
        try:
            q = self._q
            if q.close_reason is None:
                self._owner.defer(q.abandon_handle)
                if self._warn and self._owner.thread:
                    warnings.warn(
                        f"unclosed {self!r}; use async with, or close()",
                        ResourceWarning,
                        stacklevel=1,
                        source=self,
                    )
        except AttributeError:  # the constructor failed
            pass

    # --- identity

    @property
    def remote_id(self) -> EndpointId:
        """Who is at the other end: the key it proved to hold.

        Raises
        ------
        RuntimeError : not known yet, on a 0-RTT connection before the handshake.
        """
        if (id := self._remote_id) is None:
            raw = self._q.peer_id
            if raw is None:
                raise RuntimeError("the remote id is not known before the handshake is complete")
            # TLS verified a signature by this key, so it is a valid one.
            id = self._remote_id = PublicKey._from_valid(raw)
        return id

    @property
    def alpn(self) -> bytes:
        """The protocol that was agreed on.  Raises as :attr:`remote_id`."""
        if (alpn := self._q.alpn) is None:
            raise RuntimeError("the ALPN is not known before the handshake is complete")
        return alpn

    @property
    def side(self) -> Literal["client", "server"]:
        """ "client" for the side that dialled."""
        return "client" if self._q.is_client else "server"

    @property
    def stable_id(self) -> int:
        """Number of this connection within its endpoint, for logs and as a key."""
        return self._q.stable_id

    @property
    def peer_certificate(self) -> bytes:
        """The peer's raw public key as DER SubjectPublicKeyInfo (RFC 7250)."""
        return SPKI_PREFIX + bytes(self.remote_id)

    @property
    def was_resumed(self) -> bool:
        """True when the handshake used a session ticket of an earlier connection."""
        return bool(self._q.resumed)

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """Derive a secret that both sides, and nobody else, can derive (RFC 8446 §7.5).

        Parameters
        ----------
        label, context : what the secret is for; both sides must use the same.
        length : bytes wanted.

        Raises
        ------
        RuntimeError : the handshake is not complete.
        ValueError : `label` or `length` are out of range.
        """
        return self._q.tls.export_keying_material(bytes(label), bytes(context), length)

    # --- streams

    def open_bi(self) -> OpeningBi:
        """Open a stream on which both sides send.

        ``send, recv = await conn.open_bi()`` or ``async with conn.open_bi() as stream``.
        Waits only when the peer's limit of concurrent streams is reached.  The peer learns
        of the stream with the first data on it.

        Raises
        ------
        ConnectionLost

        Notes
        -----
        Cancel-safe.
        """
        return OpeningBi(self)

    def open_uni(self) -> OpeningUni:
        """Open a stream on which only this side sends; otherwise as :meth:`open_bi`."""
        return OpeningUni(self)

    async def accept_bi(self) -> BiStream:
        """Wait for the next bidirectional stream of the peer, in order of stream ids.

        Raises
        ------
        ConnectionLost

        Notes
        -----
        Cancel-safe.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while (stream := q.accept_stream(True)) is None:
            await settled(q.wait(WAIT_ACCEPT_BI))
        return BiStream(SendStream(self, stream), RecvStream(self, stream))

    async def accept_uni(self) -> RecvStream:
        """Wait for the next unidirectional stream of the peer; as :meth:`accept_bi`."""
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while (stream := q.accept_stream(False)) is None:
            await settled(q.wait(WAIT_ACCEPT_UNI))
        return RecvStream(self, stream)

    def bi_streams(self, *, raise_on_close: bool = False) -> Arrivals[BiStream]:
        """Iterate over the peer's bidirectional streams.

        Ends when this side closes the connection or the peer does with code 0; any other
        loss raises.  With `raise_on_close` every end raises.
        """
        return Arrivals(self, self.accept_bi, raise_on_close)

    def uni_streams(self, *, raise_on_close: bool = False) -> Arrivals[RecvStream]:
        """Iterate over the peer's unidirectional streams; as :meth:`bi_streams`."""
        return Arrivals(self, self.accept_uni, raise_on_close)

    # --- datagrams

    def send_datagram(self, data: Buffer, /) -> None:
        """Send an unreliable, unordered message; never waits.

        When the buffer is full, the oldest queued datagrams are dropped.

        Raises
        ------
        DatagramTooLarge : more than :attr:`max_datagram_size`.
        DatagramUnsupported, DatagramDisabled : switched off by the peer or by us.
        ConnectionLost
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.send_datagram(data, True)

    async def send_datagram_wait(self, data: Buffer, /) -> None:
        """Send a datagram, waiting for room in the buffer instead of dropping older ones.

        Raises as :meth:`send_datagram`.  Cancel-safe.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while not q.send_datagram(data, False):
            await settled(q.wait(WAIT_DATAGRAM_SPACE))

    async def read_datagram(self) -> bytes:
        """Wait for the next datagram; it may be empty.

        Raises
        ------
        ConnectionLost

        Notes
        -----
        Cancel-safe.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while (data := q.read_datagram()) is None:
            await settled(q.wait(WAIT_DATAGRAM))
        return data

    def datagrams(self, *, raise_on_close: bool = False) -> Arrivals[bytes]:
        """Iterate over received datagrams; ends as :meth:`bi_streams`."""
        return Arrivals(self, self.read_datagram, raise_on_close)

    @property
    def max_datagram_size(self) -> int | None:
        """Bytes that fit into a datagram now; None when datagrams are off on either side."""
        return self._q.max_datagram_size

    @property
    def datagram_send_buffer_space(self) -> int:
        """Bytes of datagrams that can be queued before older ones are dropped."""
        return self._q.datagram_send_buffer_space

    # --- state

    @property
    def close_reason(self) -> CloseReason | None:
        """Why the connection ended; None while it is open."""
        return self._q.close_reason

    async def wait_closed(self) -> CloseReason:
        """Wait until the connection ends, by whoever.  Cancel-safe."""
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while (reason := q.close_reason) is None:
            await settled(q.wait(WAIT_CLOSED))
        return reason

    def close(self, code: int = 0, reason: bytes = b"") -> None:
        """End the connection at once; data not yet delivered is lost.

        The side that got the last data should close: only it knows that everything arrived.

        Parameters
        ----------
        code : application error code, 0..2**62-1.
        reason : shown to the peer; cut to what fits into a packet.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.close(check_code(code), bytes(reason))

    def close_on_exit(self, code: int, reason: bytes = b"") -> None:
        """Choose what leaving ``async with`` closes the connection with."""
        self._exit = (check_code(code), bytes(reason))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(*self._exit)

    def set_limits(
        self, *, bi: int | None = None, uni: int | None = None, receive_window: int | None = None
    ) -> None:
        """Change limits of a live connection; None keeps a limit.

        Parameters
        ----------
        bi, uni : streams the peer may have open at a time.
        receive_window : bytes the peer may send ahead on all streams together.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        for name, value in (("bi", bi), ("uni", uni), ("receive_window", receive_window)):
            if value is not None and not 0 <= value <= 2**60:
                raise ValueError(f"{name} must be between 0 and 2**60, not {value}")
        if bi is not None or uni is not None:
            self._q.set_max_concurrent(bi, uni)
        if receive_window is not None:
            self._q.set_receive_window(receive_window)

    def stats(self) -> ConnectionStats:
        """Counters since the start of the connection, over all its paths."""
        return ConnectionStats.from_core(self._q.stats())

    def weak(self) -> WeakConnection:
        """Get a handle that does not keep the connection open."""
        return WeakConnection(self)

    # --- paths

    @property
    def rtt(self) -> float:
        """Round-trip time of the selected path, seconds."""
        paths = self.paths
        for path in paths:
            if path.is_selected:
                return path.rtt
        return paths[0].rtt if paths else 0.0

    @property
    def paths(self) -> list[PathInfo]:
        """The network paths in use, as a snapshot."""
        q = self._q
        found = [path for id in q.path_ids() if (path := q.path_info(id)) is not None]
        selected = next(
            (path["id"] for path in found if path["status"] == "available" and path["validated"]),
            found[0]["id"] if found else None,
        )
        return [
            PathInfo(
                id=path["id"],
                remote_addr=self._context.transport_addr(path["remote"]),
                local_addr=self._context.transport_addr(path["local"]) if path["local"] else None,
                status=path["status"],
                is_selected=path["id"] == selected,
                validated=path["validated"],
                rtt=path["rtt"],
                cwnd=path["cwnd"],
                mtu=path["mtu"],
                stats=PathStats.from_core(path["stats"]),
            )
            for path in found
        ]

    def watch_paths(self) -> Watcher[list[PathInfo]]:
        """Follow the set of paths and their status; ends with the connection."""
        return Watcher(_PathsSource(self))

    def path_events(self) -> PathEvents:
        """Iterate over path events from now on; ends with the connection."""
        if self._consumers is None:
            self._q.path_events()  # what happened before is not for this consumer
            self._consumers = weakref.WeakSet()
        else:
            self._pull_path_events()
        consumer = PathEvents(self)
        self._consumers.add(consumer)
        return consumer

    def _pull_path_events(self) -> None:
        if self._consumers is not None:
            for raw in self._q.path_events():
                event = _path_event(self._context, raw)
                for consumer in self._consumers:
                    consumer._put(event)

    def __repr__(self) -> str:
        q = self._q
        peer = f"{self._remote_id:short}" if self._remote_id is not None else "?"
        reason = q.close_reason
        if reason is not None:
            state = str(reason)
        else:
            state = "open" if q.handshake_complete else "handshake"
        return f"<{type(self).__name__} {self.side} {peer} alpn={q.alpn!r} {state}>"


class WeakConnection:
    """Handle that does not keep a connection open, see :meth:`Connection.weak`."""

    __slots__ = ("_q", "_ref", "_remote_id")

    def __init__(self, conn: Connection) -> None:
        self._ref = weakref.ref(conn)
        self._q = conn._q
        self._remote_id = conn._remote_id

    @property
    def stable_id(self) -> int:
        """As :attr:`Connection.stable_id`."""
        return self._q.stable_id

    def upgrade(self) -> Connection | None:
        """Get the connection back, or None when nobody holds it any more."""
        return self._ref()

    async def closed(self) -> Closed:
        """Wait for the end of the connection; gives the reason and the last counters."""
        q = self._q
        while (reason := q.close_reason) is None:
            await settled(q.wait(WAIT_CLOSED))
        return Closed(
            reason,
            ConnectionStats.from_core(q.stats()),
            tuple(
                PathStats.from_core(path["stats"])
                for id in q.path_ids()
                if (path := q.path_info(id)) is not None
            ),
        )

    def __repr__(self) -> str:
        return f"<WeakConnection {self._ref()!r}>"


# --- handshakes ---------------------------------------------------------------------------


class _Handshake:
    """Common part of dialling and accepting."""

    __slots__ = ("__weakref__", "_addrs", "_context", "_q", "_remote_id")

    def __init__(self, q: QuicConnection, context: Context, remote_id: EndpointId | None) -> None:
        self._q: QuicConnection | None = q
        self._context = context
        self._remote_id = remote_id
        self._addrs: list[tuple[Any, ...]] = []  # where the peer was dialled

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
                raise self._error(q)
            await settled(q.wait(WAIT_ALPN))
        return alpn

    async def _complete(self, q: QuicConnection) -> None:
        while not q.handshake_complete:
            if q.close_reason is not None:
                raise self._error(q)
            await settled(q.wait(WAIT_HANDSHAKE))

    async def _admit(self, conn: Connection) -> None:
        """Run the hooks and count the connection."""
        context = self._context
        if context.hooks:
            reject = await run_after_handshake(context.hooks, conn)
            if reject is not None:
                conn._q.close(reject.code, reject.reason)
                raise LocallyRejected(
                    f"connection with {conn.remote_id:short} (alpn {conn._q.alpn!r}) was rejected "
                    f"by a hook with code {reject.code}",
                    remote=f"{conn.remote_id:short}",
                    alpn=conn._q.alpn,
                )
        context.metrics.opened += 1
        first = conn._q.path_info(0)
        context.metrics.direct += first is not None and not is_private(first["remote"])
        context.live.add(conn)
        context.remotes.attach(conn._q, self._addrs)
        conn._warn = True

    async def _establish(self) -> Connection:
        self._context.owner.check_loop()
        q = self._take()
        try:
            await self._complete(q)
            conn = Connection(q, self._context, self._remote_id)
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
        return handshake_error(
            q.close_reason,
            f"connect to {self.remote_id:short} (alpn {self._alpn!r})",
            remote=f"{self.remote_id:short}",
            alpn=self._alpn,
            closing=self._context.closing,
        )

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


class _ZeroRttConnection(Connection):
    __slots__ = ("_handshake",)

    def __init__(self, q: QuicConnection, context: Context, handshake: _Handshake) -> None:
        super().__init__(q, context, handshake._remote_id)
        self._handshake: _Handshake | None = handshake

    async def _finish(self) -> None:
        self._owner.check_loop()
        handshake = self._handshake
        if handshake is None:
            return
        await handshake._complete(self._q)
        self._remote_id = None
        self.remote_id  # noqa: B018 - read once now, so that it is there for ever
        if self._handshake is not None:
            self._handshake = None
            await handshake._admit(self)


class OutgoingZeroRttConnection(_ZeroRttConnection):
    """A dialled connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> ZeroRttStatus:
        """Wait for the handshake, and learn whether the early data was accepted.

        Raises
        ------
        ConnectError : the handshake failed.
        """
        await self._finish()
        return ZeroRttStatus(bool(self._q.early_data_accepted), self)


class IncomingZeroRttConnection(_ZeroRttConnection):
    """An accepted connection in use before its handshake is complete."""

    __slots__ = ()

    async def handshake_completed(self) -> Connection:
        """Wait for the handshake; from then on the peer is known and data is not a replay.

        Raises
        ------
        ConnectError : the handshake failed.
        """
        await self._finish()
        return self


@dataclass(frozen=True, slots=True)
class DecryptedInitial:
    """What a client's first packet tells before it is accepted."""

    alpns: tuple[bytes, ...]


class Incoming:
    """A connection attempt that was not answered yet.

    Await it to accept it and wait for the handshake, or call exactly one of
    :meth:`accept`, :meth:`refuse`, :meth:`retry`, :meth:`ignore`.  Letting go of it
    refuses.
    """

    __slots__ = ("__weakref__", "_context", "_q", "_remote")

    def __init__(self, q: QuicIncoming, context: Context) -> None:
        self._q: QuicIncoming | None = q
        self._context = context
        self._remote: TransportAddr | None = None

    def __del__(self) -> None:
        try:
            if self._q is not None:
                self._context.owner.defer(self._q.refuse)
        except AttributeError:  # the constructor failed
            pass

    def _peek(self) -> QuicIncoming:
        if self._q is None:
            raise RuntimeError("this Incoming was answered already")
        return self._q

    def _take(self) -> QuicIncoming:
        if get_ident() != self._context.owner.thread:
            self._context.owner.wrong_thread()
        q = self._peek()
        self.remote_addr  # noqa: B018 - keeps it readable afterwards
        self._q = None
        return q

    @property
    def remote_addr(self) -> TransportAddr:
        """Where the packet came from; anybody could have written that there."""
        if self._remote is None:
            self._remote = self._context.transport_addr(self._peek().remote)
        return self._remote

    @property
    def local_addr(self) -> TransportAddr | None:
        """The address it was sent to, where the system tells."""
        local = self._peek().local
        return self._context.transport_addr(local) if local else None

    @property
    def remote_addr_validated(self) -> bool:
        """True when the peer proved to receive at :attr:`remote_addr`."""
        return self._peek().validated

    @property
    def is_answered(self) -> bool:
        """True once one of the answers was given."""
        return self._q is None

    def peek(self) -> DecryptedInitial | None:
        """Look into the first packet without answering; None when it is incomplete."""
        alpns = self._peek().alpns
        return None if alpns is None else DecryptedInitial(tuple(alpns))

    def accept(self, config: ServerConfig | None = None) -> Accepting:
        """Start the handshake.

        Parameters
        ----------
        config : ServerConfig, optional
            ALPNs and transport parameters for this connection instead of the endpoint's.

        Raises
        ------
        ConnectionLost : the packet was garbage; go on with the next one.
        """
        context = self._context
        q = self._take()
        alpns = context.alpns if config is None else config.alpns
        transport = (config and config.transport) or context.transport
        return Accepting(q.accept(list(alpns), transport), context, self.remote_addr)

    def refuse(self) -> None:
        """Tell the client at once that it is not welcome."""
        self._take().refuse()

    def retry(self) -> None:
        """Ask the client to prove that it receives at its address, and try again.

        Raises
        ------
        IrohError : it did already; the attempt can still be answered.
        """
        if self._peek().validated:
            raise IrohError(f"the address {self.remote_addr} is validated already")
        self._take().retry()

    def ignore(self) -> None:
        """Do not answer.  The client tries again, as new attempts, until it times out."""
        self._take().ignore()

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self.accept().__await__()

    def __repr__(self) -> str:
        return f"<Incoming {self._remote if self._q is None else self.remote_addr}>"
