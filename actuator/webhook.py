"""Alertmanager's webhook payload, version 4: bytes to notifications, or a sentence about what is wrong.

As far as it is used; what is not known is ignored, as newer releases add keys. The parser (pydantic's, in
Rust) refuses what is not UTF-8, nests deeper than 200, or has numbers out of range; of a key that is there
twice the last one counts, as in Go.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
)

from actuator.model import Notification

MAX_LABELS = 128
MAX_LABEL_NAME_LENGTH = 1024
MAX_LABEL_VALUE_LENGTH = 8192
MAX_REASON_LENGTH = 300


class MalformedError(ValueError):
    """The body is not a payload that can be used. The text says where and why."""


class TooManyAlertsError(ValueError):
    """More alerts in one body than are accepted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one request of Alertmanager says."""

    notifications: tuple[Notification, ...]
    truncated: int
    """Alerts of the group that Alertmanager left out (its ``max_alerts``): reconcile must fetch them."""


def _bounded(labels: object) -> object:
    """Refuse too many before each is looked at: every wrong one would become an error of its own."""
    if isinstance(labels, dict) and len(labels) > MAX_LABELS:
        raise ValueError(f"{len(labels)} labels, at most {MAX_LABELS} are accepted")
    return labels


_Labels = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL_NAME_LENGTH)],
        Annotated[str, StringConstraints(max_length=MAX_LABEL_VALUE_LENGTH)],
    ],
    BeforeValidator(_bounded),
]


class Alert(BaseModel):
    """One of them."""

    model_config = ConfigDict(strict=True)

    status: Literal["firing", "resolved"]
    labels: _Labels
    starts_at: AwareDatetime = Field(alias="startsAt")
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]
    """Sent since Alertmanager 0.19 (2019)."""


class Payload(BaseModel):
    """What Alertmanager sends, as far as it is used."""

    model_config = ConfigDict(strict=True)

    version: Literal["4"]
    alerts: Annotated[list[Alert], FailFast()]
    truncated_alerts: int = Field(alias="truncatedAlerts", default=0, ge=0, lt=2**63)


def parse(body: bytes, *, max_alerts: int) -> Delivery:
    """Read one request's body. Alerts that ask for nothing are kept: whether to act is not decided here.

    Raises:
        MalformedError: it is not JSON, or not such a payload; nothing of it is used then.
        TooManyAlertsError: it has more than ``max_alerts``.
    """
    try:
        payload = Payload.model_validate_json(body)
    except ValidationError as error:
        raise MalformedError(_sentence(error)) from None
    if len(payload.alerts) > max_alerts:
        raise TooManyAlertsError(f"{len(payload.alerts)} alerts, at most {max_alerts} are accepted")
    return Delivery(tuple(_notification(alert) for alert in payload.alerts), payload.truncated_alerts)


def _notification(alert: Alert) -> Notification:
    # Alertmanager's API tells milliseconds, its webhook nanoseconds: cut, so that both name the same alert.
    starts_at = alert.starts_at.replace(microsecond=alert.starts_at.microsecond // 1000 * 1000)
    return Notification(
        fingerprint=alert.fingerprint,
        starts_at=starts_at.timestamp(),
        firing=alert.status == "firing",
        labels=alert.labels,
        source="webhook",
    )


def _sentence(error: ValidationError) -> str:
    """Say the first fault with the path to it. No values: they may be long, and are not ours to log."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    message = "is missing" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
    return (f"{place}: {message}" if place else message)[:MAX_REASON_LENGTH]
