"""The name server of a world: python -m tests.lab.names ZONE.json ADDRESS...

The file is ``{"relay.test": {"A": "203.0.113.5", "AAAA": "..."}}`` and is read at every question.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

TTL = 1


def answer(data: bytes, zone: dict[str, dict[str, str]]) -> bytes | None:
    """What is said to a question; None to what is none."""
    try:
        query = dns.message.from_wire(data)
        question = query.question[0]
    except (dns.exception.DNSException, IndexError):
        return None
    reply = dns.message.make_response(query, recursion_available=True)
    name = question.name.to_text(omit_final_dot=True).lower()
    found = zone.get(name)
    if found is None:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    else:
        kind = dns.rdatatype.to_text(question.rdtype)
        if kind in found:
            reply.answer.append(dns.rrset.from_text(question.name, TTL, "IN", kind, found[kind]))
    return reply.to_wire()


class Server(asyncio.DatagramProtocol):
    def __init__(self, zone: Path) -> None:
        self.zone = zone

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        reply = answer(data, json.loads(self.zone.read_text()))
        if reply is not None:
            self.transport.sendto(reply, addr)


async def main(zone: Path, addresses: list[str]) -> None:
    loop = asyncio.get_running_loop()
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        await loop.create_datagram_endpoint(
            lambda: Server(zone), local_addr=(address, 53), family=family
        )
    print("ready", flush=True)
    await loop.create_future()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2:]))
