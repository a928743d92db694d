"""The shortest schedules that break the promise when a rule is taken out; `!` marks what disturbs."""

from pathlib import Path

SCHEDULES = {
    path.stem: path.read_text(encoding="utf-8").splitlines()
    for path in sorted((Path(__file__).parent / "schedules").glob("*.txt"))
}
