"""An endpoint of this package as a process in a lab: echoes what comes, or dials and compares what comes back.

python -m tests.lab.ours serve 10.77.0.2
python -m tests.lab.ours dial 10.77.0.1 ID ADDRESS:PORT SIZE

Answers are lines of JSON. The server ends with its input.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import sys
from typing import Any

from iroh_fast import Connection, Endpoint, EndpointAddr, EndpointId, Router, presets

ALPN = b"iroh-fast-lab/1"


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)


async def echo(conn: Connection) -> None:
    async for send, recv in conn.bi_streams():
        async for piece in recv:
            await send.write_all(piece)
        send.finish()


async def serve(own: str) -> None:
    endpoint = await Endpoint.bind(preset=presets.minimal, bind_addrs=[f"{own}:0"])
    async with Router(endpoint, {ALPN: echo}):
        tell(id=str(endpoint.id), sockets=[str(s) for s in endpoint.bound_sockets])
        await asyncio.to_thread(sys.stdin.read)


async def exchange(conn: Connection, data: bytes) -> str:
    """Send data and read their echo; its hash."""
    send, recv = await conn.open_bi()

    async def write() -> None:
        await send.write_all(data)
        send.finish()

    _, back = await asyncio.gather(write(), recv.read_to_end(len(data) + 1))
    return hashlib.sha256(back).hexdigest()


async def dial(own: str, id: str, address: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=[f"{own}:0"]) as endpoint:
        conn = await endpoint.connect(EndpointAddr(EndpointId(id), ip_addrs=[address]), ALPN)
        small = await exchange(conn, b"hello")
        large = await exchange(conn, data)
        stats = conn.stats()
        conn.close(0, b"")
        tell(
            small=small == hashlib.sha256(b"hello").hexdigest(),
            large=large == hashlib.sha256(data).hexdigest(),
            lost=stats.lost_packets,
        )


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    asyncio.run(serve(*rest) if role == "serve" else dial(*rest[:-1], int(rest[-1])))
