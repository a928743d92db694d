"""Signals are waited for, and none is lost; systemd is told that the loops go on, and not when one hangs."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from actuator.report import Report
from actuator.serve import Actuator
from actuator.signals import Signals
from exporter.notify import notify, reloading, watchdog_seconds
from tests.actuator.conftest import folders, machines  # noqa: F401  fixtures
from tests.actuator.test_program import config, operated, run, serve  # noqa: F401  fixtures
from tests.actuator.world import Clock, Machine, World
from tests.lab.waiting import wait_until

SOON = 30.0


def test_what_arrives_is_waited_for_and_nothing_is_lost():
    before = signal.getsignal(signal.SIGHUP)
    with Signals(signal.SIGHUP, signal.SIGTERM) as signals:
        assert signals.wait(0) == set()
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.wait(SOON) == {signal.SIGHUP, signal.SIGTERM}
        assert signals.wait(0) == set()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGHUP)).start()
        assert signals.wait(SOON) == {signal.SIGHUP}
        for _ in range(10_000):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signals.wait(0) == {signal.SIGHUP}
    assert signal.getsignal(signal.SIGHUP) == before


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    """The other end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(SOON)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


def test_what_systemd_is_told(systemd, monkeypatch):
    notify("READY=1", "STATUS=well")
    assert systemd.recv(999) == b"READY=1\nSTATUS=well"
    reloading()
    assert systemd.recv(999).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_an_abstract_socket(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0vmheal-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@vmheal-test-{os.getpid()}")
        notify("READY=1")
        assert listening.recv(99) == b"READY=1"


@pytest.mark.parametrize(
    ("microseconds", "process", "seconds"),
    [
        ("30000000", None, 15),
        ("30000000", "ours", 15),
        ("30000000", "1", None),
        ("", None, None),
        ("x", None, None),
        ("0", None, None),
    ],
)
def test_how_often_it_is_told(monkeypatch, microseconds, process, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if process is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if process == "ours" else process)
    assert watchdog_seconds() == seconds


def test_the_program_is_ready_alive_reloads_and_stops(systemd, serve, config, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    program = serve(config)
    assert systemd.recv(999).decode() == "READY=1\nSTATUS=mode enforce, 1 protected VMs"
    assert systemd.recv(999) == b"WATCHDOG=1"
    program.process.send_signal(signal.SIGHUP)
    said = [systemd.recv(999)]
    while not said[-1].startswith(b"RELOADING=1\n"):
        said.append(systemd.recv(999))
    assert set(said[:-1]) <= {b"WATCHDOG=1"}
    assert systemd.recv(999).startswith(b"READY=1\n")
    program.process.send_signal(signal.SIGTERM)
    while (last := systemd.recv(999)) != b"STOPPING=1":
        assert last == b"WATCHDOG=1"
    assert program.end(signal.SIGTERM)[0] == 0


def test_systemd_is_told_what_counts_after_a_reload_by_order(systemd, serve, operated):  # noqa: F811
    program = serve(operated)
    assert systemd.recv(999).decode() == "READY=1\nSTATUS=mode enforce, 1 protected VMs"
    program.wait_ready()
    operated.write_text(operated.read_text().replace("mode: enforce", "mode: approve"))
    assert run("reload", "--config", operated) == (0, "reloaded\n", "")
    assert systemd.recv(999) == b"STATUS=mode approve, 1 protected VMs"


def test_a_loop_that_hangs_or_is_gone_is_noticed(folders, machines, monkeypatch):  # noqa: F811
    machine = Machine(World(), folders() / "journal", Clock())
    machines.append(machine)
    stopping = threading.Event()
    actuator = Actuator(machine.ports, machine.config, Report(machine.config), stopping)
    released = threading.Event()
    monkeypatch.setattr(actuator, "_turn_seconds", 0.2)
    monkeypatch.setattr(actuator._keeper, "turn", lambda: released.wait(SOON))
    monkeypatch.setattr(actuator.reconciler, "turn", lambda: None)
    actuator.start()
    try:
        wait_until(lambda: "keeper" in actuator.hung(), "the keeper's hang to be noticed", SOON)
        released.set()
        wait_until(lambda: "keeper" not in actuator.hung(), "it to go on", SOON)
        monkeypatch.setattr(actuator._keeper, "turn", lambda: 1 / 0)
        faults = actuator._report.faults.labels("keeper")
        wait_until(lambda: faults._value.get() > 1, "its next turns", SOON)
        wait_until(lambda: "keeper" not in actuator.hung(), "a fault to end a turn, not the loop", SOON)
    finally:
        released.set()
        actuator.stop()


def test_the_exporter_is_ready_alive_and_stops(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    argv = [sys.executable, "-m", "exporter", "--web.listen-address=127.0.0.1:0"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as program:
        try:
            assert systemd.recv(999) == b"WATCHDOG=1\nREADY=1"
            assert systemd.recv(999) == b"WATCHDOG=1"
            program.send_signal(signal.SIGTERM)
            while (last := systemd.recv(999)) != b"STOPPING=1":
                assert last == b"WATCHDOG=1"
            assert program.wait(SOON) == 0
        finally:
            program.kill()
