"""Several hosts on one link: network namespaces at the ports of a bridge."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from tests.lab.namespaces import NAMED, LabError, Namespace, missing, remove_leftovers

__all__ = ["Host", "Lan", "entered"]

CLONE_NEWNET: Final = 0x40000000


class Host(Namespace):
    """A machine with one interface, ``eth0``.

    Attributes
    ----------
    ip4, ip6 : its addresses as text; None where the link has none of the kind.
    """

    def __init__(self, number: int, *, ip4: bool, ip6: bool) -> None:
        # Addresses of IPv6 are there at once, without asking whether somebody has them.
        sysctls = {f"ipv6.conf.{name}.accept_dad": "0" for name in ("all", "default")}
        if not ip6:
            sysctls["ipv6.conf.default.disable_ipv6"] = "1"
        super().__init__(f"host{number}", sysctls)
        self.ip4 = f"10.88.{number // 250}.{number % 250 + 1}" if ip4 else None
        self.ip6 = f"fd88::{number + 1:x}" if ip6 else None

    def plug_in(self) -> None:
        """Bring the interface up, and give it its addresses where it has none."""
        self.ip("link", "set", "eth0", "up")
        if self.ip4 is not None:
            self.ip("addr", "replace", f"{self.ip4}/16", "dev", "eth0")
            self.ip("route", "replace", "default", "dev", "eth0")
        if self.ip6 is not None:
            self.ip("addr", "replace", f"{self.ip6}/64", "dev", "eth0", "nodad")


class Lan:
    """Hosts on one link.

    Parameters
    ----------
    count : how many.
    ip4, ip6 : which IP versions they have.
    """

    def __init__(self, count: int, *, ip4: bool = True, ip6: bool = True) -> None:
        self._count = count
        self._ip4, self._ip6 = ip4, ip6
        self._stack = contextlib.ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> Self:
        reason = missing()
        if reason is not None:
            raise LabError(reason)
        remove_leftovers()
        with self._stack as stack:
            self._switch = switch = Namespace("switch", {"ipv6.conf.default.disable_ipv6": "1"})
            stack.callback(switch.close)
            switch.ip("link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            switch.ip("link", "set", "br0", "up")
            for _ in range(self._count):
                self.add()
            self._stack = stack.pop_all()
        return self

    def add(self) -> Host:
        """One more host."""
        number = len(self.hosts)
        host = Host(number, ip4=self._ip4, ip6=self._ip6)
        self._stack.callback(host.close)
        port = f"p{number}"
        self._switch.ip(
            "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name
        )
        self._switch.ip("link", "set", port, "master", "br0", "up")
        host.plug_in()
        self.hosts.append(host)
        return host

    def traffic(self) -> tuple[int, int]:
        """Packets and bytes that the hosts have sent so far."""
        links = json.loads(self._switch.ip("-json", "-s", "link", "show", "type", "veth"))
        received = [link["stats64"]["rx"] for link in links]
        return sum(rx["packets"] for rx in received), sum(rx["bytes"] for rx in received)

    def unplug(self, host: Host) -> None:
        """Cut a host off."""
        self._switch.ip("link", "set", f"p{self.hosts.index(host)}", "down")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


@contextlib.contextmanager
def entered(host: Namespace) -> Iterator[None]:
    """Sockets that this thread makes in the block are those of a host."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")

    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(NAMED / host.name, os.O_RDONLY)
        try:
            enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(own)
