"""What other people's dashboards ask of Prometheus: each query, and the labels that the dashboard then shows.

LINBIT's for DRBD: github.com/LINBIT/drbd-reactor, example/grafana-dashboard.json, at 089b15974195.
inovex's for libvirt: github.com/inovex/prometheus-libvirt-exporter, dashboards/openstack-libvirt-dashboard/lib,
at 6dc48250dc9c. Hidden copies of a query without its variables, for Grafana's former alerts, are left out.
"""

_ON = 'instance=~"$instance"'
_VM = 'domain="$dom_id"'

LINBIT = {
    f"drbd_resource_resources{{{_ON}}}": {"instance"},
    f"avg_over_time(scrape_duration_seconds{{{_ON}}}[5m])": {"instance"},
    f"sum(drbd_peerdevice_outofsync_bytes{{{_ON}}}) by(name, instance) > 0": {"name", "instance"},
    f"drbd_peerdevice_outofsync_bytes{{{_ON}}} > 0": {"name", "instance"},
    f'drbd_connection_state{{drbd_connection_state=~"!UpToDate", {_ON}}} == 1': {"name", "instance"},
    "drbd_device_unintentionaldiskless == 1": {"instance"},
    f"count(drbd_device_quorum{{{_ON}}} == 0) by(instance, name)": {"instance", "name"},
    f"count(drbd_device_quorum{{{_ON}}} == 0)": set(),
    **{
        f"rate(drbd_device_{what}_bytes_total{{{_ON}}}[5m])"
        f" and topk(5, avg_over_time(drbd_device_{what}_bytes_total{{{_ON}}}[6h]) > 0)": {"name", "instance"}
        for what in ("written", "read")
    },
    "drbdreactor_up": {"instance"},  # the variable's values
}


def _rate(of: str, by: str = "domain, target_device") -> str:
    return f"sum by ({by})(rate({of}{{{_VM}}}[$__rate_interval]))"


def _disks(of: str) -> str:
    return f'sum by (domain, target_device) ({{__name__=~"libvirt_domain_block_stats_{of}", {_VM}}})'


_NETWORK = "libvirt_domain_interface_stats"
INOVEX = {
    f"libvirt_domain_info_state{{{_VM}}}": set(),
    f"libvirt_domain_vcpu_current{{{_VM}}}": set(),
    f"libvirt_domain_memory_stats_maximum_bytes{{{_VM}}}": set(),
    f"count(libvirt_domain_block_stats_info{{{_VM}}})": set(),
    f"count({_NETWORK}_info{{{_VM}}})": set(),
    f"(rate(libvirt_domain_info_cpu_time_seconds_total{{{_VM}}}[$__rate_interval])"
    f"/libvirt_domain_vcpu_current{{{_VM}}}) * 100": {"domain"},
    f"({_rate('libvirt_domain_vcpu_delay_seconds_total', 'domain')}"
    f"/{_rate('libvirt_domain_vcpu_time_seconds_total', 'domain')}) * 100": {"domain"},
    f"libvirt_domain_memory_stats_used_percent{{{_VM}}}": {"domain"},
    f"sum by (domain)(rate(libvirt_domain_memory_stats_swap_in_bytes{{{_VM}}}[$__rate_interval])"
    f" + rate(libvirt_domain_memory_stats_swap_out_bytes{{{_VM}}}[$__rate_interval]))": {"domain"},
    **{
        f"sum by (domain, target_device)(rate({_NETWORK}_receive_{what}_total{{{_VM}}}[$__rate_interval])"
        f" + rate({_NETWORK}_transmit_{what}_total{{{_VM}}}[$__rate_interval]))": {"target_device"}
        for what in ("bytes", "packets")
    },
    **{
        _rate(f"{_NETWORK}_{way}_total"): {"target_device"}
        for way in (
            "receive_bytes", "transmit_bytes", "receive_packets", "transmit_packets", "receive_errors", "transmit_errors",
            "receive_drops",
        )
    },
    # rate() of each of these, and of their quotients (see RATES_OF_SUMS), as far as they are above 0: the tests'
    # guests write nothing.
    **{
        _disks(of): {"target_device"}
        for of in (
            "(read|write)_requests_total", "read_requests_total", "write_requests_total", "(read|write)_bytes_total",
            "read_bytes_total", "write_bytes_total", "read_time_seconds_total", "write_time_seconds_total",
        )
    },
    "libvirt_domain_openstack_info": {"project_name", "instance_name", "domain"},  # the variables' values
}  # fmt: skip

RATES_OF_SUMS = f"rate({_disks('read_bytes_total')}[$__rate_interval])"
"""So inovex's asks for all of its disks' figures. VictoriaMetrics takes it; it is no PromQL."""

NOT_THERE = {
    'drbd_connection_state{drbd_connection_state=~"!UpToDate"': "no connection has such a state, with LINBIT's either",
    "libvirt_domain_openstack_info": "of OpenStack; the dashboard's `dom_id` is to be set to the domain by hand",
}
"""By its beginning, or what it is about: what gives nothing here, and why."""
