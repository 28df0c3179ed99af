"""Errors of streams say which stream, which peer, and why."""

from __future__ import annotations

import re

import pytest

from iroh_fast import SendStream
from iroh_fast.errors import FinishedEarly, StreamClosed, StreamReset, StreamStopped, StreamTooLong

from .conftest import Pair


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


async def test_closed_sender_says_what_closed_it(pair: Pair) -> None:
    peer = f"{pair.client.remote_id:short}"

    async def refused(send: SendStream, why: str) -> None:
        words = exactly(f"stream {send.id} to {peer} takes no more data: {why}")
        for wrong in (send.write, send.write_all):
            with pytest.raises(StreamClosed, match=words):
                await wrong(b"x")
        with pytest.raises(StreamClosed, match=words):
            await send.writelines([b"x"])
        with pytest.raises(StreamClosed, match=words):
            send.finish()

    finished, reset, stopped = [await pair.client.open_uni() for _ in range(3)]
    await finished.write_all(b"x")
    finished.finish()
    await refused(finished, "it was finished here")
    assert await (await pair.server.accept_uni()).read_to_end(10) == b"x"
    assert await finished.stopped() is None
    await refused(finished, "it was finished here, and all was delivered")
    with pytest.raises(StreamClosed, match="all was delivered"):
        finished.reset()

    await reset.write_all(b"x")
    reset.reset(3)
    await refused(reset, "it was reset here")
    assert await reset.stopped() is None
    await refused(reset, "it was reset here")

    await stopped.write_all(b"x")
    while (arrived := await pair.server.accept_uni()).id != stopped.id:
        pass
    arrived.stop(9)
    assert await stopped.stopped() == 9
    with pytest.raises(
        StreamStopped, match=exactly(f"stream {stopped.id} to {peer} was stopped by the peer: code 9")
    ):
        await stopped.write(b"x")
    stopped.finish()  # harmless once
    await refused(stopped, "the peer stopped it with code 9")


async def test_closed_receiver_says_what_closed_it(pair: Pair) -> None:
    peer = f"{pair.server.remote_id:short}"
    send = await pair.client.open_uni()
    await send.write_all(b"x")
    recv = await pair.server.accept_uni()
    assert await recv.read() == b"x"
    send.reset(5)
    with pytest.raises(
        StreamReset, match=exactly(f"stream {recv.id} from {peer} was reset by the peer: code 5")
    ):
        await recv.read()
    told = exactly(
        f"stream {recv.id} from {peer} has no more data: the peer reset it with code 5, "
        "as an earlier read told"
    )
    for again in (recv.read(), recv.readexactly(1), recv.read_to_end(1), recv.readinto(bytearray(1))):
        with pytest.raises(StreamClosed, match=told):
            await again


async def test_data_that_does_not_fit_is_told_with_its_stream(pair: Pair) -> None:
    peer = f"{pair.server.remote_id:short}"
    for _ in range(2):
        async with pair.client.open_uni() as send:
            await send.write_all(b"four")
    recv = await pair.server.accept_uni()
    with pytest.raises(
        FinishedEarly,
        match=exactly(f"stream {recv.id} from {peer} finished early (4 bytes read, 5 wanted)"),
    ):
        await recv.readexactly(5)
    recv = await pair.server.accept_uni()
    with pytest.raises(
        StreamTooLong, match=exactly(f"stream {recv.id} from {peer} is longer than 3 bytes")
    ):
        await recv.read_to_end(3)
    with pytest.raises(StreamClosed, match=r"longer than a read_to_end\(\) allowed"):
        await recv.read()
    with pytest.raises(StreamClosed, match="cannot be stopped again"):
        recv.stop()
