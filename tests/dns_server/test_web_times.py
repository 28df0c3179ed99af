"""How long an HTTP connection may take for what, on a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from web_peer import request

from iroh_fast.web.http import HEAD_TIMEOUT_S, HttpProtocol, Turns
from iroh_fast.web.message import Later, Response

IDLE_S = 30.0


class Wire:
    """A connection without sockets: the transport, and its client."""

    def __init__(self, handler, **options):
        self.loop = asyncio.get_running_loop()
        self.sent = b""
        self.ended: list[tuple[float, bool]] = []
        self._closing = False
        self._turns = Turns(self.loop)
        settings = {"head_timeout": IDLE_S, "idle_timeout": IDLE_S, "max_body": 4096, **options}
        self.protocol = HttpProtocol(
            self.loop,
            handler,
            turns=self._turns,
            deadline=settings.pop("deadline", float("inf")),
            on_end=lambda _, well: self.ended.append((self.loop.time(), well)),
            **settings,
        )
        self.protocol.connection_made(self)

    async def say(self, data: bytes) -> None:
        """The client sends something."""
        if not self._closing:
            self.protocol.get_buffer(-1)[: len(data)] = data
            self.protocol.buffer_updated(len(data))
        for _ in range(3):
            await asyncio.sleep(0)

    @property
    def answers(self) -> int:
        return self.sent.count(b"HTTP/1.1 ")

    # --- what the protocol calls

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        self.sent += data

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass

    def is_closing(self):
        return self._closing

    def close(self):
        if not self._closing:
            self._closing = True
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close


def ok(_request, _protocol):
    return Response(200)


@pytest.mark.parametrize(
    ("data", "in_order"),
    [(b"", True), (b"PUT / HT", False), (request("/x", "PUT", b"hello")[:-1], False)],
    ids=["nothing", "half a head", "half a body"],
)
@pytest.mark.parametrize("asked", [0, 1])
def test_request_that_does_not_end_in_time_ends_the_connection(virtual, data, in_order, asked):
    async def main():
        wire = Wire(ok)
        await asyncio.sleep(7.0)
        for _ in range(asked):
            await wire.say(request())
        await asyncio.sleep(7.0)
        await wire.say(data)
        await asyncio.sleep(100.0)
        ((when, well),) = wire.ended
        # The time counts from the last answer, or from the beginning.
        assert when == pytest.approx(7.0 * asked + IDLE_S) and well is in_order
        assert wire.answers == asked

    virtual(main())


def test_client_that_sends_a_byte_now_and_then_does_not_live_on_them(virtual):
    async def main():
        wire = Wire(ok)
        await wire.say(request())
        for byte in request("/x", "PUT", bytes(1000)):
            await wire.say(bytes((byte,)))
            await asyncio.sleep(1.0)
        ((when, well),) = wire.ended
        assert when == pytest.approx(IDLE_S) and not well and wire.answers == 1

    virtual(main())


def test_connection_lives_on_as_long_as_it_asks(virtual):
    async def main():
        wire = Wire(ok)
        for _ in range(100):
            await wire.say(request())
            await asyncio.sleep(IDLE_S - 1.0)
        assert wire.answers == 100 and not wire.ended
        await asyncio.sleep(2.0)
        assert len(wire.ended) == 1

    virtual(main())


def test_shorter_time_for_further_requests_counts_from_the_first_answer_on(virtual):
    async def main():
        wire = Wire(ok, head_timeout=30.0, idle_timeout=5.0)
        await asyncio.sleep(20.0)
        await wire.say(request())
        await asyncio.sleep(100.0)
        assert wire.ended[0][0] == pytest.approx(25.0)

    virtual(main())


def test_end_of_a_life_comes_also_to_those_who_ask(virtual):
    async def main():
        wire = Wire(ok, deadline=60.0)
        for _ in range(100):
            await wire.say(request())
            await asyncio.sleep(1.0)
        assert wire.ended[0][0] == pytest.approx(60.0) and wire.answers in (60, 61)

    virtual(main())


def test_slow_answer_is_not_held_against_the_client(virtual):
    async def main():
        later = Later()
        wire = Wire(lambda _request, _protocol: later)
        await wire.say(request())
        await asyncio.sleep(20 * IDLE_S)
        assert not wire.ended
        later.set(Response(200, b"at last"))
        assert wire.sent.endswith(b"at last")
        # From here on its time runs again.
        await asyncio.sleep(IDLE_S + HEAD_TIMEOUT_S)
        assert wire.ended[0][0] <= 21 * IDLE_S + HEAD_TIMEOUT_S

    virtual(main())
