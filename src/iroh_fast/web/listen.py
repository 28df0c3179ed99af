"""Listening sockets, and the way from an accepted one to an `HttpProtocol`."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ..aio.once import Once
from ..errors import BindError
from .http import HEAD_TIMEOUT_S, Handler, HttpProtocol, Turns
from .limits import Admission, Seldom

__all__ = [
    "Address",
    "Listener",
    "ListenerSettings",
    "is_loopback",
    "open_socket",
    "plain_ip",
]

logger = logging.getLogger("iroh_fast.web.listen")

Address = tuple[str, int]

TLS_TIMEOUT_S: Final = 10.0
HTTP_LIFE_S: Final = 30.0
BACKLOG: Final = 1024
PEEK_BYTES: Final = 4096
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_GONE: Final = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach that address."""
    return host == "::1" or host == "localhost" or host.startswith("127.")


def open_socket(
    name: str, address: Address, *, elsewhere: bool = False, backlog: int = BACKLOG
) -> socket.socket:
    """Open a listening TCP socket.

    Parameters
    ----------
    name : str
        For messages.
    address : tuple of (str, int)
        ``"::"`` takes IPv4 too; on a machine without IPv6 it stands for ``"0.0.0.0"``.
    elsewhere : bool
        Take a free port when that one is in use.
    backlog : int
        Connections that wait to be accepted.

    Raises
    ------
    BindError
        It names address and port.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as err:
        if host != "::" or err.errno != errno.EAFNOSUPPORT:
            raise BindError(f"cannot open a socket for {name}: {err}", errno=err.errno) from err
        host, family = "0.0.0.0", socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sys.platform != "win32":  # there it would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        sock.bind((host, port))
        _keep_alive(sock)
        sock.listen(backlog)
    except OSError as err:
        sock.close()
        if elsewhere and err.errno == errno.EADDRINUSE and port:
            logger.warning("%s: port %d is in use, taking another one", name, port)
            return open_socket(name, (host, 0), backlog=backlog)
        hint = "; another server has it" if err.errno == errno.EADDRINUSE else ""
        raise BindError(
            f"cannot bind {name} to {host} port {port}: {err.strerror}{hint}",
            errno=err.errno,
            address=f"{host}:{port}",
        ) from err
    return sock


def _keep_alive(sock: socket.socket) -> None:
    """Have the system find clients that are gone without a word: accepted sockets inherit this."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15)):
        if (option := getattr(socket, name, None)) is not None:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, option, seconds)
            except OSError:  # the system's own times do, too
                pass


def plain_ip(host: str) -> str:
    """The address of a client; IPv4 as such also where it came to a socket of IPv6."""
    if host.startswith("::ffff:") and "." in host:
        return host[7:]
    return host.partition("%")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """What differs between the listeners of a server.

    Parameters
    ----------
    handler : callable
        Answers requests.
    context : ssl.SSLContext, optional
        For TLS.
    choose : callable, optional
        Called with a function that gives the first bytes of a client; its TLS context, or None
        for the usual one.
    life : float
        Seconds a connection may last that nobody takes over; may be infinite.
    idle_timeout : float, optional
        Seconds from an answer to the end of the next request.
    max_body : int
        Bytes of a request's body; 0: none are read.
    backlog : int
        Connections that wait to be accepted.
    extra : tuple
        Headers of errors found before a handler is asked.
    may_stay : bool
        Several requests per connection.
    main : bool
        For the owner of the connections.
    """

    handler: Handler
    context: ssl.SSLContext | None = None
    choose: Callable[[Callable[[], bytes]], ssl.SSLContext | None] | None = None
    life: float = HTTP_LIFE_S
    idle_timeout: float | None = None
    max_body: int = 0
    backlog: int = BACKLOG
    extra: tuple[tuple[str, str], ...] = ()
    may_stay: bool = True
    main: bool = False


class Listener:
    """Accepts connections of one socket and puts an `HttpProtocol` on each.

    Parameters
    ----------
    admission : Admission
        Shared by the listeners of a server. A connection enters it here; the owner lets it leave.
    on_refused : callable
        Called for each connection that may not enter.
    on_begin, on_end : callable
        Called with each protocol, `on_end` also with whether it ended in order.
    """

    def __init__(
        self,
        sock: socket.socket,
        settings: ListenerSettings,
        *,
        turns: Turns,
        admission: Admission,
        on_refused: Callable[[], None],
        on_begin: Callable[[HttpProtocol], None],
        on_end: Callable[[HttpProtocol, bool], None],
    ) -> None:
        self._sock = sock
        self._settings = settings
        self._turns = turns
        self._admission = admission
        self._on_refused = on_refused
        self._on_begin = on_begin
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._seldom = Seldom(self._loop.time)
        self._establishing: dict[asyncio.Task[None], socket.socket] = {}

    @property
    def address(self) -> Address:
        name = self._sock.getsockname()
        return name[0], name[1]

    async def run(self) -> None:
        """Accept until cancelled."""
        while True:
            try:
                sock, peer = await self._accept()
            except OSError as err:
                if err.errno in _NO_ROOM:
                    if count := self._seldom.count():
                        logger.warning("cannot accept (%d times): %s", count, err.strerror)
                    await asyncio.sleep(0.1)
                    continue
                if err.errno in _GONE:
                    continue
                raise
            ip = plain_ip(peer[0])
            reason = self._admission.refusal(ip)
            if reason is not None:
                self._on_refused()
                if count := self._seldom.count():
                    logger.warning(
                        "%d connections refused, the last from %s: %s", count, ip, reason
                    )
                sock.close()
            else:
                self._admission.enter(ip)
                task = asyncio.ensure_future(self._establish(sock, ip))
                self._establishing[task] = sock
                task.add_done_callback(self._settled)
            # A socket that is ready does not let go of the loop by itself.
            await asyncio.sleep(0)

    async def _accept(self) -> tuple[socket.socket, Any]:
        """The next connection; one that is there when this is cancelled stays in the queue."""
        while True:
            try:
                return self._sock.accept()
            except BlockingIOError:
                if not await _readable(self._loop, self._sock):
                    return await self._loop.sock_accept(self._sock)

    async def _establish(self, sock: socket.socket, ip: str) -> None:
        """Put a protocol on an accepted socket; with TLS after its handshake."""
        loop, settings = self._loop, self._settings
        context = settings.context
        protocol = HttpProtocol(
            loop,
            settings.handler,
            turns=self._turns,
            deadline=loop.time() + settings.life,
            head_timeout=min(
                settings.life,
                (settings.idle_timeout or HEAD_TIMEOUT_S) + (TLS_TIMEOUT_S if context else 0),
            ),
            idle_timeout=settings.idle_timeout,
            max_body=settings.max_body,
            on_end=self._on_end,
            peer=ip,
            extra=settings.extra,
            may_stay=settings.may_stay,
            main=settings.main,
        )
        self._on_begin(protocol)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is None:
                protocol.plain_socket = sock
                await loop.connect_accepted_socket(lambda: protocol, sock)
            else:
                # TLS takes up to 300 KiB of memory: not for somebody who only connects.
                await _first_bytes(loop, sock, min(TLS_TIMEOUT_S, settings.life))
                if settings.choose is not None:
                    context = settings.choose(lambda: _peek(sock)) or context
                await loop.connect_accepted_socket(
                    lambda: protocol,
                    sock,
                    ssl=context,
                    ssl_handshake_timeout=min(TLS_TIMEOUT_S, settings.life),
                    ssl_shutdown_timeout=2.0,
                )
        except (OSError, ssl.SSLError, TimeoutError) as err:
            logger.debug("connection from %s not established: %s", ip, err)
            protocol.abort()
            sock.close()
        except BaseException:
            protocol.abort()
            sock.close()
            raise

    def _settled(self, task: asyncio.Task[None]) -> None:
        sock = self._establishing.pop(task)
        if task.cancelled():  # perhaps before its first step
            sock.close()

    def close(self) -> None:
        """Stop listening."""
        if self._sock.fileno() >= 0:
            try:
                self._loop.remove_reader(self._sock)
            except NotImplementedError:
                pass
        self._sock.close()

    async def wait_closed(self) -> None:
        """End what is being established."""
        for task in self._establishing:
            task.cancel()
        await asyncio.gather(*self._establishing, return_exceptions=True)


def _peek(sock: socket.socket) -> bytes:
    """What has come, without taking it."""
    try:
        return sock.recv(PEEK_BYTES, socket.MSG_PEEK)
    except OSError:  # of which whoever reads hears, too
        return b""


async def _first_bytes(loop: asyncio.AbstractEventLoop, sock: socket.socket, limit: float) -> None:
    """Wait until the client has sent something; TimeoutError if it does not within `limit`."""
    async with asyncio.timeout(limit):
        await _readable(loop, sock)


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bool:
    """Wait until there is something to read, or to accept; False: the loop cannot tell."""
    arrived = Once()
    try:
        loop.add_reader(sock, arrived.set)
    except NotImplementedError:  # the usual loop on Windows
        return False
    try:
        await arrived
    finally:
        if sock.fileno() >= 0:  # not closed meanwhile
            loop.remove_reader(sock)
    return True
