"""DNS over UDP on an event loop: hot queries are answered in compiled code, the others in small portions."""

from __future__ import annotations

import asyncio
import errno
import logging
from functools import partial
from typing import Final

from .._batch import UdpSocket
from ..errors import BindError
from ._limits import PrefixLimiter
from ._udp import UdpPort
from .answers import Answers

__all__ = ["UdpServer", "bind_udp"]

logger = logging.getLogger("iroh_fast.dns_server.dns")

# Of one turn of the loop, which should take no more than a millisecond.
BATCHES: Final = 8
LOOKUPS: Final = 32


def bind_udp(address: tuple[str, int]) -> UdpSocket:
    """Bind a socket; ``"::"`` takes IPv4 too, and stands for ``"0.0.0.0"`` where there is no IPv6.

    Raises
    ------
    BindError
        It names address and port.
    """
    host, port = address
    try:
        try:
            return UdpSocket.bind((host, port), v6only=host != "::")
        except OSError as err:
            if host != "::" or err.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return UdpSocket.bind(("0.0.0.0", port))
    except OSError as err:
        hint = "; another server has it" if err.errno == errno.EADDRINUSE else ""
        hint = "; ports below 1024 need a privilege" if err.errno == errno.EACCES else hint
        raise BindError(
            f"cannot bind dns (UDP) to {host} port {port}: {err.strerror}{hint}",
            errno=err.errno,
            address=f"{host}:{port}",
        ) from err


class UdpServer:
    """Answers the queries of one socket until it is closed."""

    def __init__(self, sock: UdpSocket, answers: Answers, limiter: PrefixLimiter) -> None:
        self._sock = sock
        self._answers = answers
        self._port = UdpPort(sock, answers.core, limiter)
        self._loop = asyncio.get_running_loop()
        self._working: asyncio.Handle | None = None
        self._loop.add_reader(sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            self._port.receive(BATCHES)
        except OSError as err:
            logger.error("dns (UDP) cannot receive any more: %s", err)
            self.close()
            return
        if self._working is None and self._port.missed:
            self._look_up()

    def _look_up(self) -> None:
        """Answer some of the queries whose key was not in memory."""
        self._working = None
        port, missed = self._port, self._port.missed
        for _ in range(min(LOOKUPS, len(missed))):
            query, peer = missed.popleft()
            answer = self._answers.ask(query, "udp", None, partial(self._send, peer))
            if answer is not None:
                port.send(peer, answer)
        port.flush()
        if missed:
            self._working = self._loop.call_soon(self._look_up)

    def _send(self, peer: bytes, answer: bytes) -> None:
        if self._sock.fileno() >= 0:
            self._port.send(peer, answer)
            self._port.flush()

    def close(self) -> None:
        """Stop; what waits for a lookup gets no answer. May be called again."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if self._working is not None:
            self._working.cancel()
            self._working = None
        self._port.missed.clear()

    def counters(self) -> dict[str, int]:
        """Values of the metrics that begin with ``dns_udp_``."""
        return self._port.counts()
