"""DRBD's configuration: as it is in the kernel (`drbdsetup show`), and in the files (`drbdadm dump-xml`).

Pure, no I/O. `show` leaves out what has its default value, so what is absent here is the default that
drbd.conf(5) names. Which handlers DRBD would call is not in the kernel at all: it calls one helper program
(`usermode_helper`, normally drbdadm), which looks them up in the files at that moment.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Any, TypeVar

from exporter.drbd import DrbdOutputError, UnknownWord


@unique
class Fencing(StrEnum):
    """What DRBD does when it loses a peer, weakest first (drbd.conf(5), fencing)."""

    DONT_CARE = "dont-care"
    RESOURCE_ONLY = "resource-only"
    RESOURCE_AND_STONITH = "resource-and-stonith"


@unique
class Protocol(StrEnum):
    """When a write counts as done: A in the send buffer, B in the peer's memory, C on the peer's disk."""

    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True, slots=True)
class ConnectionConfiguration:
    """The options of one connection.

    Attributes:
        peer: the peer's host name on DRBD 9; "peer" on 8.4.
        peer_address: without the port, `10.20.0.2` or `fd00::2`.
        notices_seconds: after so long at most without a sign of the peer it counts as lost: `ping-int`, then
            `ping-timeout` (drbd.conf(5): 10 s and 0.5 s unless said otherwise).
        allow_remote_read: without it DRBD 9 leaves the peer out when it counts for a quorum.
    """

    peer: str
    peer_address: str
    protocol: Protocol | UnknownWord
    allow_two_primaries: bool
    notices_seconds: float
    allow_remote_read: bool = True


@dataclass(frozen=True, slots=True)
class ResourceConfiguration:
    """The options of one resource, as they are in the kernel.

    Attributes:
        fencing: the weakest of its attached disks (8.4 keeps it there) or connections (9); None when it
            has none of these.
        backing_disks: by volume; a volume without a disk is absent.
        connections: empty on 8.4 while StandAlone: the kernel has forgotten the peer then.
        quorum: `off`, `majority`, `all` or a number; None on 8.4, which has none.
        on_no_quorum: `suspend-io` or `io-error`; None on 8.4.
        auto_promote: whoever opens the device promotes it; None on 8.4, which never does.
    """

    name: str
    fencing: Fencing | UnknownWord | None
    backing_disks: Mapping[int, str]
    connections: tuple[ConnectionConfiguration, ...]
    quorum: str | None
    on_no_quorum: str | None
    auto_promote: bool | None

    @property
    def unknown_words(self) -> tuple[UnknownWord, ...]:
        """What of it is not known."""
        words = (self.fencing, *(connection.protocol for connection in self.connections))
        return tuple(word for word in words if isinstance(word, UnknownWord))


def parse_show84(text: str) -> tuple[ResourceConfiguration, ...]:
    """Parse `drbdsetup show` of DRBD 8.4.

    Raises:
        DrbdOutputError: it is not of the form that drbdsetup prints.
    """
    try:
        return tuple(
            _resource84(words[1], block) for words, block in _parse_blocks(text) if words[0] == "resource"
        )
    except (IndexError, OverflowError, ValueError) as error:
        raise DrbdOutputError(f"the output of 'drbdsetup show' is not understood: {error}") from error


def _resource84(name: str, block: "_Block") -> ResourceConfiguration:
    volumes = [(int(words[1]), volume) for words, volume in _blocks(block, "_this_host", "volume")]
    net = dict(_options(block, "net"))
    backing_disks = {
        number: words[1]
        for number, volume in volumes
        for words, _ in volume
        if words[0] == "disk" and len(words) > 1 and words[1] != "none"
    }
    return ResourceConfiguration(
        name=name,
        fencing=_weakest(
            [
                _known(name, "fencing", dict(_options(volume, "disk")).get("fencing", "dont-care"), Fencing)
                for number, volume in volumes
                if number in backing_disks
            ]
        ),
        backing_disks=backing_disks,
        connections=tuple(
            ConnectionConfiguration(
                peer="peer",
                peer_address=_address(" ".join(words[1:])),
                protocol=_known(name, "protocol", net.get("protocol", "C"), Protocol),
                allow_two_primaries=net.get("allow-two-primaries", "no") == "yes",
                notices_seconds=_notices_seconds(net),
            )
            for words, _ in _blocks(block, "_remote_host", "address")
        ),
        quorum=None,
        on_no_quorum=None,
        auto_promote=None,
    )


def parse_show9(text: str) -> tuple[ResourceConfiguration, ...]:
    """Parse `drbdsetup show --json` of DRBD 9.

    Raises:
        DrbdOutputError: it is not of the form that drbdsetup prints.
    """
    try:
        return tuple(_resource9(resource) for resource in json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DrbdOutputError(
            f"the output of 'drbdsetup show --json' is not understood: {repr(error)[:500]}"
        ) from error


def _resource9(resource: Mapping[str, Any]) -> ResourceConfiguration:
    name, options, connections = (
        _text(resource["resource"]),
        resource.get("options", {}),
        resource.get("connections", []),
    )
    nets = [connection["net"] for connection in connections]
    return ResourceConfiguration(
        name=name,
        fencing=_weakest([_known(name, "fencing", net.get("fencing", "dont-care"), Fencing) for net in nets]),
        backing_disks={
            int(volume["volume_nr"]): _text(volume["backing-disk"])
            for volume in resource["_this_host"].get("volumes", [])
            if "backing-disk" in volume
        },
        connections=tuple(
            ConnectionConfiguration(
                peer=_text(connection["net"]["_name"]),
                peer_address=_address(connection.get("path", {}).get("_remote_host", "")),
                protocol=_known(name, "protocol", connection["net"].get("protocol", "C"), Protocol),
                allow_two_primaries=bool(connection["net"].get("allow-two-primaries", False)),
                notices_seconds=_notices_seconds(connection["net"]),
                allow_remote_read=bool(connection["net"].get("allow-remote-read", True)),
            )
            for connection in connections
        ),
        quorum=str(options.get("quorum", "off")),
        on_no_quorum=str(options.get("on-no-quorum", "suspend-io")),
        auto_promote=bool(options.get("auto-promote", True)),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _notices_seconds(net: Mapping[str, Any]) -> float:
    """Raises ValueError for what is no number."""
    return int(net.get("ping-int", 10)) + int(net.get("ping-timeout", 5)) / 10  # in tenths of a second


Word = TypeVar("Word", bound=StrEnum)


def _known(resource: str, kind: str, word: str, words: type[Word]) -> Word | UnknownWord:
    try:
        return words(word)
    except ValueError:
        return UnknownWord(kind, str(word), resource)


def _weakest(policies: Sequence[Fencing | UnknownWord]) -> Fencing | UnknownWord | None:
    """Return the weakest policy; an unknown one may be anything, so it counts as the weakest."""
    order = list(Fencing)
    return min(
        policies,
        key=lambda policy: order.index(policy) if isinstance(policy, Fencing) else -1,
        default=None,
    )


_ADDRESS = re.compile(r"(?:\S+ )?\[?(?P<host>[^\]\s]*?)\]?(?::\d+)?$")


def _address(text: str) -> str:
    """Return `10.20.0.2` of `ipv4 10.20.0.2:7789`, `fd00::2` of `ipv6 [fd00::2]:7789`."""
    match = _ADDRESS.match(text)
    return match["host"] if match else ""


# `show` of 8.4 is nested blocks of statements: `word word ... ;` or `word word ... { statements }`.
_Statement = tuple[list[str], "_Block"]
_Block = list[_Statement]

_TOKEN = re.compile(r'"(?P<quoted>(?:[^"\\]|\\.)*)"|#[^\n]*|(?P<mark>[{};])|(?P<word>[^\s{};"#]+)')
_DEPTH_LIMIT = 16


def _parse_blocks(text: str) -> "_Block":
    stack: list[_Block] = [[]]
    words: list[str] = []
    for token in _TOKEN.finditer(text):
        match token["mark"]:
            case None:
                if token["word"] or token["quoted"] is not None:
                    words.append(token["word"] or token["quoted"])
                continue
            case "{" if words and len(stack) < _DEPTH_LIMIT:
                stack[-1].append((words, []))
                stack.append(stack[-1][-1][1])
            case ";" if words:
                stack[-1].append((words, []))
            case "}" if len(stack) > 1 and not words:
                stack.pop()
            case mark:
                raise DrbdOutputError(f"unexpected {mark!r} in the output of 'drbdsetup show'")
        words = []
    if len(stack) > 1 or words:
        raise DrbdOutputError("the output of 'drbdsetup show' ends before its last '}'")
    return stack[0]


def _blocks(block: "_Block", outer: str, inner: str) -> Iterator["_Statement"]:
    for words, statements in block:
        if words[0] == outer:
            yield from (statement for statement in statements if statement[0][0] == inner)


def _options(block: "_Block", section: str) -> Iterator[tuple[str, str]]:
    """The options of a section; `disk "/dev/...";` is a statement of the same name, but not a section."""
    for words, statements in block:
        if words == [section]:
            yield from ((inner[0], inner[1]) for inner, _ in statements if len(inner) > 1)


@dataclass(frozen=True, slots=True)
class ConfiguredResource:
    """A resource in DRBD's configuration files.

    Attributes:
        hosts: the addresses of each host, without ports, by host name.
        handlers: the command of each handler, its own or the common one.
    """

    hosts: Mapping[str, tuple[str, ...]]
    handlers: Mapping[str, str]

    def peer_name(self, address: str | None, own_name: str) -> str | None:
        """Return the name of the host with this address, or of the only other host; None: cannot be told.

        Args:
            address: the peer's address in the kernel; None when the kernel has forgotten it (StandAlone).
            own_name: this host's name.
        """
        for name, addresses in self.hosts.items():
            if address in addresses:
                return name
        others = [name for name in self.hosts if name != own_name]
        return others[0] if len(others) == 1 else None


def parse_dump_xml(text: str) -> Mapping[str, ConfiguredResource]:
    """Parse `drbdadm dump-xml`, of drbdadm for 8.4 or 9.

    Raises:
        DrbdOutputError: it is not what drbdadm prints.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314  printed by drbdadm, from files that only root writes
    except (ET.ParseError, ValueError) as error:  # ValueError: not to be encoded in UTF-8
        raise DrbdOutputError(f"the output of 'drbdadm dump-xml' is not understood: {error}") from error
    common = dict(_handlers(root.find("common")))
    return {
        resource.get("name", ""): ConfiguredResource(
            hosts={
                host.get("name", ""): tuple(address.text or "" for address in host.iter("address"))
                for host in resource.findall("host")
            },
            handlers={**common, **dict(_handlers(resource))},
        )
        for resource in root.findall("resource")
    }


def _handlers(element: ET.Element | None) -> Iterator[tuple[str, str]]:
    if element is not None:
        for option in element.findall("section[@name='handlers']/option"):
            yield option.get("name", ""), option.get("value", "")


_CURRENT_UUID = re.compile(r"^(?P<uuid>[0-9A-F]{16}):[0-9A-F]{16}:", re.MULTILINE)
_GET_GI = re.compile(r"(?P<uuids>[0-9A-F]{16}(?::[0-9A-F]{16}){3})(?::[01])+")
# The lowest bit says "was Primary with this"; 4 is UUID_JUST_CREATED, the same on every fresh disk.
_PRIMARY_BIT = 1
_JUST_CREATED = 4


def parse_current_uuid(text: str) -> str | None:
    """Return the identity of the data from `get-gi` or `show-gi`: the current UUID without its Primary bit.

    Two replicas with the same identity hold the same generation of the data, in which the one may only lack
    writes that are in flight or out of sync. None: the disk is fresh or absent, and has none.
    """
    match = _CURRENT_UUID.search(text)
    return _identity(match["uuid"]) if match else None


@dataclass(frozen=True, slots=True)
class Generations:
    """The generation identifiers of one volume's data, without their Primary bits.

    Attributes:
        current: None when the disk is fresh.
        former: what its data continue: the bitmap's identifier, and the history.
    """

    current: str | None
    former: frozenset[str] = frozenset()

    def continues(self, identifier: str) -> bool:
        """Whether these are the data of that generation, or later ones that were made from them."""
        return identifier == self.current or identifier in self.former


def parse_get_gi(text: str) -> tuple[Generations, ...]:
    """Parse `drbdadm get-gi RESOURCE`: a line for each volume (on 9, for each of its peers).

    Raises:
        DrbdOutputError: it is not what drbdadm prints.
    """
    found = []
    for line in text.splitlines():
        match = _GET_GI.fullmatch(line)
        if match is None:
            raise DrbdOutputError(f"the output of 'drbdadm get-gi' is not understood: {line[:200]!r}")
        current, *former = map(_identity, match["uuids"].split(":"))
        found.append(Generations(current, frozenset(it for it in former if it is not None)))
    if not found:
        raise DrbdOutputError("the output of 'drbdadm get-gi' is empty")
    return tuple(found)


def _identity(uuid: str) -> str | None:
    number = int(uuid, 16) & ~_PRIMARY_BIT
    return f"{number:016X}" if number not in {0, _JUST_CREATED} else None
