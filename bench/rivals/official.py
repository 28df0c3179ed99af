"""Rival: the official binding, the ``iroh`` wheel as published.

With ``--memmove`` its loop that copies bytes one by one into a Rust buffer is replaced, in this
process only, by one memmove: what the binding would reach with that one line mended.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import time
from importlib.metadata import version
from typing import Any

import iroh
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
from iroh import iroh_ffi

READ = 1 << 18  # the fastest of 64 KiB, 256 KiB and 1 MiB with this binding
LIMIT = 1 << 16


def use_memmove() -> None:
    builder = iroh_ffi._UniffiRustBufferBuilder

    def write(self: Any, value: Any) -> None:
        data = bytes(value)
        with self._reserve(len(data)):
            start = ctypes.cast(self.rbuf.data, ctypes.c_void_p).value
            ctypes.memmove(start + self.rbuf.len, data, len(data))

    if not hasattr(builder, "write") or not hasattr(builder, "_reserve"):
        raise RuntimeError("this iroh wheel copies bytes in another way")
    builder.write = write


async def endpoint(alpns: list[bytes]) -> iroh.Endpoint:
    iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    return await iroh.Endpoint.bind(
        iroh.EndpointOptions(
            preset=iroh.preset_minimal(),
            bind_addr="127.0.0.1:0",
            alpns=alpns,
            relay_mode=iroh.RelayMode.disabled(),
        )
    )


class Server:
    async def start(self, address: None) -> dict[str, Any]:
        self.endpoint = await endpoint(list(ALPNS))
        spawn(self.accept())
        addr = iroh.EndpointAddr(
            self.endpoint.id(), relay_url=None, addresses=self.endpoint.bound_sockets()
        )
        ticket = iroh.EndpointTicket.from_addr(addr)
        return {"address": str(ticket), "versions": {"iroh": version("iroh")}}

    async def accept(self) -> None:
        while (incoming := await self.endpoint.accept_next()) is not None:
            spawn(self.serve(incoming), (iroh.IrohError,))

    async def serve(self, incoming: iroh.Incoming) -> None:
        conn = await (await incoming.accept()).connect()
        handlers = {
            BULK: self.bulk,
            ECHO: self.echo,
            REQUEST: self.requests,
            DATAGRAM: self.datagrams,
            IDLE: self.idle,
        }
        await handlers[conn.alpn()](conn)

    async def bulk(self, conn: iroh.Connection) -> None:
        bi = await conn.accept_bi()
        recv, meter = bi.recv(), Meter()
        while data := await recv.read(READ):
            meter.bytes += len(data)
        await self.answer(bi.send(), meter.report())
        await conn.closed()

    async def answer(self, send: iroh.SendStream, data: bytes) -> None:
        await send.write_all(data)
        await send.finish()

    async def echo(self, conn: iroh.Connection) -> None:
        bi = await conn.accept_bi()
        send, recv = bi.send(), bi.recv()
        while data := await recv.read(LIMIT):
            await send.write_all(data)

    async def requests(self, conn: iroh.Connection) -> None:
        while True:
            spawn(self.request(await conn.accept_bi()), (iroh.IrohError,))

    async def request(self, bi: iroh.BiStream) -> None:
        await self.answer(bi.send(), await bi.recv().read_to_end(LIMIT))

    async def datagrams(self, conn: iroh.Connection) -> None:
        meter = Meter()
        spawn(self.report_datagrams(conn, meter), (iroh.IrohError,))
        while True:
            meter.message(await conn.read_datagram())

    async def report_datagrams(self, conn: iroh.Connection, meter: Meter) -> None:
        bi = await conn.accept_bi()
        await self.answer(bi.send(), meter.report(until_now=False))

    async def idle(self, conn: iroh.Connection) -> None:
        await conn.closed()


class Client:
    async def start(self, address: str) -> dict[str, Any]:
        self.endpoint = await endpoint([])
        self.peer = iroh.EndpointTicket.from_string(address).endpoint_addr()
        self.held: list[iroh.Connection] = []
        return {"address": None, "versions": {"iroh": version("iroh")}}

    async def connect(self, alpn: bytes) -> iroh.Connection:
        return await self.endpoint.connect(self.peer, alpn)

    async def bulk(self, seconds: float) -> dict[str, Any]:
        conn = await self.connect(BULK)
        bi = await conn.open_bi()
        send = bi.send()
        sent, cpu = 0, time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            await send.write_all(WRITE)
            sent += len(WRITE)
        await send.finish()
        report = json.loads(await bi.recv().read_to_end(LIMIT))
        conn.close(0, b"")
        return report | {"sent": sent, "client_cpu_s": time.process_time() - cpu}

    async def ping_pong(self, seconds: float) -> dict[str, float]:
        conn = await self.connect(ECHO)
        bi = await conn.open_bi()
        send, recv = bi.send(), bi.recv()

        async def once() -> None:
            await send.write_all(MESSAGE)
            await recv.read_exact(len(MESSAGE))

        result = await ping_pong(once, seconds)
        conn.close(0, b"")
        return result

    async def requests(self, seconds: float, at_a_time: int) -> dict[str, float]:
        conn = await self.connect(REQUEST)

        async def once() -> None:
            bi = await conn.open_bi()
            send = bi.send()
            await send.write_all(MESSAGE)
            await send.finish()
            if await bi.recv().read_to_end(LIMIT) != MESSAGE:
                raise RuntimeError("wrong answer")

        result = await many(once, seconds, at_a_time)
        conn.close(0, b"")
        return result

    async def datagrams(self, seconds: float) -> dict[str, Any]:
        conn = await self.connect(DATAGRAM)
        sent, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(BURST):
                await conn.send_datagram_wait(DATAGRAM_BYTES)
            sent += BURST
        await asyncio.sleep(SETTLE_S)
        bi = await conn.open_bi()
        await bi.send().write_all(b"?")
        report = json.loads(await bi.recv().read_to_end(LIMIT))
        conn.close(0, b"")
        return report | {"sent": sent}

    async def connections(self, seconds: float) -> dict[str, float]:
        async def once() -> None:
            (await self.connect(IDLE)).close(0, b"")

        return await many(once, seconds, 1)

    async def hold(self, count: int) -> None:
        for _ in range(count):
            self.held.append(await self.connect(IDLE))


def options(parser: Any) -> None:
    parser.add_argument("--memmove", action="store_true")


if __name__ == "__main__":
    import sys

    if "--memmove" in sys.argv:
        use_memmove()
    main(Server, Client, options)
