"""Where Prometheus finds the exporters: its HTTP service discovery, so that hosts are listed once.

The format is Prometheus's own (``http_sd_config``): a list of groups, each with targets and their labels.
"""

from actuator.config import Settings

EXPORTER_PORT = 10810


def targets(settings: Settings) -> list[dict[str, object]]:
    """One target for each host, with the label ``host`` that rules and dashboards expect."""
    return [
        {"targets": [host.exporter or _joined(host.address)], "labels": {"host": name}}
        for name, host in settings.hosts.items()
    ]


def _joined(address: str) -> str:
    return f"[{address}]:{EXPORTER_PORT}" if ":" in address else f"{address}:{EXPORTER_PORT}"
