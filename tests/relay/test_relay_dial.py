"""Dialling a relay: URLs, race of addresses, proxies, TLS, the WebSocket upgrade."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import pickle
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from iroh_fast.addr import RelayUrl
from iroh_fast.errors import ConfigError, DialError, RelayClientError, RelayError
from iroh_fast.relay.client import link as link_module
from iroh_fast.relay.client.link import Dialer, Target
from iroh_fast.relay.client.link import RelayLink as Link
from iroh_fast.relay.congestion import connect, prefer_bbr
from iroh_fast.relay.wire import accept_value
from iroh_fast.web import race as race_module
from iroh_fast.web.ca import CaConfig
from iroh_fast.web.proxy import Proxy, proxy_from_env
from iroh_fast.web.tls_files import self_signed

VECTORS = json.loads(
    Path(__file__).parents[1].joinpath("vectors", "relay_frames.json").read_text(encoding="utf-8")
)
HTTP = VECTORS["http"]
ACCEPT = VECTORS["websocket"]["accept"]

V4, V6 = socket.AF_INET, socket.AF_INET6

Run: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]


# --- URLs -------------------------------------------------------------------------


@pytest.mark.parametrize("case", HTTP["observed_request_targets"], ids=lambda c: c["relay_url"])
def test_target_of_a_url_is_what_iroh_asks_for(case: dict[str, str]) -> None:
    target = Target.of(RelayUrl(case["relay_url"]))
    assert (target.path, target.host_header) == (case["target"], case["host"])


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "header", "name"),
    [
        ("https://a.example.", "a.example.", 443, True, "a.example.", "a.example"),
        ("https://a.example.:8443", "a.example.", 8443, True, "a.example.:8443", "a.example"),
        ("http://a.example", "a.example", 80, False, "a.example", "a.example"),
        ("ws://a.example:443", "a.example", 443, False, "a.example:443", "a.example"),
        ("wss://a.example:80", "a.example", 80, True, "a.example:80", "a.example"),
        ("https://[::1]:3340", "::1", 3340, True, "[::1]:3340", "::1"),
        ("https://0x7f.1", "127.0.0.1", 443, True, "127.0.0.1", "127.0.0.1"),
        ("ftp://a.example", "a.example", 443, True, "a.example", "a.example"),
    ],
)
def test_target_scheme_port_and_names(
    url: str, host: str, port: int, tls: bool, header: str, name: str
) -> None:
    target = Target.of(RelayUrl(url))
    assert (target.host, target.port, target.tls) == (host, port, tls)
    assert (target.host_header, target.server_name) == (header, name)


@pytest.mark.parametrize("url", ["foo:bar", "foo://host:1", "mailto:a@b", "file:///x"])
def test_target_without_host_or_port_is_refused(url: str) -> None:
    with pytest.raises(RelayClientError) as caught:
        Target.of(RelayUrl(url))
    assert caught.value.kind == "invalid_relay_url"


# --- race of addresses, on a virtual clock ----------------------------------------


class Net:
    """Scripted resolver and connector; notes when each attempt starts."""

    def __init__(
        self,
        names: dict[socket.AddressFamily, tuple[float, list[str] | Exception]],
        hosts: dict[str, tuple[float, Exception | None]],
    ) -> None:
        self.names = names
        self.hosts = hosts
        self.started: list[tuple[float, str]] = []
        self.open: set[socket.socket] = set()
        self.cancelled: list[str] = []

    async def resolve(self, host: str, port: int, family: socket.AddressFamily) -> list[str]:
        delay, found = self.names.get(family, (0.0, OSError("no such name")))
        await asyncio.sleep(delay)
        if isinstance(found, Exception):
            raise found
        return found

    async def connect(self, ip: str, port: int, family: socket.AddressFamily) -> socket.socket:
        assert family == (V6 if ":" in ip else V4)
        self.started.append((round(asyncio.get_running_loop().time(), 6), ip))
        delay, error = self.hosts[ip]
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self.cancelled.append(ip)
            raise
        if error is not None:
            raise error
        sock = socket.socket(family)
        self.open.add(sock)
        return sock

    async def race(self, *, prefer_ipv6: bool, host: str = "name") -> tuple[float, list[str]]:
        """Time of the end, and which sockets are open then."""
        sock = await race_module.race(
            host, 443, prefer_ipv6=prefer_ipv6, resolve=self.resolve, connect=self.connect
        )
        at = round(asyncio.get_running_loop().time(), 6)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert sock in self.open
        left = [s for s in self.open if s.fileno() != -1]
        assert left == [sock]
        sock.close()
        return at, [ip for _, ip in self.started]


NEVER = (1e9, None)
REFUSED = (0.0, ConnectionRefusedError("refused"))


def test_race_starts_preferred_family_at_once_and_alternates(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1", "1.1.1.2"]), V6: (0.0, ["::1", "::2"])},
        {"1.1.1.1": NEVER, "1.1.1.2": (0.1, None), "::1": NEVER, "::2": NEVER},
    )
    at, _ = virtual(net.race(prefer_ipv6=True))
    assert net.started == [(0.0, "::1"), (0.25, "1.1.1.1"), (0.5, "::2"), (0.75, "1.1.1.2")]
    assert at == 0.85
    assert sorted(net.cancelled) == ["1.1.1.1", "::1", "::2"]


def test_race_prefers_ipv4_when_told(virtual: Run) -> None:
    net = Net({V4: (0.0, ["1.1.1.1"]), V6: (0.0, ["::1"])}, {"1.1.1.1": NEVER, "::1": (0.0, None)})
    assert virtual(net.race(prefer_ipv6=False)) == (0.25, ["1.1.1.1", "::1"])


def test_race_gives_the_preferred_family_50_ms_to_resolve(virtual: Run) -> None:
    net = Net(
        {V4: (0.1, ["1.1.1.1"]), V6: (0.13, ["::1"])}, {"1.1.1.1": NEVER, "::1": (0.01, None)}
    )
    assert virtual(net.race(prefer_ipv6=True)) == (0.14, ["::1"])
    late = Net({V4: (0.1, ["1.1.1.1"]), V6: (0.2, ["::1"])}, {"1.1.1.1": NEVER, "::1": (0.0, None)})
    virtual(late.race(prefer_ipv6=True))
    assert late.started == [(0.15, "1.1.1.1"), (0.4, "::1")]


def test_race_does_not_wait_for_a_family_that_does_not_resolve(virtual: Run) -> None:
    net = Net({V4: (0.0, ["1.1.1.1"]), V6: (0.02, OSError("none"))}, {"1.1.1.1": (0.0, None)})
    virtual(net.race(prefer_ipv6=True))
    assert net.started == [(0.02, "1.1.1.1")]


def test_race_goes_on_at_once_when_no_attempt_is_under_way(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1", "1.1.1.2", "1.1.1.3"])},
        {"1.1.1.1": REFUSED, "1.1.1.2": (0.1, OSError("x")), "1.1.1.3": (0.0, None)},
    )
    virtual(net.race(prefer_ipv6=False))
    assert net.started == [(0.0, "1.1.1.1"), (0.0, "1.1.1.2"), (0.1, "1.1.1.3")]


def test_race_keeps_the_stagger_while_another_attempt_lives(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1", "1.1.1.2", "1.1.1.3"])},
        {"1.1.1.1": NEVER, "1.1.1.2": REFUSED, "1.1.1.3": (0.0, None)},
    )
    virtual(net.race(prefer_ipv6=False))
    assert net.started == [(0.0, "1.1.1.1"), (0.25, "1.1.1.2"), (0.5, "1.1.1.3")]


def test_race_takes_addresses_that_resolve_late(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1"]), V6: (2.0, ["::1"])}, {"1.1.1.1": REFUSED, "::1": (0.0, None)}
    )
    virtual(net.race(prefer_ipv6=False))
    assert net.started == [(0.0, "1.1.1.1"), (2.0, "::1")]


def test_race_each_attempt_has_its_own_limit(virtual: Run) -> None:
    net = Net({V4: (0.0, ["1.1.1.1", "1.1.1.2"])}, {"1.1.1.1": NEVER, "1.1.1.2": NEVER})

    async def main() -> float:
        with pytest.raises(DialError) as caught:
            await net.race(prefer_ipv6=False)
        assert caught.value.kind == "timeout"
        return asyncio.get_running_loop().time()

    assert virtual(main()) == pytest.approx(1.75)
    assert net.cancelled == ["1.1.1.1", "1.1.1.2"]


def test_race_reports_the_last_failure(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1", "1.1.1.2"])},
        {"1.1.1.1": REFUSED, "1.1.1.2": (0.0, OSError("no route"))},
    )
    with pytest.raises(DialError, match="no route") as caught:
        virtual(net.race(prefer_ipv6=False))
    assert caught.value.kind == "io" and isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("delay", [0.0, 1e6])
def test_race_without_any_address_is_a_dns_error(virtual: Run, delay: float) -> None:
    net = Net({V4: (delay, OSError("none")), V6: (delay, OSError("none"))}, {})

    async def main() -> float:
        with pytest.raises(DialError) as caught:
            await net.race(prefer_ipv6=False)
        assert caught.value.kind == "dns"
        return asyncio.get_running_loop().time()

    assert virtual(main()) == (3.0 if delay else 0.0)


def test_race_resolves_no_literals_and_ignores_double_and_surplus_addresses(virtual: Run) -> None:
    net = Net({}, {"::1": (0.0, None)})
    assert virtual(net.race(prefer_ipv6=False, host="::1")) == (0.0, ["::1"])
    many = [f"1.1.{i // 250}.{i % 250}" for i in range(1000)]
    net = Net({V4: (0.0, many)}, dict.fromkeys(many, REFUSED))
    with pytest.raises(DialError):
        virtual(net.race(prefer_ipv6=False))
    assert len(net.started) == race_module.MAX_ADDRESSES
    net = Net({V4: (0.0, ["1.1.1.1"] * 5)}, {"1.1.1.1": REFUSED})
    with pytest.raises(DialError):
        virtual(net.race(prefer_ipv6=False))
    assert len(net.started) == 1


def test_race_two_winners_at_once_leave_one_socket(virtual: Run) -> None:
    net = Net(
        {V4: (0.0, ["1.1.1.1"]), V6: (0.0, ["::1"])}, {"1.1.1.1": (0.5, None), "::1": (0.25, None)}
    )
    at, _ = virtual(net.race(prefer_ipv6=False))
    assert at == 0.5


def test_race_cancelled_leaves_nothing(virtual: Run) -> None:
    net = Net({V4: (0.0, ["1.1.1.1"]), V6: (1.0, ["::1"])}, {"1.1.1.1": NEVER, "::1": NEVER})

    async def main() -> set[asyncio.Task[object]]:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.6):
                await net.race(prefer_ipv6=False)
        await asyncio.sleep(0.01)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert virtual(main()) == set()
    assert net.cancelled == ["1.1.1.1"] and net.open == set()


# --- proxies ----------------------------------------------------------------------


def test_proxy_is_taken_from_the_environment_in_order() -> None:
    names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"]
    environ = {name: f"http://proxy{index}:{3000 + index}" for index, name in enumerate(names)}
    for index, name in enumerate(names):
        found = proxy_from_env(environ)
        assert found is not None and found.host == f"proxy{index}"
        environ[name] = ""
    assert proxy_from_env(environ) is None


def test_proxy_from_the_environment_skips_cgi_input_and_nonsense() -> None:
    environ = {
        "HTTP_PROXY": "http://evil:1",
        "REQUEST_METHOD": "GET",
        "https_proxy": "http://good:2",
    }
    found = proxy_from_env(environ)
    assert found is not None and found.host == "good"
    environ = {"HTTP_PROXY": "localhost:3128", "http_proxy": "http://", "HTTPS_PROXY": "https://p"}
    found = proxy_from_env(environ)
    assert found == Proxy("p", 443, True)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://p", Proxy("p", 80, False)),
        ("http://p:8080/ignored?x", Proxy("p", 8080, False)),
        ("https://p.", Proxy("p.", 443, True)),
        ("socks5://p:1080", Proxy("p", 1080, True)),
        ("http://u:p%40%3A@p", Proxy("p", 80, False, "Basic dTpwQDo=")),
        ("http://u@p", Proxy("p", 80, False, "Basic dTo=")),
        # Standard alphabet with padding, not the one for URLs.
        ("http://%3E%3E%3E:%3F%3F@p", Proxy("p", 80, False, "Basic Pj4+Oj8/")),
        ("http://:pw@p", Proxy("p", 80, False)),
        ("http://[::1]:9", Proxy("::1", 9, False)),
    ],
)
def test_proxy_url(text: str, proxy: Proxy) -> None:
    assert Proxy.parse(text) == proxy


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("p:80x", "proxy_invalid_url"),
        ("", "proxy_invalid_url"),
        ("file:///x", "proxy_invalid_url"),
        ("socks5://secret:word@p", "proxy_invalid_target_port"),
    ],
)
def test_proxy_url_that_cannot_be_used(text: str, kind: str) -> None:
    with pytest.raises(DialError) as caught:
        Proxy.parse(text)
    assert caught.value.kind == kind
    assert "secret" not in str(caught.value)


def test_proxy_hides_its_password() -> None:
    assert "Basic" not in repr(Proxy.parse("http://u:pw@p"))


# --- upgrade ----------------------------------------------------------------------


def test_upgrade_request_is_the_one_iroh_sends() -> None:
    wanted = HTTP["observed_client_request"]
    key = base64.b64decode(wanted.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0])
    target = Target.of(RelayUrl("http://127.0.0.1:38341"))
    assert link_module.upgrade_request(target, key, "tok-1") == wanted.encode()
    without = wanted.replace("authorization: Bearer tok-1\r\n", "")
    assert link_module.upgrade_request(target, key, None) == without.encode()


KEY = base64.b64decode(ACCEPT["key"])
GOOD = {
    "upgrade": "websocket",
    "sec-websocket-accept": ACCEPT["accept"],
    "sec-websocket-protocol": "iroh-relay-v2",
    "connection": "upgrade",
}


def response(status: str = "101 Switching Protocols", **headers: str | None) -> bytes:
    merged = {**GOOD, **{name.replace("_", "-"): value for name, value in headers.items()}}
    lines = [f"{name}: {value}" for name, value in merged.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines]).encode()


@pytest.mark.parametrize(
    ("head", "version"),
    [
        (response(), 2),
        (response(sec_websocket_protocol="iroh-relay-v1"), 1),
        (response(upgrade=None, connection=None), 2),
        (response("101"), 2),
        (response(**{f"x{i}": "y" for i in range(60)}), 2),
        (response().replace(b"sec-websocket-accept: ", b"SEC-WebSocket-Accept:\t "), 2),
    ],
)
def test_upgrade_answer_is_accepted(head: bytes, version: int) -> None:
    assert link_module.check_upgrade(head, KEY) == version


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (response("200 OK"), "unexpected_upgrade_status"),
        (response("400 Bad Request"), "unexpected_upgrade_status"),
        (response("301 Moved", location="http://other/"), "unexpected_upgrade_status"),
        (response(sec_websocket_accept=None), "websocket"),
        (response(sec_websocket_accept="AAAA"), "websocket"),
        (response(sec_websocket_protocol=None), "bad_version_header"),
        (response(sec_websocket_protocol="IROH-RELAY-V2"), "bad_version_header"),
        (response(sec_websocket_protocol="iroh-relay-v2, iroh-relay-v1"), "bad_version_header"),
        (response(**{f"x{i}": "y" for i in range(61)}), "websocket"),
        (response() + b"\r\nno colon", "websocket"),
        (response() + b"\r\n folded: x", "websocket"),
        (response() + b"\r\nx: a\0b", "websocket"),
        (b"SSH-2.0-OpenSSH", "websocket"),
        (b"HTTP/2 101 x", "websocket"),
        (b"HTTP/1.1 1010 x", "websocket"),
        (b"", "websocket"),
    ],
)
def test_upgrade_answer_is_refused(head: bytes, kind: str) -> None:
    with pytest.raises(RelayClientError) as caught:
        link_module.check_upgrade(head, KEY)
    assert caught.value.kind == kind


@given(st.one_of(st.binary(), st.binary().map(lambda tail: response() + b"\r\n" + tail)))
def test_any_head_is_parsed_or_refused(head: bytes) -> None:
    try:
        version = link_module.check_upgrade(head, KEY)
    except RelayClientError as err:
        assert err.kind in ("websocket", "unexpected_upgrade_status", "bad_version_header")
    else:
        assert version in (1, 2)


@given(tail=st.binary(max_size=50), cuts=st.lists(st.integers(1, 60), max_size=30))
def test_head_is_found_in_any_chunks(tail: bytes, cuts: list[int]) -> None:
    async def main() -> None:
        link = Link()
        stream = response() + b"\r\n\r\n" + tail
        reading = asyncio.create_task(link.read_head())
        sizes = iter(cuts)
        while stream:
            size = next(sizes, 4096)
            link.get_buffer(-1)[: len(stream[:size])] = stream[:size]
            link.buffer_updated(len(stream[:size]))
            stream = stream[size:]
            await asyncio.sleep(0)
        assert await reading == response()
        assert link.take_rest() == tail and link.take_rest() == b""

    asyncio.run(main())


def test_error_keeps_its_facts_when_pickled() -> None:
    error = RelayClientError("handshake", "no", url="https://a/", status=400, denied_reason="who?")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, RelayError)
    assert (again.kind, str(again), again.url) == ("handshake", "no", "https://a/")
    assert (again.status, again.denied_reason) == (400, "who?")


# --- on loopback ------------------------------------------------------------------

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listen(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A scripted server; errors of the handler fail the test."""
    failures: list[BaseException] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as err:
            failures.append(err)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert failures == []


async def read_request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines)


async def upgrade(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str]:
    first, headers = await read_request(reader)
    assert first.startswith("GET /relay")
    accept = accept_value(headers["Sec-WebSocket-Key"].encode())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nsec-websocket-protocol: iroh-relay-v2\r\n"
        b"sec-websocket-accept: " + accept.encode() + b"\r\n\r\n"
    )
    return headers


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await upgrade(reader, writer)
    writer.write(b"hello")
    assert await reader.read(100) == b"world"
    writer.write(b"bye")


async def talk(dialer: Dialer, url: str, auth_token: str | None = None) -> Link:
    """Open a link and exchange a word with `relay`."""
    link = Link()
    await dialer.open(RelayUrl(url), link, auth_token=auth_token)
    assert link.version == 2 and link.transport is not None
    got = link.take_rest()
    link.transport.write(b"world")
    while not got.endswith(b"bye"):
        await asyncio.sleep(0.001)
        got += link.take_rest()
    assert got == b"hellobye"
    link.transport.close()
    await asyncio.wait_for(link.lost, 60)
    return link


@pytest.fixture(scope="module")
def certificate() -> tuple[str, str]:
    """PEM of a self-signed certificate for localhost and 127.0.0.1, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test relay")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode(), key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def server_context(certificate: tuple[str, str], tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = tmp_path / "pair.pem"
    path.write_text("".join(certificate))
    context.load_cert_chain(path)
    return context


async def test_open_reaches_a_plain_relay_and_sends_the_token() -> None:
    seen = {}

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.update(await upgrade(reader, writer))
        writer.write(b"hello")
        await reader.readexactly(5)
        writer.write(b"bye")

    async with listen(handler) as port:
        await talk(Dialer(), f"http://localhost.:{port}", "a b")
    assert seen["Host"] == f"localhost.:{port}"
    assert seen["authorization"] == "Bearer a b"


async def test_open_checks_the_certificate(
    certificate: tuple[str, str], server_context: ssl.SSLContext
) -> None:
    trusting = Dialer(ca=CaConfig(roots="none", extra=[certificate[0]]))
    der = ssl.PEM_cert_to_DER_cert(certificate[0])
    async with listen(relay, server_context) as port:
        # The dot stays in Host and goes from the name in the certificate.
        await talk(trusting, f"https://localhost.:{port}")
        await talk(trusting, f"https://127.0.0.1:{port}")
        await talk(Dialer(ca=CaConfig(extra=[der])), f"https://localhost:{port}")
        await talk(Dialer(ca=CaConfig(insecure=True)), f"https://localhost:{port}")
        context = ssl.create_default_context(cadata=certificate[0])
        await talk(Dialer(ca=context), f"https://localhost:{port}")
        for ca in (None, CaConfig(roots="system"), CaConfig(roots="none")):
            with pytest.raises(RelayClientError) as caught:
                await talk(Dialer(ca=ca), f"https://localhost:{port}")
            assert caught.value.kind == "tls"
            assert caught.value.url == f"https://localhost:{port}/"


async def test_open_refuses_a_certificate_of_another_name(
    certificate: tuple[str, str], server_context: ssl.SSLContext
) -> None:
    async def elsewhere(host: str, port: int, family: socket.AddressFamily) -> list[str]:
        if family == V6:
            raise OSError("none")
        return ["127.0.0.1"]

    dialer = Dialer(ca=CaConfig(extra=[certificate[0]]), resolve=elsewhere)
    async with listen(relay, server_context) as port:
        with pytest.raises(RelayClientError) as caught:
            await talk(dialer, f"https://other.example:{port}")
        assert caught.value.kind == "tls"
        label = "a" * 64
        with pytest.raises(RelayClientError) as caught:
            await talk(dialer, f"https://{label}.example:{port}")
        assert caught.value.kind == "invalid_tls_servername"


@pytest.mark.parametrize(
    "ca",
    [CaConfig(extra=[b"\0"]), CaConfig(extra=["x"])],
)
def test_ca_config_that_cannot_be_used(ca: CaConfig) -> None:
    with pytest.raises(ConfigError):
        ca.context()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "unexpected_upgrade_status"),
        (b"HTTP/1.1 101 x\r\n", "websocket"),
        (b"", "websocket"),
        (b"x" * 100_000, "websocket"),
        (b"\r\n\r\n", "websocket"),
    ],
)
async def test_open_with_a_server_that_is_no_relay(answer: bytes, kind: str) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()

    async with listen(handler) as port:
        link = Link()
        with pytest.raises(RelayClientError) as caught:
            await Dialer().open(RelayUrl(f"http://127.0.0.1:{port}"), link)
        await asyncio.wait_for(link.lost, 60)
    assert caught.value.kind == kind
    if kind == "unexpected_upgrade_status":
        assert caught.value.status == 401


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("issuer", "unknown issuer"),
        ("name", "not valid for the name localhost"),
        ("expired", "has expired"),
        ("early", "not valid yet"),
        ("plain", "does not speak TLS"),
    ],
)
async def test_open_says_what_is_wrong_with_a_certificate(
    tmp_path: Path, fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            years = {"expired": -3, "early": 3}.get(fault, 0)
            return super().now(tz) + datetime.timedelta(days=365 * years)

    with monkeypatch.context() as patch:
        patch.setattr(
            "iroh_fast.web.tls_files.datetime",
            SimpleNamespace(
                datetime=Shifted, timedelta=datetime.timedelta, timezone=datetime.timezone
            ),
        )
        cert, key = self_signed(["other.example"] if fault == "name" else ["localhost"])
    (tmp_path / "c.pem").write_bytes(cert)
    (tmp_path / "k.pem").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if fault == "plain":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    ca = CaConfig(roots="none", extra=() if fault == "issuer" else [cert.decode()])
    async with listen(handler, None if fault == "plain" else context) as port:
        with pytest.raises(RelayClientError, match=words) as caught:
            await Dialer(ca=ca).open(RelayUrl(f"https://localhost:{port}"), Link())
    assert caught.value.kind == "tls"


async def test_open_with_a_token_unfit_for_a_header_dials_nobody() -> None:
    async def connect(ip: str, port: int, family: socket.AddressFamily) -> socket.socket:
        raise AssertionError("dialled")

    with pytest.raises(RelayClientError) as caught:
        await Dialer(connect=connect).open(RelayUrl("http://1.1.1.1"), Link(), auth_token="a\nb")
    assert caught.value.kind == "invalid_auth_token"


async def test_open_cancelled_closes_the_connection() -> None:
    ended = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        try:
            await reader.read()
        finally:
            ended.set()

    async with listen(handler) as port:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await Dialer().open(RelayUrl(f"http://127.0.0.1:{port}"), Link())
        await asyncio.wait_for(ended.wait(), 60)


def tunnel(requests: list[tuple[str, dict[str, str]]], answer: bytes) -> Handler:
    """A proxy that answers CONNECT with `answer` and then joins both sides."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        requests.append(request)
        host, _, port = request[0].split()[1].rpartition(":")
        writer.write(answer)
        if b" 200 " not in answer:
            await writer.drain()
            return
        far_reader, far_writer = await asyncio.open_connection(host.rstrip("."), int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        try:
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        finally:
            far_writer.close()

    return handler


@pytest.mark.parametrize("relay_tls", [False, True])
@pytest.mark.parametrize("proxy_tls", [False, True])
async def test_open_through_a_proxy(
    certificate: tuple[str, str], server_context: ssl.SSLContext, proxy_tls: bool, relay_tls: bool
) -> None:
    requests: list[tuple[str, dict[str, str]]] = []
    ok = b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n"
    async with (
        listen(relay, server_context if relay_tls else None) as port,
        listen(tunnel(requests, ok), server_context if proxy_tls else None) as proxy_port,
    ):
        scheme = "https" if proxy_tls else "http"
        dialer = Dialer(
            ca=CaConfig(extra=[certificate[0]]), proxy=f"{scheme}://u:p@localhost.:{proxy_port}"
        )
        await talk(dialer, f"{'https' if relay_tls else 'http'}://localhost.:{port}/")
    first, headers = requests[0]
    assert first == f"CONNECT localhost.:{port} HTTP/1.1"
    assert headers == {
        "Host": "localhost.",
        "Proxy-Connection": "Keep-Alive",
        "Proxy-Authorization": "Basic dTpw",
    }


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy_connect_invalid_status"),
        (b"HTTP/1.0 302 Found\r\n\r\n", "proxy_connect_invalid_status"),
        (b"HTTP/1.1 2", "proxy_connect"),
        (b"nonsense\r\n\r\n", "proxy_connect"),
        (b"", "proxy_connect"),
    ],
)
async def test_open_through_a_proxy_that_refuses(answer: bytes, kind: str) -> None:
    async with listen(tunnel([], answer)) as proxy_port:
        dialer = Dialer(proxy=f"http://127.0.0.1:{proxy_port}")
        with pytest.raises(RelayClientError) as caught:
            await dialer.open(RelayUrl("https://[::1]:1/"), Link())
    assert caught.value.kind == kind


async def test_open_through_a_proxy_bytes_after_the_head_belong_to_the_tunnel() -> None:
    async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, _ = await read_request(reader)
        assert first == "CONNECT [::1]:1 HTTP/1.1"
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with listen(eager) as port:
        dialer = Dialer(proxy=f"http://127.0.0.1:{port}")
        for url, kind in (("http", "unexpected_upgrade_status"), ("https", "proxy_connect")):
            with pytest.raises(RelayClientError) as caught:
                await dialer.open(RelayUrl(f"{url}://[::1]:1"), Link())
            assert caught.value.kind == kind


def test_ca_context_has_the_profile_of_iroh() -> None:
    context = CaConfig().context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] > 100
    assert CaConfig(roots="none").context().cert_store_stats()["x509_ca"] == 0


def congestion(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0")


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="nothing to choose here")
async def test_connections_to_relays_and_those_they_accept_take_bbr_where_it_can_be_chosen() -> (
    None
):
    with socket.socket() as plain:
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
            expected = b"bbr"
        except OSError:
            expected = congestion(plain)
    with socket.create_server(("127.0.0.1", 0)) as server:
        prefer_bbr(server)
        sock = await connect("127.0.0.1", server.getsockname()[1], socket.AF_INET)
        with sock, server.accept()[0] as accepted:
            assert congestion(sock) == congestion(accepted) == expected


async def test_a_system_that_does_not_let_us_choose_is_left_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    prefer_bbr(SimpleNamespace(setsockopt=refuse))  # type: ignore[arg-type]
    monkeypatch.delattr(socket, "TCP_CONGESTION", raising=False)
    with socket.socket() as sock:
        prefer_bbr(sock)
