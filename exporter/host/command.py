"""vmheal-host: what sshd runs, whatever the actuator's key asks for.

    # /etc/vmheal/authorized_keys
    restrict,command="/usr/bin/vmheal-host" ssh-ed25519 AAAA... vmheal

It reads from SSH_ORIGINAL_COMMAND which of two things is wanted, and nothing else of it: `vmheal-host`, for
requests about DRBD (exporter.host.requests), or what libvirt sends to reach libvirtd (exporter.host.relay).
Everything else is refused, and so is what /etc/vmheal/host.conf does not name. It becomes root by one of
sudo's rules, which have no room for anything that was sent. In syslog as vmheal-host.
"""

import contextlib
import fcntl
import os
import re
import sys
import syslog
from collections.abc import Mapping, Sequence
from typing import NoReturn

from exporter.host import config as configuration
from exporter.host.config import Config, ConfigError

USAGE = "vmheal-host is run by sshd, as the only command of the actuator's key (docs/security.md)"
SUDO = ("/usr/bin/sudo", "-n", "/usr/bin/vmheal-host")
DRIVERS = ("qemu", "xen", "lxc")
PLACES = {"serve": 8, **dict.fromkeys(DRIVERS, 24)}
"""How many connections of each kind are served at the same time: the actuator needs 1 and up to 9, and
as many again while old ones end."""
REFUSED, BUSY = 126, 75

_LIBVIRT = re.compile(rf"sh -c 'virt-ssh-helper '?({'|'.join(DRIVERS)}):///(?:system)?'?'")
"""What libvirt 6.8 and later sends with ``proxy=native``."""


class RefusedError(Exception):
    """It is not done; the message says why."""


def main() -> NoReturn:
    """Run as the forced command, and once more as root."""
    syslog.openlog("vmheal-host", syslog.LOG_PID, syslog.LOG_AUTHPRIV)
    try:
        status = run(sys.argv[1:], os.environ)
    except (RefusedError, ConfigError) as error:
        say(f"refused: {error}")
        print(f"vmheal-host: {error}", file=sys.stderr)  # noqa: T201  for who is at the other end
        status = REFUSED
    except BlockingIOError:
        say("refused: too many connections")
        print("vmheal-host: too many connections", file=sys.stderr)  # noqa: T201  as above
        status = BUSY
    except Exception as error:  # noqa: BLE001  no traceback for strangers
        say(f"{type(error).__name__}: {error}")
        print("vmheal-host: failed; this host's log says why", file=sys.stderr)  # noqa: T201  as above
        status = 1
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)  # whatever threads still wait for


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Do what is wanted; the exit status.

    Raises:
        RefusedError: it is none of what may be.
        ConfigError: the host's configuration is not as it must be.
        BlockingIOError: as many connections as may be are served.
    """
    path = configuration.CONFIG
    if arguments[:1] == ["--config"] and len(arguments) > 1:
        path, arguments = arguments[1], arguments[2:]
    if not arguments:
        kind = wanted(environment.get("SSH_ORIGINAL_COMMAND"))
        say(f"{kind} for {environment.get('SSH_CONNECTION', 'nobody')}")
        if os.geteuid() != 0:
            os.execv(SUDO[0], [*SUDO, kind])  # noqa: S606  an argv, no shell
    elif len(arguments) == 1 and arguments[0] in PLACES:
        kind = arguments[0]
    else:
        raise RefusedError(USAGE)
    return _serve(kind, configuration.read(path))


def wanted(command: str | None) -> str:
    """Which of `PLACES` a command asks for.

    Raises:
        RefusedError: none.
    """
    if command is None:
        raise RefusedError("no shell: " + USAGE)
    if command == "vmheal-host":
        return "serve"
    if found := _LIBVIRT.fullmatch(command):
        return found[1]
    raise RefusedError(f"{command[:200]!a} may not be run with this key")


def _serve(kind: str, config: Config) -> int:
    place = _take_place(kind, config.run_directory)
    try:
        if kind == "serve":
            from exporter.host import serve  # noqa: PLC0415  the two need different things

            return serve.main(config, say)
        from exporter.host import relay  # noqa: PLC0415  as above

        return relay.main(kind, config, say)
    finally:
        os.close(place)


def _take_place(kind: str, directory: str) -> int:
    """Lock one of the places; it is free again when this process ends, however it does.

    Raises:
        BlockingIOError: all are taken.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)  # noqa: PTH102  pathlib takes time to import
    for number in range(PLACES[kind]):
        place = os.open(
            f"{directory}/{kind}.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(place)
        else:
            return place
    raise BlockingIOError


def say(sentence: str) -> None:
    """Write one line to syslog."""
    syslog.syslog(syslog.LOG_NOTICE, sentence[:1000].encode("ascii", "backslashreplace").decode())


if __name__ == "__main__":
    main()
