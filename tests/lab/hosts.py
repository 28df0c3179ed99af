"""Hosts of a world: machines with interfaces at routers, which come and go, and nodes in them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.lab.machines import PROVIDER6, Machine
from tests.lab.namespaces import LabError

if TYPE_CHECKING:
    from tests.lab.child import NodeProcess
    from tests.lab.machines import Router
    from tests.lab.world import World

__all__ = ["Host"]


class Host(Machine):
    """A machine with interfaces at routers, and nodes in it.

    Attributes
    ----------
    ports : dict
        The router that each interface is plugged in at, and the number of its address.
    """

    def __init__(self, world: World, label: str) -> None:
        keep = {f"ipv6.conf.{where}.keep_addr_on_down": "1" for where in ("all", "default")}
        self.ports: dict[str, tuple[Router, int, str]] = {}
        super().__init__(world, label, keep)

    def plug_in(self, router: Router, device: str = "eth0", *, metric: int | None = None) -> None:
        """Connect an interface, which is new, and give it the addresses and routes it has there."""
        if device in self.ports:
            raise LabError(f"{self.label}: {device} is plugged in already")
        number, port = next(router._hosts), f"h{next(router._ports)}"
        router.ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", self.name)
        router.ip("link", "set", port, "master", "lan", "up")
        self.ports[device] = router, number, port
        self._configure(device, metric)

    def _configure(self, device: str, metric: int | None = None) -> None:
        router, number, _ = self.ports[device]
        metric = metric if metric is not None else 100 + 100 * list(self.ports).index(device)
        lines = [f"link set {device} up"]
        if router.lan4:
            lines.append(f"addr replace {router.lan4}.{number}/24 dev {device}")
            lines.append(f"route replace default via {router.lan4}.1 dev {device} metric {metric}")
        if router.lan6:
            lines.append(f"addr replace {router.lan6}::{number:x}/64 dev {device} nodad")
            lines.append(f"route replace ::/0 via {PROVIDER6} dev {device} metric {metric}")
        self.batch(*lines)
        routers = [router for router, _, _ in self.ports.values()]
        self.set_resolver(
            v4=any(router.lan4 for router in routers), v6=any(router.lan6 for router in routers)
        )

    def unplug(self, device: str = "eth0") -> None:
        """Take an interface away, with its addresses."""
        router, _, port = self.ports.pop(device)
        router.ip("link", "del", port)

    def replug(self, router: Router, device: str = "eth0") -> None:
        """Plug an interface in at another router."""
        self.unplug(device)
        self.plug_in(router, device)

    def set_link(self, device: str = "eth0", *, up: bool) -> None:
        """Switch an interface off, or on again."""
        if up:
            self._configure(device)
        else:
            self.ip("link", "set", device, "down")

    def address(self, *, six: bool = False, device: str = "eth0") -> str:
        """Its own address."""
        router, number, _ = self.ports[device]
        prefix = router.lan6 if six else router.lan4
        if prefix is None:
            raise LabError(f"{self.label} has no IPv{6 if six else 4}")
        return f"{prefix}::{number:x}" if six else f"{prefix}.{number}"

    def renew(self, device: str = "eth0") -> None:
        """Get another address where it is plugged in; the one before is gone."""
        router, number, port = self.ports[device]
        old = [f"{router.lan4}.{number}/24"] * bool(router.lan4)
        old += [f"{router.lan6}::{number:x}/64"] * bool(router.lan6)
        self.batch(*(f"addr del {address} dev {device}" for address in old))
        self.ports[device] = router, next(router._hosts), port
        self._configure(device)

    def add_useless(self, count: int) -> None:
        """Addresses that lead nowhere, on interfaces of their own, as of virtual machines and containers."""
        lines = []
        for i in range(count):
            lines += [
                f"link add idle{i} type bridge",
                f"addr add 172.{16 + i // 250}.{i % 250}.1/24 dev idle{i}",
                f"link set idle{i} up",
            ]
        self.batch(*lines)

    def node(self, kind: str = "ours", **options: Any) -> NodeProcess:
        """An endpoint here, to be used with ``async with``; options of `child.NodeProcess`."""
        from tests.lab.child import NodeProcess

        return NodeProcess(self, kind, **options)

    def close(self) -> None:
        for device in list(self.ports):
            with contextlib.suppress(LabError):
                self.unplug(device)
        super().close()
