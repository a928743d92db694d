"""*VM*: one protected VM: where it runs, on which disks, what was done for it, and what it uses."""

from grafana_foundation_sdk.models import dashboard

from grafana.parts import (
    ACTIVE,
    BAD,
    CURRENT,
    DISK_STATES,
    DOMAIN_STATES,
    GOOD,
    HOST,
    NEUTRAL,
    RESOURCE,
    ROLES,
    RUNS,
    WARNING,
    Column,
    Panels,
    Query,
    alerts_and_plans,
    board,
    numbered,
    variable,
    words,
)

ITS = 'domain="$domain"'
DISKS = 'name=~"$resource"'


def vm() -> dashboard.Dashboard:
    """The dashboard."""
    panels = Panels()
    _figures(panels)
    panels.timeline(
        "State on each host",
        "For libvirt. It should run on one host; on two only during a live migration.",
        [Query(numbered("libvirt_domain_state", ITS, "host", DOMAIN_STATES, "state"), "{{host}}")],
        words(DOMAIN_STATES),
        span=12,
        height=6,
    )
    panels.timeline(
        "What happened",
        "Alerts of this VM, and vmheal's plans for it.",
        [
            Query(
                'max by (alertname, host) (ALERTS{alertstate="firing",domain="$domain"})',
                "{{alertname}} on {{host}}",
            ),
            Query(f"max by (verb, host) (vmheal_domain_plan_open{{{ITS}}}) + 1", "{{verb}} to {{host}}"),
        ],
        {"1": ("fires", BAD), "2": ("under way", ACTIVE)},
        span=12,
        height=6,
    )
    panels.row("Its disks")
    panels.timeline(
        "Where they are Primary",
        "DRBD's role of each of its resources on each host.",
        [Query(numbered("drbd_resource_role", DISKS, "name, host", ROLES), "{{name}} on {{host}}")],
        words(ROLES),
        span=12,
        height=6,
    )
    panels.timeline(
        "Whether they are whole",
        "DRBD's state of the disk below each of its resources on each host.",
        [Query(numbered("drbd_device_state", DISKS, "name, host", DISK_STATES), "{{name}} on {{host}}")],
        words(DISK_STATES),
        span=12,
        height=6,
    )
    panels.table(
        "Disks",
        "Each of its disks on each host: the DRBD resource below it, and whether that host may take it over.",
        [
            Query(
                f"max by (host, resource, target_device) (libvirt_domain_drbd_resource{{{ITS}}})",
                name="defined",
            ),
            Query(
                'max by (host, resource) (vmheal_replica_admitted{resource=~"$resource"})',
                name="current",
            ),
            Query('max by (host, resource) (vmheal_authority{resource=~"$resource"})', name="may"),
            Query(
                "max by (host, resource) (label_replace("
                f'sum by (host, name) (drbd_peerdevice_outofsync_bytes{{{DISKS}}}), "resource", "$1", "name", "(.+)"))',
                name="behind",
            ),
        ],
        [
            HOST,
            RESOURCE,
            Column("target_device", "disk in the VM"),
            CURRENT,
            Column("may", "may be Primary", texts={"1": ("yes", NEUTRAL), "0": ("no", "text")}),
            Column("behind", "out of sync with its peers", unit="bytes"),
        ],
        sort="host",
        height=6,
    )
    panels.row("What it uses")
    _use(panels)
    return board(
        "vmheal-vm",
        "vmheal / VM",
        "One protected VM: where it runs, on which disks, what was done for it, and what it uses.",
        [
            variable("domain", "VM", "label_values(vmheal_domain_expected, domain)"),
            variable(
                "resource",
                "Resource",
                'label_values(libvirt_domain_drbd_resource{domain="$domain"}, resource)',
                several=True,
                hidden=True,
            ),
        ],
        alerts_and_plans(".*", "$domain"),
        panels,
    )


def _figures(panels: Panels) -> None:
    runs = f'max by (host) (libvirt_domain_state{{{ITS},state=~"{RUNS}"}} == 1)'
    panels.stat(
        "Runs on",
        "Every host on which libvirt shows it running.",
        Query(runs, "{{host}}"),
        names=True,
        steps=((None, GOOD),),
        nothing="nowhere",
        link="/d/vmheal-host?var-host=${__field.labels.host}&${__url_time_range}&${datasource:queryparam}",
    )
    panels.stat(
        "Should run on",
        "Where vmheal wants it; a move changes it.",
        Query(f"max by (host) (last_over_time(vmheal_domain_expected{{{ITS}}}[1h]) == 1)", "{{host}}"),
        names=True,
        nothing="not protected",
    )
    panels.stat(
        "Runs",
        "On how many hosts it runs. Two are right only during a live migration.",
        Query(f"count({runs}) or vector(0)"),
        texts={"0": ("nowhere", BAD), "1": ("once", GOOD), "2": ("twice", WARNING)},
        span=3,
    )
    panels.stat(
        "Waits for a person",
        "The guard that refused, or what failed; `vmheal-actuator status` says what to do.",
        Query(f"vmheal_escalation{{{ITS}}} == 1", "{{guard}}"),
        names=True,
        steps=((None, BAD),),
        nothing="no",
        span=5,
    )
    panels.stat(
        "Last plan",
        "What vmheal last did for it, and how that ended.",
        Query(f"vmheal_domain_plan_finished_timestamp_seconds{{{ITS}}}", "{{verb}} to {{host}}: {{outcome}}"),
        names=True,
        nothing="none yet",
        span=4,
    )
    panels.stat(
        "It took",
        "The last plan, from its claim to its end.",
        Query(f"vmheal_domain_plan_duration_seconds{{{ITS}}}"),
        unit="s",
        nothing="-",
        span=2,
    )
    panels.stat(
        "Ended",
        "When the last plan ended.",
        Query(f"vmheal_domain_plan_finished_timestamp_seconds{{{ITS}}} * 1000"),
        unit="dateTimeFromNow",
        nothing="-",
        span=2,
    )


def _use(panels: Panels) -> None:
    def rates(series: str, by: str, legend: str) -> Query:
        return Query(f"sum by ({by}) (rate({series}{{{ITS}}}[$__rate_interval]))", legend)

    panels.graph(
        "CPU",
        "Processors that it uses, and those that it has.",
        [
            rates("libvirt_domain_info_cpu_time_seconds_total", "host", "used on {{host}}"),
            Query(f"max by (host) (libvirt_domain_info_virtual_cpus{{{ITS}}})", "has on {{host}}"),
        ],
        unit="short",
        span=8,
    )
    panels.graph(
        "Memory",
        "What it has, what its process takes on the host, and what the guest says is unused (if its driver tells).",
        [
            Query(
                f"max by (host) (libvirt_domain_memory_stats_actual_balloon_bytes{{{ITS}}})",
                "has on {{host}}",
            ),
            Query(f"max by (host) (libvirt_domain_memory_stats_rss_bytes{{{ITS}}})", "taken on {{host}}"),
            Query(f"max by (host) (libvirt_domain_memory_stats_unused_bytes{{{ITS}}})", "unused on {{host}}"),
        ],
        unit="bytes",
        span=8,
    )
    panels.graph(
        "Network",
        "Received and sent by all its interfaces.",
        [
            rates("libvirt_domain_interface_stats_receive_bytes_total", "host", "received on {{host}}"),
            rates("libvirt_domain_interface_stats_transmit_bytes_total", "host", "sent on {{host}}"),
        ],
        unit="Bps",
        span=8,
    )
    panels.graph(
        "Disks: bytes",
        "Read and written.",
        [
            rates("libvirt_domain_block_stats_read_bytes_total", "target_device", "{{target_device}} read"),
            rates(
                "libvirt_domain_block_stats_write_bytes_total", "target_device", "{{target_device}} written"
            ),
        ],
        unit="Bps",
        span=8,
    )
    panels.graph(
        "Disks: requests",
        "Reads and writes.",
        [
            rates(
                "libvirt_domain_block_stats_read_requests_total", "target_device", "{{target_device}} reads"
            ),
            rates(
                "libvirt_domain_block_stats_write_requests_total", "target_device", "{{target_device}} writes"
            ),
        ],
        unit="iops",
        span=8,
    )
    panels.graph(
        "Events",
        "What libvirt told of it: starts, stops, crashes, I/O errors.",
        [
            Query(
                f"sum by (event, detail) (increase(libvirt_domain_lifecycle_events_total{{{ITS}}}[$__rate_interval]))"
                " > 0",
                "{{event}} {{detail}}",
            )
        ],
        unit="short",
        span=8,
    )
