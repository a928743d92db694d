"""What a test waits for at a site's Prometheus, be the site on one machine or in the lab."""

import time
from collections.abc import Callable, Iterable

from tests.lab.waiting import wait_until

Query = Callable[[str], list[dict[str, str]]]
"""Asks Prometheus for the labels of what it finds."""

# Every domain that runs where it is expected, once all exporters and the actuator's ways to all hosts are there.
_WATCHED = (
    'libvirt_domain_state{state=~"running|blocked"} == 1'
    " and on (host, domain) vmheal_domain_expected == 1 and on () (min(vmheal_source_up) == 1)"
    ' and on () (min(up{job="vmheal-state"}) == 1)'
)


def wait_watched(query: Query, domains: Iterable[str], timeout_seconds: float) -> None:
    """Wait until Prometheus sees these run where they are expected, and it and the actuator reach all hosts."""
    names = set(domains)
    wait_until(
        lambda: names <= {series["domain"] for series in query(_WATCHED)},
        f"Prometheus to see {', '.join(sorted(names))} running",
        timeout_seconds,
    )


def wait_looked(query: Query, timeout_seconds: float) -> None:
    """Wait until the actuator's reconcile has asked all hosts once more, from now on."""
    for _ in range(2):  # the first may have begun before
        since = f"vmheal_reconcile_timestamp_seconds > {time.time()}"
        wait_until(lambda since=since: query(since), "reconcile", timeout_seconds)
