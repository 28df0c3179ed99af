"""What a store says to PostgreSQL, and what its errors mean."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

import asyncpg

from ..errors import PacketStoreError
from .store import RECENCY_FROM, SETTLED_AFTER_S

__all__ = [
    "CHANNEL",
    "COUNT",
    "GET",
    "JANITOR_LOCK",
    "KEEP",
    "KEYS_PER_MESSAGE",
    "PUT",
    "REMOVE",
    "TROUBLE",
    "explained",
    "make_tables",
    "place",
]

SCHEMA_VERSION: Final = 1
CHANNEL: Final = "iroh_dns_packets"
# A notification takes less than 8000 bytes: this many keys of 44 symbols each, and who sent it.
KEYS_PER_MESSAGE: Final = 100
# Numbers of advisory locks: one server makes tables, one removes what goes.
_SCHEMA_LOCK: Final = 0x69726F6801
JANITOR_LOCK: Final = 0x69726F6802

TROUBLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server that says good-bye between question and answer
)
"""What goes wrong with a database: it is away, shutting down, full, or answers too late."""

_SCHEMA: Final = f"""
CREATE TABLE iroh_dns_schema (version integer NOT NULL);
INSERT INTO iroh_dns_schema VALUES ({SCHEMA_VERSION});
CREATE TABLE iroh_dns_packets (
    key bytea PRIMARY KEY,
    since bigint NOT NULL,
    published bigint NOT NULL,
    settled boolean NOT NULL,
    packet bytea NOT NULL
);
ALTER TABLE iroh_dns_packets ALTER COLUMN packet SET STORAGE PLAIN;
CREATE INDEX iroh_dns_packets_by_age ON iroh_dns_packets (settled, published);
"""


def _telling(change: str) -> str:
    """A statement whose changes the other servers hear of: $1 who changed it."""
    return f"""
WITH changed AS ({change}), told AS (
    SELECT pg_notify('{CHANNEL}', $1::text || string_agg(encode(key, 'base64'), ',')) FROM changed
    HAVING count(*) > 0
)
SELECT key, inserted, (SELECT count(*) FROM told) FROM changed
"""


# $2 keys, $3 times that publishes count from, $4 packets, $5 now. In the order of keys, so that two
# servers never wait for each other.
PUT: Final = _telling(f"""
    INSERT INTO iroh_dns_packets AS old (key, since, published, settled, packet)
    SELECT given.key, $5, given.published, false, given.packet
    FROM unnest($2::bytea[], $3::bigint[], $4::bytea[]) AS given (key, published, packet)
    ORDER BY given.key
    ON CONFLICT (key) DO UPDATE SET
        packet = excluded.packet,
        published = excluded.published,
        settled = old.settled OR excluded.since - old.since >= {int(SETTLED_AFTER_S * 1e6)}
    WHERE substring(excluded.packet FROM {RECENCY_FROM}) > substring(old.packet FROM {RECENCY_FROM})
    RETURNING key, xmax = 0 AS inserted
""")
# $1 keys: what is kept instead of a packet that was not taken.
KEEP: Final = f"""
SELECT key, substring(packet FROM {RECENCY_FROM}) AS recency FROM iroh_dns_packets
WHERE key = ANY ($1::bytea[])
"""
GET: Final = "SELECT key, packet FROM iroh_dns_packets WHERE key = ANY ($1::bytea[])"
COUNT: Final = """
SELECT count(*) AS records, count(*) FILTER (WHERE NOT settled) AS newcomers FROM iroh_dns_packets
"""
_OLDEST: Final = """
    DELETE FROM iroh_dns_packets WHERE key IN (
        SELECT key FROM iroh_dns_packets WHERE settled = $2 AND published < $3
        ORDER BY published LIMIT $4 FOR UPDATE SKIP LOCKED
    ) RETURNING key, false AS inserted
"""
REMOVE: Final = _telling(_OLDEST)  # $2 which, $3 before when, $4 how many


async def make_tables(connection: asyncpg.Connection) -> None:
    """Make the tables if there are none; one server at a time."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
        there = await connection.fetchval("SELECT to_regclass('iroh_dns_schema') IS NOT NULL")
        if not there:
            await connection.execute(_SCHEMA)
            return
        version = await connection.fetchval("SELECT max(version) FROM iroh_dns_schema")
    if version != SCHEMA_VERSION:
        raise PacketStoreError(
            "version",
            f"its tables have layout {version}, this version reads {SCHEMA_VERSION}; "
            "update this server, or give it a database of its own",
        )


def place(dsn: str) -> str:
    """Where a database is, for people: nothing secret of its URL."""
    try:
        parts = urlsplit(dsn)
        host = parts.hostname or "local"
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "PostgreSQL"
    return f"PostgreSQL {parts.path.lstrip('/') or 'database'} at {host}{port}"


def explained(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = str(error).strip().partition("\n")[0]
    return text or (
        "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    )
