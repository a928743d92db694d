"""Keeping the authorities up with what the hosts say: what no hook tells, or a hook could not.

A hook runs when DRBD runs it, and asks once. So all hosts are looked at again and again, and what the
arbiter's rules make of that is written down, over the version that was read before the look.
"""

import functools
from itertools import permutations

import structlog

from actuator.config import Settings
from actuator.core.arbiter import Side, adopted, given_back, looked_at, side_of
from actuator.model import Authority, Demote, DomainRecord, Event, Promote
from actuator.ports import Conflict, JournalError, Ports, Unanswered
from exporter.drbd import Snapshot

log = structlog.get_logger(__name__)


class Keeper:
    """One ``turn`` each interval, for the resources of all hosts that have an arbiter's token."""

    def __init__(self, ports: Ports, settings: Settings) -> None:
        self._ports = ports
        self._hosts = tuple(name for name, host in settings.hosts.items() if host.arbiter_token_file)
        self._timeout_seconds = settings.evidence.timeout_seconds

    def turn(self) -> None:
        """Look at all hosts once, and write down what follows. Handles its own errors."""
        try:
            # Both before the look (R2): a plan that is opened later raises the version.
            known = {it.resource: it for it in self._ports.journal.authorities()}
            moving = _moving(self._ports.journal.records())
            sides = self._look()
            again: dict[str, Snapshot | None] = {}
            for resource in sorted(sides):
                before = known.get(resource) or Authority(resource)
                after = looked_at(adopted(before, sides[resource]), sides[resource])
                if after is before and resource not in moving:
                    after = self._give_back(before, sides[resource], again)
                if after is not before:
                    self._write(before, after)
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback

    def _look(self) -> dict[str, tuple[Side, ...]]:
        """How each host sees each resource and peer, by resource; what is not understood is left out."""
        storage, timeout = self._ports.storage, self._timeout_seconds
        calls = {
            host: functools.partial(storage.status, host, timeout_seconds=timeout) for host in self._hosts
        }
        answers = self._ports.tasks.gather(calls, timeout_seconds=timeout)
        sides: dict[str, tuple[Side, ...]] = {}
        for host, answer in answers.items():
            if isinstance(answer, Unanswered):
                continue
            for resource in answer.resources:
                if not answer.problems_of(resource.name):
                    seen = tuple(side_of(host, resource, it.name) for it in resource.connections)
                    sides[resource.name] = (*sides.get(resource.name, ()), *seen)
        return sides

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
            return self._ports.storage.status(host, timeout_seconds=self._timeout_seconds)
        except Unanswered:
            return None

    def _write(self, before: Authority, after: Authority) -> None:
        was = f"; before: {_words(before)}" if before.hosts else ""
        detail = {"resource": after.resource, "version": after.version}
        sentence = f"{after.resource}: {_words(after)}{was}"
        event = Event(self._ports.clock.wall(), "authority", sentence, host=after.holder, detail=detail)
        try:
            self._ports.journal.commit(authorities=[after], events=[event])
        except Conflict:
            log.info("changed meanwhile, is looked at again", resource=after.resource)


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
    admitted = ", ".join(sorted(it.admitted)) or "nobody"
    return f"{it.holder} holds it{' alone' if it.granted else ''}, admitted: {admitted}"
