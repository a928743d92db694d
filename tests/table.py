"""The table of attempts in docs/security.md: `python -m tests.table` makes them all, and writes it anew."""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.attempt import Attempt, Row, make
from tests.host.attempts import ATTEMPTS as WITH_THE_KEY
from tests.host.site import REPO
from tests.host.site import site as host
from tests.network.attempts import ATTEMPTS, HEAVY
from tests.network.site import site as network

OVER_THE_NETWORK = (*ATTEMPTS, *HEAVY)
PAGE = REPO / "docs" / "security.md"
BEGIN, END = "<!-- attempts: written by `make security` -->", "<!-- end of the attempts -->"


def cell(text: str) -> str:
    """Text that is safe in a table, on one line."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(rows: Iterable[Row]) -> str:
    """The rows, a table for each group."""
    lines, group = [], ""
    for row in rows:
        it = row.attempt
        if it.group != group:
            group = it.group
            lines += ["", f"### {group}", "", "| Attempt | Expected | Seen |", "| --- | --- | --- |"]
        lines.append(f"{_promise(it)} {cell(row.seen[:160])} |")
    return "\n".join(lines) + "\n"


def _promise(it: Attempt) -> str:
    return f"| {cell(it.name)} | {cell(it.expected)} |"


def drift(page: str) -> Iterator[str]:
    """What the page and the attempts say differently, whatever was seen."""
    written = {
        line for line in page.partition(BEGIN)[2].partition(END)[0].splitlines() if line.startswith("| ")
    }
    written = {line for line in written if not line.startswith(("| Attempt ", "| --- "))}
    for it in (*WITH_THE_KEY, *OVER_THE_NETWORK):
        found = {line for line in written if line.startswith(_promise(it))}
        if not found:
            yield f"not on the page: {_promise(it)}"
        written -= found
    yield from (f"not tried: {line}" for line in sorted(written))


def main() -> None:
    """Make all attempts."""
    with host() as it:
        it.prepare()
        rows = [make(attempt, it) for attempt in WITH_THE_KEY]
    with tempfile.TemporaryDirectory() as folder, network(Path(folder)) as it:
        rows += [make(attempt, it) for attempt in OVER_THE_NETWORK]
    lost = [row for row in rows if not row.held]
    for row in lost:
        print(f"NOT HELD: {row.attempt.group}: {row.attempt.name}: {row.seen}")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    said = f"\n{len(rows)} attempts, {len(rows) - len(lost)} held.\n"
    PAGE.write_text(before + BEGIN + "\n" + said + table(rows) + "\n" + END + rest.partition(END)[2])
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
