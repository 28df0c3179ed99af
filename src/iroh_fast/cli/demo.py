"""``python -m iroh_fast demo``: two processes find each other by ticket and exchange data.

The second process binds an endpoint and prints its ticket.  The first one dials it, has a
line echoed, and sends a file that the second one stores.  Both then hash what they have;
the time for that is measured apart from the transfer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from .. import BindAddr, Connection, Endpoint, IrohError, Router, __version__, build_info, presets
from ..errors import ConnectionLost
from ..streams import BiStream, SendStream

ALPN = b"iroh-fast/demo/1"
ECHO, FILE = b"E", b"F"
BLOCK = 1 << 20
LINE = b"Hello, world!"
LOOPBACK = [BindAddr("127.0.0.1"), BindAddr("::1", required=False)]


class DemoFailed(Exception):
    """The demo could not be carried out, or the data came out wrong."""


async def _until_told(main: Coroutine[Any, Any, int]) -> int:
    """Run `main`; SIGTERM cancels it, so that it takes away what it made."""
    task = asyncio.ensure_future(main)
    told = False

    def stop() -> None:
        nonlocal told
        told = True
        task.cancel()

    try:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    except NotImplementedError:  # Windows
        pass
    try:
        return await task
    except asyncio.CancelledError:
        if told:
            return 128 + signal.SIGTERM
        raise


def _run(main: Coroutine[Any, Any, int]) -> int:
    main = _until_told(main)
    try:
        import uvloop
    except ImportError:
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


async def _hash_file(path: Path) -> tuple[str, float]:
    start = time.perf_counter()
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(16 * BLOCK):
            digest.update(block)
            await asyncio.sleep(0)  # so that Ctrl-C gets through
    return digest.hexdigest(), time.perf_counter() - start


def _rate(size: int, seconds: float) -> str:
    return f"{size / max(seconds, 1e-9) / 1e6:,.0f} MB/s"


# --- the second process -------------------------------------------------------------------


async def _receive_file(stream: BiStream) -> None:
    send, recv = stream
    (size,) = struct.unpack("!Q", await recv.readexactly(8))
    with tempfile.NamedTemporaryFile(prefix="iroh-fast-demo-", buffering=0) as file:
        done, start = 0, time.perf_counter()
        async for chunk in recv:
            if file.write(chunk) != len(chunk):
                raise DemoFailed(f"no room for the file in {tempfile.gettempdir()}")
            done += len(chunk)
        seconds = time.perf_counter() - start
        if done != size:
            raise DemoFailed(f"{done} bytes came instead of the announced {size}")
        digest, hash_seconds = await _hash_file(Path(file.name))
    report = {"bytes": done, "seconds": seconds, "sha256": digest, "hash_seconds": hash_seconds}
    await send.write_all(json.dumps(report).encode())
    send.finish()


async def _serve_connection(conn: Connection) -> None:
    async for stream in conn.bi_streams():
        send, recv = stream
        kind = await recv.readexactly(1)
        if kind == ECHO:
            await send.write_all(await recv.read_to_end(1000))
            send.finish()
        elif kind == FILE:
            await _receive_file(stream)
        else:
            conn.close(1, b"unknown request")


async def _serve() -> int:
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        if not isinstance(error, ConnectionLost):  # of those the first process tells
            failures.append(error)

    async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
        done = asyncio.Event()

        async def handler(conn: Connection) -> None:
            try:
                await _serve_connection(conn)
            finally:
                done.set()

        async with Router(ep, {ALPN: handler}, on_error=failed):
            print(ep.ticket, flush=True)
            # The parent's end of the pipe closes when it goes away, in whatever manner.
            loop = asyncio.get_running_loop()
            gone = loop.run_in_executor(None, sys.stdin.buffer.read)
            waiting = loop.create_task(done.wait())
            await asyncio.wait({gone, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
    for failure in failures:
        print(f"{type(failure).__name__}: {failure}", file=sys.stderr)
    return 1 if failures else 0


def serve() -> int:
    """Run the second process."""
    try:
        return _run(_serve())
    except KeyboardInterrupt:  # of the whole group: the first process says what is to say
        return 130


# --- the first process --------------------------------------------------------------------


async def _make_file(path: Path, size: int) -> None:
    need = 2 * size + (64 << 20)
    free = shutil.disk_usage(path.parent).free
    if free < need:
        raise DemoFailed(
            f"{path.parent} has {free >> 20} MiB free, {need >> 20} MiB are needed; "
            "use a smaller --size or another TMPDIR"
        )
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(os.urandom(min(BLOCK, size - start)))
            await asyncio.sleep(0)


async def _send_file(send: SendStream, path: Path, size: int) -> None:
    live = sys.stdout.isatty()
    start = shown = time.perf_counter()
    done = 0
    await send.write_all(FILE + struct.pack("!Q", size))
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            await send.write_all(block)
            done += len(block)
            now = time.perf_counter()
            if live and now - shown > 0.1:
                shown = now
                print(
                    f"\r  sent {done >> 20} of {size >> 20} MiB, {_rate(done, now - start)}   ",
                    end="",
                    flush=True,
                )
    send.finish()
    if live:
        print("\r" + " " * 60 + "\r", end="")


async def _talk(ticket: str, path: Path, size: int) -> None:
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
        print(f"first process:  {ep.id}")
        start = time.perf_counter()
        async with ep.connect(ticket, ALPN) as conn:
            took = time.perf_counter() - start
            print(f"connected to {conn.remote_id:short} in {took * 1e3:.1f} ms")

            start = time.perf_counter()
            async with conn.open_bi() as (send, recv):
                await send.write_all(ECHO + LINE)
                send.finish()
                answer = await recv.read_to_end(1000)
            took = time.perf_counter() - start
            if answer != LINE:
                raise DemoFailed(f"sent {LINE!r}, got {answer!r} back")
            print(f"echo: {answer.decode()!r} in {took * 1e3:.2f} ms")

            print(f"sending a file of {size >> 20} MiB", flush=True)
            async with conn.open_bi() as (send, recv):
                await _send_file(send, path, size)
                report = json.loads(await recv.read_to_end(4096))
            if report["bytes"] != size:
                raise DemoFailed(f"sent {size} bytes, {report['bytes']} arrived")
            print(
                f"network: {size >> 20} MiB in {report['seconds']:.2f} s, "
                f"{_rate(size, report['seconds'])}"
            )
            digest, took = await _hash_file(path)
            if report["sha256"] != digest:
                raise DemoFailed(f"sha256 of the file is {digest}, arrived {report['sha256']}")
            print(
                f"sha256: equal on both sides, {digest[:16]}… "
                f"(hashing: {_rate(size, took)} here, {_rate(size, report['hash_seconds'])} there)"
            )


async def _end(peer: asyncio.subprocess.Process) -> int:
    """Have the second process end, with patience only where nobody waits for us."""
    assert peer.stdin is not None
    peer.stdin.close()
    try:
        return await asyncio.wait_for(peer.wait(), 10)
    except (TimeoutError, asyncio.CancelledError) as error:
        peer.kill()
        status = await peer.wait()
        if isinstance(error, asyncio.CancelledError):
            raise
        return status


async def _demo(size: int) -> int:
    suites = build_info()["crypto"]["suites"]
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    print(f"iroh_fast {__version__} on {loop}, aes-128-gcm by {suites['aes-128-gcm']}")
    with tempfile.TemporaryDirectory(prefix="iroh-fast-demo-") as folder:
        path = Path(folder) / "data"
        await _make_file(path, size)
        peer = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "iroh_fast", "demo", "--serve"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert peer.stdin is not None and peer.stdout is not None
        try:
            ticket = (await asyncio.wait_for(peer.stdout.readline(), 30)).decode().strip()
            if not ticket:
                raise DemoFailed("the second process ended without printing a ticket")
            print(f"second process: {ticket}")
            await _talk(ticket, path, size)
        finally:
            status = await _end(peer)
        if status:
            raise DemoFailed(f"the second process ended with status {status}")
    print("done")
    return 0


def run(size_mib: int) -> int:
    """Run the demo with a file of that many MiB; returns the exit status."""
    try:
        return _run(_demo(size_mib << 20))
    except (DemoFailed, IrohError, OSError, TimeoutError) as error:
        print(f"demo failed: {error or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
