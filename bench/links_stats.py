"""From what the ends of a transfer counted to figures, and from figures to verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OWN, TCP, CUBIC, IROH = "iroh_fast", "tcp-bbr", "tcp-cubic", "iroh+memmove"
WINDOW_MS = 500  # over which a rate after an outage is taken
FULL = 0.9  # of the rate of the link, from where it counts as full
GIB = 2**30

Series = Sequence[tuple[float, int]]  # (milliseconds since the sender began to connect, bytes)
Results = Mapping[str, Mapping[str, Mapping[str, float]]]  # cell, rival, figure


def since(arrivals: Iterable[tuple[int, int]], started_s: float, seconds: float) -> Series:
    """Arrivals counted from `started_s`, without those after the end."""
    origin = started_s * 1e3
    return [(at - origin, size) for at, size in arrivals if -1.0 <= at - origin < seconds * 1e3]


def between(series: Series, start_ms: float, end_ms: float) -> int:
    return sum(size for at, size in series if start_ms <= at < end_ms)


def mbit_s(size: int, ms: float) -> float:
    return size * 8 / ms / 1e3


def transfer(
    sent: Mapping[str, Any], received: Mapping[str, Any], seconds: float
) -> dict[str, float]:
    """Figures of one transfer."""
    series = since(received["arrivals"], sent["started"], seconds)
    total = sum(size for _, size in series)
    cpu = sent["cpu_s"] + received["cpu_s"]
    return {
        "goodput_mbit_s": mbit_s(total, seconds * 1e3),
        "first_second_mb": between(series, -1.0, 1000.0) / 1e6,
        "again_share": sent["again"] / sent["sent"] if sent["sent"] else 0.0,
        "cpu_s_per_gib": cpu / (total / GIB) if total else float("inf"),
    }


def recovery(series: Series, end_s: float, seconds: float, rate_mbit_s: float) -> float:
    """Seconds from the end of an outage until the link is full again; infinite if it never is.

    Full is where the half second that begins there brings 0.9 of what the link carries.
    """
    at = end_s * 1e3
    while at + WINDOW_MS <= seconds * 1e3:
        if mbit_s(between(series, at, at + WINDOW_MS), WINDOW_MS) >= FULL * rate_mbit_s:
            return at / 1e3 - end_s
        at += 10
    return float("inf")


def shares(sizes: Sequence[int]) -> list[float]:
    total = sum(sizes)
    return [size / total if total else 0.0 for size in sizes]


def medians(rounds: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure, over the rounds that have it."""
    found: dict[str, list[float]] = {}
    for figures in rounds:
        for key, value in figures.items():
            found.setdefault(key, []).append(value)
    return {key: statistics.median(values) for key, values in found.items()}


@dataclass(frozen=True)
class Verdict:
    """A number to reach, and whether it was."""

    cell: str
    what: str
    found: float
    target: str
    reached: bool

    def __str__(self) -> str:
        mark = "ok  " if self.reached else "MISS"
        return f"{mark}  {self.cell:<12} {self.what:<44} {self.found:>7.2f}   {self.target}"


def at_least(cell: str, what: str, found: float, least: float) -> Verdict:
    return Verdict(cell, what, found, f"at least {least:g}", round(found, 2) >= least)


def at_most(cell: str, what: str, found: float, most: float) -> Verdict:
    return Verdict(cell, what, found, f"at most {most:g}", round(found, 2) <= most)


def ratio(own: Mapping[str, float], other: Mapping[str, float], key: str) -> float:
    if not other[key]:
        return 1.0 if not own[key] else float("inf")
    return own[key] / other[key]


def judge_transfer(
    cell: str, results: Mapping[str, Mapping[str, float]], base_rtt_ms: float, deep: bool
) -> list[Verdict]:
    """What every cell has to reach, and the one with the deep buffer."""
    own = results.get(OWN)
    if own is None:
        return []
    found = []
    if tcp := results.get(TCP):
        found.append(at_least(cell, "goodput / TCP BBR", ratio(own, tcp, "goodput_mbit_s"), 0.95))
        first = ratio(own, tcp, "first_second_mb")
        found.append(at_least(cell, "first second / TCP BBR", first, 0.9))
    if iroh := results.get(IROH):
        found.append(at_least(cell, "goodput / real iroh", ratio(own, iroh, "goodput_mbit_s"), 1.0))
    if deep:
        delay = own["queue_p95_ms"] / base_rtt_ms
        found.append(at_most(cell, "queueing delay p95 / base RTT", delay, 1.5))
    if "recovery_s" in own:
        found.append(at_most(cell, "s to the full rate after the outage", own["recovery_s"], 2.0))
    return found


def judge_fair(cell: str, names: Sequence[str], found: Mapping[str, float]) -> list[Verdict]:
    """Two flows on one link: `found` has the share of each, "share_0" and "share_1"."""
    each = [found["share_0"], found["share_1"]]
    least = {CUBIC: 0.25, TCP: 0.35}.get(names[1], 0.4)
    what = f"smaller share, {names[0]} and {names[1]}"
    return [at_least(cell, what, min(each), least)]
