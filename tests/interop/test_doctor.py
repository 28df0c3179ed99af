"""The doctor's tests of speed and ping, with the real stack at the other end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from iroh_fast import Connection
from iroh_fast.cli.doctor import peers, throughput
from iroh_fast.cli.doctor.show import Out
from iroh_fast.cli.doctor.wire import ALPN, PING_ALPN

from .links import Link, Links

SIZE = 100_000
ZEROS = "00" * SIZE
# As iroh-doctor sends them, for 100,000 bytes and blocks of 1 MiB.
REQUESTS = {
    "echo": bytes.fromhex("00 a08d06").ljust(16, b"\0").hex(),
    "drain": bytes.fromhex("01 a08d06").ljust(16, b"\0").hex(),
    "send": bytes.fromhex("02 a08d06 808040").ljust(16, b"\0").hex(),
}


class Told(Out):
    """Keeps what is told."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self.speeds: list[tuple[str, int]] = []

    def tell(self, event: str, text: str | list[str], **facts: Any) -> None:
        if event == "speed":
            self.speeds.append((facts["test"], facts["bytes"]))


@pytest.mark.parametrize("kind", ["drain", "send", "echo"])
async def test_real_active_side_measures_us(links: Links, kind: str) -> None:
    link = await links.connect(True, alpn=ALPN)
    told = Told()
    serving = asyncio.create_task(throughput.run_passive(link.ours, told))
    stream = await link.call("open_bi")
    await link.peer.call("write", send=stream["send"], data=REQUESTS[kind])
    if kind != "send":
        await link.peer.call("write", send=stream["send"], data=ZEROS)
    await link.peer.call("finish", send=stream["send"])
    got = await link.peer.call("read_to_end", recv=stream["recv"])
    assert got == ("" if kind == "drain" else ZEROS)
    await link.call("close", reason=b"done".hex())
    await serving
    names = {"drain": ("download", SIZE), "send": ("upload", SIZE), "echo": ("echo", 2 * SIZE)}
    assert told.speeds == [names[kind]]


async def _passive(link: Link) -> list[str]:
    """What the real one is asked for, while it does as iroh-doctor."""
    asked = []
    for _ in range(3):
        stream = await link.call("accept_bi")
        asked.append(await link.peer.call("read_exact", recv=stream["recv"], size=16))
        rest = await link.peer.call("read_to_end", recv=stream["recv"])
        kind = next(kind for kind, request in REQUESTS.items() if request == asked[-1])
        assert rest == ("" if kind == "send" else ZEROS)
        if kind != "drain":
            await link.peer.call("write", send=stream["send"], data=ZEROS)
        await link.peer.call("finish", send=stream["send"])
    return asked


async def test_we_measure_the_real_passive_side(links: Links) -> None:
    link = await links.connect(False, alpn=ALPN)
    passive = asyncio.create_task(_passive(link))
    told = Told()
    await throughput.run_active(link.ours, SIZE, 1, told)
    assert await passive == [REQUESTS[kind] for kind in ("drain", "send", "echo")]
    assert told.speeds == [("upload", SIZE), ("download", SIZE), ("echo", SIZE)]
    assert "done" in await link.call("closed")


async def test_ping_both_ways(links: Links) -> None:
    link = await links.connect(True, alpn=PING_ALPN)
    asking = asyncio.create_task(peers.ask(link.ours))
    stream = await link.call("accept_bi")
    assert bytes.fromhex(await link.peer.call("read_to_end", recv=stream["recv"])) == b"PING"
    await link.peer.call("write", send=stream["send"], data=b"PONG".hex())
    await link.peer.call("finish", send=stream["send"])
    assert await asking > 0

    link = await links.connect(False, alpn=PING_ALPN)
    assert isinstance(link.ours, Connection)
    answering = asyncio.create_task(throughput._answer_ping(link.ours))
    stream = await link.call("open_bi")
    await link.peer.call("write", send=stream["send"], data=b"PING".hex())
    await link.peer.call("finish", send=stream["send"])
    assert bytes.fromhex(await link.peer.call("read_to_end", recv=stream["recv"])) == b"PONG"
    await link.call("close", reason=b"bye!".hex())
    await answering
