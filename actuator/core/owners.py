"""Whose a disk is, by the definitions that are kept: no two protected domains are to have the same."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from exporter.drbd import Snapshot
from exporter.libvirt_domain import Disk

_BY_NAME = re.compile(r"(?:drbd:|/dev/drbd/by-res/)([^/]+)(?:/\d+)?")
_BY_MINOR = re.compile(r"(/dev/drbd\d+)(?:p\d+)?")


class Owners:
    """The disks of each domain by the words for them: a resource's name, else what the definition says."""

    def __init__(self) -> None:
        self._by_word: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        """By word and domain: whether it writes."""
        self._words: dict[str, set[str]] = {}

    def put(self, domain: str, disks: Sequence[Disk]) -> None:
        """From now on these are the domain's."""
        for word in self._words.pop(domain, set()):
            self._by_word[word].pop(domain, None)
        writes: dict[str, bool] = {}
        for disk in disks:
            if disk.source:
                writes[_word(disk.source)] = writes.get(_word(disk.source), False) or disk.writable
        for word, writable in writes.items():
            self._by_word[word][domain] = writable
        self._words[domain] = set(writes)

    def others(
        self, domain: str, disks: Sequence[Disk], same: Mapping[str, frozenset[str]]
    ) -> Iterable[tuple[Disk, str]]:
        """The domain's disks that are another one's too, and that one; not what both only read.

        ``same``: the words that mean the same on a host (``same_words``).
        """
        for disk in disks:
            word = _word(disk.source)
            for it in same.get(word, {word}) if disk.source else ():
                for other, writes in self._by_word.get(it, {}).items():
                    if other != domain and (disk.writable or writes):
                        yield disk, other


def same_words(snapshot: Snapshot) -> dict[str, frozenset[str]]:
    """The words for each of a host's resources, by each of them: its name, and ``/dev/drbd7``."""
    found: dict[str, frozenset[str]] = {}
    for it in snapshot.resources:
        words = frozenset({it.name, *(f"/dev/drbd{device.minor}" for device in it.devices)})
        found |= dict.fromkeys(words, words)
    return found


def _word(source: str) -> str:
    if match := _BY_NAME.fullmatch(source):
        return match[1]
    match = _BY_MINOR.fullmatch(source)
    return match[1] if match else source
