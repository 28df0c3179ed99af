"""Streams of a node: the side that serves them, echo, bulk transfers, and numbers at an interval."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from iroh_fast import Connection
from iroh_fast.errors import IrohError

__all__ = ["Ticker", "bulk", "echo", "serve"]

ECHO, SINK, SOURCE = b"E", b"S", b"G"
PERIOD = 251
CHUNK = 1 << 16
#: The content, from every offset modulo `PERIOD`.
CONTENT = bytes(range(PERIOD)) * (CHUNK // PERIOD + 2)
GAP_S = 0.2
STREAMS_S = 0.005  # how often a ticker that ends looks

log = logging.getLogger("tests.lab.node")


def content(offset: int, size: int) -> bytes:
    """What a transfer has from an offset on."""
    start = offset % PERIOD
    return CONTENT[start : start + size]


async def write(send: Any, total: int) -> None:
    done = 0
    while done < total:
        size = min(total - done, CHUNK)
        await send.write_all(content(done, size))
        done += size
    send.finish()


async def read(recv: Any, got: Callable[[int], None] = lambda count: None) -> int:
    """Read and check a stream to its end; how many bytes it had."""
    total = 0
    async for piece in recv:
        for start in range(0, len(piece), CHUNK):
            part = piece[start : start + CHUNK]
            if part != content(total, len(part)):
                recv.stop(1)
                raise ValueError(f"wrong content behind byte {total}")
            total += len(part)
        got(len(piece))
    return total


# ---------------------------------------------------------------- the side that serves
async def serve(conn: Connection) -> None:
    """Serve the streams that the other side opens, to the end of the connection."""
    async with asyncio.TaskGroup() as group:
        async for send, recv in conn.bi_streams():
            group.create_task(served(send, recv))


async def served(send: Any, recv: Any) -> None:
    try:
        await serve_one(send, recv)
    except (IrohError, ValueError) as error:
        log.info("stream: %s", error)


async def serve_one(send: Any, recv: Any) -> None:
    order = await recv.readexactly(1)
    if order == ECHO:
        async for piece in recv:
            await send.write_all(piece)
        send.finish()
    elif order == SINK:
        try:
            total = await read(recv)
        except ValueError:
            send.reset(1)
            raise
        await send.write_all(total.to_bytes(8, "big"))
        send.finish()
    elif order == SOURCE:
        await write(send, int.from_bytes(await recv.readexactly(8), "big"))
    else:
        raise ValueError(f"order {order!r}")
    await send.stopped()  # until all has arrived


# ---------------------------------------------------------------- the side that asks
async def echo(conn: Connection, size: int) -> None:
    """Have bytes sent back and compare them."""
    await one(conn, "echo", size, lambda count: None)


async def one(conn: Connection, way: str, size: int, got: Callable[[int], None]) -> None:
    send, recv = await conn.open_bi()
    if way == "up":
        await send.write_all(SINK)
        await write(send, size)
        came = int.from_bytes(await recv.readexactly(8), "big")
    elif way == "down":
        await send.write_all(SOURCE + size.to_bytes(8, "big"))
        send.finish()
        came = await read(recv, got)
    elif way == "echo":
        await send.write_all(ECHO)
        async with asyncio.TaskGroup() as group:
            group.create_task(write(send, size))
            reader = group.create_task(read(recv, got))
        came = reader.result()
    else:
        raise ValueError(f"way: {way!r}")
    if came != size:
        raise ValueError(f"{came} of {size} bytes came")


async def bulk(conn: Connection, way: str, size: int, streams: int) -> dict[str, Any]:
    """A transfer of `size` bytes on each stream, and how many came in which tenth of a second."""
    started = time.monotonic()
    tenths: list[int] = []

    def got(count: int) -> None:
        index = int((time.monotonic() - started) * 10)
        tenths.extend([0] * (index + 1 - len(tenths)))
        tenths[index] += count

    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one(conn, way, size, got))
    return {"took": time.monotonic() - started, "tenths": tenths}


class Ticker:
    """Numbers written at an interval, and when their echoes came."""

    _send: Any
    _writer: asyncio.Task[None]
    _reader: asyncio.Task[None]

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.gaps: list[tuple[float, float]] = []
        self.longest = (0.0, 0.0)
        self.wrong: str | None = None
        self._last = time.monotonic()

    @classmethod
    async def start(cls, conn: Connection, interval: float) -> Ticker:
        ticker = cls()
        send, recv = await conn.open_bi()
        await send.write_all(ECHO)
        # Without a handle the stream would be reset, with echoes still under way.
        ticker._send = send
        ticker._writer = asyncio.create_task(ticker._write(send, interval))
        ticker._reader = asyncio.create_task(ticker._read(recv))
        return ticker

    async def _write(self, send: Any, interval: float) -> None:
        due = time.monotonic()
        while True:
            try:
                await send.write_all(self.sent.to_bytes(8, "big"))
            except IrohError as error:
                self.wrong = self.wrong or str(error)
                return
            self.sent += 1
            due = max(due + interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def _read(self, recv: Any) -> None:
        try:
            while True:
                number = int.from_bytes(await recv.readexactly(8), "big")
                if number != self.received:
                    self.wrong = f"{number} instead of {self.received}"
                    return
                self.received += 1
                self._note()
        except IrohError as error:
            self.wrong = self.wrong or str(error)

    def _note(self) -> None:
        """An echo has come, or the end."""
        now = time.monotonic()
        gap = now - self._last
        if gap > GAP_S:
            self.gaps.append((self._last, gap))
        if gap > self.longest[1]:
            self.longest = (self._last, gap)
        self._last = now

    async def stop(self, limit: float) -> dict[str, Any]:
        """Write no more, wait for the echoes that are under way, and tell."""
        await ended(self._writer)
        until = time.monotonic() + limit
        while self.received < self.sent and self.wrong is None and time.monotonic() < until:
            await asyncio.sleep(STREAMS_S)
        if self.received < self.sent:
            self._note()
        await ended(self._reader)
        return {
            "sent": self.sent,
            "received": self.received,
            "longest": self.longest,
            "gaps": self.gaps,
            "error": self.wrong,
        }


async def ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
