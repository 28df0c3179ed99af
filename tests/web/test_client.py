"""HTTP requests of an endpoint: redirects, limits, TLS, proxies, and servers that misbehave."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from name_server import certificate

from iroh_fast.errors import ConfigError, DnsNxDomain, HttpError
from iroh_fast.web import client as client_module
from iroh_fast.web.ca import CaConfig
from iroh_fast.web.client import HttpClient
from iroh_fast.web.proxy import Proxy

Handler = Callable[[str, str, dict[str, str], bytes], "bytes | None"]
"""``(method, target, headers, body)`` to the bytes of the answer; None: nothing at all."""


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def ok(body: bytes = b"", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def to(location: str, status: str = "307 There") -> bytes:
    return ok(b"", f"Location: {location}", status=status)


class Names:
    """Every name is this machine, unless it begins with "no"."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def lookup(self, host: str, family: int, /) -> list[str]:
        self.asked.append(host)
        if host.startswith("no"):
            raise DnsNxDomain(f"there is no name {host}", host=host)
        if family == socket.AF_INET6:
            await asyncio.sleep(600)
        return ["127.0.0.1"]


class Server:
    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.port = 0
        self.open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {
                    name.lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head[1:] if line)
                }
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((method, target, headers, body))
                answer = self.handler(method, target, headers, body)
                if answer is None:
                    await reader.read()
                    return
                writer.write(answer)
                if answer.endswith(b"CLOSE"):
                    return
        except (EOFError, OSError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()
            self.open.discard(writer)


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(handler)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        for writer in list(server.open):
            writer.transport.abort()
        listening.close()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def http_client(**options: Any) -> AsyncIterator[HttpClient]:
    client = HttpClient(options.pop("names", None) or Names(), **options)
    try:
        yield client
    finally:
        await client.close()
        await asyncio.sleep(0.01)


async def test_request_and_answer_pass_as_they_are() -> None:
    def handler(method: str, target: str, headers: dict[str, str], body: bytes) -> bytes:
        return ok(body[::-1], "X-A: 1", "X-A: 2", "Retry-After: 7")

    async with http_server(handler) as server, http_client() as client:
        url = f"http://a.example:{server.port}/x/y?z=1"
        answer = await client.request("PUT", url, body=b"\0abc", headers={"X-B": "b"})
        assert answer.status == 200 and answer.body == b"cba\0"
        assert answer.headers["x-a"] == "1" and answer.headers["retry-after"] == "7"
        ((method, target, headers, body),) = server.requests
        assert (method, target, body) == ("PUT", "/x/y?z=1", b"\0abc")
        assert headers["host"] == f"a.example:{server.port}" and headers["x-b"] == "b"
        assert headers["accept-encoding"] == "identity"
        assert not {"user-agent", "content-type", "cookie", "authorization"} & set(headers)
        await client.request("GET", url)
        assert server.connections == 1


async def test_any_status_is_an_answer_without_body() -> None:
    async with http_server(lambda *_: ok(b"long explanation", status="418 Tea")) as server:
        async with http_client() as client:
            answer = await client.request("GET", f"http://a.example:{server.port}/", max_bytes=0)
            assert (answer.status, answer.body) == (418, b"")


async def test_body_of_any_status_is_read_where_it_is_wanted_and_bounded() -> None:
    async with http_server(lambda *_: ok(b"fault", status="500 No")) as server:
        async with http_client() as client:
            url = f"http://a.example:{server.port}/"
            assert (await client.request("POST", url, body=b"x", error_body=True)).body == b"fault"
            with pytest.raises(HttpError) as caught:
                await client.request("POST", url, body=b"x", error_body=True, max_bytes=4)
            assert (caught.value.kind, caught.value.status) == ("too_large", 500)


async def test_cookies_are_not_kept() -> None:
    async with http_server(lambda *_: ok(b"", "Set-Cookie: a=b; Path=/")) as server:
        async with http_client() as client:
            for _ in range(2):
                await client.request("GET", f"http://a.example:{server.port}/")
            assert "cookie" not in server.requests[1][2]


# --- redirects


def steps(count: int) -> Handler:
    def handler(_: str, target: str, __: dict[str, str], ___: bytes) -> bytes:
        done = int(target.rpartition("/")[2])
        return ok(b"there") if done == count else to(f"/{done + 1}")

    return handler


async def test_three_redirects_are_followed_and_no_more() -> None:
    async with http_server(steps(3)) as server, http_client() as client:
        url = f"http://a.example:{server.port}/0"
        assert (await client.request("PUT", url, body=b"x")).body == b"there"
        assert [(method, body) for method, _, _, body in server.requests] == [("PUT", b"x")] * 4
        server.handler = steps(4)
        with pytest.raises(HttpError, match="more than 3 times") as caught:
            await client.request("GET", url)
        assert caught.value.kind == "redirect" and caught.value.status == 307


async def test_redirect_is_an_answer_where_none_is_followed() -> None:
    async with http_server(steps(1)) as server, http_client() as client:
        url = f"http://a.example:{server.port}/0"
        answer = await client.request("POST", url, body=b"x", redirects=0)
        assert (answer.status, answer.headers["location"]) == (307, "/1")
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other"])
async def test_redirect_that_would_lose_the_body_is_refused(status: str) -> None:
    async with http_server(lambda *_: to("/other", status)) as server, http_client() as client:
        url = f"http://a.example:{server.port}/"
        with pytest.raises(HttpError, match="lose") as caught:
            await client.request("PUT", url, body=b"x")
        assert caught.value.kind == "redirect" and len(server.requests) == 1
        server.handler = lambda _, target, *__: (
            ok(b"x") if target == "/other" else to("/other", status)
        )
        assert (await client.request("GET", url)).body == b"x"


@pytest.mark.parametrize(
    "location",
    [
        "http://a.example/",
        "HTTP://a.example/",
        "ftp://a.example/",
        "//",
        "http:",
        "https://[",
        "\x7f:",
    ],
)
async def test_redirect_to_plain_http_or_nowhere_is_refused(location: str) -> None:
    context, ca = certificate("a.example")
    async with (
        http_server(lambda *_: to(location), context) as server,
        http_client(ca=ca) as client,
    ):
        with pytest.raises(HttpError) as caught:
            await client.request("GET", f"https://a.example:{server.port}/")
        assert caught.value.kind == "redirect" and str(caught.value).isprintable()


async def test_redirect_to_another_server_takes_no_headers_and_no_password_along() -> None:
    async with http_server(lambda *_: ok(b"x")) as other:
        location = f"http://u:p@b.example:{other.port}/"
        async with http_server(lambda *_: to(location)) as server, http_client() as client:
            url = f"http://a.example:{server.port}/"
            await client.request("GET", url, headers={"Authorization": "s", "Accept": "x/y"})
            assert server.requests[0][2]["authorization"] == "s"
            headers = other.requests[0][2]
            assert "authorization" not in headers and headers["accept"] == "x/y"


# --- limits


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"x" * 11),
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"5\r\nxxxxx\r\n" * 100,
    ],
)
async def test_answer_with_more_bytes_than_asked_for_is_refused(answer: bytes) -> None:
    async with http_server(lambda *_: answer) as server, http_client() as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", f"http://a.example:{server.port}/", max_bytes=10)
        assert caught.value.kind == "too_large" and caught.value.status == 200
        assert (await_body := ok(b"x" * 10))
        server.handler = lambda *_: await_body
        found = await client.request("GET", f"http://a.example:{server.port}/", max_bytes=10)
        assert found.body == b"x" * 10


async def test_compressed_answer_is_not_unpacked() -> None:
    packed = b"\x1f\x8b\x08\0\0\0\0\0"
    async with http_server(lambda *_: ok(packed, "Content-Encoding: gzip")) as server:
        async with http_client() as client:
            found = await client.request("GET", f"http://a.example:{server.port}/")
            assert found.body == packed


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
        b"HTTP/1.1 200 O",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_server_that_takes_too_long_is_a_timeout(answer: bytes | None) -> None:
    async with http_server(lambda *_: answer) as server, http_client() as client:
        with pytest.raises(HttpError, match="within 0.1 s") as caught:
            await client.request("GET", f"http://a.example:{server.port}/", timeout=0.1)
        assert caught.value.kind == "timeout"


async def test_server_that_goes_on_for_ever_is_a_timeout() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        except OSError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with http_client() as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", f"http://a.example:{port}/", timeout=0.2, max_bytes=1 << 30)
        assert caught.value.kind == "timeout"
    server.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\nCLOSE",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\nCLOSE",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\nCLOSE",
        b"HTTP/1.1 99999 OK\r\n\r\nCLOSE",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nCLOSE",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nCLOSE",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nCLOSE",
        b"\xff" * 1000 + b"CLOSE",
        b"CLOSE",
    ],
    ids=range(9),
)
async def test_what_is_no_http_is_an_error_in_one_line(answer: bytes) -> None:
    async with http_server(lambda *_: answer) as server, http_client() as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", f"http://a.example:{server.port}/", timeout=20)
        assert caught.value.kind in ("protocol", "too_large")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


async def test_cancelled_request_ends_its_connection() -> None:
    async with http_server(lambda *_: None) as server, http_client() as client:
        task = asyncio.create_task(client.request("GET", f"http://a.example:{server.port}/"))
        while not server.requests:
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while server.open:
                await asyncio.sleep(0.005)


async def test_connections_that_nobody_uses_end_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "IDLE_S", 0.02)
    async with http_server(lambda *_: ok(b"x")) as server:
        client = HttpClient(Names())
        for _ in range(2):
            await client.request("GET", f"http://a.example:{server.port}/")
            async with asyncio.timeout(20):
                while server.open:
                    await asyncio.sleep(0.005)
        assert server.connections == 2


async def test_change_of_the_network_leaves_open_connections_behind() -> None:
    slow = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                if len(accepted) == 2:
                    await slow.wait()
                writer.write(ok(b"x"))
        except (EOFError, OSError):
            writer.close()

    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://a.example:{server.sockets[0].getsockname()[1]}/"
    async with http_client() as client:
        await client.request("GET", url)
        client.reset()
        waits = asyncio.create_task(client.request("GET", url))
        async with asyncio.timeout(20):
            while len(accepted) < 2:
                await asyncio.sleep(0.005)
        client.reset()
        assert (await client.request("GET", url)).body == b"x" and len(accepted) == 3
        slow.set()
        assert (await waits).body == b"x"  # what was under way may end
        await client.request("GET", url)
        assert len(accepted) == 3
    server.close()
    await asyncio.sleep(0.01)


async def test_closed_client_makes_no_requests() -> None:
    async with http_server(lambda *_: ok(b"x")) as server, http_client() as client:
        await client.close()
        with pytest.raises(HttpError, match="closed"):
            await client.request("GET", f"http://a.example:{server.port}/")
        assert not server.requests


# --- names and TLS


async def test_name_that_does_not_exist_is_told() -> None:
    names = Names()
    async with http_client(names=names) as client:
        with pytest.raises(HttpError, match=r"there is no name no\.example") as caught:
            await client.request("GET", "http://no.example/")
        assert caught.value.kind == "dns" and set(names.asked) == {"no.example"}


async def test_last_dot_of_a_name_reaches_the_resolver_and_no_certificate() -> None:
    context, ca = certificate("a.example")
    names = Names()
    async with http_server(lambda *_: ok(b"x"), context) as server:
        async with http_client(ca=ca, names=names) as client:
            found = await client.request("GET", f"https://a.example.:{server.port}/")
            assert found.body == b"x" and set(names.asked) == {"a.example."}


async def test_server_that_is_not_there_cannot_be_connected() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        async with http_client() as client:
            with pytest.raises(HttpError) as caught:
                await client.request("GET", f"http://a.example:{bound.getsockname()[1]}/")
            assert caught.value.kind == "connect"


async def test_certificate_has_to_be_for_the_name_and_of_a_known_issuer() -> None:
    context, ca = certificate("a.example")
    async with http_server(lambda *_: ok(b"x"), context) as server:
        async with http_client(ca=ca) as client:
            assert (await client.request("GET", f"https://a.example:{server.port}/")).body == b"x"
            with pytest.raises(HttpError, match=r"not valid for the name b\.example") as caught:
                await client.request("GET", f"https://b.example:{server.port}/")
            assert caught.value.kind == "tls"
        for ca in (None, CaConfig(roots="none")):
            async with http_client(ca=ca) as client:
                with pytest.raises(HttpError, match="unknown issuer"):
                    await client.request("GET", f"https://a.example:{server.port}/")
        async with http_client(ca=CaConfig(insecure=True)) as client:
            assert (await client.request("GET", f"https://b.example:{server.port}/")).body == b"x"
        assert len(server.requests) == 2


async def test_root_that_is_none_is_an_error_of_the_option() -> None:
    async with http_client(ca=CaConfig(extra=[b"nonsense"])) as client:
        with pytest.raises(ConfigError, match="root"):
            await client.request("GET", "https://a.example/")


async def test_server_without_tls_is_told() -> None:
    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with http_client() as client:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HttpError, match="does not speak TLS") as caught:
            await client.request("GET", f"https://a.example:{port}/")
        assert caught.value.kind == "tls"
    server.close()
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("url", ["", "a.example", "ftp://a.example/", "mailto:a@b", "http:///"])
async def test_what_is_no_url_is_told(url: str) -> None:
    async with http_client() as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", url)
        assert caught.value.kind == "invalid_url"


async def test_password_in_a_url_is_not_shown() -> None:
    async with http_client() as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", "http://me:secret@no.example/?token=hidden")
        shown = f"{caught.value} {caught.value.url}"
        assert "secret" not in shown and "hidden" not in shown and "no.example" in shown


# --- proxies


class ConnectProxy:
    """A proxy that opens tunnels."""

    def __init__(self, status: str = "200 Here") -> None:
        self.status = status
        self.heads: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        writer.write(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
        if not self.status.startswith("200"):
            writer.close()
            return
        port = int(head.split(" ")[1].rpartition(":")[2])
        there, out = await asyncio.open_connection("127.0.0.1", port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    target.write(data)
            except OSError:
                pass
            finally:
                target.close()

        for work in (pump(reader, out), pump(there, writer)):
            task = asyncio.create_task(work)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)


@asynccontextmanager
async def connect_proxy(
    status: str = "200 Here", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[ConnectProxy, int]]:
    proxy = ConnectProxy(status)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield proxy, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(proxy.tasks):
            task.cancel()
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("tls", [False, True])
async def test_https_goes_through_a_tunnel_of_the_proxy(tls: bool) -> None:
    context, ca = certificate("a.example", "proxy.example")
    names = Names()
    async with http_server(lambda *_: ok(b"x"), context) as server:
        async with connect_proxy(tls=context if tls else None) as (proxy, port):
            scheme = "https" if tls else "http"
            given = Proxy.parse(f"{scheme}://me%40home:p%3Aw@proxy.example:{port}")
            async with http_client(ca=ca, proxy=given, names=names) as client:
                found = await client.request("GET", f"https://a.example:{server.port}/")
                assert found.body == b"x"
            (head,) = proxy.heads
            assert head.startswith(f"CONNECT a.example:{server.port} HTTP/1.1\r\n")
            secret = base64.b64encode(b"me@home:p:w").decode()
            assert f"\r\nproxy-authorization: basic {secret.lower()}\r\n" in head.lower()
            assert secret in head
            # The proxy looks up the server, we the proxy.
            assert set(names.asked) == {"proxy.example"}
            assert "proxy-authorization" not in server.requests[0][2]


async def test_plain_http_is_passed_on_by_the_proxy() -> None:
    async with http_server(lambda *_: ok(b"x")) as proxy:
        async with http_client(proxy=f"http://me:pw@proxy.example:{proxy.port}") as client:
            assert (await client.request("GET", "http://a.example/x")).body == b"x"
        ((method, target, headers, _),) = proxy.requests
        assert (method, target, headers["host"]) == ("GET", "http://a.example/x", "a.example")
        assert headers["proxy-authorization"] == "Basic bWU6cHc="


async def test_proxy_that_refuses_or_is_not_there_is_told() -> None:
    async with connect_proxy("407 Who") as (_, port):
        async with http_client(proxy=f"http://proxy.example:{port}") as client:
            with pytest.raises(HttpError) as caught:
                await client.request("GET", "https://a.example/")
            assert (caught.value.kind, caught.value.status) == ("proxy", 407)
    async with http_client(proxy=f"http://proxy.example:{port}") as client:
        with pytest.raises(HttpError) as caught:
            await client.request("GET", "https://a.example/")
        assert caught.value.kind == "proxy"


async def test_environment_names_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "http_proxy",
        "HTTP_PROXY",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with http_server(lambda *_: ok(b"x")) as server, http_client() as client:
        assert (await client.request("GET", f"http://a.example:{server.port}/")).body == b"x"
