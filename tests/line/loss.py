"""A line of which a host is lost with all its VMs at once, and comes back as after a boot.

What is lost falls silent: its exporter, sshd and libvirtd are stopped, not ended, since a kernel would tell of
their end at once, and that of a host without power does not. Its guests are killed. DRBD on the other host is
replayed, and says that the peer is lost after the time that the timers of docs/hosts.md take.
"""

import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any

from actuator.model import Proof
from tests.exporter.fake_drbd import FakeDrbd
from tests.lab.moves import Failover, failover_in
from tests.lab.site import parse_event
from tests.lab.waiting import LabTimeoutError, wait_until
from tests.line.line import HOSTS, SOON, Line
from tests.line.replayed_drbd import LOST, PRIMARY, SECONDARY, ReplayedDrbd

DRBD_NOTICES_SECONDS = 1.5
"""`ping-int 1; ping-timeout 5`, at worst. A write that waits for an answer is noticed after `timeout 30`."""


class LosableLine(Line):
    """All domains run on one of the two hosts, on v01 at first; `lose` takes it away, `bring_back` ends that."""

    def __init__(
        self, folder: Path, domains: tuple[str, ...], proof: Proof, plans_per_host: int | None = None
    ) -> None:
        """Start nothing yet.

        Args:
            folder: for all that is configured and logged.
            domains: the names of the VMs.
            proof: `POWER`, by a fence agent of Debian's and without an arbiter; or `ARBITRATED`, with the
                default timeouts.
            plans_per_host: instead of the default.
        """
        super().__init__(folder, domains)
        self.home, self.other = HOSTS
        """Where the VMs are, and where they come up when it is lost."""
        self._arbitrated = proof is Proof.ARBITRATED
        self._limits = {} if plans_per_host is None else {"plans_per_host": plans_per_host}

    def running(self, host: str) -> set[str]:
        """The domains that libvirt has running there."""
        with self.libvirt(host) as handle:
            return {handle.lookupByID(number).name() for number in handle.listDomainsID()}

    # ---- the loss ----------------------------------------------------------------------------------------

    def lose(self) -> Failover:
        """Lose the host of the VMs, and wait until they run on the other one; how long each part took."""
        lost, alive = self.home, self.other
        guests = [self.libvirtds[lost].qemu_pid(domain) for domain in self.domains]
        self.libvirtds[lost].stand_still()
        lost_at = time.time()
        for process in self._services(lost):
            os.kill(process, signal.SIGSTOP)
        for process in guests:
            os.kill(process, signal.SIGKILL)
        noticed_at = lost_at + DRBD_NOTICES_SECONDS
        wait_until(lambda: time.time() >= noticed_at, "DRBD to notice", SOON, 0.01)
        self._become(alive, LOST)
        try:
            wait_until(lambda: self._belong_to(alive), f"all VMs to run on {alive}", SOON, 0.5)
        except LabTimeoutError as error:
            said = [event.sentence for event in map(parse_event, self.journal()) if event.at >= lost_at]
            raise LabTimeoutError(f"{error}; the journal: {said[-20:]}") from error
        self.home, self.other = alive, lost
        events = [event for event in map(parse_event, self.journal()) if event.at >= lost_at]
        return failover_in(events, self.domains, lost_at)

    def bring_back(self) -> None:
        """Have the lost host be there again, as after a boot: its VMs are down, and its replicas current."""
        self._become(self.home, PRIMARY)
        self._become(self.other, SECONDARY)
        self._power_file(self.other).write_text("on")
        libvirtd = self.libvirtds[self.other]
        libvirtd.stop(signal.SIGKILL)
        for state in (libvirtd.base / "run" / "qemu").glob("*.*"):
            state.unlink()  # /run is empty after a boot
        libvirtd.start()
        listener, *sessions = self._sshd_processes(self.other)
        for process in sessions:
            os.kill(process, signal.SIGKILL)
        os.kill(listener, signal.SIGCONT)
        self.exporters[self.other].stop(signal.SIGKILL)
        self.exporters[self.other].start()

    def wait_at_rest(self) -> None:
        """Wait until the VMs are watched, their replicas known to be current, and monitoring seen to work."""
        self.wait_watched(*self.domains)
        wait_until(self._is_in_order, "all replicas to be current", SOON, 0.5)
        wait_until(self._is_quiet, "the end of all alerts but Watchdog", SOON, 0.5)
        self.wait_looked()

    def _services(self, host: str) -> list[int]:
        return [self.exporters[host].pid, *self._sshd_processes(host), self.libvirtds[host].pid]

    def _sshd_processes(self, host: str) -> list[int]:
        """The listener first, then those of its sessions."""
        found = [self.sshds[host].process.pid]
        for process in found:
            found += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
        return found

    def _belong_to(self, host: str) -> bool:
        status = self.status()
        there = {it["domain"] for it in status["domains"] if it["host"] == host}
        return there == set(self.domains) == self.running(host) and status["handling"] == 0

    def _is_in_order(self) -> bool:
        status, both = self.status(), [*HOSTS]
        resources = [it for it in status["resources"] if it["resource"] in self.domains]
        return (
            len(resources) == len(self.domains)
            and all(it["holder"] == self.home and it["admitted"] == both for it in resources)
            and all(it["armed"] == both for it in resources if self._arbitrated)
            and not any(it["granted"] for it in resources)
            and not any(it["failed_at"] for it in status["hosts"])
        )

    def _is_quiet(self) -> bool:
        return {it["labels"]["alertname"] for it in self.all_alerts()} == {"Watchdog"}

    # ---- how it is made ----------------------------------------------------------------------------------

    def _become(self, host: str, state: str) -> None:
        drbd = self.drbd[host]
        assert isinstance(drbd, ReplayedDrbd)
        drbd.become(dict.fromkeys(self.domains, state))

    def _make_drbd(self, folders: dict[str, Path]) -> dict[str, FakeDrbd]:
        for host in HOSTS:
            self._power_file(host).write_text("on")
        return {host: self._replayed(host, folder) for host, folder in folders.items()}

    def _replayed(self, host: str, folder: Path) -> ReplayedDrbd:
        (peer,) = set(HOSTS) - {host}
        return ReplayedDrbd(
            folder,
            self.domains,
            PRIMARY if host == self.home else SECONDARY,
            (peer, HOSTS[peer]),
            handler=self._handler_configuration(host) if self._arbitrated else None,
        )

    def _handler_configuration(self, host: str) -> Path:
        token, configuration = self._token_file(host), self.folder / f"{host}.fence-peer.conf"
        token.write_text(secrets.token_hex(16))
        configuration.write_text(
            f"actuator 127.0.0.1:10811\ntoken_file {token}\nlibvirt_uri qemu:///system\n"
        )
        return configuration

    def _exporter_program(self, host: str) -> list[str | Path]:
        return [sys.executable, "-m", "tests.replaying_exporter", self.drbd[host].base]

    def _adapted(self, settings: dict[str, Any]) -> dict[str, Any]:
        for name, host in settings["hosts"].items():
            if self._arbitrated:
                host["arbiter_token_file"] = str(self._token_file(name))
            else:
                options = {"type": "file", "status_file": str(self._power_file(name))}
                host["fence"] = {"agent": "fence_dummy", "options": options}
        # Nothing fails twice here: the limits are a site's.
        kept = {name: section for name, section in settings.items() if name not in {"restart", "reconcile"}}
        return kept | {"limits": self._limits}

    def _token_file(self, host: str) -> Path:
        return self.folder / f"{host}.token"

    def _power_file(self, host: str) -> Path:
        """What the fence agent takes for the host's power."""
        return self.folder / f"{host}.power"
