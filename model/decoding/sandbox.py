"""Take from this process whatever decoding an image does not need.

Limits of resources are those of POSIX. Linux adds: no privileges, no files and no network by
Landlock (kernel 5.13 and later), an end with the parent process, and the first place in line when
memory runs out. Each function returns what the system does not support.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys

NOBODY = 65_534  # the user without rights on every Unix
OPEN_FILES = 16  # three standard streams, the connection, the pixels and the memory's size

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
CREATE_RULESET, RESTRICT_SELF = 444, 446  # system calls of Landlock, the same on every machine
GET_VERSION = 1
# By Landlock's version: how many rights to files, rights to TCP, and scopes the kernel knows
# (linux/landlock.h).
KNOWN = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0), 6: (16, 2, 2)}


def restrict(parent: int, file_bytes: int) -> list[str]:
    """Give up privileges, files, the network and core dumps, for good.

    Args:
        parent: the process that started this one; this one ends with it.
        file_bytes: limit of the size of files that this process writes.

    Returns:
        The restrictions that this system does not support.
    """
    missing = []
    limits = {
        "core dumps": (resource.RLIMIT_CORE, 0),
        "open files": (resource.RLIMIT_NOFILE, OPEN_FILES),
        "file size": (resource.RLIMIT_FSIZE, file_bytes),
    }
    for name, (kind, value) in limits.items():
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):
            missing.append(name)
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        except OSError:
            missing.append("user")
    if sys.platform != "linux":
        return [*missing, "privileges", "files and network", "end with the parent"]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        missing.append("privileges")
    if not _forbid_files(libc):
        missing.append("files and network")
    # After the change of user, which clears it.
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        missing.append("end with the parent")
    if os.getppid() != parent:
        sys.exit()
    return missing


def prefer_for_killing() -> None:
    """Ask Linux to end this process before all others when memory runs out."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def _forbid_files(libc: ctypes.CDLL) -> bool:
    """Forbid to open files, and where the kernel can: TCP, sockets and signals of others."""
    version = libc.syscall(CREATE_RULESET, None, 0, GET_VERSION)
    if version < 1:
        return False
    files, network, scopes = KNOWN[min(version, max(KNOWN))]
    rules = struct.pack("QQQ", *((1 << count) - 1 for count in (files, network, scopes)))
    size = 24 if scopes else 16 if network else 8
    ruleset = libc.syscall(CREATE_RULESET, rules, size, 0)  # that allows nothing
    if ruleset < 0:
        return False
    refused = libc.syscall(RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return not refused


class Memory:
    """Limits the address space of this process anew for each image."""

    def __init__(self) -> None:
        self._size: int | None = None  # descriptor of the file that tells the present size
        if sys.platform == "linux":
            self._size = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def limited(self) -> bool:
        """Return True if the system limits an address space."""
        return self._size is not None

    def allow(self, more: int) -> None:
        """Limit the address space to its present size and ``more`` bytes."""
        if self._size is None:
            return
        pages = int(os.pread(self._size, 32, 0).split()[0])
        limit = pages * resource.getpagesize() + more
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def limit_time(seconds: float) -> None:
    """End this process after so much processor time, or ten times as much by the clock.

    The kernel ends it, whatever it is doing.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds + 60)


def lift_time_limit() -> None:
    """Let this process run on."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)
