"""The course of net reports in virtual time: which probe starts when, what ends a report, when there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from tests.virtual import VirtualLoop

from iroh_fast.addr import IpAddr, RelayUrl, SocketAddr
from iroh_fast.net.local_addrs import NetworkState
from iroh_fast.net.service import ServiceContext
from iroh_fast.net_report import NetReport, NetReportConfig
from iroh_fast.net_report.means import Outside
from iroh_fast.net_report.qad import QadProbes, Seen
from iroh_fast.net_report.report import Draft
from iroh_fast.net_report.run import Course, Means, Plan
from iroh_fast.net_report.service import NetReports
from iroh_fast.relay.map import RelayConfig, RelayMap, RelayStatus

T = TypeVar("T")
NEVER = float("inf")
HERE = SocketAddr.parse("198.51.100.7:4000")
HERE_V6 = SocketAddr.parse("[2001:db8::7]:4000")


def run(work: Coroutine[Any, Any, T]) -> T:
    loop = VirtualLoop()
    try:
        result = loop.run_until_complete(work)
        # Nothing is left behind.
        assert not [task for task in asyncio.all_tasks(loop) if not task.done()]
        return result
    finally:
        loop.close()


@dataclass
class Net:
    """A network: what answers, after how many seconds; what is not named never answers."""

    udp4: dict[str, float] = field(default_factory=dict)
    udp6: dict[str, float] = field(default_factory=dict)
    tcp: dict[str, float] = field(default_factory=dict)
    fails: dict[str, float] = field(default_factory=dict)  # over TCP
    portal: float = NEVER
    stun: dict[str, tuple[float, SocketAddr]] = field(default_factory=dict)
    addr: SocketAddr = HERE
    began: list[tuple[float, str]] = field(default_factory=list)  # of probes
    running: int = 0
    keeps: dict[int, Seen] = field(default_factory=dict)
    forgotten: int = 0
    closed: bool = False

    def _note(self, what: str) -> None:
        self.began.append((round(asyncio.get_running_loop().time(), 3), what))

    async def _after(self, seconds: float) -> None:
        self.running += 1
        try:
            await (asyncio.sleep(seconds) if seconds < NEVER else asyncio.Event().wait())
        finally:
            self.running -= 1

    # --- as QadProbes

    def kept(self, family: int) -> Seen | None:
        return self.keeps.get(family)

    def forget(self) -> None:
        self.forgotten += 1
        self.keeps.clear()

    async def close(self) -> None:
        self.closed = True

    async def probe(
        self, relays: Sequence[RelayConfig], family: int, found: Callable[[Seen], object]
    ) -> None:
        answers = self.udp4 if family == 4 else self.udp6

        async def one(relay: RelayConfig) -> None:
            self._note(f"qad{family} {relay.url.host}")
            await self._after(min(3.0, answers.get(relay.url.host, NEVER)))
            if relay.url.host in answers:
                seen = Seen(
                    relay.url, self.addr if family == 4 else HERE_V6, answers[relay.url.host]
                )
                self.keeps.setdefault(family, seen)
                found(seen)

        tasks = [asyncio.ensure_future(one(r)) for r in relays if r.quic_port is not None]
        try:
            if tasks:
                await asyncio.wait(tasks)
        finally:
            for task in tasks:
                task.cancel()

    # --- the others

    async def https(self, relay: RelayUrl) -> float | None:
        self._note(f"https {relay.host}")
        if relay.host in self.fails:
            await self._after(self.fails[relay.host])
            return None
        seconds = self.tcp.get(relay.host, NEVER)
        await self._after(min(3.0, seconds))
        return seconds if seconds < NEVER else None

    async def captive(self, relay: RelayUrl) -> bool | None:
        self._note(f"captive {relay.host}")
        await self._after(min(2.0, self.portal))
        return True if self.portal < NEVER else None

    async def ask_stun(self, family: int, found: Callable[[str, SocketAddr], object]) -> None:
        self._note(f"stun{family}")
        for server, (seconds, addr) in self.stun.items():
            await self._after(seconds)
            if addr.ip.version == family:
                found(server, addr)

    def means(self, *_: object) -> Means:
        return Means(
            cast(QadProbes, self), self.https, self.captive, self.ask_stun if self.stun else None
        )


def relays(*names: str, quic_port: int | None = 7842) -> list[RelayConfig]:
    return [RelayConfig(f"https://{name}/", quic_port=quic_port) for name in names]


async def course(
    net: Net,
    there: list[RelayConfig],
    *,
    families: tuple[int, ...] = (4,),
    full: bool = True,
    https: bool = True,
    captive: bool = True,
) -> tuple[float, NetReport]:
    """How long it takes, and what is known then."""
    draft = Draft(
        tuple(relay.url for relay in there),
        sum(relay.quic_port is not None for relay in there),
        frozenset(families),
        full,
    )
    plan = Plan(there, https, there[0].url if captive else None)
    await Course(net.means(), draft, plan).run()
    await asyncio.sleep(0)
    assert net.running == 0
    return round(asyncio.get_running_loop().time(), 3), draft.report()


# --- one report ---------------------------------------------------------------------------


def test_where_udp_works_nothing_else_is_asked() -> None:
    net = Net(udp4={"a": 0.04, "b": 0.06, "c": 0.09}, tcp={"a": 0.1, "b": 0.1, "c": 0.1})
    took, report = run(course(net, relays("a", "b", "c")))
    assert took == 0.06  # two relays tell what kind of NAT there is; c would not be nearer
    assert {what.split()[0] for _, what in net.began} == {"qad4"}
    assert report.latencies() == {"https://a/": 0.04, "https://b/": 0.06}
    assert report.mapping_varies_by_dest is False and report.global_v4 == HERE


def test_one_relay_is_enough_where_there_is_one() -> None:
    net = Net(udp4={"a": 0.06})
    took, report = run(course(net, relays("a")))
    assert took == 0.06 and report.udp_v4 and report.global_v4 == HERE


def test_blocked_udp_is_known_when_all_probes_are_over_and_https_tells_the_latencies() -> None:
    net = Net(tcp={"a": 0.08, "b": 0.3})
    took, report = run(course(net, relays("a", "b")))
    assert took == 3.0
    assert not report.has_udp and report.global_v4 is None
    assert report.latencies() == {"https://a/": 0.08, "https://b/": 0.3}
    asked = [(at, what) for at, what in net.began if what.startswith("https")]
    # b answers after its second and third attempt began, a before.
    assert sorted(asked) == [(0.2, "https a"), (0.2, "https b"), (0.3, "https b"), (0.4, "https b")]


def test_slow_udp_is_not_called_blocked() -> None:
    net = Net(udp4={"a": 1.4, "b": 1.5}, tcp={"a": 0.05, "b": 0.05})
    took, report = run(course(net, relays("a", "b")))
    assert report.udp_v4 and took == 1.5 and report.mapping_varies_by_dest is False
    net = Net(udp4={"a": 1.4, "b": 2.5}, tcp={"a": 0.05, "b": 0.05})
    took, report = run(course(net, relays("a", "b")))
    assert report.udp_v4 and took == 1.7  # that late, one is enough


def test_a_family_that_is_silent_is_waited_for_a_second() -> None:
    net = Net(udp4={"a": 0.05, "b": 0.05})
    took, report = run(course(net, relays("a", "b"), families=(4, 6)))
    assert took == 1.0 and report.udp_v4 and not report.udp_v6


def test_both_families() -> None:
    net = Net(udp4={"a": 0.05, "b": 0.07}, udp6={"b": 0.06})
    took, report = run(course(net, relays("a", "b"), families=(4, 6)))
    assert took == 0.07
    assert (report.global_v4, report.global_v6) == (HERE, HERE_V6)


@pytest.mark.parametrize(
    ("families", "port"), [((), 7842), ((4,), None)], ids=["no sockets", "no QAD"]
)
def test_without_udp_to_wait_for_https_begins_at_once(
    families: tuple[int, ...], port: int | None
) -> None:
    net = Net(tcp={"a": 0.02, "b": 0.04})
    took, report = run(course(net, relays("a", "b", quic_port=port), families=families))
    assert took == 0.04 and set(report.latencies()) == {"https://a/", "https://b/"}


def test_captive_portal_is_found_where_udp_is_silent() -> None:
    took, report = run(course(Net(portal=0.5), relays("a")))
    assert report.captive_portal is True
    _, without = run(course(Net(portal=0.5), relays("a"), captive=False))
    assert without.captive_portal is None
    assert took == 3.4  # the last HTTPS attempt began at 0.4 s


def test_nothing_answers() -> None:
    took, report = run(course(Net(), relays("a", "b")))
    assert took == 3.4 and report == NetReport()
    took, _ = run(course(Net(fails={"a": 0.01, "b": 0.01}), relays("a", "b")))
    assert took == 3.0


def test_an_incremental_report_uses_what_is_kept() -> None:
    net = Net(keeps={4: Seen(RelayUrl("https://a/"), HERE, 0.03)})
    took, report = run(course(net, relays("a", "b"), full=False, https=False, captive=False))
    assert (took, net.began) == (0.0, [])
    assert report.latencies() == {"https://a/": 0.03}


def test_stun_is_asked_where_relays_are_silent() -> None:
    net = Net(stun={"one": (0.05, HERE), "two": (0.05, SocketAddr.parse("198.51.100.7:9"))})
    _, report = run(course(net, relays("a"), https=False, captive=False))
    assert [at for at, what in net.began if what == "stun4"] == [1.0]
    assert report.udp_v4 and report.global_v4 == HERE
    assert report.mapping_varies_by_dest_v4 is True and set(report.stun) == {"one", "two"}
    assert report.latencies() == {}
    quick = Net(stun=net.stun, udp4={"a": 0.03})
    _, report = run(course(quick, relays("a"), https=False, captive=False))
    assert not report.stun and not any("stun" in what for _, what in quick.began)


def test_stun_alone() -> None:
    net = Net(stun={"one": (0.05, HERE)})
    took, report = run(course(net, relays("a", quic_port=None), https=False, captive=False))
    assert took == 0.05 and report.global_v4 == HERE


def test_cancelled_report_leaves_nothing() -> None:
    async def story() -> None:
        net = Net()
        task = asyncio.ensure_future(course(net, relays("a", "b"), families=(4, 6)))
        await asyncio.sleep(0.45)
        assert net.running == 4 + 6 + 1
        task.cancel()
        await asyncio.wait({task})
        await asyncio.sleep(0)
        assert task.cancelled() and net.running == 0

    run(story())


def test_of_a_long_list_only_some_are_asked() -> None:
    net = Net()
    run(course(net, relays(*(f"r{i}" for i in range(100))), families=(), captive=False))
    assert len({what for _, what in net.began if what.startswith("https")}) == 16


# --- one report after the other -----------------------------------------------------------


class Own:
    """OwnAddrs, as far as reports use them."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {}

    def put(self, source: str, addrs: Any) -> None:
        self.found[source] = list(addrs)

    def of(self, source: str) -> frozenset[Any]:
        return frozenset(self.found.get(source, ()))


class World:
    """An endpoint with net reports, in virtual time."""

    def __init__(self, net: Net, *names: str, **options: Any) -> None:
        self.net = net
        self.loop = asyncio.get_running_loop()
        self.map = RelayMap(relays(*names))
        self.addrs = Own()
        self.reports: list[tuple[float, NetReport]] = []
        self.homes: list[tuple[float, RelayUrl | None]] = []
        state = NetworkState.of([ip_address("192.0.2.7")])
        self.context = cast(
            ServiceContext,
            SimpleNamespace(
                owner=SimpleNamespace(loop=self.loop),
                sockets=(SocketAddr.parse("0.0.0.0:4000"),),
                net=state,
                addrs=self.addrs,
                driver=None,
            ),
        )
        nothing: Any = None
        outside = Outside(
            trust=nothing,
            names=nothing,
            dialer=nothing,
            published=lambda report: self.reports.append((self.now, report)),
            home=lambda report: self.homes.append(
                (self.now, None if report is None else report.preferred_relay)
            ),
        )
        self.service = NetReports(
            NetReportConfig(**options), self.map, outside, uniform=lambda: 0.5, means=net.means
        )

    @property
    def now(self) -> float:
        return round(self.loop.time(), 3)

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.reports]

    async def begin(self) -> World:
        await self.service.start(self.context)
        return self

    def home_is(self, url: str | None, state: str = "connected") -> None:
        status = None if url is None else RelayStatus(RelayUrl(url), cast(Any, state))
        self.service.home_changed(status)

    async def end(self) -> None:
        await self.service.close()
        assert self.net.closed and self.net.running == 0


def story(work: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await work()

    run(all_of_it())


def test_reports_come_every_twenty_and_some_seconds_and_cost_nothing_while_all_is_quiet() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.04, "b": 0.06})
        world = await World(net, "a", "b").begin()
        await asyncio.sleep(100)
        assert world.times == [0.06, 23.06, 46.06, 69.06, 92.06]
        assert len(net.began) == 2  # the first report asked two relays
        assert world.addrs.found == {"qad": [IpAddr(HERE)]}
        metrics = world.service.metrics
        assert (metrics["net_report:reports"], metrics["net_report:reports_full"]) == (5, 1)
        await asyncio.sleep(250)
        assert world.service.metrics["net_report:reports_full"] == 2  # after five minutes
        assert len(net.began) == 4
        await world.end()

    story(work)


def test_what_only_one_of_several_told_is_asked_for_again_a_few_times() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.04})
        world = await World(net, "a", "b").begin()
        await asyncio.sleep(200)
        assert world.service.metrics["net_report:reports_full"] == 4
        net.udp4["b"] = 0.05
        world.map.insert(RelayConfig("https://c/"))
        await asyncio.sleep(100)
        assert world.service.metrics["net_report:reports_full"] == 5
        assert world.reports[-1][1].mapping_varies_by_dest is False
        await world.end()

    story(work)


def test_address_is_told_as_soon_as_it_is_heard() -> None:
    async def work() -> None:
        world = await World(Net(udp4={"a": 0.04, "b": 0.5}), "a", "b").begin()
        await asyncio.sleep(0.05)
        assert world.addrs.found == {"qad": [IpAddr(HERE)]} and not world.reports
        await world.end()
        assert not world.reports

    story(work)


def test_first_home_is_chosen_when_every_relay_was_heard_somehow() -> None:
    async def work() -> None:
        net = Net(tcp={"a": 0.08, "b": 0.04}, fails={"c": 0.01})
        world = await World(net, "c", "a", "b").begin()
        await asyncio.sleep(0.6)
        assert not world.reports  # whether UDP is blocked is not sure
        # c has failed three times by now.
        assert world.homes[0] == (0.41, RelayUrl("https://b/"))
        world.home_is("https://b/")
        before = len(world.homes)
        await asyncio.sleep(4)
        assert world.homes[before:] == [(world.times[0], RelayUrl("https://b/"))]
        await world.end()

    story(work)


def test_silent_relays_hold_up_the_first_home_for_a_second() -> None:
    async def work() -> None:
        world = await World(Net(tcp={"b": 0.04}), "a", "b").begin()
        await asyncio.sleep(0.99)
        assert not world.homes
        await asyncio.sleep(0.02)
        assert world.homes == [(1.0, RelayUrl("https://b/"))]
        await world.end()
        world = await World(Net(), "a", "b").begin()
        began = world.now
        await asyncio.sleep(1.01)
        assert world.homes == [(round(began + 1.0, 3), None)]
        await world.end()

    story(work)


def test_loss_of_the_home_relay_asks_anew_at_once() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.01, "b": 0.06, "c": 0.07})
        world = await World(net, "a", "b", "c").begin()
        await asyncio.sleep(5)
        world.home_is("https://a/")
        assert world.homes[-1] == (0.06, RelayUrl("https://a/"))
        del net.udp4["a"]
        world.home_is("https://a/", "disconnected")
        world.home_is("https://a/", "connecting")
        world.home_is("https://a/", "disconnected")
        await asyncio.sleep(1)
        assert world.times == [0.06, 5.07]  # one report
        assert world.homes[-1] == (5.07, RelayUrl("https://b/"))
        assert net.forgotten == 2
        # One that breaks again and again is not followed with reports.
        for _ in range(28):
            world.home_is("https://b/")
            world.home_is("https://b/", "disconnected")
            await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        assert len(world.reports) == 3 and world.times[-1] >= 10.0
        await world.end()

    story(work)


def test_a_single_relay_that_is_lost_is_not_asked_for() -> None:
    async def work() -> None:
        world = await World(Net(udp4={"a": 0.01}), "a").begin()
        await asyncio.sleep(2)
        world.home_is("https://a/")
        world.home_is("https://a/", "disconnected")
        await asyncio.sleep(2)
        assert len(world.reports) == 1
        await world.end()

    story(work)


def test_changes_of_the_network_and_of_the_relays() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.05})
        world = await World(net, "a").begin()
        await asyncio.sleep(2)
        minor = NetworkState.of([ip_address("192.0.2.7")])
        world.service.network_changed(
            NetworkState(minor.interfaces, minor.default_routes, None, False)
        )
        await asyncio.sleep(2)
        assert world.times == [0.05, 2.0] and len(net.began) == 1
        world.service.network_changed(minor)
        await asyncio.sleep(2)
        assert world.times == [0.05, 2.0, 4.05] and len(net.began) == 2
        world.map.insert(RelayConfig("https://b/"))
        await asyncio.sleep(2)
        assert len(world.reports) == 4 and [what for _, what in net.began[2:4]] == [
            "qad4 a",
            "qad4 b",
        ]
        await world.end()

    story(work)


def test_a_major_change_ends_the_report_under_way() -> None:
    async def work() -> None:
        net = Net()
        world = await World(net, "a").begin()
        await asyncio.sleep(1.5)
        assert net.running
        net.udp4["a"] = 0.05
        world.service.network_changed(NetworkState.of([ip_address("192.0.2.8")]))
        await asyncio.sleep(0.1)
        assert world.times == [1.55]
        assert world.reports[0][1].udp_v4
        await world.end()

    story(work)


def test_a_storm_of_changes_makes_one_report_a_second() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.01})
        world = await World(net, "a").begin()
        for _ in range(1000):
            world.service.network_changed(NetworkState.of([ip_address("192.0.2.7")]))
            await asyncio.sleep(0.01)
        assert 8 <= len(world.reports) <= 11 and len(net.began) <= 11
        await world.end()

    story(work)


def test_changed_address_is_published_at_once_and_a_report_under_way_repeated() -> None:
    async def work() -> None:
        net = Net(udp4={"a": 0.05, "b": 0.05})
        world = await World(net, "a", "b").begin()
        await asyncio.sleep(5)
        new = SocketAddr.parse("198.51.100.7:4002")
        net.addr = new
        net.keeps[4] = Seen(RelayUrl("https://a/"), new, 0.05)
        world.service._addr_changed(net.keeps[4])
        assert world.times == [0.05, 5.0]
        assert world.reports[-1][1].global_v4 == new and world.addrs.found["qad"] == [IpAddr(new)]
        assert world.service.metrics["net_report:reports"] == 1
        await world.end()

    story(work)


def test_a_portal_is_looked_for_again_with_each_report() -> None:
    async def work() -> None:
        net = Net(portal=0.1)
        world = await World(net, "a").begin()
        await asyncio.sleep(30)
        assert [report.captive_portal for _, report in world.reports] == [True, True]
        assert world.service.metrics["net_report:reports_full"] == 2
        net.udp4["a"] = 0.05
        await asyncio.sleep(60)
        assert world.reports[-1][1].captive_portal is None
        assert world.service.metrics["net_report:reports_full"] == 3
        await world.end()

    story(work)


def test_without_relays_nothing_is_asked() -> None:
    async def work() -> None:
        net = Net()
        world = await World(net).begin()
        await asyncio.sleep(100)
        assert not net.began and not world.reports
        await world.end()
        net = Net(stun={"one": (0.05, HERE)})
        world = await World(net, stun_servers=["one"]).begin()
        await asyncio.sleep(5)
        assert world.reports[0][1].global_v4 == HERE
        assert world.addrs.found == {"stun": [IpAddr(HERE)]}
        await world.end()

    story(work)


def test_probes_that_are_switched_off() -> None:
    async def work() -> None:
        net = Net(tcp={"a": 0.01}, portal=0.01)
        world = await World(net, "a", https_probes=False, captive_portal_check=False).begin()
        await asyncio.sleep(10)
        assert [what for _, what in net.began] == ["qad4 a"]
        assert [report for _, report in world.reports] == [NetReport()]
        await world.end()

    story(work)
