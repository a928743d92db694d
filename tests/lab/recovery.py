"""How long a recovery took, from what the guest printed and what the actuator wrote down."""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.lab.site import Event, Site
from tests.lab.vm import Vm
from tests.lab.waiting import LabError, wait_until


@dataclass(frozen=True, slots=True)
class Recovery:
    """One recovery. All times are wall clock, Unix seconds, of the bare machine."""

    vm: str
    crashed_at: float
    """When the last record before it was read: the crash itself came up to one record's interval later."""
    received_at: float
    """When the webhook was durable in the actuator's journal."""
    started_at: float
    """When the actuator called libvirt's start."""
    recorded_at: float
    """When the first record of the new guest was read."""
    lost: int
    """Printed records that the new guest did not find."""

    def parts(self) -> dict[str, float]:
        """Seconds of each part, by its name."""
        return {
            "crash to webhook": self.received_at - self.crashed_at,
            "webhook to start call": self.started_at - self.received_at,
            "crash to start call": self.started_at - self.crashed_at,
            "start call to first new record": self.recorded_at - self.started_at,
            "crash to first new record": self.recorded_at - self.crashed_at,
        }


def wait_recovered(site: Site, vm: Vm, since: float, timeout_seconds: float = 180) -> Recovery:
    """Wait until a VM that was crashed after `since` (wall clock) writes again, and say how long each part took.

    Raises:
        LabTimeoutError: no new guest wrote in time.
        LabError: the journal does not tell the story.
    """
    witness = site.lab.witness
    before = witness.boots(vm)[-1].boot

    def wrote_again() -> bool:
        last = witness.boots(vm)[-1]
        return last.boot != before and last.records > 0

    wait_until(wrote_again, f"{vm.name} to write again", timeout_seconds, 0.05)
    old, new = witness.boots(vm)[-2:]
    lines = witness.lines(vm)
    wall = time.time() - time.monotonic()
    first = next(line for line in lines if line.boot == new.boot and line.kind == "record")
    events = [event for event in site.events(since) if event.domain == vm.name]
    return Recovery(
        vm=vm.name,
        crashed_at=wall + max(line.at for line in lines if line.boot == old.boot),
        received_at=_first(event.at for event in events if event.kind == "received"),
        started_at=_first(start_calls(events)),
        recorded_at=wall + first.at,
        lost=max(0, (old.last or 0) - (new.found or 0)),
    )


def start_calls(events: Iterable[Event]) -> list[float]:
    """When libvirt was called for a start; a step that a guard refused in the last moment called nothing."""
    return [
        event.detail["called_at"]
        for event in events
        if event.kind == "outcome" and event.detail["step"] == "start" and "called_at" in event.detail
    ]


def _first(moments: Iterable[float]) -> float:
    for moment in moments:
        return moment
    raise LabError("The journal has no webhook, or no start call")


def medians(recoveries: Sequence[Recovery]) -> dict[str, tuple[float, float, float]]:
    """Return minimum, median and maximum seconds of each part."""
    columns: dict[str, list[float]] = {}
    for recovery in recoveries:
        for name, seconds in recovery.parts().items():
            columns.setdefault(name, []).append(seconds)
    return {name: (min(all_), statistics.median(all_), max(all_)) for name, all_ in columns.items()}
