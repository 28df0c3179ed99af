"""Programs that know nothing of iroh as clients of a DNS server: `dig`, dnspython, plain HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import pytest

from iroh_fast import SecretKey, _dns
from iroh_fast.lookup import EndpointData, EndpointInfo, SignedPacket, z32

from .dns_server import HOST, DnsServerProcess

pytestmark = pytest.mark.interop

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "pkarr.json").read_text("utf-8")
)
TXT = ["relay=https://example.com/", "addr=127.0.0.1:1234", "user-data=hello"]


@pytest.fixture(params=["ours", "iroh"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[DnsServerProcess]:
    async with DnsServerProcess(request.param, tmp_path) as running:
        yield running


def packet_of(secret: SecretKey, timestamp: int | None = None, **data: Any) -> SignedPacket:
    data = data or {"addrs": ["https://example.com", "127.0.0.1:1234"], "user_data": "hello"}
    return SignedPacket.from_endpoint_info(
        EndpointInfo(secret.public, EndpointData(**data)), secret, timestamp=timestamp
    )


def stored(server: DnsServerProcess, packet: SignedPacket) -> str:
    """Publish a packet; its name in the DNS."""
    key = _key(packet)
    assert server.put(key, packet.relay_payload)[0] == 204
    return f"_iroh.{key}.{server.origin}"


def _key(packet: SignedPacket) -> str:
    return z32.encode(packet.public_key)


# --- dig -----------------------------------------------------------------------------------


def dig(server: DnsServerProcess, *arguments: str) -> str:
    if shutil.which("dig") is None:
        pytest.skip("no dig: package dnsutils")
    command = ["dig", f"@{HOST}", "-p", str(server.dns_port), "+tries=2", "+time=5", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["+notcp", "+tcp", "+noedns", "+bufsize=512"])
def test_dig_finds_what_was_published(server: DnsServerProcess, way: str) -> None:
    name = stored(server, packet_of(SecretKey.generate()))
    short = dig(server, way, "+short", name, "TXT")
    assert short.splitlines() == [f'"{value}"' for value in TXT]
    whole = dig(server, way, "+norecurse", name, "TXT")
    assert "status: NOERROR" in whole and "aa" in whole.partition("flags:")[2].split(";")[0].split()
    assert "WARNING" not in whole and "MALFORMED" not in whole.upper()
    assert (
        whole.count("\t30\tIN\tTXT\t") + whole.count(" 30 IN TXT ") + whole.count("30\tIN\tTXT")
        >= 3
    )


def test_dig_over_udp_turns_to_tcp_for_more_than_fits(server: DnsServerProcess) -> None:
    """Nine hundred bytes do not fit into 512: the answer says so, and TCP brings all of it."""
    addrs = [f"10.0.{i >> 8}.{i & 255}:65535" for i in range(27)]
    name = stored(server, packet_of(SecretKey.generate(), addrs=addrs))
    cut = dig(server, "+ignore", "+bufsize=512", name, "TXT")
    assert "tc" in cut.partition("flags:")[2].split(";")[0].split()
    assert len(dig(server, "+short", "+bufsize=512", name, "TXT").splitlines()) == len(addrs)
    assert len(dig(server, "+short", "+bufsize=1232", "+notcp", name, "TXT").splitlines()) == len(
        addrs
    )


def test_dig_gets_soa_ns_and_static_records(server: DnsServerProcess) -> None:
    assert "dns1.irohdns.example." in dig(server, "+short", server.origin, "SOA")
    assert dig(server, "+short", server.origin, "NS").strip() == "ns1.irohdns.example."
    assert dig(server, "+short", server.origin, "A").strip() == "127.0.0.1"
    assert "status: NXDOMAIN" in dig(server, f"nothing.{server.origin}", "TXT")
    unknown = SecretKey.generate().public.to_z32()
    assert "status: NXDOMAIN" in dig(server, f"_iroh.{unknown}.{server.origin}", "TXT")


# --- dnspython -----------------------------------------------------------------------------


def resolver_of(server: DnsServerProcess) -> dns.asyncresolver.Resolver:
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [HOST]
    resolver.port = server.dns_port
    return resolver


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
async def test_dnspython_resolves_what_was_published(server: DnsServerProcess, tcp: bool) -> None:
    name = stored(server, packet_of(SecretKey.generate()))
    answer = await resolver_of(server).resolve(name, "TXT", tcp=tcp)
    assert [b"".join(record.strings).decode() for record in answer] == TXT
    assert answer.rrset is not None and answer.rrset.ttl == 30
    assert answer.response.flags & dns.flags.AA
    info = EndpointInfo.from_txt(name, [b"".join(record.strings) for record in answer])
    assert info.data.user_data == "hello"


async def test_dnspython_gets_names_of_several_levels_and_addresses(
    server: DnsServerProcess,
) -> None:
    """Whatever an endpoint signs below its key is answered: TXT, A, AAAA, also at the key itself."""
    secret = SecretKey.generate()
    key = secret.public.to_z32()
    writer = _dns.Writer(flags=0x8000)
    own = _dns.name_from_text(key)
    writer.record(_dns.ANSWER, own, 1, 60, bytes((192, 0, 2, 1)))
    writer.record(_dns.ANSWER, own, 28, 61, bytes((0x20, 1, *bytes(13), 7)))
    writer.record(_dns.ANSWER, _dns.name_from_text(f"_a.b.{key}"), 16, 62, b"\1x")
    writer.record(_dns.ANSWER, _dns.name_from_text(f"_a.b.{key}"), 16, 62, b"\1y")
    writer.record(_dns.ANSWER, _dns.name_from_text(f"www.{key}"), 1, 63, bytes((192, 0, 2, 2)))
    stored(server, SignedPacket.from_dns(secret, writer.finish()))
    resolver = resolver_of(server)
    for name, kind, texts in (
        (key, "A", ["192.0.2.1"]),
        (key, "AAAA", ["2001::7"]),
        (f"_a.b.{key}", "TXT", ['"x"', '"y"']),
        (f"www.{key}", "A", ["192.0.2.2"]),
    ):
        for origin in (server.origin, "."):
            answer = await resolver.resolve(f"{name}.{origin}".replace("..", "."), kind)
            assert [record.to_text() for record in answer] == texts


async def test_dnspython_over_https_gets_the_same_answer(server: DnsServerProcess) -> None:
    name = stored(server, packet_of(SecretKey.generate()))
    query = dns.message.make_query(name, "TXT")
    over_udp = await dns.asyncquery.udp(query, HOST, 10, port=server.dns_port)
    wire = query.to_wire()
    dns_param = base64.urlsafe_b64encode(wire).rstrip(b"=").decode()
    got = await asyncio.to_thread(_doh, server, "GET", f"/dns-query?dns={dns_param}", None)
    posted = await asyncio.to_thread(_doh, server, "POST", "/dns-query", wire)
    assert got.answer == posted.answer == over_udp.answer
    assert query.is_response(got) and query.is_response(posted)


def _doh(
    server: DnsServerProcess, method: str, target: str, body: bytes | None
) -> dns.message.Message:
    import urllib.request

    request = urllib.request.Request(
        server.url + target,
        body,
        {"Accept": "application/dns-message", "Content-Type": "application/dns-message"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"] == "application/dns-message"
        return dns.message.from_wire(answer.read())


# --- packets that are refused ----------------------------------------------------------------


def test_put_of_an_invalid_packet_is_400(server: DnsServerProcess) -> None:
    for case in VECTORS["signed_packets_invalid"]:
        raw = bytes.fromhex(case["packet"])
        key = z32.encode(raw[:32] or SecretKey(bytes(32)).public.to_bytes())
        status, text = server.put(key, raw[32:])
        assert status == int(case["http_put"]), case["label"]
        begins = "invalid key: " if case["error"] == "InvalidKey" else "invalid body payload: "
        assert json.loads(text)["detail"].startswith(begins), (case["label"], text)
        assert server.get(key)[0] == (400 if case["error"] == "InvalidKey" else 404)


def test_put_of_an_odd_packet_is_stored(server: DnsServerProcess) -> None:
    for timestamp, case in enumerate(VECTORS["signed_packets_odd_but_valid"]):
        # They are all of one endpoint and one time: signed anew, each is newer than the last.
        dns_part = SignedPacket.from_bytes(bytes.fromhex(case["packet"])).dns
        secret = SecretKey(b"\x2a" * 32)
        packet = SignedPacket.from_dns(
            secret, dns_part, timestamp=1_700_000_000_000_000 + timestamp
        )
        assert server.put(_key(packet), packet.relay_payload) == (204, ""), case["label"]
        assert server.get(_key(packet)) == (200, packet.relay_payload), case["label"]


def test_put_of_a_packet_under_another_key_is_refused(server: DnsServerProcess) -> None:
    packet, other = packet_of(SecretKey.generate()), SecretKey.generate().public.to_z32()
    assert server.put(other, packet.relay_payload)[0] == 400
    assert server.get(other)[0] == 404


def test_put_of_a_forged_packet_leaves_the_real_one(server: DnsServerProcess) -> None:
    secret = SecretKey.generate()
    packet = packet_of(secret)
    stored(server, packet)
    for index in (32, 64, 96 + 7, 104 + 20, len(packet.to_bytes()) - 1):
        forged = bytearray(packet.to_bytes())
        forged[index] ^= 1
        assert server.put(_key(packet), bytes(forged[32:]))[0] == 400
    assert server.get(_key(packet)) == (200, packet.relay_payload)


def test_put_of_a_stale_or_repeated_packet_changes_nothing(server: DnsServerProcess) -> None:
    """Accepted with 204, as it was signed: but the newer one stays."""
    secret = SecretKey.generate()
    old = packet_of(secret)
    new = packet_of(secret, addrs=["1.2.3.4:5"])
    stored(server, new)
    for packet in (old, new, old):
        assert server.put(_key(packet), packet.relay_payload)[0] == 204
        assert server.get(_key(packet)) == (200, new.relay_payload)
    short = dig(server, "+short", f"_iroh.{_key(new)}.{server.origin}", "TXT")
    assert short.strip() == '"addr=1.2.3.4:5"'


def test_put_of_too_much_is_refused(server: DnsServerProcess) -> None:
    key = SecretKey.generate().public.to_z32()
    assert server.put(key, bytes(1073))[0] == 400
    assert server.put(key, bytes(3 << 20))[0] == 413
    assert server.put(key, b"")[0] == 400
    assert server.get(key)[0] == 404


def test_put_for_no_key_is_refused(server: DnsServerProcess) -> None:
    payload = packet_of(SecretKey.generate()).relay_payload
    for case in VECTORS["z32"]["invalid"]:
        if case["z32"]:
            assert server.put(case["z32"], payload)[0] == 400, case
            assert server.get(case["z32"])[0] == 400, case


HOUR_US = 3_600_000_000


def test_put_by_a_clock_that_is_wrong(server: DnsServerProcess) -> None:
    """Late and slightly early clocks do no harm; ours does not let one reserve the future."""
    now = time.time_ns() // 1000
    for skew in (-24 * HOUR_US, -HOUR_US, HOUR_US // 2):
        packet = packet_of(SecretKey.generate(), now + skew)
        stored(server, packet)
        assert server.get(_key(packet)) == (200, packet.relay_payload)
    secret = SecretKey.generate()
    future = packet_of(secret, now + 48 * HOUR_US)
    status, text = server.put(_key(future), future.relay_payload)
    if server.kind == "iroh":
        assert status == 204  # and blocks its owner for two days
        return
    assert status == 400 and "future" in text
    assert server.get(_key(future))[0] == 404
    stored(server, packet_of(secret, now))


def test_put_after_a_clock_was_set_back_waits_for_the_old_time(server: DnsServerProcess) -> None:
    """As iroh: the packet of the higher time stays, whatever is signed now."""
    secret = SecretKey.generate()
    now = time.time_ns() // 1000
    ahead = packet_of(secret, now + HOUR_US // 2)
    stored(server, ahead)
    stored(server, packet_of(secret, now, addrs=["1.2.3.4:5"]))
    assert server.get(_key(ahead)) == (200, ahead.relay_payload)


@pytest.mark.parametrize("kind", ["ours", "iroh"])
async def test_put_too_often_is_429(kind: Any, tmp_path: Path) -> None:
    async with DnsServerProcess(kind, tmp_path, rate_limit="simple") as server:
        packet = packet_of(SecretKey.generate())
        statuses = [
            (await asyncio.to_thread(server.put, _key(packet), packet.relay_payload))[0]
            for _ in range(4)
        ]
    assert statuses[:2] == [204, 204] and statuses[3] == 429
