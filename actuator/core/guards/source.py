"""The host that the domain leaves: it answers, or it is lost and cannot write."""

from actuator.core.guards.situation import Situation
from actuator.model import Observed, Proof, Unknown
from exporter.drbd import ConnectionState, Role


def source_is_dark(it: Situation) -> str | None:
    """A host that answers is not dead, whatever an alert says."""
    for who, facts in (("libvirt", it.evidence.domains), ("DRBD", it.evidence.storage)):
        if isinstance(facts.get(it.source), Observed):
            return (
                f"{who} on {it.source} answers: the host is not dead, and {it.domain} is not failed over; see"
                f" what is wrong there, or drain it ('vmheal-actuator drain {it.source}')"
            )
    return None


def link_to_source_is_lost(it: Situation) -> str | None:
    """One plane alone is no proof of anything: a host whose replication link is up is alive."""
    for resource in it.resources:
        for connection in resource.connections:
            if connection.name == it.source and connection.connection_state is ConnectionState.CONNECTED:
                return (
                    f"DRBD on {it.host} is still connected to {it.source} ({resource.name}): {it.source} is"
                    f" alive, and only the way to it is broken; mend that: {it.domain} may run there"
                )
    return None


def there_is_a_proof(it: Situation) -> str | None:
    """DRBD promotes a Secondary that lost its peer, also while that peer writes."""
    if it.proof is not None:
        return None
    return (
        f"there is no proof that {it.source} does not write to {it.domain}'s disks any more: make sure that"
        f" it is off, then 'vmheal-actuator confirm-down {it.source}'"
    )


def source_has_let_go(it: Situation) -> str | None:
    """One VM, one host: asked right before the start (arbiter's rule R7).

    Seen gone, with its devices free; or off, by proof; or isolated for so long that it ended the domain
    itself. A frozen disk does not stop a VM's processors.
    """
    if not it.source or it.proof in {Proof.POWER, Proof.OPERATOR}:
        return None
    domain, storage = it.evidence.domains.get(it.source), it.evidence.storage.get(it.source)
    if isinstance(domain, Observed) and isinstance(storage, Observed):
        if view := it.active_on(it.source):
            return f"{it.domain} is still {view.state} on {it.source}, which answers again"
        for resource in it.resources:
            theirs = storage.value.resource(resource.name)
            if theirs is not None and theirs.role is not Role.SECONDARY:
                return f"{resource.name} is still in use on {it.source}"
        return None
    if (
        isinstance(domain, Unknown)
        and isinstance(storage, Unknown)
        and it.quiet_seconds >= it.isolation_seconds
    ):
        return None
    return f"{it.source} may still have {it.domain}: nobody has heard of it for {it.quiet_seconds:.1f} s only"


def source_answers(it: Situation) -> str | None:
    """What moves in order is ended on its source first, and its disks are given up there."""
    for who, facts in (("libvirt", it.evidence.domains), ("DRBD", it.evidence.storage)):
        fact = facts.get(it.source, Unknown("it was not asked"))
        if isinstance(fact, Unknown):
            return f"{who} on {it.source} does not answer ({fact.reason}): {it.domain} cannot leave it"
    return None
