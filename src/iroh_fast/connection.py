"""Connections: made of streams and datagrams."""

from __future__ import annotations

import asyncio
import logging
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from ._check import Buffer, check_bytes, check_code, check_seconds, kind_of
from ._later import Later
from .aio._core_events import take, wait
from .aio.owner import Owner, get_ident
from .errors import CloseReason, ConnectionLost, NotDelivered
from .keys import EndpointId, PublicKey
from .paths import ConnectionPaths, PathHome
from .quic._connection import (
    WAIT_ACCEPT_BI,
    WAIT_ACCEPT_UNI,
    WAIT_CLOSED,
    WAIT_DATAGRAM,
    WAIT_DATAGRAM_SPACE,
    WAIT_FINISHED,
    QuicConnection,
)
from .quic.tls.identity import SPKI_PREFIX
from .streams import BiStream, RecvStream, SendStream
from .streams.opening import Arrivals, OpeningBi, OpeningUni, both_halves, is_graceful

if TYPE_CHECKING:
    from . import stats as _stats
else:
    _stats = Later("iroh_fast.stats")

__all__ = ["Connection", "WeakConnection"]

log = logging.getLogger(__name__)

_EXIT: tuple[int, bytes] = (0, b"")  # code and reason of leaving `async with`
ABORTED = 1  # the code a connection is closed with when its block is left by an exception


def _datagram(conn: Connection, data: bytes) -> bytes:
    return data


class Connection(ConnectionPaths):
    """A connection to one endpoint.

    It stays open while this object or any of its streams is alive; letting go of the last
    one closes it with code 0.  Used as ``async with``, leaving the block closes it: without
    an exception when the peer has acknowledged the streams that were finished, see
    :attr:`linger`, otherwise at once and with code 1.  All methods must be called from the
    event loop of the endpoint.
    """

    __slots__ = (
        "__weakref__",
        "_exit",
        "_linger",
        "_remote_id",
        "_warn",
    )

    def __init__(
        self,
        q: QuicConnection,
        owner: Owner,
        home: PathHome,
        remote_id: EndpointId | None,
        linger: float | None,
    ) -> None:
        self._q = q
        self._owner = owner
        self._home = home
        self._remote_id = remote_id
        self._exit = _EXIT
        self._linger = linger
        self._paths = None
        self._warn = False

    def __del__(self) -> None:
        try:
            q = self._q
            if q.close_reason is None:
                self._owner.defer(partial(let_go, self._owner, q, self._linger))
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
        label, context = check_bytes("label", label), check_bytes("context", context)
        if isinstance(length, bool) or not isinstance(length, int):
            raise TypeError(f"length is a number of bytes, not {kind_of(length)}")
        if length < 1:
            raise ValueError(f"length is at least one byte, not {length}")
        return self._q.tls.export_keying_material(label, context, length)

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
        while (stream := take(q, WAIT_ACCEPT_BI)) is None:
            await wait(q, WAIT_ACCEPT_BI)
        return BiStream(SendStream(self, stream), RecvStream(self, stream))

    async def accept_uni(self) -> RecvStream:
        """Wait for the next unidirectional stream of the peer; as :meth:`accept_bi`."""
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        q = self._q
        while (stream := take(q, WAIT_ACCEPT_UNI)) is None:
            await wait(q, WAIT_ACCEPT_UNI)
        return RecvStream(self, stream)

    def bi_streams(self, *, raise_on_close: bool = False) -> Arrivals[BiStream]:
        """Iterate over the peer's bidirectional streams.

        Ends when this side closes the connection or the peer does with code 0; any other
        loss raises.  With `raise_on_close` every end raises.
        """
        return Arrivals(self, WAIT_ACCEPT_BI, both_halves, raise_on_close)

    def uni_streams(self, *, raise_on_close: bool = False) -> Arrivals[RecvStream]:
        """Iterate over the peer's unidirectional streams; as :meth:`bi_streams`."""
        return Arrivals(self, WAIT_ACCEPT_UNI, RecvStream, raise_on_close)

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
        while not take(q, WAIT_DATAGRAM_SPACE, data):
            await wait(q, WAIT_DATAGRAM_SPACE, data)

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
        while (data := take(q, WAIT_DATAGRAM)) is None:
            await wait(q, WAIT_DATAGRAM)
        return data  # type: ignore[no-any-return]

    def datagrams(self, *, raise_on_close: bool = False) -> Arrivals[bytes]:
        """Iterate over received datagrams; ends as :meth:`bi_streams`."""
        return Arrivals(self, WAIT_DATAGRAM, _datagram, raise_on_close)

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
            await wait(q, WAIT_CLOSED)
        return reason

    def close(self, code: int = 0, reason: bytes = b"") -> None:
        """End the connection at once; data not yet delivered is lost, see :meth:`finish`.

        The side that got the last data should close: only it knows that everything arrived.

        Parameters
        ----------
        code : application error code, 0..2**62-1.
        reason : shown to the peer; cut to what fits into a packet.
        """
        if get_ident() != self._owner.thread:
            self._owner.wrong_thread()
        self._q.close(check_code(code), check_bytes("reason", reason))

    async def finish(self) -> None:
        """Wait until the peer has acknowledged every stream that was finished.

        Acknowledged means received by the peer's QUIC layer, not read by its application.
        Streams that were not finished do not count.  Returns at once when there is nothing
        to wait for.

        Raises
        ------
        ConnectionLost : the connection ended before that.

        Notes
        -----
        Cancel-safe.
        """
        self._owner.check_loop()
        await finished(self._q)

    @property
    def linger(self) -> float | None:
        """How long leaving ``async with`` waits as :meth:`finish` does, seconds.

        0 does not wait, None has no limit.  At first the endpoint's option `linger`.
        """
        return self._linger

    @linger.setter
    def linger(self, seconds: float | None) -> None:
        self._linger = check_seconds("linger", seconds, none=True, zero=True)

    def close_on_exit(self, code: int, reason: bytes = b"") -> None:
        """Choose what leaving ``async with`` closes the connection with.

        Without it that is code 0, and code 1 when an exception passes through.
        """
        self._exit = (check_code(code), check_bytes("reason", reason))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        q = self._q
        clean = False
        try:
            if kind is None and self._linger != 0 and q.unconfirmed_streams:
                await self._delivered()
            clean = kind is None
        finally:
            code, reason = self._exit
            self.close(code if clean or code else ABORTED, reason)

    async def _delivered(self) -> None:
        """Wait for what was finished, but not for ever, and not for a peer that is done."""
        q = self._q
        try:
            async with asyncio.timeout(self._linger):
                await finished(q)
        except ConnectionLost as error:
            if not is_graceful(error.close_reason):
                raise
        except TimeoutError:
            assert self._linger is not None
            raise NotDelivered(q.unconfirmed_streams, self._linger) from None

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
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is an integer or None, not {kind_of(value)}")
            if not 0 <= value <= 2**60:
                raise ValueError(f"{name} must be between 0 and 2**60, not {value}")
        if bi is not None or uni is not None:
            self._q.set_max_concurrent(bi, uni)
        if receive_window is not None:
            self._q.set_receive_window(receive_window)

    def stats(self) -> _stats.ConnectionStats:
        """Counters since the start of the connection, over all its paths, and its windows now."""
        return _stats.ConnectionStats.from_core(self._q.stats())

    def weak(self) -> WeakConnection:
        """Get a handle that does not keep the connection open."""
        return WeakConnection(self)

    def __repr__(self) -> str:
        q = self._q
        peer = f"{self._remote_id:short}" if self._remote_id is not None else "?"
        reason = q.close_reason
        if reason is not None:
            state = str(reason)
        else:
            state = "open" if q.handshake_complete else "handshake"
        counts = q.stats()  # not as objects: their module may be gone when the interpreter ends
        sent, received = counts["udp_tx"]["bytes"], counts["udp_rx"]["bytes"]
        return (
            f"<{type(self).__name__} {q.stable_id} {self.side} {peer} alpn={q.alpn!r} {state}, "
            f"{sent} bytes sent, {received} received>"
        )


async def finished(q: QuicConnection) -> None:
    """Wait until every stream that was finished is acknowledged; raises ConnectionLost."""
    while q.unconfirmed_streams:
        if (reason := q.close_reason) is not None:
            raise reason.to_error()
        await wait(q, WAIT_FINISHED)


def let_go(owner: Owner, q: QuicConnection, linger: float | None) -> None:
    """Nobody holds the connection any more: close it once what was finished has arrived."""
    if q.close_reason is not None:
        return
    if q.unconfirmed_streams and linger != 0:
        owner.spawn(_linger(q, linger))
    else:
        q.abandon_handle()


async def _linger(q: QuicConnection, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await finished(q)
    except TimeoutError:
        log.warning(
            "connection %d with %s: %d finished streams were not acknowledged within %g s",
            q.stable_id,
            q.peer_id[:5].hex() if q.peer_id else "?",
            q.unconfirmed_streams,
            seconds,
        )
    except ConnectionLost:
        pass
    finally:
        q.abandon_handle()


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

    async def closed(self) -> _stats.Closed:
        """Wait for the end of the connection; gives the reason and the last counters."""
        q = self._q
        while (reason := q.close_reason) is None:
            await wait(q, WAIT_CLOSED)
        return _stats.Closed(
            reason,
            _stats.ConnectionStats.from_core(q.stats()),
            tuple(
                _stats.PathStats.from_core(path["stats"])
                for id in q.path_ids()
                if (path := q.path_info(id)) is not None
            ),
        )

    def __repr__(self) -> str:
        return f"<WeakConnection {self._ref()!r}>"
