"""Would it work now? Each verb is asked as if what it is for had just happened, on what a look has seen.

Nothing is guessed here: the guards of the verbs, and what was seen of room, are the very ones that decide
when it happens. What they leave out, because it only harms later, is asked beside them (``core.beside``).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from actuator.core import beside
from actuator.core.beside import Known
from actuator.core.decide import (
    TO_FAILOVER,
    TO_LIVE,
    TO_MOVE,
    Question,
    against,
    cold_steps,
    failover_steps,
    given_up,
    is_seen,
    live_steps,
    proof_of,
    restart_steps,
    there_of,
)
from actuator.core.guards.situation import RUNNING, Situation
from actuator.core.guards.verbs import RESTART, check
from actuator.core.place import PLACE, Leaving, Room
from actuator.core.replica import resources_here
from actuator.model import DomainState, DomainView, Evidence, Observed, Refusal, Step, Unknown
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
    steps: tuple[Step, ...] = ()
    """What would be done, when nothing stands against it."""

    @property
    def ready(self) -> bool:
        """Nothing stands against it."""
        return not self.reasons


def rehearse(it: Question, known: Known) -> tuple[Check, ...]:
    """A restart where the domain should run, and for each other host of it a move and a failover to there."""
    home = it.home
    others = [host for host in home.hosts if host != home.host]
    checks = [_check(it, known, home.host, "restart", _restart(it))]
    for host in others:
        checks.append(_check(it, known, host, "migrate", _move(it, known, host)))
        checks.append(_check(it, known, host, "failover", _failover(it, known, host)))
    checks = [replace(each, steps=_steps(it, each)) if each.ready else each for each in checks]
    if not others:
        nowhere = Refusal("has_a_target", f"{home.domain} has no other host with its disks")
        verbs: tuple[Verb, ...] = ("migrate", "failover")
        checks += [_check(it, known, home.host, verb, (nowhere,)) for verb in verbs]
    return tuple(checks)


def _check(it: Question, known: Known, host: str, verb: Verb, refusals: Iterable[Refusal | None]) -> Check:
    paused = Refusal("not_paused", known.paused) if known.paused else None
    found = [paused, *refusals, *beside.of_any(it, known, host)]
    by_name = {refusal.guard: refusal for refusal in found if refusal is not None}
    return Check(
        host,
        verb,
        tuple(Reason(name, refusal.sentence, mend(name, it.home, host)) for name, refusal in by_name.items()),
    )


def _steps(it: Question, ready: Check) -> tuple[Step, ...]:
    """What the verb would do, in the situation that it is for."""
    match ready.verb:
        case "restart":
            down = as_if_down(it.home)
            return tuple(restart_steps(down, down.view)) if down.view else ()
        case "migrate":
            view = it.home.view
            if view is not None and _moves_live(it):
                return tuple(live_steps(there_of(it.home, ready.host), view))
            down = as_if_down(it.home)
            return tuple(cold_steps(there_of(down, ready.host), down.view)) if down.view else ()
        case "failover":
            lost = as_if_lost(it)
            proof = proof_of(lost.home, lost.hosts)
            return tuple(failover_steps(there_of(lost.home, ready.host, proof)))


def _moves_live(it: Question) -> bool:
    """It runs, and the site and the driver can."""
    view = it.home.view
    return view is not None and view.state in RUNNING and it.limits.live and not it.home.xen


# ---- the verbs --------------------------------------------------------------------------------------------


def _restart(it: Question) -> Iterator[Refusal | None]:
    yield given_up(it.record) or check(RESTART, as_if_down(it.home))


def _move(it: Question, known: Known, host: str) -> Iterator[Refusal | None]:
    """Down, as when it fails at home again and again; and live, where the site and the driver can."""
    moved = replace(it, home=as_if_down(it.home))
    yield against(moved, host, TO_MOVE)
    leaving, room = _leaving(it), it.hosts.placement.rooms.get(host, Room())
    live = _moves_live(it)
    if live:
        yield against(it, host, TO_LIVE)
        yield from beside.of_live(it, known, host)
    yield _room(replace(leaving, down=not live), host, room)


def _failover(it: Question, known: Known, host: str) -> Iterator[Refusal | None]:
    lost = as_if_lost(it)
    proof = proof_of(lost.home, lost.hosts)
    yield is_seen(lost)
    yield against(lost, host, TO_FAILOVER, proof)
    leaving = known.placement.leaving.get(it.record.domain) or replace(_leaving(it), down=True)
    chosen = known.placement.choose(leaving)
    full = chosen.rejected.get(host)
    yield full if full is not None and full.guard in _ROOM else None
    yield from beside.of_failover(it, known, host, proof)


_ROOM = frozenset(guard.__name__ for guard in PLACE)


def _leaving(it: Question) -> Leaving:
    return it.hosts.leaving or Leaving(it.record.domain)


def _room(leaving: Leaving, host: str, room: Room) -> Refusal | None:
    found = ((guard.__name__, guard(leaving, host, room)) for guard in PLACE)
    return next((Refusal(name, sentence) for name, sentence in found if sentence), None)


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
    "fence_agent_is_its_own": "set hosts.{home}.fence right: its agent must look at {home}'s own power",
    "autostart_is_off": "virsh autostart --disable {domain} (on {both})",
    "auto_promote_is_off": "drbdadm adjust {resources} (on {both}, with auto-promote no)",
    "loss_is_noticed_in_time": "drbdadm adjust {resources} (on {both}, with a shorter ping-int)",
    "handler_can_run": "vmheal-fence-peer check (on {both})",
    "handler_is_its_own": "set token_file of fence-peer.conf right (on {both})",
    "isolation_is_agreed": "set failover.* in the configuration as in fence-peer.conf (on {both})",
    # of what the definition asks for
    "is_allowed_there": "name {domain} and {resources} in /etc/vmheal/host.conf; pkill -u vmheal (on {host})",
    "may_be_sent_there": "name each migrate_uri in /etc/vmheal/host.conf; pkill -u vmheal (on {home})",
    "has_networks": "ip -brief link; virsh net-list --all (on {host})",
    "cpu_fits": "virsh hypervisor-cpu-compare {domain}.xml --error (on {host})",
    "cpu_is_the_same": "give {domain} a processor by name that all its hosts have (<cpu mode='custom'>)",
    "clock_is_right": "timedatectl timesync-status (on {host})",
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
    return mended(reason, home.domain, home.host, host, home.hosts, names)


def mended(
    reason: str, domain: str, home: str, host: str, hosts: Iterable[str], resources: Iterable[str]
) -> str:
    """What mends it, in a person's words to a shell.

    Args:
        reason: one of ``MEND``.
        domain: it stands against this one,
        home: which should run there,
        host: on this host.
        hosts: all where it may run.
        resources: the DRBD resources of its disks, as far as they are known.
    """
    words = {
        "domain": domain,
        "host": host,
        "home": home,
        "both": " and ".join((home, host) if host != home else hosts),
        "resources": " ".join(sorted(resources)) or "RESOURCE",
    }
    return MEND[reason].format(**words)
