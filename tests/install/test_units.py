"""The shipped units: hardened as far as their work allows, watched, and started again without end."""

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
EXPORTER = REPO / "exporter" / "systemd" / "vmheal-exporter.service"
ACTUATOR = REPO / "actuator" / "systemd" / "vmheal-actuator.service"
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


@pytest.mark.parametrize("unit", [EXPORTER, ACTUATOR], ids=lambda it: it.stem)
def test_it_comes_back_whatever_ends_it(unit):
    said = ConfigParser(strict=False, interpolation=None)
    said.optionxform = str
    said.read(unit)
    assert said["Unit"]["StartLimitIntervalSec"] == "0"
    assert said["Service"]["Type"] == "notify"
    assert said["Service"]["Restart"] == "always"
    assert int(said["Service"]["WatchdogSec"]) > 0
