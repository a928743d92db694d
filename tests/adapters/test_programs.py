"""Programs of a site: what reaches them of an alert, and what comes back, however they behave."""

import json
import threading
import time
from pathlib import Path

import pytest

from actuator.adapters import child, programs
from actuator.adapters.programs import ConfiguredPrograms, Program
from actuator.model import Done, Failed, Notification
from tests.proc import stat_of

PATIENCE = 20.0
LABELS = {"alertname": "DiskWorn", "host": "v01", "action": "program", "program": "smart"}
ALERT = Notification("8d4f7d1e2c3b4a59", 1772366400.5, firing=True, labels=LABELS, source="webhook")


def alert(**labels: str) -> Notification:
    return Notification("f", 1.0, firing=True, labels=labels)


@pytest.fixture
def script(tmp_path):
    """Make the program `smart` of a shell script."""

    def make(text: str, *arguments: str, timeout_seconds: float = PATIENCE) -> ConfiguredPrograms:
        path = tmp_path / "smart"
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return ConfiguredPrograms({"smart": Program((str(path), *arguments), timeout_seconds)})

    return make


def run(them: ConfiguredPrograms, it: Notification = ALERT, timeout_seconds: float = PATIENCE):
    return them.run("smart", it, timeout_seconds=timeout_seconds)


def is_gone(pid: int) -> bool:
    """It has ended, also when its new parent has not noticed."""
    try:
        return stat_of(pid)[0] in {"Z", "X"}
    except FileNotFoundError:
        return True


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} lives"
        threading.Event().wait(0.01)


def test_the_alert_is_json_on_standard_input(script):
    outcome = run(script("cat"))
    assert isinstance(outcome, Done)
    assert json.loads(outcome.detail) == {
        "status": "firing",
        "labels": LABELS,
        "fingerprint": "8d4f7d1e2c3b4a59",
        "startsAt": 1772366400.5,
        "source": "webhook",
    }


def test_its_environment_is_the_labels_and_no_more(script, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_ACTUATOR", "x")
    outcome = run(script("exec env -0"))
    variables = dict(line.split("=", 1) for line in outcome.detail.split("\0") if line)
    assert variables.pop("PATH") == programs.PATH
    assert variables.pop("LC_ALL") == "C.UTF-8"
    variables.pop("PWD", None)  # the shell's own
    assert variables == {f"VMHEAL_LABEL_{name}": value for name, value in LABELS.items()}


@pytest.mark.parametrize(
    ("labels", "variables"),
    [
        ({"a.b": "1"}, {"a_b": "1"}),
        ({"a.b": "1", "a_b": "2"}, {"a_b": "2"}),
        ({"a_b": "2", "a.b": "1"}, {"a_b": "2"}),
        ({"x=y\n": "1"}, {"x_y_": "1"}),
        ({"words": "two words; $(reboot)\n'"}, {"words": "two words; $(reboot)\n'"}),
        ({"nul": "a\0b"}, {}),
        ({"long": "x" * 4097, "longest": "x" * 4096}, {"longest": "x" * 4096}),
        ({"é" * 201: "1"}, {}),
        ({"half": "\ud800"}, {"half": "?"}),
    ],
)
def test_label_names_and_values_that_are_not_plain(script, labels, variables):
    outcome = run(script("exec env -0"), alert(**labels))
    seen = dict(line.split("=", 1) for line in outcome.detail.split("\0") if line)
    assert {
        k.removeprefix("VMHEAL_LABEL_"): v for k, v in seen.items() if k.startswith("VMHEAL_")
    } == variables


def test_more_labels_than_an_environment_can_hold(script):
    many = {f"label{number}": "é" * 2048 for number in range(1000)}
    outcome = run(script("cat >/dev/null; env -0 | tr -cd '\\0' | wc -c"), alert(**many))
    assert isinstance(outcome, Done)
    assert int(outcome.detail) >= programs.LABEL_LIMIT


def test_its_arguments_are_the_configurations_alone(script):
    outcome = run(script('printf "<%s>" "$@"', "-v", "a b", "$(reboot)", "{{ host }}"))
    assert outcome == Done("<-v><a b><$(reboot)><{{ host }}>")


def test_a_program_that_says_no(script):
    outcome = run(script("echo on stdout; echo on stderr >&2; exit 3"))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "smart ended with exit status 3: on stdout\non stderr"


def test_a_program_that_is_ended_by_a_signal(script):
    assert run(script("kill -9 $$")) == Failed("smart was ended by a signal")


def test_a_program_that_does_not_read_its_input(script):
    huge = alert(**{f"label{number}": "x" * 8192 for number in range(100)})
    assert run(script("echo fine; exec 0<&-; exit 0"), huge) == Done("fine")
    assert run(script("echo fine; exit 0"), huge) == Done("fine")


def test_input_that_nobody_reads_is_not_offered_again_and_again(script):
    huge = alert(**{f"label{number}": "x" * 8192 for number in range(100)})
    before = time.thread_time()
    assert run(script("exec 0<&-; sleep 1; echo fine"), huge) == Done("fine")
    assert time.thread_time() - before < 0.5


def test_a_huge_alert_is_read_to_its_end(script):
    huge = alert(**{f"label{number}": "x" * 8192 for number in range(100)})
    outcome = run(script("cat | wc -c"), huge)
    assert int(outcome.detail) > 100 * 8192


@pytest.mark.parametrize(("own", "given"), [(0.5, PATIENCE), (PATIENCE, 0.5)])
def test_a_program_that_hangs_is_killed_with_its_children(script, tmp_path, own, given):
    text = f"trap '' TERM; sleep 1000 & echo $! $$ > {tmp_path}/pids; echo begun; wait; wait"
    begun = time.monotonic()
    outcome = run(script(text, timeout_seconds=own), timeout_seconds=given)
    assert 0.4 < time.monotonic() - begun < 5
    assert outcome == Failed("smart did not end in time and was killed: begun")
    for pid in (tmp_path / "pids").read_text().split():
        wait_gone(int(pid))


def test_what_it_leaves_behind_is_killed_and_not_waited_for(script, tmp_path):
    begun = time.monotonic()
    outcome = run(script(f"sleep 1000 & echo $! > {tmp_path}/pid; echo done"))
    assert outcome == Done("done")
    assert time.monotonic() - begun < 5
    wait_gone(int((tmp_path / "pid").read_text()))


def test_a_program_that_closes_its_output_is_waited_for(script):
    outcome = run(script("exec >&- 2>&-; sleep 0.3; exit 4"))
    assert outcome == Failed("smart ended with exit status 4")


def test_the_end_of_much_output_is_kept(script):
    outcome = run(script("yes 0123456789 | head -c 3000000; echo the end"))
    assert isinstance(outcome, Done)
    assert outcome.detail.endswith("the end")
    assert len(outcome.detail) <= child.OUTPUT_LIMIT_BYTES
    assert len(outcome.detail) > child.OUTPUT_LIMIT_BYTES - 100


def test_endless_output_ends_at_the_deadline(script):
    begun = time.monotonic()
    outcome = run(script("exec yes"), timeout_seconds=0.5)
    assert time.monotonic() - begun < 5
    assert isinstance(outcome, Failed)
    assert len(outcome.reason) < child.OUTPUT_LIMIT_BYTES + 100


def test_output_that_is_no_text(script):
    assert run(script("printf 'a\\377b'")) == Done("a�b")


@pytest.mark.parametrize(
    ("text", "words"), [(None, "No such file or directory"), ("not a script", "Exec format error")]
)
def test_a_program_that_cannot_be_started(tmp_path, text, words):
    path = tmp_path / "smart"
    if text:
        path.write_text(text)
        path.chmod(0o755)
    outcome = run(ConfiguredPrograms({"smart": Program((str(path),))}))
    assert outcome == Failed(f"smart: {path} cannot be started: {words}")


def test_what_is_not_configured_is_not_run(script):
    outcome = script("echo run").run("../smart", ALERT, timeout_seconds=PATIENCE)
    assert outcome == Failed("'../smart' is no program of the configuration; nothing was run")


def test_without_time_nothing_is_run(script, tmp_path):
    outcome = run(script(f"touch {tmp_path}/run"), timeout_seconds=0)
    assert outcome == Failed("smart was not run: no time is left")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argv", [(), ("smart",), ("bin/smart", "x"), ("/bin/true", "a\0b")])
def test_only_a_whole_argv_is_taken(argv):
    with pytest.raises(ValueError):
        Program(argv)


def test_no_descriptor_and_no_process_is_left(script, tmp_path):
    run(script("echo fine"))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run(script(f"echo $$ >> {tmp_path}/pids"))
        run(script(f"echo $$ >> {tmp_path}/pids; sleep 100"), timeout_seconds=0.2)
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10
    pids = (tmp_path / "pids").read_text().split()
    assert len(pids) == 10
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []  # not even a zombie
