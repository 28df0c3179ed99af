"""Which links a node speaks on."""

from __future__ import annotations

from collections import namedtuple
from ipaddress import IPv4Network, ip_address
from typing import Any

import psutil
import pytest

from iroh_fast.lookup.mdns import interfaces as module
from iroh_fast.lookup.mdns.interfaces import MAX_INTERFACES, Interface, choose, read_interfaces


def link(index: int, *ips: str, name: str = "", loopback: bool = False) -> Interface:
    return Interface(index, name or f"eth{index}", loopback, (), frozenset(map(ip_address, ips)))


LO = link(1, "127.0.0.1", "::1", name="lo", loopback=True)
LAN = link(2, "192.168.1.2", "fe80::2")
WIFI = link(3, "2001:db8::3", "fe80::3")
BRIDGE_PORT = link(4, "fe80::4")
BARE = link(5)


@pytest.mark.parametrize(
    ("found", "names", "chosen"),
    [
        ([BARE, BRIDGE_PORT, WIFI, LAN, LO], None, [LAN, WIFI]),
        ([LO, BRIDGE_PORT, BARE], None, [BRIDGE_PORT]),
        ([LO, BARE], None, [LO]),
        ([BARE], None, []),
        ([LO, LAN, WIFI], {"lo", "eth3", "gone"}, [LO, WIFI]),
        ([LO, LAN], {"gone"}, []),
    ],
)
def test_links_in_use_are_chosen(
    found: list[Interface], names: set[str] | None, chosen: list[Interface]
) -> None:
    assert list(choose(found, None if names is None else frozenset(names))) == chosen


def test_number_of_links_is_bounded() -> None:
    many = [link(index, f"10.0.{index}.1") for index in range(100, 1, -1)]
    assert [chosen.index for chosen in choose(many, None)] == list(range(2, 2 + MAX_INTERFACES))


State = namedtuple("State", "isup flags")
Entry = namedtuple("Entry", "address netmask")


def test_system_tells_which_links_are_up_and_can_multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, Any] = {
        "lo": State(True, "up,loopback,running"),
        "eth0": State(True, "up,broadcast,running,multicast"),
        "down0": State(False, "broadcast,multicast"),
        "tun0": State(True, "up,pointopoint,running,noarp"),
        "new0": State(True, ""),  # a system that tells no flags
    }
    entries = {
        "lo": [Entry("127.0.0.1", "255.0.0.0")],
        "eth0": [
            Entry("192.168.1.2", "255.255.255.0"),
            Entry("fe80::2%eth0", "ffff:ffff:ffff:ffff::"),
            Entry("02:fc:00:00:00:01", None),
        ],
        "down0": [Entry("10.0.0.1", "255.0.0.0")],
        "tun0": [Entry("10.8.0.1", "255.255.255.255")],
        "new0": [Entry("10.9.0.1", None)],
    }
    monkeypatch.setattr(psutil, "net_if_stats", lambda: states)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: entries)
    names = ["lo", "eth0", "down0", "tun0", "new0", "unknown0"]
    monkeypatch.setattr(module.socket, "if_nameindex", lambda: list(enumerate(names, 1)))
    lo, eth, new = read_interfaces()
    assert (lo.index, lo.loopback) == (1, True) and lo.has(4) and not lo.has(6)
    assert eth == Interface(
        2,
        "eth0",
        False,
        (IPv4Network("192.168.1.0/24"),),
        frozenset(map(ip_address, ("192.168.1.2", "fe80::2"))),
    )
    assert (new.name, new.loopback, new.networks4) == ("new0", False, ())


def test_links_of_this_machine_are_read() -> None:
    assert any(found.loopback for found in read_interfaces())
