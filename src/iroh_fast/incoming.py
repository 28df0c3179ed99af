"""Connection attempts of others, before and until they are accepted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .aio.owner import get_ident
from .errors import IrohError
from .handshake import Accepting

if TYPE_CHECKING:
    from .addr import TransportAddr
    from .config import ServerConfig
    from .connection import Connection
    from .handshake import Context
    from .quic._admission import QuicIncoming

__all__ = ["DecryptedInitial", "Incoming", "IncomingAttempts"]

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
