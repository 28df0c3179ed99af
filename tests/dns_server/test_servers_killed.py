"""Whole servers that are killed: one on SQLite, and one of two on the same PostgreSQL database."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

import dns.message
import dns.query
import pytest
from publish_and_kill import (
    Publisher,
    Server,
    fetched,
    missing,
    publish_and_kill,
    rounds,
)

from iroh_fast import SecretKey
from iroh_fast.lookup import z32
from iroh_fast.lookup.signed_packet import SignedPacket

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")


async def test_killed_server_has_all_it_accepted_when_it_is_back() -> None:
    accepted, gone = await rounds(2, seed=random.randrange(1 << 30))
    assert accepted > 0 and gone == []


async def test_server_with_a_full_disk_acknowledges_nothing_more_and_ends_with_status_1(
    tmp_path: Path,
) -> None:
    server = Server(tmp_path, file_size=300_000)
    accepted: list[SignedPacket] = []
    try:
        status = b"204"
        while status == b"204":
            packet = SignedPacket.from_txt(
                SecretKey.generate(), "_iroh", ["relay=https://r.example./"]
            )
            try:
                status = await put(server.http, packet)
            except (ConnectionError, asyncio.IncompleteReadError):
                break  # a packet whose commit failed was acknowledged: it is kept beside
            if status == b"204":
                accepted.append(packet)
        assert status in (b"204", b"500")
        assert await asyncio.to_thread(server.process.wait, 60) == 1
    finally:
        server.kill()
    again = Server(tmp_path)
    try:
        found = await fetched(again.http, [packet.public_key for packet in accepted])
        assert [found.get(p.public_key) for p in accepted] == [p.relay_payload for p in accepted]
    finally:
        again.kill()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    pair = tmp_path / "a", tmp_path / "b"
    for folder in pair:
        folder.mkdir()
    return pair


async def put(port: int, packet: SignedPacket) -> bytes:
    """Publish; returns the status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    payload = packet.relay_payload
    head = f"PUT /pkarr/{z32.encode(packet.public_key)} HTTP/1.1\r\nhost: localhost\r\n"
    writer.write(f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload)
    status = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    writer.close()
    return status


def text_of(port: int, key: bytes) -> str:
    """What a server answers for a key over DNS; empty without an answer."""
    query = dns.message.make_query(f"_iroh.{z32.encode(key)}.irohdns.example.", "TXT")
    answer = dns.query.udp(query, "127.0.0.1", port=port, timeout=60).answer
    return answer[0][0].to_text() if answer else ""


async def test_publish_on_one_server_is_answered_by_the_other(
    database: str, folders: tuple[Path, Path]
) -> None:
    store = f'[zone_store]\npostgres = "{database}"\n'
    servers = [Server(folder, store) for folder in folders]
    try:
        secret = SecretKey.generate()
        key = bytes(secret.public)
        old = ""
        for n in range(10):
            here, there = servers[n % 2], servers[(n + 1) % 2]
            await asyncio.to_thread(text_of, there.dns, key)  # it has the last one in memory now
            text = f"relay=https://r{n}.example./"
            packet = SignedPacket.from_txt(secret, "_iroh", [text])
            assert await put(here.http, packet) == b"204"
            # Here it is answered at once, or refused while the database is slow; there it will be.
            while (answer := await asyncio.to_thread(text_of, here.dns, key)) == "":
                pass
            assert text in answer != old
            while text not in await asyncio.to_thread(text_of, there.dns, key):
                await asyncio.sleep(0.01)
            old = answer
    finally:
        for server in servers:
            server.kill()


async def test_one_of_two_servers_is_killed_and_the_other_has_all(
    database: str, folders: tuple[Path, Path]
) -> None:
    store = f'[zone_store]\npostgres = "{database}"\n'
    doomed, other = (Server(folder, store) for folder in folders)
    rng = random.Random()
    publisher, second = Publisher(1), Publisher(2)
    try:
        # The other one is published to at the same time.
        load = asyncio.ensure_future(second.run(other.http))
        await publish_and_kill(doomed, publisher, rng.randrange(50, 500))
        before = len(second.accepted)
        while len(second.accepted) < before + 10:
            await asyncio.sleep(0.01)
        assert not load.done()
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        assert publisher.accepted
        assert await missing(other, publisher, rng) == []
        assert await missing(other, second, rng) == []
        doomed = Server(folders[0], store)
        assert await missing(doomed, publisher, rng) == []
    finally:
        doomed.kill()
        other.kill()
