"""Machines of a world: providers and the routers behind them, each a network namespace; hosts are in `hosts`.

A router hangs at its provider by a link of its own, a pair of devices or an emulated link (`wire`), which IP crosses without
a shared network between: so the one can take the place of the other. Hosts of a router share a bridge.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab import nat as nats
from tests.lab.carrier import Carrier
from tests.lab.lab import SYSCTLS
from tests.lab.namespaces import LabError, Namespace

if TYPE_CHECKING:
    from tests.lab.hosts import Host
    from tests.lab.link import LinkConfig
    from tests.lab.world import World

__all__ = ["Machine", "Provider", "Router"]

PROVIDER6 = "fe80::1"
CUSTOMER6 = "fe80::2"
#: Routers pass packets on, say nothing of better ways, and take what comes another way than it would go.
FORWARDS = {
    "ipv4.ip_forward": "1",
    "ipv6.conf.all.forwarding": "1",
    "ipv6.conf.default.forwarding": "1",
    **{f"ipv4.conf.{where}.send_redirects": "0" for where in ("all", "default")},
    **{f"ipv4.conf.{where}.rp_filter": "0" for where in ("all", "default")},
}


class Machine(Namespace):
    """A namespace with the settings of the lab and a resolver.

    Attributes
    ----------
    world : World
    label : str
        Its name in the world.
    """

    def __init__(self, world: World, label: str, sysctls: dict[str, str] | None = None) -> None:
        self.world = world
        self.label = label
        self.resolv_conf = world.folder / f"{label}.resolv.conf"
        self.resolv_conf.write_text("")
        super().__init__(label, {**SYSCTLS, **(sysctls or {})})

    def batch(self, *lines: str) -> None:
        """Several ``ip`` commands at once."""
        if lines:
            self.ip("-batch", "-", text="\n".join(lines) + "\n")

    def nft(self, rules: str) -> None:
        """Load rules of nftables."""
        self.tool("nft", "-f", "-", text=rules)

    def tool(self, *argv: str, text: str = "") -> str:
        """Run a program here to its end; its output."""
        done = self.run(argv, input=text, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"{self.label}: {' '.join(argv)}: {done.stderr.strip()}")
        return str(done.stdout)

    def set_resolver(self, *, v4: bool, v6: bool) -> None:
        """Ask the name server of the world by these kinds of addresses; processes that run notice it."""
        servers = self.world.name_servers(v4=v4, v6=v6)
        self.resolv_conf.write_text("".join(f"nameserver {server}\n" for server in servers))

    def command(self, argv: Any) -> list[str]:
        mount = f'mount --bind "{self.resolv_conf}" /etc/resolv.conf && exec "$@"'
        return super().command(["sh", "-ec", mount, "sh", *argv])


class Provider(Machine):
    """A machine with customers: the internet, or a router."""

    #: Ways to customers, to set again when a link comes back: device and its lines.
    _ways: dict[str, list[str]]
    _wires: dict[str, Carrier]

    def __init__(self, world: World, label: str) -> None:
        self._ways = {}
        self._wires = {}
        super().__init__(world, label, FORWARDS)

    def customer_address(self, number: int) -> str:
        """The address of IPv4 that a customer gets."""
        raise NotImplementedError

    @property
    def gateway4(self) -> str:
        raise NotImplementedError

    def attach(
        self,
        customer: Machine,
        number: int,
        *,
        v4: bool,
        v6: bool,
        link: tuple[LinkConfig, LinkConfig] | None,
    ) -> None:
        """Connect a customer's `wan`. `link` are the ways up (from the customer) and down."""
        device = f"p{number}"
        if link is None:
            self.ip("link", "add", device, "type", "veth", "peer", "name", "wan", "netns", customer.name)  # fmt: skip
        else:
            ends = (customer.name, "wan"), (self.name, device)
            self._wires[device] = Carrier(*ends, *link)
        address = self.customer_address(number)
        ways = [f"addr replace {PROVIDER6}/64 dev {device} nodad"]
        theirs = ["link set wan up", f"addr replace {CUSTOMER6}/64 dev wan nodad"]
        if v4:
            ways.append(f"route replace {address}/32 dev {device}")
            theirs += [
                f"addr replace {address}/32 dev wan",
                f"route replace {self.gateway4} dev wan scope link",
                f"route replace default via {self.gateway4} dev wan",
            ]
        if v6:
            theirs.append(f"route replace ::/0 via {PROVIDER6} dev wan")
        self._ways[device] = ways
        self.batch(f"link set {device} up", *ways)
        customer.batch(*theirs)

    def lead(self, number: int, prefix: str) -> None:
        """Send a prefix to a customer."""
        device = f"p{number}"
        via = CUSTOMER6 if ":" in prefix else self.customer_address(number)
        way = f"route replace {prefix} via {via} dev {device}"
        self._ways[device].append(way)
        self.batch(way)

    def set_customer(self, number: int, *, up: bool) -> None:
        """Cut a customer off, or connect it again."""
        device = f"p{number}"
        lines = [f"link set {device} {'up' if up else 'down'}", *(self._ways[device] if up else [])]
        self.batch(*lines)

    def wire(self, number: int) -> Carrier:
        """The emulated link to a customer."""
        try:
            return self._wires[f"p{number}"]
        except KeyError:
            raise LabError("this link is not emulated: give it a link=LinkConfig(...)") from None

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        super().close()


class Router(Provider):
    """A router with hosts, or further routers, behind it.

    Attributes
    ----------
    provider : Provider
    number : int
        Of the router at its provider.
    nat : Nat
    wan4, wan6 : str or None
        Its addresses outside.
    lan4, lan6 : str or None
        Prefixes inside, as ``10.5.0``, and ``2001:db8:5:1``.
    """

    def __init__(
        self,
        provider: Provider,
        label: str,
        number: int,
        *,
        nat: str | nats.Nat = "moderate",
        v4: bool = True,
        v6: bool = False,
        v6_open: bool = False,
        lan: str | None = None,
        link: LinkConfig | tuple[LinkConfig, LinkConfig] | None = None,
    ) -> None:
        super().__init__(provider.world, label)
        self.provider, self.number = provider, number
        self.nat, self.v6_open = nats.kind(nat), v6_open
        self.wan4 = provider.customer_address(number) if v4 else None
        self.wan6 = f"2001:db8:{number:x}::1" if v6 else None
        private = self.nat.translates
        self.lan4 = (lan or (f"10.{number}.0" if private else f"198.18.{number}")) if v4 else None
        self.lan6 = f"2001:db8:{number:x}:1" if v6 else None
        self._hosts = itertools.count(10)
        self._ports = itertools.count(1)
        self._lifetime: Any = None
        self._prefixes: list[str] = []
        self._forwards: dict[int, str] = {}
        if link is not None and not isinstance(link, tuple):
            link = link, link
        provider.attach(self, number, v4=v4, v6=v6, link=link)
        if self.lan4 and not private:
            self.announce(f"{self.lan4}.0/24")
        if v6:
            self.announce(f"2001:db8:{number:x}::/48")
        self._make_lan()
        self.set_nat(self.nat)
        self.set_resolver(v4=v4, v6=v6)

    def _make_lan(self) -> None:
        # A bridge without a port is down, and takes a second to answer questions of IPv6 for its address when the
        # first host is plugged in: so one is always in use. Without an address of its own it would take the
        # lowest of its ports, and change it when another host comes.
        lines = [
            "link add lan address 02:00:00:00:00:01 type bridge mcast_snooping 0",
            "link add port0 type veth peer name plug0",
            "link set port0 master lan up",
            "link set plug0 arp off up",
            "link set lan up",
        ]
        if self.lan4:
            lines.append(f"addr add {self.lan4}.1/24 dev lan")
        if self.lan6:
            lines.append(f"addr add {self.lan6}::1/64 dev lan nodad")
            lines.append(f"addr add {PROVIDER6}/64 dev lan nodad")
        if self.wan6:
            lines.append(f"addr add {self.wan6}/128 dev lo nodad")
        self.batch(*lines)

    @property
    def public(self) -> list[str]:
        """What it and those behind it have on the internet: addresses and prefixes."""
        if isinstance(self.provider, Router) and self.provider.nat.translates:
            outside = self.provider.public
        else:
            outside = [self.wan4] if self.wan4 else []
        return outside + self._prefixes

    def announce(self, prefix: str) -> None:
        """Lead a prefix here, from the internet down."""
        self._prefixes.append(prefix)
        self.provider.lead(self.number, prefix)
        if isinstance(self.provider, Router):
            self.provider.announce(prefix)

    # --- as a provider
    def customer_address(self, number: int) -> str:
        return f"100.64.{self.number}.{number}"

    @property
    def gateway4(self) -> str:
        if self.lan4 is None:
            raise LabError(f"{self.label} has no IPv4")
        return f"{self.lan4}.1"

    # --- what a test does with it
    def host(self, label: str) -> Host:
        """A machine with ``eth0`` at this router."""
        from tests.lab.hosts import Host

        host = Host(self.world, label)
        self.world.adopt(host)
        host.plug_in(self)
        return host

    def router(self, label: str, **options: Any) -> Router:
        """A router behind this one, with the options of `Router`."""
        return self.world.router(label, provider=self, **options)

    def set_nat(self, nat: str | nats.Nat) -> None:
        """Translate in another way from now on; all mappings are forgotten."""
        self.nat = nats.kind(nat)
        self.set(
            {
                "netfilter.nf_conntrack_udp_timeout": str(self.nat.idle),
                "netfilter.nf_conntrack_udp_timeout_stream": str(self.nat.stream),
            }
        )
        self._load()
        self._end_by_age()

    def flush(self) -> None:
        """Forget all mappings: what comes next leaves from other ports."""
        self._load()

    def _load(self) -> None:
        """Begin anew, with empty maps."""
        rules = nats.nat_rules(
            self.nat,
            self.wan4,
            v6_open=self.v6_open,
            forwards=self._forwards,
            first_port=random.choice(nats.FIRST_PORTS),
        )
        self.nft(rules)
        self.forget()

    def forward(self, port: int, host: Host) -> None:
        """Lead a port of UDP outside to the same port of a host, as its owner has set up; forgets all mappings."""
        self._forwards[port] = host.address()
        self._load()

    def forget(self) -> None:
        """Empty the kernel's table of connections."""
        self.tool("conntrack", "-F")

    def _end_by_age(self) -> None:
        if self._lifetime is not None:
            self._lifetime.kill()
            self._lifetime = None
        if self.nat.lifetime is not None:
            self._lifetime = self.world.start_python(
                self, "tests.lab.lifetime", str(self.nat.lifetime), ready="ready\n"
            )

    def firewall(self, name: str, *extra: str) -> None:
        """Drop what a firewall of `nat.FIREWALLS` drops, from now on; `extra` are rules in front."""
        self.nft(nats.firewall_rules(name, extra))

    def narrow(self, mtu: int) -> None:
        """Take only packets of so many bytes to and from the provider, and say nothing of larger ones."""
        self.ip("link", "set", "wan", "mtu", str(mtu))
        self.provider.ip("link", "set", f"p{self.number}", "mtu", str(mtu))
        rule = "icmp type destination-unreachable drop\n    icmpv6 type packet-too-big drop"
        for machine in (self, self.provider):
            machine.nft(
                "table inet silence {}\ndelete table inet silence\ntable inet silence {\n"
                f"  chain out {{\n    type filter hook output priority 0\n    {rule}\n  }}\n}}\n"
            )

    def uplink(self, *, up: bool) -> None:
        """Cut it off from its provider, or connect it again. Hosts behind it are not told."""
        self.provider.set_customer(self.number, up=up)
        if up:
            self._provide_again()

    def _provide_again(self) -> None:
        lines = []
        if self.wan4:
            gateway = self.provider.gateway4
            lines.append(f"route replace {gateway} dev wan scope link")
            lines.append(f"route replace default via {gateway} dev wan")
        if self.wan6:
            lines.append(f"route replace ::/0 via {PROVIDER6} dev wan")
        self.batch(*lines)

    def change_link(self, up: LinkConfig, down: LinkConfig | None = None) -> None:
        """Give the emulated link to the provider other properties; what is under way arrives as it would have."""
        self.provider.wire(self.number).change(up, down or up)

    def mappings(self) -> str:
        """What the kernel knows of connections, for people."""
        return self.tool("conntrack", "-L", "-p", "udp")


def kernel_lacks() -> str | None:
    """What a world needs besides what a lab needs, or None."""
    import shutil

    for name, package in (("nft", "nftables"), ("conntrack", "conntrack")):
        if shutil.which(name) is None and not Path("/usr/sbin", name).exists():
            return f"no {name} command (package {package})"
    return None
