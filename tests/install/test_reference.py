"""The references are what the code says now, and say something of everything."""

import re
import subprocess

import pytest

from reference.__main__ import pages

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda it: it.name)
def test_it_is_what_the_code_says_now(path):
    assert path.read_text() == PAGES[path], "make reference"


@pytest.mark.parametrize("name", ["configuration.md", "metrics.md"])
def test_everything_has_a_meaning(name):
    (page,) = (text for path, text in PAGES.items() if path.name == name)
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert [row for row in rows if re.search(r"\|\s*\|$", row)] == []


@pytest.mark.parametrize("path", [it for it in PAGES if it.suffix == ".1"], ids=lambda it: it.name)
def test_a_manual_page_is_well_formed(path):
    done = subprocess.run(
        ["man", "--warnings=all", "-l", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert path.stem in done.stdout
