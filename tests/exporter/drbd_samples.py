"""The captured outputs of real DRBD 8.4 and 9 in tests/samples, as the tests read them."""

import re
from collections.abc import Iterator
from pathlib import Path

SAMPLES = Path(__file__).parent.parent / "samples"

EVENTS2_COMMAND = re.compile(r"\$ drbdsetup events2 --now --statistics \S+\n(.*?)\[rc=0\]\n", re.DOTALL)


def drbd84(label: str) -> str:
    """A whole 8.4 capture: `drbd84("08-syncing-mid.v01")`."""
    return (SAMPLES / "drbd84" / f"{label}.txt").read_text()


def drbd9(label: str, host: str, name: str) -> str:
    """A file of a DRBD 9 capture: `drbd9("10-verify", "v01", "status.json")`."""
    return (SAMPLES / "drbd9" / label / host / name).read_text()


def command(capture: str, start: str) -> str:
    """What a command in an 8.4 capture printed: `command(text, "cat /proc/drbd")`."""
    match = re.search(rf"^\$ {re.escape(start)}[^\n]*\n(.*?)^\[rc=\d+\]$", capture, re.DOTALL | re.MULTILINE)
    assert match, f"no output of {start!r}"
    return match[1]


def snaps84() -> Iterator[str]:
    """Labels of the 8.4 captures that hold all commands."""
    for path in sorted((SAMPLES / "drbd84").glob("*.txt")):
        if "$ drbdsetup events2 --now" in path.read_text() and not path.name.startswith("act-"):
            yield path.stem


def snaps9() -> Iterator[tuple[str, str]]:
    """Label and host of the DRBD 9 captures."""
    for path in sorted((SAMPLES / "drbd9").glob("*/*/events2-now-statistics.txt")):
        yield path.parent.parent.name, path.parent.name


STREAMS9 = tuple(
    (SAMPLES / "drbd9" / label / "events2-stream.v02.txt").read_text()
    for label in ("17-failover-promote-with-quorum", "41-ce01-split-brain")
)


def events2_of(label: str, resource: str, minor: int) -> str:
    """Return what a capture says of its one resource, as another one's word."""
    sample = command(drbd84(label), "drbdsetup events2").removesuffix("exists -\n")
    return sample.replace("name:voms01 ", f"name:{resource} ").replace("minor:0", f"minor:{minor}")
