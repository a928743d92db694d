"""Whether a domain goes back to the host that its configuration names, once that host works again."""

from enum import StrEnum


class Failback(StrEnum):
    """The policy."""

    NEVER = "never"
    """A person moves it."""
    WHEN_IDLE = "when_idle"
    """While nothing else is under way, and no alert asks for anything."""
    PREFERRED = "preferred"
    """As soon as that host has been well for long enough."""


def goes_back(policy: Failback, *, well_seconds: float, after_seconds: float, idle: bool) -> bool:
    """Decide whether it is time. ``well_seconds``: for so long its host has answered, and was wanted."""
    if policy is Failback.NEVER or well_seconds < after_seconds:
        return False
    return policy is Failback.PREFERRED or idle
