"""Looks for faults of one target until the time is over: `python -m tests.fuzz.search TARGET SECONDS SEED FOLDER`.

Each input is a good one, or one from FOLDER, changed. Where atheris is installed (`requirements/fuzz.in`), inputs that reach
lines that none before has reached are kept in FOLDER, and changed further. Prints what became of it as one line of JSON.
"""

import contextlib
import hashlib
import importlib
import json
import os
import resource
import sys
import time
from itertools import count
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    atheris = None

with atheris.instrument_imports(include=["actuator", "exporter"]) if atheris else contextlib.nullcontext():
    for kind in ("files", "outputs", "strangers"):
        importlib.import_module(f"tests.fuzz.{kind}")
from tests.fuzz import files
from tests.fuzz.mutate import changed, mutated
from tests.fuzz.target import TARGETS, Target, fault, smaller

MAX_MEMORY_BYTES = 4 << 30
"""Of address space; too much is a fault."""
MAX_FAULTS = 20
NEVER_SECONDS = 1 << 20
"""`target.fault` has a time of its own, and atheris takes 0 for no time at all."""
LIBFUZZERS_OWN = 0.5
"""Of the inputs are changed by libFuzzer's own ways, which know what was compared."""


class Search:
    """Tries one input after the other, and keeps the faults."""

    def __init__(self, it: Target, seconds: float) -> None:
        self._it = it
        self._begun = time.monotonic()
        self._seconds = seconds
        self._tried = 0
        self._faults: dict[str, bytes] = {}

    def try_(self, content: bytes) -> None:
        """Try it; the first of each fault is kept in the corpus, made small."""
        found = fault(self._it, content)
        self._tried += 1
        if found is not None and found not in self._faults and len(self._faults) < MAX_FAULTS:
            small = self._faults[found] = smaller(self._it, content)
            path = self._it.folder / hashlib.sha256(small).hexdigest()[:12]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(small)
            print(f"{path}: {found}: {small[:200]!r}", file=sys.stderr, flush=True)
        seconds = time.monotonic() - self._begun
        if seconds > self._seconds:
            said = {"inputs": self._tried, "seconds": seconds, "faults": [*self._faults]}
            print(json.dumps(said), flush=True)
            files.clean()
            os._exit(0)  # libFuzzer would go on


def main(name: str, seconds: float, seed: int, folder: Path) -> None:
    it = TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    search, random = Search(it, seconds), Random(seed)
    if atheris is None:
        for _ in count():
            search.try_(mutated(random, it.samples, it.words, it.most))

    def change(content: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < LIBFUZZERS_OWN:
            return atheris.Mutate(content, min(most, it.most))
        return changed(random, content, it.samples, it.words, min(most, it.most))

    for sample in it.samples:
        (folder / hashlib.sha256(sample).hexdigest()[:12]).write_bytes(sample)
    options = [
        f"-seed={seed}",
        f"-max_len={it.most}",
        f"-timeout={NEVER_SECONDS}",
        "-rss_limit_mb=0",
        f"-artifact_prefix={folder}/",
        "-verbosity=0",
        "-len_control=20",
    ]
    atheris.Setup([name, *options, str(folder)], search.try_, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
