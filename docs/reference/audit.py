"""`python -m docs.reference.audit PIP_AUDIT`: known vulnerabilities of all that is locked, in words.

Exit status 0: none is known; 1: there are some; 2: it could not be found out. pip-audit itself ends with 0
where it was told nothing of any package, as by a mirror: what was not audited is not well.
"""

import json
import subprocess
import sys
from pathlib import Path

from docs.reference.dependencies import LISTS, REQUIREMENTS

SECONDS = 600.0
"""For one list."""
WELL, VULNERABLE, UNKNOWN = 0, 1, 2


def audit(program: str, lock: Path) -> tuple[int, list[str]]:
    """Audit one lock; the exit status, and sentences."""
    argv = [program, "--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(
            [*argv, "--progress-spinner", "off"], check=False, capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return UNKNOWN, [f"{lock.name}: no answer within {SECONDS:g} s"]
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines()
        return UNKNOWN, [f"{lock.name}: not audited: {said[-1][:300] if said else 'pip-audit said nothing'}"]
    vulnerable = [
        f"{lock.name}: {it['name']} {it['version']}: {fault['id']}, mended in"
        f" {', '.join(fault['fix_versions']) or 'no version yet'}"
        for it in found
        for fault in it.get("vulns", [])
    ]
    unknown = [it["name"] for it in found if "skip_reason" in it]
    if vulnerable:
        return VULNERABLE, vulnerable
    if unknown or not found:
        return UNKNOWN, [f"{lock.name}: nothing is known of {len(unknown)} of {len(found)} packages"]
    return WELL, [f"{lock.name}: nothing is known against any of {len(found)} packages"]


def main(program: str) -> int:
    """Audit all locks; the worst exit status."""
    results = [audit(program, REQUIREMENTS / f"{name}.txt") for name in LISTS]
    for _, sentences in results:
        print(*sentences, sep="\n")  # noqa: T201  a command
    statuses = {status for status, _ in results}
    if UNKNOWN in statuses:
        print(  # noqa: T201  a command
            "Not all was audited: the data of known vulnerabilities (PyPI's JSON API) cannot be reached from"
            " here, or the index in use does not have it. Run this where pypi.org is reached"
            " (docs/security.md)."
        )
    return next((it for it in (VULNERABLE, UNKNOWN) if it in statuses), WELL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
