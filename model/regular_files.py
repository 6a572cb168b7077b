"""Reading files that are files: a FIFO, a socket or a device is refused before it can block."""

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, cast

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def special_kind(mode: int) -> str | None:
    """Returns the kind of what ``st_mode`` describes, such as "a socket"; None for a file."""
    if stat.S_ISREG(mode):
        return None
    return _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def open_file(path: Path) -> BufferedReader:
    """Open a regular file to read its bytes.

    Opening a FIFO waits for a writer, and opening a device can act on it, so the kind is checked
    first. It is checked again after opening, without blocking, since the path may be of another
    file by then.

    Raises:
        OSError: the path leads to no regular file, or it cannot be opened.
    """
    require_regular(path.stat().st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        require_regular(os.fstat(descriptor).st_mode, path)
        return BufferedReader(_File(descriptor))
    except BaseException:
        os.close(descriptor)
        raise


def read_file(path: Path) -> bytes:
    """Returns the bytes of a regular file.

    Raises:
        OSError: as `open_file`.
    """
    with open_file(path) as file:
        return file.read()


def shown(path: str | os.PathLike[str]) -> str:
    """Returns a path as text that can be printed and encoded, also if its name is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class _File(FileIO):
    """A file opened without blocking.

    Files of the kernel, such as /proc/kmsg, say that they are regular files and have bytes at some
    times only. Python's functions take "no bytes now" for a count and read on forever.

    Raises:
        BlockingIOError: no bytes are there to read, and the file has not ended.
    """

    def readinto(self, buffer: Any, /) -> int:
        return cast("int", _some(super().readinto(buffer)))

    def readall(self) -> bytes:
        return cast("bytes", _some(super().readall()))


def _some(read: int | bytes | None) -> int | bytes:
    if read is None:
        raise BlockingIOError(errno.EAGAIN, "it does not end, so it is not an ordinary file")
    return read


def require_regular(mode: int, path: Path) -> None:
    """Raise OSError if ``st_mode`` describes no file."""
    if kind := special_kind(mode):
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
