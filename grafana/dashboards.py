"""All of them, by the names of their files."""

from collections.abc import Callable, Mapping

from grafana_foundation_sdk.models import dashboard

from grafana.actions import actions
from grafana.drbd import drbd
from grafana.fleet import fleet
from grafana.host import host
from grafana.vm import vm

DASHBOARDS: Mapping[str, Callable[[], dashboard.Dashboard]] = {
    "fleet": fleet,
    "host": host,
    "vm": vm,
    "drbd": drbd,
    "actions": actions,
}
