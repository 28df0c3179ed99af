"""Own addresses: what the interfaces tell, and how sources are put together."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from iroh_fast.addr import EndpointAddr, IpAddr, SocketAddr
from iroh_fast.aio.owner import Owner
from iroh_fast.keys import SecretKey
from iroh_fast.net.local_addrs import NetworkState, choose, direct_addrs
from iroh_fast.net.service import OwnAddrs


def state(*texts: str) -> NetworkState:
    return NetworkState(map(ip_address, texts))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ("192.0.2.1 127.0.0.1 ::1 fe80::1", "192.0.2.1"),
        ("192.0.2.1 fd00::1 169.254.3.4", "192.0.2.1"),
        ("2001:db8::1 169.254.3.4 fd00::1", "2001:db8::1"),
        ("fd00::1 169.254.3.4 127.0.0.1", "169.254.3.4 fd00::1"),
        ("fc00::1 fe80::2", "fc00::1"),
        ("127.0.0.1 ::1 fe80::1", "127.0.0.1 ::1"),
        ("fe80::1 0.0.0.0 224.0.0.1", ""),
        ("10.0.0.2 10.0.0.1 2001:db8::2", "10.0.0.1 10.0.0.2 2001:db8::2"),
    ],
)
def test_interfaces_are_told_as_far_as_others_may_reach_them(found: str, told: str) -> None:
    assert choose(map(ip_address, found.split())) == list(map(ip_address, told.split()))


def test_addresses_of_sockets_are_those_of_their_family() -> None:
    sockets = [SocketAddr.parse(text) for text in ("0.0.0.0:1", "[::]:2", "198.51.100.9:3")]
    assert direct_addrs(sockets, state("192.0.2.1", "2001:db8::1")) == {
        SocketAddr.parse(text) for text in ("192.0.2.1:1", "[2001:db8::1]:2", "198.51.100.9:3")
    }


def test_interfaces_are_not_read_for_bound_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iroh_fast.net.local_addrs._read_interfaces", None)  # would fail
    bound = SocketAddr.parse("127.0.0.1:7")
    assert direct_addrs([bound], NetworkState()) == {bound}


def test_sources_are_put_together_and_told_once() -> None:
    async def main() -> None:
        told: list[EndpointAddr] = []
        addrs = OwnAddrs(SecretKey.generate().public, Owner(asyncio.get_running_loop()), told.append)
        one, two = (IpAddr(SocketAddr.parse(f"192.0.2.{n}:1")) for n in (1, 2))
        addrs.put("interfaces", [two, one])
        addrs.put("mapped", [one])  # no news
        addrs.put("interfaces", [two])  # the other one still comes from the mapping
        assert [addr.addrs for addr in told] == [(one, two)]
        addrs.put("mapped", [])
        assert told[-1].addrs == (two,) == addrs.value.get().addrs
        assert addrs.of("mapped") == frozenset() and addrs.of("interfaces") == {two}

    asyncio.run(main())
