"""Rival: aioquic through ``aioquic.asyncio`` (streams) and its protocol class (datagrams).

QUIC only: the server proves itself with a self-signed Ed25519 certificate made at run time, the
client does not (aioquic has no public switch for client certificates), and there is no multipath,
no NAT traversal and no relay.  Packets have the size iroh reaches on loopback.  Two things that
its API leaves to the user are done here: waiting while too much is queued, and dropping a closed
connection without waiting for the end of its draining period.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import socket
import time
from importlib.metadata import version
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
from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import DatagramFrameReceived, QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

NAME = "bench.invalid"
PACKET = 1452
QUEUE = 1 << 20  # bytes queued for sending at which the writer waits


def configuration(alpns: tuple[bytes, ...], *, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[alpn.decode() for alpn in alpns],
        max_datagram_frame_size=65535,
        max_datagram_size=PACKET,
    )


def certificate() -> tuple[x509.Certificate, Ed25519PrivateKey]:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    )
    return builder.sign(key, None), key


class Peer(QuicConnectionProtocol):
    """Counts datagrams and wakes who waits for the send queue to drain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter = Meter()
        self.drained = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, DatagramFrameReceived):
            self.meter.message(event.data)
        super().quic_event_received(event)

    def transmit(self) -> None:
        super().transmit()
        self.drained.set()

    async def wait_below(self, stream_id: int) -> None:
        """Wait until less than `QUEUE` bytes of a stream are unacknowledged."""
        sender = self._quic._streams[stream_id].sender
        while len(sender._buffer) >= QUEUE:
            self.drained.clear()
            await self.drained.wait()

    async def wait_datagrams(self) -> None:
        """Wait until all queued datagrams are sent."""
        while self._quic._datagrams_pending:
            self.drained.clear()
            await self.drained.wait()

    @property
    def alpn(self) -> bytes:
        return self._quic.tls.alpn_negotiated.encode()


class Server:
    async def start(self, address: None) -> dict[str, Any]:
        config = configuration(ALPNS, is_client=False)
        config.certificate, config.private_key = certificate()
        handlers = {
            BULK.decode(): self.bulk,
            ECHO.decode(): self.echo,
            REQUEST.decode(): self.request,
            DATAGRAM.decode(): self.datagrams,
        }

        def on_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = writer.transport.protocol
            spawn(handlers[peer.alpn.decode()](peer, reader, writer))

        self.server = await serve(
            "127.0.0.1", 0, configuration=config, create_protocol=Peer, stream_handler=on_stream
        )
        return {
            "address": {
                "port": self.server._transport.get_extra_info("sockname")[1],
                "certificate": config.certificate.public_bytes(Encoding.PEM).decode(),
            },
            "versions": {"aioquic": version("aioquic")},
        }

    async def bulk(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        meter = Meter()
        while data := await reader.read(1 << 18):
            meter.bytes += len(data)
        self.answer(writer, meter.report())

    def answer(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        writer.write_eof()

    async def echo(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)

    async def request(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.answer(writer, await reader.read())

    async def datagrams(
        self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.answer(writer, peer.meter.report(until_now=False))


class Client:
    async def start(self, address: dict[str, Any]) -> dict[str, Any]:
        self.port = address["port"]
        self.authority = address["certificate"].encode()
        self.held: list[Peer] = []
        return {"address": None, "versions": {"aioquic": version("aioquic")}}

    async def connect(self, alpn: bytes) -> Peer:
        config = configuration((alpn,), is_client=True)
        config.server_name = NAME
        config.cadata = self.authority
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        _, peer = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: Peer(QuicConnection(configuration=config)), sock=sock
        )
        peer.connect(("127.0.0.1", self.port))
        await peer.wait_connected()
        return peer

    def close(self, peer: Peer) -> None:
        async def finish() -> None:
            await peer.wait_closed()
            peer._transport.close()

        peer.close()
        spawn(finish())

    async def bulk(self, seconds: float) -> dict[str, Any]:
        peer = await self.connect(BULK)
        reader, writer = await peer.create_stream()
        id = writer.get_extra_info("stream_id")
        sent, cpu = 0, time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            writer.write(WRITE)
            sent += len(WRITE)
            await peer.wait_below(id)
        writer.write_eof()
        report = json.loads(await reader.read())
        self.close(peer)
        return report | {"sent": sent, "client_cpu_s": time.process_time() - cpu}

    async def ping_pong(self, seconds: float) -> dict[str, float]:
        peer = await self.connect(ECHO)
        reader, writer = await peer.create_stream()

        async def once() -> None:
            writer.write(MESSAGE)
            await reader.readexactly(len(MESSAGE))

        result = await ping_pong(once, seconds)
        self.close(peer)
        return result

    async def requests(self, seconds: float, at_a_time: int) -> dict[str, float]:
        peer = await self.connect(REQUEST)

        async def once() -> None:
            reader, writer = await peer.create_stream()
            writer.write(MESSAGE)
            writer.write_eof()
            if await reader.read() != MESSAGE:
                raise RuntimeError("wrong answer")

        result = await many(once, seconds, at_a_time)
        self.close(peer)
        return result

    async def datagrams(self, seconds: float) -> dict[str, Any]:
        peer = await self.connect(DATAGRAM)
        sent, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(BURST):
                peer._quic.send_datagram_frame(DATAGRAM_BYTES)
            sent += BURST
            peer.transmit()
            await asyncio.sleep(0)
            await peer.wait_datagrams()
        await asyncio.sleep(SETTLE_S)
        reader, writer = await peer.create_stream()
        writer.write(b"?")
        report = json.loads(await reader.read())
        self.close(peer)
        return report | {"sent": sent}

    async def connections(self, seconds: float) -> dict[str, float]:
        async def once() -> None:
            self.close(await self.connect(IDLE))

        return await many(once, seconds, 1)

    async def hold(self, count: int) -> None:
        for _ in range(count):
            self.held.append(await self.connect(IDLE))


if __name__ == "__main__":
    main(Server, Client)
