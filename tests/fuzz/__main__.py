"""`python -m tests.fuzz --seconds 600 --seed 1 [TARGET...]`: search all targets, one after the other, and tell what was found."""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time

from tests.fuzz import files, outputs, strangers
from tests.fuzz.target import REPO, TARGETS

SLACK_SECONDS = 120.0
"""To begin, to make faults small, and for one input that hangs where no signal is heard."""
FOUND = REPO / ".cache" / "fuzz"
"""Inputs that reached something new, by target; the next search begins with them."""
assert files, outputs
assert strangers


def search(name: str, seconds: float, seed: int) -> dict:
    """Search one target in a process of its own."""
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "tests.fuzz.search", name, str(seconds), str(seed), str(folder)]
    try:
        done = subprocess.run(
            words, check=False, cwd=REPO, stdout=subprocess.PIPE, text=True, timeout=seconds + SLACK_SECONDS
        )
        found = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        found = {"inputs": 0, "seconds": seconds, "faults": ["the search itself did not come to its end"]}
    return found | {"corpus": len(list(folder.iterdir()))}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    given = parser.parse_args()
    names = given.targets or list(TARGETS)
    guided = (
        "guided by coverage" if importlib.util.find_spec("atheris") else "without coverage: no atheris here"
    )
    print(f"{len(names)} targets, {given.seconds:g} s, seed {given.seed}, {guided}")
    print(f"{'target':22}{'inputs':>10}{'a second':>10}{'corpus':>8}{'crashes':>9}{'hangs':>7}")
    begun, inputs, faults = time.monotonic(), 0, 0
    for name in names:
        found = search(name, given.seconds / len(names), given.seed)
        hangs = sum(it.startswith("hangs") for it in found["faults"])
        rate = found["inputs"] / max(found["seconds"], 0.001)
        crashes = len(found["faults"]) - hangs
        print(
            f"{name:22}{found['inputs']:10}{rate:10.0f}{found['corpus']:8}{crashes:9}{hangs:7}",
            flush=True,
        )
        for it in found["faults"]:
            print(f"    {it}")
        inputs, faults = inputs + found["inputs"], faults + len(found["faults"])
    took = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{inputs} inputs in {time.monotonic() - begun:.0f} s, {took.ru_utime + took.ru_stime:.0f} s of them"
        f" of processor time, faults: {faults}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
