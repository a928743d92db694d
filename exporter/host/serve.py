"""Serving the requests of one SSH connection, several at once, until its end of input.

Everything is bounded: a line's length and time, the programs that run, those left behind, what they print,
and the time that an answer waits to be taken. A program that changes something is never ended: whoever asked
for it must find out by itself what became of it. It has a session of its own, and outlives this process.
"""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from exporter.host.config import Config
from exporter.host.requests import MAX_LINE_BYTES, VERSION, Allowed, Ping, Read, Refused, Run, parse

MAX_RUNNING = 16
"""At the same time; the actuator asks for 8."""
MAX_LEFT = 32
"""Programs that are late and have not ended: they hang in the kernel, and so would more of them."""
MAX_OUTPUT_BYTES = 1 << 20
"""Of each stream; the states of 100 resources are 100 KB."""
CHUNK_BYTES = 1 << 16
LINE_SECONDS = 10.0
"""From a line's first byte to its last."""
WRITE_SECONDS = 15.0
"""How long an answer waits to be taken."""
KILL_SECONDS = 1.0
"""What is killed ends within so long, or hangs in the kernel."""
MAX_SAID = 20
"""Refusals in the log, of one connection."""


_SECRET = re.compile(r"""(shared-secret"?[\s:=a-z]*")[^"]*""")
"""As XML, JSON and in DRBD's own words: the actuator has no use for it."""


class ProtocolError(Exception):
    """What comes in is not worth reading on; the message says why."""


class _LateError(Exception):
    """The program has not ended in time."""


class _TooLargeError(Exception):
    """It printed too much."""


class Server:
    """Answers requests from one pair of pipes."""

    def __init__(self, config: Config, say: Callable[[str], None], taker: int = 0, giver: int = 1) -> None:
        """Serve nothing yet.

        Args:
            config: what is allowed.
            say: writes a sentence to the log.
            taker: the file descriptor that requests come from.
            giver: the one that answers go to.
        """
        self._config = config
        self._say = say
        self._taker = taker
        self._giver = giver
        self._refusals = 0
        self._running = threading.BoundedSemaphore(MAX_RUNNING)
        self._giving = threading.Lock()
        self._leaving = threading.Lock()
        self._left: list[subprocess.Popen[bytes]] = []

    def serve(self) -> None:
        """Answer until the input ends.

        Raises:
            ProtocolError: a line is too long or too slow.
        """
        os.set_blocking(self._giver, False)
        self._give({"vmheal-host": VERSION})
        try:
            for line in lines(self._taker):
                self._take(line)
        except ProtocolError as error:
            self._refuse(None, str(error))
            raise

    def _take(self, line: bytes) -> None:
        request = parse(line, self._config)
        if isinstance(request, Refused):
            self._refuse(request.id, request.sentence)
        elif isinstance(request, Ping):
            self._give({"id": request.id})
        elif isinstance(request, Allowed):
            config = self._config
            names = {
                "resources": config.resources,
                "domains": config.domains,
                "migrate_uris": config.migrate_uris,
            }
            self._give({"id": request.id} | {key: sorted(it) for key, it in names.items()})
        elif self._hanging() >= MAX_LEFT or not self._running.acquire(blocking=False):
            self._give({"id": request.id, "busy": "too many programs run or hang on this host already"})
        else:
            threading.Thread(target=self._work, args=(request,), daemon=True).start()

    def _work(self, request: Run | Read) -> None:
        try:
            answer = self._read(request) if isinstance(request, Read) else self._run(request)
        except _LateError:
            answer = {"late": True}
        except _TooLargeError:
            answer = {"too_large": True}
        except OSError as error:
            answer = {"error": error.errno, "out": error.strerror}
        finally:
            self._running.release()
        self._give({"id": request.id, **answer})

    def _read(self, request: Read) -> dict[str, Any]:
        with open(request.path, "rb") as file:  # noqa: PTH123  pathlib takes time to import
            content = file.read(MAX_OUTPUT_BYTES + 1)
        if len(content) > MAX_OUTPUT_BYTES:
            raise _TooLargeError
        return {"out": content.decode("utf-8", "replace")}

    def _run(self, request: Run) -> dict[str, Any]:
        deadline = time.monotonic() + request.seconds
        try:
            process = self._start(request)
        except OSError as error:
            return {"status": 127, "out": "", "err": f"{request.argv[0]}: {error.strerror}"}
        try:
            out, err = _outputs(process, deadline)
            status = process.wait(max(0.0, deadline - time.monotonic()))
        except (_LateError, _TooLargeError, subprocess.TimeoutExpired) as error:
            self._leave(process, request)
            raise (error if isinstance(error, _TooLargeError) else _LateError) from error
        if request.changes:
            self._say(f"{' '.join(request.argv)}: exit status {status}")
        return {"status": status if status >= 0 else None, "out": _SECRET.sub(r"\1", out), "err": err}

    def _start(self, request: Run) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            request.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": self._config.path, "LC_ALL": "C"},
            start_new_session=True,
        )

    def _leave(self, process: subprocess.Popen[bytes], request: Run) -> None:
        """Wait for it no more."""
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        if not request.changes:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(KILL_SECONDS)
        self._say(f"{' '.join(request.argv)}: given up, {'it may go on' if request.changes else 'killed'}")
        with self._leaving:
            self._left.append(process)

    def _hanging(self) -> int:
        with self._leaving:
            self._left = [process for process in self._left if process.poll() is None]
            return len(self._left)

    def _refuse(self, number: int | None, sentence: str) -> None:
        self._refusals += 1
        if self._refusals <= MAX_SAID:
            self._say(f"refused: {sentence}")
        self._give({"id": number, "refused": sentence})

    def _give(self, answer: Mapping[str, object]) -> None:
        """Write an answer; one that nobody takes ends this process."""
        rest = memoryview(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        with self._giving:
            deadline = time.monotonic() + WRITE_SECONDS
            poll = select.poll()
            poll.register(self._giver, select.POLLOUT)
            try:
                while rest:
                    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                        raise TimeoutError("an answer was not taken")
                    with contextlib.suppress(BlockingIOError):
                        rest = rest[os.write(self._giver, rest) :]
            except OSError as error:
                self._say(f"the connection is given up: {error}")
                os._exit(1)


def lines(taker: int) -> Iterator[bytes]:
    """Read lines to the end of input; a last one that is not whole is dropped.

    Raises:
        ProtocolError: one is too long, or too slow.
    """
    poll = select.poll()
    poll.register(taker, select.POLLIN)
    buffer, begun = b"", 0.0
    while True:
        seconds = begun + LINE_SECONDS - time.monotonic()
        if not poll.poll(max(0.0, seconds) * 1000 if buffer else None):
            raise ProtocolError(f"a line was not ended within {LINE_SECONDS:g} s")
        chunk = os.read(taker, CHUNK_BYTES)
        if not chunk:
            return
        *whole, rest = (buffer + chunk).split(b"\n")
        for line in whole:
            if len(line) > MAX_LINE_BYTES:
                break
            yield line
        if any(len(line) > MAX_LINE_BYTES for line in (*whole, rest)):
            raise ProtocolError(f"a line is longer than {MAX_LINE_BYTES} bytes")
        if whole or not buffer:
            begun = time.monotonic()
        buffer = rest


def _outputs(process: subprocess.Popen[bytes], deadline: float) -> tuple[str, str]:
    """Read both streams to their ends."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    poll = select.poll()
    for stream in streams:
        poll.register(stream, select.POLLIN)
    open_ones = len(streams)
    while open_ones:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise _LateError
        for stream, _ in ready:
            chunk = os.read(stream, CHUNK_BYTES)
            streams[stream] += chunk
            if len(streams[stream]) > MAX_OUTPUT_BYTES:
                raise _TooLargeError
            if not chunk:
                poll.unregister(stream)
                open_ones -= 1
    out, err = (bytes(content).decode("utf-8", "replace") for content in streams.values())
    process.stdout.close()
    process.stderr.close()
    return out, err


def main(config: Config, say: Callable[[str], None]) -> int:
    """Serve this process's own input and output; the exit status."""
    try:
        Server(config, say).serve()
    except ProtocolError:
        return 1
    return 0
