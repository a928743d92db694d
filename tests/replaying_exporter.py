"""The exporter, on the DRBD of a `FakeDrbd` in a folder: `... -m tests.replaying_exporter FOLDER --web...`.

It loads nothing else of the tests: what it costs is measured too.
"""

import os
import sys
from functools import partial
from pathlib import Path

import exporter.__main__
from exporter.collectors.drbd import Drbd
from exporter.drbdsetup import Paths

if __name__ == "__main__":
    base = Path(sys.argv.pop(1))
    os.environ["PATH"] = f"{base / 'bin'}:{os.environ['PATH']}"
    paths = Paths(base / "proc", base / "usermode_helper", base / "kmsg", (base / "drbd.d",))
    exporter.__main__.Drbd = partial(Drbd, paths)  # type: ignore[assignment,misc]
    exporter.__main__.main()
