"""Takes a lab away when its owner is gone, however the owner ended.

Run as a process of its own: `python -m tests.lab.janitor NAMESPACE FOLDER`. It waits until its standard input ends
(the owner closed it, or died, even by SIGKILL), then kills everything in the lab's namespace and removes
namespace, network devices and the folder with the hosts' disks. It inherits the owner's lock on the lab,
so that the next owner waits until all of this is done.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.lab import network
from tests.lab.image import REPO
from tests.lab.waiting import LabError, wait_until


def take_away(namespace: str, folder: Path) -> None:
    """End all that runs in the namespace, then remove it and the folder; fine when there is nothing."""
    if Path(f"/run/netns/{namespace}").exists():
        wait_until(lambda: _kill_all(namespace), f"the end of what runs in {namespace}", 20, 0.05)
    network.remove(namespace)
    shutil.rmtree(folder, ignore_errors=True)


def _kill_all(namespace: str) -> bool:
    """Kill every process in the namespace; return whether none was left."""
    found = [int(line) for line in network.ip("netns", "pids", namespace).split()]
    for process in found:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return not found


def start(namespace: str, folder: Path, lock: int) -> subprocess.Popen[bytes]:
    """Start the janitor of a lab; its work begins when the returned process's stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.lab.janitor", namespace, str(folder)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        pass_fds=[lock],
        start_new_session=True,
    )


def main() -> None:
    """Wait for the owner's end, then clean."""
    namespace, folder = sys.argv[1], Path(sys.argv[2])
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    sys.stdin.buffer.read()
    begun = time.monotonic()
    try:
        take_away(namespace, folder)
    except LabError as error:
        sys.exit(f"lab: could not take {namespace} away ({time.monotonic() - begun:.0f} s): {error}")


if __name__ == "__main__":
    main()
