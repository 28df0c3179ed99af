"""The links of ``bench/links.py``: what they are like, how long a transfer takes, who shares them."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from links_stats import CUBIC, OWN, TCP

sys.path.append(str(Path(__file__).parent.parent))
from tests.lab.link import Bursts, LinkConfig, Policer


@dataclass(frozen=True)
class Cell:
    """A link, the same in both directions, and what runs over it.

    Attributes
    ----------
    seconds : of a transfer.
    flows : names of rivals that share the link; empty for one transfer by each rival in turn.
    relay : all goes through a relay on the receiver's side.
    deep : the queue is so long that its delay has a number to reach.
    chart : this cell has a panel in the chart.
    """

    name: str
    about: str
    link: LinkConfig
    seconds: float = 5.0
    flows: tuple[str, ...] = ()
    relay: bool = False
    deep: bool = False
    chart: bool = False

    @property
    def base_rtt_ms(self) -> float:
        return 2.0 * self.link.delay

    @property
    def outage_end_s(self) -> float | None:
        return sum(self.link.outages[-1]) if self.link.outages else None


def bdp_packets(rate: float, delay: float, times: float = 1.0) -> int:
    """Packets of 1500 bytes in flight when the link is full."""
    return round(rate * 1e6 * 2 * delay / 1e3 / 8 / 1500 * times)


def link(rate: float, delay: float, queue: int, **more: Any) -> LinkConfig:
    """Mbit/s, milliseconds one way, packets."""
    return LinkConfig(rate=rate, delay=delay, queue=queue, **more)


def wan(queue: int = 200, **more: Any) -> LinkConfig:
    return link(100, 20, queue, **more)


CELLS = {
    cell.name: cell
    for cell in [
        Cell("wan", "100 Mbit/s, 20 ms", wan(), chart=True),
        Cell("wan-loss", "100 Mbit/s, 20 ms, 0.5 % loss", wan(loss=0.005), chart=True),
        Cell(
            "wifi",
            "300 Mbit/s, 2 ms, reordering within 3 ms",
            link(300, 2, 1000, jitter=3, reorder=True),
            chart=True,
        ),
        Cell(
            "metro",
            "300 Mbit/s, 2 ms, 0.1 % loss",
            link(300, 2, 1000, loss=0.001),
            chart=True,
        ),
        Cell(
            "continent",
            "200 Mbit/s, 50 ms, 0.05 % loss",
            link(200, 50, 1000, loss=0.0005),
            6,
            chart=True,
        ),
        Cell(
            "long",
            "400 Mbit/s, 50 ms",
            link(400, 50, 4000),
            6,
            chart=True,
        ),
        Cell(
            "longer",
            "400 Mbit/s, 100 ms",
            link(400, 100, 4000),
            8,
            chart=True,
        ),
        Cell(
            "ocean",
            "50 Mbit/s, 150 ms, 0.1 % loss",
            link(50, 150, 500, loss=0.001),
            8,
            chart=True,
        ),
        Cell(
            "shallow",
            "100 Mbit/s, 25 ms, 50 packets",
            link(100, 25, 50),
            chart=True,
        ),
        Cell(
            "mobile",
            "20 Mbit/s, 10 ms, 3 % loss",
            link(20, 10, 100, loss=0.03),
            chart=True,
        ),
        Cell("ecn", "100 Mbit/s, 20 ms, ECN from 65 packets", wan(queue=500, ecn=65)),
        Cell(
            "bursts",
            "50 Mbit/s, 30 ms, 1 % loss in bursts of 10",
            link(50, 30, 250, burst_loss=Bursts(loss=0.01, length=10)),
        ),
        Cell(
            "jitter",
            "50 Mbit/s, 20 ms, jitter of 15 ms in order",
            link(50, 20, 300, jitter=15),
        ),
        Cell(
            "outage",
            "100 Mbit/s, 20 ms, 2 s without a link",
            wan(queue=333, outages=((3.0, 2.0),)),
            8,
        ),
        Cell(
            "step",
            "100, 20, then 100 Mbit/s again, 20 ms",
            wan(steps=((2.5, 20), (5.0, 100))),
            8,
        ),
        Cell("gigabit", "1 Gbit/s, 10 ms", link(1000, 10, 2000), chart=True),
        Cell(
            "satellite",
            "50 Mbit/s, 300 ms",
            link(50, 300, bdp_packets(50, 300)),
            12,
            chart=True,
        ),
        Cell("slow", "2 Mbit/s, 30 ms", link(2, 30, 50)),
        Cell(
            "policer",
            "100 Mbit/s, 20 ms, policed to 30 Mbit/s",
            wan(policer=Policer(30, 150_000)),
        ),
        Cell(
            "deep",
            "50 Mbit/s, 20 ms, 10 bandwidth-delay products",
            link(50, 20, bdp_packets(50, 20, 10)),
            6,
            deep=True,
        ),
        Cell(
            "relay",
            "upload over a relay, 50 Mbit/s, 25 ms, 0.1 % loss",
            link(50, 25, 300, loss=0.001),
            relay=True,
        ),
        Cell("fair-own", "two of ours, 100 Mbit/s, 20 ms", wan(queue=333), 30, (OWN, OWN)),
        Cell(
            "fair-cubic",
            "ours and TCP Cubic, 2 bandwidth-delay products",
            wan(queue=bdp_packets(100, 20, 2)),
            30,
            (OWN, CUBIC),
        ),
        Cell(
            "fair-bbr",
            "ours and TCP BBR, 2 bandwidth-delay products",
            wan(queue=bdp_packets(100, 20, 2)),
            30,
            (OWN, TCP),
        ),
    ]
}
