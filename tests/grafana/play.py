"""One play for all dashboards: a site lives through a crash, a lost host, and more, and Prometheus keeps it.

On one machine, as in tests/line: real libvirtd with QEMU guests, exporters, sshd, Prometheus, Alertmanager and
actuator; DRBD is replayed. What only DRBD does (a resync, a split brain, frozen I/O) is put before the exporter
as captures of it, while vmheal is told to pause.

    python -m tests.grafana.play FOLDER      keeps what Prometheus recorded, for `python -m tests.grafana.pictures`
"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import yaml

from actuator.model import Proof
from tests.lab.waiting import LabTimeoutError, print_progress, wait_until
from tests.libvirtd import Libvirtd
from tests.line.line import HOSTS, RULES, SOON
from tests.line.loss import LosableLine
from tests.line.replayed_drbd import PRIMARY, SECONDARY, ReplayedDrbd

FAILING, OTHER = VMS = ("voms01", "ce01")
NIC = "<interface type='ethernet'><model type='virtio'/></interface>"
SYNC_SOURCE, SYNC_TARGET, SPLIT, SPLIT_PEER = "sync-source", "sync-target", "split", "split-peer"
FROZEN, DISKLESS, DISKLESS_PEER, TWO = "frozen", "diskless", "diskless-peer", "two"
BOTH_SECONDARY, INCONSISTENT = "both-secondary", "inconsistent"
CAPTURES = {
    SYNC_SOURCE: "08-syncing-mid.v01",
    SYNC_TARGET: "08-syncing-mid.v02",
    SPLIT: "32-splitbrain-healed.v01",
    SPLIT_PEER: "32-splitbrain-healed.v02",
    DISKLESS: "41-diskless-secondary.v01",
    DISKLESS_PEER: "41-diskless-secondary.v02",
    TWO: "37-two-primaries.v01",
    BOTH_SECONDARY: "15-connected-both-secondary.v01",
    INCONSISTENT: "04-connected-inconsistent-both.v01",
}
SPLIT_BRAIN = b"3,1,1000000,-;block drbd0: Split-Brain detected but unresolved, dropping connection!\n"
HANDLERS = '<section name="handlers"><option name="fence-peer" value="/usr/lib/vmheal/fence-peer"/></section>'
VOLUME_GROUPS = Path(__file__).parents[1] / "samples" / "lvm" / "two-volumes.json"
TIMES = "times.json"
SEEN_SECONDS = 3.0
"""For a state to be scraped a few times."""


class Play(LosableLine):
    """The site. Its statistics are scraped often, for it does not last long."""

    def play(self) -> Mapping[str, float]:
        """Live through all of it; when each scene began, and what is marked in them (wall clock)."""
        self.times: dict[str, float] = {}
        for scene in (
            self.wait_at_rest,
            self.a_vm_stands_still,
            self.a_vm_crashes,
            self.a_host_is_lost,
            self.it_comes_back,
            self.people_look_at_a_host,
            self.drbd_is_in_trouble,
            self.a_restart_fails,
            self.a_restart_is_refused,
            self.all_is_well_again,
        ):
            self.mark(scene.__name__)
            print_progress(scene.__name__)
            scene()
        self.mark("end")
        return self.times

    def mark(self, name: str) -> None:
        """What is to be seen now has this name."""
        self.times[name] = time.time()

    # ---- scenes ------------------------------------------------------------------------------------------

    def a_vm_stands_still(self) -> None:
        with self.domain(FAILING, self.home) as domain:
            domain.suspend()
            wait_until(lambda: "VMPaused" in self.alerts(FAILING), "the alert", SOON)
            self.see()
            domain.resume()

    def a_vm_crashes(self) -> None:
        starts = self.starts(FAILING)
        self.kill(FAILING)
        wait_until(lambda: self.starts(FAILING) > starts and self.runs(FAILING), "it to run again", SOON)
        wait_until(self._is_quiet, "the end of its alert", SOON)

    def a_host_is_lost(self) -> None:
        self.lose()
        wait_until(lambda: len(self.query("up == 0")) == 2, "both jobs to miss it", SOON)
        self.see()
        self.mark("lost")

    def it_comes_back(self) -> None:
        self.bring_back()
        self.wait_at_rest()

    def people_look_at_a_host(self) -> None:
        """The one without VMs is drained and paused; then its libvirtd is stopped, its DRBD unloaded."""
        self.command("drain", self.other)
        self.command("pause", self.other)
        libvirtd = self.libvirtds[self.other]
        libvirtd.stop()
        drbd = self.drbd[self.other]
        said = (drbd.base / "proc").read_text()
        drbd.unload()
        self.wait_looked()
        drbd.proc(said)
        libvirtd.start()
        self.command("resume", self.other)
        self.command("undrain", self.other)
        self.wait_at_rest()

    def drbd_is_in_trouble(self) -> None:
        """One state after another, of which captures exist; vmheal is paused meanwhile."""
        self.command("pause", "all")
        for here, there in (
            (SYNC_SOURCE, SYNC_TARGET),
            (FROZEN, SECONDARY),
            (DISKLESS_PEER, DISKLESS),
            (TWO, TWO),
            (SPLIT, SPLIT_PEER),
        ):
            self.be(here, there)
            if here == SPLIT:
                with (self.drbd[self.home].base / "kmsg").open("wb") as log:
                    log.write(SPLIT_BRAIN)
            self.see()
        self.mark("split")
        self.be(PRIMARY, SECONDARY)
        self.see()
        self.command("resume", "all")

    def a_restart_fails(self) -> None:
        """Its disk is Secondary, and cannot be promoted."""
        drbd = self.drbd[self.home]
        works = (drbd.base / "act" / "primary").read_text()
        drbd.acts("primary", "echo 'State change failed' >&2; exit 11\n")
        self.be(BOTH_SECONDARY, BOTH_SECONDARY, OTHER)
        self.kill_at_home(OTHER)
        wait_until(lambda: "VMHealFailed" in self.alerts(OTHER), "the warning", SOON)
        self.see()
        drbd.acts("primary", works)
        self.be(PRIMARY, SECONDARY, OTHER)
        self.wait_runs(OTHER)

    def a_restart_is_refused(self) -> None:
        """No replica of its disk is good."""
        self.be(INCONSISTENT, INCONSISTENT)
        self.kill_at_home(FAILING)
        wait_until(lambda: "VMHealRefused" in self.alerts(FAILING), "the warning", SOON)
        self.see()
        self.mark("refused")
        self.be(PRIMARY, SECONDARY)
        self.wait_runs(FAILING)

    def all_is_well_again(self) -> None:
        """But that a plan has failed is said for a quarter of an hour."""
        left = {"Watchdog", "VMHealPlanFailed"}

        def others() -> set[str]:
            return {it["labels"]["alertname"] for it in self.all_alerts()} - left

        try:
            wait_until(lambda: not others(), "the end of all other alerts", SOON)
        except LabTimeoutError as error:
            raise LabTimeoutError(f"{error}: {', '.join(sorted(others()))}") from None
        self.see()

    # ---- how ---------------------------------------------------------------------------------------------

    def be(self, here: str, there: str, resource: str = FAILING) -> None:
        """The states of a resource where the VMs are, and on the other host."""
        for host, state in ((self.home, here), (self.other, there)):
            drbd = self.drbd[host]
            assert isinstance(drbd, ReplayedDrbd)
            drbd.become({resource: state})

    def see(self) -> None:
        """Let Prometheus see what is, a few times."""
        until = time.time() + SEEN_SECONDS
        wait_until(lambda: time.time() >= until, "some scrapes", SOON)

    def kill_at_home(self, domain: str) -> None:
        os.kill(self.libvirtds[self.home].qemu_pid(domain), signal.SIGKILL)

    def wait_runs(self, domain: str) -> None:
        """Wait until it runs again where it was, as nothing is in the way any more."""
        wait_until(lambda: domain in self.running(self.home), f"{domain} to run", SOON)

    def _guest(self, libvirtd: Libvirtd, domain: str, device: str) -> str:
        return libvirtd.guest(domain, memory_mib=32, devices=NIC, device=device)

    def _replayed(self, host: str, folder: Path) -> ReplayedDrbd:
        drbd = super()._replayed(host, folder)
        for state, label in CAPTURES.items():
            drbd.learn(state, label)
        drbd.learn(FROZEN, "33-peer-powered-off.v02", suspended="fencing")
        lvm = folder / "bin" / "lvm"
        lvm.write_text(f"#!/bin/sh\ncat {VOLUME_GROUPS}\n")
        lvm.chmod(0o755)
        return drbd

    def _start_more(self, _started: object) -> None:
        for host in HOSTS:
            said = (self.drbd[host].base / "out" / "dump-xml").read_text()
            self.drbd[host].prints("dump-xml", said.replace("</resource>", f"{HANDLERS}</resource>"))

    def _copy_rules(self, number: int) -> Path:
        folder = super()._copy_rules(number)
        path = folder / "prometheus.yml"
        document = yaml.safe_load(path.read_text())
        for job in document["scrape_configs"]:
            if job["job_name"] == "vmheal-stats":
                job |= {"scrape_interval": "2s", "scrape_timeout": "2s"}
        path.write_text(yaml.safe_dump(document))
        health = yaml.safe_load((RULES / "health.yml").read_text())
        (drbd,) = (it for it in health["groups"] if it["name"] == "vmheal-drbd")
        (folder / "health.yml").write_text(yaml.safe_dump({"groups": [drbd | {"interval": "1s"}]}))
        return folder

    def _adapted(self, settings: dict[str, object]) -> dict[str, object]:
        # What fails is tried again soon, and not given up.
        return super()._adapted(settings) | {"restart": {"backoff_seconds": 1, "max_attempts": 20}}


def play(folder: Path, keep: Path) -> None:
    """Play it, and keep what Prometheus recorded, with the times of the scenes, in a folder.

    Args:
        folder: for all that the site needs.
        keep: gets `prometheus` and `times.json`; it must not be there.
    """
    with Play(folder, VMS, Proof.ARBITRATED) as line:
        times = line.play()
    shutil.copytree(folder / "monitoring1" / "prometheus", keep / "prometheus")
    (keep / TIMES).write_text(json.dumps(times))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="vmheal-play-") as scratch:
        play(Path(scratch), Path(sys.argv[1]))
