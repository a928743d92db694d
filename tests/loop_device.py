"""A file as a block device, which several hosts on one machine see as they see a DRBD device. Needs root."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

SIZE_BYTES = 1 << 20


@contextlib.contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """Have an empty device until the end of the block, with this file below it."""
    image.write_bytes(bytes(SIZE_BYTES))
    argv = ["losetup", "--find", "--show", str(image)]
    done = subprocess.run(argv, check=True, timeout=20, capture_output=True, text=True)
    device = Path(done.stdout.strip())
    with device.open("rb"):
        # It goes when nobody has it open any more, also when the test is killed.
        subprocess.run(["losetup", "--detach", str(device)], check=True, timeout=20)
        yield device
