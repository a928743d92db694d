"""A key that may run nothing but vmheal-host, on a server of `tests.sshd`."""

import shlex
import sys
from pathlib import Path

REPO = Path(__file__).parents[1]


def forced(folder: Path, *lines: str, run_directory: Path | None = None) -> str:
    """Write a host's configuration; what must stand before the key in authorized_keys.

    Args:
        folder: where it lies.
        lines: of the configuration, see `exporter.host.config`.
        run_directory: where connections are counted; else in the folder.
    """
    config = folder / "host.conf"
    config.write_text(
        "".join(f"{it}\n" for it in (*lines, f"run_directory {run_directory or folder / 'places'}"))
    )
    config.chmod(0o644)
    argv = [
        "env",
        f"PYTHONPATH={REPO}",
        sys.executable,
        "-m",
        "exporter.host.command",
        "--config",
        str(config),
    ]
    return f'restrict,command="{shlex.join(argv)}"'
