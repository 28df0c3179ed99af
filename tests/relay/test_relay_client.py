"""Connections to relays: a scripted relay on loopback, and reconnecting on a virtual clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast import SecretKey
from iroh_fast._relay import WsReader, build_frame, build_message, decode_frame
from iroh_fast.addr import RelayUrl
from iroh_fast.aio.once import Once
from iroh_fast.errors import RelayClientError
from iroh_fast.relay.client import connection as client_module
from iroh_fast.relay.client.connection import (
    Backoff,
    PingTracker,
    RelayConnection,
    connect_relay,
    fits,
)
from iroh_fast.relay.client.link import Dialer
from iroh_fast.relay.client.pool import RelayPool
from iroh_fast.relay.map import RelayConfig, RelayMap, RelayStatus
from iroh_fast.relay.wire import ServerHandshake, accept_value

VECTORS = json.loads(
    Path(__file__).parents[1].joinpath("vectors", "relay_frames.json").read_text(encoding="utf-8")
)
Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]

A, B, C = (SecretKey(bytes([n]) * 32) for n in (1, 2, 3))
KEY_A, KEY_B, KEY_C = (bytes(secret.public) for secret in (A, B, C))


# --- ping tracker and backoff -----------------------------------------------------


@pytest.mark.parametrize("case", VECTORS["ping_timeout"], ids=lambda c: str(c["rtt_ms"]))
def test_ping_timeout_follows_the_round_trip(case: dict[str, Any]) -> None:
    tracker = PingTracker()
    if case["rtt_ms"] is not None:
        data = tracker.new_ping(100.0)
        assert tracker.pong(data, 100.0 + case["rtt_ms"] / 1000)
    assert tracker.timeout() == pytest.approx(case["timeout_ms"] / 1000)
    tracker.new_ping(200.0)
    assert tracker.deadline == pytest.approx(200.0 + case["timeout_ms"] / 1000)


def test_ping_tracker_takes_only_the_answer_to_the_newest_ping() -> None:
    tracker = PingTracker()
    assert not tracker.pong(b"", 0.0)
    first, second = tracker.new_ping(0.0), tracker.new_ping(1.0)
    assert len(first) == 8 and first != second
    assert not tracker.pong(first, 1.5)
    assert tracker.deadline is not None and tracker.rtt is None
    assert tracker.pong(second, 1.5)
    assert (tracker.rtt, tracker.deadline) == (0.5, None)
    assert not tracker.pong(second, 2.0)


@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.999])
def test_backoff_doubles_to_its_end_and_adds_up_to_as_much(jitter: float) -> None:
    bases = [base / 1000 for base in VECTORS["backoff"]["base_ms"]]
    backoff = Backoff(lambda: jitter)
    for _ in range(2):
        assert [backoff.next() for _ in bases] == pytest.approx([b * (1 + jitter) for b in bases])
        backoff.reset()


def test_observed_gaps_of_iroh_are_within_the_backoff() -> None:
    low, high = Backoff(lambda: 0.0), Backoff(lambda: 1.0)
    for gap in VECTORS["backoff"]["observed_dial_gaps_ms"]:
        # A few milliseconds are the dial itself.
        assert low.next() * 1000 <= gap <= high.next() * 1000 + 10


@pytest.mark.parametrize(
    ("segment_size", "size", "fit"),
    [
        (0, 0, False),
        (100, 0, False),
        (0, 1, True),
        (0, 65502, True),
        (0, 65503, False),
        (1, 65500, True),
        (1, 65501, False),
    ],
)
def test_contents_that_fit_into_a_frame(segment_size: int, size: int, fit: bool) -> None:
    assert fits(segment_size, size) is fit


# --- a scripted relay -------------------------------------------------------------


class Peer:
    """The relay's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.ws = WsReader("server")
        self.headers: dict[str, str] = {}
        self.key = b""

    async def upgrade(self, version: int = 2) -> None:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        _, *lines = head.rstrip().split("\r\n")
        self.headers = dict(line.split(": ", 1) for line in lines)
        accept = accept_value(self.headers["Sec-WebSocket-Key"].encode())
        self.writer.write(
            f"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: iroh-relay-v{version}\r\n"
            f"sec-websocket-accept: {accept}\r\n\r\n".encode()
        )

    async def authenticate(self) -> None:
        handshake = ServerHandshake()
        challenge = handshake.start()
        assert challenge is not None
        self.message(challenge)
        opcode, payload = await self.recv_message()
        assert opcode == 2
        handshake.feed(payload)
        assert handshake.endpoint_id is not None
        self.key = bytes(handshake.endpoint_id)

    async def register(self) -> None:
        await self.upgrade()
        await self.authenticate()
        self.message(b"\x02")

    def message(self, payload: bytes, opcode: int = 2) -> None:
        self.writer.write(build_message(opcode, payload))

    def frame(self, kind: int, body: bytes = b"") -> None:
        self.writer.write(build_frame(kind, body))

    def datagram(self, src: bytes, payload: bytes, ecn: int = 0, segment_size: int = 0) -> None:
        head = src + bytes([ecn])
        if segment_size:
            self.frame(7, head + segment_size.to_bytes(2, "big") + payload)
        else:
            self.frame(6, head + payload)

    async def recv_message(self) -> tuple[int, bytes]:
        while (message := self.ws.next_message()) is None:
            data = await self.reader.read(65536)
            if not data:
                raise EOFError
            self.ws.feed(data)
        return message

    async def recv(self) -> dict[str, Any]:
        opcode, payload = await self.recv_message()
        if opcode == 8:
            raise EOFError
        assert opcode == 2, (opcode, payload)
        return dict(decode_frame(payload, sender="client"))

    async def recv_datagram(self) -> dict[str, Any]:
        """The next datagram; answers pings on the way."""
        while (frame := await self.recv())["type"] not in (4, 5):
            if frame["type"] == 9:
                self.frame(10, frame["data"])
        return frame

    async def answer_pings(self) -> None:
        while True:
            await self.recv_datagram()

    async def closed(self) -> None:
        """Wait for the client to end the connection."""
        while await self.reader.read(65536):
            pass


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class Relay:
    """Runs a script for each connection; a script that returns closes it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.url = RelayUrl("http://unset/")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self.script(peer)
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        except BaseException as err:
            self.failures.append(err)
        finally:
            writer.close()


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[Relay]:
    relay = Relay(script)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.url = RelayUrl(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield relay
    finally:
        server.close()
        for task in relay.tasks:
            task.cancel()
        await asyncio.gather(*relay.tasks, return_exceptions=True)
        await server.wait_closed()
    assert relay.failures == []


class Inbox:
    """Collects what a pool or a connection hands over."""

    def __init__(self) -> None:
        self.frames: list[tuple[Any, ...]] = []
        self.statuses: list[RelayStatus | None] = []
        self.gone: list[bytes] = []
        self.limited = 0
        self.superseded: list[bool] = []
        self._news = asyncio.Event()

    def on_datagrams(self, *frame: Any) -> None:
        self.frames.append(frame)
        self._news.set()

    def on_home_status(self, status: RelayStatus | None) -> None:
        self.statuses.append(status)
        self._news.set()

    def on_gone(self, endpoint: bytes) -> None:
        self.gone.append(endpoint)
        self._news.set()

    def on_rate_limited(self) -> None:
        self.limited += 1

    def on_superseded(self, superseded: bool) -> None:
        self.superseded.append(superseded)

    def on_writable(self) -> None:
        self._news.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until `condition` holds; looked at after each event."""
        async with asyncio.timeout(60):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def frame(self, index: int = 0) -> tuple[Any, ...]:
        await self.until(lambda: len(self.frames) > index)
        return self.frames[index]


async def eventually(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def pool_of(secret: SecretKey, inbox: Inbox, **options: Any) -> AsyncIterator[RelayPool]:
    options.setdefault("relay_map", RelayMap())
    pool = RelayPool(
        secret_key=secret,
        on_datagrams=inbox.on_datagrams,
        on_home_status=inbox.on_home_status,
        **options,
    )
    try:
        yield pool
    finally:
        await pool.close()


async def connection_to(relay: Relay, inbox: Inbox) -> RelayConnection:
    return await connect_relay(relay.url, secret_key=A, dialer=Dialer(), owner=inbox)


# --- handshake --------------------------------------------------------------------


async def test_connect_proves_the_key_and_sends_the_token() -> None:
    async def script(peer: Peer) -> None:
        await peer.register()
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connect_relay(
            relay.url, secret_key=A, dialer=Dialer(), owner=inbox, auth_token="tok"
        )
        assert relay.peers[0].key == KEY_A
        assert relay.peers[0].headers["authorization"] == "Bearer tok"
        assert connection.local_ip.is_loopback
        connection.close()
        await connection.lost


async def test_handshake_tolerates_text_pings_fragments_and_confirmation_alone() -> None:
    seen: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.upgrade()
        peer.message(b"hi", 1)
        peer.message(b"payload", 9)
        peer.message(b"ignored", 10)
        peer.writer.write(b"\x02\x01\x02")  # the confirmation, and more fragments to come
        peer.writer.write(b"\x80\x00")  # none left
        seen.append(await peer.recv_message())
        peer.datagram(KEY_B, b"hello")
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connection_to(relay, inbox)
        connection.serve()
        assert await inbox.frame() == (KEY_B, 0, 0, b"hello")
        connection.close()
        await connection.lost
    assert seen == [(10, b"payload")]


async def test_frames_right_behind_the_confirmation_are_not_lost() -> None:
    async def script(peer: Peer) -> None:
        await peer.upgrade()
        peer.writer.write(
            build_message(2, b"\x02")
            + build_frame(6, KEY_B + b"\0" + b"early")
            + build_frame(9, b"12345678")
        )
        pings = [await peer.recv(), await peer.recv()]
        assert {"type": 10, "data": b"12345678"} in pings
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connection_to(relay, inbox)
        connection.serve()
        assert inbox.frames == [(KEY_B, 0, 0, b"early")]
        connection.close()
        await connection.lost


async def denied(peer: Peer) -> None:
    await peer.upgrade()
    await peer.authenticate()
    peer.message(b"\x03\x0enot authorized")


async def denied_at_once(peer: Peer) -> None:
    await peer.upgrade()
    peer.message(b"\x03\x03no!")
    await peer.closed()


async def two_challenges(peer: Peer) -> None:
    await peer.upgrade()
    peer.message(b"\x00" + bytes(16))
    peer.message(b"\x00" + bytes(16))
    await peer.closed()


async def gone(peer: Peer) -> None:
    await peer.upgrade()


async def gone_after_auth(peer: Peer) -> None:
    await peer.upgrade()
    await peer.authenticate()


def says(payload: bytes, opcode: int = 2) -> Script:
    async def script(peer: Peer) -> None:
        await peer.upgrade()
        peer.message(payload, opcode)
        await peer.closed()

    return script


def writes(raw: bytes) -> Script:
    async def script(peer: Peer) -> None:
        await peer.upgrade()
        peer.writer.write(raw)
        await peer.closed()

    return script


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (denied, "handshake", "not authorized"),
        (denied_at_once, "handshake", "no!"),
        (two_challenges, "handshake", None),
        (gone, "closed", None),
        (gone_after_auth, "closed", None),
        (writes(build_message(2, b"\x02", b"\1\2\3\4")), "websocket", None),
        (writes(b"\x89\x7e\x00\x7e" + bytes(126)), "websocket", None),
        (says(b"\x03\xe8", 8), "closed", None),
        (says(b""), "handshake", None),
        (says(b"\x01" + bytes(97)), "handshake", None),
        (says(b"\x06" + KEY_B + b"\0x"), "handshake", None),
        (says(b"\x00short"), "handshake", None),
        (says(b"\x03\x80"), "handshake", None),
        (says(b"\x80"), "handshake", None),
    ],
)
async def test_handshake_that_fails(script: Script, kind: str, reason: str | None) -> None:
    async with running(script) as relay:
        with pytest.raises(RelayClientError) as caught:
            await connection_to(relay, Inbox())
        assert (caught.value.kind, caught.value.denied_reason) == (kind, reason)
        assert caught.value.url == relay.url


async def test_connect_has_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_TIMEOUT_S", 0.05)
    ended = asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.upgrade()
        try:
            await peer.closed()
        finally:
            ended.set()

    async with running(silent) as relay:
        with pytest.raises(RelayClientError) as caught:
            await connection_to(relay, Inbox())
        assert caught.value.kind == "timeout"
        await asyncio.wait_for(ended.wait(), 60)


# --- frames -----------------------------------------------------------------------


async def test_datagrams_go_both_ways_with_all_their_facts() -> None:
    got: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        got.extend([await peer.recv_datagram() for _ in range(3)])
        peer.datagram(KEY_B, b"one", ecn=1)
        peer.datagram(KEY_B, b"aabbc", ecn=3, segment_size=2)
        peer.datagram(KEY_C, b"")  # legal, and nothing to hand over
        peer.datagram(KEY_C, b"x" * 65503)
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            assert pool.send(relay.url, KEY_B, 2, 0, b"single")
            assert pool.send(relay.url, KEY_B, 3, 4, b"12345678 ")
            assert pool.send(relay.url, KEY_C, 0, 5, b"exact")
            await inbox.frame(2)
            assert inbox.frames == [
                (relay.url, KEY_B, 1, 0, b"one"),
                (relay.url, KEY_B, 3, 2, b"aabbc"),
                (relay.url, KEY_C, 0, 0, b"x" * 65503),
            ]
            stats = pool.stats
            assert (stats.send_relay, stats.send_relay_frames) == (6 + 9 + 5, 3)
            assert (stats.recv_data_relay, stats.recv_relay_frames) == (3 + 5 + 65503, 3)
            assert pool.connected() == (relay.url,)
            assert pool.latency(relay.url) is not None
    assert got == [
        {"type": 4, "dst": KEY_B, "ecn": 2, "segment_size": None, "contents": b"single"},
        {"type": 5, "dst": KEY_B, "ecn": 3, "segment_size": 4, "contents": b"12345678 "},
        {"type": 4, "dst": KEY_C, "ecn": 0, "segment_size": None, "contents": b"exact"},
    ]


async def test_send_refuses_what_no_frame_can_hold() -> None:
    async def script(peer: Peer) -> None:
        raise AssertionError("connected")

    async with running(script) as relay, pool_of(A, Inbox()) as pool:
        assert not pool.send(relay.url, KEY_B, 0, 0, b"")
        assert not pool.send(relay.url, KEY_B, 0, 0, bytes(65503))
        assert not pool.send(relay.url, KEY_B, 0, 1200, bytes(65501))
        assert pool.stats.send_relay_dropped_size == 3


async def test_pings_of_the_relay_are_answered_newest_first_and_before_datagrams() -> None:
    order: list[dict[str, Any]] = []
    ready = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.register()
        order.append(await peer.recv())
        peer.writer.write(build_frame(9, b"older..."))
        peer.writer.write(build_frame(6, KEY_B + b"\0" + b"go"))
        peer.writer.write(build_frame(9, b"newer..."))
        while len(order) < 3:
            order.append(await peer.recv())
        peer.message(b"ws", 9)
        assert await peer.recv_message() == (10, b"ws")
        ready.set()
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connection_to(relay, inbox)
        take = inbox.on_datagrams

        def answer(*frame: Any) -> None:
            take(*frame)
            connection.send(KEY_B, 0, 0, b"reply")

        inbox.on_datagrams = answer  # type: ignore[method-assign]
        connection.serve()
        await asyncio.wait_for(ready.wait(), 60)
        connection.close()
        await connection.lost
    assert [frame["type"] for frame in order] == [9, 10, 4]
    assert order[1]["data"] == b"newer..."


async def test_twenty_frames_leave_in_one_write_and_the_rest_in_the_next() -> None:
    count = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.register()
        for index in range(50):
            assert (await peer.recv_datagram())["contents"] == index.to_bytes(2, "big")
        count.set()
        await peer.closed()

    async with running(script) as relay:
        connection = await connection_to(relay, Inbox())
        connection.serve()
        transport = connection.transport
        assert transport is not None
        writes: list[int] = []

        class Counting:
            def write(self, data: bytes) -> None:
                writes.append(len(data))
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        connection.transport = Counting()  # type: ignore[assignment]
        for index in range(50):
            assert connection.send(KEY_B, 0, 0, index.to_bytes(2, "big"))
        await asyncio.wait_for(count.wait(), 60)
        one = 2 + 4 + 34 + 2
        assert writes == [20 * one, 20 * one, 10 * one]
        connection.transport = transport
        connection.close()
        await connection.lost


async def test_status_health_restarting_and_text_change_nothing() -> None:
    async def script(peer: Peer) -> None:
        await peer.register()
        for body in (b"\0", b"\1", b"\2", b"\2", b"\x63more"):
            peer.frame(13, body)
        peer.frame(12, bytes.fromhex("0000000a00000014"))
        peer.message("grüße".encode(), 1)
        peer.frame(8, KEY_C)
        peer.datagram(KEY_B, b"still here")
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connection_to(relay, inbox)
        connection.serve()
        assert (await inbox.frame())[3] == b"still here"
        assert inbox.limited == 1 and inbox.gone == [KEY_C]
        assert inbox.superseded == [False, True]
        assert connection.restarting == (0.01, 0.02)
        connection.close()
        await connection.lost


async def test_relay_that_says_the_same_again_and_again_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "iroh_fast.relay.client")

    async def script(peer: Peer) -> None:
        await peer.register()
        for number in range(50):
            peer.frame(13, bytes([number % 3]))
            peer.frame(12, bytes.fromhex("0000000a00000014"))
        peer.datagram(KEY_B, b"still here")
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        connection = await connection_to(relay, inbox)
        connection.serve()
        assert (await inbox.frame())[3] == b"still here"
        connection.close()
        await connection.lost
    said = [r for r in caplog.records if "restarts" in r.message or "same secret" in r.message]
    assert len(said) == 50 + 17
    assert [r.levelname for r in said if r.levelname != "DEBUG"] == ["INFO", "WARNING"]


@pytest.mark.parametrize(
    "raw",
    [
        build_message(2, b""),
        build_message(2, b"\x0e"),
        build_frame(4, KEY_B + b"\0x"),
        build_frame(2),
        build_frame(6, KEY_B),
        build_frame(6, b"\x02" + bytes(31) + b"\0x"),
        build_message(2, b"\x06" + KEY_B + b"\0" + bytes(65504)),
        build_frame(9, b"short"),
        build_frame(13),
        build_frame(11, b"v1 only"),
        build_message(2, b"\x06" + KEY_B + b"\0x", b"\1\2\3\4"),
        b"\xc2\x00",
        b"\x83\x00",
        b"\x80\x00",
        b"\x02\x01\x06\x02\x01\x06",
        b"\x82\x7f" + (1 << 20 | 1).to_bytes(8, "big"),
        b"\x82\x7f" + (1 << 63).to_bytes(8, "big"),
        b"\x88\x01\x03",
        bytes(range(256)),
    ],
    ids=lambda raw: raw[:6].hex(),
)
async def test_broken_input_ends_that_connection_and_no_other(raw: bytes) -> None:
    async def broken(peer: Peer) -> None:
        await peer.register()
        peer.datagram(KEY_B, b"good")
        peer.writer.write(raw)
        await peer.closed()

    async def sound(peer: Peer) -> None:
        await peer.register()
        while True:
            peer.datagram(KEY_C, (await peer.recv_datagram())["contents"])

    async with running(broken) as bad, running(sound) as good:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            assert pool.send(good.url, KEY_B, 0, 0, b"1")
            await inbox.frame(0)
            pool.set_home(bad.url)
            await inbox.until(
                lambda: any(
                    s and s.state == "disconnected" and s.last_error for s in inbox.statuses
                )
            )
            error = next(s.last_error for s in inbox.statuses if s and s.last_error)
            assert isinstance(error, RelayClientError) and error.kind == "protocol"
            assert (bad.url, KEY_B, 0, 0, b"good") in inbox.frames
            assert pool.send(good.url, KEY_B, 0, 0, b"2")
            await inbox.until(lambda: (good.url, KEY_C, 0, 0, b"2") in inbox.frames)
            assert len(good.peers) == 1


async def test_protocol_error_is_told_by_a_close_frame() -> None:
    told: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        await peer.recv()
        peer.message(b"\x0e")
        told.append(await peer.recv_message())
        await peer.closed()

    async with running(script) as relay:
        connection = await connection_to(relay, Inbox())
        connection.serve()
        await asyncio.wait_for(connection.lost, 60)
    assert told == [(8, b"\x03\xea")]


async def test_a_callback_that_raises_does_not_hurt_the_connection() -> None:
    async def script(peer: Peer) -> None:
        await peer.register()
        peer.datagram(KEY_B, b"bad")
        peer.datagram(KEY_B, b"good")
        await peer.closed()

    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    async with running(script) as relay:
        inbox = Inbox()
        take = inbox.on_datagrams

        def picky(*frame: Any) -> None:
            if frame[-1] == b"bad":
                raise ValueError("picky")
            take(*frame)

        inbox.on_datagrams = picky  # type: ignore[method-assign]
        async with pool_of(A, inbox) as pool:
            pool.set_home(relay.url)
            assert (await inbox.frame())[-1] == b"good"
    assert [str(report["exception"]) for report in reports] == ["picky"]


async def test_close_says_goodbye_and_delivers_what_was_sent() -> None:
    ends: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        assert (await peer.recv_datagram())["contents"] == b"last words"
        ends.append(await peer.recv_message())
        await peer.closed()

    async with running(script) as relay:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(relay.url)
            await inbox.until(lambda: pool.connected())
            assert pool.send(relay.url, KEY_B, 0, 0, b"last words")
            await pool.close()
            assert not pool.send(relay.url, KEY_B, 0, 0, b"too late")
            await asyncio.gather(*relay.tasks)
    assert ends == [(8, b"\x03\xe8")]


class Wire:
    """Stands for a transport; takes note of what is written and how it ends."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.ended = ""

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written += data

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...


PIECES = st.one_of(
    st.builds(
        lambda n, ecn: build_frame(6, KEY_B + bytes([ecn]) + bytes(n)),
        st.integers(0, 300),
        st.integers(0, 255),
    ),
    st.builds(
        lambda seg: build_frame(7, KEY_B + b"\1" + seg.to_bytes(2, "big") + bytes(50)),
        st.integers(0, 99),
    ),
    st.builds(lambda data: build_frame(9, data), st.binary(min_size=7, max_size=9)),
    st.builds(
        lambda kind, data: build_frame(kind, data), st.integers(0, 13), st.binary(max_size=40)
    ),
    st.builds(
        lambda op, data: build_message(op, data),
        st.sampled_from([1, 2, 8, 9, 10]),
        st.binary(max_size=40),
    ),
    st.binary(max_size=40),
)


@given(pieces=st.lists(PIECES, max_size=12), sizes=st.lists(st.integers(1, 200), max_size=20))
def test_any_input_in_any_chunks_is_taken_or_ends_the_connection(
    pieces: list[bytes], sizes: list[int]
) -> None:
    async def main() -> None:
        reports: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        inbox = Inbox()
        connection = RelayConnection(RelayUrl("http://relay.example"), inbox)
        wire = Wire()
        connection.version = 2
        connection.connection_made(wire)  # type: ignore[arg-type]
        stream = build_message(2, b"\x02") + b"".join(pieces)
        rest = list(sizes)

        def arrive(data: bytes) -> None:
            view = connection.get_buffer(-1)
            view[: len(data)] = data
            connection.buffer_updated(len(data))

        first = rest.pop(0) if rest else 3
        arrive(stream[:first])
        stream = stream[first:]
        task = asyncio.create_task(connection.authenticate(A))
        while not task.done():
            await asyncio.sleep(0)
            if stream and not task.done():
                arrive(stream[:1])
                stream = stream[1:]
        task.result()
        connection.serve()
        while stream and not wire.ended:
            size = rest.pop(0) if rest else 50
            arrive(stream[:size])
            stream = stream[size:]
        assert reports == []
        assert bool(wire.ended) == connection.ended.happened
        if wire.ended:
            assert connection.error is not None
            assert connection.error.kind in ("protocol", "closed")
        assert all(frame[3] and 0 <= frame[1] <= 3 for frame in inbox.frames)
        connection.connection_lost(None)
        assert not connection.send(KEY_B, 0, 0, b"x")

    asyncio.run(main())


# --- slow and silent relays -------------------------------------------------------


async def test_ping_without_answer_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PING_TIMEOUT_S", (0.05, 0.05))

    async def deaf(peer: Peer) -> None:
        await peer.register()
        await peer.closed()

    async with running(deaf) as relay:
        connection = await connection_to(relay, Inbox())
        connection.serve()
        await asyncio.wait_for(connection.ended, 60)
        assert connection.error is not None and connection.error.kind == "ping_timeout"
        assert not connection.established
        await connection.lost


async def test_silence_is_followed_by_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PING_INTERVAL_S", 0.02)
    pings = 0
    enough = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal pings
        await peer.register()
        while True:
            frame = await peer.recv()
            assert frame["type"] == 9
            pings += 1
            peer.frame(10, frame["data"])
            if pings == 4:
                enough.set()

    async with running(script) as relay:
        connection = await connection_to(relay, Inbox())
        connection.serve()
        await asyncio.wait_for(enough.wait(), 60)
        assert connection.established and not connection.ended.happened
        connection.close()
        await connection.lost


async def test_relay_that_does_not_read_slows_nobody_else_and_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "SEND_TIMEOUT_S", 0.3)
    stop = asyncio.Event()

    async def stalled(peer: Peer) -> None:
        await peer.register()
        await stop.wait()

    async def echo(peer: Peer) -> None:
        await peer.register()
        while True:
            peer.datagram(KEY_C, (await peer.recv_datagram())["contents"])

    async with running(stalled) as slow, running(echo) as quick:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(slow.url)
            await inbox.until(lambda: pool.connected())
            active = pool._active[slow.url]

            async def fill() -> None:
                # The kernel takes some megabytes before anything is stuck.
                while active.connection is not None:
                    while pool.send(slow.url, KEY_B, 0, 1200, bytes(60_000)):
                        assert active.queued_bytes <= 1024 * 1024 and len(active.queue) <= 64
                    await asyncio.sleep(0.005)

            filling = asyncio.create_task(fill())
            await eventually(lambda: pool.stats.send_relay_dropped_full > 5)
            assert pool.send(quick.url, KEY_B, 0, 0, b"past it")
            assert (await inbox.frame())[-1] == b"past it"
            await filling
            error = next(s.last_error for s in inbox.statuses if s and s.last_error)
            assert isinstance(error, RelayClientError) and error.kind == "send_timeout"
            stop.set()


async def test_relay_that_reads_again_gets_what_was_queued_in_order() -> None:
    go = asyncio.Event()
    got: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        await go.wait()
        while True:
            frame = await peer.recv_datagram()
            got.append(int.from_bytes(frame["contents"][:4], "big"))

    async with running(script) as relay:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(relay.url)
            await inbox.until(lambda: pool.connected())
            sent = []
            for index in range(2000):
                if not pool.send(relay.url, KEY_B, 0, 0, index.to_bytes(4, "big") + bytes(30_000)):
                    break
                sent.append(index)
                if index % 10 == 0:
                    await asyncio.sleep(0)
            assert pool._active[relay.url].queue
            go.set()
            await eventually(lambda: len(got) == len(sent))
            assert got == sent
            assert pool.send(relay.url, KEY_B, 0, 0, b"\xff\xff\xff\xff")
            await eventually(lambda: got[-1] == 0xFFFFFFFF)


def wired(inbox: Inbox) -> tuple[RelayConnection, Wire]:
    """A serving connection over a `Wire`; its first ping is not in ``written`` any more."""
    connection = RelayConnection(RelayUrl("http://relay.example"), inbox)
    wire = Wire()
    connection.version = 2
    connection.connection_made(wire)  # type: ignore[arg-type]
    view = connection.get_buffer(-1)
    confirm = build_message(2, b"\x02")
    view[: len(confirm)] = confirm
    connection.buffer_updated(len(confirm))
    with pytest.raises(StopIteration):
        connection.authenticate(A).send(None)
    connection.serve()
    wire.written.clear()
    return connection, wire


def arrive(connection: RelayConnection, data: bytes) -> None:
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def sent_by(wire: Wire) -> list[tuple[int, bytes]]:
    reader = WsReader("server")
    reader.feed(bytes(wire.written))
    found = []
    while (message := reader.next_message()) is not None:
        found.append(message)
    return found


def test_answers_to_a_relay_that_does_not_read_do_not_pile_up(virtual: Run) -> None:
    async def main() -> None:
        inbox = Inbox()
        connection, wire = wired(inbox)
        connection.pause_writing()
        for index in range(1000):
            arrive(connection, build_frame(9, b"%08d" % index))
            arrive(connection, build_message(9, b"%d" % index))
        connection.ping()
        assert wire.written == b"" and not connection.send(KEY_B, 0, 0, b"x")
        connection.resume_writing()
        pong, ws_pong, ping = sent_by(wire)
        assert (pong, ws_pong) == ((2, b"\x0a00000999"), (10, b"999"))
        assert ping[1][0] == 9
        connection.close()

    virtual(main())


def test_paused_writing_ends_after_15_seconds_and_progress_saves_it(virtual: Run) -> None:
    async def main() -> None:
        connection, wire = wired(Inbox())
        arrive(connection, b"")
        for _ in range(3):
            data = connection.pings.new_ping(0.0)
            arrive(connection, build_frame(10, data))
            connection.pause_writing()
            await asyncio.sleep(14.9)
            connection.resume_writing()
        connection.pause_writing()
        arrive(connection, build_frame(10, connection.pings.new_ping(0.0)))
        await asyncio.sleep(14.9)
        assert not connection.ended.happened
        await asyncio.sleep(0.2)
        assert connection.error is not None and connection.error.kind == "send_timeout"
        assert wire.ended == "aborted"

    virtual(main())


def test_closed_connection_is_dropped_when_its_last_bytes_do_not_leave(virtual: Run) -> None:
    async def main() -> None:
        connection, wire = wired(Inbox())
        connection.close()
        assert connection.ended.happened and connection.error is None
        assert sent_by(wire) == [(8, b"\x03\xe8")]
        await asyncio.sleep(0.9)
        assert wire.ended == "closed"
        await asyncio.sleep(0.2)
        assert wire.ended == "aborted"

    virtual(main())


def test_pings_by_the_clock(virtual: Run) -> None:
    async def main() -> None:
        connection, wire = wired(Inbox())
        connection.pings.rtt = 0.1
        arrive(connection, build_frame(10, connection.pings.new_ping(0.0)))
        await asyncio.sleep(10)
        arrive(connection, build_frame(13, b"\0"))  # anything received puts the ping off
        await asyncio.sleep(14.9)
        assert wire.written == b""
        await asyncio.sleep(0.2)  # the ping left at 25.0
        ((_, ping),) = sent_by(wire)
        assert ping[0] == 9
        arrive(connection, build_frame(10, ping[1:]))
        assert connection.pings.rtt == pytest.approx(0.1)
        await asyncio.sleep(15.4)  # pinged at 40.1, to be answered by 40.6
        arrive(connection, build_frame(13, b"\0"))  # not an answer
        assert not connection.ended.happened
        await asyncio.sleep(0.2)
        assert connection.error is not None and connection.error.kind == "ping_timeout"

    virtual(main())


# --- the set of relays ------------------------------------------------------------


async def test_home_status_tells_of_each_step_and_of_the_refusal() -> None:
    calls = 0

    async def script(peer: Peer) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await denied(peer)
        else:
            await peer.register()
            await peer.answer_pings()

    async with running(script) as relay:
        inbox = Inbox()
        relay_map = RelayMap([RelayConfig(relay.url, auth_token="t1")])
        async with pool_of(A, inbox, relay_map=relay_map) as pool:
            pool.set_home(relay.url)
            relay_map.insert(RelayConfig(relay.url, auth_token="t2"))
            await inbox.until(lambda: pool.home_status and pool.home_status.connected)
            steps = [s for s in inbox.statuses if s is not None]
            assert [s.state for s in steps] == [
                "connecting",
                "disconnected",
                "connecting",
                "connected",
            ]
            assert steps[0].last_error is None
            assert steps[1].auth_denied_reason == "not authorized"
            assert steps[2].last_error is steps[1].last_error
            assert (steps[3].last_error, steps[3].auth_denied_reason) == (None, None)
            stats = pool.stats
            assert (stats.relay_conns_failed, stats.relay_conns_success) == (1, 1)
            # The token is looked up at each attempt.
            assert [p.headers["authorization"] for p in relay.peers][-1] == "Bearer t2"
            pool.set_home(None)
            assert inbox.statuses[-1] is None and pool.home_status is None
            assert stats.relay_home_change == 2
            relay.peers[-1].writer.transport.abort()
            await eventually(lambda: stats.relay_conns_closed == 1)
            assert inbox.statuses[-1] is None and pool.home_status is None


async def test_status_of_a_relay_that_is_home_no_more_is_not_told() -> None:
    async def script(peer: Peer) -> None:
        await peer.register()
        await peer.answer_pings()

    async with running(script) as first, running(script) as second:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(first.url)
            await inbox.until(lambda: pool.home_status and pool.home_status.connected)
            pool.set_home(second.url)
            first.peers[0].writer.close()
            await inbox.until(lambda: pool.home_status and pool.home_status.connected)
            await eventually(lambda: len(first.peers) == 2)
            seen = [s.url for s in inbox.statuses if s is not None]
            assert set(seen[2:]) == {second.url}
            pool.set_home(first.url)
            # A relay that is connected already is told of at once.
            await inbox.until(lambda: pool.home_status and pool.home_status.connected)
            assert pool.home_status is not None and pool.home_status.url == first.url


async def test_datagrams_take_a_connected_relay_that_has_heard_of_the_destination() -> None:
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        peer.datagram(KEY_B, b"I am here")
        while True:
            frame = await peer.recv_datagram()
            got.append(frame["contents"])
            if frame["contents"] == b"leave":
                peer.frame(8, KEY_B)
                peer.datagram(KEY_C, b"left")

    async def other(peer: Peer) -> None:
        await peer.register()
        await peer.answer_pings()

    async with running(script) as near, running(other) as far:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(near.url)
            await inbox.frame(0)
            assert pool.send(far.url, KEY_B, 0, 0, b"rerouted")
            assert pool.send(far.url, KEY_B, 0, 0, b"leave")
            await inbox.frame(1)
            assert got == [b"rerouted", b"leave"] and far.peers == []
            # Gone from there: now its own relay is used.
            assert pool.send(far.url, KEY_B, 0, 0, b"direct")
            await eventually(lambda: far.url in pool.connected())
            # The named relay is used while it runs, whoever else has heard of the endpoint.
            assert pool.send(far.url, KEY_C, 0, 0, b"direct too")
            await eventually(lambda: pool.stats.send_relay_frames == 4)
            assert len(got) == 2


async def test_relay_that_was_silent_since_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be cut off, which nobody can tell yet."""
    monkeypatch.setattr("iroh_fast.relay.client.pool.HEARD_S", 0.0)

    async def script(peer: Peer) -> None:
        await peer.register()
        peer.datagram(KEY_B, b"I am here")
        await peer.answer_pings()

    async def other(peer: Peer) -> None:
        await peer.register()
        await peer.answer_pings()

    async with running(script) as near, running(other) as far:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(near.url)
            await inbox.frame(0)
            assert pool.send(far.url, KEY_B, 0, 0, b"direct")
            await eventually(lambda: far.url in pool.connected())


async def test_number_of_relays_is_bounded() -> None:
    async def never(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with pool_of(A, Inbox(), connector=never) as pool:
        urls = [RelayUrl(f"http://relay{i}.example/") for i in range(100)]
        assert sum(pool.send(url, KEY_B, 0, 0, b"x") for url in urls) == 64
        assert pool.stats.send_relay_dropped_full == 36
        pool.set_home(urls[-1])
        assert len(pool._active) == 65
        await asyncio.sleep(0)


async def test_endpoints_remembered_per_relay_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iroh_fast.relay.client.active.MAX_PRESENT", 2)
    inbox = Inbox()

    async def never(*_: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    async with pool_of(A, inbox, connector=never) as pool:
        pool.send(RelayUrl("http://a.example"), KEY_B, 0, 0, b"x")
        (active,) = pool._active.values()
        for key in (KEY_A, KEY_B, KEY_C, KEY_B):
            active.on_datagrams(key, 0, 0, b"x")
        assert list(active.present) == [KEY_B, KEY_C]
        await asyncio.sleep(0)


async def test_lost_connection_is_replaced_and_queued_datagrams_arrive() -> None:
    got: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.register()
        while True:
            got.append((await peer.recv_datagram())["contents"])

    async with running(script) as relay:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(relay.url)
            await inbox.until(lambda: pool.connected())
            relay.peers[0].writer.transport.abort()
            await inbox.until(lambda: not pool.connected())
            assert pool.send(relay.url, KEY_B, 0, 0, b"while away")
            await eventually(lambda: got == [b"while away"])
            assert pool.stats.relay_conns_closed == 1


async def test_close_is_quick_even_when_relays_do_not_answer() -> None:
    async def stuck(peer: Peer) -> None:
        await peer.upgrade()
        await asyncio.get_running_loop().create_future()

    async def unread(peer: Peer) -> None:
        await peer.register()
        await asyncio.get_running_loop().create_future()

    async with running(stuck) as first, running(unread) as second:
        inbox = Inbox()
        pool = RelayPool(
            secret_key=A,
            relay_map=RelayMap(),
            on_datagrams=inbox.on_datagrams,
            on_home_status=inbox.on_home_status,
        )
        pool.set_home(second.url)
        pool.send(first.url, KEY_B, 0, 0, b"x")
        await inbox.until(lambda: pool.connected())
        while pool.send(second.url, KEY_B, 0, 0, bytes(65_000)):
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await pool.close()
            await pool.close()
        left = [t for t in asyncio.all_tasks() if t.get_name().startswith("relay ")]
        assert left == []


# --- reconnecting, on a virtual clock ---------------------------------------------


class FakeConnection:
    """A connection that ends when told, or by itself after a while."""

    def __init__(self, *, lives: float | None, established: bool, restarting: Any = None) -> None:
        loop = asyncio.get_running_loop()
        self.ended = Once()
        self.lost = Once()
        self.error: RelayClientError | None = None
        self.established = established
        self.restarting = restarting
        self.sent: list[tuple[Any, ...]] = []
        self.pinged = 0
        self.local_ip = client_module.plain_ip("192.0.2.1")
        self.remote_ip = client_module.plain_ip("203.0.113.1")
        self.pings = PingTracker()
        if lives is not None:
            loop.call_later(lives, self.fail, "closed", "over")

    def serve(self) -> None:
        pass

    def send(self, *frame: Any) -> bool:
        self.sent.append(frame)
        return True

    def ping(self) -> None:
        self.pinged += 1

    def fail(self, kind: Any, message: str) -> None:
        if not self.ended.happened:
            self.error = RelayClientError(kind, message)
            self.close()

    def close(self) -> None:
        if not self.ended.happened:
            self.ended.set()
            self.lost.set()

    def abort(self) -> None:
        self.close()


HOME = RelayUrl("https://home.example/")
OTHER = RelayUrl("https://other.example/")


class Dials:
    """A connector that notes when it is called; `outcome` decides about each call."""

    def __init__(self, outcome: Callable[[int], Any]) -> None:
        self.outcome = outcome
        self.at: list[float] = []
        self.connections: list[FakeConnection] = []

    async def __call__(self, url: RelayUrl, token: str | None, owner: Any) -> Any:
        self.at.append(asyncio.get_running_loop().time())
        result = self.outcome(len(self.at) - 1)
        if isinstance(result, Exception):
            raise result
        if isinstance(result, float):
            await asyncio.sleep(result)
            raise RelayClientError("timeout", "slow")
        self.connections.append(result)
        return result

    @property
    def gaps(self) -> list[float]:
        return [round(b - a, 6) for a, b in zip(self.at, self.at[1:])]


def refused(_: int) -> Exception:
    return RelayClientError("io", "refused")


def session(dials: Dials, seconds: float, act: Callable[[RelayPool], Any] = lambda _: None) -> Any:
    async def main() -> RelayPool:
        inbox = Inbox()
        async with pool_of(A, inbox, connector=dials, uniform=lambda: 0.5) as pool:
            pool.set_home(HOME)
            act(pool)
            await asyncio.sleep(seconds)
            return pool

    return main()


def test_failed_dials_are_spaced_by_the_backoff(virtual: Run) -> None:
    dials = Dials(refused)
    pool = virtual(session(dials, 200))
    bases = [base / 1000 for base in VECTORS["backoff"]["base_ms"]]
    assert dials.gaps[:13] == pytest.approx([1.5 * base for base in bases], abs=1e-6)
    assert pool.stats.relay_conns_failed == len(dials.at)


def test_established_connection_is_replaced_at_once_with_a_fresh_backoff(virtual: Run) -> None:
    def outcome(index: int) -> Any:
        if index in (3, 4):
            return FakeConnection(lives=5.0, established=True)
        return refused(index)

    dials = Dials(outcome)
    virtual(session(dials, 11))
    assert dials.gaps[:7] == pytest.approx([0.015, 0.03, 0.06, 5.0, 5.0, 0.015, 0.03])


@pytest.mark.parametrize("established", [False, True])
def test_short_connections_do_not_lead_to_a_storm(virtual: Run, established: bool) -> None:
    dials = Dials(lambda _: FakeConnection(lives=0.001, established=established))
    pool = virtual(session(dials, 10))
    expected = [0.001 + 1.5 * base / 1000 for base in VECTORS["backoff"]["base_ms"]]
    assert dials.gaps == pytest.approx(expected[: len(dials.gaps)])
    assert len(dials.at) < 12
    assert pool.stats.relay_conns_closed == len(dials.at)


def test_outage_of_a_relay_that_was_good_is_tried_often_and_then_less(virtual: Run) -> None:
    def outcome(index: int) -> Any:
        return FakeConnection(lives=5.0, established=True) if index == 0 else refused(index)

    dials = Dials(outcome)
    virtual(session(dials, 200))
    soon = [gap for at, gap in zip(dials.at, dials.gaps) if 6 < at < 20]
    assert set(soon) == {0.375}
    # Who comes back after half a minute is found soon, after some minutes within the usual time.
    later = [gap for at, gap in zip(dials.at, dials.gaps) if 20 <= at < 40]
    assert max(later) < 16 and max(dials.gaps) == 24.0


def test_short_connection_that_brought_datagrams_was_a_good_one(virtual: Run) -> None:
    """A relay that is restarted again and again is found again and again."""

    async def main() -> None:
        up = True

        def outcome(_: int) -> Any:
            return FakeConnection(lives=None, established=True) if up else refused(0)

        dials = Dials(outcome)
        async with pool_of(A, Inbox(), connector=dials, uniform=lambda: 0.5) as pool:
            pool.set_home(HOME)
            await asyncio.sleep(0.01)
            for _ in range(10):
                owner = pool._active[HOME]
                owner.on_datagrams(bytes(32), 0, 0, b"x")
                up = False
                dials.connections[-1].fail("closed", "restarted")
                await asyncio.sleep(3)
                up, count = True, len(dials.connections)
                await asyncio.sleep(0.4)
                assert len(dials.connections) == count + 1

    virtual(main())


def test_connection_that_never_answered_counts_as_failed_however_long(virtual: Run) -> None:
    dials = Dials(lambda _: FakeConnection(lives=5.0, established=False))
    virtual(session(dials, 21))
    assert dials.gaps == pytest.approx([5.015, 5.03, 5.06, 5.12])


def test_announced_restart_is_waited_for_and_then_tried_often(virtual: Run) -> None:
    def outcome(index: int) -> Any:
        if index == 0:
            return FakeConnection(lives=5.0, established=True, restarting=(10.0, 20.0))
        return refused(index)

    dials = Dials(outcome)
    virtual(session(dials, 60))
    assert dials.gaps[0] == 15.0
    window = [gap for at, gap in zip(dials.at[1:], dials.gaps[1:]) if at < 35.0]
    assert max(window) == 1.0 and len(window) > 20
    # Then the normal backoff, from its beginning.
    after = [gap for at, gap in zip(dials.at[1:], dials.gaps[1:]) if at >= 35.0]
    assert after[:3] == pytest.approx([0.015, 0.03, 0.06])
    assert max(after) > 5


def test_announced_restart_cannot_keep_us_away_or_make_us_storm(virtual: Run) -> None:
    long = Dials(lambda _: FakeConnection(lives=5.0, established=True, restarting=(4e6, 4e6)))
    virtual(session(long, 100))
    assert long.gaps == pytest.approx([37.0, 37.0])
    short = Dials(lambda _: FakeConnection(lives=0.001, established=True, restarting=(0.0, 4e6)))
    virtual(session(short, 10))
    assert len(short.at) < 12


def test_network_change_checks_replaces_and_wakes(virtual: Run) -> None:
    async def main() -> None:
        outcomes: list[Any] = []
        dials = Dials(lambda _: outcomes.pop(0) if outcomes else refused(0))
        async with pool_of(A, Inbox(), connector=dials, uniform=lambda: 0.5) as pool:
            outcomes.append(FakeConnection(lives=None, established=True))
            outcomes.append(FakeConnection(lives=None, established=True))
            first, second = outcomes
            pool.set_home(HOME)
            await asyncio.sleep(5)
            pool.network_changed(["192.0.2.1", "fe80::1%eth0"])
            assert first.pinged == 1 and not first.ended.happened
            pool.network_changed(["192.0.2.7"])
            assert first.error is not None and first.error.kind == "network_changed"
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert dials.at == [0.0, 5.0]  # replaced at once
            second.local_ip = client_module.plain_ip("::ffff:127.0.0.1")
            pool.network_changed([])
            assert second.pinged == 1  # loopback does not go away
            second.fail("closed", "over")
            await asyncio.sleep(60)
            late = len(dials.at)
            pool.network_changed([])  # no way out: sleep on
            await asyncio.sleep(0.001)
            assert len(dials.at) == late
            pool.network_changed(["192.0.2.9"])
            await asyncio.sleep(0.1)
            # Dialled at once, with a fresh backoff: 0, 15, 45 ms.
            assert len(dials.at) == late + 3

    virtual(main())


def test_network_change_restarts_an_attempt_that_hangs_and_spares_a_young_one(
    virtual: Run,
) -> None:
    async def main() -> None:
        outcomes: list[Any] = [10.0, 10.0, FakeConnection(lives=None, established=True)]
        dials = Dials(lambda _: outcomes.pop(0))
        async with pool_of(A, Inbox(), connector=dials, uniform=lambda: 0.5) as pool:
            pool.set_home(HOME)
            await asyncio.sleep(0.5)
            pool.network_changed(["192.0.2.1"])
            await asyncio.sleep(2)
            pool.network_changed(["127.0.0.1", "fe80::1%eth0"])  # no way out
            await asyncio.sleep(0.1)
            assert dials.at == [0.0]
            pool.network_changed(["192.0.2.1"])
            for _ in range(20):  # a storm gets every attempt a second
                await asyncio.sleep(0.25)
                pool.network_changed(["192.0.2.1"])
            assert dials.gaps[0] == pytest.approx(2.6)
            assert len(dials.at) == 3 and dials.gaps[1] == pytest.approx(1.0)
            assert dials.connections[0].pinged > 10 and not dials.connections[0].ended.happened
            assert pool.stats.relay_conns_failed == 0 and pool.stats.relay_conns_success == 1

    virtual(main())


def test_connection_from_a_lost_address_is_kept_while_there_is_no_other_way(virtual: Run) -> None:
    async def main() -> None:
        dials = Dials(lambda _: FakeConnection(lives=None, established=True))
        async with pool_of(A, Inbox(), connector=dials, uniform=lambda: 0.5) as pool:
            pool.set_home(HOME)
            await asyncio.sleep(5)
            pool.network_changed(["127.0.0.1", "169.254.1.1"])
            await asyncio.sleep(5)
            (first,) = dials.connections
            assert not first.ended.happened and first.pinged == 0
            pool.network_changed(["192.0.2.1"])  # it is back
            assert first.pinged == 1
            pool.network_changed(["192.0.2.5"])
            assert first.error is not None and first.error.kind == "network_changed"
            await asyncio.sleep(0.1)
            (_, second) = dials.connections
            ways: list[str] = []

            def moved(local: object, remote: object) -> bool:
                ways.append(f"{local} {remote}")
                return len(ways) == 2

            pool.network_changed(["192.0.2.1"], moved)
            assert second.pinged == 1 and not second.ended.happened
            pool.network_changed(["192.0.2.1"], moved)
            assert second.ended.happened and ways == ["192.0.2.1 203.0.113.1"] * 2

    virtual(main())


def test_queue_is_dropped_every_three_seconds_without_connection(virtual: Run) -> None:
    async def main() -> None:
        dials = Dials(
            lambda index: 10.0 if index == 0 else FakeConnection(lives=None, established=True)
        )
        async with pool_of(A, Inbox(), connector=dials, uniform=lambda: 0.5) as pool:
            for _ in range(70):
                pool.send(OTHER, KEY_B, 0, 0, b"old")
            assert pool.stats.send_relay_dropped_full == 6
            assert pool.stats.send_relay_dropped_stale == 0
            await asyncio.sleep(3.001)
            assert pool.stats.send_relay_dropped_stale == 64
            await asyncio.sleep(2)
            assert pool.send(OTHER, KEY_B, 0, 0, b"old")
            await asyncio.sleep(4.5)  # dropped again at 6 and 9 s
            payload = bytearray(b"new")
            pool.send(OTHER, KEY_B, 1, 0, payload)  # type: ignore[arg-type]
            payload[:] = b"xxx"
            await asyncio.sleep(5)
            assert dials.connections[0].sent == [(KEY_B, 1, 0, b"new")]
            assert pool.stats.send_relay == 3
            assert pool.stats.send_relay_dropped_stale == 65

    virtual(main())


def test_relay_without_use_is_left_after_a_minute_unless_it_is_home(virtual: Run) -> None:
    async def main() -> None:
        dials = Dials(lambda _: FakeConnection(lives=None, established=True))
        async with pool_of(A, Inbox(), connector=dials) as pool:
            pool.set_home(HOME)
            pool.send(OTHER, KEY_B, 0, 0, b"x")
            await asyncio.sleep(30)
            pool.send(OTHER, KEY_B, 0, 0, b"x")
            await asyncio.sleep(59.9)
            assert set(pool.connected()) == {HOME, OTHER}
            await asyncio.sleep(0.2)
            assert pool.connected() == (HOME,)
            assert dials.connections[1].ended.happened and dials.connections[1].error is None
            await asyncio.sleep(1000)
            assert pool.connected() == (HOME,)
            # A former home gets its minute from the change on.
            pool.set_home(OTHER)
            await asyncio.sleep(59.9)
            assert HOME in pool.connected()
            await asyncio.sleep(0.2)
            assert pool.connected() == (OTHER,)
            assert pool.stats.relay_conns_closed == 0

    virtual(main())


def test_relay_that_cannot_be_reached_is_given_up_after_a_minute(virtual: Run) -> None:
    async def main() -> None:
        dials = Dials(lambda _: 10.0)
        async with pool_of(A, Inbox(), connector=dials) as pool:
            pool.send(OTHER, KEY_B, 0, 0, b"x")
            await asyncio.sleep(59)
            count = len(dials.at)
            assert count >= 3
            await asyncio.sleep(1000)
            assert len(dials.at) <= count + 1 and pool._active == {}
            # And started again by the next datagram.
            assert pool.send(OTHER, KEY_B, 0, 0, b"x")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert dials.at[-1] == 1059.0

    virtual(main())


def test_unexpected_failure_of_a_dial_is_reported_and_retried(virtual: Run) -> None:
    reports: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, c: reports.append(c))
        dials = Dials(
            lambda index: (
                KeyError("bug") if index == 0 else FakeConnection(lives=None, established=True)
            )
        )
        async with pool_of(A, Inbox(), connector=dials) as pool:
            pool.set_home(HOME)
            await asyncio.sleep(1)
            assert pool.connected() == (HOME,)

    virtual(main())
    assert [type(report["exception"]) for report in reports] == [KeyError]


# --- the home relay ---------------------------------------------------------------

FIRST, SECOND, THIRD = (RelayUrl(f"http://relay{i}.example/") for i in (9, 5, 1))


class Relays:
    """Connector to relays that are up or not: by URL a delay, an error, or connections."""

    def __init__(self, **_: Any) -> None:
        self.down: set[RelayUrl] = set()
        self.silent: set[RelayUrl] = set()
        self.tokens: dict[RelayUrl, str] = {}
        self.dials: list[tuple[float, RelayUrl]] = []
        self.up: dict[RelayUrl, FakeConnection] = {}

    async def __call__(self, url: RelayUrl, token: str | None, owner: Any) -> Any:
        self.dials.append((asyncio.get_running_loop().time(), url))
        if url in self.silent:
            await asyncio.sleep(10)
            raise RelayClientError("timeout", "silent")
        await asyncio.sleep(0.05)
        if url in self.down:
            raise RelayClientError("io", "down")
        if self.tokens.get(url, token) != token:
            raise RelayClientError("handshake", "denied", denied_reason="wrong token")
        self.up[url] = FakeConnection(lives=None, established=True)
        return self.up[url]

    def lose(self, url: RelayUrl) -> None:
        self.down.add(url)
        self.up.pop(url).fail("closed", "gone")


def following(relays: Relays, *urls: Any, **options: Any) -> RelayPool:
    pool = pool_of(
        A, Inbox(), relay_map=RelayMap(urls), connector=relays, uniform=lambda: 0.5, **options
    )
    return pool


def home_of(pool: Any) -> RelayUrl | None:
    status = pool.home_status
    return status.url if status is not None and status.connected else None


def test_home_is_the_first_of_the_list(virtual: Run) -> None:
    async def main() -> None:
        relays = Relays()
        async with following(relays, FIRST, SECOND) as pool:
            pool.follow_map()
            await asyncio.sleep(100)
            assert home_of(pool) == FIRST
            assert [url for _, url in relays.dials] == [FIRST]

    virtual(main())


@pytest.mark.parametrize(("fault", "limit"), [("down", 0.2), ("silent", 3.2)])
def test_home_is_the_first_of_the_list_that_can_be_reached(
    virtual: Run, fault: str, limit: float
) -> None:
    async def main() -> None:
        relays = Relays()
        getattr(relays, fault).update({FIRST})
        async with following(relays, FIRST, SECOND, THIRD) as pool:
            pool.follow_map()
            await asyncio.sleep(limit)
            assert home_of(pool) == SECOND
            # It stays, also when the first one is there: addresses that others know stay right.
            getattr(relays, fault).clear()
            await asyncio.sleep(300)
            assert home_of(pool) == SECOND and pool.connected() == (SECOND,)

    virtual(main())


def test_home_that_is_lost_has_three_seconds_to_come_back(virtual: Run) -> None:
    async def main() -> None:
        relays = Relays()
        async with following(relays, FIRST, SECOND) as pool:
            pool.follow_map()
            await asyncio.sleep(10)
            relays.lose(FIRST)
            await asyncio.sleep(2.5)
            relays.down.clear()
            await asyncio.sleep(0.5)  # dialled at least every 0.4 s
            assert home_of(pool) == FIRST and pool.stats.relay_home_change == 1
            relays.lose(FIRST)
            await asyncio.sleep(2.9)
            assert pool.home_status.url == FIRST
            await asyncio.sleep(0.3)
            assert home_of(pool) == SECOND

    virtual(main())


def test_all_relays_are_tried_until_one_is_back(virtual: Run) -> None:
    async def main() -> None:
        relays = Relays()
        relays.down.update({FIRST, SECOND, THIRD})
        async with following(relays, FIRST, SECOND, THIRD) as pool:
            pool.follow_map()
            await asyncio.sleep(200)
            assert pool.home_status is not None and not pool.home_status.connected
            relays.down.discard(SECOND)
            await asyncio.sleep(33)  # the longest pause
            assert home_of(pool) == SECOND

    virtual(main())


def test_home_follows_the_map(virtual: Run) -> None:
    async def main() -> None:
        relays = Relays()
        async with following(relays) as pool:
            pool.follow_map()
            await asyncio.sleep(1)
            assert pool.home_status is None
            pool._relay_map.extend([FIRST, SECOND])
            await asyncio.sleep(1)
            assert home_of(pool) == FIRST
            pool._relay_map.remove(FIRST)
            await asyncio.sleep(1)
            assert home_of(pool) == SECOND
            pool._relay_map.remove(SECOND)
            await asyncio.sleep(1)
            assert pool.home_status is None

    virtual(main())


def test_corrected_token_is_used_at_once(virtual: Run) -> None:
    async def main() -> None:
        for denied_for in (0.02, 5.0, 60.0):
            relays = Relays()
            relays.tokens[FIRST] = "good"
            async with following(relays, RelayConfig(FIRST, auth_token="bad")) as pool:
                pool.follow_map()
                await asyncio.sleep(denied_for)
                assert home_of(pool) is None
                pool._relay_map.insert(RelayConfig(FIRST, auth_token="good"))
                await asyncio.sleep(0.2)
                assert home_of(pool) == FIRST

    virtual(main())


def test_policy_of_ones_own_chooses(virtual: Run) -> None:
    class Last:
        def choose(self, relays: RelayMap, report: object, states: Any) -> RelayUrl | None:
            return relays.urls()[-1]

    async def main() -> None:
        async with following(Relays(), FIRST, SECOND, THIRD, home_policy=Last()) as pool:
            pool.follow_map()
            await asyncio.sleep(1)
            assert home_of(pool) == THIRD

    virtual(main())


async def test_same_key_elsewhere_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def script(peer: Peer) -> None:
        await peer.register()
        peer.frame(13, b"\1")
        await peer.answer_pings()

    async with running(script) as relay:
        inbox = Inbox()
        async with pool_of(A, inbox) as pool:
            pool.set_home(relay.url)
            await inbox.until(lambda: pool.home_status and pool.home_status.superseded)
            assert pool.home_status is not None and pool.home_status.connected
            assert pool.stats.relay_conns_superseded == 1
            relay.peers[0].frame(13, b"\0")
            await inbox.until(lambda: pool.home_status and not pool.home_status.superseded)
    assert any("same secret key" in r.message for r in caplog.records if r.levelname == "WARNING")
