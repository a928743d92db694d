"""*Fleet*: what is protected, what is not and why, who runs what where, and what is happening now."""

from dataclasses import replace

from grafana_foundation_sdk.models import dashboard

from grafana.parts import (
    ACTIVE,
    ALERTS_OF_HOSTS,
    BAD,
    DOMAIN_STATES,
    GOOD,
    HOST,
    HOSTS,
    NEUTRAL,
    QUIET,
    RUNS,
    SHOULD_RUN,
    STANDS,
    VM,
    WARNING,
    YES_NO,
    Column,
    Panels,
    Query,
    alerts_and_plans,
    board,
)

# The last hour of it, as in the rules: what should run is known also while the actuator is down.
EXPECTED = '(last_over_time(vmheal_domain_expected{host=~"$host"}[1h]) == 1)'
RUNNING = f'max by (host, domain) (libvirt_domain_state{{host=~"$host",state=~"{RUNS}"}} == 1)'
DISKS = 'libvirt_domain_drbd_resource{host=~"$host"}'


PAUSED = 'max(vmheal_host_order{host="all",order="paused"} == 1)'


def _because(why: str, expression: str) -> str:
    """Domains with the reason why they are not protected; `more` is the resource, where it is one's."""
    labels = "max by (host, domain, more)"
    return f'label_replace({labels} (\n{expression}\n), "why", "{why}", "", "")'


def _of_disks(condition: str) -> str:
    """The expected domains whose resource is one of these, by host, name and volume."""
    named = f'label_replace(max by (host, name, volume) (\n{condition}\n), "resource", "$1", "name", "(.+)")'
    joined = f"{DISKS} * on (host, resource, volume) group_left () {named}"
    expected = f"and on (host, domain) {EXPECTED}"
    return f'label_replace({joined}, "more", "$1", "resource", "(.+)")\n{expected}'


NOT_PROTECTED = "\nor ".join(
    (
        _because("does not run where it should", f"{EXPECTED} unless on (host, domain) {RUNNING}"),
        _because(
            "no other host may have it",
            f'{EXPECTED} unless on (domain) (vmheal_domain_expected{{host=~"$host"}} == 0)',
        ),
        _because(
            "no DRBD resource below its disks",
            f"{EXPECTED} and on (host, domain) {RUNNING} unless on (host, domain) {DISKS}",
        ),
        _because(
            "its own disk is not UpToDate",
            _of_disks('drbd_device_state{host=~"$host",drbd_device_state="UpToDate"} == 0'),
        ),
        _because(
            "no peer is UpToDate",
            _of_disks(
                "max by (host, name, volume) (vmheal_drbd_peerdevice_disk"
                '{host=~"$host",vmheal_drbd_peerdevice_disk="UpToDate"}) == 0'
            ),
        ),
        _because(
            "its I/O is suspended",
            _of_disks(
                'drbd_device_state{host=~"$host",drbd_device_state="UpToDate"} * 0 + 1'
                ' and on (host, name) drbd_resource_suspended{host=~"$host"} == 1'
            ),
        ),
        _because(
            "is Primary on two hosts",
            _of_disks(
                'drbd_device_state{host=~"$host",drbd_device_state="UpToDate"} * 0 + 1 and on (name)'
                ' (count by (name) (drbd_resource_role{host=~"$host",drbd_resource_role="Primary"} == 1) > 1)'
            ),
        ),
        _because(
            "the arbiter has excluded its replica",
            f'label_replace({DISKS}, "more", "$1", "resource", "(.+)") and on (host, domain) {EXPECTED}'
            ' and on (resource) vmheal_replica_admitted{host=~"$host"} == 0',
        ),
        _because(
            "vmheal has refused or failed",
            'label_replace(vmheal_escalation{host=~"$host"}, "more", "$1", "guard", "(.+)")',
        ),
    )
)
"""Each reason in its own words; a domain has a row for each that holds."""


def fleet() -> dashboard.Dashboard:
    """The dashboard."""
    panels = Panels()
    _figures(panels)
    panels.row("Protection")
    panels.table(
        "Not protected, and why",
        "VMs that no other host could take over now, or that vmheal cannot help, with the reason. Empty is good.",
        [Query(NOT_PROTECTED)],
        [
            replace(VM, width=160),
            replace(HOST, title="on", width=120),
            Column("why", "why", texts=None),
            Column("more", "resource or guard"),
        ],
        span=12,
        nothing="all are protected",
    )
    panels.table(
        "Who runs what, and where it could go",
        "Each VM on each host where it may run: its state for libvirt there, and whether it should run there.",
        [
            Query(
                'max by (domain, host, state) (libvirt_domain_state{host=~"$host"} == 1)'
                ' * on (domain, host) group_left () (vmheal_domain_expected{host=~"$host"})'
            )
        ],
        [
            VM,
            HOST,
            Column(
                "state",
                "state",
                texts={
                    it.word: (it.text or it.word, it.colour) for it in DOMAIN_STATES if it.colour != QUIET
                },
            ),
            replace(SHOULD_RUN, label=""),
        ],
        span=12,
        sort="VM",
    )
    panels.row("What is happening")
    panels.timeline(
        "Failures and what is done about them",
        "Alerts that fire, and vmheal's plans while they are under way.",
        [
            Query(
                f'max by (alertname, domain, host) (ALERTS{{{ALERTS_OF_HOSTS},action!=""}})',
                "{{alertname}} {{domain}} {{host}}",
            ),
            Query(
                'max by (domain, host, verb) (vmheal_domain_plan_open{host=~"$host"}) + 1',
                "{{verb}} {{domain}} to {{host}}",
            ),
        ],
        {"1": ("fires", BAD), "2": ("under way", ACTIVE)},
        span=12,
    )
    panels.timeline(
        "Other alerts",
        "Alerts that vmheal does not act on: they are for people.",
        [
            Query(
                f'max by (alertname, domain, host, name) (ALERTS{{{ALERTS_OF_HOSTS},action=""}})',
                "{{alertname}} {{domain}}{{name}} {{host}}",
            )
        ],
        {"1": ("fires", WARNING)},
        span=12,
    )
    panels.timeline(
        "Where each VM runs",
        "A row for each VM and host; two hosts at once are right only during a live migration.",
        [
            Query(
                f'max by (domain, host) (libvirt_domain_state{{host=~"$host",state=~"{RUNS}"}})'
                ' and on (domain) (vmheal_domain_expected{host=~"$host"})',
                "{{domain}} on {{host}}",
            )
        ],
        {"1": ("runs", GOOD), "0": ("does not", QUIET)},
    )
    panels.row("Hosts")
    panels.table(
        "Hosts",
        "Each hypervisor: whether it answers, what it runs, and what room it has. Down on both planes, management"
        " and replication, is a failed host.",
        [
            Query('max by (host) (up{job="vmheal-state",host=~"$host"})', name="up"),
            Query('max by (host) (libvirt_up{host=~"$host"})', name="libvirt"),
            Query('max by (host) (drbd_up{host=~"$host"})', name="drbd"),
            Query(
                f'count by (host) (libvirt_domain_state{{host=~"$host",state=~"{RUNS}"}} == 1)', name="vms"
            ),
            Query(
                'count by (host) (drbd_resource_role{host=~"$host",drbd_resource_role="Primary"} == 1)',
                name="primaries",
            ),
            Query('max by (host) (vmheal_host_memory_free_bytes{host=~"$host"})', name="free"),
            Query('max by (host) (vmheal_host_load1{host=~"$host"})', name="load"),
            Query(
                'max by (host) (vmheal_host_order{host=~"$host",host!="all",order="failed"})', name="failed"
            ),
            Query(
                'max by (host) (vmheal_host_order{host=~"$host",host!="all",order="drained"})', name="drained"
            ),
            Query(
                'max by (host) (vmheal_host_order{host=~"$host",host!="all",order="paused"})', name="paused"
            ),
        ],
        [
            HOST,
            Column("up", "scraped", texts=YES_NO),
            Column("libvirt", "libvirt", texts=YES_NO),
            Column("drbd", "DRBD", texts=YES_NO),
            Column("vms", "VMs running"),
            Column("primaries", "Primary"),
            Column("free", "free memory", unit="bytes"),
            Column("load", "load"),
            Column("failed", "failed", texts={"1": ("yes", BAD), "0": ("no", "text")}),
            Column("drained", "drained", texts=STANDS | {"0": ("no", "text")}),
            Column("paused", "paused", texts=STANDS | {"0": ("no", "text")}),
        ],
        sort="host",
        height=6,
    )
    return board(
        "vmheal-fleet",
        "vmheal / Fleet",
        "What is protected, what is not and why, who runs what where, and what is happening.",
        [HOSTS],
        alerts_and_plans("$host|", ".*"),
        panels,
    )


def _figures(panels: Panels) -> None:
    some_bad = ((None, GOOD), (1, BAD))
    panels.stat(
        "VMs that should run",
        "Protected VMs: those that the actuator's configuration names.",
        Query(f"count({EXPECTED})"),
        span=3,
        nothing="none",
    )
    panels.stat(
        "Not running",
        "VMs that should run and that no libvirt shows as running where they should.",
        Query(f"count({EXPECTED} unless on (host, domain) {RUNNING}) or vector(0)"),
        steps=some_bad,
        span=3,
    )
    panels.stat(
        "Not protected",
        "VMs with at least one reason in the table below.",
        Query(f"count(count by (domain) (\n{NOT_PROTECTED}\n)) or vector(0)"),
        steps=some_bad,
        span=3,
    )
    panels.stat(
        "Hosts that do not answer",
        "Exporters that Prometheus cannot scrape.",
        Query('count(max by (host) (up{job="vmheal-state",host=~"$host"}) == 0) or vector(0)'),
        steps=some_bad,
        span=3,
    )
    panels.stat(
        "Plans under way",
        "Restarts, moves and failovers that have begun and not ended.",
        Query('sum(vmheal_domain_plan_open{host=~"$host"}) or vector(0)'),
        steps=((None, GOOD), (1, ACTIVE)),
        span=3,
    )
    panels.stat(
        "Waiting for a person",
        "VMs for which vmheal refused, failed or gave up; `vmheal-actuator status` says what to do.",
        Query('count(vmheal_escalation{host=~"$host"} == 1) or vector(0)'),
        steps=some_bad,
        span=3,
    )
    panels.stat(
        "Mode",
        "enforce: vmheal acts; approve: a person releases each plan; observe: it only says what it would do;"
        " paused: a person has told it to begin nothing.",
        Query(
            f'label_replace({PAUSED} * 2, "mode", "paused", "", "") or vmheal_mode == 1 unless on () {PAUSED}',
            "{{mode}}",
        ),
        steps=((None, NEUTRAL), (2, WARNING)),
        names=True,
        nothing="actuator is down",
        span=3,
    )
    panels.stat(
        "Last look around",
        "Since the actuator's reconcile last came to its end. When it grows, the actuator is down or stuck.",
        Query("time() - max(vmheal_reconcile_timestamp_seconds > 0)"),
        unit="s",
        steps=((None, GOOD), (30, WARNING), (120, BAD)),
        nothing="actuator is down",
        span=3,
    )
