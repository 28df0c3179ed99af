"""Compare iroh_fast with its rivals: two processes each on this machine, all in one run.

``python bench/compare.py`` takes about five minutes, ``--quick`` one.  Every number is the median
of several rounds; a round runs all rivals one after the other, each in fresh processes, so that
whatever else the machine does hits all of them alike.  Read ratios, not seconds.

What is measured, and how, is in ``bench/README.md``; the line-JSON commands that the child
processes understand are in ``bench/rivals/_child.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chart
from children import BENCH, PATIENCE_S, Child, Failed, environment, run_until_done
from facts import chosen, loop_version, machine, number

DATAGRAM = 1000  # bytes of payload
PACKET = 1452  # the largest datagram of a stock peer on loopback
SEALING = 13 + 16  # header and tag of such a packet


@dataclass(frozen=True)
class Metric:
    key: str
    label: str
    unit: str
    lower_is_better: bool = False
    in_chart: bool = True
    chart_limits: bool = True  # False: they are so far off that no difference would be seen


METRICS = [
    Metric("bulk_mb_s", "bulk, one stream", "MB/s"),
    Metric("cpu_s_per_gib", "CPU, both sides", "s/GiB", lower_is_better=True, in_chart=False),
    Metric("ping_p50_us", "ping-pong 64 B, p50", "us", lower_is_better=True),
    Metric("ping_p99_us", "ping-pong 64 B, p99", "us", lower_is_better=True, in_chart=False),
    Metric("requests_s", "requests, sequential", "/s"),
    Metric("requests_64_s", "requests, 64 at a time", "/s"),
    Metric("datagrams_s", f"datagrams {DATAGRAM} B", "/s", chart_limits=False),
    Metric("connections_s", "new connections", "/s"),
    Metric("idle_kib", "idle connection, both ends", "KiB", lower_is_better=True),
    Metric("import_ms", "import", "ms", lower_is_better=True, in_chart=False),
]

QUIC = (
    "bulk",
    "ping_pong",
    "requests",
    "requests_64",
    "datagrams",
    "connections",
    "memory",
    "import",
)
WITHOUT_IMPORT = QUIC[:-1]


@dataclass(frozen=True)
class Rival:
    name: str
    about: str
    server: tuple[str, ...]
    client: tuple[str, ...]
    measures: tuple[str, ...]
    imports: str = ""  # what a user's program begins with; packages may load the rest on demand
    default: bool = True
    kind: str = "rival"
    program: str = ""  # environment variable with a native program that speaks the same lines


FAST, OFFICIAL = ("fast.py",), ("official.py",)
PATCHED = ("official.py", "--memmove")
SEALED = ("machine_limit.py", "--sealed")
RUST_PEER = "IROH_FAST_RUST_PEER"
RIVALS = {
    rival.name: rival
    for rival in [
        Rival(
            "iroh_fast",
            "this library",
            FAST,
            FAST,
            QUIC,
            "from iroh_fast import Endpoint",
            kind="own",
        ),
        Rival(
            "iroh",
            "official binding, as published",
            OFFICIAL,
            OFFICIAL,
            QUIC,
            "from iroh import Endpoint",
        ),
        Rival(
            "iroh+memmove",
            "the same, its byte-copy loop replaced",
            PATCHED,
            PATCHED,
            WITHOUT_IMPORT,
        ),
        Rival(
            "rust",
            f"native program on the Rust library, given by ${RUST_PEER}",
            ("bench",),
            ("bench",),
            WITHOUT_IMPORT,
            default=bool(os.environ.get(RUST_PEER)),
            program=RUST_PEER,
        ),
        Rival(
            "aioquic",
            "QUIC only, one-sided authentication",
            *[("aioquic_streams.py",)] * 2,
            QUIC,
            "from aioquic.asyncio import connect",
        ),
        Rival(
            "udp", "bare UDP echo, no QUIC", *[("udp_echo.py",)] * 2, ("ping_pong",), kind="limit"
        ),
        Rival(
            "limit+aes",
            "no protocol, AES-128-GCM",
            SEALED,
            SEALED,
            ("bulk", "datagrams"),
            kind="limit",
        ),
        Rival(
            "limit",
            "no protocol, no encryption",
            *[("machine_limit.py",)] * 2,
            ("bulk", "datagrams"),
            kind="limit",
        ),
        Rival(
            "iroh_fast>iroh",
            "our client, official server",
            OFFICIAL,
            FAST,
            WITHOUT_IMPORT,
            default=False,
        ),
        Rival(
            "iroh>iroh_fast",
            "official client, our server",
            FAST,
            OFFICIAL,
            WITHOUT_IMPORT,
            default=False,
        ),
    ]
}


@dataclass(frozen=True)
class Settings:
    """Seconds of each measure, and how often."""

    rounds: int
    bulk: float
    other: float
    memory_rounds: int
    hold: int = 300
    settle: float = 1.0

    @classmethod
    def make(cls, quick: bool, rounds: int | None) -> Settings:
        if quick:
            return cls(rounds or 3, bulk=0.5, other=0.3, memory_rounds=1)
        return cls(rounds or 5, bulk=1.5, other=1.0, memory_rounds=3)


@dataclass
class Pair:
    """Server and client process of a rival; both are gone when the context is left."""

    rival: Rival
    loop: str
    cpus: tuple[int, int] | None
    versions: dict[str, str] = field(default_factory=dict)

    async def __aenter__(self) -> Pair:
        self.children: list[Child] = []
        try:
            self.server = await self.start("server", self.rival.server, 0)
            self.client = await self.start("client", self.rival.client, 1)
            ready = await self.server.do("start", address=None)
            self.versions |= ready["versions"]
            self.versions |= (await self.client.do("start", address=ready["address"]))["versions"]
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for child in self.children:
            await asyncio.shield(child.kill())

    def command(self, side: str, script: tuple[str, ...], cpu: int | None) -> list[str]:
        if self.rival.program:
            program = os.environ.get(self.rival.program)
            if not program:
                raise Failed(f"{self.rival.name}: set {self.rival.program} to the program")
            return [*([] if cpu is None else ["taskset", "-c", str(cpu)]), program, *script, side]
        pinned = [] if cpu is None else ["--cpu", str(cpu)]
        name, *options = script
        python = [sys.executable, str(BENCH / "rivals" / name)]
        return [*python, side, *options, "--loop", self.loop, *pinned]

    async def start(self, side: str, script: tuple[str, ...], cpu: int) -> Child:
        child = await Child.start(
            self.command(side, script, None if self.cpus is None else self.cpus[cpu]),
            f"{self.rival.name} {side}",
        )
        self.children.append(child)
        return child


# --- measures: from a pair of processes to metrics --------------------------------------------


async def pump(pair: Pair, payload: int, seconds: float) -> dict[str, Any]:
    """Let the machine-limit rival send and receive at the same time."""
    counting = asyncio.create_task(
        pair.server.do("receive", takes=seconds, size=payload, seconds=seconds)
    )
    try:
        sent = await pair.client.do("send", takes=seconds, size=payload, seconds=seconds)
        return await counting | sent
    finally:
        counting.cancel()


async def measure_bulk(pair: Pair, settings: Settings) -> dict[str, float]:
    seconds = settings.bulk
    if pair.rival.server[0] == "machine_limit.py":
        got = await pump(
            pair, PACKET - (SEALING if "--sealed" in pair.rival.server else 0), seconds
        )
    else:
        got = await pair.client.do("bulk", takes=seconds, seconds=seconds)
        if got["bytes"] != got["sent"]:
            raise Failed(f"{pair.rival.name}: sent {got['sent']} bytes, {got['bytes']} arrived")
    cpu = got["client_cpu_s"] + got["server_cpu_s"]
    return {
        "bulk_mb_s": got["bytes"] / got["seconds"] / 1e6,
        "cpu_s_per_gib": cpu / (got["bytes"] / 2**30),
    }


async def measure_ping_pong(pair: Pair, settings: Settings) -> dict[str, float]:
    got = await pair.client.do("ping_pong", takes=settings.other, seconds=settings.other)
    return {"ping_p50_us": got["p50_us"], "ping_p99_us": got["p99_us"]}


async def measure_requests(pair: Pair, settings: Settings) -> dict[str, float]:
    got = await pair.client.do(
        "requests", takes=settings.other, seconds=settings.other, at_a_time=1
    )
    return {"requests_s": got["count"] / got["seconds"]}


async def measure_requests_64(pair: Pair, settings: Settings) -> dict[str, float]:
    got = await pair.client.do(
        "requests", takes=settings.other, seconds=settings.other, at_a_time=64
    )
    return {"requests_64_s": got["count"] / got["seconds"]}


async def measure_datagrams(pair: Pair, settings: Settings) -> dict[str, float]:
    if pair.rival.server[0] == "machine_limit.py":
        got = await pump(pair, DATAGRAM, settings.other)
    else:
        got = await pair.client.do("datagrams", takes=settings.other, seconds=settings.other)
    if got["messages"] < 2:
        raise Failed(f"{pair.rival.name}: {got['messages']} datagrams arrived")
    return {"datagrams_s": got["messages"] / got["seconds"]}


async def measure_connections(pair: Pair, settings: Settings) -> dict[str, float]:
    got = await pair.client.do("connections", takes=settings.other, seconds=settings.other)
    return {"connections_s": got["count"] / got["seconds"]}


async def measure_memory(pair: Pair, settings: Settings) -> dict[str, float]:
    """Growth of both processes per connection; the first connections pay for what is shared."""

    async def total() -> int:
        await asyncio.sleep(settings.settle)
        usages = [await child.do("usage") for child in pair.children]
        if any(usage["rss_bytes"] is None for usage in usages):
            raise Failed("resident memory can only be read on Linux")
        return sum(usage["rss_bytes"] for usage in usages)

    await pair.client.do("hold", count=20)
    before = await total()
    await pair.client.do("hold", takes=settings.hold / 100, count=settings.hold)
    return {"idle_kib": (await total() - before) / settings.hold / 1024}


MEASURES: dict[str, Callable[[Pair, Settings], Awaitable[dict[str, float]]]] = {
    "bulk": measure_bulk,
    "ping_pong": measure_ping_pong,
    "requests": measure_requests,
    "requests_64": measure_requests_64,
    "datagrams": measure_datagrams,
    "connections": measure_connections,
    "memory": measure_memory,
}


async def interpreter_s(code: str, tries: int) -> float:
    """Median life of a fresh interpreter that runs `code`."""
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            code,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        try:
            _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        times.append(time.perf_counter() - started)
        if process.returncode:
            raise Failed(f"{code}: {errors.decode(errors='replace').strip().splitlines()[-1]}")
    return statistics.median(times)


async def measure_import(statement: str) -> dict[str, float]:
    bare = await interpreter_s("pass", 3)
    return {"import_ms": (await interpreter_s(statement, 3) - bare) * 1e3}


# --- a run ---------------------------------------------------------------------------------------


@dataclass
class Run:
    settings: Settings
    rivals: list[Rival]
    measures: list[str]
    loop: str
    cpus: tuple[int, int] | None
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def note(self, rival: Rival, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            self.values.setdefault(rival.name, {}).setdefault(key, []).append(value)

    def fail(self, rival: Rival, measure: str, error: Exception) -> None:
        self.failures.append(f"{rival.name}, {measure}: {error}")
        print(f"\n{error}", file=sys.stderr)

    def progress(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{text:32}\r{text}", end="", file=sys.stderr, flush=True)

    async def round(self, number: int) -> None:
        for rival in self.rivals:
            self.progress(f"round {number + 1}/{self.settings.rounds}  {rival.name}")
            wanted = [m for m in self.measures if m in rival.measures]
            await self.in_one_pair(rival, [m for m in wanted if m not in ("memory", "import")])
            if "memory" in wanted and number < self.settings.memory_rounds:
                # in processes of its own: elsewhere, freed memory would be used again
                await self.in_one_pair(rival, ["memory"])
            if "import" in wanted:
                try:
                    self.note(rival, await measure_import(rival.imports))
                except (Failed, TimeoutError) as error:
                    self.fail(rival, "import", error)

    async def in_one_pair(self, rival: Rival, measures: list[str]) -> None:
        """Take measures one after the other; one that fails gets the rest a new pair."""
        rest = list(measures)
        while rest:
            try:
                async with Pair(rival, self.loop, self.cpus, self.versions) as pair:
                    while rest:
                        measure = rest[0]
                        self.note(rival, await MEASURES[measure](pair, self.settings))
                        rest.pop(0)
            except Failed as error:
                self.fail(rival, rest.pop(0), error)

    async def all(self) -> None:
        for done in range(self.settings.rounds):
            await self.round(done)
        self.progress("")


# --- what to say about it ------------------------------------------------------------------------


def report(run: Run, command: str, started: datetime) -> dict[str, Any]:
    return {
        "date": started.isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "versions": run.versions | {"loop": loop_version(run.loop)},
        "settings": {
            **vars(run.settings),
            "loop": run.loop,
            "cpus": run.cpus,
            "seconds": round((datetime.now(UTC) - started).total_seconds()),
        },
        "rivals": {rival.name: rival.about for rival in run.rivals},
        "results": {
            name: {
                key: {"median": statistics.median(values), "values": [round(v, 3) for v in values]}
                for key, values in metrics.items()
            }
            for name, metrics in run.values.items()
        },
        "failures": run.failures,
    }


def ratio(metric: Metric, own: float, other: float) -> str:
    """How many times better `own` is."""
    if own <= 0 or other <= 0:
        return ""
    times = other / own if metric.lower_is_better else own / other
    return f"{times:.0f}x" if times >= 10 else f"{times:.1f}x" if times >= 1 else f"{times:.2f}x"


def medians(data: dict[str, Any], metric: Metric) -> dict[str, float]:
    return {
        name: metrics[metric.key]["median"]
        for name, metrics in data["results"].items()
        if metric.key in metrics
    }


def table(data: dict[str, Any], base: str) -> str:
    """Metrics down, rivals across; behind each number how many times better `base` is."""
    names = [name for name in data["rivals"] if name in data["results"]]
    rows = [["", *names]]
    for metric in METRICS:
        found = medians(data, metric)
        if not found:
            continue
        row = [f"{metric.label}, {metric.unit}"]
        for name in names:
            cell = number(found[name]) if name in found else "-"
            if name in found and base in found and name != base:
                cell += f" ({ratio(metric, found[base], found[name])})"
            row.append(cell)
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    if base in names:
        lines.append(f"(n x): {base} is n times better")
    return "\n".join(lines)


def small_print(data: dict[str, Any]) -> list[str]:
    m, s = data["machine"], data["settings"]
    versions = ", ".join(
        f"{name} {version}" if name != "loop" else version
        for name, version in data["versions"].items()
    )
    pinned = "one core per process" if s["cpus"] else "not pinned"
    commit = f", commit {m['commit']}" if m["commit"] else ""
    return [
        f"{m['cpu']}, {m['cores']} cores, {m['system']}, {m['python']}{commit}",
        versions,
        f"loopback, {pinned}, medians of {s['rounds']} rounds, {data['date'][:10]}: {data['command']}",
    ]


def draw(data: dict[str, Any]) -> str:
    panels = []
    for metric in METRICS:
        found = medians(data, metric)
        if metric.in_chart and found:
            bars = [
                chart.Bar(
                    name,
                    found[name],
                    f"{number(found[name])} {metric.unit}".replace(" /s", "/s"),
                    RIVALS[name].kind,
                )
                for name in data["rivals"]
                if name in found and (metric.chart_limits or RIVALS[name].kind != "limit")
            ]
            panels.append(
                chart.Panel(metric.label, "lower is better" if metric.lower_is_better else "", bars)
            )
    return chart.svg(panels, small_print(data))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ",".join(name for name, rival in RIVALS.items() if rival.default)
    parser.add_argument(
        "--rivals", default=default, help=f"of {','.join(RIVALS)} (default: %(default)s)"
    )
    parser.add_argument("--measures", default=",".join(QUIC), help="default: all, %(default)s")
    parser.add_argument("--rounds", type=int, help="5, or 3 with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="shorter and fewer measures, about a minute"
    )
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=hasattr(os, "sched_setaffinity"),
                        help="server on the first core, client on the second")  # fmt: skip
    parser.add_argument("--base", default="iroh_fast", help="whom ratios are about")
    parser.add_argument("--json", type=Path, help="default: bench/results/compare-<time>.json")
    parser.add_argument("--chart", type=Path, help="also draw an SVG")
    parser.add_argument(
        "--load", type=Path, metavar="JSON", help="show an earlier run instead of a new one"
    )
    args = parser.parse_args()

    if args.load:
        data = json.loads(args.load.read_text())
    else:
        cpus = None
        if args.pin:
            cores = sorted(os.sched_getaffinity(0))
            if len(cores) < 2:
                raise SystemExit("there is only one core: use --no-pin")
            cpus = (cores[0], cores[1])
        run = Run(
            Settings.make(args.quick, args.rounds),
            [RIVALS[name] for name in chosen(args.rivals, list(RIVALS), "rival")],
            chosen(args.measures, list(QUIC), "measure"),
            args.loop,
            cpus,
        )
        started = datetime.now(UTC)
        load = machine()["load"]
        if load is not None and load > 0.5:
            print(
                f"load average {load}: something else is running, mind the numbers", file=sys.stderr
            )
        run_until_done(run.all())
        data = report(run, shlex.join(["python", "bench/compare.py", *sys.argv[1:]]), started)
        data["machine"]["load"] = load
        path = args.json or BENCH / "results" / f"compare-{started:%Y%m%d-%H%M%S}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n")
        print(f"wrote {path}", file=sys.stderr)

    print("\n".join([*small_print(data), "", table(data, args.base)]))
    for failure in data["failures"]:
        print(f"FAILED  {failure}")
    if args.chart:
        args.chart.parent.mkdir(parents=True, exist_ok=True)
        args.chart.write_text(draw(data))
    return 1 if data["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
