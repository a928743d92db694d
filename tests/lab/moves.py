"""What drills and benchmarks of moves ask a site: who has a VM, whose replicas are current, how long it took."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from tests.lab.host import DRBD_UNIT
from tests.lab.lab import Lab
from tests.lab.recovery import start_calls
from tests.lab.site import Event, Site
from tests.lab.vm import VOLUME_GROUP, Vm
from tests.lab.waiting import wait_until


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
    names = {vm.name for vm in vms}
    events = site.events(fault.wall)
    ours = [event for event in events if event.domain in names]
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
    return Failover(*(round(at - fault.wall, 2) for at in moments))


def _called(event: Event, step: str) -> bool:
    return event.kind == "outcome" and event.detail["step"] == step and "called_at" in event.detail


def bring_back(lab: Lab, host: str) -> None:
    """Switch a host on again, and have its DRBD come up as the unit for it does: each disk is asked for."""
    machine = lab.host(host)
    machine.boot()
    machine.run(["vgchange", "--quiet", "--quiet", "--activate", "y", VOLUME_GROUP], timeout_seconds=120)
    machine.run(["systemctl", "start", DRBD_UNIT.name], timeout_seconds=120)
