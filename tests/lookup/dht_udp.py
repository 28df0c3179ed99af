"""The nodes of the simulated DHT on sockets of this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from dht_sim import SimNode, distance

from iroh_fast.lookup.dht.krpc import Address


class _Protocol(asyncio.DatagramProtocol):
    node: SimNode
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        answer = self.node.receive(data, addr)
        if answer is not None:
            self.transport.sendto(answer, addr)


class UdpNet:
    """``async with UdpNet(5) as net``: nodes that all know each other, at 127.0.0.1."""

    def __init__(
        self, count: int, kinds: Sequence[type[SimNode]] = (SimNode,), seed: int = 1
    ) -> None:
        self.random = Random(seed)
        self.count = count
        self.kinds = kinds
        self.nodes: list[SimNode] = []
        self.transports: list[Any] = []

    async def __aenter__(self) -> UdpNet:
        loop = asyncio.get_running_loop()
        for number in range(self.count):
            transport, protocol = await loop.create_datagram_endpoint(
                _Protocol, local_addr=("127.0.0.1", 0)
            )
            address = transport.get_extra_info("sockname")
            make: Any = self.kinds[number % len(self.kinds)]
            protocol.node = make(self, self.random.randbytes(20), address)
            self.nodes.append(protocol.node)
            self.transports.append(transport)
        for node in self.nodes:
            node.contacts = [other for other in self.nodes if other is not node]
        return self

    async def __aexit__(self, *_: object) -> None:
        for transport in self.transports:
            transport.close()
        await asyncio.sleep(0)

    @property
    def bootstrap(self) -> list[Address]:
        return [node.address for node in self.nodes[:2]]

    def address(self) -> Address:
        return f"127.0.0.{self.random.randrange(2, 255)}", self.random.randrange(1025, 65536)

    def nearest(self, target: bytes, count: int = 20) -> list[SimNode]:
        return sorted(self.nodes, key=lambda n: distance(n.id, target))[:count]
