"""What happened in a scenario and when, for people: as text, and as a picture in SVG. Pure.

A lane for each connection of each node, with the path it had selected as a bar, the times without an echo (of a ticker) below
it, and what the scenario did as lines across.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, Final

__all__ = ["Lane", "Timeline", "timeline"]

Event = Mapping[str, Any]

#: Of a path by its kind: a letter for bars of text, a colour, a word.
KINDS: Final = {
    "relay": ("r", "#c9a227", "over a relay"),
    "ip4": ("4", "#2e7d32", "direct, IPv4"),
    "ip6": ("6", "#1565c0", "direct, IPv6"),
    "custom": ("c", "#6a1b9a", "over a custom transport"),
    "": (".", "#e0e0e0", "no path"),
}
WIDTH: Final = 72  # of bars of text
#: Of the picture.
LEFT, RIGHT, ROW, BAR = 150, 20, 46, 16
PLOT: Final = 900
MAX_TEXT: Final = 90
MAX_LINES: Final = 2000


@dataclass(slots=True)
class Lane:
    """A connection as one of its ends saw it.

    Attributes
    ----------
    name : str
    begin, end : float
        Seconds; of the connection, as far as this shows it.
    spans : list of (float, float, str, str)
        From, to, kind and address of the selected path.
    gaps : list of (float, float)
        From and to, without an echo.
    """

    name: str
    begin: float
    end: float
    spans: list[tuple[float, float, str, str]] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)


@dataclass(slots=True)
class Timeline:
    """Everything, in seconds from when the first event came.

    Attributes
    ----------
    title : str
    length : float
    lanes : list of Lane
    marks : list of (float, str)
        What the scenario did.
    lines : list of (float, str, str)
        All of it: when, who, what.
    """

    title: str
    length: float = 0.0
    lanes: list[Lane] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def text(self) -> str:
        """The story line by line, then a bar for each lane."""
        who = max((len(name) for _, name, _ in self.lines), default=0)
        told = [f"{at:9.3f} s  {name:<{who}}  {what}" for at, name, what in self.lines[:MAX_LINES]]
        if len(self.lines) > MAX_LINES:
            told.append(f"... and {len(self.lines) - MAX_LINES} more")
        return "\n".join([self.title, "", *told, "", *self._bars(), ""])

    def _bars(self) -> list[str]:
        if not self.length or not self.lanes:
            return []
        wide = max(len(lane.name) for lane in self.lanes)
        step = self.length / WIDTH
        rows = [f"{'':<{wide}}  0 s{f'{self.length:.1f} s':>{WIDTH - 3}}"]
        for lane in self.lanes:
            bar = [" "] * WIDTH
            for index in range(WIDTH):
                at = (index + 0.5) * step
                if lane.begin <= at <= lane.end:
                    bar[index] = KINDS[kind_at(lane, at)][0]
                if any(start < at + step / 2 and at - step / 2 < end for start, end in lane.gaps):
                    bar[index] = "!"
            rows.append(f"{lane.name:<{wide}}  {''.join(bar)}")
        legend = ", ".join(f"{letter} {word}" for letter, _, word in KINDS.values())
        return [*rows, f"{'':<{wide}}  {legend}, ! no echo"]

    def svg(self) -> str:
        """A picture."""
        top = 40 + 14 * min(len(self.marks), 12)
        height = top + ROW * len(self.lanes) + 70
        scale = PLOT / (self.length or 1.0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + PLOT + RIGHT}" height="{height}" '
            'font-family="sans-serif" font-size="12">',
            '<rect width="100%" height="100%" fill="white"/>',
            label(LEFT, 18, self.title, size=14),
        ]
        bottom = top + ROW * len(self.lanes)
        for second in ticks(self.length):
            x = LEFT + second * scale
            parts.append(line(x, top, bottom, "#eeeeee"))
            parts.append(label(x, bottom + 16, f"{second:g} s", anchor="middle", colour="#555555"))
        for index, (at, what) in enumerate(self.marks):
            x, y = LEFT + at * scale, 34 + 14 * (index % 12)
            parts.append(line(x, y, bottom, "#888888", dashed=True))
            # What comes late has its words on the left of its line.
            late = at > self.length / 2
            parts.append(
                label(x - 3 if late else x + 3, y, what, anchor="end" if late else "start")
            )
        for index, lane in enumerate(self.lanes):
            parts += self._row(lane, top + ROW * index, scale)
        parts += self._legend(bottom + 40)
        return "\n".join([*parts, "</svg>", ""])

    def _row(self, lane: Lane, y: float, scale: float) -> list[str]:
        parts = [label(LEFT - 8, y + BAR + 4, lane.name, anchor="end")]
        for start, end, kind, address in lane.spans:
            box = LEFT + start * scale, y + 6, (end - start) * scale, BAR
            parts.append(rectangle(*box, KINDS[kind][1], f"{address}, {end - start:.3f} s"))
        for start, end in lane.gaps:
            box = LEFT + start * scale, y + 10 + BAR, max((end - start) * scale, 1.0), 6
            parts.append(rectangle(*box, "#c62828", f"no echo for {end - start:.3f} s"))
        return parts

    def _legend(self, y: float) -> list[str]:
        parts, x = [], float(LEFT)
        shown = [(colour, word) for _, colour, word in KINDS.values()]
        for colour, word in [*shown, ("#c62828", "no echo")]:
            parts += [rectangle(x, y, 12, 12, colour, word), label(x + 16, y + 11, word)]
            x += 40 + 7 * len(word)
        return parts


# ---------------------------------------------------------------- pieces of SVG
def label(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#222222", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
        f'font-size="{size}">{escape(shortened(text))}</text>'
    )


def line(x: float, top: float, bottom: float, colour: str, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="3 3"' if dashed else ""
    return f'<line x1="{x:.1f}" y1="{top:.1f}" x2="{x:.1f}" y2="{bottom:.1f}" stroke="{colour}"{dashes}/>'


def rectangle(x: float, y: float, width: float, height: float, colour: str, title: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" height="{height:.1f}" '
        f'fill="{colour}"><title>{escape(shortened(title))}</title></rect>'
    )


def shortened(text: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def ticks(length: float) -> Iterable[float]:
    """Where the axis has numbers: about ten."""
    step = next(
        (s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300) if length / s <= 12), 600
    )
    return [i * step for i in range(int(length / step) + 1)]


# ---------------------------------------------------------------- from what was told
def kind_at(lane: Lane, at: float) -> str:
    return next((kind for start, end, kind, _ in lane.spans if start <= at < end), "")


def timeline(
    title: str,
    nodes: Sequence[tuple[str, Sequence[Event]]],
    marks: Sequence[tuple[float, str]] = (),
    gaps: Mapping[tuple[str, int], Sequence[tuple[float, float]]] | None = None,
) -> Timeline:
    """Put together what nodes told.

    Parameters
    ----------
    title : str
    nodes : sequence of (label, events)
        Events of the protocol, each with its `t`.
    marks : sequence of (t, text)
    gaps : mapping of (label, conn) to (t, seconds)
        Of tickers.
    """
    times = [event["t"] for _, events in nodes for event in events] + [at for at, _ in marks]
    if not times:
        return Timeline(title)
    zero, last = min(times), max(times)
    made = Timeline(title, last - zero, marks=[(at - zero, text) for at, text in sorted(marks)])
    for at, text in made.marks:
        made.lines.append((at, "scenario", text))
    for name, events in nodes:
        lanes: dict[int, Lane] = {}
        for event in events:
            at = event["t"] - zero
            words = in_words(event)
            if words:
                made.lines.append((at, name, words))
            if "conn" in event:
                follow(lanes, name, event, at, made.length)
        for number, lane in lanes.items():
            close_span(lane, lane.end)
            for start, seconds in (gaps or {}).get((name, number), ()):
                lane.gaps.append((start - zero, start - zero + seconds))
                made.lines.append((start - zero, name, f"{number}: no echo for {seconds:.3f} s"))
        made.lanes += lanes.values()
    made.lines.sort(key=lambda one: one[0])
    return made


def follow(lanes: dict[int, Lane], name: str, event: Event, at: float, length: float) -> None:
    """Enter an event of a connection into its lane."""
    number, what = event["conn"], event["event"]
    lane = lanes.setdefault(number, Lane(f"{name} {number}", at, length))
    if what == "closed":
        lane.end = at
    elif what == "path" and event.get("what") == "selected":
        close_span(lane, at)
        kind = event.get("kind", "")
        lane.spans.append((at, at, kind if kind in KINDS else "", str(event.get("remote", ""))))


def close_span(lane: Lane, at: float) -> None:
    """The path selected so far was it until then."""
    if lane.spans:
        start, _, kind, remote = lane.spans[-1]
        lane.spans[-1] = start, max(at, start), kind, remote


def in_words(event: Event) -> str:
    """An event as a line of text; "" for one that is no news."""
    what, conn = event["event"], event.get("conn")
    if what == "ready":
        return f"started ({event.get('kind')})"
    if what in ("accepted", "connected"):
        return f"{conn}: {what}, with {str(event.get('remote'))[:10]}"
    if what == "path":
        path = f"path {event.get('id')} {event.get('remote')}"
        reason = f": {event['reason']}" if event.get("reason") else ""
        return f"{conn}: {event.get('what')} {path}{reason}"
    if what == "closed":
        return f"{conn}: closed: {event.get('reason')}"
    if what == "home":
        return f"home relay {event.get('relay')}: {event.get('state')}"
    if what == "addr":
        return f"own addresses: {', '.join([*event.get('ips', ()), *event.get('relays', ())]) or 'none'}"
    return f"{what} { {k: v for k, v in event.items() if k not in ('event', 't')} }"
