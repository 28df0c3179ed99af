"""Address translation and firewalls of routers, as rulesets of nftables. Pure: text alone.

The words of RFC 4787. A *mapping* says which port of the router stands for an address and port inside: always the same one
(endpoint-independent), or another one for each destination. *Filtering* says whose packets may come in there.

An endpoint-independent mapping is two maps that the kernel keeps: `out_ports` gives the port outside of each address and port
inside, and `in_ports` leads back. Plain ``masquerade`` is none: it takes another port when a connection that it knows stands
in the way. A router answers nothing that comes to itself from outside; else the entry of a stranger's packet in the kernel's
table would be such a connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

__all__ = ["FIREWALLS", "KINDS", "Nat", "firewall_rules", "nat_rules", "punchable"]

Kind = Literal["none", "endpoint-independent", "port-preserving", "random"]
Filtering = Literal["none", "address", "address-and-port"]

#: Ports outside are taken one after the other from any first one of these on, so that no two mappings get the same.
FIRST_PORTS: Final = range(2048, 37000)
PORTS: Final = 28000
WAN: Final = "wan"


@dataclass(frozen=True, slots=True)
class Nat:
    """How a router translates addresses of IPv4, and what it lets in.

    Attributes
    ----------
    mapping : str
        ``"none"``: public addresses inside, nothing is translated. ``"endpoint-independent"``: see above.
        ``"port-preserving"``: per destination, but with the port from inside where it is free. ``"random"``: per
        destination, any port.
    filtering : str
        What may come in: everything that a mapping leads to, from addresses that were written to, or only from the
        addresses and ports that were written to. A mapping per destination has only the last.
    preserves : bool
        An endpoint-independent mapping takes the port from inside; else any free one.
    hairpin : bool
        Hosts inside reach each other at the address outside.
    lifetime : float or None
        A mapping ends this many seconds after it began, whatever traffic there is.
    idle, stream : int
        Seconds after which the kernel forgets a flow of UDP: with packets in one direction, and in both.
    """

    mapping: Kind = "endpoint-independent"
    filtering: Filtering = "address-and-port"
    preserves: bool = False
    hairpin: bool = False
    lifetime: float | None = None
    idle: int = 30
    stream: int = 300

    def __post_init__(self) -> None:
        if self.mapping in ("port-preserving", "random") and self.filtering != "address-and-port":
            raise ValueError("a mapping per destination lets only that destination in")
        if self.hairpin and self.mapping != "endpoint-independent":
            raise ValueError("only an endpoint-independent mapping can be reached from inside")
        if self.lifetime is not None and self.mapping == "none":
            raise ValueError("there is no mapping that could end")

    @property
    def translates(self) -> bool:
        return self.mapping != "none"


#: By name. ``open`` is a router with UPnP or a forwarded port, ``moderate`` the usual one at home, ``strict`` one of an
#: office or a cloud, ``cgnat`` that of a provider, in front of those at home.
KINDS: Final[dict[str, Nat]] = {
    "none": Nat(mapping="none", filtering="none"),
    "open": Nat(filtering="none", hairpin=True),
    "moderate": Nat(),
    "moderate-preserving": Nat(preserves=True),
    "moderate-hairpin": Nat(hairpin=True),
    "address-restricted": Nat(filtering="address"),
    "port-preserving": Nat(mapping="port-preserving"),
    "strict": Nat(mapping="random", stream=120),
    "cgnat": Nat(mapping="port-preserving", stream=120),
}


def kind(name: str | Nat) -> Nat:
    """A kind by its name."""
    if isinstance(name, Nat):
        return name
    if name not in KINDS:
        raise ValueError(f"no such NAT: {name!r}; there are {', '.join(KINDS)}")
    return KINDS[name]


def punchable(a: str | Nat, b: str | Nat) -> bool:
    """Whether two hosts behind such routers can reach each other when both send to what a third one saw of the other."""
    a, b = kind(a), kind(b)

    def stable(nat: Nat) -> bool:
        """The port that a relay saw is the one for everybody."""
        return nat.mapping != "random"

    def lets_in(nat: Nat, other: Nat) -> bool:
        """What comes from a port of the other that nobody knows before gets in."""
        return nat.filtering != "address-and-port" or stable(other)

    if stable(a) and stable(b):
        return True
    return (stable(a) and lets_in(a, b)) or (stable(b) and lets_in(b, a))


# ---------------------------------------------------------------- rulesets
def chain(name: str, hook: str, *rules: str) -> str:
    body = "\n".join(f"    {rule}" for rule in (hook, *rules) if rule)
    return f"  chain {name} {{\n{body}\n  }}\n"


def translation(nat: Nat, address: str, forwards: Mapping[int, str], first_port: int) -> str:
    """The table that changes addresses."""
    led = [f'iifname "{WAN}" udp dport {port} dnat to {to}' for port, to in forwards.items()]
    udp = f'oifname "{WAN}" meta l4proto udp'
    rest = f'oifname "{WAN}" snat to {address}'
    before = "type nat hook prerouting priority -100"
    after = "type nat hook postrouting priority 100"
    if nat.mapping == "random":
        return chain("before", before, *led) + chain("after", after, f"{rest} fully-random")
    if nat.mapping == "port-preserving":
        return chain("before", before, *led) + chain("after", after, rest)
    timeout = "1h" if nat.lifetime is None else f"{round(nat.lifetime * 1000)}ms"
    maps = f"""\
  map out_ports {{
    type ipv4_addr . inet_service : inet_service
    flags dynamic,timeout
    timeout {timeout}
  }}
  map in_ports {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout {timeout}
  }}
"""
    reached = f"ip daddr {address}" if nat.hairpin else f'iifname "{WAN}"'
    enter = [f"{reached} meta l4proto udp dnat to udp dport map @in_ports"]
    if nat.hairpin:  # where packets leave, nobody knows any more where they came in
        enter.insert(0, f'iifname != "{WAN}" ip daddr {address} meta mark set 1')

    def draws(first: int) -> list[str]:
        """Rules that give an address and port inside its port outside."""
        next_port = f"numgen inc mod {PORTS // 2} offset {first}"
        rule = f"add @out_ports {{ ip saddr . udp sport : {next_port} }}"
        if not nat.preserves:
            return [rule]
        # What is there already stays, so the first of these decides.
        same = "add @out_ports { ip saddr . udp sport : udp sport }"
        return [f"udp sport @in_ports {rule}", same]

    leave = f"snat to {address} : ip saddr . udp sport map @out_ports"
    # The one who is reached from inside sees the sender's address outside, and answers to that.
    turn = "meta mark 1 meta l4proto udp"
    ways = [udp, turn] if nat.hairpin else [udp]
    # Each counts by itself: from other ports.
    firsts = (first_port, first_port + PORTS // 2)
    after_rules = [
        f"{way} {step}"
        for way, first in zip(ways, firsts, strict=False)
        for step in (*draws(first), leave)
    ]
    # What the kernel has really taken: the port may have been in use.
    taken = "add @in_ports { udp sport : ct original ip saddr . ct original proto-src }"
    record = [f"{way} ct direction original {taken}" for way in ways]
    return (
        maps
        + chain("before", before, *led, *enter)
        + chain("after", after, *after_rules, rest)
        + chain("record", "type filter hook postrouting priority 110", *record)
    )


def filtering(nat: Nat, *, v6_open: bool, forwards: Mapping[int, str]) -> str:
    """The table that lets packets in or not."""
    contacts = ""
    inward, outward = [], []
    if nat.mapping == "none" or nat.filtering == "none":
        inward.append(f'iifname "{WAN}" meta nfproto ipv4 accept')
    elif nat.filtering == "address":
        contacts = """\
  set contacts {
    type ipv4_addr . inet_service . ipv4_addr
    flags dynamic,timeout
    timeout 300s
  }
"""
        outward.append(
            f'oifname "{WAN}" meta l4proto udp update @contacts {{ ip saddr . udp sport . ip daddr }}'
        )
        inward.append(f'iifname "{WAN}" ip daddr . udp dport . ip saddr @contacts accept')
    for port, to in forwards.items():
        inward.append(f'iifname "{WAN}" ip daddr {to} udp dport {port} accept')
    if v6_open:
        inward.append(f'iifname "{WAN}" meta nfproto ipv6 accept')
    known = f'iifname "{WAN}" ct state established,related accept'
    icmp = f'iifname "{WAN}" meta l4proto {{ icmp, ipv6-icmp }} accept'
    drop = f'iifname "{WAN}" drop'
    to_itself = chain("to_itself", "type filter hook input priority 0", known, icmp, drop)
    through = chain("through", "type filter hook forward priority 0", *outward, known, *inward, drop)  # fmt: skip
    return contacts + to_itself + through


def nat_rules(
    nat: Nat,
    address: str | None,
    *,
    v6_open: bool = False,
    forwards: Mapping[int, str] = MappingProxyType({}),
    first_port: int = FIRST_PORTS[0],
) -> str:
    """The whole ruleset of a router for ``nft -f -``; replaces the one before, with what it has learned.

    Parameters
    ----------
    nat : Nat
    address : str or None
        Of IPv4, outside; None for a router of IPv6 alone.
    v6_open : bool
        What comes over IPv6 unasked is let in, too.
    forwards : mapping of int to str
        Ports of UDP outside that lead to the same port of an address inside.
    first_port : int
        One of `FIRST_PORTS`.
    """
    text = "table ip translation {}\ndelete table ip translation\n"
    text += "table inet filtering {}\ndelete table inet filtering\n"
    if nat.translates and address is not None:
        text += f"table ip translation {{\n{translation(nat, address, forwards, first_port)}}}\n"
    return (
        text + f"table inet filtering {{\n{filtering(nat, v6_open=v6_open, forwards=forwards)}}}\n"
    )


#: What does not pass a router, in either direction, by name: rules of the forward hook.
FIREWALLS: Final[dict[str, tuple[str, ...]]] = {
    "none": (),
    "udp-blocked": ("udp dport 53 accept", "udp sport 53 accept", "meta l4proto udp drop"),
    "web-only": (
        "udp dport 53 accept",
        "udp sport 53 accept",
        "tcp dport { 80, 443 } accept",
        "tcp sport { 80, 443 } accept",
        "meta l4proto { icmp, ipv6-icmp } accept",
        "drop",
    ),
    "tcp-443-only": (
        "udp dport 53 accept",
        "udp sport 53 accept",
        "tcp dport 443 accept",
        "tcp sport 443 accept",
        "drop",
    ),
    "all-blocked": ("drop",),
}


def firewall_rules(name: str, extra: tuple[str, ...] = ()) -> str:
    """A table besides that of the NAT: whatever passes there, this drops.

    Parameters
    ----------
    name : str
        One of `FIREWALLS`.
    extra : tuple of str
        Rules in front of those.
    """
    if name not in FIREWALLS:
        raise ValueError(f"no such firewall: {name!r}; there are {', '.join(FIREWALLS)}")
    rules = chain("gate", "type filter hook forward priority -10", *extra, *FIREWALLS[name])
    return f"table inet gate {{}}\ndelete table inet gate\ntable inet gate {{\n{rules}}}\n"


def with_changes(name: str | Nat, **changes: object) -> Nat:
    """A kind that differs in something: ``with_changes("moderate", lifetime=60)``."""
    return replace(kind(name), **changes)  # type: ignore[arg-type]
