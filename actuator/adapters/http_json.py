"""JSON over HTTP from a server that may hang, drip, flood or talk nonsense."""

import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import urlsplit

import requests
import stamina
import urllib3
from pydantic import TypeAdapter, ValidationError

from actuator.adapters.deadline import DeadlineThreads
from actuator.config import ConfigError, read_secret
from actuator.faults import first_fault
from actuator.ports import Unanswered

T = TypeVar("T")

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_SAID = 200
"""Letters of a server's own words that a sentence quotes."""
READ_ATTEMPTS = 3
THREADS = 8
_CHUNK_BYTES = 64 * 1024


class _Unavailable(Unanswered):
    """Not now: a read is worth another attempt."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we show a server, and what we verify it by: files, read for each exchange."""

    verified_by: str | bool = True
    """A file; True: the usual authorities."""
    certificate: tuple[str, str] | None = None
    """Ours, and its key."""
    token_file: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    def authorization(self) -> dict[str, bytes]:
        """The header, or none.

        Raises:
            ConfigError: a file cannot be read.
        """
        if self.token_file is not None:
            return {"Authorization": f"Bearer {read_secret(self.token_file)}".encode()}
        if self.user is not None and self.password_file is not None:
            pair = f"{self.user}:{read_secret(self.password_file)}".encode()
            return {"Authorization": b"Basic " + b64encode(pair)}
        return {}


class HttpJson:
    """One server. Proxies and passwords of the environment are not used, redirects are not followed.

    The deadline holds for a call as a whole: names, connection, head and body of the answer, and further
    attempts.
    """

    def __init__(self, name: str, url: str, credentials: Credentials | None = None) -> None:
        """Ask nothing yet.

        Args:
            name: what the server is called in sentences.
            url: where its API begins; user and password in it are sent, and said to nobody.
            credentials: what is shown to it besides, and what it is verified by.
        """
        self._credentials = credentials or Credentials()
        self._url = url.rstrip("/")
        self._server = f"{name} at {without_credentials(self._url)}"
        self._threads = DeadlineThreads(self._server, THREADS)

    def get(
        self, path: str, parameters: Mapping[str, str], answer: TypeAdapter[T], *, timeout_seconds: float
    ) -> T:
        """Return what the server answers, as the type that is expected. What fails on the way is tried again.

        Raises:
            Unanswered: not reached, not in time, refused, or not understood.
        """
        deadline = time.monotonic() + timeout_seconds
        again = stamina.RetryingCaller(
            attempts=READ_ATTEMPTS, timeout=timeout_seconds, wait_initial=0.1, wait_max=0.5, wait_jitter=0.1
        )

        def read() -> T:
            body = again(_Unavailable, self._exchange, "GET", path, parameters, None, deadline)
            return self._understand(body, answer)

        return self._in_time(read, timeout_seconds)

    def post(self, path: str, body: bytes, *, timeout_seconds: float) -> None:
        """Send JSON, once.

        Raises:
            Unanswered: not reached, not in time, or refused; it may have arrived all the same.
        """
        deadline = time.monotonic() + timeout_seconds
        self._in_time(lambda: self._exchange("POST", path, {}, body, deadline), timeout_seconds)

    def _in_time(self, call: Callable[[], T], timeout_seconds: float) -> T:
        # The time-outs of requests are for each read from the socket; looking up a name has none at all.
        try:
            return self._threads.run(call, timeout_seconds)
        except TimeoutError as error:
            raise Unanswered(str(error)) from error

    def _exchange(
        self,
        method: Literal["GET", "POST"],
        path: str,
        parameters: Mapping[str, str],
        body: bytes | None,
        deadline: float,
    ) -> bytes:
        headers: dict[str, str | bytes] = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        shown = self._credentials
        try:
            headers |= shown.authorization()
            # A session of its own for each exchange: requests' sessions are not for several threads.
            with requests.Session() as session:
                session.trust_env = False
                with session.request(
                    method,
                    self._url + path,
                    params=parameters,
                    data=body,
                    headers=headers,
                    timeout=max(0.001, deadline - time.monotonic()),
                    stream=True,
                    allow_redirects=False,
                    verify=shown.verified_by,
                    cert=shown.certificate,
                ) as response:
                    answer = self._body(response, deadline)
        except ConfigError as error:
            raise Unanswered(f"{self._server}: {error}") from error
        except (OSError, urllib3.exceptions.HTTPError) as error:  # a ca_file that is not there, too
            raise _Unavailable(f"{self._server}: {_cause(error)}") from error
        if response.status_code == HTTPStatus.OK:
            return answer
        sentence = (
            f"{self._server}: answered {response.status_code} {response.reason}{_words(response, answer)}"
        )
        if response.is_redirect:
            raise Unanswered(f"{sentence}: it redirects, and its own address must be configured")
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _Unavailable(sentence)
        raise Unanswered(sentence)

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        # One read from the socket at a time: a thread that its caller left behind ends in a body that drips.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise Unanswered(f"{self._server}: the answer is larger than {MAX_BODY_BYTES} bytes")
            if time.monotonic() > deadline:
                raise Unanswered(f"{self._server}: the answer did not end in time")
        return bytes(body)

    def _understand(self, body: bytes, answer: TypeAdapter[T]) -> T:
        try:
            return answer.validate_json(body)
        except ValidationError as error:
            raise Unanswered(f"{self._server}: the answer is not understood: {first_fault(error)}") from None


def without_credentials(url: str) -> str:
    """Return the URL as it may be said: without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _cause(error: BaseException) -> str:
    """Return what happened below the layers of HTTP, in the system's words."""
    while error.__context__ is not None:
        error = error.__context__
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _words(response: requests.Response, body: bytes) -> str:
    """Return what an error's body says; nothing when it is a page for a browser."""
    if "html" in response.headers.get("Content-Type", ""):
        return ""
    said = " ".join(body[: 4 * MAX_SAID].decode("utf-8", "replace").split())
    said = "".join(letter for letter in said if letter.isprintable())[:MAX_SAID]
    return f": {said}" if said else ""
