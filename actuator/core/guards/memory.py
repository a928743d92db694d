"""What was written down before: who holds the authority, whose data are current, what DRBD does alone."""

from actuator.core.arbiter import taken, why_not
from actuator.core.guards.situation import Situation
from actuator.core.replica import resources_here
from actuator.model import Observed, Proof, Unknown
from exporter.drbd import DiskState, Resource, Role
from exporter.drbd_configuration import Generations


def authority_may_be_taken(it: Situation) -> str | None:
    """Where DRBD asks the arbiter, or the other host is lost: it holds each disk's authority, or may take it.

    What is written there is also the memory of whose data were current before a host was lost.
    """
    if it.authorities is None:
        return (
            f"what the arbiter has written about {it.domain}'s disks changed while they were looked at; they"
            " are looked at again by itself"
        )
    for resource in it.resources if it.arbitrated or it.proof else ():
        authority = it.authority(resource.name)
        if authority.votes:
            continue
        if not authority.hosts:
            return (
                f"nobody has yet been given the authority over {resource.name}: it goes to its Primary by"
                " itself once both its hosts are connected and UpToDate"
            )
        after = taken(authority, it.host, it.proof)
        if isinstance(after, str):
            return f"{after}; {it.domain} is not started on {it.host}"
    return None


def authority_is_held(it: Situation) -> str | None:
    """Where DRBD asks the arbiter: only the host that it would grant is made Primary, or has the VM (R3)."""
    for resource in it.resources if it.arbitrated or it.proof else ():
        authority = it.authority(resource.name)
        if not authority.votes and (why := why_not(authority, it.host)):
            return f"{why}; {it.domain} is not started on {it.host}"
    return None


def source_is_armed(it: Situation) -> str | None:
    """The arbiter's decision stops only a host whose DRBD asks it."""
    if it.proof is not Proof.ARBITRATED:
        return None
    for resource in it.resources:
        if it.source not in it.authority(resource.name).armed:
            return (
                f"{resource.name} was not seen with protocol C and fencing resource-and-stonith on"
                f" {it.source}: it may write without asking; make sure that it is off, then"
                f" 'vmheal-actuator confirm-down {it.source}'"
            )
    return None


def source_freezes(it: Situation) -> str | None:
    """Cut off, only a Primary with its own disk freezes and asks; and only a frozen one's VM is ended (R7).

    That it lost its disk a moment before, which nobody has seen yet, its peer's data tell: DRBD there begins
    a new generation then (8.4's drbd_state.c, after_state_ch). Asked only before the plan: the grant that
    comes with a promotion excludes the source anyway, as that of a plan that has failed later.
    """
    if it.proof is not Proof.ARBITRATED:
        return None
    for resource in it.resources:
        authority = it.authority(resource.name)
        granted = authority.granted and authority.holder == it.host
        excluded = it.source not in authority.admitted and not granted
        if excluded or _has_begun_a_generation(it, resource.name):
            return (
                f"{resource.name} on {it.source} had lost its disk, or was granted alone: cut off, DRBD there"
                f" does not freeze, and nobody ends {it.domain}; make sure that it is off, then"
                f" 'vmheal-actuator confirm-down {it.source}'"
            )
    return None


def _has_begun_a_generation(it: Situation, name: str) -> bool:
    """Whether the target's data are of another generation than those that both hosts last had."""
    last, here = it.authority(name).generations, _data_here(it, name)
    return bool(here and last) and tuple(volume.current for volume in here or ()) != last


def _data_here(it: Situation, name: str) -> tuple[Generations, ...] | None:
    """Whose data the target has, volume by volume; None when it does not say."""
    said = it.evidence.generations.get(it.host)
    return said.value.get(name) if isinstance(said, Observed) else None


def voted(it: Situation) -> bool:
    """Whether all disks of the domain, as its hosts know them, are left to DRBD's quorum."""
    names = {resource.name for host in it.hosts for resource in resources_here(it.evidence, host, it.kept)}
    return bool(names) and all(it.authority(name).votes for name in names)


def quorum_is_here(it: Situation) -> str | None:
    """Of more than two hosts those that have the quorum may write, and no others: so says each one's DRBD.

    It says ``quorum:yes`` also where none is configured, and counts only the hosts that it knows. A source
    that the target's other peers still reach refuses the promotion itself.
    """
    gone = it.proof in {Proof.POWER, Proof.OPERATOR}
    for resource in it.resources if it.proof else ():
        authority = it.authority(resource.name)
        if not authority.votes and it.proof is not Proof.QUORUM:
            continue
        for host in (it.host,) if gone else (it.source, it.host):
            if not authority.votes or host not in authority.voting or it.source not in authority.voters:
                return (
                    f"{resource.name} was not seen on {host} with protocol C and quorum majority of the same"
                    f" hosts as elsewhere: {it.domain} is not started on {it.host} without {it.source}"
                )
        if not resource.devices or any(device.quorum is not True for device in resource.devices):
            return f"{resource.name} is not known to have a quorum on {it.host}: bring its other hosts back"
    return None


def writes_reached_the_peer(it: Situation) -> str | None:
    """With protocol A or B a write is acknowledged before it is on the peer's disk: an accident loses it."""
    for resource in it.resources if it.proof and not it.accepts_loss else ():
        authority = it.authority(resource.name)
        if it.source in authority.lossy and authority.admitted != {it.host}:
            return (
                f"{resource.name} was seen with protocol A or B on {it.source}: what {it.domain} saw stored"
                f" last may not be on {it.host}; bring {it.source} back, or give that up ('vmheal-actuator"
                f" readmit {resource.name} {it.host} --i-accept-lost-writes', or failover.accept_loss)"
            )
    return None


def replica_was_current(it: Situation) -> str | None:
    """Where DRBD asks no arbiter, a replica may have fallen behind while nobody was there to write it down.

    Prometheus is the flight recorder: what counts is the lost host's own last word. That its peers have lost
    it since says nothing. Asked only before the plan: what was said before does not change.
    """
    if it.proof is None:
        return None
    for resource in it.resources:
        authority = it.authority(resource.name)
        if (it.arbitrated and it.source in authority.armed) or authority.admitted == {it.host}:
            continue
        words = it.evidence.last_words
        current = None if isinstance(words, Unknown) else words.get((resource.name, it.host))
        if current is False:
            readmit = f"'vmheal-actuator readmit {resource.name} {it.host} --i-accept-lost-writes'"
            return (
                f"before {it.source} failed, its DRBD last said that {resource.name} on {it.host} was not"
                f" connected and UpToDate (Prometheus's history): {it.source} may have written what is not"
                f" there; bring it back{'' if authority.votes else f', or give that up ({readmit})'}"
            )
        if current is None and (it.proof is Proof.DRBD_ONLY or authority.votes):
            why = (
                words.reason if isinstance(words, Unknown) else "nothing was heard in the two minutes before"
            )
            off = f"make sure that {it.source} is off, then 'vmheal-actuator confirm-down {it.source}'"
            return (
                f"Prometheus cannot say whether {resource.name} on {it.host} was connected and UpToDate"
                f" before {it.source} failed ({why}), and there is no other proof:"
                f" {f'bring {it.source} back' if authority.votes else off}"
            )
    return None


def replica_continues(it: Situation) -> str | None:
    """A disk that was exchanged, made anew or put back to an earlier state can say UpToDate as well.

    What DRBD writes with each generation of the data tells. Asked only before the plan.
    """
    for resource in it.resources:
        last, here = it.authority(resource.name).generations, _data_here(it, resource.name)
        if not last or here is None:
            continue
        if len(here) != len(last) or not all(map(Generations.continues, here, last)):
            return (
                f"the data of {resource.name} on {it.host} do not continue those that both its hosts last had"
                " (DRBD's generation identifiers): its disk there may have been made anew, or put back to an"
                f" earlier state; bring {it.source} back, or give that up ('vmheal-actuator readmit"
                f" {resource.name} {it.host} --i-accept-lost-writes')"
            )
    return None


def is_in_sync(it: Situation) -> str | None:
    """Blocks may differ although DRBD calls both replicas UpToDate: an online verify found them.

    Which side is right nobody knows; but what the domain saw stored is what the source has. DRBD marks the
    difference on both sides, and a Secondary that loses its peer marks nothing by that: the target still
    tells when the source is lost. It also marks what a peer without a good disk misses (8.4's
    drbd_receiver.c, receive_Data): then it is the target that has the data, and of another generation.
    """
    for resource in it.resources:
        authority = it.authority(resource.name)
        has_the_data = authority.admitted == {it.host} or _has_begun_a_generation(it, resource.name)
        if resource.role is Role.PRIMARY or has_the_data:
            continue
        theirs = _seen_on(it, it.source, resource.name)
        differs = max(_differing_bytes(resource, it.source), _differing_bytes(theirs, it.host))
        if differs:
            readmit = f"'vmheal-actuator readmit {resource.name} {it.host} --i-accept-lost-writes'"
            return (
                f"{differs >> 10} KiB of {resource.name} differ between {it.source} and {it.host}, although"
                f" DRBD calls both UpToDate: 'drbdadm disconnect {resource.name}', then 'drbdadm connect"
                f" {resource.name}' on {it.host} copies them from the Primary"
                f"{'' if authority.votes else f'; or give up what {it.source} has there ({readmit})'}"
            )
    return None


def _seen_on(it: Situation, host: str, name: str) -> Resource | None:
    fact = it.evidence.storage.get(host)
    return fact.value.resource(name) if isinstance(fact, Observed) else None


def _differing_bytes(resource: Resource | None, peer: str) -> int:
    """What DRBD knows to differ from a peer that is as good, or was when it was last seen."""
    return sum(
        device.out_of_sync_bytes or 0
        for connection in (resource.connections if resource else ())
        for device in connection.peer_devices
        if connection.name == peer and device.peer_disk_state in {DiskState.UP_TO_DATE, DiskState.D_UNKNOWN}
    )
