"""`python -m tests.grafana.pictures KEPT FOLDER` draws the pictures of docs/dashboards.md from a play that was kept."""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.grafana import chromium
from tests.grafana.asking import Prometheus
from tests.grafana.boards import NAMES, board
from tests.grafana.play import FAILING, TIMES
from tests.grafana.preview import DARK, GAP, LIGHT, ROW, WIDTH, Drawing, Theme
from tests.prometheus import prometheus

ANY = ".+"
VARIABLES: Mapping[str, Mapping[str, str]] = {
    "fleet": {"host": ANY},
    "host": {"host": "v01"},
    "vm": {"domain": FAILING, "resource": FAILING},
    "drbd": {"name": FAILING, "domain": FAILING},
    "actions": {"host": ANY},
}
"""The host that is lost, and the VM that is in the most trouble."""
MOMENTS = {
    "fleet": "lost",
    "host": "people_look_at_a_host",
    "vm": "refused",
    "drbd": "split",
    "actions": "end",
}
"""Each is drawn as it is then: when there is something to see."""


@dataclass(frozen=True)
class Played:
    """A play: what Prometheus kept of it, and its marks (wall clock)."""

    asked: Prometheus
    times: Mapping[str, float]

    @property
    def begin(self) -> float:
        """At rest."""
        return self.times["a_vm_stands_still"] - 3

    @property
    def end(self) -> float:
        return self.times["end"]


@contextlib.contextmanager
def played(kept: Path, folder: Path) -> Iterator[Played]:
    """Run Prometheus on what a play left; its log goes to the other folder."""
    times = json.loads((kept / TIMES).read_text())
    (folder / "prometheus").symlink_to(kept / "prometheus")
    with prometheus("global: {}\n", folder) as server:
        yield Played(Prometheus(server.url, VARIABLES), times)


def height(name: str) -> int:
    """Of the page with a dashboard, in pixels."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board(name)["panels"])
    return rows * (ROW + GAP) + 90


def page(of: Played, name: str, theme: Theme, folder: Path) -> Path:
    """Draw a dashboard into a file of HTML."""
    path = folder / f"{name}-{theme.name}.html"
    drawing = Drawing(of.asked, theme, of.begin, of.times[MOMENTS[name]])
    path.write_text(drawing.page(name), encoding="utf-8")
    return path


if __name__ == "__main__":
    kept, target = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as scratch, played(kept, Path(scratch)) as of:
        for name in NAMES:
            theme = LIGHT if name in {"host", "drbd"} else DARK
            drawn = page(of, name, theme, Path(scratch))
            chromium.picture(drawn, target / f"{name}.png", WIDTH, height(name))
