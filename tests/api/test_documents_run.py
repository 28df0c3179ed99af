"""Python in the documents does what the text around it says, on both loops."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import logging
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import complaints

import iroh_fast
from iroh_fast import Connection, Endpoint, EndpointAddr, EndpointId, PathTuple, SecretKey, presets
from iroh_fast.dns_server import DnsServer
from iroh_fast.lookup import MdnsLookup, MemoryLookup, PkarrPublisher
from iroh_fast.relay import RelayServer
from tests.lab import missing
from tests.lab.lan import Lan, entered
from tests.net.reports import our_relay, trusting

from .conftest import ENV, Bind, Pair

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [page for page in PAGES if page.exists()]  # a copy of the tests alone has none
ALPN = b"my-protocol/1"

pytestmark = pytest.mark.source_tree


def blocks() -> Iterator[tuple[str, str]]:
    """Page and heading of each block of Python, and its text."""
    for page in PAGES:
        heading = ""
        for found in re.finditer(
            r"^## ([^\n]+)|^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S
        ):
            if found[1]:
                heading = found[1]
            else:
                yield f"{page.name}: {heading}", textwrap.dedent(found[2])


BLOCKS: dict[str, list[str]] = {}
for place, text in blocks():
    BLOCKS.setdefault(place, []).append(text)


def quiet(text: str) -> str:
    """A program without number 0's servers."""
    return re.sub(r"Endpoint\.bind\((?=\)?)", "Endpoint.bind(preset=presets.minimal, ", text)


async def run(place: str, number: int = 0, /, **names: Any) -> dict[str, Any]:
    """Execute a block with some names defined, as a reader's program would; returns all names."""
    scope: dict[str, Any] = {"asyncio": asyncio, "presets": iroh_fast.presets, **names}
    text = quiet(BLOCKS[place][number])
    work = eval(compile(text, place, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), scope)
    if work is not None:
        await work
    return scope


TESTED = {
    "README.md: Paths": 1,
    "README.md: What it looks like": 1,
    "api.md: Identity": 1,
    "api.md: Bind": 2,
    "api.md: Dial": 1,
    "api.md: Accept": 2,
    "api.md: Datagrams": 1,
    "api.md: Cancellation": 1,
    "api.md: 0-RTT": 1,
    "api.md: Relays": 1,
    "api.md: Tuning": 1,
    "dns_server.md: Try it": 1,
    "dns_server.md: In your program": 1,
    "links.md: What to change": 1,
    "logging.md: The log": 1,
    "logging.md: Events": 1,
    "lookup.md: What the program knows": 1,
    "lookup.md: On the local network": 1,
    "lookup.md: DNS and pkarr relays": 1,
    "lookup.md: Name servers": 1,
    "lookup.md: Options": 1,
    "lookup.md: What is published": 1,
    "lookup.md: BitTorrent's DHT": 1,
    "lookup.md: A service of your own": 1,
    "paths.md: Choose": 1,
    "paths.md: Insist": 2,
    "paths.md: See which path is used": 1,
    "paths.md: Transports of your own": 1,
    "net_report.md: Following it": 1,
    "relay.md: In your program": 1,
    "relay.md: Endpoints and relays": 1,
}


def test_every_block_is_run_here() -> None:
    assert {place: len(found) for place, found in BLOCKS.items()} == TESTED


@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
def test_readme_program_runs_on_both_loops(runner: str) -> None:
    pytest.importorskip(runner)
    text = quiet(BLOCKS["README.md: What it looks like"][0])
    text = text.replace("asyncio.run(", f"{runner}.run(")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", f"import {runner}\nfrom iroh_fast import presets\n{text}"],
        capture_output=True,
        text=True,
        timeout=60,
        env=ENV,
    )
    assert (done.stdout, complaints(done.stderr)) == ("b'Hello, world!'\n", "")


# --- api.md -------------------------------------------------------------------------------


async def serving(ep: Endpoint) -> None:
    """Accept whoever comes, until the endpoint is closed."""
    held = [conn async for conn in ep.connections()]
    for conn in held:
        conn.close()


async def test_api_identity_and_bind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    other = SecretKey.generate().public
    for form in (str(other), f"{other:b32}"):
        scope = await run("api.md: Identity", text=form)
        assert scope["peer"] == other
    file = tmp_path / "my.key"
    assert (await run("api.md: Identity", text=str(other)))["key"] == scope["key"]
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600
    names = await run("api.md: Bind", key=scope["key"])
    ticket = iroh_fast.EndpointTicket.parse(capsys.readouterr().out.strip())
    assert ticket.addr.id == scope["key"].public == names["ep"].id
    assert names["ep"].closed


async def test_api_port_mapping() -> None:
    ep = (await run("api.md: Bind", 1, Endpoint=Endpoint))["ep"]
    async with ep:
        assert "portmap:mapping_attempts" in ep.metrics.snapshot()


async def test_api_dial(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    task = asyncio.create_task(serving(server))
    scope = await run("api.md: Dial", ep=client, ticket=server.ticket, addr=server.addr)
    conn = scope["conn"]
    assert isinstance(conn, Connection) and conn.remote_id == server.id
    conn.close()
    await server.close()
    await task


async def test_api_accept_with_a_router(bind: Bind) -> None:
    server, client = await bind(), await bind()
    stop = asyncio.Event()
    task = asyncio.create_task(run("api.md: Accept", 0, ep=server, stop=stop))
    async with client.connect(server.addr, ALPN) as conn:
        async with conn.open_uni() as send:
            await send.write_all(b"x")
    stop.set()
    await task
    assert server.closed


async def test_api_accept_without_a_router(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    served: list[EndpointId] = []

    async def serve(conn: Connection) -> None:
        served.append(conn.remote_id)
        await conn.wait_closed()

    task = asyncio.create_task(run("api.md: Accept", 1, ep=server, serve=serve))
    for _ in range(3):
        async with client.connect(server.addr, ALPN):
            pass
    while len(served) < 3:
        await asyncio.sleep(0.01)
    await server.close()
    await task
    assert served == [client.id] * 3


async def test_api_datagrams(pair: Pair) -> None:
    task = asyncio.create_task(run("api.md: Datagrams", conn=pair.client, data=b"x"))
    for _ in range(2):
        pair.server.send_datagram(await pair.server.read_datagram())
    await asyncio.sleep(0.05)
    pair.server.close()  # ends the loop
    assert (await task)["data"] == b"x"


async def test_api_cancellation(pair: Pair) -> None:
    send = await pair.client.open_uni()
    await send.write_all(bytes(1000))
    scope = await run("api.md: Cancellation", recv=await pair.server.accept_uni())
    assert scope["data"] == bytes(1000)


async def test_api_early_data(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    task = asyncio.create_task(serving(server))
    names = {"ep": client, "addr": server.addr, "alpn": ALPN, "request": b"request"}
    scope = await run("api.md: 0-RTT", **names)
    assert scope["early"] is None  # nobody was there before
    async with await scope["connecting"]:
        await asyncio.sleep(0.05)  # the ticket comes after the handshake
    scope = await run("api.md: 0-RTT", **names)
    assert scope["status"].accepted and scope["send"].is_0rtt
    scope["status"].connection.close()
    await server.close()
    await task


async def test_api_tuning() -> None:
    scope = await run("api.md: Tuning")
    assert scope["fast"].stream_receive_window == 8 << 20
    await scope["ep"].close()
    await scope["server"].close()


async def test_links_controller() -> None:
    scope = await run("links.md: What to change")
    assert scope["courteous"].congestion_controller == "cubic"
    await scope["ep"].close()


# --- logging.md ---------------------------------------------------------------------------


def documented_lines() -> list[str]:
    """Regular expressions of the lines of the log that the page shows."""
    page = (ROOT / "docs" / "logging.md").read_text("utf-8")
    (shown,) = re.findall(r"^```\n(INFO .*?)^```", page, re.M | re.S)
    found = []
    for line in shown.splitlines():
        expected = re.escape(line)
        expected = re.sub(r"\b[0-9a-f]{10}\b", "[0-9a-f]{10}", expected)
        expected = re.sub(r"ip:[\d\\.]+:\d+", r"ip:\\S+:\\d+", expected)
        expected = re.sub(r"(bound\\ to\\ ).*$", r"\1\\S+:\\d+(, \\S+:\\d+)*", expected)
        expected = re.sub(r"(connection\\ )\d+", r"\1\\d+", expected)
        found.append(re.sub(r"\d+(\\ bytes\\ sent,\\ )\d+", r"\\d+\1\\d+", expected))
    return found


async def test_log_has_the_lines_that_the_page_shows(
    bind: Bind, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("iroh_fast", "iroh_fast.endpoint")
    before = [logging.getLogger(name).level for name in names]
    try:
        await run("logging.md: The log")
        assert logging.getLogger("iroh_fast.endpoint").getEffectiveLevel() == logging.INFO
        alpn = b"x/1"
        server, client = await bind(), await bind()

        async def fails(conn: Connection) -> None:
            raise LookupError

        async def waits(conn: Connection) -> None:
            await conn.wait_closed()

        async with iroh_fast.Router(server, {alpn: waits, b"fails": fails}):
            async with client.connect(server.addr, alpn):
                pass
            async with client.connect(server.addr, b"fails") as conn:
                await conn.wait_closed()
            with pytest.raises(iroh_fast.errors.AlpnMismatch):
                await client.connect(server.addr, b"other")
    finally:
        for name, level in zip(names, before, strict=True):
            logging.getLogger(name).setLevel(level)
    lines = [f"{one.levelname} {one.name}: {one.getMessage()}" for one in caplog.records]
    expected = documented_lines()
    assert len(expected) == 6
    for pattern in expected:
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    assert all(re.match(r"[0-9a-f]{10}: ", one.getMessage()) for one in caplog.records)


async def test_events_of_the_page_arrive(bind: Bind) -> None:
    server, client = await bind(alpns=[ALPN]), await bind()
    page = (ROOT / "docs" / "logging.md").read_text("utf-8")
    events = {name: getattr(iroh_fast, name) for name in iroh_fast.events.__all__}  # type: ignore[attr-defined]
    kinds = {
        name for name, kind in events.items() if isinstance(kind, type) and name != "EndpointEvents"
    }
    assert kinds <= set(re.findall(r"\b\w+\b", page)), "an event that the page does not name"
    names: dict[str, Any] = {"asyncio": asyncio, "ep": client, **events}
    code = compile(BLOCKS["logging.md: Events"][0], "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    task = asyncio.ensure_future(eval(code, names))
    accepting = asyncio.create_task(serving(server))
    await asyncio.sleep(0)
    async with client.connect(server.addr, ALPN):
        pass
    with pytest.raises(iroh_fast.errors.AlpnMismatch) as failed:
        await client.connect(server.addr, b"other")
    await asyncio.sleep(0.05)
    await client.close()
    await task
    assert names["peer"] == server.id and names["path"] is not None
    assert names["reason"].kind == "locally_closed" and names["stats"].udp_tx.bytes > 0
    assert str(names["error"]) == str(failed.value)
    await server.close()
    await accepting


async def test_api_home_policy() -> None:
    pytest.importorskip("blake3", reason="needs the relay extra")
    async with iroh_fast.relay.RelayServer() as one, iroh_fast.relay.RelayServer() as two:
        scope = await run("api.md: Relays", relay_urls=[one.url, two.url])
        async with scope["ep"] as ep:
            await ep.online()
            assert ep.addr.relay_urls == (two.url,)


# --- paths.md -----------------------------------------------------------------------------


async def test_paths_to_see_and_to_insist_on(
    bind: Bind, capsys: pytest.CaptureFixture[str]
) -> None:
    async with RelayServer() as relay:
        server = await bind(alpns=[ALPN], relays=[relay.url])
        client = await bind(relays=[relay.url])
        accepting = asyncio.create_task(serving(server))
        await asyncio.gather(server.online(), client.online())
        async with client.connect(server.addr, ALPN) as conn:
            await conn.direct(timeout=30)
            await run("paths.md: See which path is used", conn=conn)
            shown = capsys.readouterr().out.splitlines()
            assert shown[0] == "direct" and any(line.endswith(" selected") for line in shown[1:])
            scope = await run("paths.md: Insist", conn=conn, ep=client, addr=server.addr)
            assert scope["path"].is_ip
            scope["direct"].close()
        relayed = scope["relayed"]
        assert relayed.why_relayed() == "it was dialed with relay_only"
        watch = await run("paths.md: Insist", 1)
        async with asyncio.timeout(30):
            await watch["stay_direct"](relayed)
        assert relayed.close_reason is not None
        await server.close()
        await accepting


async def test_readme_paths(
    bind: Bind, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = await bind(alpns=[ALPN])
    accepting = asyncio.create_task(serving(server))
    async with Endpoint.bind(
        preset=presets.minimal, address_lookup=[MemoryLookup([server.addr])]
    ) as client:
        # As with number 0's lookup, which nobody asks here.
        monkeypatch.setattr(Endpoint, "bind", lambda **_: contextlib.nullcontext(client))
        await run("README.md: Paths", endpoint_id=server.id, ALPN=ALPN, Endpoint=Endpoint)
    assert "is_selected=True" in (shown := capsys.readouterr().out) and shown.endswith("None\n")
    await server.close()
    await accepting


async def test_paths_chosen_by_a_function(bind: Bind) -> None:
    scope = await run("paths.md: Choose")
    async with scope["ep"] as client:
        server = await bind(alpns=[ALPN])
        accepting = asyncio.create_task(serving(server))
        async with client.connect(server.addr, ALPN) as conn:
            path = await conn.direct(timeout=30)
            assert str(path.remote_addr).startswith("ip:127.")
        await server.close()
        await accepting
    four, six = PathTuple("ipv4", path.remote_addr), PathTuple("ipv6", path.remote_addr)
    assert scope["ipv4_first"](six, [(six, 0.001), (four, 0.2)]) == four
    assert scope["ipv4_first"](six, []) is None


async def test_paths_over_a_transport_of_your_own() -> None:
    scope = await run("paths.md: Transports of your own")
    client, server = scope["client"], scope["server"]
    accepting = asyncio.create_task(serving(server))
    async with client.connect(EndpointAddr(server.id, server.custom_addrs), ALPN) as conn:
        assert conn.paths[0].remote_addr == server.custom_addrs[0]
        assert server.custom_addrs[0] in scope["addr"].addrs
    await asyncio.gather(client.close(), server.close(), accepting)


# --- net_report.md ------------------------------------------------------------------------


async def test_net_reports_are_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "net_report.md: Following it"
    told = BLOCKS[place][0].replace("relays=", "ca=ca, relays=")
    monkeypatch.setitem(BLOCKS, place, [told])
    async with our_relay(tmp_path) as relay:
        following = asyncio.create_task(run(place, relay_urls=[relay], ca=trusting()))
        seen = ""
        async with asyncio.timeout(60):
            while relay.url not in seen:
                seen += capsys.readouterr().out
                await asyncio.sleep(0.02)
        following.cancel()
        await asyncio.wait({following})
        assert following.cancelled() and "127.0.0.1" in seen


# --- lookup.md ----------------------------------------------------------------------------


async def test_lookup_in_memory_and_by_hand(bind: Bind, capsys: pytest.CaptureFixture[str]) -> None:
    server = await bind(alpns=[ALPN])
    task = asyncio.create_task(serving(server))
    scope = await run(
        "lookup.md: What the program knows", ticket=server.ticket, endpoint_id=server.id
    )
    assert scope["conn"].remote_id == server.id and scope["ep"].closed
    client = await bind(address_lookup=[scope["friends"]])
    await run("lookup.md: Options", ep=client, endpoint_id=server.id)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == " ".join(["memory_lookup", *map(str, server.addr.addrs)])
    await server.close()
    await task


@pytest.mark.lab
async def test_lookup_on_the_local_network() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with Lan(1) as lan, entered(lan.hosts[0]):
        scanner = await Endpoint.bind(
            preset=presets.minimal,
            alpns=[ALPN],
            address_lookup=[MdnsLookup()],
            user_data="a scanner",
        )
        task = asyncio.create_task(serving(scanner))
        scope = await run("lookup.md: On the local network")
        assert scope["conn"].remote_id == scanner.id and scope["ep"].closed
        await scanner.close()
        await task


async def test_lookup_in_dns_and_at_a_pkarr_relay(bind: Bind) -> None:
    from iroh_fast.dns_server import DnsServer, DnsServerConfig

    config = DnsServerConfig.dev(http_port=0, dns_port=0)
    async with DnsServer(config) as dns_server:
        url, (host, port) = dns_server.pkarr_url, dns_server.dns_addr[:2]
        publisher = PkarrPublisher(url, addr_filter="unfiltered")
        server = await bind(alpns=[ALPN], address_lookup=[publisher])
        task = asyncio.create_task(serving(server))
        scope = await run(
            "lookup.md: DNS and pkarr relays",
            pkarr_url=url,
            origin="irohdns.example.",
            name_server=f"{host}:{port}",
            endpoint_id=server.id,
        )
        assert scope["conn"].remote_id == server.id and scope["ep"].closed
        await server.close()
        await task


async def test_lookup_name_servers() -> None:
    resolver = (await run("lookup.md: Name servers"))["resolver"]
    given = ["192.0.2.53", "tls://192.0.2.54", "https://[2001:db8::53]:8443"]
    shown = [str(server) for server in resolver.nameservers]
    assert [server for server in shown if server in given] == given


async def test_lookup_signed_packets(capsys: pytest.CaptureFixture[str]) -> None:
    scope = await run("lookup.md: What is published")
    assert scope["got"] == scope["packet"]
    shown = ["relay=https://relay.example/", "addr=192.0.2.7:4242", "user-data=a printer"]
    assert capsys.readouterr().out == f"{shown}\n"


async def test_lookup_in_the_dht(bind: Bind, monkeypatch: pytest.MonkeyPatch) -> None:
    from dht_udp import UdpNet

    from iroh_fast.lookup import DhtLookup
    from iroh_fast.lookup.dht import client as dht_client

    async with UdpNet(4) as net:
        nodes = [f"{host}:{port}" for host, port in net.bootstrap]
        lookup = DhtLookup(bootstrap=nodes, addr_filter="unfiltered")
        server = await bind(alpns=[ALPN], address_lookup=[lookup])
        while not all(node.items for node in net.nodes):
            await asyncio.sleep(0.01)
        monkeypatch.setattr(dht_client, "BOOTSTRAP", nodes)
        scope = await run("lookup.md: BitTorrent's DHT")
        client = await bind(address_lookup=[scope["dht"]])
        task = asyncio.create_task(serving(server))
        async with client.connect(server.id, ALPN) as conn:
            assert conn.remote_id == server.id
            info = await client.remote_info(server.id)
            assert info is not None and ("pkarr",) in [addr.sources for addr in info.addrs]
        await server.close()
        await client.close()
        await task


async def test_lookup_service_of_your_own(bind: Bind) -> None:
    phonebook = (await run("lookup.md: A service of your own"))["Phonebook"]({})
    server = await bind(alpns=[ALPN], address_lookup=[phonebook])
    phonebook.table[str(server.id)] = phonebook.table.pop("me")
    client = await bind(address_lookup=[phonebook])
    task = asyncio.create_task(serving(server))
    async with client.connect(server.id, ALPN) as conn:
        assert conn.remote_id == server.id
        info = await client.remote_info(server.id)
        assert info is not None and info.addrs[0].sources == ("phonebook",)
    await server.close()
    await task


# --- dns_server.md ------------------------------------------------------------------------


async def test_dns_server_in_your_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = "dns_server.md: In your program"
    here = BLOCKS[place][0].replace("http_port=8080", "http_port=0")
    monkeypatch.setitem(BLOCKS, place, [here])
    started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server_class = DnsServer
    wait = server_class.wait_stopped

    async def waiting(self: Any) -> None:
        started.set_result(self)
        await wait(self)

    monkeypatch.setattr(server_class, "wait_stopped", waiting)
    task = asyncio.create_task(run(place))
    server = await started
    url, *_, published = capsys.readouterr().out.split()
    assert (url, published) == (server.pkarr_url, "0")
    await server.stop()
    await task


async def test_endpoints_find_each_other_by_the_dns_server(
    bind: Bind, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "dns_server.md: Try it"
    async with DnsServer() as server:
        here = BLOCKS[place][0].replace("http://127.0.0.1:8080/pkarr", server.pkarr_url)
        assert server.pkarr_url in here
        monkeypatch.setitem(BLOCKS, place, [here])
        client, other = (await run(place))["ep"], (await run(place))["ep"]
        other.set_alpns([ALPN])
        accepting = asyncio.create_task(serving(other))
        async with asyncio.timeout(60):
            while await server.store.fetch(bytes(other.id)) is None:
                await asyncio.sleep(0.01)
        async with client.connect(other.id, ALPN) as conn:
            assert conn.remote_id == other.id
        await client.close()
        await other.close()
        await accepting


# --- relay.md -----------------------------------------------------------------------------


async def test_relay_in_a_program_and_dialing_over_it(
    bind: Bind, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("blake3", reason="needs the relay extra")
    place = "relay.md: In your program"
    here = BLOCKS[place][0].replace("port=3340", "port=0")
    monkeypatch.setitem(BLOCKS, place, [here])
    started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    server_class = iroh_fast.relay.RelayServer
    start = server_class.start

    async def starting(self: Any) -> None:
        await start(self)
        started.set_result(self)

    monkeypatch.setattr(server_class, "start", starting)
    task = asyncio.create_task(run(place))
    relay = await started
    other = await bind(alpns=[ALPN], relays=[relay.url], ip_transports=False)
    accepting = asyncio.create_task(serving(other))
    await other.online()

    place = "relay.md: Endpoints and relays"
    text = BLOCKS[place][0].replace("https://relay.example.org", relay.url)
    monkeypatch.setitem(BLOCKS, place, [text])
    scope = await run(place, id=other.id, ALPN=ALPN)
    assert scope["conn"].remote_id == other.id
    assert list(map(str, scope["ep"].addr.relay_urls)) == [relay.url]
    scope["conn"].close()
    await scope["ep"].close()
    await other.close()
    await accepting
    await relay.stop()
    await task
    assert capsys.readouterr().out.startswith(f"{relay.url} 0")
