"""The store of one server: an SQLite file, written in groups.

What is submitted within one turn of the loop is committed together at the beginning of the next one,
on the loop, unless many more came meanwhile: then with those. That takes 25 µs for one packet and 13 for
each of many, where handing over to a thread and back takes 110 and holds the loop as well. A commit is a write to the log of the file without waiting
for the disk, so that it survives the process (``kill -9``), but not always the machine. So does what
was appended to a second file (`Ahead`), in 5 µs: a publisher who comes alone is told after that, and the
commit comes while the answer is on its way. With ``durability="power"`` each commit waits for the disk,
in a thread, and nobody is told before.

What takes long never happens on the loop: bringing the log into the file is the work of a thread of low
priority, and commits wait for its last step alone, or when it is far behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..aio.once import Once, Room, see_through
from ..aio.tasks import Tasks
from ..errors import ConfigError, PacketStoreError
from ._ahead import Ahead
from ._sqlite_file import Row, SqliteFile, Written
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

__all__ = ["Durability", "SqliteStore"]

logger = logging.getLogger("iroh_fast.dns_server.store")

Durability = Literal["process", "power"]
"""What an accepted packet survives: the end of the process, or also that of the machine."""

Submitted: TypeAlias = tuple[Packet, Done]

BATCH: Final = 64  # packets per commit on the loop: about a millisecond
BATCH_IN_THREAD: Final = 4096
MANY_MORE: Final = 4  # packets within a turn of the loop, for which a commit waits
SLICE: Final = 64  # records that are removed at a time
LOG_LIMIT: Final = 64 << 20  # bytes of log, from where on it is brought into the file
LOG_HOLD: Final = 256 << 20  # from where on commits wait for that: the thread is behind
AHEAD_BYTES: Final = 1 << 20  # of the file of accepted packets: then it is emptied
LOOK_EVERY: Final = 32  # commits between looks at its size
BUSY_RETRY_S: Final = 0.02  # another process (a backup, a shell) holds the file
BUSY_LIMIT_S: Final = 10.0


class SqliteStore:
    """Signed packets in an SQLite file.

    Parameters
    ----------
    path : path, optional
        File of the store; folders are made. One process has it at a time. None: in memory.
    retention : Retention, optional
        How many records, and how old.
    durability : str
        ``"process"``: an accepted packet survives ``kill -9`` of the server; after a power cut the
        file is intact, but the packets of the last seconds may be missing, which their endpoints
        publish again within 5 minutes. ``"power"``: it survives that, too, and each group of
        packets waits for the disk: a few milliseconds each.
    clock : callable, optional
        Microseconds since 1970; for tests.

    Raises
    ------
    ConfigError : `durability` is something else.

    Notes
    -----
    See `PacketStore` for the methods; `read` takes about 6 µs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        retention: Retention | None = None,
        durability: Durability = "process",
        clock: Callable[[], int] | None = None,
    ) -> None:
        if durability not in ("process", "power"):
            raise ConfigError(
                f'zone_store.durability is "process" or "power", not {str(durability)[:40]!r}'
            )
        self.path = None if path is None else Path(path)
        self.retention = Retention() if retention is None else retention
        self.on_change: OnChange | None = None
        self.on_failure: OnFailure | None = None
        self._threaded = durability == "power" and path is not None
        self._file = SqliteFile(self.path, self.retention, flush=durability == "power")
        # The packet that is accepted and not committed, and the file that has it.
        ahead = self.path is not None and not self._threaded
        self._ahead = Ahead(Path(f"{self.path}-ahead")) if ahead else None
        self._accepted: Packet | None = None
        self._clock = clock or _microseconds
        self._closed: PacketStoreError | None = PacketStoreError("closed", "the store is not open")
        self._failed: PacketStoreError | None = None
        self._pending: list[Submitted] = []
        self._due = False  # a commit is scheduled or running
        self._seen = 0  # how many packets were pending then
        self._turn = Room(1)  # to write; on the loop it is enough that nobody has it
        self._busy_since: float | None = None
        self._commits = 0
        self._idle = Once()  # after `close`: nothing is left to write
        self._tasks = Tasks(self._broke)
        self._checkpointing = False
        self._log_is_full = False
        self._closing: asyncio.Task[None] | None = None
        self._counts: dict[str, int] = dict.fromkeys(COUNTED, 0)

    @property
    def coherent(self) -> bool:
        """True: nobody else changes the file."""
        return True

    # --- life

    async def open(self) -> None:
        """Open or make the file; PacketStoreError says what is wrong with it. Once."""
        if self._closing is not None or self._closed is None:
            raise RuntimeError("a store opens once")
        self._loop = asyncio.get_running_loop()
        # One thread for what must not wait for the other; both begin when they are used.
        self._keeper = ThreadPoolExecutor(1, "packet-store-log", initializer=_be_nice)
        self._writer = ThreadPoolExecutor(1, "packet-store")
        try:
            await self._loop.run_in_executor(self._writer, self._open_files)
        except BaseException:
            self._writer.submit(self._close_files)  # cancelled, it may be opening still
            self._end_threads()
            raise
        self._closed = None
        self._tasks.start(self._expire_forever())
        logger.info("store %s: %d records", self.path or "in memory", self._file.records)

    def _open_files(self) -> None:
        self._file.open()
        if self._ahead is None:
            return
        try:
            rows = self._ahead.open()
        except OSError as error:
            raise PacketStoreError(
                "open", f"store {self.path}: {error}; check data_dir and its permissions"
            ) from error
        for start in range(0, len(rows), BATCH_IN_THREAD):
            self._file.write(rows[start : start + BATCH_IN_THREAD], self._clock())
        self._ahead.clear()

    def _close_files(self) -> None:
        self._file.close()
        if self._ahead is not None:
            self._ahead.close()

    async def close(self) -> None:
        """Finish what was submitted, and close the file. May be called again."""
        if self._closing is None:
            if self._closed is not None:
                return
            self._closed = PacketStoreError("closed", "the store is closed")
            self._closing = self._loop.create_task(self._close())
        await see_through(self._closing)

    async def _close(self) -> None:
        self._schedule()
        await self._idle
        await self._turn.take()
        await self._tasks.end()
        if self._ahead is not None and self._failed is None:
            self._ahead.clear()
        # In the thread where a checkpoint may still be running.
        await self._loop.run_in_executor(self._keeper, self._close_files)
        self._end_threads()

    def _end_threads(self) -> None:
        for pool in (self._keeper, self._writer):
            pool.shutdown(wait=False)

    def _broke(self, error: BaseException) -> None:
        if not isinstance(error, PacketStoreError):
            logger.error("the store failed", exc_info=error)
            error = PacketStoreError("write", f"the store failed: {error!r}")
        self._fail(error)

    # --- packets

    def read(self, key: bytes) -> bytes | None:
        """The whole packet of a key, or None."""
        kept = self._file.read(key)
        accepted = self._accepted
        if accepted is None or accepted.public_key != key:
            return kept
        raw = accepted.to_bytes()
        return raw if kept is None or _recency(kept) < _recency(raw) else kept

    async def fetch(self, key: bytes) -> bytes | None:
        """The same."""
        return self.read(key)

    async def put(self, packet: Packet) -> bool:
        """Keep a packet if it is more recent; True when it is durable, False when it is older."""
        return await put_and_wait(self, packet)

    def submit(self, packet: Packet, done: Done, durable: Durable | None = None) -> None:
        """Do that, and tell `done`; see `PacketStore.submit`."""
        if (error := self._closed or self._failed) is not None:
            asyncio.get_running_loop().call_soon(tell, done, error)
            return
        early = durable is not None and not self._pending and self._accept(packet)
        self._pending.append((packet, done))
        if early and durable is not None:
            durable()
            tell(self.on_change, packet.public_key)
        if not self._due:
            self._schedule()

    def _accept(self, packet: Packet) -> bool:
        """Make a packet durable before it is committed, if that can be."""
        if self._ahead is None or self._accepted is not None:
            return False
        try:
            self._ahead.append(min(packet.timestamp, self._clock()), packet.to_bytes())
        except PacketStoreError as error:
            logger.debug("%s", error)  # the commit will tell whether it can be kept
            return False
        self._accepted = packet
        return True

    def _accepted_is_committed(self) -> None:
        assert self._ahead is not None
        self._accepted = None
        if self._ahead.size >= AHEAD_BYTES:
            try:
                self._ahead.clear()
            except PacketStoreError as error:
                self._fail(error)

    def counters(self) -> Mapping[str, int]:
        """Values of the metrics that begin with ``store_``."""
        counts = {f"store_packets_{name}": value for name, value in self._counts.items()}
        return {**counts, "store_commits": self._commits, "store_records": self._file.records}

    # --- writing

    def _schedule(self) -> None:
        """Let the next commit come, if there is something to write and nobody writes."""
        if self._due:
            return
        if self._pending:
            if self._turn.free and not self._log_is_full:
                self._due = True
                self._seen = len(self._pending)
                self._loop.call_soon(self._commit)
        elif self._closed is not None:
            self._idle.set()

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Nobody else writes within the block."""
        await self._turn.take()
        try:
            yield
        finally:
            self._turn.leave()
            self._schedule()

    def _commit(self) -> None:
        """Write the next batch, here or in the thread."""
        if not self._turn.free:
            self._due = False  # whoever writes schedules the next one
            return
        limit = BATCH_IN_THREAD if self._threaded else BATCH
        count = len(self._pending)
        if self._seen + MANY_MORE <= count < limit:
            self._seen = count
            self._loop.call_soon(self._commit)
            return
        batch, self._pending = self._pending[:limit], self._pending[limit:]
        now = self._clock()
        rows = [(p.public_key, min(p.timestamp, now), p.to_bytes()) for p, _ in batch]
        if self._threaded:
            self._tasks.start(self._commit_in_thread(batch, rows, now))
            return
        try:
            written = self._file.write(rows, now)
        except PacketStoreError as error:
            self._refused(batch, error)
        else:
            self._committed(batch, written)

    async def _commit_in_thread(self, batch: list[Submitted], rows: list[Row], now: int) -> None:
        async with self._alone():
            try:
                write = self._file.write
                written = await self._loop.run_in_executor(self._writer, write, rows, now)
            except PacketStoreError as error:
                self._refused(batch, error)
            else:
                self._committed(batch, written)

    def _committed(self, batch: list[Submitted], written: Written) -> None:
        self._busy_since = None
        counts = self._counts
        counts["inserted"] += written.inserted
        counts["updated"] += written.updated
        counts["evicted"] += len(written.evicted)
        for key in written.changed:
            tell(self.on_change, key)
        for key in written.evicted:
            tell(self.on_change, key)
        if batch[0][0] is self._accepted:  # it is always the first of those that wait
            self._accepted_is_committed()
        for (_, done), kept in zip(batch, written.kept, strict=True):
            tell(done, kept)
        self._wrote()
        self._due = False
        self._schedule()

    def _refused(self, batch: list[Submitted], error: PacketStoreError) -> None:
        """A batch was not written: try again, or give up for good."""
        if error.kind == "in_use":
            now = self._loop.time()
            if self._busy_since is None:
                self._busy_since = now
            if now - self._busy_since < BUSY_LIMIT_S:
                self._pending[:0] = batch
                self._loop.call_later(BUSY_RETRY_S, self._commit)
                return
        self._due = False
        for _, done in batch:
            tell(done, error)
        self._fail(error)

    def _fail(self, error: PacketStoreError) -> None:
        """Nothing can be written any more."""
        pending, self._pending = self._pending, []
        for _, done in pending:
            tell(done, error)
        if self._failed is None:
            self._failed = error
            logger.error("%s", error)
            tell(self.on_failure, error)
        self._schedule()

    # --- what goes

    async def _expire_forever(self) -> None:
        while self._failed is None:
            await asyncio.sleep(self.retention.interval)
            await self.expire()

    async def expire(self) -> int:
        """Remove what is too old or too much now, in slices; returns how many.

        Slices take at most half of the loop's time.
        """
        total = 0
        while self._failed is None and self._closed is None:
            begin = time.monotonic()
            before = self.retention.expired_before(self._clock())
            removed = await self._remove("expired", self._file.expire, before, SLICE)
            removed += await self._remove("evicted", self._file.evict, SLICE)
            if not removed:
                break
            total += removed
            await asyncio.sleep(time.monotonic() - begin)
        return total

    async def _remove(self, why: str, work: Callable[..., list[bytes]], *args: int) -> int:
        async with self._alone():
            try:
                if self._threaded:
                    keys = await self._loop.run_in_executor(self._writer, work, *args)
                else:
                    keys = work(*args)
            except PacketStoreError as error:
                if error.kind == "in_use":
                    return 0  # at the next look
                raise
            self._counts[why] += len(keys)
            for key in keys:
                tell(self.on_change, key)
            self._wrote()
            return len(keys)

    # --- the log

    def _wrote(self) -> None:
        """Look after the log from time to time."""
        self._commits += 1
        if self._commits % LOOK_EVERY:
            return
        size = self._file.log_bytes()
        if size > LOG_LIMIT and not self._checkpointing:
            self._checkpointing = True
            self._tasks.start(self._checkpoint())
        self._log_is_full = size > LOG_HOLD and self._checkpointing

    async def _checkpoint(self) -> None:
        """Bring the log into the file: most of it beside the commits, the rest between two."""
        run = self._loop.run_in_executor
        try:
            await run(self._keeper, self._file.checkpoint, "PASSIVE")
            async with self._alone():
                emptied = await run(self._keeper, self._file.checkpoint, "TRUNCATE")
            if not emptied:
                logger.warning(
                    "store %s: another process reads the file, so that its log grows", self.path
                )
        finally:
            self._checkpointing = self._log_is_full = False
            self._schedule()


def _recency(packet: bytes) -> bytes:
    return packet[RECENCY_FROM - 1 :]


def _microseconds() -> int:
    return time.time_ns() // 1000


def _be_nice() -> None:
    """Let the calling thread leave the processor to the loop, where threads have priorities."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
