"""The relay a Python user would write: the same frames on a WebSocket library.

Authentication, routes and forwarding are there; queues are the library's own.
``python relay_library.py websockets|aiohttp [CERT KEY]`` prints the port and serves until killed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import sys
from typing import Any

import uvloop

from iroh_fast.relay.wire import PROTOCOLS, ServerHandshake

clients: dict[bytes, Any] = {}


def forwarded(message: bytes, source: bytes) -> tuple[Any, bytes]:
    """Destination and new frame of a datagram frame."""
    kind = message[0]
    if kind not in (4, 5):
        return None, b""
    return clients.get(message[1:33]), bytes((kind + 2,)) + source + message[33:]


async def serve_websockets(context: ssl.SSLContext | None) -> int:
    from websockets.asyncio.server import ServerConnection, serve

    async def handler(ws: ServerConnection) -> None:
        handshake = ServerHandshake()
        await ws.send(handshake.start())
        handshake.feed(await ws.recv())
        await ws.send(handshake.confirm())
        source = bytes(handshake.endpoint_id)
        clients[source] = ws
        async for message in ws:
            if message[0] == 9:
                await ws.send(b"\x0a" + message[1:])
                continue
            to, frame = forwarded(message, source)
            if to is not None:
                await to.send(frame)

    server = await serve(
        handler, "127.0.0.1", 0, ssl=context, subprotocols=list(PROTOCOLS), compression=None,
        ping_interval=None,
    )  # fmt: skip
    return server.sockets[0].getsockname()[1]


async def serve_aiohttp(context: ssl.SSLContext | None) -> int:
    from aiohttp import web

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(protocols=list(PROTOCOLS), compress=False, autoping=True)
        await ws.prepare(request)
        handshake = ServerHandshake()
        await ws.send_bytes(handshake.start())
        handshake.feed((await ws.receive()).data)
        await ws.send_bytes(handshake.confirm())
        source = bytes(handshake.endpoint_id)
        clients[source] = ws
        async for received in ws:
            message = received.data
            if message[0] == 9:
                await ws.send_bytes(b"\x0a" + message[1:])
                continue
            to, frame = forwarded(message, source)
            if to is not None:
                await to.send_bytes(frame)
        return ws

    app = web.Application()
    app.router.add_get("/relay", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    return runner.addresses[0][1]


async def main() -> None:
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[2], sys.argv[3])
    serve = serve_websockets if sys.argv[1] == "websockets" else serve_aiohttp
    print(await serve(context), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable()  # clients that vanish are part of the measurement
    uvloop.run(main())
