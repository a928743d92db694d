"""OpenSSH takes the configuration that libvirt's program gives it as it is meant."""

import subprocess
from pathlib import Path

import pytest

from actuator.adapters.ssh_program import ssh_program


@pytest.mark.parametrize("name", ["key", "a key", "100%", "$HOME", "~", "#1", "it's"])
def test_openssh_understands_it(tmp_path, name):
    key, known_hosts = tmp_path / name, tmp_path / f"{name} of hosts"
    program = ssh_program(key, known_hosts)
    shown = subprocess.run([program, "-G", "v01"], capture_output=True, text=True, check=True, timeout=20)
    lines = set(shown.stdout.splitlines())
    assert {
        f"userknownhostsfile {known_hosts}",
        "globalknownhostsfile /dev/null",
        "stricthostkeychecking true",
        "identitiesonly yes",
        "batchmode yes",
        "forwardagent no",
        "clearallforwardings yes",
    } <= lines
    assert [line for line in lines if line.startswith("identityfile ")] == [
        f"identityfile {str(key).replace('%', '%%')}"
    ], "a doubled % is made one when the file is opened"
    assert program.stat().st_mode & 0o777 == 0o700
    assert program.parent.stat().st_mode & 0o077 == 0


def test_it_is_made_once():
    assert ssh_program(Path("/k"), Path("/h")) is ssh_program(Path("/k"), Path("/h"))


@pytest.mark.parametrize("path", ['/a"b', "/a\nb", "/${HOME}/b"])
def test_what_openssh_cannot_name_is_refused(path):
    with pytest.raises(ValueError, match="cannot name such a file"):
        ssh_program(Path(path), Path("/h"))
