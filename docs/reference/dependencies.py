"""docs/dependencies.md: what vmheal depends on, why, and under which licence.

The reasons stand in requirements/*.in, beside the names. Licences are what each installed package says of
itself; of what is not installed beside the tests, or says nothing, and of Debian's packages, they are here.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from docs.reference.sbom import licence

REPO = Path(__file__).parents[2]
REQUIREMENTS = REPO / "requirements"
LISTS = {
    "exporter": "On every hypervisor",
    "actuator": "On the actuator's machine, besides",
    "dev": "To work on it, besides",
    "fuzz": "For `make fuzz` and `make api-test`, besides",
    "audit": "For `make audit`, in an environment of its own",
}
_LOCKED = re.compile(r"(?m)^([A-Za-z0-9_.-]+)==")

ELSEWHERE: Mapping[str, str] = {
    "anyio": "MIT",
    "atheris": "Apache-2.0",
    "boolean-py": "BSD-2-Clause",
    "cachecontrol": "Apache-2.0",
    "cyclonedx-python-lib": "Apache Software License",
    "defusedxml": "Python Software Foundation License",
    "filelock": "MIT",
    "graphql-core": "MIT",
    "harfile": "MIT",
    "hypothesis-graphql": "MIT",
    "jsonschema-rs": "MIT License",
    "license-expression": "Apache-2.0",
    "msgpack": "Apache-2.0",
    "packageurl-python": "MIT License",
    "pip": "MIT",
    "pip-api": "Apache Software License",
    "pip-audit": "Apache Software License",
    "pip-requirements-parser": "MIT",
    "platformdirs": "MIT",
    "py-serializable": "Apache Software License",
    "pyparsing": "MIT",
    "pyrate-limiter": "MIT",
    "schemathesis": "MIT",
    "tomli": "MIT",
    "tomli-w": "MIT",
    # These are in dev.txt, and do not say it in words that a program finds.
    "promql-parser": "MIT",
    "pytest-timeout": "MIT",
}
"""Licences of what only `fuzz` and `audit` lock."""

SAME: Mapping[str, str] = {
    "Apache Software License": "Apache-2.0",
    "LGPL-v2.0-or-later": "LGPL-2.0-or-later",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""Other words for the same licence."""

DEBIAN: Mapping[str, tuple[str, str]] = {
    "adduser": ("the package's users `vmheal` and `vmheal-exporter`", "GPL-2+"),
    "drbd-utils": ("drbdadm and drbdsetup", "GPL-2+"),
    "fence-agents": ("power a host off; the tests use its `fence_dummy`", "GPL-2+"),
    "openssh-client": ("libvirt's way to the hosts; keys of the tests", "BSD"),
    "openssh-server": ("how the actuator reaches a host", "BSD"),
    "python3": ("runs all of it", "PSF-2.0"),
    "python3-libvirt": ("libvirt's binding, where it is not from PyPI", "LGPL-2.1+"),
    "sudo": ("vmheal-host becomes root by one rule", "ISC"),
    "gcc": ("libvirt's binding is compiled where PyPI has no wheel of it", "GPL-3+ with exception"),
    "libc6-dev": ("the same", "LGPL-2.1+"),
    "libvirt-dev": ("the same", "LGPL-2.1+"),
    "pkg-config": ("the same", "GPL-2+"),
    "python3-dev": ("the same", "PSF-2.0"),
    "python3-venv": ("environments", "PSF-2.0"),
    "prometheus": ("rules, dashboards and drills are tested with the real one", "Apache-2.0"),
    "prometheus-alertmanager": ("the same", "Apache-2.0"),
    "prometheus-blackbox-exporter": ("a service that is watched in the drills", "Apache-2.0"),
    "libvirt-daemon-system": ("real libvirtd", "LGPL-2.1+"),
    "libvirt-daemon-driver-qemu": ("the same", "LGPL-2.1+"),
    "libvirt-clients": ("virsh, which the hook on a host calls", "LGPL-2.1+"),
    "qemu-system-x86": ("guests, and the lab's hosts", "GPL-2"),
    "qemu-utils": ("their disks", "GPL-2"),
    "mmdebstrap": ("the lab's Debian", "MIT"),
    "e2fsprogs": ("its file system", "GPL-2"),
    "cpio": ("its initramfs, and the guests'", "GPL-3+"),
    "busybox-static": ("the guests' programs", "GPL-2"),
    "iproute2": ("network namespaces, links that are cut", "GPL-2+"),
    "chromium": ("dashboards and the status page are looked at", "BSD-3-Clause"),
    "chromium-driver": ("the same", "BSD-3-Clause"),
    "fonts-dejavu-core": ("pictures look the same everywhere", "Bitstream Vera"),
    "man-db": ("manual pages are read once", "GPL-2+"),
    "systemd": ("units are checked", "LGPL-2.1+"),
    "systemd-container": ("whole Debian systems as containers", "LGPL-2.1+"),
    "prometheus-libvirt-exporter": ("what a scrape costs is compared with it", "Apache-2.0"),
    "prometheus-hacluster-exporter": ("the same", "Apache-2.0"),
    "fio": ("what mirroring costs a guest", "GPL-2"),
}
"""Each package of Debian that is installed or depended on: why, and under which licence."""

_HEAD = """\
# Dependencies

What vmheal depends on directly, why, and under which licence. There is no dependency without a reason:
they are written beside the names, in `requirements/*.in`, and a test holds that none is without. What these
need in turn is locked with them, with hashes (`requirements/*.txt`), and is in the list at the end.

This page is written from there by `make reference`; `make sbom` writes a bill of materials, `make audit` asks
for known vulnerabilities ([security.md](security.md)).
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD]
    for name, title in LISTS.items():
        rows = [f"| {it} | {why} | {_licence(it)} |" for it, why in direct(name)]
        lines += [f"## {title}", "", "| package | why | licence |", "|---|---|---|", *rows, ""]
    rows = [f"| {name} | {why} | {said} |" for name, (why, said) in DEBIAN.items()]
    lines += ["## From Debian", "", "| package | why | licence |", "|---|---|---|", *rows, ""]
    lines += ["## All that is locked, by licence", ""]
    by_licence = sorted((_licence(name), name) for name in locked())
    for said, names in groupby(by_licence, lambda it: it[0]):
        lines += [f"- {said}: {', '.join(name for _, name in names)}"]
    return "\n".join(lines) + "\n"


def direct(name: str) -> Iterator[tuple[str, str]]:
    """The names in a list of requirements, and why each is there.

    Raises:
        ValueError: one has no reason.
    """
    for line in (REQUIREMENTS / f"{name}.in").read_text(encoding="utf-8").splitlines():
        wanted, _, why = (it.strip() for it in line.partition("#"))
        if not wanted or wanted.startswith("-"):  # nothing, or of another list
            continue
        package = re.split(r"[=<>!~ ]", wanted)[0]
        if not why:
            raise ValueError(f"requirements/{name}.in: {package} has no reason beside it")
        yield package, why


def locked() -> set[str]:
    """The names of all that is locked."""
    return {
        found
        for name in LISTS
        for found in _LOCKED.findall((REQUIREMENTS / f"{name}.txt").read_text("utf-8"))
    }


def _licence(name: str) -> str:
    """Those of ``ELSEWHERE`` are not asked for: the page must not depend on whether they are installed."""
    said = ELSEWHERE.get(name.lower()) or licence(name)
    return SAME.get(said, said)
