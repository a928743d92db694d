"""`python -m tests.api`: Schemathesis against the running actuator and its own description (`make api-test`).

A real process with a journal, and hosts where nobody listens. First with each caller's own token, then with none; and again
where looking takes a token, too. No answer is 5xx but a 503 that is described, none has a status or a body that is not described,
and none is given for a missing token.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests
import yaml

from tests.actuator.test_program import free_port
from tests.actuator.world import settings
from tests.fuzz.target import REPO

READY_SECONDS = 60.0
EXAMPLES = 40
"""For each operation and phase."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method,ignored_auth"
)
OPERATIONS = {
    "alertmanager": ["deliver"],
    "host": ["whose", "arbitrate"],
    "operator": [
        "order",
        "reload",
        "status",
        "ready",
        "targets",
        "explain",
        "openapi",
        "metrics",
        "healthy",
        "is_ready",
    ],
}
"""By whose token: the operations that it is for."""
LOOKING = [it for it in OPERATIONS["operator"] if it not in {"order", "reload"}]


def configuration(folder: Path) -> Path:
    """A site whose hosts, Prometheus and Alertmanager do not answer, and a token of each kind."""
    for name in (*OPERATIONS, "reader"):
        (folder / name).write_text(f"a-token-of-{name}\n")
    (folder / "known_hosts").touch()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    closed = free_port()
    document = settings(folder / "journal").model_dump(mode="json", exclude_defaults=True)
    document["listen"] = f"127.0.0.1:{free_port()}"
    document["webhook"]["token_file"] = str(folder / "alertmanager")
    document["operator"] = {"token_file": str(folder / "operator")}
    document["alertmanager"]["url"] = document["prometheus"]["url"] = f"http://127.0.0.1:{closed}"
    document["ssh"] |= {
        "key_file": str(folder / "key"),
        "known_hosts_file": str(folder / "known_hosts"),
        "port": closed,
    }
    document["evidence"] = {"timeout_seconds": 1.0}
    for host in document["hosts"].values():
        host |= {"address": "127.0.0.1", "libvirt_uri": f"qemu+tcp://127.0.0.1:{closed}/system"}
    document["hosts"]["v01"]["arbiter_token_file"] = str(folder / "host")
    path = folder / "actuator.yml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextlib.contextmanager
def running(config: Path):
    """The actuator, from when it is ready until it has ended well; gives its URL."""
    url = f"http://{yaml.safe_load(config.read_text())['listen']}"
    argv = [sys.executable, "-m", "actuator", "serve", "--config", str(config), "--log-format", "json"]
    with (
        (config.parent / "log").open("w") as log,
        subprocess.Popen(argv, cwd=REPO, stderr=log, stdout=log) as process,
    ):
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _is_ready(url):
                assert process.poll() is None, (config.parent / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the actuator does not get ready"
                threading.Event().wait(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()
    assert process.returncode == 0, f"the actuator ended with {process.returncode}"


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=5).ok
    except requests.RequestException:
        return False


def ask(url: str, operations: list[str], token: str | None, seed: int) -> int:
    """Run Schemathesis; its exit status."""
    only = [word for name in operations for word in ("--include-operation-id", name)]
    who = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    program = Path(sys.executable).with_name("schemathesis")
    argv = [
        program,
        "run",
        f"{url}/api/v1/openapi.json",
        "--url",
        url,
        "--seed",
        str(seed),
        "--checks",
        CHECKS,
    ]
    argv += ["--max-examples", str(EXAMPLES), "--generation-database", "none", "--no-color", *only, *who]
    return subprocess.run(
        argv, check=False, cwd=tempfile.gettempdir(), env=os.environ | {"PYTHONWARNINGS": "ignore"}
    ).returncode


def closed(config: Path) -> Path:
    """The same site, where looking takes a token, too."""
    document = yaml.safe_load(config.read_text())
    document["read"] = {"token_file": str(config.with_name("reader"))}
    document["listen"] = f"127.0.0.1:{free_port()}"
    config.write_text(yaml.safe_dump(document))
    return config


def main() -> int:
    seed = int(sys.argv[1]) if sys.argv[1:] else 1
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder))
        with running(config) as url:
            failed = [who for who, names in OPERATIONS.items() if ask(url, names, f"a-token-of-{who}", seed)]
            everything = [name for names in OPERATIONS.values() for name in names]
            failed += ["nobody"] * bool(ask(url, everything, None, seed))
        with running(closed(config)) as url:
            assert requests.get(f"{url}/api/v1/openapi.json", timeout=10).status_code == 401
            failed += ["reader"] * bool(ask(url, LOOKING, "a-token-of-reader", seed))
        said = (Path(folder) / "log").read_text()
    faults = re.findall(r".*(?:Traceback|failed unexpectedly|fault of vmheal's own).*", said)
    print(
        f"failed: {', '.join(failed) or 'nothing'}; faults in the actuator's log: {len(faults)}",
        *faults[:5],
        sep="\n",
    )
    return 1 if failed or faults else 0


if __name__ == "__main__":
    sys.exit(main())
