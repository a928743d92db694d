"""Each target, for a moment: what ever was a fault, and some hundred inputs of a fixed seed. `make fuzz` looks further."""

from random import Random

import pytest

from tests.fuzz import files, outputs, strangers
from tests.fuzz.mutate import mutated
from tests.fuzz.target import TARGETS, Target, fault

INPUTS = 300
assert files, outputs
assert strangers


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_as_it_should_be_is_no_fault(name):
    assert TARGETS[name].samples
    assert {fault(TARGETS[name], it) for it in TARGETS[name].samples} == {None}


@pytest.mark.parametrize("name", TARGETS)
def test_something_is_understood(name):
    """A target that refuses all of its own samples asks nothing."""
    assert any(understood(TARGETS[name], it) for it in TARGETS[name].made())


def understood(it: Target, content: bytes) -> bool:
    try:
        it.take(content)
    except it.raises:
        return False
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_what_nobody_should_send_is_no_fault(name):
    it, random = TARGETS[name], Random(1)
    for _ in range(INPUTS):
        content = mutated(random, it.samples, it.words, it.most)
        assert fault(it, content) is None, content[:1000]
