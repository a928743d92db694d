"""Real DRBD 8.4 on two hosts of the lab, as a subject of the clauses."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Self

from exporter.drbd_configuration import Generations, parse_get_gi
from tests.contract.clause import COMMAND_SECONDS, DENIED, HANGS, HOOKS, HOSTS, Outcome
from tests.lab.lab import Lab, in_parallel
from tests.lab.vm import FENCE_PEER, VOLUME_GROUP, Resource
from tests.lab.waiting import LabError

BLOCK_BYTES = 4096
BLOCKS = 16
SIZE_MIB = 8
_FOLDER = "/run/contract"
# Says what it was called as, and ends as it is told; a loop and not a sleep, so that it may be told later.
_HANDLER = f"""\
#!/bin/sh
folder={_FOLDER}/$DRBD_RESOURCE
hook=${{1:-fence-peer}}
echo "$hook" >> $folder/ran
read -r answer seconds < $folder/$hook
sleep "$seconds"
left=600
while [ "$answer" = {HANGS} ] && [ $left -gt 0 ]; do
    left=$((left - 1))
    sleep 0.3
    read -r answer seconds < $folder/$hook
done
exit "$answer"
"""
_OPTION = "--allow-two-primaries"


class _Pending:
    def __init__(self, call: Callable[[], Outcome]) -> None:
        self._ended: list[Outcome] = []
        self._thread = threading.Thread(target=lambda: self._ended.append(_or_lost(call)), daemon=True)
        self._thread.start()

    def outcome(self, seconds: float) -> Outcome | None:
        self._thread.join(seconds)
        return self._ended[0] if self._ended else None


def _or_lost(call: Callable[[], Outcome]) -> Outcome:
    try:
        return call()
    except LabError as error:
        return Outcome(-1, str(error))


class Real:
    """One fresh resource between the lab's two hosts, as a context manager; a `tests.contract.clause.Subject`.

    Args:
        lab: both hosts run, with all cables in; so they are left.
        number: of the resource. One whose resource could not be taken down is not used again.
        fencing: `resource-and-stonith`; else `dont-care`.
    """

    def __init__(self, lab: Lab, number: int, *, fencing: bool) -> None:
        self.fencing = fencing
        self._lab = lab
        self._hosts = {name: lab.host(name) for name in HOSTS}
        self._resource = Resource(f"c{number:02}", number, HOSTS, fenced=fencing)
        self._answers = {
            host: {hook: DENIED if hook == "fence-peer" else "0" for hook in HOOKS} for host in HOSTS
        }
        self._broken: set[str] = set()
        self._off: set[str] = set()
        self._pause = threading.Event()
        self.taken_down = False

    @property
    def minor(self) -> int:
        return self._resource.minor

    def __enter__(self) -> Self:
        in_parallel(self._create, HOSTS)
        first = self._hosts[HOSTS[0]]
        first.wait_for_drbd(self._resource, connection="Connected")
        first.run(["drbdadm", "new-current-uuid", "--clear-bitmap", f"{self._resource.name}/0"])
        for host in self._hosts.values():
            host.wait_for_drbd(self._resource, connection="Connected", disks="UpToDate/UpToDate")
        for host in HOSTS:
            self.ran(host)
        return self

    def __exit__(self, *_: object) -> None:
        self.heal()
        for host in HOSTS:
            if host in self._off:
                self.boot(host)
            self.wake(host)
        self.taken_down = all(in_parallel(self._take_down, HOSTS))

    def _create(self, name: str) -> None:
        host, resource = self._hosts[name], self._resource
        self._furnish(name)
        if host.run(["lvs", f"{VOLUME_GROUP}/{resource.name}"], check=False).returncode:
            unwiped = ["--wipesignatures", "n", "--zero", "n"]
            volume = ["--size", f"{SIZE_MIB}M", "--name", resource.name, VOLUME_GROUP]
            host.run(["lvcreate", "--quiet", "--yes", *unwiped, *volume], timeout_seconds=120)
        zeros = bytes(BLOCK_BYTES * BLOCKS)
        host.run(
            ["dd", f"of={resource.backing}", "oflag=direct", f"bs={BLOCK_BYTES}", "iflag=fullblock"],
            stdin=zeros,
        )
        host.run(["drbdadm", "create-md", "--force", resource.name], timeout_seconds=120)
        host.drbd_up(resource.name)

    def _furnish(self, name: str) -> None:
        """Write all that is lost with the host's power."""
        host, folder = self._hosts[name], f"{_FOLDER}/{self._resource.name}"
        host.run(["mkdir", "-p", folder])
        host.write(f"/etc/drbd.d/{self._resource.name}.res", self._resource.config())
        host.write(FENCE_PEER, _HANDLER)
        host.run(["chmod", "755", FENCE_PEER])
        host.write(f"{folder}/ran", "")
        for hook in HOOKS:
            self._tell(name, hook)

    def _take_down(self, name: str) -> bool:
        """End the resource on a host, whatever the clause has left of it; whether it is gone."""
        host, resource = self._hosts[name], self._resource.name
        for hook in HOOKS:
            self.answer(name, hook, "0", 0)
        self.mend_disk(name)
        self.close(name)
        for verb in (["disconnect"], ["detach", "--force"], ["resume-io"], ["secondary"], ["down"]):
            with contextlib.suppress(LabError):
                host.run(["drbdadm", *verb, resource], check=False, timeout_seconds=COMMAND_SECONDS)
        gone = host.drbd_state(self._resource)[0] == "Unconfigured"
        host.run(["rm", "-f", f"/etc/drbd.d/{resource}.res"])
        return gone

    # ---- the subject

    def wait(self, seconds: float) -> None:
        self._pause.wait(seconds)

    def proc(self, host: str) -> str:
        return self._hosts[host].run(["cat", "/proc/drbd"]).text

    def begin(self, host: str, verb: str) -> _Pending:
        words = {
            "allow-two-primaries": ["net-options", f"{_OPTION}=yes"],
            "forbid-two-primaries": ["net-options", f"{_OPTION}=no"],
        }.get(verb, verb.split())
        return self._begin(host, ["drbdadm", *words, self._resource.name])

    def begin_write(self, host: str, number: int) -> _Pending:
        block = str(number).encode().ljust(BLOCK_BYTES, b"\n")
        place = [f"of={self._resource.device}", f"seek={number}", f"bs={BLOCK_BYTES}", "count=1"]
        return self._begin(host, ["dd", *place, "iflag=fullblock", "oflag=direct", "conv=notrunc"], block)

    def _begin(self, name: str, argv: Sequence[str], stdin: bytes = b"") -> _Pending:
        def call() -> Outcome:
            done = self._hosts[name].run(argv, check=False, stdin=stdin, timeout_seconds=2 * COMMAND_SECONDS)
            return Outcome(done.returncode, done.stderr.decode(errors="replace"))

        return _Pending(call)

    def blocks(self, host: str) -> set[int]:
        disk = self._hosts[host].read_disk(self._resource, BLOCK_BYTES * BLOCKS)
        words = (
            disk[at : at + BLOCK_BYTES].split(b"\n", 1)[0]
            for at in range(0, BLOCK_BYTES * BLOCKS, BLOCK_BYTES)
        )
        return {int(word) for word in words if word.isdigit()}

    def generations(self, host: str) -> Generations:
        (found,) = parse_get_gi(self._hosts[host].run(["drbdadm", "get-gi", self._resource.name]).text)
        return found

    def answer(self, host: str, hook: str, status: str, seconds: int) -> None:
        self._answers[host][hook] = f"{status} {seconds}\n"
        self._tell(host, hook)

    def _tell(self, host: str, hook: str) -> None:
        """At once: a handler that reads it sees all of it or what was there before."""
        path = f"{_FOLDER}/{self._resource.name}/{hook}"
        self._hosts[host].write(f"{path}.new", self._answers[host][hook])
        self._hosts[host].run(["mv", f"{path}.new", path])

    def ran(self, host: str) -> list[str]:
        log = f"{_FOLDER}/{self._resource.name}/ran"
        said = self._hosts[host].run(["cat", log]).text.split()
        if said:
            self._hosts[host].run(["sed", "-i", f"1,{len(said)}d", log])
        return said

    def cut(self, source: str, target: str) -> None:
        self._lab.network.deafen(target, "replication")

    def heal(self) -> None:
        for host in HOSTS:
            self._lab.network.undeafen(host, "replication")

    def power_off(self, host: str) -> None:
        self._off.add(host)
        self._hosts[host].kill()

    def boot(self, host: str) -> None:
        self._hosts[host].boot()
        self._off.discard(host)
        self._furnish(host)
        self._hosts[host].run(["vgchange", "--quiet", "--quiet", "--activate", "y", VOLUME_GROUP])

    def freeze(self, host: str) -> None:
        self._hosts[host].freeze()

    def wake(self, host: str) -> None:
        self._hosts[host].thaw()

    def open(self, host: str) -> None:
        argv = ["systemd-run", "--quiet", f"--unit={self._unit}", "--collect"]
        argv += [f"--property=StandardInput=file:{self._resource.device}", "sleep", "infinity"]
        self._hosts[host].run(argv)

    def close(self, host: str) -> None:
        self._hosts[host].run(["systemctl", "stop", f"{self._unit}.service"], check=False)

    @property
    def _unit(self) -> str:
        return f"holds-{self._resource.name}"

    def break_disk(self, host: str) -> None:
        self._broken.add(host)
        self._hosts[host].break_disk(self._resource)

    def mend_disk(self, host: str) -> None:
        if host in self._broken:
            self._broken.discard(host)
            self._hosts[host].mend_disk(self._resource)
