"""The guards: one hazard, one pure function, one sentence that a person can act on.

A guard gets a situation and gives the sentence of its refusal, or None. Each is safe to ask alone: what
it cannot know it leaves to the guard before it that refuses the unknown. ``check`` runs a tuple of them in
order; the first refusal counts.

On restarting in place while the peer does not answer. A restart promotes nothing when the resource is still
Primary here: this host has held the only right to write since before the domain crashed, so the question is
only whether the peer has become Primary meanwhile. It has not when its own host says so, when DRBD is
connected to it, or when DRBD here holds the peer's disk for Outdated (``replica.Standing``). In every other
case nobody can know: the peer may be cut off from us, and Primary by somebody's hand. Then we refuse,
although the domain ran here a moment ago. A resource that is Secondary here is promoted only with the peer
connected, answering for itself, Secondary, and seeing our disk UpToDate. Without the peer a promotion needs a
fence proof: that of a failover, or an earlier grant of the arbiter to this very host.

A move asks the same of its target, and of its source that it has let the domain go, or cannot have it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from actuator.core.arbiter import taken, why_not
from actuator.core.replica import Standing, peers, resource_of, resources_here
from actuator.model import (
    Authority,
    Disk,
    DomainState,
    DomainView,
    Evidence,
    Migrate,
    Observed,
    Plan,
    Proof,
    Refusal,
    ShutDown,
    Unknown,
)
from exporter.drbd import ConnectionState, DiskState, Resource, Role, Snapshot, UnknownWord
from exporter.drbd_configuration import Generations

RUNNING = frozenset({DomainState.RUNNING, DomainState.BLOCKED})
DOWN = frozenset({DomainState.SHUTOFF, DomainState.CRASHED})


@dataclass(frozen=True, slots=True)
class Situation:
    """One domain, where it should run, and what one look said. All that a guard may know."""

    domain: str
    host: str
    hosts: tuple[str, ...]
    """Where it may run, ``host`` included."""
    evidence: Evidence
    now: float
    """Monotonic seconds."""
    max_age_seconds: float
    arbitrated: bool = False
    """Its host's DRBD asks the arbiter."""
    authorities: Mapping[str, Authority] | None = field(default_factory=dict)
    """By resource, read before the look; None: not the same any more after it (arbiter's rule R2)."""
    kept: tuple[Disk, ...] = ()
    """The domain's disks as in the definition that vmheal keeps of it; none when it keeps none."""
    accepts_loss: bool = False
    """The site has said that writes may be lost that are acknowledged before the peer has them."""
    drifted: frozenset[str] = frozenset()
    """Hosts where the domain is defined otherwise than as kept."""
    xen: bool = False
    """Its driver is Xen's, which has no live migration of paravirtual guests under Debian."""
    source: str = ""
    """The host that the domain leaves for ``host``; empty when it does not move."""
    proof: Proof | None = None
    """Of a failover: why the source cannot write any more."""
    quiet_seconds: float = 0.0
    """For so long nobody has heard of the source, on no way, while its DRBD peers had lost it."""
    isolation_seconds: float = float("inf")
    """After so long a quiet source has ended its frozen domains by itself (arbiter's rule R7)."""

    @property
    def view(self) -> DomainView | None:
        """The domain on its host; None when not defined there or not known."""
        return self.view_on(self.host)

    def view_on(self, host: str) -> DomainView | None:
        """The domain on a host; None when not defined there or not known."""
        fact = self.evidence.domains.get(host)
        return fact.value if isinstance(fact, Observed) else None

    @property
    def snapshot(self) -> Snapshot | None:
        """DRBD on its host; None when not known."""
        fact = self.evidence.storage.get(self.host)
        return fact.value if isinstance(fact, Observed) else None

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The DRBD resources of its disks, as its host sees them."""
        return resources_here(self.evidence, self.host, self.kept)

    @property
    def disks(self) -> tuple[Disk, ...]:
        """The domain's disks: as its host has it defined, else as its definition was kept."""
        return self.kept if self.view is None else self.view.disks

    def peers(self, resource: Resource) -> dict[str, Standing]:
        """What is known of the resource's other hosts."""
        return peers(self.evidence, self.host, resource, self.hosts)


Guard = Callable[[Situation], str | None]


def check(guards: tuple[Guard, ...], situation: Situation) -> Refusal | None:
    """Ask the guards in order; the first refusal, or None when all agree."""
    for guard in guards:
        if sentence := guard(situation):
            return Refusal(guard=guard.__name__, sentence=sentence)
    return None


# ---- do we know enough ------------------------------------------------------------------------------------


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


# ---- the domain --------------------------------------------------------------------------------------------


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
            return (
                f"{it.domain} is paused on {it.host} (reason: {reason}); a paused domain is never restarted:"
                f" mend the cause, then 'virsh resume {it.domain}'"
            )
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


def runs_nowhere_else(it: Situation) -> str | None:
    """One VM, one host.

    A host whose libvirt does not answer cannot be running the domain with its disks while none of them is
    Primary there; whether that is known is the word of DRBD (see ``peer_is_known``, asked right here).
    """
    return _runs_on_another(it, {it.host})


def runs_on_no_third(it: Situation) -> str | None:
    """A move takes the domain from its source: no other host may have it."""
    return _runs_on_another(it, {it.host, it.source})


def _runs_on_another(it: Situation, but: set[str]) -> str | None:
    for host in it.hosts:
        if host in but:
            continue
        if view := active_on(it, host):
            return (
                f"{it.domain} is {view.state} on {host}, and should run on {it.host}: decide where it belongs"
                f" and end it on the other host ('virsh destroy {it.domain}')"
            )
        fact = it.evidence.domains.get(host, Unknown("it was not asked"))
        if isinstance(fact, Unknown) and not _cannot_write(it, host):
            return (
                f"libvirt on {host} does not answer ({fact.reason}) and DRBD cannot tell either: {it.domain}"
                f" may be running there; mend the way to {host}"
            )
    return None


def active_on(it: Situation, host: str) -> DomainView | None:
    """The domain as it was seen on the host, when it runs or holds anything there."""
    fact = it.evidence.domains.get(host)
    view = fact.value if isinstance(fact, Observed) else None
    return view if view is not None and (view.id is not None or view.state not in DOWN) else None


def _cannot_write(it: Situation, host: str) -> bool:
    """Is it known of each of the domain's resources that the host does not write to it?"""
    known = {Standing.ANSWERED, Standing.CONNECTED, Standing.BARRED}
    resources = it.resources
    return bool(resources) and all(
        it.peers(resource).get(host, Standing.ANSWERED) in known or _was_granted(it, resource)
        for resource in resources
    )


# ---- its disks here ----------------------------------------------------------------------------------------


def disks_are_on_drbd(it: Situation) -> str | None:
    """What is not on DRBD could be in use elsewhere without our seeing it, or be left behind by a move."""
    if it.snapshot is None:
        return None
    for disk in it.disks:
        if disk.writable and resource_of(disk, it.snapshot) is None:
            return (
                f"{it.domain}'s disk {disk.target} ({disk.source}) is on no DRBD resource that is up on"
                f" {it.host}: bring the resource up (drbdadm up), or give the disk's DRBD device in the"
                " domain's XML"
            )
    if not it.resources:
        return f"{it.domain} has no disk on DRBD: vmheal cannot protect it; take it out of domains"
    return None


def drbd_is_understood(it: Situation) -> str | None:
    """A word that we do not know may mean anything."""
    if it.snapshot is None:
        return None
    for resource in it.resources:
        if problems := it.snapshot.problems_of(resource.name):
            return f"DRBD on {it.host} says what vmheal does not understand: {problems[0]}"
        if resource.role not in {Role.PRIMARY, Role.SECONDARY}:
            return (
                f"DRBD on {it.host} gives no role for {resource.name}: see 'drbdadm status {resource.name}'"
            )
    return None


def disk_is_up_to_date(it: Situation) -> str | None:
    """Any other state may lack writes that the guest saw acknowledged, or has no disk at all."""
    for resource in it.resources:
        for device in resource.devices:
            if device.disk_state is not DiskState.UP_TO_DATE:
                return (
                    f"{resource.name}/{device.volume} on {it.host} is {_word(device.disk_state)}, not"
                    f" UpToDate: see 'drbdadm status {resource.name}' and attach, connect or resync it"
                )
        if not resource.devices:
            return f"{resource.name} has no volume on {it.host}: see 'drbdadm status {resource.name}'"
    return None


def io_flows(it: Situation) -> str | None:
    """A start on frozen I/O hangs; and DRBD froze it because the other side may be writing."""
    for resource in it.resources:
        if resource.suspended:
            why = ", ".join(_word(reason) for reason in resource.suspended)
            return (
                f"the I/O of {resource.name} on {it.host} is suspended ({why}): never resume it by hand"
                " before it is known that the peer does not write"
            )
    return None


def has_quorum(it: Situation) -> str | None:
    """DRBD 9: without quorum another part of the cluster may have it."""
    for resource in it.resources:
        if any(device.quorum is False for device in resource.devices):
            return f"{resource.name} has no quorum on {it.host}: bring its other hosts back"
    return None


# ---- its peers ---------------------------------------------------------------------------------------------


def peer_is_not_primary(it: Situation) -> str | None:
    """Never two writers."""
    for resource in it.resources:
        for peer, standing in it.peers(resource).items():
            if standing is Standing.PRIMARY:
                return (
                    f"{resource.name} is Primary on {peer}: somebody uses it there; find out who and demote"
                    f" it there ('drbdadm secondary {resource.name}') before {it.domain} is started here"
                )
    return None


def is_open_nowhere_else(it: Situation) -> str | None:
    """Whoever holds a device open on another host uses it, also as a Secondary; DRBD 9 tells, 8.4 does not.

    It is promoted here only when nobody does. The domain itself holds it open where it runs.
    """
    for resource in it.resources:
        for host in it.hosts if resource.role is not Role.PRIMARY else ():
            fact = it.evidence.storage.get(host)
            theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
            held = theirs is not None and any(device.open for device in theirs.devices)
            if held and host != it.host and not active_on(it, host):
                return (
                    f"somebody holds {resource.name} open on {host}, and it is not {it.domain}: find out who"
                    f" ('fuser -v /dev/drbd/by-res/{resource.name}/0') and end it"
                )
    return None


def peer_is_known(it: Situation) -> str | None:
    """A peer that nobody can vouch for may be Primary; see this module's docstring."""
    for resource in it.resources:
        for peer, standing in it.peers(resource).items():
            if standing is Standing.UNKNOWN and not _was_granted(it, resource):
                fact = it.evidence.storage.get(peer, Unknown(f"{peer} is not among {it.domain}'s hosts"))
                reason = fact.reason if isinstance(fact, Unknown) else "its answer is not understood"
                return (
                    f"nobody can say what {peer} does with {resource.name} ({reason}; not connected to"
                    f" {it.host}): mend the way to {peer}; without it there is no proof that {peer} does not"
                    " write"
                )
    return None


def may_be_promoted(it: Situation) -> str | None:
    """A Secondary is promoted only in full view of its peers.

    DRBD itself would promote a replica that lost its peer, or one that was detached while the peer wrote on,
    and both say UpToDate. So every peer must be connected, answer for itself, be Secondary, and see this disk
    UpToDate: the peer's own look is what makes ours true.
    """
    for resource in it.resources:
        if resource.role is Role.PRIMARY:
            continue
        if not resource.connections:
            return f"{resource.name} is Secondary on {it.host} and has no peer: 'drbdadm connect' it"
        if _was_granted(it, resource):
            continue
        for connection in resource.connections:
            peer = connection.name
            if connection.connection_state is not ConnectionState.CONNECTED:
                return (
                    f"{resource.name} is Secondary on {it.host} and not connected to {peer}"
                    f" ({_word(connection.connection_state)}): its data may be old and {peer} may write;"
                    " connect them"
                )
            fact = it.evidence.storage.get(peer, Unknown(f"{peer} is not among {it.domain}'s hosts"))
            theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
            if theirs is None or not _sees_us_up_to_date(theirs, it.host):
                return (
                    f"{resource.name} is Secondary on {it.host} and {peer} does not confirm that this replica"
                    f" is connected and UpToDate: see 'drbdadm status {resource.name}' on {peer}"
                )
    return None


def _was_granted(it: Situation, resource: Resource) -> bool:
    """The arbiter has excluded its peers for this host: DRBD asks it once more when it is promoted."""
    authority = _authority(it, resource.name)
    return (
        it.arbitrated
        and authority.granted
        and authority.holder == it.host
        and authority.admitted == {it.host}
        and it.host in authority.armed
    )


def _sees_us_up_to_date(theirs: Resource, us: str) -> bool:
    for connection in theirs.connections:
        if connection.name == us:
            disks = [device.peer_disk_state for device in connection.peer_devices]
            return (
                theirs.role is Role.SECONDARY
                and connection.connection_state is ConnectionState.CONNECTED
                and bool(disks)
                and all(disk is DiskState.UP_TO_DATE for disk in disks)
            )
    return False


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
        authority = _authority(it, resource.name)
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


def _authority(it: Situation, resource: str) -> Authority:
    return (it.authorities or {}).get(resource) or Authority(resource)


def authority_is_held(it: Situation) -> str | None:
    """Where DRBD asks the arbiter: only the host that it would grant is made Primary, or has the VM (R3)."""
    for resource in it.resources if it.arbitrated or it.proof else ():
        authority = _authority(it, resource.name)
        if not authority.votes and (why := why_not(authority, it.host)):
            return f"{why}; {it.domain} is not started on {it.host}"
    return None


# ---- right before the start --------------------------------------------------------------------------------


def nothing_is_left(it: Situation) -> str | None:
    """A crashed domain that Xen or QEMU preserves still holds its disks."""
    if it.view is not None and it.view.id is not None:
        return f"what crashed of {it.domain} is still there on {it.host}: 'virsh destroy {it.domain}'"
    return None


def is_primary_here(it: Situation) -> str | None:
    """Xen starts a domain on a Secondary without its disk, and says that all is well."""
    for resource in it.resources:
        if resource.role is not Role.PRIMARY:
            return f"{resource.name} is not Primary on {it.host}: {it.domain} would start without its disk"
    return None


# ---- moves -------------------------------------------------------------------------------------------------


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
                    f" alive, and only the way to it is broken; mend that, {it.domain} runs on"
                )
    return None


def is_not_standalone(it: Situation) -> str | None:
    """Two sides that refuse each other have different data, and nobody but a person knows which to keep."""
    for resource in it.resources:
        for connection in resource.connections:
            if connection.connection_state is ConnectionState.STAND_ALONE:
                return (
                    f"{resource.name} on {it.host} is StandAlone to {connection.name}: perhaps a split brain;"
                    f" find out whose data count, then 'drbdadm connect {resource.name}'"
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


def source_is_armed(it: Situation) -> str | None:
    """The arbiter's decision stops only a host whose DRBD asks it."""
    if it.proof is not Proof.ARBITRATED:
        return None
    for resource in it.resources:
        if it.source not in _authority(it, resource.name).armed:
            return (
                f"{resource.name} was not seen with protocol C and fencing resource-and-stonith on"
                f" {it.source}: it may write without asking; make sure that it is off, then"
                f" 'vmheal-actuator confirm-down {it.source}'"
            )
    return None


def source_freezes(it: Situation) -> str | None:
    """Cut off, only a Primary with its own disk freezes and asks; and only a frozen one's VM is ended (R7).

    Asked only before the plan: the grant that comes with a promotion excludes the source anyway.
    """
    if it.proof is not Proof.ARBITRATED:
        return None
    for resource in it.resources:
        authority = _authority(it, resource.name)
        if it.source == authority.holder and it.source not in authority.admitted:
            return (
                f"{resource.name} on {it.source} had lost its disk: DRBD there does not freeze when it is cut"
                f" off, and nobody ends {it.domain}; make sure that it is off, then 'vmheal-actuator"
                f" confirm-down {it.source}'"
            )
    return None


def voted(it: Situation) -> bool:
    """Whether all disks of the domain, as its hosts know them, are left to DRBD's quorum."""
    names = {resource.name for host in it.hosts for resource in resources_here(it.evidence, host, it.kept)}
    return bool(names) and all(_authority(it, name).votes for name in names)


def quorum_is_here(it: Situation) -> str | None:
    """Of more than two hosts those that have the quorum may write, and no others: so says each one's DRBD.

    It says ``quorum:yes`` also where none is configured, and counts only the hosts that it knows. A source
    that the target's other peers still reach refuses the promotion itself.
    """
    gone = it.proof in {Proof.POWER, Proof.OPERATOR}
    for resource in it.resources if it.proof else ():
        authority = _authority(it, resource.name)
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
        authority = _authority(it, resource.name)
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
        authority = _authority(it, resource.name)
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
    said = it.evidence.generations.get(it.host)
    if not isinstance(said, Observed):
        return None
    for resource in it.resources:
        last, here = _authority(it, resource.name).generations, said.value.get(resource.name)
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


def source_has_let_go(it: Situation) -> str | None:
    """One VM, one host: asked right before the start (arbiter's rule R7).

    Seen gone, with its devices free; or off, by proof; or isolated for so long that it ended the domain
    itself. A frozen disk does not stop a VM's processors.
    """
    if not it.source or it.proof in {Proof.POWER, Proof.OPERATOR}:
        return None
    domain, storage = it.evidence.domains.get(it.source), it.evidence.storage.get(it.source)
    if isinstance(domain, Observed) and isinstance(storage, Observed):
        if view := active_on(it, it.source):
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


def is_mirrored_here(it: Situation) -> str | None:
    """The target must have what the source has, in full view of each other."""
    fact = it.evidence.storage.get(it.source)
    for resource in it.resources:
        ours = next((c for c in resource.connections if c.name == it.source), None)
        theirs = fact.value.resource(resource.name) if isinstance(fact, Observed) else None
        back = next((c for c in theirs.connections if c.name == it.host), None) if theirs else None
        connected = (
            ours is not None
            and back is not None
            and ours.connection_state is ConnectionState.CONNECTED
            and back.connection_state is ConnectionState.CONNECTED
        )
        if (
            not connected
            or not back
            or any(device.peer_disk_state is not DiskState.UP_TO_DATE for device in back.peer_devices)
        ):
            return (
                f"{resource.name} on {it.host} is not connected to {it.source} and seen UpToDate from there:"
                f" see 'drbdadm status {resource.name}' on both"
            )
    return None


def is_secondary_here(it: Situation) -> str | None:
    """Asked before a move is planned: what is Primary there already is in somebody's hands."""
    for resource in it.resources:
        if resource.role is not Role.SECONDARY:
            return (
                f"{resource.name} is {_word(resource.role)} on {it.host} already: find out who uses it there"
                f" and demote it ('drbdadm secondary {resource.name}') before {it.domain} moves there"
            )
    return None


def runs_on_its_source(it: Situation) -> str | None:
    """Only a healthy domain is moved while it runs."""
    view = it.view_on(it.source)
    if view is None or view.state not in RUNNING or any(disk.attached is False for disk in view.disks):
        return f"{it.domain} does not run on {it.source} with all of its disks: it cannot be moved live"
    return None


ANSWERED: tuple[Guard, ...] = (libvirt_answers, drbd_answers, evidence_is_fresh)
"""The host has said how things are."""

KNOWN: tuple[Guard, ...] = (*ANSWERED, is_defined)
"""Enough is known to say anything at all."""

RESTART: tuple[Guard, ...] = (
    *KNOWN,
    is_down,
    disks_are_on_drbd,
    drbd_is_understood,
    peer_is_not_primary,
    runs_nowhere_else,
    is_open_nowhere_else,
    disk_is_up_to_date,
    io_flows,
    has_quorum,
    authority_may_be_taken,
    peer_is_known,
    may_be_promoted,
)
"""Asked before the plan, and again right before each of its steps."""

_DISKS: tuple[Guard, ...] = (
    disks_are_on_drbd,
    drbd_is_understood,
    authority_may_be_taken,
    disk_is_up_to_date,
    io_flows,
    has_quorum,
)
"""That a replica is excluded tells more than how its disk reads: Consistent, after both hosts were off."""

_LOST: tuple[Guard, ...] = (
    *ANSWERED,
    is_defined_or_kept,
    is_down,
    peer_is_not_primary,
    runs_on_no_third,
    *_DISKS,
    there_is_a_proof,
    source_is_armed,
    quorum_is_here,
    writes_reached_the_peer,
)
"""The source of a failover may wake at any time: the proof holds all the same."""

FAILOVER: tuple[Guard, ...] = (
    *_LOST,
    source_is_dark,
    link_to_source_is_lost,
    is_not_standalone,
    is_open_nowhere_else,
    replica_continues,
    source_freezes,
)
"""Asked of each possible target before the plan, and before anything is called."""

MOVE: tuple[Guard, ...] = (
    *ANSWERED,
    is_defined_or_kept,
    source_answers,
    is_down,
    runs_on_no_third,
    is_open_nowhere_else,
    *_DISKS,
    is_mirrored_here,
)
"""Asked of each possible target of a move from a host that answers, before the plan and before it begins."""


@dataclass(frozen=True, slots=True)
class Guards:
    """What a verb's steps must pass."""

    begin: tuple[Guard, ...]
    """Before the plan, and before a step that touches only the source, or ends what is left."""
    promote: tuple[Guard, ...]
    """Right before a promotion, whose intent took the authority."""
    start: tuple[Guard, ...]
    """Right before the start call."""


_AT_START: tuple[Guard, ...] = (nothing_is_left, is_primary_here, authority_is_held)

LIVE = (*MOVE, runs_on_its_source)
"""Asked of each possible target of a live migration, and before each of its steps until the domain moves."""

AGAIN: tuple[Guard, ...] = tuple(guard for guard in RESTART if guard is not is_down)
"""Asked before a domain that runs is shut down to be started again."""

_GUARDS: Mapping[str, Guards] = {
    "restart": Guards(RESTART, (*RESTART, authority_is_held), (*RESTART, *_AT_START)),
    "migrate": Guards(MOVE, (*RESTART, authority_is_held), (*RESTART, *_AT_START)),
    "failover": Guards(FAILOVER, (*_LOST, authority_is_held), (*_LOST, source_has_let_go, *_AT_START)),
}
_LIVE = Guards(LIVE, LIVE, LIVE)
_RESTART_RUNNING = replace(_GUARDS["restart"], begin=AGAIN)


def guards_of(plan: Plan) -> Guards:
    """The guards of a plan's steps. A move in order ends as a restart on its target."""
    if any(isinstance(step, Migrate) for step in plan.steps):
        return _LIVE
    if plan.verb == "restart" and any(isinstance(step, ShutDown) for step in plan.steps):
        return _RESTART_RUNNING
    return _GUARDS[plan.verb]


def _word(state: StrEnum | UnknownWord) -> str:
    return state.value if isinstance(state, StrEnum) else state.word
