"""Routes, upgrade checks and bad requests of the relay server."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from pathlib import Path

import pytest
from relay_peer import config, connected, head, opened, read_answer, request, until, upgraded, where

from iroh_fast import __version__
from iroh_fast.errors import ConfigError
from iroh_fast.relay.server.config import RelayTlsConfig
from iroh_fast.relay.server.routes import auth_token
from iroh_fast.relay.server.server import RelayServer
from iroh_fast.relay.wire import accept_value
from iroh_fast.web import http as http_module
from iroh_fast.web.http import READ_BYTES
from iroh_fast.web.message import Request, Response
from iroh_fast.web.reading import MAX_HEAD_BYTES

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "relay_frames.json").read_text())
HTTP = VECTORS["http"]
SELF_SIGNED = RelayTlsConfig("SelfSigned", ("127.0.0.1", 0))


async def test_routes_of_the_main_listener():
    async with RelayServer(config()) as server:
        ping = await request(server, head("/ping?x=1"))
        assert (ping.status, ping.body) == (200, b"")
        assert ping.headers["access-control-allow-origin"] == "*"
        health = await request(server, head("/healthz"))
        assert health.headers["content-type"] == "application/json"
        assert json.loads(health.body) == {
            "status": "ok", "version": __version__, "git_hash": "unknown"
        }  # fmt: skip
        for path in ("/", "/index.html"):
            page = await request(server, head(path))
            assert page.status == 200 and b"iroh.computer" in page.body
            assert page.headers["content-type"] == "text/html; charset=utf-8"
        robots = await request(server, head("/robots.txt"))
        assert robots.body == b"User-agent: *\nDisallow: /\n"
        for answer in (ping, health, page, robots):
            for name, value in HTTP["tls_headers"].items():
                assert answer.headers[name] == value
            assert len(answer.all_headers) <= 12 and "date" in answer.headers


@pytest.mark.parametrize(
    "data",
    [
        head("/nothing"), head("/ping/"), head("/Ping"), head("/derp"), head("/ping", "POST"),
        head("/ping", "HEAD"), head("/relay", "OPTIONS"), head("/relay/"), head("*", "OPTIONS"),
    ],
)  # fmt: skip
async def test_everything_else_is_not_found(data):
    async with RelayServer(config()) as server:
        answer = await request(server, data)
        assert answer.status == 404
        assert answer.body == (b"" if data.startswith(b"HEAD") else b"Not Found")
        assert (
            answer.headers["content-security-policy"]
            == HTTP["tls_headers"]["content-security-policy"]
        )


@pytest.mark.parametrize(
    "item", HTTP["generate_204"], ids=lambda item: repr(item["challenge"])[:40]
)
async def test_captive_portal_challenge(item):
    headers = {} if item["challenge"] is None else {"x_iroh_challenge": item["challenge"]}
    async with RelayServer(config(tls=SELF_SIGNED)) as server:
        answer = await request(server, head("/generate_204", **headers), "http")
        assert (answer.status, answer.body) == (204, b"")
        assert answer.headers.get("x-iroh-response") == item["response"]
        assert "content-security-policy" not in answer.headers


async def test_captive_portal_listener_knows_nothing_else():
    async with RelayServer(config(tls=SELF_SIGNED)) as server:
        for path in ("/", "/ping", "/relay", "/healthz"):
            answer = await request(server, head(path), "http")
            assert (answer.status, answer.body) == (404, b"Not Found")
            assert "strict-transport-security" not in answer.headers
        assert (await request(server, head("/generate_204"))).status == 404
        assert (await request(server, head("/ping"))).status == 200
        assert server.url.startswith("https://127.0.0.1:")


async def test_challenge_is_answered_on_the_main_listener_without_tls():
    async with RelayServer(config()) as server:
        answer = await request(server, head("/generate_204", x_iroh_challenge="abc"))
        assert answer.status == 204 and answer.headers["x-iroh-response"] == "response abc"
        assert "strict-transport-security" in answer.headers


async def test_connections_are_kept_and_requests_may_come_together():
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer):
            writer.write(head("/ping") + head("/nothing") + head("/healthz"))
            assert [(await read_answer(reader)).status for _ in range(3)] == [200, 404, 200]
            for byte in head("/robots.txt"):
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
            assert (await read_answer(reader)).status == 200
            writer.write(head("/ping", connection="close"))
            answer = await read_answer(reader)
            assert answer.headers["connection"] == "close"
            assert await reader.read() == b""
        async with opened(server) as (reader, writer):
            writer.write(b"GET /ping HTTP/1.0\r\n\r\n")
            assert (await read_answer(reader)).status == 200
            assert await reader.read() == b""


async def test_request_with_a_body_is_answered_and_closed():
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer):
            writer.write(head("/ping", "POST", content_length="5") + b"GET /")
            assert (await read_answer(reader)).status == 404
            assert await reader.read() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\nbad header\r\n\r\n", 400),
        (b"GET /ping HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n", 431),
        (b"GET /ping HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /" + b"b" * MAX_HEAD_BYTES, 431),
    ],
)
async def test_malformed_and_oversized_heads(data, status):
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer):
            writer.write(data)
            assert (await read_answer(reader)).status == status
            assert await reader.read() == b""
        await until(lambda: server.metrics()["http_connections_errored"] == 1)
        assert server.metrics()["unauthenticated"] == 0


async def test_additional_routes_of_an_embedder():
    routes = {"/hello": lambda asked: Response(200, b"hi " + (asked.query or "").encode())}
    async with RelayServer(config(), routes=routes) as server:
        answer = await request(server, head("/hello?you"))
        assert answer.body == b"hi you" and "strict-transport-security" in answer.headers


async def test_upgrade_answer_has_what_clients_check():
    ws = VECTORS["websocket"]["accept"]
    assert accept_value(ws["key"].encode()) == ws["accept"]
    async with RelayServer(config()) as server:
        answer = await request(server, head())
        assert answer.status == 101
        assert answer.headers["sec-websocket-accept"] == ws["accept"]
        assert answer.headers["sec-websocket-protocol"] == "iroh-relay-v2"
        assert answer.headers["upgrade"] == "websocket"
        assert answer.headers["connection"] == "upgrade"
        assert "content-length" not in answer.headers and len(answer.all_headers) <= 12
        for name, value in HTTP["tls_headers"].items():
            assert answer.headers[name] == value


async def test_upgrade_of_the_request_iroh_sends():
    async with RelayServer(config()) as server:
        assert (await request(server, HTTP["observed_client_request"].encode())).status == 101


CHANGES = {
    "no Upgrade header": {"upgrade": None},
    "no Sec-WebSocket-Key": {"sec_websocket_key": None},
    "no Sec-WebSocket-Version": {"sec_websocket_version": None},
    "Sec-WebSocket-Version: 8": {"sec_websocket_version": "8"},
    "no Sec-WebSocket-Protocol": {"sec_websocket_protocol": None},
    "Sec-WebSocket-Protocol: foo": {"sec_websocket_protocol": "foo"},
}


@pytest.mark.parametrize("item", HTTP["upgrade_rejections"], ids=lambda item: item["change"])
async def test_upgrade_refusals(item):
    async with RelayServer(config()) as server:
        if "case differs" in item["change"]:
            # any case is fine, as RFC 6455 has it
            assert (await request(server, head(upgrade="WebSocket"))).status == 101
            return
        answer = await request(server, head(**CHANGES[item["change"]]))
        assert (answer.status, answer.body.decode()) == (400, item["body"])
        assert "strict-transport-security" in answer.headers
        if item["extra"]:
            name, _, value = item["extra"].partition(": ")
            assert answer.headers[name] == value


@pytest.mark.parametrize(
    "item", HTTP["subprotocol_negotiation"], ids=lambda item: item["offer"] or "none"
)
async def test_upgrade_protocol_negotiation(item):
    async with RelayServer(config()) as server:
        answer = await request(server, head(sec_websocket_protocol=item["offer"]))
        if item["answer"] == "400":
            assert answer.status == 400
        else:
            assert answer.status == 101
            assert answer.headers["sec-websocket-protocol"] == item["answer"]


@pytest.mark.parametrize("value", ["keep-alive, Upgrade", "close", None])
async def test_upgrade_does_not_look_at_connection(value):
    async with RelayServer(config()) as server:
        async with connected(server, connection=value) as client:
            await client.ping()


async def test_upgrade_looks_at_the_first_protocol_line_only():
    lines = (
        b"sec-websocket-protocol: iroh-relay-v1\r\nsec-websocket-protocol: iroh-relay-v2\r\n\r\n"
    )
    async with RelayServer(config()) as server:
        data = head(sec_websocket_protocol=None)[:-2] + lines
        answer = await request(server, data)
        assert answer.headers["sec-websocket-protocol"] == "iroh-relay-v1"


async def test_bytes_before_the_101_end_the_connection():
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer):
            writer.write(head() + b"\x82\x80abcd")
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
        await until(lambda: server.metrics()["unauthenticated"] == 0)


@pytest.mark.parametrize("item", HTTP["auth_token"])
def test_tokens_of_header_and_query(item):
    target = "/relay" + ("" if item["query"] is None else "?" + item["query"])
    headers = [("authorization", value.encode("latin-1")) for value in item["headers"]]
    assert auth_token(Request("GET", target, [("host", b"x"), *headers])) == item["token"]


# --- time limits --------------------------------------------------------------------------


async def test_silent_connection_ends_after_the_limit():
    async with RelayServer(config(establish_timeout=0.2)) as server:
        async with opened(server) as (reader, writer):
            writer.write(b"GET /pi")
            try:
                assert await reader.read() == b""
            except ConnectionResetError:
                pass
        async with opened(server) as (reader, writer):
            writer.write(head("/ping"))
            assert (await read_answer(reader)).status == 200
            try:
                assert await reader.read() == b""  # idle, but its time is over
            except ConnectionResetError:
                pass
        await until(lambda: server.metrics()["unauthenticated"] == 0)


@pytest.mark.covers("iroh-relay: establish timeout")
async def test_time_limit_covers_authentication():
    """In iroh the timer stops at the 101, and a silent client could stay for ever."""
    async with RelayServer(config(establish_timeout=0.3)) as server:
        async with upgraded(server) as client:
            challenge = await client.receive_payload()
            assert challenge is not None and challenge[0] == 0
            await client.ended()
        assert server.metrics()["establish_timeouts"] == 1
        assert server.metrics()["unauthenticated"] == 0
        async with connected(server) as client:
            await asyncio.sleep(0.5)
            await client.ping()  # once let in there is no limit


async def test_time_limit_covers_the_tls_handshake():
    async with RelayServer(config(tls=SELF_SIGNED, establish_timeout=0.2)) as server:
        async with opened(server, "https") as (reader, _):
            assert await reader.read() == b""
        await until(lambda: server.metrics()["unauthenticated"] == 0)


# --- limits on connections ----------------------------------------------------------------


async def refused(server):
    async with opened(server) as (reader, _):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


async def test_unauthenticated_connections_are_bounded():
    async with RelayServer(config(unauthenticated_per_ip=3)) as server:
        async with connected(server), connected(server):
            async with upgraded(server), upgraded(server), upgraded(server):
                assert await refused(server)
            await until(lambda: server.metrics()["unauthenticated"] == 0)
            async with connected(server) as client:
                await client.ping()
        assert server.metrics()["connections_refused"] == 1


@pytest.mark.parametrize("total", [2, 1000])
async def test_connections_that_were_let_in_are_bounded(total):
    limits = config(connections=total, connections_per_ip=2)
    async with RelayServer(limits) as server:
        async with connected(server):
            async with connected(server) as second:
                assert await refused(server)
                await second.ping()
            await until(lambda: server.metrics()["connections"] == 1)
            async with connected(server) as third:
                await third.ping()
        assert server.metrics()["connections_refused"] == 1


async def test_rate_of_connections_is_bounded():
    async with RelayServer(config(accept_rate=0.001, accept_burst=2)) as server:
        assert (await request(server, head("/ping"))).status == 200
        assert (await request(server, head("/ping"))).status == 200
        assert await refused(server)


# --- clients that do their worst ----------------------------------------------------------


async def test_unread_answers_stop_reading_of_further_requests():
    """Pipelined requests are answered one at a time; who reads nothing is answered nothing."""
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with RelayServer(config()) as server:
        loop = asyncio.get_running_loop()
        with small:
            small.setblocking(False)
            await loop.sock_connect(small, where(server))
            flood, sent, still = b"GET / HTTP/1.1\r\n\r\n" * 1000, 0, 0
            while still < 50 and sent < 1 << 26:
                try:
                    sent += small.send(flood)
                    still = 0
                except BlockingIOError:
                    still += 1
                await asyncio.sleep(0.002)
            # The kernel's buffers are full, ours hold one read and one answer.
            assert sent < 1 << 26
            (protocol,) = server._host.protocols
            assert protocol._reader.left <= 2 * READ_BYTES
            assert protocol.transport.get_write_buffer_size() < 4096
            assert server.metrics()["unauthenticated"] == 1
        await until(lambda: server.metrics()["unauthenticated"] == 0)


async def test_unread_answers_end_the_connection(monkeypatch):
    monkeypatch.setattr(http_module, "UNREAD_TIMEOUT_S", 0.1)
    routes = {"/big": lambda _: Response(200, bytes(1 << 24))}
    async with RelayServer(config(), routes=routes) as server:
        async with opened(server) as (reader, writer):
            writer.transport.pause_reading()
            writer.write(head("/big", connection="close"))
            await until(lambda: server.metrics()["http_unread_timeouts"] == 1)
            await until(lambda: server.metrics()["tcp_connections"] == 0)
        assert server.metrics()["http_connections_errored"] == 1


async def test_closing_answer_that_is_not_read_counts_and_ends_with_the_server():
    routes = {"/big": lambda _: Response(200, bytes(1 << 24))}
    server = RelayServer(config(), routes=routes)
    await server.start()
    async with opened(server) as (reader, writer):
        writer.transport.pause_reading()
        writer.write(head("/big", connection="close"))
        await until(lambda: server.metrics()["http_requests"] == 1)
        assert server.metrics()["tcp_connections"] == 1
        await server.stop()
        assert server.metrics()["tcp_connections"] == 0


async def test_pipelined_requests_share_the_loop(monkeypatch):
    """In each turn of the loop one request is answered when the time slice is nothing."""
    monkeypatch.setattr(http_module, "SLICE_S", 0.0)
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer), opened(server) as (other, second):
            writer.write(head("/ping") * 20)
            second.write(head("/ping") * 20)
            for _ in range(20):
                assert (await read_answer(reader)).status == 200
                assert (await read_answer(other)).status == 200
        assert server.metrics()["http_requests"] == 40


@pytest.mark.parametrize("step", [1, 7, 4095, 4096, 4097])
async def test_heads_cut_anywhere_are_put_together(step):
    data = head("/ping", x_filler="y" * 5000) * 3
    async with RelayServer(config()) as server:
        async with opened(server) as (reader, writer):
            for at in range(0, len(data), step):
                writer.write(data[at : at + step])
                if step > 1 or at % 64 == 0:
                    await asyncio.sleep(0)
            for _ in range(3):
                assert (await read_answer(reader)).status == 200


async def test_route_that_raises_answers_500_and_keeps_the_connection(caplog):
    def broken(_):
        raise ValueError("a mistake")

    async with RelayServer(config(), routes={"/x": broken}) as server:
        async with opened(server) as (reader, writer):
            writer.write(head("/x"))
            answer = await read_answer(reader)
            assert answer.status == 500 and "strict-transport-security" in answer.headers
            writer.write(head("/ping"))
            assert (await read_answer(reader)).status == 200
        assert server.metrics()["http_handler_errors"] == 1
    assert "a mistake" in caplog.text


@pytest.mark.parametrize("opcode", [1, 2, 9], ids=["text", "binary", "ping"])
async def test_floods_before_authentication_end_the_connection(opcode):
    async with RelayServer(config()) as server:
        async with upgraded(server) as client:
            await client.receive_payload()
            for _ in range(100):
                client.send_message(bytes(100), opcode)
            await client.ended()
        await until(lambda: server.metrics()["unauthenticated"] == 0)
        # A binary message of that length is wrong by itself.
        assert server.metrics()["handshake_floods"] == (opcode != 2)


async def test_tls_begins_with_the_first_bytes_of_the_client():
    async with RelayServer(config(tls=SELF_SIGNED)) as server:
        async with opened(server, "https") as (reader, writer):
            await until(lambda: server.metrics()["unauthenticated"] == 1)
            (protocol,) = server._host.protocols
            assert protocol.transport is None
            writer.write(b"not TLS at all\r\n\r\n")
            try:
                await reader.read()
            except ConnectionResetError:
                pass
        await until(lambda: server.metrics()["unauthenticated"] == 0)


async def test_captive_portal_listener_answers_once_per_connection():
    async with RelayServer(config(tls=SELF_SIGNED)) as server:
        async with opened(server, "http") as (reader, writer):
            writer.write(head("/generate_204") * 2)
            answer = await read_answer(reader)
            assert (answer.status, answer.headers["connection"]) == (204, "close")
            assert await reader.read() == b""


async def test_one_address_has_a_share_of_all_connections():
    async with RelayServer(config(connections=4)) as server:
        async with connected(server), connected(server), connected(server):
            assert await refused(server)
            assert server.metrics()["tcp_connections"] == 3
        await until(lambda: server.metrics()["tcp_connections"] == 0)
        async with connected(server) as client:
            await client.ping()


@pytest.mark.parametrize(
    "answer",
    [None, "text", Response(999), Response(200, "text"), Response(200, b"", None)],  # type: ignore[arg-type]
    ids=["none", "text", "status", "body", "headers"],
)
async def test_route_with_an_impossible_answer_stops_nobody(answer):
    async with RelayServer(config(), routes={"/x": lambda _: answer}) as server:
        assert (await request(server, head("/x"))).status == 500
        assert (await request(server, head("/ping"))).status == 200
        assert server.metrics()["http_handler_errors"] == 1


async def _late(_):
    return Response(200)


@pytest.mark.parametrize(
    ("routes", "text"),
    [
        (5, "routes maps paths"), ("/x", "routes maps paths"), ([("/x", len)], "routes maps paths"),
        ({b"/x": len}, "is text"), ({"x": len}, "begins with a slash"),
        ({"/x": Response(200)}, "plain function"), ({"/x": _late}, "plain function"),
        ({"/x": Response}, "plain function"),
    ],
)  # fmt: skip
def test_routes_that_cannot_work_are_refused(routes, text):
    with pytest.raises((TypeError, ConfigError), match=text):
        RelayServer(config(), routes=routes)


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b"\r\n" * 7])
async def test_empty_lines_before_a_request_are_no_request(blank):
    async with RelayServer(config()) as server, opened(server) as (reader, writer):
        for _ in range(2):
            writer.write(blank + head("/ping"))
            assert (await read_answer(reader)).status == 200
        assert server.metrics()["http_requests"] == 2


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
async def test_connection_that_comes_with_the_end_is_not_left_open(turns: int) -> None:
    """The task that accepts may be cancelled in the turn in which it would be handed a socket."""
    server = RelayServer(config())
    await server.start()
    await asyncio.sleep(0.01)
    with socket.create_connection(server.addresses["http"]):
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.stop()
        gc.collect()
