import base64
import contextlib
import http.client
import os
import ssl
import time

import bcrypt
import pytest
import yaml

from exporter.web import Request
from exporter.web_config import Guard, WebConfig, WebConfigError, WebConfigFile, load
from tests.exporter.certificates import Authority
from tests.exporter.serving import serving

PASSWORD = "correct horse"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def write(tmp_path):
    """Write a configuration; each time with another modification time."""
    written = [0]

    def write(document):
        file = tmp_path / "web.yml"
        file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        written[0] += 1
        os.utime(file, ns=(written[0] * 10**9, written[0] * 10**9))
        return file

    return write


def tls(authority, **more):
    authority.issue("server")
    return {"tls_server_config": {"cert_file": "server.pem", "key_file": "server.key", **more}}


@contextlib.contextmanager
def served(file):
    config = WebConfigFile(file)
    with serving(
        access=Guard(config.current),
        tls=lambda: config.current().tls,
        headers=lambda: config.current().headers,
    ) as port:
        yield port


def ask(port, context=None, user=None, password=PASSWORD):
    connection = (
        http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
        if context
        else http.client.HTTPConnection("localhost", port, timeout=10)
    )
    headers = {}
    if user is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    with contextlib.closing(connection):
        connection.request("GET", "/x", headers=headers)
        response = connection.getresponse()
        response.read()
        return response


def client_context(authority, certificate=None, version=None):
    context = ssl.create_default_context(cafile=authority.file)
    if certificate:
        context.load_cert_chain(*certificate)
    if version:
        context.maximum_version = version
    return context


# The file


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("a: [", "is not YAML"),
        ("[]", "the file must be a mapping"),
        ("1: 2", "the file must be a mapping"),
        ("tls_server_confg: {}", "unknown; did you mean 'tls_server_config'?"),
        ("tls_server_config: {cert_fil: x}", "key 'cert_fil' is unknown; did you mean 'cert_file'?"),
        ("http_server_config: {htp2: true}", "did you mean 'http2'?"),
        ("http_server_config: {http2: maybe}", "http_server_config.http2 must be true or false, not 'maybe'"),
        ("http_server_config: {headers: {X-Frame-Option: deny}}", "did you mean 'X-Frame-Options'?"),
        ('http_server_config: {headers: {X-Frame-Options: "a\\nb"}}', "has a control character"),
        ("tls_server_config: {}", "needs cert_file and key_file"),
        ("tls_server_config: {cert_file: 1, key_file: k}", "cert_file must be a text, not 1"),
        ("tls_server_config: {cert_file: none.pem, key_file: k}", "cannot read /.*none.pem: No such file"),
        ("tls_server_config: {min_version: TLS14}", "min_version 'TLS14' is unknown; did you mean 'TLS1"),
        ("tls_server_config: {cipher_suites: [RC4]}", "cipher_suites 'RC4' is unknown; known: TLS_ECDHE"),
        ("tls_server_config: {client_auth_type: RequireAndVerify}", "mean 'RequireAndVerifyClientCert'"),
        (
            "tls_server_config: {client_auth_type: RequireAnyClientCert}",
            "proves nothing; use RequireAndVerify",
        ),
        ("tls_server_config: {client_auth_type: RequireAndVerifyClientCert}", "needs client_ca_file"),
        ("tls_server_config: {client_ca_file: ca.pem}", "is of no effect without"),
        ("tls_server_config: {client_allowed_sans: [a]}", "needs client_auth_type"),
        ("tls_server_config: {curve_preferences: [X25519]}", "not supported here: leave it out"),
        ("rate_limit: {interval: 1s}", "rate_limit is not supported here"),
        ("basic_auth_users: {anna: secret}", "basic_auth_users.anna is not a bcrypt hash; `htpasswd"),
        ("basic_auth_users: [anna]", "basic_auth_users must be a mapping of texts"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_sentence(write, document, sentence):
    file = write(document)
    with pytest.raises(WebConfigError, match=sentence) as raised:
        load(file)
    assert str(file) in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WebConfigError, match=r"cannot read .*none\.yml"):
        load(tmp_path / "none.yml")


def test_a_key_that_does_not_fit_its_certificate(authority, write):
    authority.issue("server")
    authority.issue("other")
    with pytest.raises(WebConfigError, match=r"cannot be used with .*other\.key"):
        load(write({"tls_server_config": {"cert_file": "server.pem", "key_file": "other.key"}}))


def test_an_empty_file_means_plain_http_for_everybody(write):
    config = load(write(""))
    assert (config.tls, config.users, config.headers) == (None, None, ())


# TLS and client certificates


def test_tls_with_headers(authority, write):
    document = tls(authority) | {"http_server_config": {"headers": {"X-Frame-Options": "deny"}}}
    with served(write(document)) as port:
        response = ask(port, client_context(authority))
        assert response.status == 200
        assert response.headers["X-Frame-Options"] == "deny"
        with pytest.raises((http.client.BadStatusLine, ConnectionError)):
            ask(port)  # plain HTTP gets nothing
        assert ask(port, client_context(authority)).status == 200


def test_tls_ends_as_soon_as_all_is_said(authority, write):
    import socket

    with served(write(tls(authority))) as port:
        plain = socket.create_connection(
            ("127.0.0.1", port), timeout=5
        )  # shorter than any wait of the server's
        with client_context(authority).wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            received = b""
            while data := client.recv(65536):
                received += data
    assert received.startswith(b"HTTP/1.1 200 OK")


def test_an_old_tls_version_is_refused(authority, write):
    with served(write(tls(authority, min_version="TLS13"))) as port:
        assert ask(port, client_context(authority)).status == 200
        with pytest.raises(ssl.SSLError):
            ask(port, client_context(authority, version=ssl.TLSVersion.TLSv1_2))


def test_a_client_certificate_of_the_ca_is_required(authority, tmp_path, write):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    document = tls(authority, client_auth_type="RequireAndVerifyClientCert", client_ca_file="ca.pem")
    with served(write(document)) as port:
        assert ask(port, client_context(authority, authority.issue("prometheus"))).status == 200
        for certificate in (None, Authority(stranger, "stranger").issue("prometheus")):
            # With TLS 1.3 the client learns of its refusal when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
                ask(port, client_context(authority, certificate))


def test_a_client_certificate_may_be_left_out_but_not_be_wrong(authority, tmp_path, write):
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    document = tls(authority, client_auth_type="VerifyClientCertIfGiven", client_ca_file="ca.pem")
    with served(write(document)) as port:
        assert ask(port, client_context(authority)).status == 200
        wrong = Authority(stranger, "stranger").issue("prometheus")
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
            ask(port, client_context(authority, wrong))


def test_only_the_allowed_names_may_ask(authority, write):
    document = tls(
        authority,
        client_auth_type="RequireAndVerifyClientCert",
        client_ca_file="ca.pem",
        client_allowed_sans=["prometheus.example"],
    )
    with served(write(document)) as port:
        allowed = authority.issue("allowed", dns="prometheus.example")
        assert ask(port, client_context(authority, allowed)).status == 200
        assert ask(port, client_context(authority, authority.issue("other"))).status == 401


def test_a_client_that_does_not_finish_the_handshake_holds_up_nobody(authority, write):
    import socket

    with served(write(tls(authority))) as port, contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)).sendall(
                b"\x16\x03\x01"
            )
        assert ask(port, client_context(authority)).status == 200


# Changes without a restart


def serial(port, authority):
    context = client_context(authority)
    with contextlib.closing(http.client.HTTPSConnection("localhost", port, context=context)) as connection:
        connection.connect()
        return connection.sock.getpeercert()["serialNumber"]


def test_a_new_certificate_is_used_for_the_next_connection(authority, write):
    with served(write(tls(authority))) as port:
        before = serial(port, authority)
        authority.issue("server")
        assert serial(port, authority) != before


def test_a_change_that_cannot_be_used_keeps_the_old_and_is_tried_again(authority, write):
    document = tls(authority)
    config = WebConfigFile(write(document))
    assert config.current().users is None
    for bad in ("broken: yes", "", {"basic_auth_users": {"anna": HASH}}):  # the last two would switch TLS off
        before = config.current()
        write(bad)
        assert config.current() is before
    write(document | {"basic_auth_users": {"anna": HASH}})
    assert list(config.current().users or ()) == ["anna"]
    certificate = authority.folder / "server.pem"
    certificate.rename(authority.folder / "away")
    assert config.current().tls is not None
    (authority.folder / "away").rename(certificate)
    before = config.current()
    authority.issue("server")
    assert config.current() is not before


# Basic auth


def test_basic_auth(write):
    with served(write({"basic_auth_users": {"anna": HASH}})) as port:
        assert ask(port, user="anna").status == 200
        for user, password in [
            ("anna", "wrong"),
            ("berta", PASSWORD),
            ("anna", ""),
            ("", ""),
            ("anna", "x" * 100),
        ]:
            response = ask(port, user=user, password=password)
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
        assert ask(port).status == 401
        assert ask(port, user="anna").status == 200


def request(header):
    return Request("GET", "/", {}, {"authorization": header}, time.monotonic())


def basic(user, password):
    return request("Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def test_a_password_is_checked_once_and_a_changed_hash_anew():
    config = WebConfig(users={"anna": HASH.encode()})
    guard = Guard(lambda: config)
    right = basic("anna", PASSWORD)
    assert guard.quick(right) is None
    assert guard.verify(right)
    assert guard.quick(right) is True
    wrong = basic("anna", "wrong")
    assert guard.quick(wrong) is None
    assert not guard.verify(wrong)
    assert guard.quick(wrong) is False
    config = WebConfig(users={"anna": bcrypt.hashpw(b"new", bcrypt.gensalt(4))})
    assert guard.quick(right) is None
    assert not guard.verify(right)


def test_what_is_kept_of_guesses_is_bounded():
    config = WebConfig(users={"anna": HASH.encode()})
    guard = Guard(lambda: config)
    guard._nobody = HASH.encode()  # cheaper than the real one
    for number in range(150):
        assert not guard.verify(basic("anna", str(number)))
    assert len(guard._cache) <= 100


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!!",
        "Bearer abc",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic /w==",
        "Basic \xc4",
    ],
)
def test_credentials_that_are_none(header):
    guard = Guard(lambda: WebConfig(users={"anna": HASH.encode()}))
    assert guard.quick(request(header)) is False


def test_an_unknown_name_is_never_right_whatever_its_password():
    guard = Guard(lambda: WebConfig(users={"anna": HASH.encode()}))
    guard._nobody = bcrypt.hashpw(b"guess", bcrypt.gensalt(4))
    assert not guard.verify(basic("berta", "guess"))
