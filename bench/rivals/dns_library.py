"""The pkarr and DNS server a Python user would write: aiohttp, dnspython, PyNaCl, SQLite.

Packets are verified and committed before they are acknowledged; answers are built by dnspython from the
stored packet, each anew. ``python dns_library.py FOLDER`` prints the ports of HTTP and DNS, and serves
until it is killed.
"""

from __future__ import annotations

import asyncio
import base64
import sqlite3
import sys
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import uvloop
from aiohttp import web
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

ORIGINS = [dns.name.from_text("irohdns.example."), dns.name.root]
ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
PLACES = {symbol: place for place, symbol in enumerate(ALPHABET)}


def key_of(text: str) -> bytes:
    """The 32 bytes of a key in z-base-32."""
    number = 0
    for symbol in text:
        number = number << 5 | PLACES[symbol]
    if len(text) != 52 or number & 15:
        raise ValueError("no key")
    return (number >> 4).to_bytes(32, "big")


class Store:
    def __init__(self, folder: Path) -> None:
        self.db = sqlite3.connect(folder / "packets.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS packets (key BLOB PRIMARY KEY, time INTEGER, packet BLOB)"
        )

    def put(self, key: bytes, time: int, packet: bytes) -> None:
        self.db.execute(
            "INSERT INTO packets VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE "
            "SET time = excluded.time, packet = excluded.packet WHERE excluded.time > time",
            (key, time, packet),
        )

    def get(self, key: bytes) -> bytes | None:
        row = self.db.execute("SELECT packet FROM packets WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]


class Server:
    def __init__(self, store: Store) -> None:
        self.store = store

    # --- HTTP

    async def put(self, request: web.Request) -> web.Response:
        try:
            key = key_of(request.match_info["key"])
            body = await request.read()
            signature, time, message = body[:64], int.from_bytes(body[64:72], "big"), body[72:]
            signed = b"3:seqi%de1:v%d:%s" % (time, len(message), message)
            VerifyKey(key).verify(signed, signature)
            dns.message.from_wire(message)
        except (KeyError, ValueError, BadSignatureError, dns.exception.DNSException) as error:
            return web.Response(status=400, text=str(error))
        self.store.put(key, time, body)
        return web.Response(status=204)

    async def get(self, request: web.Request) -> web.Response:
        packet = self.store.get(key_of(request.match_info["key"]))
        return web.Response(status=404) if packet is None else web.Response(body=packet)

    async def query(self, request: web.Request) -> web.Response:
        text = request.query["dns"]
        answer = self.answer(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return web.Response(body=answer, content_type="application/dns-message")

    # --- DNS

    def answer(self, wire: bytes) -> bytes:
        query = dns.message.from_wire(wire)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.AA
        question = query.question[0]
        origin = next(origin for origin in ORIGINS if question.name.is_subdomain(origin))
        relative = question.name.relativize(origin)
        try:
            key = key_of(relative.labels[-1].decode().lower())
            packet = self.store.get(key)
        except (IndexError, KeyError, ValueError):
            packet = None
        if packet is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response.to_wire()
        wanted = relative.derelativize(dns.name.root)
        for rrset in dns.message.from_wire(packet[72:]).answer:
            if rrset.name == wanted and rrset.rdtype == question.rdtype:
                found = dns.rrset.from_rdata_list(question.name, rrset.ttl, list(rrset))
                response.answer.append(found)
        return response.to_wire()


class Udp(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self.server = server

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        try:
            answer = self.server.answer(data)
        except dns.exception.DNSException:
            return
        self.transport.sendto(answer, addr)


async def main() -> None:
    server = Server(Store(Path(sys.argv[1])))
    app = web.Application()
    app.router.add_put("/pkarr/{key}", server.put)
    app.router.add_get("/pkarr/{key}", server.get)
    app.router.add_get("/dns-query", server.query)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: Udp(server), local_addr=("127.0.0.1", 0)
    )
    print(runner.addresses[0][1], transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
