"""The exhaustive search of the arbiter: every world that a bounded number of disturbing events can lead to.

    python -m tests.sim.search --events 2                  # all of it, and the states from which nothing helps
    python -m tests.sim.search --events 2 --without R1     # a rule taken out: the schedule that breaks the promise
    python -m tests.sim.search --events 3 --seconds 600    # as far as time allows; says so when it is incomplete

Breadth first: all that one event can lead to before anything with two. What is printed is a schedule with as few
events as any, and among those as few steps.
"""

import argparse
import contextlib
import gc
import itertools
import resource
import sys
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.sim.events import MENDS
from tests.sim.model import Model
from tests.sim.plans import CHANGES_SIDES
from tests.sim.stuck import why_stuck
from tests.sim.taken_out import TAKEN_OUT, taken_out
from tests.sim.world import START, World, violation, writes

PROGRESS_SECONDS = 10.0
CHECK_EVERY = 4096
NAMES = ("v01", "v02")


@dataclass
class Found:
    """What a search came to."""

    broken: str = ""
    """How the promise was broken; empty: nowhere."""
    schedule: list[str] = field(default_factory=list)
    events: int = 0
    """Of the schedule; else of the last level that was searched."""
    states: int = 0
    complete: bool = True
    stuck: Counter[str] = field(default_factory=Counter)
    """States from which nothing helps, by why that is; "": unknown."""
    kinds: Counter[str] = field(default_factory=Counter)
    """The same, by what stands against the VM."""
    helpless: list[str] = field(default_factory=list)
    """Of these those where not even that helps which the sentence says."""


class Search:
    """One run.

    Args:
        model: how worlds follow each other.
        seconds: after so long it ends, incomplete.
        progress: is told how far it is.
        only: words of the events that happen; none: all of them.
        stuck: look for states from which nothing helps, too.
    """

    def __init__(
        self, model: Model, seconds: float = float("inf"), progress=None, only=(), stuck: bool = False
    ) -> None:
        self._model = model
        self._deadline = time.monotonic() + seconds
        self._progress = progress
        self._only = only
        self._said = time.monotonic()
        self._index: dict[World, int] = {}
        self._worlds: list[World] = []
        self._parent = array("l")
        self._by_event = bytearray()
        self._shared: dict[object, object] = {}
        self._look_for_stuck = stuck
        self._broken = -1

    def run(self, events: int) -> Found:
        """Search all worlds that so many events can lead to, or until the promise is broken."""
        gc.disable()  # nothing here refers to itself, and millions of tuples are long to go through
        try:
            return self._run(events)
        finally:
            gc.enable()

    def _run(self, events: int) -> Found:
        self._add(START, -1, event=False)
        first = 0
        for level in range(events + 1):
            if not self._close(first, level):
                return self._found(level)
            if level < events:
                last, first = first, len(self._worlds)
                if not self._disturb(last, first):
                    return self._found(level)
        found = self._found(events)
        if self._look_for_stuck:
            self._stuck(found)
        return found

    def _add(self, w: World, parent: int, *, event: bool) -> int:
        index = self._index.get(w)
        if index is not None:
            return index
        share = self._shared.setdefault
        a, b = w.hosts
        w = w._replace(hosts=share((h := (share(a, a), share(b, b))), h), it=share(w.it, w.it))
        index = len(self._worlds)
        self._index[w] = index
        self._worlds.append(w)
        self._parent.append(parent)
        self._by_event.append(event)
        if self._broken < 0 and violation(w):
            self._broken = index
        return index

    def _close(self, at: int, level: int) -> bool:
        """Follow all that happens by itself; False: broken, or out of time."""
        moves = self._model.moves
        worlds = self._worlds
        while at < len(worlds):
            for _, _, after in moves(worlds[at]):
                self._add(after, at, event=False)
            if self._broken >= 0:
                return False
            at += 1
            if at % CHECK_EVERY == 0 and not self._goes_on(level, at):
                return False
        return True

    def _disturb(self, first: int, end: int) -> bool:
        """One more event, in each world of the last level. Those that took fewest steps come first."""
        for at in range(first, end):
            for text, _, after in self._model.events(self._worlds[at]):
                if not self._only or any(words in text for words in self._only):
                    self._add(after, at, event=True)
            if self._broken >= 0:
                return False
        return True

    def _goes_on(self, level: int, at: int) -> bool:
        now = time.monotonic()
        if self._progress and now - self._said > PROGRESS_SECONDS:
            self._said = now
            self._progress(f"{level} events: {at:,} worlds followed of {len(self._worlds):,} known")
        return now < self._deadline

    def _found(self, level: int) -> Found:
        if self._broken < 0:
            complete = time.monotonic() < self._deadline
            return Found(events=level, states=len(self._worlds), complete=complete)
        path = [self._broken]
        while self._parent[path[-1]] >= 0:
            path.append(self._parent[path[-1]])
        path.reverse()
        events = sum(self._by_event[at] for at in path)
        broken = violation(self._worlds[self._broken])
        return Found(broken, list(self._told(path)), events, len(self._worlds))

    def _told(self, path: list[int]) -> Iterator[str]:
        names = NAMES
        for at, to in itertools.pairwise(path):
            before, after = self._worlds[at], self._worlds[to]
            possible = self._model.events(before) if self._by_event[to] else self._model.moves(before)
            text, host = next((text, host) for text, host, w in possible if w == after)
            mark = "! " if self._by_event[to] else "  "
            yield mark + text.format(h=names[host], p=names[1 - host])
            if text in CHANGES_SIDES and host:
                names = names[::-1]

    # ---- what is stuck -------------------------------------------------------------------------------------

    def _stuck(self, found: Found) -> None:
        """Worlds in which all is mended, nothing happens any more, and the VM does not run."""
        self.examples: dict[str, int] = {}
        for at, w in enumerate(self._worlds):
            if _still(w) and self._is_settled(w):
                why, kind = why_stuck(w), kind_of(w)
                found.stuck[why] += 1
                found.kinds[kind] += 1
                self.examples.setdefault(f"{kind}: {why}", at)
                if why and not any(map(_runs, follows(self._model, self._model.by_hand(w), mends=True))):
                    found.helpless.append(kind)

    def _is_settled(self, w: World) -> bool:
        """Whatever follows, the VM does not run, and nothing changes but the connection, which may come and go."""
        seen, queue = {w}, [w]
        while queue:
            at = queue.pop()
            if _runs(at):
                return False
            for _, _, after in self._model.moves(at):
                if (_lasting(after), after.it) != (_lasting(w), w.it):
                    return False
                if after not in seen:
                    seen.add(after)
                    queue.append(after)
        return True

    def schedule_to(self, at: int) -> list[str]:
        """How a world was reached."""
        path = [at]
        while self._parent[path[-1]] >= 0:
            path.append(self._parent[path[-1]])
        return list(self._told(path[::-1]))


def replayed(model: Model, at: World, schedule: list[str]) -> tuple[World, int]:
    """Follow a schedule as it was printed: where it ends, and how many of its steps were possible."""
    names = NAMES
    for count, line in enumerate(schedule):
        possible = model.events(at) if line.startswith("!") else model.moves(at)
        for text, host, after in possible:
            if text.format(h=names[host], p=names[1 - host]) == line[2:]:
                at = after
                names = names[::-1] if text in CHANGES_SIDES and host else names
                break
        else:
            return at, count
    return at, len(schedule)


def follows(model: Model, at: World, *, mends: bool = False) -> set[World]:
    """All that may come of a world while nothing more disturbs; and nothing is mended, if not said otherwise."""
    seen, queue = {at}, [at]
    while queue:
        for text, _, after in model.moves(queue.pop()):
            if (mends or text not in MENDS) and after not in seen:
                seen.add(after)
                queue.append(after)
    return seen


def _runs(w: World) -> bool:
    return any(x.vm and writes(w, host) for host, x in enumerate(w.hosts))


def _lasting(w: World) -> tuple[tuple[object, ...], ...]:
    """What of both hosts a connection that comes and goes leaves as it is."""
    return tuple((x.role, x.disk, x.kept, x.frozen, x.two, x.ahead, x.lacks, x.vm) for x in w.hosts)


def _still(w: World) -> bool:
    """All is mended, nothing is on its way, nothing is planned."""
    return (
        w.cable
        and not (w.ghost or w.plan or w.keeper)
        and all(x.on and not x.sleep and x.reachable and not x.broken for x in w.hosts)
        and not any(x.unfence or x.resync or x.attach or x.release or x.promoting for x in w.hosts)
        and not any(isinstance(x.fence, tuple) for x in w.hosts)
    )


def kind_of(w: World) -> str:
    """What stands against the VM, in words; hosts by what they are to the arbiter."""
    it = w.it
    words = []
    for host in (it.holder, 1 - it.holder):
        x = w.hosts[host]
        who = "holder" if host == it.holder else "other"
        admitted = "admitted" if it.admitted >> host & 1 else "excluded"
        alone = " alone" if it.granted and host == it.holder else ""
        vm = ", has the VM" if x.vm else ""
        frozen = ", frozen" if x.frozen else ""
        lacks = ", lacks writes" if x.lacks else ""
        words.append(
            f"{who}{alone}: {admitted}, {x.role or 'down'} {x.disk} {x.connection}{frozen}{vm}{lacks}"
        )
    return "; ".join(words)


def main() -> int:
    """Run one search and say what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=2, help="disturbing events at most")
    parser.add_argument("--without", choices=sorted(TAKEN_OUT), help="a rule that is taken out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop then, incomplete")
    parser.add_argument("--no-stuck", action="store_true", help="less memory: do not look for stuck states")
    parser.add_argument("--kinds", action="store_true", help="print each kind of stuck state, too")
    parser.add_argument("--example", help="print how a stuck state was reached whose words contain this")
    parser.add_argument(
        "--only", action="append", default=[], help="only events with these words; may be given again"
    )
    arguments = parser.parse_args()
    begun = time.monotonic()
    out = taken_out(arguments.without) if arguments.without else contextlib.nullcontext(Model())
    with out as model:
        search = Search(
            model,
            arguments.seconds,
            lambda text: print(text, flush=True),
            only=arguments.only,
            stuck=not arguments.no_stuck,
        )
        found = search.run(arguments.events)
        if found.broken:
            print(f"{found.broken}\nevents (!): {found.events}, steps: {len(found.schedule)}")
            print("\n".join(found.schedule))
        for why, count in found.stuck.most_common():
            print(f"{count:8,} stuck: {why or 'nobody knows why'}")
        for kind, count in found.kinds.most_common() if arguments.kinds else ():
            print(f"{count:8,} of the kind: {kind}")
        for kind in found.helpless:
            print(f"what a person is told does not help: {kind}")
        if arguments.example:
            at = next(at for kind, at in search.examples.items() if arguments.example in kind)
            print("\n".join(search.schedule_to(at)))
    seconds = time.monotonic() - begun
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    how = "broken" if found.broken else "complete" if found.complete else "INCOMPLETE: out of time"
    print(
        f"{how}: {found.states:,} worlds, up to {found.events} events, {seconds:.1f} s, {memory:.0f} MiB;"
        f" {'the promise is broken' if found.broken else 'no violation'};"
        f" stuck: {sum(found.stuck.values()) if not arguments.no_stuck else 'not looked for'}"
    )
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
