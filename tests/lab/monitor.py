"""A monitoring machine of its own in a lab: a Debian with Prometheus and Alertmanager under its own systemd.

A container (systemd-nspawn) inside the lab's network, not an emulated machine: what runs there is as fast as on the
bare machine. What is changed in it is gone with it.
"""

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.lab.image import CACHE, SUITE
from tests.lab.lab import Lab
from tests.lab.waiting import LabError, Progress, stage, wait_until

PACKAGES = (
    "systemd-sysv,dbus,procps,python3,python3-libvirt,adduser,openssh-client,fence-agents,prometheus,"
    "prometheus-alertmanager"
)
# The lab's network has no default route, by which Alertmanager would choose the address of its cluster.
ALERTMANAGER = """echo 'ARGS="--cluster.listen-address="' > "$1/etc/default/prometheus-alertmanager\""""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 120.0


class Monitor:
    """The machine, as a context manager, with a lab that has been entered."""

    def __init__(self, lab: Lab, folders: dict[Path, str]) -> None:
        """Describe it; nothing happens before it is entered.

        Args:
            lab: whose network it is in, at the monitoring machine's address.
            folders: of the bare machine, and where each is seen, to be read only.
        """
        self._lab = lab
        self._folders = folders
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0

    def __enter__(self) -> Self:
        root = build(self._lab.progress)
        argv = ["systemd-nspawn", "--quiet", "--keep-unit", "--register=no", "--boot", "--console=pipe"]
        argv += [f"--directory={root}", "--volatile=overlay", "--resolv-conf=off", "--hostname=monitor"]
        argv += [f"--machine=monitor-{self._lab.name}"]
        argv += [f"--network-namespace-path=/run/netns/{self._lab.network.namespace}"]
        argv += [f"--bind-ro={outside}:{inside}" for outside, inside in self._folders.items()]
        with (
            stage(self._lab.progress, "monitoring machine: boot"),
            (self._lab.logs / "monitor.log").open("ab") as log,
        ):
            self._container = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            try:
                wait_until(self._booted, "the monitoring machine to boot", BOOT_SECONDS, 0.5)
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it; the janitor does when nobody is left to."""
        container, self._container = self._container, None
        if container is not None:
            container.terminate()
            try:
                container.wait(timeout=30)
            except subprocess.TimeoutExpired:
                container.kill()
                container.wait(timeout=30)

    def run(
        self, line: str, *, folder: str = "/root", stdin: str = "", timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a line as root's shell there would; its exit status is the caller's to look at.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        shell = ["/bin/bash", "-c", f"cd {folder} && {line}"]
        argv = ["nsenter", f"--target={self._init}", "--all", "--", *shell]
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
            env={"HOME": "/root", "PATH": PATH, "LC_ALL": "C.UTF-8"},
        )

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file of root's there, and the folder that it lies in.

        Raises:
            LabError: it could not be written.
        """
        done = self.run(f"install -D -m {mode} /dev/stdin {path}", stdin=text)
        if done.returncode:
            raise LabError(f"monitor: {path}: {done.stderr.strip()}")

    def _booted(self) -> bool:
        assert self._container is not None
        if self._container.poll() is not None:
            raise LabError(f"monitor ended: {(self._lab.logs / 'monitor.log').read_text()[-1500:]}")
        self._init = self._init or _init_of(self._container.pid)
        # "degraded" is up, too.
        return bool(self._init) and self.run("systemctl is-system-running").stdout.strip() in {
            "running",
            "degraded",
        }


def build(progress: Progress) -> Path:
    """Return the machine's root file system; build it when it is not in the cache.

    Raises:
        LabError: mmdebstrap failed; the message has its last lines.
    """
    recipe = f"{SUITE} {PACKAGES} {ALERTMANAGER}"
    root = CACHE / "monitor" / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with (root.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _build(root, progress)
    return root


def _build(root: Path, progress: Progress) -> None:
    for leftover in root.parent.iterdir():  # half-built ones, and those of older recipes
        if leftover.is_dir():
            shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix="building-", dir=root.parent))
    argv = ["mmdebstrap", "--quiet", "--variant=apt", "--mode=root", f"--include={PACKAGES}"]
    argv += ["--dpkgopt=path-exclude=/usr/share/doc/*", f"--customize-hook={ALERTMANAGER}"]
    with stage(progress, "monitoring machine: Debian's packages (mmdebstrap)"):
        try:
            subprocess.run(
                [*argv, SUITE, work / "root"], check=True, capture_output=True, text=True, timeout=1800
            )
            (work / "root").rename(root)
        except subprocess.CalledProcessError as error:
            raise LabError(f"mmdebstrap ended with {error.returncode}:\n{error.stderr[-2000:]}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _init_of(container: int) -> int:
    """The first process of a container, as it is numbered here; 0 while there is none."""
    todo = [container]
    while todo:
        process = todo.pop()
        try:
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
            children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8")
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines())
        inside = fields["NSpid"].split()[1:]
        if fields["Name"].strip() == "systemd" and inside and inside[-1] == "1":
            return process
        todo += [int(it) for it in children.split()]
    return 0
