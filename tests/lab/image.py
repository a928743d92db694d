"""The hosts' image: Debian bookworm from Debian's packages, built once and cached by content.

An `Image` is a folder under `.cache/lab/image/`, named by a hash of everything that goes into it. It holds
`root.ext4` (the root file system), `vmlinux`, `xen`, `initrd.cpio` and `modules/` (kernel modules for guests,
in load order). Nothing in it is compressed: QEMU's multiboot loader cannot read a compressed Xen, and an
emulated processor takes seconds to unpack a kernel.

The apt sources are the machine's own, asked of apt at build time and removed from the image again.
"""

import ast
import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import recipe
from tests.lab.waiting import LabError, Progress, print_progress, stage

REPO = Path(__file__).resolve().parents[2]
CACHE = REPO / ".cache" / "lab"
HERE = Path(__file__).resolve().parent
SUITE = "bookworm"


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: see the module's text for what lies in its folder."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def xen(self) -> Path:
        return self.folder / "xen"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd.cpio"

    def linked(self, folder: Path) -> "Image":
        """Return the same image under another name, which outlives the removal of this one from the cache."""
        shutil.copytree(self.folder, folder, copy_function=os.link)
        return Image(folder)

    @property
    def guest_modules(self) -> list[Path]:
        """The kernel modules that guests need, each after the ones it depends on."""
        return sorted((self.folder / "modules").iterdir())


def build(progress: Progress = print_progress) -> Image:
    """Return the image for this recipe; build it when it is not in the cache.

    Two builds at the same time do not collide: the second waits and finds the first one's image. A build
    that fails or is killed leaves nothing that looks like an image.

    Raises:
        LabError: not root, no bookworm apt sources, or a program of the build failed (with its last lines).
    """
    images = CACHE / "image"
    image = Image(images / recipe_hash())
    if image.folder.is_dir():
        return image
    if os.geteuid() != 0:
        raise LabError("Building the lab's image needs root")
    images.mkdir(parents=True, exist_ok=True)
    with (images / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if image.folder.is_dir():
            return image
        for leftover in images.iterdir():  # half-built ones, and those of older recipes (labs have links)
            if leftover.is_dir():
                shutil.rmtree(leftover)
        work = Path(tempfile.mkdtemp(prefix="building-", dir=images))
        try:
            with stage(progress, "image"):
                _build_into(work, progress)
            (work / "image").rename(image.folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return image


def recipe_hash() -> str:
    """Name the image's content: the code (whatever its layout), the overlay, the exporter's dependencies."""
    digest = hashlib.sha256()
    for module in (Path(__file__), Path(recipe.__file__)):
        digest.update(ast.dump(ast.parse(module.read_text(encoding="utf-8"))).encode())
    overlay = sorted(path for path in (HERE / "overlay").rglob("*") if path.is_file())
    for path in (HERE / "initramfs-init", REPO / "requirements" / "exporter.txt", *overlay):
        digest.update(f"{path.relative_to(REPO)}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _build_into(work: Path, progress: Progress) -> None:
    root, image = work / "root", work / "image"
    image.mkdir()
    with stage(progress, "image: Debian's packages (mmdebstrap)"):
        _mmdebstrap(work, root)
    kernel_release = _only(entry.name for entry in (root / "lib" / "modules").iterdir())
    modules = root / "lib" / "modules" / kernel_release
    with stage(progress, "image: the exporter's Python packages"):
        _install_exporter_requirements(work, root)
    with stage(progress, "image: trim, kernel, initramfs, file system"):
        (image / "vmlinux").write_bytes(_uncompressed(root / "boot" / f"vmlinuz-{kernel_release}"))
        (root / "var" / "lib" / "lab").mkdir()
        shutil.copy(image / "vmlinux", root / "var" / "lib" / "lab" / "vmlinux")  # what guests boot
        xen = _only((root / "boot").glob("xen-*-amd64.gz"))
        (image / "xen").write_bytes(gzip.decompress(xen.read_bytes()))
        dependencies = _module_dependencies(modules)
        (image / "modules").mkdir()
        for position, name in enumerate(_load_order(dependencies, recipe.GUEST_MODULES)):
            shutil.copy(modules / name, image / "modules" / f"{position:02d}-{Path(name).name}")
        _pack_initramfs(
            work, modules, _load_order(dependencies, recipe.INITRAMFS_MODULES), image / "initrd.cpio"
        )
        _trim(root, modules, dependencies, kernel_release)
        _customise(root)
        _run(["truncate", "--size=1500M", str(image / "root.ext4")])
        # A small journal: hosts are killed, and their files should be whole after that.
        _run(
            [
                "mke2fs",
                "-q",
                "-t",
                "ext4",
                "-J",
                "size=8",
                "-m",
                "0",
                "-d",
                str(root),
                str(image / "root.ext4"),
            ]
        )


def _mmdebstrap(work: Path, root: Path) -> None:
    target = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = _run(["apt-get", "indextargets", "--format", target, "Created-By: Packages"]).splitlines()
    sources = sorted({f"deb {line}\n" for line in targets if line.split()[1].startswith(SUITE)})
    if not sources:
        raise LabError(f"The machine's apt has no sources of Debian {SUITE}; add them and run apt-get update")
    sources_file = work / "sources.list"
    sources_file.write_text("".join(sources), encoding="utf-8")
    argv = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(recipe.PACKAGES)}"]
    argv += [f"--aptopt={option}" for option in ('Acquire::Languages "none"', *_apt_options())]
    argv += [f"--dpkgopt=path-exclude={path}" for path in recipe.EXCLUDED_PATHS]
    # INITRD=No tells Debian's kernel hook to make no initrd: ours is smaller.
    _run([*argv, SUITE, str(root), str(sources_file)], timeout_seconds=1800, environment={"INITRD": "No"})


def _apt_options() -> list[str]:
    """Return the machine's settings that decide whether its sources can be read at all."""
    wanted = re.compile(r"^Acquire::(Check-Valid-Until|Check-Date|https?::Proxy|https?::CaInfo)\b")
    dump = _run(["apt-config", "dump", "--no-empty", "--format", '%F "%v"%n', "Acquire"])
    return [line for line in dump.splitlines() if wanted.match(line)]


def _install_exporter_requirements(work: Path, root: Path) -> None:
    """Make /opt/vmheal, a venv on the host's own Python that sees Debian's python3-libvirt.

    The wheels are the locked ones, for the host's Python, whatever Python builds the image. libvirt-python
    comes from Debian: it must match the host's libvirt.
    """
    lock = (REPO / "requirements" / "exporter.txt").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=\S)", lock)
    requirements = work / "requirements.txt"
    kept = [block for block in blocks if not block.startswith("libvirt-python==")]
    requirements.write_text("\n".join(kept) + "\n", encoding="utf-8")
    venv = ["-m", "venv", "--without-pip", "--system-site-packages", "/opt/vmheal"]
    _run(["chroot", str(root), "python3", *venv])
    version = _only(path.name.removeprefix("python") for path in (root / "opt/vmheal/lib").glob("python3.*"))
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    argv += ["--require-hashes", "--only-binary=:all:", f"--python-version={version}", "--implementation=cp"]
    argv += [f"--abi={abi}" for abi in (f"cp{version.replace('.', '')}", "abi3", "none")]
    argv += [f"--platform=manylinux{tag}_x86_64" for tag in ("_2_36", "_2_34", "_2_28", "_2_17", "2014")]
    argv += [f"--target={root}/opt/vmheal/lib/python{version}/site-packages", "-r", str(requirements)]
    _run(argv, timeout_seconds=900)


def _uncompressed(bzimage: Path) -> bytes:
    """Return the ELF kernel inside a bzImage. Debian compresses it with xz; the kernel's own
    scripts/extract-vmlinux finds it in the same way, by the compressed stream's first bytes.
    """
    packed = bzimage.read_bytes()
    start = packed.find(b"\xfd7zXZ\x00")
    kernel = lzma.LZMADecompressor().decompress(packed[start:]) if start >= 0 else b""
    if not kernel.startswith(b"\x7fELF"):
        raise LabError(f"{bzimage.name} holds no kernel compressed with xz")
    return kernel


def _module_dependencies(modules: Path) -> dict[str, list[str]]:
    """Read modules.dep: each module's path to the paths of all that it needs, nearest first."""
    lines = (modules / "modules.dep").read_text(encoding="utf-8").splitlines()
    return {path: needed.split() for path, _, needed in (line.partition(":") for line in lines)}


def _load_order(dependencies: dict[str, list[str]], names: Iterable[str]) -> list[str]:
    """Return the paths of the named modules and of all they need, in the order in which they load."""
    paths = {Path(path).stem.replace("_", "-"): path for path in dependencies}
    order: dict[str, None] = {}
    for name in names:
        path = paths[name.replace("_", "-")]
        order |= dict.fromkeys([*reversed(dependencies[path]), path])
    return list(order)


def _pack_initramfs(work: Path, modules: Path, order: Sequence[str], target: Path) -> None:
    tree = work / "initramfs"
    for folder in ("bin", "dev", "modules", "proc", "root", "seed"):
        (tree / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", tree / "bin")
    shutil.copy(HERE / "initramfs-init", tree / "init")
    for path in order:
        shutil.copy(modules / path, tree / "modules")
    (tree / "modules" / "order").write_text(
        "".join(f"{Path(path).name}\n" for path in order), encoding="utf-8"
    )
    pack_cpio(tree, target)


def pack_cpio(tree: Path, target: Path) -> None:
    """Write the tree as a cpio archive that the kernel unpacks as (a part of) an initramfs.

    Not compressed: emulated hosts unpack slower than QEMU reads. The kernel takes several archives one
    after the other when each is padded to 4 bytes; cpio pads to 512.
    """
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    archive = subprocess.run(
        ["cpio", "--create", "--format=newc", "--quiet", "--null", "--owner=0:0"],
        cwd=tree,
        input="\0".join([".", *names]).encode(),
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    target.write_bytes(archive.stdout)


def _trim(root: Path, modules: Path, dependencies: dict[str, list[str]], kernel_release: str) -> None:
    kept = {path for path in dependencies if path.startswith(recipe.MODULE_FOLDERS)}
    kept |= {needed for path in kept for needed in dependencies[path]}
    kept |= set(_load_order(dependencies, recipe.MODULES))
    for path in modules.rglob("*.ko"):
        if str(path.relative_to(modules)) not in kept:
            path.unlink()
    _run(["chroot", str(root), "depmod", kernel_release])
    for name in recipe.TRIMMED_PATHS:
        path = root / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _customise(root: Path) -> None:
    shutil.copytree(HERE / "overlay", root, dirs_exist_ok=True)
    units = root / "etc" / "systemd" / "system"
    for unit in recipe.MASKED_UNITS:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    for unit in ("lab-network.service", "xen.service"):
        (units / "sysinit.target.wants" / unit).symlink_to(f"../{unit}")
    for key in (root / "etc" / "ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc" / "fstab").write_text("", encoding="utf-8")
    (root / "etc" / "machine-id").write_text("uninitialized\n", encoding="utf-8")


def _only(found: Iterable[Path] | Iterable[str]) -> Path | str:
    candidates = list(found)
    if len(candidates) != 1:
        raise LabError(f"Expected one in the new root file system, found {candidates}")
    return candidates[0]


def _run(
    argv: Sequence[str], *, timeout_seconds: float = 300, environment: dict[str, str] | None = None
) -> str:
    """Run one program of the build and return what it said.

    Raises:
        LabError: it failed or took too long; the message holds its last lines.
    """
    try:
        done = subprocess.run(
            argv,
            env=os.environ | {"LC_ALL": "C.UTF-8"} | (environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_seconds,
        )
    except subprocess.CalledProcessError as error:
        raise LabError(f"{argv[0]} ended with {error.returncode}:\n{error.stderr[-2000:]}") from error
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{error}; tests/install-debian.sh dev test installs what the lab needs") from error
    return done.stdout
