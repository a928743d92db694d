"""Small pictures of bars as SVG: one panel for each thing that was measured, all on the same scale."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

COLUMNS = 2
WIDTH, HEIGHT, GAP = 380, 190, 30
TITLE, FOOT = 24, 20
TOP = 1.25
"""The scale goes from 0 to this; what is higher is cut off there and says how high it is."""
LINES = (0, 0.25, 0.5, 0.75, 1)
COLOURS = ("#3b6ea8", "#d08a2c", "#5a9367", "#9a5aa0")
FONT = "font-family='DejaVu Sans, Verdana, sans-serif' font-size='11' fill='#222'"


class Bar(NamedTuple):
    """How high it is, and between what it varied."""

    lowest: float
    median: float
    highest: float


class Panel(NamedTuple):
    """Groups of bars under a title: bars by series, in each group the same ones."""

    title: str
    groups: Mapping[str, Mapping[str, Bar]]


def picture(panels: Sequence[Panel]) -> str:
    """Draw it. The last place says which series has which colour."""
    rows = -(-(len(panels) + 1) // COLUMNS)
    size = (COLUMNS * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP)
    parts = [_at(number, _panel(panel)) for number, panel in enumerate(panels)]
    parts.append(_at(len(panels), _legend(next(iter(panels[0].groups.values())))))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' {FONT}>\n"
        f"<rect width='100%' height='100%' fill='#fff'/>\n{''.join(parts)}</svg>\n"
    )


def _at(place: int, drawn: str) -> str:
    row, column = divmod(place, COLUMNS)
    x, y = GAP + column * (WIDTH + GAP), GAP + row * (HEIGHT + GAP)
    return f"<g transform='translate({x} {y})'>\n{drawn}</g>\n"


def _y(value: float) -> float:
    return HEIGHT - FOOT - (HEIGHT - FOOT - TITLE) * min(value, TOP) / TOP


def _panel(panel: Panel) -> str:
    lines = [f"<text y='6' font-weight='bold'>{escape(panel.title)}</text>"]
    for value in LINES:
        colour = "#222" if value == 1 else "#ddd"
        lines.append(f"<path d='M0 {_y(value):.1f}H{WIDTH}' stroke='{colour}'/>")
        lines.append(f"<text x='-4' y='{_y(value) + 4:.1f}' text-anchor='end'>{value:g}</text>")
    wide = WIDTH / len(panel.groups)
    for place, (name, bars) in enumerate(panel.groups.items()):
        left, each = (place + 0.1) * wide, 0.8 * wide / len(bars)
        for number, bar in enumerate(bars.values()):
            lines += _bar(bar, left + number * each, each, COLOURS[number])
        lines.append(
            f"<text x='{(place + 0.5) * wide:.1f}' y='{HEIGHT - 4}' text-anchor='middle'>{escape(name)}</text>"
        )
    return "".join(f"{line}\n" for line in lines)


def _bar(bar: Bar, x: float, width: float, colour: str) -> list[str]:
    middle, top = x + width / 2, _y(bar.median)
    return [
        f"<rect x='{x + 1:.1f}' y='{top:.1f}' width='{width - 2:.1f}' height='{_y(0) - top:.1f}' fill='{colour}'/>",
        f"<path d='M{middle:.1f} {_y(bar.lowest):.1f}V{_y(bar.highest):.1f}' stroke='#222'/>",
        f"<text x='{middle:.1f}' y='{_y(0) - 4:.1f}' text-anchor='middle' fill='#fff'>{bar.median:.2f}</text>",
    ]


def _legend(series: Mapping[str, Bar]) -> str:
    lines = []
    for number, name in enumerate(series):
        y = TITLE + 22 * number
        lines.append(f"<rect y='{y}' width='14' height='14' fill='{COLOURS[number]}'/>")
        lines.append(f"<text x='20' y='{y + 11}'>{escape(name)}</text>")
    return "".join(f"{line}\n" for line in lines)
