"""Debian packages: `python .ci/deb FOLDER` writes them into the folder.

For hosts that do not reach PyPI: what Debian does not have in the needed version is inside, from the locked
wheels. Three packages, so that a hypervisor gets no more than the exporter needs:

vmheal-common     /opt/vmheal, a virtual environment on Debian's own Python, with what both programs need
vmheal-exporter   the exporter, DRBD's handler and the actuator's way in: units, user, settings, manual pages
vmheal-actuator   the actuator: what it needs besides, unit, user, examples, rules and dashboards

libvirt's binding is Debian's python3-libvirt: it must match the host's libvirt. The same commit makes the
same packages, byte for byte, on the same release of Debian.
"""

import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

REPO = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent
PREFIX = Path("opt/vmheal")
PYTHON = "/usr/bin/python3"
FROM_DEBIAN = ("libvirt-python",)
GLIBC = ("_2_36", "_2_34", "_2_28", "_2_17", "2014")
"""Of wheels that Debian 12 can load."""
TIMEOUT_SECONDS = 900
PROGRAMS = {
    "vmheal-exporter": {
        "vmheal-exporter": "exporter.__main__:main",
        "vmheal-fence-peer": "exporter.fence_peer:main",
        "vmheal-host": "exporter.host.command:main",
    },
    "vmheal-actuator": {"vmheal-actuator": "actuator.__main__:main"},
}
WITHOUT_SITE = {"vmheal-fence-peer", "vmheal-host"}
"""They need the standard library alone, and while they start a VM's I/O stands still, or a VM is down."""
HOST_SETTINGS = {
    "host.conf": ("etc/vmheal/host.conf", 0o644),
    "sshd.conf": ("etc/ssh/sshd_config.d/vmheal.conf", 0o644),
    "sudoers": ("etc/sudoers.d/vmheal", 0o440),
}
UNITS = {
    "vmheal-exporter": ("exporter/systemd/vmheal-exporter.service", "exporter/systemd/vmheal-drbd.service"),
    "vmheal-actuator": ("actuator/systemd/vmheal-actuator.service",),
}
DEPENDS = {
    "vmheal-common": "python3 (>= {python}), python3 (<< {next_python}), python3-libvirt",
    "vmheal-exporter": "vmheal-common (= {version}), adduser, sudo",
    "vmheal-actuator": "vmheal-common (= {version}), adduser, openssh-client",
}
RECOMMENDS = {"vmheal-exporter": "drbd-utils, openssh-server", "vmheal-actuator": "fence-agents"}
ABOUT = {
    "vmheal-common": "what vmheal's exporter and actuator have in common",
    "vmheal-exporter": "state of DRBD and virtual machines for Prometheus, and what the actuator calls",
    "vmheal-actuator": "keeps virtual machines on DRBD-mirrored hypervisors running",
}
MAINTAINER = "the vmheal developers <vmheal@localhost>"


class PackagingError(Exception):
    """The packages cannot be built; the text says why."""


def build(folder: Path) -> list[Path]:
    """Write the packages and return where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", _run("git", "log", "-1", "--format=%ct").strip())
    python = _run(PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        wheel = _wheel(work)
        version = wheel.name.split("-")[1]
        trees = {package: work / package for package in ABOUT}
        _common(trees["vmheal-common"], wheel, python)
        _install(trees["vmheal-actuator"], python, "actuator", without=_locked("exporter"))
        _share(trees["vmheal-actuator"], wheel)
        for package, programs in PROGRAMS.items():
            for program, entry in programs.items():
                _launcher(trees[package], program, entry, python)
            for unit in UNITS[package]:
                _copy(REPO / unit, trees[package] / "lib/systemd/system")
            for program in programs:
                page = f"{program}.1"
                _gzip(
                    (REPO / "docs/man" / page).read_bytes(), trees[package] / f"usr/share/man/man1/{page}.gz"
                )
        _copy(
            SCRIPTS / "vmheal-exporter.default", trees["vmheal-exporter"] / "etc/default", "vmheal-exporter"
        )
        for settings, (target, mode) in HOST_SETTINGS.items():
            path = trees["vmheal-exporter"] / target
            _copy(REPO / "exporter/host/etc" / settings, path.parent, path.name, mode=mode)
        for example in ("fence-peer.conf", "drbd-fencing.res"):
            _copy(
                REPO / "docs" / example, trees["vmheal-exporter"] / "usr/share/doc/vmheal-exporter/examples"
            )
        return [_pack(tree, folder, version, python) for tree in trees.values()]


def _wheel(work: Path) -> Path:
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={work}", str(REPO))
    (wheel,) = work.glob("vmheal-*.whl")
    return wheel


def _common(tree: Path, wheel: Path, python: str) -> None:
    """The environment, as `python3 -m venv --without-pip --system-site-packages` makes it."""
    prefix = tree / PREFIX
    (prefix / "bin").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {python}\n", encoding="utf-8"
    )
    for name in ("python", "python3", f"python{python}"):
        (prefix / "bin" / name).symlink_to(PYTHON)
    _install(tree, python, "exporter")
    packages = prefix / "lib" / f"python{python}" / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages, [name for name in archive.namelist() if ".data/" not in name])


def _share(tree: Path, wheel: Path) -> None:
    """Rules, dashboards and examples, as the wheel has them."""
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(wheel) as archive:
        archive.extractall(name, [it for it in archive.namelist() if ".data/data/share/vmheal/" in it])
        (share,) = Path(name).glob("*.data/data/share/vmheal")
        for kind in ("rules", "grafana", "examples"):
            shutil.copytree(share / kind, tree / "usr/share/vmheal" / kind)


def _locked(name: str) -> set[str]:
    return set(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==", _lock(name)))


def _lock(name: str) -> str:
    return (REPO / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def _install(tree: Path, python: str, name: str, without: Sequence[str] | set[str] = ()) -> None:
    """Put the locked wheels into the environment, for Debian's Python, whichever runs this."""
    blocks = re.split(r"\n(?=\S)", _lock(name))
    left_out = {*FROM_DEBIAN, *without}
    kept = [block for block in blocks if block.split("==")[0] not in left_out]
    requirements = tree.with_name(f"{name}.txt")
    requirements.write_text("\n".join(kept) + "\n", encoding="utf-8")
    architecture = platform.machine()
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-compile", "--require-hashes", "--only-binary=:all:", f"--python-version={python}",
        "--implementation=cp",
        *(f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")),
        *(f"--platform=manylinux{tag}_{architecture}" for tag in GLIBC),
        f"--target={tree / PREFIX}/lib/python{python}/site-packages", f"--requirement={requirements}",
    )  # fmt: skip
    # Launchers of the libraries', for the Python that ran pip.
    shutil.rmtree(tree / PREFIX / "lib" / f"python{python}" / "site-packages" / "bin", ignore_errors=True)


def _launcher(tree: Path, program: str, entry: str, python: str) -> None:
    module, _, function = entry.partition(":")
    interpreter, search = f"/{PREFIX}/bin/python3", ""
    if program in WITHOUT_SITE:
        interpreter = "/usr/bin/python3 -IS"
        search = f'sys.path.insert(0, "/{PREFIX}/lib/python{python}/site-packages")\n'
    path = tree / PREFIX / "bin" / program
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"#!{interpreter}\nimport sys\n\n{search}from {module} import {function}\n\nsys.exit({function}())\n",
        encoding="utf-8",
    )
    path.chmod(0o755)
    link = tree / "usr/bin" / program
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"/{PREFIX}/bin/{program}")


def _pack(tree: Path, folder: Path, version: str, python: str) -> Path:
    package = tree.name
    documents = tree / "usr/share/doc" / package
    documents.mkdir(parents=True, exist_ok=True)
    shutil.copy(REPO / "LICENSE", documents / "copyright")
    _gzip((REPO / "CHANGELOG.md").read_bytes(), documents / "changelog.gz")
    control = tree / "DEBIAN"
    control.mkdir()
    for script in ("postinst", "prerm", "postrm"):
        if (source := SCRIPTS / f"{package}.{script}").exists():
            _copy(source, control, script, mode=0o755)
    settings = sorted(f"/{it.relative_to(tree)}\n" for it in (tree / "etc").rglob("*") if it.is_file())
    if settings:
        (control / "conffiles").write_text("".join(settings), encoding="utf-8")
    architecture = _run("dpkg", "--print-architecture").strip()
    (control / "control").write_text(_control(package, tree, version, python, architecture), encoding="utf-8")
    _normalise(tree)
    target = folder / f"{package}_{version}_{architecture}.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(target))
    return target


def _control(package: str, tree: Path, version: str, python: str, architecture: str) -> str:
    major, minor = python.split(".")
    size = sum(it.lstat().st_size for it in tree.rglob("*") if not it.is_dir()) // 1024
    depends = DEPENDS[package].format(version=version, python=python, next_python=f"{major}.{int(minor) + 1}")
    fields = {
        "Package": package,
        "Version": version,
        "Architecture": architecture,
        "Maintainer": MAINTAINER,
        "Installed-Size": str(size),
        "Depends": depends,
        "Recommends": RECOMMENDS.get(package, ""),
        "Section": "admin",
        "Priority": "optional",
        "Description": f"{ABOUT[package]}\n vmheal restarts, moves and fails over virtual machines whose"
        "\n disks DRBD mirrors, on alerts of Prometheus: never twice, and never on an old disk.",
    }
    return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)


def _normalise(tree: Path) -> None:
    """The same times and modes each time."""
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in sorted(tree.rglob("*"), reverse=True):
        if not path.is_symlink():
            mode = path.stat().st_mode
            executable = path.is_dir() or bool(mode & 0o100)
            path.chmod(0o755 if executable else 0o644 if mode & 0o200 else 0o440)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    tree.chmod(0o755)
    os.utime(tree, (epoch, epoch))


def _copy(source: Path, folder: Path, name: str = "", *, mode: int = 0o644) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name or source.name)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _gzip(content: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(content, mtime=0))


def _run(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv, cwd=REPO, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackagingError(f"{argv[0]}: {error}") from error
    if done.returncode:
        raise PackagingError(f"{' '.join(argv[:4])} ...: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")):
            print(path)
    except PackagingError as error:
        sys.exit(f"deb: {error}")
