"""The actuator by https, on real sockets with real certificates: who gets in, as whom, and rotation."""

import contextlib
import json
import ssl
import threading
import time
from dataclasses import replace

import pytest
import requests
import yaml
from structlog.testing import capture_logs

from actuator.adapters.alertmanager import Alertmanager
from actuator.model import OutgoingAlert
from actuator.receive import Server
from actuator.rights import Holder, Right, Rights
from actuator.tokens import TokenFiles
from actuator.web import expires_at
from exporter import fence_peer
from exporter.web_config import WebConfigFile
from tests.actuator.deliveries import alert, arbitrating_journal, body, parts
from tests.alertmanager import alertmanager
from tests.exporter.certificates import Authority as CertificateAuthority
from tests.lab.waiting import wait_until
from tests.prometheus import prometheus

SECONDS = 30.0
WHO = {
    "alertmanager": (Right.DELIVER, "Alertmanager"),
    "v01": (Right.ARBITRATE, "v01"),
    "v02": (Right.ARBITRATE, "v02"),
    "operator": (Right.ORDER, "operator"),
    "reader": (Right.READ, "reader"),
}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def ca(tmp_path):
    ca = CertificateAuthority(tmp_path)
    ca.issue("server", dns="monitor.example", ip="127.0.0.1")
    for who in WHO:
        ca.issue(who, dns=f"{who}.example")
    return ca


@pytest.fixture
def stranger(tmp_path):
    (tmp_path / "stranger").mkdir()
    return CertificateAuthority(tmp_path / "stranger", "stranger")


@pytest.fixture
def journal(tmp_path):
    with arbitrating_journal(tmp_path / "journal") as journal:
        yield journal


@contextlib.contextmanager
def serving(folder, journal, client_auth="VerifyClientCertIfGiven"):
    """Everybody has a token and a certificate; the address."""
    config = {
        "tls_server_config": {
            "cert_file": "server.pem",
            "key_file": "server.key",
            "client_auth_type": client_auth,
            "client_ca_file": "ca.pem",
        }
    }
    (folder / "web.yml").write_text(yaml.safe_dump(config))
    for who in WHO:
        (folder / f"{who}.token").write_text(f"token-of-{who}\n")
    files = TokenFiles({who: folder / f"{who}.token" for who in WHO})
    rights = Rights(
        [
            Holder(right, name, lambda who=who: files.of(who), frozenset({f"{who}.example"}))
            for who, (right, name) in WHO.items()
        ]
    )
    hosts = [{"targets": ["v01.example:10810"], "labels": {"host": "v01"}}]
    given = replace(parts(journal), rights=rights, targets=lambda: hosts)
    with Server("127.0.0.1:0", given, WebConfigFile(folder / "web.yml")) as server:
        yield f"https://127.0.0.1:{server.port}"


@pytest.fixture
def url(tmp_path, ca, journal):
    with serving(tmp_path, journal) as url:
        yield url


def ask(url, ca, path, *, pair=None, token=None, data=None, folder=None):
    """The status of an answer; 0 where there was no connection."""
    headers = JSON | ({"Authorization": f"Bearer {token}"} if token else {})
    cert = tuple(map(str, pair)) if pair else None
    try:
        with requests.Session() as session:
            session.trust_env = False
            method = "GET" if data is None else "POST"
            reply = session.request(
                method,
                url + path,
                data=data,
                headers=headers,
                cert=cert,
                verify=str(ca.file),
                timeout=SECONDS,
            )
    except requests.ConnectionError:
        return 0
    return reply.status_code


def pair_of(ca, who):
    return ca.folder / f"{who}.pem", ca.folder / f"{who}.key"


DOORS = {
    "/alerts": (body(alert(1)), Right.DELIVER),
    "/api/v1/arbitrate": (None, Right.ARBITRATE),
    "/-/reload": (b"", Right.ORDER),
    "/api/v1/status": (None, Right.READ),
    "/metrics": (None, Right.READ),
    "/api/v1/targets": (None, Right.READ),
    "/api/v1/ready": (None, Right.READ),
    "/nowhere": (None, Right.READ),
}
FOUND = {"/-/reload": 404, "/nowhere": 404}
"""What the answer is once one is let in, if not 200; nothing reloads here."""


@pytest.mark.parametrize("door", DOORS)
def test_each_opens_its_own_doors_alone(url, ca, door):
    data, right = DOORS[door]
    assert ask(url, ca, door, data=data) == (404 if door == "/-/reload" else 401)
    for who, (held, _) in WHO.items():
        opens = held is right or (held is Right.ORDER and right is Right.READ)
        code = FOUND.get(door, 200) if opens or door == "/-/reload" else 401
        by_certificate = ask(url, ca, door, data=data, pair=pair_of(ca, who))
        by_token = ask(url, ca, door, data=data, token=f"token-of-{who}")
        assert (who, by_certificate, by_token) == (who, code, code)


def test_what_needs_no_right(url, ca):
    assert [ask(url, ca, path) for path in ("/-/healthy", "/-/ready")] == [200, 200]


def refused(lines):
    return [line["reason"] for line in lines if line["event"] == "request refused"]


def test_certificates_that_are_no_good(url, ca, stranger):
    with capture_logs() as lines:
        assert ask(url, ca, "/-/healthy", pair=ca.issue("late", dns="v01.example", days=-1)) == 0
        assert ask(url, ca, "/-/healthy", pair=stranger.issue("v01", dns="v01.example")) == 0
        assert ask(url, ca, "/api/v1/arbitrate", pair=ca.issue("v03", dns="v03.example")) == 401
        wait_until(lambda: len(refused(lines)) == 3, "the lines", SECONDS)
    assert sorted(refused(lines)) == [
        "TLS: certificate verify failed: certificate has expired",
        "TLS: certificate verify failed: unable to get local issuer certificate",
        "no bearer token",
    ]


def test_plain_http_gets_nothing(url, ca):
    with capture_logs() as lines:
        assert ask(url.replace("https", "http"), ca, "/-/healthy") == 0
        wait_until(lambda: refused(lines), "the line", SECONDS)
    assert refused(lines) == ["TLS: http request"]


def test_where_everybody_must_show_a_certificate(tmp_path, ca, journal):
    with serving(tmp_path, journal, "RequireAndVerifyClientCert") as url:
        assert ask(url, ca, "/metrics", token="token-of-reader") == 0
        assert ask(url, ca, "/metrics", pair=pair_of(ca, "v01"), token="token-of-reader") == 200


def test_when_the_certificate_expires_is_shown(tmp_path, url, ca):
    def shown():
        headers = {"Authorization": "Bearer token-of-reader"}
        text = requests.get(f"{url}/metrics", headers=headers, verify=str(ca.file), timeout=SECONDS).text
        (line,) = [it for it in text.splitlines() if it.startswith("vmheal_tls_certificate_expiry")]
        return float(line.split()[1])

    assert 0 < shown() - time.time() <= 86400
    ca.issue("server", dns="monitor.example", ip="127.0.0.1", days=30)
    assert 29 * 86400 < shown() - time.time() <= 30 * 86400
    text = (tmp_path / "server.pem").read_text()  # of what is sent along the first that expires counts
    (tmp_path / "server.pem").write_text(text + pair_of(ca, "v01")[0].read_text())
    assert 0 < shown() - time.time() <= 86400
    (tmp_path / "server.pem").write_text("broken")
    assert 0 < shown() - time.time() <= 86400  # what is served goes on to be told
    assert expires_at(b"") == float("inf")


# ---- the hook --------------------------------------------------------------------------------------------


QUESTION = {
    "hook": "fence-peer",
    "resource": "voms01",
    "peer": "v02",
    "minors": "0",
    "boot_id": "0a1b2c3d-0000-4000-8000-000000000000",
    "began_ns": 1000,
}
FROZEN = fence_peer.State("Primary", up_to_date=True, connected=False, peer_up_to_date=False)


def hook(url, ca, *, who="", token="", host="127.0.0.1", ca_file=None):
    """The verdict, and the sentence, on the question whether v01 may go on without v02."""
    pair = [str(it) for it in pair_of(ca, who)] if who else ["", ""]
    tls = fence_peer.Tls(str(ca_file or ca.file), *pair)
    actuator = fence_peer.Actuator(host, int(url.rpartition(":")[2]), tls)
    return fence_peer.ask(actuator, token, QUESTION, lambda: FROZEN)


@pytest.mark.parametrize("credential", [{"token": "token-of-v01"}, {"who": "v01"}])
def test_a_host_is_granted_what_it_holds(url, ca, journal, credential):
    assert hook(url, ca, **credential)[0] == "grant"
    assert journal.authority("voms01").admitted == {"v01"}


@pytest.mark.parametrize(
    ("asking", "said"),
    [
        ({"who": "v01", "token": "token-of-v02"}, "the credentials are of v01 and v02"),
        ({"who": "alertmanager"}, "no bearer token"),
        ({"who": "operator"}, "no bearer token"),
        ({}, "no bearer token"),
        ({"token": "token-of-v01", "host": "localhost"}, "Hostname mismatch"),
        (
            {"token": "token-of-v01", "ca_file": "/nowhere/ca.pem"},
            "No such file or directory: '/nowhere/ca.pem'",
        ),
    ],
)
def test_no_answer_is_no_grant(url, ca, journal, asking, said):
    verdict, sentence = hook(url, ca, **asking)
    assert (verdict, said in sentence, sentence) == ("", True, sentence)
    assert sentence.startswith((f"{url.removeprefix('https://')}: ", "localhost:"))
    assert "token-of" not in sentence
    assert not journal.authority("voms01").granted


def test_another_hosts_certificate_is_another_host(url, ca, journal):
    """v02 holds nothing: it waits, whatever it says of itself."""
    verdict, _ = hook(url, ca, who="v02")
    assert verdict != "grant"
    assert not journal.authority("voms01").granted


def test_an_actuator_that_is_not_ours(tmp_path, url, ca, stranger, journal):
    assert "certificate verify failed" in hook(url, ca, token="token-of-v01", ca_file=stranger.file)[1]
    ca.issue("server", dns="monitor.example", ip="127.0.0.1", days=-1)
    assert "certificate has expired" in hook(url, ca, token="token-of-v01")[1]
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    assert "broken.pem" in hook(url, ca, token="token-of-v01", ca_file=tmp_path / "broken.pem")[1]
    assert not journal.authority("voms01").granted


# ---- rotation --------------------------------------------------------------------------------------------


def test_certificate_and_token_are_rotated_without_a_failed_request(tmp_path, url, ca):
    current, codes, over = ["token-of-reader"], [], threading.Event()

    def load():
        while not over.is_set():
            codes.append(ask(url, ca, "/metrics", token=current[0]))

    def answered(count):
        begun = len(codes)
        wait_until(lambda: len(codes) >= begun + count, "answers", SECONDS)

    def serial():
        port = int(url.rpartition(":")[2])
        context = ssl.create_default_context(cafile=ca.file)
        import socket

        with (
            socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            return tls.getpeercert()["serialNumber"]

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        answered(8)
        before = serial()
        ca.issue("server", dns="monitor.example", ip="127.0.0.1")
        wait_until(lambda: serial() != before, "the new certificate", SECONDS)
        (tmp_path / "reader.token").write_text("token-of-reader\nthe-new-one\n")
        answered(8)
        current[0] = "the-new-one"
        answered(8)
        (tmp_path / "reader.token").write_text("the-new-one\n")
        answered(8)
        assert ask(url, ca, "/metrics", token="token-of-reader") == 401
    finally:
        over.set()
        for thread in threads:
            thread.join(SECONDS)
    assert set(codes) == {200}


def test_json_of_a_question_is_not_needed_to_be_known(url, ca):
    """`vmheal-fence-peer check` asks as whom it is known."""
    actuator = fence_peer.Actuator(
        "127.0.0.1",
        int(url.rpartition(":")[2]),
        fence_peer.Tls(str(ca.file), *map(str, pair_of(ca, "v02"))),
    )
    assert fence_peer.exchange(actuator, "", None) == {"host": "v02"}
    assert json.dumps(fence_peer.exchange(actuator, "token-of-v02", None)) == '{"host": "v02"}'


# ---- Debian's own programs ---------------------------------------------------------------------------------


ALERTMANAGER = """
route: {{receiver: vmheal, group_by: [alertname], group_wait: 0s, group_interval: 1s}}
receivers:
  - name: vmheal
    webhook_configs:
      - url: {url}/alerts
        http_config: {http}
"""


@pytest.mark.daemons
@pytest.mark.parametrize("credential", ["certificate", "token", "another's"])
def test_alertmanager_delivers(tmp_path, url, ca, journal, credential):
    http = {"tls_config": {"ca_file": str(ca.file)}}
    if credential == "token":
        http["authorization"] = {"credentials_file": str(tmp_path / "alertmanager.token")}
    else:
        pair = pair_of(ca, "alertmanager" if credential == "certificate" else "v01")
        http["tls_config"] |= dict(zip(("cert_file", "key_file"), map(str, pair), strict=True))
    with capture_logs() as lines, alertmanager(ALERTMANAGER.format(url=url, http=http), tmp_path) as server:
        now = time.time()
        fired = OutgoingAlert({"alertname": "VMFailure", "domain": "voms01"}, {}, now - 1, now + 300)
        Alertmanager(server.url).send([fired], timeout_seconds=SECONDS)
        if credential == "another's":
            wait_until(lambda: refused(lines), "the refusal", SECONDS)
            assert set(refused(lines)) == {"no bearer token"}
            assert journal.inbox(after=0, limit=10) == ()
        else:
            wait_until(lambda: journal.inbox(after=0, limit=10), "the delivery", SECONDS)
            assert refused(lines) == []


PROMETHEUS = """
scrape_configs:
  - job_name: hosts
    scrape_interval: 1s
    http_sd_configs:
      - url: {url}/api/v1/targets
        refresh_interval: 1s
        authorization: {{type: Bearer, credentials_file: {token}}}
        tls_config: {{ca_file: {ca}}}
  - job_name: actuator
    scrape_interval: 1s
    scheme: https
    authorization: {{type: Bearer, credentials_file: {token}}}
    tls_config: {{ca_file: {ca}}}
    static_configs: [{{targets: ["{address}"]}}]
"""


@pytest.mark.daemons
def test_prometheus_scrapes_and_is_told_the_hosts(tmp_path, url, ca):
    """And goes on when the token is another one: it reads the file for each request."""
    token = tmp_path / "prometheus.token"
    token.write_text("token-of-reader")
    text = PROMETHEUS.format(url=url, token=token, ca=ca.file, address=url.removeprefix("https://"))
    with prometheus(text, tmp_path) as server:

        def value(query):
            answer = requests.get(f"{server.url}/api/v1/query", {"query": query}, timeout=SECONDS).json()
            return [it["value"][1] for it in answer["data"]["result"]]

        def hosts():
            answer = requests.get(f"{server.url}/api/v1/targets", timeout=SECONDS).json()
            return {it["labels"]["instance"] for it in answer["data"]["activeTargets"]}

        wait_until(lambda: value('up{job="actuator"}') == ["1"], "a scrape", SECONDS)
        wait_until(lambda: "v01.example:10810" in hosts(), "the hosts", SECONDS)
        (tmp_path / "reader.token").write_text("token-of-reader\nrotated")
        token.write_text("rotated")
        (tmp_path / "reader.token").write_text("rotated")
        with capture_logs() as lines:
            scraped = "count_over_time(up{job='actuator'}[1h])"
            before = int(value(scraped)[0])
            wait_until(lambda: int(value(scraped)[0]) >= before + 3, "more scrapes", SECONDS)
        assert value('up{job="actuator"}') == ["1"]
        assert len(refused(lines)) <= 1  # one may have been on its way
