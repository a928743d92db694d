"""Configuration errors: what is wrong, where, and what to write instead."""

from pathlib import Path

import pytest

from actuator.adapters.fence_agents import OURS, FenceAgent
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
    assert settings.listen == ":10811"
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
        ("apart: []", "apart: [db]", "domains.voms01: apart: 'db' is not the name of another domain"),
        ("apart: []", "apart: [voms01]", "domains.voms01: apart: 'voms01' is not the name of another domain"),
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
        ('runbooks_url: ""', "runbooks_url: http://example.org/runbooks", "runbooks_url: "),
        ("  max_age_seconds: 6", "  max_age_seconds: .nan", "evidence.max_age_seconds: "),
        ("  max_age_seconds: 6", "  max_age_seconds: .inf", "evidence.max_age_seconds: "),
        (
            "  url: http://localhost:9093",
            "  url: localhost:9093",
            "alertmanager.url: 'localhost:9093' is not a URL",
        ),
        (
            "  url: http://localhost:9093",
            "  url: [http://m1, ftp://m2]",
            "alertmanager.url: 'ftp://m2' is not",
        ),
        ("  url: http://localhost:9093", "  url: []", "alertmanager.url: "),
        ("  url: http://localhost:9093", "  url: 9093", "alertmanager.url: 9093 is not a URL"),
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


# ---- fence agents and programs ---------------------------------------------------------------------------

FENCE = """\
    address: 10.10.0.1
    fence:
      agent: fence_ipmilan
      options: {ip: 10.30.0.1, username: vmheal, lanplus: "1"}
      password_file: /etc/vmheal/v01.fence
"""
PROGRAMS = """\
programs:
  mail-oncall:
    argv: [/usr/local/bin/mail-oncall, --urgent]
"""


def with_fence(old: str = "", new: str = "") -> str:
    assert old in FENCE
    return EXAMPLE.read_text().replace("    address: 10.10.0.1\n", FENCE.replace(old, new), 1)


def with_programs(old: str = "", new: str = "") -> str:
    assert old in PROGRAMS
    return EXAMPLE.read_text().replace("programs: {}\n", PROGRAMS.replace(old, new), 1)


def test_a_fence_agent(write):
    settings = load(write(with_fence()))
    fence = settings.hosts["v01"].fence
    assert fence is not None
    assert (fence.agent, fence.password_file) == ("fence_ipmilan", Path("/etc/vmheal/v01.fence"))
    assert fence.options == {"ip": "10.30.0.1", "username": "vmheal", "lanplus": "1"}
    assert fence.timeout_seconds == 20
    assert settings.hosts["v02"].fence is None


def test_a_program(write):
    program = load(write(with_programs())).programs["mail-oncall"]
    assert program.argv == ("/usr/local/bin/mail-oncall", "--urgent")
    assert program.timeout_seconds == 60


def test_the_commented_examples_are_right(write):
    lines = EXAMPLE.read_text().splitlines()
    text = "\n".join(lines).replace("programs: {}", "programs:")
    for begin, count in (("    # fence:", 5), ("#   mail-oncall:", 3)):
        at = lines.index(begin)
        for line in lines[at : at + count]:
            text = text.replace(line, line.replace("# ", "", 1) if line.startswith(" ") else line[1:], 1)
    settings = load(write(text))
    assert settings.hosts["v01"].fence == load(write(with_fence())).hosts["v01"].fence
    assert settings.programs == load(write(with_programs())).programs


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fence_ipmilan", "ipmilan", "agent: String should match"),
        ("fence_ipmilan", "/usr/sbin/fence_ipmilan", "agent: String should match"),
        ("fence_ipmilan", "fence_x;reboot", "agent: String should match"),
        ("agent: fence_ipmilan", "agnet: fence_ipmilan", "agnet: unknown key; did you mean 'agent'?"),
        ('"1"', "1", "options.lanplus: Input should be a valid string, not 1"),
        ("{ip:", "{IP:", "options.IP: String should match"),
        ("{ip:", '{"action=on": x, ip:', "options.action=on: String should match"),
        ("{ip:", "{action: 'on', ip:", "options: 'action' is not for the configuration to say"),
        ("{ip:", "{option: 'on', ip:", "options: 'option' is not for the configuration to say"),
        (
            "{ip:",
            "{passwd: secret, ip:",
            "options: 'passwd' does not belong here: put it into a password_file",
        ),
        ("{ip:", "{password: secret, ip:", "options: 'password' does not belong here"),
        ("10.30.0.1", '"1\\naction=on"', "options: 'ip' must be one line of text"),
        ("/etc/vmheal/v01.fence", "v01.fence", "password_file: is not an absolute path"),
        ("      password_file:", "      timeout_seconds: 0\n      password_file:", "timeout_seconds: "),
    ],
)
def test_a_fault_of_a_fence_agent_is_said_with_its_place(write, old, new, said):
    found = problems(write(with_fence(old, new)))
    assert any(problem.startswith(f"hosts.v01.fence.{said}") for problem in found), found
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[/usr/local/bin/mail-oncall, --urgent]", "[]", "argv: "),
        ("/usr/local/bin/mail-oncall", "mail-oncall", "argv: 'mail-oncall' is not an absolute path"),
        (
            "[/usr/local/bin/mail-oncall, --urgent]",
            "/bin/mail --urgent",
            "argv: Input should be a valid tuple",
        ),
        ("--urgent", "5", "argv.1: Input should be a valid string, not 5"),
        ("--urgent", '"a\\0b"', "argv.1: String should match"),
        ("argv:", "args:", "args: unknown key; did you mean 'argv'?"),
        ("    argv:", "    timeout_seconds: -1\n    argv:", "timeout_seconds: "),
    ],
)
def test_a_fault_of_a_program_is_said_with_its_place(write, old, new, said):
    found = problems(write(with_programs(old, new)))
    assert any(problem.startswith(f"programs.mail-oncall.{said}") for problem in found), found


def test_a_program_has_a_plain_name(write):
    (problem,) = problems(write(with_programs("mail-oncall:", "'../mail':")))
    assert problem.startswith("programs.../mail: ")


@pytest.mark.parametrize("key", ["action", "option", "passwd", "password"])
def test_what_the_configuration_accepts_the_adapter_does(key):
    """And the other way round: a file that loads never fails later."""
    assert key in OURS
    assert FenceAgent("fence_ipmilan", {"ip": "10.30.0.1"}).agent == "fence_ipmilan"


def test_apart_holds_for_both_whoever_names_the_other(write):
    one = "  voms01:\n    host: v01\n    apart: [voms02, voms03]\n"
    others = "  voms02:\n    host: v01\n  voms03:\n    host: v01\n    apart: [voms01]\n"
    before, _, after = EXAMPLE.read_text().partition("domains:\n")
    apart = load(write(f"{before}domains:\n{one}{others}programs:{after.partition('programs:')[2]}")).apart()
    assert apart == {"voms01": {"voms02", "voms03"}, "voms02": {"voms01"}, "voms03": {"voms01"}}
