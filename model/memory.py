"""Keep freed memory in this process, for commands that allocate the same large blocks again.

Unless told otherwise, glibc returns a large block to the kernel when it is freed, and the kernel
clears every page of the next one, which took as long as half of the forward pass.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # malloc.h of glibc
KEPT = 2**30  # bytes that stay free at the heap's end before some are returned


def keep_freed_memory() -> bool:
    """Let glibc's malloc take all blocks from one heap and keep what is freed for the next ones.

    Returns:
        False where the C library has no such options: nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    options = {TRIM_THRESHOLD: KEPT, MMAP_MAX: 0, ARENA_MAX: 1}
    done = [mallopt(option, value) for option, value in options.items()]
    return all(done)
