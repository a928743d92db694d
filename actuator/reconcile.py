"""Looking for what no webhook said: alerts that fire, and protected domains that are down.

An alert fired again inside group_interval, or while the actuator was down, is never delivered; a notification
lost is lost. So the sources and the live system are asked again and again, and what is found goes the same
way as a webhook does.
"""

import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from actuator.alarm import Alarm
from actuator.config import Settings
from actuator.contact import Contacts
from actuator.core.definition import differ
from actuator.core.failback import goes_back
from actuator.core.guards.situation import DOWN, RUNNING
from actuator.core.owners import Owners, same_words
from actuator.core.sight import Sight
from actuator.core.silence import not_understood
from actuator.keep import Keeper
from actuator.model import Definition, DomainRecord, DomainState, Event, HostRecord, Notification
from actuator.ports import JournalError, Ports, Unanswered
from actuator.protected import Protected
from actuator.worker import DARK_SECONDS, Firing, Worker, key_of
from exporter.drbd import Snapshot
from exporter.libvirt_domain import parse_definition

if TYPE_CHECKING:
    from collections.abc import Callable

ALERTMANAGER = "Alertmanager"
PROMETHEUS = "Prometheus"
SILENCES = "Alertmanager's silences"
WATCHDOG = "Watchdog"

BACK_SECONDS = 60.0
"""Between two attempts to send domains back to their own hosts."""
DEFINITIONS_SECONDS = 60.0
"""Between two readings of how the domains are defined."""
SPARE_SECONDS = 1.0
"""For a host that answers to the last moment: what it has said is not thrown away."""

DARK_TIMEOUT_SECONDS = 1.0
"""So long a host has to answer that nobody has heard of for a while."""
MEASURE_SECONDS = 1.0
"""A host that is too busy to tell its free memory in time is asked again in the next turn."""

log = structlog.get_logger(__name__)


class Reconciler:
    """One ``turn`` each interval."""

    def __init__(
        self,
        ports: Ports,
        settings: Settings,
        protected: Protected,
        worker: Worker,
        alarm: Alarm,
        contacts: Contacts,
        keeper: Keeper,
    ) -> None:
        self._ports = ports
        self._settings = settings
        self._protected = protected
        self._worker = worker
        self._alarm = alarm
        self._contacts = contacts
        self._keeper = keeper
        self._owners: Owners | None = None
        """Whose the disks are by the definitions that are kept; read when it is first asked for."""
        self._not_kept: dict[str, str] = {}
        """By domain: the definition that was not kept, which is said once."""
        self._down_since: dict[str, float] = {}
        self._definitions_at = float("-inf")
        self._read_at: dict[tuple[str, str], float] = {}
        """By host and domain: when its definition there was last asked for."""
        self._well_since: dict[str, float] = {}
        self._back_at = float("-inf")
        self._odd: frozenset[str] = frozenset()
        """Why some silences are not understood: said once."""
        self.last_at: float | None = None
        """Wall clock of the last turn that reached its end."""
        self.states: Mapping[str, Mapping[str, DomainState] | Unanswered] = {}
        """By host: what its libvirt said of all its domains in the last turn, or why it said nothing."""
        self.answered: Mapping[str, bool] = {}
        """Whether each source answered in the last turn: Alertmanager, Prometheus, libvirt on each host."""

    def turn(self) -> None:
        """Ask everybody once, side by side. Handles its own errors."""
        try:
            records = self._protected.records()
            self._ask(records)
            self._alarm.resend(records)
        except JournalError as error:
            log.error("journal", error=str(error))  # noqa: TRY400  said in one line, no traceback
        else:
            self.last_at = self._ports.clock.wall()

    def _ask(self, records: tuple[DomainRecord, ...]) -> None:
        timeout = self._settings.evidence.timeout_seconds
        servers = max(self._settings.alertmanager.timeout_seconds, self._settings.prometheus.timeout_seconds)
        sources: dict[str, Callable[[], tuple[Notification, ...] | Mapping[str, DomainState] | bool]] = {
            ALERTMANAGER: functools.partial(self._ports.alerts.firing, timeout_seconds=servers),
            PROMETHEUS: functools.partial(self._ports.metrics.firing, timeout_seconds=servers),
            SILENCES: functools.partial(self._take_silences, servers),
            WATCHDOG: functools.partial(self._ports.alerts.watchdog, timeout_seconds=servers),
        }
        asked_at = self._ports.clock.wall()
        known = {it.host: it for it in self._ports.journal.hosts()}
        hosts = tuple(self._settings.hosts)
        states = {
            _of(host): functools.partial(self._states, host, self._patience_seconds(host)) for host in hosts
        }
        answers = self._ports.tasks.gather(sources | states, timeout_seconds=max(servers, timeout))
        self.answered = {
            source: not isinstance(answer, Unanswered)
            for source, answer in answers.items()
            if source not in {SILENCES, WATCHDOG}
        }
        self.states = {
            host: said for host in hosts if isinstance(said := answers[_of(host)], Mapping | Unanswered)
        }
        self._look_for_monitoring(answers)
        # Alertmanager knows silences and inhibitions; without it every alert of Prometheus counts.
        for source in (ALERTMANAGER, PROMETHEUS):
            firing = answers[source]
            if isinstance(firing, tuple):
                self._worker.firing = Firing(frozenset(map(key_of, firing)), asked_at)
                self._take_alerts(firing)
                break
            log.warning("no alerts from there", source=source, error=str(firing))
        for host in hosts:
            if not isinstance(answers[_of(host)], Unanswered):
                self._alive(known.get(host) or HostRecord(host))
        for record in records:
            seen = {
                host: answer
                for host in self._protected.hosts(record)
                if isinstance(answer := answers.get(_of(host)), Mapping)
            }
            self._look_at(record, seen)
            self._leaves(record, known.get(record.host))
        self._send_back(records, {it.host for it in known.values() if it.failed_at or it.drained})
        self._keep_definitions(records)

    def _patience_seconds(self, host: str) -> float:
        """How long a host may take: for one that is dark the others, who are to be heard of, do not wait."""
        dark = self._contacts.silent_for(host, self._ports.clock.monotonic()) >= DARK_SECONDS
        timeout = self._settings.evidence.timeout_seconds
        return min(DARK_TIMEOUT_SECONDS, timeout) if dark else timeout

    def _look_for_monitoring(self, answers: Mapping[str, object]) -> None:
        """Let the worker know whether Prometheus and Alertmanager work; a change is said once."""
        missing = [str(answers[it]) for it in (PROMETHEUS, WATCHDOG) if isinstance(answers[it], Unanswered)]
        if answers[WATCHDOG] is False:
            missing.append("Alertmanager does not show the alert Watchdog of rules/vmheal.yml")
        now = self._ports.clock.monotonic()
        before = self._worker.sight or Sight(now)
        sight = before.after("; ".join(missing), now)
        if bool(sight.missing) != bool(before.missing):
            log.warning("monitoring", missing=sight.missing or "nothing any more")
        self._worker.sight = sight

    def _send_back(self, records: tuple[DomainRecord, ...], unwanted: set[str]) -> None:
        """Have the worker look at domains that may go back to their own host."""
        now, move = self._ports.clock.monotonic(), self._settings.move
        for host in self._settings.hosts:
            if host in unwanted or self._contacts.silent_for(host, now) >= DARK_SECONDS:
                self._well_since.pop(host, None)
            else:
                self._well_since.setdefault(host, now)
        own = {it.domain: self._settings.domains[it.domain].host for it in records}
        idle = not (self._worker.busy or self._worker.firing.keys)
        self._worker.back = {
            it.domain: own[it.domain]
            for it in records
            if it.host != own[it.domain]
            and goes_back(
                move.failback,
                well_seconds=now - self._well_since.get(own[it.domain], now),
                after_seconds=move.failback_seconds,
                idle=idle,
            )
        }
        if self._worker.back and now - self._back_at >= BACK_SECONDS:
            self._back_at = now
            for domain, host in self._worker.back.items():
                self._worker.suspect(domain, f"{host} is well again")

    def _take_silences(self, timeout_seconds: float) -> tuple[()]:
        """Let the worker know of the silences; when Alertmanager does not tell, those of last time stand."""
        silences = self._ports.alerts.silences(timeout_seconds=timeout_seconds)
        odd = {why: it for it in silences for matcher in it.matchers if (why := not_understood(matcher))}
        for why in odd.keys() - self._odd:
            log.warning("a silence that pauses nothing", by=odd[why].by, comment=odd[why].comment, why=why)
        self._odd = frozenset(odd)
        self._worker.silences = silences
        return ()

    def _states(self, host: str, timeout_seconds: float) -> Mapping[str, DomainState]:
        """What runs there; and in the time that is left, what memory it has free for more."""
        begun = self._ports.clock.monotonic()
        states = self._ports.hypervisor.states(host, timeout_seconds=timeout_seconds)
        left_seconds = begun + timeout_seconds - self._ports.clock.monotonic()
        self._measure(host, min(MEASURE_SECONDS, max(0.0, left_seconds / 2)))
        return states

    def _measure(self, host: str, timeout_seconds: float) -> tuple[()]:
        """Let the worker know what memory a host has free; when it does not tell, the last figure stands."""
        now = self._ports.clock.monotonic()
        try:
            capacity = self._ports.hypervisor.capacity(host, timeout_seconds=timeout_seconds)
        except Unanswered as error:
            self._worker.rooms.not_measured(host, str(error))
        else:
            self._worker.rooms.measured(host, capacity, now)
        return ()

    def _keep_definitions(self, records: tuple[DomainRecord, ...]) -> None:
        """Now and then read how each domain is defined: its host may be gone when that is needed."""
        now = self._ports.clock.monotonic()
        if now - self._definitions_at < DEFINITIONS_SECONDS:
            return
        self._definitions_at = now
        found = self._read_definitions(records, now)
        seen = self._keeper.seen.items()
        same = {host: same_words(said) for host, said in seen if isinstance(said, Snapshot)}
        for record in records:
            if isinstance(xml := found.get((record.host, record.domain)), str):
                self._keep_definition(record, xml, same)
        self._look_for_drift(records, found)

    def _read_definitions(
        self, records: tuple[DomainRecord, ...], now: float
    ) -> Mapping[tuple[str, str], str | None]:
        """By host and domain, as far as the hosts answer: each is asked for one after the other.

        All at once would be a thread for each, and the looks at failures would find none left.
        """
        on: defaultdict[str, list[str]] = defaultdict(list)
        for record in records:
            for host in self._protected.hosts(record):
                if self._contacts.silent_for(host, now) < DARK_SECONDS:
                    on[host].append(record.domain)
        found: dict[tuple[str, str], str | None] = {}
        timeout = self._settings.evidence.timeout_seconds
        calls = {
            host: functools.partial(self._read_on, host, domains, timeout) for host, domains in on.items()
        }
        for host, answer in self._ports.tasks.gather(calls, timeout_seconds=timeout + SPARE_SECONDS).items():
            if not isinstance(answer, Unanswered):
                found |= {(host, domain): xml for domain, xml in answer.items()}
        return found

    def _read_on(self, host: str, domains: list[str], timeout_seconds: float) -> Mapping[str, str | None]:
        """What there is time for, those first that were not read for the longest."""
        clock, found = self._ports.clock, dict[str, str | None]()
        deadline = clock.monotonic() + timeout_seconds
        for domain in sorted(domains, key=lambda it: self._read_at.get((host, it), -math.inf)):
            left_seconds = deadline - clock.monotonic()
            if left_seconds <= 0:
                break
            self._read_at[host, domain] = clock.monotonic()
            with contextlib.suppress(Unanswered):
                found[domain] = self._ports.hypervisor.definition(host, domain, timeout_seconds=left_seconds)
        return found

    def _look_for_drift(
        self, records: tuple[DomainRecord, ...], found: Mapping[tuple[str, str], str | None]
    ) -> None:
        """Let the worker know where a domain is defined otherwise than as kept; what is new is said once."""
        home = {record.domain: record.host for record in records}
        drifted = {
            domain: self._worker.drifted.get(domain, frozenset()) - {host} for domain, host in home.items()
        }
        for (host, domain), xml in found.items():
            kept = self._ports.journal.definition(domain)
            if host == home[domain] or kept is None:
                continue
            if xml is None or not differ(xml, kept.xml):
                drifted[domain] -= {host}
            elif host not in drifted[domain]:
                drifted[domain] |= {host}
                sentence = (
                    f"{domain} is defined otherwise on {host} than it was where it last ran ({kept.host}):"
                    " that is replaced before it is started there"
                )
                event = Event(self._ports.clock.wall(), "definition", sentence, domain, host)
                self._ports.journal.commit(events=[event])
        self._worker.drifted = drifted

    def _keep_definition(
        self, record: DomainRecord, xml: str, same: Mapping[str, Mapping[str, frozenset[str]]]
    ) -> None:
        """``same``: by host, the words that mean the same resource there."""
        kept = self._ports.journal.definition(record.domain)
        if kept is not None and kept.xml == xml:
            self._not_kept.pop(record.domain, None)
            return
        at = self._ports.clock.wall()
        if whose := self._with_anothers_disk(record, xml, same):
            if self._not_kept.get(record.domain) != xml:
                self._not_kept[record.domain] = xml
                sentence = f"{whose}: that definition of {record.domain} is not kept, and not used elsewhere"
                event = Event(at, "definition", sentence, record.domain, record.host)
                self._ports.journal.commit(events=[event])
            return
        version = 1 if kept is None else kept.version + 1
        how = "kept" if kept is None else f"has changed since it was seen on {kept.host}, and is kept anew"
        event = Event(
            at, "definition", f"the definition of {record.domain} {how}", record.domain, record.host
        )
        definition = Definition(record.domain, version, xml, record.host, at)
        self._ports.journal.commit(definition=definition, events=[event])
        self._known_owners().put(record.domain, parse_definition(xml).disks)
        self._worker.rooms.defined(record.domain, xml)

    def _with_anothers_disk(
        self, record: DomainRecord, xml: str, same: Mapping[str, Mapping[str, frozenset[str]]]
    ) -> str:
        """Why a definition may not be kept: a host that was taken over would get another VM's disk elsewhere.

        What was kept first counts: nobody loses a disk by another one's definition. Where a host does not say
        which resources it has, the definitions' own words are compared.
        """
        owners, disks = self._known_owners(), parse_definition(xml).disks
        for host in self._protected.hosts(record):
            for disk, other in owners.others(record.domain, disks, same.get(host, {})):
                if other in self._settings.domains and host in self._settings.hosts_of(other):
                    return f"{record.domain}'s disk {disk.source} on {record.host} is {other}'s"
        return ""

    def _known_owners(self) -> Owners:
        if self._owners is None:
            self._owners = Owners()
            for domain in self._settings.domains:
                if (kept := self._ports.journal.definition(domain)) is not None:
                    self._owners.put(domain, parse_definition(kept.xml).disks)
        return self._owners

    def _alive(self, record: HostRecord) -> None:
        """A host that answers has not failed, and is not down, whatever was said before."""
        self._contacts.heard(record.host, self._ports.clock.monotonic())
        if record.failed_at is None and record.down is None:
            return
        after = replace(record, version=record.version + 1, failed_at=None, down=None)
        event = Event(self._ports.clock.wall(), "alive", f"{record.host} answers again", host=record.host)
        self._ports.journal.commit(hosts=[after], events=[event])

    def _leaves(self, record: DomainRecord, host: HostRecord | None) -> None:
        """What is still to leave a host that failed, or is drained, is looked at each time."""
        if host is None:
            return
        if host.failed_at is not None:
            self._worker.suspect(record.domain, f"{host.host} has failed")
        elif host.drained is not None and host.drained.stands(self._ports.clock.wall()):
            self._worker.suspect(record.domain, f"{host.host} is drained by {host.drained.by}")

    def _take_alerts(self, firing: tuple[Notification, ...]) -> None:
        """Receive what was not taken up yet."""
        new = [it for it in firing if it.action and (not self._worker.knows(it) or self._still_dark(it))]
        if new:
            self._ports.journal.receive(new, at=self._ports.clock.wall())
            self._worker.wake()

    def _still_dark(self, notification: Notification) -> bool:
        """Its host was taken for alive again on a late answer, and is dark all the same."""
        host = notification.host
        if notification.action != "failover" or host not in self._settings.hosts:
            return False
        silent = self._contacts.silent_for(host, self._ports.clock.monotonic()) >= DARK_SECONDS
        return silent and self._protected.host(host).failed_at is None

    def _look_at(self, record: DomainRecord, states: Mapping[str, Mapping[str, DomainState]]) -> None:
        """Suspect a domain that is down past the grace time, runs twice, or runs again under a warning.

        ``states``: of all domains, by those of its hosts that answered.
        """
        for host in states.keys() - {record.host}:
            if (there := states[host].get(record.domain)) is not None and there not in DOWN:
                self._worker.suspect(record.domain, f"reconcile sees it {there} on {host}")
        if record.host not in states:
            self._down_since.pop(record.domain, None)
            return
        state = states[record.host].get(record.domain)
        if state in RUNNING and record.escalation is not None:
            self._worker.suspect(record.domain, f"reconcile sees it {state} again on {record.host}")
        if state is not None and state not in DOWN:
            self._down_since.pop(record.domain, None)
            return
        now = self._ports.clock.monotonic()
        since = self._down_since.setdefault(record.domain, now)
        if now - since >= self._settings.reconcile.grace_seconds:
            why = f"reconcile found it {state or 'not defined'} on {record.host}"
            self._worker.suspect(record.domain, why)


def _of(host: str) -> str:
    return f"libvirt on {host}"
