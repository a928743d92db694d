"""Configuration errors: what is wrong, where, and what to write instead."""

from pathlib import Path

import pytest

from actuator.config import ConfigError, Mode, load, read_secret

EXAMPLE = Path(__file__).parents[2] / "docs" / "actuator.yml"


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "actuator.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_the_documented_example_loads():
    settings = load(EXAMPLE)
    assert settings.mode is Mode.OBSERVE
    assert settings.listen_address == ("0.0.0.0", 10811)
    assert settings.hosts_of("voms01") == ("v01", "v02")


def test_the_documented_example_names_every_key_with_its_default(write):
    """Taken out of the example, every key that has a default leaves the same settings."""
    whole = load(EXAMPLE)
    text = EXAMPLE.read_text()
    short = text[: text.index("evidence:")]
    for line in (
        "  keep_events: 200000\n",
        "  timeout_seconds: 2\n",
        "  max_alerts: 10000\n",
        "  port: 22\n",
    ):
        assert line in short
        short = short.replace(line, "")
    assert load(write(short)) == whole


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("mode: observe\n", "mode: enforced\n", "mode: "),
        ("listen:", "lisen:", "lisen: unknown key; did you mean 'listen'?"),
        (
            "    hosts: [v01, v02]",
            "    hots: [v01, v02]",
            "domains.voms01.hots: unknown key; did you mean 'hosts'?",
        ),
        ("  max_attempts:", "  max_tries:", "restart.max_tries: unknown key"),
        ("  v02:\n", "  v03:\n", "domains.voms01: host 'v02' is not in hosts (v01, v03)"),
        (
            "    hosts: [v01, v02]",
            "    hosts: [v02]",
            "domains.voms01: host 'v01' is missing in its own hosts",
        ),
        (
            "  max_attempts: 3",
            "  max_attempts: 0",
            "restart.max_attempts: Input should be greater than or equal to 1",
        ),
        (
            "  max_attempts: 3",
            "  max_attempts: many",
            "restart.max_attempts: Input should be a valid integer",
        ),
        (
            "  max_attempts: 3",
            "  max_attempts: true",
            "restart.max_attempts: Input should be a valid integer",
        ),
        ("  max_age_seconds: 6", "  max_age_seconds: .nan", "evidence.max_age_seconds: "),
        ("  max_age_seconds: 6", "  max_age_seconds: .inf", "evidence.max_age_seconds: "),
        ("  url: http://localhost:9093", "  url: localhost:9093", "alertmanager.url: "),
        (
            "path: /var/lib/",
            "path: lib/",
            "journal.path: 'lib/vmheal/journal.sqlite3' is not an absolute path",
        ),
        ("  v02:\n", "  v01:\n", "not valid YAML: key 'v01' twice"),
        ("  v02:\n", "  'v 2':\n", "hosts.v 2: "),
        ("listen:", "listen: [", "not valid YAML: "),
    ],
)
def test_a_fault_is_said_with_its_place(write, old, new, said):
    text = EXAMPLE.read_text()
    assert old in text
    assert any(problem.startswith(said) for problem in problems(write(text.replace(old, new, 1))))


def test_every_fault_is_said_at_once(write):
    text = (
        EXAMPLE.read_text()
        .replace("listen:", "lisen:")
        .replace("port: 22", "port: 0")
        .replace("v02]", "v02, 5]")
    )
    assert len(problems(write(text))) == 3


@pytest.mark.parametrize(
    "text", ["", "- a\n", "just words\n", "\x00", "&a [*a]\n", "a: &a [*a, *a]\n", "[" * 5000]
)
def test_what_is_no_configuration_is_refused_without_a_traceback(write, text):
    assert problems(write(text))


def test_a_missing_file_is_said(tmp_path):
    assert problems(tmp_path / "absent.yml") == ["No such file or directory"]


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n", "\xff"])
def test_a_secret_stands_alone_on_one_line(tmp_path, text):
    path = tmp_path / "token"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match="token"):
        read_secret(path)


def test_a_secret_is_read_without_its_line_end(tmp_path):
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    assert read_secret(path) == "s3cret"
