"""`python -m docs.reference`: write what in docs/ is made of the code anew."""

import json
from pathlib import Path

from actuator.openapi import description
from docs.reference import configuration, dependencies, manual, metrics

REPO = Path(__file__).parents[2]


def pages() -> dict[Path, str]:
    """What is to be in each file."""
    docs = {
        "configuration.md": configuration.page(),
        "dependencies.md": dependencies.page(),
        "metrics.md": metrics.page(),
        "openapi.json": json.dumps(description(), indent=1) + "\n",
    }
    return {REPO / "docs" / name: text for name, text in docs.items()} | {
        REPO / "docs/man" / name: text for name, text in manual.pages().items()
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
