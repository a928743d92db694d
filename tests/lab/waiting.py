"""Deadlines and progress: the two things that every part of the lab needs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

Answer = TypeVar("Answer")

Progress = Callable[[str], None]
"""Says one line to the person who waits."""


class LabError(Exception):
    """Something in the lab did not do what was asked; the message is a sentence for a person."""


class LabTimeoutError(LabError):
    """A wait in the lab reached its deadline."""


_started = time.monotonic()


def print_progress(line: str) -> None:
    """Print a progress line with the seconds since the program started."""
    print(f"lab {time.monotonic() - _started:7.1f} s  {line}", file=sys.stderr, flush=True)


@contextmanager
def stage(progress: Progress, what: str) -> Iterator[None]:
    """Say when a stage begins, and how many seconds it took."""
    progress(f"{what} ...")
    begun = time.monotonic()
    yield
    progress(f"{what}: {time.monotonic() - begun:.1f} s")


def wait_until(
    condition: Callable[[], Answer], what: str, timeout_seconds: float, every_seconds: float = 0.1
) -> Answer:
    """Ask `condition` until its answer is true, and return that answer.

    Args:
        condition: asked at once and then again and again.
        what: ends the sentence "Waited 10 s for ..." of the error.
        timeout_seconds: the deadline; `condition` itself must not block much longer than that.
        every_seconds: the pause between two questions.

    Raises:
        LabTimeoutError: the deadline passed; the last answer is in the message.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = Event()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise LabTimeoutError(f"Waited {timeout_seconds:g} s for {what}; the last answer was {answer!r}")
        pause.wait(every_seconds)
