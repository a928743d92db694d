"""Virtual time, and what runs in it: each piece of code that waits is a fiber, and one runs at a time.

The product's own code runs unchanged: its sleeps, events and threads are those of here (``Clockwork``). A
run depends on nothing but its seed and its schedule.
"""

import itertools
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from random import Random
from typing import Any

import greenlet

EPOCH = 1_700_000_000.0
"""Wall clock, Unix seconds, at the beginning of each run, where it is right."""


class Killed(BaseException):
    """The process that this fiber belongs to is gone, as by SIGKILL or with its host's power."""


class Process:
    """What lives, stands still and dies together: a host since its boot, the actuator since its start."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.frozen = False
        self.fibers: set[Fiber] = set()
        self._held: list[Callable[[], None]] = []
        """What was due while it stood still."""

    def __repr__(self) -> str:
        return self.name

    def hold(self, action: Callable[[], None]) -> None:
        self._held.append(action)

    def thaw(self, loop: "Loop") -> None:
        """Go on: what was due meanwhile is due now."""
        self.frozen = False
        held, self._held = self._held, []
        for action in held:
            loop.call_in(0.0, action)


class Fiber:
    """One line of execution."""

    __slots__ = ("_about", "_call", "_name", "ended", "glet", "late_seconds", "leaves", "parked", "process")

    def __init__(self, process: Process, call: Callable[[], Any], name: str, about: object) -> None:
        self.process = process
        self._name = name
        self._about = about
        self.ended = False
        self.glet: greenlet.greenlet | None = None
        """Once it has begun."""
        self._call = call
        self.parked = 0
        """Which of its waits it is in: a wake for an earlier one is too late."""
        self.leaves: Callable[[], None] | None = None
        """What it asks of several at once: called before it waits, so that another one asks the rest meanwhile."""
        self.late_seconds = 0.0
        """As long as it leaves nothing yet: when the answer that it has is there for who wants it."""
        process.fibers.add(self)

    @property
    def name(self) -> str:
        """Written when it is asked for: few are."""
        return self._name if self._about is None else f"{self._name} {self._about}"

    def run(self) -> None:
        """All of it, in its greenlet."""
        try:
            if self.process.alive:
                self._call()
        except Killed:
            pass
        finally:
            self.ended = True
            self.process.fibers.discard(self)


class Loop:
    """The only clock. Not for several threads.

    Args:
        random: all chance.
    """

    def __init__(self, random: Random) -> None:
        self.now = 0.0
        self.random = random
        self.current: Fiber | None = None
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Fiber | None, Any]] = []
        """When, in which order, and a fiber with the number of its wait; or None, and what is called."""
        self._hub = greenlet.getcurrent()
        self._fibers: set[Fiber] = set()
        self._idle: list[greenlet.greenlet] = []
        """Each has run a fiber to its end, and waits for another: a new one costs as much as what most of them do."""
        self.stopped = False
        """Set to have ``run`` come back at once."""

    def call_in(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Do something short that does not wait, later."""
        call = partial(action, *arguments) if arguments else action
        heappush(self._due, (self.now + seconds, next(self._numbers), None, call))

    def spawn(self, process: Process, call: Callable[[], Any], name: str = "", about: object = None) -> Fiber:
        """Begin a fiber, as soon as all that is due before has been done; ``about`` is part of its name."""
        fiber = Fiber(process, call, name, about)
        self._fibers.add(fiber)
        self.resume_in(0.0, fiber, 0)
        return fiber

    def resume_in(self, seconds: float, fiber: Fiber, number: int) -> None:
        """Have a fiber go on that will be in this one of its waits; if it still is."""
        heappush(self._due, (self.now + seconds, next(self._numbers), fiber, number))

    def sleep(self, seconds: float) -> None:
        """Let time pass in this fiber."""
        fiber = self._this()
        due = self.now + seconds if seconds > 0 else self.now
        heappush(self._due, (due, next(self._numbers), fiber, fiber.parked + 1))
        self._park(fiber)

    def answer_in(self, seconds: float) -> None:
        """Let the time pass that an answer takes. One of several that are asked at once does not wait for it."""
        fiber = self._this()
        if fiber.leaves is None:
            self.sleep(seconds)
        else:
            fiber.late_seconds += seconds

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        due = self._due
        while due and due[0][0] <= end and not self.stopped:
            self.now, _, fiber, what = heappop(due)
            if fiber is None:
                what()
            elif fiber.parked == what:
                self._resume(fiber)
        if not self.stopped:
            self.now = end

    def kill(self, process: Process) -> None:
        """End a process where it stands: nothing of it is done any more."""
        process.alive = False
        process.frozen = False
        this = self.current
        for fiber in sorted(process.fibers, key=lambda it: it.name):
            if fiber is not this and not fiber.ended:
                self._throw(fiber)
        if this is not None and this.process is process:
            raise Killed

    def close(self) -> None:
        """End all that still waits: a greenlet that is left in the middle keeps all that it knows."""
        for fiber in sorted(self._fibers, key=lambda it: it.name):
            fiber.process.alive = False
            if not fiber.ended:
                self._throw(fiber)
        self._fibers.clear()
        self._due.clear()
        for idle in self._idle:
            idle.throw()
        self._idle.clear()

    def park(self, seconds: float | None) -> Callable[[], None]:
        """Register this fiber's next wait, for so long at most; what ends it. Then ``wait_parked``."""
        return partial(self.resume_in, 0.0, *self.next_wait(seconds))

    def wait_parked(self) -> None:
        self._park(self._this())

    def next_wait(self, seconds: float | None) -> tuple[Fiber, int]:
        """This fiber, and the number of its next wait, which lasts for so long at most."""
        fiber = self._this()
        number = fiber.parked + 1
        if seconds is not None:
            self.resume_in(max(0.0, seconds), fiber, number)
        return fiber, number

    def _park(self, fiber: Fiber) -> None:
        fiber.parked += 1
        if fiber.leaves is not None:
            leave, fiber.leaves = fiber.leaves, None
            leave()
        self._hub.switch()
        if not fiber.process.alive:
            raise Killed

    def _this(self) -> Fiber:
        assert self.current is not None, "only a fiber waits"
        return self.current

    def _resume(self, fiber: Fiber) -> None:
        process = fiber.process
        if fiber.ended or not process.alive:
            return
        if process.frozen:
            number = fiber.parked
            process.hold(lambda: self._resume(fiber) if fiber.parked == number else None)
            return
        self._enter(fiber)

    def _enter(self, fiber: Fiber) -> None:
        # From the hub alone: a fiber that ends comes back to its parent, which is the hub.
        self.current = fiber
        glet = fiber.glet
        if glet is not None:
            glet.switch()
        else:
            glet = self._idle.pop() if self._idle else greenlet.greenlet(self._one_by_one, self._hub)
            fiber.glet = glet
            glet.switch(fiber)
        self.current = None

    def _one_by_one(self, fiber: Fiber) -> None:
        """A greenlet: it runs fibers, one after the other."""
        this = greenlet.getcurrent()
        while True:
            fiber.run()
            self._fibers.discard(fiber)
            self._idle.append(this)
            fiber = self._hub.switch()

    def _throw(self, fiber: Fiber) -> None:
        if fiber.glet is None:
            fiber.ended = True  # it had not begun
            fiber.process.fibers.discard(fiber)
        elif self.current is None:
            self._enter(fiber)
        else:
            self.call_in(0.0, lambda: None if fiber.ended else self._enter(fiber))


class Event:
    """``threading.Event`` in virtual time."""

    __slots__ = ("_loop", "_set", "_waiting")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._set = False
        self._waiting: list[tuple[Fiber, int]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self, seconds: float = 0.0) -> None:
        """Who waits goes on; after so long, if not at once."""
        self._set = True
        waiting, self._waiting = self._waiting, []
        for wait in waiting:
            self._loop.resume_in(seconds, *wait)

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            wait = self._loop.next_wait(timeout)
            self._waiting.append(wait)
            self._loop.wait_parked()
            if wait in self._waiting:
                self._waiting.remove(wait)
        return self._set


class Threading:
    """As much of the module ``threading`` as the product uses, in a process of the simulator."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def Event(self) -> Event:  # noqa: N802  threading's name
        return Event(self._loop)

    def Thread(  # noqa: N802  threading's name
        self, *, target: Callable[[], None], name: str = "", daemon: bool = True
    ) -> "_Thread":
        assert daemon, "none of the product's threads outlives it"
        return _Thread(self._loop, target, name)


class _Thread:
    def __init__(self, loop: Loop, target: Callable[[], None], name: str) -> None:
        self._loop, self._target, self._name = loop, target, name

    def start(self) -> None:
        this = self._loop.current
        assert this is not None, "a thread is started by a fiber"
        self._loop.spawn(this.process, self._target, self._name)


class Time:
    """As much of the module ``time`` as the hooks use. A host that stands still does not lose its clock.

    Args:
        loop: the true clock.
        rate: how fast the one of the host runs whose code asks.
    """

    CLOCK_BOOTTIME = 7

    def __init__(self, loop: Loop, rate: Callable[[], float]) -> None:
        self._loop = loop
        self._rate = rate

    def monotonic(self) -> float:
        return self._loop.now * self._rate()

    def sleep(self, seconds: float) -> None:
        self._loop.sleep(seconds / self._rate())

    def clock_gettime(self, _clock: int) -> float:
        return self.monotonic()

    def clock_gettime_ns(self, _clock: int) -> int:
        return int(self.monotonic() * 1e9)
