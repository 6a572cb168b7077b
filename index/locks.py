"""Locks between processes, held on files of the data folder."""

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

# Errors of flock where the file system, or its server, has no locks.
_NO_LOCKS = {
    errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF,
}  # fmt: skip


@contextmanager
def file_lock(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is created if absent.

    The lock is the kernel's (flock), which ends with its process. Where flock is missing, filelock
    takes the existence of the file for a lock: such a lock outlives a killed process, and is
    refused. So is a file system whose flock succeeds twice.

    Args:
        path: the file.
        seconds: to wait for another process.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be written, or its file system has no locks.
    """
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock's, of a soft lock
            lock.acquire()
    except filelock.Timeout:
        raise
    except NotImplementedError as error:  # filelock before 3.21
        raise _no_locks(path, "flock is not implemented") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise _no_locks(path, error.strerror or str(error)) from error
    try:
        if isinstance(lock, filelock.SoftFileLock):
            raise _no_locks(path, "flock is not implemented")
        if not _excludes(path):
            raise _no_locks(path, "two processes can hold one lock at once")
        yield
    finally:
        lock.release()


def _excludes(path: Path) -> bool:
    """Return True if a lock that is held keeps others out, as a second attempt shows."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _no_locks(path: Path, reason: str) -> OSError:
    return OSError(
        errno.ENOLCK,
        f"its file system has no file locks ({reason}); put the data folder on one that has",
        str(path),
    )
