"""The shipped units: hardened as far as their work allows, watched, and started again without end."""

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
EXPORTER = REPO / "exporter" / "systemd" / "vmheal-exporter.service"
ACTUATOR = REPO / "actuator" / "systemd" / "vmheal-actuator.service"
DRBD = REPO / "exporter" / "systemd" / "vmheal-drbd.service"
AT_MOST = 2.5


@pytest.mark.daemons  # needs systemd's programs
@pytest.mark.parametrize("unit", [EXPORTER, ACTUATOR], ids=lambda it: it.stem)
def test_it_may_do_little(unit):
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", unit]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    (rating,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert float(rating) <= AT_MOST, said


@pytest.mark.daemons
@pytest.mark.parametrize("unit", [EXPORTER, ACTUATOR], ids=lambda it: it.stem)
def test_systemd_understands_every_line(unit, tmp_path):
    """Programs and pages that are not installed here apart."""
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/opt/vmheal/bin/\S+", "/bin/true", unit.read_text()))
    argv = ["systemd-analyze", "verify", "--man=no", copy]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.daemons
def test_systemd_understands_the_documented_credentials(tmp_path):
    text = (REPO / "docs" / "security.md").read_text()
    lines = re.findall(r"^    (LoadCredential\w*=.+)$", text, re.MULTILINE)
    assert len(lines) == 2
    copy = tmp_path / ACTUATOR.name
    unit = re.sub(r"/opt/vmheal/bin/\S+", "/bin/true", ACTUATOR.read_text())
    for changed, fine in ((lines, True), ([lines[0].replace("/root", "root")], False)):
        copy.write_text(unit.replace("[Service]\n", "\n".join(["[Service]", *changed, ""])))
        argv = ["systemd-analyze", "verify", "--man=no", copy]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert (done.stderr == "") is fine, done.stderr


@pytest.mark.parametrize("unit", [EXPORTER, ACTUATOR], ids=lambda it: it.stem)
def test_it_comes_back_whatever_ends_it(unit):
    said = ConfigParser(strict=False, interpolation=None)
    said.optionxform = str
    said.read(unit)
    assert said["Unit"]["StartLimitIntervalSec"] == "0"
    assert said["Service"]["Type"] == "notify"
    assert said["Service"]["Restart"] == "always"
    assert int(said["Service"]["WatchdogSec"]) > 0


@pytest.mark.daemons  # needs systemd's programs
def test_where_it_is_enabled_debians_drbd_is_not_started(tmp_path):
    """It attaches without asking. What is enabled is given back."""
    shipped, own = tmp_path / "lib/systemd/system", tmp_path / "etc/systemd/system"
    shipped.mkdir(parents=True)
    (shipped / "drbd.service").write_text(
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    )
    (shipped / DRBD.name).write_text(DRBD.read_text())

    def systemctl(word, unit):
        subprocess.run(["systemctl", "--quiet", f"--root={tmp_path}", word, unit], check=True, timeout=60)

    systemctl("enable", "drbd.service")
    systemctl("enable", DRBD.name)
    assert (own / "drbd.service").readlink().name == DRBD.name
    assert (own / "multi-user.target.wants" / DRBD.name).is_symlink()
    systemctl("disable", DRBD.name)
    assert not (own / "drbd.service").is_symlink()
    assert (own / "multi-user.target.wants/drbd.service").is_symlink()
