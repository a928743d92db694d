"""Which silences of Alertmanager cover a domain."""

import time

import pytest

from actuator.core.silence import MAX_PATTERN_LENGTH, covers, matches, not_understood, silenced
from actuator.model import Matcher, Silence

LABELS = {"alertname": "VMFailure", "action": "restart", "domain": "voms01", "host": "v01"}


def equal(name, value):
    return Matcher(name, value)


def pattern(name, value, is_equal=True):
    return Matcher(name, value, is_regex=True, is_equal=is_equal)


def silence(*matchers, ends_at=100.0):
    return Silence("ann", "new memory", matchers, ends_at)


@pytest.mark.parametrize(
    ("matcher", "expected"),
    [
        (equal("domain", "voms01"), True),
        (equal("domain", "voms0"), False),
        (Matcher("domain", "voms01", is_equal=False), False),
        (Matcher("domain", "voms02", is_equal=False), True),
        (equal("absent", ""), True),
        (equal("absent", "x"), False),
        (Matcher("absent", "x", is_equal=False), True),
        (equal("domain", "voms.."), False),
        (pattern("domain", "voms.*"), True),
        (pattern("domain", "voms"), False),
        (pattern("domain", "oms01"), False),
        (pattern("domain", "voms0[12]|other"), True),
        (pattern("domain", "voms01\n"), False),
        (pattern("domain", "ce|voms0(1|2)"), True),
        (pattern("domain", "ce.*|voms.*|se.*|ui.*|wn.*"), True),
        (pattern("absent", ".*"), True),
        (pattern("absent", ".+"), False),
        (pattern("domain", "voms.*", is_equal=False), False),
        (pattern("domain", "ce.*", is_equal=False), True),
        (pattern("domain", "["), False),
        (pattern("domain", "[", is_equal=False), False),
    ],
)
def test_a_matcher_means_what_it_means_in_alertmanager(matcher, expected):
    assert matches(matcher, LABELS) is expected


def test_all_matchers_must_match_and_none_at_all_covers_nothing():
    assert covers(silence(equal("domain", "voms01"), equal("host", "v01")), LABELS)
    assert not covers(silence(equal("domain", "voms01"), equal("host", "v02")), LABELS)
    assert not covers(silence(), LABELS)


@pytest.mark.parametrize(
    ("hostile", "said"),
    [
        ("(a+)+b", "repeats too much"),
        ("(a|a)*b", "repeats too much"),
        ("(?:a?){30}b", "repeats too much"),
        ("a*a*a*a*b", "repeats too much"),
        ("x|a?a?a?a?b", "repeats too much"),
        ("(a*a*|b)(a*a*|c)", "repeats too much"),
        ("a" * (MAX_PATTERN_LENGTH + 1), "longer than"),
        ("(", "is not understood"),
        (r"\pL", "is not understood"),
    ],
)
def test_a_pattern_that_could_take_for_ever_is_not_tried(hostile, said):
    it = pattern("domain", hostile)
    assert said in not_understood(it)
    assert not matches(it, {"domain": "a" * 63})


@pytest.mark.parametrize("value", [".*a.*a.*", ".*.*.*b", "a*a*a*b|a+a+a+c|.*.*.*d"])
def test_what_is_tried_takes_no_time(value):
    begun = time.perf_counter()
    assert not_understood(pattern("domain", value)) is None
    matches(pattern("domain", value), {"domain": "a" * 63})
    assert time.perf_counter() - begun < 1


def test_a_domain_is_covered_by_a_silence_of_either_of_its_alerts_until_it_ends():
    on_failure = silence(equal("alertname", "VMFailure"), equal("domain", "voms01"))
    on_migration = silence(equal("action", "migrate"), pattern("host", "v0[1-3]"))
    others = silence(equal("alertname", "DiskFull"))
    severity = silence(equal("severity", "critical"), equal("domain", "voms01"))
    for one in (on_failure, on_migration, severity):
        assert silenced("voms01", "v01", [others, one], 99.0) is one
        assert silenced("voms01", "v01", [others, one], 100.0) is None
    assert silenced("voms01", "v01", [others], 0.0) is None
    assert silenced("voms02", "v01", [on_failure], 0.0) is None
