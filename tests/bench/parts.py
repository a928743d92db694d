"""A table of what was measured several times, part by part."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def table(title: str, measured: Mapping[str, Sequence["DataclassInstance"]]) -> Table:
    """Return it: of each field the shortest, the median, and the longest, under the name of each series."""
    shown = Table(title=title)
    for heading in ("part", "shortest", "median", "longest"):
        shown.add_column(heading)
    for series, found in measured.items():
        shown.add_row(series, style="bold")
        columns = [asdict(it) for it in found]
        for name in columns[0]:
            values = [column[name] for column in columns]
            figures = (min(values), statistics.median(values), max(values))
            shown.add_row(name.replace("_", " "), *(f"{value:.2f}" for value in figures))
        shown.add_section()
    return shown
