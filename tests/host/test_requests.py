"""What a line may ask for: the closed list, and whatever else a line may be."""

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.host.config import Config, ConfigError, parse, read
from exporter.host.requests import MAX_SECONDS, PROGRAMS, Allowed, Ping, Read, Refused, Run, Target, program
from exporter.host.requests import parse as parse_line

CONFIG = Config(resources=frozenset({"vm1", "vm-2.a+b"}))
ANY = Config(resources=frozenset({"*"}))
LAST = {Target.NONE: (), Target.RESOURCE: ("vm1",), Target.CONNECTION: ("vm1:v02.example",)}


def ask(words, config=CONFIG, **more):
    return parse_line(json.dumps({"id": 1, "seconds": 5, "run": list(words), **more}).encode(), config)


@pytest.mark.parametrize("row", PROGRAMS, ids=lambda row: " ".join(row.words))
def test_each_program_of_the_list_is_run_by_its_own_words(row):
    words = (*row.words, *LAST[row.target])
    assert ask(words) == Run(1, 5.0, words, row.changes)
    assert program(words) is row
    assert isinstance(ask((*words, "--force")), Refused)
    assert isinstance(ask(words[:-1]), Refused) or program(words[:-1])
    assert isinstance(ask(words[1:]), Refused)


def test_nothing_in_the_list_forces_or_destroys():
    words = " ".join(word for row in PROGRAMS for word in row.words)
    for never in (
        "force",
        "invalidate",
        "create-md",
        "detach",
        "attach",
        "down",
        "resume-io",
        "wipe",
        "uuid",
        "adjust",
    ):
        assert never not in words
    changing = {row.words[1] for row in PROGRAMS if row.changes}
    assert changing == {"primary", "secondary", "connect", "disconnect", "net-options"}


@pytest.mark.parametrize("word", ["vm1", "vm-2.a+b"])
def test_a_listed_resource_is_taken(word):
    assert isinstance(ask(("drbdadm", "primary", word)), Run)


@pytest.mark.parametrize(
    "word", ["all", "minor-0", "minor-12", "--force", "-f", "../x", "vm1\n", "", "vm1:v02", "x" * 129]
)
def test_a_word_that_drbdadm_takes_for_something_else_is_not(word):
    assert isinstance(ask(("drbdadm", "primary", word), ANY), Refused)


@given(st.text(max_size=40), st.sampled_from([CONFIG, ANY]))
def test_only_a_name_gets_through(word, config):
    asked = ask(("drbdadm", "primary", word), config)
    if isinstance(asked, Run):
        assert asked.argv == ("drbdadm", "primary", word)
        assert set(word) <= set(string.ascii_letters + string.digits + "_.+-")
        assert word[0] not in "-.+"
        assert word != "all"
        assert not word.startswith("minor-") or not word[6:].isdigit()
        assert config.allows_resource(word)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
WORDS = st.sampled_from(
    [*sorted({word for row in PROGRAMS for word in (*row.words, *LAST[row.target])}), "--force", "-", ":"]
)
SOMETHING_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-5, 5) | JSON,
        "seconds": st.integers(-5, 700) | JSON,
        "run": st.lists(WORDS | st.text(max_size=5), max_size=5) | JSON,
        "read": st.sampled_from(["/proc/drbd", "/etc/shadow"]) | JSON,
        "allowed": st.just(True) | JSON,
        "else": JSON,
    },
)


@given(
    st.binary(max_size=5000)
    | JSON.map(lambda it: json.dumps(it).encode())
    | SOMETHING_LIKE.map(lambda it: json.dumps(it).encode())
)
def test_a_line_asks_for_something_in_the_list_or_for_nothing(line):
    asked = parse_line(line, CONFIG)
    if isinstance(asked, Run):
        assert program(asked.argv) is not None
        assert 0 < asked.seconds <= MAX_SECONDS
        assert "--force" not in asked.argv
    elif isinstance(asked, Read):
        assert asked.path == "/proc/drbd"
    else:
        assert isinstance(asked, (Ping, Allowed, Refused))
        assert not isinstance(asked, Refused) or asked.sentence.isascii()


@pytest.mark.parametrize("seconds", [10**400, -(10**400), 1e308, float("nan"), float("inf"), True, "5", None])
def test_a_time_beyond_all_bounds_is_refused(seconds):
    asked = ask(("drbdadm", "dump-xml"), seconds=seconds)
    assert asked == Refused(1, "seconds: must be a number above 0, up to 600")


def test_a_configuration_names_what_is_allowed():
    text = """
    # of this host
    resource vm1   # the first
    resource vm2
    domain vm1
    migrate_uri qemu+tls://v02/system
    path /opt/drbd/bin:/bin
    """
    config = parse(text)
    assert config.resources == {"vm1", "vm2"}
    assert [config.allows_resource(name) for name in ("vm1", "vm2", "vm3", "")] == [True, True, False, False]
    assert [config.allows_domain(name) for name in ("vm1", "vm2")] == [True, False]
    assert config.path == "/opt/drbd/bin:/bin"
    assert parse("") == Config()
    assert not Config().allows_resource("vm1")
    assert parse("resource *").allows_resource("vm7")


@pytest.mark.parametrize("line", ["resource", "resources vm1", "path bin", "allow vm1", "run_directory ../x"])
def test_a_line_that_is_not_understood_serves_nobody(line):
    with pytest.raises(ConfigError, match=r"host\.conf:1: must be"):
        parse(line)


def test_a_configuration_that_others_may_write_serves_nobody(tmp_path):
    path = tmp_path / "host.conf"
    path.write_text("resource vm1\n")
    for mode in (0o664, 0o646):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="nobody else may write it"):
            read(str(path))
    path.chmod(0o644)
    assert read(str(path)).resources == {"vm1"}
    with pytest.raises(ConfigError, match="No such file"):
        read(str(tmp_path / "other"))
