"""Files of bearer tokens, read again when they change: a token is rotated without a restart.

A file holds tokens, one a line, and any of them opens: put the new one beneath the old one, give it to those
who use it, take the old one away.
"""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import structlog

from actuator.config import ConfigError, read_tokens

log = structlog.get_logger(__name__)

Seen = tuple[int, int, int, int] | None
"""What tells that a file has changed; None: it is not there."""


class TokenFiles:
    """Safe to use from several threads at once.

    A change that cannot be used is logged, and what was there before goes on to count.

    Args:
        files: by the key of the configuration that names it.

    Raises:
        ConfigError: one cannot be used, or two hold the same token.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._lock = Lock()
        self._seen: dict[str, Seen] = {}
        self._tokens: dict[str, tuple[str, ...]] = {}
        for key, path in files.items():
            self._seen[key] = _seen(path)
            self._tokens[key] = self._read(key)

    def of(self, key: str) -> tuple[str, ...]:
        """The tokens of a file, as they are now."""
        with self._lock:
            seen = _seen(self._files[key])
            if seen != self._seen[key]:
                self._seen[key] = seen
                self._read_again(key)
            return self._tokens[key]

    def _read_again(self, key: str) -> None:
        try:
            self._tokens[key] = self._read(key)
        except ConfigError as error:
            log.error("a token file cannot be used: the old tokens stay", reason=str(error))  # noqa: TRY400
        else:
            log.info("read a token file again", key=key, tokens=len(self._tokens[key]))

    def _read(self, key: str) -> tuple[str, ...]:
        path = self._files[key]
        tokens = read_tokens(path, key)
        for other, theirs in self._tokens.items():
            if other != key and not set(tokens).isdisjoint(theirs):
                raise ConfigError((f"{key}: {path}: the same token as {other}",))
        return tokens


def _seen(path: Path) -> Seen:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino
