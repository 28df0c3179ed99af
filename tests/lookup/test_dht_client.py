"""The client of the DHT on sockets: who waits, what is left behind, and what strangers send."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from dht_liars import Forger, Garbage, Silent, prepare
from dht_sim import VALUE, SimNode, make_item
from dht_udp import UdpNet
from nacl.signing import SigningKey

from iroh_fast.errors import AddressLookupError, ConfigError
from iroh_fast.lookup.dht.client import MAX_TASKS, DhtClient, bootstrap_nodes
from iroh_fast.lookup.dht.ids import target_of
from iroh_fast.lookup.dht.items import item_of, verified
from iroh_fast.lookup.signed_packet import SignedPacket

KEY = SigningKey(bytes([4]) * 32)
PUBLIC = bytes(KEY.verify_key)


def packet(seq: int = 5, key: SigningKey = KEY) -> SignedPacket:
    made = verified(make_item(key, seq))
    assert made is not None
    return made


class Names:
    """A resolver."""

    def __init__(self, **known: Any) -> None:
        self.known = known
        self.asked: list[str] = []

    async def lookup(self, host: str, family: socket.AddressFamily) -> Sequence[str]:
        assert family == socket.AF_INET
        self.asked.append(host)
        found = self.known.get(host.partition(".")[0], OSError("there is no such name"))
        if isinstance(found, Exception):
            raise found
        if callable(found):
            found = await found()
        return found  # type: ignore[no-any-return]


def client(bootstrap: Sequence[tuple[str, int]], resolver: Any = None, **options: Any) -> DhtClient:
    return DhtClient(resolver or Names(), bootstrap=bootstrap, **options)


def check_quiet(dht: DhtClient) -> None:
    """Nothing is left in the loop."""
    assert dht._socket is None and dht._timer is None and dht._resolving is None
    assert not dht._waiting and not dht._users
    core = dht._core
    assert not core._requests and not core._tasks and not core.outgoing and not core.finished
    assert not core._hungry and not core._awaited and core.deadline() is None


async def test_packet_is_put_and_got_again() -> None:
    async with UdpNet(8) as net:
        dht = client(net.bootstrap)
        assert await dht.get(PUBLIC) is None
        assert await dht.put(packet()) == 8
        assert all(node.items[target_of(PUBLIC)] == item_of(packet()) for node in net.nodes)
        check_quiet(dht)
        assert await client(net.bootstrap).get(PUBLIC) == packet()
        assert dht.nodes == 8
        await dht.close()


async def test_bootstrap_nodes_are_found_by_the_resolver_and_used_as_they_come() -> None:
    async with UdpNet(4) as net:
        net.nodes[1].items[target_of(PUBLIC)] = make_item(KEY, 5)
        hang: Callable[[], Any] = lambda: asyncio.sleep(100)  # noqa: E731
        names = Names(good=["127.0.0.1", "not an address", "::1"], slow=hang)
        port = net.nodes[0].address[1]
        dht = client([("bad.example", 1), ("slow.example", 2), ("good.example", port)], names)
        # Nobody waits for the slow one once somebody answers.
        assert await dht.get(PUBLIC) == packet()
        assert sorted(names.asked) == ["bad.example", "good.example", "slow.example"]
        check_quiet(dht)
        await dht.close()


async def test_names_of_bootstrap_nodes_are_not_looked_up_again_and_again() -> None:
    async with UdpNet(2) as net:
        names = Names(good=["127.0.0.1"])
        dht = client([("good.example", net.nodes[0].address[1])], names)
        for _ in range(3):
            assert await dht.get(PUBLIC) is None
        assert names.asked == ["good.example"]
        await dht.close()


async def test_without_any_bootstrap_node_nothing_is_found_and_put_says_so() -> None:
    dht = client([("bad.example", 1)])
    assert await dht.get(PUBLIC) is None
    with pytest.raises(AddressLookupError, match="no node of the DHT is known") as caught:
        await dht.put(packet())
    assert caught.value.provenance == "pkarr"
    check_quiet(dht)


async def test_put_says_why_nobody_takes_it() -> None:
    async with UdpNet(3) as net:
        dht = client(net.bootstrap)
        await dht.put(packet(9))
        with pytest.raises(AddressLookupError, match="3 nodes of the DHT have a newer record"):
            await dht.put(packet(8))
        for node in net.nodes:
            node.store = lambda arguments, source: (205, b"too big")  # type: ignore[method-assign]
        with pytest.raises(AddressLookupError, match="refuse the record with error 205"):
            await dht.put(packet(10))
        await dht.close()


async def test_network_without_udp_is_told_at_once() -> None:
    """The kernel refuses to send to this address."""
    dht = client([("255.255.255.255", 6881)])
    assert await dht.get(PUBLIC) is None
    with pytest.raises(AddressLookupError, match="no node of the DHT answers"):
        await dht.put(packet())
    check_quiet(dht)


async def test_cancelled_get_leaves_nothing_behind() -> None:
    async with UdpNet(3, (Silent,)) as net:
        started = asyncio.Event()

        async def hang() -> Sequence[str]:
            started.set()
            await asyncio.sleep(100)
            return []

        dht = client([*net.bootstrap, ("slow.example", 1)], Names(slow=hang))
        task = asyncio.create_task(dht.get(PUBLIC))
        await started.wait()
        assert dht._socket is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_quiet(dht)


async def test_get_after_a_cancelled_one_looks_names_up_anew() -> None:
    async with UdpNet(2) as net:
        net.nodes[0].items[target_of(PUBLIC)] = make_item(KEY, 5)
        names = Names(good=lambda: asyncio.sleep(100))
        dht = client([("good.example", net.nodes[0].address[1])], names)
        task = asyncio.create_task(dht.get(PUBLIC))
        while not names.asked:
            await asyncio.sleep(0)
        task.cancel()
        names.known["good"] = ["127.0.0.1"]
        second = asyncio.create_task(dht.get(PUBLIC))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await second == packet()
        check_quiet(dht)


async def test_resolver_that_raises_anything_is_one_that_finds_nothing() -> None:
    dht = client([("odd.example", 1)], Names(odd=ZeroDivisionError("odd")))
    assert await dht.get(PUBLIC) is None
    check_quiet(dht)


async def test_cancelling_one_get_does_not_disturb_another() -> None:
    async with UdpNet(6) as net:
        net.nodes[5].items[target_of(PUBLIC)] = make_item(KEY, 5)
        dht = client(net.bootstrap)
        first, second = (asyncio.create_task(dht.get(PUBLIC)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == packet()
        check_quiet(dht)


async def test_close_ends_those_who_wait() -> None:
    async with UdpNet(3, (Silent,)) as net:
        dht = client([*net.bootstrap, ("slow.example", 1)], Names(slow=lambda: asyncio.sleep(100)))
        tasks = [asyncio.create_task(dht.get(PUBLIC)) for _ in range(3)]
        tasks.append(asyncio.create_task(dht.put(packet())))
        await asyncio.sleep(0.01)
        await dht.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, AddressLookupError) and "closed" in str(result)
        check_quiet(dht)
        with pytest.raises(AddressLookupError, match="closed"):
            await dht.get(PUBLIC)
        await dht.close()


async def test_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        dht = client([], port=port)
        with pytest.raises(AddressLookupError, match=f"no socket for the DHT at UDP port {port}"):
            await dht.get(PUBLIC)
        check_quiet(dht)
    async with UdpNet(2) as net:
        seen: list[int] = []
        answer = net.nodes[0].receive

        def note(data: bytes, source: Any) -> bytes | None:
            seen.append(source[1])
            return answer(data, source)

        net.nodes[0].receive = note  # type: ignore[method-assign]
        dht = client(net.bootstrap, port=port)
        await dht.get(PUBLIC)
        assert set(seen) == {port}


async def test_put_keeps_its_port_between_search_and_store() -> None:
    """Nodes may bind a token to address and port of who asked."""
    async with UdpNet(4) as net:
        for node in net.nodes:
            node.token = lambda source: repr(source).encode()  # type: ignore[method-assign]
        dht = client(net.bootstrap)
        assert await dht.put(packet()) == 4


async def test_many_at_once_take_turns() -> None:
    async with UdpNet(4) as net:
        keys = [SigningKey(n.to_bytes(32, "big")) for n in range(1, 2 * MAX_TASKS + 1)]
        for key in keys:
            net.nodes[3].items[target_of(bytes(key.verify_key))] = make_item(key, 5)
        dht = client(net.bootstrap)
        most = 0

        async def get(key: SigningKey) -> Any:
            nonlocal most
            found = await dht.get(bytes(key.verify_key))
            most = max(most, len(dht._waiting))
            return found

        found = await asyncio.gather(*map(get, keys))
        assert [f and f.public_key for f in found] == [bytes(key.verify_key) for key in keys]
        assert most <= MAX_TASKS
        check_quiet(dht)


class Crier(SimNode):
    """Lets others send to whoever asks it, and answers after them."""

    def receive(self, data: bytes, source: Any) -> bytes | None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            for number in range(30):  # what the kernel keeps for a socket, whatever its settings
                other.sendto(bytes((number,)) * 100, source)
            other.sendto(b"", source)
            other.sendto(bytes(20_000), source)
        return super().receive(data, source)


async def test_strangers_and_garbage_do_not_hide_an_item() -> None:
    prepare(make_item(KEY, 3))
    async with UdpNet(12, (SimNode, Crier, Garbage, Forger)) as net:
        for node in net.nodes:
            if type(node) is SimNode:
                node.items[target_of(PUBLIC)] = make_item(KEY, 5)
        found = await client(net.bootstrap).get(PUBLIC)
        assert found is not None and (found.timestamp, found.dns) == (5, VALUE)


@pytest.mark.parametrize(
    "nodes",
    [
        "a.example:1",
        ["a.example"],
        ["a.example:0"],
        ["a.example:65536"],
        ["a.example:+1"],
        [":1"],
        ["::1:5"],
        [5],
        ["a.example:1"] * 33,
    ],
    ids=str,
)
def test_bootstrap_that_is_none_is_refused(nodes: Any) -> None:
    with pytest.raises(ConfigError, match="bootstrap"):
        bootstrap_nodes(nodes)


def test_bootstrap_nodes_are_read() -> None:
    assert bootstrap_nodes(["a.example:1", "127.0.0.1:6881"]) == (
        ("a.example", 1),
        ("127.0.0.1", 6881),
    )
