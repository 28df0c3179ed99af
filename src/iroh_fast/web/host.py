"""What listens for a server: sockets, their connections, and the work that has to go on."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..aio.once import Once
from .http import Handler, HttpProtocol, Turns
from .limits import Admission, AdmissionLimits
from .listen import Address, Listener, ListenerSettings, is_loopback, open_socket

__all__ = ["ConnectionCounters", "HttpHost", "url_of"]


def url_of(scheme: str, address: Address, name: str | None = None) -> str:
    """How programs of this machine reach a listener, or others by its `name`."""
    host, port = address
    if name is not None:
        host = name
    elif host in ("::", "0.0.0.0"):
        host = "localhost" if scheme == "https" else "127.0.0.1"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"


@dataclass(slots=True)
class ConnectionCounters:
    """What is counted of the connections to the main listeners."""

    http_connections: int = 0
    http_connections_closed: int = 0
    http_connections_errored: int = 0
    connections_refused: int = 0


class HttpHost:
    """The listeners of a server, for an event loop that runs.

    Parameters
    ----------
    limits : AdmissionLimits
        For the connections of all listeners.
    logger : logging.Logger
        Of the server.
    on_failure : callable
        Called when some work of `run` has failed; :attr:`failure` tells how.

    Attributes
    ----------
    addresses : dict
        Bound addresses by the name of the listener.
    """

    def __init__(
        self, limits: AdmissionLimits, logger: logging.Logger, on_failure: Callable[[], object]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns = Turns(self.loop)
        self.admission = Admission(limits, self.loop.time)
        self.counters = ConnectionCounters()
        self.addresses: dict[str, Address] = {}
        self.protocols: set[HttpProtocol] = set()
        self.failure: BaseException | None = None
        self._logger = logger
        self._on_failure = on_failure
        self._listeners: list[Listener] = []
        self._one_ended = Once()
        self._tasks: list[asyncio.Task[None]] = []

    def listen(
        self,
        name: str,
        address: Address,
        settings: ListenerSettings,
        *,
        elsewhere: bool = False,
        prepare: Callable[[socket.socket], object] | None = None,
    ) -> None:
        """Bind a listener and accept; BindError if that cannot be.

        Parameters
        ----------
        elsewhere : bool
            Take a free port when that one is in use.
        prepare : callable, optional
            Sets options of the socket.
        """
        sock = open_socket(name, address, elsewhere=elsewhere, backlog=settings.backlog)
        if prepare is not None:
            prepare(sock)
        listener = Listener(
            sock,
            settings,
            turns=self.turns,
            admission=self.admission,
            on_refused=self._refused,
            on_begin=self._began,
            on_end=self._ended,
        )
        self._listeners.append(listener)
        self.addresses[name] = listener.address
        self._logger.info("%s on %s port %d", name, *listener.address)
        self.run(listener.run)

    def listen_metrics(
        self,
        address: Address,
        handler: Handler,
        *,
        elsewhere: bool = False,
        prepare: Callable[[socket.socket], object] | None = None,
    ) -> None:
        """Bind the listener ``metrics``, and warn where everyone may read them."""
        settings = ListenerSettings(handler=handler)
        self.listen("metrics", address, settings, elsewhere=elsewhere, prepare=prepare)
        if not is_loopback(address[0]):
            where = self.addresses["metrics"]
            self._logger.warning("metrics are open to everyone who reaches %s", where)

    def run(self, work: Callable[[], Awaitable[object]]) -> None:
        """Run a part without which the server cannot go on."""

        async def guarded() -> None:
            try:
                await work()
            except asyncio.CancelledError:
                raise
            except BaseException as err:
                self._logger.exception("a service failed, stopping")
                self.failure = err
                self._on_failure()

        self._tasks.append(asyncio.ensure_future(guarded()))

    def prove(self, protocol: HttpProtocol) -> None:
        """A connection counts among those that are good for something."""
        if not protocol.proven:
            protocol.proven = True
            self.admission.prove(protocol.peer)

    # --- connections

    def _refused(self) -> None:
        self.counters.connections_refused += 1

    def _began(self, protocol: HttpProtocol) -> None:
        self.protocols.add(protocol)
        if protocol.main:
            self.counters.http_connections += 1

    def _ended(self, protocol: HttpProtocol, well: bool) -> None:
        self.protocols.discard(protocol)
        self._one_ended.set()
        if protocol.main:
            if well:
                self.counters.http_connections_closed += 1
            else:
                self.counters.http_connections_errored += 1
        if not protocol.upgraded:  # whom it was given to lets it leave
            self.admission.leave(protocol.peer, proven=protocol.proven)

    # --- the end

    def stop_accepting(self) -> None:
        """End what `run` runs, and the listeners."""
        for task in self._tasks:
            task.cancel()
        for listener in self._listeners:
            listener.close()

    async def finish(self, patience: float) -> None:
        """Let answers that are being made go out, for so many seconds; idle connections end."""
        for protocol in list(self.protocols):
            protocol.finish()
        try:
            async with asyncio.timeout(patience):
                while self.protocols:
                    self._one_ended = Once()
                    await self._one_ended
        except TimeoutError:
            pass

    def abort(self) -> None:
        """End all connections at once."""
        for protocol in list(self.protocols):
            protocol.abort()

    async def wait_closed(self) -> None:
        """Wait for the end of what `stop_accepting` ended."""
        for listener in self._listeners:
            await listener.wait_closed()
        await asyncio.gather(*self._tasks, return_exceptions=True)
