"""The SQLite file of a store: its layout, and each thing done to it. No loop, no thread, no clock.

Numbers that decided the layout (µs, one core, 1 million records, page cache warm): a row keyed by
rowid with an index of keys takes 29 for an update in a transaction of its own, 16 in one of 64; a
table ordered by keys 29 and 19, with rows half as dense and lookups as slow. Pages of 2 KiB write
half of what 4 KiB do.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

from ..errors import PacketStoreError, PacketStoreErrorKind
from .store import RECENCY_FROM, SETTLED, SETTLED_AFTER_S, Retention

__all__ = ["CheckpointMode", "Row", "SqliteFile", "Written"]

APPLICATION_ID: Final = 0x69726F68  # "iroh"
SCHEMA_VERSION: Final = 1
PAGE_BYTES: Final = 2048
CACHE_KIB: Final = 32 * 1024

CheckpointMode = Literal["PASSIVE", "TRUNCATE"]

Row: TypeAlias = tuple[bytes, int, bytes]
"""Key, time that the publish counts from (microseconds), whole packet."""

# `since` is when the first packet came, while the record is a newcomer; its sign and two small
# numbers tell the writer, who gets it back, what happened: above 1 new, below 0 replaced, 1 just
# settled, 0 settled before.
_SCHEMA: Final = f"""
CREATE TABLE packets (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    since INTEGER NOT NULL,
    rank INTEGER NOT NULL,
    packet BLOB NOT NULL
);
CREATE INDEX packets_by_rank ON packets (rank);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_SETTLES: Final = (
    f"(rank >= {SETTLED} OR excluded.since - abs(since) >= {int(SETTLED_AFTER_S * 1e6)})"
)
_PUT: Final = f"""
INSERT INTO packets (key, since, rank, packet) VALUES (?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
    since = CASE WHEN rank >= {SETTLED} THEN 0 WHEN {_SETTLES} THEN 1 ELSE -abs(since) END,
    rank = excluded.rank + CASE WHEN {_SETTLES} THEN {SETTLED} ELSE 0 END,
    packet = excluded.packet
WHERE substr(excluded.packet, {RECENCY_FROM}) > substr(packet, {RECENCY_FROM})
RETURNING since
"""
_GET: Final = "SELECT packet FROM packets WHERE key = ?"
_COUNT: Final = f"SELECT count(*), count(*) FILTER (WHERE rank < {SETTLED}) FROM packets"
_REMOVE: Final = """
DELETE FROM packets WHERE id IN (
    SELECT id FROM packets WHERE rank >= ? AND rank < ? ORDER BY rank LIMIT ?
) RETURNING key
"""

_KINDS: Final[dict[int, PacketStoreErrorKind]] = {
    sqlite3.SQLITE_CORRUPT: "corrupt",
    sqlite3.SQLITE_NOTADB: "corrupt",
    sqlite3.SQLITE_BUSY: "in_use",
    sqlite3.SQLITE_LOCKED: "in_use",
    sqlite3.SQLITE_CANTOPEN: "open",
    sqlite3.SQLITE_PERM: "open",
}
_ADVICE: Final[dict[PacketStoreErrorKind, str]] = {
    "corrupt": "move it away to begin with an empty store, or bring back a copy",
    "in_use": "another process has it; stop that, or give this server another data_dir",
    "open": "check data_dir and its permissions",
    "write": "check the disk: full, read-only or broken",
}


@dataclass(slots=True)
class Written:
    """What became of a batch.

    Attributes
    ----------
    kept : list of bool
        Of each packet: whether it, or one that says the same, is kept.
    changed : list of bytes
        Keys that have another packet than before.
    evicted : list of bytes
        Keys that had to make room.
    inserted, updated : int
        How many are new, and replace an older packet.
    """

    kept: list[bool] = field(default_factory=list)
    changed: list[bytes] = field(default_factory=list)
    evicted: list[bytes] = field(default_factory=list)
    inserted: int = 0
    updated: int = 0


class SqliteFile:
    """A file of packets, open for one process.

    Parameters
    ----------
    path : Path, optional
        None: in memory.
    retention : Retention
    flush : bool
        Whether each commit waits for the disk.
    """

    def __init__(self, path: Path | None, retention: Retention, *, flush: bool) -> None:
        self.records = 0
        self.newcomers = 0
        self._path = path
        self._retention = retention
        self._flush = flush
        self._connections: list[sqlite3.Connection] = []
        self._get: sqlite3.Cursor | None = None

    # --- begin and end

    def open(self) -> None:
        """Open or make the file; PacketStoreError says what is wrong with it."""
        try:
            with self._explained():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if self._path is not None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise self._error("open", str(error)) from None
            self._lock(self._path)
        self._writer = self._connect()
        self._writer.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        self._check_layout(self._writer)
        # A reader of its own where commits run in a thread; otherwise the cache of the writer helps.
        self._reader = self._connect() if self._flush and self._path is not None else self._writer
        # In a thread of its own, which may wait for a reader to end.
        self._keeper = self._connect(0.1) if self._path is not None else self._writer
        self._put = self._writer.cursor()
        self._get = self._reader.cursor()
        self.records, self.newcomers = self._writer.execute(_COUNT).fetchone()
        if self._path is not None:
            self.checkpoint("TRUNCATE")  # what a killed process has left

    def _connect(self, timeout: float = 0.0) -> sqlite3.Connection:
        """A connection; the loop does not wait for locks: ``"in_use"`` is tried again later."""
        connection = sqlite3.connect(
            ":memory:" if self._path is None else self._path,
            timeout=timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connections.append(connection)
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._flush else 'NORMAL'}")
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    def _lock(self, path: Path) -> None:
        """Keep other processes out: theirs would be a second opinion on what is in the file."""
        lock = sqlite3.connect(
            path.with_name(path.name + ".lock"), timeout=0.0, isolation_level=None,
            check_same_thread=False,
        )  # fmt: skip
        self._connections.append(lock)
        lock.execute("BEGIN EXCLUSIVE")

    def _check_layout(self, connection: sqlite3.Connection) -> None:
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        made_by = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if tables and made_by != APPLICATION_ID:
            raise self._error("corrupt", "it is a database of another program")
        if version > SCHEMA_VERSION:
            raise PacketStoreError(
                "version",
                f"{self._path} was made by a newer version: its layout is {version}, "
                f"this version reads up to {SCHEMA_VERSION}; update, or begin with an empty data_dir",
            )
        if self._path is not None:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise self._error(
                    "open", "its file system cannot do write-ahead logs; use a local disk"
                )
        if not tables:
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")

    def close(self) -> None:
        """Close; what was committed is in the file itself then."""
        while self._connections:
            with suppress(sqlite3.Error):
                self._connections.pop().close()

    # --- errors

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> PacketStoreError:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # of the module itself: a connection that is closed
            kind: PacketStoreErrorKind = "closed"
        else:
            kind = _KINDS.get(code & 0xFF, "write")
        return self._error(kind, str(error))

    def _error(self, kind: PacketStoreErrorKind, what: str) -> PacketStoreError:
        advice = f"; {_ADVICE[kind]}" if kind in _ADVICE else ""
        return PacketStoreError(kind, f"store {self._path or 'in memory'}: {what}{advice}")

    # --- packets

    def read(self, key: bytes) -> bytes | None:
        """The packet of a key, or None."""
        if self._get is None:
            raise PacketStoreError("closed", "the store is not open")
        try:
            row = self._get.execute(_GET, (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._translated(error) from error
        return None if row is None else row[0]

    def write(self, batch: Sequence[Row], now: int) -> Written:
        """Take packets in one transaction, all or none; make room for them.

        Parameters
        ----------
        now : microseconds.

        Raises
        ------
        PacketStoreError
            Nothing of the batch is kept. ``"in_use"``: may work later.
        """
        written = Written()
        alone = len(batch) == 1 and self.records < self._retention.max_records
        with self._transaction(explicit=not alone):  # a statement alone is one
            for row in batch:
                self._take(row, now, written)
            if (surplus := self.records - self._retention.max_records) > 0:
                written.evicted = self._evict(surplus)
        return written

    def _take(self, row: Row, now: int, written: Written) -> None:
        key, published, packet = row
        got = self._put.execute(_PUT, (key, now, published, packet)).fetchone()
        if got is None:
            start = RECENCY_FROM - 1
            kept = self._put.execute(_GET, (key,)).fetchone()[0]
            written.kept.append(kept[start:] == packet[start:])
            return
        since = got[0]
        if since > 1:
            written.inserted += 1
            self.records += 1
            self.newcomers += 1
        else:
            written.updated += 1
            if since == 1:
                self.newcomers -= 1
        written.kept.append(True)
        written.changed.append(key)

    # --- what goes

    def evict(self, limit: int) -> list[bytes]:
        """Remove up to `limit` records beyond the bound; returns their keys."""
        surplus = min(limit, self.records - self._retention.max_records)
        if surplus <= 0:
            return []
        with self._transaction():
            return self._evict(surplus)

    def expire(self, before: int, limit: int) -> list[bytes]:
        """Remove up to `limit` records published before a time (microseconds); returns their keys."""
        before = max(before, 0)
        with self._transaction():
            keys = self._remove(0, before, limit)
            if len(keys) < limit:
                keys += self._remove(SETTLED, SETTLED + before, limit - len(keys))
        return keys

    def _evict(self, surplus: int) -> list[bytes]:
        beyond = max(0, self.newcomers - self._retention.newcomers)
        keys = self._remove(0, SETTLED, min(surplus, beyond)) if beyond else []
        if len(keys) < surplus:
            keys += self._remove(SETTLED, SETTLED * 2, surplus - len(keys))
        return keys

    def _remove(self, low: int, high: int, limit: int) -> list[bytes]:
        keys = [row[0] for row in self._put.execute(_REMOVE, (low, high, limit)).fetchall()]
        self.records -= len(keys)
        if low < SETTLED:
            self.newcomers -= len(keys)
        return keys

    @contextmanager
    def _transaction(self, *, explicit: bool = True) -> Iterator[None]:
        """All of the block or nothing, the counts included."""
        counts = self.records, self.newcomers
        try:
            if explicit:
                self._put.execute("BEGIN IMMEDIATE")
            yield
            if explicit:
                self._put.execute("COMMIT")
        except BaseException as error:
            self._undo(counts)
            if isinstance(error, sqlite3.Error):
                raise self._translated(error) from error
            raise

    def _undo(self, counts: tuple[int, int]) -> None:
        self.records, self.newcomers = counts
        if self._writer.in_transaction:
            with suppress(sqlite3.Error):
                self._put.execute("ROLLBACK")

    # --- the write-ahead log

    def log_bytes(self) -> int:
        """Size of what is committed, but not in the file itself."""
        if self._path is None:
            return 0
        try:
            return os.stat(f"{self._path}-wal").st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, mode: CheckpointMode) -> bool:
        """Bring the log into the file.

        ``"PASSIVE"`` brings what is there while others write; ``"TRUNCATE"`` the rest, and empties
        the log, while nobody writes. Returns whether it could: a reader of another process may be
        in the way.
        """
        with self._explained():
            busy: int = self._keeper.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[0]
        return not busy
