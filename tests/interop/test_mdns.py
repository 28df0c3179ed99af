"""The real peer and this package find each other on one link, by mDNS alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from iroh_fast import Endpoint, EndpointId, Router, presets
from iroh_fast.lookup import MdnsLookup
from iroh_fast.lookup.mdns import Discovered, Expired
from iroh_fast.relay import RelayServer, RelayServerConfig
from tests.lab import missing
from tests.lab.lan import Host, Lan, entered
from tests.lookup.mdns_host import data_of, next_of, node, until

from .links import echo_bi
from .rust import RustPeer, program

ALPN = b"peer/echo"

pytestmark = [pytest.mark.lab, pytest.mark.interop]


@pytest.fixture(autouse=True, scope="module")
def lab_is_possible() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    program("peer")


@pytest.fixture(params=["both", "ipv4", "ipv6"])
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with Lan(2, ip4=request.param != "ipv6", ip6=request.param != "ipv4") as made:
        yield made


@pytest.fixture
def lan2() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


def binds(host: Host) -> list[str]:
    """Where an endpoint of this host binds its sockets."""
    return [
        *([f"{host.ip4}:0"] if host.ip4 else []),
        *([f"[{host.ip6}]:0"] if host.ip6 else []),
    ]


def peer(host: Host, command: str, *arguments: str) -> RustPeer:
    chosen = [argument for bind in binds(host) for argument in ("--bind", bind)]
    return RustPeer(command, "--mdns", *chosen, *arguments, network=host)


def endpoint(host: Host, mdns: MdnsLookup, **options: Any) -> Any:
    return Endpoint.bind(
        preset=presets.minimal, bind_addrs=binds(host), address_lookup=[mdns], **options
    )


async def test_real_peer_and_ours_find_each_other_with_all_they_tell(lan: Lan) -> None:
    left, right = lan.hosts
    async with (
        node(left, relay="https://relay.example/x", user_data="of ours") as (_, own_id, seen),
        peer(right, "echo", "--user-data", "of the real one") as real,
    ):
        bound = await real.event("bound")
        found = await next_of(seen, Discovered, EndpointId(bound["id"]))
        assert found.info.data.user_data == "of the real one"
        assert {str(addr) for addr in found.info.data.ip_addrs} == set(bound["addrs"])
        told = await real.event("discovered", id=str(own_id))
        data = data_of(left, "https://relay.example/x")
        assert set(told["addrs"]) == {str(addr) for addr in data.ip_addrs}
        assert told["relays"] == ["https://relay.example/x"] and told["user_data"] == "of ours"


async def test_who_ends_expires_on_the_other_side(lan: Lan) -> None:
    left, right = lan.hosts
    async with peer(right, "echo") as real:
        id = EndpointId((await real.event("bound"))["id"])
        async with node(left) as (_, own_id, _):
            await real.event("discovered", id=str(own_id))
        await real.event("expired", id=str(own_id))
        async with node(left) as (_, _, seen):
            await next_of(seen, Discovered, id)
            await real.__aexit__(None, None, None)
            assert await next_of(seen, Expired, id) == Expired(id)


async def test_ours_dials_the_real_peer_by_its_key(lan: Lan) -> None:
    left, right = lan.hosts
    async with peer(right, "echo") as real:
        bound = await real.event("bound")
        with entered(left):
            async with endpoint(left, MdnsLookup()) as ep, ep.connect(bound["id"], ALPN) as conn:
                assert str(conn.remote_id) == bound["id"]
                send, recv = await conn.open_bi()
                await send.write_all(b"found")
                send.finish()
                assert await recv.read_to_end(10) == b"found"
                info = await ep.remote_info(conn.remote_id)
                assert info is not None and any("mdns" in addr.sources for addr in info.addrs)


async def test_real_peer_dials_ours_by_its_key(lan: Lan) -> None:
    left, right = lan.hosts
    with entered(left):
        ep = await endpoint(left, MdnsLookup(), alpns=[ALPN])
    async with Router(ep, {ALPN: echo_bi}), peer(right, "dial", "--id", str(ep.id)) as real:
        assert (await real.event("echoed"))["failed"] == 0
        assert await real.ended() == 0


async def test_real_peer_with_another_service_name_is_on_its_own(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with (
        node(left) as (first, _, _),
        node(left, service_name="other") as (other, other_id, seen),
        peer(right, "echo", "--mdns-service", "other") as real,
    ):
        id = EndpointId((await real.event("bound"))["id"])
        await next_of(seen, Discovered, id)
        await real.event("discovered", id=str(other_id))
        assert first.peers == () and [info.id for info in other.peers] == [id]
        assert [event["id"] for event in real.seen if event["event"] == "discovered"] == [
            str(other_id)
        ]


async def test_real_peer_that_only_listens_is_not_found_and_finds(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with node(left) as (first, own_id, _), peer(right, "echo", "--mdns-quiet") as real:
        await real.event("discovered", id=str(own_id))
        heard = first.counters["heard"]
        await until(lambda: first.counters["heard"] > heard + 3)
        assert first.peers == ()


async def test_ours_that_only_listens_finds_the_real_peer_and_is_not_found(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with (
        node(left, advertise=False) as (_, _, seen),
        node(left) as (_, loud_id, _),
        peer(right, "echo") as real,
    ):
        await next_of(seen, Discovered, EndpointId((await real.event("bound"))["id"]))
        await real.event("discovered", id=str(loud_id))
        assert [event["id"] for event in real.seen if event["event"] == "discovered"] == [
            str(loud_id)
        ]


async def test_home_relay_of_the_real_peer_is_told(lan2: Lan) -> None:
    left, right = lan2.hosts
    assert left.ip4 is not None
    config = RelayServerConfig(http_bind_addr=(left.ip4, 0), enable_metrics=False)
    relay = RelayServer(config)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(relay.stop)
        with entered(left):
            await relay.start()
        url = f"http://{left.ip4}:{relay.addresses['http'][1]}/"
        async with (
            node(left) as (_, _, seen),
            peer(right, "echo", "--relay", url, "--qad-port", "0") as real,
        ):
            bound = await real.event("bound")
            assert bound["relays"] == [url]
            id = EndpointId(bound["id"])
            while not (found := await next_of(seen, Discovered, id)).info.data.relay_urls:
                pass
            assert found.info.data.relay_urls == (url,)


async def test_real_peers_among_ours_are_all_found() -> None:
    with Lan(6) as lan:
        async with (
            node(lan.hosts[0]) as (first, first_id, _),
            node(lan.hosts[1]) as (second, second_id, _),
            peer(lan.hosts[2], "echo") as one,
            peer(lan.hosts[3], "echo") as two,
            peer(lan.hosts[4], "echo") as three,
        ):
            real = [one, two, three]
            ids = {EndpointId((await each.event("bound"))["id"]) for each in real}
            await until(lambda: {info.id for info in first.peers} == ids | {second_id})
            await until(lambda: {info.id for info in second.peers} == ids | {first_id})
            for each in real:
                told = {event["id"] for event in each.seen if event["event"] == "discovered"}
                while not {str(first_id), str(second_id)} <= told:
                    told.add((await each.event("discovered"))["id"])
