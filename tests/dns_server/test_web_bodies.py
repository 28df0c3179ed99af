"""Bodies of requests, answers that come later, and clients that misuse both."""

from __future__ import annotations

import asyncio
import socket
import struct

import pytest
from web_peer import connected, hosting, request, until

from iroh_fast.web import http as http_module
from iroh_fast.web.http import READ_BYTES
from iroh_fast.web.message import Later, Response
from iroh_fast.web.reading import MAX_HEAD_BYTES, Refused, RequestReader

LIMIT = 4096


def echo(asked, _protocol):
    return Response(200, f"{asked.method} {asked.target} ".encode() + asked.body)


async def test_bodies_of_any_size_up_to_the_limit_come_whole_and_the_connection_stays():
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        for size in (0, 1, 2, 1000, READ_BYTES - 1, LIMIT - 1, LIMIT):
            body = bytes(range(256)) * 16
            answer = await client.ask(request("/x", "PUT", body[:size]))
            assert answer.status == 200 and "connection" not in answer.headers
            assert answer.body == b"PUT /x " + body[:size]


async def test_body_that_comes_byte_by_byte_and_requests_that_come_together():
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        for byte in request("/slow", "PUT", b"abcdef"):
            client.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"PUT /slow abcdef"
        client.send(b"".join(request(f"/{n}", "PUT", b"x" * n) for n in range(200)))
        for n in range(200):
            assert (await client.answer()).body == f"PUT /{n} ".encode() + b"x" * n


def test_body_of_a_request_is_never_read_as_the_next_one():
    reader = RequestReader(max_body=LIMIT)
    hidden = request("/hidden")
    reader.feed(request("/outer", "PUT", hidden) + request("/next"))
    found = []
    while reader.left:
        if (asked := reader.read()) is not None:
            found.append((asked.target, asked.body))
    assert found == [("/outer", hidden), ("/next", b"")]


@pytest.mark.parametrize("split", [1, 7, 60])
async def test_body_in_chunks_comes_whole_and_ends_the_connection(split):
    data = (
        request("/c", "PUT", transfer_encoding="chunked")
        + b"3\r\nabc\r\n5;name=value\r\ndefgh\r\n0\r\nx-trailer: not a header\r\n\r\n"
    )
    seen = []

    def handler(asked, _):
        seen.append(asked)
        return echo(asked, _)

    async with hosting(handler) as host, connected(host.addresses["http"]) as client:
        last = len(data) - len(data) % split - split
        for begin in range(0, last, split):
            client.send(data[begin : begin + split])
            await asyncio.sleep(0)
        client.send(data[last:] + request("/not-answered"))
        answer = await client.answer()
        assert answer.body == b"PUT /c abcdefgh" and answer.headers["connection"] == "close"
        assert await client.is_closed()
    assert len(seen) == 1 and seen[0].get("x-trailer") is None


@pytest.mark.parametrize(
    "data",
    [
        request("/x", "PUT", bytes(LIMIT + 1)),
        request("/x", "PUT", bytes(1 << 20)),
        request("/x", "PUT", content_length="18446744073709551615"),
        request("/x", "PUT", transfer_encoding="chunked") + b"2000\r\n" + bytes(0x2000),
        request("/x", "PUT", transfer_encoding="chunked") + b"1;%s\r\na\r\n" % (b"x" * 90) * 400,
    ],
    ids=["one too much", "a mebibyte", "2**64-1", "in chunks", "chunks of nothing"],
)
async def test_body_that_is_too_large_is_refused_and_the_answer_arrives(data):
    """Also while the client goes on to send: it must not lose the answer to a reset."""
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        client.send(data)
        answer = await client.answer()
        assert answer.status == 413 and answer.headers["connection"] == "close"
        (protocol,) = host.protocols
        assert protocol._reader.left == 0
        client.writer.write_eof()
        assert await client.is_closed()


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"content_length": "x"}, 400),
        ({"content_length": "-1"}, 400),
        ({"content_length": "+5"}, 400),
        ({"content_length": "5, 5"}, 400),
        ({"content_length": "5", "transfer_encoding": "chunked"}, 400),
        ({"transfer_encoding": "gzip"}, 400),
        ({"content_length": "99999999999999999999999"}, 400),
        ({"content_length": "5", "expect": "a miracle"}, 417),
    ],
)
async def test_lengths_that_say_nothing_are_refused(more, status):
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        answer = await client.ask(request("/x", "PUT", **more))
        assert answer.status == status
        assert await client.is_closed()


def test_two_lengths_are_refused():
    reader = RequestReader(max_body=LIMIT)
    reader.feed(b"PUT / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")
    with pytest.raises(Refused):
        reader.read()


async def test_client_that_waits_for_leave_to_send_its_body_gets_it():
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        whole = request("/x", "PUT", b"hello", expect="100-continue")
        client.send(whole[:-5])
        assert (await client.answer()).status == 100
        client.send(b"hello")
        assert (await client.answer()).body == b"PUT /x hello"
        # A body that is there needs no leave.
        assert (await client.ask(whole)).status == 200


# --- answers that come later ----------------------------------------------------------------


async def test_answers_that_come_later_keep_the_order_of_their_requests():
    open_ones: list[tuple[str, Later]] = []

    def handler(asked, protocol):
        if asked.target == "/now":
            return Response(200, b"/now")
        later = Later()
        open_ones.append((asked.target, later))
        return later

    async with hosting(handler) as host, connected(host.addresses["http"]) as client:
        client.send(request("/1") + request("/now") + request("/2") + request("/now"))
        for name in ("/1", "/2"):
            await until(lambda: open_ones)
            # One at a time: what stands behind it is not looked at.
            ((target, later),) = open_ones
            assert target == name
            open_ones.clear()
            later.set(Response(200, target.encode()))
            later.set(Response(500))  # a second one does not count
            assert (await client.answer()).body == name.encode()
            assert (await client.answer()).body == b"/now"


async def test_answer_that_is_there_at_once_may_be_given_as_one_that_comes_later():
    def handler(asked, protocol):
        later = Later()
        later.set(Response(200, asked.body))
        return later

    async with hosting(handler) as host, connected(host.addresses["http"]) as client:
        client.send(b"".join(request("/", "PUT", b"%d" % n) for n in range(50)))
        assert [(await client.answer()).body for _ in range(50)] == [b"%d" % n for n in range(50)]


async def test_client_that_floods_while_an_answer_is_due_is_read_no_further():
    later = Later()
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    async with hosting(lambda asked, protocol: later) as host:
        loop = asyncio.get_running_loop()
        with small:
            small.setblocking(False)
            await loop.sock_connect(small, host.addresses["http"])
            flood, sent, still = request("/x", "PUT", bytes(1000)) * 100, 0, 0
            while still < 50 and sent < 1 << 26:
                try:
                    sent += small.send(flood)
                    still = 0
                except BlockingIOError:
                    still += 1
                await asyncio.sleep(0.002)
            assert sent < 1 << 26
            (protocol,) = host.protocols
            assert protocol._reader.left <= 2 * READ_BYTES
            assert host.turns.counters.requests == 1


async def test_whoever_works_on_an_answer_learns_that_its_client_has_gone():
    gone = []
    later = Later()
    later.on_gone = lambda: gone.append(1)
    async with hosting(lambda asked, protocol: later) as host:
        async with connected(host.addresses["http"]) as client:
            client.send(request())
            await until(lambda: host.turns.counters.requests)
            # It crashes: one that only sends no more may still want the answer.
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: gone)
        later.set(Response(200))
        await until(lambda: not host.protocols)


async def test_client_that_has_said_its_last_word_gets_the_answers_that_are_due():
    open_ones: list[Later] = []

    def handler(asked, protocol):
        open_ones.append(Later())
        return open_ones[-1]

    async with hosting(handler) as host, connected(host.addresses["http"]) as client:
        client.send(request("/1") + request("/2"))
        client.writer.write_eof()
        for text in (b"1", b"2"):
            await until(lambda: open_ones)
            await asyncio.sleep(0.01)
            open_ones.pop().set(Response(200, text))
            assert (await client.answer()).body == text
        assert await client.is_closed()


async def test_handler_that_fails_is_answered_and_the_connection_stays(caplog):
    def handler(asked, protocol):
        if asked.body:
            raise RuntimeError("a fault")
        return Response(299)  # no such status: cannot be encoded

    async with hosting(handler) as host, connected(host.addresses["http"]) as client:
        assert (await client.ask(request("/", "PUT", b"x"))).status == 500
        assert (await client.ask(request())).status == 500
        assert (await client.ask(request("/", "PUT", b"x"))).status == 500
        assert host.turns.counters.handler_errors == 3


async def test_stopping_lets_answers_out_that_are_due_and_ends_idle_connections():
    later = Later()

    def handler(asked, protocol):
        return later if asked.target == "/later" else Response(200)

    async with hosting(handler) as host:
        async with (
            connected(host.addresses["http"]) as one,
            connected(host.addresses["http"]) as two,
        ):
            assert (await one.ask(request())).status == 200
            two.send(request("/later"))
            await until(lambda: host.turns.counters.requests == 2)
            host.stop_accepting()
            finishing = asyncio.ensure_future(host.finish(30.0))
            assert await one.is_closed()
            assert not finishing.done()
            later.set(Response(200, b"out"))
            answer = await two.answer()
            assert answer.body == b"out" and answer.headers["connection"] == "close"
            await finishing
            assert await two.is_closed()


async def test_stopping_does_not_wait_longer_than_it_may():
    async with hosting(lambda asked, protocol: Later()) as host:
        async with connected(host.addresses["http"]) as client:
            client.send(request())
            await until(lambda: host.turns.counters.requests)
            await host.finish(0.05)
            assert len(host.protocols) == 1
            host.abort()
            assert await client.is_closed()


async def test_answer_to_a_body_that_is_too_large_waits_for_nobody_for_long(monkeypatch):
    monkeypatch.setattr(http_module, "LINGER_S", 0.2)
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        client.send(request("/x", "PUT", content_length="5000"))
        assert (await client.answer()).status == 413
        assert await client.is_closed()


async def test_bytes_behind_a_refusal_are_bounded(monkeypatch):
    monkeypatch.setattr(http_module, "LINGER_BYTES", 3 * READ_BYTES)
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        client.send(request("/x", "PUT", content_length="50000000"))
        assert (await client.answer()).status == 413
        client.send(bytes(5 * READ_BYTES))
        assert await client.is_closed()


async def test_huge_heads_are_refused_with_a_body_too():
    async with hosting(echo) as host, connected(host.addresses["http"]) as client:
        data = request("/x", "PUT", b"x", filler="y" * MAX_HEAD_BYTES)
        assert (await client.ask(data)).status == 431
        assert await client.is_closed()
