"""From the killed QEMU process to the running domain, and what must leave a VM alone."""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt
import pytest

from tests.lab.waiting import wait_until
from tests.line.line import HOSTS, SOON, Line

pytestmark = pytest.mark.daemons

ACTS = {"decided", "intent", "outcome", "finished", "would"}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    domains = ("killed1", "killed2", "killed3", "paused", "alone1", "alone2", "repeated", "orphaned")
    with Line(tmp_path_factory.mktemp("line"), domains) as line:
        yield line


@pytest.fixture(autouse=True)
def drbd_is_only_read(request):
    yield
    if "line" in request.fixturenames:
        calls = [call for host in HOSTS for call in request.getfixturevalue("line").drbd[host].calls()]
        assert set(calls) <= {"drbdsetup events2 --now --statistics", "drbdadm dump-xml"}


def wait_running_again(line: Line, domain: str, starts: int) -> float:
    """Wait until it runs with one start more; the wall clock then."""
    wait_until(lambda: line.starts(domain) > starts and line.runs(domain), f"{domain} to run", SOON, 0.02)
    return time.time()


def assert_one_start(line: Line, domain: str, starts: int, since: float) -> list[dict]:
    """Wait until its alert is over and all have looked again; then it was one restart, and its story is told."""
    pid = line.pid(domain)
    wait_until(lambda: "VMFailure" not in line.alerts(domain), "the end of the alert", SOON)
    line.wait_looked()
    assert line.starts(domain) == starts + 1
    assert (line.pid(domain), line.runs(domain)) == (pid, True)
    events = line.events(domain, since)
    story = [event["kind"] for event in events if event["kind"] in ACTS]
    assert story == ["decided", "intent", "outcome", "intent", "outcome", "finished"]
    started, confirmed = (event for event in events if event["kind"] == "outcome")
    assert (started["detail"]["step"], started["detail"]["outcome"]) == ("start", "done")
    assert (confirmed["detail"]["step"], confirmed["detail"]["outcome"]) == ("confirm", "done")
    (finished,) = (event for event in events if event["kind"] == "finished")
    assert finished["sentence"] == f"plan succeeded: {domain} runs again"
    assert {event["plan"] for event in events if event["kind"] in ACTS} == {finished["plan"]}
    (decided,) = (event for event in events if event["kind"] == "decided")
    assert decided["sentence"].startswith(f"{domain} is shutoff on v01")
    assert any(event["kind"] == "received" for event in events)
    return events


def start_call(events: list[dict]) -> float:
    return next(event["detail"]["called_at"] for event in events if event["kind"] == "outcome")


def received(events: list[dict]) -> float:
    return next(event["at"] for event in events if event["kind"] == "received")


def assert_untouched(line: Line, pids: dict[str, int], since: float) -> None:
    for domain, pid in pids.items():
        assert line.pid(domain) == pid
        assert [event for event in line.events(domain, since) if event["kind"] != "received"] == []


@pytest.mark.parametrize("domain", ["killed1", "killed2", "killed3"])
def test_a_killed_vm_runs_again(line: Line, domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    starts = line.starts(domain)
    killed = line.kill(domain)
    running = wait_running_again(line, domain, starts)
    events = assert_one_start(line, domain, starts, killed)
    with capsys.disabled():
        print(
            f"\n{domain}: kill to webhook {received(events) - killed:.2f} s, to the start call"
            f" {start_call(events) - killed:.2f} s, to running {running - killed:.2f} s"
        )


def test_a_paused_vm_is_said_and_left_alone(line: Line) -> None:
    pids = {"paused": line.pid("paused")}
    since = time.time()
    with line.libvirt() as handle:
        handle.lookupByName("paused").suspend()
    wait_until(lambda: "VMPaused" in line.alerts("paused"), "the alert", SOON)
    line.wait_looked()
    assert line.state("paused") == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
    assert set(line.alerts("paused")) == {"VMPaused"}
    assert line.events("paused", since) == []
    with line.libvirt() as handle:
        handle.lookupByName("paused").resume()
    wait_until(lambda: line.alerts("paused") == {}, "the end of the alert", SOON)
    line.wait_looked()
    assert_untouched(line, pids, since)


@pytest.mark.parametrize(("domain", "how"), [("alone1", signal.SIGTERM), ("alone2", signal.SIGKILL)])
def test_an_actuator_that_was_down_acts_when_it_is_back(
    line: Line, domain: str, how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = line.starts(domain)
    assert line.actuator.stop(how) == (0 if how is signal.SIGTERM else -how)
    killed = line.kill(domain)
    wait_until(lambda: "VMFailure" in line.alerts(domain), "the alert", SOON)
    assert line.starts(domain) == starts
    back = time.time()
    line.actuator.start()
    wait_running_again(line, domain, starts)
    line.wait_ready()
    events = assert_one_start(line, domain, starts, killed)
    with capsys.disabled():
        print(f"\n{domain}: start of the actuator to the start call {start_call(events) - back:.2f} s")


def test_a_webhook_that_comes_again_and_again_is_one_restart(line: Line) -> None:
    starts = line.starts("repeated")
    killed = line.kill("repeated")
    wait_until(lambda: "VMFailure" in line.alerts("repeated"), "the alert", SOON, 0.02)
    alert = line.alerts("repeated")["VMFailure"]
    with ThreadPoolExecutor(5) as several:
        assert set(several.map(line.deliver, [alert] * 10)) == {200}
    wait_running_again(line, "repeated", starts)
    assert [line.deliver(alert) for _ in range(5)] == [200] * 5
    wait_until(lambda: line.alerts("repeated") == {}, "the end of the alert", SOON)
    assert line.deliver(alert) == 200  # late, from another Alertmanager
    events = assert_one_start(line, "repeated", starts, killed)
    assert sum(event["kind"] == "received" for event in events) >= 16


def test_libvirtd_is_restarted_and_the_vms_are_left_alone(line: Line) -> None:
    pids = {domain: line.pid(domain) for domain in line.domains}
    since = time.time()
    libvirtd = line.libvirtds["v01"]
    libvirtd.stop()
    wait_until(lambda: line.query('libvirt_up{host="v01"} == 0'), "Prometheus to see it down", SOON)
    line.wait_looked()
    libvirtd.start()
    line.show_devices("v01")
    wait_until(lambda: line.query('libvirt_up{host="v01"} == 1'), "Prometheus to see it up", SOON)
    line.wait_watched(*line.domains)
    line.wait_looked()
    assert_untouched(line, pids, since)

    starts = line.starts("orphaned")
    killed = line.kill("orphaned")
    wait_running_again(line, "orphaned", starts)
    assert_one_start(line, "orphaned", starts, killed)


def test_sigterm_ends_everything_and_nothing_is_left(tmp_path: Path) -> None:
    with Line(tmp_path, ("voms01",)) as line:
        for program in (
            line.actuator,
            *line.exporters.values(),
            line.prometheus.program,
            line.alertmanager.program,
        ):
            assert program.stop(signal.SIGTERM) == 0, program.output[-3000:]
        for libvirtd in line.libvirtds.values():
            libvirtd.stop(signal.SIGTERM)
        assert Path(f"/proc/{line.pid('voms01')}").exists()
        traces = (str(tmp_path), line.netns.name, *(str(it.base) for it in line.libvirtds.values()))
    left = [command for command in commands() if any(trace in command for trace in traces)]
    assert left == []
    assert not Path(f"/run/netns/{line.netns.name}").exists()
    assert not Path(f"/etc/netns/{line.netns.name}").exists()
    assert not any(libvirtd.base.exists() for libvirtd in line.libvirtds.values())


def commands() -> list[str]:
    """The command lines of all processes but this one and its parents."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) not in ancestors():
            with contextlib.suppress(OSError):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return found


def ancestors() -> set[int]:
    found, process = set(), os.getpid()
    while process > 1:
        found.add(process)
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return found
