"""Address lookup in memory."""

from __future__ import annotations

import time

import pytest

from iroh_fast import EndpointAddr, EndpointTicket
from iroh_fast.errors import TicketError
from iroh_fast.lookup.info import EndpointData, EndpointInfo
from iroh_fast.lookup.memory import MemoryLookup
from iroh_fast.lookup.services import LookupItem

from .services import ID, OTHER, info

RELAY = "https://relay.example./"


@pytest.mark.covers("iroh: memory::test_basic")
async def test_memory_adds_gets_and_removes() -> None:
    memory = MemoryLookup()
    assert memory.get(ID) is None and memory.remove(ID) is None and memory.resolve(ID) is None
    memory.add(info("192.0.2.1:1", user_data="first"))
    assert memory.get(str(ID)) == info("192.0.2.1:1", user_data="first")
    assert memory.get(OTHER) is None and len(memory) == 1
    assert memory.remove(ID) == info("192.0.2.1:1", user_data="first")
    assert memory.get(ID) is None and len(memory) == 0


async def test_memory_add_merges_addresses_and_replaces_user_data() -> None:
    memory = MemoryLookup([info(RELAY, "192.0.2.1:1", user_data="first")])
    memory.add(info("192.0.2.2:2", "192.0.2.1:1", "https://other.example./"))
    assert memory.get(ID) == info(RELAY, "192.0.2.1:1", "192.0.2.2:2", "https://other.example./")


async def test_memory_set_replaces_and_returns_what_was() -> None:
    memory = MemoryLookup()
    assert memory.set(info("192.0.2.1:1", user_data="first")) is None
    before = memory.set(EndpointAddr(ID, ip_addrs=["192.0.2.2:2"]))
    assert before == EndpointData(["192.0.2.1:1"], "first")
    assert memory.get(ID) == info("192.0.2.2:2")


async def test_memory_takes_what_stands_for_an_endpoint() -> None:
    addr = EndpointAddr(ID, ip_addrs=["192.0.2.1:1"])
    for given in (
        addr,
        EndpointTicket(addr),
        str(EndpointTicket(addr)),
        EndpointInfo.from_addr(addr),
    ):
        assert MemoryLookup([given]).get(ID) == info("192.0.2.1:1")
    with pytest.raises(TicketError):
        MemoryLookup(["endpointxyz"])


@pytest.mark.covers("iroh: memory::test_provenance")
async def test_memory_resolves_once_with_provenance_and_time() -> None:
    before = time.time_ns() // 1000
    for memory, name in (
        (MemoryLookup(), "memory_lookup"),
        (MemoryLookup(provenance="friends"), "friends"),
    ):
        memory.add(info("192.0.2.1:1"))
        found = memory.resolve(ID)
        assert found is not None
        (item,) = [answer async for answer in found]
        assert isinstance(item, LookupItem)
        assert (item.info, item.provenance) == (info("192.0.2.1:1"), name)
        assert item.last_updated is not None and before <= item.last_updated
        memory.publish(EndpointData(["192.0.2.9:9"]))
        assert memory.get(ID) == info("192.0.2.1:1"), "what endpoints publish is not its business"
