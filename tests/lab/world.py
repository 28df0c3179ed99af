"""A small internet: routers with NATs and firewalls, hosts behind them, relays, a name server.

    with World() as world:
        relay = world.relay()
        a = world.router("home-a", nat="moderate").host("a")
        b = world.router("home-b", nat="strict", link=LinkConfig(delay=10)).host("b")
        async with a.node() as client, b.node() as server:
            ...

Addresses of IPv4 are public in 203.0.113.0/24 and 198.18.0.0/16, those of IPv6 in 2001:db8::/32.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.lab.lab import terminable
from tests.lab.machines import Machine, Provider, Router, kernel_lacks
from tests.lab.namespaces import LabError, missing, remove_leftovers
from tests.lab.relays import Relay, make_certificates

__all__ = ["World", "lacking"]

ROOT = Path(__file__).parents[2]
INTERNET4, INTERNET6 = "203.0.113.1", "2001:db8::1"
NAMES4, NAMES6 = "203.0.113.53", "2001:db8::53"


def lacking() -> str | None:
    """What this machine lacks for a world, or None."""
    return missing() or kernel_lacks()


class Internet(Provider):
    """What all routers hang at; it asks and answers nothing but names."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "internet")
        self.batch(
            *(f"addr add {address}/32 dev lo" for address in (INTERNET4, NAMES4)),
            *(f"addr add {address}/128 dev lo nodad" for address in (INTERNET6, NAMES6)),
        )
        self._blocks: dict[int, tuple[str, ...]] = {}
        self._numbers = itertools.count()

    def customer_address(self, number: int) -> str:
        return f"203.0.113.{number}"

    @property
    def gateway4(self) -> str:
        return INTERNET4

    def block(self, *rules: str) -> int:
        """Drop on the way between routers what matches one of these; a number for `unblock`."""
        number = next(self._numbers)
        self._blocks[number] = rules
        self._load()
        return number

    def unblock(self, number: int) -> None:
        """Let it pass again."""
        del self._blocks[number]
        self._load()

    def _load(self) -> None:
        rules = "\n".join(f"    {rule} drop" for block in self._blocks.values() for rule in block)
        self.nft(
            "table inet blocks {}\ndelete table inet blocks\ntable inet blocks {\n  chain through {\n"
            f"    type filter hook forward priority 0\n{rules}\n  }}\n}}\n"
        )


class World:
    """Machines of a lab, while the context is open.

    Attributes
    ----------
    internet : Internet
    folder : Path
        For files of this world; certificates, captures, logs of processes.
    machines : dict
        By label.
    relays : list of Relay

    Raises
    ------
    LabError
        When opened on a machine that allows none; `lacking` tells before.
    """

    internet: Internet
    folder: Path

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(2)
        self.machines: dict[str, Machine] = {}
        self.relays: list[Relay] = []

    def __enter__(self) -> Self:
        reason = lacking()
        if reason is not None:
            raise LabError(reason)
        remove_leftovers()
        with self._stack as stack:
            stack.enter_context(terminable())
            atexit.register(self.close)
            stack.callback(atexit.unregister, self.close)
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iroh-lab-")))
            self.ca, self._key_pair = make_certificates(self.folder)
            self._zone: dict[str, dict[str, str]] = {}
            self.internet = Internet(self)
            self.adopt(self.internet)
            self._serve_names()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the world and remove it; the same as leaving the context."""
        self._stack.close()

    # --- machines
    def adopt(self, machine: Machine) -> None:
        """Remove a machine with the world."""
        if machine.label in self.machines:
            machine.close()
            raise LabError(f"there is a machine {machine.label!r} already")
        self.machines[machine.label] = machine
        self._stack.callback(machine.close)

    def router(self, label: str, *, provider: Provider | None = None, **options: Any) -> Router:
        """A router on the internet, or behind another one.

        Parameters
        ----------
        label : str
        nat : str or Nat
            One of `nat.KINDS`, or a `Nat`.
        v4, v6 : bool
            Whether it has IPv4 (default) and IPv6.
        v6_open : bool
            Lets in what comes over IPv6 unasked.
        lan : str
            First three numbers of the addresses inside; chosen unless given.
        link : LinkConfig, or two
            To the provider, up and down; without one there is neither delay nor limit.
        provider : Router
            Of a router that is not on the internet itself.
        """
        made = Router(provider or self.internet, label, next(self._numbers), **options)
        self.adopt(made)
        return made

    def relay(
        self, kind: str = "ours", name: str = "relay.test", *, v4: bool = True, v6: bool = True,
        link: Any = None, start: bool = True,
    ) -> Relay:  # fmt: skip
        """A relay server on the internet, ``"ours"`` or the real ``"iroh-relay"``, which runs when this returns."""
        router = self.router(f"dc{len(self.relays)}", nat="none", v4=v4, v6=v6, v6_open=True, link=link)  # fmt: skip
        host = router.host(f"relay{len(self.relays)}")
        relay = Relay(host, kind, name, self._key_pair)
        self.relays.append(relay)
        self._stack.callback(relay.stop, kill=True)
        addresses = {"A": host.address()} if v4 else {}
        if v6:
            addresses["AAAA"] = host.address(six=True)
        self.set_name(name, **addresses)
        if start:
            relay.start()
        return relay

    def cut(self, one: Router, other: Router, *, what: str = "") -> int:
        """Drop in silence what goes between two routers; a number for ``internet.unblock``.

        Parameters
        ----------
        what : str
            More conditions of nftables, as ``"meta l4proto udp"``.
        """
        rules = []
        for a, b in ((one, other), (other, one)):
            for source in a.public:
                for target in b.public:
                    six = ":" in source
                    if six == (":" in target):
                        word = "ip6" if six else "ip"
                        rules.append(f"{word} saddr {source} {word} daddr {target} {what}")
        return self.internet.block(*rules)

    # --- names
    def name_servers(self, *, v4: bool, v6: bool) -> list[str]:
        """Addresses of the name server for a machine that has these kinds."""
        return [NAMES4] * v4 + [NAMES6] * v6

    def set_name(self, name: str, **addresses: str) -> None:
        """What the name server says of a name: ``A="1.2.3.4"``, ``AAAA=...``."""
        self._zone[name] = addresses
        fresh = self.folder / "zone.new"
        fresh.write_text(json.dumps(self._zone))
        fresh.rename(self.folder / "zone.json")

    def _serve_names(self) -> None:
        self.set_name("names.test", A=NAMES4, AAAA=NAMES6)
        zone = str(self.folder / "zone.json")
        self.start_python(self.internet, "tests.lab.names", zone, NAMES4, NAMES6, ready="ready\n")

    # --- processes
    def capture(self, machine: Machine) -> Path:
        """Write what passes a machine from now on to a file, see `capture`."""
        path = self.folder / f"{machine.label}.pcap"
        self.start_python(machine, "tests.lab.capture", str(path), ready="ready\n")
        return path

    def start_python(
        self, machine: Machine, module: str, *arguments: str, ready: str
    ) -> subprocess.Popen[str]:
        """Run a module of the lab on a machine and wait for its first line; it ends with the machine."""
        child = machine.popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()
        if line != ready:
            raise LabError(f"{module} on {machine.label} did not start: {line!r}")
        return child
