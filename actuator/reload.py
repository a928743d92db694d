"""Taking a changed configuration file up without a restart: all of it, or nothing.

Everything of the new file that can fail is tried before anything of the old one is given up. Plans go on by
the settings that they began with: the old worker is asked to rest, which it does between two plans; when
it does not come to that, nothing is changed.
"""

import threading
import time
from collections.abc import Callable, Collection

import structlog
from prometheus_client import CollectorRegistry, Gauge

from actuator.config import ConfigError, Settings
from actuator.model import DomainRecord
from actuator.ports import JournalError

log = structlog.get_logger(__name__)


class NotAtRestError(Exception):
    """Plans are under way, and did not end in time: nothing was changed."""


def fixed(before: Settings, after: Settings) -> tuple[str, ...]:
    """What has changed and counts only after a restart, one sentence each."""
    pairs = {
        "listen": (before.listen, after.listen),
        "web.config_file": (before.web.config_file, after.web.config_file),
        "journal": (before.journal, after.journal),
        "webhook.max_body_bytes": (before.webhook.max_body_bytes, after.webhook.max_body_bytes),
        "webhook.request_timeout_seconds": (
            before.webhook.request_timeout_seconds,
            after.webhook.request_timeout_seconds,
        ),
    }
    return tuple(
        f"{key} has changed: that takes a restart" for key, (old, new) in pairs.items() if old != new
    )


def orphans(records: Collection[DomainRecord], after: Settings) -> tuple[str, ...]:
    """Plans that nobody would carry to their end, one sentence each."""
    return tuple(
        f"domains: {it.domain} cannot be left out before its plan {it.open_plan.id} has ended"
        for it in records
        if it.open_plan is not None and it.domain not in after.domains
    )


class Reloader:
    """Reloads when it is told to, one time after the other, and says how the last one went.

    Args:
        load: reads and checks the file.
        take: makes the settings count, or raises and changes nothing.
        registry: gets Prometheus's own two metrics of a reload.
    """

    def __init__(
        self, load: Callable[[], Settings], take: Callable[[Settings], None], registry: CollectorRegistry
    ) -> None:
        self._load = load
        self._take = take
        self._lock = threading.Lock()
        self._successful = Gauge(
            "vmheal_config_last_reload_successful",
            "1 when the last attempt to take the configuration file up succeeded; the start counts.",
            registry=registry,
        )
        self._at = Gauge(
            "vmheal_config_last_reload_success_timestamp_seconds",
            "When the configuration that counts was taken up, Unix time.",
            registry=registry,
        )
        self._taken()

    def reload(self) -> None:
        """Take the file up as it is now.

        Raises:
            ConfigError: it cannot be used, or not without a restart.
            NotAtRestError: plans are under way.
            JournalError: the journal cannot be read.
        """
        with self._lock:
            try:
                self._take(self._load())
            except (ConfigError, NotAtRestError, JournalError) as error:
                self._successful.set(0)
                log.error("not reloaded: the configuration is as it was", reason=str(error))  # noqa: TRY400
                raise
            self._taken()
        log.info("reloaded")

    def _taken(self) -> None:
        self._successful.set(1)
        self._at.set(time.time())
