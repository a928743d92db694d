"""`vmheal-fence-peer check`: would the handler do its work now, and what only the host itself can see.

It asks, and touches nothing: neither DRBD nor a VM nor what the arbiter has written. With --json for the
actuator, which rehearses (docs/readiness.md):

    {"time": 1700000000.1, "host": "v01", "isolation_seconds": 5.0, "links": {"br0": true},
     "cpu": "AMD EPYC 7543 32-Core Processor", "problems": []}

`time` is the host's clock, `host` whom the arbiter takes it for by its token (empty: not answered), `links`
its network interfaces and whether each is up, `cpu` what its processor calls itself. Exit status 1 when there
are problems.
"""

import json
import os
import sys
import time
from collections.abc import Iterator

from exporter.fence_peer import ASK_SECONDS, Config, HookError, command, exchange, read_config, read_text

HELPER = "/sys/module/drbd/parameters/usermode_helper"
NET = "/sys/class/net"
IFF_UP = 1
"""Of an interface's flags (netdevice(7)): somebody has set it up, whether or not it has a carrier."""


def check(path: str, *, as_json: bool, helper: str = HELPER, net: str = NET) -> int:
    """Ask, and print what was found.

    Args:
        path: the handler's configuration.
        as_json: for a program.
        helper: where DRBD's kernel module says what it runs.
        net: where the kernel shows the network interfaces.
    """
    problems = list(_helper(helper))
    host, isolation_seconds = "", None
    try:
        config = read_config(path)
    except (HookError, OSError) as error:
        problems.append(str(error))
    else:
        isolation_seconds = config.isolation_seconds
        problems += _virsh(config)
        host, unanswered = _arbiter(config)
        if not host:
            problems.append(f"no actuator answers: {unanswered}")
    if as_json:
        found = {
            "host": host,
            "isolation_seconds": isolation_seconds,
            "links": links(net),
            "cpu": cpu(),
            "problems": problems,
            "time": time.time(),  # read last: it has just been sent when it is received
        }
        sys.stdout.write(f"{json.dumps(found)}\n")
    else:
        sys.stdout.writelines(f"{it}\n" for it in problems or [f"ok: the arbiter knows this host as {host}"])
    return 1 if problems else 0


def links(net: str) -> dict[str, bool]:
    """Return the host's network interfaces, bridges too, and whether each is up."""
    found = {}
    for name in os.listdir(net):  # noqa: PTH208  pathlib takes time to import
        try:
            found[name] = bool(int(read_text(f"{net}/{name}/flags"), 16) & IFF_UP)
        except (OSError, ValueError):  # it went away, or is no interface (bonding_masters)
            continue
    return found


def cpu() -> str:
    """Return what the host's processor calls itself; empty where it does not, as on ARM."""
    lines = read_text("/proc/cpuinfo").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _helper(path: str) -> Iterator[str]:
    """DRBD runs one program for all its handlers, which finds them in the configuration."""
    try:
        helper = read_text(path).strip()
    except OSError:
        return  # the module is not loaded: nothing is up
    if os.path.basename(helper) != "drbdadm":  # noqa: PTH119
        yield f"DRBD runs {helper} for its handlers, and not drbdadm (module parameter usermode_helper)"
    elif not os.access(helper, os.X_OK):
        yield f"DRBD runs {helper} for its handlers, which is not there"


def _virsh(config: Config) -> Iterator[str]:
    """A VM that is to be ended must be found."""
    if not config.libvirt_uris:
        yield "no libvirt_uri is configured: the VMs of this host would not be ended when it is cut off"
    for uri in config.libvirt_uris:
        try:
            done = command(["virsh", "--quiet", "--connect", uri, "uri"], ASK_SECONDS)
        except OSError as error:
            yield f"virsh: {error}"
        else:
            if done.status:
                yield f"virsh --connect {uri}: {' '.join(done.error.split())[:300]}"


def _arbiter(config: Config) -> tuple[str, str]:
    """Whom the first actuator that answers takes this host for; else what each said."""
    said = []
    for actuator in config.actuators:
        try:
            return str(exchange(actuator, config.token, None)["host"]), ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            said.append(f"{actuator}: {error}")
    return "", "; ".join(said)
