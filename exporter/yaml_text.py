"""YAML that people and other programs write: whatever is wrong with it is one kind of error.

Merges (`<<`) are not taken: a few lines of them, each of the ones before, become a mapping of millions.
"""

from typing import Any

import yaml

_FAULTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML's constructors raise: for `!!timestamp x`, `!!int ''`, a 13th month, nesting without end."""


class MalformedYamlError(ValueError):
    """It is not YAML, or a value is not what its tag says; the message is one line."""


class _Plain:
    """For a loader: what is written in a mapping is all that is in it."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges would be carried out here."""
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merges (<<) are not taken", key.start_mark
                )


def load(text: str | bytes, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a document, with nothing in it but plain data.

    Raises:
        MalformedYamlError: it cannot be read.
    """
    plain: Any = type(loader.__name__, (_Plain, loader), {})
    try:
        return yaml.load(text, Loader=plain)  # noqa: S506  a safe one
    except yaml.YAMLError as error:
        raise MalformedYamlError(" ".join(str(error).split())) from error
    except _FAULTS as error:
        raise MalformedYamlError(f"a value that cannot be read ({type(error).__name__})") from error
