"""The lab of NATs does what it says, before any endpoint is in it: counts and addresses, no times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import combinations_with_replacement

import dns.message
import pytest

from tests.lab import LinkConfig
from tests.lab.capture import read_packets
from tests.lab.hosts import Host
from tests.lab.machines import Router
from tests.lab.namespaces import LabError
from tests.lab.nat import KINDS, Nat, firewall_rules, punchable, with_changes
from tests.lab.probing import COMES_S, MISSING_S, Probe, punched, tcp_reaches
from tests.lab.world import NAMES4, World, lacking

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(lacking() is not None, reason=f"no lab: {lacking()}"),
]

TRANSLATING = [name for name, nat in KINDS.items() if nat.translates]
STABLE = [name for name in KINDS if KINDS[name].mapping != "random"]


class Net:
    """A world with two public hosts that anybody may ask, and a home of every kind on demand."""

    def __init__(self, world: World) -> None:
        self.world = world
        centre = world.router("centre", nat="none", v6=True, v6_open=True)
        self.first, self.second = centre.host("first"), centre.host("second")
        self._homes: dict[tuple[str, int], Host] = {}

    def home(self, kind: str, number: int = 0) -> Host:
        """The host behind a router of a kind; there may be several such routers."""
        key = kind, number
        if key not in self._homes:
            router = self.world.router(f"r{len(self._homes)}", nat=kind)
            self._homes[key] = router.host(f"h{len(self._homes)}")
        return self._homes[key]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with World() as world:
        yield Net(world)


def router_of(host: Host) -> Router:
    return host.ports["eth0"][0]


def seen(host: Host, by: Host, *, six: bool = False, expected: bool = True) -> tuple[str, int] | None:  # fmt: skip
    with Probe(by, six=six) as reflector, Probe(host, six=six) as probe:
        at = by.address(six=six), reflector.port
        return probe.seen_by(reflector, at, expected=expected)


def resolves(host: Host, *, expected: bool) -> bool:
    """Whether the name server answers."""
    question = dns.message.make_query("names.test", "A").to_wire()
    with Probe(host) as probe:
        probe.send((NAMES4, 53), question)
        return probe.gets_something(expected=expected)


# ---------------------------------------------------------------- kinds of NAT
@pytest.mark.parametrize("kind", KINDS)
def test_address_outside_is_that_of_the_router_and_stable_where_it_says_so(net: Net, kind: str) -> None:  # fmt: skip
    host = net.home(kind)
    router, nat = router_of(host), KINDS[kind]
    with Probe(net.first) as one, Probe(net.second) as two, Probe(host) as probe:
        views = [
            probe.seen_by(by, (machine.address(), by.port))
            for by, machine in ((one, net.first), (two, net.second), (one, net.first))
        ]
    assert None not in views
    ips, ports = {view[0] for view in views if view}, [view[1] for view in views if view]
    assert ips == {router.wan4 if nat.translates else host.address()}
    assert ports[0] == ports[2]  # the same flow
    assert (ports[0] == ports[1]) == (kind in STABLE)
    kept = nat.mapping in ("none", "port-preserving") or nat.preserves
    assert (ports[0] == probe.port) == kept


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_get_in_as_the_filter_says(net: Net, kind: str) -> None:
    host, nat = net.home(kind), KINDS[kind]
    with Probe(net.first) as one, Probe(net.first) as sibling, Probe(net.second) as two:
        with Probe(host) as probe:
            at = probe.seen_by(one, (net.first.address(), one.port))
            assert at is not None
            # From the address and port that was written to; from another port there; from another address.
            let_in = [True, nat.filtering in ("none", "address"), nat.filtering == "none"]
            for stranger, expected in zip((one, sibling, two), let_in, strict=True):
                stranger.send(at)
                got = probe.get(COMES_S if expected else MISSING_S)
                machine = net.second if stranger is two else net.first
                source = machine.address(), stranger.port
                assert (got and got[1]) == (source if expected else None)


@pytest.mark.parametrize(("a", "b"), list(combinations_with_replacement(KINDS, 2)))
def test_raw_hole_punching_works_for_exactly_the_pairs_that_it_can(net: Net, a: str, b: str) -> None:  # fmt: skip
    with Probe(net.first) as reflector, Probe(net.home(a)) as one, Probe(net.home(b, 1)) as two:
        at = net.first.address(), reflector.port
        assert punched(one, two, reflector, at) == punchable(a, b)


def test_hole_punching_works_when_one_side_is_late(net: Net) -> None:
    with Probe(net.first) as reflector:
        at = net.first.address(), reflector.port
        with Probe(net.home("moderate")) as one, Probe(net.home("moderate", 1)) as two:
            assert punched(one, two, reflector, at, stagger=0.2)


@pytest.mark.parametrize("kind", TRANSLATING)
def test_hosts_reach_each_other_at_the_address_outside_with_hairpin_alone(net: Net, kind: str) -> None:  # fmt: skip
    host = net.home(kind)
    router = router_of(host)
    other = router.host(f"{host.label}-neighbour")
    with Probe(net.first) as reflector, Probe(host) as one, Probe(other) as two:
        at = net.first.address(), reflector.port
        seen_one, seen_two = one.seen_by(reflector, at), two.seen_by(reflector, at)
        assert seen_one and seen_two
        one.send(seen_two)
        if not KINDS[kind].hairpin:
            assert not two.gets_something(expected=False)
            return
        got = two.get()
        assert got is not None and got[1] == seen_one  # RFC 4787, REQ-9
        two.send(got[1], "back")
        assert one.get() == ("back", seen_two)


def test_two_hosts_with_the_same_port_inside_have_two_outside(net: Net) -> None:
    for kind in STABLE[1:]:
        host = net.home(kind)
        other = router_of(host).host(f"{host.label}-twin")
        with Probe(net.first) as reflector, Probe(host, port=4433) as one, Probe(other, port=4433) as two:  # fmt: skip
            at = net.first.address(), reflector.port
            views = [probe.seen_by(reflector, at) for probe in (one, two)]
            assert None not in views and views[0] != views[1], kind
            for probe, view in zip((one, two), views, strict=True):
                assert view is not None
                reflector.send(view, kind)
                assert probe.get() == (kind, at), kind


def test_kind_changes_at_run_time_in_both_directions(net: Net) -> None:
    router = net.world.router("changing", nat="moderate")
    host = router.host("changer")
    stable = []
    for kind in ("moderate", "strict", "moderate", "port-preserving"):
        router.set_nat(kind)
        with Probe(net.first) as one, Probe(net.second) as two, Probe(host, port=4444) as probe:
            views = [
                probe.seen_by(by, (machine.address(), by.port))
                for by, machine in ((one, net.first), (two, net.second))
            ]
        stable.append(views[0] == views[1])
    assert stable == [True, False, True, True]


@pytest.mark.parametrize("kind", TRANSLATING)
def test_forwarded_port_leads_in_whatever_the_nat_is(net: Net, kind: str) -> None:
    router = net.world.router(f"forwarding-{kind}", nat=kind)
    host, other = router.host(f"forwarded-{kind}"), router.host(f"unforwarded-{kind}")
    router.forward(4433, host)
    assert router.wan4 is not None
    with Probe(net.first) as stranger, Probe(host, port=4433) as probe, Probe(other, port=4434) as none:  # fmt: skip
        stranger.send((router.wan4, 4433))
        got = probe.get()
        assert got == ("hello", (net.first.address(), stranger.port))
        probe.send(got[1], "back")
        assert stranger.get() == ("back", (router.wan4, 4433))
        stranger.send((router.wan4, 4434))
        assert not none.gets_something(expected=False)


def test_flushed_router_gives_other_ports_and_lets_the_old_ones_no_longer_in(net: Net) -> None:
    host = net.home("moderate")
    with Probe(net.first) as reflector, Probe(host) as probe:
        at = net.first.address(), reflector.port
        before = probe.seen_by(reflector, at)
        router_of(host).flush()
        assert before is not None
        reflector.send(before)
        assert not probe.gets_something(expected=False)
        after = probe.seen_by(reflector, at)
        assert after is not None and after != before


@pytest.mark.parametrize("kind", ["moderate", "strict"])
def test_mappings_end_after_their_lifetime_whatever_traffic_there_is(net: Net, kind: str) -> None:
    router = net.world.router(f"mobile-{kind}", nat=with_changes(kind, lifetime=1.0))
    host = router.host(f"phone-{kind}")
    views = []
    with Probe(net.first) as reflector, Probe(host) as probe:
        at = net.first.address(), reflector.port
        for _ in range(60):  # 0.1 s each at most
            probe.send(at)
            got = reflector.get(0.08)
            if got is not None and got[1] not in views:
                views.append(got[1])
            if len(views) == 3:
                break
            probe.get(0.08)
    assert len(views) == 3


# ---------------------------------------------------------------- providers
def test_home_behind_a_provider_with_nat_is_seen_at_the_address_of_the_provider(net: Net) -> None:
    provider = net.world.router("isp", nat="cgnat")
    home = provider.router("home", nat="moderate")
    host = home.host("laptop")
    view = seen(host, net.first)
    assert home.wan4 is not None and home.wan4.startswith("100.64.")
    assert view is not None and view[0] == provider.wan4


def test_private_addresses_are_reached_from_their_own_home_alone(net: Net) -> None:
    host, other = net.home("moderate"), net.home("moderate", 1)
    neighbour = router_of(host).host("roommate")
    with Probe(host) as target:
        at = host.address(), target.port
        for machine in (neighbour, other, net.first):
            with Probe(machine) as probe:
                probe.send(at)
            expected = machine is neighbour
            assert target.gets_something(expected=expected) == expected


def test_homes_may_have_the_same_prefix(net: Net) -> None:
    hosts = [
        net.world.router(f"usual{i}", lan="192.168.1").host(f"usual-host{i}") for i in range(2)
    ]
    assert {host.address() for host in hosts} == {"192.168.1.10"}
    views = [seen(host, net.first) for host in hosts]
    assert [view and view[0] for view in views] == [router_of(host).wan4 for host in hosts]


def test_two_routers_can_be_kept_apart_while_both_reach_the_rest(net: Net) -> None:
    one, two = net.home("open"), net.home("open", 1)
    with Probe(net.first) as reflector, Probe(one) as a, Probe(two) as b:
        at = net.first.address(), reflector.port
        seen_a, seen_b = a.seen_by(reflector, at), b.seen_by(reflector, at)
        assert seen_a and seen_b
        ways = [(a, b, seen_b), (b, a, seen_a)]

        def arrive(*, expected: bool) -> list[bool]:
            found = []
            for source, target, where in ways:
                target.drain()
                source.send(where)
                found.append(target.gets_something(expected=expected))
            return found

        assert arrive(expected=True) == [True, True]
        block = net.world.cut(router_of(one), router_of(two))
        assert arrive(expected=False) == [False, False]
        assert a.seen_by(reflector, at) == seen_a and b.seen_by(reflector, at) == seen_b
        net.world.internet.unblock(block)
        assert arrive(expected=True) == [True, True]


# ---------------------------------------------------------------- firewalls
@pytest.mark.parametrize(
    ("name", "udp", "names", "tcp"),
    [
        ("none", True, True, {80, 443, 8080}),
        ("udp-blocked", False, True, {80, 443, 8080}),
        ("web-only", False, True, {80, 443}),
        ("tcp-443-only", False, True, {443}),
        ("all-blocked", False, False, set()),
    ],
)
def test_firewalls_drop_what_they_say_and_come_and_go(
    net: Net, name: str, udp: bool, names: bool, tcp: set[int]
) -> None:
    host = net.home("moderate")
    router = router_of(host)
    with Probe(net.first) as reflector, Probe(host) as probe:
        at = net.first.address(), reflector.port
        view = probe.seen_by(reflector, at)
        router.firewall(name)
        try:
            assert (probe.seen_by(reflector, at, expected=udp) is not None) == udp
            assert view is not None
            probe.drain()
            reflector.send(view)  # what has been established is no exception
            assert probe.gets_something(expected=udp) == udp
            assert resolves(host, expected=names) == names
            open_ports = {
                port
                for port in (80, 443, 8080)
                if tcp_reaches(host, net.first, (net.first.address(), port), expected=port in tcp)
            }
            assert open_ports == tcp
        finally:
            router.firewall("none")
        assert probe.seen_by(reflector, at) is not None


# ---------------------------------------------------------------- IPv6
def test_network_of_ipv6_alone_has_no_way_of_ipv4_and_one_of_both_has_two(net: Net) -> None:
    six = net.world.router("only6", v4=False, v6=True).host("host6")
    both = net.world.router("dual", v6=True).host("host46")
    assert six.ip("-4", "route") == ""
    with Probe(net.first, six=True) as reflector, Probe(six, six=True, port=999) as probe:
        at = net.first.address(six=True), reflector.port
        assert probe.seen_by(reflector, at) == (six.address(six=True), 999)
    with Probe(six) as probe, pytest.raises(OSError, match="unreachable"):
        probe._socket.sendto(b"", (net.first.address(), 1))
    view = seen(both, net.first)
    assert view is not None and view[0] == router_of(both).wan4
    view = seen(both, net.first, six=True)
    assert view is not None and view[0] == both.address(six=True)
    assert six.resolv_conf.read_text() == "nameserver 2001:db8::53\n"
    found = six.run(["getent", "ahostsv6", "names.test"], capture_output=True, text=True, timeout=30)  # fmt: skip
    assert found.stdout.startswith("2001:db8::53 ")


@pytest.mark.parametrize("opened", [False, True])
def test_ipv6_comes_in_unasked_where_the_router_is_open(net: Net, opened: bool) -> None:
    host = net.world.router(f"six-{opened}", v6=True, v6_open=opened).host(f"six-host-{opened}")
    with Probe(net.first, six=True) as stranger, Probe(host, six=True) as probe:
        at = host.address(six=True), probe.port
        stranger.send(at)
        assert probe.gets_something(expected=opened) == opened
        probe.send((net.first.address(six=True), stranger.port))
        assert stranger.get() is not None
        stranger.send(at)
        assert probe.get() is not None


# ---------------------------------------------------------------- changes of hosts
def test_replugged_host_has_the_address_and_way_of_its_new_home(net: Net) -> None:
    host = net.world.router("before", v6=True).host("mover")
    old = host.address()
    after = net.world.router("after", v4=False, v6=True)
    host.replug(after)
    addresses = json.loads(host.ip("-j", "addr", "show", "dev", "eth0", "scope", "global"))
    assert [a["local"] for a in addresses[0]["addr_info"]] == [host.address(six=True)]
    assert old not in host.ip("addr") and host.ip("-4", "route") == ""
    assert seen(host, net.first, six=True) is not None
    assert host.resolv_conf.read_text() == "nameserver 2001:db8::53\n"


def test_link_that_was_down_works_as_before(net: Net) -> None:
    host = net.world.router("flapping", v6=True).host("flapper")
    before = host.ip("route"), host.ip("-6", "addr", "show", "scope", "global")
    host.set_link(up=False)
    assert seen(host, net.first, expected=False) is None
    host.set_link(up=True)
    assert (host.ip("route"), host.ip("-6", "addr", "show", "scope", "global")) == before
    assert seen(host, net.first) is not None and seen(host, net.first, six=True) is not None


def test_second_interface_takes_over_when_the_first_goes(net: Net) -> None:
    first, second = net.world.router("cable"), net.world.router("wifi")
    host = first.host("both-host")
    host.plug_in(second, "eth1")
    views = [seen(host, net.first)]
    host.unplug("eth0")
    views.append(seen(host, net.first))
    assert [view and view[0] for view in views] == [first.wan4, second.wan4]


def test_router_cut_off_is_silent_and_works_again(net: Net) -> None:
    router = net.world.router("region", v6=True)
    host = router.host("regional")
    for up in (True, False, True):
        router.uplink(up=up)
        for six in (False, True):
            assert (seen(host, net.first, six=six, expected=up) is not None) == up


def test_useless_addresses_are_there_and_lead_nowhere(net: Net) -> None:
    host = net.home("none")
    host.add_useless(32)
    addresses = json.loads(host.ip("-j", "addr"))
    assert sum(link["ifname"].startswith("idle") for link in addresses) == 32
    assert seen(host, net.first) is not None


# ---------------------------------------------------------------- links
def test_link_to_the_provider_is_emulated_and_changes_at_run_time(net: Net) -> None:
    router = net.world.router("slow", nat="moderate", v6=True, link=LinkConfig(delay=20))
    host = router.host("slow-host")
    for six in (False, True):
        with Probe(net.first, six=six) as reflector, Probe(host, six=six) as probe:
            begun = time.monotonic()
            assert probe.seen_by(reflector, (net.first.address(six=six), reflector.port))
            assert time.monotonic() - begun >= 0.02
    router.change_link(LinkConfig(loss=1.0), LinkConfig())
    assert seen(host, net.first, expected=False) is None
    router.change_link(LinkConfig(rate=10))
    assert seen(host, net.first) is not None
    stats = net.world.internet.wire(router.number).stats()
    assert stats.there.delivered == 1 and stats.failed == 0


def test_link_that_is_none_of_the_emulated_cannot_change(net: Net) -> None:
    with pytest.raises(LabError, match="not emulated"):
        router_of(net.home("moderate")).change_link(LinkConfig())


# ---------------------------------------------------------------- captures
@pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
def test_capture_has_the_packets_before_and_behind_the_nat(net: Net, six: bool) -> None:
    router = net.world.router(f"captured-{six}", v6=six)
    host = router.host(f"captured-host-{six}")
    path = net.world.capture(router)
    with Probe(net.first, six=six) as reflector, Probe(host, six=six) as probe:
        at = net.first.address(six=six), reflector.port
        view = probe.seen_by(reflector, at)
        inside = host.address(six=six), probe.port
        assert view is not None
        reflector.send(view, b"x" * 1200)
        assert probe.get() is not None
        wanted = [(inside, at, 9), (view, at, 9), (at, view, 1200), (at, inside, 1200)]
        for _ in range(500):
            packets = [p for p in read_packets(path) if p.size in (9, 1200)]
            found = [(p.source, p.target, p.size) for p in packets]
            if set(wanted) <= set(found):
                break
            time.sleep(0.01)
        assert set(wanted) <= set(found)
        assert packets[0].content == b"who am I?"
        assert [p.t for p in packets] == sorted(p.t for p in packets)
        assert abs(packets[0].t - time.monotonic()) < 60


# ---------------------------------------------------------------- wrong use
def test_wrong_kinds_are_told_with_those_that_there_are(net: Net) -> None:
    with pytest.raises(ValueError, match="there are none, open"):
        net.world.router("odd", nat="symmetric")
    with pytest.raises(ValueError, match="there are none, udp-blocked"):
        firewall_rules("leaky")
    with pytest.raises(ValueError, match="only that destination"):
        Nat(mapping="random", filtering="address")
    with pytest.raises(LabError, match="already"):
        net.home("none").plug_in(router_of(net.home("none")))
    assert "odd" not in net.world.machines
