"""Echo: accept with a Router, dial, send a line, get it back, close gracefully.

python examples/echo.py
"""

import asyncio
import sys

from iroh_fast import Connection, Endpoint, EndpointAddr, Router, presets

# Each protocol has a name, by which the two sides agree on it.
ALPN = b"iroh-example/echo/0"


class Echo:
    """Protocol handler that sends back what it receives."""

    async def accept(self, conn: Connection) -> None:
        print(f"accepted connection from {conn.remote_id:short}")
        # The dialler opens one bidirectional stream.
        send, recv = await conn.accept_bi()
        # Copy until the end of the dialler's data.
        copied = 0
        async for chunk in recv:
            await send.write_all(chunk)
            copied += len(chunk)
        print(f"copied {copied} byte(s)")
        # No more data follows from us either.
        send.finish()
        # Returning lets go of the connection, which closes it once the dialler's side has
        # acknowledged the answer. The dialler closes when it has read it: wait for that.
        await conn.wait_closed()


async def start_accept_side() -> Router:
    endpoint = await Endpoint.bind(preset=presets.minimal)
    return Router(endpoint, {ALPN: Echo()}).start()


async def connect_side(addr: EndpointAddr) -> None:
    async with Endpoint.bind(preset=presets.minimal) as endpoint:
        conn = await endpoint.connect(addr, ALPN)
        send, recv = await conn.open_bi()
        await send.write_all(b"Hello, world!")
        send.finish()
        response = await recv.read_to_end(1000)
        assert response == b"Hello, world!", response
        print(f"got back: {response.decode()}")
        # Everything is here: now it is safe to close.
        conn.close(0, b"bye!")
        # Leaving the block closes the endpoint, which waits until the peer knows.


async def main() -> None:
    router = await start_accept_side()
    await connect_side(router.endpoint.addr)
    await router.shutdown()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
