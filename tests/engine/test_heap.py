import os
import platform
import subprocess
import sys

import pytest

from altpo_ds.engine import heap

BLOCK = 64 * 2**20
# Three blocks are filled and freed; then how much memory the process still has, and how much it takes for one more.
PROGRAM = f"""
import ctypes
from altpo_ds.engine import heap
heap.keep()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * {os.sysconf("SC_PAGE_SIZE")}
def blocks(n):
    for block in [ctypes.memset(libc.malloc({BLOCK}), 1, {BLOCK}) for _ in range(n)]:
        libc.free(block)
before = resident()
blocks(3)
freed = resident()
blocks(1)
print(freed - before, resident() - freed)
"""


def after_free(**variables: str) -> list[int]:
    plain = {name: value for name, value in os.environ.items() if name not in heap.SETTINGS | {"LD_PRELOAD"}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=plain | variables, capture_output=True, text=True, check=True
    )
    return [int(number) for number in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_blocks_are_kept_and_used_again_unless_the_user_sets_malloc() -> None:
    kept, more = after_free()
    assert kept > 2.9 * BLOCK
    assert more < 0.1 * BLOCK
    assert after_free(MALLOC_MMAP_THRESHOLD_="65536")[0] < 0.1 * BLOCK
