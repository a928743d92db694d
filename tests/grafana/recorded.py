"""What the play cannot show: pages of the real exporter and actuator, put into Prometheus with their times.

In the first half all is well. In the second the actuator is stuck, its journal fails and it has met what it was not
written for; a resource uses protocol A and asks nobody, and a host with DRBD 9 has no quorum.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actuator.model import DomainRecord
from actuator.ports import JournalError
from exporter.collectors import libvirt_stats
from tests.grafana.asking import Prometheus
from tests.grafana.pictures import FAILING, VARIABLES, Played
from tests.prometheus import prometheus
from tests.rules.pages import HEALTHY84, ActuatorPage, armed
from tests.rules.replay import Replay, fake_drbd, replay_of, run

STEP, HALF = 5, 150
"""Seconds."""
WELL, BAD = range(0, HALF, STEP), range(HALF, 2 * HALF, STEP)


def _asks_nobody(text: str) -> str:
    net = "    net {\n"
    assert net in text
    return text.replace(net, f"{net}        protocol A;\n")


def _drbd(replay: Replay) -> None:
    for host, label in HEALTHY84.items():
        replay.drbd(host, label, WELL, show=armed)
        replay.drbd(host, label, BAD, show=_asks_nobody)
    replay.drbd("v03", "38-v02-isolated-no-quorum/v02", BAD)


def _libvirt(replay: Replay) -> None:
    """What only a guest with a system tells."""
    memory = {"unused": 100.0, "available": 1000.0, "usable": 700.0, "swap_in": 5.0, "swap_out": 3.0}
    page = libvirt_stats._Page()
    page._memory({"domain": FAILING}, memory)
    replay.publish("v01", page.all(), range(0, 2 * HALF, STEP), "vmheal-stats")


def _actuator(replay: Replay, begin: float, folder: Path, patch: pytest.MonkeyPatch) -> None:
    page = ActuatorPage(folder / "journal")
    for second in WELL:
        page.reconciled(begin + second)
        replay.publish(
            "localhost", page.report.registry.collect(), range(second, HALF, STEP), "vmheal-actuator"
        )

    def fails(*_: object, **__: object) -> None:
        raise JournalError("the disk is full")

    page.report.faults.labels("keeper").inc()
    patch.setattr(page.machine._file, "commit", fails)
    with contextlib.suppress(JournalError):
        page.machine.journal.commit(record=DomainRecord("voms01", 9, "v01"))
    patch.setattr(page.machine._file, "records", fails)
    replay.publish("localhost", page.report.registry.collect(), BAD, "vmheal-actuator")
    page.machine.close()


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[Played]:
    """Prometheus, with all that."""
    begin = round(time.time()) - 3600.0
    with pytest.MonkeyPatch.context() as patch:
        replay = replay_of(folder, fake_drbd(folder, patch), patch)
        _drbd(replay)
        _libvirt(replay)
        _actuator(replay, begin, folder, patch)
    (folder / "page").write_text(replay.openmetrics(begin))
    run("promtool", "tsdb", "create-blocks-from", "openmetrics", "page", "prometheus", cwd=folder)
    times = {"a_vm_stands_still": begin + 3, "end": begin + 2 * HALF - 1}
    with prometheus("global: {}\n", folder) as server:
        yield Played(Prometheus(server.url, VARIABLES), times)
