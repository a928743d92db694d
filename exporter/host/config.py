"""What vmheal may touch on this host: /etc/vmheal/host.conf, `key value` lines, of root's hand alone."""

import os
import stat
from typing import NamedTuple

CONFIG = "/etc/vmheal/host.conf"
ANY = "*"
MAX_BYTES = 1 << 20


class ConfigError(Exception):
    """Nothing is served; the message says why."""


class Config(NamedTuple):
    """Every key but the last two may be there several times. What is not named is not allowed."""

    resources: frozenset[str] = frozenset()
    """Of DRBD; `*` is every one of its configuration."""
    domains: frozenset[str] = frozenset()
    """Of libvirt; `*` is every one."""
    migrate_uris: frozenset[str] = frozenset()
    """The libvirts that a domain may be sent to while it runs."""
    definition_paths: tuple[str, ...] = ()
    """What paths in a definition may begin with, beside those of every guest; see `definition`."""
    path: str = "/usr/sbin:/usr/bin:/sbin:/bin"
    """Where programs are looked for."""
    run_directory: str = "/run/vmheal-host"
    """Where it is counted how many connections are served."""

    def allows_resource(self, name: str) -> bool:
        """Whether the resource may be touched."""
        return ANY in self.resources or name in self.resources

    def allows_domain(self, name: str) -> bool:
        """Whether the domain may be touched."""
        return ANY in self.domains or name in self.domains


def read(path: str) -> Config:
    """Read the configuration.

    Raises:
        ConfigError: it cannot be read, others than its owner may write it, or a line is not understood.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123  pathlib takes time to import
            status = os.fstat(file.fileno())
            content = file.read(MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: must belong to root, and nobody else may write it")
    return parse(content.decode("utf-8", "replace"), path)


def parse(text: str, path: str = CONFIG) -> Config:
    """Understand the configuration.

    Raises:
        ConfigError: a line is not understood.
    """
    several: dict[str, list[str]] = {
        "resource": [],
        "domain": [],
        "migrate_uri": [],
        "definition_path": [],
    }
    single: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, _, value = line.partition("#")[0].strip().partition(" ")
        value = value.strip()
        if key in several and value:
            several[key].append(value)
        elif key in {"path", "run_directory"} and value.startswith("/"):
            single[key] = value
        elif key:
            raise ConfigError(
                f"{path}:{number}: must be 'resource NAME', 'domain NAME' (or *), 'migrate_uri URI',"
                f" 'definition_path PATH', 'path PATHS' or 'run_directory PATH', not {line!r}"
            )
    return Config(
        frozenset(several["resource"]),
        frozenset(several["domain"]),
        frozenset(several["migrate_uri"]),
        tuple(several["definition_path"]),
        **single,
    )
