"""From the killed QEMU process to the running domain, and what must leave a VM alone."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import libvirt
import pytest

from tests.lab.waiting import wait_until
from tests.line.line import SOON, Line
from tests.proc import stat_of

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(900)]

ACTS = {"decided", "intent", "outcome", "finished", "would"}
FAILING = "voms01"
BYSTANDER = "ce01"
STATE_SEEN = (
    f'timestamp(libvirt_domain_state{{host="v01",domain="{BYSTANDER}",state=~"running|blocked"}} == 1)'
)


@pytest.fixture(scope="module")
def the_line(tmp_path_factory):
    with Line(tmp_path_factory.mktemp("line"), (FAILING, BYSTANDER)) as line:
        yield line


@pytest.fixture
def line(the_line):
    """The line, on which nothing may happen to the other VM, and DRBD is only read."""
    since, pid = time.time(), the_line.pid(BYSTANDER)
    yield the_line
    assert the_line.pid(BYSTANDER) == pid
    assert the_line.events(since, BYSTANDER) == []
    reads = {
        "drbdsetup events2 --now --statistics",
        "drbdadm dump-xml",
        "drbdsetup show",
        "drbdsetup show --json",
        *(f"drbdadm get-gi {name}" for name in (FAILING, BYSTANDER)),
    }
    assert the_line.drbd_calls() <= reads


def wait_running_again(line: Line, starts: int) -> float:
    """Wait until it runs with one start more; the wall clock then."""
    wait_until(lambda: line.starts(FAILING) > starts and line.runs(FAILING), "it to run", SOON, 0.02)
    return time.time()


def assert_one_start(line: Line, starts: int, since: float) -> list[dict]:
    """Wait until its alert is over and all have looked again; then it was one restart, and its story is told."""
    pid = line.pid(FAILING)
    wait_until(lambda: "VMFailure" not in line.alerts(FAILING), "the end of the alert", SOON)
    line.wait_looked()
    assert line.starts(FAILING) == starts + 1
    assert (line.pid(FAILING), line.runs(FAILING)) == (pid, True)
    events = line.events(since, FAILING)
    story = [event["kind"] for event in events if event["kind"] in ACTS]
    assert story == ["decided", "intent", "outcome", "intent", "outcome", "finished"]
    started, confirmed = (event for event in events if event["kind"] == "outcome")
    assert (started["detail"]["step"], started["detail"]["outcome"]) == ("start", "done")
    assert (confirmed["detail"]["step"], confirmed["detail"]["outcome"]) == ("confirm", "done")
    (finished,) = (event for event in events if event["kind"] == "finished")
    assert finished["sentence"] == f"plan succeeded: {FAILING} runs again"
    assert {event["plan"] for event in events if event["kind"] in ACTS} == {finished["plan"]}
    (decided,) = (event for event in events if event["kind"] == "decided")
    assert decided["sentence"].startswith(f"{FAILING} is shutoff on v01")
    assert any(event["kind"] == "received" for event in events)
    return events


def start_call(events: list[dict]) -> float:
    return next(event["detail"]["called_at"] for event in events if event["kind"] == "outcome")


def received(events: list[dict]) -> float:
    return next(event["at"] for event in events if event["kind"] == "received")


def assert_untouched(line: Line, pid: int, since: float) -> None:
    assert line.pid(FAILING) == pid
    assert line.events(since, FAILING) == []


@pytest.mark.parametrize("time_", [1, 2, 3])
def test_a_killed_vm_runs_again(line: Line, time_: int, capsys: pytest.CaptureFixture[str]) -> None:
    starts = line.starts(FAILING)
    killed = line.kill(FAILING)
    running = wait_running_again(line, starts)
    events = assert_one_start(line, starts, killed)
    with capsys.disabled():
        print(
            f"\nkill to webhook {received(events) - killed:.2f} s, to the start call"
            f" {start_call(events) - killed:.2f} s, to running {running - killed:.2f} s"
        )


def test_a_paused_vm_is_said_and_left_alone(line: Line) -> None:
    pid = line.pid(FAILING)
    since = time.time()
    with line.libvirt() as handle:
        handle.lookupByName(FAILING).suspend()
    wait_until(lambda: "VMPaused" in line.alerts(FAILING), "the alert", SOON)
    line.wait_looked()
    assert line.state(FAILING) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER)
    assert set(line.alerts(FAILING)) == {"VMPaused"}
    assert line.events(since, FAILING) == []
    with line.libvirt() as handle:
        handle.lookupByName(FAILING).resume()
    wait_until(lambda: line.alerts(FAILING) == {}, "the end of the alert", SOON)
    line.wait_looked()
    assert_untouched(line, pid, since)


def test_a_vm_whose_qemu_hangs_is_left_alone_and_hides_no_other(line: Line) -> None:
    pid, starts = line.pid(FAILING), line.starts(FAILING)
    since = time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        seen_since = f"> {time.time()}"
        for asked in (
            f'timestamp(up{{job="vmheal-stats",host="v01"}}) {seen_since}',
            STATE_SEEN + seen_since,
        ):
            wait_until(lambda asked=asked: line.query(asked), f"Prometheus to find {asked}", SOON)
        line.wait_looked()
        assert line.query(STATE_SEEN + f"> {time.time() - 10}") != []
        assert line.alerts(FAILING) == {}
        assert_untouched(line, pid, since)
    finally:
        os.kill(pid, signal.SIGCONT)
    line.wait_looked()
    assert line.starts(FAILING) == starts
    assert_untouched(line, pid, since)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_actuator_that_was_down_acts_when_it_is_back(
    line: Line, how: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = line.starts(FAILING)
    assert line.actuator.stop(how) == (0 if how is signal.SIGTERM else -how)
    try:
        killed = line.kill(FAILING)
        wait_until(lambda: "VMFailure" in line.alerts(FAILING), "the alert", SOON)
        assert line.starts(FAILING) == starts
    finally:
        back = time.time()
        line.actuator.start()
    wait_running_again(line, starts)
    line.wait_ready()
    events = assert_one_start(line, starts, killed)
    with capsys.disabled():
        print(f"\nstart of the actuator to the start call {start_call(events) - back:.2f} s")


def test_an_actuator_killed_after_any_journal_write_of_a_restart(line: Line) -> None:
    """After the first write, then after the second, and so on to the last: each time it is one start."""
    for write in range(1, 20):
        starts = line.starts(FAILING)
        line.actuator.stop()
        try:
            with line.mortal_actuator(write) as mortal:
                line.wait_ready(mortal)
                line.wait_watched(FAILING)
                killed = line.kill(FAILING)
                wait_until(lambda it=mortal: it.ended or line.alerts(FAILING), "the alert, or a kill", SOON)
                wait_until(lambda it=mortal: it.ended or not line.alerts(FAILING), "its end, or a kill", SOON)
                # The alert may end before the start call is back.
                wait_until(
                    lambda it=mortal, since=killed: it.ended or line.has_finished(since, FAILING),
                    "the plan's end, or a kill",
                    SOON,
                )
                died = mortal.ended
        finally:
            line.actuator.start()
        line.wait_ready()
        wait_running_again(line, starts)
        wait_until(lambda: line.alerts(FAILING) == {}, "the end of the alert", SOON)
        line.wait_looked()
        assert line.starts(FAILING) == starts + 1, f"killed after write {write}"
        (finished,) = (it for it in line.events(killed, FAILING) if it["kind"] == "finished")
        assert finished["detail"]["outcome"] == "succeeded"
        if not died:
            break
    assert not died
    assert write > 4, "a restart was expected to write more often than that"


def test_a_webhook_that_comes_again_and_again_is_one_restart(line: Line) -> None:
    starts = line.starts(FAILING)
    killed = line.kill(FAILING)
    wait_until(lambda: "VMFailure" in line.alerts(FAILING), "the alert", SOON, 0.02)
    alert = line.alerts(FAILING)["VMFailure"]
    with ThreadPoolExecutor(5) as several:
        assert set(several.map(line.deliver, [alert] * 10)) == {200}
    wait_running_again(line, starts)
    assert [line.deliver(alert) for _ in range(5)] == [200] * 5
    wait_until(lambda: line.alerts(FAILING) == {}, "the end of the alert", SOON)
    assert line.deliver(alert) == 200  # late, from another Alertmanager
    events = assert_one_start(line, starts, killed)
    assert sum(event["kind"] == "received" for event in events) >= 16


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_libvirtd_is_away_and_the_vms_are_left_alone(line: Line, how: signal.Signals) -> None:
    pid = line.pid(FAILING)
    since = time.time()
    with libvirtd_away(line, how):
        line.wait_looked()
        assert line.alerts(FAILING) == {}
        assert_untouched(line, pid, since)
    line.wait_looked()
    assert_untouched(line, pid, since)

    starts = line.starts(FAILING)
    killed = line.kill(FAILING)
    wait_running_again(line, starts)
    assert_one_start(line, starts, killed)


def test_a_vm_that_dies_while_libvirtd_is_away_is_started_when_libvirtd_is_back(line: Line) -> None:
    starts = line.starts(FAILING)
    with libvirtd_away(line):
        killed = line.kill(FAILING)
        line.wait_looked()
        assert line.alerts(FAILING) == {}
        assert line.events(killed, FAILING) == []
    wait_running_again(line, starts)
    assert_one_start(line, starts, killed)


@contextlib.contextmanager
def libvirtd_away(line: Line, how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """End v01's libvirtd, and start it again; Prometheus has seen both."""
    libvirtd = line.libvirtds["v01"]
    libvirtd.stop(how)
    try:
        wait_until(lambda: line.query('libvirt_up{host="v01"} == 0'), "Prometheus to see it down", SOON)
        yield
    finally:
        libvirtd.start()
    wait_until(lambda: line.query('libvirt_up{host="v01"} == 1'), "Prometheus to see it up", SOON)


def test_a_vm_whose_disk_is_in_use_elsewhere_is_refused_and_people_are_told(line: Line) -> None:
    starts = line.starts(FAILING)
    line.pair.be_primary("v02", FAILING)
    killed = line.kill(FAILING)
    wait_until(lambda: "VMHealRefused" in line.alerts(FAILING), "the warning", SOON)
    line.wait_looked()
    assert line.starts(FAILING) == starts
    assert {"VMFailure", "VMHealRefused"} == set(line.alerts(FAILING))
    warning = line.alerts(FAILING)["VMHealRefused"]
    (sentence,) = {event["sentence"] for event in line.events(killed, FAILING) if event["kind"] == "refused"}
    assert sentence in warning["annotations"].values()
    assert "Primary" in sentence
    assert "v02" in sentence
    assert {"operators"} == {receiver["name"] for receiver in warning["receivers"]}

    line.pair.be_primary("v01", FAILING)
    wait_running_again(line, starts)
    wait_until(lambda: line.alerts(FAILING) == {}, "the end of both alerts", SOON)
    assert_one_start(line, starts, killed)


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
        process = int(stat_of(process)[1])
    return found
