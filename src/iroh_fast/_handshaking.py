"""What happens between the first packet and a connection, on both sides."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

from ._context import Context
from .aio._core_events import wait
from .aio.unless import Unless
from .connection import Connection
from .errors import EndpointClosed, IrohError, LocallyRejected
from .hooks import run_after_handshake
from .keys import EndpointId
from .quic._connection import WAIT_ALPN, WAIT_CLOSED, WAIT_HANDSHAKE, QuicConnection

__all__ = ["Handshaking"]

HOOK_FAILED = 1  # the code a connection is closed with when a hook raised or was cancelled


def _closed_here(q: QuicConnection) -> bool:
    return q.close_reason is not None and q.close_reason.kind == "locally_closed"


class Handshaking:
    """Common part of dialling and accepting."""

    __slots__ = ("__weakref__", "_addrs", "_context", "_failed", "_q", "_remote_id", "_sources")

    def __init__(self, q: QuicConnection, context: Context, remote_id: EndpointId | None) -> None:
        self._q: QuicConnection | None = q
        self._context = context
        self._remote_id = remote_id
        self._addrs: list[tuple[Any, ...]] = []  # where the peer was dialled
        self._sources: Mapping[tuple[Any, ...], str] | None = None  # who told of those
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
            reject = None
            try:
                # A hook that closes the connection goes on to its end.
                async with Unless(
                    wait(q, WAIT_CLOSED), lambda: context.closing or not _closed_here(q)
                ):
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
        if conn._paths is None:
            conn._q.record_paths(False)  # until somebody asks for events
        context.opened(conn._q)
        context.remotes.attach(
            conn._q, self._addrs, told=self._sources, relay_only=conn._q in context.relayed
        )
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
                q, context.owner, context, self._remote_id, context.linger
            )
            conn.remote_id  # noqa: B018 - read once now, so that it is there for ever
            await self._admit(conn)
        except BaseException:
            q.abandon_handle()
            raise
        return conn

    def __await__(self) -> Generator[Any, Any, Connection]:
        return self._establish().__await__()
