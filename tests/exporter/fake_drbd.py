"""A DRBD that replays captures: programs `drbdsetup` and `drbdadm`, and the kernel's files.

Below the real one in tests/lab: it prints byte for byte what the real programs printed, and on demand hangs,
floods, fails or prints nonsense.
"""

import os
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from exporter.drbdsetup import Paths
from tests.exporter.drbd_samples import command, drbd9, drbd84

PROC9 = (
    "version: 9.2.18 (api:2/proto:86-122)\nGIT-hash: 0 build by tests\nTransports (api:21): tcp (9.2.18)\n"
)

VERSION = (
    "DRBDADM_BUILDTAG=test\nDRBDADM_API_VERSION=2\nDRBDADM_VERSION_CODE=0x091600\nDRBDADM_VERSION=9.22.0\n"
)

DUMP_XML = """\
<config file="/etc/drbd.conf">
    <common>
        <section name="handlers">
            <option name="fence-peer" value="/usr/lib/vmheal/fence-peer &quot;a b&quot; &amp;"/>
        </section>
    </common>
    <resource name="voms01" conf-file-line="/etc/drbd.d/voms01.res:1">
        <host name="v01"><address family="ipv4" port="7789">10.20.0.1</address></host>
        <host name="v02"><address family="ipv4" port="7789">10.20.0.2</address></host>
        <section name="handlers">
            <option name="split-brain" value="/usr/lib/drbd/notify-split-brain.sh root"/>
        </section>
    </resource>
</config>
"""

# Each call adds its arguments to `calls`. What a command prints is in `out/COMMAND`; `act/COMMAND` is run
# by the shell instead of printing it.
PROGRAM = """\
#!/bin/sh
echo "${{0##*/}} $*" >> {base}/calls
if [ -f {base}/act/$1 ]; then . {base}/act/$1; fi
cat {base}/out/$1
"""


class FakeDrbd:
    """The fake, in a folder of its own that comes first in PATH."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for folder in ("bin", "out", "act", "drbd.d"):
            (base / folder).mkdir(parents=True)
        for program in ("drbdsetup", "drbdadm"):
            path = base / "bin" / program
            path.write_text(PROGRAM.format(base=base))
            path.chmod(0o755)
        self.prints("--version", VERSION)
        self.prints("dump-xml", DUMP_XML)
        self.prints("get-gi", "")
        (base / "drbd.d" / "voms01.res").write_text("# see out/dump-xml\n")
        (base / "usermode_helper").write_text("/sbin/drbdadm\n")
        os.mkfifo(base / "kmsg")  # opened without a writer: empty
        self.paths = Paths(
            proc=base / "proc",
            usermode_helper=base / "usermode_helper",
            kernel_log=base / "kmsg",
            configuration=(base / "drbd.d",),
        )

    def replay84(self, label: str) -> None:
        """Be the host of an 8.4 capture."""
        text = drbd84(label)
        self.prints("events2", command(text, "drbdsetup events2 --now --statistics"))
        self.prints("show", command(text, "drbdsetup show"))
        self.prints("get-gi", command(text, "drbdadm get-gi"))
        self.proc(command(text, "cat /proc/drbd"))

    def replay9(self, label: str, host: str) -> None:
        """Be the host of a DRBD 9 capture."""
        self.prints("events2", drbd9(label, host, "events2-now-statistics.txt"))
        self.prints("show", drbd9(label, host, "show.json"))
        self.proc(PROC9)

    def replay(self, version: int) -> None:
        """Be some host of DRBD 8.4 (84) or 9."""
        if version == 84:
            self.replay84("14-connected-primary-secondary.v01")
        else:
            self.replay9("10-verify", "v01")

    def prints(self, name: str, text: str | bytes) -> None:
        """What `drbdsetup NAME` or `drbdadm NAME` prints from now on."""
        path = self.base / "out" / name
        path.with_suffix(".new").write_bytes(text.encode() if isinstance(text, str) else text)
        path.with_suffix(".new").rename(path)

    def acts(self, name: str, script: str) -> None:
        """What it does before it prints; "" is nothing."""
        (self.base / "act" / name).write_text(textwrap.dedent(script))

    def proc(self, text: str) -> None:
        """What /proc/drbd reads from now on."""
        (self.base / "proc.new").write_text(text)
        (self.base / "proc.new").rename(self.base / "proc")

    @contextmanager
    def kernel(self) -> Iterator[Callable[..., int]]:
        """Yield what writes a record to the kernel's log: each write to such a pipe is one read."""
        self.paths.kernel_log.unlink()
        reader, writer = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
        self.paths.kernel_log.symlink_to(f"/proc/self/fd/{reader}")
        try:
            yield lambda text, seconds=0.0: os.write(
                writer, f"3,1,{int(seconds * 1e6)},-;{text}\n SUBSYSTEM=block\n".encode()
            )
        finally:
            os.close(reader)
            os.close(writer)

    def unload(self) -> None:
        """Remove the kernel module."""
        (self.base / "proc").unlink()

    def calls(self, start: str = "") -> list[str]:
        """The commands that were run so far, those that begin so."""
        path = self.base / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(start)]
