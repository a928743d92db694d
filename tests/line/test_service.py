"""Up, but dead: a service inside a VM is probed by Debian's blackbox exporter, and its alert restarts the VM."""

import time

import libvirt
import pytest

from tests.boot_sectors import boot_sector
from tests.lab.waiting import wait_until
from tests.line.line import SOON
from tests.line.service import ServiceLine

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(900)]

VM = "voms01"
DEAD = boot_sector(b"\xeb\xfe")  # jmp $
ANSWERS, SILENT = (f'probe_success{{job="blackbox",domain="{VM}"}} == {value}' for value in (1, 0))


@pytest.fixture
def line(tmp_path):
    """A new one for each test: where the VM is after it, and whether it answers, is the test's own affair."""
    with ServiceLine(tmp_path, VM) as line:
        wait_until(lambda: line.query(ANSWERS), "the service to answer", SOON)
        yield line


def test_a_vm_whose_service_is_dead_is_started_again(line: ServiceLine) -> None:
    starts, pid = line.starts(VM), line.pid(VM)
    died = time.time()
    line.die()
    wait_until(lambda: line.query(SILENT), "the probe to fail", SOON)
    assert (line.pid(VM), line.runs(VM)) == (pid, True), "it runs, for libvirt all is well"
    wait_until(lambda: line.starts(VM) > starts and line.runs(VM), "it to be started again", SOON)
    wait_until(lambda: line.query(ANSWERS), "the service to answer", SOON)
    wait_until(lambda: line.alerts(VM) == {}, "the end of the alert", SOON)
    line.wait_looked()
    assert line.starts(VM) == starts + 1
    events = line.events(died, VM)
    (decided,) = (event["sentence"] for event in events if event["kind"] == "decided")
    assert "ServiceDead" in decided
    assert any(event["sentence"] == "ServiceDead firing, from webhook" for event in events)
    (finished,) = (event["detail"]["outcome"] for event in events if event["kind"] == "finished")
    assert finished == "succeeded"


def test_where_starting_it_again_does_not_help_it_is_moved(line: ServiceLine) -> None:
    """Its disk has nothing on it that answers, on whatever host."""
    line.disks[VM].write_bytes(DEAD)
    died = time.time()
    line.die()

    def runs_there() -> bool:
        with line.domain(VM, "v02") as there:
            return there.state()[0] == libvirt.VIR_DOMAIN_RUNNING

    wait_until(runs_there, "it to run on the other host", 2 * SOON, 0.5)
    wait_until(lambda: [it["host"] for it in line.status()["domains"]] == ["v02"], "the plan's end", SOON)
    assert line.pair.primaries(VM) == {"v02"}
    assert not line.runs(VM)
    told = line.events(died, VM)
    decided = [event["sentence"] for event in told if event["kind"] == "decided"]
    *again, moved = decided
    assert again, "it is started again first"
    assert all("ServiceDead" in sentence for sentence in again)
    assert "moves to v02" in moved
    finished = [event["detail"]["outcome"] for event in told if event["kind"] == "finished"]
    assert finished == ["succeeded"] * len(decided)
