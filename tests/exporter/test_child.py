"""Programs that behave badly: the answer comes in time, memory stays bounded, nothing is left behind."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from exporter.child import OUTPUT_LIMIT_BYTES, REAP_SECONDS, ChildError, Output, Program, ProgramNotFoundError

# Far beyond what a loaded machine needs, far below what a hanging child would take.
GRACE_SECONDS = 5.0


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program in PATH with the given shell script."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def make(script: str) -> Program:
        path = tmp_path / "prog"
        path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\n{script}\n")
        path.chmod(0o755)
        return Program("prog")

    return make


def gone(pid: int) -> bool:
    """No process of that id, not even a zombie of ours."""
    return not Path(f"/proc/{pid}").exists()


def run_late(program: Program, seconds: float = 0.3) -> tuple[str, float]:
    """Run what does not end; return the error and how long it took."""
    begin = time.monotonic()
    with pytest.raises(ChildError) as raised:
        program.run([], begin + seconds)
    return str(raised.value), time.monotonic() - begin


def test_output_and_status(program):
    output = program('echo "out $1 $LC_ALL"; echo err >&2; exit 3').run(
        ["a b"], time.monotonic() + GRACE_SECONDS
    )
    assert output == Output(3, "out a b C\n", "err\n")


def test_stdin_is_empty(program):
    assert program("cat").run([], time.monotonic() + GRACE_SECONDS).stdout == ""


def test_bytes_that_are_no_text(program):
    output = program("head -c 100000 /dev/urandom; printf '\\377x'").run([], time.monotonic() + GRACE_SECONDS)
    assert output.stdout.endswith("\ufffdx")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 1000",
        "trap '' TERM INT HUP; while :; do sleep 1000; done",
        "sleep 1000 & wait",
        "exec >&- 2>&-; sleep 1000",
        "echo begun; kill -STOP $$",
        "(sleep 1000) & exit 0",
    ],
    ids=["hangs", "ignores-sigterm", "with-a-child", "closes-its-output", "stopped", "leaves-a-child"],
)
def test_a_program_that_does_not_end(program, script, tmp_path):
    error, seconds = run_late(program(script))
    assert error == "prog  did not end in time"
    assert 0.3 <= seconds < GRACE_SECONDS
    assert gone(int((tmp_path / "pid").read_text()))


def test_an_endless_program(program, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    error, seconds = run_late(program("exec cat /dev/zero"), 60)
    assert error == f"prog  printed more than {OUTPUT_LIMIT_BYTES} bytes"
    assert seconds < 60
    assert gone(int((tmp_path / "pid").read_text()))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 6 * OUTPUT_LIMIT_BYTES


def test_an_endless_trickle_ends_at_the_deadline(program):
    error, seconds = run_late(program("while :; do echo x; done"))
    assert error == "prog  did not end in time"
    assert seconds < GRACE_SECONDS


def test_a_program_that_is_killed(program):
    error, _ = run_late(program("kill -9 $$"), GRACE_SECONDS)
    assert error == "prog  was ended by signal 9"


def test_no_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProgramNotFoundError, match="prog is not in PATH"):
        Program("prog").run([], time.monotonic() + 1)
    (tmp_path / "prog").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "prog").chmod(0o755)
    with pytest.raises(ChildError, match="prog cannot be started: Exec format error"):
        Program("prog").run([], time.monotonic() + 1)


def test_a_child_that_runs_ends_when_it_is_closed(program, tmp_path):
    hanging = program("sleep 1000")
    errors = []
    waiting = threading.Thread(target=lambda: errors.append(run_late(hanging, 60)[0]))
    waiting.start()
    deadline = time.monotonic() + GRACE_SECONDS
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
    while waiting.is_alive():  # its number can be read before Popen has returned
        assert time.monotonic() < deadline
        hanging.close()
        waiting.join(0.01)
    assert [error.split(maxsplit=1)[1] for error in errors] == ["was ended by signal 9"]
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_child_that_sigkill_does_not_end(program, monkeypatch, tmp_path):
    """As in D state: it is left alone, not started a second time, and reaped when it ends."""
    hanging = program("sleep 1000")
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda *_: None)
        _, seconds = run_late(hanging)
    assert seconds >= 0.3 + REAP_SECONDS
    pid = int((tmp_path / "pid").read_text())
    (tmp_path / "pid").unlink()
    error, seconds = run_late(hanging, 60)
    assert error.startswith(f"prog (pid {pid}) was killed and does not die")
    assert seconds < GRACE_SECONDS
    assert not (tmp_path / "pid").exists()
    os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + GRACE_SECONDS
    while not gone(pid):
        assert time.monotonic() < deadline
        hanging.close()
    run_late(hanging)
    assert gone(int((tmp_path / "pid").read_text()))
