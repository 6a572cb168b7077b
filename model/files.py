"""File metadata that detects changes, and writes that survive a power cut."""

import errno
import os
from pathlib import Path
from typing import NamedTuple, Self

# Errors of fsync on a folder where the file system syncs files alone.
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class FileStamp(NamedTuple):
    """Compares unequal as soon as a file was written, replaced or removed, or its mode changed.

    Times are in nanoseconds, as coarse as the file system keeps them: of two writes within one tick
    the second may not show, unless it changes the size.
    """

    size: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    inode: int = 0
    mode: int = 0
    error: int = 0  # `errno` where the metadata cannot be read: no such file, no permission

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the metadata of a file; a failure becomes the stamp's `error`."""
        try:
            state = path.stat()
        except OSError as error:
            return cls(error=error.errno or -1)
        return cls(state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_mode)


def this_user() -> str:
    """Return the name of the process's user in messages: its number, which containers show."""
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, would survive a power cut.

    Some file systems cannot sync a folder; they write its names when they like.

    Raises:
        OSError: the file cannot be synced, or the folder's disk fails.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED or not path.is_dir():
            raise
    finally:
        os.close(handle)
