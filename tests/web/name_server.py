"""A name server for tests: over UDP, TCP, TLS and HTTPS, saying whatever it is told to."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from iroh_fast.web.ca import CaConfig
from iroh_fast.web.resolver import DnsResolver, NameserverConfig
from iroh_fast.web.resolver.hosts import Hosts
from iroh_fast.web.resolver.stub import Stub
from iroh_fast.web.resolver.system import SystemSource
from iroh_fast.web.tls_files import self_signed

Reply: TypeAlias = dns.message.Message | bytes | Iterable[bytes] | None
Answer: TypeAlias = Callable[[dns.message.Message, str], Reply]
"""``(query, "udp" | "tcp" | "tls" | "https")`` to what is sent: nothing, one message, several."""


def reply(
    query: dns.message.Message, *records: tuple[str, str, int, str], rcode: int = 0
) -> dns.message.Message:
    """An answer with records ``(owner, type, ttl, text)``; owner "" is the name that was asked for."""
    answer = dns.message.make_response(query)
    answer.set_rcode(dns.rcode.Rcode(rcode))
    for owner, kind, ttl, text in records:
        name = owner or query.question[0].name
        answer.answer.append(dns.rrset.from_text(name, ttl, "IN", kind, text))
    return answer


def refuses(code: int) -> Answer:
    return lambda query, _: reply(query, rcode=code)


def says(*records: tuple[str, str, int, str]) -> Answer:
    """Answers every question with these records, as far as they are of its type."""

    def answer(query: dns.message.Message, _: str) -> dns.message.Message:
        kind = query.question[0].rdtype.name
        return reply(query, *(r for r in records if r[1] in (kind, "CNAME")))

    return answer


def silent(_: dns.message.Message, __: str) -> None:
    """Answers nothing."""


class NameServer(asyncio.DatagramProtocol):
    """One port of 127.0.0.1.

    Attributes
    ----------
    queries : what came: transport and message.
    connections : how many streams were accepted.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.queries: list[tuple[str, dns.message.Message]] = []
        self.sources: set[Any] = set()
        self.connections = 0
        self.port = 0
        self.closes_after_each = False
        self._streams: set[asyncio.StreamWriter] = set()

    @property
    def asked(self) -> list[str]:
        """``transport name type`` of each query."""
        return [
            f"{over} {q.question[0].name} {q.question[0].rdtype.name}" for over, q in self.queries
        ]

    def _replies(self, data: bytes, over: str) -> list[bytes]:
        query = dns.message.from_wire(data)
        self.queries.append((over, query))
        found = self.answer(query, over)
        if found is None:
            return []
        if isinstance(found, dns.message.Message):
            return [found.to_wire(max_size=65535)]
        return [found] if isinstance(found, bytes) else list(found)

    # --- UDP

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.sources.add(addr)
        for wire in self._replies(data, "udp"):
            self.transport.sendto(wire, addr)

    # --- streams

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = "tls" if writer.get_extra_info("ssl_object") else "tcp"
        self.connections += 1
        self._streams.add(writer)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                for wire in self._replies(await reader.readexactly(size), over):
                    # Bytes that begin so are sent as they are.
                    raw = wire.removeprefix(b"RAW")
                    framed = len(wire).to_bytes(2, "big") + wire
                    writer.write(raw if wire.startswith(b"RAW") else framed)
                if self.closes_after_each:
                    return
        except (EOFError, OSError):
            pass
        finally:
            writer.close()
            self._streams.discard(writer)

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._streams.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.lower().split(b"\r\n")
                assert lines[0] == b"post /dns-query http/1.1", lines[0]
                assert b"accept: application/dns-message" in lines
                assert b"content-type: application/dns-message" in lines
                (length,) = (x for x in lines if x.startswith(b"content-length:"))
                for wire in self._replies(
                    await reader.readexactly(int(length.split(b":")[1])), "https"
                ):
                    framed = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(wire), wire)
                    writer.write(wire.removeprefix(b"RAW") if wire.startswith(b"RAW") else framed)
        except (EOFError, OSError):
            pass
        finally:
            writer.close()
            self._streams.discard(writer)

    def end_streams(self) -> None:
        for writer in list(self._streams):
            writer.transport.abort()

    # --- how it is asked

    def config(self, protocol: Any = "udp") -> NameserverConfig:
        return NameserverConfig("127.0.0.1", protocol, self.port)


@asynccontextmanager
async def name_server(
    answer: Answer, *, tls: ssl.SSLContext | None = None, https: bool = False, tcp: bool = True
) -> AsyncIterator[NameServer]:
    """A server that listens; with `tls`, only for that."""
    loop = asyncio.get_running_loop()
    server = NameServer(answer)
    handler = server.http if https else server.stream
    streams = transport = None
    while True:
        if tls is None:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: server, local_addr=("127.0.0.1", server.port)
            )
            server.port = transport.get_extra_info("sockname")[1]
        if not tcp:
            break
        try:
            streams = await asyncio.start_server(handler, "127.0.0.1", server.port, ssl=tls)
        except OSError:  # somebody else has this port
            assert transport is not None
            transport.close()
            server.port = 0
            continue
        server.port = streams.sockets[0].getsockname()[1]
        break
    try:
        yield server
    finally:
        if transport is not None:
            transport.close()
        server.end_streams()
        if streams is not None:
            streams.close()
        await asyncio.sleep(0.01)


def certificate(*names: str) -> tuple[ssl.SSLContext, CaConfig]:
    """A server's context for these names, and what a client has to trust."""
    cert, key = self_signed(names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "both.pem")
        path.write_bytes(cert + key)
        context.load_cert_chain(path)
    return context, CaConfig(roots="none", extra=[cert.decode()])


def resolver_with(
    *servers: NameServer | NameserverConfig,
    conf: Path | None = None,
    hosts: Path | None = None,
    **options: Any,
) -> DnsResolver:
    """A resolver of its own world: files of the test in place of the system's."""
    configs = [s.config() if isinstance(s, NameServer) else s for s in servers]
    resolver = DnsResolver(configs, **options)
    source = None if conf is None else SystemSource(str(conf))
    others = options.get("fallback_nameservers")
    resolver._make = lambda: Stub(
        tuple(configs),
        source,
        options.get("fallback", "if_system_empty"),
        None if others is None else tuple(others),
        resolver._tls,
        hosts=Hosts(str(hosts) if hosts else "/nonexistent"),
    )
    return resolver
