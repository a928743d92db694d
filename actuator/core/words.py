"""Steps and evidence in words, for the timeline."""

from actuator.model import (
    AllowTwo,
    Confirm,
    Define,
    Demote,
    Destroy,
    DomainView,
    Evidence,
    ForbidTwo,
    Migrate,
    Observed,
    Outlast,
    PowerOff,
    Promote,
    ShutDown,
    Start,
    Step,
)
from exporter.drbd import Resource, UnknownWord


def describe(step: Step) -> str:  # noqa: C901, PLR0911  a table
    """A step in words."""
    match step:
        case Define():
            return f"define {step.domain} on {step.host}{' as it was where it last ran' * step.anew}"
        case PowerOff():
            return f"have {step.host} powered off by its fence agent"
        case ShutDown():
            return f"shut {step.domain} down on {step.host}"
        case Outlast():
            return f"wait until {step.domain} cannot run on {step.host} any more"
        case AllowTwo():
            return f"let {step.resource} be Primary on two hosts"
        case ForbidTwo():
            return f"let {step.resource} be Primary on one host only"
        case Migrate():
            return f"move {step.domain} live from {step.source} to {step.host}"
        case Destroy():
            return f"destroy what is left of {step.domain} on {step.host}"
        case Promote():
            return f"make {step.resource} Primary on {step.host}"
        case Demote():
            return f"make {step.resource} Secondary on {step.host}"
        case Start():
            return f"start {step.domain} on {step.host}"
        case Confirm():
            return f"read {step.domain} back running on {step.host}"


def summary(evidence: Evidence, resources: frozenset[str]) -> str:
    """Evidence in one line: each host's word about the domain and about these DRBD resources."""
    return "; ".join(
        f"{host}: {_domain(evidence, host)}, {_storage(evidence, host, resources)}"
        for host in evidence.domains
    )


def _domain(evidence: Evidence, host: str) -> str:
    fact = evidence.domains[host]
    match fact:
        case Observed(value=DomainView() as view):
            held = "" if view.id is None else f", id {view.id}"
            return f"{view.state} ({view.reason}{held})"
        case Observed():
            return "not defined"
        case unknown:
            return f"unknown ({unknown.reason})"


def _storage(evidence: Evidence, host: str, resources: frozenset[str]) -> str:
    fact = evidence.storage.get(host)
    if not isinstance(fact, Observed):
        return "DRBD not asked" if fact is None else f"DRBD unknown ({fact.reason})"
    seen = [_resource(resource) for resource in fact.value.resources if resource.name in resources]
    return ", ".join(seen) or "no DRBD resource of it is up"


def _resource(resource: Resource) -> str:
    disks = "/".join(_word(device.disk_state) for device in resource.devices)
    peers = ", ".join(
        f"{connection.name} {_word(connection.connection_state)} {_word(connection.peer_role)}"
        for connection in resource.connections
    )
    frozen = (
        f", suspended: {'/'.join(_word(reason) for reason in resource.suspended)}"
        if resource.suspended
        else ""
    )
    return f"{resource.name} {_word(resource.role)} {disks} ({peers or 'no peer'}){frozen}"


def _word(state: str | UnknownWord) -> str:
    return state.word if isinstance(state, UnknownWord) else str(state)
