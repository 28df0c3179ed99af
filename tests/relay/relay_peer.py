"""A client of relay servers that can also break every rule."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from iroh_fast import SecretKey
from iroh_fast._relay import WsReader, build_message, decode_frame, encode_frame
from iroh_fast.relay.server.config import RelayLimits, RelayServerConfig
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import ClientHandshake

PATIENCE_S = 60.0
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "sec-websocket-protocol": "iroh-relay-v2, iroh-relay-v1",
}


def config(**changes: Any) -> RelayServerConfig:
    """Settings of a test server; those of `RelayLimits` may be given too."""
    limits = {k: changes.pop(k) for k in list(changes) if k in RelayLimits.__slots__}
    return RelayServerConfig.dev(limits=RelayLimits(**limits), **changes)


def head(target: str = "/relay", method: str = "GET", **headers: str | None) -> bytes:
    """A request head; headers are given with underscores, None takes one away."""
    fields: dict[str, str] = {
        "Host": "relay.example",
        **(UPGRADE if target.startswith("/relay") else {}),
    }
    names = {name.lower(): name for name in fields}
    for name, value in headers.items():
        name = name.replace("_", "-").lower()
        fields.pop(names.get(name, name), None)
        if value is not None:
            fields[name] = value
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class HttpAnswer:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.all_headers = headers
        self.headers = dict(headers)
        self.body = body


async def read_answer(reader: asyncio.StreamReader, *, has_body: bool = True) -> HttpAnswer:
    async with asyncio.timeout(PATIENCE_S):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        headers = [
            (k.lower(), v) for k, _, v in (line.partition(": ") for line in lines[1:] if line)
        ]
        size = int(dict(headers).get("content-length", 0)) if has_body else 0
        return HttpAnswer(status, headers, await reader.readexactly(size))


def where(server: RelayServer, name: str | None = None) -> tuple[str, int]:
    return server.addresses[name or ("https" if "https" in server.addresses else "http")]


@asynccontextmanager
async def opened(
    server: RelayServer, name: str | None = None, **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection to a listener of the server."""
    if name is None and "https" in server.addresses and "ssl" not in options:
        options["ssl"] = trusting(server)
        options["server_hostname"] = "localhost"
    reader, writer = await asyncio.open_connection(*where(server, name), **options)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        try:
            await writer.wait_closed()
        except (OSError, ssl.SSLError):
            pass


def trusting(server: RelayServer) -> ssl.SSLContext:
    assert server.certificate is not None
    return ssl.create_default_context(cadata=server.certificate.decode())


async def request(server: RelayServer, data: bytes, name: str | None = None) -> HttpAnswer:
    async with opened(server, name) as (reader, writer):
        writer.write(data)
        return await read_answer(reader, has_body=not data.startswith(b"HEAD"))


class RawClient:
    """One WebSocket connection; `connect` also authenticates."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        secret: SecretKey,
        version: int,
    ) -> None:
        self.reader, self.writer = reader, writer
        self.secret = secret
        self.key = bytes(secret.public)
        self.version = version
        self.ws = WsReader("client")
        self.close_code: int | None = None

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data)

    def send_message(self, payload: bytes, opcode: int = 2) -> None:
        self.writer.write(build_message(opcode, payload, os.urandom(4)))

    def send(self, **frame: Any) -> None:
        self.send_message(encode_frame(frame))  # type: ignore[arg-type]

    def send_to(
        self, dst: RawClient | bytes, contents: bytes, ecn: int = 0, segment: int | None = None
    ) -> None:
        key = dst if isinstance(dst, bytes) else dst.key
        kind = 4 if segment is None else 5
        self.send(type=kind, dst=key, ecn=ecn, segment_size=segment, contents=contents)

    async def receive_any(self) -> tuple[int, bytes] | None:
        """The next message of any kind; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE_S):
            while (message := self.ws.next_message()) is None:
                try:
                    data = await self.reader.read(65536)
                except OSError:
                    return None
                if not data:
                    return None
                self.ws.feed(data)
            return message

    async def receive_payload(self) -> bytes | None:
        while (message := await self.receive_any()) is not None:
            if message[0] == 2:
                return message[1]
            if message[0] == 8:
                self.close_code = int.from_bytes(message[1][:2], "big")
        return None

    async def receive(self) -> dict[str, Any] | None:
        payload = await self.receive_payload()
        if payload is None:
            return None
        return decode_frame(payload, sender="server", version=self.version)  # type: ignore[return-value]

    async def receive_contents(self) -> bytes:
        frame = await self.receive()
        assert frame is not None and frame["type"] in (6, 7), frame
        return frame["contents"]

    async def ping(self, data: bytes = b"12345678") -> None:
        """Wait until everything sent before was handled."""
        self.send(type=9, data=data)
        assert await self.receive() == {"type": 10, "data": data}

    async def ended(self) -> int | None:
        """Wait for the end of the stream; gives the close code if there was one."""
        while await self.receive_payload() is not None:
            pass
        return self.close_code


@asynccontextmanager
async def upgraded(
    server: RelayServer,
    secret: SecretKey | None = None,
    *,
    version: int = 2,
    target: str = "/relay",
    name: str | None = None,
    **headers: str | None,
) -> AsyncIterator[RawClient]:
    """A connection behind the 101, not yet authenticated."""
    headers.setdefault("sec_websocket_protocol", f"iroh-relay-v{version}")
    headers["sec_websocket_key"] = base64.b64encode(os.urandom(16)).decode()
    async with opened(server, name) as (reader, writer):
        writer.write(head(target, **headers))
        answer = await read_answer(reader)
        assert answer.status == 101, (answer.status, answer.body)
        yield RawClient(reader, writer, secret or SecretKey.generate(), version)


async def authenticate(client: RawClient) -> None:
    handshake = ClientHandshake(client.secret)
    while not handshake.done:
        message = await client.receive_payload()
        assert message is not None, "closed in the handshake"
        reply = handshake.feed(message)
        if reply is not None:
            client.send_message(reply)


@asynccontextmanager
async def connected(
    server: RelayServer, secret: SecretKey | None = None, **options: Any
) -> AsyncIterator[RawClient]:
    """An authenticated connection that the server has registered."""
    async with upgraded(server, secret, **options) as client:
        await authenticate(client)
        await client.ping()
        yield client


async def until(condition: Any) -> None:
    """Wait for something that happens soon."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)
