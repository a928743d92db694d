"""*DRBD resource*: one mirrored disk: its roles, its replicas, its connections, and what runs over them."""

from grafana_foundation_sdk.models import dashboard

from grafana.parts import (
    BAD,
    CONNECTION_STATES,
    DISK_STATES,
    GOOD,
    HOST,
    NEUTRAL,
    QUIET,
    ROLES,
    WARNING,
    Column,
    Panels,
    Query,
    State,
    alerts_and_plans,
    board,
    numbered,
    variable,
    words,
)

ONE = 'name="$name"'
REPLICATION = (
    State("Off", BAD, "off"),
    State("Established", GOOD, "established"),
    State("SyncSource", NEUTRAL, "sends a resync"),
    State("SyncTarget", WARNING, "takes a resync"),
    State("PausedSyncS", WARNING, "resync paused (source)"),
    State("PausedSyncT", WARNING, "resync paused (target)"),
    State("VerifyS", NEUTRAL, "verify"),
    State("VerifyT", NEUTRAL, "verify"),
    State("Ahead", WARNING, "ahead"),
    State("Behind", BAD, "behind"),
)


def drbd() -> dashboard.Dashboard:
    """The dashboard."""
    panels = Panels()
    _figures(panels)
    for title, about, query, texts in (
        (
            "Role",
            "On each host. Two Primaries are right only during a live migration.",
            Query(numbered("drbd_resource_role", ONE, "host", ROLES), "{{host}}"),
            words(ROLES),
        ),
        (
            "Disk",
            "The state of the replica on each host.",
            Query(
                numbered("drbd_device_state", ONE, "host, volume", DISK_STATES), "{{host}} volume {{volume}}"
            ),
            words(DISK_STATES),
        ),
        (
            "Connection",
            "From each host to its peers. StandAlone does not come back by itself: look for a split brain.",
            Query(
                numbered("drbd_connection_state", ONE, "host, conn_name", CONNECTION_STATES),
                "{{host}} to {{conn_name}}",
            ),
            words(CONNECTION_STATES),
        ),
        (
            "Replication",
            "What goes over each connection.",
            Query(
                numbered("vmheal_drbd_peerdevice_replication", ONE, "host, conn_name, volume", REPLICATION),
                "{{host}} to {{conn_name}}",
            ),
            words(REPLICATION),
        ),
    ):
        panels.timeline(title, about, [query], texts, span=12, height=5)
    panels.row("The arbiter")
    panels.timeline(
        "May be Primary",
        "The host that holds the authority.",
        [Query('max by (host) (vmheal_authority{resource="$name"})', "{{host}}")],
        {"1": ("may", GOOD), "0": ("may not", QUIET)},
        span=12,
        height=5,
    )
    panels.timeline(
        "Data are current",
        "Replicas that may be promoted. One that is excluded is admitted again when a resync has ended.",
        [Query('max by (host) (vmheal_replica_admitted{resource="$name"})', "{{host}}")],
        {"1": ("current", GOOD), "0": ("excluded", BAD)},
        span=12,
        height=5,
    )
    panels.row("What goes on")
    _flow(panels)
    panels.row("Configuration in the kernel")
    panels.table(
        "Hosts",
        "What the kernel on each host has: only with `resource-and-stonith` a Primary that has lost its peer stops and"
        " asks; only with protocol C nothing that was acknowledged can be lost.",
        [
            Query(f"max by (host, device, backing_disk) (vmheal_drbd_device_info{{{ONE}}})", name="there"),
            Query(
                f"max by (host, vmheal_drbd_resource_fencing) (vmheal_drbd_resource_fencing{{{ONE}}} == 1)",
                name="fencing",
            ),
            Query(
                "max by (host, vmheal_drbd_connection_protocol)"
                f" (vmheal_drbd_connection_protocol{{{ONE}}} == 1)",
                name="protocol",
            ),
            Query(
                f'max by (host, command) (vmheal_drbd_resource_handler_info{{{ONE},handler="fence-peer"}})',
                name="handler",
            ),
            Query(f"max by (host) (drbd_device_size_bytes{{{ONE}}})", name="size"),
        ],
        [
            HOST,
            Column("device", "device"),
            Column("backing_disk", "disk below"),
            Column("size", "size", unit="bytes"),
            Column(
                "vmheal_drbd_resource_fencing",
                "fencing",
                texts={
                    "resource-and-stonith": ("resource-and-stonith", GOOD),
                    "resource-only": ("resource-only", WARNING),
                    "dont-care": ("dont-care", WARNING),
                },
            ),
            Column(
                "vmheal_drbd_connection_protocol",
                "protocol",
                texts={"C": ("C", GOOD), "B": ("B", BAD), "A": ("A", BAD)},
            ),
            Column("command", "fence-peer handler"),
        ],
        height=6,
        sort="host",
    )
    return board(
        "vmheal-drbd",
        "vmheal / DRBD resource",
        "One mirrored disk: its roles, its replicas, its connections, and what runs over them.",
        [
            variable("name", "Resource", "label_values(drbd_resource_role, name)"),
            variable(
                "domain",
                "VM",
                'label_values(libvirt_domain_drbd_resource{resource="$name"}, domain)',
                several=True,
                hidden=True,
            ),
        ],
        alerts_and_plans(".*", "$domain", "$name"),
        panels,
    )


def _figures(panels: Panels) -> None:
    some_bad = ((None, GOOD), (1, BAD))
    panels.stat(
        "Belongs to",
        "The VM whose disk it is.",
        Query('max by (domain) (libvirt_domain_drbd_resource{resource="$name"})', "{{domain}}"),
        names=True,
        nothing="no VM",
        link="/d/vmheal-vm?var-domain=${__field.labels.domain}&${__url_time_range}&${datasource:queryparam}",
    )
    panels.stat(
        "Primary on",
        "Every host on which it is Primary.",
        Query(f'max by (host) (drbd_resource_role{{{ONE},drbd_resource_role="Primary"}} == 1)', "{{host}}"),
        names=True,
        nothing="nowhere",
        span=3,
    )
    panels.stat(
        "Primaries",
        "Two are right only during a live migration; else two hosts write.",
        Query(f'count(drbd_resource_role{{{ONE},drbd_resource_role="Primary"}} == 1) or vector(0)'),
        texts={"0": ("none", NEUTRAL), "1": ("one", GOOD), "2": ("two", BAD)},
        span=3,
    )
    panels.stat(
        "Replicas that are UpToDate",
        "By the word of the hosts that answer.",
        Query(f'count(drbd_device_state{{{ONE},drbd_device_state="UpToDate"}} == 1) or vector(0)'),
        steps=((None, BAD), (1, WARNING), (2, GOOD)),
    )
    panels.stat(
        "Out of sync",
        "Data that differs, or may differ, between the replicas, on the host that says most.",
        Query(f"max(drbd_peerdevice_outofsync_bytes{{{ONE}}})"),
        unit="bytes",
        steps=((None, GOOD), (1, WARNING)),
        nothing="not known",
    )
    panels.stat(
        "Frozen",
        "Hosts on which its I/O is suspended: a Primary that lost its peer and asks, or one without quorum.",
        Query(f"sum(drbd_resource_suspended{{{ONE}}})"),
        steps=some_bad,
        nothing="not known",
        span=3,
    )
    panels.stat(
        "Split brain",
        "Hosts whose kernel found data on both sides that the other has not.",
        Query(f"count(vmheal_drbd_connection_split_brain{{{ONE}}} == 1) or vector(0)"),
        steps=some_bad,
        span=3,
    )


def _flow(panels: Panels) -> None:
    def rates(series: str, legend: str) -> Query:
        return Query(f"sum by (host) (rate({series}{{{ONE}}}[$__rate_interval]))", legend)

    panels.graph(
        "Out of sync over time",
        "What the replicas differ by; a resync brings it to 0.",
        [
            Query(
                f"max by (host, conn_name) (drbd_peerdevice_outofsync_bytes{{{ONE}}})",
                "{{host}} to {{conn_name}}",
            )
        ],
        unit="bytes",
        span=8,
    )
    panels.graph(
        "Resync",
        "How much of the running resync is done.",
        [Query(f"max by (host) (vmheal_drbd_peerdevice_sync_done_ratio{{{ONE}}})", "{{host}}")],
        unit="percentunit",
        most=1,
        span=8,
    )
    panels.graph(
        "Speed of the resync",
        "As DRBD tells it.",
        [Query(f"max by (host) (vmheal_drbd_peerdevice_sync_bytes_per_second{{{ONE}}})", "{{host}}")],
        unit="Bps",
        span=8,
    )
    panels.graph(
        "Traffic of the disk",
        "Read from and written to the disk below.",
        [
            rates("drbd_device_read_bytes_total", "{{host}} read"),
            rates("drbd_device_written_bytes_total", "{{host}} written"),
        ],
        unit="Bps",
        span=8,
    )
    panels.graph(
        "Traffic of the network",
        "Sent to the peers and received from them.",
        [
            rates("drbd_peerdevice_sent_bytes", "{{host}} sent"),
            rates("drbd_peerdevice_received_bytes", "{{host}} received"),
        ],
        unit="Bps",
        span=8,
    )
    panels.graph(
        "Requests that wait",
        "For the disk below, and for the peer. What stays above 0 hangs.",
        [
            Query(f"sum by (host) (drbd_device_lowerpending{{{ONE}}})", "{{host}}: its disk"),
            Query(f"sum by (host) (vmheal_drbd_peerdevice_pending{{{ONE}}})", "{{host}}: its peer"),
        ],
        unit="short",
        span=8,
    )
