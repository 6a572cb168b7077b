"""Large blocks of memory go back to the system, where it can take them."""

import os
import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows this")


@LINUX
@pytest.mark.skipif(
    sys.platform == "linux" and "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"),  # type: ignore[operator]
    reason="of glibc",
)
@pytest.mark.parametrize("kept", [True, False])
def test_large_blocks_go_back_to_the_system(kept: bool) -> None:
    script = f"""
import ctypes
from app.inference.memory import return_large_blocks
if not {kept}:
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = ctypes.c_size_t(20 * 2**20)
libc.free(ctypes.c_void_p(libc.malloc(size)))
mapped = libc.malloc(size) % 4096 == 16  # alone on its pages, behind its size
print(mapped)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == str(not kept)
