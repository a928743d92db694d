"""What the steps of plans took, read from the journal, and what follows for the next plan."""

from collections import deque
from collections.abc import Sequence

from actuator.core.forecast import KEPT, Medians, forecast, measured, medians
from actuator.model import Event, Step
from actuator.ports import Journal

FIRST_EVENTS = 5000
"""So far back it is read at first; then what is new."""
PAGE = 1000


class Experience:
    """Read by one thread; asked by any, which costs no look into the journal.

    Args:
        journal: its timeline tells of each step.
        isolation_seconds: see ``core.forecast.forecast``.
    """

    def __init__(self, journal: Journal, isolation_seconds: float) -> None:
        self._journal = journal
        self._isolation_seconds = isolation_seconds
        self._read_to: int | None = None
        self._samples: dict[tuple[str, str], deque[float]] = {}
        self._medians: Medians = {}

    def read(self) -> None:
        """Read what has happened since.

        Raises:
            JournalError: it cannot be read.
        """
        if self._read_to is None:
            page = self._journal.timeline(limit=FIRST_EVENTS, newest=True)
        else:
            page = self._journal.timeline(after=self._read_to, limit=PAGE)
        if page:
            self._read_to = page[-1][0]
            self._learn([event for _, event in page])
        elif self._read_to is None:
            self._read_to = 0

    def _learn(self, events: Sequence[Event]) -> None:
        found = [it for event in events if (it := measured(event))]
        for key, seconds in found:
            self._samples.setdefault(key, deque(maxlen=KEPT)).append(seconds)
        if found:
            self._medians = medians(self._samples)

    def forecast(self, steps: Sequence[Step]) -> float | None:
        """How long a plan with these steps would take; None: it cannot be told."""
        return forecast(steps, self._medians, isolation_seconds=self._isolation_seconds)
