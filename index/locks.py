"""Locks between processes, held on files of the data folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

# Errors of flock where the file system, or its server, has no locks.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF}


@contextmanager
def file_lock(path: Path, *, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is created if absent.

    Args:
        path: the file.
        seconds: to wait for another process.

    Raises:
        filelock.Timeout: another process holds it.
        OSError: the file cannot be written, or its file system has no locks.
    """
    lock = filelock.FileLock(path, timeout=seconds)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise OSError(
            error.errno,
            f"its file system has no file locks ({error.strerror}); put the data folder on one "
            "that has",
            str(path),
        ) from error
    try:
        yield
    finally:
        lock.release()
