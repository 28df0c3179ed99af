"""One question over UDP to a gateway, and its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from ..aio._waiters import Handoff
from ..errors import PortmapError
from .model import Gateway

__all__ = ["Exchange", "UdpExchange"]

log = logging.getLogger("iroh_fast.portmapper")

WAITS_S = (0.25, 0.5, 0.75)  # after each time; as RFC 6886 and within a second and a half
MAX_DATAGRAMS = 32  # looked at for one question

T = TypeVar("T")


class Exchange(Protocol):
    """How requests get to the port of a gateway, and answers back."""

    async def ask(self, gateway: Gateway, request: bytes, read: Callable[[bytes], T | None]) -> T:
        """Send, again when there is no answer, and wait for it.

        Parameters
        ----------
        read : gives what a datagram says, None if it is not the answer; its PortmapError ends
            the question, other than one of kind ``"bad_answer"``.

        Raises
        ------
        PortmapError : there is no answer, or the gateway said no.
        """
        ...

    async def tell(self, gateway: Gateway, request: bytes) -> None:
        """Send once, for no answer.

        Raises
        ------
        PortmapError : it cannot be sent.
        """
        ...


class _Answers(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.queue: Handoff[bytes | OSError] = Handoff()
        self._left = MAX_DATAGRAMS

    def datagram_received(self, data: bytes, addr: object) -> None:
        if self._left:
            self._left -= 1
            self.queue.put(data)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, OSError):
            self.queue.put(exc)


class UdpExchange:
    """Over a socket for each question. It is connected: only what comes from the gateway's port counts."""

    async def ask(self, gateway: Gateway, request: bytes, read: Callable[[bytes], T | None]) -> T:
        """Send, again when there is no answer, and wait for it."""
        transport, answers = await _open(gateway)
        try:
            return await _repeat(transport, answers, gateway, request, read)
        finally:
            transport.close()

    async def tell(self, gateway: Gateway, request: bytes) -> None:
        """Send once, for no answer."""
        transport, _ = await _open(gateway)
        transport.sendto(request)
        transport.close()


async def _open(gateway: Gateway) -> tuple[asyncio.DatagramTransport, _Answers]:
    local, remote = (str(gateway.local), 0), (str(gateway.ip), gateway.port)
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_datagram_endpoint(_Answers, local_addr=local, remote_addr=remote)
    except OSError as error:
        raise PortmapError("no_gateway", f"cannot reach {gateway.ip}: {error.strerror}") from error


async def _repeat(
    transport: asyncio.DatagramTransport,
    answers: _Answers,
    gateway: Gateway,
    request: bytes,
    read: Callable[[bytes], T | None],
) -> T:
    wrong: PortmapError | None = None
    for wait in WAITS_S:
        transport.sendto(request)
        try:
            async with asyncio.timeout(wait):
                while True:
                    data = await answers.queue.wait()
                    if isinstance(data, OSError):
                        text = f"{gateway.ip} has nothing at port {gateway.port}: {data.strerror}"
                        raise PortmapError("unavailable", text)
                    try:
                        if data is not None and (answer := read(data)) is not None:
                            return answer
                    except PortmapError as error:
                        if error.kind != "bad_answer":
                            raise
                        log.debug("datagram from gateway %s: %s", gateway.ip, error)
                        wrong = error
        except TimeoutError:
            pass
    raise wrong or PortmapError("timeout", f"{gateway.ip} does not answer at port {gateway.port}")
