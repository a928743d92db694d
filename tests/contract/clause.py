"""Clauses: what DRBD 8.4 does, step by step, in a form that a person reads and both the model and the real one play.

    A promotion while the peer is Primary is refused
        v01 primary
        v02 primary = 11 (-1)
        v02 is Connected Secondary/Primary UpToDate/UpToDate

A line at the margin is a clause's sentence, the lines below it its steps. Each begins with a pair that is connected, in
sync and Secondary on both hosts, with ``fencing resource-and-stonith`` (after the step ``without fencing``:
``dont-care``); every handler but fence-peer succeeds, and fence-peer denies. `STEPS` has all steps.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from actuator.adapters.drbd_storage import _REFUSAL
from exporter.drbd_configuration import Generations
from exporter.drbd_proc import parse_proc

CLAUSES = Path(__file__).parent / "clauses"
HOSTS = ("v01", "v02")
HOOKS = ("fence-peer", "unfence-peer", "before-resync-source")
DENIED = "1"
HANGS = "hangs"

STATE_SECONDS = 40.0
"""How long a state is waited for."""
STAYS_SECONDS = 4.0
"""How long a state must last that stays: longer than a lost peer takes to be noticed."""
COMMAND_SECONDS = 60.0
WRITE_SECONDS = 15.0
"""A write that has not ended by then stands still."""
POLL_SECONDS = 0.2


class BrokenError(AssertionError):
    """A clause does not hold; the message has the step and what was seen."""


class Outcome(NamedTuple):
    """What drbdadm left behind."""

    status: int
    stderr: str = ""

    def __str__(self) -> str:
        """As a clause says it: ``11 (-7)``; the number in brackets as the product reads it."""
        refusal = _REFUSAL.search(self.stderr)
        return f"{self.status} ({refusal['number']})" if refusal else str(self.status)


class Pending(Protocol):
    """Something that was begun and may take long."""

    def outcome(self, seconds: float) -> Outcome | None:
        """Wait so long for its end; None: it has not ended."""


class Subject(Protocol):
    """Two hosts with one resource: the model or the real thing. Each call has a deadline of its own."""

    fencing: bool

    def wait(self, seconds: float) -> None: ...

    def proc(self, host: str) -> str:
        """/proc/drbd."""

    @property
    def minor(self) -> int: ...

    def begin(self, host: str, verb: str) -> Pending:
        """Run drbdadm."""

    def begin_write(self, host: str, number: int) -> Pending:
        """Write one block; it ends when it is acknowledged, with the status 1 when it failed."""

    def blocks(self, host: str) -> set[int]:
        """The numbers of the written blocks that are on the host's own disk."""

    def generations(self, host: str) -> Generations: ...

    def answer(self, host: str, hook: str, status: str, seconds: int) -> None:
        """From now on this handler ends so (`HANGS`: not before this is said again), so long after it began."""

    def ran(self, host: str) -> list[str]:
        """Which handlers have been run there since this was asked last."""

    def cut(self, source: str, target: str) -> None:
        """Nothing that the source sends over the replication link arrives at the target."""

    def heal(self) -> None: ...

    def power_off(self, host: str) -> None: ...

    def boot(self, host: str) -> None:
        """Power on; its resource stays down."""

    def freeze(self, host: str) -> None: ...

    def wake(self, host: str) -> None: ...

    def open(self, host: str) -> None:
        """Hold the device open."""

    def close(self, host: str) -> None: ...

    def break_disk(self, host: str) -> None: ...

    def mend_disk(self, host: str) -> None: ...


@dataclass(frozen=True)
class Clause:
    """A sentence and its steps."""

    file: str
    sentence: str
    steps: tuple[str, ...]

    @property
    def fencing(self) -> bool:
        return "without fencing" not in self.steps


def read_clauses() -> list[Clause]:
    """All clauses, in the order of their files.

    Raises:
        ValueError: a line is not understood.
    """
    return [clause for file in sorted(CLAUSES.glob("*.txt")) for clause in _of_file(file)]


def _of_file(file: Path) -> Iterator[Clause]:
    sentence, steps = "", list[str]()
    for line in [*file.read_text(encoding="utf-8").splitlines(), "end"]:
        if not line.strip() or line.startswith("#"):
            continue
        step = line.partition("#")[0].strip()
        if line[0].isspace():
            if not sentence or not any(pattern.fullmatch(step) for pattern, _ in _STEPS):
                raise ValueError(f"{file.name}: {line.strip()!r} is not understood")
            steps.append(step)
        else:
            if sentence:
                yield Clause(file.stem, sentence, tuple(steps))
            sentence, steps = line.strip(), []


def play(clause: Clause, subject: Subject) -> None:
    """Play a clause.

    Raises:
        BrokenError: something was otherwise than it says.
    """
    player = _Player(subject)
    for number, step in enumerate(clause.steps, 1):
        pattern, play_step = next(it for it in _STEPS if it[0].fullmatch(step))
        words = pattern.fullmatch(step)
        assert words is not None
        if said := play_step(player, **words.groupdict()):
            both = "; ".join(f"{host}: {player.state(host)}" for host in HOSTS)
            raise BrokenError(f"{clause.sentence}: step {number}, {step!r}: {said} [{both}]")


class _Player:
    """Plays steps; each returns what was otherwise than it said, or nothing."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.pending: dict[tuple[str, str], Pending] = {}
        self.off: set[str] = set()

    def state(self, host: str) -> str:
        """``Connected Secondary/Primary UpToDate/UpToDate``, with ``frozen`` at its end."""
        if host in self.off:
            return "off"
        minor = parse_proc(self.subject.proc(host)).minors.get(self.subject.minor)
        if minor is None:
            return "Unconfigured"
        fields = dict(word.split(":", 1) for word in minor.states.split()[1:] if ":" in word)
        words = [fields[key] for key in ("cs", "ro", "ds") if key in fields]
        return " ".join([*words, *["frozen"] * minor.suspended])

    def run(self, host: str, verb: str, outcome: str | None) -> str:
        self.begin(host, verb)
        return self.ends(host, verb, outcome)

    def begin(self, host: str, verb: str) -> str:
        self.pending[host, verb] = self.subject.begin(host, verb)
        return ""

    def ends(self, host: str, verb: str, outcome: str | None) -> str:
        ended = self.pending.pop((host, verb)).outcome(COMMAND_SECONDS)
        if ended is None:
            return f"it has not ended after {COMMAND_SECONDS:g} s"
        return "" if str(ended) == (outcome or "0") else f"{ended}: {ended.stderr.strip()}"

    def write(self, host: str, number: str, outcome: str) -> str:
        self.pending[host, number] = self.subject.begin_write(host, int(number))
        return self.write_ends(host, number, outcome)

    def write_ends(self, host: str, number: str, outcome: str) -> str:
        pending = self.pending[host, number]
        ended = pending.outcome(STAYS_SECONDS if outcome == "waits" else WRITE_SECONDS)
        seen = "waits" if ended is None else "fails" if ended.status else "acknowledged"
        return "" if seen == outcome else f"it {seen}: {ended.stderr if ended else ''}"

    def reaches(self, host: str, state: str) -> str:
        left = STATE_SECONDS
        while (seen := self.state(host)) != state:
            if left <= 0:
                return f"it is {seen}"
            self.subject.wait(POLL_SECONDS)
            left -= POLL_SECONDS
        return ""

    def stays(self, host: str, state: str) -> str:
        left = STAYS_SECONDS
        while (seen := self.state(host)) == state:
            if left <= 0:
                return ""
            self.subject.wait(POLL_SECONDS)
            left -= POLL_SECONDS
        return f"it is {seen}"

    def has(self, host: str, numbers: str) -> str:
        seen = self.subject.blocks(host)
        return "" if seen == {int(it) for it in numbers.split()} else f"it has {sorted(seen)}"

    def ran(self, host: str, hooks: str) -> str:
        wanted = [] if hooks == "nothing" else hooks.split(", ")
        seen: list[str] = []
        left = STATE_SECONDS if wanted else 0.0
        while True:
            seen += self.subject.ran(host)
            if sorted(set(seen)) == sorted(wanted):
                return ""
            if left <= 0:
                return f"it ran {', '.join(seen) or 'nothing'}"
            self.subject.wait(POLL_SECONDS)
            left -= POLL_SECONDS

    def generations(self, relation: str) -> str:
        one, other = (self.subject.generations(host) for host in HOSTS)
        seen = relation_of(one, other)
        return "" if seen == relation else f"they are {seen}: {one}, {other}"

    def answer(self, host: str, hook: str, status: str, seconds: str | None) -> str:
        self.subject.answer(host, hook, status, int(seconds or 0))
        return ""

    def cut(self, source: str | None = None, target: str | None = None) -> str:
        for one, other in [(source, target)] if source and target else [HOSTS, HOSTS[::-1]]:
            self.subject.cut(one, other)
        return ""

    def do(self, what: Callable[[Subject], Callable[[str], None]], host: str) -> str:
        what(self.subject)(host)
        return ""

    def power_off(self, host: str) -> str:
        self.off.add(host)
        self.subject.power_off(host)
        return ""

    def boot(self, host: str) -> str:
        self.subject.boot(host)
        self.off.discard(host)
        return ""

    def heal(self) -> str:
        self.subject.heal()
        return ""

    def pause(self, seconds: str) -> str:
        self.subject.wait(float(seconds))
        return ""


def relation_of(one: Generations, other: Generations) -> str:
    """How the generations of v01 and v02 stand to each other, as the product knows them."""
    match other.current in one.former, one.current in other.former:
        case _ if one.current == other.current:
            return "same"
        case True, False:
            return "v01 newer"
        case False, True:
            return "v02 newer"
    return "split" if one.former & other.former else "unrelated"


VERBS = (
    "primary|secondary|up|down|attach|detach|detach --force|connect|disconnect|resume-io|outdate"
    "|allow-two-primaries|forbid-two-primaries|pause-sync|resume-sync"
)
_HOST = "(?P<host>v0[12])"
_STATE = r"(?P<state>Unconfigured|[A-Z]\w+ \w+/\w+ \w+/\w+(?: frozen)?)"

STEPS: dict[str, Callable[..., str]] = {
    rf"{_HOST} (?P<verb>{VERBS})(?: = (?P<outcome>\d+(?: \(-?\d+\))?))?": _Player.run,
    rf"{_HOST} begins (?P<verb>{VERBS})": _Player.begin,
    rf"{_HOST} ends (?P<verb>{VERBS})(?: = (?P<outcome>\d+(?: \(-?\d+\))?))?": _Player.ends,
    rf"{_HOST} writes (?P<number>\d+): (?P<outcome>acknowledged|fails|waits)": _Player.write,
    rf"{_HOST} write (?P<number>\d+): (?P<outcome>acknowledged|fails|waits)": _Player.write_ends,
    rf"{_HOST} has(?P<numbers>(?: \d+)*)": _Player.has,
    rf"{_HOST} is {_STATE}": _Player.reaches,
    rf"{_HOST} stays {_STATE}": _Player.stays,
    rf"{_HOST} ran (?P<hooks>nothing|[a-z, -]+)": _Player.ran,
    rf"{_HOST} answers (?P<hook>{'|'.join(HOOKS)}) (?P<status>\d+|{HANGS})(?: after (?P<seconds>\d+) s)?": _Player.answer,
    r"generations (?P<relation>same|v01 newer|v02 newer|split|unrelated)": _Player.generations,
    r"cut(?: (?P<source>v0[12]) > (?P<target>v0[12]))?": _Player.cut,
    "heal": _Player.heal,
    rf"{_HOST} loses power": _Player.power_off,
    rf"{_HOST} boots": _Player.boot,
    rf"{_HOST} stands still": lambda it, host: it.do(lambda subject: subject.freeze, host),
    rf"{_HOST} wakes": lambda it, host: it.do(lambda subject: subject.wake, host),
    rf"{_HOST} opens": lambda it, host: it.do(lambda subject: subject.open, host),
    rf"{_HOST} closes": lambda it, host: it.do(lambda subject: subject.close, host),
    rf"{_HOST} disk breaks": lambda it, host: it.do(lambda subject: subject.break_disk, host),
    rf"{_HOST} disk mends": lambda it, host: it.do(lambda subject: subject.mend_disk, host),
    r"(?P<seconds>\d+(?:\.\d+)?) s pass": _Player.pause,
    "without fencing": lambda it: "",
}
_STEPS = [(re.compile(pattern), step) for pattern, step in STEPS.items()]
