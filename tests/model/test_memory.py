"""Memory that is freed and taken again costs no page faults: measured in a process of its own."""

import subprocess
import sys

import pytest

RUN = """
import resource, sys
import numpy as np
from model.memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(77)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(40 * 2**20, dtype=np.uint8)
before = faults()
for _ in range(5):
    np.ones(40 * 2**20, dtype=np.uint8)  # above glibc's own limit for blocks that are kept
print(faults() - before)
"""
PAGES = 40 * 2**20 // 4096


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", RUN, how], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("needs glibc's mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_large_block_is_cleared_by_the_kernel_once() -> None:
    kept = faults("keep")
    assert kept < PAGES // 20
