"""Side by side: the real threads with their deadlines, and how much is begun at once."""

import threading
import time
from queue import Queue

import pytest

from actuator.adapters.clock import SystemClock, ThreadTasks
from actuator.model import HostRecord
from actuator.ports import Unanswered
from tests.actuator.world import Clock, Machine, World, alert, settings


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def test_answers_come_in_the_order_of_the_questions_and_side_by_side(release):
    both = threading.Barrier(2)

    def meet():
        both.wait(timeout=10)
        return "met"

    answers = ThreadTasks().gather({"b": meet, "a": meet}, timeout_seconds=20)
    assert list(answers.items()) == [("b", "met"), ("a", "met")]


def test_who_does_not_answer_in_time_holds_up_nobody(release):
    begun = time.monotonic()
    answers = ThreadTasks().gather({"hangs": release.wait, "answers": lambda: 1}, timeout_seconds=0.2)
    assert answers["answers"] == 1
    assert isinstance(answers["hangs"], Unanswered)
    assert "0.2 s" in str(answers["hangs"])
    assert time.monotonic() - begun < 20


def test_unanswered_is_an_answer_and_a_fault_is_raised():
    refused = Unanswered("no route")

    def refuse():
        raise refused

    assert ThreadTasks().gather({1: refuse}, timeout_seconds=5) == {1: refused}
    with pytest.raises(ZeroDivisionError):
        ThreadTasks().gather({1: lambda: 1 / 0}, timeout_seconds=5)


def test_no_more_threads_than_allowed(release):
    tasks = ThreadTasks(max_threads=2, max_spawned=1)
    answers = tasks.gather({1: release.wait, 2: release.wait, 3: lambda: "asked"}, timeout_seconds=0.1)
    assert "2 calls are under way" in str(answers[3])
    tasks.spawn("one", release.wait)
    with pytest.raises(Unanswered, match="1 things are under way"):
        tasks.spawn("more", lambda: None)
    release.set()
    deadline = time.monotonic() + 20
    while True:
        answer = tasks.gather({1: lambda: "asked"}, timeout_seconds=5)[1]
        if answer == "asked":
            break
        assert time.monotonic() < deadline


def test_what_finds_no_thread_waits_for_one_as_long_as_for_its_answer():
    tasks = ThreadTasks(max_threads=2)
    calls = {number: lambda: threading.Event().wait(0.02) for number in range(10)}
    assert set(tasks.gather(calls, timeout_seconds=20).values()) == {False}


def test_what_is_done_in_the_background_does_not_wait_for_the_threads_of_its_own_questions():
    tasks, answers = ThreadTasks(max_threads=1, max_spawned=4), Queue()
    for _ in range(4):
        tasks.spawn("asks", lambda: answers.put(tasks.gather({1: lambda: "said"}, timeout_seconds=20)[1]))
    assert [answers.get(timeout=20) for _ in range(4)] == ["said"] * 4


def test_a_pause_ends_when_the_actuator_stops():
    stopping = threading.Event()
    clock = SystemClock(stopping)
    threading.Timer(0.1, stopping.set).start()
    begun = clock.monotonic()
    clock.pause(60)
    assert clock.monotonic() - begun < 30


@pytest.fixture
def many(folders):
    """An actuator with six domains on v01, the last the most important, and two on v02; a host has two places."""
    path = folders() / "journal"
    homes = {f"vm{number}": "v01" if number < 6 else "v02" for number in range(8)}
    domains = {name: {"host": host, "hosts": ["v01", "v02"]} for name, host in homes.items()}
    domains["vm5"]["priority"] = 9
    world = World()
    machine = Machine(
        world, path, Clock(), config=settings(path, domains=domains, limits={"plans_per_host": 2})
    )
    yield machine
    machine.close()


def test_domains_are_handled_side_by_side_but_bounded_on_a_host(many):
    alerts = [alert(domain=domain, fingerprint=domain) for domain in many.config.domains]
    many.journal.receive(alerts, at=many.clock.wall())
    many.worker.turn()
    assert (many.worker.busy, len(many.tasks.queue)) == (4, 4), "two on each host"
    many.worker.turn()
    assert many.worker.busy == 4, "no more before one of them has ended"
    many.tasks.queue.popleft()()
    many.worker.turn()
    assert many.worker.busy == 4
    many.settle()
    assert many.worker.busy == 0
    # The world runs them all on v01, so those of v02 are found elsewhere.
    assert (many.kinds.count("nothing"), many.kinds.count("refused")) == (6, 2)


def first_two(many):
    """The domains of the two that are begun first, of those that have a story then."""
    many.worker.turn()
    for _ in range(2):
        many.tasks.queue.popleft()()
    return {event.domain for event in many.timeline if event.domain and event.kind != "received"}


def test_what_an_alert_asks_for_is_handled_before_what_only_is_looked_at_again(many):
    for number in range(3):
        many.worker.suspect(f"vm{number}", "reconcile")
    alerts = [alert(domain=domain, fingerprint=domain) for domain in ("vm3", "vm4")]
    many.journal.receive(alerts, at=many.clock.wall())
    assert first_two(many) == {"vm3", "vm4"}


def test_what_is_on_a_dead_host_is_handled_before_what_has_just_left_it(many):
    many.journal.commit(hosts=[HostRecord("v01", version=1, failed_at=many.clock.wall())])
    for number in (6, 7, 0, 1):
        many.worker.suspect(f"vm{number}", "v01 has failed")
    assert first_two(many) == {"vm0", "vm1"}


def test_a_dead_hosts_domains_take_places_where_they_come_up_the_most_important_first(many, monkeypatch):
    asked = []
    monkeypatch.setattr(many.worker._slots, "begin", lambda *place: asked.append(place))
    for number in (0, 5, 7):
        many.worker.suspect(f"vm{number}", "reconcile")
    many.worker.turn()
    assert asked == [("vm5", "v01", 9), ("vm0", "v01", 0), ("vm7", "v02", 0)]
    asked.clear()
    many.journal.commit(hosts=[HostRecord("v01", version=1, failed_at=many.clock.wall())])
    many.worker.turn()
    assert asked == [("vm5", "v02", 9), ("vm0", "v02", 0), ("vm7", "v02", 0)]


def test_whoever_is_woken_by_an_end_may_begin_the_domain_again(many, monkeypatch):
    busy = []
    monkeypatch.setattr(many.worker, "wake", lambda: busy.append(many.worker.busy))
    many.receive(alert(domain="vm0"))
    assert busy[-1:] == [0]


def test_a_domain_that_ends_gives_its_place_up_before_it_may_be_begun_again(many, monkeypatch):
    busy, end = [], many.worker._slots.end

    def watched(domain):
        busy.append(many.worker.busy)
        end(domain)

    monkeypatch.setattr(many.worker._slots, "end", watched)
    many.receive(alert(domain="vm0", fingerprint="a"))
    assert busy == [1]


def test_a_domain_is_never_handled_twice_at_once(many):
    many.receive(alert(domain="vm0", fingerprint="a"))
    many.journal.receive([alert(domain="vm0", fingerprint="b")], at=many.clock.wall())
    many.worker.turn()
    many.journal.receive([alert(domain="vm0", fingerprint="c")], at=many.clock.wall())
    many.worker.suspect("vm0", "reconcile")
    many.worker.turn()
    assert len(many.tasks.queue) == 1
    many.settle()
    assert many.kinds.count("nothing") == 3
    assert many.journal.inbox(after=0, limit=9) == ()


def test_a_resolution_withdraws_what_waits_for_its_turn(many):
    alerts = [alert(domain=f"vm{number}", fingerprint=f"f{number}") for number in range(3)]
    many.journal.receive(alerts, at=many.clock.wall())
    many.worker.turn()
    many.receive(alert(domain="vm2", fingerprint="f2", firing=False))
    assert {event.domain for event in many.timeline if event.kind == "nothing"} == {"vm0", "vm1"}
    assert many.journal.inbox(after=0, limit=9) == ()


def test_too_much_under_way_puts_off_and_loses_nothing(many, monkeypatch):
    full = [True, True]

    def spawn(name, call):
        if full and full.pop():
            raise Unanswered("512 calls are under way already")
        many.tasks.queue.append(call)

    monkeypatch.setattr(many.tasks, "spawn", spawn)
    many.receive(alert(domain="vm0"), alert(domain="vm1", fingerprint="f2"))
    assert many.worker.busy == 0
    many.run(5)
    assert many.kinds.count("nothing") == 2, "and no place"
    assert many.journal.inbox(after=0, limit=9) == ()


def test_a_thousand_alerts_are_taken_in_few_writes(many):
    before = many.journal.writes
    many.receive(*(alert(domain=f"stranger{number}", fingerprint=f"f{number}") for number in range(1000)))
    assert many.journal.writes - before <= 3
    assert many.kinds.count("refused") == 1000
    assert many.journal.inbox(after=0, limit=9) == ()
