"""The page in a real browser: by keyboard, on a phone, for a screen reader, with and without JavaScript.

The site behind it is made up here; one that lives through a failover is in tests/line/test_page.py.
"""

import contextlib
from dataclasses import replace

import pytest

from actuator.adapters.sqlite import SqliteJournal
from actuator.core.readiness import Check, Reason
from actuator.model import DomainState, Event
from actuator.orders import Taken
from actuator.page.pages import Page
from actuator.page.site import Site
from actuator.receive import Server
from actuator.rehearse import Rehearsal
from tests.actuator.deliveries import parts, rights
from tests.actuator.world import settings
from tests.browser import ENTER, PHONE, TAB, browser
from tests.lab.waiting import wait_until
from tests.page import sites
from tests.page.accessible import faults, roles
from tests.page.sites import NOW

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(300)]

TOKEN = "the-operators-token"
DESK = (1280, 900)
NAMES = [
    "voms01",
    "ce01",
    "db01",
    *(f"a-vm-with-quite-a-long-name-{number:02}.cluster-7" for number in range(30)),
]


def troubled():
    """Something of everything that the page can show."""
    config = settings("/nonexistent", domains={it: {"host": "v01", "hosts": ["v01", "v02"]} for it in NAMES})
    records = [sites.record(domain=it) for it in NAMES]
    records[0] = sites.waiting_for_approval()
    records[1] = replace(sites.failing_over(), domain="ce01")
    records[2] = replace(
        sites.refused("see that v01 is off, then 'vmheal-actuator confirm-down v01'"), domain="db01"
    )
    reason = Reason("has_memory", "v02 has 1.0 GiB free, it needs 2.0", "virsh freecell --all (on v02)")
    checks = (
        Check("v01", "restart", ()),
        Check("v02", "migrate", (reason,)),
        Check("v02", "failover", (reason,)),
    )
    return sites.facts(
        settings=config,
        records=records,
        states={"v01": dict.fromkeys(NAMES, DomainState.RUNNING)},
        storage={"v02": sites.cut_off()},
        hosts={"v01": sites.host("v01", drained=sites.order(), paused=sites.order())},
        rehearsals={it: Rehearsal(it, "v01", NOW, checks, (it,)) for it in NAMES},
        sources={"Alertmanager": False},
    )


class Shown:
    """A site that the test changes, who takes its orders, and a browser before its page."""

    def __init__(self, window):
        self.window = window
        self.known = troubled()
        self.orders = []

    def take(self, order, *, via=""):
        self.orders.append(order)
        return Taken(f"{order.order} is taken")


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as window:
        yield window


@pytest.fixture
def shown(window, tmp_path):
    """Nobody is logged in."""
    with contextlib.closing(SqliteJournal(tmp_path / "journal", timeout_seconds=60.0)) as journal:
        journal.commit(
            events=[
                Event(NOW, "observed", "v01: shutoff (crashed); v02: shutoff (unknown)", "voms01", "v01"),
                Event(NOW, "decided", "it crashed: start voms01 on v01", "voms01", "v01", "voms01-1"),
                Event(
                    NOW, "outcome", "start voms01 on v01: done", "voms01", "v01", "voms01-1", {"seconds": 1.5}
                ),
            ]
        )
        given = parts(journal)
        it = Shown(window)
        page = Page(lambda: Site(it.known), journal, given.clock, rights(TOKEN), it)
        it.server = Server("127.0.0.1:0", replace(given, page=page))
        it.url = f"http://127.0.0.1:{it.server.port}"
        it.server.start()
        window.be(*DESK)
        window.devtools("Network.clearBrowserCookies")
        window.open(f"{it.url}/")
        yield it
        it.server.stop()


def log_in(shown):
    """By keyboard alone."""
    window = shown.window
    window.open(f"{shown.url}/login")
    window.tab_to("Your name")
    window.press(f"ann{TAB}{TOKEN}{ENTER}")
    window.wait_text("ann", selector="header")


PATHS = (
    "/",
    "/vms",
    "/hosts",
    "/resources",
    "/history",
    "/plans/voms01-1",
    "/plans/ce01-1",
    "/login",
    "/plans/none-1",
)
ORDERS = (
    "/order?order=pause&name=voms01",
    "/order?order=drain&name=v01",
    "/order?order=approve&name=voms01&proposal=0123456789",
)


def test_everybody_can_use_every_page(shown):
    """On a desk in the light, on a phone in the dark: contrast, names, landmarks, headings, tables, and no scrolling aside."""
    log_in(shown)
    for (width, height), dark in ((DESK, False), (PHONE, True)):
        shown.window.be(width, height, dark=dark)
        for path in (*PATHS, *ORDERS):
            shown.window.open(shown.url + path)
            assert faults(shown.window) == [], (path, width)
        shown.window.open(f"{shown.url}/vms")
        assert {"main", "navigation", "banner", "table", "row", "rowheader", "columnheader"} <= roles(
            shown.window
        ), "the cards of a phone are a table still, for those who do not see them"


def test_what_a_program_cannot_use_is_found(shown):
    """The check itself can fail."""
    for code, said in (
        ("document.querySelector('main').style.color = '#999'", "contrast"),
        ("document.querySelector('h1').remove()", "0 h1"),
        ("document.querySelector('table').caption.remove()", "a table without a caption"),
        ("document.querySelector('label').remove()", "without a name for a screen reader"),
        ("document.querySelector('main').style.width = '3000px'", "wider than the window"),
        ("document.querySelector('nav').id = 'main'", "id main twice"),
    ):
        shown.window.open(f"{shown.url}/")
        assert faults(shown.window) == []
        shown.window.script(code)
        assert any(said in it for it in faults(shown.window)), code


def test_a_plan_is_approved_with_the_keyboard_alone(shown):
    window = shown.window
    window.press(TAB)
    assert window.focused() == "Skip to the content"
    window.press(ENTER)
    window.tab_to("Approve… voms01")
    window.press(ENTER)
    window.wait_text("Log in")
    window.tab_to("Your name")
    window.press(f"ann{TAB}{TOKEN}{ENTER}")
    window.wait_text("It is carried out only when", "vmheal would: start it")
    window.tab_to("Why (for the journal)")
    window.press("as agreed")
    window.tab_to("Approve voms01: plan 0123456789")
    window.press(ENTER)
    window.wait_text("approve is taken", selector="body")
    (order,) = shown.orders
    assert (order.domain, order.proposal, order.by, order.reason) == (
        "voms01",
        "0123456789",
        "ann",
        "as agreed",
    )


def test_without_javascript_all_is_there(shown):
    window = shown.window
    window.be(*DESK, scripts=False)
    log_in(shown)
    for words in (
        "Needs you (2)",
        "approve voms01 0123456789",
        "failover voms01 from v01 to v02",
        "Alertmanager does not answer",
    ):
        assert words in window.text()
    assert "Pause refresh" not in window.text("header")
    window.tab_to("Pause… voms01")
    window.press(ENTER)
    window.wait_text("Nothing is begun for voms01")
    window.tab_to("Pause voms01")
    window.press(ENTER)
    window.wait_text("pause is taken", selector="body")
    assert [(it.what, it.seconds) for it in shown.orders] == [("voms01", 3600.0)]
    window.open(f"{shown.url}/")
    refresh = "return document.querySelector('noscript meta[http-equiv=refresh]')?.content"
    assert window.script(refresh) == "30"


def test_it_refreshes_itself_and_leaves_the_reader_where_he_was(shown):
    window = shown.window
    summary = "document.querySelector('details[data-key=\"vm db01\"] > summary')"
    window.script(f"window.loaded = 'once'; {summary}.scrollIntoView(); {summary}.click(); {summary}.focus()")
    at = window.script("return window.scrollY")
    assert window.script("return document.getElementById('news').textContent") == ""
    shown.known = replace(shown.known, now=NOW + 1)
    window.script("document.querySelector('main').dataset.old = 1")
    wait_until(
        lambda: not window.script("return document.querySelector('main').dataset.old"), "a refresh", 60
    )
    assert window.script("return window.loaded") == "once"
    assert window.script(f"return document.activeElement === {summary} && {summary}.parentElement.open")
    assert window.script("return window.scrollY") == at
    assert window.script("return document.getElementById('news').textContent") == "", (
        "nothing to be read aloud"
    )
    assert window.script("return document.title") == "(2) vmheal: Overview"
    shown.known = replace(shown.known, records=[sites.record(domain="db01")], now=NOW + 2)
    window.wait_text("Nothing does.")
    assert window.script("return document.title") == "vmheal: Overview"
    assert window.script("return document.getElementById('news').textContent") == (
        "0 wait for a person, 0 plans under way, Alertmanager does not answer"
    )
    assert window.script("return document.activeElement.closest('main') !== null"), (
        "not at the top of the page"
    )


def test_who_types_or_selects_or_says_so_is_not_disturbed(shown):
    window = shown.window
    moments = {
        "types": "document.getElementById('q').focus()",
        "selects": "getSelection().selectAllChildren(document.querySelector('code'))",
        "says so": "document.getElementById('pause-refresh').click()",
    }
    for moment, code in moments.items():
        window.open(f"{shown.url}/")
        window.script(
            f"{code}; window.asked = 0; const was = fetch; fetch = (...it) => (asked += 1, was(...it))"
        )
        # Time passes: the page's own, half as much again as it waits before a refresh.
        window.script(
            "window.over = false; setTimeout(() => (over = true), 1.5 * 1000 * document.querySelector('main').dataset.refresh)"
        )
        wait_until(lambda: window.script("return window.over"), "the time of a refresh", 60)
        assert window.script("return window.asked") == 0, moment
    assert window.script("return document.getElementById('pause-refresh').ariaPressed") == "true"


def test_that_it_is_old_is_said(shown):
    window = shown.window
    shown.server.stop()
    window.wait_text("may be old: vmheal-actuator does not answer", selector="#stale")
    assert "Needs you (2)" in window.text(), "what was there is shown still"
