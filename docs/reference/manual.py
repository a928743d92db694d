"""The manual pages, from the commands' own help."""

import inspect
import re
from collections.abc import Iterator

import click

from actuator.__main__ import main as actuator
from exporter import __version__, fence_peer
from exporter.__main__ import main as exporter
from exporter.host import command as host_command

_SEE_ALSO = {
    "vmheal-actuator": ".BR vmheal-exporter (1),\n.BR vmheal-fence-peer (1),\n.BR systemd.service (5)",
    "vmheal-exporter": ".BR vmheal-actuator (1),\n.BR vmheal-fence-peer (1)",
    "vmheal-fence-peer": ".BR vmheal-actuator (1),\n.BR drbd.conf (5)",
    "vmheal-host": ".BR vmheal-actuator (1),\n.BR sshd_config (5),\n.BR sudoers (5)",
}
_FILES = {
    "vmheal-actuator": {"/etc/vmheal/actuator.yml": "The configuration.", "/var/lib/vmheal": "The journal."},
    "vmheal-exporter": {"/etc/default/vmheal-exporter": "Flags, for the unit."},
    "vmheal-fence-peer": {"/etc/vmheal/fence-peer.conf": "Whom it asks, and for how long."},
    "vmheal-host": {
        "/etc/vmheal/host.conf": "What may be touched on this host; what is not named there is refused.",
        "/etc/vmheal/authorized_keys": "The actuator's key.",
        "/etc/ssh/sshd_config.d/vmheal.conf": "What sshd lets the user vmheal do.",
        "/etc/sudoers.d/vmheal": "How it becomes root.",
    },
}


def pages() -> dict[str, str]:
    """Return each page by its file's name."""
    return {
        "vmheal-actuator.1": _page("vmheal-actuator", _command(actuator, "vmheal-actuator")),
        "vmheal-exporter.1": _page("vmheal-exporter", _command(exporter, "vmheal-exporter")),
        "vmheal-fence-peer.1": _page(
            "vmheal-fence-peer", _documented("vmheal-fence-peer", fence_peer.USAGE, fence_peer.__doc__)
        ),
        "vmheal-host.1": _page(
            "vmheal-host", _documented("vmheal-host", "vmheal-host", host_command.__doc__)
        ),
    }


def _page(name: str, body: Iterator[str]) -> str:
    lines = [f'.TH {name.upper()} 1 "" "vmheal {__version__}" "vmheal"', *body, ".SH FILES"]
    for path, about in _FILES[name].items():
        lines += [".TP", f".I {_escaped(path)}", _escaped(about)]
    return "\n".join([*lines, ".SH SEE ALSO", _SEE_ALSO[name], ""])


def _command(command: click.Command, name: str) -> Iterator[str]:
    context = command.context_class(command, info_name=name, **command.context_settings)
    first, _, rest = _help(command).partition("\n\n")
    yield from (".SH NAME", _escaped(f"{name} - {_one_line(first)}"))
    yield from (
        ".SH SYNOPSIS",
        f".B {_escaped(name)}",
        _escaped(" ".join(command.collect_usage_pieces(context))),
    )
    yield from (".SH DESCRIPTION", *_paragraphs(first), *_paragraphs(rest))
    yield from (".SH OPTIONS", *_options(command, context))
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for each in command.list_commands(context):
            if (child := command.get_command(context, each)) is not None:
                yield from _subcommand(child, each, context)


def _subcommand(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from (f".SS {_escaped(name)} {_escaped(usage)}".rstrip(), *_paragraphs(_help(command)))
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            if (child := command.get_command(context, each)) is not None:
                yield from _subcommand(child, f"{name} {each}", context)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            names, about = record
            if not about:
                continue  # an argument, which the usage names
            yield from (".TP", f".B {_escaped(names)}", _escaped(_one_line(about)))


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "")


def _documented(name: str, usage: str, text: str | None) -> Iterator[str]:
    """Of a program without click: its module's docstring."""
    head, _, rest = (text or "").partition("\n\n")
    yield from (".SH NAME", _escaped(f"{name} - {_one_line(head.partition(': ')[2])}"))
    yield from (".SH SYNOPSIS", _escaped(usage.removeprefix("usage: ")))
    yield from (".SH DESCRIPTION", *_paragraphs(rest))


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in filter(None, (it.strip("\n") for it in text.split("\n\n"))):
        if paragraph.startswith("    "):
            yield from (".PP", ".nf", *(_escaped(line) for line in paragraph.splitlines()), ".fi")
        else:
            yield from (".PP", _escaped(_one_line(paragraph.replace("``", "").replace("\b", ""))))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", escaped)
