"""Several name servers, of which one will do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Final

from ...aio.once import seen
from ...errors import DnsResolveFailed, DnsTimeout, printable
from .message import Question, is_refusal, rcode_text
from .server import NameServer

__all__ = ["ask_any", "ask_tiers"]

logger = logging.getLogger("iroh_fast.web.resolver")

NEXT_AFTER_S: Final = 0.1
MAX_AT_ONCE: Final = 3


async def ask_tiers(tiers: Sequence[Sequence[NameServer]], question: Question) -> bytes:
    """Ask the servers of the first tier, and those of the next one when all of them failed.

    Raises
    ------
    DnsResolveFailed, DnsTimeout : all servers failed, or all of them were silent.
    """
    error: DnsResolveFailed | DnsTimeout = DnsResolveFailed(
        f"{question.host}: there is no name server to ask", host=question.host
    )
    for servers in tiers:
        if servers:
            try:
                return await ask_any(servers, question)
            except (DnsResolveFailed, DnsTimeout) as failure:
                error = failure
    raise error


async def ask_any(servers: Sequence[NameServer], question: Question) -> bytes:
    """Ask the quickest server, the next one after 100 ms or when one failed, three at a time.

    The first answer counts, also that there is no such name or record. A server that refuses
    has failed.

    Raises
    ------
    DnsResolveFailed, DnsTimeout : all servers failed, or all of them were silent.
    """
    race = _Race(servers, question)
    if len(servers) == 1:
        data = await race.attempt(servers[0])
        if data is None:
            raise race.error()
        return data
    return await race.run()


class _Race:
    def __init__(self, servers: Sequence[NameServer], question: Question) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._waiting = deque(sorted(servers, key=lambda server: server.srtt(now)))
        self._question = question
        self._failures: list[str] = []
        self._silent = True

    async def attempt(self, server: NameServer) -> bytes | None:
        """Ask one server; None when it failed."""
        began = self._loop.time()
        try:
            data = await server.ask(self._question)
        except asyncio.CancelledError:
            now = self._loop.time()
            if now - began > server.srtt(now):
                server.took(now - began, now)
            raise
        except (OSError, EOFError, ValueError) as error:
            self._silent &= isinstance(error, TimeoutError)
            self._failed(server, str(error) or type(error).__name__)
            return None
        if is_refusal(data):
            self._silent = False
            self._failed(server, rcode_text(data))
            return None
        now = self._loop.time()
        server.took(now - began, now)
        return data

    def _failed(self, server: NameServer, why: str) -> None:
        server.failed(self._loop.time())
        self._failures.append(f"{server}: {printable(why, 80)}")
        logger.debug("%s: name server %s", self._question.host, self._failures[-1])

    async def run(self) -> bytes:
        """Let them all try."""
        running: set[asyncio.Task[bytes | None]] = set()
        next_at = self._loop.time()
        try:
            while self._waiting or running:
                now = self._loop.time()
                room = self._waiting and len(running) < MAX_AT_ONCE
                if room and (now >= next_at or not running):
                    server = self._waiting.popleft()
                    running.add(self._loop.create_task(self.attempt(server)))
                    next_at = now + NEXT_AFTER_S
                    continue
                done, running = await asyncio.wait(
                    running,
                    timeout=next_at - now if room else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    if (data := task.result()) is not None:
                        return data
                if done:
                    next_at = self._loop.time()
            raise self.error()
        finally:
            for task in running:
                task.cancel()
                task.add_done_callback(seen)

    def error(self) -> DnsResolveFailed | DnsTimeout:
        """Why nobody answered."""
        host = self._question.host
        kind = DnsTimeout if self._silent else DnsResolveFailed
        return kind(f"{host}: no name server answers: {', '.join(self._failures)}", host=host)
