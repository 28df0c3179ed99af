"""Address discovery at several relays: what is kept, what is believed, how often changes are heard."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest
from tests.net.test_report_course import relays, run

from iroh_fast.addr import SocketAddr
from iroh_fast.aio._waiters import WaitQueue
from iroh_fast.errors import ConnectTimeout, DnsNxDomain
from iroh_fast.net_report import qad
from iroh_fast.net_report.qad import QadProbes, Seen
from iroh_fast.relay.client.qad import QadReport

HERE = SocketAddr.parse("198.51.100.7:4000")
THERE = SocketAddr.parse("198.51.100.7:4001")
LOCAL = SocketAddr.parse("127.0.0.1:4000")


class Relay:
    """A relay and the connection to it, in place of `QadClient`."""

    made: dict[str, Relay] = {}

    def __init__(self, name: str, *, after: float = 0.01, tells: SocketAddr = HERE) -> None:
        self.after = after
        self.tells = tells
        self.latency = after
        self.closed = False
        self.connected = 0
        self.news = WaitQueue()
        Relay.made[name] = self

    async def report(self) -> QadReport:
        return QadReport(self.tells, self.latency)

    async def changed(self, known: SocketAddr) -> QadReport:
        while self.tells == known:
            if self.closed:
                raise ConnectTimeout("over")
            await self.news.wait()
        return QadReport(self.tells, self.latency)

    def tell(self, addr: SocketAddr) -> None:
        self.tells = addr
        self.news.wake_all()

    def close(self) -> None:
        self.closed = True
        self.news.wake_all()


class FakeClient:
    @staticmethod
    async def connect(driver: object, addr: SocketAddr, *, server_name: str, trust: object) -> Any:
        relay = Relay.made[server_name]
        assert addr.port == 7842
        await asyncio.sleep(relay.after)
        relay.connected += 1
        return relay


class Names:
    async def lookup_ipv4_staggered(self, host: str) -> list[Any]:
        if host not in Relay.made:
            raise DnsNxDomain(host=host)
        return [SocketAddr.parse("192.0.2.1:1").ip]

    async def lookup_ipv6_staggered(self, host: str) -> list[Any]:
        raise DnsNxDomain(host=host)


@pytest.fixture(autouse=True)
def fake_relays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(qad, "QadClient", FakeClient)
    yield
    Relay.made.clear()


class Asking:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[Seen] = []
        self.changes: list[tuple[float, Seen]] = []
        loop = asyncio.get_running_loop()
        self.probes = QadProbes(
            cast(Any, None),
            cast(Any, None),
            Names(),
            changed=lambda seen: self.changes.append((round(loop.time(), 3), seen)),
            count=lambda name: self.counts.update([name]),
        )

    async def probe(self, *names: str) -> None:
        await self.probes.probe(relays(*names), 4, self.found.append)


def case(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run(work())


def test_first_answer_is_kept_and_the_others_are_closed() -> None:
    async def work() -> None:
        near, far = Relay("near"), Relay("far", after=0.1)
        asking = Asking()
        await asking.probe("far", "unknown", "near")
        assert [(seen.relay.host, seen.addr) for seen in asking.found] == [
            ("near", HERE),
            ("far", HERE),
        ]
        assert not near.closed and far.closed
        assert asking.counts == {"qad_probes": 3, "qad_success": 2}
        near.latency = 0.2  # as it is now
        assert asking.probes.kept(4) == Seen(asking.found[0].relay, HERE, 0.2)
        assert asking.probes.kept(6) is None
        near.close()
        assert asking.probes.kept(4) is None
        await asking.probes.close()

    case(work)


def test_cancelled_probes_close_what_they_opened() -> None:
    async def work() -> None:
        near, slow = Relay("near"), Relay("slow", after=1.0)
        asking = Asking()
        task = asyncio.ensure_future(asking.probe("near", "slow"))
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.wait({task})
        assert slow.connected == 0 and not near.closed  # near was there by then
        await asking.probes.close()
        assert near.closed

    case(work)


def test_silent_relay_is_given_up_after_three_seconds() -> None:
    async def work() -> None:
        Relay("silent", after=1e9)
        asking = Asking()
        await asking.probe("silent")
        assert asyncio.get_running_loop().time() == 3.0
        assert asking.counts == {"qad_probes": 1} and not asking.found
        await asking.probes.close()

    case(work)


def test_at_most_five_relays_are_asked() -> None:
    async def work() -> None:
        names = [f"r{i}" for i in range(9)]
        for name in names:
            Relay(name)
        asking = Asking()
        await asking.probe(*names)
        assert [relay.connected for relay in Relay.made.values()] == [1] * 5 + [0] * 4
        await asking.probes.close()

    case(work)


def test_relay_that_tells_nonsense_is_not_believed() -> None:
    async def work() -> None:
        liar = Relay("liar", tells=LOCAL)
        asking = Asking()
        await asking.probe("liar")
        assert liar.closed and not asking.found and asking.probes.kept(4) is None
        liar = Relay("liar")
        await asking.probe("liar")
        liar.tell(LOCAL)
        await asyncio.sleep(5)
        assert not asking.changes
        kept = asking.probes.kept(4)
        assert kept is not None and kept.addr == HERE
        liar.tell(THERE)
        await asyncio.sleep(5)
        assert [seen.addr for _, seen in asking.changes] == [THERE]
        await asking.probes.close()

    case(work)


def test_change_is_told_at_once_and_many_once_a_second() -> None:
    async def work() -> None:
        restless = Relay("restless")
        asking = Asking()
        await asking.probe("restless")
        await asyncio.sleep(1)
        began = round(asyncio.get_running_loop().time(), 3)
        for port in range(5000, 6000):
            restless.tell(SocketAddr(HERE.ip, port))
            await asyncio.sleep(0.01)
        assert asking.changes[0][0] == began
        assert len(asking.changes) == 10
        await asyncio.sleep(2)
        assert asking.changes[-1][1].addr.port == 5999  # the last one counts
        kept = asking.probes.kept(4)
        assert kept is not None and kept.addr.port == 5999
        await asking.probes.close()

    case(work)


def test_forgetting_closes_what_is_kept() -> None:
    async def work() -> None:
        relay = Relay("a")
        asking = Asking()
        await asking.probe("a")
        asking.probes.forget()
        assert relay.closed and asking.probes.kept(4) is None
        await asyncio.sleep(0)
        relay.closed = False
        await asking.probe("a")
        assert relay.connected == 2 and asking.probes.kept(4) is not None
        await asking.probes.close()

    case(work)
