"""`python -m docs.reference`: write docs/configuration.md, metrics.md and man/ anew from the code."""

from pathlib import Path

from docs.reference import configuration, manual, metrics

REPO = Path(__file__).parents[2]


def pages() -> dict[Path, str]:
    """What is to be in each file."""
    docs = {"configuration.md": configuration.page(), "metrics.md": metrics.page()}
    return {REPO / "docs" / name: text for name, text in docs.items()} | {
        REPO / "docs/man" / name: text for name, text in manual.pages().items()
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
