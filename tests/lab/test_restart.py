"""Drills of the verb `restart` on whole hosts: real Xen guests, DRBD, libvirt, Prometheus, Alertmanager.

Each drill ends with what the guests printed: nothing lost, no two guests at once.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.lab.recovery import start_calls, wait_recovered
from tests.lab.site import Site
from tests.lab.waiting import wait_until

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def vms(lab):
    """The first is destroyed by libvirt itself when it crashes; what crashed of the second is kept."""
    found = [
        lab.add_vm("voms01", on=("v01", "v02")),
        lab.add_vm("ce01", on=("v02", "v01"), on_crash="preserve"),
    ]
    lab.start_vms(found)
    yield found
    for vm in found:
        lab.end_vm(vm)


@pytest.fixture(scope="module")
def running_site(lab, vms):
    # Drills crash one VM many times on purpose: the limit of attempts has a drill of its own.
    settings = {"restart": {"max_attempts": 100, "window_seconds": 60, "backoff_seconds": 0}}
    with Site(lab, vms, settings, crashes_again=True) as site:
        site.wait_watching()
        yield site


@pytest.fixture
def site(running_site, vms):
    """The site at rest, before and after: both VMs watched and writing, nothing lost, no alert left."""
    running_site.wait_watching()
    yield running_site
    running_site.wait_watching()
    moment = time.monotonic()
    for vm in vms:
        running_site.lab.witness.wait_for_record(vm, after=moment)
        running_site.lab.witness.assert_nothing_lost(vm)


def starts(site, vm, since):
    """The start calls that the actuator made for a VM."""
    return start_calls(event for event in site.events(since) if event.domain == vm.name)


def crash(site, vm):
    site.lab.host(vm.hosts[0]).crash_guest(vm)


def boots(site, vm):
    return [boot.boot for boot in site.lab.witness.boots(vm)]


@pytest.mark.core
@pytest.mark.parametrize("which", [0, 1], ids=["destroy", "preserve"])
def test_guest_kernel_panics(site, vms, which):
    since = time.time()
    crash(site, vms[which])
    recovery = wait_recovered(site, vms[which], since)
    site.lab.progress(f"seconds: {recovery.parts()}")
    assert recovery.lost == 0
    assert len(starts(site, vms[which], since)) == 1


@pytest.mark.core
def test_vm_is_killed(site, vms):
    since = time.time()
    site.lab.host(vms[0].hosts[0]).kill_guest(vms[0])
    recovery = wait_recovered(site, vms[0], since)
    site.lab.progress(f"seconds: {recovery.parts()}")
    assert recovery.lost == 0
    assert len(starts(site, vms[0], since)) == 1


def test_libvirtd_restarts_while_vms_run(site, vms):
    since, before = time.time(), [boots(site, vm) for vm in vms]
    site.lab.host("v01").restart_libvirtd()
    site.wait_watching()
    # Once more after the exporter's and the actuator's connections were made anew: still nothing to do.
    moment = time.monotonic()
    for vm in vms:
        site.lab.witness.wait_for_record(vm, after=moment + 10)
    assert [boots(site, vm) for vm in vms] == before
    assert [starts(site, vm, since) for vm in vms] == [[], []]


@pytest.mark.core
def test_paused_vm_is_said_and_not_restarted(site, vms):
    since, before = time.time(), boots(site, vms[0])
    host = site.lab.host(vms[0].hosts[0])
    host.pause_guest(vms[0])
    try:
        site.wait_alert("VMPaused")
    finally:
        host.resume_guest(vms[0])
    site.lab.witness.wait_for_record(vms[0], after=time.monotonic())
    assert boots(site, vms[0]) == before
    assert starts(site, vms[0], since) == []


def test_webhook_is_repeated_and_doubled(site, vms):
    since = time.time()
    crash(site, vms[0])
    body = wait_until(lambda: firing_body(site, vms[0]), "VMFailure in Prometheus", 30, 0.05)
    with ThreadPoolExecutor(max_workers=20) as pool:
        answers = list(pool.map(lambda _: site.post(body).status_code, range(40)))
    assert set(answers) == {200}
    recovery = wait_recovered(site, vms[0], since)
    assert recovery.lost == 0
    for _ in range(10):
        assert site.post(body).status_code == 200
    site.wait_watching()
    assert len(starts(site, vms[0], since)) == 1


def firing_body(site, vm):
    """The webhook body that Alertmanager would send for the VM's alert; None while it does not fire."""
    for alert in site.get("alertmanager", "api/v2/alerts"):
        if alert["labels"].get("domain") == vm.name and alert["labels"]["alertname"] == "VMFailure":
            firing = {key: alert[key] for key in ("labels", "annotations", "startsAt", "fingerprint")}
            firing |= {
                "status": "firing",
                "endsAt": "0001-01-01T00:00:00Z",
                "generatorURL": alert["generatorURL"],
            }
            return json.dumps(
                {
                    "version": "4",
                    "groupKey": "{}",
                    "truncatedAlerts": 0,
                    "status": "firing",
                    "receiver": "vmheal",
                    "groupLabels": {},
                    "commonLabels": alert["labels"],
                    "commonAnnotations": {},
                    "externalURL": "",
                    "alerts": [firing],
                }
            ).encode()
    return None


def test_actuator_down_at_the_alert(site, vms):
    since = time.time()
    site.stop("actuator", kill=True)
    crash(site, vms[0])
    wait_until(lambda: firing_body(site, vms[0]), "VMFailure at Alertmanager", 30)
    site.start("actuator")
    site.wait_ready("actuator")
    recovery = wait_recovered(site, vms[0], since)
    assert recovery.lost == 0
    assert len(starts(site, vms[0], since)) == 1


# Each of its crashes takes a minute and more, most of it the new actuator's logins on a busy emulated host.
@pytest.mark.timeout(1800)
def test_actuator_killed_between_any_two_journal_writes(site, vms):
    """SIGKILL after the first journal write of a restart, then after the second, and so on to the last."""
    vm = vms[0]
    told = []
    for write in range(1, 40):
        site.stop("actuator")
        since, before = time.time(), boots(site, vm)
        again = partial(wrote_again, site, vm, before)
        site.start("actuator", wrapper=[sys.executable, "-m", "tests.mortal_actuator", str(write)])
        site.wait_ready("actuator")
        site.wait_watching()
        crash(site, vm)
        wait_until(lambda: site.ended("actuator") or firing_body(site, vm), "a kill or the alert", 180)
        over = partial(is_over, site, vm, again)
        wait_until(lambda over=over: site.ended("actuator") or over(), "a kill or a recovery", 180)
        killed = site.ended("actuator")
        if killed:
            site.start("actuator")
            site.wait_ready("actuator")
        wait_until(
            again, f"{vm.name} to write again", 300
        )  # one start may fail on a busy host, and is repeated
        site.wait_watching()
        site.lab.witness.assert_nothing_lost(vm)
        new = boots(site, vm)[len(before) :]
        told.append(
            f"write {write}: {len(starts(site, vm, since))} start calls, {len(new)} boots, killed: {killed}"
        )
        site.lab.progress(told[-1])
        assert len(new) == 1, told
        if not killed:
            break
    site.stop("actuator")  # it would be killed in the next test
    site.start("actuator")
    site.wait_ready("actuator")
    site.wait_watching()
    assert not killed, told
    assert write > 4, "a restart was expected to write more often than that"


def is_over(site, vm, again):
    """Whether the guest writes again, and Alertmanager has said so too: then all has been written down."""
    return again() and firing_body(site, vm) is None


def wrote_again(site, vm, before):
    """Whether a guest that is not among `before` has written."""
    last = site.lab.witness.boots(vm)[-1]
    return last.boot not in before and last.records > 0
