"""Two endpoints in one process that talk without a network: a custom transport in a few lines.

python examples/in_memory.py
"""

import asyncio

from iroh_fast import (
    Connection,
    CustomAddr,
    CustomEndpoint,
    CustomInbox,
    Endpoint,
    Router,
    TransportId,
    presets,
)

ALPN = b"iroh-fast-example/in-memory/0"


class Hub:
    """A network of this process. Give one to all endpoints that are to reach each other.

    Addresses on it are the keys of the endpoints.
    """

    def __init__(self) -> None:
        self.inboxes: dict[CustomAddr, CustomInbox] = {}

    async def bind(self, inbox: CustomInbox) -> CustomEndpoint:
        addr = CustomAddr(TransportId.TEST, bytes(inbox.endpoint_id))
        self.inboxes[addr] = inbox
        return Port(self, addr)


class Port(CustomEndpoint):
    """One endpoint's place on a hub."""

    max_transmit_segments = 64  # batches pass as they are
    max_datagram_size = 16_384

    def __init__(self, hub: Hub, addr: CustomAddr) -> None:
        self.hub = hub
        self.local_addrs = (addr,)

    def is_valid_send_addr(self, addr: CustomAddr) -> bool:
        return addr.id == TransportId.TEST

    def send(
        self, dst: CustomAddr, src: CustomAddr | None, data: bytes, segment_size: int | None
    ) -> None:
        # Whoever is not there gets nothing, and an inbox that is full drops it: QUIC sends it again.
        if (inbox := self.hub.inboxes.get(dst)) is not None:
            inbox.put(self.local_addrs[0], data, segment_size=segment_size)

    async def close(self) -> None:
        del self.hub.inboxes[self.local_addrs[0]]


async def echo(conn: Connection) -> None:
    send, recv = await conn.accept_bi()
    async for chunk in recv:
        await send.write_all(chunk)
    send.finish()
    await conn.wait_closed()


async def main() -> None:
    hub = Hub()
    # No socket is opened at all.
    server = await Endpoint.bind(
        preset=presets.minimal, ip_transports=False, custom_transports=[hub]
    )
    async with Router(server, {ALPN: echo}):
        addr = server.addr.with_addrs(server.custom_addrs)
        async with (
            Endpoint.bind(
                preset=presets.minimal, ip_transports=False, custom_transports=[hub]
            ) as client,
            client.connect(addr, ALPN) as conn,
        ):
            send, recv = await conn.open_bi()
            data = bytes(1_000_000)
            echoed = asyncio.create_task(recv.read_to_end(len(data)))
            await send.write_all(data)
            send.finish()
            assert await echoed == data
            [path] = conn.paths
            assert path.remote_addr == server.custom_addrs[0]
            print(
                f"{len(data)} bytes there and back in packets of {path.mtu} bytes, without a socket"
            )


if __name__ == "__main__":
    asyncio.run(main())
