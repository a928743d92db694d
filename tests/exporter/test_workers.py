import threading
import time

from exporter.workers import Workers

LONG = 20.0


def make(most=3, usual=1):
    return Workers("test", threading.current_thread, usual=usual, most=most)


def later(seconds=LONG):
    return time.monotonic() + seconds


def test_answers_and_errors_come_back_by_key():
    answers = make().run({"a": lambda _: 1, "b": lambda _: 1 / 0, "c": lambda _: 3}, later())
    assert answers.answered == {"a": 1, "c": 3}
    assert isinstance(answers.failed["b"], ZeroDivisionError)
    assert not answers.hanging
    assert not answers.not_asked


def test_one_that_hangs_costs_nobody_elses_answer_and_is_not_asked_again():
    release = threading.Event()
    asked = []

    def hang(_):
        asked.append("hang")
        release.wait(LONG)
        return "back"

    workers = make()
    jobs = {"hang": hang} | {str(number): lambda _, number=number: number for number in range(10)}
    began = time.monotonic()
    answers = workers.run(jobs, later(1.0))
    assert sorted(answers.answered.values()) == list(range(10))
    assert answers.hanging == {"hang"}
    for _ in range(5):
        answers = workers.run(jobs, later())
        assert len(answers.answered) == 10
        assert answers.hanging == {"hang"}
    assert time.monotonic() - began < LONG / 2
    assert asked == ["hang"]
    release.set()
    deadline = later()
    while workers.run(jobs, later()).hanging:
        assert time.monotonic() < deadline
    assert workers.run(jobs, later()).answered["hang"] == "back"


def test_when_all_threads_hang_the_rest_is_said_at_once():
    release = threading.Event()
    workers = make(most=2)
    before = threading.active_count()
    jobs = {key: lambda _: release.wait(LONG) for key in "abc"}
    first = workers.run(jobs, later(0.5))
    assert len(first.hanging) == 2
    assert len(first.not_asked) == 1
    began = time.monotonic()
    for _ in range(10):
        answers = workers.run(jobs | {"d": lambda _: 1}, later())
        assert len(answers.hanging) == 2
        assert len(answers.not_asked) == 2
    assert time.monotonic() - began < LONG / 2
    assert threading.active_count() <= before + 2
    release.set()


def test_a_quick_round_uses_the_usual_threads_only():
    workers = make(most=6)
    used = set()
    for _ in range(5):
        workers.run({str(number): used.add for number in range(50)}, later())
    assert len(used) == 1


def test_every_thread_has_a_tool_of_its_own():
    both = threading.Barrier(2, timeout=LONG)

    def meet(tool):
        both.wait()
        return tool

    answers = make(usual=2).run({"a": meet, "b": meet}, later())
    assert answers.answered["a"] is not answers.answered["b"]
