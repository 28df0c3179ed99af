"""One mapping over hours, on a virtual clock: which protocol, when it is renewed, what failures cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from iroh_fast.addr import SocketAddr
from iroh_fast.errors import PortmapError
from iroh_fast.portmapper.keeper import Keeper, probe
from iroh_fast.portmapper.model import Gateway, Lease, ProtocolName

GATEWAY = Gateway(IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
OTHER = Gateway(IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2"))
PORT = 41641
WHERE = SocketAddr(IPv4Address("203.0.113.7"), PORT)
SILENT = PortmapError("timeout", "silence")

Run = Callable[[Coroutine[Any, Any, None]], None]


class Fake:
    """A protocol whose answers the test sets."""

    def __init__(self, name: ProtocolName, log: list[tuple[float, str]]) -> None:
        self._name = name
        self.log = log
        self.probed: PortmapError | None = None
        self.mapped: Lease | PortmapError = Lease(name, PORT, WHERE, 3600, "token")
        self.released: list[tuple[Gateway, Lease]] = []
        self.asked: list[tuple[Gateway, Lease | None]] = []
        self.takes = 0.0
        self.closed = 0

    @property
    def name(self) -> ProtocolName:
        return self._name

    def note(self, what: str) -> None:
        self.log.append((asyncio.get_running_loop().time(), f"{self.name} {what}"))

    async def probe(self, gateway: Gateway) -> None:
        self.note("probe")
        if self.probed is not None:
            raise self.probed

    async def map(self, gateway: Gateway, port: int, old: Lease | None) -> Lease:
        self.note("map" if old is None else "renew")
        self.asked.append((gateway, old))
        await asyncio.sleep(self.takes)
        if isinstance(self.mapped, PortmapError):
            raise self.mapped
        return self.mapped

    async def release(self, gateway: Gateway, lease: Lease) -> None:
        self.note("release")
        self.released.append((gateway, lease))

    async def close(self) -> None:
        self.closed += 1


class Home:
    """A keeper with three fakes, running."""

    def __init__(self) -> None:
        self.log: list[tuple[float, str]] = []
        self.pcp, self.nat_pmp, self.upnp = (
            Fake(name, self.log) for name in ("pcp", "nat_pmp", "upnp")
        )
        self.told: list[SocketAddr | None] = []
        self.fakes = [self.pcp, self.nat_pmp, self.upnp]
        self.keeper = Keeper(
            self.fakes, PORT, lambda lease: self.told.append(lease and lease.external)
        )

    def times(self, what: str) -> list[float]:
        return [at for at, said in self.log if said == what]


@asynccontextmanager
async def home(**probed: PortmapError) -> AsyncIterator[Home]:
    made = Home()
    for name, error in probed.items():
        getattr(made, name).probed = error
    task = asyncio.ensure_future(made.keeper.run())
    try:
        yield made
    finally:
        assert not task.done(), task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.keeper.close()
        assert [fake.closed for fake in made.fakes] == [1, 1, 1]


def test_best_protocol_is_chosen_and_renewed_in_time(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(3000)
            assert [said for _, said in it.log[:4]] == [
                *("pcp probe", "nat_pmp probe", "upnp probe", "pcp map")
            ]
            # A router that restarted is noticed after a quarter of an hour.
            assert it.times("pcp renew") == [900, 1800, 2700]
            assert it.pcp.asked[1] == (GATEWAY, it.keeper.lease)
            assert it.told == [WHERE] and it.keeper.error is None
            lease = it.keeper.lease
        assert it.pcp.released == [(GATEWAY, lease)] and it.keeper.lease is None
        assert it.told == [WHERE]

    virtual(main())


@pytest.mark.parametrize("lifetime, first", [(120, 60), (40, 20), (8, 10), (0, 900)])
def test_lease_is_renewed_at_half_of_what_was_granted(
    virtual: Run, lifetime: int, first: int
) -> None:
    async def main() -> None:
        async with home() as it:
            it.pcp.mapped = Lease("pcp", PORT, WHERE, lifetime)
            it.keeper.look(GATEWAY)
            await asyncio.sleep(first + 1)
            assert it.times("pcp renew") == [first]

    virtual(main())


def test_next_protocol_is_asked_where_the_best_one_refuses(virtual: Run) -> None:
    async def main() -> None:
        async with home(pcp=SILENT) as it:
            it.nat_pmp.mapped = PortmapError("refused", "no", code=2)
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)
            assert it.keeper.lease is not None and it.keeper.lease.protocol == "upnp"
            assert it.times("pcp map") == [] and len(it.times("nat_pmp map")) == 1
            counters = it.keeper.counters
            assert counters["portmap:mapping_attempts"] == 2
            assert counters["portmap:mapping_failures"] == 1
            assert counters["portmap:pcp_available"] == 0
            assert counters["portmap:nat_pmp_available"] == counters["portmap:upnp_available"] == 1

    virtual(main())


def test_gateway_that_knows_nothing_is_asked_with_patience(virtual: Run) -> None:
    async def main() -> None:
        async with home(pcp=SILENT, nat_pmp=SILENT, upnp=SILENT) as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(3600)
            assert it.times("upnp probe")[:6] == [0, 25, 50, 75, 100, 400]
            assert len(it.times("upnp probe")) == 16
            assert it.keeper.error is not None and it.keeper.error.kind == "unavailable"
            assert it.told == []

    virtual(main())


def test_gateway_that_asks_for_patience_gets_it_up_to_a_bound(virtual: Run) -> None:
    async def main() -> None:
        async with home(nat_pmp=SILENT, upnp=SILENT) as it:
            it.pcp.mapped = PortmapError("refused", "later", code=8, wait=100.0)
            it.keeper.look(GATEWAY)
            await asyncio.sleep(101)
            assert it.times("pcp map") == [0, 100]
            it.pcp.mapped = PortmapError("refused", "later", code=8, wait=4e9)
            await asyncio.sleep(100)
            assert it.times("pcp map") == [0, 100, 200]
            await asyncio.sleep(1800)
            assert it.times("pcp map") == [0, 100, 200, 2000]

    virtual(main())


def test_silent_gateway_keeps_the_lease_until_it_ends(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.pcp.mapped = Lease("pcp", PORT, WHERE, 800)
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)
            for fake in it.fakes:
                fake.mapped = fake.probed = SILENT
            await asyncio.sleep(788)
            assert it.times("pcp renew") == [400, 600, 700, 750, 775, 787.5]
            assert it.told == [WHERE]
            await asyncio.sleep(20)
            assert it.told == [WHERE, None]
            # It is there again.
            for fake in it.fakes:
                fake.probed, fake.mapped = None, Lease(fake.name, PORT, WHERE, 800)
            await asyncio.sleep(30)
            assert it.told == [WHERE, None, WHERE]

    virtual(main())


def test_lease_that_is_refused_is_gone_and_had_again_by_another_protocol(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)
            it.pcp.mapped = PortmapError("refused", "who are you", code=2)
            await asyncio.sleep(900)
            assert it.keeper.lease is not None and it.keeper.lease.protocol == "nat_pmp"
            assert it.told == [WHERE, None, WHERE]

    virtual(main())


def test_address_that_became_another_one_is_told(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)
            moved = SocketAddr(IPv4Address("203.0.113.8"), 50000)
            it.pcp.mapped = Lease("pcp", PORT, moved, 3600)
            await asyncio.sleep(900)
            assert it.told == [WHERE, moved]
            assert it.keeper.counters["portmap:external_address_updated"] == 2
            assert it.pcp.asked[-1][1] is not None

    virtual(main())


def test_change_of_the_network_asks_the_new_gateway_at_once(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(100)
            it.keeper.look(OTHER)
            await asyncio.sleep(0.1)
            assert it.told == [WHERE, None, WHERE]
            assert it.pcp.asked[-1] == (OTHER, None) and it.pcp.released == []
            assert it.times("pcp probe") == [0, 100]
            it.keeper.look(None)
            await asyncio.sleep(10)
            assert it.told[-1] is None
            assert it.keeper.error is not None and it.keeper.error.kind == "no_gateway"
            count = len(it.log)
            await asyncio.sleep(36000)
            assert len(it.log) == count

    virtual(main())


def test_same_gateway_is_asked_whether_the_mapping_is_still_there(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(100)
            it.keeper.look(GATEWAY)
            await asyncio.sleep(0.1)
            assert it.times("pcp renew") == [100]

    virtual(main())


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("others", [[GATEWAY], [GATEWAY, OTHER], [GATEWAY, None]])
def test_storm_of_changes_is_bounded(
    virtual: Run, answers: bool, others: list[Gateway | None]
) -> None:
    async def main() -> None:
        async with home() as it:
            if not answers:
                for fake in it.fakes:
                    fake.mapped = SILENT
            for turn in range(2000):
                it.keeper.look(others[turn % len(others)])
                await asyncio.sleep(0.05)
            per_second = sum("map" in said or "renew" in said for _, said in it.log) / 100
            assert per_second < (0.7 if len(others) == 1 else 6.1)

    virtual(main())


def test_change_while_a_gateway_is_asked_counts(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.pcp.takes = 2.0
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)
            it.keeper.look(OTHER)
            await asyncio.sleep(10)
            assert [gateway for gateway, _ in it.pcp.asked] == [GATEWAY, OTHER]
            assert it.keeper.lease is not None and it.told[-1] == WHERE

    virtual(main())


def test_protocol_that_hangs_is_left(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.pcp.takes = 1e9
            it.keeper.look(GATEWAY)
            await asyncio.sleep(16)
            assert it.keeper.lease is not None and it.keeper.lease.protocol == "nat_pmp"

    virtual(main())


def test_release_does_not_hold_up_the_end(virtual: Run) -> None:
    async def main() -> None:
        async with home() as it:
            it.keeper.look(GATEWAY)
            await asyncio.sleep(1)

            async def hang(gateway: Gateway, lease: Lease) -> None:
                await asyncio.sleep(1e9)

            it.pcp.release = hang  # type: ignore[method-assign]
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began <= 1.0

    virtual(main())


def test_probe_tells_why_a_protocol_is_not_there(virtual: Run) -> None:
    async def main() -> None:
        made = Home()
        made.pcp.probed = PortmapError("unavailable", "no")
        found = await probe(made.fakes, replace(GATEWAY, port=1))
        assert found == {"pcp": made.pcp.probed, "nat_pmp": None, "upnp": None}

    virtual(main())
