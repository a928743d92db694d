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
    "vmheal/examples/actuator.yml",
    "vmheal/examples/drbd-fencing.res",
    "vmheal/examples/fence-peer.conf",
    "vmheal/grafana/json/fleet.json",
    "vmheal/grafana/provisioning/dashboards.yml",
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
    assert {Path(name).suffix for name in set(code) - {*of_page}} == {".py", ".typed"}
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
@pytest.mark.parametrize(
    ("lock", "programs", "foreign"),
    [
        ("exporter", ("vmheal-exporter", "vmheal-fence-peer"), ("flask", "paramiko", "pydantic")),
        ("actuator", ("vmheal-actuator", "vmheal-exporter"), ("pytest",)),
    ],
)
def test_it_runs_from_the_wheel_and_the_locked_requirements(wheel, tmp_path, lock, programs, foreign):
    """libvirt's binding apart, which is compiled, or Debian's."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
    text = (REPO / "requirements" / f"{lock}.txt").read_text()
    kept = [it for it in re.split(r"\n(?=\S)", text) if not it.startswith("libvirt-python==")]
    (tmp_path / "requirements.txt").write_text("\n".join(kept))
    pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
    for arguments in (
        ["--require-hashes", "--only-binary=:all:", "-r", tmp_path / "requirements.txt"],
        ["--no-deps", "--no-index", wheel],
    ):
        subprocess.run([*pip, *arguments], check=True, timeout=300)
    (packages,) = venv.glob("lib/python*/site-packages")
    for it in Path(libvirt.__file__).parent.glob("libvirt*"):
        if it.is_file():
            (packages / it.name).symlink_to(it)
    for program in programs:
        done = subprocess.run(
            [venv / "bin" / program, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            env={},
            cwd="/",
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert program in done.stdout
    assert not any((packages / it).exists() for it in foreign)
    assert (venv / "share/vmheal/systemd/vmheal-exporter.service").exists()
