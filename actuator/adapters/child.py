"""Runs a program that is not ours: it may hang, flood, ignore its input or leave children behind.

It is led by argv, never by a shell, in a process group of its own, which is killed at the deadline, and also
when the program itself has ended: nothing that it started in that group outlives it.
"""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

OUTPUT_LIMIT_BYTES = 64 * 1024
REAP_SECONDS = 1.0
"""A killed process that is still there after this hangs in the kernel, and is left to it."""
_CHUNK_BYTES = 64 * 1024
"""As much as a pipe holds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the program ended, and what it printed."""

    exit_status: int | None
    """None: ended by a signal, or killed at the deadline."""
    timed_out: bool
    output: str
    """The last 64 KiB of standard output and standard error, mixed. Bytes that are not UTF-8 are replaced."""

    @property
    def how(self) -> str:
        """For a sentence: ``ended with exit status 1``."""
        if self.timed_out:
            return "did not end in time and was killed"
        if self.exit_status is None:
            return "was ended by a signal"
        return f"ended with exit status {self.exit_status}"


def run(
    argv: Sequence[str], *, stdin: bytes, environment: Mapping[str, str], timeout_seconds: float
) -> Ended:
    """Run it to its end, or to the deadline.

    Args:
        argv: the program, found in the PATH of ``environment`` when it has no slash, and its arguments.
        stdin: what it is given on standard input. Whether it reads that is its own business.
        environment: all of its environment.
        timeout_seconds: this returns at most ``REAP_SECONDS`` later.

    Raises:
        OSError: it cannot be started.
    """
    deadline = time.monotonic() + timeout_seconds
    child = subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        cwd="/",
        env=dict(environment),
    )
    output = bytearray()
    try:
        timed_out = not _converse(child, stdin, output, deadline)
    finally:
        # It is not reaped yet: its number, and that of its group, cannot be another's.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            child.wait(REAP_SECONDS)
    status = child.returncode
    ended_by_itself = not timed_out and status is not None and status >= 0
    return Ended(status if ended_by_itself else None, timed_out, bytes(output).decode("utf-8", "replace"))


def _converse(child: "subprocess.Popen[bytes]", stdin: bytes, output: bytearray, deadline: float) -> bool:
    """Write and read until it has ended; False: the deadline came first."""
    assert child.stdin is not None
    assert child.stdout is not None
    given, taken = child.stdin.fileno(), child.stdout.fileno()
    os.set_blocking(given, False)
    os.set_blocking(taken, False)
    end = os.pidfd_open(child.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(end, selectors.EVENT_READ)
            selector.register(taken, selectors.EVENT_READ)
            selector.register(given, selectors.EVENT_WRITE)
            while (remaining := deadline - time.monotonic()) > 0:
                ready = {key.fd for key, _ in selector.select(remaining)}
                if given in ready:
                    stdin = _write(given, stdin)
                    if not stdin:
                        selector.unregister(given)
                        child.stdin.close()
                if taken in ready and not _read(taken, output):
                    selector.unregister(taken)
                if end in ready:
                    return True  # what it printed was in the pipe then, which holds no more than was read
            return False
    finally:
        os.close(end)


def _write(descriptor: int, data: bytes) -> bytes:
    """Return what is left to write; nothing when nobody reads it any more."""
    try:
        return data[os.write(descriptor, data[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""


def _read(descriptor: int, output: bytearray) -> bool:
    """Add what is there, and keep the end of all. False: nobody writes any more."""
    try:
        chunk = os.read(descriptor, _CHUNK_BYTES)
    except BlockingIOError:
        return True
    output += chunk
    del output[:-OUTPUT_LIMIT_BYTES]
    return bool(chunk)
