"""Who may do what: every credential against every right, and files of tokens that change."""

import pathlib

import pytest
from structlog.testing import capture_logs

from actuator.config import MAX_TOKENS, ConfigError, read_tokens
from actuator.rights import Holder, NotAllowedError, Right, Rights
from actuator.tokens import TokenFiles

WHO = {
    "alertmanager": Right.DELIVER,
    "v01": Right.ARBITRATE,
    "v02": Right.ARBITRATE,
    "operator": Right.ORDER,
    "reader": Right.READ,
}
ALL = Rights(
    [
        Holder(right, who, lambda who=who: (f"old-{who}", f"token-{who}"), frozenset({f"{who}.example"}))
        for who, right in WHO.items()
    ]
)


def shown(rights, right, authorization="", *names):
    try:
        return rights.check(right, authorization, names)
    except NotAllowedError as error:
        return "a token was said" if "token-" in str(error) else None


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize("who", WHO)
def test_a_credential_opens_its_own_right_alone(who, right):
    opens = who if WHO[who] is right or (who, right) == ("operator", Right.READ) else None
    assert shown(ALL, right, f"Bearer token-{who}") == opens
    assert shown(ALL, right, f"bearer  old-{who} ") == opens
    assert shown(ALL, right, "", f"{who}.example") == opens
    assert shown(ALL, right, f"Bearer token-{who}", f"{who}.example", "more.example") == opens


@pytest.mark.parametrize("right", Right)
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer ", "Bearer x", "Basic token-v01", "token-v01", "Bearer \xff\xfe"]
)
def test_nothing_opens_nothing(right, authorization):
    assert shown(ALL, right, authorization) is None
    assert shown(ALL, right, authorization, "v03.example", "") is None


def test_a_certificate_is_nothing_that_a_person_types():
    assert ALL.has_token(Right.ORDER)
    by_certificate = Rights([Holder(Right.ORDER, "operator", names=frozenset({"operator.example"}))])
    assert by_certificate.held(Right.ORDER)
    assert not by_certificate.has_token(Right.ORDER)


@pytest.mark.parametrize(
    ("token", "right"),
    [
        ("token-operator", Right.ORDER),
        ("old-reader", Right.READ),
        ("token-v01", None),
        ("token-alertmanager", None),
    ],
)
def test_what_a_person_types_is_for_orders_or_for_reading(token, right):
    assert ALL.of_token(token) is right


def test_what_is_brought_must_all_be_right_and_of_one():
    ask = Right.ARBITRATE
    assert shown(ALL, ask, "Bearer token-v01", "v01.example") == "v01"
    assert shown(ALL, ask, "Bearer token-v02", "v01.example") is None
    assert shown(ALL, ask, "Bearer guess", "v01.example") is None
    assert shown(ALL, ask, "Basic x", "v01.example") is None
    assert shown(ALL, ask, "", "v01.example", "v02.example") is None


def test_reading_is_free_until_somebody_holds_it():
    free = Rights([Holder(Right.ORDER, "operator", lambda: ("o",))])
    assert shown(free, Right.READ) == "anybody"
    assert shown(free, Right.READ, "Bearer whatever") == "anybody"
    assert shown(free, Right.ORDER) is None
    assert shown(Rights([]), Right.DELIVER, "Bearer ") is None


def test_what_a_person_types():
    assert ALL.of_token("token-operator") is Right.ORDER
    assert ALL.of_token("old-reader") is Right.READ
    assert [ALL.of_token(it) for it in ("", "x", "token-v01", "token-alertmanager")] == [None] * 4


# ---- files -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"token-{name}\n")
    return TokenFiles({name: tmp_path / name for name in ("a", "b")})


def test_a_token_is_rotated(files, tmp_path):
    assert files.of("a") == ("token-a",)
    with capture_logs() as lines:
        (tmp_path / "a").write_text("token-a\nnewer\n")
        assert files.of("a") == ("token-a", "newer")
        pathlib.Path(_written(tmp_path / "new", "newer")).replace(tmp_path / "a")
        assert files.of("a") == ("newer",)
    assert [line["tokens"] for line in lines] == [2, 1]
    assert "newer" not in repr(lines)


def _written(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("bad", [None, "", "\n \n", "two words\n", "token-b\n", "\xff", "x\n" * 11])
def test_a_change_that_cannot_be_used_changes_nothing_and_is_told_once(files, tmp_path, bad):
    (tmp_path / "a").unlink() if bad is None else (tmp_path / "a").write_text(bad, encoding="latin-1")
    with capture_logs() as lines:
        assert files.of("a") == ("token-a",)
        assert files.of("a") == ("token-a",)
    assert [line["log_level"] for line in lines] == ["error"]
    assert f"a: {tmp_path / 'a'}: " in lines[0]["reason"]
    assert "token-" not in lines[0]["reason"]
    (tmp_path / "a").write_text("mended")
    assert files.of("a") == ("mended",)


def test_at_the_start_it_is_an_error(tmp_path):
    _written(tmp_path / "a", "same")
    with pytest.raises(ConfigError, match=r"b: .*/a: the same token as a$"):
        TokenFiles({"a": tmp_path / "a", "b": tmp_path / "a"})
    with pytest.raises(ConfigError, match=r"c: .*/c: No such file"):
        TokenFiles({"c": tmp_path / "c"})


def test_so_many_tokens_and_no_more(tmp_path):
    lines = [f"t{number}" for number in range(MAX_TOKENS)]
    assert read_tokens(_written(tmp_path / "a", "\r\n".join(["", *lines, ""]))) == tuple(lines)
    with pytest.raises(ConfigError, match="must hold tokens"):
        read_tokens(_written(tmp_path / "a", "\n".join([*lines, "one-more"])))
