"""The wheel and the sdist: what is in them, and that both programs run from the wheel alone."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import libvirt
import pytest

from exporter import __version__

REPO = Path(__file__).parents[2]
SHARED = {
    "man/man1/vmheal-actuator.1",
    "man/man1/vmheal-exporter.1",
    "man/man1/vmheal-fence-peer.1",
    "man/man1/vmheal-host.1",
    "vmheal/examples/actuator.yml",
    "vmheal/examples/drbd-fencing.res",
    "vmheal/examples/fence-peer.conf",
    "vmheal/grafana/json/fleet.json",
    "vmheal/grafana/provisioning/dashboards.yml",
    "vmheal/hosts/host.conf",
    "vmheal/hosts/sshd.conf",
    "vmheal/hosts/sudoers",
    "vmheal/requirements/actuator.txt",
    "vmheal/requirements/exporter.txt",
    "vmheal/rules/alertmanager.yml",
    "vmheal/rules/health.yml",
    "vmheal/rules/prometheus.yml",
    "vmheal/rules/vmheal.yml",
    "vmheal/systemd/vmheal-actuator.service",
    "vmheal/systemd/vmheal-drbd.service",
    "vmheal/systemd/vmheal-exporter.service",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPO]
    subprocess.run(argv, check=True, capture_output=True, timeout=110)
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    (wheel,) = built.glob("vmheal-*.whl")
    return wheel


def test_the_wheel_has_all_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    data = f"vmheal-{__version__}.data/data/share/"
    shared = {name.removeprefix(data) for name in names if name.startswith(data)}
    assert shared >= SHARED
    code = [name for name in names if name.startswith(("exporter/", "actuator/"))]
    of_page = [
        name for name in code if name.startswith(("actuator/page/static/", "actuator/page/templates/"))
    ]
    assert {Path(name).suffix for name in of_page} == {".css", ".html", ".js", ".svg"}
    of_init = {f"actuator/shipped/{name}" for name in ("alertmanager.yml", "prometheus.yml")}
    assert {Path(name).suffix for name in set(code) - {*of_page} - of_init} == {".py", ".typed"}
    with zipfile.ZipFile(wheel) as archive:
        for name in of_init:
            assert archive.read(name) == (REPO / "rules" / Path(name).name).read_bytes()
    rest = [it for it in names if not it.startswith(("exporter/", "actuator/", data))]
    assert all(it.startswith(f"vmheal-{__version__}.dist-info/") for it in rest)


def test_the_sdist_is_the_repository(built):
    (sdist,) = built.glob("vmheal-*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True)
    tracked = {it for it in listed.stdout.splitlines() if not it.startswith(".")}
    assert names >= tracked
    assert not any(it.startswith((".cache", ".venv", "dist")) for it in names)


@pytest.mark.daemons  # asks PyPI
@pytest.mark.timeout(600)
def test_it_runs_from_the_wheel_and_the_locked_requirements(wheel, tmp_path):
    """First what a hypervisor gets, then the actuator's on top; libvirt's binding apart, which is compiled, or Debian's."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=120)
    (packages,) = venv.glob("lib/python*/site-packages")
    for it in Path(libvirt.__file__).parent.glob("libvirt*"):
        if it.is_file():
            (packages / it.name).symlink_to(it)
    pip_install(venv, "--no-deps", "--no-index", wheel)
    pip_install(venv, *locked("exporter", tmp_path))
    for program in ("vmheal-exporter", "vmheal-fence-peer"):
        assert program in helped(venv, program)
    refused = subprocess.run(
        [venv / "bin/vmheal-host"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (refused.returncode, "no shell" in refused.stderr) == (126, True)
    assert not any((packages / it).exists() for it in ("flask", "paramiko", "pydantic"))
    assert (venv / "share/vmheal/systemd/vmheal-exporter.service").exists()
    pip_install(venv, *locked("actuator", tmp_path))
    assert "vmheal-actuator" in helped(venv, "vmheal-actuator")
    assert not (packages / "pytest").exists()


def pip_install(venv, *arguments):
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin/python", "install"]
    quick = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, *quick, *arguments], check=True, timeout=300)


def locked(lock, folder):
    """What pip is told to install a lock, but for libvirt's binding."""
    text = (REPO / "requirements" / f"{lock}.txt").read_text()
    kept = [it for it in re.split(r"\n(?=\S)", text) if not it.startswith("libvirt-python==")]
    (folder / f"{lock}.txt").write_text("\n".join(kept))
    return ["--require-hashes", "--only-binary=:all:", "-r", folder / f"{lock}.txt"]


def helped(venv, program):
    argv = [venv / "bin" / program, "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={}, cwd="/", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
