"""Nothing is called that the journal does not say first, and one thing at a time for each VM."""

from collections.abc import Callable, Sequence
from typing import Any

from actuator.core import progress
from actuator.model import DomainRecord
from actuator.ports import Journal
from tests.simulator.oracle import Oracle

KINDS = {
    "destroy": {"destroy"},
    "shut_down": {"shut_down"},
    "define": {"define"},
    "start": {"start"},
    "migrate": {"migrate"},
    "promote": {"promote"},
    "demote": {"demote"},
    "allow_two_primaries": {"allow_two", "forbid_two"},
    "power_off": {"power_off"},
}
"""The calls of the ports that change something for a plan, and the steps that they belong to."""


class Intended:
    """A port whose changing calls are compared with the journal's open plans before they are made.

    Args:
        port: the hypervisor's, the storage's or the fencing's.
        journal: of the same run of the actuator.
        oracle: is told what is broken.
        underway: of each call that is under way the domains whose plans say it, shared by the ports of one run of
            the actuator. Several may want one host off: whose call it is a port is not told.
    """

    def __init__(self, port: Any, journal: Journal, oracle: Oracle, underway: list[frozenset[str]]) -> None:
        self._port = port
        self._journal = journal
        self._oracle = oracle
        self._underway = underway

    def __getattr__(self, name: str) -> Any:
        # Asked for once: it is an attribute then.
        method = getattr(self._port, name)
        self.__dict__[name] = found = self._compared(name, method) if name in KINDS else method
        return found

    def _compared(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            # A live migration is called on its source, and is a step of the target's.
            host, about = arguments[1:3] if name == "migrate" else (*arguments, "")[:2]
            said = frozenset(
                it.domain for it in self._journal.records() if _says(it, KINDS[name], host, about)
            )
            if not said:
                self._oracle.broken(
                    f"{name} {about} on {host} is called, and no plan in the journal intends it"
                )
                return method(*arguments, **more)
            self._underway.append(said)
            if not _each_its_own(self._underway):
                self._oracle.broken(f"{name} {about} on {host} is called while another call is under way")
            try:
                return method(*arguments, **more)
            finally:
                self._underway.remove(said)

        return call


def _each_its_own(calls: Sequence[frozenset[str]]) -> bool:
    """Whether each call can be of another domain."""
    if not calls:
        return True
    first, *rest = sorted(calls, key=len)
    return any(_each_its_own([it - {domain} for it in rest]) for domain in first)


def _says(record: DomainRecord, kinds: set[str], host: str, about: str) -> bool:
    plan = record.open_plan
    index = progress.next_index(plan) if plan is not None else None
    if plan is None or index is None:
        return False
    step: Any = plan.steps[index].step
    named = getattr(step, "resource", getattr(step, "domain", ""))
    return step.kind in kinds and step.host == host and (not about or named == about)
