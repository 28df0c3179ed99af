"""Connection attempts of others, before and until they are accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Any

from ._check import kind_of
from ._context import Context
from .addr import TransportAddr
from .aio._waiters import Handoff
from .aio.once import Room
from .aio.owner import get_ident
from .config import ServerConfig
from .connection import Connection
from .errors import ConnectionLost, EndpointClosed, IrohError
from .handshake import Accepting
from .quic._admission import QuicIncoming

__all__ = ["Connections", "DecryptedInitial", "Incoming", "IncomingAttempts"]

log = logging.getLogger("iroh_fast.endpoint")

MAX_HANDSHAKES = 1024  # attempts of one endpoint that are being answered at the same time


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
        TypeError : `config` is no ServerConfig; the attempt can still be answered.
        """
        if config is not None and not isinstance(config, ServerConfig):
            raise TypeError(f"config is a ServerConfig or None, not {kind_of(config)}")
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


class IncomingAttempts:
    """Iterator of :meth:`Endpoint.incoming`; ends when the endpoint closes."""

    __slots__ = ("_accept",)

    def __init__(self, accept: Callable[[], Awaitable[Incoming | None]]) -> None:
        self._accept = accept

    def __aiter__(self) -> IncomingAttempts:
        return self

    async def __anext__(self) -> Incoming:
        incoming = await self._accept()
        if incoming is None:
            raise StopAsyncIteration
        return incoming


class Connections:
    """Iterator of :meth:`Endpoint.connections`; letting go of it stops accepting."""

    __slots__ = ("_crew",)

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def __del__(self) -> None:
        try:
            self._crew.context.owner.defer(self._crew.stop)
        except AttributeError:  # the constructor failed
            pass

    def __aiter__(self) -> Connections:
        return self

    async def __anext__(self) -> Connection:
        conn = await self._crew.next()
        if conn is None:
            raise StopAsyncIteration
        return conn


class Crew:
    """Accepts attempts and carries out their handshakes, a bounded number at a time."""

    __slots__ = ("_accept", "_acceptor", "_busy", "_ready", "_room", "context")

    def __init__(
        self,
        accept: Callable[[], Awaitable[Incoming | None]],
        context: Context,
        max_pending: int,
    ) -> None:
        self.context = context
        self._accept = accept
        self._acceptor: asyncio.Task[None] | None = None
        self._busy: set[asyncio.Task[None]] = set()
        self._ready: Handoff[Connection] = Handoff()
        self._room = Room(max_pending)

    async def next(self) -> Connection | None:
        """The next connection; None when there will be none any more."""
        self.context.owner.check_loop()
        if self._acceptor is None:
            self._acceptor = self.context.owner.loop.create_task(self._work())
        while (conn := self._ready.take()) is None:
            if self._acceptor.done() and not self._busy:
                return None
            if (conn := await self._ready.wait()) is not None:
                break
        self._room.leave()
        conn._warn = True
        return conn

    async def _work(self) -> None:
        loop = self.context.owner.loop
        try:
            while (incoming := await self._accept()) is not None:
                await self._room.take()
                task = loop.create_task(self._shake_hands(incoming))
                del incoming
                self._busy.add(task)
                task.add_done_callback(self._over)
        finally:
            # Soon, when this task is done and seen to be.
            loop.call_soon(self._ready.wake_all)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._busy.discard(task)
        if not self._busy and self._acceptor is not None and self._acceptor.done():
            self._ready.wake_all()

    async def _shake_hands(self, incoming: Incoming) -> None:
        conn = None
        try:
            accepting = incoming.accept()
            del incoming
            conn = await accepting
        except EndpointClosed:
            pass
        except ConnectionLost as error:  # a garbage packet, or it ended while a hook was thinking
            log.debug("%s: ignoring an attempt: %s", f"{self.context.id:short}", error)
        except IrohError:  # told already
            pass
        except Exception:
            log.exception(
                "%s: a hook failed; the connection from %s is closed",
                f"{self.context.id:short}",
                accepting.remote_addr,
            )
        finally:
            if conn is None:
                self._room.leave()
        if conn is not None:
            conn._warn = False  # nobody has it yet
            self._ready.put(conn)

    def stop(self) -> None:
        """End everything; connections that nobody took are closed."""
        if self._acceptor is not None:
            self._acceptor.cancel()
        for task in self._busy:
            task.cancel()
        while self._ready.take() is not None:
            pass
