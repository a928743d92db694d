"""*Host*: one hypervisor, seen on its two planes, with what it runs and what room it has."""

from dataclasses import replace

from grafana_foundation_sdk.models import dashboard

from grafana.parts import (
    BAD,
    CONNECTION_STATES,
    CURRENT,
    DISK_STATES,
    DOMAIN_STATES,
    GOOD,
    RESOURCE,
    ROLES,
    RUNS,
    SHOULD_RUN,
    VM,
    WARNING,
    YES_NO,
    Column,
    Panels,
    Query,
    alerts_and_plans,
    board,
    numbered,
    variable,
    words,
)

ON = 'host="$host"'


def host() -> dashboard.Dashboard:
    """The dashboard."""
    panels = Panels()
    _figures(panels)
    panels.timeline(
        "Management and replication",
        "The two planes on which a host is seen: whether its exporter answers, and whether the DRBD of its peers is"
        " connected to it. Dark on both is a failed host; one alone is only a warning.",
        [
            Query(f'max by (host) (up{{job="vmheal-state",{ON}}})', "exporter of {{host}} answers"),
            Query(
                'max by (host) (drbd_connection_state{conn_name="$host",drbd_connection_state="Connected"})',
                "{{host}} is connected to it",
            ),
        ],
        {"1": ("yes", GOOD), "0": ("no", BAD)},
        height=6,
    )
    panels.row("What runs here")
    panels.timeline(
        "VMs",
        "The state of every VM that is defined here, for libvirt.",
        [Query(numbered("libvirt_domain_state", ON, "domain", DOMAIN_STATES, "state"), "{{domain}}")],
        words(DOMAIN_STATES),
        span=12,
    )
    panels.timeline(
        "DRBD roles",
        "Which resources are Primary here.",
        [Query(numbered("drbd_resource_role", ON, "name", ROLES), "{{name}}")],
        words(ROLES),
        span=12,
    )
    panels.table(
        "DRBD here",
        "Each resource: its role and disk here, its connections, and whether the arbiter takes its data for current.",
        [
            Query(numbered("drbd_resource_role", ON, "name", ROLES), name="role"),
            Query(numbered("drbd_device_state", ON, "name", DISK_STATES), name="disk"),
            Query(numbered("drbd_connection_state", ON, "name", CONNECTION_STATES), name="connection"),
            Query(f"sum by (name) (drbd_peerdevice_outofsync_bytes{{{ON}}})", name="behind"),
            Query(
                f'max by (name) (label_replace(vmheal_replica_admitted{{{ON}}}, "name", "$1", "resource", "(.+)"))',
                name="current",
            ),
        ],
        [
            replace(RESOURCE, label="name"),
            Column("role", "role", texts=words(ROLES)),
            Column("disk", "disk", texts=words(DISK_STATES)),
            Column("connection", "connection", texts=words(CONNECTION_STATES)),
            Column("behind", "out of sync", unit="bytes"),
            CURRENT,
        ],
        sort="resource",
        span=12,
        height=6,
    )
    panels.table(
        "VMs here",
        "Each VM that is defined here.",
        [
            Query(numbered("libvirt_domain_state", ON, "domain", DOMAIN_STATES, "state"), name="state"),
            Query(f"max by (domain) (vmheal_domain_expected{{{ON}}})", name="expected"),
            Query(f"max by (domain) (libvirt_domain_info_virtual_cpus{{{ON}}})", name="cpus"),
            Query(f"max by (domain) (libvirt_domain_info_maximum_memory_bytes{{{ON}}})", name="memory"),
        ],
        [
            VM,
            Column("state", "state", texts=words(DOMAIN_STATES) | {"5": ("off", "text")}),
            SHOULD_RUN,
            Column("cpus", "vCPUs"),
            Column("memory", "memory", unit="bytes"),
        ],
        sort="VM",
        span=12,
        height=6,
    )
    panels.row("Room and load")
    _room(panels)
    panels.row("Exporter")
    panels.timeline(
        "Collectors",
        "Whether each collector of the exporter could read what it is for.",
        [
            Query(
                f"min by (collector) (vmheal_exporter_collector_success{{{ON}}})",
                "{{collector}}",
            )
        ],
        YES_NO,
        span=12,
    )
    panels.graph(
        "How long collectors take",
        "drbd and libvirt are read each second, and must be well below it.",
        [
            Query(
                f"max by (collector) (vmheal_exporter_collector_duration_seconds{{{ON}}})",
                "{{collector}}",
            )
        ],
        unit="s",
        span=12,
    )
    return board(
        "vmheal-host",
        "vmheal / Host",
        "One hypervisor: whether it lives, on both planes; what it runs; what room it has.",
        [variable("host", "Host", "label_values(vmheal_domain_expected, host)")],
        alerts_and_plans("$host", ".*"),
        panels,
    )


def _figures(panels: Panels) -> None:
    panels.stat(
        "Exporter",
        "Whether Prometheus can scrape the host: the management plane.",
        Query(f'max(up{{job="vmheal-state",{ON}}})'),
        texts={"1": ("answers", GOOD), "0": ("does not answer", BAD)},
        span=4,
    )
    panels.stat(
        "Connected peers",
        "Hosts whose DRBD is connected to this one: the replication plane.",
        Query(
            "count(count by (host) (drbd_connection_state"
            '{conn_name="$host",drbd_connection_state="Connected"} == 1)) or vector(0)'
        ),
        steps=((None, BAD), (1, GOOD)),
        span=4,
    )
    panels.stat(
        "VMs running",
        "For libvirt, protected or not.",
        Query(f'count(libvirt_domain_state{{{ON},state=~"{RUNS}"}} == 1) or vector(0)'),
        span=3,
    )
    panels.stat(
        "VMs missing",
        "VMs that should run here and do not.",
        Query(
            f"count((last_over_time(vmheal_domain_expected{{{ON}}}[1h]) == 1) unless on (domain)"
            f' (libvirt_domain_state{{{ON},state=~"{RUNS}"}} == 1)) or vector(0)'
        ),
        steps=((None, GOOD), (1, BAD)),
        span=3,
    )
    panels.stat(
        "Free memory",
        "What new VMs can get.",
        Query(f"max(vmheal_host_memory_free_bytes{{{ON}}})"),
        unit="bytes",
        nothing="not known",
        span=3,
    )
    panels.stat(
        "Up since",
        "When the host booted.",
        Query(f"max(vmheal_host_boot_time_seconds{{{ON}}}) * 1000"),
        unit="dateTimeFromNow",
        nothing="not known",
        span=3,
    )
    panels.stat(
        "Orders",
        "What stands about the host: failed by an alert, drained, down by a person's word, paused.",
        Query('max by (order) (vmheal_host_order{host=~"$host|all"}) == 1', "{{order}}"),
        steps=((None, WARNING),),
        names=True,
        nothing="none",
        span=4,
    )


def _room(panels: Panels) -> None:
    panels.graph(
        "Memory",
        "Of the whole host, and what new VMs can still get. On Xen the hypervisor's.",
        [
            Query(f"max(vmheal_host_memory_total_bytes{{{ON}}})", "all"),
            Query(f"max(vmheal_host_memory_free_bytes{{{ON}}})", "free"),
        ],
        unit="bytes",
        span=8,
    )
    panels.graph(
        "Load",
        "Load average of the host's own Linux, and its processors.",
        [
            Query(f"max(vmheal_host_load1{{{ON}}})", "1 minute"),
            Query(f"max(vmheal_host_load15{{{ON}}})", "15 minutes"),
            Query(f"max(vmheal_host_cpus{{{ON}}})", "processors"),
        ],
        unit="short",
        span=8,
    )
    panels.graph(
        "Clock",
        "How far the host's clock is from Prometheus's, at the time of the scrape. Some tenths are the scrape itself.",
        [
            Query(
                f"vmheal_host_time_seconds{{{ON}}} - timestamp(vmheal_host_time_seconds{{{ON}}})",
                "{{host}}",
            )
        ],
        unit="s",
        span=8,
        least=None,
    )
    panels.graph(
        "CPU of the VMs",
        "Processors that each VM uses.",
        [
            Query(
                f"sum by (domain) (rate(libvirt_domain_info_cpu_time_seconds_total{{{ON}}}[$__rate_interval]))",
                "{{domain}}",
            )
        ],
        unit="short",
        stacked=True,
        span=8,
    )
    panels.graph(
        "Writes to DRBD's disks",
        "What each resource writes to its disk here.",
        [
            Query(
                f"sum by (name) (rate(drbd_device_written_bytes_total{{{ON}}}[$__rate_interval]))",
                "{{name}}",
            )
        ],
        unit="Bps",
        stacked=True,
        span=8,
    )
    panels.graph(
        "Free in volume groups",
        "Room for new logical volumes.",
        [Query(f"max by (vg) (vmheal_lvm_volume_group_free_bytes{{{ON}}})", "{{vg}}")],
        unit="bytes",
        span=8,
    )
