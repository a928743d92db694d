"""The fixtures of the actuator's tests."""

from tests.actuator.conftest import clock, folders, machines

__all__ = ["clock", "folders", "machines"]
