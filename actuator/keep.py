"""Keeping the authorities up with what the hosts say: what no hook tells, or a hook could not.

A hook runs when DRBD runs it, and asks once. So all hosts are looked at again and again, and what the
arbiter's rules make of that is written down, over the version that was read before the look. Also where no
hook asks: then it is the memory of whose data were current before a host was lost.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import structlog

from actuator.config import Mode, Settings
from actuator.connections import Connections
from actuator.contact import Contacts
from actuator.core.arbiter import (
    Side,
    adopted,
    armed,
    given_back,
    identified,
    in_order,
    looked_at,
    side_of,
    votes,
)
from actuator.model import Authority, Demote, DomainRecord, Event, Parting, Promote
from actuator.ports import Conflict, JournalError, Ports, Unanswered
from exporter.drbd import Snapshot

LOOK_SECONDS = 1.0
"""A host that needs longer is looked at again in the next turn."""
ARMED_SECONDS = 20.0
"""How often each host is asked whether its DRBD asks the arbiter."""
ARMED_TIMEOUT_SECONDS = 3.0
GENERATIONS_SECONDS = 60.0
"""How often the generation identifiers of each resource are read."""
RETRY_SECONDS = 2.0
WRITE_AT_ONCE = 100
"""When one of them has been overtaken, they are written one by one."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _InOrder:
    """A resource that was in order in a look: from the same look follows the same, nothing to be done.

    Attributes:
        it: what was written of it.
        sides: how its hosts saw it, all of them connected.
        partings: what DRBD does on each of its hosts when it loses its peer.
        holder: the side that writes to both replicas.
    """

    it: Authority
    sides: tuple[Side, ...]
    partings: tuple[Parting | None, ...]
    holder: Side

    def still(self, it: Authority, sides: tuple[Side, ...], partings: tuple[Parting | None, ...]) -> bool:
        """Whether all is as it was then."""
        return self.it is it and self.sides == sides and self.partings == partings


class Keeper:
    """One ``turn`` each interval, for the resources of all hosts."""

    def __init__(self, ports: Ports, settings: Settings, contacts: Contacts) -> None:
        self._ports = ports
        self._hosts = tuple(settings.hosts)
        self._timeout_seconds = min(LOOK_SECONDS, settings.evidence.timeout_seconds)
        self._connections = (
            Connections(ports, self._timeout_seconds) if settings.mode is Mode.ENFORCE else None
        )
        self._contacts = contacts
        self.seen: Mapping[str, Snapshot | Unanswered] = {}
        """By host: what its DRBD said in the last turn, or why it said nothing."""
        self._armed: dict[str, Mapping[str, Parting]] = {}
        self._armed_at: dict[str, float] = {}
        self._identified_at: dict[str, float] = {}
        self._in_order: Mapping[str, _InOrder] = {}
        """By resource: as it was in the last turn."""

    def turn(self) -> None:
        """Look at all hosts once, and write down what follows. Handles its own errors."""
        try:
            # Both before the look (R2): a plan that is opened later raises the version.
            known = self._ports.journal.authorities()
            moving = _moving(self._ports.journal.records())
            sides = self._look()
            again: dict[str, Snapshot | None] = {}
            well: dict[str, _InOrder] = {}
            changes: list[tuple[Authority, Authority]] = []
            for resource in sorted(sides):
                before = known.get(resource) or Authority(resource)
                partings = self._partings(before)
                last = self._in_order.get(resource)
                if last and last.still(before, sides[resource], partings) and resource not in moving:
                    well[resource] = last
                    continue
                after = looked_at(adopted(before, sides[resource]), sides[resource])
                if after is before:
                    after = self._as_armed(before, sides[resource])
                if after is before and resource not in moving:
                    after = self._give_back(before, sides[resource], again)
                if self._connections:
                    self._connections.part(before, sides[resource])
                if after is not before:
                    changes.append((before, after))
                    continue
                if self._connections:
                    self._connections.join(before, sides[resource], moving=resource in moving)
                holder = next((side for side in sides[resource] if in_order(before, side)), None)
                if holder is not None and resource not in moving:
                    well[resource] = _InOrder(before, sides[resource], partings, holder)
            self._in_order = {
                name: it for name, it in well.items() if all(side.connected for side in it.sides)
            }
            self._write(changes)
            self._identify(well)
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback

    def _look(self) -> dict[str, tuple[Side, ...]]:
        """How each host sees each resource and peer, by resource; what is not understood is left out."""
        calls: dict[tuple[str, str], Callable[[], Snapshot | None]] = {
            ("status", host): functools.partial(self._status, host) for host in self._hosts
        }
        calls |= {
            ("armed", host): functools.partial(self._look_at_fencing, host) for host in self._fencing_due()
        }
        answers = self._ports.tasks.gather(calls, timeout_seconds=self._timeout_seconds)
        sides: dict[str, tuple[Side, ...]] = {}
        self.seen = {host: said for (call, host), said in answers.items() if call == "status" and said}
        for host, answer in self.seen.items():
            if not isinstance(answer, Snapshot):
                continue
            for resource in answer.resources:
                if not answer.problems_of(resource.name):
                    seen = tuple(side_of(host, resource, it.name) for it in resource.connections)
                    sides[resource.name] = (*sides.get(resource.name, ()), *seen)
        return sides

    def _status(self, host: str) -> Snapshot:
        snapshot = self._ports.storage.status(host, timeout_seconds=self._timeout_seconds)
        return self._contacts.noting(host, snapshot, self._ports.clock.monotonic())

    def _fencing_due(self) -> list[str]:
        """Hosts to be asked now whether their DRBD freezes and asks when it loses its peer.

        Those first that wait for the longest; so many in each turn that all of them are asked in time.
        """
        now = self._ports.clock.monotonic()
        due = [
            host
            for host in self._hosts
            if now - self._armed_at.get(host, -math.inf) >= ARMED_SECONDS
            and self._contacts.silent_for(host, now) < LOOK_SECONDS + ARMED_TIMEOUT_SECONDS
        ]
        due.sort(key=lambda it: self._armed_at.get(it, -math.inf))
        return due[: math.ceil(len(self._hosts) / ARMED_SECONDS)]

    def _look_at_fencing(self, host: str) -> None:
        """Ask; beside the look, which does not wait for it: a host that was just lost would hold all up."""
        now = self._ports.clock.monotonic()
        self._armed_at[host] = now - ARMED_SECONDS + ARMED_TIMEOUT_SECONDS + RETRY_SECONDS
        self._armed[host] = self._ports.storage.armed(host, timeout_seconds=ARMED_TIMEOUT_SECONDS)
        self._armed_at[host] = now

    def _as_armed(self, it: Authority, sides: tuple[Side, ...]) -> Authority:
        for host in it.hosts or sorted({side.host for side in sides}):
            parting = self._armed.get(host, {}).get(it.resource)
            if parting is None:
                continue
            peers = frozenset(side.peer for side in sides if side.host == host)
            after = votes(armed(it, host, parting), host, peers | {host}, parting)
            if after is not it:
                return after
        return it

    def _partings(self, it: Authority) -> tuple[Parting | None, ...]:
        return tuple(self._armed.get(host, {}).get(it.resource) for host in it.hosts)

    def _identify(self, well: Mapping[str, _InOrder]) -> None:
        """Read the generation identifiers of the data of resources that are in order, where they are due.

        Those that are not known, or were not in order meanwhile, come first; so many in each turn that all of
        them are read in time.
        """
        now = self._ports.clock.monotonic()
        self._identified_at = {name: at for name, at in self._identified_at.items() if name in well}
        due = [it for it in well if now - self._identified_at.get(it, -math.inf) >= GENERATIONS_SECONDS]
        due.sort(key=lambda it: (self._identified_at.get(it, -math.inf), bool(well[it].it.generations)))
        due = due[: math.ceil(len(well) / GENERATIONS_SECONDS)]
        if not due:
            return
        self._identified_at |= dict.fromkeys(due, now)
        timeout = self._timeout_seconds
        calls = {
            it: functools.partial(
                self._ports.storage.generations, well[it].holder.host, it, timeout_seconds=timeout
            )
            for it in due
        }
        changes = []
        for name, answer in self._ports.tasks.gather(calls, timeout_seconds=timeout).items():
            if isinstance(answer, Unanswered):
                log.warning("generation identifiers not read", error=str(answer))
                continue
            before = well[name].it
            if (after := identified(before, well[name].holder, answer)) is not before:
                changes.append((before, after))
        self._write(changes)

    def _give_back(
        self, it: Authority, sides: tuple[Side, ...], again: dict[str, Snapshot | None]
    ) -> Authority:
        """Give it to a Primary that is not the holder, on a look later than the one at the holder (R1)."""
        for holder, asker in permutations(sides, 2):
            if given_back(it, holder, asker) is not it:
                if asker.host not in again:
                    again[asker.host] = self._look_at(asker.host)
                snapshot = again[asker.host]
                seen = snapshot and snapshot.resource(it.resource)
                if not snapshot or not seen or snapshot.problems_of(it.resource):
                    return it
                return given_back(it, holder, side_of(asker.host, seen, asker.peer))
        return it

    def _look_at(self, host: str) -> Snapshot | None:
        try:
            return self._status(host)
        except Unanswered:
            return None

    def _write(self, changes: Sequence[tuple[Authority, Authority]]) -> None:
        """Write changes down together: when a rack is lost, there are hundreds of them at once.

        When one has changed meanwhile each is written for itself, and that one is looked at again.
        """
        for first in range(0, len(changes), WRITE_AT_ONCE):
            some = changes[first : first + WRITE_AT_ONCE]
            try:
                self._commit(some)
            except Conflict:
                if len(some) == 1:
                    log.info("changed meanwhile, is looked at again", resource=some[0][1].resource)
                else:
                    for change in some:
                        self._write([change])

    def _commit(self, changes: Sequence[tuple[Authority, Authority]]) -> None:
        at = self._ports.clock.wall()
        events = [_event(at, before, after) for before, after in changes]
        self._ports.journal.commit(authorities=[after for _, after in changes], events=events)


def _event(at: float, before: Authority, after: Authority) -> Event:
    was = f"; before: {_words(before)}" if before.hosts else ""
    detail = {"resource": after.resource, "version": after.version}
    sentence = f"{after.resource}: {_words(after)}{was}"
    return Event(at, "authority", sentence, host=after.holder, detail=detail)


def _moving(records: tuple[DomainRecord, ...]) -> set[str]:
    """Resources that a plan is moving now: their roles lag behind the authority."""
    return {
        entry.step.resource
        for record in records
        if record.open_plan is not None
        for entry in record.open_plan.steps
        if isinstance(entry.step, Promote | Demote)
    }


def _words(it: Authority) -> str:
    if not it.hosts:
        return f"quorum of {', '.join(sorted(it.voters))}, seen on {', '.join(sorted(it.voting)) or 'nobody'}"
    admitted = ", ".join(sorted(it.admitted)) or "nobody"
    uncertain = ", its last writes may be on either replica alone" if it.torn else ""
    return f"{it.holder} holds it{' alone' if it.granted else ''}{uncertain}, admitted: {admitted}"
