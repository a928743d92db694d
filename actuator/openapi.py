"""The OpenAPI description of the actuator's HTTP API, made of the very types that check what is asked.

Served at ``/api/v1/openapi.json``, and written to docs/openapi.json by `make reference`. A test holds that it
has each path and method of the application and no other; `make api-test` holds the running program to it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from actuator import arbitrate, orders, webhook
from actuator.config import Mode
from actuator.core.readiness import Reason
from actuator.model import Escalation, Order, PlanRecord
from exporter import __version__

PATH = "/api/v1/openapi.json"
_JSON, _TEXT = "application/json", "text/plain"
_REF = "#/components/schemas/{model}"


class _Answer(BaseModel):
    """Nothing else is in it."""

    model_config = ConfigDict(extra="forbid")


# ---- what the answers are --------------------------------------------------------------------------------


class Caller(_Answer):
    """Whose token a hook brings."""

    host: str


class HostStatus(_Answer):
    """What vmheal knows about a host."""

    host: str
    failed_at: float | None
    drained: Order | None
    down: Order | None
    paused: Order | None


class DomainStatus(_Answer):
    """What vmheal knows about a protected VM."""

    domain: str
    host: str
    """Where it should run."""
    hosts: list[str]
    mode: Mode
    plan: PlanRecord | None
    """The open plan, else the last one."""
    attempts_at: list[float]
    escalation: Escalation | None
    paused: str | None
    suspects: dict[str, float]
    """By host: until when the VM is not sent back there."""


class ResourceStatus(_Answer):
    """What the arbiter knows about a DRBD resource."""

    resource: str
    hosts: list[str]
    holder: str
    admitted: list[str]
    granted: bool
    armed: list[str]
    version: int


class Status(_Answer):
    """All that the journal knows."""

    version: str
    mode: Mode
    reconciled_at: float | None
    handling: int
    paused: Order | None
    hosts: list[HostStatus]
    domains: list[DomainStatus]
    resources: list[ResourceStatus]


class RehearsedCheck(_Answer):
    """Whether a verb would bring the VM up on a host."""

    host: str
    verb: str
    ready: bool
    forecast_seconds: float | None
    reasons: list[Reason]


class Rehearsed(_Answer):
    """The last rehearsal of a VM."""

    domain: str
    host: str
    at: float
    checks: list[RehearsedCheck]


class Ready(_Answer):
    """What would work now (docs/readiness.md)."""

    domains: list[Rehearsed]
    not_rehearsed: list[str]


class TargetGroup(_Answer):
    """One group of Prometheus's HTTP service discovery."""

    targets: list[str]
    labels: dict[str, str]


class Decision(_Answer):
    """What would be done now; which keys there are depends on `kind`."""

    kind: Literal["plan", "refusal", "nothing", "postponed"]
    sentence: str
    verb: str = ""
    host: str = ""
    proof: str | None = None
    proposal: str = ""
    steps: list[str] = []
    chosen: str = ""
    rejected: dict[str, str] = {}
    guard: str = ""
    until_at: float | None = None
    suspect_until: float = 0.0
    note: str = ""


class DomainExplained(_Answer):
    """A VM: what is seen, and what would be done."""

    domain: str
    host: str
    mode: Mode
    seen: str
    plan_under_way: str | None
    paused: str | None
    drifted: list[str]
    escalation: Escalation | None
    decision: Decision
    elsewhere: dict[str, Decision]


class NotExplained(_Answer):
    """A VM that could not be looked at."""

    domain: str
    error: str


class HostExplained(_Answer):
    """A host, and the VMs that should run there."""

    host: str
    silent_seconds: float
    failed_at: float | None
    drained: Order | None
    down: Order | None
    paused: Order | None
    domains: list[DomainExplained | NotExplained]
    not_looked_at: list[str]


# ---- the description -------------------------------------------------------------------------------------

_ASKED: Mapping[str, Any] = {
    "Delivery": webhook.Payload,
    "Question": arbitrate.Question,
    "AnyOrder": Annotated[orders.AnyOrder, Field(discriminator="order")],
}
_ANSWERED: Mapping[str, Any] = {
    "Reply": arbitrate.Reply,
    "Caller": Caller,
    "Taken": orders.Taken,
    "Status": Status,
    "Ready": Ready,
    "Targets": list[TargetGroup],
    "Explained": DomainExplained | HostExplained,
}
_SAYS = {
    400: "It is not understood; the text says where and why. Nothing was changed.",
    401: "No token, or not one that may; the same for a client certificate.",
    404: "There is no such thing here.",
    409: "Nothing was changed; the text says why.",
    413: "The body is larger, or has more in it, than is accepted.",
    415: "The body is not said to be JSON.",
    503: "Not now: ask again.",
}


def _of_body(answers: str | None, *more: int) -> dict[str, Any]:
    return _answers(answers, 400, 401, 413, 415, 503, *more)


def _answers(answers: str | None, *codes: int) -> dict[str, Any]:
    done = {
        "description": "Done." if answers is None else "The answer.",
        "content": {_TEXT: {"schema": {"type": "string"}}}
        if answers is None
        else {_JSON: {"schema": {"$ref": _REF.format(model=answers)}}},
    }
    refused = {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted(codes)}
    return {"200": done, **refused}


def _operation(
    name: str,
    summary: str,
    responses: Mapping[str, Any],
    *,
    body: str = "",
    tokens: Sequence[str] = (),
    free: bool = False,
) -> dict[str, Any]:
    """One method of one path; `free`: without a token too, unless the configuration wants one."""
    it: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    it["security"] = [{}] * free + [{token: []} for token in tokens]
    if body:
        content = {_JSON: {"schema": {"$ref": _REF.format(model=body)}}}
        it["requestBody"] = {"required": True, "content": content}
    return it


def _shows(name: str, summary: str, answers: str | None, *more: int) -> dict[str, Any]:
    responses = _answers(answers, 400, 401, 503, *more)
    return {"get": _operation(name, summary, responses, tokens=["reader"], free=True)}


_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Of a protected VM, or of a host.",
    "schema": {"type": "string", "minLength": 1, "pattern": "^[^/]+$"},
}


def _paths() -> dict[str, Any]:
    return {
        "/alerts": {
            "post": _operation(
                "deliver",
                "Alertmanager's webhook, version 4; 200 once it is durable",
                _of_body(None),
                body="Delivery",
                tokens=["alertmanager"],
            )
        },
        "/api/v1/arbitrate": {
            "get": _operation("whose", "Whose token it is", _answers("Caller", 400, 401), tokens=["host"]),
            "post": _operation(
                "arbitrate",
                "A hook of DRBD asks the arbiter (docs/hosts.md)",
                _of_body("Reply"),
                body="Question",
                tokens=["host"],
            ),
        },
        "/api/v1/orders": {
            "post": _operation(
                "order",
                "A person orders; what it comes to is in the sentence",
                _of_body("Taken", 404, 409),
                body="AnyOrder",
                tokens=["operator"],
            )
        },
        "/api/v1/explain/{name}": {
            "parameters": [_NAME],
            **_shows("explain", "Look at a VM or a host now, and say what would be done", "Explained", 404),
        },
        "/api/v1/status": _shows("status", "What the journal knows", "Status"),
        "/api/v1/ready": _shows("ready", "What would work now", "Ready"),
        "/api/v1/targets": _shows("targets", "The exporters, for Prometheus's http_sd_config", "Targets"),
        PATH: {"get": _operation("openapi", "This description", _described(), tokens=["reader"], free=True)},
        "/metrics": _metrics(),
        "/-/healthy": {"get": _operation("healthy", "It lives", _answers(None, 400), free=True)},
        "/-/ready": {
            "get": _operation(
                "is_ready", "The last delivery could be stored", _answers(None, 400, 503), free=True
            )
        },
        "/-/reload": {
            "post": _operation(
                "reload",
                "Take the configuration file up as it is now",
                _answers(None, 400, 401, 404, 413, 503),
                tokens=["operator"],
            )
        },
    }


def _metrics() -> dict[str, Any]:
    it = _shows("metrics", "For Prometheus, in either of its formats", None)
    it["get"]["responses"]["200"]["content"]["application/openmetrics-text"] = {"schema": {"type": "string"}}
    return it


def _described() -> dict[str, Any]:
    said = {"description": "The answer.", "content": {_JSON: {"schema": {"type": "object"}}}}
    return {"200": said, **{code: it for code, it in _answers(None, 400, 401).items() if code != "200"}}


@functools.cache
def description() -> Mapping[str, Any]:
    """Return it, as plain data."""
    wanted: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
        *((name, "validation", TypeAdapter(it)) for name, it in _ASKED.items()),
        *((name, "serialization", TypeAdapter(it)) for name, it in _ANSWERED.items()),
    ]
    by_name, defined = TypeAdapter.json_schemas(wanted, ref_template=_REF)
    schemas = dict(defined.get("$defs", {}))
    for (name, _), schema in by_name.items():
        if schema != {"$ref": _REF.format(model=name)}:
            schemas[name] = schema
    bearer = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vmheal-actuator",
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "What docs/page.md, docs/readiness.md and docs/hosts.md are about, for programs.",
        },
        "paths": _paths(),
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "responses": {
                str(code): {"description": said, "content": {_TEXT: {"schema": {"type": "string"}}}}
                for code, said in _SAYS.items()
            },
            "securitySchemes": {
                who: {**bearer, "description": said}
                for who, said in {
                    "alertmanager": "webhook.token_file",
                    "host": "hosts.NAME.arbiter_token_file",
                    "operator": "operator.token_file",
                    "reader": "read.token_file, where it is configured; an operator's is one, too.",
                }.items()
            },
        },
    }
