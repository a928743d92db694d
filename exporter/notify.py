"""What a service tells systemd: that it is ready, that it is alive, what it does (sd_notify(3)).

A datagram to the socket that systemd names. Outside of systemd nothing is sent.
"""

import os
import socket
import time


def notify(*states: str) -> None:
    """Send states like ``READY=1``. A systemd that does not listen is not ours to mend: nothing is raised."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send("\n".join(states).encode())
    except OSError:
        return


def reloading() -> None:
    """A reload begins; ``READY=1`` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """How often ``WATCHDOG=1`` is to be sent: twice as often as systemd wants; None: it does not watch."""
    microseconds, process = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or process not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6 / 2 or None
