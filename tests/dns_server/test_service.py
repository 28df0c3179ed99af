"""UDP and TCP with real sockets on this machine."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.message
import pytest
from packets import (
    DEVELOPMENT,
    A,
    MemoryStore,
    counts,
    packet_of,
    query,
    rcode,
    rr,
    text_record,
    zone,
)
from tests.lab.namespaces import Namespace, missing

from iroh_fast import SecretKey
from iroh_fast._batch import UdpSocket
from iroh_fast._dns import name_from_text, read_message
from iroh_fast.dns_server import DnsServer, DnsServerConfig, StoreSettings, tcp, udp
from iroh_fast.dns_server._limits import PrefixLimiter
from iroh_fast.dns_server._udp import UdpPort
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.service import DnsLimits, DnsService
from iroh_fast.errors import BindError

SECRETS = [SecretKey(bytes((n,)) * 32) for n in range(1, 40)]
STORE = MemoryStore(*[packet_of(s, text_record(s, "_iroh", zone(s).encode())) for s in SECRETS])
NAMES = [f"_iroh.{zone(s)}" for s in SECRETS]
HAS_IPV6 = socket.has_ipv6


@asynccontextmanager
async def serving(
    host: str = "127.0.0.1", store: Any = STORE, **limits: Any
) -> AsyncIterator[tuple[DnsService, Answers]]:
    answers = Answers(DEVELOPMENT, store)
    async with DnsService(answers, (host, 0), DnsLimits(**limits)) as service:
        yield service, answers
    await answers.close()


class Client(asyncio.DatagramProtocol):
    """A UDP socket that keeps what it gets."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.queue.put_nowait((data, addr))

    async def get(self) -> bytes:
        async with asyncio.timeout(20):
            return (await self.queue.get())[0]


@asynccontextmanager
async def udp_client(
    host: str = "127.0.0.1",
) -> AsyncIterator[tuple[asyncio.DatagramTransport, Client]]:
    transport, client = await asyncio.get_running_loop().create_datagram_endpoint(
        Client, local_addr=(host, 0)
    )
    try:
        yield transport, client
    finally:
        transport.close()


async def ask_tcp(address: tuple[str, int], *messages: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"".join(len(m).to_bytes(2, "big") + m for m in messages))
        async with asyncio.timeout(20):
            return [
                await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                for _ in messages
            ]
    finally:
        writer.close()
        await writer.wait_closed()


# --- UDP


async def test_udp_answers_many_queries_each_to_its_sender() -> None:
    async with (
        serving() as (service, answers),
        udp_client() as (one, first),
        udp_client() as (other, second),
    ):
        for n in range(300):
            name = NAMES[n % len(NAMES)]
            (one if n % 3 else other).sendto(query(name, id=n), service.address)
        got = {}
        for client, number in ((first, 200), (second, 100)):
            for _ in range(number):
                wire = await client.get()
                id = int.from_bytes(wire[:2], "big")
                assert bool(id % 3) == (client is first)
                got[id] = wire
        assert sorted(got) == list(range(300))
        for id, wire in got.items():
            assert zone(SECRETS[id % len(SECRETS)]).encode() in read_message(wire).data[12 + 60 :]
            assert counts(wire) == (1, 1, 0, 0)
        assert answers.counters()["dns_requests_udp"] == 300
        assert answers.counters()["dns_cache_misses"] >= len(SECRETS)


async def test_udp_answers_from_the_address_that_was_asked() -> None:
    """Bound to all addresses, as 127.0.0.2 here."""
    async with serving("0.0.0.0") as (service, _), udp_client() as (transport, client):
        transport.sendto(query(NAMES[0]), ("127.0.0.2", service.address[1]))
        async with asyncio.timeout(20):
            _, sender = await client.queue.get()
        assert sender == ("127.0.0.2", service.address[1])


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 on this machine")
async def test_service_on_the_wildcard_of_ipv6_takes_both_families() -> None:
    async with serving("::") as (service, _):
        port = service.address[1]
        for host in ("127.0.0.1", "::1"):
            async with udp_client(host) as (transport, client):
                for n in range(60):  # some leave as one batch
                    transport.sendto(query(NAMES[n % 3], id=n), (host, port))
                wires = [await client.get() for _ in range(60)]
                assert {int.from_bytes(wire[:2], "big") for wire in wires} == set(range(60))
                assert all(counts(wire)[1] == 1 for wire in wires)
            (wire,) = await ask_tcp((host, port), query(NAMES[0]))
            assert counts(wire)[1] == 1


async def test_udp_socket_without_ipv6_takes_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., UdpSocket] = UdpSocket.bind

    class NoIpv6:
        @staticmethod
        def bind(address: tuple[str, int], **options: Any) -> UdpSocket:
            if ":" in address[0]:
                raise OSError(errno.EAFNOSUPPORT, "no IPv6")
            return real(address, **options)

    monkeypatch.setattr(udp, "UdpSocket", NoIpv6)
    sock = udp.bind_udp(("::", 0))
    assert sock.local_address[0] == "0.0.0.0"
    sock.close()


async def test_udp_says_nothing_to_responses_and_rubbish() -> None:
    async with serving() as (service, answers), udp_client() as (transport, client):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for wire in (b"", b"x", query(NAMES[0], flags=0x8000), b"\0" * 11):
                sender.sendto(wire, service.address)
        transport.sendto(query(NAMES[0], id=7), service.address)
        assert (await client.get())[:2] == b"\0\7"
        assert client.queue.empty()
        assert answers.counters()["dns_ignored"] == 4


class Raw:
    """A port whose socket gets queries as from anybody."""

    def __init__(self, limiter: PrefixLimiter | None = None, max_missed: int = 4096) -> None:
        self.answers = Answers(DEVELOPMENT, STORE)
        self.sock = UdpSocket.bind(("127.0.0.1", 0))
        self.port = UdpPort(self.sock, self.answers.core, limiter or PrefixLimiter(), max_missed)

    def send(self, wire: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(wire, self.sock.local_address[:2])


def test_udp_port_keeps_a_bounded_number_of_queries_for_lookup() -> None:
    raw = Raw(max_missed=4)
    for n in range(10):
        raw.send(query(NAMES[n]))
    raw.send(query(NAMES[0], more=b"x" * 5000))
    while raw.port.receive(1):
        pass
    assert len(raw.port.missed) == 4
    assert raw.port.counts()["dns_udp_overflow"] == 7
    assert [raw.port.ip_of(peer) for _, peer in raw.port.missed] == ["127.0.0.1"] * 4
    raw.sock.close()
    with pytest.raises(OSError):
        raw.port.receive(1)


@pytest.mark.parametrize("peer", [b"", b"x" * 10])
def test_udp_port_sends_to_its_own_peers_alone(peer: bytes) -> None:
    raw = Raw()
    with pytest.raises(ValueError):
        raw.port.send(peer, b"answer")
    with pytest.raises(ValueError):
        raw.port.ip_of(peer)
    raw.send(query(NAMES[0]))
    while not raw.port.missed:
        raw.port.receive(1)
    with pytest.raises(ValueError):
        raw.port.send(raw.port.missed[0][1], b"x" * 2000)
    raw.sock.close()


@pytest.mark.lab
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_udp_limits_the_answers_to_a_prefix() -> None:
    """In a network of its own, from an address that is not of the loopback range."""
    network = Namespace("dns")
    try:
        network.ip("addr", "add", "192.0.2.1/32", "dev", "lo")
        script = Path(__file__).with_name("limited.py")
        done = network.run(
            [sys.executable, script, "192.0.2.1"], capture_output=True, text=True, timeout=60
        )
    finally:
        network.close()
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["answers"] == 5 and facts["hints"] == 10 and facts["dns_udp_limited"] == 20
    assert facts["longest_hint"] == facts["asked"]


async def test_udp_answers_what_is_known_while_unknown_keys_are_looked_up() -> None:
    """A store that hangs: those whose keys are in memory notice nothing."""

    class Hanging:
        async def fetch(self, key: bytes, /) -> bytes | None:
            if key == bytes(SECRETS[0].public):
                return STORE.packets[key]
            await asyncio.sleep(1000)
            return None

    async with serving(store=Hanging()) as (service, answers), udp_client() as (transport, client):
        for n in range(1, 30):
            transport.sendto(query(NAMES[n]), service.address)
        transport.sendto(query(NAMES[0], id=1), service.address)
        assert (await client.get())[:2] == b"\0\1"
        transport.sendto(query(NAMES[0], id=2), service.address)
        assert (await client.get())[:2] == b"\0\2"
        assert answers.counters()["dns_waiting"] == 29


async def most_reads_of_a_turn(store: MemoryStore, until: int) -> int:
    """How many keys were looked up at most between two turns of the loop."""
    most, before = 0, store.reads
    while store.reads < until:
        await asyncio.sleep(0)
        most, before = max(most, store.reads - before), store.reads
    return most


async def test_service_lets_the_loop_turn_while_many_keys_are_looked_up() -> None:
    """By number, not by time: 32 when something has come, and 32 of what is left."""
    unknown = [query(f"_iroh.{zone(SecretKey(n.to_bytes(32, 'big')))}") for n in range(1, 301)]
    for way in ("udp", "tcp"):
        store = MemoryStore()
        async with serving(store=store) as (service, _):
            if way == "udp":
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    for wire in unknown:
                        client.sendto(wire, service.address)
                    most = await most_reads_of_a_turn(store, 300)
            else:
                _, writer = await asyncio.open_connection(*service.address)
                writer.write(b"".join(len(w).to_bytes(2, "big") + w for w in unknown))
                most = await most_reads_of_a_turn(store, 300)
                writer.close()
                await writer.wait_closed()
        assert 0 < most <= 2 * udp.LOOKUPS == 2 * tcp.QUERIES_PER_TURN, way


async def test_service_port_zero_is_the_same_for_udp_and_tcp_and_taken_ports_are_told() -> None:
    async with serving() as (service, answers):
        host, port = service.address
        assert port
        with pytest.raises(BindError, match=rf"dns \(UDP\) to 127.0.0.1 port {port}"):
            await DnsService(answers, (host, port)).start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BindError, match=r"dns \(TCP\)"):
            await DnsService(answers, taken.getsockname()).start()
        # The UDP socket of the failed start is closed again.
        udp.bind_udp(taken.getsockname()).close()


async def test_service_starts_once_and_closes_twice() -> None:
    async with serving() as (service, _):
        with pytest.raises(RuntimeError):
            await service.start()
    await service.close()
    assert service.counters()["dns_tcp_open"] == 0


# --- TCP


async def test_tcp_answers_in_order_also_when_queries_come_in_pieces() -> None:
    async with serving() as (service, _):
        reader, writer = await asyncio.open_connection(*service.address)
        wires = [query(NAMES[n % len(NAMES)], id=n) for n in range(100)]
        stream = b"".join(len(w).to_bytes(2, "big") + w for w in wires)
        for at in range(0, len(stream), 777):
            writer.write(stream[at : at + 777])
            await asyncio.sleep(0)
        for n in range(100):
            wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            assert int.from_bytes(wire[:2], "big") == n and counts(wire)[1] == 1
        writer.close()
        await writer.wait_closed()


async def test_tcp_answers_all_of_many_queries_that_come_at_once() -> None:
    """More than are answered in one turn, and than fit into the buffer."""
    async with serving() as (service, _):
        wires = await ask_tcp(service.address, *[query(NAMES[n % 9], id=n) for n in range(3000)])
        assert [int.from_bytes(w[:2], "big") for w in wires] == list(range(3000))


async def test_tcp_answers_in_order_when_the_store_takes_its_time() -> None:
    class Slow:
        async def fetch(self, key: bytes, /) -> bytes | None:
            await asyncio.sleep(0.02 if key == bytes(SECRETS[0].public) else 0)
            return STORE.packets.get(key)

    async with serving(store=Slow()) as (service, _):
        wires = await ask_tcp(service.address, *[query(NAMES[n], id=n) for n in range(10)])
        assert [int.from_bytes(w[:2], "big") for w in wires] == list(range(10))
        assert all(counts(w)[1] == 1 for w in wires)


async def test_tcp_answers_what_was_asked_before_the_client_ended_its_side() -> None:
    async with serving() as (service, _):
        reader, writer = await asyncio.open_connection(*service.address)
        writer.write(b"".join(len(w).to_bytes(2, "big") + w for w in (query(n) for n in NAMES)))
        writer.write_eof()
        async with asyncio.timeout(20):
            everything = await reader.read()
        writer.close()
        number = 0
        while everything:
            size = int.from_bytes(everything[:2], "big")
            everything = everything[2 + size :]
            number += 1
        assert number == len(NAMES)


@pytest.mark.parametrize("size", [11, 12, 4094, 4095, 30_000, 65_535])
async def test_tcp_takes_queries_of_any_size(size: int) -> None:
    """What is no message gets FORMERR, what is too short for one nothing, and the connection goes on."""
    async with serving() as (service, _):
        long = (b"\1\2" + bytes(2) + b"\xff" * size)[:size]
        last = query(NAMES[0])
        expected = [] if size < 12 else [b"\1\2\x80\1" + bytes(8)]
        reader, writer = await asyncio.open_connection(*service.address)
        for wire in (long, last):
            writer.write(len(wire).to_bytes(2, "big") + wire)
        for answer in [*expected, None]:
            wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            assert wire == answer if answer else counts(wire)[1] == 1
        writer.close()
        await writer.wait_closed()
        assert service._tcp is not None
        while service._tcp.streams:
            await asyncio.sleep(0)
        assert service._tcp.long_room == tcp.LONG_ROOM


async def test_tcp_connection_without_a_complete_query_ends() -> None:
    async with serving(tcp_idle=0.05) as (service, _):
        for begin in (b"", b"\0", b"\0\x50" + bytes(20)):
            reader, writer = await asyncio.open_connection(*service.address)
            writer.write(begin)
            async with asyncio.timeout(20):
                try:
                    assert await reader.read() == b""
                except ConnectionResetError:
                    pass
            writer.close()
        assert service.counters()["dns_tcp_timeouts"] == 2


async def test_tcp_client_that_reads_nothing_costs_little_and_is_ended() -> None:
    """It asks for as much as it can; what is kept for it stays below the bounds."""
    big = SecretKey(b"\x50" * 32)
    store = MemoryStore(packet_of(big, text_record(big, "", b"x" * 250, b"y" * 250, b"z" * 200)))
    async with serving(store=store, tcp_idle=0.2) as (service, answers):
        wire = query(zone(big))
        flood = (len(wire).to_bytes(2, "big") + wire) * 2000
        most = 0

        async def measure() -> None:
            nonlocal most
            while service._tcp is not None:
                for stream in service._tcp.streams:
                    if stream._transport is not None:
                        held = stream._transport.get_write_buffer_size() + len(stream._buffer)
                        most = max(most, held)
                await asyncio.sleep(0.001)

        measuring = asyncio.ensure_future(measure())
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, service.address)
            with pytest.raises(ConnectionError):
                async with asyncio.timeout(30):
                    while True:
                        await loop.sock_sendall(client, flood)
        measuring.cancel()
        assert 0 < most < 4 * tcp.WRITE_HIGH
        assert service.counters()["dns_tcp_timeouts"] == 1
        assert answers.counters()["dns_requests_tcp"] > 10


async def test_tcp_connections_have_a_bound_in_all_and_per_address() -> None:
    async with serving(tcp_connections=40, tcp_per_ip=4, tcp_idle=30.0) as (service, _):
        opened = [await asyncio.open_connection(*service.address) for _ in range(8)]
        while service.counters()["dns_tcp_refused"] < 4:
            await asyncio.sleep(0.001)
        assert service.counters()["dns_tcp_open"] == 4
        for _, writer in opened:
            writer.close()
        while service.counters()["dns_tcp_open"]:
            await asyncio.sleep(0.001)
        assert rcode((await ask_tcp(service.address, query(NAMES[0])))[0]) == 0


async def test_tcp_long_queries_share_a_bounded_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "LONG_ROOM", 150_000)
    async with serving(tcp_idle=30.0) as (service, _):
        opened = [await asyncio.open_connection(*service.address) for _ in range(5)]
        for _, writer in opened:
            writer.write(b"\xff\xff" + bytes(100))
        while service.counters()["dns_tcp_refused"] < 3:
            await asyncio.sleep(0.001)
        assert service.counters()["dns_tcp_open"] == 2
        for _, writer in opened:
            writer.close()


async def test_service_closes_while_clients_are_connected() -> None:
    answers = Answers(DEVELOPMENT, STORE)
    service = DnsService(answers, ("127.0.0.1", 0), DnsLimits(tcp_idle=30.0))
    await service.start()
    reader, writer = await asyncio.open_connection(*service.address)
    writer.write(b"\0")
    while not service.counters()["dns_tcp_open"]:
        await asyncio.sleep(0)
    await service.close()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)
    writer.close()


# --- an independent client


async def test_service_and_dnspython_understand_each_other() -> None:
    secret = SecretKey(b"\x60" * 32)
    z = zone(secret)
    packet = packet_of(
        secret,
        text_record(secret, "_iroh", b"relay=https://a.example/"),
        text_record(secret, "_iroh", b"addr=192.0.2.1:1"),
        rr(name_from_text(z), A, bytes((192, 0, 2, 7))),
        rr(name_from_text(f"m.{z}"), 15, struct.pack("!H", 5) + name_from_text(f"mail.{z}")),
    )
    async with serving(store=MemoryStore(packet)) as (service, _):
        host, port = service.address
        for ask in (dns.asyncquery.udp, dns.asyncquery.tcp):
            for origin in ("", "irohdns.example."):
                texts = await ask(
                    dns.message.make_query(f"_iroh.{z}.{origin}", "TXT"),
                    host,
                    port=port,
                    timeout=20,
                )  # type: ignore[operator]
                (answer,) = texts.answer
                assert [r.to_text() for r in answer] == [
                    '"relay=https://a.example/"',
                    '"addr=192.0.2.1:1"',
                ]
                mail = await ask(
                    dns.message.make_query(f"m.{z}.{origin}", "MX", use_edns=0),
                    host,
                    port=port,
                    timeout=20,
                )  # type: ignore[operator]
                assert mail.answer[0][0].to_text() == f"5 mail.{z}."


# --- the whole server


async def test_server_answers_no_packet_that_was_evicted_from_memory() -> None:
    """One place alone: what had to go is not resolved any more, nor what a newer packet replaced."""
    config = DnsServerConfig.dev(store=StoreSettings(in_memory=True, max_records=1))
    async with DnsServer(config) as server, udp_client() as (transport, client):
        assert server._store is not None

        async def resolve(secret: SecretKey) -> bytes:
            transport.sendto(query(f"_iroh.{zone(secret)}"), server.addresses["dns"])
            return await client.get()

        one, other = SECRETS[:2]
        for text in (b"first", b"second"):
            assert await server._store.put(packet_of(one, text_record(one, "_iroh", text)))
            assert text in await resolve(one)
        assert await server._store.put(packet_of(other, text_record(other, "_iroh", b"third")))
        assert b"third" in await resolve(other)
        assert rcode(await resolve(one)) == 3
