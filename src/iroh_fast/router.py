"""Router: accept connections and hand them to protocol handlers by ALPN."""

from __future__ import annotations

import asyncio
import enum
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from .config import check_alpns
from .connection import Connection
from .endpoint import Endpoint
from .errors import ConnectError, ConnectionLost, IrohError, NotAllowed
from .handshake import Accepting
from .incoming import Incoming

__all__ = ["IncomingFilter", "IncomingOutcome", "ProtocolHandler", "Router"]

log = logging.getLogger(__name__)


@runtime_checkable
class ProtocolHandler(Protocol):
    """What a router calls for connections of one ALPN.

    Two more methods are called when the handler has them:

    ``async def on_accepting(self, accepting) -> Connection | None``
        Instead of waiting for the handshake.  It may use 0-RTT; with None it has dealt with
        the connection itself.
    ``async def shutdown(self) -> None``
        When the router shuts down, before running handlers are cancelled.
    """

    async def accept(self, conn: Connection, /) -> None:
        """Serve a connection, in a task of its own.

        When it returns, the connection is closed with code 0 unless somebody still holds
        it: wait for the peer's close to be sure that it got everything.  An exception is
        logged and given to the router's `on_error`.
        """


class IncomingOutcome(enum.Enum):
    """What a filter decides about a connection attempt, before any handshake."""

    ACCEPT = "accept"
    RETRY = "retry"
    """Ask the client to prove its address; one that did already is refused."""
    REJECT = "reject"
    IGNORE = "ignore"


Handler: TypeAlias = "ProtocolHandler | Callable[[Connection], Awaitable[None]]"
IncomingFilter: TypeAlias = Callable[[Incoming], IncomingOutcome]
ErrorCallback: TypeAlias = Callable[[BaseException], None]


class Router:
    """Accepts the connections of an endpoint.

    Parameters
    ----------
    endpoint : its ALPNs are replaced by those of `protocols` when the router starts.
    protocols : handler per ALPN: a :class:`ProtocolHandler` or an async function that takes
        the connection.
    incoming_filter : called for every attempt before any cryptography.
    on_error : called with each exception of a handler, after it was logged.

    ``async with Router(ep, {...}):`` starts it, and shuts it down together with the endpoint
    at the end of the block; or use :meth:`start` and :meth:`shutdown`.  A started router
    serves until then, also when nobody holds it.
    """

    __slots__ = (
        "__weakref__",
        "_endpoint",
        "_filter",
        "_loop_task",
        "_on_error",
        "_protocols",
        "_shutdown",
        "_tasks",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        protocols: Mapping[bytes, Handler] | None = None,
        *,
        incoming_filter: IncomingFilter | None = None,
        on_error: ErrorCallback | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._protocols: dict[bytes, Handler] = {}
        self._filter = incoming_filter
        self._on_error = on_error
        self._loop_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._shutdown: asyncio.Task[None] | None = None
        for alpn, handler in (protocols or {}).items():
            self.accept(alpn, handler)

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint it serves."""
        return self._endpoint

    @property
    def is_shutdown(self) -> bool:
        """True once :meth:`shutdown` was called or the endpoint closed."""
        return self._shutdown is not None or self._endpoint.closed

    def accept(self, alpn: bytes, handler: Handler, /) -> Router:
        """Add a protocol, or replace its handler; allowed at any time.  Returns self."""
        (alpn,) = check_alpns([alpn])
        if not callable(handler) and not callable(getattr(handler, "accept", None)):
            raise TypeError(f"a handler is a function or has a method accept, not {handler!r}")
        self._protocols[alpn] = handler
        if self._loop_task is not None:
            self._endpoint.set_alpns(self._protocols)
        return self

    def start(self) -> Router:
        """Begin to accept connections.  Returns self."""
        if self._loop_task is not None:
            raise RuntimeError("the router was started already")
        self._endpoint.set_alpns(self._protocols)
        self._loop_task = asyncio.get_running_loop().create_task(self._accept_loop())
        return self

    async def _accept_loop(self) -> None:
        loop = asyncio.get_running_loop()
        async for incoming in self._endpoint.incoming():
            try:
                accepting = self._screen(incoming)
            except IrohError as error:  # a garbage packet
                log.debug("ignoring a connection attempt: %s", error)
                continue
            except Exception as error:
                log.exception("the incoming filter failed; refusing %r", incoming)
                if not incoming.is_answered:
                    incoming.refuse()
                self._report(error)
                continue
            if accepting is not None:
                task = loop.create_task(self._serve(accepting))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _screen(self, incoming: Incoming) -> Accepting | None:
        outcome = IncomingOutcome.ACCEPT
        if self._filter is not None:
            outcome = self._filter(incoming)
        if outcome is IncomingOutcome.ACCEPT:
            return incoming.accept()
        if outcome is IncomingOutcome.IGNORE:
            incoming.ignore()
        elif outcome is IncomingOutcome.RETRY and not incoming.remote_addr_validated:
            incoming.retry()
        else:
            incoming.refuse()
        return None

    async def _serve(self, accepting: Accepting) -> None:
        where = accepting.remote_addr
        try:
            alpn = await accepting.alpn()
            handler = self._protocols.get(alpn)
            if handler is None:
                log.warning("no handler for ALPN %r of %s", alpn, where)
                return
            early = getattr(handler, "on_accepting", None)
            conn = await (accepting if early is None else early(accepting))
            del accepting
            if conn is None:
                return
            conn._warn = False  # letting go of it is how a handler ends
            serve: Callable[[Connection], Awaitable[None]]
            serve = getattr(handler, "accept", None) or cast("Any", handler)
            # The handler gets the only reference, so that it can let go of the connection.
            holder = [conn]
            del conn
            await serve(holder.pop())
        except ConnectError as error:
            log.warning("%s", error)
        except (ConnectionLost, NotAllowed) as error:
            log.info("connection from %s: %s", where, error)
            self._report(error)
            traceback.clear_frames(error.__traceback__)
        except Exception as error:
            log.exception("the handler of a connection from %s failed", where)
            self._report(error)
            # Whoever keeps the error must not keep the connection open with it.
            traceback.clear_frames(error.__traceback__)

    def _report(self, error: BaseException) -> None:
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception:
                log.exception("on_error failed")

    async def shutdown(self) -> None:
        """Stop accepting, call all ``shutdown`` methods, cancel handlers, close the endpoint.

        A second call waits for the first.  As with :meth:`Endpoint.close`, cancelling the
        caller does not interrupt it.
        """
        if self._shutdown is None:
            self._shutdown = asyncio.get_running_loop().create_task(self._run_shutdown())
        cancelled: asyncio.CancelledError | None = None
        while not self._shutdown.done():
            try:
                await asyncio.shield(self._shutdown)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        if not self._shutdown.cancelled():
            self._shutdown.result()

    async def _run_shutdown(self) -> None:
        try:
            if self._loop_task is not None:
                self._loop_task.cancel()
                await asyncio.wait({self._loop_task})
            hooks = []
            for handler in {id(handler): handler for handler in self._protocols.values()}.values():
                if (hook := getattr(handler, "shutdown", None)) is not None:
                    hooks.append(hook())
            for result in await asyncio.gather(*hooks, return_exceptions=True):
                if isinstance(result, BaseException):
                    log.error("shutdown of a handler failed", exc_info=result)
                    self._report(result)
            tasks = set(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await self._endpoint.close()

    async def __aenter__(self) -> Router:
        return self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._protocols))
        state = "shut down" if self.is_shutdown else "running" if self._loop_task else "not started"
        return f"<Router {self._endpoint.id:short} [{names}] {state}>"
