"""vmheal-host at the other end of one SSH channel: requests and answers as lines of JSON, several at once.

What may be asked is in `exporter.host.requests`. A request costs the host one program, and none for a file; a
channel of its own costs sshd a session and a shell besides.
"""

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import count
from typing import Any

import paramiko
import structlog

from actuator.adapters.warm import NotConnectedError
from actuator.model import Allowed
from exporter.host.config import ANY
from exporter.host.requests import MAX_SECONDS, VERSION, program

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES = 16 << 20
"""Of one line: two streams of a MiB each, written as JSON."""
MAX_SAID = 500
"""Letters of a host's own words that a sentence quotes."""
CHUNK_BYTES = 1 << 16


class OutputTooLargeError(OSError):
    """A program on a host printed more than `MAX_OUTPUT_BYTES`, or a file holds more."""


class RefusedError(OSError):
    """The host does not allow it: nothing was run."""


class BrokenError(NotConnectedError):
    """The connection turned out to be broken before a program was started on it."""


@dataclass(frozen=True)
class Completed:
    """What a program on a host did. `exit_status` is None when a signal ended it."""

    exit_status: int | None
    stdout: str
    stderr: str


class HostCommand:
    """Asks the vmheal-host of one channel."""

    def __init__(self, channel: paramiko.Channel, seconds: float) -> None:
        """Wait until it says that it is there.

        Raises:
            ConnectionError: it is not.
        """
        self._channel = channel
        self._lock = threading.Lock()
        self._numbers = count()
        self._asked: dict[int, Future[Mapping[str, Any]]] = {}
        self._questions = 0
        self._ended = False
        self._buffer = bytearray()
        try:
            hello = self._line(time.monotonic() + seconds)
        except (OSError, ValueError, RecursionError) as error:
            raise ConnectionError(f"vmheal-host does not answer: {error}") from error
        if not isinstance(hello, dict) or hello.get("vmheal-host") != VERSION:
            raise ConnectionError(f"vmheal-host is not there{self._complaint()}")
        channel.settimeout(None)
        threading.Thread(target=self._listen, name="vmheal-host", daemon=True).start()

    def alive(self) -> bool:
        """Whether it is believed to answer."""
        return not self._ended

    def run(self, argv: Sequence[str], deadline: float, what: str) -> Completed:
        """See `actuator.adapters.ssh.SshHost.run`. Before a change it is asked whether it lives.

        Raises:
            RefusedError: the host does not allow it.
        """
        row = program(argv)
        changes = row is None or row.changes
        if changes:
            self._ask({}, deadline, what, changes=False)
        answer = self._ask({"run": list(argv)}, deadline, what, changes=changes)
        match answer:
            case {"status": int() | None as status, "out": str(out), "err": str(err)}:
                return Completed(status, out, err)
        raise ConnectionError(f"{what}: the answer is not understood")

    def read(self, path: str, deadline: float, what: str) -> str:
        """See `actuator.adapters.ssh.SshHost.read`."""
        answer = self._ask({"read": path}, deadline, what, changes=False)
        match answer:
            case {"error": int(number), "out": str(words)}:
                raise OSError(number, words, path)
            case {"out": str(out)}:
                return out
        raise ConnectionError(f"{what}: the answer is not understood")

    def allowed(self, deadline: float, what: str) -> Allowed:
        """See `actuator.adapters.ssh.SshHost.allowed`."""
        answer = self._ask({"allowed": True}, deadline, what, changes=False)
        match {"migrate_uris": None, **answer}:  # one of an older release does not tell them
            case {
                "resources": list(resources),
                "domains": list(domains),
                "migrate_uris": (list() | None) as uris,
            } if all(isinstance(name, str) for name in (*resources, *domains, *(uris or ()))):
                return Allowed(
                    None if ANY in resources else frozenset(resources),
                    None if ANY in domains else frozenset(domains),
                    None if uris is None else frozenset(uris),
                )
        raise ConnectionError(f"{what}: the answer is not understood")

    def _ask(
        self, request: Mapping[str, object], deadline: float, what: str, *, changes: bool
    ) -> Mapping[str, Any]:
        broken = ConnectionError if changes else BrokenError
        seconds = min(deadline - time.monotonic(), MAX_SECONDS)
        if seconds <= 0:
            raise TimeoutError(f"{what}: not asked in time")
        answered: Future[Mapping[str, Any]] = Future()
        with self._lock:
            if self._ended:
                raise BrokenError(f"{what}: the connection broke before it was asked")
            number = next(self._numbers)
            self._questions += 1
            self._asked[number] = answered
        try:
            line = json.dumps({"id": number, "seconds": round(seconds, 3) or 0.001, **request}) + "\n"
            self._channel.sendall(line.encode())
            answer = answered.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TimeoutError(f"{what}: not ended in time") from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise broken(f"{what}: the connection broke while it ran") from error
        finally:
            with self._lock:
                self._asked.pop(number, None)
        return _checked(answer, what)

    def _listen(self) -> None:
        try:
            answers = 0
            # More answers than questions: that could keep us reading for ever.
            while answers <= self._questions and (answer := self._line()) is not None:
                answers += 1
                with self._lock:
                    waiting = self._asked.get(answer.get("id"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except Exception as error:  # noqa: BLE001  what is no answer ends it like what is no connection
            log.debug("vmheal-host is not heard any more", error=str(error))
        with self._lock:
            self._ended = True
            left = list(self._asked.values())
        for waiting in left:
            if not waiting.done():
                waiting.set_exception(EOFError())
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # gone with its connection
            self._channel.close()

    def _line(self, deadline: float | None = None) -> Any:
        """The next line; None at the end.

        Raises:
            TimeoutError: it was not whole in time.
            ValueError: it is not JSON, or too long.
        """
        begin = 0
        while (end := self._buffer.find(b"\n", begin)) < 0:
            begin = len(self._buffer)
            if begin > MAX_ANSWER_BYTES:
                raise ValueError("an answer does not end")
            if deadline is not None:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError("its first line does not end")
                self._channel.settimeout(left)
            chunk = self._channel.recv(CHUNK_BYTES)
            if not chunk:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return json.loads(line)

    def _complaint(self) -> str:
        with contextlib.suppress(OSError, paramiko.SSHException):
            said = self._channel.recv_stderr(1000).decode("utf-8", "replace").strip()
            return f": {' '.join(said.split())}" if said else ""
        return ""


def _checked(answer: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    if "refused" in answer:
        raise RefusedError(f"{what}: refused by vmheal-host: {str(answer['refused'])[:MAX_SAID]}")
    if "busy" in answer:
        raise NotConnectedError(f"{what}: {str(answer['busy'])[:MAX_SAID]}")
    if "late" in answer:
        raise TimeoutError(f"{what}: not ended in time")
    if "too_large" in answer:
        raise OutputTooLargeError(f"{what}: more than 1 MiB of output")
    return answer
