"""Run inside of a namespace with a resolv.conf and hosts of its own: what the default resolver makes of them.

Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset

from iroh_fast.errors import DnsError
from iroh_fast.web.resolver import DnsResolver

RESOLV_CONF = Path("/etc/resolv.conf")
RIGHT, WRONG = "192.0.2.1", "203.0.113.66"


def answer(query: dns.message.Message, address: str) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "A", address))
    return reply


def good(query: dns.message.Message) -> list[bytes]:
    return [answer(query, RIGHT).to_wire()]


def silent(query: dns.message.Message) -> list[bytes]:
    return []


def lying(query: dns.message.Message) -> list[bytes]:
    """Answers to other questions, under other numbers, and about other names."""
    other = answer(dns.message.make_query("bank.example.", "A", id=query.id), WRONG).to_wire()
    late = answer(query, WRONG)
    late.id ^= 0x5555
    return [other, late.to_wire(), b"\0" * 12, query.to_wire()]


class Server(asyncio.DatagramProtocol):
    def __init__(self, how: Callable[[dns.message.Message], list[bytes]]) -> None:
        self.how = how
        self.names: list[str] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        self.names.append(str(query.question[0].name))
        for wire in self.how(query):
            self.transport.sendto(wire, addr)


async def servers(*hows: Callable[[dns.message.Message], list[bytes]]) -> list[Server]:
    """On port 53 of 127.0.0.1, 127.0.0.2, and so on."""
    loop = asyncio.get_running_loop()
    made = []
    for number, how in enumerate(hows, 1):
        server = Server(how)
        await loop.create_datagram_endpoint(
            lambda server=server: server, local_addr=(f"127.0.0.{number}", 53)
        )
        made.append(server)
    return made


async def ask(resolver: DnsResolver, name: str) -> Any:
    try:
        return await resolver.lookup(name, socket.AF_INET)
    except DnsError as error:
        return [type(error).__name__, str(error)]


async def mixed() -> Any:
    """A silent server, a lying one and a good one, as the file names them."""
    asked = await servers(silent, lying, good)
    async with DnsResolver() as resolver:
        return {
            "found": [await ask(resolver, f"n{n}.example.") for n in range(5)],
            "asked": [len(server.names) for server in asked],
        }


async def changed() -> Any:
    """Another server, since the file changes."""
    await servers(silent, good)
    async with DnsResolver(timeout=0.2) as resolver:
        before = await ask(resolver, "a.example.")
        RESOLV_CONF.write_text("nameserver 127.0.0.2\n")
        return {"before": before, "after": await ask(resolver, "a.example.")}


async def all_silent() -> Any:
    await servers(silent, silent)
    async with DnsResolver() as resolver:
        return await ask(resolver, "a.example.")


async def searching() -> Any:
    """Names without last dot, with the domains to search of the file, and the table of hosts."""
    (server,) = await servers(good)
    async with DnsResolver() as resolver:
        found = [
            await ask(resolver, name) for name in ("box", "box.", "x.box", "listed", "localhost")
        ]
        return {"found": found, "asked": server.names}


async def nobody() -> Any:
    """No server runs, or no way leads to it."""
    async with DnsResolver() as resolver:
        return await ask(resolver, "a.example.")


async def main() -> None:
    scenario = {f.__name__: f for f in (mixed, changed, all_silent, searching, nobody)}[sys.argv[1]]
    result = await scenario()
    print(json.dumps({"result": result, "threads": threading.active_count()}))


if __name__ == "__main__":
    asyncio.run(main())
