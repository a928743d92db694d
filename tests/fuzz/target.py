"""What a target is, and whether an input is a fault of it."""

import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

REPO = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
HANG_SECONDS = 5.0
"""Of processor time; the slowest inputs that are no fault need a fraction of a second."""
MAX_SAMPLES = 60


@dataclass(frozen=True)
class Target:
    """One way in."""

    name: str
    take: Callable[[bytes], object]
    """Gives the function the input, and asserts what must hold of what comes out."""
    made: Callable[[], Iterable[bytes]]
    """Inputs as they should be."""
    raises: tuple[type[Exception], ...] = ()
    """What may come out for a bad one."""
    words: tuple[bytes, ...] = ()
    """What means something to it."""
    most: int = 65536
    """Longer inputs are cut: something else bounds them before."""

    @property
    def folder(self) -> Path:
        return CORPUS / self.name

    def failed(self) -> list[Path]:
        """The inputs that ever were a fault."""
        return sorted(self.folder.glob("*"))

    @cached_property
    def samples(self) -> list[bytes]:
        """What to begin with: some of the good inputs, evenly chosen, and all that ever failed."""
        good = list(dict.fromkeys(self.made()))
        step = max(1, -(-len(good) // MAX_SAMPLES))
        return good[::step] + [path.read_bytes() for path in self.failed()]


TARGETS: dict[str, Target] = {}


def target(
    made: Callable[[], Iterable[bytes]],
    *raises: type[Exception],
    words: Iterable[bytes] = (),
    most: int = 65536,
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    """Make a target of a function, under the function's name."""

    def register(take: Callable[[bytes], object]) -> Callable[[bytes], object]:
        name = take.__name__
        TARGETS[name] = Target(name, take, made, raises, tuple(words), most)
        return take

    return register


class Hang(BaseException):
    """Too much time."""


@contextmanager
def bounded(seconds: float = HANG_SECONDS) -> Iterator[None]:
    """Raise `Hang` after so much of the process's own time: a busy machine is no hang."""

    def late(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def fault(it: Target, content: bytes) -> str | None:
    """What is wrong, and where, in the same words for the same fault; None: nothing."""
    try:
        with bounded():
            it.take(content)
    except it.raises:
        return None
    except Hang as error:
        return f"hangs in {_place(error)}"
    except Exception as error:
        said = f": {str(error)[:60]}" if isinstance(error, AssertionError) else ""
        return f"{type(error).__name__} in {_place(error)}{said}"
    return None


def _place(error: BaseException) -> str:
    """The innermost line of ours that it went through."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.startswith(f"{REPO}/") and "/.venv/" not in frame.filename
    ]
    last = frames[-1]
    return f"{last.filename.removeprefix(f'{REPO}/')}:{last.name}"


def smaller(it: Target, content: bytes, tries: int = 600) -> bytes:
    """A part of the input that is the same fault, as small as so many tries make it."""
    wanted, size = fault(it, content), max(1, len(content) // 2)
    if wanted is None or wanted.startswith("hangs"):
        return content
    while size and tries > 0:
        at = 0
        while at < len(content) and tries > 0:
            less = content[:at] + content[at + size :]
            tries -= 1
            if fault(it, less) == wanted:
                content = less
            else:
                at += size
        size //= 2
    return content
