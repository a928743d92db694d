"""The closed list of libvirt's calls that may be made on a host, and of which domains. Pure.

libvirt's RPC (remote_protocol.x, the same numbers since they were given): a message is its length, six words
(program, version, procedure, type, serial, status), and arguments in XDR. libvirtd looks a domain up by its
UUID, whatever name comes with it; so a UUID is believed only when libvirtd itself has said that it is an
allowed name's.

What is not in the list gets libvirt's own error for that, and never reaches libvirtd.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from exporter.host import definition
from exporter.host.config import CONFIG, Config

MAX_CALL_BYTES = 4 << 20
"""The actuator's largest is a definition."""
MAX_REPLY_BYTES = (32 << 20) + 4
"""libvirt's own limit."""
HEAD = struct.Struct(">IIIIII")
REMOTE, KEEPALIVE = 0x20008086, 0x6B656570
CALL, REPLY, MESSAGE = 0, 1, 2
OK, ERROR = 0, 1
MAX_SENTENCE = 1000
"""A refusal may quote what was sent, and that may be megabytes."""
ACCESS_DENIED, FROM_ACCESS, LEVEL_ERROR = 88, 55, 2
"""VIR_ERR_ACCESS_DENIED, VIR_FROM_ACCESS and VIR_ERR_ERROR."""

XML_INACTIVE = 2
MIGRATE_PEER2PEER = 2
MIGRATE_FLAGS = 1 | MIGRATE_PEER2PEER | 8 | 1 << 12 | 1 << 13 | 1 << 15
"""And live, persistent there, aborted on errors, auto-converge, post-copy; no disk is copied."""
TYPED_STRING = 7
LOOKUP_BY_NAME, LOOKUP_BY_UUID, DEFINE_XML = 23, 24, 11


class MalformedError(Exception):
    """It is no message of libvirt's; the connection is ended."""


class DeniedError(Exception):
    """The call is not made; the message says why."""


class Arguments:
    """Arguments in XDR, read one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def integer(self) -> int:
        """An unsigned word."""
        value: int = struct.unpack(">I", self._take(4))[0]
        return value

    def string(self) -> str:
        """A string, which may not be null. For libvirt it ends at a NUL: none is taken."""
        size = self.integer()
        text = self._take(size)
        if any(self._take(-size % 4)) or 0 in text:
            raise DeniedError("its arguments are not understood")
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise DeniedError("its arguments are not UTF-8") from None

    def optional_string(self) -> str | None:
        """A string, or null."""
        return self.string() if self.integer() else None

    def uuid(self) -> bytes:
        """A UUID."""
        return self._take(16)

    def end(self) -> None:
        """Nothing may follow.

        Raises:
            DeniedError: something does.
        """
        if self._at != len(self._content):
            raise DeniedError("its arguments are not understood")

    def _take(self, size: int) -> bytes:
        taken = self._content[self._at : self._at + size]
        if len(taken) != size:
            raise DeniedError("its arguments are not understood")
        self._at += size
        return taken

    def rest(self) -> None:
        """Pass over what follows."""
        self._at = len(self._content)


class Guard:
    """Judges the messages of one connection, in both directions."""

    def __init__(self, driver: str, config: Config) -> None:
        self._uris = {f"{driver}:///system", f"{driver}:///"}
        self._config = config
        self._names: dict[bytes, str] = {}
        """Of the allowed domains that libvirtd has told of, by UUID."""

    def answer(self, message: bytes) -> bytes | None:
        """What the client gets instead of the call being made; None: it is passed on.

        Args:
            message: without its length.

        Raises:
            MalformedError: it is no call that can be answered.
        """
        if len(message) < HEAD.size:
            raise MalformedError("too short")
        program, version, procedure, kind, serial, status = HEAD.unpack_from(message)
        if program == KEEPALIVE and kind == MESSAGE and len(message) == HEAD.size:
            return None
        if kind != CALL or status != OK:
            raise MalformedError(f"a message of type {kind} to program {program:#x}")
        try:
            self._judge(program, version, procedure, Arguments(message[HEAD.size :]))
        except DeniedError as denied:
            head = HEAD.pack(program, version, procedure, REPLY, serial, ERROR)
            return head + _error(f"vmheal-host: {denied}")
        return None

    def _judge(self, program: int, version: int, procedure: int, it: Arguments) -> None:
        call = CALLS.get(procedure) if (program, version) == (REMOTE, 1) else None
        if call is None:
            raise DeniedError(f"procedure {procedure} of program {program:#x} is not in the list")
        try:
            call.check(self, it)
            it.end()
        except DeniedError as denied:
            raise DeniedError(f"{call.name}: {denied}") from None

    def learn(self, message: bytes) -> None:
        """Take the UUID of an allowed domain from what libvirtd answers; anything else is passed over."""
        if len(message) < HEAD.size:
            return
        program, _, procedure, kind, _, status = HEAD.unpack_from(message)
        if (program, kind, status) == (REMOTE, REPLY, OK) and procedure in {LOOKUP_BY_NAME, DEFINE_XML}:
            try:
                it = Arguments(message[HEAD.size :])
                name, uuid = it.string(), it.uuid()
            except DeniedError:
                return
            if self._config.allows_domain(name):
                self._names[uuid] = name

    # ---- arguments ---------------------------------------------------------------------------------------

    def anything(self, it: Arguments) -> None:
        """Questions that only show what is there: the host, and which domains are in which state."""
        it.rest()

    def opens(self, it: Arguments) -> None:
        """The driver's own URI."""
        if it.optional_string() not in self._uris:
            raise DeniedError("that URI is not the one that was asked for")
        it.integer()

    def processor(self, it: Arguments) -> None:
        """Any processor, for libvirtd's own emulator: another one it would run to ask what it can."""
        if it.optional_string() is not None:
            raise DeniedError("no emulator is taken")
        it.rest()

    def name(self, it: Arguments) -> None:
        """A name in the list."""
        self._allow(it.string())

    def known_uuid(self, it: Arguments) -> None:
        """A UUID that libvirtd has told of."""
        if it.uuid() not in self._names:
            raise DeniedError(f"the domain is not in this host's configuration: {CONFIG}")

    def domain(self, it: Arguments) -> None:
        """A domain in the list."""
        name, uuid, _ = it.string(), it.uuid(), it.integer()
        self._allow(name)
        if self._names.get(uuid) != name:
            raise DeniedError(f"libvirt has not said that this UUID is {name}'s")

    def domain_and_rest(self, it: Arguments) -> None:
        """A domain in the list, and what only chooses what is told of it."""
        self.domain(it)
        it.rest()

    def xml_flags(self, it: Arguments) -> None:
        """A domain in the list, without its secrets."""
        self.domain(it)
        if it.integer() not in {0, XML_INACTIVE}:
            raise DeniedError("a definition is not told with its secrets")

    def no_autostart(self, it: Arguments) -> None:
        """A domain in the list, and 0."""
        self.domain(it)
        if it.integer() != 0:
            raise DeniedError("autostart is not set, only taken away")

    def definition(self, it: Arguments) -> None:
        """A definition of a domain in the list."""
        name, fault = definition.read(it.string(), self._config.definition_paths)
        if fault is not None:
            raise DeniedError(f"the definition is refused: {fault}")
        self._allow(name)

    def migration(self, it: Arguments) -> None:
        """A domain in the list, peer to peer, to where this host's configuration lets it go."""
        self.domain(it)
        targets = [it.optional_string()]
        for _ in range(min(it.integer(), 64)):
            key, kind = it.string(), it.integer()
            if key != "migrate_uri" or kind != TYPED_STRING:
                raise DeniedError(f"the parameter {key[:100]} is not in the list")
            targets.append(it.string())
        for target in targets:
            if target is None or target not in self._config.migrate_uris:
                raise DeniedError(f"{target} is no migrate_uri of this host's configuration: {CONFIG}")
        if it.string():
            raise DeniedError("a cookie is not taken")
        flags = it.integer()
        if flags & ~MIGRATE_FLAGS or not flags & MIGRATE_PEER2PEER:
            raise DeniedError(f"the flags {flags:#x} are not allowed")

    def _allow(self, name: str) -> None:
        if not self._config.allows_domain(name):
            raise DeniedError(f"the domain {name[:100]} is not in this host's configuration: {CONFIG}")


class Call(NamedTuple):
    """One row of the closed list."""

    name: str
    check: Callable[[Guard, Arguments], None]


CALLS = {
    1: Call("open", Guard.opens),
    2: Call("close", Guard.anything),
    3: Call("getType", Guard.anything),
    6: Call("getInfo", Guard.anything),
    60: Call("supportsFeature", Guard.anything),
    66: Call("authList", Guard.anything),
    102: Call("getFreeMemory", Guard.anything),
    157: Call("getLibVersion", Guard.anything),
    228: Call("getMemoryStats", Guard.anything),
    273: Call("listAllDomains", Guard.anything),
    283: Call("listAllNetworks", Guard.anything),
    393: Call("compareHypervisorCPU", Guard.processor),
    344: Call("getAllDomainStats", Guard.anything),
    LOOKUP_BY_NAME: Call("lookupByName", Guard.name),
    LOOKUP_BY_UUID: Call("lookupByUUID", Guard.known_uuid),
    212: Call("state", Guard.anything),
    14: Call("XMLDesc", Guard.xml_flags),
    15: Call("autostart", Guard.domain),
    64: Call("blockStats", Guard.domain_and_rest),
    150: Call("isActive", Guard.domain),
    151: Call("isPersistent", Guard.domain),
    163: Call("jobInfo", Guard.domain),
    9: Call("create", Guard.domain),
    12: Call("destroy", Guard.domain),
    33: Call("shutdown", Guard.domain),
    29: Call("setAutostart", Guard.no_autostart),
    DEFINE_XML: Call("defineXML", Guard.definition),
    166: Call("migrateSetMaxDowntime", Guard.domain_and_rest),
    305: Call("migrateToURI3", Guard.migration),
    364: Call("migrateStartPostCopy", Guard.domain_and_rest),
    164: Call("abortJob", Guard.domain),
}


def _error(sentence: str) -> bytes:
    text = sentence[:MAX_SENTENCE].encode("ascii", "backslashreplace")
    words = struct.pack(">IIII", ACCESS_DENIED, FROM_ACCESS, 1, len(text))
    # The level; no domain, no three strings, two numbers, no network.
    return words + text + bytes(-len(text) % 4) + struct.pack(">IIIIIIII", LEVEL_ERROR, 0, 0, 0, 0, 0, 0, 0)
