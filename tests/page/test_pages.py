"""What the page answers, to whom; and which forms it takes."""

import contextlib
import json
import re
import socket
from dataclasses import dataclass, field, replace
from urllib.parse import quote

import pytest
import requests
from structlog.testing import capture_logs

from actuator.adapters.sqlite import SqliteJournal
from actuator.model import Event
from actuator.orders import Orders, Pause, Refused, Taken
from actuator.page import sessions
from actuator.page.pages import COOKIE, HEADERS, MAX_FORM_BYTES, REFRESH_SECONDS_BUSY, Page
from actuator.page.sessions import IDLE_SECONDS, MAX_ATTEMPTS, MAX_SECONDS, MAX_SESSIONS, Sessions
from actuator.page.site import Site
from actuator.ports import JournalError
from actuator.receive import Counters, Refusals, Server, create_app
from actuator.rights import Right
from tests.actuator.build import resource, snapshot
from tests.actuator.deliveries import answer, parts, rights
from tests.actuator.world import Clock, Machine, World, settings
from tests.page.sites import (
    HOSTILE,
    NOW,
    facts,
    failing_over,
    host,
    order,
    record,
    refused,
    rehearsal,
    waiting_for_approval,
)

TOKEN = "the-operators-token"
ORIGIN = "http://localhost"


@dataclass
class Commander:
    """Takes the orders that come, and answers as it is told."""

    answer: object = field(default_factory=lambda: Taken("voms01 is paused"))
    orders: list = field(default_factory=list)

    def take(self, order, *, via=""):
        self.orders.append((order, via))
        return self.answer


@pytest.fixture
def journal(folders):
    with contextlib.closing(SqliteJournal(folders() / "journal", timeout_seconds=60.0)) as journal:
        yield journal


class Visitor:
    """A browser at the page of a site, as far as HTTP goes."""

    def __init__(self, journal, known=None, *, token=TOKEN, read="", commander=None, clock=None):
        self.clock, self.commander = clock or Clock(), commander or Commander()
        self.known = known or facts()
        held = rights(token, read)
        self.page = Page(lambda: Site(self.known), journal, self.clock, held, self.commander)
        given = replace(parts(journal), page=self.page, rights=held)
        self.client = create_app(given, Refusals(given.clock), Counters(given.registry)).test_client()

    def get(self, path="/", code=200):
        with capture_logs():
            reply = self.client.get(path)
        said = reply.text
        reply.close()
        assert reply.status_code == code, said
        return said

    def post(self, path, data, **headers):
        with capture_logs() as self.lines:
            headers = {"Origin": ORIGIN, "Host": "localhost"} | {
                name.replace("_", "-"): it for name, it in headers.items()
            }
            return self.client.post(
                path, data=data, headers={it: to for it, to in headers.items() if to is not None}
            )

    def log_in(self, token=TOKEN, name="ann", **more):
        return self.post("/login", {"token": token, "name": name}, **more)

    def form_token(self):
        return re.search(r'name="form_token" value="([^"]+)"', self.get("/"))[1]

    def order(self, word, name, **more):
        form = {"form_token": self.form_token(), "order": word, "name": name} | more
        return self.post("/order", form)


@pytest.fixture
def visitor(journal):
    return Visitor(journal)


@pytest.fixture
def operator(visitor):
    assert visitor.log_in().status_code == 303
    return visitor


# ---- reading ---------------------------------------------------------------------------------------------


def test_everybody_may_look(visitor):
    said = visitor.get("/")
    for words in (
        "runs on v01",
        "move, failover",
        "1 of 1 connected",
        "Primary UpToDate",
        "mode enforce",
        "Nothing does.",
    ):
        assert words in said
    for path in (
        "/vms",
        "/hosts",
        "/resources",
        "/history",
        "/login",
        "/static/page.css",
        "/static/page.js",
        "/static/icon.svg",
    ):
        visitor.get(path)


def test_every_answer_is_kept_to_the_page_itself(visitor):
    for path in ("/", "/plans/none-1", "/order?order=pause&name=voms01", "/static/page.css"):
        with capture_logs():
            reply = visitor.client.get(path)
        reply.close()
        assert {name: reply.headers[name] for name in HEADERS if name != "Cache-Control"} == {
            name: it for name, it in HEADERS.items() if name != "Cache-Control"
        }
    assert visitor.client.get("/").headers["Cache-Control"] == "no-store"
    said = visitor.get("/")
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|javascript:", said), "no inline code"


def test_what_needs_a_person_comes_first_with_its_command(journal):
    asked = refused("see that v01 is off, then 'vmheal-actuator confirm-down v01'")
    config = settings("/nonexistent", runbooks_url="https://wiki.example/")
    said = Visitor(journal, facts(records=[asked], settings=config)).get("/")
    assert "VMHealRefused, " in Visitor(journal, facts(records=[asked])).get("/"), (
        "no link that leads nowhere"
    )
    assert "<code>vmheal-actuator confirm-down v01</code>" in said
    assert 'href="https://wiki.example/VMHealRefused.md"' in said
    places = [said.index(f'id="{it}"') for it in ("waiting", "plans", "vms", "hosts", "resources", "lately")]
    assert places == sorted(places)
    assert 'data-news="1 wait for a person, 0 plans under way"' in said


def test_a_plan_under_way_has_its_steps_and_is_asked_for_more_often(journal):
    said = Visitor(journal, facts(records=[failing_over()])).get("/")
    assert "failover voms01 from v01 to v02" in said
    assert re.search(r"make voms01 Primary on v02: .*under way</span> <span class=\"clock\">10 s", said)
    assert f'data-refresh="{REFRESH_SECONDS_BUSY}"' in said


def test_no_name_or_sentence_is_taken_for_html(journal):
    """Whatever libvirt, DRBD, an alert or a person calls things."""
    event = Event(
        NOW,
        "decided",
        HOSTILE,
        "voms01",
        HOSTILE,
        "voms01-1",
        {"chosen": HOSTILE, "rejected": {HOSTILE: HOSTILE}},
    )
    seen = Event(NOW, "observed", f"{HOSTILE}; {HOSTILE}", "voms01", "v01")
    journal.commit(events=[seen, event])
    known = facts(
        records=[
            replace(refused(HOSTILE, HOSTILE), plan=failing_over().plan, paused=order(HOSTILE, HOSTILE))
        ],
        hosts={
            "v01": host("v01", drained=order(HOSTILE, HOSTILE)),
            "": host("", paused=order(HOSTILE, HOSTILE)),
        },
        storage={"v01": snapshot(resource(HOSTILE))},
        rehearsals={"voms01": rehearsal(("v02", "migrate", HOSTILE))},
        sources={HOSTILE: False},
    )
    visitor = Visitor(journal, known)
    visitor.log_in(name=HOSTILE)
    hostile = quote(HOSTILE, safe="")
    for path in (
        "/", f"/?q={hostile}", f"/vms?q={hostile}&from={hostile}", "/hosts", "/resources", "/plans/voms01-1",
        f"/history?q={hostile}&vm={hostile}", "/history", f"/order?order=drain&name=v01&proposal={hostile}",
        f"/order?order=approve&name=voms01&proposal={hostile}", f"/login?next={hostile}",
    ):  # fmt: skip
        said = visitor.get(path)
        assert "<script>" not in said, path
        assert "alert('x')" not in said, path
    assert "<script>" not in visitor.get(f"/plans/{hostile}-1", 404)
    assert "<script>" not in visitor.get(f"/order?order=pause&name={hostile}", 404)
    said = visitor.order("pause", "voms01", reason=HOSTILE)
    assert said.status_code == 303


def test_the_rest_is_found_and_paged(journal):
    names = [f"vm{number:03}" for number in range(250)]
    config = settings("/nonexistent", domains={it: {"host": "v01", "hosts": ["v01", "v02"]} for it in names})
    visitor = Visitor(
        journal, facts(settings=config, records=[record(domain=it) for it in names], rehearsals={})
    )
    said = visitor.get("/")
    assert "1 to 25 of 250" in said
    assert '<a href="/vms">All 250 VMs</a>' in said
    said = visitor.get("/vms?from=200")
    assert "201 to 250 of 250" in said
    assert "Go on from" not in said
    assert 'href="/vms?q=vm1&amp;from=100"' not in visitor.get("/vms?q=vm1"), "there are just 100 of them"
    assert 'href="/vms?from=100"' in visitor.get("/vms")
    said = visitor.get("/?q=vm24")
    assert "All 10 with “vm24”" in said
    assert "None with “vm24”." in said, "of the hosts"
    assert "None" in visitor.get(f"/vms?from={10**14}")


@pytest.mark.parametrize(
    "path", ["/vms?from=-1", "/vms?from=x", "/history?before=-3", "/history?before=%00", "/?q=%00%ff"]
)
def test_an_odd_query_is_no_fault(visitor, path):
    visitor.get(path)


@pytest.mark.parametrize("path", ["/", "/vms", "/order", "/api/v1/ready", "/metrics"])
def test_a_query_that_is_not_utf_8_is_refused(visitor, path):
    with capture_logs():
        reply = visitor.client.get(path, environ_overrides={"QUERY_STRING": "q=\x80"})
    assert reply.status_code == 400
    assert "the query is not UTF-8" in reply.text


def test_a_plan_has_its_evidence_and_its_story(journal):
    def happened(at, kind, sentence, plan="voms01-7", **detail):
        return Event(NOW + at, kind, sentence, "voms01", "v02", plan, detail)

    journal.commit(
        events=[
            happened(-9, "observed", "v01: running, an older look", ""),
            happened(0, "observed", "v01: unknown (no route); v02: shutoff", ""),
            happened(1, "decided", "v01 is dark: make voms01 Primary on v02; start voms01 on v02", chosen="it has room", rejected={"v03": "no disks"}),
            happened(1, "intent", "start voms01 on v02"),
            happened(4, "outcome", "start voms01 on v02: done", seconds=2.5),
            happened(5, "finished", "plan succeeded: voms01 runs again", seconds=5.0),
            happened(6, "observed", "v02: running, a later look", ""),
            happened(7, "decided", "another one", "voms01-70"),
        ]
    )  # fmt: skip
    said = Visitor(journal).get("/plans/voms01-7")
    for words in (
        "<li>v01: unknown (no route)</li><li>v02: shutoff</li>", "v02 because it has room", "Not v03: no disks",
        "start voms01 on v02: done", "2.5 s", "plan succeeded", "vmheal-actuator journal show voms01-7",
    ):  # fmt: skip
        assert words in said
    for words in ("older look", "later look", "another one", "data-refresh"):
        assert words not in said
    assert 'href="/plans/voms01-7"' in Visitor(journal).get("/"), "lately, one click away"


@pytest.mark.parametrize("plan", ["voms01-7", "voms01", "-", "%2e%2e-1", "x" * 5000 + "-1"])
def test_a_plan_of_which_nothing_is_known(visitor, plan):
    assert "nothing of a plan" in visitor.get(f"/plans/{plan}", 404)


def test_an_open_plan_of_which_the_journal_has_nothing_any_more(journal):
    said = Visitor(journal, facts(records=[failing_over()])).get("/plans/voms01-1")
    assert "The journal does not have it any more." in said
    assert "to come" in said
    assert "data-refresh" in said


def test_history_is_searched_and_gone_through(journal):
    journal.commit(events=[Event(NOW + it, "nothing", f"number {it:03}", f"vm{it % 2}") for it in range(120)])
    visitor = Visitor(journal)
    said = visitor.get("/history?vm=vm1&q=number")
    assert "number 119" in said
    assert "number 118" not in said
    older = re.search(r'<a href="(/history\?[^"]+)">Older', said)[1].replace("&amp;", "&")
    said = visitor.get(older)
    assert "number 019" in said
    assert "number 021" not in said
    assert "There is nothing older." in said
    assert "Nothing found." in visitor.get("/history?q=no+such+thing")


def test_a_journal_that_cannot_be_read_is_said(visitor, journal, monkeypatch):
    def fails(**_):
        raise JournalError("journal.db: disk I/O error")

    monkeypatch.setattr(journal, "history", fails)
    assert "disk I/O error" in visitor.get("/history", 503)
    assert visitor.client.get("/history").headers["Retry-After"] == "1"


def test_a_surprise_shows_nothing_of_the_inside(journal):
    visitor = Visitor(journal)
    visitor.page._site = lambda: 1 / 0
    assert "division" not in visitor.get("/", 500)


# ---- logging in ------------------------------------------------------------------------------------------


def test_who_has_the_token_is_logged_in_under_a_name(visitor):
    assert "Log in" in visitor.get("/")
    reply = visitor.log_in()
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    cookie = reply.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie, "a browser would not send it back over plain HTTP"
    assert TOKEN not in repr(visitor.lines)
    said = visitor.get("/")
    assert "ann" in said
    assert TOKEN not in said


def test_over_tls_the_cookie_is_for_tls_alone(visitor):
    assert "Secure" in visitor.log_in(Origin="https://localhost").headers["Set-Cookie"]


def test_one_goes_on_to_the_order_that_one_wanted_to_give(visitor):
    with capture_logs():
        reply = visitor.client.get("/order?order=pause&name=voms01")
    assert reply.status_code == 303
    said = visitor.get(reply.headers["Location"])
    onward = re.search(r'name="next" value="([^"]*)"', said)[1].replace("&amp;", "&")
    reply = visitor.post("/login", {"token": TOKEN, "name": "ann", "next": onward})
    assert reply.headers["Location"] == "/order?order=pause&name=voms01"


@pytest.mark.parametrize(
    "onward",
    ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:x", "/login", "order?"],
)
def test_nobody_is_sent_elsewhere(visitor, onward):
    reply = visitor.post("/login", {"token": TOKEN, "name": "ann", "next": onward})
    assert reply.headers["Location"] == "/"


@pytest.mark.parametrize("token", ["", "the-operators-toke", "the-operators-token2", "ä", "\x00"])
def test_a_wrong_token(visitor, token):
    reply = visitor.log_in(token)
    assert (reply.status_code, "Set-Cookie" in reply.headers) == (403, False)
    assert "The token is not the right one." in reply.text
    assert "Log in" in visitor.get("/")


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 65])
def test_without_a_name_nobody_is_logged_in(visitor, name):
    reply = visitor.log_in(name=name)
    assert (reply.status_code, "Set-Cookie" in reply.headers) == (400, False)


def test_wrong_tokens_are_bounded_for_each_address(visitor):
    for _ in range(MAX_ATTEMPTS):
        assert visitor.log_in("wrong").status_code == 403
    reply = visitor.log_in()
    assert (reply.status_code, reply.headers["Retry-After"]) == (429, "60")
    assert visitor.post("/login", {"token": TOKEN, "name": "bob"}).status_code == 429
    visitor.client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    assert visitor.log_in().status_code == 303
    visitor.client.environ_base["REMOTE_ADDR"] = "127.0.0.1"
    visitor.clock.now += 61
    assert visitor.log_in().status_code == 303


def test_without_an_operators_token_the_page_is_for_reading(journal):
    visitor = Visitor(journal, facts(records=[waiting_for_approval()]), token="")
    said = visitor.get("/")
    assert "For reading only." in said
    assert "/order" not in said
    visitor.get("/login", 404)
    for token in ("", TOKEN):
        assert visitor.log_in(token).status_code == 404


def test_a_session_ends(operator):
    assert "Log out" in operator.get("/")
    operator.clock.now += IDLE_SECONDS - 1
    token = operator.form_token()
    operator.clock.now += IDLE_SECONDS
    assert "Log out" not in operator.get("/")
    reply = operator.post("/order", {"form_token": token, "order": "drain", "name": "v01"})
    assert reply.status_code == 403
    assert operator.commander.orders == []


def test_a_session_that_is_used_ends_too(operator):
    for _ in range(int(MAX_SECONDS // 3600) - 1):
        operator.clock.now += 3600
        assert "Log out" in operator.get("/")
    operator.clock.now += 3600
    assert "Log out" not in operator.get("/")


def test_who_logs_out_is_out(operator):
    cookie = operator.client.get_cookie(COOKIE).value
    reply = operator.post("/logout", {"form_token": operator.form_token()})
    assert reply.status_code == 303
    assert "Log out" not in operator.get("/")
    operator.client.set_cookie(COOKIE, cookie)
    assert "Log out" not in operator.get("/"), "also with the old cookie"


def test_sessions_and_addresses_are_bounded():
    known = Sessions({TOKEN: Right.ORDER}.get, Clock())
    keys = [known.log_in(TOKEN, "ann", "a") for _ in range(MAX_SESSIONS + 1)]
    assert known.find(keys[0]) is None
    assert known.find(keys[1]) is not None
    for number in range(sessions.MAX_ADDRESSES + 10):
        known.log_in("wrong", "ann", str(number))
    assert len(known._failures) == sessions.MAX_ADDRESSES


# ---- when looking is a right, too ------------------------------------------------------------------------


PAGES = ["/", "/vms", "/hosts", "/resources", "/history", "/plans/voms01-1", "/order?order=pause&name=voms01"]


@pytest.fixture
def stranger(journal):
    return Visitor(journal, read="the-token-to-read")


def test_who_may_not_look_is_sent_to_the_login(stranger):
    for path in PAGES:
        reply = stranger.client.get(path)
        assert (reply.status_code, reply.headers["Location"].split("?")[0]) == (303, "/login"), path
        assert "voms01" not in reply.text.replace("name%3Dvoms01", "").replace("voms01-1", "")
    assert "The token" in stranger.get("/login")
    assert stranger.get("/static/page.css")
    for path in ("/metrics", "/api/v1/status", "/nowhere"):
        assert "no bearer token" in stranger.get(path, code=401)


def test_with_the_token_for_reading_a_person_reads_and_orders_nothing(stranger):
    assert stranger.log_in("the-token-to-read").status_code == 303
    said = stranger.get("/")
    assert "voms01" in said
    assert "/order?" not in said
    assert (
        stranger.client.get("/order?order=pause&name=voms01").headers["Location"].startswith("/login?next=")
    )
    reply = stranger.order("pause", "voms01")
    assert (reply.status_code, "for reading only" in reply.text) == (403, True)
    assert not stranger.commander.orders


def test_with_the_operators_token_a_person_reads_and_orders(stranger):
    assert stranger.log_in(TOKEN).status_code == 303
    assert "/order?" in stranger.get("/")
    assert stranger.order("pause", "voms01").status_code == 303


def test_a_bearer_token_reads_pages_too(stranger):
    reply = stranger.client.get("/", headers={"Authorization": "Bearer the-token-to-read"})
    assert (reply.status_code, "voms01" in reply.text) == (200, True)


def test_by_https_the_cookie_is_for_https_alone(visitor):
    for origin, secure in (("https://localhost", True), ("http://localhost", False)):
        reply = visitor.client.post(
            "/login", data={"token": TOKEN, "name": "ann"}, headers={"Origin": origin}, base_url=origin
        )
        assert reply.status_code == 303
        assert ("Secure" in reply.headers["Set-Cookie"]) is secure


# ---- orders ----------------------------------------------------------------------------------------------


def test_an_order_is_given_in_the_name_of_who_is_logged_in(operator):
    said = operator.get("/order?order=pause&name=voms01")
    assert "Nothing is begun for voms01 meanwhile" in said
    reply = operator.order("pause", "voms01", seconds="900", reason="new memory", by="mallory")
    assert (reply.status_code, reply.headers["Location"]) == (303, "/")
    expected = Pause(order="pause", what="voms01", seconds=900.0, by="ann", reason="new memory")
    assert operator.commander.orders == [(expected, "page")]
    assert "voms01 is paused" in operator.get("/")
    operator.clock.now += 61
    assert "voms01 is paused" not in operator.get("/")


@pytest.mark.parametrize(
    ("word", "name", "more", "given"),
    [
        ("pause", "all", {"seconds": ""}, {"what": "all", "seconds": None}),
        ("resume", "v01", {}, {"what": "v01"}),
        ("drain", "v01", {}, {"host": "v01"}),
        ("undrain", "v01", {}, {"host": "v01"}),
        ("approve", "voms01", {"proposal": "0123456789"}, {"domain": "voms01", "proposal": "0123456789"}),
    ],
)
def test_every_order_of_the_page(operator, word, name, more, given):
    assert f'name="order" value="{word}"' in operator.get(f"/order?order={word}&name={name}")
    assert operator.order(word, name, **more).status_code == 303
    ((order, via),) = operator.commander.orders
    assert (order.order, order.by, via) == (word, "ann", "page")
    assert {it: getattr(order, it) for it in given} == given


def test_a_plan_is_approved_from_where_it_is_shown(journal):
    visitor = Visitor(journal, facts(records=[waiting_for_approval()]))
    visitor.log_in()
    link = re.search(r'href="(/order\?order=approve[^"]+)"', visitor.get("/"))[1].replace("&amp;", "&")
    said = visitor.get(link)
    assert "vmheal would: start it" in said
    assert "does not wait any more" not in said
    assert "does not wait any more" in visitor.get(link.replace("0123456789", "9876543210"))


def test_an_order_that_is_refused_says_why(operator):
    operator.commander.answer = Refused("another plan waits than that")
    reply = operator.order("drain", "v01", reason="new memory")
    assert reply.status_code == 409
    assert "Refused: another plan waits than that" in reply.text
    assert 'value="new memory"' in reply.text, "what was typed is there still"


@pytest.mark.parametrize(
    ("word", "name", "more"),
    [
        ("confirm-down", "v01", {}),
        ("readmit", "voms01", {}),
        ("", "v01", {}),
        ("pause", "voms01", {"seconds": "1"}),
        ("pause", "voms01", {"seconds": "nan"}),
        ("pause", "a b", {}),
        ("approve", "voms01", {"proposal": "0"}),
        ("drain", "v01", {"reason": "a\x00b"}),
        ("drain", "v01", {"reason": "x" * 501}),
    ],
)
def test_what_the_page_has_no_form_for_is_refused(operator, word, name, more):
    assert operator.order(word, name, **more).status_code == 400
    assert operator.commander.orders == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": None}, 403),
        ({"Origin": "http://localhost.evil.example"}, 403),
        ({"Origin": "http://localhost:81"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 303),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/json"}, 415),
        ({"Content_Length": None}, 411),
    ],
)
def test_a_form_of_another_page_is_refused(operator, changed, code):
    form = f"form_token={operator.form_token()}&order=drain&name=v01"
    headers = {"Content_Type": "application/x-www-form-urlencoded", **changed}
    if "Content_Length" in changed:
        headers = {**headers, "Transfer_Encoding": "chunked"}
    assert operator.post("/order", form, **headers).status_code == code
    assert bool(operator.commander.orders) is (code == 303)
    assert operator.post("/login", form, **changed).status_code in {code, 400, 415}


@pytest.mark.parametrize("path", ["/order", "/logout"])
@pytest.mark.parametrize("token", [None, "", "x", "ä"])
def test_a_form_without_its_token_is_refused(operator, path, token):
    form = {"order": "drain", "name": "v01"} | ({} if token is None else {"form_token": token})
    assert operator.post(path, form).status_code == 403
    assert operator.commander.orders == []
    assert "Log out" in operator.get("/")


def test_the_form_token_of_another_session_is_refused(journal, operator):
    other = Visitor(journal)
    other.log_in(name="bob")
    form = {"form_token": other.form_token(), "order": "drain", "name": "v01"}
    assert operator.post("/order", form).status_code == 403
    assert operator.commander.orders == []


def test_who_is_not_logged_in_orders_nothing(visitor):
    for form in ({"order": "drain", "name": "v01", "form_token": ""}, {"a": "b"}):
        assert visitor.post("/order", form).status_code == 403
    assert visitor.commander.orders == []


def test_nothing_changes_by_looking(operator):
    for path in ("/order?order=drain&name=v01&form_token=x", "/logout", "/order"):
        with capture_logs():
            operator.client.get(path)
    assert operator.commander.orders == []
    assert "Log out" in operator.get("/")


def test_it_is_in_the_journal_who_did_it_and_that_it_was_on_the_page(folders, clock, machines):
    machine = Machine(World(), folders() / "journal", clock)
    machines.append(machine)
    orders = Orders(machine.journal, clock, machine.config, machine.protected, machine.contacts, machine.alarm, machine.worker)  # fmt: skip
    visitor = Visitor(machine._file, commander=orders)
    visitor.log_in()
    assert visitor.order("drain", "v01", reason="new memory").status_code == 303
    (_, event) = machine._file.timeline(newest=True, limit=1)[0]
    assert (event.kind, event.sentence) == ("ordered", "ann, on the page: drain v01: new memory")
    assert (event.detail["by"], event.detail["via"]) == ("ann", "page")
    assert machine.protected.host("v01").drained.by == "ann"


# ---- on real sockets -------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(visitor, journal):
    with Server("127.0.0.1:0", replace(parts(journal), page=visitor.page)) as server:
        yield server.port


def raw(port, head, body=b""):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + body)
        return answer(connection)


def test_a_whole_visit_over_http(visitor, journal):
    with served(visitor, journal) as port, requests.Session() as browser:
        browser.trust_env = False
        url = f"http://127.0.0.1:{port}"
        browser.headers["Origin"] = url
        assert browser.post(f"{url}/login", {"token": TOKEN, "name": "ann"}).status_code == 200
        token = re.search(r'name="form_token" value="([^"]+)"', browser.get(f"{url}/").text)[1]
        form = {"form_token": token, "order": "drain", "name": "v01"}
        assert browser.post(f"{url}/order", form).status_code == 200
        assert len(visitor.commander.orders) == 1
        assert browser.post(f"{url}/logout", {"form_token": token}).status_code == 200
        assert browser.post(f"{url}/order", form).status_code == 403
    assert len(visitor.commander.orders) == 1


def test_a_large_form_is_answered_before_it_has_come(visitor, journal):
    """Nobody who is not logged in makes the actuator keep a body; and nobody a large one."""
    with served(visitor, journal) as port, capture_logs():
        head = (
            "POST {} HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\nContent-Length: {}\r\n"
            "Content-Type: application/x-www-form-urlencoded"
        )
        assert raw(port, head.format("/order", 1000))[0] == 403
        assert raw(port, head.format("/login", MAX_FORM_BYTES + 1))[0] == 413
        assert raw(port, head.format("/login", 10).replace("http://a", "http://b"))[0] == 403
        assert raw(port, head.format("/login", 3), b"a=b")[0] == 400


def test_the_status_is_what_it_was(visitor, journal):
    with served(visitor, journal) as port:
        assert json.loads(raw(port, "GET /api/v1/status HTTP/1.1\r\nHost: a")[2]) == {}
