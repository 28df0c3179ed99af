"""Questions to STUN servers: when they are sent, what counts as an answer, and who hears of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from tests.virtual import VirtualLoop

from iroh_fast._probe import encode_binding_request, parse
from iroh_fast.addr import SocketAddr
from iroh_fast.config import BindAddr
from iroh_fast.errors import StunError
from iroh_fast.net.socket import Driver
from iroh_fast.net.stun import MAX_WAITING, StunAnswer, StunClient
from iroh_fast.net.transport import SockAddr
from iroh_fast.quic.tls import Identity

SERVER = SocketAddr(IPv4Address("192.0.2.1"), 3478)
OTHER = SocketAddr(IPv4Address("198.51.100.2"), 3478)
OURS = SocketAddr(IPv4Address("203.0.113.7"), 41641)


def attribute(type: int, value: bytes) -> bytes:
    head = type.to_bytes(2, "big") + len(value).to_bytes(2, "big")
    return head + value + bytes(-len(value) % 4)


def address(addr: SocketAddr) -> bytes:
    family = 1 if addr.ip.version == 4 else 2
    return bytes((0, family)) + addr.port.to_bytes(2, "big") + addr.ip.packed


def answer(request: bytes, *attributes: bytes, type: int = 0x0101) -> bytes:
    body = b"".join(attributes)
    return type.to_bytes(2, "big") + len(body).to_bytes(2, "big") + request[4:20] + body


def mapped(request: bytes, addr: SocketAddr = OURS) -> bytes:
    return answer(request, attribute(0x0001, address(addr)))


class Sockets:
    """Sockets of an endpoint whose datagrams go to the test."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.waiting: dict[bytes, Callable[[bytes, SockAddr], object]] = {}
        self.sent: list[tuple[float, SocketAddr, bytes]] = []
        self.open = True
        self.on_send: Callable[[SocketAddr, bytes], None] = lambda to, data: None

    def send_datagram(self, to: SockAddr, data: bytes) -> bool:
        if self.open:
            self.sent.append((self.loop.time(), SocketAddr.from_tuple(to), data))
            self.on_send(self.sent[-1][1], data)
        return self.open

    def receive(self, *datagrams: bytes, source: SocketAddr = SERVER, after: float = 0.0) -> None:
        def arrive() -> None:
            for data in datagrams:
                if (waiter := self.waiting.get(data[8:20])) is not None:
                    waiter(data, source.as_tuple())

        self.loop.call_later(after, arrive)


def run(test: Callable[[Sockets, StunClient], Coroutine[Any, Any, object]]) -> Sockets:
    loop = VirtualLoop()
    sockets = Sockets(loop)
    try:
        loop.run_until_complete(test(sockets, StunClient(sockets, loop)))
    finally:
        loop.close()
    assert sockets.waiting == {}
    return sockets


def failure(
    on_send: Callable[[Sockets, SocketAddr, bytes], None], server: SocketAddr = SERVER
) -> StunError:
    found: list[StunError] = []

    async def ask(sockets: Sockets, client: StunClient) -> None:
        sockets.on_send = lambda to, data: on_send(sockets, to, data)
        with pytest.raises(StunError) as caught:
            await client.ask(server)
        found.append(caught.value)

    run(ask)
    return found[0]


def test_question_is_repeated_until_there_is_an_answer() -> None:
    answers: list[StunAnswer] = []

    async def ask(sockets: Sockets, client: StunClient) -> None:
        sockets.on_send = lambda to, data: (
            sockets.receive(mapped(data), after=0.05) if len(sockets.sent) == 2 else None
        )
        answers.append(await client.ask(SERVER))

    sockets = run(ask)
    assert [at for at, _, _ in sockets.sent] == pytest.approx([0, 0.2])
    assert len({data for _, _, data in sockets.sent}) == 1
    assert parse(sockets.sent[0][2]).kind == "request"
    assert answers == [StunAnswer(SERVER, OURS, pytest.approx(0.25))]


def test_silent_server_is_asked_three_times_within_three_seconds() -> None:
    times: list[float] = []

    async def ask(sockets: Sockets, client: StunClient) -> None:
        with pytest.raises(StunError) as caught:
            await client.ask(SERVER)
        times.append(sockets.loop.time())
        assert caught.value.kind == "timeout"

    sockets = run(ask)
    assert [at for at, _, _ in sockets.sent] == pytest.approx([0, 0.2, 0.6])
    assert times == pytest.approx([3.0])


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda s, data: s.receive(mapped(data), source=OTHER), id="from-elsewhere"),
        pytest.param(lambda s, data: s.receive(mapped(data)[:-1]), id="cut"),
        pytest.param(lambda s, data: s.receive(data), id="our-own-question"),
        pytest.param(
            lambda s, data: s.receive(answer(data, attribute(0x0ABC, b""))), id="not-understood"
        ),
        pytest.param(lambda s, data: s.receive(answer(data, type=0x0102)), id="other-method"),
        pytest.param(lambda s, data: s.receive(answer(data, type=0x0011)), id="indication"),
    ],
)
def test_what_is_no_answer_does_not_end_the_question(
    spoil: Callable[[Sockets, bytes], None],
) -> None:
    async def ask(sockets: Sockets, client: StunClient) -> None:
        def sent(to: SocketAddr, data: bytes) -> None:
            for _ in range(20):
                spoil(sockets, data)
            if len(sockets.sent) == 3:
                sockets.receive(mapped(data), mapped(data, OTHER), after=0.1)  # one too late

        sockets.on_send = sent
        assert (await client.ask(SERVER)).mapped == OURS

    run(ask)


@pytest.mark.parametrize(
    "lie",
    [
        *("0.0.0.0:5", "255.255.255.255:5", "224.0.0.1:5", "127.0.0.1:5", "169.254.1.1:5"),
        *("203.0.113.7:0", "[2001:db8::1]:5"),
    ],
)
def test_address_that_cannot_be_ours_is_not_believed(lie: str) -> None:
    error = failure(lambda s, to, data: s.receive(mapped(data, SocketAddr.parse(lie))))
    assert error.kind == "bad_answer" and lie in str(error)


def test_address_within_the_private_prefix_is_not_believed() -> None:
    server = SocketAddr(IPv6Address("2001:db8::1"), 3478)
    lie = SocketAddr(IPv6Address("fd15:70a:510b:1::5"), 12345)
    error = failure(lambda s, to, data: s.receive(mapped(data, lie), source=server), server)
    assert error.kind == "bad_answer"


def test_answer_without_an_address_is_of_no_use() -> None:
    assert failure(lambda s, to, data: s.receive(answer(data))).kind == "bad_answer"


def test_error_of_a_server_is_told_harmlessly() -> None:
    reason = attribute(0x0009, b"\0\0\4\x01\x1b[2Jno")
    error = failure(lambda s, to, data: s.receive(answer(data, reason, type=0x0111)))
    assert error.kind == "rejected" and "401 \\x1b[2Jno" in str(error)


def elsewhere(request: bytes, other: SocketAddr) -> bytes:
    parts = attribute(0x0009, b"\0\0\3\0"), attribute(0x8023, address(other))
    return answer(request, *parts, type=0x0111)


def test_another_server_is_asked_once() -> None:
    async def ask(sockets: Sockets, client: StunClient) -> None:
        sockets.on_send = lambda to, data: sockets.receive(
            elsewhere(data, OTHER) if to == SERVER else mapped(data), source=to
        )
        assert (await client.ask(SERVER)).server == OTHER

    assert [to for _, to, _ in run(ask).sent] == [SERVER, OTHER]


def test_servers_cannot_send_us_round() -> None:
    asked: list[SocketAddr] = []

    def sent(sockets: Sockets, to: SocketAddr, data: bytes) -> None:
        asked.append(to)
        following = SocketAddr(IPv4Address(int(to.ip) + 1), 3478)
        sockets.receive(elsewhere(data, following), source=to)

    assert failure(sent).kind == "rejected"
    assert len(asked) == 2


@pytest.mark.parametrize("where", ["127.0.0.1:9", "224.0.0.1:9", "10.0.0.1:0", str(SERVER)])
def test_server_that_sends_us_where_no_server_is_failed(where: str) -> None:
    asked: list[SocketAddr] = []

    def sent(sockets: Sockets, to: SocketAddr, data: bytes) -> None:
        asked.append(to)
        sockets.receive(elsewhere(data, SocketAddr.parse(where)), source=to)

    assert failure(sent).kind == "rejected"
    assert asked == [SERVER]


def test_questions_at_a_time_are_bounded() -> None:
    async def ask(sockets: Sockets, client: StunClient) -> None:
        asked = [asyncio.ensure_future(client.ask(SERVER)) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(StunError) as caught:
            await client.ask(OTHER)
        assert caught.value.kind == "busy"
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)

    run(ask)


def test_question_without_a_socket_fails_at_once() -> None:
    async def ask(sockets: Sockets, client: StunClient) -> None:
        sockets.open = False
        with pytest.raises(StunError) as caught:
            await client.ask(SERVER)
        assert caught.value.kind == "closed" and sockets.loop.time() == 0

    run(ask)


# ---------------------------------------------------------------- on the sockets of an endpoint
async def serve(server: socket.socket, give: Callable[[bytes, SockAddr], list[bytes]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        data, source = await loop.sock_recvfrom(server, 2048)
        for datagram in give(data, source):
            await loop.sock_sendto(server, datagram, source)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_driver_learns_the_address_of_its_own_socket(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        server.bind((host, 0))
        server.setblocking(False)
        driver = Driver.bind([BindAddr(host)], identity=Identity(bytes([1]) * 32))

        def give(data: bytes, source: SockAddr) -> list[bytes]:
            # First for nobody: another transaction, and what is neither STUN nor QUIC.
            foreign = [answer(encode_binding_request(bytes(12))), b"\x05drop", b"\x16dtls" * 9]
            return [*foreign, mapped(data, SocketAddr(ip_address(source[0]), source[1]))]

        serving = asyncio.ensure_future(serve(server, give))
        try:
            found = await driver.stun(SocketAddr.from_tuple(server.getsockname()))
            assert found.mapped == SocketAddr.from_tuple(driver.bound_sockets[0])
            stats = driver.stats()
            assert (stats["recv_stun"], stats["recv_foreign"]) == (1, 3)
            assert stats["dropped_datagrams"] == 0 and driver._core.waiting == {}
        finally:
            serving.cancel()
            driver.stop()


async def test_transport_brings_no_answers() -> None:
    driver = Driver.bind([BindAddr("127.0.0.1")], identity=Identity(bytes([1]) * 32))
    try:
        asked = asyncio.ensure_future(driver.stun(SocketAddr(IPv4Address("127.0.0.1"), 9)))
        await asyncio.sleep(0)
        (transaction,) = driver._core.waiting
        ip = bytes.fromhex("fd15070a510b0001") + bytes(8)
        driver._core.add_transport(b"\0\1", "relay", 1, 0, lambda *sent: None)
        driver.inject(ip, mapped(encode_binding_request(transaction)), 0)
        assert driver.stats()["recv_stun"] == 0 and driver.stats()["recv_foreign"] == 1
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert driver._core.waiting == {}
    finally:
        driver.stop()


async def test_stopped_driver_asks_nobody() -> None:
    driver = Driver.bind([BindAddr("127.0.0.1")], identity=Identity(bytes([1]) * 32))
    driver.stop()
    with pytest.raises(StunError, match="no socket"):
        await driver.stun(SERVER)
