"""The Debian packages: built, installed into a new Debian, removed and purged."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
PACKAGES = ("vmheal-common", "vmheal-exporter", "vmheal-actuator")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = "python3,python3-libvirt,adduser,sudo,openssh-client,init-system-helpers"


@pytest.mark.parametrize(
    "script", sorted(REPO.glob(".ci/deb/*.*rm")) + sorted(REPO.glob(".ci/deb/*.postinst")), ids=str
)
def test_a_script_is_one(script):
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")
    subprocess.run(["sh", "-n", script], check=True, timeout=10)


@pytest.fixture(scope="module")
def debs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deb")
    subprocess.run([sys.executable, ".ci/deb", folder], cwd=REPO, check=True, timeout=900)
    return {it.name.partition("_")[0]: it for it in folder.glob("*.deb")}


@pytest.fixture(scope="module")
def debian(tmp_path_factory):
    """A Debian of its own, as a folder."""
    root = tmp_path_factory.mktemp("debian")
    argv = ["mmdebstrap", "--quiet", "--variant=apt", "--mode=root", f"--include={NEEDED}", "bookworm", root]
    subprocess.run(argv, check=True, timeout=900)
    return root


def chrooted(root, *argv, stdin=""):
    done = subprocess.run(
        ["chroot", root, *argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={"PATH": PATH},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.lab
@pytest.mark.timeout(1800)
def test_they_are_installed_run_and_purged(debs, debian):
    assert set(debs) == set(PACKAGES)
    for it in debs.values():
        (debian / it.name).write_bytes(it.read_bytes())
    files = {name: f"/{it.name}" for name, it in debs.items()}
    before = listing(debian)

    chrooted(debian, "dpkg", "--install", files["vmheal-common"], files["vmheal-exporter"])
    assert "Publish the state" in chrooted(debian, "vmheal-exporter", "--help")
    chrooted(debian, "vmheal-fence-peer", "--help")
    assert enabled(debian) == {"vmheal-exporter.service"}
    packages = next((debian / "opt/vmheal/lib").glob("python3.*/site-packages"))
    assert not any((packages / it).exists() for it in ("flask", "paramiko", "pydantic"))
    assert not (debian / "usr/bin/vmheal-actuator").exists()
    the_actuator_gets_in_and_may_do_nothing_yet(debian)

    chrooted(debian, "dpkg", "--install", files["vmheal-actuator"])
    assert "Keep protected VMs running" in chrooted(debian, "vmheal-actuator", "--help")
    assert enabled(debian) == {"vmheal-exporter.service", "vmheal-actuator.service"}
    assert chrooted(debian, "stat", "-c", "%a %U %G", "/etc/vmheal", "/var/lib/vmheal").split("\n")[1] == (
        "700 vmheal vmheal"
    )
    config = debian / "etc/vmheal/actuator.yml"
    config.write_text("mode: observe\n")
    (debian / "etc/vmheal/host.conf").write_text("resource vm1\n")
    (debian / "etc/vmheal/authorized_keys").write_text("restrict ssh-ed25519 AAAA\n")
    (debian / "etc/default/vmheal-exporter").write_text('VMHEAL_EXPORTER_FLAGS="--log.format=json"\n')
    chrooted(debian, "dpkg", "--force-confold", "--install", *files.values())
    assert config.read_text() == "mode: observe\n", "an upgrade leaves it alone"
    assert "json" in (debian / "etc/default/vmheal-exporter").read_text()
    assert "refused" not in asked_as_the_actuator(debian), "an upgrade leaves it alone"

    chrooted(debian, "dpkg", "--remove", "vmheal-actuator")
    assert config.exists(), "only a purge removes it"
    chrooted(debian, "dpkg", "--purge", "vmheal-actuator")
    assert asked_as_the_actuator(debian), "user and settings are the exporter's, too"
    chrooted(debian, "dpkg", "--purge", "vmheal-exporter", "vmheal-common")
    assert "vmheal" not in (debian / "etc/passwd").read_text()
    assert listing(debian) - before <= {"var/lib/systemd/deb-systemd-helper-masked"}


def the_actuator_gets_in_and_may_do_nothing_yet(debian):
    assert (debian / "etc/passwd").read_text().splitlines()[-1].endswith(":/var/lib/vmheal:/bin/sh")
    assert "\nvmheal:*:" in (debian / "etc/shadow").read_text(), "not locked, for an sshd without PAM"
    modes = {
        "/etc/sudoers.d/vmheal": "440",
        "/etc/ssh/sshd_config.d/vmheal.conf": "644",
        "/etc/vmheal/host.conf": "644",
    }
    for path, mode in modes.items():
        assert chrooted(debian, "stat", "-c", "%a %U %G", path) == f"{mode} root root\n"
    chrooted(debian, "visudo", "--check", "--strict")
    assert "the resource vm1 is not in this host's configuration" in asked_as_the_actuator(debian)


def asked_as_the_actuator(debian):
    """What vmheal-host answers, as sshd starts it: by the user's shell, and sudo."""
    request = '{"id": 1, "seconds": 5, "run": ["drbdadm", "primary", "vm1"]}\n'
    forced = ["runuser", "-u", "vmheal", "--", "/bin/sh", "-c", "/usr/bin/vmheal-host"]
    return chrooted(debian, "env", "SSH_ORIGINAL_COMMAND=vmheal-host", *forced, stdin=request)


def enabled(debian):
    return {it.name for it in (debian / "etc/systemd/system").rglob("vmheal-*.service")}


def listing(debian):
    """What there is, but for dpkg's own notes."""
    found = {str(it.relative_to(debian)) for it in debian.rglob("*")}
    mutable = ("var/lib/dpkg", "var/log", "var/cache", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")
    return {
        it for it in found if not it.startswith((*mutable, "proc", "dev", "run", "etc/subuid", "etc/subgid"))
    }


@pytest.mark.lab
@pytest.mark.timeout(1800)
def test_the_same_commit_makes_the_same_packages(debs, tmp_path):
    subprocess.run([sys.executable, ".ci/deb", tmp_path], cwd=REPO, check=True, timeout=900)
    assert {it.name: it.read_bytes() for it in tmp_path.glob("*.deb")} == {
        it.name: it.read_bytes() for it in debs.values()
    }
