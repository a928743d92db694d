"""`--web.config.file`: TLS, client certificates and basic auth, in exporter-toolkit's format.

The format is described in exporter-toolkit's docs/web-configuration.md. Where this server cannot do what a
key asks for, the file is refused with the reason instead of being served with less. The file and what it
names are looked at for each connection and request, so certificates and passwords change without a restart;
a change that cannot be read keeps the last good configuration and is logged.
"""

import base64
import difflib
import hashlib
import hmac
import re
import secrets
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import bcrypt
import structlog

from exporter import yaml_text
from exporter.web import Request

log = structlog.get_logger()

Choice = TypeVar("Choice")

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}

# Go's names for the suites of TLS 1.2 that it counts as secure; those of 1.3 cannot be chosen there either.
_CIPHERS = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}

# RequestClientCert asks for a certificate and believes any: to a client it is the same as not to ask.
_CLIENT_AUTH = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

_HEADERS = {
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
}

# Keys of exporter-toolkit that this server does not carry out, and what to do instead.
_NOT_HERE = {
    "tls_server_config.cert": "put the certificate into a file and name it in cert_file",
    "tls_server_config.key": "put the key into a file and name it in key_file",
    "tls_server_config.client_ca": "put the certificates into a file and name it in client_ca_file",
    "tls_server_config.curve_preferences": "leave it out; OpenSSL's own order is used",
    "rate_limit": "leave it out; connections and times are bounded without it",
}

_BCRYPT = re.compile(r"\$2[abxy]\$\d\d\$[./A-Za-z0-9]{53}")
_MAX_CACHED = 100


class WebConfigError(Exception):
    """The file cannot be used; the message says where and what to do."""


@dataclass(frozen=True)
class WebConfig:
    """What the file says, ready to serve with."""

    tls: ssl.SSLContext | None = None
    allowed_sans: frozenset[str] = frozenset()  # empty: any client that the CA signed
    users: Mapping[str, bytes] | None = None  # name to bcrypt hash; None: nobody is asked
    headers: tuple[tuple[str, str], ...] = ()
    asks_clients: bool = False  # for certificates
    certificate: bytes = b""  # what clients are shown, PEM
    files: tuple[Path, ...] = ()  # what it was read from


class _Section:
    """One mapping of the file; every key is read once, and what is left over is unknown."""

    def __init__(self, path: str, value: Any) -> None:
        if value is None:
            value = {}
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise WebConfigError(f"{path or 'the file'} must be a mapping of names to values")
        self._path = path
        self._values: dict[str, Any] = value
        self._known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def where(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key

    def raw(self, key: str) -> Any:
        self._known.append(key)
        return self._values.get(key)

    def section(self, key: str) -> "_Section":
        return _Section(self.where(key), self.raw(key))

    def text(self, key: str, default: str = "") -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise WebConfigError(f"{self.where(key)} must be a text, not {_shown(value)}")
        return value

    def flag(self, key: str) -> None:
        value = self.raw(key)
        if not isinstance(value, bool | None):
            raise WebConfigError(f"{self.where(key)} must be true or false, not {_shown(value)}")

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.raw(key) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise WebConfigError(f"{self.where(key)} must be a list of texts")
        return tuple(value)

    def text_mapping(self, key: str) -> dict[str, str]:
        value = self.raw(key) or {}
        if not isinstance(value, dict) or not all(
            isinstance(item, str) for pair in value.items() for item in pair
        ):
            raise WebConfigError(f"{self.where(key)} must be a mapping of texts to texts")
        return value

    def choice(self, key: str, choices: Mapping[str, Choice], default: str) -> Choice:
        return choices[one_of(self.where(key), self.text(key, default), choices)]

    def end(self) -> None:
        for key in self._values:
            if key in self._known:
                continue
            if self.where(key) in _NOT_HERE:
                raise WebConfigError(f"{self.where(key)} is not supported here: {_NOT_HERE[self.where(key)]}")
            one_of(f"{self._path or 'the file'}: key", key, self._known)


def _shown(value: object) -> str:
    """What is there instead. A list may have itself in it a million times, by YAML's aliases."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict | set) else repr(value)[:100]


def one_of(what: str, word: str, known: Iterable[str]) -> str:
    """Return the word if it is known.

    Raises:
        WebConfigError: it is not; the message names the nearest known one.
    """
    known = list(known)
    if word in known:
        return word
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(filter(None, known))}"
    raise WebConfigError(f"{what} {word!r} is unknown; {hint}")


def load(path: Path) -> WebConfig:
    """Read the file and what it names.

    Raises:
        WebConfigError: it, or a certificate or key, cannot be read or used.
    """
    try:
        document = yaml_text.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WebConfigError(f"cannot read {path}: {error}") from error
    except yaml_text.MalformedYamlError as error:
        raise WebConfigError(f"{path} is not YAML: {error}") from error
    try:
        return _read(_Section("", document), path)
    except WebConfigError as error:
        raise WebConfigError(f"{path}: {error}") from error


def _read(document: _Section, path: Path) -> WebConfig:
    tls = document.section("tls_server_config")
    http = document.section("http_server_config")
    users = document.text_mapping("basic_auth_users")
    document.end()
    http.flag("http2")  # this server speaks HTTP/1.1, which every client accepts
    headers = http.text_mapping("headers")
    http.end()
    for name, value in headers.items():
        one_of("http_server_config.headers: header", name, _HEADERS)
        if not value.isprintable():
            raise WebConfigError(f"http_server_config.headers.{name} has a control character in it")
    for name, value in users.items():
        if not _BCRYPT.fullmatch(value):
            raise WebConfigError(
                f"basic_auth_users.{name} is not a bcrypt hash; `htpasswd -nBC 10 {name}` makes one"
            )
    config = _tls(tls, path.parent) if "tls_server_config" in document else WebConfig()
    return replace(
        config,
        users={name: value.encode() for name, value in users.items()} if users else None,
        headers=tuple(headers.items()),
        files=(path, *config.files),
    )


def _tls(section: _Section, folder: Path) -> WebConfig:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate, key = section.text("cert_file"), section.text("key_file")
    verify, client_ca, sans = _client_auth(section)
    minimum = section.choice("min_version", _VERSIONS, "TLS12")
    maximum = section.choice("max_version", _VERSIONS, "TLS13")
    suites = section.texts("cipher_suites")
    ciphers = [_CIPHERS[one_of(section.where("cipher_suites"), suite, _CIPHERS)] for suite in suites]
    section.flag("prefer_server_cipher_suites")
    section.end()
    if not certificate or not key:
        raise WebConfigError("tls_server_config needs cert_file and key_file")
    files = tuple(folder / name for name in (certificate, key, client_ca) if name)
    read = []
    for file in files:
        try:
            read.append(file.read_bytes())
        except OSError as error:
            raise WebConfigError(f"cannot read {file}: {error.strerror}") from error
    try:
        context.minimum_version, context.maximum_version = minimum, maximum
        if ciphers:
            context.set_ciphers(":".join(ciphers))
        # An empty password, so that an encrypted key is an error and not a question on a terminal.
        context.load_cert_chain(files[0], files[1], password="")
        if client_ca:
            context.load_verify_locations(files[2])
        context.verify_mode = verify
    except (ssl.SSLError, ValueError) as error:
        names = ", ".join(map(str, files))
        raise WebConfigError(f"tls_server_config cannot be used with {names}: {error}") from error
    return WebConfig(
        context,
        frozenset(sans),
        asks_clients=verify is not ssl.CERT_NONE,
        certificate=read[0],
        files=files,
    )


def _client_auth(section: _Section) -> tuple[ssl.VerifyMode, str, tuple[str, ...]]:
    """Return how clients are verified, the CA's file, and the names that are allowed."""
    if section.text("client_auth_type") == "RequireAnyClientCert":
        raise WebConfigError(
            "tls_server_config.client_auth_type RequireAnyClientCert is not supported here: a certificate "
            "that nobody checks proves nothing; use RequireAndVerifyClientCert with client_ca_file"
        )
    verify = section.choice("client_auth_type", _CLIENT_AUTH, "")
    client_ca = section.text("client_ca_file")
    sans = section.texts("client_allowed_sans")
    if verify is ssl.CERT_NONE and client_ca:
        raise WebConfigError(
            "tls_server_config.client_ca_file is of no effect without "
            "client_auth_type: RequireAndVerifyClientCert (or VerifyClientCertIfGiven)"
        )
    if verify is not ssl.CERT_NONE and not client_ca:
        raise WebConfigError("tls_server_config.client_auth_type needs client_ca_file")
    if sans and verify is not ssl.CERT_REQUIRED:
        raise WebConfigError("client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert")
    return verify, client_ca, sans


class WebConfigFile:
    """The file's present configuration; used from one thread, the event loop's, but for `latest`."""

    def __init__(self, path: Path | None) -> None:
        """Read it; no path means plain HTTP for everybody.

        Raises:
            WebConfigError: it cannot be used.
        """
        self._path = path
        self._config = WebConfig() if path is None else load(path)
        self._seen = self._signature()
        self._error = ""

    def current(self) -> WebConfig:
        """Return the configuration, read again when a file of it changed, or could not be read before."""
        if self._path is not None and (self._error or self._signature() != self._seen):
            try:
                self._reload(self._path)
            except WebConfigError as error:
                if str(error) != self._error:
                    log.warning("the web configuration cannot be used: the old one stays", error=str(error))
                self._error = str(error)
        return self._config

    @property
    def latest(self) -> WebConfig:
        """The configuration as it was read last; from any thread."""
        return self._config

    def _reload(self, path: Path) -> None:
        config = load(path)
        if (config.tls is None) != (self._config.tls is None):
            raise WebConfigError("TLS can be switched on or off only by a restart")
        self._config, self._error = config, ""
        self._seen = self._signature()
        log.info("read the web configuration again", file=str(path))

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stat, self._config.files))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class Guard:
    """Decides who may ask, by basic auth and by the names in a client's certificate.

    bcrypt is slow on purpose (a tenth of a second). What was found for a name, hash and password is kept
    under a keyed digest of the three, with a key that exists in this process only: a changed hash is asked
    anew.
    """

    def __init__(self, current: Callable[[], WebConfig]) -> None:
        """Take where the present configuration comes from."""
        self._current = current
        self._key = secrets.token_bytes(32)
        self._cache: dict[bytes, bool] = {}
        self._nobody = bcrypt.hashpw(secrets.token_bytes(16), bcrypt.gensalt(10))

    def quick(self, request: Request) -> bool | None:
        """Answer without bcrypt; None means that `verify` must find out."""
        config = self._current()
        if config.allowed_sans and not config.allowed_sans & names_of(request.peer_certificate):
            return False
        if config.users is None:
            return True
        credentials = _credentials(request)
        return False if credentials is None else self._cache.get(self._digest(config.users, *credentials))

    def verify(self, request: Request) -> bool:
        """Answer with bcrypt: a tenth of a second of work."""
        users, credentials = self._current().users, _credentials(request)
        if users is None or credentials is None:
            return users is None
        name, password = credentials
        digest = self._digest(users, name, password)
        # An unknown name takes as long as a known one.
        try:
            right = bcrypt.checkpw(password, users.get(name, self._nobody)) and name in users
        except ValueError:  # longer than bcrypt's 72 bytes, or with a zero byte in it
            right = False
        while len(self._cache) >= _MAX_CACHED:
            self._cache.pop(secrets.choice(list(self._cache)), None)
        self._cache[digest] = right
        return right

    def _digest(self, users: Mapping[str, bytes], name: str, password: bytes) -> bytes:
        parts = (name.encode(), users.get(name, b""), password)
        message = b"".join(len(part).to_bytes(4) + part for part in parts)
        return hmac.digest(self._key, message, hashlib.sha256)


def _credentials(request: Request) -> tuple[str, bytes] | None:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, separator, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode(), password) if separator else None
    except ValueError:  # not base64, not ASCII at all, or no UTF-8 in it
        return None


def names_of(certificate: Mapping[str, Any] | None) -> set[str]:
    """Return the alternative names in a client's certificate, as `ssl` tells it; none without one."""
    return {value for _kind, value in (certificate or {}).get("subjectAltName", ())}
