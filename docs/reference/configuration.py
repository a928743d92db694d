"""docs/configuration.md, from the typed settings: keys, types, bounds, defaults, docstrings."""

import ast
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from actuator import config
from actuator.config import Settings

_HEAD = """\
# Configuration

`/etc/vmheal/actuator.yml`, YAML. Every key is known, every value typed and bounded: `vmheal-actuator check`
says what is wrong, and a file with a fault is not used at all. [actuator.yml](actuator.yml) is a commented
example with the defaults filled in. Durations are numbers of seconds. Secrets are in files of their own.

What takes a restart, and how the rest is reloaded: [operations](operations.md#changing-the-configuration).

This page is written from the code by `make reference`.
"""


def page() -> str:
    """Return the page."""
    schema = Settings.model_json_schema()
    docs = _docstrings()
    lines = [_HEAD]
    for path, title, section in _sections("", schema, schema["$defs"]):
        lines += [f"## {path or 'The file'}", ""]
        if path:
            lines += [_plain(section.get("description", "")), ""]
        lines += ["| key | value | default | |", "|---|---|---|---|"]
        for key, value in section["properties"].items():
            default = "required" if key in section.get("required", ()) else _default(value)
            about = docs[title][key]
            lines.append(f"| `{key}` | {_type(value, schema['$defs'])} | {default} | {about} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _sections(
    path: str, section: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    yield path, section["title"], section
    for key, value in section["properties"].items():
        below = f"{path}.{key}" if path else key
        for reference, name in _references(value):
            if "properties" in known[reference]:
                yield from _sections(f"{below}.{name}" if name else below, known[reference], known)


def _references(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name each section that the value is or has, and what stands for its name in the path."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], ""
    for one in value.get("anyOf", ()):
        yield from _references(one)
    for one in value.get("patternProperties", {}).values():
        yield from ((reference, "NAME") for reference, _ in _references(one))


def _type(value: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    match value:
        case {"$ref": str(reference)}:
            words = known[reference.rpartition("/")[2]].get("enum", ())
            said = ", ".join(f"`{word}`" for word in words) or "section"
        case {"anyOf": choices}:
            said = " or ".join(_type(one, known) for one in choices if one.get("type") != "null")
        case {"patternProperties": _}:
            said = "mapping of names"
        case {"type": "array"}:
            said = "list"
        case {"type": "boolean"}:
            said = "`true` or `false`"
        case {"type": "integer" | "number" as kind}:
            said = f"{kind}{_bounds(value)}"
        case {"format": "path"}:
            said = "absolute path"
        case {"type": "string"}:
            said = "text"
        case _:
            said = "mapping"
    return said


def _bounds(value: Mapping[str, Any]) -> str:
    parts = [
        f"{words} {value[key]:,}"
        for key, words in {"exclusiveMinimum": "over", "minimum": "from", "maximum": "to"}.items()
        if key in value
    ]
    return f", {' '.join(parts)}" if parts else ""


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"


def _docstrings() -> dict[str, dict[str, str]]:
    """By class and field: what stands below it in the source."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef):
            fields = found.setdefault(node.name, {})
            for base in node.bases:
                fields |= found.get(getattr(base, "id", ""), {})
            for it, below in zip(node.body, node.body[1:], strict=False):
                match it, below:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(said))),
                    ):
                        fields[name] = _plain(said)
    return found


def _plain(said: str) -> str:
    return " ".join(said.replace("``", "`").replace("|", "\\|").split())
