"""Each alert has its runbook, and what a runbook names is there."""

import contextlib
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from actuator.__main__ import main
from exporter.fence_peer import HOOKS
from tests.rules.runbooks import INDEX, RUNBOOKS, SECTIONS, index, labels, sections

PAGES = sorted(RUNBOOKS.glob("*.md"))
TEXTS = {page.stem: page.read_text() for page in PAGES}
# Of drbd-utils 9.22, on 8.4 and 9 alike.
DRBDADM = {
    "adjust", "attach", "connect", "create-md", "cstate", "disconnect", "down", "dstate", "dump", "get-gi", "net-options",
    "resource-options", "resume-io", "resume-sync", "role", "secondary", "status", "verify", "--version",
}  # fmt: skip


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    assert TEXTS.keys() - {INDEX.stem} == labels().keys()


def test_the_index_is_as_it_should_be():
    assert INDEX.read_text() == index(), "write it anew: python -m tests.rules.runbooks"


@pytest.mark.parametrize("name", sorted(labels()))
def test_a_runbook_is_made_like_the_others(name):
    its = labels()[name]
    action = f", action {its['action']}" if "action" in its else ""
    assert TEXTS[name].startswith(f"# {name}\n\nSeverity {its['severity']}{action}.\n\n## {SECTIONS[0]}\n")
    assert tuple(sections(name)) == SECTIONS
    assert all(sections(name).values())
    assert max(map(len, TEXTS[name].splitlines())) <= 130


def typed(text: str) -> Iterator[list[str]]:
    """The commands of a page: what is in a code block, and between backquotes."""
    for line in re.findall(r"^ {4}(.+)", text, re.MULTILINE) + re.findall(r"`([^`]+)`", text):
        for command in re.split(r";|&&|\|", line.partition(" #")[0]):
            with contextlib.suppress(ValueError):  # a pattern of grep that has one of these: not one of ours
                yield shlex.split(command)


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_to_be_typed_exists(name):
    for argv in typed(TEXTS[name]):
        match argv:
            case ["vmheal-actuator", command, *arguments]:
                assert command in main.commands, argv
                main.commands[command].make_context(command, arguments).close()
            case ["vmheal-fence-peer", hook, *_]:
                assert hook in {*HOOKS, "release", "up", "check"}, argv
            case ["drbdadm", command, *_]:
                assert command in DRBDADM, argv


def test_commands_are_found_and_looked_at():
    """A wrong one is noticed."""
    found = [argv for text in TEXTS.values() for argv in typed(text)]
    assert len([argv for argv in found if argv[:1] == ["vmheal-actuator"]]) > 80
    for wrong in (["pause"], ["resume", "VM", "--force"], ["approve", "VM"]):
        with pytest.raises(click.UsageError):
            main.commands[wrong[0]].make_context(wrong[0], wrong[1:])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", TEXTS[name]):
        page = (RUNBOOKS / target).resolve() if target else RUNBOOKS / f"{name}.md"
        assert page.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", it.lower()).replace(" ", "-") for it in headings}
            assert anchor in slugs, (target, anchor)
