"""The promise, watched: never two writers, never an old disk, never a VM twice; authorities that only grow."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from actuator.model import Authority, Event
from tests.simulator.drbd import PRIMARY, Record
from tests.simulator.fibers import Loop

if TYPE_CHECKING:
    from tests.simulator.domain import Guest
    from tests.simulator.host import Host

WOKEN_SECONDS = 15.0
"""A host that wakes from standing still runs its VM until its handler has ended it (the arbiter's R7): what it asks
and how long nobody answers begins when it wakes."""


class Oracle:
    """Hears of all that guests do.

    Args:
        loop: the clock.
        hosts: by name.
        log: the story.
        prolonged_seconds: how much longer such a host keeps its VM when it reaches a witness.
    """

    def __init__(
        self,
        loop: Loop,
        hosts: dict[str, "Host"],
        log: Callable[[str], None],
        *,
        prolonged_seconds: float = 0.0,
    ) -> None:
        self._loop = loop
        self._woken_seconds = WOKEN_SECONDS + prolonged_seconds
        self._hosts = hosts
        self._log = log
        self.violations: list[str] = []
        self.agents_that_lied: set[str] = set()
        """Hosts that were said to be off, and were not: then no software can keep the promise."""
        self.liars: set[str] = set()
        """Hosts that were taken over: VMs with a replica on one are not safe from it."""
        self.by_liars: Counter[str] = Counter()
        """What became of those."""
        self.thawed: set[tuple[str, str]] = set()
        """VM and host: a person has let a frozen Primary write on (docs/hosts.md says never to)."""
        self.doubled: set[str] = set()
        """VMs that run twice by a person's hand: started on the other host of a live move, where DRBD lets both
        write and libvirt knows of its own host alone; or thawed where nobody answered, and come up elsewhere."""
        self.running: dict[int, Guest] = {}
        """By boot."""
        self._acknowledged: dict[str, set[Record]] = {}
        self._found: dict[str, tuple[int, frozenset[Record]]] = {}
        """By VM: its latest guest that has read its disk, and what it found."""
        self._versions: dict[str, int] = {}

    def broken(self, what: str, kind: str = "", vm: str = "") -> None:
        """The promise is broken; ``kind``: in a word, of this VM, where a host that lies may have done it."""
        if vm and not self.agents_that_lied and any(vm in self._hosts[it].nodes for it in self.liars):
            if not self.by_liars[f"{kind}: {vm}"]:
                self._log(f"by {', '.join(sorted(self.liars))}, which lies: {what}")
            self.by_liars[f"{kind}: {vm}"] += 1
            return
        if vm in self.doubled:
            return
        self.violations.append(what)
        self._loop.stopped = True
        liars = ", ".join(sorted(self.agents_that_lied))
        self._log(f"BROKEN{liars and f' by the fence agent of {liars}, which has lied'}: {what}")

    def started(self, guest: "Guest") -> None:
        self._log(f"{guest.host}: guest {guest.vm} starts, its run {guest.boot}")
        for other in self.guests(guest.vm):
            moves = guest.by_hand and PRIMARY == self._role(guest) == self._role(other)
            if moves or (other.vm, other.host) in self.thawed:
                self._log(f"{guest.vm} runs twice by a person's hand: what follows is theirs")
                self.doubled.add(guest.vm)
            self._runs_twice(other, guest)
        self.running[guest.boot] = guest

    def _role(self, guest: "Guest") -> str:
        return self._hosts[guest.host].nodes[guest.vm].role

    def _runs_twice(self, old: "Guest", new: "Guest") -> None:
        """Allowed while the old one's host stands still, and for some seconds after that; and on a host that has
        just woken, where a start was under way.

        And (open: docs/simulator.md) while its host has no libvirtd: nothing else can end the VM, whose disk stays
        frozen; and while it has neither its own disk nor its peer's, or of DRBD 9 no quorum: then DRBD runs no
        handler.
        """
        host = self._hosts[old.host]
        cannot_end = not host.libvirt_works and host.nodes[old.vm].suspended
        since = max(host.woke_at, host.libvirt_since, self._hosts[new.host].woke_at)
        ends_late = cannot_end or self._loop.now - since <= self._woken_seconds
        if old.by_hand or new.by_hand:
            return
        if host.works and not ends_late and not host.nodes[old.vm].left_alone:
            self.broken(f"{new.vm} is started on {new.host} while it runs on {old.host}", "twice", new.vm)
        else:
            self._loop.call_in(self._woken_seconds, lambda: self._still_twice(old, new))

    def _still_twice(self, old: "Guest", new: "Guest") -> None:
        if old.boot in self.running and new.boot in self.running:
            self._runs_twice(old, new)

    def moved(self, guest: "Guest") -> None:
        self._log(f"{guest.host}: guest {guest.vm} goes on here, its run {guest.boot}")
        self.running[guest.boot] = guest

    def ended(self, guest: "Guest") -> None:
        self.thawed.discard((guest.vm, guest.host))
        if self.running.pop(guest.boot, None):
            self._log(f"{guest.host}: guest {guest.vm} has ended, its run {guest.boot}")

    def guests(self, vm: str) -> list["Guest"]:
        return [guest for guest in self.running.values() if guest.vm == vm]

    def found(self, guest: "Guest", records: frozenset[Record]) -> None:
        latest, _ = self._found.get(guest.vm, (0, records))
        if latest > guest.boot and self._loop.now - self._hosts[guest.host].woke_at <= self._woken_seconds:
            self._log(f"{guest.host}: guest {guest.vm}, its run {guest.boot}, has just woken and reads")
            return  # what it writes is watched below
        if missing := self._acknowledged.get(guest.vm, set()) - records:
            self.broken(
                f"{guest.vm} on {guest.host} reads an old disk: {len(missing)} acknowledged records are missing,"
                f" the first {min(missing)}",
                "old disk",
                guest.vm,
            )
        self._log(f"{guest.host}: guest {guest.vm} reads its disk: {len(records)} records")
        self._found[guest.vm] = guest.boot, records

    def acknowledged(self, guest: "Guest", record: Record) -> None:
        latest, found = self._found.get(guest.vm, (guest.boot, frozenset()))
        # One that was on the survivor's disk already may be acknowledged late (facts of arbitration, 7).
        if latest > guest.boot and record not in found:
            what = f"{guest.vm} writes on {guest.host} although it has read its disk elsewhere since"
            self.broken(what, "two writers", guest.vm)
        self._acknowledged.setdefault(guest.vm, set()).add(record)

    def written(self, authorities: Iterable[Authority], events: Iterable[Event]) -> None:
        """The journal has them now: what was decided later is of a higher version, and all has its sentence."""
        for it in authorities:
            if it.version <= self._versions.get(it.resource, 0):
                self.broken(f"the authority of {it.resource} goes back to version {it.version}")
            self._versions[it.resource] = it.version
        for event in events:
            if not event.sentence.strip():
                self.broken(f"{event.kind} of {event.domain or event.host} is told without a sentence")

    def count(self, vm: str) -> int:
        return len(self._acknowledged.get(vm, ()))
