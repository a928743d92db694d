"""The lab's guest: a kernel, and one program (`writer.c`) that writes numbered records and prints them."""

import shutil
import subprocess
from pathlib import Path

from tests.lab.image import Image, pack_cpio
from tests.lab.waiting import LabError

SLOT_BYTES = 512
SLOTS = 16384
"""How many records a disk holds: record N lies in slot N % SLOTS (`writer.c`)."""


def build(image: Image, folder: Path) -> tuple[Path, Path]:
    """Compile the writer and pack it; return (its initramfs for Xen and QEMU, the bare program for LXC).

    Raises:
        LabError: the compiler refused.
    """
    tree = folder / "guest-tree"
    for name in ("dev", "proc", "modules"):
        (tree / name).mkdir(parents=True)
    writer = tree / "init"
    source = Path(__file__).with_name("writer.c")
    done = subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", str(writer), str(source)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise LabError(f"gcc refused {source}:\n{done.stderr}")
    for module in image.guest_modules:
        shutil.copy(module, tree / "modules")
    program = folder / "writer"
    shutil.copy(writer, program)
    initramfs = folder / "guest.cpio"
    pack_cpio(tree, initramfs)
    shutil.rmtree(tree)
    return initramfs, program
