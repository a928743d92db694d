"""vmheal-fence-peer check: what it finds wrong, against the arbiter over HTTP."""

import json
import time
from pathlib import Path

import pytest

from exporter import fence_check, fence_peer
from tests.actuator.deliveries import TOKENS, patient_journal, served

VIRSH = """#!/bin/sh
test "$*" = "--quiet --connect qemu:///system uri" && exit
echo "error: failed to connect to the hypervisor" >&2
exit 1
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """As it should be; each test breaks one thing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {"virsh": VIRSH, "drbdadm": "#!/bin/sh\n"}.items():
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    (tmp_path / "helper").write_text(f"{programs / 'drbdadm'}\n")
    (tmp_path / "token").write_text(TOKENS["v01"])
    for name, flags in {"br0": "0x1003", "eth1": "0x1002"}.items():
        (tmp_path / "net" / name).mkdir(parents=True)
        (tmp_path / "net" / name / "flags").write_text(flags)
    (tmp_path / "net" / "bonding_masters").write_text("\n")
    journal = patient_journal(tmp_path / "journal")
    with served(journal) as receiver:
        (tmp_path / "conf").write_text(
            f"actuator 127.0.0.1:{receiver.port}\ntoken_file {tmp_path / 'token'}\nlibvirt_uri qemu:///system\n"
        )
        yield tmp_path
    journal.close()


def checked(host, capsys, *, as_json=True):
    status = fence_check.check(
        str(host / "conf"), as_json=as_json, helper=str(host / "helper"), net=str(host / "net")
    )
    out = capsys.readouterr().out
    return status, json.loads(out.splitlines()[-1]) if as_json else out  # the arbiter's log is above it


def test_a_host_that_is_well(host, capsys):
    before = time.time()
    status, found = checked(host, capsys)
    assert before <= found.pop("time") <= time.time()
    assert found.pop("cpu") in Path("/proc/cpuinfo").read_text()
    assert (status, found) == (0, {
        "host": "v01", "isolation_seconds": 5.0, "links": {"br0": True, "eth1": False}, "problems": [],
    })  # fmt: skip
    assert checked(host, capsys, as_json=False) == (0, "ok: the arbiter knows this host as v01\n")


def rewrite(name, old, new):
    def change(host):
        text = (host / name).read_text()
        assert old in text
        (host / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda host: (host / "conf").unlink(), "No such file or directory"),
        (rewrite("conf", "token_file", "token"), "conf:2: must be"),
        (lambda host: (host / "token").unlink(), "No such file or directory"),
        (lambda host: (host / "token").write_text("old"), "no actuator answers: 127.0.0.1:"),
        (
            rewrite("conf", "actuator 127.0.0.1:", "actuator 127.0.0.1:1\n#"),
            "no actuator answers: 127.0.0.1:1: ",
        ),
        (rewrite("conf", "libvirt_uri", "#"), "no libvirt_uri is configured"),
        (rewrite("conf", "qemu:", "xen:"), "virsh --connect xen:///system: error: failed to connect"),
        (lambda host: (host / "bin" / "virsh").unlink(), "virsh: "),
        (lambda host: (host / "bin" / "drbdadm").unlink(), "which is not there"),
        (lambda host: (host / "helper").write_text("/bin/true\n"), "and not drbdadm"),
    ],
)
def test_what_is_wrong(host, capsys, change, said, monkeypatch):
    change(host)
    monkeypatch.setenv("PATH", str(host / "bin"))
    status, found = checked(host, capsys)
    assert status == 1
    assert [said in it for it in found["problems"]] == [True], found
    assert found["links"] == {"br0": True, "eth1": False}
    assert said in checked(host, capsys, as_json=False)[1]


def test_another_hosts_token_is_told_by_its_name(host, capsys):
    (host / "token").write_text(TOKENS["v02"])
    assert checked(host, capsys)[1]["host"] == "v02"


def test_a_second_actuator_will_do(host, capsys):
    rewrite("conf", "actuator ", "actuator 127.0.0.1:1\nactuator ")(host)
    assert checked(host, capsys)[1]["host"] == "v01"


def test_with_witnesses_it_waits_for_longer(host, capsys):
    rewrite("conf", "actuator ", "witness 10.0.0.1:22\nactuator ")(host)
    assert checked(host, capsys)[1]["isolation_seconds"] == 60.0


def test_without_drbd_there_is_no_helper_to_be_wrong(host, capsys):
    (host / "helper").unlink()
    assert checked(host, capsys)[0] == 0


def test_it_is_a_subcommand_of_the_handler(host, capsys, monkeypatch):
    monkeypatch.setattr(fence_peer, "say", lambda sentence: None)
    assert fence_peer.run(["check"], {}, str(host / "conf")) in {0, 1}
    assert capsys.readouterr().out
    with pytest.raises(fence_peer.HookError, match="usage"):
        fence_peer.run(["check", "voms01"], {}, str(host / "conf"))
