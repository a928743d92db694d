"""The replayed pair does what the actuator's tests take from it."""

import subprocess

import pytest

from exporter.drbd import Role, parse_events2
from exporter.drbd_configuration import parse_show84
from tests.exporter.fake_pair import FakePair

HOSTS = ("v01", "v02")


class Pair(FakePair):
    def __init__(self, folder):
        super().__init__({host: folder / host for host in HOSTS}, folder / "both", ("voms01", "ce01"))

    def run(self, host, program, *arguments):
        argv = [self.of[host].base / "bin" / program, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)

    def roles(self, host, resource="voms01"):
        seen = parse_events2(self.run(host, "drbdsetup", "events2", "--now").stdout).resource(resource)
        (connection,) = seen.connections
        return seen.role, connection.peer_role

    def allowed(self, host):
        shown = parse_show84(self.run(host, "drbdsetup", "show").stdout)
        return {it.name: it.connections[0].allow_two_primaries for it in shown}


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def test_a_promotion_is_seen_on_both_sides_and_of_the_one_resource(pair):
    assert pair.run("v02", "drbdadm", "primary", "voms01").returncode == 0
    assert pair.primaries("voms01") == {"v02"}
    assert pair.roles("v02") == (Role.PRIMARY, Role.SECONDARY)
    assert pair.roles("v01") == (Role.SECONDARY, Role.PRIMARY)
    assert pair.roles("v01", "ce01") == (Role.SECONDARY, Role.SECONDARY)
    assert pair.run("v02", "drbdadm", "secondary", "voms01").returncode == 0
    assert pair.primaries("voms01") == set()


def test_the_window_lets_two_be_primary_and_closes_when_one_is_left(pair):
    pair.be_primary("v01", "voms01")
    refused = pair.run("v02", "drbdadm", "primary", "voms01")
    assert (refused.returncode, pair.primaries("voms01")) == (11, {"v01"})
    assert "(-1) Multiple primaries not allowed by config" in refused.stderr
    assert pair.run("v01", "drbdadm", "net-options", "--allow-two-primaries=yes", "voms01").returncode == 0
    assert pair.allowed("v02") == {"voms01": True, "ce01": False}
    assert pair.run("v02", "drbdadm", "primary", "voms01").returncode == 0
    assert pair.roles("v01") == (Role.PRIMARY, Role.PRIMARY)
    close = ("drbdadm", "net-options", "--allow-two-primaries=no", "voms01")
    assert pair.run("v01", *close).returncode == 10
    assert pair.two_allowed("voms01")
    assert pair.run("v02", "drbdadm", "secondary", "voms01").returncode == 0
    assert pair.run("v01", *close).returncode == 0
    assert not pair.two_allowed("voms01")
    assert pair.allowed("v01") == {"voms01": False, "ce01": False}


def test_as_8_4_it_prints_no_json(pair):
    assert pair.run("v01", "drbdsetup", "show", "--json").returncode == 20
