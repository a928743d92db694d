"""The references are what the code says now, and say something of everything."""

import re
import subprocess

import pytest

from docs.reference.__main__ import pages
from docs.reference.sbom import LOCK, bill

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


@pytest.mark.daemons  # needs Debian's man-db
@pytest.mark.parametrize("path", [it for it in PAGES if it.suffix == ".1"], ids=lambda it: it.name)
def test_a_manual_page_is_well_formed(path):
    done = subprocess.run(
        ["man", "--warnings=all", "-l", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert path.stem in done.stdout


def test_the_bill_of_materials_has_all_that_is_locked_with_a_licence():
    components = bill()["components"]
    locked = set(re.findall(r"(?m)^([A-Za-z0-9_.-]+)==", LOCK.read_text()))
    assert {it["name"] for it in components} == locked
    assert len(locked) > 15
    assert [it["name"] for it in components if not it["hashes"]] == []
    licences = {it["name"]: it["licenses"][0]["license"]["name"] for it in components}
    assert [name for name, said in licences.items() if said == "unknown"] == []
