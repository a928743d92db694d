"""Powers hosts off with fence agents, behind `actuator.ports.Fencing`: programs of Debian's ``fence-agents``.

They are all called alike: ``key=value`` lines on standard input, of which one is the action. ``status`` ends
with 0 when the host is on and with 2 when it is off. With 2 also ends an interpreter, or an argument parser,
that does not understand; and "off" is what lets another host write. So it is believed only together with the
words that every agent with a status prints then, ``Status: OFF``.

No agent's own word that it has done something counts; only its status afterwards does.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

import structlog

from actuator.adapters import child
from actuator.config import ConfigError, read_secret
from actuator.model import CallOutcome, Done, Failed, Indeterminate
from actuator.ports import Unanswered

log = structlog.get_logger(__name__)

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
PAUSE_SECONDS = 0.5
"""Between two looks at a host that is not off yet."""
RETRY_SECONDS = 2.0
"""Before an agent that failed is told again: some power controllers lock out who asks too often."""
SETTLE_SECONDS = 5.0
"""Before an agent that said yes to ``off`` is told again, when the host is still on."""
ROOM_SECONDS = 2.0
"""With less time than this it is not told again: a look must follow."""
LOOK_SHARE = 0.3
"""How much of the time the first look may take: that it is not answered does not save the host."""
TELL_SHARE = 0.75
"""How much of the time that is left one ``off`` may take."""
OURS = frozenset({"action", "option", "passwd", "password"})
"""Parameters that are not the configuration's to give."""

_AGENT = re.compile(r"fence_[a-z0-9_]+")
_STATUS_OFF = re.compile(r"^Status: OFF\s*$", re.MULTILINE | re.IGNORECASE)
_SECRET_OPTION = re.compile(r"passw|secret|community|token")
_SAID_LIMIT = 500
_ON_STATUS, _OFF_STATUS = 0, 2


@dataclass(frozen=True, slots=True)
class FenceAgent:
    """How one host is powered off."""

    agent: str
    """The program's name, such as ``fence_ipmilan``."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Its parameters beside the action and the password: ``ip``, ``username``, ``plug`` ..."""
    password_file: Path | None = None
    """Holds the secret alone, one line; read at each call, and given as ``passwd``."""
    timeout_seconds: float = 20.0
    """For one run of it."""

    def __post_init__(self) -> None:
        if not _AGENT.fullmatch(self.agent):
            raise ValueError(f"{self.agent!r} is not the name of a fence agent")
        for key, value in self.options.items():
            if not re.fullmatch(r"[a-z0-9_]+", key) or key in OURS:
                raise ValueError(f"{self.agent}: {key!r} cannot be given as an option")
            if not value.isprintable():
                raise ValueError(f"{self.agent}: the option {key} must be one line of text")


class FenceAgents:
    """`actuator.ports.Fencing`."""

    def __init__(self, agents: Mapping[str, FenceAgent], *, path: str = PATH) -> None:
        """Start nothing yet.

        Args:
            agents: by host.
            path: where the agents are looked for, and what they look for.
        """
        self._hosts = {host: _Host(host, agent, path) for host, agent in agents.items()}

    def power_off(self, host: str, *, timeout_seconds: float) -> CallOutcome:
        """See `actuator.ports.Fencing.power_off`. A host is powered off by one call at a time."""
        if host not in self._hosts:
            return Failed(f"{host} has no fence agent in the configuration (hosts.{host}.fence)")
        return self._hosts[host].power_off(time.monotonic() + timeout_seconds)

    def is_on(self, host: str, *, timeout_seconds: float) -> bool:
        """See `actuator.ports.Fencing.is_on`."""
        if host not in self._hosts:
            raise Unanswered(f"{host} has no fence agent in the configuration (hosts.{host}.fence)")
        return self._hosts[host].is_on(time.monotonic() + timeout_seconds)


class _Power(Enum):
    ON = auto()
    OFF = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class _Ran:
    """One run of an agent."""

    exit_status: int | None
    said: str
    """One sentence: how it ended, and the end of what it printed, without secrets."""
    says_off: bool = False
    began_at: float = -math.inf
    """Monotonic."""

    @property
    def power(self) -> _Power:
        if self.exit_status == _OFF_STATUS and self.says_off:
            return _Power.OFF
        return _Power.ON if self.exit_status == _ON_STATUS and not self.says_off else _Power.UNKNOWN


class _Host:
    def __init__(self, name: str, agent: FenceAgent, path: str) -> None:
        self._name = name
        self._agent = agent
        self._environment = {"PATH": path, "LC_ALL": "C"}
        self._under_way = threading.Lock()
        self._seen_off_at = -math.inf
        """When the last look that found it off began."""

    def power_off(self, deadline: float) -> CallOutcome:
        asked_at = time.monotonic()
        if not self._under_way.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return Indeterminate(
                f"{self._name} is being powered off by another plan, which has not ended yet"
            )
        try:
            if self._seen_off_at >= asked_at:
                # Another plan's look began while this one waited. An agent is slow, and a host has many VMs.
                return Done(f"{self._name} was off already, says {self._agent.agent}")
            password = read_secret(self._agent.password_file) if self._agent.password_file else None
            return self._power_off(deadline, lambda action, until: self._run(action, password, until))
        except ConfigError as error:
            return Failed(f"{self._name} was not told to power off: {error}")
        finally:
            self._under_way.release()

    def is_on(self, deadline: float) -> bool:
        """One look, beside which it may be powered off.

        Raises:
            Unanswered: nothing is known of its power.
        """
        if self._under_way.locked():
            raise Unanswered(f"{self._name} is being powered off")
        try:
            password = read_secret(self._agent.password_file) if self._agent.password_file else None
            ran = self._run("status", password, deadline)
        except ConfigError as error:
            raise Unanswered(f"{self._name}'s fence agent was not asked: {error}") from error
        except OSError as error:
            raise Unanswered(f"{self._agent.agent} cannot be started: {error.strerror}") from error
        if ran.power is _Power.UNKNOWN:
            raise Unanswered(ran.said)
        return ran.power is _Power.ON

    def _power_off(self, deadline: float, run: Callable[[str, float], _Ran]) -> CallOutcome:
        """Look, tell, look again and so on; only a look ends it before the deadline."""
        told: list[_Ran] = []
        next_at = -math.inf
        try:
            now = time.monotonic()
            seen = run("status", now + (deadline - now) * LOOK_SHARE)
            while seen.power is not _Power.OFF:
                now = time.monotonic()
                if now >= next_at and deadline - now > (ROOM_SECONDS if told else 0.0):
                    log.warning("powering a host off", host=self._name, status=seen.said)
                    told.append(run("off", now + (deadline - now) * TELL_SHARE))
                    log.warning("its fence agent has been told", host=self._name, said=told[-1].said)
                    next_at = time.monotonic() + (RETRY_SECONDS if told[-1].exit_status else SETTLE_SECONDS)
                    seen = run("status", deadline)
                elif now + PAUSE_SECONDS < deadline:
                    threading.Event().wait(PAUSE_SECONDS)
                    looked = run("status", deadline)
                    seen = looked if looked.exit_status is not None else seen  # the last one may be cut off
                else:
                    return self._not_off(seen.said, told, on=seen.power is _Power.ON)
        except OSError as error:
            return self._not_off(f"{self._agent.agent} cannot be started: {error.strerror}", told, on=False)
        self._seen_off_at = seen.began_at
        return Done(f"{self._name} {'is off' if told else 'was off already'}, says {self._agent.agent}")

    def _not_off(self, seen: str, told: list[_Ran], *, on: bool) -> CallOutcome:
        if not told:
            return Failed(f"{self._name} was not told to power off: {seen}")
        sentence = f"{self._name} does not read off: {seen}; told before: {told[-1].said}"
        # Each time the agent ended by itself and refused, and now the host is on: nothing is to come of it.
        refused = all(it.exit_status for it in told)
        return Failed(sentence) if refused and on else Indeterminate(sentence)

    def _run(self, action: str, password: str | None, deadline: float) -> _Ran:
        """Run the agent once.

        Raises:
            OSError: it cannot be started.
        """
        what = f"{self._agent.agent} action={action}"
        timeout = min(self._agent.timeout_seconds, deadline - time.monotonic())
        if timeout <= 0:
            return _Ran(None, f"{what} was not run: no time is left")
        options = {**self._agent.options, "action": action}
        if password is not None:
            options["passwd"] = password
        lines = "".join(f"{key}={value}\n" for key, value in options.items())
        began_at = time.monotonic()
        ended = child.run(
            [self._agent.agent],
            stdin=lines.encode(),
            environment=self._environment,
            timeout_seconds=timeout,
        )
        output = " ".join(_without_secrets(ended.output, options).split())
        said = f"{what} {ended.how}" + (f": {output[-_SAID_LIMIT:]}" if output else "")
        return _Ran(ended.exit_status, said, bool(_STATUS_OFF.search(ended.output)), began_at)


def _without_secrets(text: str, options: Mapping[str, str]) -> str:
    """Agents tell their parameters on many occasions, such as one that they do not know."""
    for key, value in options.items():
        if value and _SECRET_OPTION.search(key):
            for written in {value, repr(value)[1:-1], quote(value), quote(value, safe="")}:
                text = text.replace(written, "***")
    return text
