"""Bind, connect, close, again and again: descriptors, objects and memory must stay flat.

``python bench/cycles.py`` does a thousand cycles on each event loop, ten at a time, in less than half
a minute; the exit status is 1 when something grows. Each cycle binds two endpoints, connects them,
sends something on a stream and a datagram, and closes everything. As many go before, until the
allocators are at rest.  ``--preset n0`` does it with number 0's relays and lookups, which without a
network all fail.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from iroh_fast import Connection, Endpoint, Preset, presets

ALPN = b"bench-cycles/1"
AT_A_TIME = 10
BYTES_PER_CYCLE = 256  # by which memory in use may grow: caches of the interpreter and of libraries
BLOCKS, BLOCKS_PER_CYCLE = 200, 0.2  # the same of small blocks of Python: bounded caches fill up
OBJECTS = 50  # and of objects that the collector follows, in all


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that malloc has given out, where the C library tells.

    Resident memory says less: it follows the highest number of endpoints that lived together.
    """
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return int(info.uordblks + info.hblkhd)


@dataclass
class Held:
    """What a process holds."""

    descriptors: int
    objects: int
    blocks: int
    bytes: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        fds = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0
        return cls(fds, len(gc.get_objects()), sys.getallocatedblocks(), allocated())


async def accept_one(server: Endpoint) -> Connection:
    incoming = await server.accept()
    assert incoming is not None
    return await incoming


async def cycle(preset: Preset) -> None:
    async with (
        Endpoint.bind(preset=preset, bind_addrs=["127.0.0.1:0"], alpns=[ALPN]) as server,
        Endpoint.bind(preset=preset, bind_addrs=["127.0.0.1:0"]) as client,
    ):
        ours, theirs = await asyncio.gather(client.connect(server.addr, ALPN), accept_one(server))
        ours.send_datagram(b"datagram")
        send = await ours.open_uni()
        await send.write_all(b"stream")
        send.finish()
        recv = await theirs.accept_uni()
        assert await recv.read_to_end(100) == b"stream"
        ours.close()


async def run(cycles: int, preset: Preset) -> tuple[Held, Held]:
    async def some() -> None:
        for _ in range(cycles // AT_A_TIME):
            await asyncio.gather(*(cycle(preset) for _ in range(AT_A_TIME)))

    await some()
    before = Held.now()
    await some()
    return before, Held.now()


Runner = Callable[[Coroutine[Any, Any, tuple[Held, Held]]], tuple[Held, Held]]


def grown(name: str, runner: Runner, cycles: int, preset: Preset) -> bool:
    """Do the cycles on one loop and say what came of them."""
    before, after = runner(run(cycles, preset))
    descriptors = after.descriptors - before.descriptors
    objects = after.objects - before.objects
    blocks = after.blocks - before.blocks
    used = (after.bytes - before.bytes) / cycles
    print(
        f"{name:8} {cycles} cycles: {descriptors:+d} descriptors, {objects:+d} objects; "
        f"per cycle {blocks / cycles:+.2f} blocks, {used:+.0f} bytes"
    )
    return (
        descriptors > 0
        or objects > OBJECTS
        or blocks > BLOCKS + BLOCKS_PER_CYCLE * cycles
        or used > BYTES_PER_CYCLE
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument(
        "--preset",
        choices=presets.__all__,
        default="minimal",
        help="n0: with relays and address lookup, reached or not",
    )
    args = parser.parse_args()
    runners: dict[str, Runner] = {"asyncio": asyncio.run}
    try:
        import uvloop
    except ImportError:
        pass
    else:
        runners["uvloop"] = uvloop.run
    preset = getattr(presets, args.preset)
    failed = [name for name, runner in runners.items() if grown(name, runner, args.cycles, preset)]
    sys.exit(f"grows: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
