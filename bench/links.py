"""How fast are transfers over links as people have them, next to the kernel's TCP and real iroh?

``python bench/links.py`` emulates each link between two network namespaces and lets all rivals send
over it for some seconds, one after the other, in fresh processes.  It takes about half an hour,
``--quick`` a few minutes, needs Linux and root, and ends with what was reached of the numbers that
the library sets itself.  Every figure is the median of several rounds.

What is measured, and how, is in ``bench/README.md``; the links are in ``bench/links_cells.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chart
import links_stats as figures
from children import BENCH, Child, Failed, run_until_done
from facts import chosen, loop_version, machine, number
from links_cells import CELLS, Cell
from links_stats import CUBIC, IROH, OWN, TCP, Verdict
from tests.lab import LabError, LinkLab, missing

# The kernel's buffers may grow as where long links are expected: least, first, most bytes.
BUFFERS = {f"ipv4.tcp_{kind}mem": "4096 131072 67108864" for kind in "rw"}
LATE_MS = 3.0  # 99 % of the packets must not be later than this behind what the link decided


@dataclass(frozen=True)
class Rival:
    name: str
    about: str
    script: tuple[str, ...]
    default: bool = True
    kind: str = "rival"


RIVALS = {
    rival.name: rival
    for rival in [
        Rival(OWN, "this library, its defaults", ("link_fast.py",), kind="own"),
        Rival(TCP, "the kernel's TCP with BBR", ("link_tcp.py", "--congestion", "bbr")),
        Rival(CUBIC, "the kernel's TCP with Cubic", ("link_tcp.py", "--congestion", "cubic")),
        Rival(IROH, "the official binding, its byte-copy loop replaced", ("link_official.py", "--memmove")),
        *(
            Rival(f"{OWN}+{name}", f"this library with {name}", ("link_fast.py", "--controller", name), False, "own")
            for name in ("bbr", "cubic", "newreno")
        ),
    ]
}  # fmt: skip


@dataclass
class Stage:
    """The namespaces of a link and the processes in them; all is gone when the context is left."""

    cell: Cell
    seed: int
    loop: str
    versions: dict[str, str]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Stage:
        async with AsyncExitStack() as stack:
            self.lab = stack.enter_context(LinkLab(self.cell.link, seed=self.seed, sysctls=BUFFERS))
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    async def child(self, script: Sequence[str], side: str) -> Child:
        """Start one: clients are on the left, servers on the right."""
        name, *options = script
        python = [sys.executable, str(BENCH / "rivals" / name), side, *options, "--loop", self.loop]
        node = self.lab.left if side == "client" else self.lab.right
        child = await Child.start(node.command(python), f"{name} {side}")
        self.stack.push_async_callback(child.kill)
        return child

    async def relay(self) -> str:
        """Start one beside the receiver; nothing but TCP leaves the sender then."""
        self.lab.left.ip("rule", "add", "ipproto", "udp", "prohibit")
        child = await self.child(["link_relay.py"], "server")
        return str((await child.do("start", address=None, host=self.lab.right.ip4))["address"])

    async def ends(self, rival: Rival, relay: str | None) -> tuple[Child, Child]:
        server = await self.child(rival.script, "server")
        client = await self.child(rival.script, "client")
        more = {"relay": relay}
        ready = await server.do("start", address=None, host=self.lab.right.ip4, **more)
        at = self.lab.left.ip4
        also = await client.do("start", address=ready["address"], host=at, **more)
        self.versions |= ready["versions"] | also["versions"]
        return server, client

    async def run(self, rivals: Sequence[Rival], seconds: float) -> dict[str, Any]:
        """Let the rivals send at the same time."""
        relay = await self.relay() if self.cell.relay else None
        ends = [await self.ends(rival, relay) for rival in rivals]
        self.lab.begin()
        sent = await asyncio.gather(
            *(client.do("upload", takes=seconds, seconds=seconds) for _, client in ends)
        )
        link = self.lab.stats()
        received = [await server.do("arrivals") for server, _ in ends]
        return {"sent": sent, "received": received, "link": link}


def of_transfer(cell: Cell, got: dict[str, Any], seconds: float) -> dict[str, float]:
    [sent], [received], link = got["sent"], got["received"], got["link"]
    found = figures.transfer(sent, received, seconds)
    found["queue_p95_ms"] = link.there.queue_delay_ms(0.95)
    end = cell.outage_end_s
    if end is not None and cell.link.rate is not None:
        series = figures.since(received["arrivals"], sent["started"], seconds)
        found["recovery_s"] = figures.recovery(series, end, seconds, cell.link.rate)
    return found


def of_flows(got: dict[str, Any], seconds: float) -> dict[str, float]:
    sizes = [
        sum(size for _, size in figures.since(received["arrivals"], sent["started"], seconds))
        for sent, received in zip(got["sent"], got["received"], strict=True)
    ]
    found = {f"share_{i}": share for i, share in enumerate(figures.shares(sizes))}
    found["goodput_mbit_s"] = figures.mbit_s(sum(sizes), seconds * 1e3)
    found["queue_p95_ms"] = got["link"].there.queue_delay_ms(0.95)
    return found


@dataclass
class Run:
    cells: list[Cell]
    rivals: list[Rival]
    rounds: int
    seconds: float | None
    loop: str
    results: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    spoilt: list[str] = field(default_factory=list)

    async def one(self, cell: Cell, rivals: Sequence[Rival], seed: int) -> None:
        name = "+".join(cell.flows) or rivals[0].name
        seconds = self.seconds or cell.seconds
        if cell.outage_end_s is not None:
            seconds = cell.seconds  # its times are fixed
        try:
            got = await self.measured(cell, rivals, seed, seconds)
        except (Failed, LabError) as error:
            self.failures.append(f"{cell.name}, {name}: {error}")
            print(f"\n{error}", file=sys.stderr)
            return
        found = of_flows(got, seconds) if cell.flows else of_transfer(cell, got, seconds)
        self.results.setdefault(cell.name, {}).setdefault(name, []).append(found)
        print(f"{seed + 1:>2}  {row(cell, name, found)}", file=sys.stderr, flush=True)

    async def measured(
        self, cell: Cell, rivals: Sequence[Rival], seed: int, seconds: float
    ) -> dict[str, Any]:
        """Once more where the machine was too busy to emulate the link, and then as it is."""
        for left in (True, False):
            async with Stage(cell, seed, self.loop, self.versions) as stage:
                got = await stage.run(rivals, seconds)
            late = got["link"].late_ms[1]
            if not got["link"].failed and late <= LATE_MS:
                break
            what = "again" if left else "kept"
            self.spoilt.append(f"{cell.name}, {rivals[0].name}: {late:.1f} ms late, {what}")
            print(f"    packets were {late:.1f} ms late: {what}", file=sys.stderr)
        return got

    async def all(self) -> None:
        for seed in range(self.rounds):
            for cell in self.cells:
                if cell.flows:
                    await self.one(cell, [RIVALS[name] for name in cell.flows], seed)
                    continue
                for rival in self.rivals:
                    await self.one(cell, [rival], seed)


# --- what to say about it ------------------------------------------------------------------------


def report(run: Run, command: str, started: datetime) -> dict[str, Any]:
    return {
        "date": started.isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "versions": run.versions | {"loop": loop_version(run.loop)},
        "settings": {
            "rounds": run.rounds,
            "seconds": run.seconds,
            "took_s": round((datetime.now(UTC) - started).total_seconds()),
        },
        "cells": {cell.name: cell.about for cell in run.cells},
        "rivals": {rival.name: rival.about for rival in run.rivals},
        "results": {
            cell: {
                name: {"median": figures.medians(rounds), "rounds": rounds}
                for name, rounds in rivals.items()
            }
            for cell, rivals in run.results.items()
        },
        "failures": run.failures,
        "spoilt": run.spoilt,
    }


def together(paths: Sequence[Path]) -> dict[str, Any]:
    """Runs of different cells or rivals as one; what is said of the machine is the last one's."""
    data: dict[str, Any] = {}
    for path in paths:
        more = json.loads(path.read_text())
        for key in ("cells", "rivals", "versions"):
            more[key] = data.get(key, {}) | more[key]
        for key in ("failures", "spoilt"):
            more[key] = data.get(key, []) + more[key]
        results = data.get("results", {})
        for cell, rivals in more["results"].items():
            results[cell] = results.get(cell, {}) | rivals
        data = more | {"results": results}
    return data


def row(cell: Cell, name: str, found: dict[str, float]) -> str:
    if cell.flows:
        both = "  ".join(f"{flow} {found[f'share_{i}']:.0%}" for i, flow in enumerate(cell.flows))
        return f"{cell.name:<11}{both}  together {found['goodput_mbit_s']:.1f} Mbit/s"
    text = (
        f"{cell.name:<11}{name:<17}{number(found['goodput_mbit_s']):>7}"
        f"{found['first_second_mb']:>10.2f}{found['again_share']:>9.1%}"
        f"{found['queue_p95_ms']:>9.1f}{found['cpu_s_per_gib']:>9.2f}"
    )
    if "recovery_s" in found:
        text += f"   full again after {found['recovery_s']:.2f} s"
    return text


HEAD = (
    f"{'':<11}{'':<17}{'Mbit/s':>7}{'1st s, MB':>10}{'again':>9}{'queue ms':>9}{'s/GiB':>9}\n"
    + "-" * 72
)


def table(data: dict[str, Any]) -> str:
    lines = [HEAD]
    for name, rivals in data["results"].items():
        lines += [row(CELLS[name], rival, found["median"]) for rival, found in rivals.items()]
    return "\n".join(lines)


def judge(data: dict[str, Any]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for name, rivals in data["results"].items():
        cell = CELLS[name]
        middle = {rival: found["median"] for rival, found in rivals.items()}
        if cell.flows:
            for found in middle.values():
                verdicts += figures.judge_fair(name, cell.flows, found)
        else:
            verdicts += figures.judge_transfer(name, middle, cell.base_rtt_ms, cell.deep)
    return verdicts


def small_print(data: dict[str, Any]) -> list[str]:
    m, s = data["machine"], data["settings"]
    versions = ", ".join(
        f"{name} {version}" if name != "loop" else version
        for name, version in data["versions"].items()
    )
    commit = f", commit {m['commit']}" if m["commit"] else ""
    return [
        f"{m['cpu']}, {m['cores']} cores, {m['system']}, {m['python']}{commit}",
        versions,
        f"emulated links, medians of {s['rounds']} rounds, {data['date'][:10]}: {data['command']}",
    ]


def draw(data: dict[str, Any]) -> str:
    panels = []
    for name, rivals in data["results"].items():
        if not CELLS[name].chart:
            continue
        bars = [
            chart.Bar(
                rival,
                found["median"]["goodput_mbit_s"],
                f"{number(found['median']['goodput_mbit_s'])} Mbit/s",
                RIVALS[rival].kind,
            )
            for rival, found in rivals.items()
        ]
        panels.append(chart.Panel(CELLS[name].about, "", bars))
    return chart.svg(panels, small_print(data))


def listing() -> str:
    cells = [f"  {cell.name:<11} {cell.about}, {cell.seconds:g} s" for cell in CELLS.values()]
    rivals = [f"  {rival.name:<17} {rival.about}" for rival in RIVALS.values()]
    return "\n".join(["cells:", *cells, "rivals:", *rivals])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    if reason := missing():
        raise SystemExit(f"links cannot be emulated here: {reason}")
    quick = args.quick
    if args.controller:
        own = RIVALS[OWN]
        script = (*own.script, "--controller", args.controller)
        RIVALS[OWN] = dataclasses.replace(
            own, script=script, about=f"this library with {args.controller}"
        )
    run = Run(
        [CELLS[name] for name in chosen(args.cells, list(CELLS), "cell")],
        [RIVALS[name] for name in chosen(args.rivals, list(RIVALS), "rival")],
        args.rounds or (1 if quick else 3),
        args.seconds,
        args.loop,
    )
    started = datetime.now(UTC)
    load = machine()["load"]
    if load is not None and load > 0.5:
        print(f"load average {load}: something else is running, mind the numbers", file=sys.stderr)
    run_until_done(run.all())
    data = report(run, shlex.join(["python", "bench/links.py", *sys.argv[1:]]), started)
    data["machine"]["load"] = load
    path = args.json or BENCH / "results" / f"links-{started:%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
    print(f"wrote {path}", file=sys.stderr)
    return data


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rivals = ",".join(name for name, rival in RIVALS.items() if rival.default)
    parser.add_argument("--list", action="store_true", help="show cells and rivals")
    parser.add_argument("--cells", default=",".join(CELLS), help="default: all")
    parser.add_argument("--rivals", default=rivals, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument("--seconds", type=float, help="of every transfer, instead of the cell's")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--controller", help=f"congestion controller of {OWN}, not its default")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--json", type=Path, help="default: bench/results/links-<time>.json")
    parser.add_argument("--chart", type=Path, help="also draw an SVG")
    parser.add_argument(
        "--load",
        type=Path,
        metavar="JSON",
        nargs="+",
        help="show earlier runs, together, instead of a new one",
    )
    args = parser.parse_args()
    if args.list:
        print(listing())
        return 0
    data = together(args.load) if args.load else measure(args)
    verdicts = judge(data)
    print("\n".join([*small_print(data), "", table(data), "", *map(str, verdicts)]))
    for failure in data["failures"]:
        print(f"FAILED  {failure}")
    if args.chart:
        args.chart.parent.mkdir(parents=True, exist_ok=True)
        args.chart.write_text(draw(data))
    return 1 if data["failures"] or not all(verdict.reached for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
