"""Nothing is depended on without a reason and a licence; what was not audited is not called well."""

import re
import runpy
from pathlib import Path

import pytest

from docs.reference import audit, dependencies
from docs.reference.dependencies import DEBIAN, ELSEWHERE, LISTS, REPO, REQUIREMENTS, direct, locked, page
from docs.reference.sbom import licence


@pytest.mark.parametrize("name", LISTS)
def test_each_has_a_reason_and_is_locked(name):
    found = dict(direct(name))
    text = (REQUIREMENTS / f"{name}.in").read_text()
    lines = [it for it in text.splitlines() if it.strip() and not it.startswith(("#", "-"))]
    assert len(found) == len(lines)
    assert {it.lower() for it in found} <= locked()


def test_every_list_of_requirements_is_told():
    assert (
        {it.stem for it in REQUIREMENTS.glob("*.in")}
        == set(LISTS)
        == {it.stem for it in REQUIREMENTS.glob("*.txt")}
    )


@pytest.mark.parametrize("line", ["left-pad\n", "left-pad==1.0\n", "left-pad  #\n", "left-pad  #  \n"])
def test_one_without_a_reason_is_refused(tmp_path, monkeypatch, line):
    monkeypatch.setattr(dependencies, "REQUIREMENTS", tmp_path)
    (tmp_path / "dev.in").write_text(f"# a list\n-r actuator.in\nruff  # lint\n{line}")
    with pytest.raises(ValueError, match="left-pad has no reason"):
        list(direct("dev"))


def test_all_that_is_locked_has_a_licence():
    assert "unknown" not in page()
    listed = re.findall(r"[\w.-]+", " ".join(re.findall(r"(?m)^- [^|]*?: (.*)$", page())))
    assert set(listed) == locked()


def test_what_is_told_here_is_not_told_otherwise_by_what_is_installed():
    of_dev = {"promql-parser", "pytest-timeout"}
    other = {it: licence(it) for it in ELSEWHERE if it not in of_dev and licence(it) != "unknown"}
    same = dependencies.SAME
    assert {it: same.get(said, said) for it, said in other.items()} == {
        it: same.get(ELSEWHERE[it], ELSEWHERE[it]) for it in other
    }


def test_each_package_of_debian_has_a_reason():
    script = (REPO / "tests/install-debian.sh").read_text()
    groups = re.findall(r'(?ms)^(?:dev|test|bench)="(.*?)"$', script)
    assert len(groups) == 3
    packages = runpy.run_path(str(REPO / ".ci/deb/__main__.py"))
    lists = [*packages["DEPENDS"].values(), *packages["RECOMMENDS"].values()]
    depends = {it.split()[0] for line in lists for it in line.split(", ")} - set(packages["ABOUT"])
    assert {"python3", "drbd-utils"} <= depends
    assert depends | set(" ".join(groups).split()) <= set(DEBIAN)


# ---- the audit -------------------------------------------------------------------------------------------


def program(folder: Path, prints: str, status: int = 0) -> str:
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat << 'END'\n{prints}\nEND\necho 'it said why' >&2\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


LOCK = REQUIREMENTS / "exporter.txt"
FAULT = '{"name": "h11", "version": "0.1", "vulns": [{"id": "CVE-1", "fix_versions": ["0.2"]}]}'


@pytest.mark.parametrize(
    ("prints", "status", "found", "says"),
    [
        (
            '{"dependencies": [{"name": "h11", "version": "0.1", "vulns": []}]}',
            0,
            audit.WELL,
            "against any of 1",
        ),
        (f'{{"dependencies": [{FAULT}]}}', 1, audit.VULNERABLE, "h11 0.1: CVE-1, mended in 0.2"),
        ('{"dependencies": [{"name": "h11", "skip_reason": "not found"}]}', 0, audit.UNKNOWN, "1 of 1"),
        (f'{{"dependencies": [{{"name": "x", "skip_reason": "y"}}, {FAULT}]}}', 1, audit.VULNERABLE, "CVE-1"),
        ('{"dependencies": []}', 0, audit.UNKNOWN, "nothing is known of 0 of 0"),
        ("Traceback", 1, audit.UNKNOWN, "it said why"),
        ("[]", 0, audit.UNKNOWN, "not audited"),
    ],
)
def test_what_pip_audit_says_is_told(tmp_path, prints, status, found, says):
    status, sentences = audit.audit(program(tmp_path, prints, status), LOCK)
    assert status == found
    assert says in " ".join(sentences)


def test_what_was_not_audited_is_not_called_well(tmp_path, capsys):
    skipped = program(tmp_path, '{"dependencies": [{"name": "h11", "skip_reason": "not found"}]}')
    assert audit.main(skipped) == audit.UNKNOWN
    assert "Run this where pypi.org is reached" in capsys.readouterr().out
