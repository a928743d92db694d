"""What was answered 200 is in the journal, whatever happens to the process or the disk."""

import contextlib
import http.client
import os
import signal
import subprocess
import threading

import pytest
import requests

from actuator.adapters.sqlite import SqliteJournal
from tests.actuator.deliveries import (
    HEADERS,
    alert,
    answer,
    body,
    patient_journal,
    receiver_process,
    request,
    served,
)
from tests.lab.waiting import wait_until

SENDERS = 32
LONG = 60.0


def stored(path) -> list[int]:
    with contextlib.closing(patient_journal(path)) as journal:
        return [int(it.notification.fingerprint, 16) for it in journal.inbox(after=0, limit=1_000_000)]


@pytest.mark.parametrize("acknowledged_before", [1, 100, 400])
def test_killed_under_load_it_has_lost_nothing_that_it_acknowledged(tmp_path, acknowledged_before):
    path = tmp_path / "journal.db"
    acknowledged, failures, enough = [], [], threading.Event()

    def deliver(first: int) -> None:
        number = first
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            while True:
                connection.request("POST", "/alerts", body(alert(number)), HEADERS)
                reply = connection.getresponse()
                reply.read()
                if reply.status != 200:
                    failures.append(reply.status)
                    return
                acknowledged.append(number)
                number += SENDERS
                if len(acknowledged) >= acknowledged_before:
                    enough.set()

    with receiver_process(path) as (process, port):
        senders = [threading.Thread(target=deliver, args=(first,)) for first in range(SENDERS)]
        for sender in senders:
            sender.start()
        assert enough.wait(LONG)
        process.send_signal(signal.SIGKILL)
        for sender in senders:
            sender.join(LONG)
    assert failures == []
    assert len(acknowledged) >= acknowledged_before
    kept = stored(path)
    assert set(acknowledged) <= set(kept)
    # Each sender sends its next only after the answer to the last: at most one each is there without an answer.
    assert len(set(kept) - set(acknowledged)) <= SENDERS


def test_deliveries_that_come_together_share_a_transaction(tmp_path):
    with contextlib.closing(patient_journal(tmp_path / "journal.db")) as journal, served(journal) as receiver:
        statements = []
        journal._connection.set_trace_callback(statements.append)
        with contextlib.ExitStack() as opened:
            with journal._writing:
                connections = [opened.enter_context(receiver.connect()) for _ in range(10)]
                for number, connection in enumerate(connections):
                    connection.sendall(request(body(alert(number))))
                wait_until(lambda: len(journal._queue) == len(connections), "all in the queue", LONG, 0.01)
            assert [answer(connection)[0] for connection in connections] == [200] * 10
        assert statements.count("COMMIT") == 1


def test_a_journal_that_hangs_is_503_in_its_time(tmp_path):
    path = tmp_path / "journal.db"
    with (
        contextlib.closing(SqliteJournal(path, timeout_seconds=0.2)) as journal,
        served(journal) as receiver,
        contextlib.ExitStack() as opened,
    ):
        with journal._writing:  # as one whose fsync does not come back
            connections = [opened.enter_context(receiver.connect()) for _ in range(100)]
            for number, connection in enumerate(connections):
                connection.sendall(request(body(alert(number))))
            answers = [answer(connection) for connection in connections]
        assert {(code, headers["retry-after"]) for code, headers, _ in answers} == {(503, "1")}
        journal._timeout_seconds = LONG
        for number, connection in enumerate(connections):
            connection.sendall(request(body(alert(number))))
        assert [answer(connection)[0] for connection in connections] == [200] * 100
    assert sorted(stored(path)) == list(range(100))


def fill_until_503(url: str) -> int:
    """Deliver until it is refused; the number of the refused one."""
    for number in range(100_000):
        reply = requests.post(f"{url}/alerts", body(*[alert(number)] * 20, alert(number)), headers=HEADERS)
        if reply.status_code != 200:
            assert reply.status_code == 503
            assert reply.headers["Retry-After"]
            assert "full" in reply.text
            return number
    raise AssertionError("it never became full")


def test_a_full_journal_is_503_and_it_recovers(tmp_path):
    path = tmp_path / "journal.db"
    with contextlib.closing(patient_journal(path)) as journal, served(journal) as receiver:
        ((pages,),) = journal._connection.execute("PRAGMA page_count")
        journal._connection.execute(f"PRAGMA max_page_count = {pages + 20}")
        refused = fill_until_503(receiver.url)
        assert requests.get(f"{receiver.url}/-/ready").status_code == 503
        journal._connection.execute("PRAGMA max_page_count = 1000000")
        reply = requests.post(f"{receiver.url}/alerts", body(alert(refused)), headers=HEADERS)
        assert reply.status_code == 200
        assert requests.get(f"{receiver.url}/-/ready").status_code == 200
    assert stored(path) == list(range(refused + 1))


@pytest.mark.daemons
def test_a_full_disk_is_503_and_it_recovers(tmp_path):
    """A file system of its own, of 1 MiB; mounting needs root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(256 * 1024))
        path = disk / "journal.db"
        with contextlib.closing(patient_journal(path)) as journal, served(journal) as receiver:
            refused = fill_until_503(receiver.url)
            assert os.statvfs(disk).f_bfree * os.statvfs(disk).f_frsize < 256 * 1024
            ballast.unlink()
            reply = requests.post(f"{receiver.url}/alerts", body(alert(refused)), headers=HEADERS)
            assert reply.status_code == 200
        assert stored(path) == list(range(refused + 1))
    finally:
        subprocess.run(["umount", disk], check=True)
