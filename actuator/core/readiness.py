"""Would it work now? Each verb is asked as if what it is for had just happened, on what a look has seen.

Nothing is guessed here: the guards of the verbs, and what was seen of room, are the very ones that decide
when it happens. What they leave out, because it only harms later, is asked beside them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from actuator.core.decide import (
    TO_FAILOVER,
    TO_LIVE,
    TO_MOVE,
    Question,
    against,
    given_up,
    is_seen,
    proof_of,
)
from actuator.core.guards.situation import RUNNING, Situation
from actuator.core.guards.verbs import RESTART, check
from actuator.core.place import PLACE, Leaving, Placement, Room
from actuator.core.replica import resources_here
from actuator.model import DomainState, DomainView, Evidence, Observed, Proof, Refusal, Unknown
from exporter.drbd import Connection, ConnectionState, DiskState, ReplicationState, Resource, Role, Snapshot

Verb = Literal["restart", "migrate", "failover"]

SUPPOSED = Unknown("it is supposed to be lost")


@dataclass(frozen=True, slots=True)
class Reason:
    """Why it would not work."""

    name: str
    """Stable and short: the guard's, or that of the check here."""
    sentence: str
    mend: str
    """What a person types; on which host, if it is not the actuator's machine."""


@dataclass(frozen=True, slots=True)
class Check:
    """Whether a verb would bring the domain up on a host."""

    host: str
    verb: Verb
    reasons: tuple[Reason, ...]

    @property
    def ready(self) -> bool:
        """Nothing stands against it."""
        return not self.reasons


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What was measured of one host, beyond a look at a domain."""

    libvirt_seconds: float | None = None
    """How long one answer took; None: there was none, which the guards tell."""
    drbd_seconds: float | None = None
    """Likewise of DRBD, over SSH."""
    autostarted: frozenset[str] = frozenset()
    """Domains that its libvirt starts when the host comes up."""
    agent: str = ""
    """Why its fence agent, if it has one, would not power it off; empty: it says how the host is."""


@dataclass(frozen=True, slots=True)
class Known:
    """What a rehearsal rests on beside the question."""

    facts: Mapping[str, HostFacts] = field(default_factory=dict)
    """By host."""
    placement: Placement = field(default_factory=Placement)
    """Of all domains that would leave with it if its host were lost."""
    slow_seconds: float = 1.0
    """An answer that takes longer is too slow to build on."""
    paused: str = ""
    """Who has paused the domain, in a sentence."""

    def of(self, host: str) -> HostFacts:
        """What was measured of a host; nothing when it was not asked yet."""
        return self.facts.get(host, HostFacts())


def rehearse(it: Question, known: Known) -> tuple[Check, ...]:
    """A restart where the domain should run, and for each other host of it a move and a failover to there."""
    home = it.home
    others = [host for host in home.hosts if host != home.host]
    checks = [_check(it, known, home.host, "restart", _restart(it))]
    for host in others:
        checks.append(_check(it, known, host, "migrate", _move(it, host)))
        checks.append(_check(it, known, host, "failover", _failover(it, known, host)))
    if not others:
        nowhere = Refusal("has_a_target", f"{home.domain} has no other host with its disks")
        verbs: tuple[Verb, ...] = ("migrate", "failover")
        checks += [_check(it, known, home.host, verb, (nowhere,)) for verb in verbs]
    return tuple(checks)


def _check(it: Question, known: Known, host: str, verb: Verb, refusals: Iterable[Refusal | None]) -> Check:
    paused = Refusal("not_paused", known.paused) if known.paused else None
    found = [paused, *refusals, *_fast(known, host)]
    by_name = {refusal.guard: refusal for refusal in found if refusal is not None}
    return Check(
        host,
        verb,
        tuple(Reason(name, refusal.sentence, mend(name, it.home, host)) for name, refusal in by_name.items()),
    )


# ---- the verbs --------------------------------------------------------------------------------------------


def _restart(it: Question) -> Iterator[Refusal | None]:
    yield given_up(it.record) or check(RESTART, as_if_down(it.home))


def _move(it: Question, host: str) -> Iterator[Refusal | None]:
    """Down, as when it fails at home again and again; and live, where the site and the driver can."""
    moved = replace(it, home=as_if_down(it.home))
    yield against(moved, host, TO_MOVE)
    leaving, room = _leaving(it), it.hosts.placement.rooms.get(host, Room())
    view = it.home.view
    live = view is not None and view.state in RUNNING and it.limits.live and not it.home.xen
    if live:
        yield against(it, host, TO_LIVE)
    yield _room(replace(leaving, down=not live), host, room)


def _failover(it: Question, known: Known, host: str) -> Iterator[Refusal | None]:
    own, lost = it.home.host, as_if_lost(it)
    proof = proof_of(lost.home, lost.hosts)
    yield is_seen(lost)
    yield against(lost, host, TO_FAILOVER, proof)
    leaving = known.placement.leaving.get(it.record.domain) or replace(_leaving(it), down=True)
    chosen = known.placement.choose(leaving)
    full = chosen.rejected.get(host)
    yield full if full is not None and full.guard in _ROOM else None
    if proof is Proof.POWER and (why := known.of(own).agent):
        yield Refusal("fence_agent_answers", f"the fence agent of {own} does not say how it is: {why}")
    for where in (own, host):
        if it.record.domain in known.of(where).autostarted:
            yield Refusal(
                "autostart_is_off",
                f"libvirt on {where} starts {it.record.domain} by itself when {where} comes up, also while"
                f" it runs elsewhere: 'virsh autostart --disable {it.record.domain}' there",
            )


_ROOM = frozenset(guard.__name__ for guard in PLACE)


def _leaving(it: Question) -> Leaving:
    return it.hosts.leaving or Leaving(it.record.domain)


def _room(leaving: Leaving, host: str, room: Room) -> Refusal | None:
    found = ((guard.__name__, guard(leaving, host, room)) for guard in PLACE)
    return next((Refusal(name, sentence) for name, sentence in found if sentence), None)


# ---- what no guard asks -----------------------------------------------------------------------------------


def _fast(known: Known, host: str) -> Iterator[Refusal]:
    """A host that answers late is taken for one that does not answer when it counts."""
    facts, slow = known.of(host), known.slow_seconds
    for name, who, seconds in (
        ("libvirt_is_fast", "libvirt", facts.libvirt_seconds),
        ("drbd_is_fast", "DRBD, over SSH,", facts.drbd_seconds),
    ):
        if seconds is not None and seconds > slow:
            yield Refusal(
                name,
                f"{who} on {host} needed {seconds:.1f} s for an answer, more than readiness.slow_seconds"
                f" ({slow:g}): find out what keeps the host or the way to it busy",
            )


# ---- as if ------------------------------------------------------------------------------------------------


def as_if_down(it: Situation) -> Situation:
    """The situation as if the domain, which runs at home, had just crashed there, and left nothing."""
    fact = it.evidence.domains.get(it.host)
    if it.view is None or it.view.state not in RUNNING or not isinstance(fact, Observed):
        return it
    disks = tuple(replace(disk, attached=None) for disk in it.view.disks)
    crashed = replace(it.view, state=DomainState.SHUTOFF, reason="supposed", id=None, disks=disks)
    down: Observed[DomainView | None] = replace(fact, value=crashed)
    return replace(it, evidence=replace(it.evidence, domains={**it.evidence.domains, it.host: down}))


def as_if_lost(it: Question) -> Question:
    """The question as if its host had just failed: it answers nobody, and its DRBD peers have lost it."""
    lost, seen = it.home.host, it.home.evidence
    storage: dict[str, Observed[Snapshot] | Unknown] = {
        host: replace(fact, value=_without(fact.value, lost, it.home)) if isinstance(fact, Observed) else fact
        for host, fact in seen.storage.items()
    }
    evidence: Evidence = replace(
        seen, domains={**seen.domains, lost: SUPPOSED}, storage={**storage, lost: SUPPOSED}
    )
    failed = {lost: it.now, **it.hosts.failed}
    return replace(it, home=replace(it.home, evidence=evidence), hosts=replace(it.hosts, failed=failed))


def _without(snapshot: Snapshot, lost: str, home: Situation) -> Snapshot:
    resources = tuple(_parted(resource, lost, home) for resource in snapshot.resources)
    return replace(snapshot, resources=resources)


def _parted(resource: Resource, lost: str, home: Situation) -> Resource:
    connections = tuple(
        _broken(connection) if connection.name == lost else connection for connection in resource.connections
    )
    devices = resource.devices
    authority = home.authority(resource.name)
    here = 1 + sum(it.connection_state is ConnectionState.CONNECTED for it in connections)
    if authority.votes and 2 * here <= len(authority.voters):
        devices = tuple(replace(device, quorum=False) for device in devices)
    return replace(resource, connections=connections, devices=devices)


def _broken(connection: Connection) -> Connection:
    if connection.connection_state is not ConnectionState.CONNECTED:
        return connection  # as it is: StandAlone stays so
    devices = tuple(
        replace(it, peer_disk_state=DiskState.D_UNKNOWN, replication_state=ReplicationState.OFF)
        for it in connection.peer_devices
    )
    return replace(
        connection,
        connection_state=ConnectionState.CONNECTING,
        peer_role=Role.UNKNOWN,
        peer_devices=devices,
    )


# ---- what mends it ----------------------------------------------------------------------------------------

_STATUS = "drbdadm status {resources} (on {both})"
_UP = "vmheal-actuator check --live"
_NODES = "systemctl status libvirtd (on {host})"

MEND: Mapping[str, str] = {
    # of the look
    "libvirt_answers": _UP,
    "drbd_answers": _UP,
    "source_answers": _UP,
    "evidence_is_fresh": _UP,
    "peer_is_known": _UP,
    # of the domain
    "is_defined": "virsh define {domain}.xml (on {host})",
    "is_defined_or_kept": "virsh define {domain}.xml (on {host})",
    "is_down": "virsh domstate --reason {domain} (on {host})",
    "runs_nowhere_else": "virsh destroy {domain} (on the host where it does not belong)",
    "runs_on_no_third": "virsh destroy {domain} (on the host where it does not belong)",
    "runs_on_its_source": "virsh destroy {domain} (on {home}; vmheal starts it anew)",
    # of DRBD
    "disks_are_on_drbd": "drbdadm up {resources} (on {host})",
    "drbd_is_understood": _STATUS,
    "peer_is_not_primary": "drbdadm secondary {resources} (on the host that does not run {domain})",
    "is_open_nowhere_else": "fuser -v /dev/drbd/by-res/*/* (on the other host)",
    "disk_is_up_to_date": _STATUS,
    "io_flows": "vmheal-actuator explain {domain}",
    "has_quorum": _STATUS,
    "may_be_promoted": "drbdadm connect {resources} (on {host})",
    "is_mirrored_here": "drbdadm connect {resources} (on {host})",
    "is_secondary_here": "drbdadm secondary {resources} (on {host})",
    "is_not_standalone": "drbdadm connect {resources} (on {host}, once it is known whose data count)",
    "is_in_sync": "drbdadm disconnect {resources}; drbdadm connect {resources} (on {host})",
    # of the arbiter
    "authority_may_be_taken": "drbdadm connect {resources} (on {both}, until UpToDate)",
    "source_is_armed": "drbdadm adjust {resources} (on {home}, once it has resource-and-stonith)",
    "source_freezes": "drbdadm connect {resources} (on {both})",
    "source_is_dark": "vmheal-actuator explain {domain}",
    "link_to_source_is_lost": "vmheal-actuator explain {domain}",
    "there_is_a_proof": "set hosts.{home}.fence or hosts.{home}.arbiter_token_file in the configuration",
    "quorum_is_here": _STATUS,
    "writes_reached_the_peer": "drbdadm adjust {resources} (on {both}, with protocol C)",
    "replica_was_current": "drbdadm connect {resources} (on {both})",
    "replica_continues": "drbdadm connect {resources} (on {both})",
    # of the sites' other parts
    "has_a_target": "set domains.{domain}.hosts in the configuration to the hosts of its DRBD resources",
    "has_memory": "virsh freecell --all (on {host}); vmheal-actuator migrate VM away from it",
    "is_apart": "vmheal-actuator explain {domain}",
    "no_storm": "vmheal-actuator status",
    "not_blind": "vmheal-actuator check --live",
    "fence_agent_answers": "set hosts.{home}.fence right: its agent's action=status must say ON",
    "autostart_is_off": "virsh autostart --disable {domain} (on {both})",
    "libvirt_is_fast": _NODES,
    "drbd_is_fast": "ssh {host} true",
    # a person's or the past's
    "attempts_are_left": "vmheal-actuator retry {domain}",
    "not_paused": "vmheal-actuator resume {domain}",
    "not_drained": "vmheal-actuator undrain {host}",
    "not_failed": "vmheal-actuator status",
    "not_suspect": "vmheal-actuator retry {domain}",
}
"""By reason: what a person types first. Placeholders: domain, host, home, both hosts, resources."""


def mend(reason: str, home: Situation, host: str) -> str:
    """What mends it, for this domain and host."""
    names = {it.name for each in home.hosts for it in resources_here(home.evidence, each, home.kept)}
    words = {
        "domain": home.domain,
        "host": host,
        "home": home.host,
        "both": " and ".join((home.host, host) if host != home.host else home.hosts),
        "resources": " ".join(sorted(names)) or "RESOURCE",
    }
    return MEND[reason].format(**words)
