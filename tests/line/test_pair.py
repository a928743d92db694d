"""Two Alertmanagers in a cluster, and two Prometheus: what is said twice, late and wrongly is done once."""

import signal
import time

import pytest

from tests.lab.waiting import wait_until
from tests.line.line import SOON, Line

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(900)]

VM = "voms01"


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    with Line(tmp_path_factory.mktemp("pair"), (VM,), paired=True) as line:
        line.wait_members(2)
        yield line


def deliveries(line: Line, since: float, status: str) -> int:
    """How often Alertmanager has delivered the VM's failure so."""
    said = f"VMFailure {status}, from webhook"
    return sum(event["sentence"] == said for event in line.events(since, VM))


def assert_one_plan(line: Line, starts: int, since: float) -> None:
    wait_until(lambda: line.alerts(VM) == {}, "the end of its alerts", SOON)
    line.wait_looked()
    assert (line.starts(VM), line.runs(VM)) == (starts + 1, True)
    kinds = [event["kind"] for event in line.events(since, VM)]
    assert (kinds.count("decided"), kinds.count("finished")) == (1, 1)


def test_a_killed_vm_is_started_once(line: Line) -> None:
    starts = line.starts(VM)
    killed = line.kill(VM)
    wait_until(lambda: line.runs(VM), "it to run", SOON)
    assert_one_plan(line, starts, killed)


def test_one_alertmanager_is_killed_and_comes_back(line: Line) -> None:
    """The other tells it; the one that comes back may tell it once more.

    The VM cannot be started before: what is over before the other has noticed that it is alone, up to
    15 s, nobody tells.
    """
    starts = line.starts(VM)
    line.alertmanagers[0].program.stop(signal.SIGKILL)
    try:
        line.pair.be_primary("v02", VM)
        killed = line.kill(VM)
        wait_until(lambda: deliveries(line, killed, "firing"), "the other to tell it", SOON)
        assert line.starts(VM) == starts
        line.pair.be_primary("v01", VM)
        wait_until(lambda: line.runs(VM), "it to run", SOON)
    finally:
        line.alertmanagers[0].program.start()
    line.wait_members(2)
    assert_one_plan(line, starts, killed)


def test_a_failure_that_is_said_to_be_over_and_is_not(line: Line) -> None:
    """One Prometheus says that it is over while the VM cannot be started yet: it is started all the same."""
    starts = line.starts(VM)
    line.pair.be_primary("v02", VM)
    killed = line.kill(VM)
    wait_until(lambda: "VMHealRefused" in line.alerts(VM), "the refusal", SOON)
    alert = line.alerts(VM)["VMFailure"]

    def said_over() -> bool:
        line.resolve(alert)
        return deliveries(line, killed, "resolved") > 0

    wait_until(said_over, "the false end to be delivered", SOON, 1.0)
    assert line.starts(VM) == starts
    before = time.time()
    line.pair.be_primary("v01", VM)
    wait_until(lambda: line.runs(VM), "it to run", SOON)
    assert any(event["kind"] == "decided" for event in line.events(before, VM))
    assert_one_plan(line, starts, killed)
