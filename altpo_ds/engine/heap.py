"""What glibc's allocator does with large blocks that were freed."""

import ctypes
import os

SETTINGS = {"GLIBC_TUNABLES", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep() -> None:
    """Keeps them for the next tensor: from the system every page comes anew, cleared, in each step.

    The user's own settings stand. Other allocators, tcmalloc among them, take no notice.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl and macOS have none
    if mallopt is not None and not SETTINGS & os.environ.keys():
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)  # never
