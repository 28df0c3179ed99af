"""The real peer against itself: what the other tests take for granted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from . import pattern
from .links import ALPN, V4, V6
from .peer_client import PeerError, PeerProcess


@pytest.fixture
async def second() -> AsyncIterator[PeerProcess]:
    async with await PeerProcess.launch() as process:
        yield process


@pytest.mark.parametrize("bind", [V4, V6])
async def test_bulk_between_real_peers(peer: PeerProcess, second: PeerProcess, bind: str) -> None:
    server = await peer.call("bind", addr=bind, alpns=[ALPN.hex()])
    client = await second.call("bind", addr=bind)
    sockets = [text for text in server["sockets"] if text.startswith(bind[:-2])]
    accepting = peer.start("accept", ep=server["ep"])
    dialled = await second.call(
        "connect", ep=client["ep"], id=server["id"], addrs=sockets, alpn=ALPN.hex()
    )
    accepted = await accepting
    assert (dialled["side"], accepted["side"]) == ("CLIENT", "SERVER")
    assert dialled["remote_id"] == server["id"]
    assert accepted["remote_id"] == client["id"]

    size = 32 * 2**20  # five seconds if the copy loop were not patched
    expected = {"size": size, "hash": pattern.digest(pattern.chunks(1, size))}
    send = (await second.call("open_uni", conn=dialled["conn"]))["send"]
    sending = second.start("send_pattern", send=send, seed=1, size=size)
    recv = (await peer.call("accept_uni", conn=accepted["conn"]))["recv"]
    received = await peer.call("receive", recv=recv)
    assert {key: received[key] for key in expected} == expected
    assert (await sending)["hash"] == expected["hash"]

    closed = peer.start("closed", conn=accepted["conn"])
    await second.call("close", conn=dialled["conn"], code=7, reason=b"bye!".hex())
    assert await closed == "closed by peer: bye! (code 7)"
    assert await second.call("closed", conn=dialled["conn"]) == "closed"


async def test_errors_of_the_real_peer_reach_the_test(peer: PeerProcess) -> None:
    endpoint = await peer.call("bind")
    with pytest.raises(PeerError, match="Connecting to ourself") as caught:
        await peer.call("connect", ep=endpoint["ep"], id=endpoint["id"], addrs=[], alpn=ALPN.hex())
    assert caught.value.kind == "CONNECT"
    with pytest.raises(PeerError, match="no_such_operation"):
        await peer.call("no_such_operation")


async def test_killed_peer_fails_what_waits_for_it(peer: PeerProcess) -> None:
    endpoint = await peer.call("bind", alpns=[ALPN.hex()])
    waiting = peer.start("accept", ep=endpoint["ep"])
    await peer.kill()
    with pytest.raises(PeerError, match="exited"):
        await waiting


def test_pattern_does_not_depend_on_the_step() -> None:
    size = 3 * pattern.PERIOD + 17
    whole = pattern.data(9, size)
    assert len(whole) == size
    assert b"".join(pattern.chunks(9, size, 1000)) == whole
    assert whole[: pattern.PERIOD] == whole[pattern.PERIOD : 2 * pattern.PERIOD]
    assert pattern.data(9, 100) == pattern.data(9, 200)[:100]
