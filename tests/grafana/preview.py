"""A preview of a dashboard: its file and real answers of Prometheus, drawn as one page of HTML.

This is not Grafana. It draws what our files use of it, so that a person, and a browser, can see whether a layout
holds and whether a panel tells something: places, titles, units, colours, texts, series.
"""

import html
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.grafana.asking import Prometheus, Series, merged
from tests.grafana.boards import Panel, board, labelled

WIDTH, ROW, GAP = 1500, 30, 8
"""Pixels: of the page, and of Grafana's grid."""
LONG = 14
"""Characters: Grafana makes a longer name smaller, too."""
SERIES = ("green", "yellow", "blue", "orange", "red", "purple")


@dataclass(frozen=True)
class Theme:
    """Grafana's colours in one of its themes."""

    name: str
    page: str
    panel: str
    edge: str
    text: str
    dim: str
    palette: Mapping[str, str]

    def colour(self, name: str) -> str:
        """A name of the palette, as a colour."""
        own = {"text": self.text, "transparent": "transparent"}
        return own.get(name) or self.palette[name]


DARK = Theme(
    "dark", "#111217", "#181b1f", "#2c3037", "#ccccdc", "#9094a3",
    {"green": "#73bf69", "yellow": "#fade2a", "blue": "#5794f2", "orange": "#ff9830", "red": "#f2495c", "purple": "#b877d9"},
)  # fmt: skip
LIGHT = Theme(
    "light", "#f4f5f5", "#ffffff", "#dcdcde", "#24292e", "#5f6570",
    {"green": "#56a64b", "yellow": "#e0b400", "blue": "#3274d9", "orange": "#ff780a", "red": "#e02f44", "purple": "#a352cc"},
)  # fmt: skip
THEMES = (DARK, LIGHT)


# ---- values ----------------------------------------------------------------------------------------------


def text_of(value: float, unit: str, now: float) -> str:
    """A value as Grafana writes it, or nearly so."""
    write: dict[str, Callable[[], str]] = {
        "none": lambda: f"{value:.4g}",
        "short": lambda: f"{value:.4g}",
        "bytes": lambda: _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB")),
        "Bps": lambda: _scaled(value, 1000, ("B/s", "kB/s", "MB/s", "GB/s")),
        "iops": lambda: f"{value:.3g} io/s",
        "s": lambda: _seconds(value),
        "percentunit": lambda: f"{value:.0%}",
        "dateTimeFromNow": lambda: f"{_seconds(now - value / 1000)} ago",
        "dateTimeAsIso": lambda: time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(value / 1000)),
    }
    return write[unit]()


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = min(int(math.log(value, base)), len(units) - 1) if value >= 1 else 0
    return f"{value / base**power:.3g} {units[power]}"


def _seconds(value: float) -> str:
    for limit, factor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "mins"), (172800, 3600, "hours")):
        if abs(value) < limit:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 86400:.3g} days"


def shown(value: float, options: Mapping[str, Any], now: float) -> tuple[str, str]:
    """Text and colour of a value, by the options of its field."""
    for mapping in options.get("mappings", ()):
        key = f"{value:g}" if isinstance(value, float) else value
        if found := mapping["options"].get(key):
            return found["text"], found["color"]
    if not isinstance(value, float):
        return value, "text"
    colour = "text"
    for step in options.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    return text_of(value, options.get("unit", "none"), now), colour


def column_options(panel: Panel, title: str) -> dict[str, Any]:
    """The options of a table's column."""
    return {**panel.defaults, **panel.overrides.get(title, {})}


# ---- panels ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawing:
    """One page."""

    asked: Prometheus
    theme: Theme
    begin: float
    end: float

    def page(self, name: str) -> str:
        """The whole dashboard as HTML."""
        made = board(name)
        blocks = []
        for raw in made["panels"]:
            place = _place(raw["gridPos"])
            if raw["type"] == "row":
                blocks.append(f'<h2 style="{place}">{html.escape(raw["title"])}</h2>')
                continue
            panel = Panel(name, raw)
            inside = self._draw(panel)
            blocks.append(
                f'<section class="{panel.type}" style="{place}" data-title="{html.escape(panel.title)}">'
                f"<h3>{html.escape(panel.title)}</h3>{inside}</section>"
            )
        chosen = " ".join(
            f"<span>{html.escape(it['label'])} <b>"
            f"{html.escape(self.asked.variables[name].get(it['name'], '').replace('.+', 'All'))}</b></span>"
            for it in made["templating"]["list"]
            if it["type"] == "query" and it.get("hide", 0) == 0
        )
        style = _STYLE.format(theme=self.theme, width=WIDTH, row=ROW, gap=GAP)
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{made["title"]}</title>'
            f"<style>{style}</style><h1>{made['title']}</h1><nav>{chosen}"
            "<small>preview by vmheal's tests, with real data; not Grafana</small></nav>"
            f"<main>{''.join(blocks)}</main><script>{_MEASURE}</script></html>"
        )

    def _draw(self, panel: Panel) -> str:
        how: dict[str, Callable[[Panel], str]] = {
            "stat": self._stat,
            "table": self._table,
            "timeseries": self._graph,
            "state-timeline": self._timeline,
        }
        return how[panel.type](panel)

    def _stat(self, panel: Panel) -> str:
        (target,) = panel.targets
        found = self.asked.at(panel, target, self.begin, self.end)
        if not found:
            return self._nothing(panel, big=True)
        names = panel.raw["options"]["textMode"] == "name"
        figures = []
        for it in found:
            text, colour = shown(it.last, panel.defaults, self.end)
            label = labelled(target.legend, it.labels)
            figures.append(
                f'<b style="color:{self.theme.colour(colour)}">{html.escape(label if names else text)}</b>'
            )
        size = 2 if len(figures) == 1 and len(label) > LONG and names else min(len(figures), 3)
        return f'<div class="figures n{size}">{"".join(figures)}</div>'

    def _table(self, panel: Panel) -> str:
        answers = {it.ref: self.asked.at(panel, it, self.begin, self.end) for it in panel.targets}
        rows = merged(panel, answers)
        if not rows:
            return self._nothing(panel)
        sort = panel.raw["options"].get("sortBy") or [{"displayName": next(iter(panel.columns.values()))}]
        key, reverse = sort[0]["displayName"], sort[0].get("desc", False)
        rows.sort(key=lambda row: (row[key] is None, row[key]), reverse=reverse)
        head = "".join(f"<th>{html.escape(title)}</th>" for title in panel.columns.values())
        body = "".join(
            "<tr>" + "".join(self._cell(panel, title, value) for title, value in row.items()) + "</tr>"
            for row in rows
        )
        return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'

    def _cell(self, panel: Panel, title: str, value: float | str | None) -> str:
        if value is None:
            return "<td></td>"
        options = column_options(panel, title)
        text, colour = shown(value, options, self.end)
        if options.get("links"):
            text, colour = f"{text}", "blue"
        return f'<td style="color:{self.theme.colour(colour)}">{html.escape(text)}</td>'

    def _asked(self, panel: Panel) -> list[tuple[str, Series]]:
        """All series of the panel, with their names."""
        step = max(1.0, (self.end - self.begin) / 400)
        return [
            (labelled(target.legend, it.labels).strip(), it)
            for target in panel.targets
            for it in self.asked.over_time(panel, target, self.begin, self.end, step)
        ]

    def _graph(self, panel: Panel) -> str:
        found = self._asked(panel)
        if not found:
            return self._nothing(panel)
        if "stacking" in panel.defaults["custom"]:
            found = _stacked(found)
        values = [value for _, it in found for _, value in it.samples]
        low, high = panel.defaults.get("min", min(values)), panel.defaults.get("max", max(values))
        high = high if high > low else low + 1
        unit = panel.defaults["unit"]
        lines = []
        for number, (_, it) in enumerate(found):
            colour = self.theme.colour(SERIES[number % len(SERIES)])
            for piece in _pieces(it.samples, 5):
                points = " ".join(
                    f"{self._x(at):.1f},{100 - (value - low) / (high - low) * 96:.1f}" for at, value in piece
                )
                lines.append(f'<polyline points="{points}" stroke="{colour}"/>')
        axis = "".join(f"<i>{text_of(low + (high - low) * part, unit, self.end)}</i>" for part in (1, 0.5, 0))
        legend = "".join(
            f'<span><i style="background:{self.theme.colour(SERIES[number % len(SERIES)])}"></i>'
            f"{html.escape(name)}</span>"
            for number, (name, _) in enumerate(found)
        )
        return (
            f'<div class="plot"><div class="axis">{axis}</div>'
            f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none">{"".join(lines)}</svg></div>'
            f'<div class="legend">{legend}</div>'
        )

    def _timeline(self, panel: Panel) -> str:
        found = self._asked(panel)
        if not found:
            return self._nothing(panel)
        rows = []
        for name, it in sorted(found, key=lambda each: each[0]):
            bars = []
            for piece in _pieces(it.samples, 2):
                for value, begin, end in _runs(piece):
                    text, colour = shown(value, panel.defaults, self.end)
                    left, right = self._x(begin) / 10, min(self._x(end + 1) / 10, 100)
                    dim = f";color:{self.theme.dim}" if colour == "transparent" else ""
                    bars.append(
                        f'<u style="left:{left:.2f}%;width:{right - left:.2f}%;'
                        f'background:{self.theme.colour(colour)}{dim}">'
                        f"{html.escape(text) if right - left > 6 else ''}</u>"
                    )
            rows.append(f'<div class="row"><span>{html.escape(name)}</span><div>{"".join(bars)}</div></div>')
        return f'<div class="rows">{"".join(rows)}</div>'

    def _nothing(self, panel: Panel, *, big: bool = False) -> str:
        text = panel.defaults.get("noValue", "No data")
        return f'<div class="{"figures n1" if big else "nothing"}"><b>{html.escape(text)}</b></div>'

    def _x(self, at: float) -> float:
        """Of 1000."""
        return (at - self.begin) / (self.end - self.begin) * 1000


def _place(at: Mapping[str, int]) -> str:
    return (
        f"grid-column:{at['x'] + 1}/span {at['w']};grid-row:{at['y'] + 1}/span {at['h']};"
        f"height:{at['h'] * (ROW + GAP) - GAP}px"
    )


def _pieces(samples: Sequence[tuple[float, float]], gap: float) -> Iterable[list[tuple[float, float]]]:
    """Samples without a gap between them."""
    piece: list[tuple[float, float]] = []
    for at, value in samples:
        if piece and at - piece[-1][0] > gap:
            yield piece
            piece = []
        piece.append((at, value))
    yield piece


def _runs(samples: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float, float]]:
    """Value, begin and end of each stretch of one value."""
    begin, before = samples[0][0], samples[0][1]
    for at, value in samples:
        if value != before:
            yield before, begin, at - 1
            begin, before = at, value
    yield before, begin, samples[-1][0]


def _stacked(found: Sequence[tuple[str, Series]]) -> list[tuple[str, Series]]:
    below: dict[float, float] = {}
    made = []
    for name, it in found:
        samples = []
        for at, value in it.samples:
            below[at] = below.get(at, 0) + value
            samples.append((at, below[at]))
        made.append((name, Series(it.labels, samples)))
    return made


_STYLE = """
* {{ box-sizing: border-box; margin: 0 }}
body {{ width: {width}px; padding: 12px; background: {theme.page}; color: {theme.text}; font: 13px/1.3 Inter, 'DejaVu Sans', sans-serif }}
h1 {{ font-size: 16px; font-weight: 500; padding-bottom: 6px }}
h2 {{ font-size: 14px; font-weight: 500; padding-top: 6px }}
h3 {{ font-size: 12.5px; font-weight: 500; padding-bottom: 4px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }}
nav {{ padding-bottom: 10px; color: {theme.dim} }} nav b {{ color: {theme.text}; padding-right: 16px }} nav small {{ float: right }}
main {{ display: grid; grid-template-columns: repeat(24, 1fr); grid-auto-rows: {row}px; gap: {gap}px }}
section {{ background: {theme.panel}; border: 1px solid {theme.edge}; border-radius: 3px; padding: 8px; overflow: hidden; display: flex; flex-direction: column }}
.figures {{ flex: 1; display: flex; align-items: center; justify-content: center; gap: 14px; font-size: 26px; text-align: center; line-height: 1.1 }}
.figures b {{ font-weight: 500 }} .n2 {{ font-size: 20px }} .n3 {{ font-size: 16px }}
.stat .figures {{ overflow-wrap: anywhere }}
.nothing {{ flex: 1; display: flex; align-items: center; justify-content: center; color: {theme.dim} }} .nothing b {{ font-weight: 400 }}
.scroll {{ overflow: auto }}
table {{ border-collapse: collapse; width: 100% }} th, td {{ text-align: left; font-weight: 400; padding: 4px 6px; border-bottom: 1px solid {theme.edge}; white-space: nowrap }}
th {{ color: {theme.dim}; font-size: 12px }}
.plot {{ flex: 1; display: flex; min-height: 0 }} .plot svg {{ flex: 1; min-width: 0; height: 100%; border-left: 1px solid {theme.edge}; border-bottom: 1px solid {theme.edge} }}
polyline {{ fill: none; stroke-width: 1.5px; vector-effect: non-scaling-stroke }}
.axis {{ display: flex; flex-direction: column; justify-content: space-between; padding-right: 6px; text-align: right; color: {theme.dim}; font-size: 11px }} .axis i {{ font-style: normal; white-space: nowrap }}
.legend {{ font-size: 11px; color: {theme.dim}; padding-top: 4px; max-height: 34px; overflow: auto }} .legend span {{ padding-right: 10px; white-space: nowrap; display: inline-block }} .legend i {{ display: inline-block; width: 12px; height: 3px; margin-right: 4px; vertical-align: middle }}
.rows {{ flex: 1; display: flex; flex-direction: column; justify-content: space-around; min-height: 0 }}
.row {{ display: flex; align-items: center; flex: 1; max-height: 30px; min-height: 0 }} .row > span {{ width: 260px; font-size: 11px; color: {theme.dim}; padding-right: 8px; text-align: right; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }}
.row > div {{ position: relative; flex: 1; height: 80%; background: color-mix(in srgb, {theme.edge} 40%, transparent) }}
.row u {{ position: absolute; top: 0; bottom: 0; text-decoration: none; font-size: 11px; overflow: hidden; color: #111217; display: flex; align-items: center; padding-left: 4px; white-space: nowrap; opacity: .85 }}
"""
# Says what does not fit: the test reads it.
_MEASURE = """
const cut = [];
for (const section of document.querySelectorAll('section')) {
  const inner = section.querySelector('.figures, .scroll, .rows');
  const title = section.querySelector('h3');
  if (inner && (inner.scrollHeight > inner.clientHeight + 1 || inner.scrollWidth > inner.clientWidth + 1)) cut.push(section.dataset.title);
  for (const name of section.querySelectorAll('.row > span')) if (name.scrollWidth > name.clientWidth + 1) cut.push(section.dataset.title + ' | ' + name.textContent);
  if (title.scrollWidth > title.clientWidth + 1) cut.push(section.dataset.title + ' | title');
}
document.body.dataset.cut = JSON.stringify(cut);
"""
