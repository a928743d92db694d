"""The configuration file: YAML, every key known, every value typed and bounded.

``load`` gives frozen settings or raises ``ConfigError`` with one sentence for each thing that is wrong.
Secrets are not in it: it names files that hold them.
"""

import difflib
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from actuator.core.failback import Failback
from exporter import yaml_text

# Names become labels, argv words and file names' parts: what DRBD, libvirt and Prometheus all accept.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,62}$")]
Seconds = Annotated[float, Field(gt=0, le=86400)]

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_SERVERS = 8
MAX_TOKENS = 10
MAX_TOKENS_BYTES = 64 * 1024


class ConfigError(Exception):
    """The configuration cannot be used; ``problems`` has one sentence for each fault."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Mode(StrEnum):
    """How far vmheal goes on its own."""

    OBSERVE = "observe"
    """Say what would be done, do nothing."""
    APPROVE = "approve"
    """Each plan waits for a person's word."""
    ENFORCE = "enforce"
    """Act unattended."""


def _absolute(value: object) -> object:
    if not isinstance(value, str):
        return value
    path = Path(value)
    if not path.is_absolute():
        raise ValueError(f"{value!r} is not an absolute path")
    return path


def _absolute_unsaid(value: object) -> object:
    """Who does not give a path may have given the secret itself."""
    try:
        return _absolute(value)
    except ValueError:
        raise ValueError("is not an absolute path, to a file that holds it") from None


def _mode(value: object) -> object:
    return Mode(value) if isinstance(value, str) and value in set(Mode) else value


def _said(value: object) -> object:
    """A value as it may be said: a URL without user and password."""
    return re.sub(r"//[^/\s]*@", "//", value) if isinstance(value, str) else value


def _urls(value: object) -> object:
    urls = value if isinstance(value, list) else [value]
    for url in urls:
        if not isinstance(url, str) or not re.fullmatch(r"https?://[^/\s]+(/\S*)?", url):
            raise ValueError(f"{_said(url)!r} is not a URL of http or https")
    return tuple(urls)


def _texts(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


AbsolutePath = Annotated[Path, BeforeValidator(_absolute)]
SecretPath = Annotated[Path, BeforeValidator(_absolute_unsaid)]
ModeWord = Annotated[Mode, BeforeValidator(_mode)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls), Field(min_length=1, max_length=MAX_SERVERS)]
"""One server, or several that do the same."""
ClientNames = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@-]{1,253}$")], ...],
    BeforeValidator(_texts),
    Field(max_length=100),
]
"""Subject alternative names of client certificates."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Client(_Section):
    """How we ask a server over TLS."""

    ca_file: AbsolutePath | None = None
    """What its certificate is verified by; else the system's authorities."""
    client_cert_file: AbsolutePath | None = None
    """The certificate that it is shown, where it asks for one."""
    client_key_file: AbsolutePath | None = None
    """Its key."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.client_cert_file is None) != (self.client_key_file is None):
            raise ValueError("client_cert_file and client_key_file go together")
        return self

    @property
    def verified_by(self) -> str | bool:
        """What `requests` takes for `verify`: a file, or True for the system's authorities."""
        return str(self.ca_file) if self.ca_file else True

    @property
    def certificate(self) -> tuple[str, str] | None:
        """What `requests` takes for `cert`: the files of our certificate and its key, or none."""
        if self.client_cert_file is None:
            return None
        return str(self.client_cert_file), str(self.client_key_file)


class JournalSettings(_Section):
    """Where the durable memory lies, and how much of the past it keeps."""

    path: AbsolutePath
    """SQLite's file, on a local disk with honest fsync; its folder exists and belongs to the actuator."""
    keep_events: int = Field(default=200_000, ge=1000, le=10_000_000)
    """So many events of the timeline are kept."""
    max_bytes: int = Field(default=1024**3, ge=16 * 1024**2, le=1024**4)
    """Before the file grows beyond it, the oldest events are dropped, however few they are."""
    timeout_seconds: Seconds = 2.0
    """The longest that a write may take, waiting included; the webhook answers 503 then."""


class WebSettings(_Client):
    """The actuator's own HTTP side, for all who come; and how its own commands come."""

    config_file: AbsolutePath | None = None
    """TLS, in the format of the exporter's `--web.config.file`; certificates are read again when they
    change."""
    url: Annotated[str, StringConstraints(pattern=r"^https?://[^/\s@]+/?$")] | None = None
    """Where the actuator's own commands find it, by a name that its certificate has; else `listen`, on this
    machine."""


class WebhookSettings(_Section):
    """What Alertmanager must bring along: a token, or a client certificate."""

    token_file: SecretPath | None = None
    """Holds bearer tokens, one a line: any of them opens."""
    client_names: ClientNames = ()
    """Or the certificate has one of these names."""
    max_body_bytes: int = Field(default=8 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    """A larger delivery is refused."""
    max_alerts: int = Field(default=10_000, ge=1, le=1_000_000)
    """As is one with more alerts."""
    request_timeout_seconds: Seconds = 10.0
    """From a request's first byte to its last."""

    @model_validator(mode="after")
    def _somebody(self) -> "WebhookSettings":
        if self.token_file is None and not self.client_names:
            raise ValueError("token_file is missing, or client_names")
        return self


class OperatorSettings(_Section):
    """Whose orders are taken."""

    token_file: SecretPath | None = None
    """Holds bearer tokens, one a line, one of which an operator's order must bring; the commands bring the
    first. Without it, and without `client_names`, none is taken."""
    client_names: ClientNames = ()
    """Or a client certificate has one of these names. The page's login takes tokens only."""


class ReadSettings(_Section):
    """Who may look: pages, status, explanations, targets, metrics. Who gives orders may, too."""

    token_file: SecretPath | None = None
    """Holds bearer tokens, one a line; with neither this nor `client_names` everybody may."""
    client_names: ClientNames = ()
    """Or a client certificate has one of these names."""


class ServerSettings(_Client):
    """An HTTP API that we ask: one server, or several that watch the same."""

    url: Urls
    """One URL, or a list of them: each of a cluster."""
    timeout_seconds: Seconds = 5.0
    """For each question."""
    token_file: SecretPath | None = None
    """Holds the bearer token, alone, one line, that each question brings."""
    user: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,255}$")] | None = None
    """Or as whom we ask, by basic auth."""
    password_file: SecretPath | None = None
    """Holds the password, alone, one line."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.user is None) != (self.password_file is None):
            raise ValueError("user and password_file go together")
        named = any("@" in url.partition("://")[2].partition("/")[0] for url in self.url)
        if sum((self.token_file is not None, self.user is not None, named)) > 1:
            raise ValueError("token_file, user, and a user in the url: only one of them can be sent")
        return self

    @property
    def files(self) -> tuple[Path, ...]:
        """What must be there to ask."""
        named = (
            self.ca_file,
            self.client_cert_file,
            self.client_key_file,
            self.token_file,
            self.password_file,
        )
        return tuple(it for it in named if it is not None)


class SshSettings(_Section):
    """How the hosts' DRBD is reached. Host keys are strict: an unknown host is not talked to."""

    user: Name = "vmheal"
    """Who logs in on the hosts."""
    command: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_./-]{1,200}$")] | None = "vmheal-host"
    """The only program that is run on a host (docs/security.md); None: the key has a shell, and each
    program is run in one."""
    key_file: AbsolutePath
    """The private key, without a passphrase."""
    known_hosts_file: AbsolutePath
    """The hosts' keys; a host that is not in it is not talked to."""
    port: int = Field(default=22, ge=1, le=65535)
    """Of sshd."""


class FenceSettings(_Section):
    """A fence agent: one of Debian's ``fence-agents`` programs."""

    agent: Annotated[str, StringConstraints(pattern=r"^fence_[a-z0-9_]+$")]
    """The program's name, like `fence_ipmilan`."""
    options: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+$")], str] = Field(
        default_factory=dict
    )
    """What it is given on standard input, beside the action: ``ip``, ``username``, ``plug`` ..."""
    password_file: SecretPath | None = None
    """Holds the secret alone, one line; given as ``passwd``."""
    timeout_seconds: Seconds = 20.0
    """For one run of it."""

    @field_validator("options")
    @classmethod
    def _options(cls, options: dict[str, str]) -> dict[str, str]:
        for key, value in options.items():
            if key in {"action", "option"}:
                raise ValueError(f"{key!r} is not for the configuration to say: it is what vmheal asks for")
            if key in {"passwd", "password"}:
                raise ValueError(f"{key!r} does not belong here: put it into a password_file")
            if not value.isprintable():
                raise ValueError(f"{key!r} must be one line of text")
        return options


class HostSettings(_Section):
    """One hypervisor, under the name that DRBD's configuration gives it."""

    address: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:%-]{1,253}$")]
    """Name or IP address for SSH."""
    libvirt_uri: Annotated[str, StringConstraints(pattern=r"^[a-z]+(\+[a-z0-9]+)?://\S*$")]
    """How its libvirt is reached: xen+ssh, qemu+ssh, lxc+ssh or qemu+tls."""
    exporter: (
        Annotated[str, StringConstraints(pattern=r"^(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.-]+):[0-9]{1,5}$")]
        | None
    ) = None
    """Where Prometheus finds its exporter, as HOST:PORT; else ``address`` and the exporter's own port."""
    migrate_address: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:%-]{1,253}$")] | None = None
    """Where other hosts' QEMU sends a domain's memory in a live migration; else ``address``."""
    migrate_libvirt_uri: Annotated[str, StringConstraints(pattern=r"^[a-z]+(\+[a-z0-9]+)?://\S*$")] | None = (
        None
    )
    """How other hosts' libvirtd reaches this one's (peer to peer); else ``libvirt_uri``."""
    fence: FenceSettings | None = None
    """How the host is powered off; without it there is no proof ``power``."""
    arbiter_token_file: SecretPath | None = None
    """Holds bearer tokens, one a line, with one of which this host's DRBD hooks ask the arbiter; no other
    host has the same. Without it, and without `arbiter_client_names`, they are not answered."""
    arbiter_client_names: ClientNames = ()
    """Or their client certificate has one of these names; no other host's has."""

    @property
    def arbitrates(self) -> bool:
        """Whether its hooks are answered."""
        return self.arbiter_token_file is not None or bool(self.arbiter_client_names)

    @property
    def live_uris(self) -> tuple[str, str]:
        """Where other hosts send a domain that moves here while it runs: this libvirt, its memory."""
        return self.migrate_libvirt_uri or self.libvirt_uri, f"tcp://{self.migrate_address or self.address}"


class DomainSettings(_Section):
    """One protected domain: it should always run."""

    host: Name
    """Where it runs at first; from then on the journal knows."""
    hosts: tuple[Name, ...] = ()
    """Every host that holds a replica of its disks, ``host`` included. They are all asked before a start."""
    mode: ModeWord | None = None
    """Instead of the global mode."""
    priority: int = Field(default=0, ge=-1000, le=1000)
    """Of a dead host's domains the highest comes first."""
    apart: tuple[Name, ...] = ()
    """Domains that should not be on the same host as this one; it holds for both."""

    @field_validator("hosts", "apart", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class EvidenceSettings(_Section):
    """Asking the live system."""

    timeout_seconds: Seconds = 5.0
    """For all questions of one look; they are asked side by side."""
    max_age_seconds: Seconds = 6.0
    """Older evidence refuses."""


class RestartSettings(_Section):
    """Limits of the verb ``restart``."""

    max_attempts: int = Field(default=3, ge=1, le=100)
    """Within the window; then vmheal stops restarting and warns until the domain was seen running."""
    window_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 600.0
    """So far back attempts count."""
    backoff_seconds: Annotated[float, Field(ge=0, le=86400)] = 5.0
    """Before the second attempt of a window; doubled before each further one. The first is at once."""
    settle_seconds: Annotated[float, Field(ge=0, le=86400)] = 120.0
    """After a plan, what runs in a domain has so long to come up before an alert may call it dead again."""
    destroy_timeout_seconds: Seconds = 30.0
    """For ending what is left of a crash."""
    promote_timeout_seconds: Seconds = 20.0
    """For `drbdadm primary`."""
    start_timeout_seconds: Seconds = 60.0
    """For libvirt's start call."""
    confirm_timeout_seconds: Seconds = 30.0
    """After the start call: to be read back running, with its disks. And for so long a step waits for its
    host to answer, which may be busy with the domains that come up there."""


class ReconcileSettings(_Section):
    """Looking for what no webhook said."""

    drbd_interval_seconds: Seconds = 1.0
    """Between two looks at DRBD on all hosts: how soon a lost peer is known, and a replica admitted again."""
    interval_seconds: Seconds = 5.0
    """Between two looks at alerts, domains and hosts."""
    grace_seconds: Seconds = 3.0
    """A domain that is down is first left to its alert, for this long."""


class FailoverSettings(_Section):
    """Bringing up what ran on a host that is lost."""

    isolation_timeout_seconds: Seconds = 5.0
    """As in the hosts' fence-peer.conf: an isolated host ends its frozen domains after so long."""
    witnesses: bool = False
    """The hosts' fence-peer.conf names witnesses: then they do so after ``hard_timeout_seconds`` only."""
    hard_timeout_seconds: Seconds = 60.0
    """See ``witnesses``."""
    margin_seconds: Seconds = 5.0
    """On top of it: DRBD's detection (ping-int and ping-timeout), and the time that ending a domain takes."""
    release_timeout_seconds: Seconds = 180.0
    """A host that answers again has so long to end the domain and give its disks up."""
    power_off_timeout_seconds: Seconds = 20.0
    """For the fence agent, all its attempts together; then the arbiter decides."""
    max_dark_hosts: int = Field(default=1, ge=1, le=1000)
    """More hosts dark at once mean that the fault is on our side: nothing is failed over then."""
    watchdog_max_age_seconds: Annotated[float, Field(ge=10, le=3600)] = 120.0
    """Nor when for so long Alertmanager has not shown the alert ``Watchdog``, or Prometheus not answered."""
    quorum: bool = False
    """Take DRBD 9's quorum for a proof: without it a lost host cannot write; but nobody ends its domains."""
    drbd_only: bool = False
    """Take DRBD's word for a proof: its Secondary promotes also while its cut-off peer writes. Dangerous."""
    accept_loss: bool = False
    """Fail over also from a host whose DRBD has protocol A or B: its last writes may be lost."""

    @property
    def isolation_seconds(self) -> float:
        """After so long without contact a lost host has ended the domain by itself."""
        timeout = self.hard_timeout_seconds if self.witnesses else self.isolation_timeout_seconds
        return timeout + self.margin_seconds


class MoveSettings(_Section):
    """Moving a domain in order."""

    live: bool = True
    """A domain that runs well is moved live where its driver can (not Xen's)."""
    cold: bool = False
    """Where that cannot be, a domain that runs is shut down for it."""
    live_timeout_seconds: Seconds = 120.0
    """Then a live migration is cancelled, or goes on as post-copy."""
    auto_converge: bool = True
    """A guest that writes faster than its memory can be sent is slowed down."""
    post_copy: bool = False
    """At ``live_timeout_seconds`` the domain goes over with what it has, and fetches the rest: it always
    arrives, but a network that breaks then ends it."""
    max_downtime_seconds: Annotated[float, Field(gt=0, le=60)] = 0.3
    """The domain may stand still for so long while it goes over."""
    shut_down_timeout_seconds: Seconds = 60.0
    """For the guest; then it is ended."""
    suspect_seconds: Annotated[float, Field(ge=0, le=30 * 86400)] = 3600.0
    """For so long a domain is not sent back to a host where it failed again and again."""
    failback: Annotated[Failback, Field(strict=False)] = Failback.NEVER
    """Whether a domain goes back to ``domains.NAME.host`` by itself."""
    failback_seconds: Annotated[float, Field(ge=60, le=30 * 86400)] = 1800.0
    """That host has been well for so long then, as far as this run of the actuator knows."""


class ProgramSettings(_Section):
    """A program of the site's own that an alert may ask for."""

    argv: tuple[Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")], ...] = Field(min_length=1)
    """It, by its absolute path, and its arguments. No shell reads them."""
    timeout_seconds: Seconds = 60.0
    """It is ended then."""

    @field_validator("argv", mode="before")
    @classmethod
    def _argv(cls, value: object) -> object:
        if isinstance(value, list) and value and not str(value[0]).startswith("/"):
            raise ValueError(f"{value[0]!r} is not an absolute path")
        return tuple(value) if isinstance(value, list) else value


class ReadinessSettings(_Section):
    """Rehearsing what would be done if something failed now."""

    interval_seconds: Annotated[float, Field(ge=0, le=86400)] = 60.0
    """Each domain once in so long, one after the other; 0: never. A round of a large site takes longer."""
    slow_seconds: Seconds = 1.0
    """A host whose libvirt or SSH needs longer for one answer is not ready."""
    clock_skew_seconds: Seconds = 1.0
    """Nor one whose clock is further from that of the actuator's machine."""


class LimitSettings(_Section):
    """Bounds."""

    plans_per_host: int = Field(default=8, ge=1, le=1000)
    """Plans that run at the same time on one host."""
    plans: int = Field(default=64, ge=1, le=10_000)
    """And on all hosts together."""
    max_alert_age_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 4 * 3600.0
    """An alert that began longer ago is refused: it may come from an expired silence. A domain that is still
    down is found by reconcile all the same."""


class Settings(_Section):
    """The whole file."""

    mode: ModeWord = Mode.OBSERVE
    """How far vmheal goes by itself: say what would be done, wait for a person, act."""
    listen: Annotated[
        str, StringConstraints(pattern=r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*):[0-9]{1,5}$")
    ] = ":10811"
    """Where Alertmanager, Prometheus, the hosts' hooks and operators come: HOST:PORT, or :PORT on all."""
    journal: JournalSettings
    """The durable memory."""
    web: WebSettings = WebSettings()
    """TLS, and how the actuator's own commands reach it."""
    webhook: WebhookSettings
    """Alertmanager's deliveries."""
    read: ReadSettings = ReadSettings()
    """Looking."""
    operator: OperatorSettings = OperatorSettings()
    """Orders of people."""
    alertmanager: ServerSettings
    """All are told what vmheal says; what any of them says counts."""
    prometheus: ServerSettings
    """Likewise, of those that scrape the hosts."""
    ssh: SshSettings
    """The way to the hosts' DRBD."""
    hosts: dict[Name, HostSettings] = Field(min_length=1)
    """By the names that DRBD's configuration and Prometheus's label ``host`` give them."""
    domains: dict[Name, DomainSettings] = Field(default_factory=dict)
    """The protected ones, by libvirt's names. Nothing else is ever touched."""
    programs: dict[Name, ProgramSettings] = Field(default_factory=dict)
    """By the names that alerts call them, in the label ``program``."""
    evidence: EvidenceSettings = EvidenceSettings()
    """Looking before deciding."""
    restart: RestartSettings = RestartSettings()
    """Starting again on the same host."""
    move: MoveSettings = MoveSettings()
    """Moving in order."""
    failover: FailoverSettings = FailoverSettings()
    """When a host is lost."""
    reconcile: ReconcileSettings = ReconcileSettings()
    """Looking without being told."""
    readiness: ReadinessSettings = ReadinessSettings()
    """Rehearsing."""
    limits: LimitSettings = LimitSettings()
    """How much at a time."""
    runbooks_url: Annotated[str, StringConstraints(pattern=r"^(|https?://\S+/)$")] = ""
    """Where docs/runbooks is served, with a slash at its end: for the links in what vmheal says itself."""

    @model_validator(mode="after")
    def _hosts_exist(self) -> "Settings":
        problems = [
            f"domains.{name}: host {host!r} is not in hosts ({', '.join(sorted(self.hosts))})"
            for name, domain in self.domains.items()
            for host in {domain.host: None, **dict.fromkeys(domain.hosts)}
            if host not in self.hosts
        ]
        problems += [
            f"domains.{name}: host {domain.host!r} is missing in its own hosts"
            for name, domain in self.domains.items()
            if domain.hosts and domain.host not in domain.hosts
        ]
        problems += [
            f"domains.{name}: apart: {other!r} is not the name of another domain"
            for name, domain in self.domains.items()
            for other in domain.apart
            if other == name or other not in self.domains
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _names_are_of_one(self) -> "Settings":
        named = [
            (f"{key}: {name!r}", key, name)
            for key, names in {
                "webhook.client_names": self.webhook.client_names,
                "operator.client_names": self.operator.client_names,
                "read.client_names": self.read.client_names,
                **{
                    f"hosts.{it}.arbiter_client_names": host.arbiter_client_names
                    for it, host in self.hosts.items()
                },
            }.items()
            for name in names
        ]
        owners: dict[str, str] = {}
        problems = [
            f"{said} is in {owner} too"
            for said, key, name in named
            if (owner := owners.setdefault(name, key)) != key
        ]
        if not problems and named and self.web.config_file is None:
            problems = [f"{named[0][1]}: without TLS there are no certificates: see web.config_file"]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def hosts_of(self, domain: str) -> tuple[str, ...]:
        """Every host where the domain may run; all hosts when the file does not say."""
        return self.domains[domain].hosts or tuple(self.hosts)

    def mode_of(self, domain: str) -> Mode:
        """The domain's own mode, else the global one."""
        return self.domains[domain].mode or self.mode

    def apart(self) -> dict[str, frozenset[str]]:
        """By domain: those that should not be on the same host, whichever of the two names the other."""
        pairs = [(name, other) for name, domain in self.domains.items() for other in domain.apart]
        both: dict[str, set[str]] = {name: set() for name in self.domains}
        for name, other in pairs:
            both[name].add(other)
            both[other].add(name)
        return {name: frozenset(others) for name, others in both.items()}


def load(path: Path) -> Settings:
    """Read and check the configuration file. Nothing else is touched.

    Raises:
        ConfigError: with every fault that was found.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError((f"{path}: {error.strerror}",)) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError((f"{path}: larger than {MAX_FILE_BYTES} bytes",))
    try:
        document = yaml_text.load(raw, _UniqueKeys)
    except yaml_text.MalformedYamlError as error:
        raise ConfigError((f"{path}: not valid YAML: {error}",)) from error
    if not isinstance(document, dict):
        raise ConfigError((f"{path}: must be a mapping of keys; see docs/actuator.yml",))
    try:
        return Settings.model_validate(document)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=True)
        raise ConfigError(tuple(f"{path}: {_sentence(fault)}" for fault in faults)) from None


def check_readable(*paths: Path) -> None:
    """Files that are opened only later, by others, must be there now.

    Raises:
        ConfigError: one of them cannot be read.
    """
    problems = []
    for path in paths:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    if problems:
        raise ConfigError(tuple(problems))


def read_secret(path: Path) -> str:
    """Read a one-line secret file.

    Raises:
        ConfigError: it cannot be read, is empty, or has more than one line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError((f"{path}: {getattr(error, 'strerror', None) or 'is not text'}",)) from error
    if not lines[0].strip() or any(line.strip() for line in lines[1:]):
        raise ConfigError((f"{path}: must hold the secret alone, on one line",))
    return lines[0].strip()


def read_tokens(path: Path, key: str = "") -> tuple[str, ...]:
    """Read a file of bearer tokens, one a line.

    Args:
        path: where it is.
        key: of the configuration that names it, for the sentence.

    Raises:
        ConfigError: it cannot be read, has no token, or what cannot be one.
    """
    where = f"{key}: {path}" if key else str(path)
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_TOKENS_BYTES).decode("ascii").splitlines()
    except OSError as error:
        raise ConfigError((f"{where}: {error.strerror}",)) from error
    except UnicodeDecodeError:
        raise ConfigError((f"{where}: must hold tokens, one a line, in ASCII",)) from None
    tokens = tuple(token for line in lines if (token := line.strip()))
    if not tokens or len(tokens) > MAX_TOKENS or any(len(token.split()) > 1 for token in tokens):
        raise ConfigError((f"{where}: must hold tokens, one a line, 1 to {MAX_TOKENS}",))
    return tokens


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key replace an earlier one silently: a second ``voms01`` would hide the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a plain word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _sentence(fault: ErrorDetails) -> str:
    """Say one fault with the path to its key."""
    place = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    message = fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "extra_forbidden":
            known = tuple(_keys_beside(fault["loc"]))
            near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            return f"{place}: unknown key{hint}"
        case "missing":
            return f"{place}: is missing"
        case "value_error":  # says itself what it has seen
            return f"{place}: {message}" if place else message
        case _:
            value = fault["input"]
            seen = f", not {_said(value)!r}" if isinstance(value, str | int | float | bool) and place else ""
            return f"{place}: {message}{seen}" if place else message


def _keys_beside(loc: tuple[int | str, ...]) -> Iterator[str]:
    """The keys that are known where the unknown one stands."""
    section: Any = Settings
    for part in loc[:-1]:
        if isinstance(section, type) and issubclass(section, BaseModel):
            section = section.model_fields[str(part)].annotation
        else:
            section = get_args(section)[-1]
        if isinstance(section, UnionType):  # a section that may be absent
            section = next(it for it in get_args(section) if it is not NoneType)
    yield from section.model_fields
