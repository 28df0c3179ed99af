"""A server with a rate for each prefix, asked 25 times over UDP from the address in the arguments; tells what came as JSON."""

from __future__ import annotations

import asyncio
import json
import socket
import sys

from packets import DEVELOPMENT, MemoryStore, counts, packet_of, query, text_record, zone

from iroh_fast import SecretKey
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.service import DnsLimits, DnsService

SECRET = SecretKey(b"\1" * 32)


async def main(ip: str) -> None:
    loop = asyncio.get_running_loop()
    answers = Answers(
        DEVELOPMENT, MemoryStore(packet_of(SECRET, text_record(SECRET, "_iroh", b"a=b")))
    )
    async with DnsService(answers, (ip, 0), DnsLimits(udp_rate=0.01, udp_burst=5)) as service:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.bind((ip, 0))
            asked = query(f"_iroh.{zone(SECRET)}")
            for _ in range(25):
                await loop.sock_sendto(client, asked, service.address)
            came = [await asyncio.wait_for(loop.sock_recv(client, 4096), 20) for _ in range(15)]
        hints = [wire for wire in came if wire[2] & 2]
        facts = {
            "answers": sum(counts(wire)[1] for wire in came),
            "hints": len(hints),
            "longest_hint": max(map(len, hints), default=0),
            "asked": len(asked),
            **service.counters(),
        }
        print(json.dumps(facts))


asyncio.run(main(sys.argv[1]))
