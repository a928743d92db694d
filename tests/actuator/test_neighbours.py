"""What one version says to the next one: the words that are on the wire, as version 0.1 sends and takes them.

A change here is a change of the protocol: keep these, and add the new ones beside them.
"""

import http.server
import json
import threading
from contextlib import closing

import pytest
import requests

from exporter import fence_peer
from tests.actuator.deliveries import HOOKS, MemoryJournal, patient_journal, served

V01 = next(token for token, host in HOOKS.items() if host == "v01")
RUN = '"resource":"voms01","minors":"0","boot_id":"0a1b-2c","began_ns":12345'
SEEN = '"version":1,"role":"Primary","up_to_date":true'
QUESTIONS = (
    f'{{"hook":"fence-peer","peer":"v02",{RUN}}}',
    f'{{"hook":"fence-peer","peer":"v02",{RUN},{SEEN},"connected":false,"peer_up_to_date":false}}',
    f'{{"hook":"unfence-peer","peer":"v02",{RUN},{SEEN},"connected":true,"peer_up_to_date":true}}',
    f'{{"hook":"before-resync-source","peer":"v02",{RUN},{SEEN},"connected":true,"peer_up_to_date":false}}',
    f'{{"hook":"attach",{RUN}}}',
    f'{{"hook":"attach",{RUN},"version":1}}',
)
REPLIES = {
    '{"version":57,"sentence":"v02 is excluded","verdict":"grant"}': "grant",
    '{"version":57,"sentence":"not yet","verdict":"wait"}': "wait",
    '{"version":57,"sentence":"v02 was granted","verdict":"release","of_a_newer_version":{"what":["ever"]}}': (
        "release"
    ),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_handler_of_0_1_is_answered(tmp_path, question):
    with closing(patient_journal(tmp_path / "journal")) as journal, served(journal) as receiver:
        headers = {"Authorization": f"Bearer {V01}", "Content-Type": "application/json"}
        answer = requests.post(f"{receiver.url}/api/v1/arbitrate", question, headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert set(said) == {"version", "sentence", "verdict"}
    assert isinstance(said["version"], int)
    verdicts = {None} if '"version"' not in question else {"grant", "wait", "release", "allow", "refuse"}
    assert said["verdict"] in verdicts


@pytest.mark.parametrize("reply", REPLIES)
def test_a_handler_understands_an_actuator_of_0_1_and_of_a_newer_one(reply):
    asked = []

    class Actuator(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Actuator) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,)).start()
        try:
            question = json.loads(QUESTIONS[0])
            state = fence_peer.State("Primary", up_to_date=True, connected=False, peer_up_to_date=False)
            verdict, _ = fence_peer.ask(
                fence_peer.Actuator(*server.server_address), "token", question, lambda: state
            )
        finally:
            server.shutdown()
    assert verdict == REPLIES[reply]
    assert asked == [question, json.loads(QUESTIONS[1]) | {"version": 57}]


def test_what_a_newer_handler_says_is_not_guessed_at():
    """It waits, frozen, until the actuator is as new: safe; so the actuator goes first."""
    question = QUESTIONS[1].replace('"connected"', '"something_new":1,"connected"')
    with served(MemoryJournal()) as receiver:
        headers = {"Authorization": f"Bearer {V01}", "Content-Type": "application/json"}
        answer = requests.post(f"{receiver.url}/api/v1/arbitrate", question, headers=headers, timeout=10)
    assert answer.status_code == 400
    assert "something_new" in answer.text
