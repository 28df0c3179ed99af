"""Handshakes with the real peer, the good ones and the failing ones."""

from __future__ import annotations

import asyncio

import pytest

from iroh_fast import Connection, Endpoint, IpAddr, QuicTransportConfig, Router, SecretKey
from iroh_fast.errors import (
    AlpnMismatch,
    ConnectionRefused,
    ConnectTimeout,
    IrohError,
    WrongIdentity,
)

from .links import ALPN, V4, V6, Link, Links, RealEndpoint, echo_bi
from .peer_client import PeerError


async def assert_alive(link: Link) -> None:
    """Send a little in both directions, on streams that either side opened."""
    send, recv = await link.ours.open_bi()
    await send.write_all(b"ping from us")
    send.finish()
    theirs = await link.call("accept_bi")
    assert await link.peer.call("read_to_end", recv=theirs["recv"]) == b"ping from us".hex()
    await link.peer.call("write", send=theirs["send"], data=b"pong".hex())
    await link.peer.call("finish", send=theirs["send"])
    assert await recv.read_to_end(100) == b"pong"

    theirs = await link.call("open_bi")
    await link.peer.call("write", send=theirs["send"], data=b"ping from real".hex())
    send, recv = await link.ours.accept_bi()
    assert await recv.readexactly(14) == b"ping from real"
    await send.write_all(b"pong")
    send.finish()
    assert bytes.fromhex(await link.peer.call("read_to_end", recv=theirs["recv"])) == b"pong"


@pytest.mark.parametrize("bind", [V4, V6], ids=["v4", "v6"])
async def test_both_sides_agree(links: Links, dials: bool, bind: str) -> None:
    ours = await links.our_endpoint(bind)
    real = await links.real_endpoint(bind)
    link = await links.connect(dials, ours=ours, real=real)
    assert link.ours.remote_id == real.id
    assert link.facts["remote_id"] == str(ours.id)
    assert link.ours.alpn == ALPN == bytes.fromhex(link.facts["alpn"])
    assert link.ours.side == ("client" if dials else "server")
    assert link.facts["side"] == ("SERVER" if dials else "CLIENT")
    assert not link.ours.was_resumed
    [remote] = {path.remote_addr for path in link.ours.paths if path.id == 0}
    assert isinstance(remote, IpAddr)
    assert str(remote.addr) in real.sockets
    await assert_alive(link)


async def test_real_client_with_addresses_of_both_families(links: Links) -> None:
    ours = await links.our_endpoint(V4, V6)
    real = await links.real_endpoint(V4)
    link = await links.connect(False, ours=ours, real=real)
    await assert_alive(link)
    await asyncio.sleep(1.0)  # hole punching, if any, has settled
    await assert_alive(link)
    assert link.ours.close_reason is None


async def test_our_client_with_a_dead_address_first(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dead = await links.our_endpoint()
    sockets = [text for text in map(str, dead.bound_sockets) if text.startswith("127.")]
    await dead.close()
    accepting = real.start("accept")
    conn = await ours.connect(real.addr.with_ip_addr(sockets[0]), ALPN)
    facts = await accepting
    await assert_alive(links.link(conn, facts))


# --- ALPN


async def test_real_server_accepts_none_of_our_alpns(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    accepting = real.start("accept")
    with pytest.raises(AlpnMismatch, match="none of our ALPNs") as caught:
        await ours.connect(real.addr, b"other/1")
    assert caught.value.alert == 120
    assert caught.value.close_reason is not None
    assert caught.value.close_reason.by_peer
    with pytest.raises(PeerError, match="peer doesn't support any known protocol"):
        await accepting


async def test_our_server_accepts_none_of_the_alpns(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dialling = real.dial(ours, alpn=b"other/1")
    incoming = await ours.accept()
    assert incoming is not None
    with pytest.raises(AlpnMismatch) as caught:
        await incoming
    assert caught.value.alert == 120
    with pytest.raises(PeerError, match="cryptographic handshake failed: error 120"):
        await dialling


async def test_real_server_picks_by_its_own_order(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint(alpns=[b"best/1", b"good/1"])
    accepting = real.start("accept")
    conn = await (
        await ours.connect_with(real.addr, b"unknown/1", extra_alpns=[b"good/1", b"best/1"])
    )
    facts = await accepting
    links.link(conn, facts)
    assert conn.alpn == b"best/1" == bytes.fromhex(facts["alpn"])


async def test_our_server_knows_several_alpns(links: Links) -> None:
    ours = await links.our_endpoint(alpns=[b"best/1", b"good/1"])
    real = await links.real_endpoint()
    dialling = real.dial(ours, alpn=b"good/1")
    incoming = await ours.accept()
    assert incoming is not None
    accepting = incoming.accept()
    assert await accepting.alpn() == b"good/1"
    conn = await accepting
    facts = await dialling
    links.link(conn, facts)
    assert conn.alpn == b"good/1" == bytes.fromhex(facts["alpn"])


# --- identity


async def test_real_server_holds_another_key(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    expected = SecretKey.generate().public
    accepting = real.start("accept")
    addr = type(real.addr)(expected, ip_addrs=real.sockets)
    with pytest.raises(WrongIdentity) as caught:
        await ours.connect(addr, ALPN)
    assert caught.value.alert == 48
    with pytest.raises(PeerError, match="cryptographic handshake failed: error 48"):
        await accepting


async def test_our_server_holds_another_key(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dialling = real.dial(ours, id=SecretKey.generate().public)
    incoming = await ours.accept()
    assert incoming is not None
    with pytest.raises(WrongIdentity) as caught:
        await incoming
    assert caught.value.alert == 48
    with pytest.raises(PeerError, match="UnknownIssuer"):
        await dialling


async def test_secret_keys_give_the_same_id(links: Links) -> None:
    key = SecretKey.generate()
    ours = await links.our_endpoint(secret_key=key)
    real = await links.real_endpoint(secret=key)
    assert ours.id == real.id == key.public


# --- refusing, retrying, ignoring


async def test_real_server_refuses(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    answering = real.start("answer", how="refuse")
    with pytest.raises(ConnectionRefused):
        await ours.connect(real.addr, ALPN)
    assert await answering == {"validated": False}


async def test_our_server_refuses(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dialling = real.dial(ours)
    incoming = await ours.accept()
    assert incoming is not None
    incoming.refuse()
    with pytest.raises(PeerError, match="the server refused to accept a new connection"):
        await dialling


async def test_real_server_asks_for_a_retry(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    accepting = real.start("accept_retry")
    conn = await ours.connect(real.addr, ALPN)
    facts = await accepting
    assert facts["retries"] == 1
    await assert_alive(links.link(conn, facts))


async def test_our_server_asks_for_a_retry(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dialling = real.dial(ours)
    first = await ours.accept()
    assert first is not None and not first.remote_addr_validated
    first.retry()
    second = await ours.accept()
    assert second is not None and second.remote_addr_validated
    with pytest.raises(IrohError, match="validated already"):
        second.retry()
    conn = await second
    facts = await dialling
    await assert_alive(links.link(conn, facts))


async def test_real_server_ignores_the_first_attempt(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()

    async def serve() -> dict[str, str]:
        await real.call("answer", how="ignore")
        facts: dict[str, str] = await real.call("accept")
        return facts

    serving = asyncio.create_task(serve())
    conn = await ours.connect(real.addr, ALPN)
    facts = await serving
    await assert_alive(links.link(conn, facts))


async def test_our_server_ignores_the_first_attempt(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    dialling = real.dial(ours)
    first = await ours.accept()
    assert first is not None
    first.ignore()
    second = await ours.accept()
    assert second is not None
    conn = await second
    facts = await dialling
    await assert_alive(links.link(conn, facts))


async def test_peeking_at_a_real_client(links: Links) -> None:
    ours = await links.our_endpoint(alpns=[ALPN, b"b/1"])
    real = await links.real_endpoint()
    dialling = real.dial(ours, alpn=b"b/1")
    incoming = await ours.accept()
    assert incoming is not None
    initial = incoming.peek()
    assert initial is not None and initial.alpns == (b"b/1",)
    links.link(await incoming, await dialling)


async def test_nobody_answers(links: Links) -> None:
    ours = await links.our_endpoint(transport=QuicTransportConfig(max_idle_timeout=1.0))
    real = await links.real_endpoint()  # never accepts
    with pytest.raises(ConnectTimeout):
        await ours.connect(real.addr, ALPN)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ours.connect(real.addr, ALPN)
    # The attempts that were given up must not be in the way of a good one.
    fresh = await links.connect(True, ours=ours)
    await assert_alive(fresh)


# --- resumption and early data


async def test_we_resume_a_session_of_the_real_server(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    first = await links.connect(True, ours=ours, real=real)
    await assert_alive(first)  # the tickets come after the handshake
    assert not first.ours.was_resumed
    second = await links.connect(True, ours=ours, real=real)
    assert second.ours.was_resumed
    assert second.ours.remote_id == real.id
    await assert_alive(second)
    await assert_alive(first)


async def test_the_real_client_resumes_our_session(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    first = await links.connect(False, ours=ours, real=real)
    await assert_alive(first)
    second = await links.connect(False, ours=ours, real=real)
    assert second.ours.was_resumed
    assert second.ours.remote_id == real.id
    await assert_alive(second)


async def test_the_real_client_comes_back_after_our_restart(links: Links) -> None:
    key = SecretKey.generate()
    ours = await links.our_endpoint(secret_key=key)
    real = await links.real_endpoint()
    first = await links.connect(False, ours=ours, real=real)
    await assert_alive(first)
    await ours.close()
    # The same identity with new ticket keys: its session cannot be resumed, and that must
    # cost nothing but the resumption.
    ours = await links.our_endpoint(secret_key=key)
    second = await links.connect(False, ours=ours, real=real)
    assert not second.ours.was_resumed
    await assert_alive(second)


async def early_data(links: Links, ours: Endpoint, real: RealEndpoint) -> tuple[bool, bytes]:
    accepting = real.start("accept")
    connecting = await ours.connect_with(real.addr, ALPN)
    early = connecting.into_0rtt()
    assert early is not None
    send, recv = await early.open_bi()
    await send.write_all(b"early" * 100)
    send.finish()
    status = await early.handshake_completed()
    facts = await accepting
    link = links.link(status.connection, facts)
    assert link.ours.remote_id == real.id
    if not status.accepted:
        return False, b""
    assert send.is_0rtt
    theirs = await link.call("accept_bi")
    heard = bytes.fromhex(await links.peer.call("read_to_end", recv=theirs["recv"]))
    await links.peer.call("write", send=theirs["send"], data=b"late".hex())
    await links.peer.call("finish", send=theirs["send"])
    assert await recv.read_to_end(10) == b"late"
    await assert_alive(link)
    return True, heard


async def test_the_real_server_accepts_our_early_data(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    first = await links.connect(True, ours=ours, real=real)
    await assert_alive(first)
    assert await early_data(links, ours, real) == (True, b"early" * 100)


async def test_no_early_data_without_a_ticket(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    accepting = real.start("accept")
    connecting = await ours.connect_with(real.addr, ALPN)
    assert connecting.into_0rtt() is None
    conn = await connecting
    facts = await accepting
    await assert_alive(links.link(conn, facts))


async def test_a_restarted_real_server_rejects_our_early_data(links: Links) -> None:
    key = SecretKey.generate()
    ours = await links.our_endpoint()
    real = await links.real_endpoint(secret=key)
    first = await links.connect(True, ours=ours, real=real)
    await assert_alive(first)
    first.ours.close()
    await real.call("close_endpoint")
    # The same identity with new ticket keys: it cannot read what it gave out before.
    real = await links.real_endpoint(secret=key)
    assert await early_data(links, ours, real) == (False, b"")


# --- many at once


@pytest.mark.limit(60)
async def test_fifty_connections_at_once(links: Links, dials: bool) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    if dials:
        await real.call("serve")
        conns = await asyncio.gather(*(ours.connect(real.addr, ALPN) for _ in range(50)))
    else:
        dialling = [real.dial(ours) for _ in range(50)]
        accepted = []
        for _ in range(50):
            incoming = await ours.accept()
            assert incoming is not None
            accepted.append(incoming.accept())
        conns = await asyncio.gather(*accepted)
        for task in dialling:
            await links.peer.call("echo", conn=(await task)["conn"])
    assert len({conn.stable_id for conn in conns}) == 50

    async def ask(index: int) -> bool:
        data = index.to_bytes(2, "big") * 5000
        send, recv = await conns[index].open_bi()
        await send.write_all(data)
        send.finish()
        return await recv.read_to_end(20000) == data

    assert all(await asyncio.gather(*map(ask, range(50))))
    for conn in conns:
        conn.close(0, b"done")


@pytest.mark.limit(60)
async def test_three_hundred_connections_one_after_the_other(links: Links, dials: bool) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    for index in range(300):
        link = await links.connect(dials, ours=ours, real=real, keep=False)
        if index % 50 == 0:
            await assert_alive(link)
        if index % 2:
            link.ours.close(index, b"next")
        else:
            await link.call("close", code=index)
            await link.ours.wait_closed()
        await link.peer.call("drop", handle=link.real)
    async with asyncio.timeout(60):
        while ours._driver.connections:
            await asyncio.sleep(0.05)


async def test_our_router_serves_real_clients(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()

    async def upper(conn: Connection) -> None:
        async for send, recv in conn.bi_streams():
            await send.write_all((await recv.read_to_end(1000)).upper())
            send.finish()

    async with Router(ours, {b"echo/1": echo_bi, b"upper/1": upper}):
        for alpn, answer in ((b"echo/1", b"hello"), (b"upper/1", b"HELLO")):
            facts = await real.dial(ours, alpn=alpn)
            stream = await links.peer.call("open_bi", conn=facts["conn"])
            await links.peer.call("write", send=stream["send"], data=b"hello".hex())
            await links.peer.call("finish", send=stream["send"])
            got = await links.peer.call("read_to_end", recv=stream["recv"])
            assert bytes.fromhex(got) == answer
            await links.peer.call("close", conn=facts["conn"])
        with pytest.raises(PeerError, match="error 120"):
            await real.dial(ours, alpn=b"other/1")
        # The way back: the router's endpoint dials too.
        link = await links.connect(True, ours=ours, real=real)
        await assert_alive(link)
        closed = link.start("closed")
    assert await closed == "closed by peer: 0"


async def test_both_sides_dial_at_the_same_time(links: Links) -> None:
    ours = await links.our_endpoint()
    real = await links.real_endpoint()
    there, back = await asyncio.gather(
        links.connect(True, ours=ours, real=real), links.connect(False, ours=ours, real=real)
    )
    echoing = asyncio.create_task(echo_bi(back.ours))
    assert await back.call("echo_client", streams=5, size=10_000, seed=1) == 5
    await assert_alive(there)
    back.ours.close()
    await echoing
