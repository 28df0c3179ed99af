"""The SQLite store: what it keeps, what goes, and what it does when the disk does not."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_kit import SECOND, START, Clock, FakePacket, Model, key

from iroh_fast.dns_server import sqlite
from iroh_fast.dns_server._ahead import Ahead
from iroh_fast.dns_server.sqlite import Durability, SqliteStore
from iroh_fast.dns_server.store import Retention
from iroh_fast.errors import ConfigError, PacketStoreError

DURABILITIES: tuple[Durability, ...] = ("process", "power")


@asynccontextmanager
async def opened(path: Path | None = None, **options: object) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def collect(answers: list[object], *tags: object) -> Callable[[object], None]:
    return lambda answer: answers.append((*tags, answer) if tags else answer)


# --- packets


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_store_keeps_the_most_recent_packet_of_a_key(
    tmp_path: Path, durability: Durability
) -> None:
    async with opened(tmp_path / "deep" / "x.sqlite", durability=durability) as store:
        first = FakePacket(key(1), START, b"b")
        assert store.read(key(1)) is None
        assert await store.put(first)
        assert store.read(key(1)) == await store.fetch(key(1)) == first.to_bytes()
        assert not await store.put(FakePacket(key(1), START - 1, b"z"))  # older
        assert not await store.put(FakePacket(key(1), START, b"a"))  # smaller
        assert await store.put(first)  # the same
        assert store.read(key(1)) == first.to_bytes()
        for newer in (FakePacket(key(1), START, b"ba"), FakePacket(key(1), START + 1, b"")):
            assert await store.put(newer)
            assert store.read(key(1)) == newer.to_bytes()
        assert store.read(key(2)) is None
        counts = store.counters()
        assert (counts["store_packets_inserted"], counts["store_packets_updated"]) == (1, 2)
        assert counts["store_records"] == 1


async def test_store_in_memory_works_without_any_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with opened() as store:
        assert await store.put(FakePacket(key(1), START))
        assert store.read(key(1)) is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_store_has_everything_after_it_was_closed_and_opened(
    tmp_path: Path, durability: Durability
) -> None:
    packets = [FakePacket(key(n), START + n, b"x" * (n % 1000)) for n in range(1000)]
    async with opened(tmp_path / "x", durability=durability) as store:
        answers: list[object] = []
        for packet in packets:
            store.submit(packet, collect(answers))
        # `close` finishes what was submitted.
    assert answers == [True] * 1000
    async with opened(tmp_path / "x") as store:
        assert [store.read(p.public_key) for p in packets] == [p.to_bytes() for p in packets]
        assert store.counters()["store_records"] == 1000


async def test_store_commits_once_for_all_of_one_turn(tmp_path: Path) -> None:
    async with opened(tmp_path / "x") as store:
        before = store.counters()["store_commits"]
        answers: list[object] = []
        for n in range(sqlite.BATCH):
            store.submit(FakePacket(key(n), START), collect(answers, n))
        assert answers == []  # never at once
        await asyncio.sleep(0)
        assert answers == [(n, True) for n in range(sqlite.BATCH)]
        assert store.counters()["store_commits"] == before + 1
        for n in range(10 * sqlite.BATCH):  # more than a turn takes
            store.submit(FakePacket(key(n), START + 1), collect(answers, n))
        await asyncio.sleep(0)
        assert len(answers) == 2 * sqlite.BATCH
        await store.put(FakePacket(key(0), START + 2))
        assert len(answers) == 11 * sqlite.BATCH


async def test_store_waits_for_more_while_many_more_come_and_no_longer() -> None:
    async with opened() as store:
        answers: list[object] = []
        for turn in range(1, 4):
            for n in range(sqlite.MANY_MORE + 1):
                store.submit(FakePacket(key(10 * turn + n), START), collect(answers))
            await asyncio.sleep(0)
            assert answers == []
        await asyncio.sleep(0)  # nothing came
        assert len(answers) == 3 * (sqlite.MANY_MORE + 1)
        assert store.counters()["store_commits"] == 1
        for turn in range(3):  # few come in each turn
            answers.clear()
            for n in range(sqlite.MANY_MORE):
                store.submit(FakePacket(key(10 * turn + n), START + 1), collect(answers))
            await asyncio.sleep(0)
            assert len(answers) == sqlite.MANY_MORE


async def test_store_tells_of_changes_when_readers_see_them_and_before_it_answers() -> None:
    async with opened() as store:
        told: list[object] = []
        store.on_change = lambda key: told.append((key, store.read(key)))
        packet = FakePacket(key(1), START)
        store.submit(packet, collect(told, "done"))
        store.submit(FakePacket(key(1), START - 1), collect(told, "done"))
        await store.put(packet)
        assert told == [(key(1), packet.to_bytes()), ("done", True), ("done", False)]


async def test_store_lives_with_callbacks_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    async with opened() as store:

        def broken(_: object) -> None:
            raise ValueError("a bug of somebody else")

        store.on_change = broken
        answers: list[object] = []
        store.submit(FakePacket(key(1), START), broken)
        store.submit(FakePacket(key(2), START), collect(answers))
        await asyncio.sleep(0)
        assert answers == [True] and "a bug of somebody else" in caplog.text
        assert await store.put(FakePacket(key(3), START))


async def test_store_takes_a_cancelled_put_as_it_came(tmp_path: Path) -> None:
    async with opened(tmp_path / "x") as store:
        task = asyncio.ensure_future(store.put(FakePacket(key(1), START)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await store.put(FakePacket(key(1), START - 1))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("put", "put", "put", "turn", "expire")),
            st.integers(0, 12),
            st.integers(-5, 70),
            st.integers(-3 * SECOND, 3 * SECOND),
        ),
        max_size=60,
    ),
    places=st.integers(1, 10),
)
def test_store_does_what_the_rules_say(steps: list[tuple[str, int, int, int]], places: int) -> None:
    """Random publishes in groups, over a store that is always full, against a model."""

    async def run() -> None:
        clock = Clock()
        retention = Retention(max_records=places, max_age=300.0, interval=1e6)
        model = Model(retention)
        async with opened(retention=retention, clock=clock) as store:
            expected: list[object] = []
            answers: list[object] = []
            group: list[FakePacket] = []

            async def turn() -> None:
                if group:
                    expected.extend(model.put(p, clock.now) for p in group)
                    model.make_room()
                    group.clear()
                while len(answers) < len(expected):
                    await asyncio.sleep(0)
                assert answers == expected
                for n in range(13):
                    kept = model.records.get(key(n))
                    assert store.read(key(n)) == (kept.packet.to_bytes() if kept else None), n

            for number, (what, who, seconds, skew) in enumerate(steps):
                if what == "put":
                    stamp = clock.now + skew + number
                    clock.now += 1
                    packet = FakePacket(key(who), stamp, b"%d" % number)
                    group.append(packet)
                    store.submit(packet, collect(answers))
                elif what == "turn":
                    await turn()
                    clock.sleep(max(seconds, 0))
                else:
                    await turn()
                    clock.sleep(max(seconds, 0))
                    await store.expire()
                    model.expire(clock.now)
                    await turn()
            await turn()
            assert store.counters()["store_records"] == len(model.records)

    asyncio.run(run())


# --- what goes


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_store_forgets_what_was_published_too_long_ago(
    tmp_path: Path, durability: Durability
) -> None:
    clock = Clock()
    day = 86400
    async with opened(tmp_path / "x", clock=clock, durability=durability) as store:
        gone: list[object] = []
        await store.put(FakePacket(key(1), clock.now))
        await store.put(FakePacket(key(2), clock.now + 3000 * SECOND))  # ahead: counts as now
        await store.put(FakePacket(key(3), clock.now - 6 * day * SECOND))  # behind: counts as then
        store.on_change = gone.append
        clock.sleep(2 * day)
        assert await store.expire() == 1 and gone == [key(3)]
        assert await store.put(FakePacket(key(1), clock.now))
        gone.clear()
        clock.sleep(5 * day + 1)
        assert await store.expire() == 1 and gone == [key(2)]
        clock.sleep(2 * day)
        assert await store.expire() == 1 and gone == [key(2), key(1)]
        assert [store.read(key(n)) for n in (1, 2, 3)] == [None] * 3
        assert store.counters()["store_packets_expired"] == 3


async def test_store_looks_for_old_packets_by_itself() -> None:
    clock = Clock()
    retention = Retention(max_age=100.0, interval=0.01)
    async with opened(clock=clock, retention=retention) as store:
        await store.put(FakePacket(key(1), clock.now))
        clock.sleep(101)
        while store.read(key(1)) is not None:
            await asyncio.sleep(0.01)


async def test_store_answers_while_many_packets_go(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "x", clock=clock, retention=Retention(interval=1e6)) as store:
        many = 20 * sqlite.SLICE
        for n in range(many):
            store.submit(FakePacket(key(n), clock.now), lambda _: None)
        await store.put(FakePacket(key(0), clock.now + 1))
        clock.sleep(8 * 86400)
        removing = asyncio.ensure_future(store.expire())
        served = 0
        while not removing.done():
            assert await store.put(FakePacket(key(many + served), clock.now))
            served += 1
        assert removing.result() == many
        assert served >= 10  # about one in the turn between two slices
        assert store.counters()["store_records"] == served


async def test_flood_of_new_keys_displaces_no_endpoint_that_publishes_regularly() -> None:
    clock = Clock()
    retention = Retention(max_records=400, interval=1e6)
    regulars = [key(n) for n in range(300)]
    async with opened(clock=clock, retention=retention) as store:
        number = 1000

        async def publish_all() -> None:
            for one in regulars:
                await store.put(FakePacket(one, clock.now))

        await publish_all()
        clock.sleep(300)
        await publish_all()
        for _ in range(5):
            for _ in range(600):  # more than all places, each round
                number += 1
                await store.put(FakePacket(key(number), clock.now))
            assert all(store.read(one) is not None for one in regulars)
            clock.sleep(300)
            await publish_all()
        assert store.counters()["store_records"] == 400
        # Of the flood the last ones are there.
        assert store.read(key(number)) is not None and store.read(key(number - 100)) is None


async def test_newcomers_always_have_a_quarter_of_the_places() -> None:
    clock = Clock()
    retention = Retention(max_records=100, interval=1e6)
    async with opened(clock=clock, retention=retention) as store:
        for _ in range(2):
            for n in range(100):
                await store.put(FakePacket(key(n), clock.now + n))
            clock.sleep(300)
        fresh = [key(1000 + n) for n in range(25)]
        for one in fresh:
            await store.put(FakePacket(one, clock.now))
        assert all(store.read(one) is not None for one in fresh)
        # The settled ones that published longest ago made room.
        assert [store.read(key(n)) is None for n in range(100)] == [True] * 25 + [False] * 75


async def test_store_with_fewer_places_than_before_makes_room_in_slices(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path / "x", clock=clock) as store:
        for n in range(1000):
            store.submit(FakePacket(key(n), clock.now + n), lambda _: None)
    retention = Retention(max_records=10, interval=1e6)
    async with opened(tmp_path / "x", clock=clock, retention=retention) as store:
        assert await store.expire() == 990
        assert [n for n in range(1000) if store.read(key(n))] == list(range(990, 1000))
        assert store.counters()["store_packets_evicted"] == 990


# --- the log of the file


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_log_is_brought_into_the_file_while_packets_come(
    tmp_path: Path, durability: Durability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOG_LIMIT", 100_000)
    monkeypatch.setattr(sqlite, "LOG_HOLD", 1_000_000)
    monkeypatch.setattr(sqlite, "LOOK_EVERY", 1)
    async with opened(tmp_path / "x", durability=durability) as store:
        largest = reads = 0

        async def read_all_the_time() -> None:
            nonlocal reads
            while True:
                for n in range(5):
                    store.read(key(n))
                reads += 1
                await asyncio.sleep(0)

        reading = asyncio.ensure_future(read_all_the_time())
        for n in range(100):
            await asyncio.gather(
                *(store.put(FakePacket(key(16 * n + i), START, bytes(900))) for i in range(16))
            )
            largest = max(largest, (tmp_path / "x-wal").stat().st_size)
        assert not reading.done() and reads >= 100
        reading.cancel()
        assert largest < 1_500_000  # of 4 MB that were written
        assert (tmp_path / "x").stat().st_size > 500_000
        assert all(store.read(key(n)) is not None for n in range(1600))


async def test_commits_wait_for_a_log_that_is_brought_in_too_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOG_LIMIT", 20_000)
    monkeypatch.setattr(sqlite, "LOG_HOLD", 60_000)
    monkeypatch.setattr(sqlite, "LOOK_EVERY", 1)
    path = tmp_path / "x"
    async with opened(path) as store:
        checkpoint = store._file.checkpoint
        may_go_on = threading.Event()
        monkeypatch.setattr(
            store._file, "checkpoint", lambda mode: may_go_on.wait() and checkpoint(mode)
        )
        answers: list[object] = []
        for n in range(1000):
            store.submit(FakePacket(key(n), START, bytes(900)), collect(answers))
        await asyncio.sleep(0.1)
        held = len(answers)
        assert held < 1000 and (tmp_path / "x-wal").stat().st_size < 1_000_000
        assert store.read(key(0)) is not None  # what is there is answered meanwhile
        may_go_on.set()
        await store.put(FakePacket(key(1000), START))
        assert answers == [True] * 1000


async def test_log_grows_while_another_process_reads_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "LOG_LIMIT", 20_000)
    monkeypatch.setattr(sqlite, "LOOK_EVERY", 1)
    async with opened(tmp_path / "x") as store:
        await store.put(FakePacket(key(0), START))
        reader = sqlite3.connect(tmp_path / "x", isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM packets").fetchone() == (1,)
        n = 0
        while "another process reads the file" not in caplog.text:
            n += 1
            assert await store.put(FakePacket(key(n), START))
        reader.close()
    assert not (tmp_path / "x-wal").exists()


async def test_store_waits_for_another_process_that_writes(tmp_path: Path) -> None:
    async with opened(tmp_path / "x") as store:
        other = sqlite3.connect(tmp_path / "x", isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        answers: list[object] = []
        store.submit(FakePacket(key(1), START), collect(answers))
        await asyncio.sleep(3 * sqlite.BUSY_RETRY_S)
        assert answers == [] and store.read(key(1)) is None
        other.execute("COMMIT")
        other.close()
        assert await store.put(FakePacket(key(2), START))
        assert answers == [True]


async def test_store_gives_up_on_a_file_that_stays_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_LIMIT_S", 0.1)
    async with opened(tmp_path / "x") as store:
        failures: list[PacketStoreError] = []
        store.on_failure = failures.append
        other = sqlite3.connect(tmp_path / "x", isolation_level=None, timeout=0)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PacketStoreError, match="another process has it") as caught:
            await store.put(FakePacket(key(1), START))
        assert failures == [caught.value] and caught.value.kind == "in_use"
        other.close()


# --- files that cannot be opened


async def error_of(path: Path) -> PacketStoreError:
    before = {thread.name for thread in threading.enumerate()}
    store = SqliteStore(path)
    with pytest.raises(PacketStoreError) as caught:
        await store.open()
    assert str(path) in str(caught.value)
    await store.close()
    while {t.name for t in threading.enumerate() if t.name.startswith("packet-store")} - before:
        await asyncio.sleep(0.001)
    return caught.value


async def test_damaged_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"SQLite format 3\0" + b"nothing of the kind" * 500)
    error = await error_of(tmp_path / "x")
    assert error.kind == "corrupt" and "move it away" in str(error)
    (tmp_path / "x").write_bytes(b"text" * 2000)
    assert (await error_of(tmp_path / "x")).kind == "corrupt"


async def test_damage_inside_is_told_at_the_start(tmp_path: Path) -> None:
    async with opened(tmp_path / "x") as store:
        for n in range(2000):
            store.submit(FakePacket(key(n), START, bytes(100)), lambda _: None)
    size = (tmp_path / "x").stat().st_size
    with (tmp_path / "x").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * (size - 8192))
    assert (await error_of(tmp_path / "x")).kind == "corrupt"


async def test_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "x")
    other.execute("CREATE TABLE things (x)")
    other.close()
    before = (tmp_path / "x").read_bytes()
    error = await error_of(tmp_path / "x")
    assert error.kind == "corrupt" and "another program" in str(error)
    assert (tmp_path / "x").read_bytes() == before


async def test_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "x"):
        pass
    newer = sqlite3.connect(tmp_path / "x")
    newer.execute("PRAGMA user_version = 2")
    newer.close()
    error = await error_of(tmp_path / "x")
    assert error.kind == "version" and "layout is 2" in str(error)


async def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert (await error_of(tmp_path / "file" / "below" / "x")).kind == "open"
    (tmp_path / "folder").mkdir()
    assert (await error_of(tmp_path / "folder")).kind == "open"


async def test_one_store_has_a_file_at_a_time(tmp_path: Path) -> None:
    async with opened(tmp_path / "x"):
        error = await error_of(tmp_path / "x")
        assert error.kind == "in_use" and "another process" in str(error)
        code = "import asyncio,sys; from iroh_fast.dns_server.sqlite import SqliteStore; "
        code += "asyncio.run(SqliteStore(sys.argv[1]).open())"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True
        )
        assert done.returncode != 0 and "another process has it" in done.stderr
    async with opened(tmp_path / "x"):
        pass


async def test_store_after_its_end_and_before_its_beginning(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x")
    with pytest.raises(PacketStoreError, match="not open"):
        await store.put(FakePacket(key(1), START))
    with pytest.raises(PacketStoreError, match="not open"):
        store.read(key(1))
    await store.close()
    await store.open()
    with pytest.raises(RuntimeError, match="once"):
        await store.open()
    await asyncio.gather(store.close(), store.close())
    await store.close()
    for call in (store.put(FakePacket(key(1), START)), store.fetch(key(1))):
        with pytest.raises(PacketStoreError) as caught:
            await call
        assert caught.value.kind == "closed"


async def test_cancelled_open_leaves_no_file_locked(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "x")
    task = asyncio.ensure_future(store.open())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while any(t.name.startswith("packet-store") for t in threading.enumerate()):
        await asyncio.sleep(0.001)
    async with opened(tmp_path / "x"):
        pass


def test_wrong_settings_are_told() -> None:
    with pytest.raises(ConfigError, match="durability"):
        SqliteStore(durability="maybe")  # type: ignore[arg-type]
    for wrong in ({"max_records": 0}, {"max_age": -1.0}, {"interval": 0.0}):
        with pytest.raises(ConfigError, match="zone_store"):
            Retention(**wrong)


# --- writing that fails

FULL = """
    import asyncio, resource, sys
    from store_kit import FakePacket, key, START
    from iroh_fast.dns_server.sqlite import SqliteStore
    from iroh_fast.errors import PacketStoreError

    async def main():
        store = SqliteStore(sys.argv[1], durability=sys.argv[2])
        await store.open()
        store.on_failure = lambda error: print("failure", error.kind, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        for n in range(100_000):
            try:
                await store.put(FakePacket(key(n), START, bytes(500)))
            except PacketStoreError as error:
                print("refused", error.kind, flush=True)
                break
            print(n, flush=True)
        try:
            await store.put(FakePacket(key(n + 1), START))
        except PacketStoreError as error:
            print("refused", error.kind, flush=True)
        assert store.read(key(0)) is not None  # what is there can be read still
        await store.close()

    asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes")
@pytest.mark.parametrize("durability", DURABILITIES)
async def test_full_disk_refuses_packets_and_keeps_those_it_took(
    tmp_path: Path, durability: Durability
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path / "x"), durability],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, done.stderr
    *taken, first, second, third = done.stdout.splitlines()
    assert sorted([first, second, third]) == ["failure write", "refused write", "refused write"]
    assert len(taken) > 20
    async with opened(tmp_path / "x") as store:
        assert all(store.read(key(int(n))) is not None for n in taken)
        assert store.read(key(len(taken))) is None


# --- packets that are accepted before they are committed


async def test_store_has_what_it_accepted_when_it_is_killed_before_the_commit(
    tmp_path: Path,
) -> None:
    killed = tmp_path / "killed"
    one, other = FakePacket(key(1), START), FakePacket(key(2), START)
    async with opened(tmp_path / "x") as store:
        told: list[object] = []
        store.submit(one, collect(told, "done"), lambda: told.append("durable"))
        # Who does not come alone waits for the commit, which they share.
        store.submit(other, collect(told, "done"), lambda: told.append("durable, too"))
        assert told == ["durable"]
        assert store.read(one.public_key) == one.to_bytes()
        assert store.read(other.public_key) is None
        killed.mkdir()
        for path in tmp_path.glob("x*"):  # as a killed process would leave them
            shutil.copy(path, killed / path.name)
        await store.put(FakePacket(key(9), START))
        assert told == ["durable", ("done", True), ("done", True)]
    for _ in range(2):
        async with opened(killed / "x") as store:
            assert store.read(one.public_key) == one.to_bytes()
            assert store.counters()["store_records"] == 1
        assert not (killed / "x-ahead").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "huge"])
async def test_store_reads_what_was_accepted_up_to_the_first_damage(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "x-ahead"
    ahead = Ahead(path)
    assert ahead.open() == []
    packets = [FakePacket(key(n), START + n) for n in range(3)]
    ends = []
    for packet in packets:
        ahead.append(START, packet.to_bytes())
        ends.append(ahead.size)
    ahead.close()
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-1:]
    elif damage == "changed":
        data[-1] ^= 1
    else:
        data[ends[1] : ends[1] + 4] = (2**32 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    async with opened(tmp_path / "x") as store:
        kept = [store.read(p.public_key) for p in packets]
        assert kept == [packets[0].to_bytes(), packets[1].to_bytes(), None]


async def test_store_gives_readers_the_most_recent_of_what_is_accepted_and_committed(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "x") as store:
        changed: list[object] = []
        await store.put(FakePacket(key(1), START + 5))
        store.on_change = changed.append
        for stamp, seen in ((4, 5), (7, 7), (6, 7)):
            answers: list[object] = []
            store.submit(FakePacket(key(1), START + stamp), collect(answers), lambda: None)
            for _ in range(2):  # before and after the commit
                assert store.read(key(1)) == FakePacket(key(1), START + seen).to_bytes()
                assert await store.fetch(key(1)) == store.read(key(1))
                await asyncio.sleep(0)
            assert answers == [stamp == 7]
        assert changed == [key(1)] * 4  # at each, and at the change: whoever caches it asks again


async def test_store_empties_the_file_of_accepted_packets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "AHEAD_BYTES", 400)
    sizes = []
    async with opened(tmp_path / "x") as store:
        for n in range(20):
            store.submit(FakePacket(key(n), START), lambda _: None, lambda: None)
            sizes.append((tmp_path / "x-ahead").stat().st_size)
            await asyncio.sleep(0)
    assert max(sizes) < 600 and sizes.count(min(sizes)) > 3


async def test_store_that_cannot_accept_ahead_answers_with_the_commit(tmp_path: Path) -> None:
    async with opened(tmp_path / "x") as store:
        assert store._ahead is not None
        os.close(store._ahead._fd)
        store._ahead._fd = os.open(tmp_path / "x", os.O_RDONLY)  # writing fails
        told: list[object] = []
        store.submit(FakePacket(key(1), START), collect(told), lambda: told.append("durable"))
        await store.put(FakePacket(key(2), START))
        assert told == [True]


async def test_store_for_power_cuts_accepts_nothing_ahead(tmp_path: Path) -> None:
    async with opened(tmp_path / "x", durability="power") as store:
        told: list[object] = []
        store.submit(FakePacket(key(1), START), collect(told), lambda: told.append("durable"))
        await store.put(FakePacket(key(2), START))
        assert told == [True]
        assert not (tmp_path / "x-ahead").exists()
