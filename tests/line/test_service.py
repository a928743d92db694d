"""Up, but dead: a service inside a VM is probed by Debian's blackbox exporter, and its alert restarts the VM."""

import time

import pytest

from tests.lab.waiting import wait_until
from tests.line.line import SOON
from tests.line.service import ServiceLine

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(900)]

VM = "voms01"
ANSWERS, SILENT = (f'probe_success{{job="blackbox",domain="{VM}"}} == {value}' for value in (1, 0))


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    with ServiceLine(tmp_path_factory.mktemp("service"), VM) as line:
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
