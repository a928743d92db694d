"""What somebody tries who may not, and what comes of it: the rows of the tables in docs/security.md."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Watched(Protocol):
    """Where it is tried: notes what is done beside what the one who tries is told."""

    def forget(self) -> None:
        """Begin to note anew."""

    def ran(self) -> list[str]:
        """What has been done since, each in a few words."""


Site = TypeVar("Site", bound=Watched)


@dataclass(frozen=True)
class Attempt(Generic[Site]):
    """One row."""

    group: str
    name: str
    expected: str
    """What must be in what was seen."""
    make: Callable[[Site], str]
    ran: tuple[str, ...] = ()
    """What the site notes, in any order; one that ends with `*` any number of times."""


@dataclass(frozen=True)
class Row:
    """An attempt that was made."""

    attempt: Attempt
    seen: str
    held: bool


def make(attempt: Attempt[Site], site: Site) -> Row:
    """Try it. It is held when what was expected was seen, and nothing else was done."""
    site.forget()
    seen = " ".join(attempt.make(site).split())
    ran = site.ran()
    expected = [it for it in attempt.ran if not it.endswith("*")]
    loose = tuple(it[:-1] for it in attempt.ran if it.endswith("*"))
    strict = sorted(it for it in ran if not (loose and it.startswith(loose)))
    if strict != sorted(expected):
        return Row(attempt, f"{seen}; was run: {strict}", held=False)
    return Row(attempt, seen, held=attempt.expected in seen)
