"""The kernel's log, read from /dev/kmsg without waiting: what DRBD tells nowhere else.

It goes back to the boot, as far as the ring buffer does, so a restart of the exporter forgets nothing.
Needs CAP_SYSLOG.
"""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# One read is one record; the kernel cuts longer ones (CONSOLE_EXT_LOG_MAX).
_RECORD_BYTES = 8192
# So much at a time; the rest at the next call.
RECORDS_PER_READ = 1000
_TIME = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class Record:
    """One message and when it was logged, in seconds since the boot."""

    seconds: float
    text: str


class KernelLog:
    """Reads each record once."""

    def __init__(self, path: Path) -> None:
        """Open it, normally /dev/kmsg.

        Raises:
            OSError: it is not there, or not for us.
        """
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    def read(self) -> Iterator[Record]:
        """Yield the records that came since the last call."""
        for _ in range(RECORDS_PER_READ):
            try:
                raw = os.read(self._descriptor, _RECORD_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:
                # Records were overwritten before we came; the next read goes on after them.
                continue
            if not raw:
                return
            if record := _record(raw.decode("utf-8", "replace")):
                yield record

    def close(self) -> None:
        """Close it."""
        with suppress(OSError):
            os.close(self._descriptor)


def _record(raw: str) -> Record | None:
    """Split `priority,sequence,microseconds,flags;text` and the lines of its dictionary that follow."""
    head, _, rest = raw.partition(";")
    fields = head.split(",")
    if len(fields) < 3 or not _TIME.fullmatch(fields[2]):  # noqa: PLR2004  priority, sequence, time
        return None
    return Record(int(fields[2]) / 1e6, rest.partition("\n")[0])
