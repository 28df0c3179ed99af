"""Bar charts as SVG, one panel per measure; no dependencies."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
COLUMNS = 2
GAP = 28
LABEL = 118  # room for names left of the bars
VALUE = 96  # room for numbers right of them
BAR = 16
STEP = 22
HEAD = 30

STYLE = """
text { font: 12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 13px; }
.note, .foot { fill: #57606a; }
.foot { font-size: 11px; }
.own { fill: #1a7f5a; }
.rival { fill: #8c959f; }
.limit { fill: #d0d7de; }
.own-text { font-weight: 600; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .note, .foot { fill: #9198a1; }
  .own { fill: #3fb984; }
  .rival { fill: #6e7681; }
  .limit { fill: #30363d; }
}
"""


@dataclass
class Bar:
    name: str
    value: float
    text: str
    kind: str  # "own", "rival" or "limit": how it is painted


@dataclass
class Panel:
    title: str
    note: str
    bars: list[Bar]

    @property
    def height(self) -> int:
        return HEAD + STEP * len(self.bars)


def text(x: float, y: float, content: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}" text-anchor="{anchor}">{escape(content)}</text>'


def draw_panel(panel: Panel, x: float, y: float, width: float) -> list[str]:
    out = [
        f'<text x="{x:.1f}" y="{y + 14:.1f}" class="title">{escape(panel.title)}'
        f'<tspan class="note" font-weight="400" dx="8">{escape(panel.note)}</tspan></text>'
    ]
    largest = max(bar.value for bar in panel.bars) or 1.0
    room = width - LABEL - VALUE
    for i, bar in enumerate(panel.bars):
        top = y + HEAD + i * STEP
        length = max(1.0, room * bar.value / largest)
        css = "own-text" if bar.kind == "own" else ""
        out += [
            text(x + LABEL - 8, top + 12.5, bar.name, css, "end"),
            f'<rect x="{x + LABEL:.1f}" y="{top:.1f}" width="{length:.1f}" height="{BAR}" rx="2" class="{bar.kind}"/>',
            text(x + LABEL + length + 6, top + 12.5, bar.text, css),
        ]
    return out


def svg(panels: list[Panel], footer: list[str]) -> str:
    """Draw panels in columns, each under the shorter one, and a few lines of small print."""
    width = (WIDTH - GAP * (COLUMNS + 1)) / COLUMNS
    bottoms = [float(GAP)] * COLUMNS
    body: list[str] = []
    for panel in panels:
        column = bottoms.index(min(bottoms))
        body += draw_panel(panel, GAP + column * (width + GAP), bottoms[column], width)
        bottoms[column] += panel.height + GAP
    height = max(bottoms)
    for line in footer:
        body.append(text(GAP, height, line, "foot"))
        height += 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 4:.0f}" '
            f'width="{WIDTH}" height="{height + 4:.0f}" role="img" aria-label="Benchmark results">',
            f"<style>{STYLE}</style>",
            *body,
            "</svg>",
            "",
        ]
    )
