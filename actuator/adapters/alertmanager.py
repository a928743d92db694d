"""Alertmanager over its API v2."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, FailFast, Field, TypeAdapter

from actuator.adapters.http_json import Credentials, HttpJson
from actuator.model import Matcher, Notification, OutgoingAlert, Silence


class _Alert(BaseModel):
    """``gettableAlert`` of Alertmanager's OpenAPI description, as far as it is used."""

    model_config = ConfigDict(strict=True)

    fingerprint: Annotated[str, Field(min_length=1)]
    starts_at: AwareDatetime = Field(alias="startsAt")
    labels: dict[str, str]


class _Matcher(BaseModel):
    model_config = ConfigDict(strict=True)

    name: str
    value: str
    is_regex: bool = Field(alias="isRegex")
    is_equal: bool = Field(alias="isEqual", default=True)
    """Since Alertmanager 0.22."""


class _Status(BaseModel):
    model_config = ConfigDict(strict=True)

    state: Literal["active", "pending", "expired"]


class _Silence(BaseModel):
    """``gettableSilence``, as far as it is used."""

    model_config = ConfigDict(strict=True)

    status: _Status
    created_by: str = Field(alias="createdBy")
    comment: str
    ends_at: AwareDatetime = Field(alias="endsAt")
    matchers: list[_Matcher]


_ANSWER = TypeAdapter(Annotated[list[_Alert], FailFast()])
_SILENCES = TypeAdapter(Annotated[list[_Silence], FailFast()])

# Asked for as a whole: with `active=false` and the like the API leaves alerts out.
_WATCHDOG = {"filter": 'alertname="Watchdog"'}
_ACTIVE_WITH_ACTION = {"active": "true", "silenced": "false", "inhibited": "false", "filter": 'action!=""'}


class Alertmanager:
    """The port ``Alerts``."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self._server = HttpJson("Alertmanager", url, credentials)

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """See the port. An alert that a route mutes for a time of day counts as active, as in the API."""
        alerts = self._server.get(
            "/api/v2/alerts", _ACTIVE_WITH_ACTION, _ANSWER, timeout_seconds=timeout_seconds
        )
        return tuple(
            Notification(
                fingerprint=alert.fingerprint,
                starts_at=alert.starts_at.timestamp(),
                firing=True,
                labels=alert.labels,
                source="alertmanager",
            )
            for alert in alerts
        )

    def watchdog(self, *, timeout_seconds: float) -> bool:
        """See the port. Alertmanager drops it some minutes after it last heard of it from Prometheus."""
        found = self._server.get("/api/v2/alerts", _WATCHDOG, _ANSWER, timeout_seconds=timeout_seconds)
        return bool(found)

    def silences(self, *, timeout_seconds: float) -> tuple[Silence, ...]:
        """See the port. Alertmanager tells of expired ones, too, for some days."""
        found = self._server.get("/api/v2/silences", {}, _SILENCES, timeout_seconds=timeout_seconds)
        return tuple(
            Silence(
                by=silence.created_by,
                comment=silence.comment,
                matchers=tuple(
                    Matcher(it.name, it.value, it.is_regex, it.is_equal) for it in silence.matchers
                ),
                ends_at=silence.ends_at.timestamp(),
            )
            for silence in found
            if silence.status.state == "active"
        )

    def send(self, alerts: Sequence[OutgoingAlert], *, timeout_seconds: float) -> None:
        """See the port. Alertmanager refuses an alert that ends before it starts, and takes the others."""
        body = [
            {
                "labels": dict(alert.labels),
                "annotations": dict(alert.annotations),
                "startsAt": _timestamp(alert.starts_at),
                "endsAt": _timestamp(alert.ends_at),
            }
            for alert in alerts
        ]
        self._server.post("/api/v2/alerts", json.dumps(body).encode(), timeout_seconds=timeout_seconds)


def _timestamp(at: float) -> str:
    """Return RFC 3339 with milliseconds: the API tells no finer time, and what it tells is an identity."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
