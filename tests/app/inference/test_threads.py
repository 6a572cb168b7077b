"""What threads and memory are set to, where the system can."""

import os
import subprocess
import sys
import threading

import pytest

from app.inference.threads import run_giving_way

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux knows this")


def policy() -> int:
    return os.sched_getscheduler(threading.get_native_id())


@LINUX
def test_work_that_gives_way_runs_when_nothing_else_does_and_so_do_its_threads() -> None:
    def work() -> list[int]:
        found = [policy()]
        child = threading.Thread(target=lambda: found.append(policy()))
        child.start()
        child.join()
        return found

    assert run_giving_way(work) == [os.SCHED_IDLE] * 2
    assert policy() == os.SCHED_OTHER


def test_its_errors_are_the_callers() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_giving_way(work)


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
