"""Rival on a link: the official binding; ``--memmove`` as in ``official.py``."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from typing import Any

import iroh
from _child import main, spawn
from _transfer import TRANSFER, Receiver, Upload
from iroh import iroh_ffi
from official import READ, options, use_memmove

ONLINE_S = 10.0


async def endpoint(host: str, relay: str | None, alpns: list[bytes]) -> iroh.Endpoint:
    iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    relays = iroh.RelayMap.empty()
    if relay is not None:
        relays.insert(iroh.RelayConfig(url=relay, quic_port=None, auth_token=None))
    made = await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr=f"{host}:0",
            alpns=alpns,
            relay_mode=iroh.RelayMode.custom(relays) if relay else iroh.RelayMode.disabled(),
        )
    )
    if relay is not None:
        async with asyncio.timeout(ONLINE_S):
            await made.online()
    return made


class Server(Receiver):
    async def start(self, address: None, host: str, relay: str | None = None) -> dict[str, Any]:
        self.endpoint = await endpoint(host, relay, [TRANSFER])
        spawn(self.accept())
        sockets = [] if relay else self.endpoint.bound_sockets()
        addr = iroh.EndpointAddr(self.endpoint.id(), relay_url=relay, addresses=sockets)
        self.ready()
        ticket = str(iroh.EndpointTicket.from_addr(addr))
        return {"address": ticket, "versions": {"iroh": version("iroh")}}

    async def accept(self) -> None:
        while (incoming := await self.endpoint.accept_next()) is not None:
            spawn(self.receive(incoming), (iroh.IrohError,))

    async def receive(self, incoming: iroh.Incoming) -> None:
        conn = await (await incoming.accept()).connect()
        stream = await conn.accept_uni()
        while data := await stream.read(READ):
            self.add(len(data))


class Client:
    async def start(self, address: str, host: str, relay: str | None = None) -> dict[str, Any]:
        self.endpoint = await endpoint(host, relay, [])
        self.peer = iroh.EndpointTicket.from_string(address).endpoint_addr()
        return {"address": None, "versions": {"iroh": version("iroh")}}

    async def upload(self, seconds: float) -> dict[str, Any]:
        upload = Upload(seconds)
        conn = await upload.into_stream(lambda: self.endpoint.connect(self.peer, TRANSFER))
        if conn is None:
            return upload.report(0, 0)
        paths = conn.paths()
        sent = sum(path.stats.udp_tx_datagrams for path in paths)
        lost = sum(path.stats.lost_packets for path in paths)
        return upload.report(sent, lost)


if __name__ == "__main__":
    if "--memmove" in sys.argv:
        use_memmove()
    main(Server, Client, options)
