"""What the exporter serves: the metrics page, the landing page, and `/-/healthy`."""

import gzip
import html
import math
import time
from typing import TYPE_CHECKING

import structlog

from exporter import __version__
from exporter.exposition import CONTENT_TYPE, render
from exporter.scrape import Scraper, UnknownCollectorError
from exporter.web import Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

DEFAULT_TIMEOUT_SECONDS = 10.0  # Prometheus's own default
# What is kept back from the scraper's timeout to render the page and to send it.
MARGIN_FRACTION = 0.2
MARGIN_MAX_SECONDS = 0.5
# Level 1 of gzip costs a twentieth of level 9 and leaves the page about a tenth larger.
GZIP_LEVEL = 1
GZIP_FROM_BYTES = 4096


def deadline(received: float, timeout: str | None) -> float:
    """Return when collectors must have answered, in `time.monotonic()` seconds.

    Args:
        received: when the request came.
        timeout: the header X-Prometheus-Scrape-Timeout-Seconds; anything but a positive number
            counts as none.
    """
    try:
        seconds = float(timeout or "")
    except ValueError:
        seconds = DEFAULT_TIMEOUT_SECONDS
    if not (math.isfinite(seconds) and seconds > 0):
        seconds = DEFAULT_TIMEOUT_SECONDS
    return received + seconds - min(seconds * MARGIN_FRACTION, MARGIN_MAX_SECONDS)


class Pages:
    """The handler for `exporter.web.Server`."""

    def __init__(self, scraper: Scraper, telemetry_path: str) -> None:
        """Take what to serve and where."""
        self._scraper = scraper
        self._telemetry_path = telemetry_path
        self._paths: dict[str, Callable[[Request], Response]] = {
            "/": self._landing,
            "/-/healthy": self._healthy,
            telemetry_path: self._metrics,
        }

    def __call__(self, request: Request) -> Response:
        """Answer one request."""
        page = self._paths.get(request.path)
        if page is None:
            return Response(404, f"nothing is here; the metrics are at {self._telemetry_path}\n".encode())
        return page(request)

    def _healthy(self, _request: Request) -> Response:
        return Response(200, b"vmheal-exporter is healthy.\n")

    def _landing(self, _request: Request) -> Response:
        path = html.escape(self._telemetry_path, quote=True)
        links = "".join(
            f'<li><a href="{path}?collect[]={html.escape(name)}">{html.escape(name)}</a></li>'
            for name in self._scraper.names
        )
        body = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>vmheal-exporter</title>'
            "</head><body>"
            f"<h1>vmheal-exporter {html.escape(__version__)}</h1>"
            "<p>The state of this hypervisor's DRBD resources and virtual machines, for Prometheus.</p>"
            f'<p><a href="{path}">All metrics</a>, or those of one collector:</p><ul>{links}</ul>'
            '<p><a href="/-/healthy">Health of the exporter</a></p></body></html>\n'
        )
        return Response(200, body.encode(), "text/html; charset=utf-8")

    def _metrics(self, request: Request) -> Response:
        unknown = [name for name in request.query if name != "collect[]"]
        if unknown:
            return Response(400, f"unknown parameter {unknown[0]!r}; the only one is collect[]\n".encode())
        try:
            names = self._scraper.select(request.query.get("collect[]", ()))
        except UnknownCollectorError as error:
            return Response(400, f"{error}\n".encode())
        timeout = request.headers.get("x-prometheus-scrape-timeout-seconds")
        metrics = self._scraper.scrape(names, deadline(request.received, timeout))
        # The classic text format only, whatever is accepted: OpenMetrics would say nothing more, and the
        # client library's renderer of it costs more than all collectors together.
        body = render(metrics)
        headers = [("Vary", "Accept-Encoding")]
        if len(body) >= GZIP_FROM_BYTES and _accepts_gzip(request.headers.get("accept-encoding", "")):
            body = gzip.compress(body, GZIP_LEVEL)
            headers.append(("Content-Encoding", "gzip"))
        log.debug(
            "scraped",
            collectors=",".join(names),
            bytes=len(body),
            seconds=round(time.monotonic() - request.received, 4),
        )
        return Response(200, body, CONTENT_TYPE, headers)


def _accepts_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        coding, _, parameters = part.strip().partition(";")
        if coding.strip().lower() == "gzip":
            return parameters.replace(" ", "").lower() not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
