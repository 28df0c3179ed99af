"""Datagrams: unreliable messages, for what is outdated when it is late.

python examples/datagrams.py
"""

import asyncio
import sys
import time

from iroh_fast import Connection, Endpoint, Router, presets

ALPN = b"iroh-fast-example/datagrams/0"
COUNT = 1000


async def reflect(conn: Connection) -> None:
    """Send every datagram back."""
    async for data in conn.datagrams():
        conn.send_datagram(data)


async def main() -> None:
    async with (
        Router(await Endpoint.bind(preset=presets.minimal), {ALPN: reflect}) as router,
        Endpoint.bind(preset=presets.minimal) as ep,
    ):
        async with ep.connect(router.endpoint.addr, ALPN) as conn:
            print(f"up to {conn.max_datagram_size} bytes fit into a datagram")
            times: list[float] = []
            lost = 0
            for number in range(COUNT):
                message = number.to_bytes(4, "big")
                start = time.perf_counter()
                conn.send_datagram(message)
                # Datagrams may be lost, and an answer may be a late one.
                try:
                    async with asyncio.timeout(1):
                        while await conn.read_datagram() != message:
                            pass
                except TimeoutError:
                    lost += 1
                else:
                    times.append(time.perf_counter() - start)
            times.sort()
            median = times[len(times) // 2]
            print(f"{len(times)} answers, {lost} lost, median {median * 1e6:.0f} µs")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
