"""iroh_fast on a link, with its defaults; ``--controller`` names another congestion controller."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from _child import main, spawn
from _transfer import TRANSFER, Receiver, Upload
from fast import versions

from iroh_fast import (
    Endpoint,
    EndpointAddr,
    EndpointTicket,
    IrohError,
    QuicTransportConfig,
    presets,
)
from iroh_fast.incoming import Incoming

ONLINE_S = 10.0


async def endpoint(host: str, relay: str | None, alpns: list[bytes]) -> Endpoint:
    """With a relay, nothing but that: every byte goes through it."""
    transport = QuicTransportConfig().with_qlog_from_env("client-" if not alpns else "server-")
    if "--controller" in sys.argv:
        name: Any = sys.argv[sys.argv.index("--controller") + 1]
        transport = transport.replace(congestion_controller=name)
    if relay is None:
        return await Endpoint.bind(
            preset=presets.minimal, bind_addrs=[f"{host}:0"], alpns=alpns, transport=transport
        )
    made = await Endpoint.bind(
        preset=presets.minimal,
        relays=[relay],
        ip_transports=False,
        alpns=alpns,
        transport=transport,
    )
    async with asyncio.timeout(ONLINE_S):
        await made.online()
    return made


class Server(Receiver):
    async def start(self, address: None, host: str, relay: str | None = None) -> dict[str, Any]:
        self.endpoint = await endpoint(host, relay, [TRANSFER])
        spawn(self.accept())
        self.ready()
        return {"address": str(self.endpoint.ticket), "versions": versions()}

    async def accept(self) -> None:
        async for incoming in self.endpoint.incoming():
            spawn(self.receive(incoming), (IrohError,))

    async def receive(self, incoming: Incoming) -> None:
        stream = await (await incoming).accept_uni()
        async for chunk in stream:
            self.add(len(chunk))


class Client:
    async def start(self, address: str, host: str, relay: str | None = None) -> dict[str, Any]:
        self.endpoint = await endpoint(host, relay, [])
        peer = EndpointTicket.parse(address).addr
        self.peer = peer if relay is None else EndpointAddr(peer.id, relay_url=relay)
        return {"address": None, "versions": versions()}

    async def upload(self, seconds: float) -> dict[str, Any]:
        upload = Upload(seconds)
        conn = await upload.into_stream(lambda: self.endpoint.connect(self.peer, TRANSFER))
        if conn is None:
            return upload.report(0, 0)
        stats = conn.stats()
        report = upload.report(stats.udp_tx.datagrams, stats.lost_packets)
        with contextlib.suppress(IrohError):
            conn.close()
        return report


def options(parser: Any) -> None:
    parser.add_argument("--controller")


if __name__ == "__main__":
    main(Server, Client, options)
