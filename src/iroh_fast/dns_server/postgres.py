"""The store of several servers: a PostgreSQL database.

Every server may be published to and asked. A publish is one statement, which also tells the other
servers by ``NOTIFY`` which keys changed; what they have cached of those they forget. Packets that
come while others are written go together. While the connection that hears of changes is lost, `coherent`
is False and nothing is to be cached.

A packet is accepted when the database has committed it, so what it survives is up to
the database: with its defaults also a power cut there.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from .._check import check_text
from ..aio.once import Once, see_through
from ..aio.tasks import Tasks
from ..errors import ConfigError, PacketStoreError
from .store import (
    COUNTED,
    RECENCY_FROM,
    Done,
    Durable,
    OnChange,
    OnFailure,
    Packet,
    Retention,
    put_and_wait,
    tell,
)

try:
    import asyncpg
except ImportError as error:  # pragma: no cover
    raise ConfigError(
        "zone_store.postgres needs asyncpg: pip install 'iroh-fast[postgres]'"
    ) from error

from ._postgres_listener import Listener
from ._postgres_reads import READERS, Reads
from ._postgres_sql import (
    COUNT,
    JANITOR_LOCK,
    KEEP,
    KEYS_PER_MESSAGE,
    PUT,
    REMOVE,
    TROUBLE,
    explained,
    make_tables,
    place,
)

__all__ = ["PostgresStore"]

logger = logging.getLogger("iroh_fast.dns_server.store")

CONNECT_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 5.0
DISCONNECT_TIMEOUT_S: Final = 2.0
PUT_TIMEOUT_S: Final = 10.0  # for which a packet waits for the database
WRITERS: Final = 2  # statements on their way at the same time
MAX_WAITING: Final = 20_000  # packets that wait for the database
FIRST_DELAY_S: Final = 0.05
LONGEST_DELAY_S: Final = 1.0
# Counting takes long with millions of records: at most one part in so many of the time.
COUNT_SHARE: Final = 20


@dataclass(slots=True)
class _Write:
    packet: Packet
    done: Done
    until: float


class PostgresStore:
    """Signed packets in a PostgreSQL database, for one server or several.

    Parameters
    ----------
    dsn : str
        ``postgresql://user:password@host:port/database``; what it does not say comes from the
        environment as for ``psql``. Tables are made, in the first schema of the search path. A pooler
        in between has to keep sessions, since ``LISTEN`` needs one.
    retention : Retention, optional
        How many records, and how old. The bound may be exceeded by what all servers are
        published between two counts.
    clock : callable, optional
        Microseconds since 1970; for tests.

    Raises
    ------
    ConfigError : asyncpg is missing (``pip install 'iroh-fast[postgres]'``), or `dsn` is no text.

    Notes
    -----
    See `PacketStore` for the methods. While the database is away, packets wait for 10 s and then get
    an error of kind ``"unavailable"``.
    """

    def __init__(
        self,
        dsn: str,
        *,
        retention: Retention | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        check_text("zone_store.postgres", dsn)
        self.retention = Retention() if retention is None else retention
        self.on_change: OnChange | None = None
        self.on_failure: OnFailure | None = None
        self.where = place(dsn)
        self._dsn = dsn
        self._clock = clock or (lambda: time.time_ns() // 1000)
        self._own = f"{secrets.token_hex(8)}:"
        self._listener = Listener(self._connect, self._own, self._changed, self.where)
        self._closed: PacketStoreError | None = PacketStoreError("closed", "the store is not open")
        self._closing: asyncio.Task[None] | None = None
        self._tasks = Tasks(self._broke)
        self._pool: Any = None
        self._writes: deque[_Write] = deque()
        self._writing = 0
        self._reads = Reads(self._acquire, self._tasks.start, self._unavailable)
        self._idle = Once()
        self._records = self._newcomers = 0
        self._since_count = 0
        self._count_after = 0.0
        self._counts: dict[str, int] = dict.fromkeys(COUNTED, 0)

    @property
    def coherent(self) -> bool:
        """False while changes of other servers may go unnoticed."""
        return self._listener.coherent

    # --- life

    async def open(self) -> None:
        """Connect, make the tables if there are none; PacketStoreError says what is wrong. Once."""
        if self._closing is not None or self._closed is None:
            raise RuntimeError("a store opens once")
        self._loop = asyncio.get_running_loop()
        try:
            connection = await self._connect()
            try:
                await make_tables(connection)
            finally:
                connection.terminate()
            self._pool = asyncpg.create_pool(
                self._dsn, min_size=1, max_size=WRITERS + READERS + 1, **self._options()
            )
            await self._pool
            await self._listener.begin()
        except BaseException as error:
            await self._disconnect()
            if isinstance(error, PacketStoreError):
                raise PacketStoreError(error.kind, f"{self.where}: {error}") from None
            if isinstance(error, (*TROUBLE, ValueError)):
                raise PacketStoreError("open", f"{self.where}: {explained(error)}") from error
            raise
        self._closed = None
        self._tasks.start(self._listener.run())
        self._tasks.start(self._expire_forever())
        logger.info("store in %s", self.where)

    def _options(self) -> dict[str, Any]:
        return {
            "timeout": CONNECT_TIMEOUT_S,
            "command_timeout": COMMAND_TIMEOUT_S,
            "server_settings": {"application_name": "iroh-fast dns-server"},
        }

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self._dsn, **self._options())

    def _acquire(self) -> Any:
        return self._pool.acquire(timeout=CONNECT_TIMEOUT_S)

    async def close(self) -> None:
        """Finish what was submitted, for 10 s at most, and disconnect. May be called again."""
        if self._closing is None:
            if self._closed is not None:
                return
            self._closed = PacketStoreError("closed", "the store is closed")
            self._closing = self._loop.create_task(self._close())
        await see_through(self._closing)

    async def _close(self) -> None:
        self._settle()
        await self._idle
        await self._tasks.end()
        self._reads.close(PacketStoreError("closed", "the store is closed"))
        await self._disconnect()

    async def _disconnect(self) -> None:
        self._listener.close()
        pool = self._pool
        if pool is None:
            return
        with suppress(*TROUBLE):
            try:
                async with asyncio.timeout(DISCONNECT_TIMEOUT_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    def _settle(self) -> None:
        """Let `_close` go on when nothing is left to write."""
        if self._closed is not None and not (self._writes or self._writing):
            self._idle.set()

    def _broke(self, error: BaseException) -> None:
        logger.error("the store failed", exc_info=error)
        tell(self.on_failure, PacketStoreError("write", f"{self.where}: {error!r}"))

    def _changed(self, key: bytes | None) -> None:
        """A packet may be another one now, or any when `key` is None."""
        self._reads.changed(key)
        tell(self.on_change, key)

    def counters(self) -> Mapping[str, int]:
        """Values of the metrics that begin with ``store_``.

        Records are those that were counted last, and what this server has done since.
        """
        counts = {f"store_packets_{name}": value for name, value in self._counts.items()}
        return {**counts, "store_records": self._records + self._since_count}

    # --- publishing

    async def put(self, packet: Packet) -> bool:
        """Keep a packet if it is more recent; True when it is committed, False when it is older."""
        return await put_and_wait(self, packet)

    def submit(self, packet: Packet, done: Done, durable: Durable | None = None) -> None:
        """Do that, and tell `done`; see `PacketStore.submit`. `durable` is never called."""
        error = self._closed
        if error is None and len(self._writes) >= MAX_WAITING:
            error = self._unavailable("too many packets wait for it")
        if error is not None:
            asyncio.get_running_loop().call_soon(tell, done, error)
            return
        self._writes.append(_Write(packet, done, self._loop.time() + PUT_TIMEOUT_S))
        if len(self._writes) == 1:
            self._loop.call_soon(self._begin_writes)

    def _unavailable(self, why: str) -> PacketStoreError:
        return PacketStoreError("unavailable", f"{self.where}: {why}")

    def _begin_writes(self) -> None:
        while self._writes and self._writing < WRITERS:
            batch: dict[bytes, _Write] = {}
            while self._writes and len(batch) < KEYS_PER_MESSAGE:
                write = self._writes[0]
                if write.packet.public_key in batch:
                    break  # a statement changes a row once: the next one does
                batch[write.packet.public_key] = self._writes.popleft()
            self._writing += 1
            self._tasks.start(self._write(batch))

    async def _write(self, batch: dict[bytes, _Write]) -> None:
        try:
            delay = FIRST_DELAY_S
            while batch:
                try:
                    kept = await self._write_once(batch)
                except TROUBLE as error:
                    logger.debug("%s: %s", self.where, explained(error))
                    self._give_up_late(batch, error)
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, LONGEST_DELAY_S)
                else:
                    for key in list(batch):
                        self._answer(batch, key, kept[key])
        finally:
            for key in list(batch):
                self._answer(batch, key, self._unavailable("the store failed"))
            self._writing -= 1
            self._begin_writes()
            self._settle()

    def _answer(
        self, batch: dict[bytes, _Write], key: bytes, answer: bool | PacketStoreError
    ) -> None:
        # Whatever the answer: an attempt that got none may have written it.
        self._changed(key)
        tell(batch.pop(key).done, answer)

    async def _write_once(self, batch: dict[bytes, _Write]) -> dict[bytes, bool]:
        """What becomes of each packet of a batch."""
        now = self._clock()
        packets = [write.packet for write in batch.values()]
        published = [min(packet.timestamp, now) for packet in packets]
        whole = {key: write.packet.to_bytes() for key, write in batch.items()}
        async with self._acquire() as connection:
            taken = await connection.fetch(
                PUT, self._own, list(whole), published, list(whole.values()), now
            )
            kept = {row["key"]: True for row in taken}
            others = [key for key in whole if key not in kept]
            if others:
                for row in await connection.fetch(KEEP, others):
                    key = row["key"]
                    kept[key] = row["recency"] == whole[key][RECENCY_FROM - 1 :]
        inserted = sum(row["inserted"] for row in taken)
        self._counts["inserted"] += inserted
        self._counts["updated"] += len(taken) - inserted
        self._since_count += inserted
        # One that is gone by now was too old even to stay.
        return {key: kept.get(key, False) for key in whole}

    def _give_up_late(self, batch: dict[bytes, _Write], error: BaseException) -> None:
        """Answer those of a batch that have waited long enough."""
        now = self._loop.time()
        for key in [key for key, write in batch.items() if write.until <= now]:
            self._answer(batch, key, self._unavailable(explained(error)))

    # --- asking

    async def fetch(self, key: bytes) -> bytes | None:
        """The whole packet of a key, or None; see `PacketStore.fetch`.

        Raises
        ------
        PacketStoreError : of kind ``"unavailable"``, after 2 s.
        """
        if self._closed is not None:
            raise self._closed
        return await self._reads.fetch(key)

    # --- what goes

    async def _expire_forever(self) -> None:
        while True:
            await asyncio.sleep(self.retention.interval)
            try:
                await self.expire()
            except TROUBLE as error:
                logger.debug("%s: %s", self.where, explained(error))

    async def expire(self) -> int:
        """Remove what is too old or too much now; returns how many.

        One server at a time does it; where another does, this one need not.
        """
        async with self._acquire() as connection:
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", JANITOR_LOCK):
                return 0
            try:
                before = self.retention.expired_before(self._clock())
                total = 0
                for settled in (False, True):
                    total += await self._remove(connection, "expired", settled, before)
                return total + await self._make_room(connection)
            finally:
                await connection.fetchval("SELECT pg_advisory_unlock($1)", JANITOR_LOCK)

    async def _make_room(self, connection: Any) -> int:
        """Remove what is beyond the bound: newcomers beyond their places first."""
        places = self.retention.max_records
        begin = self._loop.time()
        if begin < self._count_after and self._records + self._since_count <= places:
            return 0
        row = await connection.fetchrow(COUNT, timeout=60.0)
        self._records, self._newcomers, self._since_count = row["records"], row["newcomers"], 0
        self._count_after = begin + COUNT_SHARE * (self._loop.time() - begin)
        surplus = self._records - places
        if surplus <= 0:
            return 0
        beyond = min(surplus, max(0, self._newcomers - self.retention.newcomers))
        removed = 0
        for settled, count in ((False, beyond), (True, surplus - beyond)):
            removed += await self._remove(connection, "evicted", settled, 2**62, count)
        return removed

    async def _remove(
        self, connection: Any, why: str, settled: bool, before: int, limit: int | None = None
    ) -> int:
        """Remove records from the oldest on, in slices that one message can tell of."""
        total = 0
        while limit is None or total < limit:
            count = KEYS_PER_MESSAGE if limit is None else min(KEYS_PER_MESSAGE, limit - total)
            rows = await connection.fetch(REMOVE, self._own, settled, before, count)
            for row in rows:
                self._changed(row["key"])
            self._counts[why] += len(rows)
            self._since_count -= len(rows)
            total += len(rows)
            if len(rows) < count:
                break
        return total
