"""Own addresses: what the interfaces tell, and how sources are put together."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from iroh_fast.addr import EndpointAddr, IpAddr, RelayAddr, RelayUrl, SocketAddr
from iroh_fast.aio.owner import Owner
from iroh_fast.keys import SecretKey
from iroh_fast.net.local_addrs import Interface, NetworkState, choose, direct_addrs
from iroh_fast.net.service import OwnAddrs


def state(*texts: str) -> NetworkState:
    return NetworkState.of(map(ip_address, texts))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("192.0.2.1 127.0.0.1 ::1 fe80::1", "192.0.2.1"),
        ("192.0.2.1 fd00::1 169.254.3.4", "192.0.2.1"),
        ("2001:db8::1 169.254.3.4 fd00::1", "2001:db8::1"),
        ("fd00::1 169.254.3.4 127.0.0.1", "fd00::1 169.254.3.4"),
        ("fc00::1 fe80::2", "fc00::1"),
        ("127.0.0.1 ::1 fe80::1", "127.0.0.1 ::1"),
        ("fe80::1 0.0.0.0 224.0.0.1", ""),
        ("10.0.0.2 10.0.0.1 2001:db8::2", "10.0.0.2 10.0.0.1 2001:db8::2"),
    ],
)
def test_interfaces_are_told_as_far_as_others_may_reach_them(found: str, told: str) -> None:
    assert choose(map(ip_address, found.split())) == list(map(ip_address, told.split()))


def test_addresses_of_sockets_are_those_of_their_family() -> None:
    sockets = [SocketAddr.parse(text) for text in ("0.0.0.0:1", "[::]:2", "198.51.100.9:3")]
    assert direct_addrs(sockets, state("192.0.2.1", "2001:db8::1")) == [
        SocketAddr.parse(text) for text in ("198.51.100.9:3", "192.0.2.1:1", "[2001:db8::1]:2")
    ]


def test_addresses_of_the_way_to_the_internet_come_first() -> None:
    ip = [ip_address(f"10.0.{n}.1") for n in range(4)]
    network = NetworkState(
        (
            Interface("docker0", 1, ips=(ip[0],)),
            Interface(
                "eth0",
                2,
                ips=(ip_address("2001:db8::1"), ip_address("2001:db8::2")),
                deprecated=frozenset([ip_address("2001:db8::1")]),
            ),
            Interface("eth1", 3, up=False, ips=(ip[2],)),
            Interface("wlan0", 4, ips=(ip[3],)),
        ),
        default_routes=("wlan0", "eth0"),
    )
    assert network.default_route == "wlan0" and network.have_v4 and network.have_v6
    sockets = [SocketAddr.parse("0.0.0.0:1"), SocketAddr.parse("[::]:2")]
    assert [str(addr) for addr in direct_addrs(sockets, network)] == [
        "10.0.3.1:1",
        "[2001:db8::2]:2",
        "10.0.0.1:1",
    ]
    # One that is deprecated is still good for what uses it.
    assert ip_address("2001:db8::1") in network.ips and ip[2] not in network.ips


def test_sources_are_put_together_and_told_once() -> None:
    async def main() -> None:
        told: list[EndpointAddr] = []
        addrs = OwnAddrs(
            SecretKey.generate().public, Owner(asyncio.get_running_loop()), told.append
        )
        one, two = (IpAddr(SocketAddr.parse(f"192.0.2.{n}:1")) for n in (1, 2))
        addrs.put("interfaces", [two, one])
        addrs.put("mapped", [one])  # no news
        addrs.put("interfaces", [two])  # the other one still comes from the mapping
        assert [addr.addrs for addr in told] == [(one, two)]
        addrs.put("mapped", [])
        assert told[-1].addrs == (two,) == addrs.value.get().addrs
        assert addrs.of("mapped") == frozenset() and addrs.of("interfaces") == {two}

    asyncio.run(main())


def test_candidates_are_in_the_order_of_their_use() -> None:
    async def main() -> None:
        told: list[list[str]] = []
        changes: list[EndpointAddr] = []
        addrs = OwnAddrs(
            SecretKey.generate().public,
            Owner(asyncio.get_running_loop()),
            changes.append,
            lambda found: told.append(list(map(str, found))),
        )

        def put(source: str, *texts: str) -> list[str]:
            addrs.put(source, [IpAddr(SocketAddr.parse(text)) for text in texts])
            return list(map(str, addrs.candidates()))

        put("interfaces", "10.0.0.9:1", "10.0.0.1:1", "[fe80::1%3]:1", "0.0.0.0:7", "10.0.0.9:1")
        put("user", "203.0.113.4:5")
        put("portmap", "203.0.113.3:2")
        put("something else", "203.0.113.5:1")
        found = put("qad", "[2001:db8::1]:1", "203.0.113.2:0", "203.0.113.4:5")
        assert found == [
            *("[2001:db8::1]:1", "203.0.113.4:5", "203.0.113.3:2", "203.0.113.5:1"),
            *("10.0.0.9:1", "10.0.0.1:1"),
        ]
        addrs.put("relays", [RelayAddr(RelayUrl("https://relay.test"))])
        put("interfaces", "10.0.0.1:1", "10.0.0.9:1", "[fe80::1%3]:1", "0.0.0.0:7")
        assert told[-1][-2:] == ["10.0.0.1:1", "10.0.0.9:1"]  # another order is news
        assert len(told) == 6 and len(changes) == 6
        assert len(put("interfaces", *(f"10.1.{n}.1:1" for n in range(200)))) == 128

    asyncio.run(main())
