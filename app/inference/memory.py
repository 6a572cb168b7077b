"""How memory goes back to the system."""

import ctypes
import sys

LARGE = 8 * 2**20  # bytes
MMAP_THRESHOLD = -3  # of glibc's malloc.h


def return_large_blocks() -> None:
    """Have glibc return every block of `LARGE` bytes as soon as it is freed.

    It would raise that size by itself, to 32 MiB, with the first blocks it sees. What pictures of
    many megapixels then leave in the heaps of several threads comes to hundreds of megabytes, for
    minutes. Other allocators are left alone.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(MMAP_THRESHOLD, LARGE)
