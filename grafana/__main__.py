"""`python -m grafana` writes the dashboards anew, to `grafana/json`."""

from pathlib import Path

from grafana.dashboards import DASHBOARDS
from grafana.parts import to_json

FOLDER = Path(__file__).parent / "json"


def main() -> None:
    """Write each to its file."""
    for name, made in DASHBOARDS.items():
        path = FOLDER / f"{name}.json"
        path.write_text(to_json(made()), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
