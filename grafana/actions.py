"""*Actions*: what failed, what vmheal decided and did, what it refused, and how long all that took."""

from grafana_foundation_sdk.models import dashboard

from grafana.parts import (
    ACTIVE,
    ALERTS_OF_HOSTS,
    BAD,
    GOOD,
    HOSTS,
    NEUTRAL,
    RUNS,
    VM,
    WARNING,
    YES_NO,
    Column,
    Link,
    Panels,
    Query,
    alerts_and_plans,
    board,
)

HERE = 'host=~"$host"'
OUTCOMES = {"succeeded": ("succeeded", GOOD), "failed": ("failed", BAD)}


def actions() -> dashboard.Dashboard:
    """The dashboard."""
    panels = Panels()
    _figures(panels)
    panels.timeline(
        "Alerts that ask for action, and plans",
        "From the alert to the end of the plan. An alert without a plan was refused, or waits.",
        [
            Query(
                f'max by (alertname, domain, host) (ALERTS{{{ALERTS_OF_HOSTS},action!=""}})',
                "{{alertname}} {{domain}} {{host}}",
            ),
            Query(
                f"max by (domain, host, verb) (vmheal_domain_plan_open{{{HERE}}}) + 1",
                "{{verb}} {{domain}} to {{host}}",
            ),
        ],
        {"1": ("fires", BAD), "2": ("under way", ACTIVE)},
        span=12,
        height=9,
    )
    panels.timeline(
        "Warnings that stand",
        "What waits for a person, by VM and by the guard that refused.",
        [
            Query(
                f"max by (domain, alertname, guard) (vmheal_escalation{{{HERE}}})",
                "{{domain}} {{alertname}}: {{guard}}",
            )
        ],
        {"1": ("stands", WARNING)},
        span=12,
        height=9,
    )
    panels.row("Plans")
    panels.table(
        "The last plan of each VM",
        "What was done, how it ended, and how long it took from its claim to its end, against what was foretold.",
        [
            Query(
                f"max by (domain, verb, source, host, outcome) (vmheal_domain_plan_finished_timestamp_seconds{{{HERE}}}) * 1000",
                name="ended",
            ),
            Query(
                f"max by (domain, verb, source, host, outcome) (vmheal_domain_plan_duration_seconds{{{HERE}}})",
                name="took",
            ),
            Query(
                f"max by (domain, verb, source, host, outcome) (vmheal_domain_plan_forecast_seconds{{{HERE}}})",
                name="foretold",
            ),
        ],
        [
            VM,
            Column("verb", "verb"),
            Column("source", "from", link=Link.HOST),
            Column("host", "to", link=Link.HOST),
            Column("outcome", "outcome", texts=OUTCOMES),
            Column("took", "took", unit="s"),
            Column("foretold", "foretold", unit="s"),
            Column("ended", "ended", unit="dateTimeAsIso"),
        ],
        sort="-ended",
        span=12,
    )
    panels.timeline(
        "VMs that were down",
        "When each VM ran nowhere while it should, or stood still: the outage as Prometheus saw it.",
        [
            Query(
                f"max by (domain) (vmheal_domain_expected{{{HERE}}} == 1) unless on (domain)"
                f' max by (domain) (libvirt_domain_state{{{HERE},state=~"{RUNS}"}} == 1)',
                "{{domain}}",
            )
        ],
        {"1": ("down", BAD)},
        span=12,
    )
    _durations(panels)
    panels.row("vmheal itself")
    _itself(panels)
    return board(
        "vmheal-actions",
        "vmheal / Actions",
        "What failed, what vmheal decided and did, what it refused, and how long all that took.",
        [HOSTS],
        alerts_and_plans("$host|", ".*"),
        panels,
    )


def _figures(panels: Panels) -> None:
    """Counters of the whole time that is shown: what happens here is rare."""
    for title, about, selector, colour in (
        (
            "Plans that succeeded",
            "In the time that is shown.",
            'vmheal_plans_total{outcome="succeeded"}',
            GOOD,
        ),
        ("Plans that failed", "In the time that is shown.", 'vmheal_plans_total{outcome="failed"}', BAD),
        ("Decisions", "To act, in the time that is shown.", 'vmheal_events_total{kind="decided"}', NEUTRAL),
        (
            "Refusals",
            "In the time that is shown: nothing was done.",
            'vmheal_events_total{kind="refused"}',
            WARNING,
        ),
    ):
        panels.stat(
            title,
            about,
            Query(f"round(sum(increase({selector}[$__range])))"),
            steps=((None, GOOD), (1, colour)),
            nothing="actuator is down",
        )
    panels.stat(
        "Restart, mean",
        "From a plan's claim to the VM read back running, in the time that is shown.",
        Query(
            'sum(increase(vmheal_plan_duration_seconds_sum{verb="restart",outcome="succeeded"}[$__range]))'
            ' / (sum(increase(vmheal_plan_duration_seconds_count{verb="restart",outcome="succeeded"}[$__range])) > 0)'
        ),
        unit="s",
        nothing="none",
    )
    panels.stat(
        "Failover, mean",
        "From a plan's claim to the VM read back running elsewhere, in the time that is shown.",
        Query(
            'sum(increase(vmheal_plan_duration_seconds_sum{verb="failover",outcome="succeeded"}[$__range]))'
            ' / (sum(increase(vmheal_plan_duration_seconds_count{verb="failover",outcome="succeeded"}[$__range])) > 0)'
        ),
        unit="s",
        nothing="none",
    )


def _durations(panels: Panels) -> None:
    panels.table(
        "Steps",
        "How often each step was taken in the time that is shown, and how long it took in the mean.",
        [
            Query(
                "round(sum by (step, outcome) (increase(vmheal_step_duration_seconds_count[$__range]))) > 0",
                name="times",
            ),
            Query(
                "sum by (step, outcome) (increase(vmheal_step_duration_seconds_sum[$__range]))"
                " / (sum by (step, outcome) (increase(vmheal_step_duration_seconds_count[$__range])) > 0)",
                name="mean",
            ),
        ],
        [
            Column("step", "step"),
            Column(
                "outcome",
                "outcome",
                texts={
                    "done": ("done", GOOD),
                    "failed": ("failed", BAD),
                    "indeterminate": ("not known", WARNING),
                },
            ),
            Column("times", "times"),
            Column("mean", "mean", unit="s"),
        ],
        sort="-mean",
        span=8,
    )
    panels.graph(
        "What happened",
        "Events of the timeline; `vmheal-actuator journal` tells each.",
        [
            Query(
                'sum by (kind) (increase(vmheal_events_total{kind=~"decided|would|refused|postponed|finished"}[$__rate_interval])) > 0',
                "{{kind}}",
            )
        ],
        unit="short",
        span=8,
    )
    panels.table(
        "Refusals by guard",
        "Since the actuator was started: what kept it from acting.",
        [Query("sum by (guard) (vmheal_refusals_total)")],
        [Column("guard", "guard"), Column("", "times")],
        nothing="none",
        sort="-times",
        span=8,
    )


def _itself(panels: Panels) -> None:
    panels.timeline(
        "Who answers the actuator",
        "In its reconcile: libvirt on each host, Prometheus, Alertmanager.",
        [Query("max by (source) (vmheal_source_up)", "{{source}}")],
        YES_NO,
        span=8,
    )
    panels.graph(
        "Looks and writes",
        "Nineteen of twenty: looks at the live system before a decision; durable writes of the journal.",
        [
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vmheal_observation_duration_seconds_bucket[$__rate_interval])))",
                "look",
            ),
            Query(
                "histogram_quantile(0.95, sum by (le) (rate(vmheal_journal_write_duration_seconds_bucket[$__rate_interval])))",
                "write",
            ),
        ],
        unit="s",
        span=8,
    )
    panels.graph(
        "Webhook",
        "Alerts that Alertmanager delivered.",
        [
            Query(
                "sum by (status) (rate(vmheal_notifications_received_total[$__rate_interval]))",
                "{{status}}",
            )
        ],
        unit="short",
        span=8,
    )
    panels.stat(
        "Journal",
        "Whether the journal can be read. Without it vmheal does nothing.",
        Query("min(vmheal_journal_up)"),
        texts={"1": ("works", GOOD), "0": ("cannot be read", BAD)},
        nothing="actuator is down",
        span=6,
    )
    panels.stat(
        "Writes that failed",
        "Of the journal, in the time that is shown.",
        Query("round(sum(increase(vmheal_journal_errors_total[$__range])))"),
        steps=((None, GOOD), (1, BAD)),
        nothing="actuator is down",
        span=6,
    )
    panels.stat(
        "Unforeseen failures",
        "Of the actuator itself, since it was started; its log tells them.",
        Query("sum(vmheal_faults_total) or vector(0)"),
        steps=((None, GOOD), (1, BAD)),
        span=6,
    )
    panels.stat(
        "Version",
        "Of the actuator.",
        Query("max by (version) (vmheal_build_info)", "{{version}}"),
        names=True,
        nothing="actuator is down",
        span=6,
    )
