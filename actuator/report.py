"""What happened, as metrics and log lines.

Everything that happens is an event of the timeline, so the journal is watched as it writes: what is durable
is logged and counted, in one place.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from math import inf
from typing import get_args

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from actuator.config import Mode, Settings
from actuator.model import (
    Authority,
    Definition,
    DomainRecord,
    Event,
    HostRecord,
    Notification,
    Order,
    PlanStatus,
    Postpone,
    ProgramRun,
    Received,
    Step,
)
from actuator.ports import Conflict, Journal, JournalError, Past
from actuator.protected import Protected
from actuator.rehearse import Rehearsal
from exporter import __version__

log = structlog.get_logger(__name__)

STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WRITE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


VERBS = ("restart", "migrate", "failover")
STEPS = tuple(it.default for step in get_args(Step) for it in fields(step) if it.name == "kind")
HAPPENINGS = ("decided", "would", "refused", "postponed", "finished")
"""Kinds of events that are counted from 0 on, so that `increase()` sees the first."""
LOOPS = ("worker", "keeper", "reconcile", "rehearsals")


class Report:
    """The actuator's own metrics, in a registry of their own.

    Args:
        settings: what it says of them; see `follow`.
    """

    def __init__(self, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        build = Gauge(
            "vmheal_build_info", "1, with the version as a label.", ["version"], registry=self.registry
        )
        build.labels(__version__).set(1)
        self._mode = Gauge("vmheal_mode", "1 for the mode that is on.", ["mode"], registry=self.registry)
        self._plans = Counter(
            "vmheal_plans", "Plans that ended.", ["verb", "outcome"], registry=self.registry
        )
        self._events = Counter(
            "vmheal_events", "Events of the timeline, by their kind.", ["kind"], registry=self.registry
        )
        for kind in HAPPENINGS:
            self._events.labels(kind)
        self._plan_seconds = Histogram(
            "vmheal_plan_duration_seconds",
            "From a plan's claim to its end.",
            ["verb", "outcome"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        for verb in VERBS:
            for outcome in (PlanStatus.SUCCEEDED, PlanStatus.FAILED):
                self._plans.labels(verb, outcome.value)  # from 0 on: the first failure is an increase
                self._plan_seconds.labels(verb, outcome.value)
        self._step_seconds = Histogram(
            "vmheal_step_duration_seconds",
            "Steps of plans, from the look before to the outcome.",
            ["step", "outcome"],
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        for step in STEPS:
            for ended in ("done", "failed"):
                self._step_seconds.labels(step, ended)
        self._look_seconds = Histogram(
            "vmheal_observation_duration_seconds",
            "Looks at the live system before a decision.",
            buckets=STEP_BUCKETS,
            registry=self.registry,
        )
        self._refusals = Counter(
            "vmheal_refusals", "Refusals, by the guard that refused.", ["guard"], registry=self.registry
        )
        self._write_seconds = Histogram(
            "vmheal_journal_write_duration_seconds",
            "Durable writes of the journal, waiting included.",
            buckets=WRITE_BUCKETS,
            registry=self.registry,
        )
        self._write_errors = Counter(
            "vmheal_journal_errors",
            "Writes that the journal could not make; not those that another change came before.",
            registry=self.registry,
        )
        self.faults = Counter(
            "vmheal_faults", "Unforeseen failures of the actuator itself.", ["where"], registry=self.registry
        )
        for loop in LOOPS:
            self.faults.labels(loop)  # from 0 on: the first one is an increase
        self._drbd_only = Gauge(
            "vmheal_failover_drbd_only",
            "1 when failover.drbd_only takes DRBD's word for a proof: then two hosts may write.",
            registry=self.registry,
        )
        self._sources = Gauge(
            "vmheal_source_up",
            "1 when it answered in the last reconcile.",
            ["source"],
            registry=self.registry,
        )
        self._reconciled = Gauge(
            "vmheal_reconcile_timestamp_seconds",
            "When reconcile last came to its end, Unix time; 0 before the first time.",
            registry=self.registry,
        )

        self._shown: list[Collector] = []
        self.follow(settings)

    def follow(self, settings: Settings) -> None:
        """Say what these settings say; sources that they do not name are gone, and so is what was shown."""
        self._settings = settings
        for mode in Mode:
            self._mode.labels(mode.value).set(mode is settings.mode)
        self._drbd_only.set(settings.failover.drbd_only)
        self._sources.clear()
        while self._shown:
            self.registry.unregister(self._shown.pop())

    def reconciled(self, at: float, answered: Mapping[str, bool]) -> None:
        """Take what reconcile says of itself: its last end (wall clock), and who answered."""
        self._reconciled.set(at)
        for source, did in answered.items():
            self._sources.labels(source).set(did)

    def show(self, protected: Protected) -> None:
        """Publish what the journal says of the protected domains, too."""
        self._show(_Domains(protected))

    def show_readiness(self, last: Callable[[], Sequence[Rehearsal]]) -> None:
        """Publish what the rehearsals came to, too."""
        self._show(_Readiness(last, self._settings))

    def _show(self, collector: Collector) -> None:
        self.registry.register(collector)
        self._shown.append(collector)

    def happened(self, event: Event) -> None:
        """An event is durable."""
        own = {"domain": event.domain, "host": event.host, "plan": event.plan, "said": event.sentence}
        detail = {key: it for key, it in event.detail.items() if key != "event"}  # structlog's own
        log.info(event.kind, **{**detail, **own})
        self._events.labels(event.kind).inc()
        match event.kind, event.detail:
            case "refused", {"guard": str(guard)}:
                self._refusals.labels(guard).inc()
            case "observed", {"seconds": float(seconds)}:
                self._look_seconds.observe(seconds)
            case "outcome", {"step": str(step), "outcome": str(outcome), "seconds": float(seconds)}:
                self._step_seconds.labels(step, outcome).observe(seconds)
            case "finished", {"verb": str(verb), "outcome": str(outcome), "seconds": float(seconds)}:
                self._plans.labels(verb, outcome).inc()
                self._plan_seconds.labels(verb, outcome).observe(seconds)

    def written(self, seconds: float) -> None:
        """A write is durable, after so long."""
        self._write_seconds.observe(seconds)

    def not_written(self) -> None:
        """A write failed."""
        self._write_errors.inc()


class _Domains(Collector):
    """What the journal says now; nothing of it when the journal does not answer."""

    def __init__(self, protected: Protected) -> None:
        self._protected = protected

    def collect(self) -> Iterator[Metric]:
        """Read all records."""
        up = GaugeMetricFamily("vmheal_journal_up", "1 when the journal can be read.")
        try:
            records = self._protected.records()
            hosts = self._protected.host_records()
            authorities = self._protected.authorities()
        except JournalError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        expected = GaugeMetricFamily(
            "vmheal_domain_expected",
            "1 on the host where the domain should run, 0 on the other hosts where it may.",
            labels=["domain", "host"],
        )
        standing = GaugeMetricFamily(
            "vmheal_escalation",
            "1 while a person is asked to do something about the domain.",
            labels=["domain", "host", "alertname", "guard"],
        )
        plans = GaugeMetricFamily("vmheal_plans_open", "Plans that have begun and not ended.")
        plans.add_metric([], sum(record.open_plan is not None for record in records))
        under_way = GaugeMetricFamily(
            "vmheal_domain_plan_open",
            "1 while a plan of the domain has begun and not ended; `host` is where it is to run then.",
            labels=["domain", "host", "source", "verb"],
        )
        took = GaugeMetricFamily(
            "vmheal_domain_plan_duration_seconds",
            "How long the domain's last plan took, from its claim to its end.",
            labels=["domain", "host", "source", "verb", "outcome"],
        )
        ended = GaugeMetricFamily(
            "vmheal_domain_plan_finished_timestamp_seconds",
            "When the domain's last plan ended, Unix time.",
            labels=["domain", "host", "source", "verb", "outcome"],
        )
        foretold = GaugeMetricFamily(
            "vmheal_domain_plan_forecast_seconds",
            "How long the domain's last plan was to take when it was claimed; none when nobody could tell.",
            labels=["domain", "host", "source", "verb", "outcome"],
        )
        begun = GaugeMetricFamily(
            "vmheal_plan_begun_timestamp_seconds",
            "When the plan that is under way was claimed, Unix time; host is where the domain is to run.",
            labels=["domain", "host", "verb"],
        )
        for record in records:
            if (plan := record.open_plan) is not None:
                begun.add_metric([record.domain, plan.plan.host, plan.plan.verb], plan.claimed_at)
            for host in self._protected.hosts(record):
                expected.add_metric([record.domain, host], host == record.host)
            if (escalation := record.escalation) is not None:
                labels = [record.domain, escalation.host, escalation.kind.value, escalation.guard]
                standing.add_metric(labels, 1)
            if (made := record.plan) is not None:
                labels = [record.domain, made.plan.host, made.plan.source, made.plan.verb]
                if made.finished_at is None:
                    under_way.add_metric(labels, 1)
                else:
                    labels.append(made.status.value)
                    took.add_metric(labels, made.finished_at - made.claimed_at)
                    ended.add_metric(labels, made.finished_at)
                    if made.forecast_seconds is not None:
                        foretold.add_metric(labels, made.forecast_seconds)
        yield from (expected, standing, plans, under_way, took, foretold, ended, begun)
        yield _pauses(hosts, records)
        yield from _orders(hosts, time.time())
        yield from _replicas(authorities)


class _Readiness(Collector):
    """Would it work now?"""

    def __init__(self, last: Callable[[], Sequence[Rehearsal]], settings: Settings) -> None:
        self._last = last
        self._interval_seconds = settings.readiness.interval_seconds
        self._domains = settings.domains if self._interval_seconds else ()

    def collect(self) -> Iterator[Metric]:
        """Read the last rehearsals."""
        ready = GaugeMetricFamily(
            "vmheal_domain_ready",
            "1 when the verb would bring the domain up on the host now, as it was last rehearsed.",
            labels=["domain", "host", "verb"],
        )
        # Its name ends in _info, and it is a gauge: an info metric's labels would not be plain ones.
        why = GaugeMetricFamily(
            "vmheal_domain_not_ready_info",
            "1 for each reason why it would not, with what mends it.",
            labels=["domain", "host", "verb", "reason", "mend"],
        )
        takes = GaugeMetricFamily(
            "vmheal_domain_recovery_forecast_seconds",
            "How long the verb would take, from the plan's claim to the domain read back running.",
            labels=["domain", "host", "verb"],
        )
        at = GaugeMetricFamily(
            "vmheal_domain_rehearsed_timestamp_seconds",
            "When the domain was last rehearsed, Unix time; 0 before the first time.",
            labels=["domain"],
        )
        interval = GaugeMetricFamily(
            "vmheal_rehearsal_interval_seconds",
            "How often each domain is to be rehearsed, by the configuration; 0: never.",
        )
        interval.add_metric([], self._interval_seconds)
        last = self._last()
        for domain in sorted(set(self._domains) - {it.domain for it in last}):
            at.add_metric([domain], 0.0)
        for it in last:
            at.add_metric([it.domain], it.at)
            for (verb, host), seconds in it.forecasts.items():
                takes.add_metric([it.domain, host, verb], seconds)
            for check in it.checks:
                ready.add_metric([it.domain, check.host, check.verb], check.ready)
                for reason in check.reasons:
                    labels = [it.domain, check.host, check.verb, reason.name, reason.mend]
                    why.add_metric(labels, 1)
        yield from (ready, why, takes, at, interval)


def _orders(hosts: Sequence[HostRecord], now: float) -> Iterator[Metric]:
    """What people and alerts told vmheal about hosts; ``now`` is wall clock."""
    family = GaugeMetricFamily(
        "vmheal_host_order",
        "1 while it stands that the host is failed (by an alert), drained, down (by a person's word) or"
        " paused; the host `all` stands for every one.",
        labels=["host", "order"],
    )
    for it in hosts:
        standing = {
            "failed": it.failed_at is not None,
            "drained": it.drained is not None,
            "down": it.down is not None,
            "paused": it.paused is not None and it.paused.stands(now),
        }
        for order, stands in standing.items():
            if it.host or order == "paused":  # all hosts can be paused, and nothing else
                family.add_metric([it.host or "all", order], stands)
    yield family


def _replicas(authorities: Sequence[Authority]) -> Iterator[Metric]:
    """Who may be Primary, and whose data are current, as the arbiter has it."""
    holder = GaugeMetricFamily(
        "vmheal_authority", "1 on the host that may be Primary, 0 on the other.", labels=["resource", "host"]
    )
    admitted = GaugeMetricFamily(
        "vmheal_replica_admitted",
        "1 when the host's replica is known to be current, 0 when it must not be promoted.",
        labels=["resource", "host"],
    )
    for it in authorities:
        for host in it.hosts:
            holder.add_metric([it.resource, host], host == it.holder)
            admitted.add_metric([it.resource, host], host in it.admitted)
    yield from (holder, admitted)


def _pauses(hosts: Sequence[HostRecord], records: Sequence[DomainRecord]) -> Metric:
    paused = GaugeMetricFamily(
        "vmheal_paused_until_timestamp_seconds",
        "When an operator's pause ends, Unix time, perhaps past; +Inf: when it is taken back. Both labels"
        " empty: it is for all domains.",
        labels=["domain", "host"],
    )
    for labels, order in (
        *(((it.domain, ""), it.paused) for it in records),
        *((("", it.host), it.paused) for it in hosts),
    ):
        if order is not None:
            paused.add_metric(labels, _end_of(order))
    return paused


def _end_of(order: Order) -> float:
    """When it ends by itself, Unix time."""
    return inf if order.until_at is None else order.until_at


class WatchedJournal:
    """A journal whose writes are measured, and whose events are reported once they are durable."""

    def __init__(self, journal: Journal, report: Report) -> None:
        self._journal = journal
        self._report = report

    def receive(self, notifications: Sequence[Notification], *, at: float) -> None:
        """See ``ports.Journal``."""
        with _Measured(self._report):
            self._journal.receive(notifications, at=at)

    def inbox(self, *, after: int, limit: int) -> tuple[Received, ...]:
        """See ``ports.Journal``."""
        return self._journal.inbox(after=after, limit=limit)

    def records(self) -> tuple[DomainRecord, ...]:
        """See ``ports.Journal``."""
        return self._journal.records()

    def record(self, domain: str) -> DomainRecord | None:
        """See ``ports.Journal``."""
        return self._journal.record(domain)

    def hosts(self) -> tuple[HostRecord, ...]:
        """See ``ports.Journal``."""
        return self._journal.hosts()

    def run(self, fingerprint: str) -> ProgramRun | None:
        """See ``ports.Journal``."""
        return self._journal.run(fingerprint)

    def definition(self, domain: str) -> Definition | None:
        """See ``ports.Journal``."""
        return self._journal.definition(domain)

    def authorities(self) -> Mapping[str, Authority]:
        """See ``ports.Journal``."""
        return self._journal.authorities()

    def authority(self, resource: str) -> Authority | None:
        """See ``ports.Journal``."""
        return self._journal.authority(resource)

    def commit(
        self,
        *,
        record: DomainRecord | None = None,
        authorities: Sequence[Authority] = (),
        hosts: Sequence[HostRecord] = (),
        definition: Definition | None = None,
        run: ProgramRun | None = None,
        events: Sequence[Event] = (),
        settled: Sequence[Received] = (),
    ) -> None:
        """See ``ports.Journal``."""
        with _Measured(self._report):
            self._journal.commit(
                record=record,
                authorities=authorities,
                hosts=hosts,
                definition=definition,
                run=run,
                events=events,
                settled=settled,
            )
        for event in events:
            self._report.happened(event)

    def timeline(
        self, *, domain: str = "", after: int = 0, limit: int = 1000, newest: bool = False
    ) -> tuple[tuple[int, Event], ...]:
        """See ``ports.Journal``."""
        return self._journal.timeline(domain=domain, after=after, limit=limit, newest=newest)

    def history(
        self,
        *,
        domain: str = "",
        plan: str = "",
        words: Sequence[str] = (),
        before: int | None = None,
        limit: int = 50,
    ) -> Past:
        """See ``ports.Journal``."""
        return self._journal.history(domain=domain, plan=plan, words=words, before=before, limit=limit)


class _Measured:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._begun = 0.0

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._report.written(time.perf_counter() - self._begun)
        elif issubclass(kind, JournalError) and not issubclass(kind, Conflict):
            self._report.not_written()


def status(
    settings: Settings,
    protected: Protected,
    authorities: Sequence[Authority],
    reconciled_at: float | None,
    busy: int,
    *,
    hosts: Sequence[HostRecord],
    paused: Callable[[DomainRecord], Postpone | None],
    now: float,
) -> Mapping[str, object]:
    """What ``/api/v1/status`` answers.

    ``paused`` gives the sentence of what pauses a domain, whatever it is. ``now`` is wall clock.

    Raises:
        JournalError: the journal cannot be read.
    """
    known = {it.host: it for it in hosts}
    pauses = {it.host: it.paused if it.paused and it.paused.stands(now) else None for it in hosts}
    return {
        "version": __version__,
        "mode": settings.mode,
        "reconciled_at": reconciled_at,
        "handling": busy,
        "paused": pauses.get(""),
        "hosts": [
            {
                "host": it.host,
                "failed_at": it.failed_at,
                "drained": it.drained,
                "down": it.down,
                "paused": pauses.get(it.host),
            }
            for it in (known.get(host) or HostRecord(host) for host in settings.hosts)
        ],
        "domains": [
            {
                "domain": record.domain,
                "host": record.host,
                "hosts": protected.hosts(record),
                "mode": settings.mode_of(record.domain),
                "plan": record.plan,
                "attempts_at": record.attempts_at,
                "escalation": record.escalation,
                "paused": pause.sentence if (pause := paused(record)) is not None else None,
                "suspects": {host: until for host, until in record.suspects.items() if until > now},
            }
            for record in protected.records()
        ],
        "resources": [
            {
                "resource": it.resource,
                "hosts": it.hosts,
                "holder": it.holder,
                "admitted": sorted(it.admitted),
                "granted": it.granted,
                "armed": sorted(it.armed),
                "version": it.version,
            }
            for it in authorities
        ],
    }
