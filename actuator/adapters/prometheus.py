"""Prometheus over its API v1."""

import json
import re
import time
from collections.abc import Mapping
from typing import Annotated, Literal

import yaml
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, TypeAdapter

from actuator.adapters.http_json import Credentials, HttpJson
from actuator.model import LastWords, Notification
from exporter import yaml_text


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True)


class _Alert(_Answer):
    labels: dict[str, str]
    state: str
    active_at: AwareDatetime = Field(alias="activeAt")


class _Alerts(_Answer):
    alerts: Annotated[list[_Alert], FailFast()]


class _AlertsAnswer(_Answer):
    """``/api/v1/alerts``."""

    status: Literal["success"]
    data: _Alerts


class _Global(_Answer):
    external_labels: dict[str, str] = {}


class _Relabeling(_Answer):
    action: str = "replace"
    regex: str = ""


class _Alerting(_Answer):
    alert_relabel_configs: list[_Relabeling] = []


class _Configuration(_Answer):
    """Prometheus's own configuration, as far as it is used."""

    globals: _Global = Field(default=_Global(), alias="global")
    alerting: _Alerting = _Alerting()


def _parse_yaml(text: object) -> object:
    # libyaml's loader where it is: a configuration may be long.
    try:
        return yaml_text.load(str(text), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml_text.MalformedYamlError as error:
        raise ValueError("not YAML") from error


class _ConfigurationText(_Answer):
    yaml: Annotated[_Configuration, BeforeValidator(_parse_yaml)]


class _ConfigurationAnswer(_Answer):
    """``/api/v1/status/config``."""

    status: Literal["success"]
    data: _ConfigurationText


class _Metric(_Answer):
    name: str
    conn_name: str


class _Sample(_Answer):
    metric: _Metric
    value: tuple[float, str]
    """Unix seconds, and the value."""


class _Vector(_Answer):
    kind: Literal["vector"] = Field(alias="resultType")
    result: Annotated[list[_Sample], FailFast()]


class _VectorAnswer(_Answer):
    """``/api/v1/query`` of an instant vector."""

    status: Literal["success"]
    data: _Vector


_ALERTS = TypeAdapter(_AlertsAnswer)
_VECTOR = TypeAdapter(_VectorAnswer)
_CONFIGURATION = TypeAdapter(_ConfigurationAnswer)


class Prometheus:
    """The port ``Metrics``."""

    def __init__(self, url: str, credentials: Credentials | None = None) -> None:
        self._server = HttpJson("Prometheus", url, credentials)

    def firing(self, *, timeout_seconds: float) -> tuple[Notification, ...]:
        """See the port. Labels, fingerprint and start are those that Alertmanager has for the same alert.

        So it is one notification, whoever told it, with two exceptions: what ``alert_relabel_configs`` change
        on the way, other than labels that they drop, is not known here; and of a rule with ``for`` Prometheus
        tells here since when it is pending, and to Alertmanager since when it fires.
        """
        deadline = time.monotonic() + timeout_seconds
        answer = self._server.get("/api/v1/alerts", {}, _ALERTS, timeout_seconds=timeout_seconds)
        alerts = [a for a in answer.data.alerts if a.state == "firing" and a.labels.get("action")]
        if not alerts:
            return ()
        configuration = self._server.get(
            "/api/v1/status/config", {}, _CONFIGURATION, timeout_seconds=max(0.0, deadline - time.monotonic())
        )
        return tuple(_notification(alert, configuration.data.yaml) for alert in alerts)

    def last_words(self, host: str, *, before: float, timeout_seconds: float) -> LastWords:
        """See the port. The series are those of vmheal's exporter; the scrape configuration sets ``host``."""
        parameters = {"query": _LAST_WORDS.format(host=json.dumps(host)), "time": f"{before:.3f}"}
        answer = self._server.get("/api/v1/query", parameters, _VECTOR, timeout_seconds=timeout_seconds)
        return {(it.metric.name, it.metric.conn_name): it.value[1] == "1" for it in answer.data.result}


_LAST_WORDS = """
min by (name, conn_name) (
    last_over_time(drbd_connection_state{{host={host},drbd_connection_state="Connected"}}[2m])
  or
    last_over_time(vmheal_drbd_peerdevice_disk{{host={host},vmheal_drbd_peerdevice_disk="UpToDate"}}[2m])
)
""".strip()


def _notification(alert: _Alert, configuration: _Configuration) -> Notification:
    # As Prometheus's notifier does: the alert's own labels win, and then some are dropped.
    said = {name: value for name, value in alert.labels.items() if value}
    labels = {
        name: value
        for name, value in {**configuration.globals.external_labels, **said}.items()
        if not any(_drops(it, name) for it in configuration.alerting.alert_relabel_configs)
    }
    # Prometheus tells Alertmanager milliseconds (go-openapi's strfmt.DateTime), and here nanoseconds.
    starts_at = alert.active_at.replace(microsecond=alert.active_at.microsecond // 1000 * 1000)
    return Notification(
        fingerprint=fingerprint(labels),
        starts_at=starts_at.timestamp(),
        firing=True,
        labels=labels,
        source="prometheus",
    )


def _drops(it: _Relabeling, label: str) -> bool:
    try:
        return it.action == "labeldrop" and re.fullmatch(it.regex, label) is not None
    except re.error:
        return False  # RE2 has it, and Python has not


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return Alertmanager's fingerprint of a label set.

    FNV-1a of 64 bits over the sorted names and values, each ended by a byte that UTF-8 does not have
    (``LabelSet.Fingerprint`` of prometheus/common/model), in hexadecimal.
    """
    digest = 0xCBF29CE484222325
    for name in sorted(labels):
        for byte in b"%b\xff%b\xff" % (name.encode(), labels[name].encode()):
            digest = (digest ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{digest:016x}"
