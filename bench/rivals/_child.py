"""What both processes of every rival share: line-JSON commands, meters, and the way out.

A child reads one JSON object per line from standard input and answers each with one line on
standard output::

    {"do": "start", "address": null}      -> {"ok": {"address": ..., "versions": {...}}}
    {"do": "bulk", "seconds": 1.0}        -> {"ok": {"bytes": ..., "seconds": ..., ...}}
    {"do": "usage"}                       -> {"ok": {"cpu_s": ..., "rss_bytes": ...}}

or ``{"error": "..."}``.  The end of standard input ends the process.  Anything printed goes to
standard error.  Both processes of a rival are loaded, loops and all, before the first command.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

BULK, ECHO, REQUEST, DATAGRAM, IDLE = ALPNS = (
    b"bench/bulk",
    b"bench/echo",
    b"bench/request",
    b"bench/datagram",
    b"bench/idle",
)
WRITE = bytes(1 << 20)  # one write of the bulk measure
MESSAGE = bytes(range(64))  # ping-pong, request and response
DATAGRAM_BYTES = bytes(1000)
WARM_UP = 200  # operations before the clock starts
BURST = 32  # datagrams between two looks at the clock
SETTLE_S = 0.2  # for datagrams still under way

_tasks: set[asyncio.Task[None]] = set()


class Part(Protocol):
    """One side of a rival.  Its other coroutine methods are commands, too."""

    async def start(self, address: Any) -> Any: ...


def spawn(coro: Coroutine[Any, Any, None], expected: tuple[type[BaseException], ...] = ()) -> None:
    """Run a task, keep it alive, and complain when it fails in another way than `expected`."""

    async def run() -> None:
        try:
            await coro
        except expected:
            pass
        except Exception:
            traceback.print_exc()

    task = asyncio.get_running_loop().create_task(run())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Meter:
    """Bytes and messages of one measure at the receiver; the clock runs from its creation."""

    def __init__(self) -> None:
        self.bytes = self.messages = 0
        self.cpu = time.process_time()
        self.started = self.last = time.perf_counter()

    def message(self, data: bytes) -> None:
        if not self.messages:
            self.started = time.perf_counter()
        self.messages += 1
        self.bytes += len(data)
        self.last = time.perf_counter()

    def report(self, *, until_now: bool = True) -> bytes:
        seconds = (time.perf_counter() if until_now else self.last) - self.started
        return json.dumps(
            {
                "bytes": self.bytes,
                "messages": self.messages,
                "seconds": seconds,
                "server_cpu_s": time.process_time() - self.cpu,
            }
        ).encode()


def percentiles(latencies: list[float]) -> dict[str, float]:
    """p50 and p99 in microseconds of latencies in seconds (nearest rank)."""
    ordered = sorted(latencies)

    def rank(q: float) -> float:
        return ordered[max(0, math.ceil(q * len(ordered)) - 1)] * 1e6

    return {"p50_us": rank(0.50), "p99_us": rank(0.99), "count": len(ordered)}


async def ping_pong(once: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    """Time round trips one after the other."""
    clock = time.perf_counter
    for _ in range(WARM_UP):
        await once()
    latencies = []
    now = clock()
    end = now + seconds
    while now < end:
        await once()
        latencies.append(-now + (now := clock()))
    return percentiles(latencies)


async def many(
    once: Callable[[], Awaitable[None]], seconds: float, at_a_time: int
) -> dict[str, float]:
    """Count how often `once` gets done, `at_a_time` of it in parallel."""
    clock = time.perf_counter
    done = 0

    async def worker(end: float) -> None:
        nonlocal done
        while clock() < end:
            await once()
            done += 1

    for _ in range(max(1, WARM_UP // at_a_time)):
        await asyncio.gather(*(once() for _ in range(at_a_time)))
    started = clock()
    await asyncio.gather(*(worker(started + seconds) for _ in range(at_a_time)))
    return {"count": done, "seconds": clock() - started}


def rss_bytes() -> int | None:
    """Memory of this process that is in RAM now; None where that takes a library."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


async def usage() -> dict[str, Any]:
    gc.collect()
    return {"cpu_s": time.process_time(), "rss_bytes": rss_bytes()}


def die_with_parent() -> None:
    """Linux kills this process when the one that started it is gone, however it went."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


async def serve(part: Part, answers: Any) -> None:
    loop = asyncio.get_running_loop()
    commands: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def read() -> None:
        for line in sys.stdin:
            loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        command = await commands.get()
        name = command.pop("do")
        try:
            method = usage if name == "usage" else getattr(part, name)
            answer = {"ok": await method(**command)}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main(
    server: Callable[[], Part],
    client: Callable[[], Part],
    options: Callable[[Any], None] | None = None,
) -> None:
    """Run one side of a rival, see the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["server", "client"])
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--cpu", type=int, help="run on this core only")
    if options is not None:
        options(parser)
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    part = (server if args.side == "server" else client)()
    if args.loop == "uvloop":
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    else:
        runner = asyncio.Runner()
    with contextlib.suppress(KeyboardInterrupt):
        runner.run(serve(part, answers))
