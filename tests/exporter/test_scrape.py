import threading
import time

import pytest
from prometheus_client.core import GaugeMetricFamily

from exporter.collector import CollectorError
from exporter.scrape import Scraper, UnknownCollectorError

LONG = 20.0  # far beyond what any of these needs; nothing waits for it to pass


class Fake:
    """A collector that does what it is told, and counts its threads."""

    def __init__(self, name, action=lambda: None):
        self.name = name
        self.action = action
        self.runs = 0
        self.closed = threading.Event()

    def collect(self, deadline):
        self.runs += 1
        self.action()
        return [GaugeMetricFamily(f"{self.name}_up", "Up.", value=1)]

    def down(self):
        return [GaugeMetricFamily(f"{self.name}_up", "Up.", value=0)]

    def close(self):
        self.closed.set()


def values(page):
    return {
        (sample.name, sample.labels.get("collector", "")): sample.value
        for family in page
        for sample in family.samples
    }


def scrape(scraper, seconds=LONG, names=()):
    return values(scraper.scrape(scraper.select(names), time.monotonic() + seconds))


def success(page, name):
    return page["vmheal_exporter_collector_success", name]


def fail(error):
    raise error


@pytest.mark.parametrize("error", [CollectorError("no"), ValueError("bug"), KeyError("bug")])
def test_a_failure_is_said_and_touches_nobody_else(error):
    page = scrape(Scraper([Fake("good"), Fake("bad", lambda: fail(error))]))
    assert success(page, "good") == 1
    assert success(page, "bad") == 0
    assert page["good_up", ""] == 1
    assert page["bad_up", ""] == 0


def test_one_that_hangs_costs_the_deadline_once_and_then_nothing():
    release = threading.Event()
    hanging = Fake("hanging", lambda: release.wait(LONG))
    scraper = Scraper([Fake("good"), hanging])
    began = time.monotonic()
    page = scrape(scraper, 0.2)
    assert 0.1 < time.monotonic() - began < LONG / 2
    assert (success(page, "hanging"), success(page, "good")) == (0, 1)
    threads = threading.active_count()
    for _ in range(20):
        page = scrape(scraper)  # a long deadline: it is not waited for
        assert (success(page, "hanging"), success(page, "good")) == (0, 1)
        assert page["vmheal_exporter_collector_duration_seconds", "hanging"] > 0.1
    assert time.monotonic() - began < LONG / 2
    assert hanging.runs == 1
    assert threading.active_count() == threads
    release.set()
    deadline = time.monotonic() + LONG
    while not success(page := scrape(scraper), "hanging"):
        assert time.monotonic() < deadline
    assert page["hanging_up", ""] == 1


def test_two_scrapes_at_once_share_one_run():
    inside, release = threading.Event(), threading.Event()

    def action():
        inside.set()
        release.wait(LONG)

    slow = Fake("slow", action)
    scraper = Scraper([slow])
    pages: list[dict] = []
    first = threading.Thread(target=lambda: pages.append(scrape(scraper)))
    first.start()
    assert inside.wait(LONG)
    second = threading.Thread(target=lambda: pages.append(scrape(scraper)))
    second.start()
    threading.Timer(0.1, release.set).start()
    first.join(LONG)
    second.join(LONG)
    assert [success(page, "slow") for page in pages] == [1, 1]
    assert slow.runs == 1


def test_select_keeps_the_pages_order_and_refuses_strangers():
    scraper = Scraper([Fake("a"), Fake("b"), Fake("c")])
    assert scraper.select(["c", "a", "c"]) == ("a", "c")
    assert scraper.select([]) == ("a", "b", "c")
    with pytest.raises(UnknownCollectorError, match="no collector 'd' runs here; there are: a, b, c"):
        scraper.select(["a", "d"])


def test_what_is_not_selected_does_not_run():
    unselected = Fake("b")
    page = scrape(Scraper([Fake("a"), unselected]), names=["a"])
    assert unselected.runs == 0
    assert ("b_up", "") not in page


def test_close_does_not_wait_for_one_that_hangs():
    release = threading.Event()
    hanging = Fake("hanging")
    hanging.close = lambda: release.wait(LONG)
    good = Fake("good")
    began = time.monotonic()
    Scraper([hanging, good]).close(0.1)
    assert time.monotonic() - began < LONG / 2
    assert good.closed.is_set()
    release.set()
