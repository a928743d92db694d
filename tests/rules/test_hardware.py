"""rules/hardware.yml on what node_exporter, smartmon.sh and ipmi_exporter publish (tests/samples/hardware)."""

import pytest
from prometheus_client.metrics_core import Metric

from tests.prometheus import RULE_FILES, with_hardware_jobs
from tests.rules.pages import hardware
from tests.rules.replay import RULES, run, told

pytestmark = pytest.mark.daemons  # needs Debian's prometheus package

AT = range(0, 600, 15)
LAST = 585


def sensors() -> list[Metric]:
    """Of a second sensor, with another number and in part the same name: all is well with it."""
    found = []
    for series, labels in (
        ("ipmi_temperature_state", {"id": "9", "name": "Inlet Temp"}),
        ("ipmi_fan_speed_state", {"id": "8", "name": "FAN1"}),
        ("ipmi_sensor_state", {"id": "7", "name": "PSU1 Status", "type": "Power Supply"}),
    ):
        second = Metric(series, "", "gauge")
        second.add_sample(series, labels, 0)
        found.append(second)
    return found


@pytest.fixture
def publish(replay):
    """Let a host be healthy for half the time, and say from then on what another sample says of these series."""
    replay.step = 15

    def publish(host: str, *failing: str, label: str = "failing") -> None:
        replay.up(host, 1, AT)
        replay.publish(host, [*hardware("healthy"), *sensors()], AT, "node")
        if failing:
            replay.publish(host, hardware(label, *failing), AT[20:], "node")

    return publish


def test_healthy_hardware_says_nothing(replay, publish):
    publish("v01")
    replay.expect(LAST)
    replay.ask()


DISK = {"host": "v01", "disk": "/dev/sda"}


@pytest.mark.parametrize(
    ("label", "failing", "waits", "alerts"),
    [
        ("failing", ["node_edac_uncorrectable"], 30, [told("HostHardwareFailing", host="v01")]),
        ("failing", ["node_edac_correctable"], 0, [told("HostMemoryErrors", host="v01")]),
        ("failing", ["node_hwmon"], 30, [told("HostHardwareFailing", host="v01")]),
        ("failing", ["ipmi_temperature"], 30, [told("HostHardwareFailing", host="v01")]),
        ("failing", ["node_md"], 60, [told("HostArrayDegraded", host="v01", device="md0")]),
        ("failing", ["smartmon"], 60, [told("HostDiskFailing", **DISK)]),
        ("failing", ["ipmi_fan"], 60, [told("HostFanFailed", host="v01", name="FAN1")]),
        ("failing", ["ipmi_sensor"], 60, [told("HostPowerSupplyFailed", host="v01", name="PSU1 Status")]),
        ("warm", [""], 120, [told("HostHot", host="v01")]),
    ],
    ids=lambda it: it[0] if isinstance(it, list) and isinstance(it[0], str) else None,
)
def test_hardware(replay, publish, label, failing, waits, alerts):
    publish("v01", *failing, label=label)
    publish("v02")
    publish("v03")
    begins = AT[20]
    replay.expect(begins - 1)
    if waits:
        replay.quiet(begins + waits - 1, alerts[0][0])
    replay.expect(begins + waits + 15, *alerts)
    replay.expect(LAST, *alerts)
    replay.ask()


def test_memory_errors_of_all_modules_count(replay, publish):
    publish("v01")
    errors = Metric("node_edac_correctable_errors", "", "counter")
    for controller in "01":
        errors.add_sample("node_edac_correctable_errors_total", {"controller": controller}, 0)
    replay.publish("v01", [errors], AT[:20], "node")
    errors.samples = [it._replace(value=7.0) for it in errors.samples]
    replay.publish("v01", [errors], AT[20:], "node")
    replay.expect(LAST, told("HostMemoryErrors", host="v01"))
    replay.ask()


def test_hot_hosts_are_not_moved_onto_one_another(replay, publish):
    for host in ("v01", "v02"):
        publish(host, "ipmi_temperature")
    replay.quiet(AT[20] + 29, "SeveralHostsHardwareFailing")
    replay.expect(AT[20] + 30, told("SeveralHostsHardwareFailing"))
    replay.expect(LAST, told("SeveralHostsHardwareFailing"))
    replay.ask()


@pytest.mark.parametrize(("active", "failed"), [(1, 0), (2, 1)], ids=["removed", "replaced by a spare"])
def test_an_array_that_lacks_a_disk_or_has_one_that_failed(replay, publish, active, failed):
    """A disk that mdadm removed is not counted as failed; one whose place a spare has taken is not missing."""
    publish("v01")
    disks = Metric("node_md_disks", "", "gauge")
    for state, count in (("active", active), ("failed", failed), ("spare", 0)):
        disks.add_sample("node_md_disks", {"device": "md0", "state": state}, count)
    replay.publish("v01", [disks], AT[20:], "node")
    replay.expect(LAST, told("HostArrayDegraded", host="v01", device="md0"))
    replay.ask()


@pytest.mark.parametrize(
    ("status", "failing"), [(0, False), (4, False), (8, True), (0xF4, False), (0xFC, True)]
)
def test_smartctl_exporter_says_it_too(replay, publish, status, failing):
    """Its names as in its source (metrics.go): no machine with its package was at hand.

    4: a volume without SMART, of which older ones say smart_status 0; 8: DISK FAILING, as in smartctl(8).
    """
    publish("v01")
    publish("v02")
    for name, value in (
        ("smartctl_device_smartctl_exit_status", status),
        ("smartctl_device_smart_status", float(status == 0)),
    ):
        told_ = Metric(name, "", "gauge")
        told_.add_sample(name, {"device": "/dev/sda"}, value)
        replay.publish("v01", [told_], AT, "smartctl")
    replay.expect(LAST, *([told("HostDiskFailing", **DISK)] if failing else []))
    replay.ask()


def test_the_scrape_jobs_that_are_commented_out_work(tmp_path, httpserver):
    """Each has the hosts' names, and the port of its exporter."""
    hosts = [{"targets": ["10.10.0.1:10810"], "labels": {"host": "v01"}}]
    httpserver.expect_request("/api/v1/targets").respond_with_json(hosts)
    for name in RULE_FILES:
        (tmp_path / name).write_bytes((RULES / name).read_bytes())
    text = (RULES / "prometheus.yml").read_text()
    text = text.replace("http://localhost:10811/api/v1/targets", httpserver.url_for("/api/v1/targets"))
    (tmp_path / "prometheus.yml").write_text(with_hardware_jobs(text))
    run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path)
    for job, port in (("node", 9100), ("ipmi", 9290)):
        found = run(
            *("promtool", "check", "service-discovery", "--timeout=5s", "prometheus.yml", job), cwd=tmp_path
        )
        assert f'"__address__": "10.10.0.1:{port}"' in found
        assert '"host": "v01"' in found
