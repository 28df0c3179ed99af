"""A picture of the network: this machine, the NAT in front of it, the relays."""

from __future__ import annotations

from collections.abc import Sequence

from ...net_report import NetReport

__all__ = ["picture"]

WIDTH = 34  # of a box, at most
MAX_LINES = 6  # of a box; of the relays


def box(lines: Sequence[str]) -> list[str]:
    """Text with a frame around it."""
    shown = [line[:WIDTH] for line in lines[:MAX_LINES]]
    width = max(map(len, shown), default=0)
    inside = [f"│ {line:{width}} │" for line in shown]
    return ["┌" + "─" * (width + 2) + "┐", *inside, "└" + "─" * (width + 2) + "┘"]


def beside(left: Sequence[str], right: Sequence[str], link: str) -> list[str]:
    """Two drawings side by side, connected by a line at half of their height."""
    height = max(len(left), len(right))
    wide = max(map(len, left), default=0)
    rows = []
    for i in range(height):
        one = left[i] if i < len(left) else ""
        other = right[i] if i < len(right) else ""
        middle = link if i == 1 else " " * len(link)
        rows.append(f"{one:{wide}}{middle}{other}".rstrip())
    return rows


def nat_of(report: NetReport, local: Sequence[str]) -> list[str]:
    """What is between this machine and the internet, a line for each fact; none without a NAT."""
    lines = []
    for addr, varies in (
        (report.global_v4, report.mapping_varies_by_dest_v4),
        (report.global_v6, report.mapping_varies_by_dest_v6),
    ):
        if addr is None or str(addr) in local:
            continue
        kind = {True: "hard: port varies", False: "easy: one port for all", None: "port seen once"}
        lines += [str(addr), kind[varies]]
    return lines


def picture(report: NetReport | None, local: Sequence[str], relays: Sequence[str]) -> list[str]:
    """Draw it.

    Parameters
    ----------
    local : addresses of the sockets in this network, ``"ip:port"``.
    relays : URL and latency of each, the nearest first.
    """
    drawn = box(["this machine", *(local or ["no address"])])
    if report is None:
        pass  # nothing is known of what is beyond
    elif not report.has_udp:
        drawn = beside(drawn, box(["no answer", "over UDP"]), "──X──")
    elif nat := nat_of(report, local):
        drawn = beside(drawn, box(["NAT", *nat]), "─────")
    shown = [*relays[:MAX_LINES], *(["..."] if len(relays) > MAX_LINES else [])]
    return beside(drawn, ["", *shown], "─────▶ " if shown else "")
