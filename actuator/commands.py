"""What an operator asks of the running actuator, and orders it: the commands that speak HTTP with it.

The commands that serve, check, and read the journal's file are in ``__main__``, which knows the adapters.
"""

import functools
import getpass
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import requests

from actuator.config import ConfigError, Mode, Settings, load, read_tokens
from actuator.ports import JournalError

DEFAULT_CONFIG = "/etc/vmheal/actuator.yml"
ASK_SECONDS = 10.0
RELOAD_SECONDS = 60.0
"""Longer than a reload waits for plans, and the old threads for their end."""
EXPLAIN_SECONDS = 90.0
"""A fresh look at every VM of a host, some of which may have to be waited for."""

Command = TypeVar("Command", bound=Callable[..., Any])

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
url_option = click.option("--url", help="The running actuator, when it is not where the configuration says.")


# ---- common to all commands -------------------------------------------------------------------------------


class Sections(click.Group):
    """A group that lists its commands by what they are for, not by name."""

    sections: Mapping[str, Sequence[str]] = {
        "The program": ("init", "check", "serve", "reload"),
        "Looking": ("status", "explain", "journal"),
        "Orders": (
            "pause", "resume", "drain", "undrain", "migrate", "approve", "retry", "confirm-down", "readmit",
            "forget",
        ),
    }  # fmt: skip

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each section, in the order that is meant."""
        width = formatter.width - 16
        for title, names in self.sections.items():
            found = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, command.get_short_help_str(width)) for name, command in found if command]
            with formatter.section(title):
                formatter.write_dl(rows)


@contextmanager
def faults_are_said() -> Iterator[None]:
    """Faults that a person can mend end the program with a sentence, not with a traceback."""
    try:
        yield
    except ConfigError as error:
        for problem in error.problems:
            say(f"vmheal-actuator: {problem}", err=True)
        sys.exit(2)
    except (JournalError, OSError) as error:
        say(f"vmheal-actuator: {error}", err=True)
        sys.exit(1)


def say(text: str, *, err: bool = False) -> None:
    """Print a line for a person. What alerts and hosts have put into it does not steer the terminal."""
    click.echo("".join(it if it.isprintable() else ascii(it)[1:-1] for it in text), err=err)


def time_text(at: float | None) -> str:
    """Local time with milliseconds, for people."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


def _url(settings: Settings) -> str:
    if settings.web.url is not None:
        return settings.web.url
    host, _, port = settings.listen.rpartition(":")
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  compared, not bound
    scheme = "https" if settings.web.config_file else "http"
    return f"{scheme}://{host}:{port}"


def _exchange(
    settings: Settings, url: str | None, path: str, *, timeout_seconds: float = ASK_SECONDS, **order: Any
) -> requests.Response:
    """Ask, or with ``data`` order; proxies and ``.netrc`` are not to touch the token.

    Raises:
        ConfigError: the token cannot be read.
    """
    url, web = (url or _url(settings)).rstrip("/"), settings.web
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.request(
                "POST" if order else "GET",
                url + path,
                timeout=timeout_seconds,
                headers=_credentials(settings, to_order=bool(order)),
                verify=web.verified_by,
                cert=web.certificate,
                allow_redirects=False,
                **order,
            )
    except requests.exceptions.SSLError as error:
        said: BaseException = error
        while said.__context__ is not None:  # beneath the layers of HTTP
            said = said.__context__
        raise click.ClickException(
            f"{url}: {said}: web.url names it as its certificate does, web.ca_file who has signed that"
        ) from error
    except (requests.RequestException, OSError) as error:  # a ca_file that is not there is an OSError
        raise click.ClickException(f"{url}: {error}") from error


def _credentials(settings: Settings, *, to_order: bool) -> dict[str, bytes]:
    """The headers that open the right; a certificate may open it without a token.

    Raises:
        ConfigError: none of the files with a token can be read.
    """
    headers = {"Content-Type": b"application/json"} if to_order else {}
    files = [settings.operator.token_file]
    if not to_order:
        read = settings.read
        files = [read.token_file, *files] if read.token_file or read.client_names else []
    unreadable: list[str] = []
    for file in filter(None, files):
        try:
            return headers | {"Authorization": f"Bearer {read_tokens(file)[0]}".encode()}
        except ConfigError as error:
            unreadable += error.problems
    if unreadable and settings.web.client_cert_file is None:
        raise ConfigError(tuple(unreadable))
    return headers


def _answer(response: requests.Response) -> dict[str, Any]:
    if not response.ok:
        said = " ".join(response.text[:1000].split()) or response.reason
        raise click.ClickException(f"{response.url}: {said}")
    try:
        answer: dict[str, Any] = response.json()
    except ValueError as error:
        raise click.ClickException(f"{response.url}: {error}") from error
    return answer


# ---- status -----------------------------------------------------------------------------------------------


@click.command(name="status")
@config_option
@url_option
@json_option
def show_status(config_path: Path, url: str | None, as_json: bool) -> None:
    """Show VMs, hosts, orders, warnings, and DRBD's authorities.

    A line below a VM or a host says what is out of the ordinary: an open or failed plan, a standing warning,
    a pause, a host that the VM is not sent back to.
    """
    with faults_are_said():
        answer = _answer(_exchange(load(config_path), url, "/api/v1/status"))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    say(f"mode {answer['mode']}, reconciled {time_text(answer['reconciled_at'])}")
    if answer["paused"]:
        say(f"all is paused {_order(answer['paused'])}")
    for host in answer["hosts"]:
        _show_host(host)
    for domain in answer["domains"]:
        _show_domain(domain)
    for resource in answer["resources"]:
        admitted = ", ".join(resource["admitted"]) or "nobody"
        alone = " alone" if resource["granted"] else ""
        holder = f"{resource['holder']}{alone}" if resource["holder"] else "nobody"
        say(f"{resource['resource']}: {holder} holds the authority, admitted: {admitted}")


def _show_host(host: Mapping[str, Any]) -> None:
    lines = [
        f"{words} {_order(host[key])}"
        for key, words in {
            "drained": "drained",
            "down": "confirmed to be down",
            "paused": "paused",
        }.items()
        if host[key]
    ]
    if host["failed_at"] is not None:
        lines.insert(0, f"has failed, since {time_text(host['failed_at'])}")
    if lines:
        say(f"host {host['host']}")
    for line in lines:
        say(f"  {line}")


def _show_domain(domain: Mapping[str, Any]) -> None:
    plan, escalation = domain["plan"], domain["escalation"]
    say(f"{domain['domain']} on {domain['host']}, may run on {', '.join(domain['hosts'])}")
    if plan is not None:
        say(f"  plan {plan['id']}: {plan['status']} {plan['sentence']}")
    if escalation is not None:
        say(f"  {escalation['kind']} since {time_text(escalation['since_at'])}: {escalation['sentence']}")
    if domain["paused"]:
        say(f"  {domain['paused']}")
    for host, until in domain["suspects"].items():
        say(f"  failed on {host}: is not sent back there before {time_text(until)}")


def _order(order: Mapping[str, Any]) -> str:
    until = "" if order["until_at"] is None else f" until {time_text(order['until_at'])}"
    why = f": {order['reason']}" if order["reason"] else ""
    return f"by {order['by']} since {time_text(order['at'])}{until}{why}"


# ---- explain ----------------------------------------------------------------------------------------------


@click.command()
@click.argument("name", metavar="VM|HOST")
@config_option
@url_option
@json_option
def explain(name: str, config_path: Path, url: str | None, as_json: bool) -> None:
    """Say what would be done about a VM now, and why.

    Of a host: about each of its VMs. Changes nothing.

    The running actuator takes one fresh look at all hosts of the VM. It says what is seen, the plan's steps
    or what stands against them, and for each other host whether the VM could go there now, or why not.
    """
    with faults_are_said():
        path = f"/api/v1/explain/{quote(name, safe='')}"
        answer = _answer(_exchange(load(config_path), url, path, timeout_seconds=EXPLAIN_SECONDS))
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    elif "domains" in answer:
        say(f"host {answer['host']}: last heard of {answer['silent_seconds']:g} s ago")
        _show_host(answer)
        for domain in answer["domains"]:
            _explain_domain(domain)
        for domain in answer["not_looked_at"]:
            say(f"{domain}: not looked at for lack of time: ask for it alone")
    else:
        _explain_domain(answer)


def _explain_domain(answer: Mapping[str, Any]) -> None:
    if "error" in answer:
        say(f"{answer['domain']}: {answer['error']}")
        return
    say(f"{answer['domain']} on {answer['host']}, mode {answer['mode']}")
    say(f"  seen: {answer['seen']}")
    if answer["plan_under_way"]:
        say(f"  plan {answer['plan_under_way']} is under way; after it, as things are now:")
    if answer["paused"]:
        say(f"  {answer['paused']}; without that:")
    for host in answer["drifted"]:
        say(f"  defined otherwise on {host}: that is replaced before it is started there")
    _explain_decision("now", answer["decision"])
    for host, decision in answer["elsewhere"].items():
        _explain_decision(f"to {host}", decision)


def _explain_decision(when: str, decision: Mapping[str, Any]) -> None:
    word = {"plan": "would be done", "refusal": "refused", "postponed": "later", "nothing": "nothing to do"}
    say(f"  {when}: {word[decision['kind']]}: {decision['sentence']}")
    for number, step in enumerate(decision.get("steps", ()), 1):
        say(f"    {number}. {step}")
    if decision.get("proof"):
        say(f"    proof that the old host does not write: {decision['proof']}")
    _tell_choice(decision)
    if "note" in decision:
        say(f"    {decision['note']}")


def _tell_choice(decision: Mapping[str, Any]) -> None:
    """Why it goes there, and to no other host."""
    if decision.get("chosen"):
        say(f"    there because {decision['chosen']}")
    for host, why in decision.get("rejected", {}).items():
        say(f"    not {host}: {why}")


# ---- check ------------------------------------------------------------------------------------------------


RESTART_WIDTH = len("ready 12.3 s")


def ask_readiness(settings: Settings, url: str | None) -> Mapping[str, Any]:
    """What the running actuator last rehearsed; ``unanswered`` says why it does not tell."""
    try:
        return _answer(_exchange(settings, url, "/api/v1/ready"))
    except click.ClickException as error:
        return {"unanswered": error.message}


def of_domains(ready: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
    """What was rehearsed of these domains alone; of all when none is named."""
    if not names or "unanswered" in ready:
        return ready
    return {
        "domains": [it for it in ready["domains"] if it["domain"] in names],
        "not_rehearsed": [it for it in ready["not_rehearsed"] if it in names],
    }


def is_ready(domain: Mapping[str, Any]) -> bool:
    """Whether nothing stands against any verb."""
    return all(check["ready"] for check in domain["checks"])


def next_step(settings: Settings, ready: Mapping[str, Any], answers: Mapping[str, str]) -> str:
    """What is missing before vmheal may go further by itself: observe, then approve, then enforce."""
    if not settings.domains:
        return "name the VMs to protect: domains"
    if silent := [who for who, answer in answers.items() if not answer.startswith("ok")]:
        return f"have {silent[0]} answer"
    if "unanswered" in ready:
        return "start the actuator (systemctl start vmheal-actuator), and check again"
    if unready := [it["domain"] for it in ready["domains"] if not is_ready(it)] + [*ready["not_rehearsed"]]:
        return f"mend what stands against {unready[0]}, or wait until it was rehearsed"
    return _next_mode(settings)


def _next_mode(settings: Settings) -> str:
    bare = [name for name, host in settings.hosts.items() if host.fence is None and not host.arbitrates]
    if settings.mode is Mode.ENFORCE:
        said = "nothing: vmheal acts by itself"
    elif settings.mode is Mode.OBSERVE and not (
        settings.operator.token_file or settings.operator.client_names
    ):
        said = "operator.token_file: in mode approve a person releases each plan, and needs it"
    elif settings.mode is Mode.OBSERVE:
        said = (
            "mode: approve, once 'vmheal-actuator journal' says would what you would have done; then reload"
        )
    elif bare and not (settings.failover.quorum or settings.failover.drbd_only):
        said = f"give {bare[0]} a fence agent, or the arbiter's handler: else nothing proves that it is off"
    else:
        said = "mode: enforce, once every plan that was proposed was right; then reload"
    return said


def show_readiness(ready: Mapping[str, Any]) -> None:
    """Print a line for each VM, and beneath it what would not work, why, and what mends it."""
    if "unanswered" in ready:
        click.secho(f"what would work now is not known: {ready['unanswered']}", fg="yellow")
        return
    domains = ready["domains"]
    width = max([len("VM"), *(len(it["domain"]) for it in domains)])
    home = max([len("ON"), *(len(it["host"]) for it in domains)])
    if domains:
        head = f"{'VM':{width}}  {'ON':{home}}  {'RESTART':{RESTART_WIDTH}}  MIGRATE TO / FAILOVER TO"
        click.secho(head, bold=True)
    for it in domains:
        cells = {verb: _cell(it, verb) for verb in ("restart", "migrate", "failover")}
        row = f"  {cells['restart']}  {cells['migrate']} / {cells['failover']}"
        click.echo(f"{it['domain']:{width}}  {it['host']:{home}}{row}")
        _tell_reasons(it["checks"])
    for name in ready["not_rehearsed"]:
        click.secho(f"{name}: not rehearsed yet", fg="yellow")
    well = sum(is_ready(it) for it in domains)
    say(f"{well} of {len(domains)} VMs are ready for all that vmheal may do")


def _cell(domain: Mapping[str, Any], verb: str) -> str:
    """Where the verb would work now, and how long it would take there, as far as that is known."""
    ready = [it for it in domain["checks"] if it["verb"] == verb and it["ready"]]
    words = ", ".join(f"{it['host']}{_takes(it)}" for it in ready) or "nowhere"
    if verb == "restart":
        words = f"{f'ready{_takes(ready[0])}' if ready else 'no':{RESTART_WIDTH}}"
    return click.style(words, fg="green" if ready else "red")


def _takes(check: Mapping[str, Any]) -> str:
    seconds = check.get("forecast_seconds")
    return "" if seconds is None else f" {seconds:.1f} s"


def _tell_reasons(checks: Sequence[Mapping[str, Any]]) -> None:
    """Each reason once, with the verbs that it stands against."""
    against: dict[tuple[str, str, str, str], list[str]] = {}
    for check in checks:
        for it in check["reasons"]:
            key = (check["host"], it["name"], it["sentence"], it["mend"])
            against.setdefault(key, []).append(check["verb"])
    for (host, name, sentence, mend), verbs in against.items():
        click.secho(f"  {' and '.join(verbs)} on {host}: {name}", fg="red")
        say(f"    {sentence}")
        say(f"    mend: {mend}")


# ---- reload -----------------------------------------------------------------------------------------------


@click.command(name="reload")
@config_option
@url_option
def reload_config(config_path: Path, url: str | None) -> None:
    """Have the running actuator take its configuration file up again.

    All of it or nothing: where the file cannot be used, or needs a restart, the answer says why. Plans go on
    by the settings that they began with; while some are under way nothing is reloaded.
    """
    with faults_are_said():
        settings = load(config_path)
        _may_order(config_path, settings)
        response = _exchange(settings, url, "/-/reload", timeout_seconds=RELOAD_SECONDS, data=b"")
    if not response.ok:
        raise click.ClickException(f"nothing was reloaded: {response.text.strip()}")
    say("reloaded")


def _may_order(config_path: Path, settings: Settings) -> None:
    operator = settings.operator
    if operator.token_file is None and not operator.client_names:
        raise ConfigError((f"{config_path}: no orders are taken without operator.token_file",))


# ---- orders -----------------------------------------------------------------------------------------------


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _seconds(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """Turn ``90``, ``90s``, ``15m``, ``2h`` or ``1d`` into seconds."""
    if value is None:
        return None
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", value)
    if found is None or not (seconds := float(found[1]) * _UNITS[found[2]]):
        raise click.BadParameter(f"{value!r} is not a time like 90s, 15m, 2h or 1d", context, parameter)
    return seconds


def login_name() -> str:
    """Who is at the keyboard, also behind sudo."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _order_options(command: Command) -> Command:
    """What every order has."""
    by = click.option(
        "--by",
        default=login_name,
        show_default="$SUDO_USER, else the login name",
        help="Who gives the order; written into the journal.",
    )
    reason = click.option("--reason", default="", help="Why; written into the journal.")
    for option in (json_option, url_option, config_option, by, reason):
        command = option(command)
    return command


def _order_command(name: str) -> Callable[[Callable[..., dict[str, object]]], click.Command]:
    """Make a command of a function that gives the order's own fields."""

    def wrap(fields: Callable[..., dict[str, object]]) -> click.Command:
        @functools.wraps(fields)
        def run(
            *, config_path: Path, url: str | None, by: str, reason: str, as_json: bool, **given: Any
        ) -> None:
            order = {"order": name, "by": by, "reason": reason, **fields(**given)}
            _give({key: it for key, it in order.items() if it is not None}, config_path, url, as_json)

        return click.command(name=name)(_order_options(run))

    return wrap


def _give(order: Mapping[str, object], config_path: Path, url: str | None, as_json: bool) -> None:
    with faults_are_said():
        settings = load(config_path)
        _may_order(config_path, settings)
        response = _exchange(settings, url, "/api/v1/orders", data=json.dumps(order).encode())
    taken = response.status_code != HTTPStatus.CONFLICT
    sentence = _answer(response)["sentence"] if taken else response.text.strip()
    if as_json:
        click.echo(json.dumps({"taken": taken, "sentence": sentence}))
    elif taken:
        say(sentence)
    else:
        say(f"vmheal-actuator: refused: {sentence}", err=True)
    if not taken:
        sys.exit(1)


@_order_command("pause")
@click.argument("what", metavar="VM|HOST|all")
@click.option(
    "--for",
    "seconds",
    callback=_seconds,
    metavar="TIME",
    help="How long: 90s, 15m, 2h, 1d; else until resumed.",
)
def pause(what: str, seconds: float | None) -> dict[str, object]:
    """Begin nothing for a VM, a host's VMs, or any.

    What is under way is carried to its end. An active silence of Alertmanager that covers a VM's alerts
    (alertname VMFailure or VMPersistentFailure, domain, host) pauses it in the same way.
    """
    return {"what": what, "seconds": seconds}


@_order_command("resume")
@click.argument("what", metavar="VM|HOST|all")
def resume(what: str) -> dict[str, object]:
    """Take a pause back. What it has held up is looked at again at once."""
    return {"what": what}


@_order_command("drain")
@click.argument("host")
def drain(host: str) -> dict[str, object]:
    """Have all VMs leave a host.

    None is sent there until it is undrained. They are moved one after the other as limits.plans_per_host
    allows: live where their driver can, else (with move.cold) shut down here and started there. 'status'
    shows what does not go, and why.
    """
    return {"host": host}


@_order_command("undrain")
@click.argument("host")
def undrain(host: str) -> dict[str, object]:
    """Let a host be used again. VMs that have left it stay where they are."""
    return {"host": host}


@_order_command("migrate")
@click.argument("domain", metavar="VM")
@click.option("--to", help="The host; else the best of those that hold its disks.")
def migrate(domain: str, to: str | None) -> dict[str, object]:
    """Move a VM to another host.

    One that holds its disks; 'explain VM' says before whether it could.
    """
    return {"domain": domain, "to": to}


@_order_command("approve")
@click.argument("domain", metavar="VM")
@click.argument("proposal")
def approve(domain: str, proposal: str) -> dict[str, object]:
    """Release a plan, in mode approve.

    'status' shows the plan and its PROPOSAL. It is carried out only when it is still exactly what is to be
    done at a fresh look.
    """
    return {"domain": domain, "proposal": proposal}


@_order_command("retry")
@click.argument("domain", metavar="VM")
def retry(domain: str) -> dict[str, object]:
    """Try a VM again that was given up.

    Earlier attempts, and hosts that failed it, do not count any more.
    """
    return {"domain": domain}


@_order_command("confirm-down")
@click.argument("host")
def confirm_down(host: str) -> dict[str, object]:
    """Vouch that a host is powered off.

    Its VMs then come up elsewhere. Your word is the proof that it does not write any more: SWITCH IT OFF
    FIRST, and see that it stays off. A host that only lost its network goes on writing, and its VMs would run
    twice. Refused while the host is heard of; over as soon as it answers.
    """
    return {"host": host}


@_order_command("readmit")
@click.argument("resource")
@click.argument("host")
@click.option(
    "--i-accept-lost-writes",
    is_flag=True,
    help="Required: what was written elsewhere after this replica fell behind is given up.",
)
def readmit(resource: str, host: str, i_accept_lost_writes: bool) -> dict[str, object]:
    """Take a stale replica for the current one.

    The replica of the DRBD RESOURCE on HOST, whatever it lacks. The last resort when the host with the
    current data will not come back: a VM then starts from older data. All other replicas are excluded. The
    answer and the journal say since when this one was not current.
    """
    if not i_accept_lost_writes:
        raise click.UsageError(
            f"the replica of {resource} on {host} may lack writes that a VM believes to be stored:"
            " give --i-accept-lost-writes if they are to be given up"
        )
    return {"resource": resource, "host": host, "i_accept_lost_writes": True}


@_order_command("forget")
@click.argument("resource")
def forget(resource: str) -> dict[str, object]:
    """Forget a resource whose replicas moved to other hosts.

    What is known of the DRBD RESOURCE, who holds it and whose data are current, is dropped; it is learned
    anew once the resource is connected and UpToDate on both its hosts. Until then nobody is granted it: a
    Primary that loses its peer meanwhile stays frozen.
    """
    return {"resource": resource}


COMMANDS: tuple[click.Command, ...] = (
    show_status, explain, reload_config, pause, resume, drain, undrain, migrate, approve, retry, confirm_down,
    readmit, forget,
)  # fmt: skip


# ---- the story of one plan --------------------------------------------------------------------------------


def tell(story: Mapping[str, Any]) -> None:
    """Print a plan's story for a person."""
    evidence, decision, end = story["evidence"], story["decision"], story["end"]
    say(f"plan {story['plan']}")
    if evidence is not None and decision is not None:
        say(f"{time_text(evidence['at'])} seen      {evidence['sentence']}")
    if decision is not None:
        say(f"{time_text(decision['at'])} decided   {decision['sentence']}")
        _tell_choice(decision["detail"])
    for number, step in enumerate(story["steps"], 1):
        if step["concluded_at"] is None:
            became = "no outcome yet: it is under way, or vmheal ended there"
        else:
            took = "" if step.get("seconds") is None else f" ({step['seconds']:.3f} s)"
            became = f"{step['outcome']}{took}"
        say(f"{time_text(step['intended_at'])} step {number:<4} {step['step']}: {became}")
    if end is None:
        say("it has not ended")
    else:
        say(
            f"{time_text(end['at'])} ended     {end['sentence']}, after {end['detail']['seconds']:.3f} s"
            f"{_foretold(end['detail'])}"
        )


def _foretold(detail: Mapping[str, Any]) -> str:
    seconds = detail.get("forecast_seconds")
    return "" if seconds is None else f" (foretold: {seconds:.3f} s)"
