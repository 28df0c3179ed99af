"""Cost of the DNS server's compiled path: a batch of queries over UDP, and a packet made a zone.

Run: ``python -m pytest bench/bench_dns_answers.py --benchmark-columns=min,median``
with ``-o python_files='bench_*.py' -o python_functions='bench_*'``. The rival is `dnspython` alone,
without sockets. Whole servers are measured by ``dns_compare.py``.
"""

from __future__ import annotations

import os
from typing import Any

import dns.flags
import dns.message
import dns.rrset
import pytest

from iroh_fast._batch import UdpSocket
from iroh_fast._dns import Writer, name_from_text, txt_message
from iroh_fast.dns_server._build import store_packet
from iroh_fast.dns_server._limits import PrefixLimiter
from iroh_fast.dns_server._udp import UdpPort
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.static import StaticRecords
from iroh_fast.lookup.z32 import encode

ZONES = 20_000
BATCH = 64
VALUES = [b"relay=https://euc1-1.relay.n0.iroh.link./", b"addr=192.0.2.7:4242"]


class Nothing:
    async def fetch(self, key: bytes, /) -> bytes | None:
        return None


def packet(key: bytes) -> bytes:
    return txt_message(name_from_text(f"_iroh.{encode(key)}"), VALUES, 30)


def query(key: bytes) -> bytes:
    writer = Writer(1, 0x0100)
    writer.question(name_from_text(f"_iroh.{encode(key)}.irohdns.example"), 16)
    writer.record(3, b"\0", 41, 0, klass=1232)
    return bytes(writer.finish())


@pytest.mark.benchmark(group="dns-batch")
def bench_batch_iroh_fast(benchmark: Any) -> None:
    answers = Answers(StaticRecords(), Nothing())
    keys = [os.urandom(32) for _ in range(ZONES)]
    for key in keys:
        assert store_packet(answers.core.zones, key, packet(key))
    server, client = (UdpSocket.bind(("127.0.0.1", 0)) for _ in range(2))
    port = UdpPort(server, answers.core, PrefixLimiter())
    batches = [
        [(query(key), server.local_address, 0) for key in keys[at : at + BATCH]]
        for at in range(0, ZONES - BATCH, BATCH)
    ]
    turn = 0

    def ask() -> tuple[tuple[()], dict[str, Any]]:
        nonlocal turn
        while client.recv():
            pass
        turn += 1
        client.sendmany(batches[turn % len(batches)])
        return (), {}

    assert benchmark.pedantic(lambda: port.receive(8), setup=ask, rounds=2000) == BATCH
    assert not port.missed
    server.close()
    client.close()


@pytest.mark.benchmark(group="dns-answer")
def bench_answer_dnspython(benchmark: Any) -> None:
    key = os.urandom(32)
    wire = query(key)
    texts = ['"' + value.decode() + '"' for value in VALUES]

    def run() -> bytes:
        question = dns.message.from_wire(wire)
        reply = dns.message.make_response(question)
        reply.flags |= dns.flags.AA
        reply.answer.append(dns.rrset.from_text(question.question[0].name, 30, "IN", "TXT", *texts))
        return reply.to_wire()

    assert len(benchmark(run)) > 150


@pytest.mark.benchmark(group="dns-zone")
def bench_zone_iroh_fast(benchmark: Any) -> None:
    answers = Answers(StaticRecords(), Nothing())
    key = os.urandom(32)
    dns = packet(key)
    assert benchmark(lambda: store_packet(answers.core.zones, key, dns))
