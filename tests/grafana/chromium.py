"""Debian's Chromium without a screen: what a page looks like, and what a script in it found."""

import html
import json
import re
import subprocess
import tempfile
from pathlib import Path

TIMEOUT_SECONDS = 120.0
_CUT = re.compile(r'data-cut="([^"]*)"')


def _run(*flags: str, page: Path) -> str:
    with tempfile.TemporaryDirectory() as profile:
        argv = [
            "chromium",
            "--headless",
            "--no-sandbox",  # which root needs
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            f"--user-data-dir={profile}",
            *flags,
            page.as_uri(),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def picture(page: Path, png: Path, width: int, height: int) -> None:
    """Put what a window of this size shows into a file, somewhat smaller."""
    size = f"--window-size={width},{height}"
    _run(f"--screenshot={png}", size, "--force-device-scale-factor=0.8", page=page)


def cut_off(page: Path, width: int, height: int) -> list[str]:
    """What does not fit into its place, by the page's own measure (see `preview`)."""
    said = _run("--dump-dom", f"--window-size={width},{height}", page=page)
    (found,) = _CUT.findall(said)
    names: list[str] = json.loads(html.unescape(found))
    return names
