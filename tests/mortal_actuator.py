"""The actuator, killed by SIGKILL right after the nth journal write of a restart: `... -m tests.mortal_actuator N serve ...`.

The first write that counts is the one that makes a firing notification durable.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

from actuator.__main__ import main
from actuator.adapters.sqlite import SqliteJournal


def mortal(
    write: Callable[..., Any], counts_from_here: Callable[..., bool], dies_at: int
) -> Callable[..., Any]:
    """Wrap a method that writes so that the process does not outlive the nth write."""

    @functools.wraps(write)
    def wrapped(self: SqliteJournal, *arguments: Any, **named: Any) -> Any:
        result = write(self, *arguments, **named)
        if (
            (COUNTED or counts_from_here(*arguments))
            and not COUNTED.append(write.__name__)
            and next(WRITES) >= dies_at
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


COUNTED: list[str] = []
WRITES = count(1)

if __name__ == "__main__":
    number = int(sys.argv.pop(1))
    SqliteJournal.receive = mortal(  # type: ignore[method-assign]
        SqliteJournal.receive, lambda notifications: any(n.firing for n in notifications), number
    )
    SqliteJournal.commit = mortal(SqliteJournal.commit, lambda *_: False, number)  # type: ignore[method-assign]
    main()
