"""Router: accept connections and hand them to protocol handlers by ALPN."""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
import traceback
import weakref
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar, copy_context
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from .aio.once import Room, see_through
from .config import check_alpns
from .connection import ABORTED, Connection
from .endpoint import Endpoint
from .errors import ConnectionLost, EndpointClosed, IrohError, NotAllowed
from .handshake import Accepting
from .incoming import MAX_HANDSHAKES, Incoming
from .keys import PublicKey
from .quic._connection import QuicConnection

__all__ = ["IncomingFilter", "IncomingOutcome", "ProtocolHandler", "Router"]

log = logging.getLogger(__name__)

HANDLER_FAILED = 1  # the code a connection is closed with whose handler raised
NOT_ALLOWED = 2  # the same for NotAllowed


@runtime_checkable
class ProtocolHandler(Protocol):
    """What a router calls for connections of one ALPN.

    Two more methods are called when the handler has them:

    ``async def on_accepting(self, accepting) -> Connection | None``
        Instead of waiting for the handshake.  It may use 0-RTT; with None it has dealt with
        the connection itself.
    ``async def shutdown(self) -> None``
        When the router shuts down, before running handlers are cancelled.  A plain method
        is fine too.
    """

    async def accept(self, conn: Connection, /) -> None:
        """Serve a connection, in a task of its own.

        When it returns, the connection is closed with code 0 unless somebody still holds
        it, once the peer has acknowledged the streams that were finished.  Wait for the
        peer's close to be sure that its application got everything.  An exception closes
        the connection with code 1 (NotAllowed: 2), is logged and given to the router's
        `on_error`.
        """


class IncomingOutcome(enum.Enum):
    """What a filter decides about a connection attempt, before any handshake."""

    ACCEPT = "accept"
    RETRY = "retry"
    """Ask the client to prove its address; one that did already is refused."""
    REJECT = "reject"
    IGNORE = "ignore"


Handler: TypeAlias = ProtocolHandler | Callable[[Connection], Awaitable[None]]
IncomingFilter: TypeAlias = Callable[[Incoming], IncomingOutcome | Awaitable[IncomingOutcome]]
ErrorCallback: TypeAlias = Callable[[BaseException], None]


# Endpoints with a router, which ends with its endpoint: two would take attempts from each other.
_served: weakref.WeakSet[Endpoint] = weakref.WeakSet()


class Router:
    """Accepts the connections of an endpoint.

    Parameters
    ----------
    endpoint : its ALPNs are replaced by those of `protocols` when the router starts.
    protocols : handler per ALPN: a :class:`ProtocolHandler` or an async function that takes
        the connection.
    incoming_filter : called for every attempt before any cryptography; a function, async or
        not, that returns an :class:`IncomingOutcome`.
    on_error : called with each exception of a handler or filter, after it was logged.

    Raises
    ------
    TypeError : an argument is of the wrong kind.
    ConfigError : a protocol name is not one.

    ``async with Router(ep, {...}):`` starts it, and shuts it down together with the endpoint
    at the end of the block; or use :meth:`start` and :meth:`shutdown`.  A started router
    serves until then, also when nobody holds it.
    """

    __slots__ = (
        "__weakref__",
        "_cancelling",
        "_endpoint",
        "_filter",
        "_loop_task",
        "_on_error",
        "_protocols",
        "_room",
        "_shutdown",
        "_stoppers",
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
        if not isinstance(endpoint, Endpoint):
            raise TypeError(
                f"endpoint is an Endpoint, not {endpoint!r:.80}: await Endpoint.bind() first"
            )
        if protocols is not None and not isinstance(protocols, Mapping):
            raise TypeError(f"protocols maps each ALPN to its handler, not {protocols!r:.80}")
        for name, value in (("incoming_filter", incoming_filter), ("on_error", on_error)):
            if value is not None and (not callable(value) or isinstance(value, type)):
                raise TypeError(f"{name} is a function, not {value!r:.80}")
        if on_error is not None and _is_async(on_error):
            raise TypeError(f"on_error is a plain function, not the async {on_error!r}")
        self._endpoint = endpoint
        self._protocols: dict[bytes, Handler] = {}
        self._filter = incoming_filter
        self._on_error = on_error
        self._loop_task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stoppers: set[asyncio.Task[Any]] = set()  # handlers that called shutdown()
        self._cancelling = False
        self._shutdown: asyncio.Task[None] | None = None
        self._room: Room | None = None  # for attempts not yet given to a handler
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
        """Add a protocol, or replace its handler; allowed at any time.  Returns self.

        Raises
        ------
        TypeError : `handler` is neither an async function nor an object with an async
            method ``accept``.
        ConfigError : `alpn` is not 1 to 255 bytes.
        """
        (alpn,) = check_alpns([alpn])
        _check_handler(alpn, handler)
        self._protocols[alpn] = handler
        if self._loop_task is not None:
            self._endpoint.set_alpns(self._protocols)
        return self

    def start(self) -> Router:
        """Begin to accept connections.  Returns self.

        Raises
        ------
        EndpointClosed, WrongThread
        RuntimeError : it was started already, or the endpoint has another router.
        """
        self._endpoint._owner.check_loop()
        if self._loop_task is not None:
            raise RuntimeError("the router was started already")
        if self.is_shutdown:
            raise EndpointClosed("the endpoint of this router is closed")
        if self._endpoint in _served:
            raise RuntimeError(
                "the endpoint has a router already, which can take more protocols: "
                "router.accept(alpn, handler)"
            )
        _served.add(self._endpoint)
        self._endpoint.set_alpns(self._protocols)
        self._room = Room(MAX_HANDSHAKES)
        self._loop_task = asyncio.get_running_loop().create_task(self._accept_loop(self._room))
        return self

    # --- one attempt

    async def _accept_loop(self, room: Room) -> None:
        loop = asyncio.get_running_loop()
        over, context = self._tasks.discard, copy_context()  # the same for all tasks
        async for incoming in self._endpoint.incoming():
            await room.take()
            task = loop.create_task(self._serve(incoming, room))
            self._tasks.add(task)
            task.add_done_callback(over, context=context)
            del incoming

    async def _serve(self, incoming: Incoming, room: Room) -> None:
        """Take an attempt through filter and handshake, and hand it to its handler.

        While the handler runs as little as possible is kept: most of a server's connections
        are quiet, and each object of theirs costs in every full collection.
        """
        try:
            accepting = await self._screen(incoming)
            del incoming
            if accepting is None:
                return
            taken = await self._shake_hands(accepting)
            del accepting
            if taken is None:
                return
        finally:
            room.leave()
        del room
        handler, holder = taken
        del taken
        q = holder[0]._q
        try:
            # The handler gets the only reference, so that it can let go of the connection.
            serving = _serving(handler)(holder.pop())
            del holder
            await serving
        except (ConnectionLost, NotAllowed) as error:
            log.info("%s: %s: %s", self._short, self._which(q), error)
            self._failed(error, q)
        except BaseException as error:
            if not (self._cancelling and isinstance(error, asyncio.CancelledError)):
                self._failed(error, q, f"the handler of {self._which(q)}")
            if _is_above_us(error):
                raise

    @property
    def _short(self) -> str:
        """What lines of the log begin with."""
        return f"{self._endpoint.id:short}"

    def _which(self, q: QuicConnection) -> str:
        """The number of a connection, who is at its other end, and where its first path led."""
        who = "?" if q.peer_id is None else f"{PublicKey._from_valid(q.peer_id):short}"
        remote = q.path_remote(0)
        if remote is not None:
            who = f"{who} at {self._endpoint._context.transport_addr(remote)}"
        return f"connection {q.stable_id} from {who}"

    async def _screen(self, incoming: Incoming) -> Accepting | None:
        """Ask the filter and answer the attempt accordingly."""
        try:
            outcome: object = IncomingOutcome.ACCEPT
            if self._filter is not None:
                outcome = self._filter(incoming)
                if inspect.isawaitable(outcome):
                    outcome = await outcome
                if not isinstance(outcome, IncomingOutcome):
                    raise TypeError(
                        f"the incoming_filter {self._filter!r} returned {outcome!r}, "
                        "which is not an IncomingOutcome"
                    )
            if incoming.is_answered:
                return None  # by the filter itself
            if outcome is IncomingOutcome.ACCEPT:
                return incoming.accept()
            if outcome is IncomingOutcome.IGNORE:
                incoming.ignore()
            elif outcome is IncomingOutcome.RETRY and not incoming.remote_addr_validated:
                incoming.retry()
            else:
                incoming.refuse()
        except IrohError as error:  # a garbage packet
            log.debug("ignoring a connection attempt: %s", error)
        except BaseException as error:
            if not incoming.is_answered:
                incoming.refuse()
            self._report(error, "the incoming filter")
            if _is_above_us(error):
                raise
        return None

    async def _shake_hands(self, accepting: Accepting) -> tuple[Handler, list[Connection]] | None:
        """Wait for the handshake; gives the handler, and the connection as the one in a list."""
        where = accepting.remote_addr
        q = accepting._peek()
        early = None
        try:
            alpn = await accepting.alpn()
            handler = self._protocols.get(alpn)
            if handler is None:
                log.warning("%s: no handler for ALPN %r of %s", self._short, alpn, where)
                return None
            early = getattr(handler, "on_accepting", None)
            found = accepting if early is None else early(accepting)
            conn: object = await found if inspect.isawaitable(found) else found
            if conn is None:
                return None
            if not isinstance(conn, Connection):
                raise TypeError(f"on_accepting gives a Connection or None, not {conn!r:.80}")
        except IrohError as error:
            if early is not None and not self._endpoint.closed:  # perhaps of what it does itself
                log.warning(
                    "%s: on_accepting for a connection from %s: %s", self._short, where, error
                )
                self._failed(error, q)
            return None
        except BaseException as error:
            self._failed(error, q, f"on_accepting for a connection from {where}")
            if _is_above_us(error):
                raise
            return None
        conn._warn = False  # letting go of it is how a handler ends
        return handler, [conn]

    def _failed(self, error: BaseException, q: QuicConnection, who: str = "") -> None:
        """A handler raised: its peer must not take that for success."""
        if isinstance(error, NotAllowed):
            q.close(NOT_ALLOWED, b"not allowed")
        else:
            q.close(HANDLER_FAILED, b"the handler failed")
        self._report(error, who)
        # Whoever keeps the error must not keep the connection open with it.
        traceback.clear_frames(error.__traceback__)

    def _report(self, error: BaseException, who: str = "") -> None:
        """Log what `who` raised, if that is news, and tell `on_error`."""
        if _is_above_us(error):
            return
        if who:
            log.error("%s: %s failed", self._short, who, exc_info=error)
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception:
                log.exception("%s: on_error failed", self._short)

    # --- the end

    async def shutdown(self) -> None:
        """Stop accepting, call all ``shutdown`` methods, cancel handlers, close the endpoint.

        A second call waits for the first.  As with :meth:`Endpoint.close`, cancelling the
        caller does not interrupt it.  A handler may call it: that one is not cancelled, and
        goes on when the endpoint is closed.
        """
        await self._end(0)

    async def _end(self, code: int) -> None:
        self._endpoint._owner.check_loop()
        if _ending.get() is self:
            return  # called by what it waits for
        caller = asyncio.current_task()
        assert caller is not None
        if self._shutdown is None:
            self._shutdown = asyncio.get_running_loop().create_task(self._run_shutdown(code))
        self._stoppers.add(caller)
        try:
            await see_through(self._shutdown, self._interrupted)
        finally:
            self._stoppers.discard(caller)

    def _interrupted(self) -> None:
        """Who waits for the shutdown was cancelled, perhaps by the shutdown itself."""
        if self._cancelling:
            raise asyncio.CancelledError

    async def _run_shutdown(self, code: int) -> None:
        _ending.set(self)
        try:
            if self._loop_task is not None:
                self._loop_task.cancel()
                await asyncio.wait({self._loop_task})
            handlers = {id(handler): handler for handler in self._protocols.values()}
            await asyncio.gather(*map(self._end_handler, handlers.values()))
            self._cancelling = True
            tasks = self._tasks - self._stoppers
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
        finally:
            await self._endpoint._end(code)

    async def _end_handler(self, handler: Handler) -> None:
        try:
            if (hook := getattr(handler, "shutdown", None)) is not None:
                result = hook()
                if inspect.isawaitable(result):
                    await result
        except BaseException as error:
            self._report(error, f"shutdown of the handler {handler!r}")
            if _is_above_us(error):
                raise

    async def __aenter__(self) -> Router:
        return self.start()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._end(0 if kind is None else ABORTED)

    def __repr__(self) -> str:
        names = ", ".join(map(repr, self._protocols))
        state = "shut down" if self.is_shutdown else "running" if self._loop_task else "not started"
        return f"<Router {self._endpoint.id:short} [{names}] {state}>"


_ending: ContextVar[Router | None] = ContextVar("_ending", default=None)  # shutdown() runs in it


def _is_above_us(error: BaseException) -> bool:
    """Whether an error is for the whole program, or for the task that it was raised in.

    A CancelledError is that only when the task was cancelled; otherwise it is what somebody got
    who awaited a cancelled task of his own.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, SystemExit))


def _is_async(function: object) -> bool:
    """Whether a call gives something to await, as far as can be seen without calling."""
    if inspect.iscoroutinefunction(function):
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - an instance's own
    return call is not None and inspect.iscoroutinefunction(call)


def _check_handler(alpn: bytes, handler: object) -> None:
    if isinstance(handler, type):
        raise TypeError(
            f"the handler of {alpn!r} is the class {handler.__name__}; give an instance of it"
        )
    accept = getattr(handler, "accept", handler)
    if not callable(accept):
        raise TypeError(
            f"the handler of {alpn!r} is an async function or has an async method accept, "
            f"not {handler!r:.80}"
        )
    if (inspect.isfunction(accept) or inspect.ismethod(accept)) and not _is_async(accept):
        raise TypeError(f"the handler of {alpn!r} must be async: write async def, not {accept!r:.80}")


def _serving(handler: Handler) -> Callable[[Connection], Awaitable[None]]:
    serve = getattr(handler, "accept", handler)
    return cast("Callable[[Connection], Awaitable[None]]", serve)
