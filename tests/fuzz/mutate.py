"""Makes bad inputs of good ones: bytes, words, numbers, lines, and the parts of JSON. The same seed, the same inputs."""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

ODD = (
    *(b"", b" ", b"\n", b"\r\n", b"\t", b"\0", b"\xff", b"\x80", b"\xc0\xae", b"\xed\xa0\x80", b"\xe2\x80\xa8"),
    *(b"\xd9\xa3", b"\xc2\xb2", b"0", b"-0", b"-1", b"1e999", b"-1e999", b"1e308", b"NaN", b"inf", b"0x10", b"1_0"),
    *(b"2147483648", b"9223372036854775808", b"18446744073709551616", b"9" * 400, b"9" * 5000),
    *(b"null", b"true", b"[]", b"{}", b'""', b"''", b"[" * 3000, b'{"a":' * 3000, b"<a>" * 3000, b"<a>" * 900),
    *(b'"\\ud800"', b'"\\u0000"', b"&a;", b"<!--", b"<![CDATA[", b"]]>", b"!!int ''", b"!!bool x", b"!!timestamp x"),
    *(b"!!float ''", b"!!binary x", b"? [a]\n: b", b"&a [*a]", b"<<: *a", b"2001-13-45", b"%", b"%00", b"%ff", b"\\"),
    *(b"../", b"/", b"//", b":", b"::", b"=", b",", b";", b"#", b'"', b"'", b"-", b"--", b".", b"*", b"@", b"[", b"]"),
    *(b"all", b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59", b"a" * 64, b"x" * 10_000),
)  # fmt: skip
ODD_VALUES = (
    *(None, True, False, 0, -1, 1.5, 10**20, 10**400, 1e308, float("nan"), float("inf"), [], {}, [[]], [None]),
    *("", "\0", "\ud800", "x" * 10_000, "../..", "all", "--force", "1", "\u0663", {"": {}}, ["a", 1]),
)  # fmt: skip
_NUMBER = re.compile(rb"\d+")
_WORD = re.compile(rb"[A-Za-z0-9_.-]+")


def mutated(random: Random, samples: Sequence[bytes], words: Sequence[bytes], most: int) -> bytes:
    """One more input."""
    return changed(random, random.choice(samples), samples, words, most)


def changed(
    random: Random, content: bytes, samples: Sequence[bytes], words: Sequence[bytes], most: int
) -> bytes:
    """It, changed once or some times."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        content = random.choice(_WAYS)(random, content, samples, words)[: 2 * most]
    return content[:most]


def _byte(random: Random, content: bytes, *_: object) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + bytes([random.randrange(256)]) + content[at + random.randrange(2) :]


def _cut(random: Random, content: bytes, *_: object) -> bytes:
    begin, end = _range(random, content)
    return content[:begin] + content[end:]


def _again(random: Random, content: bytes, *_: object) -> bytes:
    begin, end = _range(random, content)
    times = random.choice((1, 1, 2, 10, 100, 1000))
    return content[:end] + content[begin:end] * times + content[end:]


def _odd(random: Random, content: bytes, _samples: object, words: Sequence[bytes]) -> bytes:
    begin, end = _range(random, content, 8)
    word = random.choice(words) if words and random.random() < 0.5 else random.choice(ODD)
    return content[:begin] + word + content[random.choice((begin, end)) :]


def _number(random: Random, content: bytes, *_: object) -> bytes:
    return _replaced(random, content, _NUMBER, ODD)


def _word(random: Random, content: bytes, _samples: object, words: Sequence[bytes]) -> bytes:
    others = [found[0] for found in _WORD.finditer(content[:4096])]
    return _replaced(random, content, _WORD, [*others, *words, *words, *ODD[:20]])


def _line(random: Random, content: bytes, *_: object) -> bytes:
    lines = content.splitlines(keepends=True) or [b""]
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(3):
        case 0:
            lines[one], lines[other] = lines[other], lines[one]
        case 1:
            lines.insert(one, lines[other])
        case _:
            del lines[one]
    return b"".join(lines)


def _splice(random: Random, content: bytes, samples: Sequence[bytes], _words: object) -> bytes:
    other = random.choice(samples)
    return content[: random.randrange(len(content) + 1)] + other[random.randrange(len(other) + 1) :]


def _json(random: Random, content: bytes, *_: object) -> bytes:
    try:
        whole = [json.loads(content)]
    except (ValueError, RecursionError):
        return _byte(random, content)
    inside: Any = whole
    while True:
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        key: Any = random.choice(keys)
        if not inside[key] or not isinstance(inside[key], dict | list) or random.random() < 0.2:
            break
        inside = inside[key]
    match random.randrange(4):
        case 0 if inside is not whole:
            del inside[key]
        case 1:
            inside[key] = [inside[key]]
        case 2 if isinstance(inside, dict):
            inside[random.choice(("", "x", "id", key))] = random.choice(ODD_VALUES)
        case _:
            inside[key] = random.choice(ODD_VALUES)
    return json.dumps(whole[0], ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")


_WAYS: tuple[Callable[..., bytes], ...] = (
    *(_byte, _cut, _again, _odd, _odd, _number, _word, _word, _line, _splice, _json, _json),
)  # fmt: skip


def _range(random: Random, content: bytes, most: int = 1 << 16) -> tuple[int, int]:
    begin = random.randrange(len(content) + 1)
    size = min(most, len(content) - begin, 1 << random.randrange(12))
    return begin, begin + random.randrange(size + 1)


def _replaced(random: Random, content: bytes, what: re.Pattern[bytes], by: Sequence[bytes]) -> bytes:
    begin = random.randrange(len(content) + 1)
    found = what.search(content, begin) or what.search(content)
    return content if found is None else content[: found.start()] + random.choice(by) + content[found.end() :]
