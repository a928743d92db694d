"""Several Alertmanagers and Prometheus behind one port."""

from threading import Event

import pytest
from structlog.testing import capture_logs

from actuator.adapters.clock import ThreadTasks
from actuator.adapters.several import Alertmanagers, Prometheuses
from actuator.model import Matcher, Notification, OutgoingAlert, Silence
from actuator.ports import Unanswered

PATIENCE = 10.0


class Server:
    """An Alertmanager and a Prometheus; None: it does not answer."""

    def __init__(self, *, firing=(), watchdog=False, silences=(), words=(), silent=False, hangs=False):
        self._firing, self._watchdog, self._silences, self._words = firing, watchdog, silences, dict(words)
        self.silent = silent
        self.hangs = hangs
        self.told = []
        self.had_seconds = []
        self.looked_up = []

    def _answer(self, answer, timeout_seconds):
        self.had_seconds.append(timeout_seconds)
        if self.hangs:
            Event().wait(timeout_seconds)
        if self.silent or self.hangs:
            raise Unanswered("no route")
        return answer

    def firing(self, *, timeout_seconds):
        return self._answer(self._firing, timeout_seconds)

    def watchdog(self, *, timeout_seconds):
        return self._answer(self._watchdog, timeout_seconds)

    def silences(self, *, timeout_seconds):
        return self._answer(self._silences, timeout_seconds)

    def send(self, alerts, *, timeout_seconds):
        self._answer(None, timeout_seconds)
        self.told.extend(alerts)

    def last_words(self, host, *, before, timeout_seconds):
        self.looked_up.append((host, before))
        return self._answer(self._words, timeout_seconds)


def alertmanagers(*servers):
    return Alertmanagers({f"am{number}": server for number, server in enumerate(servers)}, ThreadTasks())


def prometheuses(*servers):
    return Prometheuses({f"p{number}": server for number, server in enumerate(servers)}, ThreadTasks())


def alert(fingerprint, starts_at=1.0, **labels):
    return Notification(fingerprint, starts_at, firing=True, labels=labels, source="alertmanager")


SILENCE = Silence("root", "", (Matcher("domain", "voms01", is_regex=False, is_equal=True),), 5.0)
WORDS = ("voms01", "v02")


@pytest.mark.parametrize("several", [alertmanagers, prometheuses])
def test_what_fires_at_one_of_them_fires_once(several):
    one = Server(firing=(alert("a"), alert("b", seen="one")))
    other = Server(firing=(alert("b", seen="other"), alert("b", 2.0), alert("c")))
    found = several(one, other, Server(silent=True)).firing(timeout_seconds=PATIENCE)
    assert sorted((it.fingerprint, it.starts_at, it.labels.get("seen")) for it in found) == [
        ("a", 1.0, None),
        ("b", 1.0, "one"),
        ("b", 2.0, None),
        ("c", 1.0, None),
    ]


@pytest.mark.parametrize("several", [alertmanagers, prometheuses])
def test_when_none_answers_it_is_unknown(several):
    with pytest.raises(Unanswered, match="no route; no route"):
        several(Server(silent=True), Server(silent=True)).firing(timeout_seconds=PATIENCE)


@pytest.mark.parametrize("several", [alertmanagers, prometheuses])
def test_one_that_hangs_takes_nothing_from_the_answer_of_another(several):
    found = several(Server(hangs=True), Server(firing=(alert("a"),))).firing(timeout_seconds=0.5)
    assert [it.fingerprint for it in found] == ["a"]


@pytest.mark.parametrize(("number", "seconds"), [(1, PATIENCE), (2, 0.8 * PATIENCE)])
def test_whoever_waits_for_several_has_the_others_answers_before_its_own_time_is_up(number, seconds):
    servers = [Server() for _ in range(number)]
    for several in (alertmanagers(*servers), prometheuses(*servers)):
        several.firing(timeout_seconds=PATIENCE)
    alertmanagers(*servers).watchdog(timeout_seconds=PATIENCE)
    alertmanagers(*servers).silences(timeout_seconds=PATIENCE)
    alertmanagers(*servers).send([], timeout_seconds=PATIENCE)
    prometheuses(*servers).last_words("v01", before=1.0, timeout_seconds=PATIENCE)
    assert [server.had_seconds for server in servers] == [[seconds] * 6] * number


@pytest.mark.parametrize("shown", [True, False])
def test_the_watchdog_of_one_of_them_is_enough(shown):
    several = alertmanagers(Server(watchdog=False), Server(watchdog=shown), Server(silent=True))
    assert several.watchdog(timeout_seconds=PATIENCE) is shown


def test_a_silence_that_one_of_them_knows_counts_and_once():
    several = alertmanagers(Server(), Server(silences=(SILENCE,)), Server(silences=(SILENCE,)))
    assert several.silences(timeout_seconds=PATIENCE) == (SILENCE,)


def test_all_are_told_and_one_that_took_it_is_enough():
    warning = OutgoingAlert({"alertname": "VMHealRefused"}, {}, 1.0, 2.0)
    one, other = Server(), Server()
    several = alertmanagers(one, Server(silent=True), other)
    several.send([warning], timeout_seconds=PATIENCE)
    assert (one.told, other.told) == ([warning], [warning])
    one.silent = other.silent = True
    with pytest.raises(Unanswered):
        several.send([warning], timeout_seconds=PATIENCE)


@pytest.mark.parametrize(
    ("one", "other", "current"),
    [
        ({WORDS: True}, {WORDS: True}, {WORDS: True}),
        ({WORDS: True}, {WORDS: False}, {WORDS: False}),
        ({WORDS: False}, {}, {WORDS: False}),
        ({}, {WORDS: True}, {WORDS: True}),
        ({}, {}, {}),
    ],
)
def test_a_replica_was_current_when_none_of_them_heard_otherwise(one, other, current):
    servers = Server(words=one), Server(words=other), Server(silent=True)
    assert prometheuses(*servers).last_words("v01", before=1.0, timeout_seconds=PATIENCE) == current
    assert [server.looked_up for server in servers] == [[("v01", 1.0)]] * 3


def test_one_that_does_not_answer_is_said_when_that_begins():
    lame = Server(silent=True)
    several = alertmanagers(Server(), lame)
    with capture_logs() as said:
        for silent in (True, True, False, True):
            lame.silent = silent
            several.firing(timeout_seconds=PATIENCE)
    assert [entry["name"] for entry in said] == ["am1", "am1"]
