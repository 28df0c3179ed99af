"""The engine between sockets and QUIC: turns, timers, full sockets, and what is dialed."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast._batch import UdpSocket
from iroh_fast.config import BindAddr, QuicTransportConfig
from iroh_fast.net._deadlines import Deadlines
from iroh_fast.net._socket import DriverCore
from iroh_fast.net.socket import Driver
from iroh_fast.quic._connection import QuicConnection
from iroh_fast.quic._endpoint import QuicEndpoint
from iroh_fast.quic.tls import Identity

HERE = [BindAddr("127.0.0.1")]
ALPN = b"engine/1"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the error is Linux's")


async def until(test: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not test():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def drivers() -> AsyncIterator[tuple[Driver, Driver]]:
    server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
    client = Driver.bind(HERE, identity=Identity(bytes([2]) * 32))
    try:
        yield client, server
    finally:
        client.stop()
        server.stop()


async def connected(
    client: Driver, server: Driver, config: QuicTransportConfig | None = None
) -> tuple[QuicConnection, QuicConnection]:
    config = config or QuicTransportConfig()
    q = client.connect(
        [server.bound_sockets[0]],
        expected_peer=server.endpoint.identity.public_key,
        alpns=[ALPN],
        transport=config,
    )
    async with asyncio.timeout(60):
        attempt = await server.wait_incoming()
    assert attempt is not None
    accepted = attempt.accept([ALPN], config)
    await until(lambda: q.handshake_confirmed and accepted.handshake_confirmed)
    return q, accepted


# ---------------------------------------------------------------- turns
async def test_empty_datagrams_use_up_the_turn() -> None:
    async with drivers() as (client, _):
        core = client._core
        (sock,) = core.sockets
        sock.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        asyncio.get_running_loop().remove_reader(sock.fileno())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(1000):
                sender.sendto(b"", client.bound_sockets[0])
            assert select.select([sock], [], [], 1)[0]
            core.on_readable(0)
        taken = sock.stats()["rx_datagrams"]
        assert 0 < taken < 300


async def test_what_many_connections_send_in_one_turn_leaves_in_few_calls() -> None:
    async with drivers() as (client, server):
        pairs = [await connected(client, server) for _ in range(30)]
        await asyncio.sleep(0.1)  # acknowledgements of the handshakes
        (sock,) = client._core.sockets
        before = sock.stats()
        for q, _ in pairs:
            q.open_stream(False).write(b"hello", True)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        after = sock.stats()
        assert after["tx_datagrams"] - before["tx_datagrams"] >= 30
        if sys.platform == "linux":
            assert after["tx_calls"] - before["tx_calls"] <= 6


# ---------------------------------------------------------------- the end
@pytest.mark.parametrize("closed", [True, False], ids=["draining", "live"])
async def test_stop_lets_go_of_every_connection(closed: bool) -> None:
    async with drivers() as (client, server):
        pairs = [await connected(client, server) for _ in range(3)]
        for q, _ in pairs:
            if closed:
                q.close(0, b"")
        client.stop()
        assert not client.endpoint.connections and client.endpoint.known_ids() == 0
        assert [(q.drained, q.close_reason.kind) for q, _ in pairs] == [
            (True, "locally_closed")
        ] * len(pairs)


# ---------------------------------------------------------------- timers
async def test_timer_entries_follow_the_number_of_connections() -> None:
    async with drivers() as (client, server):
        q, accepted = await connected(client, server)
        most = 0
        stream = q.open_stream(False)
        for _ in range(200):
            stream.write(b"hello")
            await asyncio.sleep(0.002)
            most = max(most, client._core.timer_entries, server._core.timer_entries)
        assert most == 1
        assert accepted.close_reason is None
        q.close()
        await until(lambda: client._core.timer_entries == server._core.timer_entries == 0)


STEPS = st.tuples(st.sampled_from(["put", "remove", "take"]), st.integers(0, 19), st.integers(1, 30))


@given(st.lists(STEPS, max_size=80))
def test_deadlines_are_taken_in_order_and_move(steps: list[tuple[str, int, int]]) -> None:
    endpoint = QuicEndpoint(Identity(bytes([3]) * 32))
    conns = [
        endpoint.connect(
            [("192.0.2.1", 4433)],
            expected_peer=bytes(32),
            alpns=[ALPN],
            transport=QuicTransportConfig(),
            now=1,
        )
        for _ in range(20)
    ]
    heap = Deadlines([], endpoint.connections)
    due: dict[int, int] = {}
    for step, which, at in steps:
        if step == "put":
            heap.put(conns[which], at)
            due[which] = at
        elif step == "remove":
            heap.remove(conns[which])
            due.pop(which, None)
        elif (conn := heap.take_due(at)) is None:
            assert min(due.values(), default=at + 1) > at
        else:
            first = min(due.values())
            assert due.pop(conns.index(conn)) == first <= at
        assert len(heap) == len(due)
    order = [due[conns.index(conn)] for conn in iter(lambda: heap.take_due(99), None)]
    assert order == sorted(due.values())


async def test_heartbeats_of_many_connections_are_served_together() -> None:
    config = QuicTransportConfig(keep_alive_interval=0.4)
    async with drivers() as (client, server):
        pairs = [await connected(client, server, config) for _ in range(40)]
        await asyncio.sleep(0.5)
        wakes = client.stats()["timer_wakes"]
        pings = sum(q.stats()["frame_tx"]["ping"] for q, _ in pairs)
        await asyncio.sleep(1.5)
        wakes = client.stats()["timer_wakes"] - wakes
        pings = sum(q.stats()["frame_tx"]["ping"] for q, _ in pairs) - pings
        pings += sum(s.stats()["frame_tx"]["ping"] for _, s in pairs)
        assert pings >= 40
        assert wakes <= pings


# ---------------------------------------------------------------- dialing
@linux_only
async def test_attempt_ends_when_nothing_can_leave_to_any_address() -> None:
    """A network's broadcast address: the system refuses each datagram."""
    client = Driver.bind([BindAddr("0.0.0.0")], identity=Identity(bytes([2]) * 32))
    try:
        q = client.connect(
            [("127.255.255.255", 7), ("127.255.255.255", 8)],
            expected_peer=bytes(32),
            alpns=[ALPN],
            transport=QuicTransportConfig(),
        )
        await until(lambda: q.close_reason)
        assert q.close_reason is not None and q.close_reason.kind == "unreachable"
        text = str(q.close_reason)
        assert "127.255.255.255:7 (Permission denied)" in text and "127.255.255.255:8" in text
        assert client.connections == 0
    finally:
        client.stop()


@linux_only
async def test_attempt_that_expects_addresses_waits_for_them() -> None:
    client = Driver.bind([BindAddr("0.0.0.0")], identity=Identity(bytes([2]) * 32))
    server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
    try:
        ends = []
        for more in (True, False):
            q = client.connect(
                [("127.255.255.255", 7)],
                expected_peer=server.endpoint.identity.public_key,
                alpns=[ALPN],
                transport=QuicTransportConfig(),
            )
            q.expect_addresses(True)
            await asyncio.sleep(0.05)
            assert q.close_reason is None
            if more:
                assert q.dial_more([server.bound_sockets[0]]) == 1
                async with asyncio.timeout(20):
                    attempt = await server.wait_incoming()
                assert attempt is not None
                attempt.accept([ALPN], QuicTransportConfig())
                await until(lambda q=q: q.handshake_confirmed)  # type: ignore[misc]
            q.expect_addresses(False)
            ends.append(q.close_reason)
        assert ends[0] is None
        assert ends[1] is not None and ends[1].kind == "unreachable"
    finally:
        client.stop()
        server.stop()


@linux_only
async def test_one_address_that_works_is_enough() -> None:
    client = Driver.bind([BindAddr("0.0.0.0")], identity=Identity(bytes([2]) * 32))
    server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
    try:
        q = client.connect(
            [("127.255.255.255", 7), server.bound_sockets[0]],
            expected_peer=server.endpoint.identity.public_key,
            alpns=[ALPN],
            transport=QuicTransportConfig(),
        )
        async with asyncio.timeout(60):
            attempt = await server.wait_incoming()
        assert attempt is not None
        attempt.accept([ALPN], QuicTransportConfig())
        await until(lambda: q.handshake_confirmed)
    finally:
        client.stop()
        server.stop()


# ---------------------------------------------------------------- a full socket
# A seccomp listener in another process answers each sendmsg of one thread on one descriptor with the errno in a
# shared byte, 0 for the real call.
AUDIT_ARCH, NR_SENDMSG, NR_SENDMMSG, NR_SECCOMP = {
    "x86_64": (0xC000003E, 46, 307, 317),
    "aarch64": (0xC00000B7, 211, 269, 277),
}.get(platform.machine(), (0, 0, 0, 0))

SUPERVISOR = """
import array, fcntl, mmap, struct, sys
listener, flag = int(sys.argv[1]), mmap.mmap(int(sys.argv[2]), 1)
while True:
    notice = array.array("B", bytes(80))
    fcntl.ioctl(listener, 0xC0502100, notice)               # SECCOMP_IOCTL_NOTIF_RECV
    ident, = struct.unpack_from("Q", notice)
    answer = flag[0]
    reply = struct.pack("QqiI", ident, 0, -answer, 0 if answer else 1)   # 1: let the call go on
    fcntl.ioctl(listener, 0xC0182101, array.array("B", reply))   # SECCOMP_IOCTL_NOTIF_SEND
"""


def with_gate(fd: int, main: Callable[[Any], Any]) -> None:
    """Run ``main(gate)`` on a loop in a thread whose sends on `fd` fail with the errno in ``gate[0]``."""
    if sys.platform != "linux" or not AUDIT_ARCH:
        pytest.skip("needs seccomp on Linux x86-64 or aarch64")
    outcome: list[BaseException | str | None] = []

    def rule(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    program = b"".join([
        rule(0x20, 0, 0, 4), rule(0x15, 0, 6, AUDIT_ARCH),
        rule(0x20, 0, 0, 0), rule(0x15, 1, 0, NR_SENDMSG), rule(0x15, 0, 3, NR_SENDMMSG),
        rule(0x20, 0, 0, 16), rule(0x15, 0, 1, fd),
        rule(0x06, 0, 0, 0x7FC00000),    # SECCOMP_RET_USER_NOTIF
        rule(0x06, 0, 0, 0x7FFF0000),    # SECCOMP_RET_ALLOW
    ])  # fmt: skip

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        code = ctypes.create_string_buffer(program, len(program))
        header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, of this thread only
        listener = libc.syscall(NR_SECCOMP, 1, 8, header)  # mode filter, new listener
        if listener < 0:
            outcome.append(os.strerror(ctypes.get_errno()))
            return
        with tempfile.TemporaryFile() as shared:
            shared.write(b"\0")
            shared.flush()
            gate = mmap.mmap(shared.fileno(), 1)
            command = [sys.executable, "-S", "-c", SUPERVISOR, str(listener), str(shared.fileno())]
            with subprocess.Popen(command, pass_fds=[listener, shared.fileno()]) as supervisor:
                os.close(listener)
                try:
                    asyncio.run(main(gate))
                    outcome.append(None)
                except BaseException as error:
                    outcome.append(error)
                finally:
                    supervisor.kill()

    worker = threading.Thread(target=run)  # the filter ends with the thread
    worker.start()
    worker.join()
    (found,) = outcome
    if isinstance(found, str):
        pytest.skip(f"seccomp listener not permitted here: {found}")
    if found is not None:
        raise found


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOBUFS])
def test_full_socket_parks_once_however_often_it_is_woken(code: int) -> None:
    sock = UdpSocket.bind(("127.0.0.1", 0))

    async def main(gate: Any) -> None:
        server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
        endpoint = QuicEndpoint(Identity(bytes([2]) * 32))
        core = DriverCore(endpoint, asyncio.get_running_loop())
        core.add_socket(sock, 0, True)
        client = Driver(endpoint, core, asyncio.get_running_loop())
        try:
            q, accepted = await connected(client, server)
            stream = q.open_stream(False)
            gate[0] = code
            most = 0
            for _ in range(30):  # each datagram that comes is a turn in which something could be sent
                stream.write(bytes(20_000))
                accepted.send_datagram(b"wake")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                most = max(most, core.parked_batches)
            assert 0 < most <= 3
            gate[0] = 0
            await until(lambda: core.parked_batches == 0)
            received = accepted.accept_stream(False)
            while received is None:
                await asyncio.sleep(0.005)
                received = accepted.accept_stream(False)
            await until(lambda: server.stats()["recv_data_ipv4"] > 300_000)
            assert q.close_reason is None
        finally:
            client.stop()
            server.stop()

    with_gate(sock.fileno(), main)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOMEM])
@pytest.mark.parametrize("passes", [True, False], ids=["passes", "stays"])
def test_error_that_may_pass_is_a_loss_until_it_stays(code: int, passes: bool) -> None:
    sock = UdpSocket.bind(("127.0.0.1", 0))

    async def main(gate: Any) -> None:
        server = Driver.bind(HERE, identity=Identity(bytes([1]) * 32))
        endpoint = QuicEndpoint(Identity(bytes([2]) * 32))
        core = DriverCore(endpoint, asyncio.get_running_loop())
        core.add_socket(sock, 0, True)
        client = Driver(endpoint, core, asyncio.get_running_loop())
        try:
            gate[0] = code
            q = client.connect(
                [server.bound_sockets[0]],
                expected_peer=server.endpoint.identity.public_key,
                alpns=[ALPN],
                transport=QuicTransportConfig(initial_rtt=0.05),
            )
            await asyncio.sleep(0.01)
            assert q.close_reason is None
            if not passes:
                await until(lambda: q.close_reason)
                assert q.close_reason is not None and q.close_reason.kind == "unreachable"
                return
            gate[0] = 0
            async with asyncio.timeout(20):
                attempt = await server.wait_incoming()
            assert attempt is not None
            attempt.accept([ALPN], QuicTransportConfig())
            await until(lambda: q.handshake_confirmed)
        finally:
            client.stop()
            server.stop()

    with_gate(sock.fileno(), main)
