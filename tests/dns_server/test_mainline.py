"""The DNS server's fallback into the DHT: what it finds, and what it does not believe."""

from __future__ import annotations

import asyncio
import sys

import pytest
from dht_liars import Forger, Silent, prepare
from dht_sim import VALUE, SimNode, make_item
from dht_udp import UdpNet
from nacl.signing import SigningKey
from packets import DEVELOPMENT, TXT, MemoryStore, packet_of, query, text_record, zone

from iroh_fast import SecretKey
from iroh_fast._dns import Message, read_message
from iroh_fast.dns_server.answers import Answers
from iroh_fast.dns_server.mainline import MainlineFallback
from iroh_fast.errors import AddressLookupError, ConfigError
from iroh_fast.lookup.dht.ids import target_of
from iroh_fast.lookup.dht.items import item_of

KEY = SigningKey(bytes([8]) * 32)
PUBLIC = bytes(KEY.verify_key)


def nodes(net: UdpNet) -> list[str]:
    return [f"{host}:{port}" for host, port in net.bootstrap]


async def started(net: UdpNet) -> MainlineFallback:
    fallback = MainlineFallback(nodes(net))
    await fallback.start()
    return fallback


async def test_packet_of_the_dht_is_found() -> None:
    async with UdpNet(6) as net:
        for node in net.nodes[3:]:
            node.items[target_of(PUBLIC)] = make_item(KEY, 5)
        fallback = await started(net)
        item = make_item(KEY, 5)
        expected = PUBLIC + item.signature + (5).to_bytes(8, "big") + VALUE
        assert await fallback.lookup(PUBLIC) == expected
        assert await fallback.lookup(bytes(range(32))) is None
        await fallback.close()
        await fallback.close()


async def test_nobody_answers_for_the_key_of_another() -> None:
    """Valid items of somebody else, forged ones, and old ones, from every node."""
    prepare(make_item(KEY, 3))
    async with UdpNet(6, (Forger,)) as net:
        fallback = await started(net)
        stranger = bytes(SigningKey(bytes([9]) * 32).verify_key)
        assert await fallback.lookup(stranger) is None
        found = await fallback.lookup(PUBLIC)
        assert found is None or (found[:32] == PUBLIC and found[96:104] == (3).to_bytes(8, "big"))
        await fallback.close()


async def test_close_ends_a_lookup() -> None:
    async with UdpNet(2, (Silent, SimNode)) as net:
        net.nodes[1].contacts.clear()
        fallback = await started(net)
        task = asyncio.create_task(fallback.lookup(PUBLIC))
        await asyncio.sleep(0)
        await fallback.close()
        with pytest.raises(AddressLookupError):
            await task


def test_node_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="bootstrap"):
        MainlineFallback(["no port"])


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("iroh_fast.lookup.dht.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bencode2", None)
    with pytest.raises(ConfigError, match=r"iroh-fast\[dht\]"):
        MainlineFallback()


# --- behind the answers --------------------------------------------------------------------

OWNER = SecretKey(bytes([5]) * 32)
PACKET = packet_of(OWNER, text_record(OWNER, "_iroh", b"relay=https://a.example/"))


async def answer(answers: Answers, name: str) -> Message:
    found = answers.answer(query(name, TXT), transport="udp")
    return read_message(found if isinstance(found, bytes) else await found)


def texts(message: Message) -> list[list[bytes]]:
    return [message.strings(r) for r in message.records if r.section == 1]


async def test_question_for_a_key_that_is_not_stored_is_answered_from_the_dht() -> None:
    async with UdpNet(6) as net:
        for node in net.nodes:
            node.items[target_of(PACKET.public_key)] = item_of(PACKET)
        fallback = await started(net)
        answers = Answers(DEVELOPMENT, MemoryStore(), fallback=fallback)
        name = f"_iroh.{zone(OWNER)}"
        crowd = [asyncio.create_task(answer(answers, name)) for _ in range(20)]
        for message in await asyncio.gather(*crowd):
            assert texts(message) == [[b"relay=https://a.example/"]]
        asked = sum(node.asked for node in net.nodes)
        assert asked <= 2 * len(net.nodes), "one lookup for all that ask"
        # Found and not found are remembered.
        other = f"_iroh.{zone(SecretKey(bytes([6]) * 32))}"
        assert texts(await answer(answers, other)) == []
        asked = sum(node.asked for node in net.nodes)
        assert texts(await answer(answers, other)) == []
        assert texts(await answer(answers, name)) == [[b"relay=https://a.example/"]]
        assert sum(node.asked for node in net.nodes) == asked
        assert answers.counters()["dns_fallback_lookups"] == 2
        await answers.close()
        await fallback.close()


async def test_stored_packet_hides_the_dht() -> None:
    async with UdpNet(3) as net:
        fallback = await started(net)
        answers = Answers(DEVELOPMENT, MemoryStore(PACKET), fallback=fallback)
        message = await answer(answers, f"_iroh.{zone(OWNER)}")
        assert texts(message) == [[b"relay=https://a.example/"]]
        assert all(node.asked == 0 for node in net.nodes)
        await answers.close()
        await fallback.close()
