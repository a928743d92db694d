"""Targets: files that people write, and the journal's backups."""

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actuator import config
from actuator.adapters.journal_backup import back_up, restore
from actuator.adapters.sqlite import SqliteJournal
from actuator.config import ConfigError
from actuator.model import Authority, Definition, DomainRecord, Event, HostRecord, Notification, Order
from actuator.ports import JournalError
from exporter import fence_peer, web_config
from exporter.fence_peer import HookError
from exporter.host import config as host_config
from exporter.host.config import ConfigError as HostConfigError
from exporter.web_config import WebConfigError
from tests.fuzz.target import REPO, target

MAX_SENTENCE = 4096


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="vmheal-fuzz-", dir="/dev/shm")


def clean() -> None:
    """Remove what was written, for a process that ends without ceremony."""
    _kept().cleanup()


def folder() -> Path:
    """Of this process, in memory."""
    return Path(_kept().name)


def written(content: bytes) -> Path:
    path = folder() / "input"
    path.write_bytes(content)
    return path


def yaml_examples() -> Iterator[bytes]:
    text = (REPO / "docs/actuator.yml").read_text()
    yield text.encode()
    short = "\n".join(line for line in text.split("\n") if line.strip() and not line.strip().startswith("#"))
    yield short.encode()
    for section in (
        "libvirt_uri: xen+ssh://a/system\n    fence: {agent: fence_dummy, options: {ip: a}}",
        "libvirt_uri: qemu+tls://v02/system",
    ):
        yield short.replace("libvirt_uri: xen+ssh://10.10.0.2/system", section).encode()


@target(
    yaml_examples,
    ConfigError,
    words=(
        b"!!int ''",
        b"!!float ''",
        b"!!bool x",
        b"!!timestamp x",
        b"&a [*a]",
        b"hosts:\n  v01:",
        b"fence:",
        b"{}",
    ),
)
def actuator_yml(content):
    settings = config.load(written(content))
    assert config.Settings.model_validate(settings.model_dump(mode="json")) == settings
    settings.apart()
    assert int(settings.listen.rpartition(":")[2]) >= 0
    for domain in settings.domains:
        assert settings.hosts_of(domain)
        settings.mode_of(domain)


@target(lambda: [b"0123456789abcdef0123456789abcdef\n", b"two\nlines\n"], ConfigError)
def secret_file(content):
    secret = config.read_secret(written(content))
    assert secret == secret.strip() != ""
    assert "\n" not in secret


WEB_CONFIG = b"""tls_server_config:
  cert_file: a.pem
  key_file: a.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.pem
  client_allowed_sans: [prometheus]
  min_version: TLS12
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
http_server_config:
  http2: true
  headers: {X-Frame-Options: deny}
basic_auth_users:
  ann: $2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuuabcdefghi
"""


@target(
    lambda: [
        WEB_CONFIG,
        b"basic_auth_users:\n  ann: $2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuuabcdefghi\n",
    ],
    WebConfigError,
    words=(
        b"!!int ''",
        b"!!timestamp x",
        b"cert_file: /dev/zero",
        b"cert_file: .",
        b"<<: *a",
        b"&a",
        b"{}",
        b"[]",
    ),
)
def web_config_file(content):
    it = web_config.load(written(content))
    for name, value in it.headers:
        assert (name + value).isprintable()


@target(
    lambda: (
        [
            (
                b"resource voms01 # x\nresource *\ndomain voms01\nmigrate_uri qemu+tls://v02/system\n"
                b"definition_path /srv/\npath /usr/bin\nrun_directory /run/x\n"
            )
        ]
        + [path.read_bytes() for path in (REPO / "exporter/host/etc").rglob("host.conf*")]
    ),
    HostConfigError,
    words=(b"resource ", b"domain ", b"*", b"#", b"path /", b"definition_path "),
)
def host_conf(content):
    said = content.decode("utf-8", "replace")
    it = host_config.parse(said)
    again = "".join(
        f"{key} {value}\n"
        for key, values in (
            ("resource", it.resources),
            ("domain", it.domains),
            ("migrate_uri", it.migrate_uris),
            ("definition_path", it.definition_paths),
            ("path", [it.path]),
            ("run_directory", [it.run_directory]),
        )
        for value in values
    )
    assert host_config.parse(again) == it
    for name in it.resources | it.domains:
        assert name
        assert name in said
    assert host_config.ANY in it.resources or not it.allows_resource("not there")


@target(
    lambda: [
        (REPO / "docs/fence-peer.conf").read_bytes(),
        b"actuator [::1]:1\ntoken_file /dev/null\nwitness 10.0.0.1:22\n",
    ],
    HookError,
    OSError,
    words=(
        b"actuator a:1\n",
        b"witness ",
        b"token_file /dev/null\n",
        b"a..b:1",
        b"isolation_timeout_seconds ",
        b"https://",
        b"ca_file /dev/null\n",
    ),
)
def fence_peer_conf(content):
    token = folder() / "token"
    token.write_text("secret\n")
    it = fence_peer.read_config(str(written(content.replace(b"/etc/vmheal/fence-peer.token", bytes(token)))))
    assert it.actuators
    for host, port, *_ in (*it.actuators, *it.witnesses):
        assert host
        assert 0 < port < 65536
    assert 0 < it.isolation_timeout_seconds <= it.hard_timeout_seconds <= fence_peer.MAX_SECONDS


# ---- the journal -----------------------------------------------------------------------------------------


def backups() -> Iterator[bytes]:
    path, file = folder() / "good", folder() / "backup"
    if not file.exists():
        with contextlib.closing(SqliteJournal(path)) as journal:
            journal.receive([Notification("f", 1.0, firing=True, labels={"domain": "voms01"})], at=1.0)
            authority = Authority(
                "voms01", ("v01", "v02"), 1, "v01", frozenset({"v01"}), granted=True, newest=True
            )
            journal.commit(
                record=DomainRecord("voms01", 1, "v02"),
                authorities=[authority],
                hosts=[HostRecord("v01", 1, failed_at=5.0, down=Order("someone", 6.0))],
                definition=Definition("voms01", 1, "<domain/>", "v02", 3.0),
                events=[Event(1.0, "nothing", "before")],
            )
        back_up(path, file)
    yield file.read_bytes()


@target(
    backups,
    JournalError,
    words=(
        b'"granted":true',
        b'"authority":"v01"',
        b"CREATE TABLE",
        b"null",
        b"SQLite format 3\0",
        b'"version":1',
    ),
    most=1 << 20,
)
def journal_backup(content):
    """What is made of a backup can be run on, and believes nothing of it."""
    path = folder() / "restored"
    for end in ("", "-wal", "-shm", ".lock"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    restore(written(content), path, by="ann", at=100.0)
    with contextlib.closing(SqliteJournal(path)) as journal:
        for it in journal.authorities().values():
            assert not it.granted
        journal.records()
        journal.hosts()
        journal.timeline()
        assert journal.inbox(after=0, limit=10) == ()
