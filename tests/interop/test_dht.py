"""The DHT lookup against n0-mainline and the released crate: its nodes, its client, its endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import dns.message
import dns.query
import pytest

from iroh_fast import Endpoint, EndpointId, Router, SecretKey, presets
from iroh_fast.errors import AddressLookupError
from iroh_fast.lookup import DhtLookup, DnsLookup, EndpointData, EndpointInfo, SignedPacket
from iroh_fast.lookup.dht.client import DhtClient, bootstrap_nodes
from iroh_fast.lookup.z32 import encode
from iroh_fast.web.resolver import DnsResolver

from .dns_server import HOST, ORIGIN, DnsServerProcess
from .links import echo_bi
from .rust import RustPeer

ALPN = b"peer/echo"
V4 = "127.0.0.1:0"
NODES = 12


@pytest.fixture
async def bootstrap() -> AsyncIterator[list[str]]:
    """Where a DHT of the reference's nodes begins."""
    async with RustPeer("dht-nodes", "--nodes", str(NODES)) as peer:
        yield (await peer.event("dht"))["bootstrap"]


def client(bootstrap: list[str]) -> DhtClient:
    return DhtClient(DnsResolver(), bootstrap=bootstrap_nodes(bootstrap))


def packet(secret: SecretKey, *addrs: str, timestamp: int | None = None) -> SignedPacket:
    info = EndpointInfo(secret.public, EndpointData(addrs, "user data"))
    return SignedPacket.from_endpoint_info(info, secret, timestamp=timestamp)


async def found(dht: DhtClient, id: EndpointId) -> SignedPacket:
    """The packet of an endpoint, once it is published."""
    while (packet := await dht.get(bytes(id))) is None:
        await asyncio.sleep(0.05)
    return packet


async def test_nodes_of_the_reference_store_what_we_put_and_its_client_finds_it(
    bootstrap: list[str],
) -> None:
    secret = SecretKey.generate()
    sent = packet(secret, "https://relay.example/", "192.0.2.1:5")
    dht = client(bootstrap)
    assert await dht.get(bytes(secret.public)) is None
    assert await dht.put(sent) == NODES
    assert await dht.get(bytes(secret.public)) == sent
    assert dht.nodes == NODES
    async with RustPeer("dht-get", "--bootstrap", bootstrap[0], "--id", str(secret.public)) as peer:
        item = await peer.event("item")
        assert item == {
            "event": "item",
            "key": str(secret.public),
            "seq": sent.timestamp,
            "signature": sent.signature.hex(),
            "value": sent.dns.hex(),
        }
        assert await peer.ended() == 0
    await dht.close()


async def test_nodes_of_the_reference_keep_the_newest_of_what_we_put(bootstrap: list[str]) -> None:
    secret = SecretKey.generate()
    old, new = packet(secret, "192.0.2.1:5"), packet(secret, "192.0.2.2:6")
    dht = client(bootstrap)
    await dht.put(new)
    await dht.put(new)
    with pytest.raises(AddressLookupError, match="have a newer record"):
        await dht.put(old)
    assert await dht.get(bytes(secret.public)) == new
    await dht.close()


async def test_forged_item_is_refused_by_nodes_of_the_reference(bootstrap: list[str]) -> None:
    sent = packet(SecretKey.generate(), "192.0.2.1:5").to_bytes()
    forged = SignedPacket.from_bytes_unchecked(sent[:96] + bytes(8) + sent[104:])
    dht = client(bootstrap)
    with pytest.raises(AddressLookupError, match="refuse the record with error 206"):
        await dht.put(forged)
    await dht.close()


async def test_record_of_a_released_endpoint_is_found(bootstrap: list[str]) -> None:
    async with RustPeer("echo", "--bind", V4, "--dht", bootstrap[0]) as peer:
        bound = await peer.event("bound")
        dht = client(bootstrap)
        record = await found(dht, EndpointId(bound["id"]))
        info = record.endpoint_info()
        assert str(info.id) == bound["id"]
        assert [str(addr) for addr in info.data.ip_addrs] == bound["addrs"]
        await dht.close()


async def test_we_reach_a_released_endpoint_by_its_key_through_the_dht_alone(
    bootstrap: list[str],
) -> None:
    async with RustPeer("echo", "--bind", V4, "--dht", bootstrap[0]) as peer:
        bound = await peer.event("bound")
        dht = client(bootstrap)
        await found(dht, EndpointId(bound["id"]))
        await dht.close()
        lookup = DhtLookup(bootstrap=bootstrap, publish=False)
        async with Endpoint.bind(
            preset=presets.minimal, bind_addrs=[V4], address_lookup=[lookup]
        ) as ep:
            conn = await ep.connect(bound["id"], ALPN)
            send, recv = await conn.open_bi()
            await send.write_all(b"by key only")
            send.finish()
            assert await recv.read_to_end(100) == b"by key only"
            conn.close()


async def test_released_endpoint_reaches_us_by_our_key_through_the_dht_alone(
    bootstrap: list[str],
) -> None:
    lookup = DhtLookup(bootstrap=bootstrap, addr_filter="unfiltered")
    endpoint = await Endpoint.bind(preset=presets.minimal, bind_addrs=[V4], address_lookup=[lookup])
    async with Router(endpoint, {ALPN: echo_bi}):
        dht = client(bootstrap)
        await found(dht, endpoint.id)
        await dht.close()
        arguments = ("--dht", bootstrap[0], "--id", str(endpoint.id), "--bytes", "10000")
        async with RustPeer("dial", "--bind", V4, *arguments) as peer:
            echoed = await peer.event("echoed")
            assert echoed["failed"] == 0
            assert await peer.ended() == 0


async def test_two_of_ours_find_each_other_through_nodes_of_the_reference(
    bootstrap: list[str],
) -> None:
    def lookup() -> DhtLookup:
        return DhtLookup(bootstrap=bootstrap, addr_filter="unfiltered")

    endpoint = await Endpoint.bind(
        preset=presets.minimal, bind_addrs=[V4], address_lookup=[lookup()]
    )
    async with Router(endpoint, {ALPN: echo_bi}):
        dht = client(bootstrap)
        await found(dht, endpoint.id)
        await dht.close()
        async with Endpoint.bind(
            preset=presets.minimal, bind_addrs=[V4], address_lookup=[lookup()]
        ) as ep:
            conn = await ep.connect(endpoint.id, ALPN)
            assert conn.remote_id == endpoint.id
            conn.close()


# --- DNS servers that ask the DHT -----------------------------------------------------------


def with_mainline(server: DnsServerProcess, bootstrap: list[str]) -> DnsServerProcess:
    """Let a server ask this DHT for keys that it does not have."""
    old = "[mainline]\nenabled = false"
    text = server.config.read_text()
    assert old in text
    nodes = ", ".join(f'"{node}"' for node in bootstrap)
    server.config.write_text(
        text.replace(old, f"[mainline]\nenabled = true\nbootstrap = [{nodes}]")
    )
    return server


@pytest.mark.parametrize("kind", ["ours", "iroh"])
async def test_dns_server_answers_for_what_we_put_into_the_dht_alone(
    bootstrap: list[str], tmp_path: Path, kind: Literal["ours", "iroh"]
) -> None:
    secret = SecretKey.generate()
    sent = packet(secret, "https://relay.example/")
    dht = client(bootstrap)
    await dht.put(sent)
    await dht.close()
    key = encode(bytes(secret.public))
    question = dns.message.make_query(f"_iroh.{key}.{ORIGIN}", "TXT")
    async with with_mainline(DnsServerProcess(kind, tmp_path), bootstrap) as server:
        answer = await asyncio.to_thread(dns.query.udp, question, HOST, 60, port=server.dns_port)
        texts = {b"".join(record.strings).decode() for rrset in answer.answer for record in rrset}
        assert texts == {"relay=https://relay.example/", "user-data=user data"}
        # Over HTTP alone what is stored counts.
        assert (await asyncio.to_thread(server.get, key))[0] == 404


async def test_released_endpoint_in_the_dht_is_found_through_our_dns_server(
    bootstrap: list[str], tmp_path: Path
) -> None:
    async with (
        with_mainline(DnsServerProcess("ours", tmp_path), bootstrap) as server,
        RustPeer("echo", "--bind", V4, "--dht", bootstrap[0]) as peer,
    ):
        bound = await peer.event("bound")
        dht = client(bootstrap)
        await found(dht, EndpointId(bound["id"]))
        await dht.close()
        async with Endpoint.bind(
            preset=presets.minimal,
            bind_addrs=[V4],
            address_lookup=[DnsLookup(ORIGIN)],
            dns_resolver=DnsResolver([server.nameserver]),
        ) as ep:
            conn = await ep.connect(bound["id"], ALPN)
            assert str(conn.remote_id) == bound["id"]
            info = await ep.remote_info(bound["id"])
            assert info is not None and ("dns",) in [addr.sources for addr in info.addrs]
            conn.close()
