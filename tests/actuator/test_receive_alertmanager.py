"""Debian's Alertmanager delivers to the receiver."""

import contextlib
import time

import pytest

from actuator.adapters.alertmanager import Alertmanager
from actuator.model import OutgoingAlert
from actuator.ports import JournalError
from tests.actuator.deliveries import TOKEN, MemoryJournal, served
from tests.alertmanager import alertmanager
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.daemons
LONG = 60.0

CONFIGURATION = """
route:
  receiver: vmheal
  group_by: [alertname, host, domain]
  group_wait: 0s
  group_interval: 5s
  repeat_interval: 1m
receivers:
  - name: vmheal
    webhook_configs:
      - url: {url}/alerts
        http_config:
          authorization:
            credentials: {token}
"""


class FailingJournal(MemoryJournal):
    """Fails the first deliveries."""

    failures = 0

    def receive(self, notifications, *, at):
        if self.failures:
            self.failures -= 1
            raise JournalError("journal.db: database or disk is full")
        super().receive(notifications, at=at)


@contextlib.contextmanager
def delivering(journal, folder, *, token):
    """A receiver, and an Alertmanager that delivers to it with the token."""
    with served(journal) as receiver:
        configuration = CONFIGURATION.format(url=receiver.url, token=token)
        with alertmanager(configuration, folder) as server:
            yield receiver, Alertmanager(server.url)


def fire(alerts, *, ends_in_seconds=300.0):
    labels = {"alertname": "VMFailure", "action": "restart", "domain": "voms01", "host": "v01"}
    now = time.time()
    alerts.send([OutgoingAlert(labels, {}, now - 1, now + ends_in_seconds)], timeout_seconds=10)
    return labels


def test_what_it_delivers_is_the_alert_that_its_api_tells(tmp_path):
    journal = MemoryJournal()
    with delivering(journal, tmp_path, token=TOKEN) as (_, alerts):
        labels = fire(alerts)
        wait_until(lambda: journal.calls, "the delivery", LONG)
        (told,) = alerts.firing(timeout_seconds=10)
        ((delivered,),) = journal.calls
        assert delivered.labels == labels
        assert (delivered.fingerprint, delivered.starts_at) == (told.fingerprint, told.starts_at)
        assert (delivered.firing, delivered.source) == (True, "webhook")
        fire(alerts, ends_in_seconds=-0.5)
        wait_until(lambda: len(journal.calls) == 2, "the resolution", LONG)
        assert [it.firing for it in journal.calls[1]] == [False]
        assert journal.calls[1][0].fingerprint == delivered.fingerprint


def test_what_could_not_be_stored_comes_again_at_once(tmp_path):
    """A 503 is sent again within seconds, not with the group's next notification."""
    journal = FailingJournal()
    journal.failures = 2
    with delivering(journal, tmp_path, token=TOKEN) as (receiver, alerts):
        fire(alerts)
        wait_until(lambda: journal.calls, "the delivery", LONG)
        assert receiver.value("vmheal_webhook_requests_total", code="503") == 2
        assert receiver.value("vmheal_webhook_requests_total", code="200") == 1


def test_with_another_token_nothing_is_taken(tmp_path):
    journal = MemoryJournal()
    with delivering(journal, tmp_path, token="guess") as (receiver, alerts):
        fire(alerts)
        wait_until(lambda: receiver.value("vmheal_webhook_requests_total", code="401"), "the refusal", LONG)
    assert journal.calls == []
