"""Running a program that may hang, flood or never die, without ever hanging, growing or leaving zombies.

A process in uninterruptible sleep (D state: DRBD's or LVM's kernel part waits for something) does not die of
SIGKILL. Such a child is left to itself, remembered, reaped when the kernel lets it go, and the program is
not started again before that: there is never more than one of them.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

# What a host with a thousand resources or volumes prints stays below this.
OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024
# A killed process that is still there after this hangs in the kernel.
REAP_SECONDS = 0.2
_CHUNK_BYTES = 64 * 1024


class ChildError(Exception):
    """The program could not be run to its end; the message is a sentence for the operator."""


class ProgramNotFoundError(ChildError):
    """The program is not installed, or not in PATH."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a program that ended by itself has left. Bytes that are not UTF-8 are replaced."""

    status: int
    stdout: str
    stderr: str


class Program:
    """Runs one program, found in PATH, one child at a time; for one thread at a time, but for `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._running: subprocess.Popen[bytes] | None = None
        self._hung: subprocess.Popen[bytes] | None = None

    def run(self, arguments: Sequence[str], deadline: float) -> Output:
        """Run it and return what it printed.

        Args:
            arguments: its arguments, without its name.
            deadline: in seconds of `time.monotonic()`; the call returns at most `REAP_SECONDS` later.

        Raises:
            ProgramNotFoundError: it is not there.
            ChildError: it did not end in time, printed more than `OUTPUT_LIMIT_BYTES`, was ended by a
                signal, or an earlier child of it still hangs in the kernel.
        """
        self._reap()
        return self._run(arguments, deadline)

    def close(self) -> None:
        """Kill the child that runs now, which the call of `run` then reaps, and reap what was left before."""
        running, hung = self._running, self._hung
        if running is not None:
            _kill(running)
        if hung is not None:
            hung.poll()

    def _reap(self) -> None:
        if self._hung is None:
            return
        if self._hung.poll() is None:
            raise ChildError(
                f"{self.name} (pid {self._hung.pid}) was killed and does not die: it hangs in the kernel, "
                "and is not started again before it is gone"
            )
        self._hung = None

    def _run(self, arguments: Sequence[str], deadline: float) -> Output:
        try:
            child = subprocess.Popen(
                [self.name, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # its own process group, so that its children die with it
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as error:
            raise ProgramNotFoundError(f"{self.name} is not in PATH") from error
        except OSError as error:
            raise ChildError(f"{self.name} cannot be started: {error.strerror}") from error
        self._running = child
        try:
            stdout, stderr = _read(child, deadline)
            status = child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise ChildError(f"{self.name} {' '.join(arguments)} did not end in time") from error
        except _TooMuchError as error:
            raise ChildError(
                f"{self.name} {' '.join(arguments)} printed more than {OUTPUT_LIMIT_BYTES} bytes"
            ) from error
        finally:
            self._running = None
            self._end(child)
        if status < 0:
            raise ChildError(f"{self.name} {' '.join(arguments)} was ended by signal {-status}")
        return Output(status, stdout, stderr)

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
        if child.returncode is not None:
            return
        _kill(child)
        try:
            child.wait(REAP_SECONDS)
        except subprocess.TimeoutExpired:
            self._hung = child


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill it and its children, as long as it is not reaped: after that the number may be another's."""
    with suppress(ProcessLookupError):
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)


class _TooMuchError(Exception):
    """The program printed more than is good for us."""


def _read(child: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
    """Read both outputs to their ends, or until the deadline."""
    assert child.stdout is not None
    assert child.stderr is not None
    outputs = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for descriptor in outputs:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise subprocess.TimeoutExpired(child.args, 0)
            for key, _ in selector.select(remaining):
                chunk = os.read(key.fd, _CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fd)
                outputs[key.fd] += chunk
            if sum(map(len, outputs.values())) > OUTPUT_LIMIT_BYTES:
                raise _TooMuchError
    stdout, stderr = (bytes(output).decode("utf-8", "replace") for output in outputs.values())
    return stdout, stderr
