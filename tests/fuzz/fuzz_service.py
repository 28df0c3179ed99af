"""The two ends of a relay connection whole, on transports that keep what is written.

``relay_server``: the first byte of an input chooses what its pieces are given to:

0        a new connection: HTTP requests, or upgrades;
1        one behind the 101: messages that should prove a key, as they are on the wire;
2, 3     one of two clients that were let in, with protocol version 1 or 2: relay messages;
4        the same, the bytes of the WebSocket.

``relay_client``: 0 the answer to the upgrade, 1 what follows it, 2 and 3 relay messages once
connected, 4 the bytes of the WebSocket then.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz_connection import pieces
from sim import ErrorCatcher

from iroh_fast import SecretKey
from iroh_fast._relay import WsReader, build_message, encode_frame
from iroh_fast.addr import RelayUrl
from iroh_fast.errors import RelayClientError, RelayDenied, RelayHandshakeError
from iroh_fast.relay.client.connection import RelayConnection
from iroh_fast.relay.client.link import Dialer
from iroh_fast.relay.server.access import SharedToken
from iroh_fast.relay.server.config import RelayServerConfig
from iroh_fast.relay.server.routes import Routes
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import ClientHandshake, ServerHandshake, accept_value
from iroh_fast.web.http import HttpProtocol

MASK = b"mask"
SECRETS = [SecretKey(bytes((n,)) * 32) for n in (1, 2)]
KEYS = [bytes(secret.public) for secret in SECRETS]
ONE_READ = 16_384


class Transport(asyncio.Transport):
    """Hands bytes to its protocol when told to, and keeps what it is given."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.reading = True
        self.closed = False
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1234) if name in ("sockname", "peername") else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def take(self) -> bytes:
        data = bytes(self.written)
        self.written.clear()
        return data

    async def feed(self, data: bytes) -> None:
        """Let bytes arrive, in pieces of what the protocol has room for."""
        while data and not self.closed:
            await turn(lambda: self.reading or self.closed)
            if self.closed or not self.reading:
                return
            room = self.protocol.get_buffer(ONE_READ)
            size = min(len(room), len(data))
            room[:size] = data[:size]
            data = data[size:]
            self.protocol.buffer_updated(size)


async def turn(done: Callable[[], bool], turns: int = 8) -> None:
    """Let the event loop do what is to do."""
    for _ in range(turns):
        if done():
            return
        await asyncio.sleep(0)


_loops: list[asyncio.AbstractEventLoop] = []


def run_async(main: Any) -> None:
    """Run a case; what it leaves behind in the loop, or tells it, is a failure."""
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    loop = _loops[0]
    told: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    catcher = ErrorCatcher()
    logger = logging.getLogger("iroh_fast")
    logger.addHandler(catcher)
    try:
        loop.run_until_complete(main)
    finally:
        logger.removeHandler(catcher)
    assert not told, told[0]
    assert not catcher.records, logging.Formatter().format(catcher.records[0])


# --- the server ----------------------------------------------------------------------------


def request(target: str = "/relay", version: int = 2, *more: str) -> bytes:
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: relay.example",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"sec-websocket-protocol: iroh-relay-v{version}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Serving:
    """A relay server without listeners, and connections to it."""

    def __init__(self, server: RelayServer) -> None:
        self.server = server
        self.transports: list[Transport] = []

    def connect(self) -> Transport:
        loop = asyncio.get_running_loop()
        server = self.server
        server._host.admission.enter("192.0.2.1")
        protocol = HttpProtocol(
            loop,
            server._handle_main,
            turns=server._host.turns,
            deadline=loop.time() + 60,
            on_end=server._host._ended,
            peer="192.0.2.1",
            main=True,
        )
        server._host._began(protocol)
        self.transports.append(Transport(protocol))
        return self.transports[-1]

    async def upgraded(self, version: int) -> tuple[Transport, bytes]:
        """A connection behind the 101, and the message that came with it."""
        transport = self.connect()
        await transport.feed(request(version=version))
        await turn(lambda: b"\r\n\r\n" in transport.written)
        head, _, rest = transport.take().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        reader = WsReader("client")
        reader.feed(rest)
        message = reader.next_message()
        assert message is not None
        return transport, message[1]

    async def admitted(self, version: int, secret: SecretKey) -> Transport:
        transport, challenge = await self.upgraded(version)
        answer = ClientHandshake(secret).feed(challenge)
        assert answer is not None
        await transport.feed(build_message(2, answer, MASK))
        await turn(lambda: bool(transport.written))
        assert transport.take() == build_message(2, b"\x02")
        return transport

    async def end(self) -> None:
        """Everybody leaves; the books must be even then."""
        for transport in self.transports:
            transport.abort()
        await turn(lambda: False)
        server = self.server
        assert not server._host.protocols and not server._gate.pending
        assert not server.forwarder.connections
        assert server._host.admission.total == server._host.admission.unproven == 0
        assert server._host.turns.counters.handler_errors == 0


async def serve(data: bytes) -> None:
    mode = data[0] % 5 if data else 0
    settings = RelayServerConfig.dev(key_cache_capacity=64)
    if mode == 1:
        settings = settings.with_changes(access=SharedToken(["token"]))
    server = RelayServer(settings)

    async def no_listeners() -> None:
        server._routes = Routes({}, plain=True)

    server._start_services = no_listeners  # type: ignore[method-assign]
    await server.start()
    serving = Serving(server)
    try:
        version = 1 if mode == 2 else 2
        if mode == 0:
            victim = serving.connect()
        elif mode == 1:
            victim, _ = await serving.upgraded(version)
        else:
            victim = await serving.admitted(version, SECRETS[0])
            other = await serving.admitted(3 - version, SECRETS[1])
        for flags, piece in pieces(data[1:]):
            if mode in (2, 3):
                piece = build_message(2, piece, MASK)
            elif mode == 0 and flags & 1:
                piece += b"\r\n\r\n"
            await victim.feed(piece)
            if flags & 2:
                await turn(lambda: False, 2)
        await turn(lambda: False)
        if mode >= 2:
            # Nobody else is harmed.
            other.take()
            await other.feed(build_message(2, encode_frame({"type": 9, "data": b"are here"}), MASK))
            assert build_message(2, encode_frame({"type": 10, "data": b"are here"})) in other.take()
    finally:
        await serving.end()
        await server.stop()


def run_relay_server(data: bytes) -> None:
    run_async(serve(data))


def split(mode: int, data: list[bytes], flags: int = 2) -> bytes:
    return bytes((mode,)) + b"".join(struct.pack("!BH", flags, len(d)) + d for d in data)


def relay_server_seeds(frames: list[bytes]) -> list[bytes]:
    token = (
        base64.urlsafe_b64encode(KEYS[0] + b"\x40" + bytes(64) + bytes(16)).rstrip(b"=").decode()
    )
    heads = [
        request(),
        request("/relay?token=token", 1),
        request("/relay", 2, "Authorization: Bearer token"),
        request("/relay", 2, f"x-iroh-relay-client-auth-v1: {token}"),
        b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /generate_204 HTTP/1.1\r\nX-Iroh-Challenge: abc\r\n\r\nHEAD / HTTP/1.1\r\n\r\n",
        b"POST /relay HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"GET http://[::1]:80/healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 3,
    ]
    seeds = [split(0, [head]) for head in heads]
    seeds += [split(0, [head[:40], head[40:]]) for head in heads]
    answer = b"\x01" + KEYS[0] + b"\x40" + bytes(64)
    early = [answer, b"\x00" * 17, b"\x03\x05wrong", b"\x01" + bytes(96), b""]
    seeds += [split(1, [build_message(op, data, MASK)]) for op in (2, 9) for data in early]
    seeds.append(split(1, [build_message(op, b"\x03\xe8", MASK) for op in (1, 9, 10, 8)]))
    for key in KEYS:
        to = [
            encode_frame(
                {"type": 4, "dst": key, "ecn": 1, "segment_size": None, "contents": b"one"}
            ),
            encode_frame(
                {"type": 5, "dst": key, "ecn": 0, "segment_size": 3, "contents": b"fourteen"}
            ),
        ]
        seeds += [split(mode, to) for mode in (2, 3)]
        seeds.append(split(4, [build_message(2, data, MASK) for data in to]))
        cut = b"".join(build_message(2, data, MASK) for data in to)
        seeds.append(split(4, [cut[:20], cut[20:60], cut[60:]]))
    seeds += [split(mode, [frame]) for frame in frames if len(frame) < 30_000 for mode in (2, 3)]
    seeds.append(split(4, [build_message(op, b"\x03\xe8", MASK) for op in (1, 9, 10, 8)]))
    return seeds


# --- the client ----------------------------------------------------------------------------


class Owner:
    """What a connection of a client calls."""

    def on_datagrams(self, src: bytes, ecn: int, segment_size: int, payload: bytes) -> None:
        assert len(src) == 32 and 0 <= ecn <= 3 and payload
        assert 0 <= segment_size <= 65_535

    def on_gone(self, endpoint: bytes) -> None:
        assert len(endpoint) == 32

    def on_rate_limited(self) -> None: ...

    def on_superseded(self, superseded: bool) -> None: ...

    def on_writable(self) -> None: ...


URL = RelayUrl("http://relay.example/")


async def dial(data: bytes) -> None:
    mode = data[0] % 5 if data else 0
    found = pieces(data[1:])
    connection = RelayConnection(URL, Owner())
    transport = Transport(connection)
    dialer = Dialer()

    async def opened(link: Any, host: str, port: int, *, server_name: str | None) -> None:
        assert link is connection

    dialer._streams.open = opened  # type: ignore[method-assign]

    async def set_up() -> None:
        await dialer.open(URL, connection)
        await connection.authenticate(SECRETS[0])
        connection.serve()

    task = asyncio.ensure_future(set_up())
    try:
        await turn(lambda: bool(transport.written))
        head = transport.take()
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        if mode > 0:
            version = 1 if mode == 2 else 2
            answer = (
                f"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: iroh-relay-v{version}"
                f"\r\nsec-websocket-accept: {accept_value(key)}\r\n\r\n"
            )
            await transport.feed(answer.encode())
        if mode > 1:
            challenge = ServerHandshake(challenge=bytes(16)).start()
            assert challenge is not None
            await transport.feed(build_message(2, challenge) + build_message(2, b"\x02"))
            await turn(task.done)
            assert connection.error is None and task.exception() is None
        for flags, piece in found:
            if mode in (2, 3):
                piece = build_message(2, piece)
            elif mode == 0:
                piece = piece.replace(b"ACCEPT", accept_value(key).encode())
            await transport.feed(piece)
            if flags & 2:
                await turn(lambda: False, 2)
            if flags & 4:
                connection.send(KEYS[1], 0, 0, b"datagram")
        if mode < 2:
            transport.close()
        await turn(lambda: False)
        if connection.error is not None:
            assert isinstance(connection.error, RelayClientError)
    finally:
        connection.abort()
        transport.abort()
        try:
            await task
        except RelayClientError as error:
            assert error.kind and str(error)
        await connection.lost


def run_relay_client(data: bytes) -> None:
    run_async(dial(data))


def relay_client_seeds(frames: list[bytes]) -> list[bytes]:
    good = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nsec-websocket-accept: ACCEPT\r\n"
        b"sec-websocket-protocol: iroh-relay-v2\r\n\r\n"
    )
    heads = [
        good,
        good + build_message(2, b"\0" + bytes(16)) + build_message(2, b"\x02"),
        b"HTTP/1.1 403 Forbidden\r\ncontent-length: 3\r\n\r\nno!",
        b"HTTP/1.0 200 OK\r\n" + b"a: b\r\n" * 70 + b"\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 101\r\n" + b"x" * 17_000,
    ]
    seeds = [split(0, [head]) for head in heads] + [split(0, [h[:60], h[60:]]) for h in heads]
    shake = [
        b"\0" + bytes(16),
        b"\x02",
        b"\x03\x06denied",
        b"\x03\xff\xff\xff\xff\x0fx",
        b"\x01",
        b"",
    ]
    seeds += [split(1, [build_message(2, message)]) for message in shake]
    seeds.append(split(1, [build_message(2, m) for m in shake[:2]] + [build_message(9, b"ping")]))
    seeds.append(split(1, [build_message(op, b"\x03\xe8bye") for op in (1, 9, 10, 8)]))
    seeds += [split(mode, [f], 6) for f in frames if len(f) < 30_000 for mode in (2, 3)]
    whole = b"".join(build_message(2, frame) for frame in frames if len(frame) < 1000)
    cut = [whole[at : at + 50] for at in range(0, min(len(whole), 1900), 50)]
    seeds += [split(4, [whole]), split(4, cut)]
    seeds.append(split(4, [build_message(op, b"\x03\xe8bye") for op in (1, 9, 10, 8)]))
    return seeds


# --- the proofs alone ----------------------------------------------------------------------


def run_relay_proof(data: bytes) -> None:
    """The messages and the header that prove a key, without anything around them."""
    mode, rest = (data[0] % 3 if data else 0), data[1:]
    try:
        if mode == 0:
            client = ClientHandshake(SECRETS[0])
            for _, message in pieces(rest):
                client.feed(message)
            return
        material = Random(1).randbytes(32)
        if mode == 1:
            server = ServerHandshake(challenge=bytes(16))
            server.start()
            server.feed(rest)
        else:
            server = ServerHandshake(
                header=rest.decode("latin-1"), exporter=lambda *_: material, challenge=bytes(16)
            )
            server.start()
        assert server.endpoint_id in (None, SECRETS[0].public)
    except (RelayDenied, RelayHandshakeError):
        return


def relay_proof_seeds() -> list[bytes]:
    material = Random(1).randbytes(32)
    challenge = ServerHandshake(challenge=bytes(16)).start()
    assert challenge is not None
    answer = ClientHandshake(SECRETS[0]).feed(challenge)
    header = ClientHandshake(SECRETS[0]).header(lambda *_: material)
    assert answer is not None and header is not None
    messages = [challenge, b"\x02", b"\x03\x06denied", b"\x40\x03\x81\x01" + b"x" * 129]
    return [
        split(0, messages[:2]),
        *(split(0, [message]) for message in messages),
        b"\x01" + answer,
        b"\x02" + header.encode(),
    ]
