"""What would be decided about a VM now, and why: for a person who asks. Changes nothing."""

import functools
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from actuator.config import Settings
from actuator.contact import Contacts
from actuator.core.decide import Question, Wish, decide, proposal
from actuator.core.replica import names_of
from actuator.core.words import describe, summary
from actuator.model import Decision, DomainRecord, Nothing, Plan, Postpone, Refusal
from actuator.ports import Ports, Unanswered
from actuator.protected import Protected
from actuator.worker import Worker

AT_ONCE = 10
"""Domains of a host that are looked at side by side: the worker needs threads, too."""
BATCH_SECONDS = 15.0
"""For so long further batches of a host's domains are begun."""
LOOKS = 3
"""A look is repeated when the arbiter's records changed during it."""


class BusyError(Exception):
    """Somebody else is asking: each question is a look at several hosts."""


class Explainer:
    """One question at a time.

    Args:
        ports: the world.
        settings: modes, and how long a look may take.
        protected: the domains, and where they should run.
        contacts: since when a host is silent.
        worker: knows what a decision rests on.
    """

    def __init__(
        self, ports: Ports, settings: Settings, protected: Protected, contacts: Contacts, worker: Worker
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._protected = protected
        self._contacts = contacts
        self._worker = worker
        self._asking = threading.Lock()

    def explain(self, name: str) -> Mapping[str, object] | None:
        """Explain a VM, or a host with the protected VMs that should run there; None: there is none such.

        Raises:
            BusyError: somebody else is asking.
            JournalError: the journal cannot be read.
        """
        if name not in self._settings.domains and name not in self._settings.hosts:
            return None
        if not self._asking.acquire(blocking=False):
            raise BusyError("another explanation is being made: ask again in some seconds")
        try:
            return self._domain(name) if name in self._settings.domains else self._host(name)
        finally:
            self._asking.release()

    def _host(self, host: str) -> Mapping[str, object]:
        clock = self._ports.clock
        known = self._protected.host(host)
        names = [it.domain for it in self._protected.records() if it.host == host]
        deadline = clock.monotonic() + BATCH_SECONDS
        explained: list[Mapping[str, object]] = []
        while names and clock.monotonic() < deadline:
            batch, names = names[:AT_ONCE], names[AT_ONCE:]
            calls = {name: functools.partial(self._domain, name) for name in batch}
            timeout = LOOKS * self._settings.evidence.timeout_seconds + 1
            for name, answer in self._ports.tasks.gather(calls, timeout_seconds=timeout).items():
                if isinstance(answer, Unanswered):
                    explained.append({"domain": name, "error": str(answer)})
                else:
                    explained.append(answer)
        return {
            "host": host,
            "silent_seconds": round(self._contacts.silent_for(host, clock.monotonic()), 1),
            "failed_at": known.failed_at,
            "drained": known.drained,
            "down": known.down,
            "paused": known.paused,
            "domains": explained,
            "not_looked_at": names,
        }

    def _domain(self, domain: str) -> Mapping[str, object]:
        record = self._protected.record(domain)
        question = self._worker.question(record)
        paused = self._worker.paused(record)
        return {
            "domain": domain,
            "host": record.host,
            "mode": self._settings.mode_of(domain),
            "seen": _seen(question),
            "plan_under_way": record.open_plan.id if record.open_plan else None,
            "paused": paused.sentence if paused else None,
            "drifted": sorted(question.home.drifted),
            "escalation": record.escalation,
            "decision": _said(decide(question)),
            "elsewhere": {
                host: self._elsewhere(question, record, host)
                for host in self._protected.hosts(record)
                if host != record.host
            },
        }

    def _elsewhere(self, question: Question, record: DomainRecord, host: str) -> Mapping[str, object]:
        """What a person's order to move it there would come to."""
        said = _said(decide(replace(question, wish=Wish("migrate", to=host, leave=True))))
        until = record.suspects.get(host, 0.0)
        if until > question.now:
            ends = datetime.fromtimestamp(until, UTC).isoformat(sep=" ", timespec="seconds")
            return {
                **said,
                "suspect_until": until,
                "note": f"it failed there, and is not sent back before {ends}",
            }
        return said


def _seen(question: Question) -> str:
    evidence = question.home.evidence
    return summary(evidence, names_of(evidence))


def _said(decision: Decision) -> Mapping[str, object]:
    match decision:
        case Plan():
            return {
                "kind": "plan",
                "sentence": decision.reason,
                "verb": decision.verb,
                "host": decision.host,
                "proof": decision.proof,
                "proposal": proposal(decision),
                "steps": [describe(step) for step in decision.steps],
                "chosen": decision.chosen,
                "rejected": decision.rejected,
            }
        case Refusal():
            return {"kind": "refusal", "sentence": decision.sentence, "guard": decision.guard}
        case Nothing():
            return {"kind": "nothing", "sentence": decision.sentence}
        case Postpone():
            return {"kind": "postponed", "sentence": decision.sentence, "until_at": decision.until_at}
