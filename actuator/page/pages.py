"""The page's side of HTTP: who may see what (all), who may order (who is logged in), and the forms.

Everything works without JavaScript. A form counts only with its session's cookie, that session's form token,
and an ``Origin`` that is the page's own; its body is read only when all but the token was seen in its head.
"""

import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from threading import Lock
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import structlog
from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import (
    BadRequest,
    Forbidden,
    HTTPException,
    LengthRequired,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    TooManyRequests,
    UnsupportedMediaType,
)
from werkzeug.http import parse_cookie
from werkzeug.wrappers import Response as AnyResponse

from actuator.model import Event
from actuator.orders import ALL, MalformedOrderError, Orders, Refused, is_name
from actuator.orders import parse as parse_order
from actuator.page.sessions import ATTEMPT_SECONDS, Session, Sessions, TooManyAttemptsError
from actuator.page.site import Site
from actuator.ports import Clock, Journal, JournalError
from actuator.rights import Right, Rights
from actuator.story import story_of
from exporter import __version__

log = structlog.get_logger(__name__)

COOKIE = "vmheal_session"
MAX_FORM_BYTES = 16 * 1024
FORM_TYPE = "application/x-www-form-urlencoded"
ROWS = 25
"""Of each table on the overview."""
ROWS_OF_LIST = 100
HISTORY_EVENTS = 50
LATELY_EVENTS = 100
"""So many are looked through for what has happened lately."""
SEEN_SECONDS = 1.0
"""What is shown may be so old."""
NOTABLE = {"decided", "would", "refused", "finished", "solved", "ordered", "alive"}
PLAN_EVENTS = 500
MAX_SEARCH_WORDS = 5
MAX_SEARCH_LENGTH = 100
REFRESH_SECONDS = 5
REFRESH_SECONDS_BUSY = 2
"""While a plan is under way."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser's Origin would say null
    "X-Content-Type-Options": "nosniff",
}

FIELD_OF = {"approve": "domain", "pause": "what", "resume": "what", "drain": "host", "undrain": "host"}
"""The orders that the page gives, and what each calls the thing that it is about."""
PAUSES = {
    "": "until it is resumed",
    "900": "15 minutes",
    "3600": "1 hour",
    "14400": "4 hours",
    "86400": "1 day",
}


class Page:
    """Shows the site, and takes orders from those who are logged in.

    Args:
        site: what there is, at this moment.
        journal: for what was.
        clock: for sessions.
        rights: who may look, and who may order.
        orders: takes them.
    """

    def __init__(
        self, site: Callable[[], Site], journal: Journal, clock: Clock, rights: Rights, orders: Orders
    ) -> None:
        self._site = site
        self._journal = journal
        self._clock = clock
        self._may_order = rights.has_token(Right.ORDER)
        self._may_log_in = self._may_order or rights.has_token(Right.READ)
        self._is_public = not rights.held(Right.READ)
        self._orders = orders
        self._sessions = Sessions(rights.of_token, clock)
        self._looking = Lock()
        self._seen: tuple[float, Site] | None = None
        """When (monotonic), and what there was."""
        self._refused: Callable[[int, str, str], None] = lambda *_: None

    def blueprint(self, refused: Callable[[int, str, str], None]) -> Blueprint:
        """Its paths for the application.

        Args:
            refused: told of each request that is refused: status, reason, remote address.
        """
        page = Blueprint("page", __name__, template_folder="templates", static_folder="static")
        for name, words in {"utc": _utc, "iso": _iso, "span": _span, "pretty": _pretty}.items():
            page.add_app_template_filter(words, name)
        self._refused = refused
        page.get("/")(self.overview)
        for kind in ("vms", "hosts", "resources"):
            page.get(f"/{kind}", endpoint=kind)(lambda kind=kind: self.listed(kind))
        page.get("/plans/<plan>")(self.plan)
        page.get("/history")(self.history)
        page.get("/login")(self.show_login)
        page.post("/login")(self.log_in)
        page.post("/logout")(self.log_out)
        page.get("/order")(self.show_order)
        page.post("/order")(self.order)

        @page.errorhandler(HTTPException)
        def refuse(error: HTTPException) -> AnyResponse:
            code, reason = error.code or 500, error.description or error.name
            refused(code, reason, request.remote_addr or "")
            response = self._render("problem.html", code, title="Not done", reason=reason)
            if isinstance(error, TooManyRequests | ServiceUnavailable) and error.retry_after:
                response.headers["Retry-After"] = str(error.retry_after)
            return response

        @page.errorhandler(JournalError)
        def journal_failed(error: JournalError) -> AnyResponse:
            return refuse(ServiceUnavailable(str(error), retry_after=1))

        @page.after_request
        def head(response: Response) -> Response:
            response.headers.update(HEADERS)
            if request.endpoint == "page.static":
                response.headers["Cache-Control"] = "no-cache"  # asked for again, and not sent again
            return response

        return page

    def is_open_to_this(self) -> bool:
        """Whether who makes this request may see the page for having logged in, or is about to."""
        return request.endpoint in {"page.static", "page.show_login", "page.log_in"} or bool(self._session())

    def login_instead(self) -> AnyResponse | None:
        """The way to the login, for who may not look; None where there is none."""
        if not self._may_log_in or request.method not in {"GET", "HEAD"}:
            return None
        return self._to_login()

    def _now(self) -> Site:
        """What there is: worked out once for all who look at the same time."""
        with self._looking:
            now = self._clock.monotonic()
            if self._seen is None or now - self._seen[0] >= SEEN_SECONDS:
                self._seen = now, self._site()
            return self._seen[1]

    # ---- reading -----------------------------------------------------------------------------------------

    def overview(self) -> AnyResponse:
        """Answer with what a person looks at first."""
        site = self._now()
        text = _search_text()
        lately = self._journal.history(limit=LATELY_EVENTS).events
        return self._render(
            "overview.html",
            title="Overview",
            site=site,
            text=text,
            vm_rows=site.vms(text, limit=ROWS),
            host_rows=site.hosts(text, limit=ROWS),
            resource_rows=site.resources(text, limit=ROWS),
            lately=[it for _, it in lately if it.kind in NOTABLE][:10],
            refresh=REFRESH_SECONDS_BUSY if site.plans else REFRESH_SECONDS,
        )

    def listed(self, kind: str) -> AnyResponse:
        """Answer with all VMs, hosts or resources, some at a time."""
        site = self._now()
        text, first = _search_text(), _number("from")
        rows = {"vms": site.vms, "hosts": site.hosts, "resources": site.resources}[kind]
        return self._render(
            "list.html",
            title={"vms": "VMs", "hosts": "Hosts", "resources": "Resources"}[kind],
            kind=kind,
            site=site,
            text=text,
            rows=rows(text, first, ROWS_OF_LIST),
            refresh=REFRESH_SECONDS,
        )

    def plan(self, plan: str) -> AnyResponse:
        """Answer with the story of a plan: its evidence, decision, steps and end."""
        domain = plan.rpartition("-")[0]
        events = self._events_of(domain, plan) if domain else []
        story, current = story_of(plan, events), self._now().plan(plan)
        if story is None and current is None:
            raise NotFound(f"there is nothing of a plan {plan} in the journal; old events are dropped")
        refresh = REFRESH_SECONDS_BUSY if story is None or story["end"] is None else None
        return self._render(
            "plan.html",
            title=f"Plan {plan}",
            plan=plan,
            domain=domain,
            story=story,
            current=current,
            events_of=events,
            refresh=refresh,
        )

    def _events_of(self, domain: str, plan: str) -> list[Event]:
        """The plan's, oldest first, and before them the look that it was made on."""
        found = self._journal.history(domain=domain, plan=plan, limit=PLAN_EVENTS).events[::-1]
        if not found:
            return []
        earlier = self._journal.history(domain=domain, words=("observed",), before=found[0][0], limit=5)
        look = [it for _, it in earlier.events if it.kind == "observed"][:1]
        return look + [it for _, it in found]

    def history(self) -> AnyResponse:
        """Answer with what happened, the newest first; searched for words, and for a VM."""
        text, domain = _search_text(), request.args.get("vm", "")
        before = _number("before") or None
        words = text.split()[:MAX_SEARCH_WORDS]
        past = self._journal.history(domain=domain, words=words, before=before, limit=HISTORY_EVENTS)
        older = None
        if past.before is not None:
            given = {"q": text, "vm": domain, "before": past.before}
            older = "/history?" + urlencode({name: it for name, it in given.items() if it})
        return self._render(
            "history.html",
            title="History",
            text=text,
            domain=domain,
            list=[it for _, it in past.events],
            older=older,
            before=before,
        )

    # ---- logging in --------------------------------------------------------------------------------------

    def wants_form(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether the body of a POST is to be read; the names of `headers` are in lower case."""
        if path not in {"/login", "/logout", "/order"}:
            return False
        try:
            self._check_head(path, lambda name: headers.get(name.lower(), ""))
        except HTTPException:
            return False
        return True

    def show_login(self, problem: str = "", code: int = 200) -> AnyResponse:
        """Answer with the form."""
        if not self._may_log_in:
            raise NotFound("no orders are taken: operator.token_file is not in the configuration")
        onward = request.values.get("next", "") if request.method == "GET" else request.form.get("next", "")
        name = request.form.get("name", "") if request.method == "POST" else ""
        return self._render(
            "login.html",
            code,
            title="Log in",
            onward=_onward(onward),
            problem=problem,
            name=name,
            is_public=self._is_public,
        )

    def _to_login(self) -> AnyResponse:
        onward = quote(request.full_path.rstrip("?"))
        return redirect(f"{url_for('page.show_login')}?next={onward}", HTTPStatus.SEE_OTHER)

    def log_in(self) -> AnyResponse:
        """Begin a session, and go on to where the person wanted to go."""
        self._check_head("/login", _header)
        if not self._may_log_in:
            raise NotFound("no orders are taken: operator.token_file is not in the configuration")
        name, address = request.form.get("name", "").strip(), request.remote_addr or ""
        if not is_name(name):
            return self.show_login("Say who you are, in up to 64 characters.", HTTPStatus.BAD_REQUEST)
        try:
            key = self._sessions.log_in(request.form.get("token", "").strip(), name, address)
        except TooManyAttemptsError:
            raise TooManyRequests(
                "too many wrong tokens have come from your address: wait a minute",
                retry_after=int(ATTEMPT_SECONDS),
            ) from None
        if key is None:
            self._refused(HTTPStatus.FORBIDDEN, "a wrong token at the page's login", address)
            return self.show_login("The token is not the right one.", HTTPStatus.FORBIDDEN)
        log.info("logged in at the page", by=name, remote=address)
        response = redirect(_onward(request.form.get("next", "")), HTTPStatus.SEE_OTHER)
        # Whether a proxy speaks TLS with the browser only the browser can tell.
        secure = request.is_secure or _header("Origin").startswith("https:")
        response.set_cookie(COOKIE, key, httponly=True, samesite="Strict", secure=secure)
        return response

    def log_out(self) -> AnyResponse:
        """End the session."""
        self._check_form("/logout")
        self._sessions.log_out(request.cookies.get(COOKIE, ""))
        response = redirect("/", HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, httponly=True, samesite="Strict")
        return response

    def _session(self) -> Session | None:
        return self._sessions.find(request.cookies.get(COOKIE, ""))

    def _check_form(self, path: str) -> Session:
        """Check all that a form of somebody who is logged in must bring.

        Raises:
            HTTPException: something is missing or wrong.
        """
        session = self._check_head(path, _header)
        given = request.form.get("form_token", "")
        if session is None or not hmac.compare_digest(given.encode(), session.form_token.encode()):
            raise Forbidden("the form is not of this session: load the page anew, and send it again")
        if path == "/order" and not session.may_order:
            raise Forbidden("you are logged in for reading only")
        return session

    def _check_head(self, path: str, header: Callable[[str], str]) -> Session | None:
        """Check what a form's head must have, before its body is read and again before it is used.

        Raises:
            HTTPException: something is missing or wrong.
        """
        if header("Content-Type").partition(";")[0].strip().lower() != FORM_TYPE:
            raise UnsupportedMediaType(f"the content type is not {FORM_TYPE}")
        if not re.fullmatch(r"[0-9]{1,9}", header("Content-Length")) or header("Transfer-Encoding"):
            raise LengthRequired("a form says how long it is")
        if int(header("Content-Length")) > MAX_FORM_BYTES:
            raise RequestEntityTooLarge(f"the form is larger than {MAX_FORM_BYTES} bytes")
        if urlsplit(header("Origin")).netloc != header("Host") or not header("Host"):
            raise Forbidden("the form does not come from this page (Origin is not Host)")
        if header("Sec-Fetch-Site") not in {"", "same-origin"}:
            raise Forbidden("the form does not come from this page (Sec-Fetch-Site)")
        session = self._sessions.find(parse_cookie(header("Cookie")).get(COOKIE, ""))
        if session is None and path != "/login":
            raise Forbidden("you are not logged in (any more)")
        return session

    # ---- orders ------------------------------------------------------------------------------------------

    def show_order(self) -> AnyResponse:
        """Answer with what an order would do, and the button that gives it."""
        session = self._session()
        if session is None or not session.may_order:
            return self._to_login()
        return self._order_form(request.args)

    def order(self) -> AnyResponse:
        """Give the order."""
        session = self._check_form("/order")
        given, name = request.form, request.form.get("order", "")
        if name not in FIELD_OF:
            raise BadRequest("the page has no such order")
        order: dict[str, Any] = {"order": name, "by": session.name, "reason": given.get("reason", "").strip()}
        order[FIELD_OF[name]] = given.get("name", "")
        if name == "approve":
            order["proposal"] = given.get("proposal", "")
        if name == "pause" and given.get("seconds"):
            order["seconds"] = _seconds(given["seconds"])
        try:
            answer = self._orders.take(parse_order(json.dumps(order).encode()), via="page")
        except MalformedOrderError as error:
            raise BadRequest(str(error)) from None
        if isinstance(answer, Refused):
            return self._order_form(given, f"Refused: {answer.sentence}", HTTPStatus.CONFLICT)
        with self._looking:
            self._seen = None
        session.say(answer.sentence, self._clock.monotonic())
        return redirect("/", HTTPStatus.SEE_OTHER)

    def _order_form(self, given: Mapping[str, str], problem: str = "", code: int = 200) -> AnyResponse:
        order, name = given.get("order", ""), given.get("name", "")
        site = self._now()
        if order not in FIELD_OF or not (name == ALL or site.knows(name)):
            raise NotFound("there is no such order")
        return self._render(
            "order.html",
            code,
            title=f"{order} {name}".capitalize(),
            order=order,
            name=name,
            site=site,
            proposal=given.get("proposal", ""),
            waiting=site.proposal_of(name),
            pauses=PAUSES,
            seconds=given.get("seconds", "3600"),
            reason=given.get("reason", ""),
            problem=problem,
        )

    # ---- common ------------------------------------------------------------------------------------------

    def _render(self, template: str, code: int = 200, **words: Any) -> AnyResponse:
        session = self._session()
        return Response(
            render_template(
                template,
                session=session,
                said=session.news(self._clock.monotonic()) if session else "",
                may_order=self._may_order and (session is None or session.may_order),
                may_log_in=self._may_log_in,
                version=__version__,
                **words,
            ),
            code,
        )


def _header(name: str) -> str:
    return request.headers.get(name, "")


def _search_text() -> str:
    return " ".join(request.args.get("q", "").split())[:MAX_SEARCH_LENGTH]


def _number(name: str) -> int:
    """A number of the query; 0 for none, and for what is none."""
    given = request.args.get(name, "")
    return int(given) if re.fullmatch(r"[0-9]{1,15}", given) else 0


def _seconds(given: str) -> float:
    if given not in PAUSES:
        raise BadRequest("a pause is as long as the form says")
    return float(given)


def _onward(path: str) -> str:
    """Where to go after the login: to an order of the page, or to its beginning."""
    return path if path.startswith("/order?") else "/"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _span(seconds: float) -> str:
    """A time in words, as exact as a person wants it."""
    if seconds < 10:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{whole} s"


def _pretty(detail: object) -> str:
    return json.dumps(detail, indent=2, ensure_ascii=False, default=str)
