"""How a channel of vmheal-host ends, without a server."""

import json
import threading

import pytest

from actuator.adapters.host_command import BrokenError, HostCommand
from exporter.host.requests import VERSION

SOON = 10


class Channel:
    """A paramiko channel whose connection goes once it has said hello."""

    def __init__(self):
        self.chunks = [json.dumps({"vmheal-host": VERSION}).encode() + b"\n"]
        self.closed = threading.Event()

    def settimeout(self, seconds):
        pass

    def recv(self, most):
        return self.chunks.pop(0) if self.chunks else b""

    def close(self):
        self.closed.set()
        raise EOFError  # as paramiko.Packetizer.write_all does when the socket is gone


def test_a_connection_that_goes_first_ends_nothing_else():
    """Not in a thread's traceback either: the test run turns those into errors."""
    channel = Channel()
    host = HostCommand(channel, SOON)
    assert channel.closed.wait(SOON)
    assert not host.alive()
    with pytest.raises(BrokenError):
        host.read("/proc/drbd", float("inf"), "read /proc/drbd")
