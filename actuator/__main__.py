"""The command line of vmheal-actuator, and the one place that knows the real ends of the ports."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import requests
import structlog
from prometheus_client import disable_created_metrics
from pydantic_core import to_jsonable_python

from actuator.adapters.alertmanager import Alertmanager
from actuator.adapters.clock import SystemClock, ThreadTasks
from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.prometheus import Prometheus
from actuator.adapters.sqlite import SqliteJournal
from actuator.adapters.ssh import SshAccess
from actuator.arbitrate import Arbiter
from actuator.config import ConfigError, Settings, check_readable, load, read_secret
from actuator.model import Event
from actuator.ports import Journal, JournalError, Ports
from actuator.receive import Server
from actuator.report import Report, WatchedJournal, status
from actuator.serve import Actuator
from exporter import __version__

DEFAULT_CONFIG = "/etc/vmheal/actuator.yml"
FOLLOW_SECONDS = 0.2
ASK_SECONDS = 10.0
JOURNAL_PAGE = 1000

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=DEFAULT_CONFIG,
    show_default=True,
    envvar="VMHEAL_CONFIG",
    help="The configuration file; docs/actuator.yml explains every key.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmheal-actuator")
def main() -> None:
    """Restart protected VMs when Prometheus says that they failed, and never twice or on an old disk.

    Exit status: 0 all is well; 1 it failed, or something is not well; 2 usage or configuration.
    """
    _configure_logging(level=logging.ERROR)


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

    On a signal it begins nothing new, waits up to 20 s for calls that are under way, and ends. Killed at any
    moment, it looks at the live system when it is started again, and goes on.
    """
    _configure_logging(as_json=log_format == "json")
    with _faults_are_said():
        settings = load(config_path)
        token, hooks = read_secret(settings.webhook.token_file), _hook_tokens(settings)
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        disable_created_metrics()  # type: ignore[no-untyped-call]
        report = Report(settings)
        with ExitStack() as opened:
            journal = opened.enter_context(closing(_open_journal(settings)))
            world = _reach(settings, opened)
            world.storage.read_ahead()
            ports = Ports(
                *world,
                journal=WatchedJournal(journal, report),
                clock=SystemClock(stopping),
                tasks=ThreadTasks(),
            )
            actuator = Actuator(ports, settings, report, stopping)
            report.show(actuator.protected)
            actuator.start()
            opened.callback(actuator.stop)
            server = Server(
                settings.listen_address,
                journal=ports.journal,
                clock=ports.clock,
                token=token,
                hooks=hooks,
                arbiter=Arbiter(ports.journal, ports.clock, actuator.contacts),
                webhook=settings.webhook,
                wake=actuator.wake,
                registry=report.registry,
                status=partial(_status, settings, actuator, ports.journal),
            )
            with server:
                structlog.get_logger().info("serving", listen=settings.listen, mode=settings.mode.value)
                stopping.wait()


def _status(settings: Settings, actuator: Actuator, journal: Journal) -> Mapping[str, object]:
    reconciled_at, busy = actuator.reconciler.last_at, actuator.worker.busy
    return status(settings, actuator.protected, journal.authorities(), reconciled_at, busy)


def _hook_tokens(settings: Settings) -> dict[str, str]:
    """Read the tokens of the hosts' hooks; host by token.

    Raises:
        ConfigError: one cannot be read, or two hosts have the same.
    """
    files = {
        name: host.arbiter_token_file for name, host in settings.hosts.items() if host.arbiter_token_file
    }
    hosts: dict[str, str] = {}
    for name, file in files.items():
        other = hosts.setdefault(read_secret(file), name)
        if other != name:
            raise ConfigError(
                (f"hosts.{name}.arbiter_token_file: {file}: the same token as that of {other}",)
            )
    return hosts


def _open_journal(settings: Settings) -> SqliteJournal:
    return SqliteJournal(
        settings.journal.path,
        keep_events=settings.journal.keep_events,
        timeout_seconds=settings.journal.timeout_seconds,
    )


class _World(NamedTuple):
    """The real ends that reach out of this machine."""

    hypervisor: LibvirtHypervisor
    storage: DrbdStorage
    alerts: Alertmanager
    metrics: Prometheus


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
        )
        for name, host in settings.hosts.items()
    }
    try:
        uris = {name: strict_uri(host.libvirt_uri, access[name]) for name, host in settings.hosts.items()}
    except ValueError as error:
        raise ConfigError((f"hosts: {error}",)) from error
    logins = {name: each.login for name, each in access.items()}
    return _World(
        hypervisor=opened.enter_context(closing(LibvirtHypervisor(uris, logins))),
        storage=opened.enter_context(closing(DrbdStorage(access))),
        alerts=Alertmanager(settings.alertmanager),
        metrics=Prometheus(settings.prometheus),
    )


# ---- check ------------------------------------------------------------------------------------------------


@main.command()
@config_option
@click.option("--live", is_flag=True, help="Also ask every host and server. Changes nothing.")
@json_option
def check(config_path: Path, live: bool, as_json: bool) -> None:
    """Check the configuration, and with --live that everybody answers."""
    with _faults_are_said():
        settings = load(config_path)
        read_secret(settings.webhook.token_file)
        _hook_tokens(settings)
        answers = _ask_everybody(settings) if live else {}
    if as_json:
        click.echo(json.dumps({"config": "ok", "live": answers}, indent=2))
    else:
        click.echo(f"{config_path}: ok, mode {settings.mode}, {len(settings.domains)} protected domains")
        for who, answer in answers.items():
            click.echo(f"{who}: {answer}")
    if any(not answer.startswith("ok") for answer in answers.values()):
        sys.exit(1)


def _ask_everybody(settings: Settings) -> dict[str, str]:
    with ExitStack() as opened:
        world = _reach(settings, opened)
        questions: dict[str, Callable[[], str]] = {}
        for host in settings.hosts:
            questions[f"libvirt on {host}"] = partial(_count_domains, world, host)
            questions[f"DRBD on {host}"] = partial(_count_resources, world, host)
        questions["Alertmanager"] = partial(_count_alerts, world.alerts)
        questions["Prometheus"] = partial(_count_alerts, world.metrics)
        answers = ThreadTasks().gather(questions, timeout_seconds=ASK_SECONDS + 1)
    return {who: str(answer) for who, answer in answers.items()}


def _count_domains(world: _World, host: str) -> str:
    return f"ok, {len(world.hypervisor.states(host, timeout_seconds=ASK_SECONDS))} domains"


def _count_resources(world: _World, host: str) -> str:
    return f"ok, {len(world.storage.status(host, timeout_seconds=ASK_SECONDS).resources)} resources"


def _count_alerts(source: Alertmanager | Prometheus) -> str:
    return f"ok, {len(source.firing(timeout_seconds=ASK_SECONDS))} alerts ask for an action"


# ---- status -----------------------------------------------------------------------------------------------


@main.command(name="status")
@config_option
@click.option("--url", help="The running actuator, when it is not where the configuration says.")
@json_option
def show_status(config_path: Path, url: str | None, as_json: bool) -> None:
    """Show protected domains, open plans, standing warnings, and who may be Primary of each resource."""
    with _faults_are_said():
        if url is None:
            host, port = load(config_path).listen_address
            url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  compared, not bound
        answer = _ask(f"{url.rstrip('/')}/api/v1/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"mode {answer['mode']}, reconciled {_time(answer['reconciled_at'])}")
    for domain in answer["domains"]:
        plan, escalation = domain["plan"], domain["escalation"]
        click.echo(f"{domain['domain']} on {domain['host']}, may run on {', '.join(domain['hosts'])}")
        if plan is not None:
            click.echo(f"  plan {plan['id']}: {plan['status']} {plan['sentence']}")
        if escalation is not None:
            click.echo(
                f"  {escalation['kind']} since {_time(escalation['since_at'])}: {escalation['sentence']}"
            )
    for resource in answer["resources"]:
        admitted = ", ".join(resource["admitted"]) or "nobody"
        holder = (
            f"{resource['holder']}{' alone' if resource['granted'] else ''}"
            if resource["holder"]
            else "nobody"
        )
        click.echo(f"{resource['resource']}: {holder} holds the authority, admitted: {admitted}")


def _ask(url: str) -> dict[str, Any]:
    try:
        response = requests.get(url, timeout=ASK_SECONDS)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
    except (requests.RequestException, ValueError) as error:
        raise click.ClickException(f"{url}: {error}") from error
    return answer


# ---- journal ----------------------------------------------------------------------------------------------


@main.command(name="journal")
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
def show_journal(
    config_path: Path, path: Path | None, domain: str, lines: int, follow: bool, as_json: bool
) -> None:
    """Print what happened: received, observed, decided, each step, how it ended.

    With --json one object a line: at, kind, sentence, domain, host, plan, detail. Reads the journal's file
    beside a running actuator, or without one.
    """
    with _faults_are_said():
        file = path or load(config_path).journal.path
        if not file.exists():
            raise JournalError(f"{file}: does not exist")
        with closing(SqliteJournal(file, read_only=True)) as journal:
            after = 0
            for sequence, event in journal.timeline(domain=domain, limit=lines, newest=True):
                _print_event(event, as_json)
                after = sequence
            while follow:
                for sequence, event in journal.timeline(domain=domain, after=after, limit=JOURNAL_PAGE):
                    _print_event(event, as_json)
                    after = sequence
                threading.Event().wait(FOLLOW_SECONDS)


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(to_jsonable_python(event)))
    else:
        place = f"{event.domain}@{event.host}" if event.host else event.domain
        click.echo(f"{_time(event.at)} {event.kind:<9} {place:<16} {event.sentence}")


def _time(at: float | None) -> str:
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


# ---- common -----------------------------------------------------------------------------------------------


@contextmanager
def _faults_are_said() -> Iterator[None]:
    """Faults that a person can mend end the program with a sentence, not with a traceback."""
    try:
        yield
    except ConfigError as error:
        click.echo("\n".join(f"vmheal-actuator: {problem}" for problem in error.problems), err=True)
        sys.exit(2)
    except (JournalError, OSError) as error:
        click.echo(f"vmheal-actuator: {error}", err=True)
        sys.exit(1)


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
