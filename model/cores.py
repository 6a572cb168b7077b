"""Counts the processor cores that this process may use."""

import os
from pathlib import Path

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of this process's container


def available_cores() -> int:
    """Returns the number of cores that this process may use, by its affinity and its quota."""
    bound = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(bound(0)) if bound else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        share = -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such limit, or "max"
        share = cores
    return max(1, min(cores, share))
