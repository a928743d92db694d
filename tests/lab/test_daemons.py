"""Drills of daemons: libvirtd or the exporter is dead, the host and its VM are not; real Xen guests, real DRBD."""

import pytest

from tests.lab.moves import Moment, acted, boots_of, home, longest_silence, write_for
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]

EXPORTER = ("vmheal-exporter.service",)
LIBVIRTD = ("libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service")
"""The sockets first: each of them starts the service again."""
LONG_SECONDS = 20
"""Well over what HostFailure takes, and the grace time of reconcile."""


def kill(host, units):
    """Its processes end at once, and nothing starts them again."""
    host.run(["systemctl", "mask", "--runtime", "--quiet", *units], timeout_seconds=120)
    host.run(["systemctl", "kill", "--signal=SIGKILL", units[-1]], timeout_seconds=120)
    host.run(["systemctl", "stop", *units], timeout_seconds=120)


def start_again(host, units):
    host.run(["systemctl", "unmask", "--runtime", "--quiet", *units], timeout_seconds=120)
    host.run(["systemctl", "start", *units], timeout_seconds=120)


def firing(site):
    return {alert["labels"]["alertname"] for alert in site.alerts()}


def assert_it_was_left_alone(lab, site, vm, fault, boots):
    assert longest_silence(lab, vm, fault) < 3
    assert acted(site, vm, fault) == []
    assert boots_of(lab, vm) == boots


def test_the_exporter_of_a_host_is_dead(lab, vm, site):
    """Monitoring sees nothing of the host, DRBD on the other does: a person is told, nothing else is done."""
    host, boots, fault = lab.host(home(site, vm)), boots_of(lab, vm), Moment.now()
    kill(host, EXPORTER)
    try:
        site.wait_alert("HostUnreachable")
        write_for(lab, vm, LONG_SECONDS)
        assert "HostFailure" not in firing(site)
    finally:
        start_again(host, EXPORTER)
    site.wait_watching()
    assert_it_was_left_alone(lab, site, vm, fault, boots)


def test_libvirtd_of_a_host_is_dead(lab, vm, site):
    """Nobody can say what its VM does: it is neither started again nor brought up elsewhere."""
    host, boots, fault = lab.host(home(site, vm)), boots_of(lab, vm), Moment.now()
    kill(host, LIBVIRTD)
    try:
        wait_until(lambda: not libvirt_answers(site, host), "the actuator to miss libvirtd", 60, 0.5)
        write_for(lab, vm, LONG_SECONDS)
        assert not firing(site) & {"HostFailure", "VMFailure"}
    finally:
        start_again(host, LIBVIRTD)
    wait_until(lambda: libvirt_answers(site, host), "libvirtd to answer again", 120, 0.5)
    site.wait_watching()
    site.wait_looked()
    assert_it_was_left_alone(lab, site, vm, fault, boots)


def libvirt_answers(site, host):
    """As the actuator found in its last reconcile."""
    return bool(site.query(f'vmheal_source_up{{source="libvirt on {host.name}"}} == 1'))
