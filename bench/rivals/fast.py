"""iroh_fast through its public asyncio API."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from _child import (
    ALPNS,
    BULK,
    BURST,
    DATAGRAM,
    DATAGRAM_BYTES,
    ECHO,
    IDLE,
    MESSAGE,
    REQUEST,
    SETTLE_S,
    WRITE,
    Meter,
    main,
    many,
    ping_pong,
    spawn,
)

import iroh_fast
from iroh_fast import Connection, Endpoint, EndpointTicket, IrohError, presets
from iroh_fast.incoming import Incoming
from iroh_fast.streams import RecvStream, SendStream

LIMIT = 1 << 16


async def endpoint(alpns: list[bytes]) -> Endpoint:
    return await Endpoint.bind(preset=presets.minimal, bind_addrs=["127.0.0.1:0"], alpns=alpns)


def versions() -> dict[str, Any]:
    from iroh_fast._crypto import backend

    return {
        "iroh_fast": iroh_fast.__version__,
        "aes-128-gcm": backend()["suites"]["aes-128-gcm"],
    }


class Server:
    async def start(self, address: None) -> dict[str, Any]:
        self.endpoint = await endpoint(list(ALPNS))
        spawn(self.accept())
        return {"address": str(self.endpoint.ticket), "versions": versions()}

    async def accept(self) -> None:
        async for incoming in self.endpoint.incoming():
            spawn(self.serve(incoming), (IrohError,))

    async def serve(self, incoming: Incoming) -> None:
        conn = await incoming
        handlers = {
            BULK: self.bulk,
            ECHO: self.echo,
            REQUEST: self.requests,
            DATAGRAM: self.datagrams,
            IDLE: self.idle,
        }
        await handlers[conn.alpn](conn)

    async def bulk(self, conn: Connection) -> None:
        send, recv = await conn.accept_bi()
        meter = Meter()
        async for chunk in recv:
            meter.bytes += len(chunk)
        await self.answer(send, meter.report())
        await conn.wait_closed()

    async def answer(self, send: SendStream, data: bytes) -> None:
        await send.write_all(data)
        send.finish()

    async def echo(self, conn: Connection) -> None:
        send, recv = await conn.accept_bi()
        while data := await recv.read():
            await send.write_all(data)

    async def requests(self, conn: Connection) -> None:
        while True:
            send, recv = await conn.accept_bi()
            spawn(self.request(send, recv), (IrohError,))

    async def request(self, send: SendStream, recv: RecvStream) -> None:
        await self.answer(send, await recv.read_to_end(LIMIT))

    async def datagrams(self, conn: Connection) -> None:
        meter = Meter()
        spawn(self.report_datagrams(conn, meter), (IrohError,))
        while True:
            meter.message(await conn.read_datagram())

    async def report_datagrams(self, conn: Connection, meter: Meter) -> None:
        send, _ = await conn.accept_bi()
        await self.answer(send, meter.report(until_now=False))
        await conn.wait_closed()

    async def idle(self, conn: Connection) -> None:
        await conn.wait_closed()


class Client:
    async def start(self, address: str) -> dict[str, Any]:
        self.endpoint = await endpoint([])
        self.peer = EndpointTicket.parse(address).addr
        self.held: list[Connection] = []
        return {"address": None, "versions": versions()}

    async def connect(self, alpn: bytes) -> Connection:
        return await self.endpoint.connect(self.peer, alpn)

    async def bulk(self, seconds: float) -> dict[str, Any]:
        async with await self.connect(BULK) as conn:
            send, recv = await conn.open_bi()
            sent, cpu = 0, time.process_time()
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                await send.write_all(WRITE)
                sent += len(WRITE)
            send.finish()
            report = json.loads(await recv.read_to_end(LIMIT))
            return report | {"sent": sent, "client_cpu_s": time.process_time() - cpu}

    async def ping_pong(self, seconds: float) -> dict[str, float]:
        async with await self.connect(ECHO) as conn:
            send, recv = await conn.open_bi()

            async def once() -> None:
                await send.write_all(MESSAGE)
                await recv.readexactly(len(MESSAGE))

            return await ping_pong(once, seconds)

    async def requests(self, seconds: float, at_a_time: int) -> dict[str, float]:
        async with await self.connect(REQUEST) as conn:

            async def once() -> None:
                send, recv = await conn.open_bi()
                await send.write_all(MESSAGE)
                send.finish()
                if await recv.read_to_end(LIMIT) != MESSAGE:
                    raise RuntimeError("wrong answer")

            return await many(once, seconds, at_a_time)

    async def datagrams(self, seconds: float) -> dict[str, Any]:
        async with await self.connect(DATAGRAM) as conn:
            sent, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                for _ in range(BURST):
                    await conn.send_datagram_wait(DATAGRAM_BYTES)
                sent += BURST
            await asyncio.sleep(SETTLE_S)
            send, recv = await conn.open_bi()
            await send.write_all(b"?")
            return json.loads(await recv.read_to_end(LIMIT)) | {"sent": sent}

    async def connections(self, seconds: float) -> dict[str, float]:
        async def once() -> None:
            (await self.connect(IDLE)).close()

        return await many(once, seconds, 1)

    async def hold(self, count: int) -> None:
        for _ in range(count):
            self.held.append(await self.connect(IDLE))


if __name__ == "__main__":
    main(Server, Client)
