"""What keeps the promise, each part taken out: a simulator that does not notice proves nothing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from actuator import arbitrate, connections, execute, keep, reconcile
from actuator.core import arbiter, decide, progress
from actuator.core.arbiter import Answer, Verdict
from actuator.core.guards import memory, verbs
from actuator.model import Promote, Proof
from exporter import release
from exporter.drbd import Role

Patches = list[tuple[Any, str, Any]]

_fence_peer, _stale, _taken, _why_not, _to_disconnect, _as_primary_sees = (
    arbiter.fence_peer,
    arbiter._stale,
    arbiter.taken,
    arbiter.why_not,
    arbiter.to_disconnect,
    arbiter.as_primary_sees,
)
_check, _next_step, _end_users = verbs.check, release.next_step, release.end_users


def _allowed(it: Any, _ask: Any, *_: Any) -> Any:
    return it, Answer(Verdict.ALLOW, "nobody is excluded")


def _without(*names: str) -> Callable[..., Any]:
    def check(guards: tuple[Any, ...], situation: Any) -> Any:
        return _check(tuple(guard for guard in guards if guard.__name__ not in names), situation)

    return check


def _guards(*names: str) -> Patches:
    return [(module, "check", _without(*names)) for module in (decide, progress)]


def _taken_by_anybody(it: Any, target: str, proof: Proof | None) -> Any:
    return _taken(replace(it, admitted=it.admitted | {target}), target, proof)


def _granted_may_be_taken(it: Any, target: str, proof: Proof | None) -> Any:
    return _taken(replace(it, granted=False), target, proof)


def _taken_everywhere(function: Callable[..., Any]) -> Patches:
    return [(module, "taken", function) for module in (arbiter, execute, memory)]


def _holder_alone(it: Any, host: str) -> str | None:
    return None if it.holder == host else _why_not(it, host)


def _grants_any_disk(it: Any, ask: Any) -> Any:
    return _fence_peer(it, replace(ask, up_to_date=True))


def _grants_whoever_asks(it: Any, ask: Any) -> Any:
    return it, Answer(Verdict.GRANT, "whoever asks")


def _grants_without_excluding(it: Any, ask: Any) -> Any:
    after, answer = _fence_peer(it, ask)
    granted = answer.verdict is Verdict.GRANT and after is not it
    return (replace(after, admitted=it.admitted, newest=False) if granted else after), answer


def _mends_what_is_torn(it: Any, primary: Any) -> Any:
    return _as_primary_sees(it, replace(primary, incomplete=False))


def _releases_at_once(it: Any, ask: Any) -> Any:
    after, answer = _fence_peer(it, ask)
    denied = answer.verdict is Verdict.WAIT and ask.host != it.holder and ask.role is Role.PRIMARY
    return after, (Answer(Verdict.RELEASE, "another host has it") if denied else answer)


GUARDS = sorted(
    {
        guard.__name__
        for guards in (*verbs._GUARDS.values(), verbs._LIVE, verbs._RESTART_RUNNING)
        for guard in (*guards.begin, *guards.promote, *guards.start)
    }
)

TEETH: Mapping[str, Patches] = {
    "R2: any version will do": [
        (arbiter, "_stale", lambda it, ask: _stale(it, replace(ask, version=it.version)))
    ],
    "R3: whoever asks is granted": [(arbitrate, "fence_peer", _grants_whoever_asks)],
    "R3: any disk is granted": [(arbitrate, "fence_peer", _grants_any_disk)],
    "R3: an excluded replica is taken": [
        *_taken_everywhere(_taken_by_anybody),
        (arbiter, "why_not", _holder_alone),
        (memory, "why_not", _holder_alone),
    ],
    "R4: a Primary meets a peer that it knows to be old": [
        (connections, "to_disconnect", lambda it, side: _to_disconnect(it, replace(side, peer_old=False)))
    ],
    "R5: released before another is granted": [(arbitrate, "fence_peer", _releases_at_once)],
    "R6: an attach excludes nobody": [(arbitrate, "before_attach", _allowed)],
    "R7: a lost host is not waited for": [
        (progress, "source_has_let_go", lambda it: None),
        *_guards("source_has_let_go"),
    ],
    "R7: an isolated host keeps its VM": [(release.Isolation, "_is_to_end", lambda self, config: False)],
    "R8: a grant excludes nobody": [(arbitrate, "fence_peer", _grants_without_excluding)],
    "R8: a resync excludes nobody": [(arbitrate, "before_resync", _allowed)],
    "R8: what was granted alone is taken": _taken_everywhere(_granted_may_be_taken),
    "R10: what is torn mends itself": [(arbiter, "as_primary_sees", _mends_what_is_torn)],
    "a plan takes no authority": [(execute, "claims", lambda plan, written: ())],
    "the keeper sees nothing": [(keep.Keeper, "turn", lambda self: None)],
    "the keeper does not exclude": [(keep, "looked_at", lambda it, sides: it)],
    "a step is not judged again": [
        (
            progress,
            "_judge_promote",
            lambda step, it, guards: progress.Perform() if isinstance(step, Promote) else None,
        )
    ],
    "a start is not judged again": [(progress, "_judge_start", lambda it, guards: progress.Perform())],
    "the release does not end the VM first": [
        (release, "next_step", lambda local, *, unused: _next_step(local, unused=True))
    ],
    "the release ends no VM": [(release, "end_users", lambda *_: True)],
    "what a lost host said last": _guards("replica_was_current"),
    "a definition with another VM's disk is not kept": [
        (reconcile.Reconciler, "_with_anothers_disk", lambda *_: "")
    ],
    **{f"guard {name}": _guards(name) for name in GUARDS if name != "source_has_let_go"},
}


BREAKS: Mapping[str, str] = {
    "R3: whoever asks is granted": "a_host_stands_still_and_wakes",
    "R3: an excluded replica is taken": "attached_after_the_primary_has_written_without_it",
    "R4: a Primary meets a peer that it knows to be old": "the_source_of_a_resync_loses_its_link_then_its_disk",
    "R8: what was granted alone is taken": "both_go_off_and_the_newest_comes_up",
    "R7: a lost host is not waited for": "a_cut_off_host_loses_its_power",
    "R7: an isolated host keeps its VM": "a_witness_prolongs_a_frozen_vms_life",
    "the release ends no VM": "a_witness_prolongs_a_frozen_vms_life",
    "a definition with another VM's disk is not kept": "a_liar_gives_its_vm_anothers_disk",
    "guard is_defined": "undefined_at_home",
    "guard quorum_is_here": "nine_a_quorum_was_set_off",
    "what a lost host said last": "nine_an_old_disk_has_the_quorum",
}
"""Without these the promise breaks: the scenario, or the seed, in which it does."""

CHANGES: Mapping[str, str] = {
    "R10: what is torn mends itself": "a_resyncs_source_loses_its_disk",
    "R2: any version will do": "both_disks_fail",
    "R3: any disk is granted": "a_frozen_primary_loses_its_disk",
    "R5: released before another is granted": "the_link_is_cut_in_a_live_migration",
    "R6: an attach excludes nobody": "a_cut_off_host_loses_its_power",
    "R8: a grant excludes nobody": "a_cut_off_host_loses_its_power",
    "R8: a resync excludes nobody": "a_cut_off_host_loses_its_power",
    "a plan takes no authority": "a_device_is_held_open",
    "the keeper sees nothing": "a_cut_off_host_loses_its_power",
    "the keeper does not exclude": "a_disk_is_lost_before_the_host_is",
    "a step is not judged again": "a_promotion_that_fails_after_its_effect",
    "a start is not judged again": "a_promotion_that_lies",
    "the release does not end the VM first": "a_host_stands_still_and_wakes",
    "guard authority_is_held": "the_authority_leaves_while_a_move_waits",
    "guard authority_may_be_taken": "a_returning_host_is_no_target_before_it_is_admitted",
    "guard disk_is_up_to_date": "both_disks_fail",
    "guard disks_are_on_drbd": "two_of_three_hosts_go_dark",
    "guard drbd_answers": "drbd_hangs_when_a_vm_crashes",
    "guard is_down": "both_disks_fail",
    "guard is_not_standalone": "a_replica_has_given_its_connection_up",
    "guard is_mirrored_here": "the_link_is_cut_in_a_live_migration",
    "guard is_primary_here": "a_promotion_that_lies",
    "guard libvirt_answers": "libvirtd_is_dead_on_the_source_of_a_move",
    "guard link_to_source_is_lost": "the_link_to_a_lost_host_is_there",
    "guard peer_is_not_primary": "a_disk_is_lost_before_the_host_is",
    "guard replica_continues": "a_liar_says_that_its_mirror_is_current",
    "guard source_freezes": "a_disk_is_lost_before_the_host_is",
}
"""Without these a scenario goes otherwise, and others keep the promise in their place: DRBD and libvirt, which
refuse too, the next guard, or the arbiter, whose rules are each found alone by the exhaustive search (tests/sim).
"""

_NOT_HERE = "not in this world, where DRBD 8.4 always asks the arbiter and DRBD 9 its quorum; see tests/core"
ARGUED: Mapping[str, str] = {
    "guard drbd_is_understood": _NOT_HERE,
    "guard evidence_is_fresh": "a look that takes longer than it may be old counts as not answered here",
    "guard has_quorum": "DRBD refuses the promotion itself",
    "guard io_flows": "DRBD holds the I/O of a VM that is started on a frozen disk: it hangs until that thaws",
    "guard is_defined_or_kept": "definitions are kept from the first look on",
    "guard is_in_sync": "nobody runs a verify here, which finds what differs; see tests/core",
    "guard is_open_nowhere_else": "who has it open is Primary there (peer_is_not_primary)",
    "guard may_be_promoted": "DRBD refuses the promotion itself",
    "guard nothing_is_left": "libvirt refuses to start what is still there",
    "guard peer_is_known": "the arbiter decides in its place",
    "guard runs_nowhere_else": "who runs it has the disk open and is Primary (peer_is_not_primary)",
    "guard runs_on_its_source": "libvirt refuses to move what does not run",
    "guard runs_on_no_third": "who runs it there has its disk open and is Primary (peer_is_not_primary)",
    "guard source_answers": "the promotion is refused while the source is Primary",
    "guard source_is_armed": "it refuses what was not seen to ask; here every DRBD 8.4 asks, seen or not",
    "guard source_is_dark": "a source that answers is Primary, and seen so (peer_is_not_primary)",
    "guard there_is_a_proof": _NOT_HERE,
    "guard writes_reached_the_peer": _NOT_HERE,
}
"""What no schedule here notices, and why."""


@contextmanager
def taken_out(name: str) -> Iterator[None]:
    """The product without that, as long as this lasts."""
    with ExitStack() as stack:
        for target, attribute, replacement in TEETH[name]:
            stack.enter_context(mock.patch.object(target, attribute, replacement))
        yield
