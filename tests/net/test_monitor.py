"""Changes of the network: what counts, how often it is looked at, who is told when."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.virtual import VirtualLoop

from iroh_fast.net.local_addrs import Interface, IpAddress, NetworkState
from iroh_fast.net.monitor import listening, netlink
from iroh_fast.net.monitor.changes import Pace, RouteWait, change_between
from iroh_fast.net.monitor.listening import NetlinkListener, Poller
from iroh_fast.net.monitor.netlink import Netlink
from iroh_fast.net.monitor.read import interface_to, read_network
from iroh_fast.net.monitor.service import Monitor
from iroh_fast.net.monitor.sleep import SleepClock
from iroh_fast.net.monitor.ways import keeper
from iroh_fast.net.service import ServiceContext
from iroh_fast.net.transport import SockAddr, Transport, TransportTable, is_private

HOME = NetworkState(
    (
        Interface("lo", 1, ips=(ip_address("127.0.0.1"),)),
        Interface("eth0", 2, mac="02:00:00:00:00:01", ips=(ip_address("192.0.2.7"),)),
    ),
    ("eth0", None),
    IPv4Address("192.0.2.1"),
)
ALONE = NetworkState(HOME.interfaces[:1])


def having(*more: Interface, **changes: Any) -> NetworkState:
    """The home network with other interfaces, or other facts."""
    return replace(HOME, interfaces=(*HOME.interfaces, *more), **changes)


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (HOME, None),
        (replace(HOME, major=False), None),
        (having(Interface("wlan0", 3, ips=(ip_address("10.0.0.2"),))), "major"),
        (having(Interface("wlan0", 3, ips=(ip_address("2001:db8::2"),))), "major"),
        # Interfaces of containers, without an address for others, come and go.
        (having(Interface("veth0", 3, ips=(ip_address("fe80::2"),))), "minor"),
        (having(Interface("wlan0", 3, up=False, ips=(ip_address("10.0.0.2"),))), "minor"),
        (replace(HOME, gateway=IPv4Address("192.0.2.2")), "major"),
        (replace(HOME, default_routes=(None, None)), "major"),
        (
            replace(HOME, interfaces=(HOME.interfaces[0], replace(HOME.interfaces[1], up=False))),
            "major",
        ),
        (
            replace(HOME, interfaces=(HOME.interfaces[0], replace(HOME.interfaces[1], mac="x"))),
            "major",
        ),
        (
            replace(
                HOME,
                interfaces=(
                    HOME.interfaces[0],
                    replace(HOME.interfaces[1], deprecated=frozenset([ip_address("192.0.2.7")])),
                ),
            ),
            "major",
        ),
    ],
)
def test_change_is_major_when_connections_depend_on_it(
    new: NetworkState, change: str | None
) -> None:
    assert change_between(HOME, new) == change
    assert change_between(new, HOME) == change


def test_looks_wait_for_news_to_pause_but_not_for_ever() -> None:
    pace = Pace(100.0)
    assert pace.due is None and pace.may_look(100.0)
    pace.heard(100.0)
    assert pace.due == 100.25
    pace.heard(100.2)
    assert pace.due == pytest.approx(100.45)
    for n in range(20):
        pace.heard(100.2 + 0.1 * n)
    assert pace.due == 101.0
    pace.looked(101.0)
    assert pace.due is None and not pace.may_look(101.2) and pace.may_look(101.25)


def test_looks_become_rare_when_news_do_not_end() -> None:
    pace = Pace(0.0)
    looks, now = 0, 0.0
    while now < 60.0:
        pace.heard(now)
        due = pace.due
        assert due is not None
        if due <= now:
            pace.looked(now)
            looks += 1
        now += 0.01
    assert looks <= 60 + 8
    looks = 0
    while now < 120.0:
        if pace.may_look(now):
            pace.looked(now)
            looks += 1
        now += 0.01
    assert 55 <= looks <= 68
    assert pace.may_look(130.0)
    for n in range(7):  # after a rest as fast as they are wanted again
        pace.looked(130.0 + 0.25 * n)
        assert pace.may_look(130.25 + 0.25 * n)


def test_a_way_to_the_internet_is_waited_for_five_seconds() -> None:
    wait, now = RouteWait(10.0), 10.0
    times: list[float] = []
    while (at := wait.next(now)) is not None:
        now = at
        times.append(round(at - 10.0, 3))
    assert times == [0.1, 0.3, 0.7, 1.5, 2.5, 3.5, 4.5]


class Network:
    """Stands for the system: what it is, who listens, how long it slept."""

    def __init__(self) -> None:
        self.now = HOME
        self.used = HOME
        self.reads = 0
        self.asleep = 0.0
        self.heard: Callable[[], object] | None = None
        self.log: list[tuple[float, str, NetworkState]] = []
        self.loop = asyncio.get_running_loop()
        self.monitor = Monitor(
            lambda state: self._told("changed", state),
            self._usable,
            read=self._read,
            listen=self._listen,
            clock=lambda: SleepClock(lambda: self.asleep),
        )

    def _usable(self, old: NetworkState, new: NetworkState) -> None:
        assert old == self.used
        self.used = new
        self._told("usable", new)

    def _told(self, what: str, state: NetworkState) -> None:
        self.log.append((round(self.loop.time(), 3), what, state))

    def _read(self) -> NetworkState:
        self.reads += 1
        return self.now

    def _listen(self, loop: asyncio.AbstractEventLoop, heard: Callable[[], object]) -> Network:
        self.heard = heard
        return self

    def close(self) -> None:
        self.heard = None

    def become(self, state: NetworkState) -> None:
        self.now = state
        assert self.heard is not None
        self.heard()

    def told(self) -> list[tuple[float, str]]:
        found = [(when, what) for when, what, _ in self.log]
        self.log.clear()
        return found


def virtual(main: Callable[[Network], Coroutine[Any, Any, None]]) -> None:
    """Run with a monitor that is started, and see that nothing of it is left."""

    async def whole() -> None:
        network = Network()
        context = SimpleNamespace(owner=SimpleNamespace(loop=network.loop))
        await network.monitor.start(cast(ServiceContext, context))
        assert network.monitor.state == HOME and network.log == []
        await main(network)
        await network.monitor.close()
        network.monitor.ask()
        network.monitor.heard()
        assert network.heard is None
        reads = network.reads
        await asyncio.sleep(100)
        assert network.reads == reads and network.told() == []

    loop = VirtualLoop()
    try:
        loop.run_until_complete(whole())
        assert not [h for h in cast(Any, loop)._scheduled if not h.cancelled()]
    finally:
        loop.close()


def test_change_is_told_once_news_pause() -> None:
    async def main(network: Network) -> None:
        more = having(Interface("wlan0", 3, ips=(ip_address("10.0.0.2"),)))
        await asyncio.sleep(10)
        network.become(HOME)
        await asyncio.sleep(0.2)
        network.become(more)
        await asyncio.sleep(1)
        assert network.log[0][2].major and network.monitor.state.interfaces == more.interfaces
        assert network.told() == [(10.45, "changed"), (10.45, "usable")]
        network.become(
            having(Interface("veth", 9), Interface("wlan0", 3, ips=(ip_address("10.0.0.2"),)))
        )
        await asyncio.sleep(1)
        assert not network.log[0][2].major
        assert network.told() == [(11.45, "changed")]  # of interest to no connection
        network.become(network.now)
        await asyncio.sleep(1)
        assert network.told() == []
        metrics = network.monitor.metrics
        assert metrics["socket:actor_link_change"] == 2
        assert metrics["socket:network_changes_major"] == 1

    virtual(main)


def test_use_waits_for_a_way_to_the_internet() -> None:
    async def main(network: Network) -> None:
        moving = replace(HOME, default_routes=(None, None), gateway=None)
        network.become(moving)
        await asyncio.sleep(0.5)
        assert network.told() == [(0.25, "changed")]
        network.now = HOME  # heard of only by looking
        await asyncio.sleep(5)
        assert network.told() == [(0.55, "changed"), (0.55, "usable")]
        network.become(moving)
        await asyncio.sleep(10)
        # There is none, but packets may get somewhere.
        assert network.told() == [(5.75, "changed"), (10.25, "usable")]
        network.become(
            having(Interface("b", 7, ips=(ip_address("10.1.1.1"),)), default_routes=(None, None))
        )
        await asyncio.sleep(1)
        assert network.told() == [(15.75, "changed"), (15.75, "usable")]  # nor was there one before
        network.become(HOME)
        await asyncio.sleep(1)
        assert network.told() == [(16.75, "changed"), (16.75, "usable")]

    virtual(main)


def test_without_network_nobody_is_told_to_use_it() -> None:
    async def main(network: Network) -> None:
        network.become(ALONE)
        await asyncio.sleep(10)
        assert network.told() == [(0.25, "changed")]
        network.become(HOME)
        await asyncio.sleep(1)
        assert network.told() == [(10.25, "changed"), (10.25, "usable")]
        network.become(ALONE)
        await asyncio.sleep(2)
        network.become(HOME)
        await asyncio.sleep(10)
        assert [what for _, what in network.told()] == ["changed", "changed", "usable"]

    virtual(main)


def test_who_asks_is_answered_without_network_too() -> None:
    async def main(network: Network) -> None:
        network.become(replace(ALONE, default_routes=HOME.default_routes))
        await asyncio.sleep(1)
        assert [what for _, what in network.told()] == ["changed"]
        network.monitor.ask()  # there may be connections within this machine
        assert network.told() == [(1.0, "changed"), (1.0, "usable")]
        network.become(ALONE)
        await asyncio.sleep(10)
        network.monitor.ask()
        await asyncio.sleep(10)
        assert [what for _, what in network.told()] == ["changed", "changed", "usable"]

    virtual(main)


def test_who_asks_is_answered_at_once_and_as_if_much_had_changed() -> None:
    async def main(network: Network) -> None:
        await asyncio.sleep(1)
        network.monitor.ask()
        assert network.log[0][2].major and network.told() == [(1.0, "changed"), (1.0, "usable")]
        for _ in range(50):
            network.monitor.ask()
        assert network.told() == []
        await asyncio.sleep(1)
        assert network.told() == [(1.25, "changed"), (1.25, "usable")]
        for _ in range(1000):
            network.monitor.ask()
            await asyncio.sleep(0.06)
        assert len(network.told()) <= 2 * (8 + 60)

    virtual(main)


def test_waking_up_counts_as_a_change() -> None:
    async def main(network: Network) -> None:
        await asyncio.sleep(7)
        network.asleep = 4.0
        await asyncio.sleep(5)
        assert network.told() == []
        network.asleep = 3600.0
        await asyncio.sleep(5)
        assert network.told() == [(15.0, "changed"), (15.0, "usable")]
        cast(VirtualLoop, network.loop).now += 40.0  # this process was stopped
        await asyncio.sleep(5)
        assert len(network.told()) == 2
        assert network.monitor.metrics["socket:resumes"] == 2

    virtual(main)


def test_clock_that_was_set_back_is_no_sleep() -> None:
    times: Iterator[float] = iter([10.0, 10.0, 2.0, 2.0, 9.5])
    clock = SleepClock(lambda: next(times))
    assert [clock.slept() for _ in range(4)] == [0.0, 0.0, 0.0, 7.5]
    assert SleepClock().slept() < 1.0


def test_polling_compares_ways_often_and_all_of_it_now_and_then() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        state, ways, reads = [HOME], [("192.0.2.7",)], [0]
        told: list[float] = []

        def read() -> NetworkState:
            reads[0] += 1
            return state[0]

        poller = Poller(loop, lambda: told.append(loop.time()), read, lambda: ways[0])
        await asyncio.sleep(60)
        assert told == [] and reads[0] <= 7
        ways[0] = ("10.0.0.1",)
        await asyncio.sleep(2.5)
        assert told == [62.0]
        state[0] = having(Interface("b", 4))
        await asyncio.sleep(10)
        assert len(told) == 2
        poller.close()
        await asyncio.sleep(20)
        assert len(told) == 2

    loop = VirtualLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize(
    ("local", "remote", "kept"),
    [
        (("192.0.2.7", 5), ("203.0.113.1", 5), True),
        (("192.0.2.8", 5), ("203.0.113.1", 5), False),
        (("::ffff:192.0.2.7", 5, 0, 0), ("203.0.113.1", 5), True),
        (("2001:db8::7", 5, 0, 0), ("2001:db8::1", 5, 0, 0), True),  # deprecated
        (("2001:db8::8", 5, 0, 0), ("2001:db8::1", 5, 0, 0), False),
        (("10.0.0.2", 5), ("203.0.113.1", 5), False),  # of an interface that is down
        (("127.0.0.1", 5), ("127.0.0.1", 6), True),
        (("::1", 5, 0, 0), ("::1", 6, 0, 0), True),
        (("fe80::9%eth0", 5, 0, 2), ("fe80::1%eth0", 6, 0, 2), True),
        (None, ("203.0.113.1", 5), True),
        (None, ("fd15:70a:510b:1::1", 12345, 0, 0), True),  # over a relay
        (None, ("fd15:70a:510b:3::1", 12345, 0, 0), False),  # over a transport of the user's
        (None, ("fd15:70a:510b:9::1", 12345, 0, 0), False),
    ],
)
def test_paths_from_addresses_that_are_gone_are_not_kept(
    local: SockAddr | None, remote: SockAddr, kept: bool
) -> None:
    transports = TransportTable()
    for subnet, kind in ((b"\0\1", "relay"), (b"\0\3", "custom")):
        transports.add(cast(Transport, SimpleNamespace(subnet=subnet, kind=kind)))
    old = ip_address("2001:db8::7")
    state = having(
        Interface("eth1", 3, ips=(old, ip_address("fe80::9")), deprecated=frozenset([old])),
        Interface("eth2", 4, up=False, ips=(ip_address("10.0.0.2"),)),
    )
    assert keeper(state, state, transports)(local, remote) is kept
    if not is_private(remote):
        assert keeper(state, ALONE, transports)(local, remote)


def test_path_whose_packets_take_a_new_way_to_the_internet_is_not_kept() -> None:
    asked: list[tuple[str, str]] = []
    routes = {"203.0.113.1": "vpn0", "192.0.2.9": "eth0", "203.0.113.2": None}

    def interface_to(destination: IpAddress, source: IpAddress) -> str | None:
        asked.append((str(source), str(destination)))
        return routes[str(destination)]

    service = Interface("dummy0", 7, ips=(ip_address("198.51.100.1"),))
    new = having(
        Interface("vpn0", 3, ips=(ip_address("10.8.0.2"),)), service, default_routes=("vpn0", None)
    )
    keeps = keeper(HOME, new, TransportTable(), interface_to)
    own = ("192.0.2.7", 5)
    assert not keeps(own, ("203.0.113.1", 1)) and not keeps(own, ("203.0.113.1", 2))
    assert keeps(own, ("192.0.2.9", 1))  # on the same link as ever
    assert keeps(own, ("203.0.113.2", 1))  # nobody knows
    assert keeps(("10.8.0.2", 5), ("203.0.113.1", 1))
    assert keeps(("198.51.100.1", 5), ("203.0.113.1", 1))  # never had a way of its own
    assert keeper(new, new, TransportTable(), interface_to)(own, ("203.0.113.1", 1))
    assert asked == [("192.0.2.7", ip) for ip in ("203.0.113.1", "192.0.2.9", "203.0.113.2")]


# --- netlink


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def route(
    destination: str, length: int, *, table: int = 254, kind: int = 1, new: bool = True
) -> bytes:
    ip = ip_address(destination)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 3, 0, kind, 0)
    return message(24 if new else 25, head + (attribute(1, ip.packed) if length else b""))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (route("0.0.0.0", 0), True),
        (route("::", 0, new=False), True),
        (route("128.0.0.0", 1), True),  # half of the internet, as VPNs do it
        (route("0.0.0.0", 1), False),
        (route("198.41.0.4", 32, table=7), True),
        (route("203.0.113.0", 24), False),
        (route("0.0.0.0", 0, table=255), False),
        (route("fe80::", 64), False),
        (route("2001:503::", 32), True),
        (message(16, bytes(16)), True),
        (message(20, bytes(8)), True),
        (message(33, bytes(12)), True),
        (message(3, b""), False),
        (message(24, b"\2"), True),  # not understood: look
        (b"", False),
        (message(16, bytes(16))[:-1], False),
        (b"\x03\0\0\0" + bytes(40), False),
        (message(3, b"") + message(21, b""), True),
    ],
)
def test_only_what_may_matter_of_the_kernel_is_told(data: bytes, told: bool) -> None:
    if sys.platform == "linux":
        assert netlink.tells_of_change(data) is told


@given(st.binary(max_size=300))
def test_no_message_is_too_broken_to_be_read(data: bytes) -> None:
    netlink.tells_of_change(data)
    netlink.tells_of_change(message(24, data))
    for kind in (netlink._link, netlink._address):
        kind(data)


class Kernel:
    """A netlink socket whose other end the test has."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.error: OSError | None = None
        self.reads = 0

    def fileno(self) -> int:
        return self.near.fileno()

    def read(self) -> bytes:
        self.reads += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return self.near.recv(65536)

    def close(self) -> None:
        self.near.close()


async def test_listener_goes_on_after_losses_and_opens_again_when_broken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listening, "REOPEN_S", (0.01, 0.02))
    loop = asyncio.get_running_loop()
    made: list[Kernel] = []
    fail = [0]
    told = asyncio.Event()

    def connect() -> Kernel:
        if fail[0]:
            fail[0] -= 1
            raise OSError(errno.EMFILE, "no more")
        made.append(Kernel())
        return made[-1]

    async def heard() -> None:
        async with asyncio.timeout(20):
            await told.wait()
        told.clear()

    listener = NetlinkListener(loop, told.set, cast(Callable[[], Netlink], connect))
    made[0].far.send(message(20, bytes(8)))
    await heard()
    made[0].error = OSError(errno.ENOBUFS, "lost")
    made[0].far.send(message(3, b""))
    await heard()
    assert len(made) == 1
    fail[0] = 3
    made[0].error = OSError(errno.EIO, "broken")
    made[0].far.send(message(3, b""))
    await heard()
    assert len(made) == 2 and made[0].fileno() == -1 and fail[0] == 0
    made[1].far.send(message(20, bytes(8)))
    await heard()
    listener.close()
    assert made[1].fileno() == -1
    for kernel in made:
        kernel.far.close()


async def test_listener_does_not_read_a_flood_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "READS_A_WINDOW", 20)
    monkeypatch.setattr(listening, "READS_A_TURN", 8)
    loop = asyncio.get_running_loop()
    kernel = Kernel()
    heard = [0]

    def hear() -> None:
        heard[0] += 1

    listener = NetlinkListener(loop, hear, cast(Callable[[], Netlink], lambda: kernel))
    kernel.far.setblocking(False)
    for _ in range(300):
        try:
            kernel.far.send(message(20, bytes(8)))
        except BlockingIOError:
            pass
        await asyncio.sleep(0)
    assert heard[0] <= 20 + 8 * (1 + int(loop.time() - listener._since))
    assert listener._later is not None
    listener._since -= 10.0
    listener._later.cancel()
    listener._go_on()
    before = heard[0]
    while heard[0] == before:
        await asyncio.sleep(0)
    listener.close()
    kernel.far.close()


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is of Linux")
def test_what_the_kernel_says_is_what_the_library_says() -> None:
    from iroh_fast.net.monitor.read import _by_psutil

    kernel, library = read_network(), _by_psutil()
    assert kernel.ips == library.ips
    ours = {(i.name, i.index, i.up) for i in kernel.interfaces if i.up}
    assert ours == {(i.name, i.index, i.up) for i in library.interfaces if i.up}
    assert kernel.default_routes == library.default_routes


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is of Linux")
async def test_without_answers_of_the_kernel_the_library_is_asked_and_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = read_network()

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "not for you")

    monkeypatch.setattr(netlink.Netlink, "__init__", refused)
    monkeypatch.setattr(netlink.Netlink, "close", lambda _: None)
    assert read_network().ips == usual.ips
    assert read_network().default_routes == usual.default_routes and read_network().gateway is None
    assert interface_to(ip_address("203.0.113.1"), ip_address("192.0.2.1")) is None
    listener = listening.listen(asyncio.get_running_loop(), lambda: None)
    assert isinstance(listener, Poller)
    listener.close()


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is of Linux")
def test_kernel_tells_by_which_interface_packets_leave() -> None:
    here = ip_address("127.0.0.1")
    assert interface_to(here, here) is None  # no way out of this machine
    with Netlink() as kernel:
        assert kernel.way(ip_address("0.0.0.1"), here) is None
        ways = kernel.ways()
    state = read_network()
    for way, name in zip(ways, state.default_routes, strict=True):
        assert (way is None) == (name is None)
        if way is not None:
            assert {i.index: i.name for i in state.interfaces}[way.index] == name


@pytest.mark.skipif(sys.platform != "linux", reason="netlink is of Linux")
def test_other_processes_are_not_believed() -> None:
    with Netlink() as victim:
        number = victim._sock.getsockname()[0]
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as liar:
            liar.bind((0, 0))
            try:
                liar.sendto(message(20, bytes(8)), (number, 0))
            except PermissionError:
                return  # the kernel does not even let it speak
            assert victim.read() == b""
