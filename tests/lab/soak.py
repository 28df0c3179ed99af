"""Many connections under random events of their networks for a long time; ``python -m tests.lab soak``.

Every client is connected to every server and has a ticker on each connection. Events come one after the other, each of which
a connection has to survive: links go down for seconds, NATs forget or change their kind, UDP is dropped between two homes,
relays restart, hosts move to another home. At the end all connections must be alive, with no tick missing, and tasks, sockets,
paths and memory be where they were when it began.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.lab.stage import Pair, Pairing, Stage, opened

if TYPE_CHECKING:
    from tests.lab.child import NodeProcess
    from tests.lab.hosts import Host
from tests.lab.machines import Router

__all__ = ["Soak", "add_parser", "run"]

CLIENTS: Final = ("moderate", "open", "strict", "none", "moderate-preserving")
SERVERS: Final = ("moderate", "address-restricted", "strict", "port-preserving")
SETTLE_S: Final = 30.0  # before the first figures are taken
REST_S: Final = 90.0  # before the last ones: what is kept for a while has gone
GROWTH: Final = 0.15  # of memory
GROWTH_BYTES: Final = 4 << 20


@dataclass(slots=True)
class Figures:
    """What a process has."""

    tasks: int
    fds: int
    threads: int
    rss: int
    paths: int


@dataclass(slots=True)
class Soak:
    """The run: `wrong` collects what does not hold, `counts` how often which event came."""

    stage: Stage
    chance: random.Random
    hosts: list[Host] = field(default_factory=list)
    spare: list[Router] = field(default_factory=list)
    nodes: list[NodeProcess] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    tickers: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def begin(self, clients: int, servers: int) -> None:
        """Start everything and connect everybody."""
        stage = self.stage
        urls = [stage.relay(name=name).url for name in ("relay.test", "relay2.test")]
        self.spare = [stage.world.router(f"spare{i}", nat="moderate") for i in range(2)]
        roles = [("client", i, CLIENTS[i % len(CLIENTS)]) for i in range(clients)]
        roles += [("server", i, SERVERS[i % len(SERVERS)]) for i in range(servers)]
        for role, number, nat in roles:
            host = stage.world.router(f"{role}{number}", nat=nat).host(f"{role}-host{number}")
            kind = stage.pairing.client if role == "client" else stage.pairing.server
            self.hosts.append(host)
            self.nodes.append(await stage.start(host, kind, label=f"{role}{number}", relays=urls))
        for client, server in product(self.nodes[:clients], self.nodes[clients:]):
            relays = (await server.call("addr"))["relays"]
            self.pairs.append(await stage.connect(client, server, relays=relays))
        for pair in self.pairs:
            started = await pair.client.call("ticker", conn=pair.c, interval=0.5)
            self.tickers.append(started["ticker"])

    # --- events: each leaves the network as it was
    async def link_down(self) -> None:
        host = self.chance.choice(self.hosts)
        host.set_link(up=False)
        await asyncio.sleep(self.chance.uniform(0.2, 8))
        host.set_link(up=True)

    async def uplink_down(self) -> None:
        router = self.router(self.chance.choice(self.hosts))
        router.uplink(up=False)
        await asyncio.sleep(self.chance.uniform(0.2, 8))
        router.uplink(up=True)

    async def nat_forgets(self) -> None:
        self.router(self.chance.choice(self.hosts)).flush()

    async def nat_changes(self) -> None:
        router = self.router(
            self.chance.choice([h for h in self.hosts if self.router(h).nat.translates])
        )
        before = router.nat
        router.set_nat(self.chance.choice(("moderate", "strict", "open", "port-preserving")))
        await asyncio.sleep(self.chance.uniform(1, 15))
        router.set_nat(before)

    async def udp_dropped(self) -> None:
        pair = self.chance.choice(self.pairs)
        ends = [self.router(node.host).wan4 for node in (pair.client, pair.server)]
        rules = (f"meta l4proto udp ip saddr {x} ip daddr {y}" for x, y in (ends, ends[::-1]))
        number = self.stage.world.internet.block(*rules)
        await asyncio.sleep(self.chance.uniform(1, 25))
        self.stage.world.internet.unblock(number)

    async def relay_restarts(self) -> None:
        relay = self.chance.choice(self.stage.world.relays)
        await asyncio.to_thread(relay.stop, kill=self.chance.random() < 0.5)
        await asyncio.sleep(self.chance.uniform(0, 5))
        await asyncio.to_thread(relay.start)

    async def moves(self) -> None:
        host = self.chance.choice(self.hosts)
        home, other = self.router(host), self.chance.choice(self.spare)
        host.replug(other)
        await asyncio.sleep(self.chance.uniform(3, 20))
        host.replug(home)

    async def network_change(self) -> None:
        for _ in range(self.chance.randrange(1, 20)):
            await self.chance.choice(self.nodes).call("network_change")
            await asyncio.sleep(self.chance.uniform(0, 0.2))

    async def bulk(self) -> None:
        pair, way = self.chance.choice(self.pairs), self.chance.choice(("up", "down", "echo"))
        await pair.client.call("bulk", conn=pair.c, bytes=1_000_000, way=way, timeout=60)

    def router(self, host: Host) -> Router:
        return host.ports["eth0"][0]

    @property
    def events(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self.link_down, self.uplink_down, self.nat_forgets, self.nat_changes, self.udp_dropped,
            self.relay_restarts, self.moves, self.network_change, self.bulk,
        ]  # fmt: skip

    async def go_on(self, seconds: float, told: Callable[[str], None]) -> None:
        """Events until the time is over, or a connection is lost."""
        end, minute = time.monotonic() + seconds, 0.0
        while time.monotonic() < end:
            event = self.chance.choice(self.events)
            name = event.__name__
            self.counts[name] += 1
            self.stage.mark(name)
            try:
                await event()
            except Exception as error:  # a failure of what the event asked for is a result
                self.wrong.append(f"{name}: {type(error).__name__}: {error}")
            lost = await self.lost()
            if lost:
                told(f"lost after {name}: {'; '.join(lost)}")
                self.wrong += [f"after {name}: {what}" for what in lost]
                return
            await asyncio.sleep(self.chance.uniform(2, 8))
            if time.monotonic() - minute >= 60:
                minute = time.monotonic()
                rss = sum(f.rss for f in (await self.figures()).values())
                told(
                    f"{self.counts.total()} events, {rss / 2**20:.0f} MiB, {len(self.wrong)} wrong"
                )

    async def lost(self) -> list[str]:
        """Connections that have ended, at either side."""
        found = []
        for node in self.nodes:
            for entry in (await node.call("conns"))["conns"]:
                if entry["closed"] is not None:
                    found.append(
                        f"{node.label} conn {entry['conn']} ({entry['side']}): {entry['closed']}"
                    )
        return found

    async def figures(self) -> dict[str, Figures]:
        """Of each process."""
        found = {}
        for node in self.nodes:
            told = await node.call("process")
            paths = 0
            for entry in (await node.call("conns"))["conns"]:
                if entry["closed"] is None:
                    paths += len((await node.call("paths", conn=entry["conn"]))["paths"])
            found[node.label] = Figures(
                told["tasks"], told["fds"], told["threads"], told["rss"], paths
            )
        return found

    async def end(self, before: dict[str, Figures]) -> dict[str, Figures]:
        """Look whether everything is as it was."""
        for pair, ticker in zip(self.pairs, self.tickers, strict=True):
            where = f"{pair.client.label} to {pair.server.label}"
            try:
                await pair.ping(30)
                told = await pair.client.call("ticker_stop", ticker=ticker, timeout=30)
                if told["received"] != told["sent"] or not told["sent"]:
                    self.wrong.append(f"{where}: {told['received']} of {told['sent']} ticks")
            except Exception as error:  # a dead connection is a result
                self.wrong.append(f"{where}: {type(error).__name__}: {error}")
        await asyncio.sleep(REST_S)
        after = await self.figures()
        for label, now in after.items():
            self.compare(label, before[label], now)
        return after

    def compare(self, label: str, was: Figures, now: Figures) -> None:
        """A path may be another one, a socket may wait for a relay: a few more or less are none lost."""
        # One task and two descriptors for each relay that is connected, and one path for each connection.
        slack = {"tasks": 8, "fds": 6, "threads": 0, "paths": len(self.pairs)}
        for name, more in slack.items():
            if getattr(now, name) > getattr(was, name) + more:
                self.wrong.append(
                    f"{label}: {getattr(now, name)} {name}, before {getattr(was, name)}"
                )
        if now.rss > was.rss * (1 + GROWTH) + GROWTH_BYTES:
            self.wrong.append(f"{label}: {now.rss >> 20} MiB, before {was.rss >> 20}")


async def soak(args: argparse.Namespace) -> Soak:
    began = time.monotonic()

    def told(text: str) -> None:
        print(f"{time.monotonic() - began:7.0f} s  {text}", file=sys.stderr, flush=True)

    async with opened(Pairing.parse(args.pair)) as stage:
        run = Soak(stage, random.Random(args.seed))
        await run.begin(args.clients, args.servers)
        await asyncio.sleep(SETTLE_S)
        before = await run.figures()
        told(f"{len(run.pairs)} connections")
        await run.go_on(args.minutes * 60, told)
        after = await run.end(before)
        lines = [f"{'':<12}{'tasks':>14}{'sockets':>14}{'paths':>14}{'MiB':>16}"]
        for label, was in before.items():
            now = after[label]
            lines.append(
                f"{label:<12}{was.tasks:>6} ->{now.tasks:>5}{was.fds:>6} ->{now.fds:>5}{was.paths:>6} ->{now.paths:>5}"
                f"{was.rss / 2**20:>7.1f} ->{now.rss / 2**20:>6.1f}"
            )
        print("\n".join(lines))
        print(
            f"{run.counts.total()} events in {args.minutes:g} minutes (seed {args.seed}): {dict(run.counts)}"
        )
        for wrong in run.wrong:
            print(f"! {wrong}")
        if args.json is not None:
            facts = {"before": before, "after": after}
            figures = {
                k: {n: {s: getattr(f, s) for s in f.__slots__} for n, f in of.items()}
                for k, of in facts.items()
            }
            args.json.write_text(
                json.dumps({"events": dict(run.counts), "wrong": run.wrong, **figures}, indent=1)
            )
        return run


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "soak",
        help="many connections under random events of their networks",
        description="Status 1 where a connection, task, socket, path or memory is lost. Needs root.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, help="of events (default: 30)")
    add("--clients", type=int, default=5, help="each is connected to each server (default: 5)")
    add("--servers", type=int, default=4, help="(default: 4)")
    add("--pair", default="ours/ours", metavar="CLIENT/SERVER[/RELAY]", help="(default: ours/ours)")
    add("--seed", type=int, default=0, help="decides the events (default: 0)")
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")


def run(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    return 1 if asyncio.run(soak(args)).wrong else 0
