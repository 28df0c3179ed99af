"""Endpoints: binding, dialling, refusing, closing."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
from programs import complaints

from iroh_fast import (
    BindAddr,
    CloseReason,
    Connection,
    Endpoint,
    EndpointAddr,
    EndpointHooks,
    EndpointTicket,
    QuicTransportConfig,
    Reject,
    Router,
    SecretKey,
    SocketAddr,
    presets,
)
from iroh_fast.errors import (
    AlpnMismatch,
    ApplicationClosed,
    BindError,
    ConfigError,
    ConnectError,
    ConnectionLost,
    ConnectionRefused,
    ConnectTimeout,
    EndpointClosed,
    InvalidAlpn,
    LocallyClosed,
    LocallyRejected,
    NoAddress,
    SelfConnect,
    WatcherEnded,
    WrongIdentity,
    WrongThread,
)

from .conftest import ALPN, ENV, LOOPBACK, Bind, Pair, connect

IMPATIENT = QuicTransportConfig(max_idle_timeout=0.3, initial_rtt=0.01)


async def test_connect_gives_both_sides_identity_and_alpn(pair: Pair) -> None:
    assert pair.client.remote_id == pair.server_ep.id
    assert pair.server.remote_id == pair.client_ep.id
    assert pair.client.alpn == pair.server.alpn == ALPN
    assert (pair.client.side, pair.server.side) == ("client", "server")
    assert pair.client.stable_id == pair.client.stable_id > 0
    assert pair.client.close_reason is None
    assert pair.client.peer_certificate[-32:] == bytes(pair.server_ep.id)
    assert len(pair.client.peer_certificate) == 44


async def test_secret_key_decides_the_id(bind: Bind) -> None:
    key = SecretKey.generate()
    ep = await bind(secret_key=key)
    assert ep.id == key.public
    assert ep.secret_key == key
    assert f"{key.public:short}" in repr(ep)
    assert key.to_hex() not in repr(ep)


@pytest.mark.parametrize("form", ["addr", "ticket", "text"])
async def test_connect_accepts_every_form_of_address(bind: Bind, form: str) -> None:
    server = await bind(alpns=[ALPN])
    target: Any = {"addr": server.addr, "ticket": server.ticket, "text": str(server.ticket)}[form]
    client = await bind()
    accepting = asyncio.create_task(accept_one(server))
    conn = await client.connect(target, ALPN)
    assert conn.remote_id == server.id
    conn.close()
    await (await accepting).wait_closed()


async def test_connect_by_context_manager_closes_with_the_chosen_code(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    accepting = asyncio.create_task(accept_one(server))
    async with client.connect(server.addr, ALPN) as conn:
        conn.close_on_exit(7, b"bye!")
        accepted = await accepting
    assert conn.close_reason is not None
    assert (conn.close_reason.kind, str(conn.close_reason)) == ("locally_closed", "closed")
    assert await accepted.wait_closed() == CloseReason("application", 7, b"bye!", True)
    assert str(accepted.close_reason) == "closed by peer: bye! (code 7)"
    with pytest.raises(ApplicationClosed) as caught:
        await accepted.open_bi()
    assert (caught.value.code, caught.value.reason) == (7, b"bye!")
    with pytest.raises(LocallyClosed):
        await conn.accept_uni()


async def accept_one(ep: Endpoint) -> Connection:
    incoming = await ep.accept()
    assert incoming is not None
    return await incoming


# --- what connect checks, in this order


async def test_connect_checks_run_in_the_documented_order(bind: Bind) -> None:
    seen = []

    class Hook(EndpointHooks):
        async def before_connect(self, addr: EndpointAddr, alpn: bytes) -> bool:
            seen.append((addr, alpn))
            return alpn != b"no"

    ep = await bind(hooks=[Hook()])
    other = SecretKey.generate().public
    with pytest.raises(LocallyRejected):
        await ep.connect(ep.addr, b"no")
    with pytest.raises(SelfConnect) as caught:
        await ep.connect(ep.id, b"")
    assert f"{ep.id:short}" in str(caught.value)
    with pytest.raises(InvalidAlpn):
        await ep.connect(other, b"")
    with pytest.raises(InvalidAlpn):
        await ep.connect(other, b"x" * 256)
    with pytest.raises(TypeError, match="b'text'"):
        await ep.connect(other, "text")  # type: ignore[arg-type]
    with pytest.raises(NoAddress) as no_address:
        await ep.connect(other, ALPN)
    assert no_address.value.remote == f"{other:short}"
    assert no_address.value.alpn == ALPN
    with pytest.raises(NoAddress, match="relay"):
        await ep.connect(EndpointAddr(other, relay_url="https://relay.example./"), ALPN)
    assert len(seen) == 6
    await ep.close()
    with pytest.raises(EndpointClosed):
        await ep.connect(other, ALPN)
    assert len(seen) == 6


async def test_connect_wrong_alpn_raises_alpn_mismatch(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def accept() -> None:
        with pytest.raises(AlpnMismatch):
            await accept_one(server)

    accepting = asyncio.create_task(accept())
    with pytest.raises(AlpnMismatch) as caught:
        await client.connect(server.addr, b"other")
    error = caught.value
    assert str(error) == (
        f"connect to {server.id:short} (alpn b'other') failed: peer accepts none of our ALPNs"
    )
    assert error.alert == 120
    assert isinstance(error.__cause__, ConnectionLost)
    assert error.close_reason is error.__cause__.close_reason
    assert isinstance(error, ConnectionError)
    await accepting


async def test_connect_wrong_key_raises_wrong_identity(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def accept() -> None:
        with pytest.raises(ConnectError):
            await accept_one(server)

    accepting = asyncio.create_task(accept())
    wrong = EndpointAddr(SecretKey.generate().public, server.addr.addrs)
    with pytest.raises(WrongIdentity) as caught:
        await client.connect(wrong, ALPN)
    assert caught.value.alert == 48
    assert "another key" in str(caught.value)
    await accepting


async def test_connect_refused_by_incoming_refuse(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def refuse() -> None:
        incoming = await server.accept()
        assert incoming is not None
        incoming.refuse()
        with pytest.raises(RuntimeError, match="answered already"):
            incoming.accept()

    refusing = asyncio.create_task(refuse())
    with pytest.raises(ConnectionRefused, match="refused"):
        await client.connect(server.addr, ALPN)
    await refusing


async def test_connect_to_endpoint_without_alpns_gets_no_answer(bind: Bind) -> None:
    server, client = await bind(), await bind(transport=IMPATIENT)
    with pytest.raises(ConnectTimeout):
        await client.connect(server.addr, ALPN)


async def test_connect_refused_when_incoming_is_dropped(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()

    async def drop() -> None:
        incoming = await server.accept()
        assert incoming is not None
        assert str(client.bound_sockets[0].port) in repr(incoming)
        del incoming
        gc.collect()

    dropping = asyncio.create_task(drop())
    with pytest.raises(ConnectionRefused):
        await client.connect(server.addr, ALPN)
    await dropping


async def test_connect_without_answer_times_out(bind: Bind) -> None:
    client = await bind(transport=IMPATIENT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = EndpointAddr(
            SecretKey.generate().public, ip_addrs=[SocketAddr.from_tuple(silent.getsockname())]
        )
        with pytest.raises(ConnectTimeout) as caught:
            await client.connect(target, ALPN)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.close_reason is not None
    assert caught.value.close_reason.kind == "timed_out"


async def test_connect_cancelled_drops_the_attempt(bind: Bind) -> None:
    client = await bind(transport=IMPATIENT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = EndpointAddr(
            SecretKey.generate().public, ip_addrs=[SocketAddr.from_tuple(silent.getsockname())]
        )
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.connect(target, ALPN)
        conn = await client.connect_with(target, ALPN)
        assert f"{target.id:short}" in repr(conn)
        with pytest.raises(RuntimeError, match="was used already"):
            task = asyncio.ensure_future(conn)
            await asyncio.sleep(0)
            try:
                await conn
            finally:
                task.cancel()


async def test_connect_fails_when_the_endpoint_closes_meanwhile(bind: Bind) -> None:
    client = await bind(transport=IMPATIENT)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = EndpointAddr(
            SecretKey.generate().public, ip_addrs=[SocketAddr.from_tuple(silent.getsockname())]
        )
        task = asyncio.create_task(client.connect(target, ALPN))
        await asyncio.sleep(0.02)
        await client.close()
        with pytest.raises(EndpointClosed):
            await task


async def test_server_order_decides_among_extra_alpns(bind: Bind) -> None:
    server, client = await bind(alpns=[b"b", b"a"]), await bind()
    accepting = asyncio.create_task(accept_one(server))
    connecting = await client.connect_with(server.addr, b"a", extra_alpns=[b"b"])
    assert await connecting.alpn() == b"b"
    conn, accepted = await connecting, await accepting
    assert conn.alpn == accepted.alpn == b"b"
    conn.close()
    accepted.close()


# --- accepting


async def test_accepting_tells_alpn_before_the_connection(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dialling = asyncio.create_task(client.connect(server.addr, ALPN))
    incoming = await server.accept()
    assert incoming is not None
    assert incoming.remote_addr.is_ip
    assert not incoming.remote_addr_validated
    peeked = incoming.peek()
    assert peeked is None or peeked.alpns == (ALPN,)
    accepting = incoming.accept()
    assert await accepting.alpn() == ALPN
    assert accepting.remote_addr == incoming.remote_addr
    conn = await accepting
    (await dialling).close()
    await conn.wait_closed()


async def test_retry_validates_the_address(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dialling = asyncio.create_task(client.connect(server.addr, ALPN))
    first = await server.accept()
    assert first is not None
    first.retry()
    second = await server.accept()
    assert second is not None
    assert second.remote_addr_validated
    with pytest.raises(Exception, match="validated already"):
        second.retry()
    conn = await second
    (await dialling).close()
    await conn.wait_closed()


async def test_accept_with_server_config_uses_its_alpns(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    dialling = asyncio.create_task(client.connect(server.addr, b"special"))
    incoming = await server.accept()
    assert incoming is not None
    conn = await incoming.accept(server.server_config([b"special"]))
    assert conn.alpn == b"special"
    (await dialling).close()
    await conn.wait_closed()


async def test_set_alpns_changes_what_is_accepted(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = await bind(), await bind()
    server.set_alpns([ALPN])
    assert server.alpns == (ALPN,)
    conn, accepted = await connect(client, server)
    server.set_alpns([])
    with pytest.raises(ConnectTimeout):
        await (await client.connect_with(server.addr, ALPN, transport=IMPATIENT))
    assert conn.close_reason is None
    conn.close()
    accepted.close()
    await server.close()
    with caplog.at_level(logging.WARNING, "iroh_fast"):
        server.set_alpns([ALPN])
    assert "closed endpoint" in caplog.text


async def test_incoming_iterator_ends_at_close(bind: Bind) -> None:
    server = await bind(alpns=[ALPN])

    async def run() -> int:
        return len([incoming async for incoming in server.incoming()])

    task = asyncio.create_task(run())
    await asyncio.sleep(0.01)
    await server.close()
    assert await task == 0
    assert await server.accept() is None


async def test_accept_without_alpns_waits_until_there_are_some(bind: Bind) -> None:
    server, client = await bind(), await bind()
    accepting = asyncio.create_task(accept_one(server))
    await asyncio.sleep(0.01)
    assert not accepting.done()
    server.set_alpns([ALPN])
    conn = await client.connect(server.addr, ALPN)
    conn.close()
    await (await accepting).wait_closed()
    idle = await bind()
    waiting = asyncio.create_task(idle.accept())
    await asyncio.sleep(0.01)
    await idle.close()
    assert await waiting is None


async def test_accept_cancelled_loses_no_attempt(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await server.accept()
    conn, accepted = await connect(client, server)
    conn.close()
    accepted.close()


# --- hooks


async def test_after_handshake_hook_can_reject_with_a_code(bind: Bind) -> None:
    class Hook(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> Reject | None:
            assert conn.alpn == ALPN
            return Reject(42, b"no")

    server, client = await bind(alpns=[ALPN], hooks=[EndpointHooks(), Hook()]), await bind()

    async def accept() -> None:
        with pytest.raises(LocallyRejected, match="code 42"):
            await accept_one(server)

    accepting = asyncio.create_task(accept())
    conn = await client.connect(server.addr, ALPN)
    assert await conn.wait_closed() == CloseReason("application", 42, b"no", True)
    await accepting


async def test_after_handshake_hook_rejects_when_dialling(bind: Bind) -> None:
    class Hook(EndpointHooks):
        async def after_handshake(self, conn: Connection) -> bool:
            return False

    server, client = await bind(alpns=[ALPN]), await bind(hooks=[Hook()])
    accepting = asyncio.create_task(accept_one(server))
    with pytest.raises(LocallyRejected):
        await client.connect(server.addr, ALPN)
    accepted = await accepting
    assert (await accepted.wait_closed()).kind == "application"


# --- addresses


async def test_bound_sockets_addr_and_ticket(bind: Bind) -> None:
    ep = await bind()
    sockets = ep.bound_sockets
    assert str(sockets[0].ip) == "127.0.0.1"
    assert sockets[0].port > 0
    assert ep.addr == EndpointAddr(ep.id, ip_addrs=sockets)
    assert EndpointTicket.parse(str(ep.ticket)).addr == ep.addr
    await ep.close()
    assert ep.bound_sockets == sockets
    assert ep.addr.id == ep.id


async def test_default_sockets_are_ipv4_and_optional_ipv6() -> None:
    async with Endpoint.bind(preset=presets.minimal) as ep:
        assert str(ep.bound_sockets[0].ip) == "0.0.0.0"
        assert {sock.ip.version for sock in ep.bound_sockets} <= {4, 6}
        assert not any(addr.ip.is_unspecified for addr in ep.addr.ip_addrs)
        assert not ep.addr.is_empty


async def test_bind_address_in_use_raises_bind_error(bind: Bind) -> None:
    ep = await bind()
    taken = ep.bound_sockets[0]
    with pytest.raises(BindError) as caught:
        await Endpoint.bind(preset=presets.minimal, bind_addrs=[taken])
    assert caught.value.errno == errno.EADDRINUSE
    assert str(taken) in str(caught.value)
    optional = BindAddr("127.0.0.1", taken.port, required=False)
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=[optional, *LOOPBACK[1:]]) as other:
        assert taken not in other.bound_sockets


async def test_bind_unknown_or_unavailable_option_raises_at_once() -> None:
    with pytest.raises(TypeError, match="no option 'alpn'"):
        Endpoint.bind(preset=presets.minimal, alpn=[ALPN])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="did you mean alpns"):
        Endpoint.bind(preset=presets.minimal, alpn=[ALPN])  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Endpoint()


async def test_watch_addr_follows_external_addresses_and_ends_at_close(bind: Bind) -> None:
    ep = await bind()
    before = ep.addr
    seen: list[EndpointAddr] = []

    async def follow() -> None:
        async for addr in ep.watch_addr():
            seen.append(addr)

    task = asyncio.create_task(follow())
    watcher = ep.watch_addr()
    assert watcher.value == before
    await asyncio.sleep(0)
    await ep.add_external_addr("203.0.113.5:77")
    assert SocketAddr.parse("203.0.113.5:77") in (await watcher.changed()).ip_addrs
    assert await watcher.wait_for(lambda addr: len(addr.addrs) > len(before.addrs)) == ep.addr
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await watcher.changed()
    await ep.remove_external_addr("203.0.113.5:77")
    assert await watcher.changed() == before
    await ep.network_change()
    await ep.close()
    await task
    assert seen[0] == seen[-1] == before
    with pytest.raises(WatcherEnded):
        await watcher.changed()
    assert watcher.value == before


async def test_external_addrs_option_is_advertised(bind: Bind) -> None:
    ep = await bind(external_addrs=["203.0.113.5:77"])
    assert SocketAddr.parse("203.0.113.5:77") in ep.addr.ip_addrs


async def test_remote_info_knows_connected_peers(pair: Pair) -> None:
    info = await pair.client_ep.remote_info(pair.server_ep.id)
    assert info is not None
    assert info.id == pair.server_ep.id
    [used] = [entry for entry in info.addrs if entry.usage == "active"]
    assert used.addr in pair.server_ep.addr.addrs and used.status == "active"
    assert {entry.addr for entry in info.addrs} <= set(pair.server_ep.addr.addrs)
    assert await pair.client_ep.remote_info(pair.client_ep.id) is None


async def test_metrics_count_connections(pair: Pair) -> None:
    snapshot = pair.client_ep.metrics.snapshot()
    assert snapshot["socket:num_conns_opened"] == 1
    assert snapshot["socket:num_conns_closed"] == 0
    assert snapshot["socket:recv_datagrams"] > 0
    pair.client.close()
    assert pair.client_ep.metrics.snapshot()["socket:num_conns_closed"] == 1
    text = pair.client_ep.metrics.openmetrics()
    assert "socket_num_conns_opened_total 1\n" in text
    assert text.endswith("# EOF\n")


# --- closing


async def test_close_tells_peers_and_is_idempotent(pair: Pair) -> None:
    await asyncio.gather(pair.client_ep.close(), pair.client_ep.close())
    await pair.client_ep.close()
    assert pair.client_ep.closed
    assert pair.client.close_reason is not None
    assert pair.client.close_reason.kind == "locally_closed"
    reason = await pair.server.wait_closed()
    assert reason == CloseReason("application", 0, b"", True)
    assert str(reason) == "closed by peer: 0"
    await pair.client_ep.wait_closed()


async def test_close_is_finished_before_a_cancellation_goes_on(pair: Pair) -> None:
    task = asyncio.create_task(pair.client_ep.close())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.001):
        await pair.client_ep.wait_closed()


async def test_close_in_aexit_after_cancellation_of_the_body() -> None:
    eps: list[Endpoint] = []

    async def body() -> None:
        async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
            eps.append(ep)
            await asyncio.sleep(100)

    task = asyncio.create_task(body())
    while not eps:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(0.001):
        await eps[0].wait_closed()


async def test_run_until_ends_with_the_endpoint(bind: Bind) -> None:
    ep = await bind(relays=[])

    async def value() -> int:
        return 5

    assert await ep.run_until(value()) == 5
    task = asyncio.create_task(ep.run_until(asyncio.sleep(100, True)))
    online = asyncio.create_task(ep.online())
    await asyncio.sleep(0)
    await ep.close()
    assert await task is None
    with pytest.raises(EndpointClosed):
        await online


async def test_bound_port_is_free_after_close() -> None:
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK) as ep:
        taken = ep.bound_sockets[0]
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=[taken, *LOOPBACK[1:]]) as ep:
        assert ep.bound_sockets[0] == taken


async def test_endpoint_left_open_warns() -> None:
    ep = await Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK)
    taken = ep.bound_sockets[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del ep
        gc.collect()
    assert any("unclosed <Endpoint" in str(item.message) for item in caught)
    await asyncio.sleep(0.01)
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=[taken, *LOOPBACK[1:]]) as again:
        assert again.bound_sockets[0] == taken


# --- misuse


async def test_use_from_another_thread_raises(pair: Pair) -> None:
    stream = await pair.client.open_bi()
    errors: list[BaseException] = []

    def run() -> None:
        for call in (
            lambda: pair.client.close(),
            lambda: pair.client.send_datagram(b"x"),
            lambda: stream.send.finish(),
            lambda: asyncio.run(stream.send.write_all(b"x")),
            lambda: asyncio.run(stream.recv.read()),
            lambda: asyncio.run(wrap(pair.client.open_uni())),
            lambda: asyncio.run(pair.client.accept_bi()),
            lambda: asyncio.run(pair.client_ep.accept()),
            lambda: pair.client_ep.set_alpns([]),
            lambda: setattr(stream.send, "priority", 1),
            lambda: asyncio.run(pair.client_ep.watch_addr().changed()),
            lambda: asyncio.run(pair.client.watch_paths().changed()),
            lambda: asyncio.run(pair.client.finish()),
            lambda: Router(pair.client_ep, {}).start(),
        ):
            try:
                call()
            except BaseException as error:
                errors.append(error)

    async def wrap(awaitable: Any) -> Any:
        return await awaitable

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [type(error) for error in errors] == [WrongThread] * 14
    assert pair.client.close_reason is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_use_in_a_forked_child_raises_and_leaves_the_parent_alone() -> None:
    # In a process of its own: forking the test runner would fork its threads' locks as well.
    script = """
import asyncio, gc, os
from iroh_fast import Endpoint, presets
from iroh_fast.errors import WrongThread

async def main():
    async def accept():
        return await (await server.accept())
    bind = ["127.0.0.1:0"]
    async with Endpoint.bind(preset=presets.minimal, bind_addrs=bind, alpns=[b"a"]) as server:
        async with Endpoint.bind(preset=presets.minimal, bind_addrs=bind) as client:
            conn, other = await asyncio.gather(client.connect(server.addr, b"a"), accept())
            pid = os.fork()
            if not pid:
                try:
                    conn.send_datagram(b"x")
                except WrongThread as error:
                    os._exit(7 if "fork" in str(error) else 8)
                os._exit(9)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            conn.send_datagram(b"still works")
            assert await other.read_datagram() == b"still works"
            conn.close()

asyncio.run(main())
"""
    result = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True)
    assert (result.returncode, complaints(result.stderr)) == (0, "")


def test_use_from_another_loop_raises() -> None:
    loop = asyncio.new_event_loop()
    other = asyncio.new_event_loop()

    async def bind() -> Endpoint:
        return await Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK)

    async def use(ep: Endpoint) -> None:
        for call in (ep.connect(ep.addr, ALPN), ep.close(), ep.watch_addr().changed()):
            with pytest.raises(WrongThread, match="another event loop"):
                await call

    try:
        ep = loop.run_until_complete(bind())
        other.run_until_complete(use(ep))
        loop.run_until_complete(ep.close())
    finally:
        other.close()
        loop.close()


CLOSED_LOOP = """
import asyncio, gc, os
from iroh_fast import Endpoint, presets
from iroh_fast.errors import LocallyClosed, WrongThread

async def two():
    server = await Endpoint.bind(preset=presets.minimal, alpns=[b"x"], bind_addrs=["127.0.0.1:0"])
    client = await Endpoint.bind(preset=presets.minimal, bind_addrs=["127.0.0.1:0"])
    dial = asyncio.create_task(client.connect(server.addr, b"x"))
    other = await (await server.accept())
    return server, client, await dial, other

def error_of(function, *args):
    try:
        result = function(*args)
        if hasattr(result, "send"):
            asyncio.run(result)
    except Exception as error:
        return type(error)

def once():
    loop = asyncio.new_event_loop()
    server, client, conn, other = loop.run_until_complete(two())
    loop.close()
    for waiting in (conn.accept_bi, conn.read_datagram, client.close, client.accept):
        assert error_of(waiting) is WrongThread, waiting
    assert error_of(conn.close) is None
    assert error_of(conn.send_datagram, b"x") is LocallyClosed
    assert error_of(lambda: conn.open_uni().__await__().send(None)) is LocallyClosed

def descriptors():
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

once()
before = descriptors()
for _ in range(5):
    once()
assert descriptors() <= before, (before, descriptors())
print("fine")
"""


def test_use_after_the_loop_was_closed_says_so_and_leaves_no_descriptor() -> None:
    """As in a program that died by an exception: nobody closed the endpoints."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLOSED_LOOP],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=30,
    )
    assert result.stdout == "fine\n", result.stderr


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("place", ["missing/keys", ""])
async def test_keylog_that_cannot_be_written_breaks_no_connection(
    bind: Bind,
    side: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = str(tmp_path / place)
    monkeypatch.setenv("SSLKEYLOGFILE", path)
    server = await bind(alpns=[ALPN], keylog=side == "server")
    client = await bind(keylog=side == "client")
    for conn in await connect(client, server):
        conn.close()
    warned = [record for record in caplog.records if path in record.getMessage()]
    assert len(warned) == 1


async def test_keylog_without_a_file_is_told(
    bind: Bind, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    caplog.set_level("INFO", "iroh_fast.net")
    await bind(keylog=True)
    assert "SSLKEYLOGFILE names no file" in caplog.text


async def test_keylog_file_is_for_its_owner_alone(
    bind: Bind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(path))
    for conn in await connect(await bind(keylog=True), await bind(alpns=[ALPN])):
        conn.close()
    assert "CLIENT_TRAFFIC_SECRET_0" in path.read_text()
    if os.name == "posix":
        assert path.stat().st_mode & 0o777 == 0o600


async def test_bind_that_fails_leaves_no_descriptor() -> None:
    taken = await Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK)
    port = taken.bound_sockets[0].port
    addrs: list[Any] = [BindAddr(f"127.0.0.{i}", prefix_len=32) for i in range(1, 10)]
    wrong: list[dict[str, Any]] = [
        {"hooks": EndpointHooks()},
        {"secret_key": taken.id},
        {"bind_addrs": [BindAddr(f"127.0.0.{i}", prefix_len=32) for i in range(1, 18)]},
        {"bind_addrs": [*LOOPBACK[:1], BindAddr("fe80::1%nowhere0")]},
        {"bind_addrs": [*addrs, f"127.0.0.1:{port}"]},
        {"relays": ["http://127.0.0.1:1"], "ca": "path"},
    ]

    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0

    before = descriptors()
    for options in wrong:
        with pytest.raises((ConfigError, BindError)):
            await Endpoint.bind(preset=presets.minimal, **{"bind_addrs": LOOPBACK, **options})
        assert descriptors() == before, options
    await taken.close()


async def test_online_without_relays_raises_instead_of_waiting_for_ever(bind: Bind) -> None:
    ep = await bind()
    with pytest.raises(ConfigError, match=r"bound without relays; give bind\(\) relays="):
        await ep.online()
    await ep.close()
    with pytest.raises(EndpointClosed):
        await ep.online()


async def test_waiting_for_the_end_is_not_collected() -> None:
    """The waiting task is the only one that holds the endpoint, and nobody holds the task."""
    made: list[weakref.ref[Endpoint]] = []
    ended: list[bool] = []

    async def serve() -> None:
        ep = await Endpoint.bind(preset=presets.minimal, bind_addrs=LOOPBACK)
        made.append(weakref.ref(ep))
        await ep.wait_closed()
        ended.append(ep.closed)

    asyncio.ensure_future(serve())  # noqa: RUF006 - that nobody holds it is the point
    while not made:
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
        gc.collect()
    ep = made[0]()
    assert ep is not None
    await ep.close()
    while not ended:
        await asyncio.sleep(0)
    assert ended == [True]
