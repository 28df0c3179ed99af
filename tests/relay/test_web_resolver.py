"""Names without threads: the table of hosts, a name server, a silent one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.resolver
import dns.rrset
import pytest

from iroh_fast.web import resolver as resolver_module
from iroh_fast.web.resolver import SystemResolver

V4, V6 = socket.AF_INET, socket.AF_INET6


class NameServer(asyncio.DatagramProtocol):
    """Answers over UDP by a function of the question, None: not at all."""

    def __init__(self, answer: Callable[[dns.message.Message], dns.message.Message | None]) -> None:
        self.answer = answer
        self.questions = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.questions += 1
        reply = self.answer(dns.message.from_wire(data))
        if reply is not None:
            self.transport.sendto(reply.to_wire(), addr)


@asynccontextmanager
async def asking(
    answer: Callable[[dns.message.Message], dns.message.Message | None],
) -> AsyncIterator[tuple[SystemResolver, NameServer]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(answer), local_addr=("127.0.0.1", 0)
    )
    resolver = SystemResolver()
    inner = dns.asyncresolver.Resolver(configure=False)
    inner.nameservers = ["127.0.0.1"]
    inner.port = transport.get_extra_info("sockname")[1]
    inner.cache = dns.resolver.LRUCache(8)
    resolver._dns = inner
    resolver._dns_stamp = resolver_module._stamp("/etc/resolv.conf")
    try:
        yield resolver, server
    finally:
        transport.close()
        await asyncio.sleep(0)


def known(question: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(question)
    (asked,) = question.question
    if str(asked.name) != "relay.example.":
        reply.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.rdtype == 1:
        reply.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", "192.0.2.1", "192.0.2.2"))
    return reply


async def test_names_are_asked_of_the_name_server_once() -> None:
    async with asking(known) as (resolver, server):
        for _ in range(3):
            found = await resolver.lookup("relay.example.", V4)
            assert sorted(found) == ["192.0.2.1", "192.0.2.2"]
        assert server.questions == 1
        with pytest.raises(OSError, match="no AAAA address"):
            await resolver.lookup("relay.example.", V6)
        with pytest.raises(OSError, match="no such name"):
            await resolver.lookup("other.example.", V4)


async def test_silent_name_server_holds_no_thread_and_lets_go_at_once() -> None:
    async with asking(lambda _: None) as (resolver, server):
        tasks = [asyncio.create_task(resolver.lookup(f"n{i}.example.", V4)) for i in range(50)]
        async with asyncio.timeout(60):
            while server.questions < 50:
                await asyncio.sleep(0.005)
        assert threading.active_count() == 1 or not any(
            thread.name.startswith("asyncio") for thread in threading.enumerate()
        )
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(result, asyncio.CancelledError)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        )


async def test_silent_name_server_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver_module, "LIFETIME_S", 0.05)
    async with asking(lambda _: None) as (resolver, _):
        with pytest.raises(TimeoutError, match="no name server answers"):
            await resolver.lookup("relay.example.", V4)


@pytest.mark.parametrize("name", ["localhost", "localhost.", "a.localhost"])
async def test_localhost_is_not_asked_for(name: str) -> None:
    resolver = SystemResolver()
    assert await resolver.lookup(name, V4) == ["127.0.0.1"]
    assert await resolver.lookup(name, V6) == ["::1"]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "hosts"
    monkeypatch.setattr(resolver_module, "_hosts_path", lambda: str(path))
    yield path


async def test_table_of_hosts_comes_first_and_may_change(hosts: Path) -> None:
    resolver = SystemResolver()
    hosts.write_text("# a table\n192.0.2.7 Box box.example # mine\n::7 box\nbad line\n300.1.1.1 box\n127.0.0.1\0 box\n")
    assert await resolver.lookup("BOX", V4) == ["192.0.2.7"]
    assert await resolver.lookup("box.example.", V4) == ["192.0.2.7"]
    assert await resolver.lookup("box", V6) == ["::7"]
    hosts.write_text("192.0.2.88 box")
    assert await resolver.lookup("box", V4) == ["192.0.2.88"]
