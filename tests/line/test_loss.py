"""A host is lost with all its VMs: they come up on the other one, and nowhere else."""

from pathlib import Path

import pytest

from actuator.model import Proof
from tests.line.loss import LosableLine

pytestmark = [pytest.mark.daemons, pytest.mark.timeout(600)]

VMS = ("voms01", "ce01")


def test_vms_of_a_lost_host_that_is_fenced_run_on_the_other(tmp_path: Path) -> None:
    with LosableLine(tmp_path, VMS, Proof.POWER) as line:
        line.wait_at_rest()
        assert line.running("v01") == set(VMS)
        took = line.lose()
        assert line.running("v02") == set(VMS)
        assert (
            0 < took.received <= took.decided <= took.first_promotion <= took.first_start <= took.last_start
        )
        assert "off" in (tmp_path / "v01.power").read_text()
        assert sorted(line.drbd["v02"].calls("drbdadm primary")) == sorted(
            f"drbdadm primary {vm}" for vm in VMS
        )
        assert line.drbd["v01"].calls("drbdadm primary") == []
        line.bring_back()
        line.wait_at_rest()
        assert line.running("v01") == set()
        assert line.running("v02") == set(VMS)
        assert [line.starts(vm) for vm in VMS] == [1, 1]
