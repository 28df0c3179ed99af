"""Many connections between two endpoints: what one more costs, what idle ones cost, and whether they slow one down.

``python bench/many_connections.py`` takes half a minute with 1,000; ``--connections 10000`` some minutes. Both ends live in
this process, so memory and CPU are those of both; "per side" is half of that. Ratios are what counts: the last
connections against the first, a request among many against one among few.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from pathlib import Path

from iroh_fast import Connection, Endpoint, IrohError, Router, presets

ALPN = b"bench-many/1"
FEW = 50  # connections among which a request is measured first
REQUESTS = 300


def resident() -> int:
    """Resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


async def serve(conn: Connection) -> None:
    try:
        async for send, recv in conn.bi_streams():
            await send.write_all(await recv.read_to_end(1000))
            send.finish()
    except IrohError:
        pass


async def request(conn: Connection) -> None:
    send, recv = await conn.open_bi()
    await send.write_all(b"x" * 64)
    send.finish()
    await recv.read_to_end(1000)


async def request_us(conn: Connection) -> float:
    """Median CPU time of both sides for a request."""
    took = []
    for _ in range(REQUESTS):
        start = time.process_time_ns()
        await request(conn)
        took.append(time.process_time_ns() - start)
    return statistics.median(took) / 1000


async def run(number: int, idle_s: float) -> dict[str, float]:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with (
        Router(await Endpoint.bind(preset=presets.minimal), {ALPN: serve}) as router,
        Endpoint.bind(preset=presets.minimal) as endpoint,
    ):
        server = router.endpoint.addr
        conns = [await endpoint.connect(server, ALPN) for _ in range(FEW)]
        gc.collect()
        base, few_us = resident(), await request_us(conns[0])
        step = max(1, (number - FEW) // 10)
        rates = []
        while len(conns) < number:
            start = time.process_time()
            more = min(step, number - len(conns))
            conns += [await endpoint.connect(server, ALPN) for _ in range(more)]
            rates.append(more / (time.process_time() - start))
        await asyncio.sleep(1)
        gc.collect()
        memory = (resident() - base) / 2 / (number - FEW)
        cpu, wall = time.process_time(), time.perf_counter()
        await asyncio.sleep(idle_s)
        idle = (time.process_time() - cpu) / (time.perf_counter() - wall)
        many_us = await request_us(conns[0])
        result = {
            "connections": number,
            "dials_per_cpu_second_first": rates[0],
            "dials_last_to_first": rates[-1] / rates[0],
            "kib_per_side": memory / 1024,
            "idle_percent_of_a_core": idle * 100,
            "request_us": many_us,
            "request_many_to_few": many_us / few_us,
        }
        for conn in conns:
            conn.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=10.0, help="seconds of idleness that are measured")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.connections <= FEW:
        parser.error(f"more than {FEW} connections are needed")
    try:
        import uvloop
    except ImportError:
        result = asyncio.run(run(args.connections, args.idle))
    else:
        result = uvloop.run(run(args.connections, args.idle))
    if args.json:
        json.dump(result, sys.stdout)
        print()
        return
    for name, value in result.items():
        print(f"{name:28} {value:10.2f}")


if __name__ == "__main__":
    main()
