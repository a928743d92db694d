"""Signals, waited for by the main thread.

A handler runs in between any two instructions of the main thread. One that sets a ``threading.Event`` blocks
for ever when the main thread is just about to wait for it, and holds its lock. So the handlers do nothing,
and what arrives is read from the file descriptor that Python itself writes the signals' numbers to.
"""

import select
import signal
import socket
from types import TracebackType
from typing import Self


class Signals:
    """From entering to leaving, these signals end nothing: they are only waited for. Of the main thread."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in self._numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        self._reader.close()
        self._writer.close()

    def wait(self, seconds: float) -> set[int]:
        """What has arrived, waited for up to so long."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        return set(self._reader.recv(4096)) if ready else set()
