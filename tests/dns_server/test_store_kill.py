"""``kill -9`` of a process while it writes: what it said was kept is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from store_kit import key

from iroh_fast.dns_server.sqlite import Durability, SqliteStore

# Publishes key after key in groups of random size, some of them again with a newer packet, and says so
# for each as soon as the store does. The log is brought into the file all the time.
WRITER = """
    import asyncio, os, random, sys
    from store_kit import FakePacket, START, key
    from iroh_fast.dns_server import sqlite

    async def main(path, durability, first):
        sqlite.LOG_LIMIT, sqlite.LOOK_EVERY = 50_000, 1
        store = sqlite.SqliteStore(path, durability=durability)
        await store.open()
        said = []
        def kept(n, stamp):
            return lambda answer: said.append(b"%d %d\\n" % (n, stamp) if answer is True else b"no\\n")
        n = first
        while True:
            for _ in range(random.choice((1, 1, 3, 40))):
                again = random.random() < 0.3
                who, stamp = (random.randrange(n + 1), START + n) if again else (n, START)
                store.submit(FakePacket(key(who), stamp, b"x" * random.randrange(900)), kept(who, stamp))
                n += 1
            while not said:
                await asyncio.sleep(0)
            os.write(1, b"".join(said))
            said.clear()

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def write_and_kill(path: Path, durability: Durability, first: int, lines: int) -> dict[int, int]:
    """Number and time stamp of what a writer said it kept, before it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), durability, str(first)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    said += child.stdout.readlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    kept: dict[int, int] = {}
    for line in said:
        number, stamp = line.split()  # the last line may not be cut: a pipe takes it whole
        kept[int(number)] = max(int(stamp), kept.get(int(number), 0))
    return kept


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
@pytest.mark.parametrize("durability", ["process", "power"])
async def test_nothing_that_was_accepted_is_lost_when_the_process_is_killed(
    tmp_path: Path, durability: Durability
) -> None:
    path, kept, first = tmp_path / "x", {}, 0
    for _ in range(3):
        lines = random.randrange(1, 600)
        for number, stamp in write_and_kill(path, durability, first, lines).items():
            kept[number] = max(stamp, kept.get(number, 0))
        first = max(kept) + 10_000
        store = SqliteStore(path)
        await store.open()
        try:
            lost = [n for n in kept if (packet := store.read(key(n))) is None
                    or int.from_bytes(packet[96:104], "big") < kept[n]]  # fmt: skip
        finally:
            await store.close()
        assert lost == []
    assert len(kept) > 4
