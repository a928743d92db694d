"""libvirt's messages between an SSH connection and libvirtd, each judged by `libvirt_calls` on its way."""

import os
import socket
import struct
import threading
from collections.abc import Callable

from exporter.host.config import Config
from exporter.host.libvirt_calls import MAX_CALL_BYTES, MAX_REPLY_BYTES, Guard, MalformedError

SOCKETS = ("/run/libvirt/virt{}d-sock", "/run/libvirt/libvirt-sock")
"""Of a driver's own daemon, or of the one for all."""
CONNECT_SECONDS = 10.0
MAX_SAID = 20
"""Refusals in the log, of one connection."""
_SIZE = struct.Struct(">I")


class Relay:
    """Relays until one side ends."""

    def __init__(self, guard: Guard, daemon: socket.socket, say: Callable[[str], None]) -> None:
        self._guard = guard
        self._daemon = daemon
        self._say = say
        self._said = 0
        self._giving = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        """Relay both ways, each in a thread, until one side ends or breaks the rules."""
        for way in (self._inward, self._outward):
            threading.Thread(target=self._until_end, args=(way,), daemon=True).start()
        self._ended.wait()

    def _until_end(self, way: Callable[[], None]) -> None:
        try:
            way()
        except (OSError, EOFError):
            pass  # one side is gone
        except MalformedError as error:
            self._say(f"refused: {error}")
        finally:
            self._ended.set()

    def _inward(self) -> None:
        while True:
            message = _message(lambda size: os.read(0, size), MAX_CALL_BYTES)
            answer = self._guard.answer(message)
            if answer is None:
                self._daemon.sendall(_SIZE.pack(len(message) + _SIZE.size) + message)
                continue
            self._said += 1
            if self._said <= MAX_SAID:
                self._say(f"refused: {answer[40:].decode('ascii', 'replace').rstrip(chr(0))}")
            self._give(answer)

    def _outward(self) -> None:
        while True:
            message = _message(self._daemon.recv, MAX_REPLY_BYTES)
            self._guard.learn(message)
            self._give(message)

    def _give(self, message: bytes) -> None:
        rest = memoryview(_SIZE.pack(len(message) + _SIZE.size) + message)
        with self._giving:
            while rest:
                rest = rest[os.write(1, rest) :]


def _message(read: Callable[[int], bytes], most: int) -> bytes:
    """Read one message, without its length.

    Raises:
        EOFError: the side has ended.
        MalformedError: it is too long, or too short.
    """
    (size,) = _SIZE.unpack(_exactly(read, _SIZE.size))
    if not _SIZE.size < size <= most:
        raise MalformedError(f"a message of {size} bytes")
    return _exactly(read, size - _SIZE.size)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        chunk = read(min(size - len(content), 1 << 16))
        if not chunk:
            raise EOFError
        content += chunk
    return bytes(content)


def main(driver: str, config: Config, say: Callable[[str], None]) -> int:
    """Relay this process's own input and output; the exit status."""
    with socket.socket(socket.AF_UNIX) as daemon:
        daemon.settimeout(CONNECT_SECONDS)
        paths = [path.format(driver) for path in SOCKETS]
        daemon.connect(paths[0] if os.path.exists(paths[0]) else paths[1])  # noqa: PTH110  pathlib takes time
        daemon.settimeout(None)
        Relay(Guard(driver, config), daemon, say).run()
    return 0
