"""Short ways to say what the actuator knows; by default two hosts, v01 and v02, and one VM, all well."""

from dataclasses import replace
from pathlib import Path

from actuator.core.progress import claimed
from actuator.core.readiness import Check, Reason
from actuator.model import (
    DomainRecord,
    DomainState,
    Escalation,
    EscalationKind,
    HostRecord,
    Order,
    Plan,
    Promote,
    Start,
)
from actuator.page.site import Facts
from actuator.rehearse import Power, Rehearsal
from exporter.drbd import ConnectionState, DiskState, Role
from tests.actuator.build import connection, resource, snapshot, theirs
from tests.actuator.world import EPOCH, IN_ORDER, settings

NOW = EPOCH + 100.0
HOSTILE = "<script>alert('x')</script>&\"'"
VERBS = (("v01", "restart"), ("v02", "migrate"), ("v02", "failover"))


def facts(**changed) -> Facts:
    """All is well, but for what is said."""
    fenced = {"address": "localhost", "libvirt_uri": "test:///default", "fence": {"agent": "fence_dummy"}}
    well = Facts(
        settings=settings(Path("/nonexistent"), hosts={"v01": fenced, "v02": fenced}),
        now=NOW,
        reconciled_at=NOW - 2.0,
        sources={"Alertmanager": True, "Prometheus": True, "libvirt on v01": True, "libvirt on v02": True},
        records=(record(),),
        hosts={},
        authorities=(IN_ORDER,),
        paused=lambda _: None,
        states={"v01": {"voms01": DomainState.RUNNING}, "v02": {"voms01": DomainState.SHUTOFF}},
        storage={"v01": snapshot(resource()), "v02": snapshot(theirs())},
        silent_seconds={"v01": 0.5, "v02": 0.5},
        rehearsals={"voms01": rehearsal()},
        power={"v01": Power(True, "", 0.0), "v02": Power(True, "", 0.0)},
    )
    return replace(well, **changed)


def record(**changed) -> DomainRecord:
    return DomainRecord(**{"domain": "voms01", "version": 1, "host": "v01"} | changed)


def rehearsal(*against, home="v01") -> Rehearsal:
    """Nothing stands against any verb, but for these: host, verb, name."""
    reasons = {
        (host, verb): Reason(name, f"{name} is not so", f"mend {name}") for host, verb, name in against
    }
    checks = tuple(
        Check(host, verb, (reasons[host, verb],) if (host, verb) in reasons else ()) for host, verb in VERBS
    )
    return Rehearsal("voms01", home, NOW - 30.0, checks, ("voms01",))


def refused(sentence="no replica is good", guard="disk_is_up_to_date", kind=EscalationKind.REFUSED, **more):
    """A record of a VM that a person is asked about."""
    return record(escalation=Escalation(kind, "v01", guard, sentence, NOW - 60.0), **more)


def waiting_for_approval(proposal="0123456789"):
    sentence = f"it crashed. vmheal would: start it. 'vmheal-actuator approve voms01 {proposal}' lets it"
    return refused(sentence, "is_approved")


def failing_over(at=NOW - 10.0):
    """A record with a plan whose first step was begun."""
    plan = Plan(
        "failover",
        "voms01",
        "v02",
        "v01 is dark",
        (Promote("v02", "voms01"), Start("v02", "voms01")),
        source="v01",
    )
    return claimed(record(version=0), plan, now=at)


def host(name, **changed) -> HostRecord:
    return HostRecord(name, 1, **changed)


def order(by="ann", reason="new memory", until_at=None) -> Order:
    return Order(by, NOW - 5.0, reason, until_at)


def cut_off(name="voms01"):
    """As v02 sees the resource when v01 is gone."""
    link = connection("v01", ConnectionState.CONNECTING, Role.UNKNOWN, DiskState.D_UNKNOWN)
    return snapshot(theirs(name, connections=(link,)))
