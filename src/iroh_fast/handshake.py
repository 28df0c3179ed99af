"""Handshakes that lead to connections, of both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._context import Context
from ._handshaking import Handshaking
from ._later import Later
from ._ways import Ways
from .addr import TransportAddr
from .connection import Connection
from .errors import ConnectTimeout, IrohError, WrongIdentity
from .errors.attempts import attempt_error
from .keys import EndpointId
from .lookup.services import failure_error
from .lookup.shared import Search
from .net.transport import SockAddr
from .quic._connection import QuicConnection
from .zero_rtt import IncomingZeroRttConnection, OutgoingZeroRttConnection, ZeroRttStatus

if TYPE_CHECKING:
    from . import events as _events
else:
    _events = Later("iroh_fast.events")

__all__ = [
    "Accepting",
    "Connecting",
    "IncomingZeroRttConnection",
    "OutgoingZeroRttConnection",
    "ZeroRttStatus",
]


MAX_TOLD = 8  # failed lookups that a time-out tells of


class Connecting(Handshaking):
    """A dialled connection whose handshake is going on; await it for the connection."""

    __slots__ = ("_alpn", "_search", "_ways", "answered")

    def __init__(
        self,
        q: QuicConnection,
        context: Context,
        remote_id: EndpointId,
        alpn: bytes,
        ways: Ways,
        search: Search | None,
    ) -> None:
        super().__init__(q, context, remote_id)
        self._alpn = alpn
        self._ways = ways
        self._search = search
        self._addrs, self._sources = ways.sockets, ways.sources
        self.answered: SockAddr | None = None  # where somebody else did, while a lookup took part

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
        error = attempt_error(
            q.close_reason,
            f"connect to {self.remote_id:short} (alpn {self._alpn!r})",
            remote=f"{self.remote_id:short}",
            alpn=self._alpn,
            closing=context.closing,
        )
        context.lookups.forget(self.remote_id)
        wrong = isinstance(error, WrongIdentity) and not q.close_reason.by_peer
        if wrong and self._search is not None:
            self.answered = q.path_remote(0)
        unreachable = q.close_reason.kind == "unreachable"
        if self._search is not None and (unreachable or isinstance(error, ConnectTimeout)):
            for failure in self._search.failures[:MAX_TOLD]:
                error.add_note(str(failure_error(failure)))
            if not self._search.over:
                error.add_note("address lookup has not ended yet")
        if isinstance(error, ConnectTimeout):
            tried = ", ".join(str(context.transport_addr(addr)) for addr in self._addrs)
            error.add_note(f"tried: {tried}")
            status = None if context.relay is None else context.relay.status
            if status is not None and status.last_error is not None:
                error.add_note(f"the home relay {status.url}: {status.last_error}")
        return error

    async def _admit(self, conn: Connection) -> None:
        await super()._admit(conn)
        if self._search is not None and not self._search.over:
            self._context.owner.spawn(_follow(self._context, conn._q, self._ways, self._search))

    def _told(self, error: Exception) -> None:
        events = self._context.events
        if events.wants(_events.DialFailed):
            events.emit(_events.DialFailed(self.remote_id, self._alpn, error))

    def __repr__(self) -> str:
        return f"<Connecting to {self._remote_id:short} alpn={self._alpn!r}>"


async def _follow(context: Context, q: QuicConnection, ways: Ways, search: Search) -> None:
    """What a lookup finds for a connection that came about before are further ways for it."""
    while q.close_reason is None:
        if fresh := ways.take(search.found):
            for way in fresh:
                context.remotes.learn(q, [way], ways.sources.get(way, "lookup"))
        if search.over:
            return
        await search.news.wait()


class Accepting(Handshaking):
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
        return attempt_error(
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
