"""Endpoints: the local end of all connections."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from . import presets
from ._bind_options import BindOptions, takes_options
from ._check import Buffer, check_alpns, check_bytes, check_flag, check_integer
from ._endpoint_network import EndpointNetwork
from ._later import Later
from ._option_checks import check_transport
from .addr import EndpointAddr
from .aio.pending import Pending
from .config import (
    MAX_PENDING,
    EndpointConfig,
    Preset,
    QuicTransportConfig,
    ServerConfig,
)
from .errors import ConfigError
from .keys import EndpointId

# The protocol itself, most of this package, loads when an endpoint is bound.
if TYPE_CHECKING:
    from . import _assembly, _dial, _ending
    from . import connection as _connection
    from . import events as _events
    from . import handshake as _handshake
    from . import incoming as _incoming
    from . import metrics as _metrics
    from . import ticket as _ticket
    from .aio import once as _once
    from .net import socket as _socket
else:
    _assembly = Later("iroh_fast._assembly")
    _dial = Later("iroh_fast._dial")
    _ending = Later("iroh_fast._ending")
    _connection = Later("iroh_fast.connection")
    _events = Later("iroh_fast.events")
    _handshake = Later("iroh_fast.handshake")
    _incoming = Later("iroh_fast.incoming")
    _metrics = Later("iroh_fast.metrics")
    _ticket = Later("iroh_fast.ticket")
    _once = Later("iroh_fast.aio.once")
    _socket = Later("iroh_fast.net.socket")

__all__ = ["BindOptions", "Endpoint"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Endpoint(EndpointNetwork):
    """The local end of connections: one key, some sockets.

    Made by :meth:`bind`.  Call :meth:`close` at the end, or use ``async with``: an endpoint
    that just goes away cannot tell its peers.  It belongs to the event loop in which it was
    made.  Leaving the block without an exception first waits, as long as the option `linger`
    says, until the streams that were finished are acknowledged; leaving it by an exception
    closes the connections at once, with code 1.
    """

    __slots__ = (
        "__weakref__",
        "_close_task",
        "_closed",
        "_driver",
        "_told_no_alpns",
    )

    _close_task: asyncio.Task[None] | None
    _closed: _once.Once
    _driver: _socket.Driver
    _told_no_alpns: bool

    def __init__(self) -> None:
        raise TypeError("use Endpoint.bind()")

    @classmethod
    @takes_options(BindOptions)
    def bind(cls, preset: Preset = presets.n0, **options: Any) -> Pending[Endpoint]:
        """Open sockets and make an endpoint.

        ``ep = await Endpoint.bind(...)`` or ``async with Endpoint.bind(...) as ep``.

        Parameters
        ----------
        preset : defaults to start from: number 0's relays and address lookup, as in iroh.
            With :func:`presets.minimal` nobody is asked and nothing is published.
        **options : fields of :class:`~iroh_fast.config.EndpointConfig`.

        Raises
        ------
        TypeError : there is no option of that name.
        ConfigError : an option is wrong or not available; raised by the call itself.
        BindError : a required address cannot be bound; ``errno`` says why.
        """
        config = EndpointConfig()
        config.apply(preset)
        config.update(options)
        config.check()
        return Pending(cls._bind(config))

    @classmethod
    async def _bind(cls, config: EndpointConfig) -> Endpoint:
        inside = await _assembly.assemble(config)
        self = cls.__new__(cls)
        self._inside = inside
        self._context = inside.context
        self._driver = inside.context.driver
        self._closed = _once.Once()
        self._close_task = None
        self._told_no_alpns = False
        self._owner = inside.owner  # last: from now on there is something to close
        return self

    def __del__(self) -> None:
        try:
            if self._close_task is not None or not self._owner.thread:
                return
            self._owner.defer(self._driver.stop)
            self._owner.defer(self._inside.services.stop)
            warnings.warn(
                f"unclosed {self!r}; use async with, or await close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        except AttributeError:  # never bound
            pass

    # --- dialling

    def connect(
        self,
        addr: EndpointAddr | EndpointId | _ticket.EndpointTicket | str,
        alpn: Buffer,
        /,
        *,
        require_direct: bool = False,
        relay_only: bool = False,
    ) -> Pending[_connection.Connection]:
        """Dial an endpoint and wait for the handshake.

        ``conn = await ep.connect(...)`` or ``async with ep.connect(...) as conn``.

        Parameters
        ----------
        addr : whom to dial and where; text is a ticket or an id, white space in it does no
            harm.  Of many IP addresses some are chosen at random.  Address lookup, where there
            is any, looks for further ones at the same time: an id alone is enough then.
        alpn : name of the protocol, 1 to 255 bytes.
        require_direct : give a connection only once its data goes over a direct path: after at most
            10 seconds, or it raises NotDirect and closes it.  Should that path fail later, a relay
            takes over all the same; :meth:`Connection.watch_paths` tells.
        relay_only : dial relays alone, and let the connection have no direct path: the peer does
            not get to know the IP addresses of this side.

        Raises
        ------
        TypeError, TicketError, KeyParsingError, ConfigError
            An argument is of the wrong kind, text that cannot be read, or they do not go together:
            by the call itself.
        EndpointClosed, LocallyRejected, SelfConnect, InvalidAlpn, NoAddress
            Found before anything is sent, in this order.
        AlpnMismatch, WrongIdentity, ConnectionRefused, ConnectTimeout, HandshakeFailed,
        NotDirect, ConnectError
            The attempt failed; ``__cause__`` is the error of the connection.

        Notes
        -----
        Cancel-safe: cancelling drops the attempt.  Without any address this waits until a lookup
        finds one, or all have failed: 10 seconds with those of iroh_fast, if no server answers.
        """
        target, alpn = _ticket.to_endpoint_addr(addr), check_bytes("alpn", alpn)
        check_flag("require_direct", require_direct)
        self._check_relay_only(relay_only)
        if require_direct and relay_only:
            raise ConfigError("require_direct and relay_only contradict each other")
        return Pending(self._connect(target, alpn, require_direct, relay_only))

    def _check_relay_only(self, relay_only: bool) -> None:
        if check_flag("relay_only", relay_only) and self._context.relay is None:
            raise ConfigError("relay_only needs relays; give bind() relays=[url, ...]")

    async def _connect(
        self, target: EndpointAddr, alpn: bytes, require_direct: bool, relay_only: bool
    ) -> _connection.Connection:
        self._owner.check_loop()
        return await _dial.connect(
            self._context, target, alpn, require_direct=require_direct, relay_only=relay_only
        )

    async def connect_with(
        self,
        addr: EndpointAddr | EndpointId | _ticket.EndpointTicket | str,
        alpn: Buffer,
        /,
        *,
        transport: QuicTransportConfig | None = None,
        extra_alpns: Iterable[bytes] = (),
        relay_only: bool = False,
    ) -> _handshake.Connecting:
        """Start dialling with options of this connection.

        Parameters
        ----------
        transport : QUIC parameters instead of the endpoint's.
        extra_alpns : more protocols to offer; the server picks by its own order.
        relay_only : as of :meth:`connect`.

        Returns
        -------
        Connecting
            Await it for the connection, or use it for 0-RTT.  Raises as :meth:`connect`.
        """
        if transport is not None:
            check_transport("transport", transport)
        extra = check_alpns(extra_alpns, "extra_alpns")
        self._check_relay_only(relay_only)
        target, alpn = _ticket.to_endpoint_addr(addr), check_bytes("alpn", alpn)
        self._owner.check_loop()
        return await _dial.dial(
            self._context, target, alpn, transport, extra, relay_only=relay_only
        )

    # --- accepting

    async def accept(self) -> _incoming.Incoming | None:
        """Wait for the next connection attempt; None once the endpoint is closed.

        Without protocols to accept, from ``bind(alpns=[...])`` or :meth:`set_alpns`, nobody
        gets in: that is logged as a warning, once.  Cancel-safe.
        """
        self._owner.check_loop()
        driver = self._driver
        context = self._context
        while not context.closing:
            if not context.alpns:
                self._tell_no_alpns()
                await self._inside.alpns.wait()
                continue
            if (attempt := await driver.wait_incoming()) is not None:
                return _incoming.Incoming(attempt, context)
        return None

    def _tell_no_alpns(self) -> None:
        if not self._told_no_alpns:
            self._told_no_alpns = True
            log.warning(
                "%s: waiting for connections, but no protocol is accepted: "
                "give bind() alpns=[...], or call set_alpns()",
                f"{self.id:short}",
            )

    def connections(self, *, max_pending: int = MAX_PENDING) -> _incoming.Connections:
        """Iterate over connections whose handshake is complete, until the endpoint closes.

        Handshakes run beside each other and beside the loop's body, so that no client
        holds up another.  One that fails is logged and counted
        (``socket:num_accepts_failed``), and does not end the loop.

        Parameters
        ----------
        max_pending : handshakes under way and connections not yet taken, together; more
            attempts wait.
        """
        self._owner.check_loop()
        check_integer("max_pending", max_pending, 1, 2**20)
        return _incoming.Connections(_incoming.Crew(self.accept, self._context, max_pending))

    def incoming(self) -> _incoming.IncomingAttempts:
        """Iterate over connection attempts until the endpoint closes.

        For those who decide about each attempt; :meth:`connections` does the rest by itself.
        """
        return _incoming.IncomingAttempts(self.accept)

    @property
    def alpns(self) -> tuple[bytes, ...]:
        """Protocols accepted now."""
        return self._context.alpns

    def set_alpns(self, alpns: Iterable[bytes], /) -> None:
        """Replace the protocols to accept; open connections are not affected."""
        self._owner.check_loop()
        if self._context.closing:
            log.warning("%s: set_alpns on a closed endpoint is ignored", f"{self.id:short}")
            return
        self._context.alpns = check_alpns(alpns)
        self._told_no_alpns = True  # whoever calls this knows of them
        self._driver.accepting = bool(self._context.alpns)
        self._inside.alpns.set(self._context.alpns)

    def server_config(
        self, alpns: Iterable[bytes] | None = None, *, transport: QuicTransportConfig | None = None
    ) -> ServerConfig:
        """Make settings for :meth:`Incoming.accept`; what is left out is the endpoint's."""
        context = self._context
        return ServerConfig(
            alpns=context.alpns if alpns is None else check_alpns(alpns),
            transport=context.transport if transport is None else transport,
        )

    # --- state

    def events(self) -> _events.EndpointEvents:
        """Iterate over what happens from now on, until the endpoint is closed.

        The objects of :mod:`iroh_fast.events`: attempts and their failures, connections
        opened and closed, changes of paths, relay and own addresses; the same that is
        logged.  A consumer that is 256 events late misses some, and gets an
        :class:`~iroh_fast.events.EventsLagged`.
        """
        self._owner.check_loop()
        return self._context.events.consumer()

    @property
    def metrics(self) -> _metrics.EndpointMetrics:
        """Counters of this endpoint."""
        return self._context.metrics

    @property
    def closed(self) -> bool:
        """True once :meth:`close` was called."""
        return self._context.closing

    async def wait_closed(self) -> None:
        """Wait until :meth:`close` has finished.  Cancel-safe."""
        self._owner.check_loop()
        await self._closed.wait()

    async def run_until(self, work: Awaitable[T], /) -> T | None:
        """Await `work`, but cancel it when the endpoint closes; then the result is None."""
        self._owner.check_loop()
        task = asyncio.ensure_future(work)
        closed = self._owner.loop.create_task(self._closed.wait())
        try:
            await asyncio.wait({task, closed}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            return None
        finally:
            closed.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def close(self) -> None:
        """Close all connections and the sockets.

        Peers are told, and given about three seconds to confirm.  Afterwards
        :meth:`accept` gives None and :meth:`connect` raises EndpointClosed.  A second call
        waits for the first.

        Notes
        -----
        Cancelling a task in here does not stop the closing: the CancelledError is raised
        when it is done.
        """
        await self._end(0)

    async def _end(self, code: int) -> None:
        self._owner.check_loop()
        task = self._close_task
        if task is None:
            self._context.closing = True
            self._context.ending.set()
            task = self._close_task = self._owner.loop.create_task(
                _ending.end(self._inside, code, self._closed)
            )
        await _once.see_through(task)

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        clean = False
        try:
            if kind is None:
                await _ending.delivered(
                    self._driver, self._context.linger, f"{self.id:short}"
                )
                clean = True
        finally:
            await self._end(0 if clean else _connection.ABORTED)

    def __repr__(self) -> str:
        live = len(self._context.live())
        state = "closed" if self.closed else f"open, {live} connections"
        # Nothing that loads a module: finalizers show it while the interpreter ends.
        sockets = ", ".join(map(str, self.bound_sockets)) or "no IP address"
        return f"<Endpoint {self.id:short} {sockets} {state}>"
