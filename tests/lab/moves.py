"""What drills and benchmarks of moves ask a site: who has a VM, whose replicas are current, how long it took."""

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from tests.lab.host import DRBD_UNIT
from tests.lab.lab import Lab
from tests.lab.recovery import start_calls
from tests.lab.site import Event, Site
from tests.lab.vm import VOLUME_GROUP, Vm
from tests.lab.waiting import LabTimeoutError, wait_until


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment on both clocks: the journal's (wall), and the witness's (monotonic)."""

    wall: float
    monotonic: float

    @staticmethod
    def now() -> "Moment":
        """This moment."""
        return Moment(time.time(), time.monotonic())


@dataclass(frozen=True, slots=True)
class Failover:
    """Seconds from the fault, over all VMs of the host."""

    received: float
    """The alert was durable in the actuator's journal."""
    decided: float
    first_promotion: float
    """The first call of drbdadm primary."""
    last_promotion: float
    last_promoted: float
    """The last of these calls was back."""
    first_start: float
    """The first call of libvirt's start."""
    last_start: float


def home(site: Site, vm: Vm) -> str:
    """Where vmheal has the VM run."""
    domains = site.get("actuator", "api/v1/status")["domains"]
    return str(next(it["host"] for it in domains if it["domain"] == vm.name))


def other(vm: Vm, host: str) -> str:
    """The VM's other host."""
    return next(it for it in vm.hosts if it != host)


def is_in_order(site: Site, vm: Vm) -> bool:
    """Whether both replicas of each of its resources are admitted and ask, and nobody was granted alone."""
    said = [site.resource(resource.name) for resource in vm.resources]
    both = [*vm.hosts]
    return all(it and (it["admitted"], it["armed"], it["granted"]) == (both, both, False) for it in said)


def wait_at_rest(lab: Lab, site: Site, vms: Iterable[Vm], timeout_seconds: float = 300) -> None:
    """Wait until every VM is watched and writes, and all of its replicas are current."""
    for vm in vms:
        wait_until(partial(is_in_order, site, vm), f"{vm.name}'s replicas to be current", timeout_seconds, 1)
    site.wait_watching()
    for vm in vms:
        lab.witness.wait_for_record(vm, after=time.monotonic())


def wait_writes_on(
    lab: Lab, site: Site, vm: Vm, host: str, since: Moment, timeout_seconds: float = 240
) -> None:
    """Wait until the VM belongs to the host, and writes there."""
    wait_until(lambda: home(site, vm) == host, f"{vm.name} to belong to {host}", timeout_seconds, 0.5)

    def writes() -> bool:
        lines = lab.witness.lines(vm)
        return any(it.kind == "record" and it.host == host and it.at > since.monotonic for it in lines)

    wait_until(writes, f"{vm.name} to write on {host}", timeout_seconds, 0.2)


def failover_of(site: Site, vms: Iterable[Vm], fault: Moment) -> Failover:
    """How long each part of a failover took, as the actuator wrote it down."""
    return failover_in(site.events(fault.wall), {vm.name for vm in vms}, fault.wall)


def failover_in(events: Sequence[Event], domains: Collection[str], fault_at: float) -> Failover:
    """How long each part of a failover of these took, by the journal since the fault (wall clock)."""
    ours = [event for event in events if event.domain in domains]
    promotions = [event for event in ours if _called(event, "promote")]
    called = [event.detail["called_at"] for event in promotions]
    starts = start_calls(ours)
    received = min(
        event.at for event in events if event.kind == "received" and "HostFailure" in event.sentence
    )
    decided = min(event.at for event in ours if event.kind == "decided")
    moments = (
        received,
        decided,
        min(called),
        max(called),
        max(event.at for event in promotions),
        min(starts),
        max(starts),
    )
    return Failover(*(round(at - fault_at, 2) for at in moments))


def _called(event: Event, step: str) -> bool:
    return event.kind == "outcome" and event.detail["step"] == step and "called_at" in event.detail


def wait_refused(
    site: Site, vm: Vm, words: str, since: Moment, timeout_seconds: float = 90
) -> dict[str, Any]:
    """Wait until vmheal warns of the VM with these words in the sentence, here and at Alertmanager.

    Return the escalation.
    """

    def stands() -> dict[str, Any] | None:
        domains = site.get("actuator", "api/v1/status")["domains"]
        found = next(it["escalation"] for it in domains if it["domain"] == vm.name)
        told = site.get("alertmanager", "api/v2/alerts", filter=f'domain="{vm.name}"')
        texts = [text for alert in told for text in alert["annotations"].values()]
        here = found is not None and words in found["sentence"]
        return found if here and any(words in text for text in texts) else None

    try:
        escalation: dict[str, Any] = wait_until(
            stands, f"a warning of {vm.name}: {words}", timeout_seconds, 0.5
        )
    except LabTimeoutError as error:
        said = [event.sentence for event in site.events(since.wall) if event.domain == vm.name]
        raise LabTimeoutError(f"{error}; the journal: {said[-8:]}") from error
    return escalation


def acted(site: Site, vm: Vm, since: Moment) -> list[str]:
    """What was called on hosts for the VM since then."""
    return [
        event.sentence
        for event in site.events(since.wall)
        if event.domain == vm.name and event.kind == "outcome" and "called_at" in event.detail
    ]


def longest_silence(lab: Lab, vm: Vm, since: Moment) -> float:
    """The longest time without a record since then, in seconds."""
    moments = [
        line.at for line in lab.witness.lines(vm) if line.kind == "record" and line.at >= since.monotonic
    ]
    return max(later - earlier for earlier, later in pairwise([*moments, time.monotonic()]))


def boots_of(lab: Lab, vm: Vm) -> list[str]:
    """The boots of the VM that have printed anything."""
    return [boot.boot for boot in lab.witness.boots(vm)]


def write_for(lab: Lab, vm: Vm, seconds: float, on: str | None = None) -> None:
    """Wait until the VM has written a record that long after now."""
    lab.witness.wait_for_record(vm, after=time.monotonic() + seconds, on=on)


def bring_back(lab: Lab, host: str) -> None:
    """Switch a host on again, and have its DRBD come up as the unit for it does: each disk is asked for."""
    machine = lab.host(host)
    machine.boot()
    machine.run(["vgchange", "--quiet", "--quiet", "--activate", "y", VOLUME_GROUP], timeout_seconds=120)
    machine.run(["systemctl", "start", DRBD_UNIT.name], timeout_seconds=120)
