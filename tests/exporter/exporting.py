"""The real program, as an operator starts it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.exporter.pages import SECONDS, series

START_SECONDS = 60.0
PROGRAM = Path(sys.executable).with_name("vmheal-exporter")


class Exporter:
    """A running exporter."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path):
        self.process = process
        self.port = port
        self.log = log

    def get(self, query: str = "", timeout: float = 10.0) -> str:
        """Return a page of metrics; `timeout` is what a scraper would give it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/metrics{query and '?' + query}",
            headers={"X-Prometheus-Scrape-Timeout-Seconds": str(timeout)},
        )
        with urllib.request.urlopen(request, timeout=timeout) as response:  # a real scraper's patience
            return response.read().decode()

    def scrape(self, *names: str, timeout: float = 10.0) -> dict[Any, float]:
        """Return the series of these collectors."""
        page = self.get("&".join(f"collect[]={name}" for name in names), timeout)
        return series(text_string_to_metric_families(page))

    def threads(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/task"))  # noqa: PTH208  names are not needed


@contextlib.contextmanager
def exporting(folder: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Exporter]:
    """Start the exporter on a free port and end it with SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    log = folder / "exporter.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(PROGRAM), f"--web.listen-address=127.0.0.1:{port}", *flags],
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    exporter = Exporter(process, port, log)
    try:
        _wait(exporter)
        yield exporter
        process.terminate()
        assert process.wait(SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _wait(exporter: Exporter) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/-/healthy", timeout=5) as response:
                assert response.status == 200
                return
        except urllib.error.URLError:
            if exporter.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(exporter.log.read_text()) from None
        threading.Event().wait(0.02)
