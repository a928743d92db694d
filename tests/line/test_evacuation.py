"""A host's hardware begins to fail: from its sensor to its VMs on the other host, and nothing stops half-way."""

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.lab.waiting import wait_until
from tests.line.hardware import FAILING, HardwareLine
from tests.line.line import SOON
from tests.line.moving import active, assert_moved, count, put_to_work, sends

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(600)]

VMS = ("voms01", "ce01")


@pytest.fixture
def line(tmp_path):
    with HardwareLine(tmp_path, VMS) as line:
        for vm in VMS:
            put_to_work(line, vm)
        line.wait_looked()  # where memory is not known, nothing that runs is moved to
        yield line


@contextlib.contextmanager
def no_move_ends(line: HardwareLine) -> Iterator[None]:
    """Whatever is moved from v01 is still under way at the end of the block."""
    with contextlib.ExitStack() as held:
        for vm in VMS:
            domain = held.enter_context(line.domain(vm, "v01"))
            held.callback(domain.migrateSetMaxSpeed, domain.migrateGetMaxSpeed())
            domain.migrateSetMaxSpeed(1)
        yield


def wait_all_move(line: HardwareLine) -> None:
    for vm in VMS:
        with line.domain(vm, "v01") as domain:
            wait_until(lambda it=domain: sends(it), f"the move of {vm}", SOON, 0.05)


def test_the_vms_leave_a_host_whose_hardware_fails(line):
    counted, began = {vm: count(line, vm, "v01") for vm in VMS}, time.time()
    with no_move_ends(line):
        line.report("v01", hot=True)
        alert = wait_until(line.failing, "the alert", SOON)
        assert (alert["labels"]["host"], alert["labels"]["action"]) == ("v01", "evacuate")
        assert {it["name"] for it in alert["receivers"]} == {"vmheal", "operators"}
        wait_all_move(line)
        # In the middle of it a person silences the alert, and then it is over.
        line.silence(alertname=FAILING, host="v01")
        line.report("v01", hot=False)
        wait_until(lambda: line.failing() is None, "the end of the alert", SOON, 0.5)
        line.wait_looked()
        assert all(set(active(line, vm)) == {"v01", "v02"} for vm in VMS)
    for vm in VMS:
        assert_moved(line, vm, began, "v02")
        assert count(line, vm, "v02") >= counted[vm], "it was started anew"
        events = line.events(began, vm)
        assert [event["kind"] for event in events].count("decided") == 1
    # The host may fail yet: it gets nothing until a person says that it is mended.
    (host,) = (it for it in line.status()["hosts"] if it["host"] == "v01")
    assert host["drained"]["by"] == FAILING
    line.command("migrate", VMS[0], "--to", "v01")
    warning = wait_until(lambda: line.alerts(VMS[0]).get("VMHealRefused"), "the refusal", SOON)
    assert warning["labels"]["guard"] == "not_drained"
    assert {it["name"] for it in warning["receivers"]} == {"operators"}
    assert set(active(line, VMS[0])) == {"v02"}
