"""DRBD 8.4 of a host whose peer may be lost: it says what real ones said, and `drbdadm primary` has an effect.

Each resource is in one of a few states, of which there are captures. What is Secondary and has lost its peer
becomes Primary when it is promoted; with `fencing resource-and-stonith` DRBD's handler is run first, the real
one, and what it answers is heeded, as the kernel does. A resource is a link to the state that it is in; all of
it is shell, since the programs are called over SSH while nobody else looks.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from exporter.drbd_configuration import Fencing
from tests.exporter.drbd_samples import command, drbd84, events2_of
from tests.exporter.fake_drbd import FakeDrbd
from tests.lab.image import REPO

PRIMARY, SECONDARY, LOST, PROMOTED, GRANTED = "primary", "secondary", "lost", "promoted", "granted"
_CAPTURES = {
    PRIMARY: "14-connected-primary-secondary.v01",
    SECONDARY: "14-connected-primary-secondary.v02",
    LOST: "54f-after-refused.v02",  # a Secondary, UpToDate, that waits for its peer
    PROMOTED: "33-peer-powered-off.v02",
    GRANTED: "54i-after-promotion.v02",  # the peer Outdated
}
_REFUSED = (
    drbd84("act-54e-promote-fencing-handler-fails.v02").partition("--stderr\n")[2].partition("--rc=")[0]
)
_USAGE_ERROR_STATUS, _REFUSED_STATUS = 20, 11

_PROC = r"""
{ cat version; for each in resources/*; do cat $each/proc; done; } > proc.new && mv proc.new proc
"""
_EVENTS2 = """
cat {base}/resources/*/events2
echo "exists -"
exit 0
"""
# 8.4 has no JSON.
_SHOW = f"""
if [ "$2" = --json ]; then echo "show: unrecognized option '--json'" >&2; exit {_USAGE_ERROR_STATUS}; fi
"""
_PRIMARY = """
cd {base}
after={promoted}
if [ -f fence-peer ]; then
    DRBD_RESOURCE=$2 DRBD_PEER={peer} DRBD_MINOR=$(cat resources/$2/minor) sh fence-peer
    if [ $? != 4 ]; then cat refused >&2; exit {refused_status}; fi
    after={granted}
fi
(
    flock 9
    ln -s ../states/$after/$2 .$2 && mv -T .$2 resources/$2
    . ./write-proc
) 9> lock
exit 0
"""
_HANDLER = """
import os, sys
from exporter import fence_peer
sys.exit(fence_peer.run(["fence-peer"], os.environ, *sys.argv[1:]))
"""


class ReplayedDrbd(FakeDrbd):
    """All resources are in `PRIMARY` at first, or in `SECONDARY`."""

    def __init__(
        self,
        base: Path,
        resources: tuple[str, ...],
        state: str,
        peer: tuple[str, str],
        *,
        handler: Path | None,
    ) -> None:
        """Start with all resources in one state.

        Args:
            base: its folder.
            resources: their names, in the order of their minors.
            state: of all of them.
            peer: the other host's name and address.
            handler: a `fence-peer.conf`: DRBD is configured with fencing, and runs the handler with it.
        """
        super().__init__(base)
        self.resources = resources
        (base / "resources").mkdir()
        for name, label in _CAPTURES.items():
            self.learn(name, label)
        version, _, _ = command(drbd84(_CAPTURES[state]), "cat /proc/drbd").partition(" 0: ")
        (base / "version").write_text(version)
        (base / "write-proc").write_text(_PROC)
        (base / "refused").write_text(_REFUSED)
        self.acts("events2", _EVENTS2.format(base=base))
        self.acts("show", _SHOW)
        fencing = Fencing.RESOURCE_AND_STONITH if handler else Fencing.DONT_CARE
        self.prints("show", "".join(_show_of(it, n, peer[1], fencing) for n, it in enumerate(resources)))
        words = {"promoted": PROMOTED, "granted": GRANTED, "refused_status": _REFUSED_STATUS}
        self.acts("primary", _PRIMARY.format(base=base, peer=peer[0], **words))
        if handler is not None:
            argv = shlex.join([sys.executable, "-c", _HANDLER, str(handler), str(base / "proc")])
            (base / "fence-peer").write_text(f"cd {REPO}\n{argv}\n")
        self.become(dict.fromkeys(resources, state))

    def learn(self, state: str, label: str, *, suspended: str = "no") -> None:
        """Know one more state that resources can be in.

        Args:
            state: its name.
            label: of the capture of what DRBD said then.
            suspended: why I/O is suspended, in drbdsetup's word; of that there is no capture.
        """
        for minor, resource in enumerate(self.resources):
            folder = self.base / "states" / state / resource
            folder.mkdir(parents=True)
            (folder / "minor").write_text(f"{minor}")
            said = events2_of(label, resource, minor)
            assert "suspended:no" in said
            (folder / "events2").write_text(said.replace("suspended:no", f"suspended:{suspended}", 1))
            (folder / "proc").write_text(_proc_of(label, minor))

    def become(self, states: Mapping[str, str]) -> None:
        """Have these resources be in these states from now on; nobody promotes anything meanwhile."""
        for resource, state in states.items():
            link = self.base / ".new"
            link.symlink_to(f"../states/{state}/{resource}")
            link.replace(self.base / "resources" / resource)
        version = (self.base / "version").read_text()
        links = [self.base / "resources" / it for it in self.resources]
        self.proc(version + "".join((link / "proc").read_text() for link in links))


def _proc_of(label: str, minor: int) -> str:
    _, _, said = command(drbd84(label), "cat /proc/drbd").partition(" 0: ")
    return f"{minor:>2}: {said}"


def _show_of(resource: str, minor: int, peer_address: str, fencing: Fencing) -> str:
    """Return what the capture of a host with fencing shows, of another resource."""
    said = command(drbd84(_CAPTURES[LOST]), "drbdsetup show")
    for old, new in (
        ("resource voms01 {", f"resource {resource} {{"),
        ("ipv4 10.20.0.1:7789", f"ipv4 {peer_address}:{7789 + minor}"),
        ("minor 0;", f"minor {minor};"),
        (Fencing.RESOURCE_ONLY, fencing),
    ):
        assert said.count(old) == 1, f"{old!r} in {said}"
        said = said.replace(old, new)
    return said
