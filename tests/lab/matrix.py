"""The matrix of NATs: every pair of kinds, in every pairing of implementations, many times; ``python -m tests.lab matrix``.

One world has a router of each kind for clients and one for servers. A server runs as long as its row; each try has a new
client, which dials it by the relay alone. Where the pair can be punched both must select a direct path; where it cannot they
must stay at the relay, and an echo must come back in either case.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.lab import nat as nats
from tests.lab.link import LinkConfig
from tests.lab.stage import Failed, Pair, Pairing, Stage, opened
from tests.lab.timeline import timeline

if TYPE_CHECKING:
    from tests.lab.child import NodeProcess
    from tests.lab.hosts import Host

__all__ = ["Cell", "add_parser", "grid", "run", "summary", "tabulate"]

#: Those of the field's own matrix, then what else there is; "double" is a home behind a provider's NAT.
CORE: Final = ("none", "open", "moderate", "strict")
ALL: Final = (*CORE, "address-restricted", "port-preserving", "double")
PAIRS: Final = ("ours/ours", "ours/rust", "rust/ours", "rust/rust")
HOLD_S: Final = 15.0  # that a pair stays relayed
LIMIT_S: Final = 15.0  # to become direct
HOLDING: Final = 40  # tries that only wait, at the same time


def punchable(client: str, server: str) -> bool:
    """Whether a cell has to become direct."""
    ends = ("port-preserving" if name == "double" else name for name in (client, server))
    return nats.punchable(*ends)


@dataclass(slots=True)
class Cell:
    """What came out of one pair of NATs in one pairing.

    Attributes
    ----------
    good : int
        Tries that ended as they have to: direct, or relayed and usable.
    client_s, server_s : list of float
        Seconds from when the connection was complete to when a direct path was selected, of each try.
    failures : list of str
    """

    client_nat: str
    server_nat: str
    pairing: str
    punchable: bool
    tries: int = 0
    good: int = 0
    client_s: list[float] = field(default_factory=list)
    server_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- the field
async def told_of(failure: str, client: NodeProcess, server: NodeProcess) -> str:
    """What both ends of a try that failed have to say."""
    began = client.events[0]["t"]
    own = (await client.call("addr"))["id"]
    mine = {
        entry["conn"] for entry in (await server.call("conns"))["conns"] if entry["remote"] == own
    }
    events = [
        (node.label, [e for e in node.events if e["t"] >= began and e.get("conn") in (None, *of)])
        for node, of in ((client, {1}), (server, mine))
    ]
    parts = [timeline(failure, events, [], {}).text()]
    for node, of in ((client, {1}), (server, mine)):
        for conn in of:
            for command in ("paths", "why"):
                with contextlib.suppress(Exception):  # what it does not know, or no more
                    answer = await node.call(command, conn=conn)
                    parts.append(f"{node.label} {command}: {json.dumps(answer)}")
        counters = (await node.call("metrics"))["counters"]
        parts.append(f"{node.label}: { ({name: n for name, n in counters.items() if n}) }")
    parts.append(client.tail())
    return "\n".join(parts)


class Field:
    """The world with a host behind each kind of NAT, for each role, and the servers."""

    def __init__(
        self, stage: Stage, kinds: Sequence[str], link: LinkConfig | None, keep: Path | None
    ) -> None:
        self.stage, self.keep = stage, keep
        self.hosts = {
            (role, kind): self._host(role, kind, link)
            for role, kind in product(("client", "server"), kinds)
        }
        self._servers: dict[tuple[str, str], NodeProcess] = {}

    def _host(self, role: str, kind: str, link: LinkConfig | None) -> Host:
        world = self.stage.world
        if kind == "double":
            provider = world.router(f"{role}-isp", nat="cgnat", link=link)
            return provider.router(f"{role}-{kind}", nat="moderate").host(f"{role}-in-{kind}")
        return world.router(f"{role}-{kind}", nat=kind, link=link).host(f"{role}-in-{kind}")

    async def server(self, kind: str, implementation: str) -> NodeProcess:
        """The server behind a kind of NAT."""
        known = self._servers.get((kind, implementation))
        if known is None:
            host = self.hosts["server", kind]
            known = await self.stage.start(host, implementation, label=f"server-{kind}")
            self._servers[kind, implementation] = known
        return known

    async def one(self, cell: Cell, pairing: Pairing, server: NodeProcess) -> None:
        """One try of a cell."""
        cell.tries += 1
        host = self.hosts["client", cell.client_nat]
        async with contextlib.AsyncExitStack() as stack:
            stage = Stage(self.stage.world, pairing, stack, _relay=self.stage.relay())
            try:
                client = await stage.client(host)
                pair = await stage.connect(client, server)
                await (self.punched(cell, pair) if cell.punchable else self.held(pair))
                await pair.ping()
                cell.good += 1
                await client.call("close", timeout=5)
            except Exception as error:  # any failure of a try is a result
                cell.failures.append(f"{type(error).__name__}: {error}")
                if self.keep is not None and stage.nodes:
                    where = f"{pairing}-{cell.client_nat}-{cell.server_nat}-{len(cell.failures)}"
                    story = await told_of(cell.failures[-1], stage.nodes[0], server)
                    path = self.keep / (re.sub(r"[ /]", "-", where) + ".txt")
                    path.write_text(story)

    async def punched(self, cell: Cell, pair: Pair) -> None:
        client, server = await pair.direct(LIMIT_S)
        await pair.began_relayed()
        cell.client_s.append(client["since"])
        cell.server_s.append(server["since"])

    async def held(self, pair: Pair) -> None:
        await pair.ping()
        await pair.stays_relayed(HOLD_S)


async def fill(
    kinds: Sequence[str], pairings: Sequence[Pairing], *, tries: int, at_a_time: int,
    link: LinkConfig | None, told: Any = None, keep: Path | None = None,
) -> list[Cell]:  # fmt: skip
    """All cells of pairings that share a relay."""
    cells = []
    async with opened(pairings[0]) as stage:
        field_ = Field(stage, kinds, link, keep)
        busy, holding = asyncio.Semaphore(at_a_time), asyncio.Semaphore(HOLDING)

        async def cell_of(client: str, server: str, pairing: Pairing) -> Cell:
            cell = Cell(client, server, str(pairing), punchable(client, server))
            node = await field_.server(server, pairing.server)

            async def attempt() -> None:
                async with busy if cell.punchable else holding:
                    await field_.one(cell, pairing, node)

            await asyncio.gather(*(attempt() for _ in range(tries)))
            if told is not None:
                told(cell)
            return cell

        for pairing in pairings:
            for kind in kinds:  # one after the other: each is a process that starts
                await field_.server(kind, pairing.server)
            asked = (cell_of(c, s, pairing) for c, s in product(kinds, kinds))
            cells += await asyncio.gather(*asked)
    return cells


# ---------------------------------------------------------------- what comes out
def quantile(values: Iterable[float], part: float) -> float:
    """The value that a part of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(part * len(ordered)) - 1, 0)] if ordered else math.nan


def grid(cells: Sequence[Cell], kinds: Sequence[str]) -> str:
    """A pairing's cells: rows are NATs of clients, columns those of servers."""
    by = {(cell.client_nat, cell.server_nat): cell for cell in cells}
    width = max(16, *(len(kind) for kind in kinds))
    lines = ["  " + " " * width + " ".join(f"{kind:>{width}}" for kind in kinds)]
    for client in kinds:
        texts = (one(by[client, server]) for server in kinds)
        lines.append(f"  {client:<{width}}" + " ".join(f"{text:>{width}}" for text in texts))
    return "\n".join(lines)


def one(cell: Cell) -> str:
    """``20/20  118 ms`` where it is punched, ``20/20 relayed`` where it cannot be; a ``!`` where tries failed."""
    text = f"{cell.good}/{cell.tries}"
    if cell.punchable:
        text += (
            f" {statistics.median(cell.client_s) * 1000:5.0f} ms" if cell.client_s else "      -"
        )
    else:
        text += " relayed"
    return text if cell.good == cell.tries else "!" + text


def summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Of each pairing: tries that ended well, and the times to a direct path, in seconds."""
    found = []
    for pairing in dict.fromkeys(cell.pairing for cell in cells):
        mine = [cell for cell in cells if cell.pairing == pairing]
        times = {side: [s for cell in mine for s in getattr(cell, side)] for side in ("client_s", "server_s")}  # fmt: skip
        found.append(
            {
                "pairing": pairing,
                "punched": sum(cell.good for cell in mine if cell.punchable),
                "of": sum(cell.tries for cell in mine if cell.punchable),
                "relayed": sum(cell.good for cell in mine if not cell.punchable),
                "of_relayed": sum(cell.tries for cell in mine if not cell.punchable),
                **{f"{side}_p{p}": quantile(of, p / 100) for side, of in times.items() for p in (50, 95)},
            }
        )  # fmt: skip
    return found


def tabulate(cells: Sequence[Cell], kinds: Sequence[str]) -> str:
    """Everything, for people."""
    lines = []
    for pairing in dict.fromkeys(cell.pairing for cell in cells):
        lines += [
            f"{pairing} (client/server): rows are NATs of the client, columns of the server",
            "",
        ]
        lines += [grid([cell for cell in cells if cell.pairing == pairing], kinds), ""]
    lines.append(
        "from connected to direct, in ms         punched    relayed   client p50    p95   server p50    p95"
    )
    for row in summary(cells):
        times = (row[f"{side}_s_p{p}"] * 1000 for side in ("client", "server") for p in (50, 95))
        lines.append(
            f"  {row['pairing']:<34}{row['punched']:>6}/{row['of']:<5}{row['relayed']:>5}/{row['of_relayed']:<5}"
            + "{:>10.0f}{:>7.0f}{:>13.0f}{:>7.0f}".format(*times)
        )
    for cell in cells:
        for failure in dict.fromkeys(cell.failures):
            lines.append(f"  ! {cell.pairing}: {cell.client_nat} to {cell.server_nat}: {failure}")
    return "\n".join(lines)


# ---------------------------------------------------------------- the command
def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "matrix",
        help="all pairs of NATs in all pairings of implementations",
        description="Try all pairs of NATs and print a table; status 1 where a try did not end as it has to. Needs root.",
    )
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    add(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="what was seen of tries that failed, one file each",
    )
    add("--tries", type=int, default=20, help="of each cell (default: 20)")
    add("--nats", default=",".join(CORE), help=f"kinds, or 'all' (default: {','.join(CORE)})")
    add(
        "--pairs",
        default=",".join(PAIRS),
        help="CLIENT/SERVER[/RELAY] of ours and rust; relays are ours and iroh-relay",
    )
    add(
        "--delay",
        type=float,
        default=10.0,
        metavar="MS",
        help="one way, of each router's link; 0: no emulated links (default: 10)",
    )
    add(
        "--at-a-time",
        type=int,
        default=2,
        metavar="N",
        help="tries that are punched at the same time (default: 2)",
    )


def pairings_of(text: str) -> list[list[Pairing]]:
    """Pairings by relay: those share a world."""
    pairings = [Pairing.parse(part) for part in text.split(",")]
    return [[p for p in pairings if p.relay == relay] for relay in dict.fromkeys(p.relay for p in pairings)]  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run it; the exit status."""
    kinds = ALL if args.nats == "all" else tuple(args.nats.split(","))
    unknown = [kind for kind in kinds if kind not in ALL and kind not in nats.KINDS]
    if unknown:
        raise ValueError(
            f"no such NAT: {', '.join(unknown)}; there are {', '.join([*nats.KINDS, 'double'])}"
        )
    link = LinkConfig(delay=args.delay) if args.delay else None
    began = time.monotonic()

    def told(cell: Cell) -> None:
        where = f"{cell.pairing}: {cell.client_nat} to {cell.server_nat}"
        print(f"{time.monotonic() - began:6.0f} s  {where}: {one(cell)}", file=sys.stderr)

    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for pairings in pairings_of(args.pairs):
        cells += asyncio.run(
            fill(
                kinds,
                pairings,
                tries=args.tries,
                at_a_time=args.at_a_time,
                link=link,
                told=told,
                keep=args.keep,
            )
        )
    print(tabulate(cells, kinds))
    if args.json is not None:
        facts = {"delay_ms": args.delay, "tries": args.tries, "summary": summary(cells)}
        args.json.write_text(json.dumps({**facts, "cells": list(map(asdict, cells))}, indent=1))
    return 0 if all(cell.good == cell.tries for cell in cells) else 1


def matters(cells: Sequence[Cell]) -> Iterator[str]:
    """What is wrong, one line each."""
    for cell in cells:
        if cell.good != cell.tries:
            yield f"{cell.pairing} {cell.client_nat} to {cell.server_nat}: {cell.failures}"


def expect(cells: Sequence[Cell]) -> None:
    """Raise `Failed` where a try did not end as it has to."""
    wrong = list(matters(cells))
    if wrong:
        raise Failed("; ".join(wrong))
