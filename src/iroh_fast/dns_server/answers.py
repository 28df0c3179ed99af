"""Answers to DNS queries, whatever way they came; what is not in memory is looked up.

    answers = Answers(StaticRecords(origins=["dns.example.org."]), store)
    store.on_change = answers.invalidate
    wire = answers.answer(query, transport="https", source=ip)     # bytes, or an awaitable of them

UDP and TCP are `service.DnsService`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from ..aio.once import Once
from ..aio.tasks import Tasks
from ..errors import BadQuery
from ..web.limits import Seldom
from ._answers import Answerer
from ._build import store_absence, store_failure, store_packet
from ._zones import ZoneTable
from .static import StaticRecords, origin_records

__all__ = ["Answers", "Fallback", "PacketSource", "Transport"]

logger = logging.getLogger("iroh_fast.dns_server.dns")

Transport: TypeAlias = Literal["udp", "tcp", "https"]
_CODES: Final[dict[Transport, int]] = {"udp": 0, "tcp": 1, "https": 2}

CACHE_BYTES: Final = 256 << 20
FALLBACK_CACHE_BYTES: Final = 32 << 20
FALLBACK_KEPT_S: Final = 300.0
FALLBACK_ABSENT_S: Final = 60.0
FALLBACK_BUDGET_S: Final = 2.5
MAX_FALLBACK: Final = 64
# A failing store is asked again for a key after so long.
FAILURE_KEPT_S: Final = 1.0
MAX_LOOKUPS: Final = 1024
MAX_WAITING: Final = 4096
MAX_WAITING_QUERY: Final = 4096  # bytes

_DNS_PART: Final = 104  # of a signed packet

Done: TypeAlias = Callable[[bytes], None]


class PacketSource(Protocol):
    """Where signed packets come from: a `PacketStore`.

    What `fetch` returns has to be current when it returns. A store on this machine also has
    ``read(key) -> bytes | None``, which does not wait; one that may miss changes of others has
    ``coherent``, False while it does: nothing is kept then.
    """

    async def fetch(self, key: bytes, /) -> bytes | None: ...


class Fallback(Protocol):
    """Who is asked for keys that the store does not have."""

    async def lookup(self, key: bytes, /) -> bytes | None:
        """The verified signed packet of a key, or None."""
        ...


@dataclass(slots=True)
class _Lookup:
    """Queries that wait for one key."""

    in_fallback: bool
    waiting: list[tuple[bytes, int, str, Done]] = field(default_factory=list)


class Answers:
    """Answers DNS queries from static records and from packets of a store.

    Parameters
    ----------
    records : StaticRecords
        Origins, and what is said of them.
    store : PacketSource
        Asked for keys that are not in memory; then `invalidate` has to be called when one changes.
    cache_bytes : int
        Memory of zones, 64 KiB at least.
    fallback : Fallback, optional
        Asked for keys that the store does not have: for at most 2.5 seconds, for 64 keys at a time.
        What it finds is kept 300 seconds, that it found nothing 60 seconds.

    Raises
    ------
    ConfigError
        A static record is invalid.

    Notes
    -----
    Belongs to the event loop that first has to look something up.
    """

    def __init__(
        self,
        records: StaticRecords,
        store: PacketSource,
        *,
        cache_bytes: int = CACHE_BYTES,
        fallback: Fallback | None = None,
        fallback_cache_bytes: int = FALLBACK_CACHE_BYTES,
    ) -> None:
        self._store = store
        self._read: Callable[[bytes], bytes | None] | None = getattr(store, "read", None)
        self._fallback = fallback
        self.core = Answerer(
            origin_records(records),
            ZoneTable(cache_bytes),
            None if fallback is None else ZoneTable(fallback_cache_bytes),
        )
        self._lookups: dict[bytes, _Lookup] = {}
        self._tasks = Tasks()
        self._waiting = 0
        self._waiting_of: dict[str, int] = {}
        self._asking = 0  # of the fallback, at this moment
        self._closed = False
        self._counts = {"dns_lookups_refused": 0, "dns_store_errors": 0, "dns_fallback_lookups": 0}
        self._seldom: Seldom | None = None

    # --- questions

    def answer(
        self, query: bytes, *, transport: Transport, source: str | None = None
    ) -> bytes | Awaitable[bytes]:
        """Answer one query.

        Parameters
        ----------
        query : bytes
            The message, without the length that TCP puts in front.
        transport : str
            ``"udp"``, ``"tcp"`` or ``"https"``: how long the answer may be, what it counts as.
        source : str, optional
            The client's address, if it is proven: one gets a quarter of the places for those who
            wait, all that have proven nothing get three quarters.

        Returns
        -------
        bytes or awaitable of bytes
            The answer; nothing in it: over UDP and TCP there is none.

        Raises
        ------
        BadQuery
            Over HTTPS alone: no DNS message, or a response.
        """
        if transport == "https":
            self._check(query)
        now = self._now(query, _CODES[transport])
        return now if now is not None else self._wait(query, transport, source)

    def ask(
        self, query: bytes, transport: Transport, source: str | None, done: Done
    ) -> bytes | None:
        """Answer at once, or return None and call `done` with the answer later, once."""
        code = _CODES[transport]
        now = self._now(query, code)
        return now if now is not None else self._enlist(query, code, source, done)

    def _now(self, query: bytes, code: int) -> bytes | None:
        """The answer if it needs nobody else; None: a key is missing."""
        reply = self.core.reply(query, code)
        if reply is None and self._read is not None and not self.core.missed_in_fallback:
            self._read_now(self.core.missed_key)
            reply = self.core.reply(query, code)
        return reply

    async def _wait(self, query: bytes, transport: Transport, source: str | None) -> bytes:
        answered = Once()
        answers: list[bytes] = []

        def done(answer: bytes) -> None:
            answers.append(answer)
            answered.set()

        now = self.ask(query, transport, source, done)
        if now is not None:
            return now
        await answered
        return answers[0]

    def _check(self, query: bytes) -> None:
        reading = self.core.reading(query)
        if reading == 1:
            raise BadQuery("Invalid DNS message: decoding error: unexpected end of input reached")
        if reading == 2:
            raise BadQuery("Invalid message type: expected query")

    # --- lookups

    def _read_now(self, key: bytes) -> None:
        assert self._read is not None
        try:
            packet = self._read(key)
        except Exception as err:
            self._store_failed(key, err)
        else:
            self._keep(key, packet)

    def _enlist(self, query: bytes, code: int, source: str | None, done: Done) -> bytes | None:
        """Let a query wait for the key that it misses; who finds no place gets SERVFAIL."""
        key = self.core.missed_key
        in_fallback = self.core.missed_in_fallback
        entry = self._lookups.get(key)
        group, places = (
            ("udp", MAX_WAITING * 3 // 4) if source is None else (source, MAX_WAITING // 4)
        )
        if (
            self._closed
            or self._waiting >= MAX_WAITING
            or self._waiting_of.get(group, 0) >= places
            or len(query) > MAX_WAITING_QUERY
        ):
            return self._refuse(query, code)
        if entry is None:
            if len(self._lookups) >= MAX_LOOKUPS or (in_fallback and self._asking >= MAX_FALLBACK):
                return self._refuse(query, code)
            entry = self._lookups[key] = _Lookup(in_fallback)
            self._asking += in_fallback
            self._tasks.start(self._look_up(key, entry))
        entry.waiting.append((query, code, group, done))
        self._waiting += 1
        self._waiting_of[group] = self._waiting_of.get(group, 0) + 1
        return None

    def _refuse(self, query: bytes, code: int) -> bytes:
        self._counts["dns_lookups_refused"] += 1
        return self.core.failure(query, code)

    async def _look_up(self, key: bytes, entry: _Lookup) -> None:
        try:
            if entry.in_fallback:
                await self._ask_fallback(key, entry)
            else:
                await self._fetch(key)
        finally:
            del self._lookups[key]
            self._asking -= entry.in_fallback
            self._answer_waiting(entry)
            if not getattr(self._store, "coherent", True):
                self.core.zones.drop(key)

    async def _fetch(self, key: bytes) -> None:
        try:
            packet = await self._store.fetch(key)
        except Exception as err:
            self._store_failed(key, err)
        else:
            self._keep(key, packet)

    async def _ask_fallback(self, key: bytes, entry: _Lookup) -> None:
        assert self._fallback is not None and self.core.fallback is not None
        self._counts["dns_fallback_lookups"] += 1
        packet = None
        try:
            async with asyncio.timeout(FALLBACK_BUDGET_S):
                packet = await self._fallback.lookup(key)
        except TimeoutError:
            pass
        except Exception as err:
            logger.debug("the lookup of a key elsewhere failed: %s", err)
        if packet is None or packet[:32] != key:
            store_absence(self.core.fallback, key, FALLBACK_ABSENT_S)
        else:
            store_packet(self.core.fallback, key, packet[_DNS_PART:], FALLBACK_KEPT_S)

    def _answer_waiting(self, entry: _Lookup) -> None:
        """Answer those who waited, in the turn in which the key came."""
        for query, code, group, done in entry.waiting:
            self._waiting -= 1
            self._waiting_of[group] -= 1
            if not self._waiting_of[group]:
                del self._waiting_of[group]
            reply = None if self._closed else self.core.reply(query, code)
            if (
                reply is None
                and not self._closed
                and self.core.missed_in_fallback
                and not entry.in_fallback
            ):
                # The store does not have it: the fallback is asked.
                source = None if group == "udp" else group
                if (reply := self._enlist(query, code, source, done)) is None:
                    continue
            if reply is None:
                reply = self.core.failure(query, code)
            try:
                done(reply)
            except Exception:
                logger.exception("an answer could not be delivered")

    def _keep(self, key: bytes, packet: bytes | None) -> None:
        if packet is None:
            store_absence(self.core.zones, key)
        elif not store_packet(self.core.zones, key, packet[_DNS_PART:]):
            logger.debug("a stored packet cannot be served as a zone: %s", key.hex())

    def _store_failed(self, key: bytes, err: Exception) -> None:
        self._counts["dns_store_errors"] += 1
        store_failure(self.core.zones, key, FAILURE_KEPT_S)
        if self._seldom is None:
            self._seldom = Seldom(asyncio.get_running_loop().time)
        if count := self._seldom.count():
            logger.error("the store could not be read (%d times), the last time: %s", count, err)

    # --- life

    def invalidate(self, key: bytes | None) -> None:
        """Forget what is known of a key whose packet changed or is gone; None: of all keys."""
        if key is None:
            self.core.zones.drop_all()
        else:
            self.core.zones.drop(key)

    async def close(self) -> None:
        """Give up running lookups; those who wait get SERVFAIL. May be called again."""
        self._closed = True
        await self._tasks.end()
        for entry in self._lookups.values():  # of tasks that never began
            self._answer_waiting(entry)
        self._lookups.clear()

    def counters(self) -> dict[str, int]:
        """Values of the metrics that begin with ``dns_`` and ``cache_``."""
        counts = self.core.counts()
        requests = ("dns_requests_udp", "dns_requests_tcp", "dns_requests_https")
        fallback = self.core.fallback
        return {
            "dns_requests": sum(counts[name] for name in requests),
            **counts,
            **self._counts,
            "cache_zones": self.core.zones.zones,
            "cache_zones_dht": 0 if fallback is None else fallback.zones,
            "cache_bytes": self.core.zones.nbytes + (0 if fallback is None else fallback.nbytes),
            "cache_evictions": self.core.zones.evictions,
            "dns_waiting": self._waiting,
        }
