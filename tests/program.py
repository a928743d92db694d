"""Programs that tests start: their output is kept, their end is certain."""

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import requests

from tests.lab.waiting import wait_until
from tests.netns import Netns
from tests.sshd import free_port

# On a machine that is busy with a lab of emulated hosts too, a Python program takes half a minute to start.
START_SECONDS = 120.0
STOP_SECONDS = 30.0


class Program:
    """One program, as a context manager: starts on entering, is gone on leaving.

    It is killed when the thread that started it ends, so that nothing is left of a test run that was killed.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        log: Path,
        *,
        netns: Netns | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            argv: the program and its arguments.
            log: gets its output; what is there already stays.
            netns: where it runs; None: where the test runs.
            environment: instead of the test's own.
        """
        prefix = ["setpriv", "--pdeathsig", "KILL", *(netns.prefix if netns else ())]
        self._argv = [*prefix, *argv]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._netns = netns
        self.log = log

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop()
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start it, also again after `stop`."""
        assert self._process is None, f"{self._argv} runs"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment
            )

    @property
    def ended(self) -> bool:
        """Whether it was started and is gone."""
        return self._process is not None and self._process.poll() is not None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int | None:
        """Send a signal that ends it, and return its exit status when it has; None when it did not run.

        Raises:
            subprocess.TimeoutExpired: the signal did not end it.
        """
        if self._process is None:
            return None
        self._process.send_signal(how)
        status = self._process.wait(STOP_SECONDS)
        self._process = None
        return status

    @property
    def pid(self) -> int:
        """The process, for signals."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Wait until the condition is true.

        Raises:
            AssertionError: the program has ended, or time is over; the message has its last output.
        """

        def ended_or_true() -> bool:
            ended = self._process is None or self._process.poll() is not None
            assert not ended, f"{self._argv} ended while waiting for {what}:\n{self.output[-3000:]}"
            return bool(condition())

        try:
            wait_until(ended_or_true, what, seconds, 0.05)
        except Exception as error:
            raise AssertionError(f"{error}; {self._argv} said:\n{self.output[-3000:]}") from error

    def wait_ready(self, url: str) -> None:
        """Wait until the program answers 200 there; see `wait_for`."""

        def answers() -> bool:
            inside = self._netns.entered() if self._netns else contextlib.nullcontext()
            with inside, contextlib.suppress(requests.RequestException), requests.Session() as session:
                session.trust_env = False
                return session.get(url, timeout=5).status_code == requests.codes.ok
            return False

        self.wait_for(answers, f"200 of {url}")


@dataclass(frozen=True)
class Server:
    """A running server: where its API is, and the program itself."""

    url: str
    program: Program


@contextlib.contextmanager
def configured_server(
    name: str, *arguments: str, config: Path | str, folder: Path, port: int | None, netns: Netns | None
) -> Iterator[Server]:
    """Run one of Prometheus's family until the end of the block; it is ready when the block begins.

    Args:
        name: the program.
        arguments: what it needs beside its configuration and its address.
        config: a configuration file, or the text of one, which is then put into the folder.
        folder: for its log and the configuration.
        port: where it listens on loopback; None: a free one.
        netns: where it runs; None: where the test runs.
    """
    if isinstance(config, str):
        text, config = config, folder / f"{name}.yml"
        config.write_text(text)
    address = f"127.0.0.1:{port or free_port()}"
    argv = [name, f"--config.file={config}", f"--web.listen-address={address}", *arguments]
    with Program(argv, folder / f"{name}.log", netns=netns) as program:
        program.wait_ready(f"http://{address}/-/ready")
        yield Server(f"http://{address}", program)
