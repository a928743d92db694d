"""Whether enough is known, and where the domain runs."""

from actuator.core.guards.situation import COMING, DOWN, LEFT, RUNNING, Situation
from actuator.core.replica import Standing
from actuator.model import DomainState, Unknown


def libvirt_answers(it: Situation) -> str | None:
    """Without libvirt's word the domain may be running."""
    fact = it.evidence.domains.get(it.host, Unknown("it was not asked"))
    if isinstance(fact, Unknown):
        return f"libvirt on {it.host} does not answer ({fact.reason}): {it.domain} may be running there"
    return None


def drbd_answers(it: Situation) -> str | None:
    """Without DRBD's word the disk may be old, or somebody else's."""
    fact = it.evidence.storage.get(it.host, Unknown("it was not asked"))
    if isinstance(fact, Unknown):
        return f"DRBD on {it.host} does not answer ({fact.reason}): {it.domain}'s disks may be old or in use"
    return None


def evidence_is_fresh(it: Situation) -> str | None:
    """What was true then need not be true now."""
    age = it.now - it.evidence.at
    if not 0 <= age <= it.max_age_seconds:
        return (
            f"what is known about {it.domain} is {age:.1f} s old, more than the {it.max_age_seconds:g} s that"
            " evidence.max_age_seconds allows; it is looked at again by itself"
        )
    return None


def is_defined(it: Situation) -> str | None:
    """There must be something to start."""
    if it.view is None:
        return f"libvirt on {it.host} does not know {it.domain}: define it there (virsh define)"
    return None


def is_defined_or_kept(it: Situation) -> str | None:
    """What is not defined there can be, from the definition that was kept."""
    return None if it.disks else is_defined(it)


def is_down(it: Situation) -> str | None:
    """Only a domain that is down is restarted; every other state belongs to somebody."""
    if it.view is None or it.view.state in DOWN:
        return None
    state, reason = it.view.state, it.view.reason
    match state:
        case DomainState.RUNNING | DomainState.BLOCKED:
            return f"{it.domain} is running on {it.host}"
        case DomainState.PAUSED:
            return _paused(it, reason)
        case DomainState.SHUTDOWN:
            return f"{it.domain} is being shut down on {it.host}; it is looked at again by itself"
        case DomainState.PMSUSPENDED:
            return (
                f"{it.domain} sleeps on {it.host} (suspended by its guest): 'virsh dompmwakeup {it.domain}'"
            )
        case _:
            return (
                f"libvirt on {it.host} gives no state for {it.domain}: see 'virsh domstate {it.domain}' there"
            )


def _paused(it: Situation, reason: str) -> str:
    if reason == COMING:
        return (
            f"a live migration is bringing {it.domain} to {it.host}, or was: libvirt ends what is left of one"
            " when it has not heard of its source for half a minute; it is looked at again by itself"
        )
    return (
        f"{it.domain} is paused on {it.host} (reason: {reason}); a paused domain is never restarted:"
        f" mend the cause, then 'virsh resume {it.domain}'"
    )


def runs_nowhere_else(it: Situation) -> str | None:
    """One VM, one host.

    A host whose libvirt does not answer cannot be running the domain with its disks while none of them is
    Primary there; whether that is known is the word of DRBD (see ``peer_is_known``, asked right here).
    """
    left_alive = it.view is not None and it.view.reason == LEFT
    return _runs_on_another(it, {it.host}, may_hang=left_alive)


def runs_on_no_third(it: Situation) -> str | None:
    """A move takes the domain from its source: no other host may have it."""
    return _runs_on_another(it, {it.host, it.source})


def _runs_on_another(it: Situation, but: set[str], *, may_hang: bool = False) -> str | None:
    for host in it.hosts:
        if host in but:
            continue
        if view := it.active_on(host):
            return (
                f"{it.domain} is {view.state} on {host}, and should run on {it.host}: decide where it belongs"
                f" and end it on the other host ('virsh destroy {it.domain}')"
            )
        fact = it.evidence.domains.get(host, Unknown("it was not asked"))
        if isinstance(fact, Unknown) and not _cannot_write(it, host, may_hang=may_hang):
            return (
                f"libvirt on {host} does not answer ({fact.reason}) and DRBD cannot tell either: {it.domain}"
                f" may be running there; mend the way to {host}"
            )
    return None


def _cannot_write(it: Situation, host: str, *, may_hang: bool) -> bool:
    """Is it known of each of the domain's resources that the host does not write to it?

    ``may_hang``: the domain was moved away alive. That the host was shut out does not end the domain, which
    hangs on its frozen disk there until the host has ended it (R7): only DRBD's word that it is not Primary
    counts.
    """
    known = {Standing.ANSWERED, Standing.CONNECTED} | (set() if may_hang else {Standing.BARRED})
    resources = it.resources
    return bool(resources) and all(
        it.peers(resource).get(host, Standing.ANSWERED) in known
        or (not may_hang and it.was_granted(resource))
        for resource in resources
    )


def nothing_is_left(it: Situation) -> str | None:
    """A crashed domain that Xen or QEMU preserves still holds its disks."""
    if it.view is not None and it.view.id is not None:
        return f"what crashed of {it.domain} is still there on {it.host}: 'virsh destroy {it.domain}'"
    return None


def runs_on_its_source(it: Situation) -> str | None:
    """Only a healthy domain is moved while it runs."""
    view = it.view_on(it.source)
    if view is None or view.state not in RUNNING or any(disk.attached is False for disk in view.disks):
        return f"{it.domain} does not run on {it.source} with all of its disks: it cannot be moved live"
    return None
