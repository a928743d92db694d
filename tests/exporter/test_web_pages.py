import gzip
import time

import pytest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.scrape import Scraper
from exporter.web import Request
from exporter.web_pages import Pages, deadline


class Many:
    name = "many"
    deadlines: list[float]

    def __init__(self):
        self.deadlines = []

    def collect(self, deadline):
        self.deadlines.append(deadline)
        family = GaugeMetricFamily("many_things", "Things.", labels=["thing"])
        for number in range(500):
            family.add_metric([str(number)], number)
        return [family]

    def down(self):
        return ()

    def close(self):
        pass


class Other(Many):
    name = "other.one"

    def collect(self, deadline):
        return [GaugeMetricFamily("other", "Other.", value=1)]


def request(path, query=None, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("GET", path, query or {}, named, time.monotonic())


@pytest.fixture
def pages():
    return Pages(Scraper([Many(), Other()]), "/metrics")


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("1", 0.8),
        ("0.5", 0.4),
        ("10", 9.5),
        ("60.0", 59.5),
        *((bad, 9.5) for bad in (None, "", "x", "-1", "0", "nan", "inf", "1e999")),
    ],
)
def test_the_deadline_leaves_a_margin_and_ignores_nonsense(timeout, seconds):
    assert deadline(100.0, timeout) == pytest.approx(100.0 + seconds)


def test_the_page_is_valid_text(pages):
    response = pages(request("/metrics"))
    assert response.status == 200
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name for family in parse_text(response.body.decode())}
    assert families == {
        "many_things",
        "other",
        "vmheal_exporter_collector_success",
        "vmheal_exporter_collector_duration_seconds",
    }


def test_the_page_is_the_same_text_for_those_who_would_take_openmetrics(pages):
    response = pages(
        request("/metrics", accept="application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    )
    assert response.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert "many_things" in {family.name for family in parse_text(response.body.decode())}


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("xgzip", False),
    ],
)
def test_compression_is_negotiated(pages, accepted, compressed):
    plain = pages(request("/metrics", {"collect[]": ["many"]}))
    response = pages(request("/metrics", {"collect[]": ["many"]}, accept_encoding=accepted))
    assert (("Content-Encoding", "gzip") in response.headers) == compressed
    body = gzip.decompress(response.body) if compressed else response.body
    assert body.decode().count("many_things{") == plain.body.decode().count("many_things{") == 500


def test_a_small_page_is_not_compressed(pages):
    response = pages(request("/metrics", {"collect[]": ["other.one"]}, accept_encoding="gzip"))
    assert ("Content-Encoding", "gzip") not in response.headers
    assert b"many_things" not in response.body


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"collect[]": ["many", "nope"]}, "no collector 'nope' runs here; there are: many, other.one\n"),
        ({"collect": ["many"]}, "unknown parameter 'collect'; the only one is collect[]\n"),
    ],
)
def test_what_is_asked_wrongly_is_400_with_a_sentence(pages, query, sentence):
    response = pages(request("/metrics", query))
    assert (response.status, response.body.decode()) == (400, sentence)


def test_the_landing_page_leads_to_the_metrics():
    landing = Pages(Scraper([Many(), Other()]), "/own'path")(request("/"))
    text = landing.body.decode()
    assert landing.status == 200
    assert landing.content_type.startswith("text/html")
    assert 'href="/own&#x27;path"' in text
    assert 'href="/own&#x27;path?collect[]=other.one"' in text
    assert 'href="/-/healthy"' in text


def test_health_and_nothing(pages):
    assert pages(request("/-/healthy")).status == 200
    missing = pages(request("/nothing"))
    assert (missing.status, missing.body) == (404, b"nothing is here; the metrics are at /metrics\n")


def test_the_scrapes_deadline_reaches_the_collector():
    many = Many()
    asked = request("/metrics", x_prometheus_scrape_timeout_seconds="1")
    Pages(Scraper([many]), "/metrics")(asked)
    assert many.deadlines == [pytest.approx(asked.received + 0.8)]
