"""The status page in a browser while a host is lost with all its VMs, and how it looked.

python -m tests.line.page FOLDER      draws the pictures of docs/page.md
"""

import sys
import tempfile
import threading
from pathlib import Path

from actuator.model import Proof
from tests.browser import PHONE, TAB, Browser, browser
from tests.lab.moves import Failover
from tests.line.line import SOON
from tests.line.loss import LosableLine

VMS = ("voms01", "ce01")
PAGE = "http://127.0.0.1:10811"
DESK = (1000, 900)


class Watched(LosableLine):
    """A site without fence agents, with its page in a browser. One plan at a time on each host."""

    def __init__(self, folder: Path, pictures: Path | None = None) -> None:
        """Start nothing yet.

        Args:
            folder: for all that is configured and logged.
            pictures: gets what the window showed; None: nobody wants to see it.
        """
        super().__init__(folder, VMS, Proof.ARBITRATED, plans_per_host=1)
        self._pictures = pictures

    def log_in(self, window: Browser) -> None:
        """By keyboard."""
        window.open(f"{PAGE}/login")
        window.tab_to("Your name")
        window.press(f"ann{TAB}{self.token}-for-operators\ue007")
        window.wait_text("runs on v01")

    def lose_before(self, window: Browser) -> tuple[Failover, list[str]]:
        """Lose the host while the page stands open; how long each part took, and all that was read on it."""
        read: list[str] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                said = window.text()
                if not read or read[-1] != said:
                    read.append(said)
                if self._pictures is not None and "cannot run on v01 any more: " in said:
                    self._draw(window, "page")
                    self._pictures = None

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        try:
            took = self.lose()
        finally:
            over.set()
            watching.join(SOON)
        return took, read

    def _draw(self, window: Browser, name: str) -> None:
        for suffix, size, dark in (("", DESK, False), ("-dark", DESK, True), ("-phone", PHONE, False)):
            window.be(*size, dark=dark)
            window.picture(self._pictures / f"{name}{suffix}.png")
        window.be(*DESK)


def draw(folder: Path, pictures: Path) -> None:
    """Play, and draw."""
    with Watched(folder, pictures) as line:
        line.wait_at_rest()
        with browser(folder, line.netns) as window:
            window.be(*DESK)
            line.log_in(window)
            line.lose_before(window)
            window.open(f"{PAGE}/plans/voms01-1")
            window.wait_text("plan succeeded")
            window.picture(pictures / "page-plan.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch), Path(sys.argv[1]))
