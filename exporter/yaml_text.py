"""YAML that people and other programs write: whatever is wrong with it is one kind of error."""

from typing import Any

import yaml

_FAULTS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What PyYAML's constructors raise: for `!!timestamp x`, `!!int ''`, a 13th month, nesting without end."""


class MalformedYamlError(ValueError):
    """It is not YAML, or a value is not what its tag says; the message is one line."""


def load(text: str | bytes, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read a document, with nothing in it but plain data.

    Raises:
        MalformedYamlError: it cannot be read.
    """
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506  a safe one
    except yaml.YAMLError as error:
        raise MalformedYamlError(" ".join(str(error).split())) from error
    except _FAULTS as error:
        raise MalformedYamlError(f"a value that cannot be read ({type(error).__name__})") from error
