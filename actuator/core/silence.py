"""Does a silence of Alertmanager cover a domain? A silence is a person's word: leave it alone."""

import re
from collections.abc import Mapping, Sequence

from actuator.model import Matcher, Silence

MAX_PATTERN_LENGTH = 1000
MAX_REPEATS = 3
"""In one alternative of a pattern. Alertmanager's engine needs time in proportion to the value; Python's
tries every way to part it among the repeats, so that more of them could hold a domain up for ever."""

_ALERTS = (("VMFailure", "restart"), ("VMPersistentFailure", "migrate"))
"""What would be fired for a domain that is down, and what it asks for."""

_REPEAT = re.compile(r"[*+?{]")
_REPEATED_GROUP = re.compile(r"\)[*+?{]")


def silenced(domain: str, host: str, silences: Sequence[Silence], now: float) -> Silence | None:
    """The first silence that covers the domain's alerts on the host. ``now`` is wall clock."""
    for alertname, action in _ALERTS:
        labels = {
            "alertname": alertname,
            "action": action,
            "domain": domain,
            "host": host,
            "severity": "critical",
        }
        for silence in silences:
            if now < silence.ends_at and covers(silence, labels):
                return silence
    return None


def covers(silence: Silence, labels: Mapping[str, str]) -> bool:
    """All of its matchers match; one without matchers covers nothing."""
    return bool(silence.matchers) and all(matches(it, labels) for it in silence.matchers)


def matches(matcher: Matcher, labels: Mapping[str, str]) -> bool:
    """As in Alertmanager: a label that is not there is empty, and a pattern matches the whole value.

    A pattern that is not understood matches nothing, with ``!~`` neither; ``not_understood`` tells.
    """
    value = labels.get(matcher.name, "")
    if not matcher.is_regex:
        return (value == matcher.value) is matcher.is_equal
    if not_understood(matcher):
        return False
    return (re.fullmatch(matcher.value, value) is not None) is matcher.is_equal


def not_understood(matcher: Matcher) -> str | None:
    """Why a matcher's pattern is not tried; None when it is."""
    pattern = matcher.value
    if not matcher.is_regex:
        return None
    if len(pattern) > MAX_PATTERN_LENGTH:
        return f"the pattern is longer than {MAX_PATTERN_LENGTH} characters"
    plain = pattern.replace("(?:", "(")
    alternatives = [plain] if "(" in plain else plain.split("|")
    if _REPEATED_GROUP.search(plain) or any(len(_REPEAT.findall(it)) > MAX_REPEATS for it in alternatives):
        return f"the pattern {pattern!r} repeats too much to be tried"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"the pattern {pattern!r} is not understood: {error}"
    return None
