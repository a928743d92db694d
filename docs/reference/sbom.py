"""`python -m reference.sbom FILE`: what the locked requirements put onto a host, in CycloneDX's format.

Names, versions and hashes are those of the locks; licences are what each installed package says of itself.
"""

import json
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from exporter import __version__

LOCK = Path(__file__).parents[2] / "requirements" / "actuator.txt"
"""It has the exporter's too."""
_BLOCK = re.compile(r"(?m)^([A-Za-z0-9_.-]+)==([^\s;\\]+)((?:.*\\\n)*.*)")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


def bill() -> dict[str, Any]:
    """Return the bill of materials; the same for the same locks."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "vmheal", "version": __version__}},
        "components": [
            _component(name, version, hashes)
            for name, version, hashes in _BLOCK.findall(LOCK.read_text(encoding="utf-8"))
        ],
    }


def _component(name: str, version: str, hashes: str) -> dict[str, Any]:
    return {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
        "licenses": [{"license": {"name": licence(name)}}],
        # Of each file that may be installed: the source, and a wheel for each platform.
        "hashes": [{"alg": "SHA-256", "content": it} for it in _HASH.findall(hashes)],
    }


def licence(name: str) -> str:
    """What an installed package says of itself; "unknown" of one that is not installed."""
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return "unknown"
    classifiers = [it for it in said.get_all("Classifier", []) if it.startswith("License ::")]
    words = [
        *said.get_all("License-Expression", []),
        *(it.rpartition(" :: ")[2] for it in classifiers),
        *said.get_all("License", []),
        "unknown",
    ]
    return str(words[0]).partition("\n")[0]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=2) + "\n", encoding="utf-8")
