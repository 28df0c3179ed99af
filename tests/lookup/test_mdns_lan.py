"""The service on real sockets: hosts on one link, each a network namespace of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iroh_fast import EndpointId, SecretKey
from iroh_fast.errors import AddressLookupError, ConfigError
from iroh_fast.lookup.mdns import Discovered, Expired, MdnsLookup
from iroh_fast.lookup.mdns.sockets import GROUPS, PORT
from iroh_fast.lookup.mdns.wire import Names, encode_answer
from iroh_fast.lookup.services import LookupItem
from tests.lab import missing
from tests.lab.lan import Lan, entered
from tests.lookup.mdns_host import FakeEndpoint, data_of, next_of, node, until

OLD = json.loads((Path(__file__).parents[1] / "vectors" / "pkarr.json").read_text())["mdns"]

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True, scope="module")
def lab_is_possible() -> None:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=["both", "ipv4", "ipv6"])
def lan(request: pytest.FixtureRequest) -> Iterator[Lan]:
    with Lan(2, ip4=request.param != "ipv6", ip6=request.param != "ipv4") as made:
        yield made


@pytest.fixture
def lan2() -> Iterator[Lan]:
    with Lan(2) as made:
        yield made


async def test_two_hosts_find_each_other_with_all_they_tell(lan: Lan) -> None:
    left, right = lan.hosts
    async with (
        node(left) as (first, first_id, seen),
        node(right, relay="https://relay.example", user_data="a=b") as (second, second_id, others),
    ):
        found = await next_of(seen, Discovered, second_id)
        assert set(found.info.data.addrs) == set(data_of(right, "https://relay.example").addrs)
        assert found.info.data.user_data == "a=b" and found.last_updated is None
        assert (await next_of(others, Discovered, first_id)).info.data == data_of(left)
        assert [info.id for info in first.peers] == [second_id]


async def test_changed_addresses_are_told_and_a_closed_node_expires(lan: Lan) -> None:
    left, right = lan.hosts
    async with node(left) as (_, _, seen):
        async with node(right) as (second, second_id, _):
            await next_of(seen, Discovered, second_id)
            second.publish(data_of(right, port=4001))
            # Over one IP version before the other.
            moved = data_of(right, port=4001)
            while (await next_of(seen, Discovered, second_id)).info.data != moved:
                pass
        assert await next_of(seen, Expired, second_id) == Expired(second_id)


async def test_resolve_gives_known_and_new_ones_and_keeps_them_from_subscribers(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with node(left) as (first, _, seen), node(right, tell=False) as (second, second_id, _):
        looking = first.resolve(second_id)
        second.publish(data_of(right))
        item = await anext(looking)
        assert item == LookupItem(item.info, "mdns", None) and item.info.id == second_id
        assert item.info.data == data_of(right)
        again = first.resolve(second_id)
        assert (await anext(again)).info == item.info
        assert not seen._items
        await again.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(again)
        second.publish(data_of(right, port=4001))
        while (await anext(looking)).info.data != data_of(right, port=4001):
            pass
        await looking.aclose()
        assert not first._running._lookups and not first._running.node._wanted


async def test_resolve_ends_by_itself(lan2: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iroh_fast.lookup.mdns.running.LEAST_LOOKUP_S", 0.2)
    async with node(lan2.hosts[0], discovery_cadence=0.1) as (first, _, _):
        monkeypatch.setattr(first._running, "_cadence", -4.0)
        assert [item async for item in first.resolve(SecretKey.generate().public)] == []
        assert not first._running.node._wanted


async def test_cancelled_resolve_leaves_nothing(lan2: Lan) -> None:
    async with node(lan2.hosts[0]) as (first, _, _):
        looking = first.resolve(SecretKey.generate().public)
        task = asyncio.ensure_future(anext(looking))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await looking.aclose()
        assert not first._running._lookups and not first._running.node._wanted


async def test_close_ends_iterators_and_leaves_no_descriptor(lan2: Lan) -> None:
    async with node(lan2.hosts[0]) as (first, _, seen):
        looking = first.resolve(SecretKey.generate().public)
        waiting = [asyncio.ensure_future(anext(it, None)) for it in (looking, seen)]
        descriptors = [sock.fileno() for sock in first._running._sockets]
        await asyncio.sleep(0)
        await first.close()
        assert await asyncio.gather(*waiting) == [None, None]
        assert len(descriptors) == 2 and first._running._sockets == []
        assert first._running._timer is None
        first.publish(data_of(lan2.hosts[0]))
        first.network_changed()
        assert [item async for item in first.resolve(SecretKey.generate().public)] == []
        assert [event async for event in first.subscribe()] == []


async def test_services_of_other_names_and_listeners_are_not_seen(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with (
        node(left) as (first, first_id, _),
        node(right, service_name="other") as (other, _, _),
        node(right, advertise=False) as (quiet, _, heard),
    ):
        await next_of(heard, Discovered, first_id)
        await until(lambda: first.counters["foreign"] > 3 and other.counters["foreign"] > 3)
        assert first.peers == other.peers == ()


async def test_filter_says_what_is_told(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with (
        node(left) as (first, _, seen),
        node(right, relay="https://relay.example", filter="ip_only") as (_, second_id, _),
        node(right, relay="https://relay.example", filter="relay_only") as (_, third_id, _),
    ):
        found = await next_of(seen, Discovered, second_id)
        assert found.info.data == data_of(right)
        await until(lambda: first.counters["heard"] > 10)
        assert third_id not in {info.id for info in first.peers}  # a relay alone is not told


async def test_old_form_of_a_peer_is_taken(lan2: Lan) -> None:
    left, right = lan2.hosts
    async with node(left) as (_, _, seen):
        with entered(right), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
            old.sendto(bytes.fromhex(OLD["response_uncompressed"]), (GROUPS[4], PORT))
        found = await next_of(seen, Discovered, EndpointId(OLD["peer_id"]))
        assert [str(addr) for addr in found.info.data.ip_addrs] == OLD["meaning"]["addrs"]


async def test_messages_to_this_host_alone_are_not_read(lan2: Lan) -> None:
    left, right = lan2.hosts
    forged = encode_answer(Names("irohv1", SecretKey.generate().public), data_of(right))[0]
    assert forged is not None and left.ip4 and left.ip6
    async with node(left) as (first, _, _), node(right) as (_, second_id, _):
        with entered(right):
            for family, ip in ((socket.AF_INET, left.ip4), (socket.AF_INET6, left.ip6)):
                with socket.socket(family, socket.SOCK_DGRAM) as spoof:
                    spoof.sendto(forged, (ip, PORT))
        await until(lambda: bool(first.peers))
        heard = first.counters["heard"]
        await until(lambda: first.counters["heard"] > heard + 5)
        assert [info.id for info in first.peers] == [second_id]


async def test_two_nodes_and_another_responder_share_the_port_of_one_host(lan2: Lan) -> None:
    left, right = lan2.hosts
    with entered(left):
        other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("0.0.0.0", PORT))
        async with (
            node(left) as (_, first_id, one),
            node(left) as (_, second_id, two),
            node(right) as (_, third_id, three),
        ):
            for events, ids in (
                (one, (second_id, third_id)),
                (two, (first_id, third_id)),
                (three, (first_id, second_id)),
            ):
                found = {(await anext(events)).info.id for _ in ids}  # type: ignore[union-attr]
                assert found == set(ids)


async def test_a_link_that_comes_later_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with Lan(2) as lan:
        left, right = lan.hosts
        left.ip("link", "set", "eth0", "down")
        async with (
            node(left, interfaces=["eth0"]) as (first, _, seen),
            node(right) as (_, second_id, _),
        ):
            assert all(not sock.links for sock in first._running._sockets)
            left.plug_in()
            with entered(left):
                first.network_changed()
            assert all(sock.links for sock in first._running._sockets)
            await next_of(seen, Discovered, second_id)
            # By itself, too, when it looks again.
            left.ip("link", "set", "eth0", "down")
            with entered(left):
                first._running.look(again=False)
                assert all(not sock.links for sock in first._running._sockets)
            await next_of(seen, Expired, second_id)


async def test_interfaces_that_cannot_be_read_for_once_stay(
    lan2: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> list[Any]:
        raise PermissionError(13, "no")

    left, right = lan2.hosts
    async with node(left) as (first, _, seen):
        monkeypatch.setattr("iroh_fast.lookup.mdns.running.read_interfaces", refuse)
        first.network_changed()
        assert all(sock.links for sock in first._running._sockets)
        monkeypatch.undo()
        async with node(right) as (_, second_id, _):
            await next_of(seen, Discovered, second_id)


async def test_loopback_serves_where_there_is_nothing_else() -> None:
    from tests.lab.namespaces import Namespace

    alone = Namespace("alone")
    try:
        with entered(alone):
            async with node(None) as (_, first_id, one), node(None) as (_, second_id, two):
                assert (await next_of(one, Discovered, second_id)).info.data == data_of(None)
                await next_of(two, Discovered, first_id)
    finally:
        alone.close()


async def test_slow_subscriber_loses_the_newest_with_one_warning(
    lan2: Lan, caplog: pytest.LogCaptureFixture
) -> None:
    left, right = lan2.hosts
    async with node(left) as (first, _, seen):
        with entered(right):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        keys = [SecretKey.generate() for _ in range(30)]
        with sender, caplog.at_level(logging.WARNING, "iroh_fast.lookup.mdns"):
            for key in keys:
                message = encode_answer(Names("irohv1", key.public), data_of(right))[0]
                sender.sendto(message or b"", (GROUPS[4], PORT))
            await until(lambda: len(first.peers) == 30)
        assert seen.missed == 10 and len(caplog.records) == 1
        got = [await anext(seen) for _ in range(20)]
        assert [event.info.id for event in got] == [key.public for key in keys[:20]]  # type: ignore[union-attr]


async def test_a_flood_is_left_to_the_kernel_and_the_loop_goes_on(
    lan2: Lan, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = lan2.hosts
    async with node(left) as (first, _, _), node(right) as (_, second_id, _):
        await until(lambda: bool(first.peers))
        reads = first._running._reads
        monkeypatch.setattr(reads, "_left", 50.0)
        monkeypatch.setattr(reads, "_rate", 1.0)
        with entered(right):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(200):
                sender.sendto(b"junk", (GROUPS[4], PORT))
        await until(lambda: bool(first._running._pauses))
        monkeypatch.setattr(reads, "_rate", 10_000.0)
        await until(lambda: first.counters["foreign"] >= 200)
        assert not first._running._pauses
        assert [info.id for info in first.peers] == [second_id]


async def test_port_that_somebody_has_alone_is_an_error_that_says_so() -> None:
    with Lan(1) as lan:
        (host,) = lan.hosts
        with entered(host):
            taken = [
                socket.socket(family, socket.SOCK_DGRAM)
                for family in (socket.AF_INET, socket.AF_INET6)
            ]
        try:
            taken[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken[0].bind(("", PORT))
            taken[1].bind(("", PORT))
            with (
                entered(host),
                pytest.raises(AddressLookupError, match="5353: Address already in use"),
            ):
                MdnsLookup().into_address_lookup(FakeEndpoint())
            taken[1].close()
            async with node(host) as (mdns, _, _):
                assert [sock.family for sock in mdns._running._sockets] == [6]
        finally:
            for sock in taken:
                sock.close()


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advertise": 1}, "advertise"),
        ({"service_name": ""}, "service_name"),
        ({"service_name": "a.b"}, "service_name"),
        ({"service_name": "ü"}, "service_name"),
        ({"service_name": "x" * 63}, "service_name"),
        ({"filter": "nothing"}, "filter"),
        ({"discovery_cadence": 0}, "discovery_cadence"),
        ({"discovery_cadence": 4000}, "discovery_cadence"),
        ({"discovery_cadence": "1"}, "discovery_cadence"),
        ({"interfaces": "eth0"}, "interfaces"),
        ({"interfaces": []}, "interfaces"),
        ({"interfaces": [7]}, "interfaces"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MdnsLookup(**options)


async def test_one_object_serves_one_endpoint(lan2: Lan) -> None:
    async with node(lan2.hosts[0]) as (first, _, _):
        with pytest.raises(ConfigError, match="make one for each"):
            first.into_address_lookup(FakeEndpoint())
    with pytest.raises(ConfigError, match="make one for each"):
        first.into_address_lookup(FakeEndpoint())
    with pytest.raises(ConfigError, match="no endpoint"):
        MdnsLookup().resolve(SecretKey.generate().public)
