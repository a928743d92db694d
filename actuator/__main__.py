"""The command line of vmheal-actuator, and the one place that knows the real ends of the ports."""

import faulthandler
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import structlog
from prometheus_client import disable_created_metrics
from pydantic_core import to_jsonable_python

from actuator.adapters.alertmanager import Alertmanager
from actuator.adapters.certificates import Authority
from actuator.adapters.clock import SystemClock, ThreadTasks
from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.fence_agents import FenceAgent, FenceAgents
from actuator.adapters.http_json import Credentials, without_credentials
from actuator.adapters.journal_backup import back_up, restore
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.programs import ConfiguredPrograms, Program
from actuator.adapters.prometheus import Prometheus
from actuator.adapters.several import Alertmanagers, Prometheuses
from actuator.adapters.sqlite import SqliteJournal
from actuator.adapters.ssh import SshAccess
from actuator.adapters.survey import look_around
from actuator.arbitrate import Arbiter
from actuator.commands import (
    ASK_SECONDS,
    COMMANDS,
    Command,
    Sections,
    ask_readiness,
    config_option,
    faults_are_said,
    is_ready,
    json_option,
    login_name,
    next_step,
    of_domains,
    say,
    show_readiness,
    tell,
    time_text,
    url_option,
)
from actuator.config import ConfigError, ServerSettings, Settings, check_readable, load
from actuator.initial import (
    AUTHORITY_KEY,
    CERTIFICATE,
    CERTIFICATE_KEY,
    KEY,
    Choices,
    HostFound,
    certificate_files,
    chosen,
    files,
    findings,
    secret_files,
)
from actuator.model import Event
from actuator.page.pages import Page
from actuator.ports import Journal, JournalError, Ports, Unanswered
from actuator.receive import Parts, Server
from actuator.rehearse import table
from actuator.reload import NotAtRestError, Reloader, fixed, orphans
from actuator.report import Report, WatchedJournal, status
from actuator.rights import Holder, Right, Rights
from actuator.serve import Actuator
from actuator.signals import Signals
from actuator.story import story_of
from actuator.targets import targets
from actuator.tokens import TokenFiles
from exporter import __version__
from exporter.notify import notify, reloading, watchdog_seconds
from exporter.web_config import WebConfigError, WebConfigFile

T = TypeVar("T")

FOLLOW_SECONDS = 0.2
JOURNAL_PAGE = 1000
IDLE_SECONDS = 60.0
STDERR = 2
SURVEY_SECONDS = 60.0
"""For one host, or for all at once: a login, which a busy one may take long for, and each of its domains."""
KEYGEN_SECONDS = 30.0
REST_SECONDS = 10.0
"""How long a reload waits for a moment without a plan under way."""


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmheal-actuator")
@click.pass_context
def main(context: click.Context) -> None:
    """Keep protected VMs running: restarted, moved, or failed over, and never twice or on an old disk.

    Exit status: 0 all is well; 1 it failed, or something is not well; 2 usage or configuration.
    """
    _configure_logging(level=logging.ERROR)
    if os.environ.get("NO_COLOR"):  # no-color.org; without a terminal click leaves colours out by itself
        context.color = False


for _command in COMMANDS:
    main.add_command(_command)


# ---- serve ------------------------------------------------------------------------------------------------


@main.command()
@config_option
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Log lines on standard error.",
)
def serve(config_path: Path, log_format: str) -> None:
    """Run the actuator until SIGTERM or SIGINT.

    On such a signal it begins nothing new, waits up to 20 s for calls that are under way, and ends. On SIGHUP
    it takes its configuration file up again, all of it or nothing, as 'reload' has it do. Killed at any
    moment, it looks at the live system when it is started again, and goes on.
    """
    _configure_logging(as_json=log_format == "json")
    # systemd's watchdog ends us by SIGABRT: then the log has what each thread did.
    faulthandler.enable(STDERR)
    with faults_are_said():
        settings = load(config_path)
        disable_created_metrics()  # type: ignore[no-untyped-call]
        report = Report(settings)
        with ExitStack() as opened:
            signals = opened.enter_context(Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
            journal = WatchedJournal(opened.enter_context(closing(_open_journal(settings))), report)
            serving = _Serving(config_path, settings, journal, report)
            opened.callback(serving.stop)
            with serving.server:
                structlog.get_logger().info("serving", listen=settings.listen, mode=settings.mode.value)
                serving.run(signals)


class _Serving:
    """The server, and behind it the site by the settings that count; a reload puts another in its place."""

    def __init__(self, config_path: Path, settings: Settings, journal: Journal, report: Report) -> None:
        self._journal = journal
        self._report = report
        self.reloader = Reloader(partial(load, config_path), self._take, report.registry)
        self._site = _Site(settings, journal, report)
        try:
            self._site.start()
            self.server = Server(settings.listen, self._parts(self._site), _web_config(settings))
        except BaseException:
            self._site.stop()
            raise

    def run(self, signals: Signals) -> None:
        """Until SIGTERM or SIGINT. systemd is told that all loops go on; one that hangs has it restart us."""
        seconds = watchdog_seconds()
        self._ready()
        while True:
            arrived = signals.wait(seconds or IDLE_SECONDS)
            if arrived & {signal.SIGTERM, signal.SIGINT}:
                notify("STOPPING=1")
                return
            if signal.SIGHUP in arrived:
                reloading()
                with suppress(ConfigError, NotAtRestError, JournalError):  # it is logged
                    self.reloader.reload()
                self._ready()
            if hung := self._site.actuator.hung():
                structlog.get_logger().critical("a loop hangs", loops=hung)
            elif seconds is not None:
                notify("WATCHDOG=1")

    def _ready(self) -> None:
        notify("READY=1", self._status())

    def _status(self) -> str:
        settings = self._site.settings
        return f"STATUS=mode {settings.mode}, {len(settings.domains)} protected VMs"

    def _reload_by_order(self) -> None:
        """Over HTTP: systemd has not asked for it, and is told what counts now."""
        self.reloader.reload()
        notify(self._status())

    def stop(self) -> None:
        """End the site."""
        self._site.stop()

    def _parts(self, site: "_Site") -> Parts:
        return replace(site.parts, reload=self._reload_by_order)

    def _take(self, settings: Settings) -> None:
        """See ``actuator.reload``."""
        old = self._site
        if problems := (*fixed(old.settings, settings), *orphans(self._journal.records(), settings)):
            raise ConfigError(problems)
        _web_config(settings)
        new = _Site(settings, self._journal, self._report)
        try:
            new.actuator.check()
            old.actuator.rest(REST_SECONDS)
            try:
                new.start()
            except BaseException:
                old.show()
                old.actuator.worker.go_on()
                raise
        except BaseException:
            new.stop()
            raise
        self._site = new
        self.server.use(self._parts(new))
        old.stop()


class _Site:
    """Everything that one version of the settings makes."""

    def __init__(self, settings: Settings, journal: Journal, report: Report) -> None:
        self.settings = settings
        self._report = report
        stopping = threading.Event()
        rights = _rights(settings)
        tasks = ThreadTasks()
        with ExitStack() as opened:
            self._world = _reach(settings, opened)
            ports = Ports(
                hypervisor=self._world.hypervisor,
                storage=self._world.storage,
                fencing=self._world.fencing,
                programs=self._world.programs,
                alerts=Alertmanagers(self._world.alertmanagers, tasks),
                metrics=Prometheuses(self._world.prometheuses, tasks),
                journal=journal,
                clock=SystemClock(stopping),
                tasks=tasks,
            )
            self.actuator = Actuator(ports, settings, report, stopping)
            self._opened = opened.pop_all()
        self.parts = Parts(
            journal=ports.journal,
            clock=ports.clock,
            rights=rights,
            arbiter=Arbiter(ports.journal, ports.clock, self.actuator.contacts),
            webhook=settings.webhook,
            wake=self.actuator.wake,
            registry=report.registry,
            status=partial(_status, settings, self.actuator, ports),
            explain=self.actuator.explainer.explain,
            ready=lambda: table(self.actuator.rehearser.last(), settings.domains),
            targets=partial(targets, settings),
            orders=self.actuator.orders,
            page=Page(self.actuator.site, ports.journal, ports.clock, rights, self.actuator.orders),
        )

    def start(self) -> None:
        """Begin to work, and to be shown.

        Raises:
            ConfigError: journal and configuration do not fit.
            JournalError: the journal cannot be read.
        """
        self._world.storage.read_ahead()
        self.show()
        self.actuator.start()

    def show(self) -> None:
        """Have the metrics tell of this one."""
        self._report.follow(self.settings)
        self._report.show(self.actuator.protected)
        self._report.show_readiness(self.actuator.rehearser.last)

    def stop(self) -> None:
        """End it, and let go of hosts and servers."""
        self.actuator.stop()
        self._opened.close()


def _status(settings: Settings, actuator: Actuator, ports: Ports) -> Mapping[str, object]:
    return status(
        settings,
        actuator.protected,
        [it for _, it in sorted(ports.journal.authorities().items())],
        actuator.reconciler.last_at,
        actuator.worker.busy,
        hosts=ports.journal.hosts(),
        paused=actuator.worker.pauses(),
        now=ports.clock.wall(),
    )


def _rights(settings: Settings) -> Rights:
    """Who may do what.

    Raises:
        ConfigError: a file of tokens cannot be used, or lets somebody do what is for others.
    """
    hosts = settings.hosts.items()
    holders = {
        "webhook": (
            Right.DELIVER,
            "Alertmanager",
            settings.webhook.token_file,
            settings.webhook.client_names,
        ),
        **{
            f"hosts.{name}": (Right.ARBITRATE, name, it.arbiter_token_file, it.arbiter_client_names)
            for name, it in hosts
        },
        "operator": (Right.ORDER, "operator", settings.operator.token_file, settings.operator.client_names),
        "read": (Right.READ, "reader", settings.read.token_file, settings.read.client_names),
    }
    keys = {
        name: f"{name}.{'arbiter_' if right is Right.ARBITRATE else ''}token_file"
        for name, (right, *_) in holders.items()
    }
    files = TokenFiles({keys[name]: file for name, (_, _, file, _) in holders.items() if file})
    return Rights(
        [
            Holder(right, who, partial(files.of, keys[name]) if file else tuple, frozenset(names))
            for name, (right, who, file, names) in holders.items()
            if file or names
        ]
    )


def _web_config(settings: Settings) -> WebConfigFile:
    """TLS, and what else there is of it for the actuator.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        file = WebConfigFile(settings.web.config_file)
        config = file.current()
    except WebConfigError as error:
        raise ConfigError((f"web.config_file: {error}",)) from error
    if config.users is not None:
        raise _unfit(settings, "basic_auth_users is not for the actuator: see its own token files")
    sections = (settings.webhook, settings.operator, settings.read)
    named = [it.client_names for it in sections] + [it.arbiter_client_names for it in settings.hosts.values()]
    if any(named) and not config.asks_clients:
        raise _unfit(settings, "client_names needs client_auth_type and client_ca_file there")
    return file


def _unfit(settings: Settings, why: str) -> ConfigError:
    return ConfigError((f"web.config_file: {settings.web.config_file}: {why}",))


def _open_journal(settings: Settings) -> SqliteJournal:
    return SqliteJournal(
        settings.journal.path,
        keep_events=settings.journal.keep_events,
        max_bytes=settings.journal.max_bytes,
        timeout_seconds=settings.journal.timeout_seconds,
    )


class _World(NamedTuple):
    """The real ends that reach out of this machine."""

    hypervisor: LibvirtHypervisor
    storage: DrbdStorage
    fencing: FenceAgents
    programs: ConfiguredPrograms
    alertmanagers: Mapping[str, Alertmanager]
    """Each by what it is called; so is each Prometheus."""
    prometheuses: Mapping[str, Prometheus]


def _reach(settings: Settings, opened: ExitStack) -> _World:
    """Open the ways to hosts and servers; they connect in the background.

    Raises:
        ConfigError: a key file is missing, or a libvirt URI asks for what is not allowed.
    """
    check_readable(settings.ssh.key_file, settings.ssh.known_hosts_file)
    access = {
        name: SshAccess(
            address=host.address,
            key_file=settings.ssh.key_file,
            known_hosts_file=settings.ssh.known_hosts_file,
            port=settings.ssh.port,
            user=settings.ssh.user,
            command=settings.ssh.command,
        )
        for name, host in settings.hosts.items()
    }
    try:
        uris = {name: strict_uri(host.libvirt_uri, access[name]) for name, host in settings.hosts.items()}
    except ValueError as error:
        raise ConfigError((f"hosts: {error}",)) from error
    logins = {name: each.logins for name, each in access.items()}
    return _World(
        hypervisor=opened.enter_context(closing(LibvirtHypervisor(uris, logins))),
        storage=opened.enter_context(closing(DrbdStorage(access))),
        fencing=FenceAgents(
            {
                name: FenceAgent(it.agent, it.options, it.password_file, it.timeout_seconds)
                for name, host in settings.hosts.items()
                if (it := host.fence) is not None
            }
        ),
        programs=ConfiguredPrograms(
            {name: Program(it.argv, it.timeout_seconds) for name, it in settings.programs.items()}
        ),
        alertmanagers=_each("Alertmanager", Alertmanager, settings.alertmanager),
        prometheuses=_each("Prometheus", Prometheus, settings.prometheus),
    )


def _each(kind: str, adapter: Callable[[str, Credentials], T], servers: ServerSettings) -> dict[str, T]:
    """Each server by what it is called.

    Raises:
        ConfigError: a file of what is shown to them cannot be read.
    """
    check_readable(*servers.files)
    shown = Credentials(
        verified_by=servers.verified_by,
        certificate=servers.certificate,
        token_file=servers.token_file,
        user=servers.user,
        password_file=servers.password_file,
    )
    if len(servers.url) == 1:
        return {kind: adapter(servers.url[0], shown)}
    return {f"{kind} at {without_credentials(url)}": adapter(url, shown) for url in servers.url}


# ---- init -------------------------------------------------------------------------------------------------


@main.command()
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A new folder for the files.",
)
@click.option("--actuator", required=True, metavar="ADDRESS", help="Where the hosts reach the actuator.")
@click.option("--user", default="root", show_default=True, help="As whom init logs in on the hosts.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    default=lambda: Path.home() / ".ssh" / "id_ed25519",
    help="Your own private key, for init alone; ~/.ssh/id_ed25519 else.",
)
@click.option(
    "--known-hosts",
    type=click.Path(dir_okay=False, path_type=Path),
    default=lambda: Path.home() / ".ssh" / "known_hosts",
    help="The hosts' keys; one that is not in it is not talked to. ~/.ssh/known_hosts else.",
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=22, show_default=True, help="Of the hosts' sshd."
)
@click.option("--prometheus", default="http://localhost:9090", show_default=True, metavar="URL", help="It.")
@click.option("--alertmanager", default="http://localhost:9093", show_default=True, metavar="URL", help="It.")
def init(
    hosts: tuple[str, ...],
    out: Path,
    actuator: str,
    user: str,
    key: Path,
    known_hosts: Path,
    port: int,
    prometheus: str,
    alertmanager: str,
) -> None:  # fmt: skip
    """Write the files of a new site, from a look around on its hosts.

    Logs in on each HOST, an address, by your own key, and asks for its name, its DRBD resources and its
    libvirt domains. Changes nothing there. Writes a commented configuration in mode observe, a key of the
    actuator's own and what it may touch on each host, tokens, certificates for TLS, what DRBD, Prometheus and
    Alertmanager are to be told, and says what stands in the way.
    """
    with faults_are_said():
        check_readable(key, known_hosts)
        if out.exists():
            raise ConfigError((f"{out}: is there already; nothing is overwritten",))
        access = {
            host: SshAccess(address=host, key_file=key, known_hosts_file=known_hosts, port=port, user=user)
            for host in hosts
        }
        questions = {
            host: partial(look_around, it, timeout_seconds=SURVEY_SECONDS) for host, it in access.items()
        }
        answers = ThreadTasks().gather(questions, timeout_seconds=SURVEY_SECONDS + 1)
        if failed := [f"{host}: {it}" for host, it in answers.items() if isinstance(it, Unanswered)]:
            raise ConfigError(tuple(failed))
        found = [it for it in answers.values() if isinstance(it, HostFound)]
        if twice := [name for name, count in Counter(it.name for it in found).items() if count > 1]:
            raise ConfigError(tuple(f"two of these hosts call themselves {name}" for name in twice))
        choices = partial(Choices, actuator, port, prometheus, alertmanager, shipped=_shipped())
        _write_site(out, found, actuator, choices)
    for sentence in findings(found):
        click.secho(f"to do: {sentence}", fg="yellow")
    click.echo(
        f"{out}: written, {len(found)} hosts, {len(chosen(found))} VMs to protect, mode observe. Nothing was"
        f" changed on the hosts.\nnext: read {out / 'actuator.yml'}, put the files where docs/first-steps.md"
        " says, then: vmheal-actuator check --live"
    )


def _shipped() -> dict[str, str]:
    """What Prometheus and Alertmanager are told, as rules/ has it."""
    folder = resources.files("actuator") / "shipped"
    return {
        name: (folder / name).read_text(encoding="utf-8") for name in ("prometheus.yml", "alertmanager.yml")
    }


def _write_site(
    out: Path, found: Sequence[HostFound], actuator: str, choices: Callable[[str], Choices]
) -> None:
    """Write the folder as a whole, or nothing of it. Only its owner may read it: it holds keys and tokens.

    Args:
        out: where.
        found: the hosts.
        actuator: what its certificate is for.
        choices: of the actuator's public key, which is made here.
    """
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        texts = {path: (text, 0o644) for path, text in files(found, choices(_new_key(made))).items()}
        for name, copies in secret_files(found).items():
            token = secrets.token_hex(32)
            texts |= dict.fromkeys((name, *copies), (f"{token}\n", 0o600))
        authority = Authority("vmheal")
        ours = authority.issue(actuator)
        texts |= dict.fromkeys(certificate_files(found), (authority.pair.certificate, 0o644))
        texts |= {CERTIFICATE: (ours.certificate, 0o644), CERTIFICATE_KEY: (ours.key, 0o600)}
        texts[AUTHORITY_KEY] = (authority.pair.key, 0o600)
        for path, (text, mode) in texts.items():
            target = made / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "x", encoding="utf-8", opener=partial(os.open, mode=mode)) as file:
                file.write(text)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _new_key(folder: Path) -> str:
    """Make the actuator's key pair, id_ed25519; its public line.

    Raises:
        ConfigError: ssh-keygen does not make one.
    """
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vmheal", "-f", str(folder / KEY)]
    try:
        subprocess.run(argv, check=True, capture_output=True, timeout=KEYGEN_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError((f"ssh-keygen makes no key: {error}",)) from error
    return (folder / f"{KEY}.pub").read_text(encoding="utf-8").strip()


# ---- check ------------------------------------------------------------------------------------------------


@main.command()
@config_option
@click.argument("vms", metavar="[VM]...", nargs=-1)
@click.option("--live", is_flag=True, help="Also ask every host and server. Changes nothing.")
@url_option
@json_option
def check(config_path: Path, vms: tuple[str, ...], live: bool, url: str | None, as_json: bool) -> None:
    """Check the configuration, and what would work now.

    The running actuator rehearses for each VM whether a restart, a move and a failover to each of its hosts
    would work now; here is what that last came to, of all VMs or of those named: what stands against it, and
    what mends it. Where no actuator runs only the configuration is checked, and --live tells who answers.

    Exit status 1: something would not work, or does not answer.
    """
    with faults_are_said():
        settings = load(config_path)
        _rights(settings)
        _web_config(settings)
        if unknown := [name for name in vms if name not in settings.domains]:
            raise ConfigError((f"{config_path}: {', '.join(unknown)}: not in domains",))
        answers = _ask_everybody(settings) if live else {}
        ready = of_domains(ask_readiness(settings, url), vms)
    if as_json:
        click.echo(json.dumps({"config": "ok", "live": answers, "ready": ready}, indent=2))
    else:
        click.echo(f"{config_path}: ok, mode {settings.mode}, {len(settings.domains)} protected domains")
        for who, answer in answers.items():
            say(f"{who}: {answer}")
        show_readiness(ready)
        say(f"next: {next_step(settings, ready, answers)}")
    asked_in_vain = url is not None and "unanswered" in ready
    well = all(is_ready(it) for it in ready.get("domains", ())) and not asked_in_vain
    if not well or any(not answer.startswith("ok") for answer in answers.values()):
        sys.exit(1)


def _ask_everybody(settings: Settings) -> dict[str, str]:
    with ExitStack() as opened:
        world = _reach(settings, opened)
        questions: dict[str, Callable[[], str]] = {}
        for host in settings.hosts:
            questions[f"libvirt on {host}"] = partial(_count_domains, world, host)
            questions[f"DRBD on {host}"] = partial(_count_resources, world, host)
        servers: dict[str, Alertmanager | Prometheus] = {**world.alertmanagers, **world.prometheuses}
        for name, server in servers.items():
            questions[name] = partial(_count_alerts, server)
        say(f"asking {', '.join(questions)}: up to {SURVEY_SECONDS:g} s ...", err=True)
        answers = ThreadTasks().gather(questions, timeout_seconds=SURVEY_SECONDS + 1)
    return {who: str(answer) for who, answer in answers.items()}


def _count_domains(world: _World, host: str) -> str:
    return f"ok, {len(world.hypervisor.states(host, timeout_seconds=SURVEY_SECONDS))} domains"


def _count_resources(world: _World, host: str) -> str:
    return f"ok, {len(world.storage.status(host, timeout_seconds=SURVEY_SECONDS).resources)} resources"


def _count_alerts(source: Alertmanager | Prometheus) -> str:
    return f"ok, {len(source.firing(timeout_seconds=ASK_SECONDS))} alerts ask for an action"


# ---- journal ----------------------------------------------------------------------------------------------


@main.group(name="journal", invoke_without_command=True)
@config_option
@click.option(
    "--path", type=click.Path(dir_okay=False, path_type=Path), help="A journal file, without a configuration."
)
@click.option("--domain", default="", help="Only this domain.")
@click.option(
    "--lines", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="So many, the newest."
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@json_option
@click.pass_context
def show_journal(
    context: click.Context,
    config_path: Path,
    path: Path | None,
    domain: str,
    lines: int,
    follow: bool,
    as_json: bool,
) -> None:
    """Print what happened, or the story of one plan.

    What was received, observed and decided, each step, how it ended.

    'journal show PLAN' tells the story of one plan instead.

    With --json one object a line: at, kind, sentence, domain, host, plan, detail. Reads the journal's file
    beside a running actuator, or without one.
    """
    if context.invoked_subcommand is not None:
        return
    with faults_are_said(), closing(_read_journal(path or load(config_path).journal.path)) as journal:
        after = 0
        for sequence, event in journal.timeline(domain=domain, limit=lines, newest=True):
            _print_event(event, as_json)
            after = sequence
        while follow:
            for sequence, event in journal.timeline(domain=domain, after=after, limit=JOURNAL_PAGE):
                _print_event(event, as_json)
                after = sequence
            threading.Event().wait(FOLLOW_SECONDS)


def _of_journal(command: Command) -> Command:
    """The options of 'journal' may also stand behind its subcommands."""
    file = click.Path(dir_okay=False, path_type=Path)
    command = click.option("--path", type=file, help="As of 'journal'.")(command)
    return click.option("--config", "config_path", type=file, help="As of 'journal'.")(command)


@show_journal.command(name="show")
@click.argument("plan")
@_of_journal
@json_option
@click.pass_context
def show_plan(
    context: click.Context, plan: str, config_path: Path | None, path: Path | None, as_json: bool
) -> None:
    """Tell the story of one PLAN: what was seen, what was decided, each step with its times, how it ended.

    'status' and the timeline name plans, as in voms01-17. With --json: plan, evidence, decision, steps, end.
    """
    as_json = as_json or (context.parent is not None and bool(context.parent.params.get("as_json")))
    with faults_are_said(), closing(_read_journal(_journal_path(config_path, path))) as journal:
        events: list[Event] = []
        after = 0
        while page := journal.timeline(domain=plan.rpartition("-")[0], after=after, limit=JOURNAL_PAGE):
            events += [event for _, event in page]
            after = page[-1][0]
        story = story_of(plan, events) if "-" in plan else None
        if story is None:
            raise JournalError(f"there is nothing of a plan {plan!r} in the journal; old events are dropped")
    if as_json:
        click.echo(json.dumps(story, indent=2))
    else:
        tell(story)


@show_journal.command(name="backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_of_journal
def back_up_journal(file: Path, config_path: Path | None, path: Path | None) -> None:
    """Copy the journal into FILE, as it is at one moment; the actuator may run meanwhile.

    No actuator runs on a backup: 'journal restore' makes a journal of it.
    """
    with faults_are_said():
        back_up(_journal_path(config_path, path), file)
    click.echo(f"{file}: written")


@show_journal.command(name="restore")
@click.argument("file", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@_of_journal
@click.option("--by", default=login_name, show_default="$SUDO_USER, else the login name", help="Who does it.")
def restore_journal(file: Path, config_path: Path | None, path: Path | None, by: str) -> None:
    """Make a journal of the backup FILE, while the actuator is stopped.

    A backup is old, and vmheal would believe it. So what lets it act is not restored: who holds which DRBD
    resource is learned anew, plans are dropped, and all is paused until 'resume all'. The journal that was
    there is kept beside it.
    """
    with faults_are_said():
        journal = _journal_path(config_path, path)
        aside = restore(file, journal, by=by, at=datetime.now(UTC).timestamp())
    if aside is not None:
        click.echo(f"the journal that was there is {aside}")
    click.echo(
        f"{journal}: restored, and all is paused. Start the actuator, see that each VM is where 'status' says"
        " (where not: 'virsh list' on its hosts), then: vmheal-actuator resume all"
    )


def _journal_path(config_path: Path | None, path: Path | None) -> Path:
    """Where the journal is, by the options here, else by those of 'journal'.

    Raises:
        ConfigError: the configuration, which says where it is, cannot be used.
    """
    parent = click.get_current_context().parent
    given = parent.params if parent is not None else {}
    path = path or (given.get("path") if config_path is None else None)
    return path or load(config_path or given["config_path"]).journal.path


def _read_journal(file: Path) -> SqliteJournal:
    """Open the file of a journal, or of a backup, to read it.

    Raises:
        JournalError: it cannot be opened.
    """
    if not file.exists():
        raise JournalError(f"{file}: does not exist")
    return SqliteJournal(file, read_only=True, backup=True)


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(to_jsonable_python(event)))
    else:
        place = f"{event.domain}@{event.host}" if event.host else event.domain
        say(f"{time_text(event.at)} {event.kind:<9} {place:<16} {event.sentence}")


# ---- common -----------------------------------------------------------------------------------------------


def _configure_logging(*, as_json: bool = False, level: int = logging.INFO) -> None:
    """Log to standard error: standard output is for what was asked."""
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


if __name__ == "__main__":
    main()
