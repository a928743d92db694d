"""What is wrong with something that was read, in a few words."""

from pydantic import ValidationError


def first_fault(error: ValidationError) -> str:
    """Say the first fault, after the path to it. No values: they may be long, or secret."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place}: {fault['msg']}" if place else fault["msg"]
