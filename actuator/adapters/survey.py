"""One look around on a host that vmheal does not know yet, for ``init``. Nothing there is changed."""

import re
import time
from contextlib import closing

import paramiko

from actuator.adapters.drbd_storage import DrbdStorage
from actuator.adapters.libvirt_hypervisor import LibvirtHypervisor, strict_uri
from actuator.adapters.ssh import SshAccess, SshHost
from actuator.core.replica import resource_of
from actuator.initial import DomainFound, HostFound, ResourceFound
from actuator.model import Parting
from actuator.ports import Unanswered
from exporter.drbd import Snapshot

DRIVERS = {True: ("xen",), False: ("qemu", "lxc")}
"""By whether it is a Xen host."""
HYPERVISOR_TYPE = "/sys/hypervisor/type"
DRBD_COMMON = "/etc/drbd.d/global_common.conf"
DRBD_VERSION = re.compile(r"version: 9\.")
"""In /proc/drbd, of DRBD 9."""
BMC = ("ipmitool", "lan", "print", "1")
MAX_DOMAINS = 1000
SSH_PORT = 22
"""The one that known_hosts leaves out."""


def look_around(access: SshAccess, *, timeout_seconds: float) -> HostFound:
    """See what there is: the host's name, its DRBD resources, its domains, its way to be powered off.

    Raises:
        Unanswered: the host cannot be logged in to.
    """
    deadline = time.monotonic() + timeout_seconds
    with closing(SshHost(access.address, access)) as ssh:
        name = _asked(ssh, ("uname", "-n"), deadline)
        if not name:
            raise Unanswered(f"{access.address}: uname -n says nothing")
        is_xen = _asked(ssh, ("cat", HYPERVISOR_TYPE), deadline) == "xen"
        drbd_common = _asked(ssh, ("cat", DRBD_COMMON), deadline)
        drbd_nine = DRBD_VERSION.match(_asked(ssh, ("cat", "/proc/drbd"), deadline)) is not None
        bmc = _field(_asked(ssh, BMC, deadline), "IP Address")
    problems: list[str] = []
    snapshot, partings = _storage(name, access, deadline, problems)
    uris = [f"{driver}+ssh://{_bracketed(access.address)}/system" for driver in DRIVERS[is_xen]]
    uri, domains = "", dict[str, DomainFound]()
    for tried in uris:
        try:
            found = _domains(name, tried, access, snapshot, deadline)
        except Unanswered as error:
            problems.append(f"{tried}: {error}")
            continue
        if not uri or found:
            uri, domains = tried, found
    resources = {
        it.name: ResourceFound(
            hosts=tuple(sorted({name, *(connection.name for connection in it.connections)})),
            parting=partings.get(it.name),
        )
        for it in snapshot.resources
    }
    return HostFound(
        name,
        access.address,
        uri or uris[0],
        resources,
        domains,
        bmc,
        tuple(problems),
        _host_keys(access),
        libvirt_answers=bool(uri),
        drbd_common=f"{drbd_common}\n" if drbd_common else "",
        drbd_nine=drbd_nine,
    )


def _host_keys(access: SshAccess) -> tuple[str, ...]:
    """Its lines of the known_hosts file, with its address in clear."""
    place = access.address if access.port == SSH_PORT else f"[{access.address}]:{access.port}"
    known = paramiko.HostKeys(str(access.known_hosts_file)).lookup(place)
    return () if known is None else tuple(f"{place} {kind} {it.get_base64()}" for kind, it in known.items())


def _asked(ssh: SshHost, argv: tuple[str, ...], deadline: float) -> str:
    """What a program prints; nothing when it is not there, or fails."""
    try:
        done = ssh.run(argv, max(0.1, deadline - time.monotonic()))
    except OSError as error:
        raise Unanswered(f"{ssh.host}: {error}") from error
    return done.stdout.strip() if done.exit_status == 0 else ""


def _field(text: str, name: str) -> str:
    """The value of a line `IP Address              : 10.30.0.1`."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name and value.strip() not in {"", "0.0.0.0"}:  # noqa: S104  compared, not bound
            return value.strip()
    return ""


def _storage(
    name: str, access: SshAccess, deadline: float, problems: list[str]
) -> tuple[Snapshot, dict[str, Parting]]:
    with closing(DrbdStorage({name: access})) as storage:
        try:
            snapshot = storage.status(name, timeout_seconds=max(0.1, deadline - time.monotonic()))
            partings = storage.armed(name, timeout_seconds=max(0.1, deadline - time.monotonic()))
        except Unanswered as error:
            problems.append(f"DRBD on {name}: {error}")
            return Snapshot((), ()), {}
    return snapshot, dict(partings)


def _domains(
    name: str, uri: str, access: SshAccess, snapshot: Snapshot, deadline: float
) -> dict[str, DomainFound]:
    """Each domain that is defined there.

    Raises:
        Unanswered: this libvirt does not answer, or has too many.
    """

    def left() -> float:
        return max(0.1, deadline - time.monotonic())

    with closing(LibvirtHypervisor({name: strict_uri(uri, access)}, {name: access.logins})) as libvirt:
        states = libvirt.states(name, timeout_seconds=left())
        if len(states) > MAX_DOMAINS:
            raise Unanswered(f"more than {MAX_DOMAINS} domains")
        autostarted = libvirt.host_view(name, timeout_seconds=left()).autostarted
        found = {}
        for domain, state in states.items():
            view = libvirt.look(name, domain, timeout_seconds=left())
            disks = () if view is None else view.disks
            resources = [resource_of(disk, snapshot) for disk in disks if disk.writable]
            found[domain] = DomainFound(
                state=state,
                resources=tuple(sorted({it.name for it in resources if it is not None})),
                others=tuple(
                    disk.source for disk in disks if disk.writable and resource_of(disk, snapshot) is None
                ),
                autostart=domain in autostarted,
            )
    return found


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
