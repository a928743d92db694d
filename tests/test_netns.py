"""What a killed test leaves behind is taken away by the next."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns import network_namespace

OWNER = """
import subprocess, sys
from tests.netns import network_namespace
with network_namespace({}) as netns:
    subprocess.Popen([*netns.prefix, "sleep", "600"], stdout=subprocess.DEVNULL)
    print(netns.name, flush=True)
    sys.stdin.read()
"""


@pytest.mark.daemons
def test_a_killed_owner_leaves_nothing_for_long() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        name = owner.stdout.readline().decode().strip()
        with network_namespace({}):
            assert Path("/run/netns", name).exists()  # its owner lives
        owner.kill()
    with network_namespace({"v01": "127.0.0.1"}) as netns:
        assert not Path("/run/netns", name).exists()
        assert not Path("/etc/netns", name).exists()
        hosts = subprocess.run(
            [*netns.prefix, "cat", "/etc/hosts"], capture_output=True, text=True, check=True
        )
        assert hosts.stdout == "127.0.0.1 localhost\n127.0.0.1 v01\n"
    assert not Path("/run/netns", netns.name).exists()
