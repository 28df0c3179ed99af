"""The PostgreSQL store: the same rules, several servers on one database, and a database that goes away."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from postgres_kit import Postgres
from store_kit import SECOND, START, Clock, FakePacket, Model, key

from iroh_fast.dns_server import _postgres_listener, _postgres_reads, postgres
from iroh_fast.dns_server.postgres import PostgresStore
from iroh_fast.dns_server.store import Retention
from iroh_fast.errors import ConfigError, PacketStoreError

QUIET = Retention(interval=1e6)


@asynccontextmanager
async def opened(dsn: str, **options: object) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(dsn, **{"retention": QUIET, **options})
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def collect(answers: list[object], *tags: object) -> Callable[[object], None]:
    return lambda answer: answers.append((*tags, answer) if tags else answer)


async def until(condition: Callable[[], object]) -> None:
    """Wait for something; the limit of the test's time is the limit."""
    while not condition():
        await asyncio.sleep(0.005)


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


# --- packets


async def test_store_keeps_the_most_recent_packet_of_a_key(database: str) -> None:
    async with opened(database) as store:
        first = FakePacket(key(1), START, b"b")
        assert await store.fetch(key(1)) is None
        assert await store.put(first)
        assert await store.fetch(key(1)) == first.to_bytes()
        assert not await store.put(FakePacket(key(1), START - 1, b"z"))  # older
        assert not await store.put(FakePacket(key(1), START, b"a"))  # smaller
        assert await store.put(first)  # the same
        for newer in (FakePacket(key(1), START, b"ba"), FakePacket(key(1), START + 1, b"")):
            assert await store.put(newer)
            assert await store.fetch(key(1)) == newer.to_bytes()
        counts = store.counters()
        assert (counts["store_packets_inserted"], counts["store_packets_updated"]) == (1, 2)
    async with opened(database) as store:
        assert await store.fetch(key(1)) == newer.to_bytes()


async def test_many_packets_of_one_turn_and_several_of_one_key(database: str) -> None:
    async with opened(database) as store:
        answers: dict[int, object] = {}
        for n in range(1300):
            # The last 300 are older than all others.
            stamp = START + n if n < 1000 else START - 1
            store.submit(FakePacket(key(n % 300), stamp), lambda a, n=n: answers.update({n: a}))
        await until(lambda: len(answers) == 1300)
        # Statements on different connections may overtake each other: of a key's packets an older one
        # may be kept for a moment, and the newest one always is in the end.
        for n in range(300):
            newest = max(m for m in range(1000) if m % 300 == n)
            assert answers[newest] is True
            assert await store.fetch(key(n)) == FakePacket(key(n), START + newest).to_bytes()


async def test_questions_of_one_turn_go_together(database: str) -> None:
    async with opened(database) as store:
        await asyncio.gather(*(store.put(FakePacket(key(n), START)) for n in range(500)))
        got = await asyncio.gather(*(store.fetch(key(n)) for n in range(600)))
        assert got == [FakePacket(key(n), START).to_bytes() for n in range(500)] + [None] * 100


async def test_store_does_what_the_rules_say(database: str) -> None:
    """Random publishes over a store that is full again and again, against a model."""
    clock, rng = Clock(), random.Random(7)
    retention = Retention(max_records=10, max_age=300.0, interval=1e6)
    model = Model(retention)
    async with opened(database, retention=retention, clock=clock) as store:
        for number in range(150):
            clock.now += 1
            packet = FakePacket(key(rng.randrange(25)), clock.now + rng.randrange(-SECOND, SECOND))
            assert await store.put(packet) == model.put(packet, clock.now), number
            if rng.random() < 0.2:
                clock.sleep(rng.randrange(90))
                model.expire(clock.now)
                model.make_room()
                await store.expire()
                for n in range(25):
                    kept = model.records.get(key(n))
                    assert await store.fetch(key(n)) == (kept and kept.packet.to_bytes()), n
                assert store.counters()["store_records"] == len(model.records)
        counts = store.counters()
        assert counts["store_packets_evicted"] > 0 and counts["store_packets_expired"] > 0


async def test_flood_of_new_keys_displaces_no_endpoint_that_publishes_regularly(
    database: str,
) -> None:
    clock = Clock()
    retention = Retention(max_records=200, interval=1e6)
    regulars = [key(n) for n in range(150)]
    async with opened(database, retention=retention, clock=clock) as store:

        async def publish(keys: list[bytes]) -> None:
            await asyncio.gather(*(store.put(FakePacket(one, clock.now)) for one in keys))

        for round_ in range(4):
            await publish(regulars)
            if round_ > 1:
                await publish([key(1000 * round_ + n) for n in range(400)])
                await store.expire()
                assert store.counters()["store_records"] == 200
            clock.sleep(300)
        assert None not in await asyncio.gather(*map(store.fetch, regulars))


async def test_store_removes_what_is_old_by_itself_and_tells_everybody(database: str) -> None:
    clock = Clock()
    retention = Retention(max_age=100.0, interval=0.02)
    async with (
        opened(database, clock=clock, retention=retention) as first,
        opened(database) as second,
    ):
        everything = {key(n) for n in range(250)}  # more than one message tells of
        told: set[bytes | None] = set()
        second.on_change = told.add
        for one in everything:
            first.submit(FakePacket(one, clock.now), lambda _: None)
        await until(lambda: everything <= told)
        told.clear()
        clock.sleep(102)
        await until(lambda: everything <= told)
        assert set(await asyncio.gather(*map(second.fetch, everything))) == {None}


# --- several servers


async def test_publish_on_one_server_is_heard_of_by_the_others(database: str) -> None:
    async with opened(database) as first, opened(database) as second, opened(database) as third:
        told: dict[str, list[bytes | None]] = {"first": [], "second": [], "third": []}
        for store, name in ((first, "first"), (second, "second"), (third, "third")):
            store.on_change = told[name].append
            assert store.coherent
        packet = FakePacket(key(1), START)
        assert await first.put(packet)
        assert told["first"] == [key(1)]
        await until(lambda: key(1) in told["second"] and key(1) in told["third"])
        assert await second.fetch(key(1)) == await third.fetch(key(1)) == packet.to_bytes()
        assert not await second.put(FakePacket(key(1), START - 1))
        answers: list[object] = []
        for n in range(300):
            second.submit(FakePacket(key(n), START + 1), collect(answers))
        await until(lambda: len(answers) == 300)
        await until(lambda: {key(n) for n in range(300)} <= set(told["first"]))
        assert first.coherent and None not in told["first"]


async def test_answer_that_changes_on_its_way_is_asked_for_again(database: str) -> None:
    async with opened(database) as first, opened(database) as second:
        assert await first.put(FakePacket(key(1), START))
        real = second._reads._read_until_answered
        asked = []

        async def slow(keys: list[bytes]) -> object:
            answer = await real(keys)
            asked.append(keys)
            if (
                len(asked) == 1
            ):  # another server publishes, and that is heard of before the answer is
                heard = asyncio.Event()
                second.on_change = lambda _: heard.set()
                assert await first.put(FakePacket(key(1), START + 1))
                await heard.wait()
            return answer

        second._reads._read_until_answered = slow  # type: ignore[method-assign]
        assert await second.fetch(key(1)) == FakePacket(key(1), START + 1).to_bytes()
        assert len(asked) == 2


async def test_lost_listener_forgets_everything_and_comes_back(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgres_listener, "FIRST_DELAY_S", 0.3)
    async with opened(database) as first, opened(database) as second:
        told: list[bytes | None] = []
        second.on_change = told.append
        await execute(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE 'LISTEN%'",
        )
        await until(lambda: not second.coherent)
        assert told[-1] is None
        # It publishes and answers nevertheless; what others publish now it does not hear of.
        assert await second.put(FakePacket(key(2), START))
        assert await first.put(FakePacket(key(1), START))
        assert await second.fetch(key(1)) is not None
        told.clear()
        await until(lambda: second.coherent)
        assert told[-1] is None
        await until(lambda: first.coherent)
        assert await first.put(FakePacket(key(3), START))
        await until(lambda: key(3) in told)


async def test_message_of_another_program_forgets_everything(database: str) -> None:
    async with opened(database) as store:
        told: list[bytes | None] = []
        store.on_change = told.append
        for message in ("hello", "a:b:c", "x:%%%"):
            told.clear()
            await execute(database, f"SELECT pg_notify('iroh_dns_packets', '{message}')")
            await until(lambda: told)
        assert told == [None]


async def test_two_servers_write_the_same_keys_at_once(database: str) -> None:
    async with opened(database) as first, opened(database) as second:
        answers: list[object] = []
        rng = random.Random(1)
        for stamp in range(3000):
            store = rng.choice((first, second))
            store.submit(FakePacket(key(rng.randrange(50)), START + stamp), collect(answers))
            if stamp % 50 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(answers) == 3000)
        assert set(answers) <= {True, False}
        await first.put(FakePacket(key(0), START + 9999))
        for n in range(1, 50):
            assert await first.fetch(key(n)) == await second.fetch(key(n)) is not None


async def test_one_server_at_a_time_removes(database: str) -> None:
    clock = Clock()
    async with opened(database, clock=clock) as first, opened(database, clock=clock) as second:
        await asyncio.gather(*(first.put(FakePacket(key(n), clock.now)) for n in range(500)))
        clock.sleep(8 * 86400)
        removed = await asyncio.gather(first.expire(), second.expire())
        assert sum(removed) == 500


# --- a server that dies

WRITER = """
    import asyncio, os, random, sys
    from store_kit import FakePacket, START, key
    from iroh_fast.dns_server.postgres import PostgresStore

    async def main(dsn, first):
        store = PostgresStore(dsn)
        await store.open()
        said = []
        n = first
        def kept(n):
            return lambda answer: said.append(b"%d %r\\n" % (n, answer))
        while True:
            for _ in range(random.choice((1, 1, 3, 40))):
                store.submit(FakePacket(key(n), START, b"x" * random.randrange(900)), kept(n))
                n += 1
            while not said:
                await asyncio.sleep(0)
            os.write(1, b"".join(said))
            said.clear()

    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def writer(dsn: str, first: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), dsn, str(first)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )


async def test_killed_server_loses_nothing_it_accepted_and_disturbs_no_other(database: str) -> None:
    async with opened(database) as store:
        for round_ in range(3):
            doomed = writer(database, round_ * 100_000)
            assert doomed.stdout is not None
            said = [await asyncio.to_thread(doomed.stdout.readline)]
            accepted: list[int] = []
            for n in range(random.randrange(5, 40)):  # the other server goes on
                number = 50_000 + 100_000 * round_ + n
                assert await store.put(FakePacket(key(number), START))
                accepted.append(number)
            doomed.send_signal(signal.SIGKILL)
            said += await asyncio.to_thread(doomed.stdout.readlines)
            doomed.stdout.close()
            doomed.wait()
            for line in said:
                number, answer = line.split()
                assert answer == b"True"
                accepted.append(int(number))
            packets = await asyncio.gather(*(store.fetch(key(n)) for n in accepted))
            assert None not in packets
            assert await store.put(FakePacket(key(round_ * 100_000), START + 1))


# --- a database that goes away


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT])
async def test_database_restarted_under_load_loses_nothing_accepted(
    own_postgres: Postgres, how: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PUT_TIMEOUT_S", 120.0)  # however slow the machine is
    dsn = own_postgres.create_database("x")
    async with opened(dsn) as store:
        answers: dict[int, object] = {}
        told: list[bytes | None] = []
        store.on_change = told.append
        number = 0
        stop = False

        async def load() -> None:
            nonlocal number
            while not stop:
                n, number = number, number + 1
                try:
                    answers[n] = await store.put(FakePacket(key(n), START))
                except PacketStoreError as error:
                    answers[n] = error.kind

        loads = [asyncio.ensure_future(load()) for _ in range(32)]
        await until(lambda: len(answers) > 200)
        await asyncio.to_thread(own_postgres.stop, how)
        await until(lambda: not store.coherent)
        assert None in told
        before = len(answers)
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: store.coherent and len(answers) > before + 200)
        stop = True
        await asyncio.gather(*loads)
        # Packets waited for the database meanwhile: none was refused.
        assert set(answers.values()) == {True}
        assert None not in await asyncio.gather(*(store.fetch(key(n)) for n in answers))


async def test_database_that_is_away_too_long_refuses_and_works_again(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PUT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(_postgres_reads, "FETCH_TIMEOUT_S", 0.2)
    dsn = own_postgres.create_database("x")
    async with opened(dsn) as store:
        failures: list[PacketStoreError] = []
        store.on_failure = failures.append
        assert await store.put(FakePacket(key(1), START))
        await asyncio.to_thread(own_postgres.stop)
        for call in (store.put(FakePacket(key(2), START)), store.fetch(key(1))):
            with pytest.raises(PacketStoreError) as caught:
                await call
            assert caught.value.kind == "unavailable"
        monkeypatch.setattr(postgres, "MAX_WAITING", 0)
        with pytest.raises(PacketStoreError, match="too many"):
            await store.put(FakePacket(key(2), START))
        monkeypatch.undo()
        await asyncio.to_thread(own_postgres.start)
        assert await store.put(FakePacket(key(2), START))
        assert await store.fetch(key(1)) == FakePacket(key(1), START).to_bytes()
        # A database that is away is no reason to stop: the next one may be up first.
        assert failures == []


async def test_closing_while_the_database_is_away_ends(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PUT_TIMEOUT_S", 0.2)
    store = PostgresStore(own_postgres.create_database("x"), retention=QUIET)
    await store.open()
    await asyncio.to_thread(own_postgres.stop)
    answers: list[object] = []
    store.submit(FakePacket(key(1), START), collect(answers))
    asking = asyncio.ensure_future(store.fetch(key(1)))
    await asyncio.sleep(0)
    await store.close()
    assert [a.kind for a in answers] == ["unavailable"]  # type: ignore[attr-defined]
    with pytest.raises(PacketStoreError):
        await asking


# --- beginning


async def error_of(dsn: str) -> PacketStoreError:
    store = PostgresStore(dsn)
    with pytest.raises(PacketStoreError) as caught:
        await store.open()
    await store.close()
    assert "secret" not in str(caught.value)
    return caught.value


async def test_database_that_cannot_be_reached_is_told_without_its_password(
    postgres: Postgres,
) -> None:
    nowhere = await error_of("postgresql://me:secret@127.0.0.1:1/x")
    assert nowhere.kind == "open" and "PostgreSQL x at 127.0.0.1:1" in str(nowhere)
    missing = await error_of(f"postgresql://postgres:secret@127.0.0.1:{postgres.port}/nothing")
    assert missing.kind == "open" and "nothing" in str(missing)
    assert (await error_of("http://me:secret@127.0.0.1/x")).kind == "open"


async def test_tables_of_a_newer_version_are_left_alone(database: str) -> None:
    async with opened(database):
        pass
    await execute(database, "UPDATE iroh_dns_schema SET version = 2")
    error = await error_of(database)
    assert error.kind == "version" and "layout 2" in str(error)


async def test_servers_that_start_at_once_make_the_tables_once(database: str) -> None:
    stores = [PostgresStore(database, retention=QUIET) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    assert await stores[0].put(FakePacket(key(1), START))
    assert await stores[4].fetch(key(1)) is not None
    await asyncio.gather(*(store.close() for store in stores))


async def test_store_after_its_end_and_before_its_beginning(database: str) -> None:
    store = PostgresStore(database)
    for call in (store.put(FakePacket(key(1), START)), store.fetch(key(1))):
        with pytest.raises(PacketStoreError, match="not open"):
            await call
    await store.close()
    await store.open()
    with pytest.raises(RuntimeError, match="once"):
        await store.open()
    await asyncio.gather(store.close(), store.close())
    for call in (store.put(FakePacket(key(1), START)), store.fetch(key(1))):
        with pytest.raises(PacketStoreError) as caught:
            await call
        assert caught.value.kind == "closed"
    with pytest.raises(ConfigError, match=r"zone_store\.postgres"):
        PostgresStore("")
