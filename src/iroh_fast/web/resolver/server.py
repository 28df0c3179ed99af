"""One name server: how it is asked, and how quick it has been."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from ...aio.once import seen
from .config import NameserverConfig
from .https import Https
from .message import Query, Question, is_format_error, is_truncated
from .stream import Streams
from .udp import Exchange

__all__ = ["NameServer"]

# As iroh 1.4: what was measured weighs three tenths, a failure adds 150 ms, and all of it is
# forgotten over some minutes.
SRTT_START_S: Final = 0.05
SRTT_WEIGHT: Final = 0.3
SRTT_FAILURE_S: Final = 0.15
SRTT_MAX_S: Final = 5.0
SRTT_DECAY_S: Final = 180.0
TCP_AFTER_S: Final = 0.9  # beside UDP, which some networks drop


class NameServer:
    """A server with its connections.

    Parameters
    ----------
    tls : makes the context of DNS over TLS and HTTPS.
    """

    def __init__(self, config: NameserverConfig, tls: Callable[[], ssl.SSLContext]) -> None:
        self.config = config
        ip, _, zone = config.ip.partition("%")
        v6 = ipaddress.ip_address(ip).version == 6
        self._family = socket.AF_INET6 if v6 else socket.AF_INET
        assert config.port is not None
        scope = _scope(zone)
        self._address = (ip, config.port, 0, scope) if v6 else (ip, config.port)
        with_tls = config.protocol == "tls"
        self._streams = Streams(
            ip,
            config.port,
            self._family,
            scope,
            tls=tls if with_tls else None,
            server_name=config.server_name,
        )
        self._https = Https(config, tls) if config.protocol == "https" else None
        self._srtt = SRTT_START_S
        self._updated = -math.inf

    def __str__(self) -> str:
        return str(self.config)

    # --- how quick it is

    def srtt(self, now: float) -> float:
        """Seconds that an answer takes, as far as that is still worth something."""
        age = max(0.0, now - self._updated)
        return SRTT_START_S + (self._srtt - SRTT_START_S) * math.exp(-age / SRTT_DECAY_S)

    def took(self, seconds: float, now: float) -> None:
        """An answer took that long, or it was not waited for any longer."""
        self._note(SRTT_WEIGHT * seconds + (1 - SRTT_WEIGHT) * self.srtt(now), now)

    def failed(self, now: float) -> None:
        """It did not answer, or not usefully."""
        self._note(self.srtt(now) + SRTT_FAILURE_S, now)

    def _note(self, srtt: float, now: float) -> None:
        self._srtt = min(srtt, SRTT_MAX_S)
        self._updated = now

    # --- asking it

    async def ask(self, question: Question) -> bytes:
        """Ask, and once more without EDNS when the server does not understand the query.

        Raises
        ------
        OSError, EOFError, ValueError : there is no answer.
        """
        query = question.query()
        data = await self._send(query)
        if is_format_error(data):  # RFC 6891 §7
            data = await self._send(question.query(edns=False))
        return data

    async def _send(self, query: Query) -> bytes:
        if self._https is not None:
            return await self._https.ask(query)
        if self.config.protocol != "udp":
            return await self._streams.ask(query)
        loop = asyncio.get_running_loop()
        with Exchange(query, self._family, self._address, self.srtt(loop.time())) as exchange:
            try:
                async with asyncio.timeout(TCP_AFTER_S):
                    await exchange.over
            except TimeoutError:
                pass
            return _whole(exchange) or await self._with_tcp(query, exchange)

    async def _with_tcp(self, query: Query, udp: Exchange) -> bytes:
        """Ask over TCP as well; UDP may still be the first."""
        tcp = asyncio.ensure_future(self._streams.ask(query))
        waiter = udp.over.waiter()
        try:
            while True:
                waiting: set[asyncio.Future[Any]] = {tcp}
                if not udp.over.happened:
                    waiting.add(waiter.future)
                if tcp.done():
                    waiting.discard(tcp)
                if not waiting:
                    return tcp.result()  # raises
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if (data := _whole(udp)) is not None:
                    return data
                if tcp.done() and tcp.exception() is None:
                    return tcp.result()
        finally:
            waiter.close()
            tcp.cancel()
            tcp.add_done_callback(seen)

    def retire(self) -> None:
        """End the connections that nobody uses, the others after their query."""
        self._streams.close()
        if self._https is not None:
            self._https.retire()

    async def close(self) -> None:
        """End the connections."""
        self._streams.close()
        if self._https is not None:
            await self._https.close()


def _whole(udp: Exchange) -> bytes | None:
    """The answer over UDP, unless there is none or only its beginning."""
    return None if udp.answer is None or is_truncated(udp.answer) else udp.answer


def _scope(zone: str) -> int:
    """The index of an interface by its name or number."""
    if not zone:
        return 0
    try:
        return int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
    except (OSError, ValueError):
        return 0
