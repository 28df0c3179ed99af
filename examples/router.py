"""Router: several protocols on one endpoint, with a filter and a hook.

python examples/router.py
"""

import asyncio
import sys
from collections import Counter

from iroh_fast import (
    Connection,
    Endpoint,
    EndpointHooks,
    Incoming,
    IncomingOutcome,
    NotAllowed,
    ProtocolHandler,
    Reject,
    Router,
    presets,
)
from iroh_fast.errors import ApplicationClosed

UPPER = b"iroh-fast-example/upper/0"
COUNT = b"iroh-fast-example/count/0"


class Upper:
    """Answers each stream with its text in upper case."""

    async def accept(self, conn: Connection) -> None:
        async for send, recv in conn.bi_streams():
            text = await recv.read_to_end(10_000)
            await send.write_all(text.upper())
            send.finish()

    async def shutdown(self) -> None:
        print("upper: shutting down")


class Count:
    """Tells each peer how often it has connected; three times are enough."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def accept(self, conn: Connection) -> None:
        peer = str(conn.remote_id)
        self.seen[peer] += 1
        if self.seen[peer] > 3:
            conn.close(42, b"enough")
            raise NotAllowed(f"{conn.remote_id:short} connects too often")
        async with conn.open_uni() as send:
            await send.write_all(b"%d" % self.seen[peer])
        await conn.wait_closed()


class Log(EndpointHooks):
    """Sees every connection; turns away what does not speak one of our protocols."""

    async def after_handshake(self, conn: Connection) -> Reject | None:
        print(f"hook: {conn.remote_id:short} speaks {conn.alpn.decode()}")
        return None if conn.alpn in (UPPER, COUNT) else Reject(1, b"unknown")


def only_validated(incoming: Incoming) -> IncomingOutcome:
    """Let a client prove its address before any work is done for it."""
    return IncomingOutcome.ACCEPT if incoming.remote_addr_validated else IncomingOutcome.RETRY


async def main() -> None:
    server = await Endpoint.bind(preset=presets.minimal, hooks=[Log()])
    protocols: dict[bytes, ProtocolHandler] = {UPPER: Upper(), COUNT: Count()}
    async with Router(server, protocols, incoming_filter=only_validated):
        async with Endpoint.bind(preset=presets.minimal) as client:
            async with client.connect(server.addr, UPPER) as conn:
                async with conn.open_bi() as (send, recv):
                    await send.write_all(b"hello")
                    send.finish()
                    print("upper:", (await recv.read_to_end(10_000)).decode())
            for _ in range(4):
                async with client.connect(server.addr, COUNT) as conn:
                    try:
                        stream = await conn.accept_uni()
                        print("count:", (await stream.read_to_end(100)).decode())
                    except ApplicationClosed as error:
                        print(f"count: {error}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
