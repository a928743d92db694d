"""The actuator's HTTP side: Alertmanager's webhook, hooks and operators, metrics, health, status, the page.

A delivery is answered 200 only after its notifications are in the journal, all in one transaction; the
journal lets deliveries that come together share an fsync. What is our own fault is 503: after a 5xx
Alertmanager sends again at once, after a 4xx only with the group's next notification. A delivery that was
answered 503 may have been stored all the same: it comes again, and takes its own place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Self

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from pydantic_core import to_json
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    HTTPException,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from werkzeug.wrappers import Response as AnyResponse

from actuator import openapi
from actuator.arbitrate import Arbiter, MalformedQuestionError
from actuator.arbitrate import parse as parse_question
from actuator.config import ConfigError, WebhookSettings
from actuator.explain import BusyError
from actuator.orders import MalformedOrderError, Orders, Refused
from actuator.orders import parse as parse_order
from actuator.page.pages import Page
from actuator.ports import Clock, Journal, JournalError
from actuator.reload import NotAtRestError
from actuator.rights import NotAllowedError, Right, Rights
from actuator.web import CERTIFICATE, WebServer
from actuator.webhook import Delivery, MalformedError, TooManyAlertsError, parse
from exporter.web import Request
from exporter.web_config import WebConfigFile, names_of

log = structlog.get_logger()

ALERTS = "/alerts"
ARBITRATE = "/api/v1/arbitrate"
ORDERS = "/api/v1/orders"
RELOAD = "/-/reload"
EXPLAIN = "/api/v1/explain/<name>"
STATUS = "/api/v1/status"
READY = "/api/v1/ready"
TARGETS = "/api/v1/targets"
MAX_QUESTION_BYTES = 4096
MAX_ORDER_BYTES = 16 * 1024
RETRY_AFTER_SECONDS = 1
MAX_LOG_LINES = 20
LOG_WINDOW_SECONDS = 10.0
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the server hands its requests to, and who may hand them in."""

    journal: Journal
    """Where notifications go."""
    clock: Clock
    """For the time of receipt."""
    rights: Rights
    """Who may do what."""
    arbiter: Arbiter
    """Answers the hosts' hooks."""
    webhook: WebhookSettings
    """Its limits."""
    wake: Callable[[], None]
    """Called after each delivery that is in the journal: there is work."""
    registry: CollectorRegistry
    """What ``/metrics`` shows; gets the metrics of this side too."""
    status: Callable[[], Mapping[str, object]]
    """Gives what ``/api/v1/status`` shows: plain data, dataclasses and enums."""
    explain: Callable[[str], Mapping[str, object] | None] = lambda _: None
    """Likewise for a VM or a host under ``/api/v1/explain``; None for what is neither."""
    ready: Callable[[], Mapping[str, object]] = dict
    """Likewise for what would work now, under ``/api/v1/ready``."""
    targets: Callable[[], Sequence[Mapping[str, object]]] = list
    """Likewise for the exporters that Prometheus scrapes, under ``/api/v1/targets``."""
    orders: Orders | None = None
    """Takes them from operators."""
    reload: Callable[[], None] | None = None
    """Takes the configuration file up as it is now; see ``actuator.reload``."""
    page: Page | None = None
    """For people."""


TAKERS = {ALERTS: Right.DELIVER, ARBITRATE: Right.ARBITRATE, ORDERS: Right.ORDER}
"""Paths that take a body, and the right that it takes."""
OPEN = {*TAKERS, RELOAD, "/-/healthy", "/-/ready"}
"""Paths that have a right of their own, or say nothing that matters; for all others it is ``Right.READ``."""


class Server:
    """Answers from ``start`` to ``stop``; as a context manager, inside ``with``.

    Args:
        address: HOST:PORT to listen on, or :PORT for every address; port 0 takes a free one.
        parts: what it works with.
        config: TLS; plain HTTP without it.

    Raises:
        AddressError: the address cannot be listened on.
    """

    def __init__(self, address: str, parts: Parts, config: WebConfigFile | None = None) -> None:
        self._refusals = Refusals(parts.clock)
        self._counters = Counters(parts.registry)
        self.use(parts)
        self._server = WebServer(
            self._answer,
            address,
            wants_body=self._wants_body,
            refused=self._refusals.add,
            max_body_bytes=parts.webhook.max_body_bytes,
            request_timeout_seconds=parts.webhook.request_timeout_seconds,
            registry=parts.registry,
            config=config or WebConfigFile(None),
        )

    def use(self, parts: Parts) -> None:
        """Answer with these parts from now on; the registry and the limits of the connections stay."""
        self._rights, self._page = parts.rights, parts.page
        self._app = create_app(parts, self._refusals, self._counters)

    def _answer(self, environ: Any, start_response: Any) -> Any:
        return self._app(environ, start_response)

    def _wants_body(self, asked: Request) -> bool:
        rights, page, headers = self._rights, self._page, asked.headers
        if asked.method != "POST":
            return False
        if asked.path not in TAKERS:
            return page is not None and page.wants_form(asked.path, headers)
        try:
            _check_right(
                rights,
                TAKERS[asked.path],
                headers.get("authorization", ""),
                names_of(asked.peer_certificate),
            )
            _check_type(headers.get("content-type", ""))
        except HTTPException:
            return False
        return True

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def stop(self) -> None:
        """Accept nothing more, answer the requests in hand, and close; takes at most some seconds."""
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Refusals:
    """One log line for each request that is refused, up to a number in a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = Lock()
        self._window_since = clock.monotonic()
        self._lines = 0

    def add(self, status: int, reason: str, remote: str) -> None:
        """Say it, unless too many were said."""
        with self._lock:
            now = self._clock.monotonic()
            not_logged = 0
            if now - self._window_since >= LOG_WINDOW_SECONDS:
                not_logged = max(0, self._lines - MAX_LOG_LINES)
                self._window_since, self._lines = now, 0
            self._lines += 1
            if self._lines > MAX_LOG_LINES:
                return
        more = {"not_logged_before": not_logged} if not_logged else {}
        log.warning("request refused", status=status, reason=reason, remote=remote, **more)


class Counters:
    """The metrics of this side."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received = Counter(
            "vmheal_notifications_received",
            "Alerts received over the webhook and stored, by the status that Alertmanager gave.",
            ["status"],
            registry=registry,
        )
        self.truncated = Counter(
            "vmheal_webhook_truncated_alerts",
            "Alerts that Alertmanager left out of its deliveries (max_alerts of its receiver; set it to 0).",
            registry=registry,
        )
        self.requests = Counter(
            "vmheal_webhook_requests",
            "Requests to the webhook, by the code of the answer.",
            ["code"],
            registry=registry,
        )
        self.duration = Histogram(
            "vmheal_webhook_request_duration_seconds",
            "Time that a thread takes to answer a request to the webhook, the journal included.",
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        for status in ("firing", "resolved"):
            self.received.labels(status)


class _Receiver:
    """What stands behind ``POST /alerts``."""

    def __init__(self, parts: Parts, counters: Counters) -> None:
        self._parts = parts
        self._counters = counters
        self.problem = ""
        """Why the last delivery could not be stored; empty when it could."""

    def take(self) -> Response:
        """Answer the request, or raise the answer."""
        _check_head(self._parts.rights, Right.DELIVER)
        limits = self._parts.webhook
        if (request.content_length or 0) > limits.max_body_bytes:
            raise RequestEntityTooLarge(f"the body is larger than {limits.max_body_bytes} bytes")
        try:
            delivery = parse(request.get_data(cache=False), max_alerts=limits.max_alerts)
        except MalformedError as error:
            raise BadRequest(str(error)) from None
        except TooManyAlertsError as error:
            raise RequestEntityTooLarge(str(error)) from None
        self._store(delivery)
        return _text("stored")

    def _store(self, delivery: Delivery) -> None:
        if delivery.notifications:
            try:
                self._parts.journal.receive(delivery.notifications, at=self._parts.clock.wall())
            except JournalError as error:
                self.problem = str(error)
                raise
            self.problem = ""
            self._parts.wake()
        for notification in delivery.notifications:
            self._counters.received.labels("firing" if notification.firing else "resolved").inc()
        if delivery.truncated:
            self._counters.truncated.inc(delivery.truncated)
            log.warning(
                "Alertmanager left alerts out of a delivery: set max_alerts of its receiver to 0",
                left_out=delivery.truncated,
                remote=request.remote_addr,
            )

    def count(self, code: int, seconds: float) -> None:
        """Count an answer of the webhook, whatever it was."""
        self._counters.requests.labels(str(code)).inc()
        self._counters.duration.observe(seconds)


class _Hooks:
    """What stands behind ``/api/v1/arbitrate``."""

    def __init__(self, rights: Rights, arbiter: Arbiter) -> None:
        self._rights = rights
        self._arbiter = arbiter

    def whose(self) -> Response:
        """Say as whom a hook is known; asked by ``vmheal-fence-peer check``, and written down nowhere."""
        host = _check(self._rights, Right.ARBITRATE)
        return Response(to_json({"host": host}), content_type="application/json")

    def answer(self) -> Response:
        """Answer the request, or raise the answer."""
        host = _check_head(self._rights, Right.ARBITRATE)
        if (request.content_length or 0) > MAX_QUESTION_BYTES:
            raise RequestEntityTooLarge(f"the body is larger than {MAX_QUESTION_BYTES} bytes")
        try:
            question = parse_question(request.get_data(cache=False))
        except MalformedQuestionError as error:
            raise BadRequest(str(error)) from None
        return Response(to_json(self._arbiter.reply(host, question)), content_type="application/json")


class _Operators:
    """What stands behind ``POST /api/v1/orders``."""

    def __init__(self, rights: Rights, orders: Orders | None) -> None:
        self._rights = rights
        self._orders = orders

    def take(self) -> Response:
        """Answer the request, or raise the answer."""
        if self._orders is None or not self._rights.held(Right.ORDER):
            raise NotFound("no orders are taken: operator.token_file is not in the configuration")
        _check_head(self._rights, Right.ORDER)
        if (request.content_length or 0) > MAX_ORDER_BYTES:
            raise RequestEntityTooLarge(f"the body is larger than {MAX_ORDER_BYTES} bytes")
        try:
            order = parse_order(request.get_data(cache=False))
        except MalformedOrderError as error:
            raise BadRequest(str(error)) from None
        answer = self._orders.take(order)
        if isinstance(answer, Refused):
            raise Conflict(answer.sentence)
        return Response(to_json(answer), content_type="application/json")


class _Reloads:
    """What stands behind ``POST /-/reload``."""

    def __init__(self, rights: Rights, reload: Callable[[], None] | None) -> None:
        self._rights = rights
        self._reload = reload

    def answer(self) -> Response:
        """Answer the request, or raise the answer."""
        if self._reload is None or not self._rights.held(Right.ORDER):
            raise NotFound("no orders are taken: operator.token_file is not in the configuration")
        _check(self._rights, Right.ORDER)
        try:
            self._reload()
        except ConfigError as error:
            raise BadRequest("; ".join(error.problems)) from None
        except NotAtRestError as error:
            raise ServiceUnavailable(str(error), retry_after=RETRY_AFTER_SECONDS) from None
        return _text("reloaded")


class _Explanations:
    """What stands behind ``GET /api/v1/explain/...``."""

    def __init__(self, explain: Callable[[str], Mapping[str, object] | None]) -> None:
        self._explain = explain

    def answer(self, name: str) -> Response:
        """Answer the request, or raise the answer."""
        try:
            explanation = self._explain(name)
        except BusyError as error:
            raise ServiceUnavailable(str(error), retry_after=RETRY_AFTER_SECONDS) from None
        if explanation is None:
            raise NotFound(f"{name!r} is neither a protected VM nor a host")
        return Response(to_json(explanation), content_type="application/json")


def create_app(parts: Parts, refusals: Refusals, counters: Counters) -> Flask:
    """Make the WSGI application, which adds to `refusals` what it does not take."""
    app = Flask("vmheal-actuator", static_folder=None)
    receiver = _Receiver(parts, counters)

    @app.before_request
    def begin() -> None:
        g.begun = parts.clock.monotonic()
        _check_query()

    _answer_errors(app, refusals)
    _only_to_readers(app, parts.rights, parts.page)

    if parts.page is not None:
        app.register_blueprint(parts.page.blueprint(refusals.add))

    app.post(ALERTS)(receiver.take)

    hooks = _Hooks(parts.rights, parts.arbiter)
    app.post(ARBITRATE)(hooks.answer)
    app.get(ARBITRATE)(hooks.whose)

    app.post(ORDERS, endpoint="orders")(_Operators(parts.rights, parts.orders).take)

    app.post(RELOAD, endpoint="reload")(_Reloads(parts.rights, parts.reload).answer)

    app.get(EXPLAIN, endpoint="explain")(_Explanations(parts.explain).answer)

    shown: dict[str, Callable[[], object]] = {
        STATUS: parts.status,
        READY: parts.ready,
        TARGETS: parts.targets,
        openapi.PATH: openapi.description,
    }
    for path, ask in shown.items():
        app.get(path, endpoint=path)(partial(_as_json, ask))

    @app.get("/metrics")
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(parts.registry), content_type=content_type)

    @app.get("/-/healthy")
    def healthy() -> Response:
        return _text("healthy")

    @app.get("/-/ready")
    def ready() -> Response:
        if receiver.problem:
            raise ServiceUnavailable(f"the last delivery could not be stored: {receiver.problem}")
        return _text("ready")

    @app.after_request
    def count(response: Response) -> Response:
        if request.path == ALERTS:
            receiver.count(response.status_code, parts.clock.monotonic() - g.begun)
        return response

    return app


def _only_to_readers(app: Flask, rights: Rights, page: Page | None) -> None:
    """Whatever is shown is shown to who may read; a person without a login is sent there."""

    @app.before_request
    def may_read() -> AnyResponse | None:
        if request.path in OPEN:
            return None
        shown = page if (request.endpoint or "").startswith("page.") else None
        if shown is not None and shown.is_open_to_this():
            return None
        try:
            _check(rights, Right.READ)
        except Unauthorized:
            if shown is not None and (login := shown.login_instead()):
                return login
            raise
        return None


def _answer_errors(app: Flask, refusals: Refusals) -> None:
    """Every error is one line of text, and one in the log."""

    @app.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> Response:
        code, reason = error.code or 500, error.description or error.name
        refusals.add(code, reason, request.remote_addr or "")
        answer = _text(reason, code)
        for header, value in error.get_response().headers.items():
            if header in {"Allow", "Retry-After", "WWW-Authenticate"}:
                answer.headers.add(header, value)
        return answer

    @app.errorhandler(JournalError)
    def journal_failed(error: JournalError) -> Response:
        return refuse(ServiceUnavailable(str(error), retry_after=RETRY_AFTER_SECONDS))

    @app.errorhandler(Exception)
    def surprise(error: Exception) -> Response:
        log.error("a request failed unexpectedly", path=request.path, exc_info=error)
        return _text("an unexpected error; the actuator's log has it", 500)


def _check_head(rights: Rights, right: Right) -> str:
    """Check what the head of a request with a body must have, before the body is used.

    Returns:
        Who asks.

    Raises:
        Unauthorized: nobody who may.
        UnsupportedMediaType: the body is not said to be JSON.
    """
    who = _check(rights, right)
    _check_type(request.content_type or "")
    return who


def _check_type(content_type: str) -> None:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMediaType("the content type is not application/json")


def _check_query() -> None:
    """Flask takes it for UTF-8 when it is looked at, and fails.

    Raises:
        BadRequest: it is not.
    """
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None


def _check(rights: Rights, right: Right) -> str:
    """Who asks, of those who have the right; else Unauthorized is raised."""
    names = names_of(request.environ.get(CERTIFICATE))
    return _check_right(rights, right, request.headers.get("Authorization", ""), names)


def _check_right(rights: Rights, right: Right, authorization: str, names: Collection[str]) -> str:
    try:
        return rights.check(right, authorization, names)
    except NotAllowedError as error:
        challenge = WWWAuthenticate("bearer", {"realm": "vmheal"})
        raise Unauthorized(str(error), www_authenticate=challenge) from None


def _as_json(ask: Callable[[], object]) -> Response:
    return Response(to_json(ask()), content_type="application/json")


def _text(sentence: str, code: int = 200) -> Response:
    return Response(f"{sentence}\n", code, content_type="text/plain; charset=utf-8")
