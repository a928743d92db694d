"""What changes a domain through libvirt: each call checks first that it is still the domain that is meant.

libvirt's migration is bounded from outside: it has no deadline, and the connection that it was called on is
taken until it ends. See `libvirt_hypervisor` for the connections and the deadlines.
"""

import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import libvirt

from actuator.core.definition import differ, with_uuid
from actuator.model import CallOutcome, DomainState, Done, Failed, Indeterminate, LiveMigration
from actuator.ports import Unanswered
from exporter.libvirt_domain import state_name

ALIVE = {DomainState.RUNNING, DomainState.BLOCKED, DomainState.PAUSED}
_DEAF = {DomainState.SHUTOFF, DomainState.CRASHED, DomainState.PMSUSPENDED}
"""Those of an active domain whose guest cannot be asked."""

SETTLE_SECONDS = 10.0
"""After a migration's call came back: for so long the two sides may need until one alone has the domain."""
POLL_SECONDS = 0.2
_PAUSE = threading.Event()


class Gate:
    """Lets a change begin, or forbids it for good: none begins after its caller was told that it did not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._passed = False

    def enter(self) -> None:
        """Go on to the change.

        Raises:
            TimeoutError: the caller is gone.
        """
        with self._lock:
            if self._closed:
                raise TimeoutError("too late to begin")
            self._passed = True

    def close(self) -> bool:
        """Let nobody in any more; True when somebody went in before."""
        with self._lock:
            self._closed = True
            return self._passed


class Change(Protocol):
    """A change of something on a host, by one connection to its libvirtd."""

    def __call__(self, handle: Any, *, gate: Gate) -> CallOutcome:
        """Check what is there, enter the gate, change, read back.

        An error of libvirt may pass through: without effect before the gate, of unknown effect after it.
        """


def find(handle: Any, name: str) -> Any | None:
    """The domain of this name, None when none is defined or runs."""
    try:
        return handle.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def id_of(domain: Any) -> int | None:
    """The id at the moment of the lookup."""
    number = domain.ID()
    return number if number >= 0 else None


def destroy(handle: Any, *, name: str, domain_id: int, gate: Gate) -> CallOutcome:
    """See `actuator.ports.Hypervisor.destroy`."""
    domain = find(handle, name)
    if (answer := _gone_or_another(domain, domain_id)) is not None:
        return answer
    state = _state(domain)
    if state in ALIVE:
        return Failed(f"its state is {state}: not destroyed")
    gate.enter()
    return _end(handle, domain, name, domain_id)


def ask_to_shut_down(handle: Any, *, name: str, domain_id: int, gate: Gate) -> CallOutcome:
    """Ask the guest to end: `Indeterminate` from then on, as it may ignore it. One that is deaf is ended."""
    domain = find(handle, name)
    if (answer := _gone_or_another(domain, domain_id)) is not None:
        return answer
    assert domain is not None
    deaf = _state(domain) in _DEAF
    gate.enter()
    if deaf:
        return _end(handle, domain, name, domain_id)
    try:
        domain.shutdown()
    except libvirt.libvirtError as error:
        if not handle.isAlive():
            raise
        return Indeterminate(f"it could not be asked to shut down: {error}")
    return Indeterminate("it was asked to shut down")


def end(handle: Any, *, name: str, domain_id: int, gate: Gate) -> CallOutcome:
    """Destroy the domain with this id in whatever state it is."""
    domain = find(handle, name)
    if (answer := _gone_or_another(domain, domain_id)) is not None:
        return answer
    gate.enter()
    return _end(handle, domain, name, domain_id)


def start(handle: Any, *, name: str, gate: Gate) -> CallOutcome:
    """See `actuator.ports.Hypervisor.start`."""
    domain = find(handle, name)
    if domain is None:
        return Failed("no such domain is defined on this host", libvirt.VIR_ERR_NO_DOMAIN)
    if id_of(domain) is not None:
        return Failed(f"it is active already, with id {id_of(domain)}", libvirt.VIR_ERR_OPERATION_INVALID)
    gate.enter()
    try:
        domain.create()
    except libvirt.libvirtError as error:
        after = find(handle, name)
        if after is not None and id_of(after) is not None:
            return Indeterminate(f"{error}; but it is active, with id {id_of(after)}")
        return Failed(str(error), error.get_error_code())
    return Done()


def define(  # noqa: C901  each way to be refused is a branch
    handle: Any, *, name: str, xml: str, anew: bool, gate: Gate
) -> CallOutcome:
    """See `actuator.ports.Hypervisor.define`. The autostart of one that is there already is not kept."""
    try:
        named = ET.fromstring(xml).findtext("name")  # noqa: S314  libvirt's own output; expat bounds entities
    except ET.ParseError as error:
        return Failed(f"the definition is not XML: {error}")
    if named != name:
        return Failed(f"the definition is of {named}, not of {name}")
    domain = find(handle, name)
    if domain is not None and not domain.isPersistent():
        return Failed(f"it is active there without a definition, with id {id_of(domain)}: not defined")
    if domain is None:
        gate.enter()
        try:
            domain = handle.defineXML(xml)
        except libvirt.libvirtError as error:
            if not handle.isAlive() or find(handle, name) is not None:
                raise
            return Failed(str(error), error.get_error_code())
        detail = ""
    elif not differ(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), xml):
        detail = "is defined there already"
    elif not anew:
        detail = "is defined there already, differently"
    elif failed := _replace(handle, domain, xml, gate):
        return failed
    else:
        detail = "was defined there differently, and is defined anew"
    if domain.autostart():
        gate.enter()
        domain.setAutostart(0)
    return Done(detail)


def _replace(handle: Any, domain: Any, xml: str, gate: Gate) -> Failed | None:
    if domain.isActive():
        return Failed(f"it is active there, with id {id_of(domain)}: not defined anew")
    gate.enter()
    try:
        handle.defineXML(with_uuid(xml, domain.UUIDString()))
    except libvirt.libvirtError as error:
        if not handle.isAlive():
            raise
        return Failed(str(error), error.get_error_code())
    return None


@dataclass(frozen=True, slots=True)
class Active:
    """What a host holds of a domain."""

    id: int
    state: DomainState

    def __str__(self) -> str:
        return f"{self.state} with id {self.id}"


def active(handle: Any, name: str) -> Active | None:
    """What is active of the domain; None: nothing."""
    domain = find(handle, name)
    if domain is None:
        return None
    number = id_of(domain)
    try:
        return None if number is None else Active(number, _state(domain))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # ended since
            return None
        raise


def migrate(
    handle: Any,
    *,
    name: str,
    domain_id: int,
    options: LiveMigration,
    at_target: Callable[[], Active | None],
    gate: Gate,
) -> CallOutcome:
    """Move it live, and read back both sides.

    QEMU only. LXC has no migration; Xen's driver has one, but none that can be ended (no virDomainAbortJob),
    and paravirtual guests need what Debian's Xen leaves out. libvirt's own check for disks that are not safe
    to migrate (a host's cache) stays on.

    Args:
        handle: libvirt on the source.
        name: the domain's.
        domain_id: what it must have on the source.
        options: how.
        at_target: what the target holds of it; raises `Unanswered`.
        gate: entered before libvirt is told to move it.
    """
    if (driver := handle.getType()) != "QEMU":
        return Failed(f"libvirt's {driver} driver has no migration that can be bounded: not moved live")
    domain = find(handle, name)
    found = active(handle, name)
    if domain is None or found is None:  # an earlier call may just have moved it
        return Indeterminate("it does not run on the source")
    if found.id != domain_id:
        return Failed(f"its id is {found.id} now, not {domain_id}: it was started again meanwhile")
    if domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE:
        return Indeterminate("it is being moved, saved or dumped already")
    if found.state is not DomainState.RUNNING:
        return Failed(f"its state is {found.state}: not moved live")
    domain.migrateSetMaxDowntime(round(options.max_downtime_seconds * 1000))
    flags = (
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_PEER2PEER
        | libvirt.VIR_MIGRATE_PERSIST_DEST  # and it stays defined on the source: it may come back
        | libvirt.VIR_MIGRATE_ABORT_ON_ERROR
        | (libvirt.VIR_MIGRATE_AUTO_CONVERGE if options.auto_converge else 0)
        | (libvirt.VIR_MIGRATE_POSTCOPY if options.post_copy else 0)
    )
    gate.enter()
    refusal = None
    try:
        domain.migrateToURI3(options.target_uri, {libvirt.VIR_MIGRATE_PARAM_URI: options.migrate_uri}, flags)
    except libvirt.libvirtError as error:
        refusal = error
    return _settled(handle, name, domain_id, at_target, refusal)


def switch_to_post_copy(handle: Any, *, name: str, domain_id: int) -> None:
    """Run it on the target now, whatever memory is still to be sent. Raises libvirtError."""
    domain = find(handle, name)
    if domain is not None and id_of(domain) == domain_id:
        domain.migrateStartPostCopy()


def abort(handle: Any, *, name: str, domain_id: int) -> None:
    """End its migration; one in post-copy libvirt does not end. Raises libvirtError."""
    domain = find(handle, name)
    if domain is not None and id_of(domain) == domain_id:
        domain.abortJob()


def _settled(
    handle: Any,
    name: str,
    domain_id: int,
    at_target: Callable[[], Active | None],
    refusal: libvirt.libvirtError | None,
) -> CallOutcome:
    """What became of a migration whose call came back: look until one side alone has the domain."""
    deadline = time.monotonic() + SETTLE_SECONDS
    words = "" if refusal is None else f"{refusal}; "
    while True:
        here, there = active(handle, name), _said(at_target)
        if here is None and isinstance(there, Active) and there.state is DomainState.RUNNING:
            return Done(str(refusal or ""))
        if refusal is not None and here == Active(domain_id, DomainState.RUNNING) and there is None:
            return Failed(str(refusal), refusal.get_error_code())
        if time.monotonic() >= deadline:
            sides = f"on the source it is {here or 'gone'}, on the target {there or 'not there'}"
            return Indeterminate(words + sides)
        _PAUSE.wait(POLL_SECONDS)


def _said(question: Callable[[], Active | None]) -> Active | str | None:
    try:
        return question()
    except Unanswered as error:
        return f"unknown ({error})"


def _gone_or_another(domain: Any | None, domain_id: int) -> CallOutcome | None:
    """What a call that is to end the domain with this id answers when there is none such."""
    number = None if domain is None else id_of(domain)
    if number is None:
        return Done("it was gone already")
    if number != domain_id:
        return Failed(f"its id is {number} now, not {domain_id}: it was started again meanwhile")
    return None


def _end(handle: Any, domain: Any, name: str, domain_id: int) -> CallOutcome:
    refusal = ""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if not handle.isAlive():
            raise
        refusal = str(error)
    after = find(handle, name)
    if after is None or id_of(after) != domain_id:
        return Done()
    # It may still end: a process in the kernel's hands takes its signal later.
    return Indeterminate(f"after the call it is still there. {refusal}".rstrip())


def _state(domain: Any) -> DomainState:
    return DomainState(state_name(domain.state()[0]))
