"""One arena for all threads: seen in what malloc itself says."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from exporter.memory import keep_small
kept = keep_small()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_size_t]
together = threading.Barrier(16)
def work():
    together.wait()
    for _ in range(2000):
        libc.free(libc.malloc(1000))  # ctypes lets the other threads run meanwhile
    together.wait()
threads = [threading.Thread(target=work) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
print(kept)
"""


@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False)])
def test_all_threads_share_one_arena(environment, kept):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == str(kept)
    assert (done.stdout.count("<heap nr=") == 1) == kept
