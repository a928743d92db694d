"""The files of a new site, from one look around on its hosts: pure, for ``vmheal-actuator init``.

What is written is what was found and the defaults; what was not found, or stands in the way, is said, in the
files and by ``findings``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from actuator.drbd_common import asking
from actuator.model import DomainState, Parting

PORT = 10811
CONFIG = "/etc/vmheal"
KEY = "id_ed25519"
"""The file of the actuator's own key, for SSH."""
CERTIFICATE, CERTIFICATE_KEY = "actuator.pem", "actuator.key"
"""The files of its certificate, for TLS."""
AUTHORITY_KEY = "ca.key"
"""The file of the key that has signed it: for more certificates, and for nobody to keep here."""


@dataclass(frozen=True, slots=True)
class ResourceFound:
    """A DRBD resource that is up on a host."""

    hosts: tuple[str, ...]
    """That host, and those that DRBD's connections name."""
    parting: Parting | None
    """What its DRBD does when it loses its peer; None: not known."""


@dataclass(frozen=True, slots=True)
class DomainFound:
    """A domain that is defined on a host."""

    state: DomainState
    resources: tuple[str, ...]
    """Those that its writable disks lie on."""
    others: tuple[str, ...] = ()
    """Writable disks that lie on none that is up."""
    autostart: bool = False


@dataclass(frozen=True, slots=True)
class HostFound:
    """What one host says of itself."""

    name: str
    address: str
    libvirt_uri: str
    """The one that answers, else the one that the host's kernel suggests."""
    resources: Mapping[str, ResourceFound]
    domains: Mapping[str, DomainFound]
    bmc: str = ""
    """Address of its management controller, as ipmitool has it."""
    problems: tuple[str, ...] = ()
    host_keys: tuple[str, ...] = ()
    """Lines of known_hosts: what it was checked against."""
    libvirt_answers: bool = True
    drbd_common: str = ""
    """Its global_common.conf; empty: it has none."""
    drbd_nine: bool = False
    """Its DRBD is 9, not 8.4."""

    @property
    def drbd_asking(self) -> str | None:
        """What its global_common.conf shall be; None: a person has to see to it."""
        return asking(self.drbd_common, nine=self.drbd_nine) if self.drbd_common else None


@dataclass(frozen=True, slots=True)
class Choices:
    """What the command line says."""

    actuator: str
    """The address at which hosts reach the actuator."""
    port: int
    """Of the hosts' sshd."""
    prometheus: str
    alertmanager: str
    public_key: str
    """The actuator's: the line of its .pub file."""
    shipped: Mapping[str, str]
    """The text of rules/prometheus.yml and rules/alertmanager.yml, by their names."""

    @property
    def at(self) -> str:
        """Where the actuator listens, as a URL has it."""
        return f"[{self.actuator}]:{PORT}" if ":" in self.actuator else f"{self.actuator}:{PORT}"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A domain that can be protected."""

    home: str
    hosts: tuple[str, ...]
    resources: tuple[str, ...]


def chosen(found: Sequence[HostFound]) -> dict[str, Chosen]:
    """Domains with all their disks on DRBD between hosts that were looked at, and where each runs.

    One that runs nowhere is at home where its resources' names come first; a person has to say otherwise.
    """
    names = {host.name for host in found}
    by_name: dict[str, Chosen] = {}
    for host in sorted(found, key=lambda it: it.name):
        for domain, it in host.domains.items():
            if not it.resources or it.others:
                continue
            replicas = [set(host.resources[name].hosts) for name in it.resources]
            hosts = tuple(sorted(set.intersection(*replicas) & names))
            if len(hosts) < 2:  # noqa: PLR2004  a mirror
                continue
            if domain not in by_name or it.state in _UP:
                by_name[domain] = Chosen(host.name, hosts, it.resources)
    return dict(sorted(by_name.items()))


_UP = {DomainState.RUNNING, DomainState.BLOCKED, DomainState.PAUSED}


def findings(found: Sequence[HostFound]) -> list[str]:
    """What stands in the way, one sentence each."""
    names, protected = {host.name for host in found}, chosen(found)
    said = list(_twice(found))
    for host in found:
        said += _of_host(host)
        said += _of_resources(host, names)
        said += _of_domains(host, protected)
    return list(dict.fromkeys(said))


def _twice(found: Sequence[HostFound]) -> Iterator[str]:
    up: dict[str, list[str]] = {}
    for host in found:
        for domain, it in host.domains.items():
            if it.state in _UP:
                up.setdefault(domain, []).append(host.name)
    yield from (f"{domain} runs on {' and '.join(on)}" for domain, on in up.items() if len(on) > 1)


def _of_host(host: HostFound) -> Iterator[str]:
    yield from (f"{host.name}: {problem}" for problem in host.problems)
    if not host.libvirt_answers:
        yield f"{host.name}: no libvirt answers there: its libvirt_uri, {host.libvirt_uri}, is a guess"
    if not host.bmc:
        yield f"{host.name}: no power control was found: without a fence agent a failover waits"


def _of_resources(host: HostFound, names: Collection[str]) -> Iterator[str]:
    for name, resource in sorted(host.resources.items()):
        if missing := sorted(set(resource.hosts) - set(names)):
            yield f"{name}: its host {', '.join(missing)} was not named to init"
        if (why := _PARTING.get(resource.parting)) is not None:
            yield f"{name} on {host.name}: {why}"
        if resource.parting is Parting.GOES_ON:
            yield _MENDED.format(host=host.name) if host.drbd_asking else _NOT_MENDED.format(host=host.name)


def _of_domains(host: HostFound, protected: Collection[str]) -> Iterator[str]:
    for domain, it in sorted(host.domains.items()):
        if it.others:
            yield f"{domain} on {host.name}: {', '.join(it.others)} is not on a DRBD that is up"
        elif domain not in protected:
            yield f"{domain} on {host.name}: not protected: no disk that another host mirrors"
        if it.autostart and domain in protected:
            yield (
                f"{domain} on {host.name}: libvirt starts it at boot, whoever may have it:"
                f" virsh autostart --disable {domain}"
            )


_PARTING = {
    None: "what its DRBD does when it loses its peer is not known",
    Parting.GOES_ON: "its DRBD writes on when it loses its peer, and asks nobody",
    Parting.LOSES: "protocol A or B: what its VM saw stored last may be lost with its host",
}
_MENDED = "{host}: DRBD asks the arbiter once hosts/{host}/etc/drbd.d/global_common.conf is there"
_NOT_MENDED = (
    "{host}: its DRBD has fencing of its own, or no global_common.conf: put in by hand what has it ask the"
    " arbiter: docs/hosts.md"
)


def files(found: Sequence[HostFound], choices: Choices) -> dict[str, str]:
    """By path: what is to be written, secrets apart (see ``secret_files``)."""
    written = {
        "actuator.yml": _actuator(found, choices),
        **{name: _with_addresses(text, choices) for name, text in choices.shipped.items()},
        "web.yml": _WEB,
        "known_hosts": "".join(f"{line}\n" for host in found for line in host.host_keys),
    }
    for host in found:
        here = _folder(host)
        written[f"{here}/vmheal/authorized_keys"] = _authorized_keys(choices)
        written[f"{here}/vmheal/host.conf"] = _host_conf(host, found)
        written[f"{here}/vmheal/fence-peer.conf"] = _fence_peer(host, choices)
        if host.drbd_asking is not None:
            written[f"{here}/drbd.d/global_common.conf"] = host.drbd_asking
    return written


def certificate_files(found: Sequence[HostFound]) -> tuple[str, ...]:
    """Where the certificate goes that all are to believe; the actuator's own is CERTIFICATE."""
    return ("ca.pem", *(f"{_folder(host)}/vmheal/ca.pem" for host in found))


def secret_files(found: Sequence[HostFound]) -> dict[str, tuple[str, ...]]:
    """Tokens to be made: by the name of the file here, the other files that hold the same."""
    return {
        "webhook.token": (),
        "operator.token": (),
        **{f"arbiter-{host.name}.token": (f"{_folder(host)}/vmheal/fence-peer.token",) for host in found},
    }


def _folder(host: HostFound) -> str:
    """Laid out as on the host: copied whole, all is in its place."""
    return f"hosts/{host.name}/etc"


def _with_addresses(shipped: str, choices: Choices) -> str:
    """What is shipped supposes all on one machine, without TLS; here each is where it is, and speaks it."""
    alertmanager = urlsplit(choices.alertmanager).netloc
    return (
        shipped.replace("localhost:9093", alertmanager)
        .replace(f"http://localhost:{PORT}", f"https://{choices.at}")
        .replace(f"localhost:{PORT}", choices.at)
        .replace("# scheme: https", "scheme: https")
        .replace("# tls_config: {ca_file: ca.pem}", "tls_config: {ca_file: ca.pem}")
    )


def _actuator(found: Sequence[HostFound], choices: Choices) -> str:
    lines = [
        "# Written by 'vmheal-actuator init' from what it found. Every key: docs/configuration.md, or",
        "# examples/actuator.yml. What vmheal-actuator check says of it comes next.",
        "#",
        *(f"# TO DO: {it}" for it in findings(found)),
        "",
        "# observe: say what would be done, do nothing. Then approve, then enforce (docs/first-steps.md).",
        "mode: observe",
        f'listen: ":{PORT}"',
        "journal:",
        "  path: /var/lib/vmheal/journal.sqlite3",
        "# All who come here come by TLS. What the commands here are to call it, and believe:",
        "web:",
        f"  config_file: {CONFIG}/web.yml",
        f'  url: "https://{choices.at}"',
        f"  ca_file: {CONFIG}/ca.pem",
        "webhook:",
        f"  token_file: {CONFIG}/webhook.token",
        "operator:",
        f"  token_file: {CONFIG}/operator.token",
        "alertmanager:",
        f"  url: {choices.alertmanager}",
        "prometheus:",
        f"  url: {choices.prometheus}",
        "ssh:",
        "  # Its key may run vmheal-host there and nothing else: docs/security.md.",
        "  user: vmheal",
        f"  key_file: {CONFIG}/{KEY}",
        f"  known_hosts_file: {CONFIG}/known_hosts",
        f"  port: {choices.port}",
        "",
        "# Named as in DRBD's configuration (`on v01 {`): what 'uname -n' says.",
        "hosts:",
    ]
    for host in sorted(found, key=lambda it: it.name):
        lines += [
            f"  {host.name}:",
            f"    address: {_quoted(host.address)}",
            f"    libvirt_uri: {host.libvirt_uri}",
            f"    arbiter_token_file: {CONFIG}/arbiter-{host.name}.token",
            "    # The strongest proof that a lost host does not write, and the fastest failover.",
            "    # fence:",
            "    #   agent: fence_ipmilan",
            f'    #   options: {{ip: {host.bmc or "ITS-ADDRESS"}, username: vmheal, lanplus: "1"}}',
            f"    #   password_file: {CONFIG}/{host.name}.fence",
        ]
    protected = chosen(found)
    lines += ["", "# The VMs that should always run. Nothing else is ever touched."]
    lines.append("domains:" if protected else "domains: {}")
    for name, it in protected.items():
        lines += [
            f"  {_quoted(name)}: # on {', '.join(it.resources)}",
            f"    host: {it.home}",
            f"    hosts: [{', '.join(it.hosts)}]",
        ]
    return "\n".join(lines) + "\n"


def _fence_peer(host: HostFound, choices: Choices) -> str:
    return (
        f"# {CONFIG}/fence-peer.conf on {host.name}; beside it ca.pem, and fence-peer.token with mode 0600.\n"
        f"actuator https://{choices.at}\n"
        f"ca_file {CONFIG}/ca.pem\n"
        f"token_file {CONFIG}/fence-peer.token\n"
        f"libvirt_uri {_driver(host)}:///system\n"
        "# As in actuator.yml, failover.\n"
        "isolation_timeout_seconds 5\n"
        "hard_timeout_seconds 60\n"
    )


def _host_conf(host: HostFound, found: Sequence[HostFound]) -> str:
    """What vmheal-host lets the actuator touch: what is protected, on each host where it may run."""
    here = {name: it for name, it in chosen(found).items() if host.name in it.hosts}
    resources = {name for it in here.values() for name in it.resources}
    peers = sorted(
        (it for it in found if it is not host and any(it.name in domain.hosts for domain in here.values())),
        key=lambda it: it.name,
    )
    lines = [
        f"# {CONFIG}/host.conf on {host.name}, of root, mode 0644: what vmheal may touch there.",
        *(f"resource {name}" for name in sorted(resources)),
        *(f"domain {name}" for name in here),
        *(f"# not protected: resource {name}" for name in sorted(set(host.resources) - resources)),
        *(f"# not protected: domain {name}" for name in sorted(set(host.domains) - set(here))),
    ]
    if _driver(host) == "qemu":
        lines.append("# Where a domain may be sent while it runs: as in actuator.yml.")
        for peer in peers:
            lines += [f"migrate_uri {peer.libvirt_uri}", f"migrate_uri tcp://{peer.address}"]
    if _driver(host) == "lxc":
        lines += [
            "# Where its containers' roots begin. Whoever may define a container is as good as root.",
            "# definition_path /srv/containers/",
        ]
    return "\n".join(lines) + "\n"


def _driver(host: HostFound) -> str:
    return host.libvirt_uri.partition("+")[0]


def _authorized_keys(choices: Choices) -> str:
    return (
        f"# {CONFIG}/authorized_keys, of root, mode 0644: from the actuator, for vmheal-host.\n"
        f'restrict,from="{choices.actuator}",command="/usr/bin/vmheal-host" {choices.public_key}\n'
    )


def _quoted(word: str) -> str:
    """A word as YAML takes it for text."""
    return f'"{word}"' if not word[:1].isalpha() or ":" in word or word.lower() in _NO_WORDS else word


_NO_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

_WEB = f"""\
# {CONFIG}/web.yml of the actuator: TLS. Who may do what is in actuator.yml.
tls_server_config:
  cert_file: {CERTIFICATE}
  key_file: {CERTIFICATE_KEY}
  client_auth_type: VerifyClientCertIfGiven
  client_ca_file: ca.pem
"""
