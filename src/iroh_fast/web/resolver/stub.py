"""The resolver that asks name servers, after what the system knows by itself."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from ...aio.once import Room
from ...errors import DnsError, DnsNoResponse, DnsNxDomain
from .cache import Cache, Records
from .config import GOOGLE, PUBLIC, Fallback, NameserverConfig
from .hosts import Hosts
from .message import AAAA, TXT, A, Alias, Question, read_answer
from .race import ask_tiers
from .server import NameServer
from .system import NO_SYSTEM, SystemConfig, SystemSource

__all__ = ["Stub"]

logger = logging.getLogger("iroh_fast.web.resolver")

MAX_QUESTIONS: Final = 256  # at a time; each has a socket or two. More wait
_KINDS: Final = {A: "A", AAAA: "AAAA", TXT: "TXT"}


class Stub:
    """Table of hosts, cache, name servers.

    Parameters
    ----------
    nameservers : asked besides those of the system, or alone.
    system : those of the system; None: without system.
    fallback, fallback_nameservers : see :class:`DnsResolver`.
    tls : makes the context of DNS over TLS and HTTPS.
    cache : kept by those that come after a change of the network.
    """

    def __init__(
        self,
        nameservers: tuple[NameserverConfig, ...],
        system: SystemSource | None,
        fallback: Fallback,
        fallback_nameservers: tuple[NameserverConfig, ...] | None,
        tls: Callable[[], ssl.SSLContext],
        *,
        hosts: Hosts | None = None,
        cache: Cache | None = None,
    ) -> None:
        self._nameservers = nameservers
        self._system = system
        self._fallback: Fallback = fallback
        self._fallback_nameservers = fallback_nameservers
        self._tls = tls
        self._hosts = hosts or Hosts()
        self._cache = Cache() if cache is None else cache
        self._room = Room(MAX_QUESTIONS)
        self._config: SystemConfig | None = None
        self._tiers: list[list[NameServer]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- what users ask

    async def lookup_ipv4(self, host: str) -> list[ipaddress.IPv4Address]:
        """IPv4 addresses of a host."""
        found = await self._addresses(host, A, socket.AF_INET)
        return [ipaddress.IPv4Address(ip) for ip in found]

    async def lookup_ipv6(self, host: str) -> list[ipaddress.IPv6Address]:
        """IPv6 addresses of a host."""
        found = await self._addresses(host, AAAA, socket.AF_INET6)
        return [ipaddress.IPv6Address(ip) for ip in found]

    async def lookup_txt(self, host: str) -> list[list[bytes]]:
        """TXT records of a name, of each its strings."""
        return [list(strings) for strings in (await self._records(host, TXT)).values]

    def clear_cache(self) -> None:
        """Forget all answers."""
        self._cache.clear()

    def reset(self) -> Stub:
        """Another one for the network as it is now; answers that are known stay."""
        for server in self._forget():
            server.retire()
        return Stub(
            self._nameservers,
            self._system,
            self._fallback,
            self._fallback_nameservers,
            self._tls,
            hosts=self._hosts,
            cache=self._cache,
        )

    async def close(self) -> None:
        """End the connections to name servers; the next question opens new ones."""
        servers = self._forget()
        for server in servers:
            await server.close()

    def servers(self) -> list[NameserverConfig]:
        """Those that are asked now, in the order of the configuration."""
        return [server.config for tier in self._current()[1] for server in tier]

    # --- whom to ask

    def _current(self) -> tuple[SystemConfig, list[list[NameServer]]]:
        """What holds now: a changed configuration of the system is noticed here."""
        loop = asyncio.get_running_loop()
        config = NO_SYSTEM if self._system is None else self._system.current()
        if config is not self._config or loop is not self._loop:
            for server in self._forget():
                server.retire()
            if loop is not self._loop:
                self._room = Room(MAX_QUESTIONS)
            self._config = config
            self._loop = loop
            self._tiers = [
                [NameServer(server, self._tls) for server in tier] for tier in self._chosen(config)
            ]
        return config, self._tiers

    def _chosen(self, config: SystemConfig) -> list[tuple[NameserverConfig, ...]]:
        configured = (*config.nameservers, *self._nameservers)
        further = self._fallback_nameservers
        if self._fallback == "deferred":
            return [configured, PUBLIC if further is None else further]
        if self._fallback == "eager":
            return [(*configured, *(PUBLIC if further is None else further))]
        if configured or self._fallback == "never":
            # DIFFERS: iroh 1.4 asks public servers, too, when all others failed; they are told nothing
            # here unless somebody wants that.
            return [configured]
        logger.warning(
            "this system names no name server: asking %s",
            "those of Google" if further is None else "those of fallback_nameservers",
        )
        return [GOOGLE if further is None else further]

    def _forget(self) -> list[NameServer]:
        """Take out the servers, for others to end their connections."""
        servers = [server for tier in self._tiers for server in tier]
        self._tiers = []
        self._config = None
        if self._loop is not None and self._loop.is_closed():
            return []  # with their connections
        return servers

    # --- the way of a name

    async def _addresses(self, host: str, kind: int, family: int) -> list[bytes | str]:
        try:
            literal = ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            if (literal.version == 6) != (family == socket.AF_INET6):
                raise DnsNoResponse(f"{host} is an address of the other family", host=host)
            return [host]
        name = host.removesuffix(".").lower()
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761 §6.3
            return ["::1" if family == socket.AF_INET6 else "127.0.0.1"]
        for candidate in self._candidates(host, self._current()[0]):
            if listed := self._hosts.addresses(candidate, family):
                return list(listed)
        return [value[0] for value in (await self._records(host, kind)).values]

    async def _records(self, host: str, kind: int) -> Records:
        """Ask for a name, in the domains to search where that is due.

        A name that has nothing in one domain is looked for in the next; of what went wrong, the
        first thing that is for certain is told.
        """
        config, tiers = self._current()
        negative: DnsError | None = None
        failure: DnsError | None = None
        for candidate in self._candidates(host, config):
            try:
                return await self._resolve(Question.of(candidate, kind), tiers)
            except (DnsNxDomain, DnsNoResponse) as error:
                negative = negative or error
            except DnsError as error:
                failure = failure or error
        raised = negative or failure
        assert raised is not None  # there is at least one candidate
        raised.host = host
        raise raised

    @staticmethod
    def _candidates(host: str, config: SystemConfig) -> list[str]:
        """The complete names that a name may stand for, by the rules of resolv.conf(5)."""
        if host.endswith(".") or not config.search:
            return [host]
        expanded = [f"{host}.{domain.rstrip('.')}." for domain in config.search]
        expanded = [name for name in expanded if len(name) <= 254]
        alone = host + "."
        found = [alone, *expanded] if host.count(".") >= config.ndots else [*expanded, alone]
        return list(dict.fromkeys(found))

    async def _resolve(self, question: Question, tiers: list[list[NameServer]]) -> Records:
        """Ask for one complete name, and for those that it stands for."""
        loop = asyncio.get_running_loop()
        if (known := self._cache.get(question.key, loop.time())) is not None:
            return known
        asked, steps, ttl = question, 0, None
        while True:
            data = await self._ask(asked, tiers)
            try:
                records = read_answer(asked, data, steps)
                break
            except Alias as alias:
                steps = alias.steps
                ttl = alias.ttl if ttl is None else min(ttl, alias.ttl)
                asked = Question(alias.name, question.type)
        if not records.values:
            kind = _KINDS[question.type]
            raise DnsNoResponse(f"{question.host} has no {kind} record", host=question.host)
        if ttl is not None:
            records = Records(records.values, min(records.ttl, ttl))
        self._cache.put(question.key, records, loop.time())
        return records

    async def _ask(self, question: Question, tiers: list[list[NameServer]]) -> bytes:
        room = self._room
        await room.take()
        try:
            return await ask_tiers(tiers, question)
        finally:
            room.leave()
