"""The closed list of what may be run and read on a host, and how it is asked for. No I/O.

A request is one line of JSON, and so is its answer, which has its `id`; answers come as the programs end:

    > {"id": 1, "seconds": 5, "run": ["drbdadm", "primary", "vm1"]}
    < {"id": 1, "status": 0, "out": "", "err": ""}
    > {"id": 2, "seconds": 5, "read": "/proc/drbd"}
    < {"id": 2, "out": "version: 8.4.11 ..."}
    > {"id": 3, "seconds": 5, "run": ["drbdadm", "invalidate", "vm1"]}
    < {"id": 3, "refused": "..."}
    > {"id": 4, "seconds": 5, "allowed": true}
    < {"id": 4, "resources": ["vm1"], "domains": ["vm1"], "migrate_uris": []}

One without any of these only asks whether anybody is there. What is run is a row of `PROGRAMS` with the
checked name at its end, never what was sent.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, cast

from exporter.host.config import CONFIG, Config

VERSION = 1
"""Said in the first line, before any request."""
MAX_LINE_BYTES = 4096
MAX_SECONDS = 600.0
MAX_ID = 2**53
FILES = frozenset({"/proc/drbd"})


class Target(Enum):
    """What a program's last word is."""

    NONE = 0
    RESOURCE = 1
    CONNECTION = 2
    """A resource, or `RESOURCE:PEER`."""


class Program(NamedTuple):
    """One row of the closed list."""

    words: tuple[str, ...]
    target: Target = Target.NONE
    changes: bool = False
    """One that changes nothing is killed when it is late, and asked again when its connection breaks."""


PROGRAMS = (
    Program(("drbdsetup", "events2", "--now", "--statistics")),
    Program(("drbdsetup", "show")),
    Program(("drbdsetup", "show", "--json")),
    Program(("drbdadm", "dump-xml")),
    Program(("vmheal-fence-peer", "check", "--json")),
    Program(("drbdadm", "get-gi"), Target.RESOURCE),
    Program(("drbdadm", "primary"), Target.RESOURCE, changes=True),
    Program(("drbdadm", "secondary"), Target.RESOURCE, changes=True),
    Program(("drbdadm", "net-options", "--allow-two-primaries=yes"), Target.RESOURCE, changes=True),
    Program(("drbdadm", "net-options", "--allow-two-primaries=no"), Target.RESOURCE, changes=True),
    Program(("drbdadm", "connect"), Target.CONNECTION, changes=True),
    Program(("drbdadm", "disconnect"), Target.CONNECTION, changes=True),
)

_RESOURCE = re.compile(r"(?!all\Z|minor-[0-9]+\Z)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""Neither an option, nor a path, nor drbdadm's words for every resource and for the one of a minor."""
_PEER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Run:
    """A program to be run."""

    id: int
    seconds: float
    argv: tuple[str, ...]
    changes: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A file to be read."""

    id: int
    seconds: float
    path: str


@dataclass(frozen=True, slots=True)
class Ping:
    """A question whether anybody is there."""

    id: int


@dataclass(frozen=True, slots=True)
class Allowed:
    """A question for what the configuration names, as this connection has read it."""

    id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing is done. A line that has no `id` has none here."""

    id: int | None
    sentence: str


def parse(line: bytes, config: Config) -> Run | Read | Ping | Allowed | Refused:
    """Understand one line, or refuse it."""
    number: int | None = None
    try:
        it = _object(line)
        number = _number(it.get("id"))
        return _request(number, _seconds(it.get("seconds")), it, config)
    except _RefusedError as error:
        return Refused(number, str(error))


class _RefusedError(Exception):
    """Nothing is done; the message says why."""


def _object(line: bytes) -> dict[str, Any]:
    try:
        it = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise _RefusedError("the line is not JSON in ASCII") from None
    if not isinstance(it, dict):
        raise _RefusedError("the line is not an object")
    return it


def _number(sent: object) -> int:
    if type(sent) is not int or not 0 <= sent < MAX_ID:  # True is an int, too
        raise _RefusedError("id: must be a whole number from 0 on")
    return sent


def _seconds(sent: object) -> float:
    # Compared as it is: a whole number may be larger than any float.
    if type(sent) not in {int, float} or not 0 < cast("float", sent) <= MAX_SECONDS:
        raise _RefusedError(f"seconds: must be a number above 0, up to {MAX_SECONDS:g}")
    return float(cast("float", sent))


def _request(
    number: int, seconds: float, it: Mapping[str, Any], config: Config
) -> Run | Read | Ping | Allowed:
    wanted = set(it) - {"id", "seconds"}
    if not wanted:
        return Ping(number)
    if wanted == {"allowed"} and it["allowed"] is True:
        return Allowed(number)
    if wanted == {"read"}:
        if not isinstance(it["read"], str) or it["read"] not in FILES:
            raise _RefusedError(f"read: {_shown(it['read'])} is not in the list")
        return Read(number, seconds, it["read"])
    if wanted != {"run"}:
        raise _RefusedError("must have 'run' or 'read', and nothing else")
    words = it["run"]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _RefusedError("run: must be a list of words")
    row = program(words)
    if row is None:
        raise _RefusedError(f"run: {_shown(words)} is not in the list")
    target = () if row.target is Target.NONE else (_target(row.target, words[-1], config),)
    return Run(number, seconds, row.words + target, row.changes)


def _target(kind: Target, word: str, config: Config) -> str:
    """Check the name that a program is given."""
    name, colon, peer = word.partition(":") if kind is Target.CONNECTION else (word, "", "")
    if not _RESOURCE.fullmatch(name):
        raise _RefusedError(f"run: {_shown(word)} is not the name of a resource")
    if colon and not _PEER.fullmatch(peer):
        raise _RefusedError(f"run: {_shown(peer)} is not the name of a peer")
    if not config.allows_resource(name):
        raise _RefusedError(f"run: the resource {name} is not in this host's configuration: {CONFIG}")
    return name + colon + peer


def program(words: Sequence[str]) -> Program | None:
    """The row that these words are of, whatever their target; None: nothing that may be run."""
    words = tuple(words)
    for row in PROGRAMS:
        if row.words == (words if row.target is Target.NONE else words[:-1]):
            return row
    return None


def _shown(sent: object) -> str:
    return ascii(sent)[:100]
