"""Packets above 1500 bytes on real sockets: the loopback interface takes 65,487 bytes of payload, and more is refused."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from iroh_fast import Connection, Endpoint, MtuDiscoveryConfig, QuicTransportConfig, presets
from iroh_fast._batch import UdpSocket

LARGEST = 65_487
ALPN = b"large"
DEFAULT = QuicTransportConfig()


@asynccontextmanager
async def pair(
    host: str, client: QuicTransportConfig = DEFAULT, server: QuicTransportConfig = DEFAULT
) -> AsyncIterator[tuple[Connection, Connection]]:
    here = f"[{host}]:0" if ":" in host else f"{host}:0"
    async with (
        await Endpoint.bind(
            preset=presets.minimal, bind_addrs=[here], alpns=[ALPN], transport=server
        ) as there,
        await Endpoint.bind(preset=presets.minimal, bind_addrs=[here], transport=client) as dialer,
    ):

        async def accept() -> Connection:
            incoming = await there.accept()
            assert incoming is not None
            return await incoming

        accepting = asyncio.ensure_future(accept())
        yield await dialer.connect(there.addr, ALPN), await accepting


async def move(sender: Connection, receiver: Connection, size: int) -> None:
    stream = await sender.open_uni()
    writing = asyncio.ensure_future(stream.write_all(bytes(size)))
    arriving = await receiver.accept_uni()
    got = 0
    while got < size:
        got += len(await arriving.read(1 << 20))
    await writing


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_loopback_carries_packets_as_large_as_its_interface(host: str) -> None:
    async with asyncio.timeout(60), pair(host) as (ours, theirs):
        while ours.paths[0].mtu != LARGEST:
            await move(ours, theirs, 4 << 20)
        stats = ours.paths[0].stats
        assert stats.sent_plpmtud_probes - stats.lost_plpmtud_probes <= 3
        assert stats.black_holes_detected == 0
        # datagrams of that size arrive whole, also side by side with stream data
        size = ours.max_datagram_size
        assert size == LARGEST - 38
        messages = [bytes([n]) * (size - n) for n in range(4)]
        for message in messages:
            await ours.send_datagram_wait(message)
        await move(ours, theirs, 1 << 20)
        assert await theirs.read_datagram() in messages


async def test_bound_of_either_side_holds() -> None:
    ordinary = QuicTransportConfig(mtu_discovery=MtuDiscoveryConfig(upper_bound=1452))
    large = QuicTransportConfig(mtu_discovery=MtuDiscoveryConfig(upper_bound=9000))
    for client, server in ((ordinary, large), (large, ordinary)):
        async with asyncio.timeout(60), pair("127.0.0.1", client, server) as (ours, theirs):
            for sender, receiver in ((ours, theirs), (theirs, ours)):
                while sender.paths[0].mtu != 1452:
                    await move(sender, receiver, 1 << 20)
    async with asyncio.timeout(60), pair("127.0.0.1", large) as (ours, theirs):
        while ours.paths[0].mtu != 9000:
            await move(ours, theirs, 1 << 20)
        await move(ours, theirs, 8 << 20)
        assert ours.paths[0].mtu == 9000


@pytest.mark.parametrize(("host", "most"), [("127.0.0.1", 65_507), ("::1", 65_488)])
def test_system_tells_what_the_interface_takes(host: str, most: int) -> None:
    sock = UdpSocket.bind((host, 0))
    try:
        to = sock.local_address
        assert sock.largest_to(to) == sock.largest_to(to, src=host) == most
        assert sock.sendto(bytes(LARGEST), to) == 0
        assert sock.stats()["tx_datagrams"] == 1 and len(sock.recv()[0][0]) == LARGEST
        sock.sendto(bytes(65_535), to)
        assert sock.sendmany([(bytes(65_535), to, 0)]) == [errno.EMSGSIZE]
        assert sock.stats()["tx_too_big"] == 2 and sock.stats()["tx_errors"] == 0
    finally:
        sock.close()


def test_full_queue_of_large_datagrams_is_received_whole() -> None:
    sender, receiver = UdpSocket.bind(("127.0.0.1", 0)), UdpSocket.bind(("127.0.0.1", 0))
    try:
        sent = [bytes([n]) * (LARGEST - n) for n in range(3)]
        for data in sent:
            assert sender.sendto(data, receiver.local_address) == 0
        got: list[bytes] = []
        while len(got) < len(sent):
            got += [data for data, *_ in receiver.recv()]
        assert got == sent and receiver.stats()["rx_dropped"] == 0
    finally:
        sender.close()
        receiver.close()
