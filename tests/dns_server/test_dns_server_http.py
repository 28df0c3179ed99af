"""The HTTP side of the DNS server: every request that the released server was asked, and more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time

import pytest
from dns_peer import RELEASED, VECTORS, ZONES, ask, packet, path_of, put, secret, serving
from web_peer import connected, request, until

from iroh_fast import __version__
from iroh_fast.dns_server import DnsServer, DnsServerConfig, ZoneSettings
from iroh_fast.dns_server import rate as rate_module
from iroh_fast.dns_server.rate import Clients, RateLimiter
from iroh_fast.errors import BindError, ConfigError, PacketStoreError
from iroh_fast.lookup import z32
from iroh_fast.lookup.signed_packet import SignedPacket
from iroh_fast.web.message import Request

PKARR = json.loads((VECTORS / "pkarr.json").read_text())
ORIGIN = ("access-control-allow-origin", "*")


def seeded(seed: str) -> int:
    return int(seed.removesuffix("*32"), 16)


# --- as the released server -----------------------------------------------------------------

# What ours does otherwise, on purpose.
DIFFERS = {
    "doh get */*": 200,  # most clients say so
    "doh get padded": 200,
    "json cd=1": 200,
    "json no type": None,  # the name exists with other types: NOERROR
    "json nxdomain": None,
    "post nxdomain": None,
}


def sent(item: dict, payload: bytes, key: str) -> bytes:
    fill = {"<z>": key, "<unknown>": RELEASED["unknown_key"]}
    target = item["path"]
    for old, new in fill.items():
        target = target.replace(old, new)
    body = bytes.fromhex(item["body_hex"]) if "body_hex" in item else None
    if item["label"] == "put empty":
        body = b""
    elif item["label"] == "put 1073 bytes":
        body = bytes(1073)
    elif item["label"] == "put bad signature":
        body = bytes(64) + payload[64:]
    return request(target, item["method"], body, **item["headers"])


@pytest.mark.parametrize("item", RELEASED["http"], ids=lambda item: item["label"])
async def test_answer_is_that_of_the_released_server(item):
    zones = ZoneSettings(**ZONES)
    about = RELEASED["packets"][0]
    signed = SignedPacket.from_dns(secret(seeded(about["seed"])), bytes.fromhex(about["dns"]))
    key = z32.encode(signed.public_key)
    assert key == about["z32"]
    async with serving(zones=zones) as server:
        assert (await ask(server, put(signed))).status == 204
        answer = await ask(server, sent(item, signed.relay_payload, key))
    expected = DIFFERS.get(item["label"], item["status"])
    if expected is None:
        return_code = json.loads(answer.body)["Status"] if "json" in item["label"] else None
        assert answer.status == 200 and return_code in (0, 3, None)
        return
    assert answer.status == expected
    assert answer.headers["access-control-allow-origin"] == "*"
    if expected != item["status"]:
        return
    assert answer.headers["connection" if "connection" in item else "date"]
    for name, value in item["response_headers"].items():
        assert answer.headers.get(name) == value, name
    wanted = item["response_body"].replace("<z>", key)
    if wanted == "the payload":
        assert answer.body == signed.relay_payload
    elif item["response_headers"].get("content-type") == "application/dns-message":
        assert answer.body.hex() == wanted
    elif wanted.startswith("{"):
        assert json.loads(answer.body) == json.loads(wanted)
    else:
        assert answer.body == wanted.encode()


@pytest.mark.parametrize("item", PKARR["signed_packets_invalid"], ids=lambda item: item["label"])
async def test_packet_that_is_not_valid_is_refused(item):
    whole = bytes.fromhex(item["packet"])
    key = whole[:32] if len(whole) >= 32 else bytes(secret(42).public)
    async with serving() as server:
        answer = await ask(server, request(f"/pkarr/{z32.encode(key)}", "PUT", whole[32:]))
        assert str(answer.status) == item["http_put"]
        detail = json.loads(answer.body)
        assert detail["status"] == "400"
        kind = "invalid key: " if item["error"] == "InvalidKey" else "invalid body payload: "
        assert detail["detail"].startswith(kind)
        missing = await ask(server, request(f"/pkarr/{z32.encode(key)}"))
        assert missing.status == (400 if item["error"] == "InvalidKey" else 404)
        assert server.metrics()["pkarr_publish_invalid"] == 1


@pytest.mark.parametrize(
    "item", PKARR["signed_packets_odd_but_valid"], ids=lambda item: item["label"]
)
async def test_packet_that_is_odd_but_valid_is_kept(item):
    whole = bytes.fromhex(item["packet"])
    path = f"/pkarr/{z32.encode(whole[:32])}"
    async with serving(max_future=1e9) as server:
        assert (await ask(server, request(path, "PUT", whole[32:]))).status == 204
        assert (await ask(server, request(path))).body == whole[32:]


# --- publishing and fetching ----------------------------------------------------------------


async def test_only_newer_packets_replace_the_one_that_is_kept():
    old, new = packet(timestamp=1_700_000_000_000_000), packet(timestamp=1_700_000_000_000_001)
    async with serving() as server:
        async with connected(server.addresses["http"]) as client:
            for signed in (new, old, new):
                assert (await client.ask(put(signed))).status == 204
                assert (await client.ask(request(path_of(new)))).body == new.relay_payload
        values = server.metrics()
        assert values["pkarr_publish_update"] + values["pkarr_publish_noop"] == 3
        assert values["store_packets_inserted"] == 1


async def test_packet_from_the_future_is_refused():
    now = time.time_ns() // 1000
    async with serving(max_future=60.0) as server:
        late = packet(timestamp=now + 120 * 10**6)
        answer = await ask(server, put(late))
        assert answer.status == 400
        assert "60 s in the future" in json.loads(answer.body)["detail"]
        # Its owner is not shut out.
        assert (await ask(server, put(packet(timestamp=now + 30 * 10**6)))).status == 204
        assert (await ask(server, put(packet(timestamp=2**64 - 1)))).status == 400


@pytest.mark.parametrize("size", [1073, 4096, 4097, 1 << 20])
async def test_bodies_of_impossible_sizes(size):
    async with serving() as server:
        answer = await ask(server, request(path_of(packet()), "PUT", bytes(size)))
        assert answer.status == (413 if size > 4096 else 400)
        assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    "name",
    ["", "abc", "y" * 52 + "y", "Y" * 52, "%79" * 52, "l" * 52, "y" * 51 + "b", "é" * 52],
)
async def test_text_that_is_no_key(name):
    async with serving() as server:
        target = f"/pkarr/{name}".encode().decode("latin-1")
        for method, body in (("GET", None), ("PUT", packet().relay_payload)):
            answer = await ask(server, request(target, method, body))
            assert answer.status == (404 if not name else 400)


async def test_pipelined_publishes_are_answered_in_order_and_kept():
    packets = [packet(number) for number in range(1, 101)]
    async with serving() as server, connected(server.addresses["http"]) as client:
        for signed in packets:
            client.send(put(signed) + request(path_of(signed)))
        for signed in packets:
            assert (await client.answer()).status == 204
            assert (await client.answer()).body == signed.relay_payload
        assert server.metrics()["pkarr_publish_update"] == 100


async def test_many_connections_publish_at_once():
    async with serving() as server:

        async def one(first: int) -> None:
            async with connected(server.addresses["http"]) as client:
                for number in range(first, first + 3):
                    assert (await client.ask(put(packet(number)))).status == 204

        await asyncio.gather(*(one(first) for first in range(1, 193, 3)))
        assert server.metrics()["store_packets_inserted"] == 194 - 2


async def test_head_and_methods_and_preflight():
    signed = packet()
    async with serving() as server:
        await ask(server, put(signed))
        answer = await ask(server, request(path_of(signed), "HEAD"))
        assert answer.headers["content-length"] == str(len(signed.relay_payload))
        for path, allowed in (
            (path_of(signed), "GET,HEAD,PUT"),
            ("/dns-query", "GET,HEAD,POST"),
            ("/healthz", "GET,HEAD"),
        ):
            refused = await ask(server, request(path, "DELETE"))
            assert (refused.status, refused.headers["allow"]) == (405, allowed)
            asked = await ask(server, request(path, "OPTIONS", origin="https://a"))
            assert asked.status == 200 and asked.headers["allow"] == allowed
            assert asked.headers["access-control-allow-methods"] == "GET,POST,PUT"
        health = json.loads((await ask(server, request("/healthz"))).body)
        assert health == {"status": "ok", "version": __version__, "git_hash": "unknown"}
        # What no route is for does not count.
        before = server.metrics()["http_requests"]
        assert (await ask(server, request("/no/such"))).status == 404
        assert server.metrics()["http_requests"] == before


# --- DNS over HTTPS -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "as_json"),
    [
        ("*/*", True), ("application/*", True), ("application/dns-json", True),
        ("text/html, application/dns-json;q=0.9, */*;q=0.8", True),
        ("application/dns-message;q=0.5, application/dns-json", True),
        ("application/dns-json;q=0.2,application/dns-message", False),
        ("Application/DNS-Message", False), ("text/html", None), ("application/dns-json;q=0", None),
        ("", None), (";;,,q=", None), ("application/dns-json;q=nonsense", None),
    ],
)  # fmt: skip
async def test_accept_chooses_the_form_of_an_answer(accept, as_json):
    signed = packet()
    name = f"_iroh.{z32.encode(signed.public_key)}"
    async with serving() as server:
        await ask(server, put(signed))
        target = f"/dns-query?name={name}&type=TXT"
        answer = await ask(server, request(target, accept=accept))
        if as_json is None:
            assert answer.status == 406
        elif as_json:
            (found,) = json.loads(answer.body)["Answer"]
            assert found["data"] == "relay=https://r/" and found["TTL"] == 30
            assert answer.headers["cache-control"] == "s-maxage=30"
        else:
            assert answer.status == 400  # there is no message


@pytest.mark.parametrize(
    "query",
    [
        "dns=", "dns", "dns=A", "dns=AAAA%00", "dns=AA AA", "dns=%ff%fe", "dns=" + "A" * 15001,
        "dns=AAAB&dns=AAAB", "name=" + "a." * 300, "name=%ff&type=A", "name=a&type=99999999999",
        "name=a&type=-1", "name=a..b", "name=" + "a" * 64, "name=a&do=2", "&" * 200 + "name=a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", ["application/dns-message", "application/dns-json", "*/*"])
async def test_queries_that_mean_nothing_are_told_so(query, accept):
    async with serving() as server:
        answer = await ask(server, request(f"/dns-query?{query.replace(' ', '+')}", accept=accept))
        assert answer.status == 400 and json.loads(answer.body)["status"] == "400"


# --- rate limit -----------------------------------------------------------------------------


def test_rate_limit_follows_the_released_server():
    """PUT every 0.6 s from one address: see `rate_limit_simple` of the vectors."""
    now = [1000.0]
    limiter = RateLimiter(lambda: now[0])
    passed = []
    for _ in range(9):
        wait = limiter.wait("a")
        passed.append(wait is None)
        now[0] += 0.6
    assert passed == [True, True, False, False, False, False, False, True, False]
    assert limiter.wait("b") is None  # somebody else


def test_rate_limit_forgets_clients_and_is_bounded(monkeypatch):
    monkeypatch.setattr(rate_module, "MAX_CLIENTS", 100)
    now = [0.0]
    limiter = RateLimiter(lambda: now[0])
    for number in range(1000):
        assert limiter.wait(str(number)) is None
    assert len(limiter) <= 101
    now[0] += 100.0
    for _ in range(60):
        now[0] += 10.0
        limiter.wait("one")
    assert len(limiter) <= 2


async def test_too_many_publishes_are_told_when_to_come_back():
    async with serving(pkarr_put_rate_limit="simple") as server:
        answers = [await ask(server, put(packet(number))) for number in (1, 2, 3)]
        assert [answer.status for answer in answers] == [204, 204, 429]
        refused = answers[2]
        assert refused.headers["retry-after"] == refused.headers["x-ratelimit-after"] == "3"
        assert refused.body == b"Too Many Requests! Wait for 3s"
        assert "content-type" not in refused.headers
        assert "access-control-allow-origin" not in refused.headers
        # Fetching is free, and no header makes another client of one.
        assert (await ask(server, request(path_of(packet(1))))).status == 200
        forged = await ask(server, put(packet(4), x_forwarded_for="203.0.113.9"))
        assert forged.status == 429
        assert server.metrics()["pkarr_publish_ratelimited"] == 2


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], "127.0.0.1"),
        ([("x-forwarded-for", b"203.0.113.7")], "203.0.113.7"),
        ([("x-forwarded-for", b"203.0.113.7, 10.1.2.3")], "203.0.113.7"),
        # The client wrote the first one itself: the proxy saw the last.
        ([("x-forwarded-for", b"198.51.100.1, 203.0.113.7")], "203.0.113.7"),
        (
            [("x-forwarded-for", b"198.51.100.1"), ("x-forwarded-for", b"203.0.113.7")],
            "203.0.113.7",
        ),
        ([("x-forwarded-for", b"garbage, 203.0.113.7:4711")], "203.0.113.7"),
        ([("x-forwarded-for", b"10.0.0.9")], "10.0.0.9"),
        ([("x-real-ip", b"203.0.113.7")], "203.0.113.7"),
        ([("forwarded", b'for="[2001:db8:1:2::9]:4711";proto=https')], "20010db800010002"),
        ([("forwarded", b"for=198.51.100.1, FOR=203.0.113.7;by=10.0.0.1")], "203.0.113.7"),
        ([("x-forwarded-for", b"\xff\xfe"), ("x-real-ip", b"::ffff:203.0.113.7")], "203.0.113.7"),
        ([("x-forwarded-for", b"")], "127.0.0.1"),
    ],
)
def test_client_behind_a_trusted_proxy(headers, client):
    clients = Clients(["127.0.0.0/8", "10.0.0.0/8"])
    told = clients.key(Request(headers=headers), "127.0.0.1")
    assert told.removesuffix("/64").rjust(len(client), "0") == client
    # From anybody else they mean nothing.
    assert clients.key(Request(headers=headers), "203.0.113.200") == "203.0.113.200"


def test_an_ipv6_network_is_one_client():
    clients = Clients()
    same = {clients.key(Request(), f"2001:db8:0:1::{n:x}") for n in range(1, 50)}
    assert len(same) == 1
    assert clients.key(Request(), "2001:db8:0:2::1") not in same


async def test_smart_limit_counts_clients_of_a_proxy_apart():
    async with serving(pkarr_put_rate_limit="smart") as server:
        for number in range(1, 7):
            answer = await ask(server, put(packet(number), x_forwarded_for=f"203.0.113.{number}"))
            assert answer.status == 204
        last = [
            (await ask(server, put(packet(number), x_forwarded_for="203.0.113.1"))).status
            for number in (7, 8)
        ]
        assert last == [204, 429]


# --- metrics --------------------------------------------------------------------------------


async def test_metrics_have_the_names_of_the_released_server():
    async with serving(metrics_bind_addr=("127.0.0.1", 0)) as server:
        await ask(server, put(packet()))
        await ask(server, request("/pkarr/abc"))
        async with connected(server.addresses["metrics"]) as client:
            answer = await client.ask(request("/anything"))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    counters = (
        *("pkarr_publish_update", "pkarr_publish_noop", "dns_requests", "dns_requests_udp"),
        *("dns_requests_https", "dns_lookup_success", "dns_lookup_notfound", "dns_lookup_error"),
        *("http_requests", "http_requests_success", "http_requests_error"),
        *("http_requests_duration_ms", "store_packets_inserted", "store_packets_removed"),
        *("store_packets_updated", "store_packets_expired"),
    )
    assert {f"dns_server_{name}_total" for name in counters} <= set(values)
    assert {"dns_server_cache_zones", "dns_server_cache_zones_dht"} <= set(values)
    assert float(values["dns_server_pkarr_publish_update_total"]) == 1
    assert float(values["dns_server_http_requests_total"]) == 2
    assert float(values["dns_server_http_requests_error_total"]) == 1
    assert float(values["iroh_fast_dns_server_http_request_seconds_count"]) == 2


async def test_every_value_of_the_server_is_in_its_exposition():
    from iroh_fast.dns_server.metrics import FAMILIES

    async with serving(metrics_bind_addr=("127.0.0.1", 0)) as server:
        assert set(server.metrics()) <= {family.key for family in FAMILIES}


# --- life -----------------------------------------------------------------------------------


async def test_ports_that_are_taken_leave_nothing_behind(tmp_path):
    async with serving() as other:
        taken = {
            "http_bind_addr": other.addresses["http"],
            "dns_bind_addr": other.dns_addr,
            "metrics_bind_addr": other.addresses["http"],
        }
        for name, address in taken.items():
            config = DnsServerConfig.dev(data_dir=tmp_path, **{name: address})
            server = DnsServer(config)
            with pytest.raises(BindError, match=str(address[1])):
                await server.start()
            with pytest.raises(RuntimeError):
                await server.start()
            await server.stop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert not tasks


async def test_other_ports_are_taken_where_that_is_allowed():
    async with serving() as other:
        changes = {
            "http_bind_addr": other.addresses["http"],
            "dns_bind_addr": other.dns_addr,
            "other_ports": True,
        }
        async with serving(**changes) as server:
            assert server.addresses["http"] != other.addresses["http"]
            assert server.dns_addr != other.dns_addr
            assert (await ask(server, put(packet()))).status == 204


async def test_what_was_accepted_is_there_after_a_restart(tmp_path):
    from iroh_fast.dns_server import StoreSettings

    packets = [packet(number) for number in range(1, 50)]
    changes = {"store": StoreSettings(), "data_dir": tmp_path}
    async with serving(**changes) as server:
        async with connected(server.addresses["http"]) as client:
            for signed in packets:
                client.send(put(signed))
            await until(lambda: server.metrics()["http_requests"] >= 1)
            stopping = asyncio.ensure_future(server.stop())
            accepted = 0
            try:
                while (await client.answer()).status == 204:
                    accepted += 1
            except (asyncio.IncompleteReadError, ConnectionResetError):
                pass
            await stopping
    assert accepted
    async with serving(**changes) as server:
        for signed in packets[:accepted]:
            assert (await ask(server, request(path_of(signed)))).body == signed.relay_payload


async def test_a_store_that_cannot_write_stops_the_server():
    async with serving() as server:
        server.store.on_failure(PacketStoreError("write", "the disk is full"))
        with pytest.raises(PacketStoreError, match="disk is full"):
            await server.wait_stopped()


class Broken:
    """A store that has lost its database."""

    coherent = True
    on_change = on_failure = None

    async def open(self):
        pass

    async def close(self):
        pass

    def submit(self, signed, done, durable=None):
        asyncio.get_running_loop().call_soon(done, PacketStoreError("unavailable", "away"))

    async def fetch(self, key):
        raise PacketStoreError("unavailable", "away")

    def counters(self):
        return {}


async def test_store_that_is_away_is_told_and_does_not_stop_the_server():
    async with DnsServer(store=Broken()) as server:
        for data in (put(packet()), request(path_of(packet()))):
            answer = await ask(server, data)
            assert answer.status == 503 and answer.headers["retry-after"] == "1"
        assert (await ask(server, request("/healthz"))).status == 200


class Slow(Broken):
    """A store that keeps a packet somewhere else."""

    def __init__(self, signed):
        self.signed = signed
        self.asked = 0

    async def fetch(self, key):
        self.asked += 1
        await asyncio.sleep(0.01)
        return self.signed.to_bytes() if key == self.signed.public_key else None


async def test_store_that_has_to_be_waited_for_is_answered_in_order():
    signed = packet()
    async with DnsServer(store=Slow(signed)) as server:
        async with connected(server.addresses["http"]) as client:
            client.send(request(path_of(signed)) + request("/") + request(path_of(packet(9))))
            assert (await client.answer()).body == signed.relay_payload
            assert (await client.answer()).body == b"Hi!"
            assert (await client.answer()).status == 404
        # Who goes away is not worked for.
        async with connected(server.addresses["http"]) as client:
            client.send(request(path_of(signed)))
        assert server.http_url is not None


async def test_urls_are_those_that_work(tmp_path):
    from iroh_fast.dns_server import HttpsSettings

    https = HttpsSettings(("127.0.0.1", 0))
    async with serving(https=https, http_bind_addr=("::", 0), dns_bind_addr=("::", 0)) as server:
        port = server.addresses["http"][1]
        assert server.http_url == f"http://127.0.0.1:{port}/"
        assert server.https_url == f"https://localhost:{server.addresses['https'][1]}/"
        assert server.pkarr_url == f"http://127.0.0.1:{port}/pkarr"
        import ssl

        context = ssl.create_default_context(cadata=server.certificate.decode())
        address = ("127.0.0.1", server.addresses["https"][1])
        async with connected(address, ssl=context, server_hostname="localhost") as client:
            assert (await client.ask(put(packet()))).status == 204
            assert (await client.ask(request(path_of(packet(9))))).status == 404
        # Both families, and IPv4 is IPv4.
        for host in ("127.0.0.1", "::1"):
            async with connected((host, port)) as client:
                assert (await client.ask(request("/"))).body == b"Hi!"
    with pytest.raises(ConfigError, match="neither http nor https"):
        DnsServerConfig.dev(http_bind_addr=None)


async def test_connections_that_never_asked_are_bounded_and_those_that_did_are_not_counted(
    monkeypatch,
):
    from iroh_fast.web import limits

    monkeypatch.setattr(limits, "descriptor_limit", lambda: limits.RESERVED_DESCRIPTORS + 64)
    async with serving() as server:
        address = server.addresses["http"]
        async with contextlib.AsyncExitStack() as stack:
            # An eighth of the room is for one address that has asked nothing.
            asking = [await stack.enter_async_context(connected(address)) for _ in range(5)]
            for client in asking:
                assert (await client.ask(request("/healthz"))).status == 200
            for _ in range(8):
                await stack.enter_async_context(connected(address))
            await until(lambda: server.metrics()["tcp_connections"] == 13)
            refused = await stack.enter_async_context(connected(address))
            assert await refused.is_closed()
            for client in asking:
                assert (await client.ask(put(packet()))).status == 204
        assert server.metrics()["connections_refused"] == 1


async def test_clients_that_never_read_cost_themselves_alone():
    signed = packet(7, ("user-data=" + "x" * 200,) * 4)
    async with serving() as server:
        address = server.addresses["http"]
        await ask(server, put(signed))
        async with contextlib.AsyncExitStack() as stack:
            flood = request(path_of(signed)) * 200
            for _ in range(8):
                deaf = await stack.enter_async_context(connected(address))
                deaf.writer.transport.pause_reading()
                for _ in range(20):
                    deaf.send(flood)
            for number in range(1, 20):
                assert (await ask(server, put(packet(number)))).status == 204
            for protocol in server._host.protocols:
                assert protocol._reader.left <= 2 * 4096
