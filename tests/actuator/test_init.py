"""init: what is made of a look around, and that nothing is overwritten or half written."""

import json
import ssl
import stat
from dataclasses import replace
from typing import ClassVar

import paramiko
import pytest
import yaml

import actuator.__main__ as program
from actuator.adapters import survey
from actuator.adapters.ssh import Completed, SshAccess
from actuator.commands import next_step
from actuator.config import Settings, load
from actuator.initial import Choices, DomainFound, HostFound, ResourceFound, chosen, files, findings
from actuator.model import Disk, DomainState, HostView, Parting
from actuator.ports import Unanswered
from exporter import fence_peer
from exporter.host import config as host_config
from exporter.web import Response
from exporter.web_config import WebConfigFile
from tests.actuator.build import resource, snapshot, view
from tests.actuator.test_program import run
from tests.exporter.certificates import Authority as CertificateAuthority
from tests.exporter.serving import serving

BOTH = ("v01", "v02")
ASKS = ResourceFound(BOTH, Parting.ASKS)
UP, DOWN = DomainState.RUNNING, DomainState.SHUTOFF
CHOICES = Choices(
    "10.0.0.9", 22, "http://p:9090", "http://a:9093", "ssh-ed25519 AAAA vmheal", program._shipped()
)
RULES = program.Path(__file__).parents[2] / "rules"


GOES_ON = {"voms01": ResourceFound(BOTH, Parting.GOES_ON)}
COMMON = "common {\n\thandlers {\n\t}\n\tdisk {\n\t\t# size\n\t}\n\tnet {\n\t}\n}\n"


def host(name, *, domains=None, resources=None, bmc="10.30.0.1", driver="xen", **more):
    return HostFound(
        name,
        f"10.0.0.{name[-1]}",
        f"{driver}+ssh://10.0.0.{name[-1]}/system",
        {"voms01": ASKS} if resources is None else resources,
        {"voms01": DomainFound(DOWN, ("voms01",))} if domains is None else domains,
        bmc,
        **more,
    )


def running(**more):
    return {"voms01": DomainFound(UP, ("voms01",), **more)}


PAIR = [host("v01"), host("v02", domains=running())]


def test_a_vm_is_at_home_where_it_runs():
    assert chosen(PAIR)["voms01"].home == "v02"
    assert chosen(PAIR)["voms01"].hosts == BOTH
    assert findings(PAIR) == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([host("v01", domains=running()), host("v02", domains=running())], "voms01 runs on v01 and v02"),
        ([host("v01", domains=running(autostart=True)), host("v02")], "virsh autostart --disable voms01"),
        ([host("v01", domains=running(others=("/dev/sdb",))), host("v02", domains={})], "/dev/sdb is not on"),
        ([host("v01")], "voms01: its host v02 was not named"),
        ([host("v01", domains={"cron": DomainFound(UP, ())}), host("v02")], "cron on v01: not protected"),
        ([host("v01", bmc=""), host("v02")], "v01: no power control"),
        ([replace(host("v01"), libvirt_answers=False), host("v02")], "is a guess"),
        ([host("v01", problems=("DRBD on v01: no",)), host("v02")], "v01: DRBD on v01: no"),
        ([host("v01", resources=GOES_ON)], "writes on when"),
        ([host("v01", resources=GOES_ON)], "by hand what has it ask the arbiter"),
        (
            [host("v01", resources=GOES_ON, drbd_common=COMMON)],
            "once hosts/v01/etc/drbd.d/global_common.conf is",
        ),
        ([host("v01", resources={"voms01": ResourceFound(BOTH, Parting.LOSES)})], "protocol A or B"),
        ([host("v01", resources={"voms01": ResourceFound(BOTH, None)})], "is not known"),
    ],
)
def test_what_stands_in_the_way_is_said(found, said):
    assert any(said in it for it in findings(found)), findings(found)
    assert f"# TO DO: {findings(found)[0]}" in files(found, CHOICES)["actuator.yml"]


@pytest.mark.parametrize(
    "domains", [running(others=("/dev/sdb",)), {"voms01": DomainFound(UP, ())}, {}], ids=repr
)
def test_what_is_not_mirrored_is_not_protected(domains):
    assert chosen([host("v01", domains=domains), host("v02", domains={})]) == {}
    assert chosen([host("v01", domains=running())]) == {}, "its peer is not there"


def test_what_is_written_is_understood(tmp_path):
    (tmp_path / "actuator.yml").write_text(files(PAIR, CHOICES)["actuator.yml"])
    settings = load(tmp_path / "actuator.yml")
    assert (settings.mode, settings.hosts_of("voms01"), settings.domains["voms01"].host) == (
        "observe",
        BOTH,
        "v02",
    )
    assert (settings.ssh.user, settings.ssh.command) == ("vmheal", "vmheal-host")
    made = files(PAIR, CHOICES)
    assert "actuator https://10.0.0.9:10811\n" in made["hosts/v01/etc/vmheal/fence-peer.conf"]
    for name in ("prometheus.yml", "alertmanager.yml"):
        assert "localhost" not in made[name]
        here = made[name].replace("10.0.0.9:10811", "localhost:10811").replace("a:9093", "localhost:9093")
        plain = here.replace("https://", "http://").replace("scheme: https", "# scheme: https")
        shipped = (RULES / name).read_text()
        assert plain.replace("tls_config:", "# tls_config:") == shipped.replace("https://", "http://")
        assert here.count("https://localhost:10811") == shipped.count("http://localhost:10811") == 1
    scraped = yaml.safe_load(made["prometheus.yml"])["scrape_configs"]
    for job in scraped:
        [asks] = job.get("http_sd_configs", [job])
        assert asks["tls_config"] == {"ca_file": "ca.pem"}
    assert scraped[2]["scheme"] == "https"
    [webhook] = yaml.safe_load(made["alertmanager.yml"])["receivers"][0]["webhook_configs"]
    assert webhook["http_config"]["tls_config"] == {"ca_file": "ca.pem"}


def test_the_key_may_do_what_is_protected_and_no_more():
    more = {"cron": DomainFound(UP, ("cron",)), "old": DomainFound(DOWN, (), ("/dev/sdb",))}
    alone = {"voms01": ASKS, "cron": ResourceFound(("v01",), Parting.ASKS)}
    found = [host("v01", domains=more, resources=alone), host("v02", domains=running())]
    made = files(found, CHOICES)
    for it in ("v01", "v02"):
        config = host_config.parse(made[f"hosts/{it}/etc/vmheal/host.conf"])
        assert (config.resources, config.domains) == ({"voms01"}, {"voms01"}), "where it may come up, too"
        assert config.migrate_uris == frozenset(), "Xen's are not moved while they run"
        assert made[f"hosts/{it}/etc/vmheal/authorized_keys"].splitlines()[1:] == [
            'restrict,from="10.0.0.9",command="/usr/bin/vmheal-host" ssh-ed25519 AAAA vmheal'
        ]
    assert "# not protected: resource cron\n" in made["hosts/v01/etc/vmheal/host.conf"]
    assert "# not protected: domain old\n" in made["hosts/v01/etc/vmheal/host.conf"]


def test_a_live_migration_goes_where_the_actuator_sends_it(tmp_path):
    found = [host("v01", driver="qemu"), host("v02", driver="qemu", domains=running())]
    found.append(host("v03", driver="qemu", domains={}, resources={}))
    made = files(found, CHOICES)
    (tmp_path / "actuator.yml").write_text(made["actuator.yml"])
    peer = load(tmp_path / "actuator.yml").hosts["v02"]
    assert host_config.parse(made["hosts/v01/etc/vmheal/host.conf"]).migrate_uris == {
        peer.migrate_libvirt_uri or peer.libvirt_uri,
        f"tcp://{peer.migrate_address or peer.address}",
    }
    assert host_config.parse(made["hosts/v03/etc/vmheal/host.conf"]) == host_config.Config()


def test_as_it_is_shipped_the_key_may_touch_nothing():
    shipped = program.Path(__file__).parents[2] / "exporter" / "host" / "etc" / "host.conf"
    assert host_config.parse(shipped.read_text()) == host_config.Config()


@pytest.mark.parametrize("name", ["on", "1vm", "a:b", "true"])
def test_a_name_that_yaml_takes_for_something_else_is_quoted(name):
    found = [host(it, domains={name: DomainFound(UP, ("voms01",))}) for it in BOTH]
    assert list(yaml.safe_load(files(found, CHOICES)["actuator.yml"])["domains"]) == [name]


@pytest.fixture
def site(tmp_path, monkeypatch):
    for name in ("key", "known"):
        (tmp_path / name).write_text(name)
    found = {"10.0.0.1": PAIR[0], "10.0.0.2": PAIR[1]}

    def look(access, *, timeout_seconds):
        if isinstance(it := found[access.address], Exception):
            raise it
        return it

    monkeypatch.setattr(program, "look_around", look)
    arguments = ["init", *found, "--out", tmp_path / "out", "--actuator", "10.0.0.9"]
    return (
        found,
        [*arguments, "--key", tmp_path / "key", "--known-hosts", tmp_path / "known"],
        tmp_path / "out",
    )


def test_a_new_folder_with_tokens_of_their_own(site):
    _, arguments, out = site
    status, said, errors = run(*arguments)
    assert (status, errors) == (0, "")
    assert "2 hosts, 1 VMs to protect" in said
    tokens = {
        it: (out / it).read_text()
        for it in ("webhook.token", "operator.token", "arbiter-v01.token", "arbiter-v02.token")
    }
    assert len(set(tokens.values())) == 4
    assert all(len(it.strip()) == 64 for it in tokens.values())
    assert (out / "hosts/v01/etc/vmheal/fence-peer.token").read_text() == tokens["arbiter-v01.token"]
    modes = {it.name: stat.S_IMODE(it.stat().st_mode) for it in out.rglob("*") if it.is_file()}
    assert {mode for name, mode in modes.items() if name.endswith(".token")} == {0o600}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {modes[it] for it in ("id_ed25519", "ca.key", "actuator.key")} == {0o600}
    paramiko.Ed25519Key.from_private_key_file(str(out / "id_ed25519"))
    public = (out / "id_ed25519.pub").read_text()
    for name in BOTH:
        assert (out / "hosts" / name / "etc/vmheal/authorized_keys").read_text().endswith(f" {public}")
    before = {it: it.read_bytes() for it in out.rglob("*") if it.is_file()}
    status, _, errors = run(*arguments)
    assert (status, "nothing is overwritten" in errors) == (2, True)
    assert {it: it.read_bytes() for it in out.rglob("*") if it.is_file()} == before


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_the_hosts_believe_the_actuator_and_no_other(site, address, tmp_path, monkeypatch):
    """With the very files, and as strict as later Pythons are."""
    _, arguments, out = site
    arguments[arguments.index("10.0.0.9")] = address
    assert run(*arguments)[0] == 0
    config = WebConfigFile(out / "web.yml")
    assert (
        load(out / "actuator.yml").web.url == f"https://{f'[{address}]' if ':' in address else address}:10811"
    )
    path = out / "hosts/v01/etc/vmheal/fence-peer.conf"
    path.write_text(path.read_text().replace("/etc/vmheal", str(path.parent)))
    if address == "::1":
        monkeypatch.setattr("tests.exporter.serving.LOOPBACK", "[::1]")
    strict = fence_peer._context

    def context(tls):
        made = strict(tls)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    monkeypatch.setattr(fence_peer, "_context", context)

    def answer(request):
        return Response(200, json.dumps({"host": request.headers["authorization"]}).encode())

    with serving(answer, tls=lambda: config.current().tls) as port:
        path.write_text(path.read_text().replace(":10811", f":{port}"))
        read = fence_peer.read_config(str(path))
        said = fence_peer.exchange(read.actuators[0], read.token, None)
        assert said == {"host": f"Bearer {(out / 'arbiter-v01.token').read_text().strip()}"}
        (tmp_path / "other").mkdir()
        other = CertificateAuthority(tmp_path / "other")
        stranger = read.actuators[0]._replace(tls=fence_peer.Tls(str(other.file)))
        with pytest.raises(OSError, match="certificate verify failed"):
            fence_peer.exchange(stranger, read.token, None)


@pytest.mark.parametrize("fault", [Unanswered("10.0.0.2: no"), PAIR[0]], ids=["silent", "the same twice"])
def test_without_a_host_nothing_is_written(site, fault):
    found, arguments, out = site
    found["10.0.0.2"] = fault
    status, _, errors = run(*arguments)
    assert status == 2
    assert "10.0.0.2: no" in errors or "call themselves v01" in errors
    assert list(out.parent.glob("*out*")) == []


def test_without_a_key_nothing_is_written(site, monkeypatch):
    _, arguments, out = site
    monkeypatch.setenv("PATH", "/nowhere")
    status, _, errors = run(*arguments)
    assert (status, "ssh-keygen makes no key" in errors) == (2, True)
    assert list(out.parent.glob("*out*")) == []


def test_a_write_that_fails_leaves_nothing(site, monkeypatch):
    _, arguments, out = site
    monkeypatch.setattr(program.secrets, "token_hex", lambda _: "\udc80")
    with pytest.raises(AssertionError):
        run(*arguments)
    assert list(out.parent.glob("*out*")) == []


# ---- the look around -------------------------------------------------------------------------------------


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK7OPKsMqeO/WntjKLj16pz+46C48kLhyO7YVoUQmTeg"


class Host:
    """What the three ways to a host answer."""

    said: ClassVar = {
        "uname": "v01",
        "cat": "xen",
        "ipmitool": "Set in Progress : done\nIP Address              : 10.30.0.1",
    }

    def __init__(self, *_: object) -> None:
        self.host = "10.0.0.1"

    def close(self) -> None:
        pass

    def run(self, argv, timeout_seconds):
        out = self.said.get(argv[0])
        if isinstance(out, Exception):
            raise out
        return Completed(0, out, "") if out else Completed(127, "", "not found")

    def status(self, host, *, timeout_seconds):
        return snapshot(resource("voms01"))

    def armed(self, host, *, timeout_seconds):
        return {"voms01": Parting.ASKS}

    def states(self, host, *, timeout_seconds):
        return {"voms01": UP}

    def host_view(self, host, *, timeout_seconds):
        return HostView(autostarted=frozenset({"voms01"}))

    def look(self, host, domain, *, timeout_seconds):
        return view(
            UP,
            1,
            (Disk("xvda", "/dev/drbd0"), Disk("xvdb", "/dev/sdb"), Disk("cd", "/x.iso", writable=False)),
        )


@pytest.fixture
def there(monkeypatch, tmp_path):
    for name in ("SshHost", "DrbdStorage", "LibvirtHypervisor"):
        monkeypatch.setattr(survey, name, Host)
    monkeypatch.setattr(Host, "said", dict(Host.said))
    (tmp_path / "known").write_text(f"[10.0.0.1]:2222 {HOST_KEY}\nv01,10.0.0.1 {HOST_KEY}\n")
    access = SshAccess("10.0.0.1", "key", tmp_path / "known")
    return lambda: survey.look_around(access, timeout_seconds=5)


def test_what_is_found_on_a_host(there):
    found = there()
    assert (found.name, found.libvirt_uri, found.bmc) == (
        "v01",
        "xen+ssh://10.0.0.1/system",
        "10.30.0.1",
    )
    assert found.resources == {"voms01": ASKS}
    assert found.domains == {"voms01": DomainFound(UP, ("voms01",), ("/dev/sdb",), autostart=True)}
    assert found.problems == ()
    assert found.host_keys == (f"10.0.0.1 {HOST_KEY}",)


def test_a_host_with_neither_libvirt_nor_drbd_is_a_host(there, monkeypatch):
    def silent(*_, **__):
        raise Unanswered("it does not answer")

    monkeypatch.setattr(Host, "states", silent)
    monkeypatch.setattr(Host, "status", silent)
    Host.said |= {"cat": "", "ipmitool": ""}
    found = there()
    assert (found.libvirt_uri, found.libvirt_answers) == ("qemu+ssh://10.0.0.1/system", False)
    assert (found.bmc, found.domains) == ("", {})
    assert len(found.problems) == 3, "DRBD, and both drivers of a host that is not Xen"


@pytest.mark.parametrize("fault", [OSError("refused"), ""])
def test_a_host_that_cannot_be_logged_in_to_is_said(there, fault):
    Host.said["uname"] = fault
    with pytest.raises(Unanswered, match=r"10\.0\.0\.1"):
        there()


# ---- what comes next -------------------------------------------------------------------------------------


def site_settings(tmp_path, **changes) -> Settings:
    document = yaml.safe_load(files(PAIR, CHOICES)["actuator.yml"])
    for key, value in changes.items():
        document[key] = value
    return Settings.model_validate(document)


READY = {"domains": [{"domain": "voms01", "checks": [{"ready": True}]}], "not_rehearsed": []}


@pytest.mark.parametrize(
    ("changes", "ready", "answers", "said"),
    [
        ({"domains": {}}, READY, {}, "name the VMs"),
        ({}, READY, {"DRBD on v01": "no"}, "have DRBD on v01 answer"),
        ({}, {"unanswered": "refused"}, {}, "start the actuator"),
        ({}, {"domains": [], "not_rehearsed": ["voms01"]}, {}, "mend what stands against voms01"),
        ({"operator": {}}, READY, {}, "operator.token_file"),
        ({}, READY, {"DRBD on v01": "ok, 1"}, "mode: approve"),
        ({"mode": "approve"}, READY, {}, "mode: enforce"),
        ({"mode": "enforce"}, READY, {}, "nothing: vmheal acts by itself"),
    ],
)
def test_each_step_says_what_is_missing_for_the_next(tmp_path, changes, ready, answers, said):
    assert said in next_step(site_settings(tmp_path, **changes), ready, answers)


def test_without_a_proof_no_host_is_failed_over_from(tmp_path):
    document = yaml.safe_load(files(PAIR, CHOICES)["actuator.yml"])
    document["mode"] = "approve"
    del document["hosts"]["v02"]["arbiter_token_file"]
    assert "give v02 a fence agent" in next_step(Settings.model_validate(document), READY, {})
