"""How each congestion controller does on emulated links, in virtual time: an instrument for tuning, free of noise.

    python tests/quic/links_table.py                          # every cell, every controller
    python tests/quic/links_table.py --only wifi,lossy --controllers bbr,cubic --seeds 5
    python tests/quic/links_table.py --qlog /tmp/traces --only wifi --controllers bbr

Of each cell: goodput (Mbit/s of the seconds 2 to 5, or of the whole), the first second, what was sent again (percent), the
waiting time in the queue (p95, ms), largest window over what the link holds. `bench/links.py` measures the same on real
packets, beside TCP; this one needs no root, and the same seed gives the same numbers.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from emulated import SECOND, Flow, LinkConfig, Wire, settings, start  # noqa: E402
from tests.lab.link import Bursts, Policer  # noqa: E402

PACKET = 1500


def bdp(rate: float, delay: float, times: float = 1.0) -> int:
    """Packets that a link holds over `times` round trips without waiting."""
    return max(2, round(times * rate * 1e6 / 8 * 2 * delay / 1e3 / PACKET))


@dataclass(frozen=True)
class Cell:
    """One link, the same both ways, and which seconds of a transfer count."""

    name: str
    link: LinkConfig
    seconds: float = 5.0
    counted: tuple[float, float] = (2.0, 5.0)
    flows: tuple[str | None, ...] = (None,)  # controllers, None: the one under test


def link(
    rate: float, delay: float, loss: float = 0.0, queue: int = 1000, **more: Any
) -> LinkConfig:
    return LinkConfig(rate=rate, delay=delay, loss=loss, queue=queue, **more)


CELLS = (
    Cell("clean", link(100, 20, 0, 200)),
    Cell("half-percent", link(100, 20, 0.005, 200)),
    Cell("wifi", link(300, 2, 0, 1000, jitter=3, reorder=True)),
    Cell("metro", link(300, 2, 0.001, 1000)),
    Cell("continent", link(200, 50, 0.0005, 1000)),
    Cell("long-400", link(400, 50, 0, 4000)),
    Cell("longer-400", link(400, 100, 0, 4000)),
    Cell("ocean", link(50, 150, 0.001, 500)),
    Cell("shallow", link(100, 25, 0, 50)),
    Cell("lossy", link(20, 10, 0.03, 100)),
    Cell("five-percent", link(50, 20, 0.05, 200)),
    Cell("bloated", link(100, 20, 0, bdp(100, 20, 10))),
    Cell("tenth-bdp", link(100, 20, 0, bdp(100, 20, 0.1))),
    Cell("ecn", link(100, 20, 0, 1000, ecn=60)),
    Cell("bursts", link(100, 20, 0, 400, burst_loss=Bursts(0.005, 5))),
    Cell("policer", link(100, 20, 0, 400, policer=Policer(50, 250_000))),
    Cell("jitter", link(100, 20, 0, 400, jitter=5)),
    Cell("outage", link(100, 20, 0, 400, outages=((3.0, 2.0),)), 9.0, (7.0, 9.0)),
    Cell("step-down", link(100, 20, 0, 400, steps=((3.0, 20), (8.0, 100))), 8.0, (4.0, 8.0)),
    Cell("step-up", link(100, 20, 0, 400, steps=((3.0, 20), (6.0, 100))), 10.0, (7.0, 10.0)),
    Cell("gigabit", link(1000, 10, 0, 2000), 3.0, (1.0, 3.0)),
    Cell("satellite", link(20, 300, 0, 1000), 20.0, (5.0, 20.0)),
    Cell("slow", link(1, 30, 0, 50), 10.0, (2.0, 10.0)),
    Cell("two", link(100, 20, 0, 333), 30.0, (2.0, 30.0), (None, None)),
    Cell("beside-cubic", link(100, 20, 0, bdp(100, 20, 2)), 30.0, (2.0, 30.0), (None, "cubic")),
)  # fmt: skip


@dataclass
class Result:
    """What one transfer did; rates in Mbit/s, of the first flow."""

    goodput: float
    whole: float
    first: float
    again: float  # share of datagrams that were declared lost
    waiting: float  # ms, p95
    shares: tuple[float, ...]
    wall: float


def measure(cell: Cell, controller: str, seed: int, qlog: str | None, **changes: Any) -> Result:
    begin = time.perf_counter()
    if qlog is not None:
        changes |= {"qlog_dir": qlog, "qlog_prefix": f"{cell.name}-{controller}-{seed}"}
    receiver = {k: v for k, v in changes.items() if not k.startswith("qlog")}
    wire = Wire(cell.link, cell.link, seed, server_transport=settings("cubic", **receiver))
    try:
        flows = [start(wire, kind or controller, **changes) for kind in cell.flows]
        wire.begin()
        for flow in flows:
            flow.begins = wire.now
        wire.run_for(round(cell.seconds * SECOND), steps=10**9)
        return report(cell, wire, flows, time.perf_counter() - begin)
    finally:
        wire.close()


def report(cell: Cell, wire: Wire, flows: list[Flow], wall: float) -> Result:
    flow, (since, until) = flows[0], cell.counted
    stats = flow.stats()
    rates = [f.between(since, until) for f in flows]
    return Result(
        rates[0],
        flow.between(0, cell.seconds),
        flow.between(0, 1),
        stats["lost_packets"] / max(1, stats["udp_tx"]["datagrams"]),
        wire.there.stats().queue_delay_ms(0.95),
        tuple(rate / max(sum(rates), 1e-9) for rate in rates),
        wall,
    )


def median(
    cell: Cell, controller: str, seeds: range, qlog: str | None, changes: dict[str, Any]
) -> Result:
    """The median of each figure over the seeds."""
    results = [measure(cell, controller, seed, qlog, **changes) for seed in seeds]
    figures = {
        field.name: statistics.median(getattr(r, field.name) for r in results)
        for field in dataclasses.fields(Result)
        if field.name != "shares"
    }
    shares = zip(*(r.shares for r in results), strict=True)
    return Result(**figures, shares=tuple(map(statistics.median, shares)))


def controllers() -> list[str]:
    """Those that the configuration knows."""
    from iroh_fast.errors import ConfigError

    known = []
    for name in ("cubic", "newreno", "bbr"):
        try:
            settings(name)
        except ConfigError:
            continue
        known.append(name)
    return known


def show(cell: Cell, controller: str, result: Result) -> str:
    share = " ".join(f"{s:.0%}" for s in result.shares) if len(result.shares) > 1 else ""
    return (
        f"{cell.name:13} {controller:8} {result.goodput:8.1f} {result.whole:8.1f} {result.first:8.1f} "
        f"{100 * result.again:6.2f} {result.waiting:8.2f} {result.wall:6.2f}  {share}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="names of cells, by comma")
    parser.add_argument("--controllers", default=",".join(controllers()))
    parser.add_argument("--seeds", type=int, default=1, help="medians of so many")
    parser.add_argument(
        "--window", type=int, help="receive window of streams (bytes), where it should not limit"
    )
    parser.add_argument("--qlog", help="folder for traces")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    cells = [c for c in CELLS if not options.only or c.name in options.only.split(",")]
    changes = {"stream_receive_window": options.window} if options.window else {}
    print(
        f"{'link':13} {'control':8} {'goodput':>8} {'whole':>8} {'first s':>8} {'again%':>6} {'queue ms':>8} {'wall s':>6}"
    )
    jobs = [(c, k) for c in cells for k in options.controllers.split(",")]
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(median, c, k, range(1, options.seeds + 1), options.qlog, changes)
            for c, k in jobs
        ]
        for (cell, controller), result in zip(jobs, waiting, strict=True):
            print(show(cell, controller, result.result()), flush=True)


if __name__ == "__main__":
    main()
