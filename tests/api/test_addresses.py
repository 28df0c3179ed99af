"""Dialing: which addresses are tried, and what is said of those that cannot be."""

from __future__ import annotations

import asyncio
import socket

import pytest

from iroh_fast import (
    CustomAddr,
    EndpointAddr,
    EndpointTicket,
    IpAddr,
    QuicTransportConfig,
    SecretKey,
    SocketAddr,
)
from iroh_fast.addr import encode_varint
from iroh_fast.errors import ConnectTimeout, NoAddress, TicketContentError
from iroh_fast.net.reach import MAX_ASKED, MAX_DIALED, obstacle, usable

from .conftest import ALPN, Bind

LOCAL = [SocketAddr.parse("127.0.0.1:1000")]
ANY = [SocketAddr.parse("0.0.0.0:1000")]


def stranger(*addrs: str) -> EndpointAddr:
    return EndpointAddr(SecretKey.generate().public, addrs)


@pytest.mark.parametrize(
    ("text", "local", "words"),
    [
        ("127.0.0.1:0", LOCAL, "port 0"),
        ("0.0.0.0:5", LOCAL, "not the address of a host"),
        ("[::]:5", LOCAL, "not the address of a host"),
        ("224.0.0.1:5", ANY, "multicast"),
        ("[::ffff:224.0.0.1]:5", ANY, "multicast"),
        ("[::ffff:0.0.0.0]:5", ANY, "not the address of a host"),
        ("255.255.255.255:5", ANY, "broadcast|no route"),
        ("[::1]:5", LOCAL, "no IPv6 socket"),
        ("203.0.113.1:5", LOCAL, "no route"),
    ],
)
async def test_impossible_address_is_named_at_once(
    bind: Bind, text: str, local: list[SocketAddr], words: str
) -> None:
    reason = obstacle(SocketAddr.parse(text), local)
    assert reason is not None and any(word in reason for word in words.split("|"))
    ep = await bind(bind_addrs=["127.0.0.1:0"])
    if text == "[::1]:5":
        return  # an endpoint without IPv6 sockets needs a machine without IPv6
    with pytest.raises(NoAddress, match="none of its addresses can be used") as info:
        await ep.connect(stranger(text), ALPN)
    assert text in str(info.value)


async def test_possible_addresses_are_tried_beside_impossible_ones(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    mixed = server.addr.with_addrs(["127.0.0.1:0", "0.0.0.0:7", "224.0.0.1:9"])
    dial = asyncio.create_task(client.connect(EndpointTicket(mixed), ALPN))
    incoming = await server.accept()
    assert incoming is not None
    conn = await incoming
    dialed = await dial
    assert dialed.remote_id == server.id
    dialed.close()
    conn.close()


def test_good_addresses_are_found_among_many_impossible_ones() -> None:
    impossible = [SocketAddr.parse(f"224.0.{i // 250}.{i % 250}:9") for i in range(3000)]
    good = [SocketAddr.parse(f"127.0.0.{1 + i}:9") for i in range(3)]
    chosen, refused = usable([*impossible, *good], LOCAL)
    assert chosen == good
    assert 0 < len(refused) <= MAX_ASKED


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "[::]"])
async def test_own_address_is_no_way_to_another_endpoint(bind: Bind, host: str) -> None:
    ep = await bind(bind_addrs=[f"{host}:0"], alpns=[ALPN])
    bound = ep.bound_sockets[-1]
    here = "[::1]" if bound.ip.version == 6 else "127.0.0.1"
    with pytest.raises(NoAddress, match="the address of this endpoint itself"):
        await ep.connect(stranger(f"{here}:{bound.port}"), ALPN)
    server = await bind(alpns=[ALPN])
    mixed = server.addr.with_addrs([f"{here}:{bound.port}"])
    dial = asyncio.create_task(ep.connect(mixed, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    async with await incoming, await dial as conn:
        assert conn.remote_id == server.id


async def test_message_about_huge_addresses_is_short(bind: Bind) -> None:
    ep = await bind()
    target = EndpointAddr(SecretKey.generate().public, [CustomAddr(5, bytes(100_000))])
    with pytest.raises(NoAddress) as info:
        await ep.connect(target, ALPN)
    assert len(str(info.value)) < 300


def test_ticket_with_too_many_addresses_is_refused() -> None:
    key = bytes(SecretKey.from_bytes(bytes(32)).public)
    entry = b"\x01" + SocketAddr.parse("192.0.2.1:5").to_postcard()
    count = encode_varint(100_000)
    with pytest.raises(TicketContentError, match="addresses"):
        EndpointTicket.from_bytes(b"\x00" + key + count + entry * 100_000)


def test_many_addresses_are_bounded_and_chosen_at_random() -> None:
    addrs = [SocketAddr.parse(f"127.0.{i // 250}.{1 + i % 250}:9") for i in range(3000)]
    first, refused = usable(addrs, LOCAL)
    second, _ = usable(addrs, LOCAL)
    assert len(first) == len(second) == MAX_DIALED
    assert set(first) <= set(addrs) and not refused
    assert first != second  # 24 of 3000: equal once in 10**62


async def test_one_dial_sends_to_few_of_many_addresses(bind: Bind) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.setblocking(False)
        sink.bind(("0.0.0.0", 0))
        port = sink.getsockname()[1]
        addrs = [f"127.0.{i // 250}.{1 + i % 250}:{port}" for i in range(1000)]
        ep = await bind(bind_addrs=["127.0.0.1:0"])
        dial = asyncio.create_task(ep.connect(stranger(*addrs), ALPN))
        await asyncio.sleep(0.2)
        dial.cancel()
        await asyncio.gather(dial, return_exceptions=True)
        sent = ep.metrics.snapshot()["socket:send_ipv4"]
    assert 1200 <= sent <= MAX_DIALED * 3 * 1500


async def test_timeout_of_a_dial_tells_what_was_tried(bind: Bind) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        ep = await bind(transport=QuicTransportConfig(max_idle_timeout=0.3, initial_rtt=0.05))
        with pytest.raises(ConnectTimeout) as info:
            await ep.connect(stranger(f"127.0.0.1:{port}"), ALPN)
    assert any(f"127.0.0.1:{port}" in note for note in info.value.__notes__)


async def test_text_with_white_space_is_dialed(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dial = asyncio.create_task(client.connect(f"\n  {server.ticket}  \n", ALPN))
    incoming = await server.accept()
    assert incoming is not None
    (await incoming).close()
    (await dial).close()
    assert isinstance(server.addr.addrs[0], IpAddr)
