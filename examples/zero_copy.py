"""Zero copy: how to move a lot of data without moving it around in memory.

Sending: immutable ``bytes`` are not copied, they are kept by reference until the peer has
acknowledged them.  Receiving: ``readinto`` copies once, from the receive buffer into your
memory; here the memory of a whole array.

    python examples/zero_copy.py
"""

import asyncio
import sys
import time
from array import array

from iroh_fast import Connection, Endpoint, Router, presets

ALPN = b"iroh-fast-example/zero-copy/0"
COUNT = 8 << 20  # doubles: 64 MiB


async def serve_array(conn: Connection) -> None:
    """Send one big array to whoever connects."""
    data = array("d", range(COUNT)).tobytes()
    async with conn.open_uni() as send:
        await send.write_all(len(data).to_bytes(8, "big"))
        # Not copied: the packets are made from this very object.
        await send.write_all(data)
    await conn.wait_closed()


async def fetch_array(conn: Connection) -> "array[float]":
    recv = await conn.accept_uni()
    size = int.from_bytes(await recv.readexactly(8), "big")
    result = array("d", bytes(size))
    done = 0
    with memoryview(result).cast("B") as view:
        while done < size:
            # Fills what is there, at most the rest of the buffer.
            taken = await recv.readinto(view[done:])
            if not taken:
                raise EOFError(f"{done} of {size} bytes")
            done += taken
    return result


async def main() -> None:
    async with Router(await Endpoint.bind(preset=presets.minimal), {ALPN: serve_array}) as router:
        async with (
            Endpoint.bind(preset=presets.minimal) as ep,
            ep.connect(router.endpoint.addr, ALPN) as conn,
        ):
            start = time.perf_counter()
            result = await fetch_array(conn)
            seconds = time.perf_counter() - start
    assert len(result) == COUNT and result[12345] == 12345.0 and result[-1] == COUNT - 1
    size = COUNT * 8
    print(f"{size >> 20} MiB in {seconds:.2f} s, both sides in one process")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
