"""``doctor accept`` and ``doctor connect``: how fast data goes between two endpoints."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import suppress

from ... import Connection, Endpoint, EndpointAddr
from ...errors import ApplicationClosed, ConnectionLost, IrohError, StreamError
from ...streams import BiStream, RecvStream, SendStream
from .binding import bind, online, settled, target_of
from .paths_shown import Follower, facts_of, path_line, used
from .show import Failed, Out, rate
from .wire import ALPN, PING_ALPN, REQUEST_SIZE, Kind, Request

__all__ = ["accept", "connect", "run_active", "run_passive"]

SIZE = 16 << 20
MAX_CONNECTIONS = 8  # that are tested at the same time
ZEROS = bytes(1 << 20)
STEPS: tuple[tuple[Kind, str], ...] = (("drain", "upload"), ("send", "download"), ("echo", "echo"))


# ---------------------------------------------------------------- the active side
async def _send_zeros(send: SendStream, size: int, block: int = len(ZEROS)) -> None:
    piece = ZEROS[:block] if block <= len(ZEROS) else bytes(block)
    while size:
        part = min(size, len(piece))
        await send.write_all(piece if part == len(piece) else piece[:part])
        size -= part
    send.finish()


async def _count(recv: RecvStream) -> int:
    """Read to the end; the number of bytes."""
    count = 0
    while chunk := await recv.read(1 << 18):
        count += len(chunk)
    return count


async def measure(conn: Connection, kind: Kind, size: int) -> float:
    """Run one test as the active side; seconds that it took.

    Raises
    ------
    Failed : the other side gave another number of bytes back.
    """
    send, recv = await conn.open_bi()
    began = time.perf_counter()
    await send.write_all(Request(kind, size).encode())
    if kind == "send":
        send.finish()
        count = await _count(recv)
    else:
        async with asyncio.TaskGroup() as group:
            counting = group.create_task(_count(recv))
            await _send_zeros(send, size)
        count = counting.result()
    wanted = 0 if kind == "drain" else size
    if count != wanted:
        raise Failed(f"{count} bytes came back instead of {wanted}")
    return time.perf_counter() - began


async def run_active(conn: Connection, size: int, iterations: int, out: Out) -> None:
    """Run all tests over a connection, and close it."""
    for _ in range(iterations):
        for kind, name in STEPS:
            seconds = await measure(conn, kind, size)
            moved = size * (2 if kind == "echo" else 1)
            out.tell(
                "speed",
                f"  {name:8} {size / 1e6:,.1f} MB in {seconds:.2f} s, {rate(moved, seconds)}",
                test=name,
                bytes=size,
                seconds=seconds,
                bytes_per_second=moved / max(seconds, 1e-9),
            )
    conn.close(0, b"done")


async def accept(args: argparse.Namespace, out: Out) -> int:
    """Tell how to connect, and test whoever does."""
    if args.size < 1 or args.iterations < 1:
        raise Failed("--size and --iterations are at least 1")
    async with bind(args, alpns=[ALPN, PING_ALPN]) as ep:
        await online(ep, args)
        _tell_how(ep.addr, out)
        running: set[asyncio.Task[bool]] = set()
        async for conn in ep.connections():
            if len(running) >= MAX_CONNECTIONS:
                conn.close(1, b"busy")
                continue
            task = asyncio.create_task(_tested(conn, args, out))
            running.add(task)
            task.add_done_callback(running.discard)
            if args.once and conn.alpn == ALPN:
                return 0 if await task else 1
    return 0


def _tell_how(addr: EndpointAddr, out: Out) -> None:
    id, relays = addr.id, sorted(addr.relay_urls)
    by_relay = "".join(f" --remote-relay {url}" for url in relays[:1])
    by_addr = "".join(f" --remote-endpoint {addr}" for addr in sorted(addr.ip_addrs))
    lines = dict.fromkeys((by_relay + by_addr, by_relay, ""))
    out.tell(
        "listening",
        [
            "on the other machine, one of:",
            *(f"  iroh-fast doctor connect {id}{line}" for line in lines),
        ],
        id=str(id),
        relays=relays,
        addrs=sorted(map(str, addr.ip_addrs)),
    )


async def _tested(conn: Connection, args: argparse.Namespace, out: Out) -> bool:
    began = time.perf_counter()
    out.tell("accepted", f"accepted connection from {conn.remote_id}", id=str(conn.remote_id))
    try:
        async with Follower(conn, out):
            if conn.alpn == PING_ALPN:
                await _answer_ping(conn)
                return True
            await run_active(conn, args.size, args.iterations, out)
        over = used(conn)
        out.tell("path", path_line(over), path=over and facts_of(over))
        await conn.wait_closed()
    except (IrohError, OSError, Failed, ExceptionGroup) as error:
        out.tell("failed", f"test failed: {error}", error=str(error))
        conn.close(1, b"failed")
        return False
    seconds = time.perf_counter() - began
    out.tell("finished", f"test finished after {seconds:.1f} s", seconds=seconds)
    return True


async def _answer_ping(conn: Connection) -> None:
    """Answer one ping, as iroh-ping does."""
    send, recv = await conn.accept_bi()
    if await recv.read_to_end(4) != b"PING":
        send.reset(1)
        return
    await send.write_all(b"PONG")
    send.finish()
    await conn.wait_closed()


# ---------------------------------------------------------------- the passive side
async def _serve(stream: BiStream, out: Out) -> None:
    send, recv = stream
    try:
        request = Request.decode(await recv.readexactly(REQUEST_SIZE))
    except (ValueError, StreamError, EOFError):
        send.reset(1)
        recv.stop(1)
        raise Failed("the other side asked for something unknown") from None
    began, moved = time.perf_counter(), 0
    if request.kind == "send":
        await _send_zeros(send, request.size, request.block)
        moved = request.size
    elif request.kind == "drain":
        moved = await _count(recv)
        send.finish()
    else:
        while chunk := await recv.read(1 << 18):
            await send.write_all(chunk)
            moved += 2 * len(chunk)
        send.finish()
    seconds = time.perf_counter() - began
    names = {"send": "upload", "drain": "download", "echo": "echo"}
    out.tell(
        "speed",
        f"  {names[request.kind]:8} {rate(moved, seconds)}",
        test=names[request.kind],
        bytes=moved,
        seconds=seconds,
    )


async def run_passive(conn: Connection, out: Out) -> None:
    """Do what the active side asks for, stream by stream, until it closes.

    Raises
    ------
    Failed : it asked for something that there is not, or closed with a code other than 0.
    """
    with suppress(ConnectionLost):  # then the reason of the end says whether that is right
        async for stream in conn.bi_streams():
            await _serve(stream, out)
    reason = await conn.wait_closed()
    if not isinstance(reason.to_error(), ApplicationClosed) or reason.code:
        raise Failed(f"the connection ended: {reason}")


async def connect(args: argparse.Namespace, out: Out) -> int:
    """Connect, and do what the other side measures."""
    target = target_of(args)
    async with bind(args, alpns=[]) as ep:
        await settled(ep, args, out)
        conn = await _connected(ep, target, out)
        async with Follower(conn, out):
            await run_passive(conn, out)
        out.tell("finished", "done")
    return 0


async def _connected(ep: Endpoint, target: EndpointAddr, out: Out) -> Connection:
    began = time.perf_counter()
    conn = await ep.connect(target, ALPN)
    seconds = time.perf_counter() - began
    text = f"connected to {conn.remote_id} in {seconds * 1e3:.0f} ms"
    out.tell("connected", text, id=str(conn.remote_id), seconds=seconds)
    return conn
