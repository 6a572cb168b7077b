"""Tar archives of one or more parts, read in place: no member is unpacked.

A member is read by its position, so the archive must not be compressed. Parts are the pieces that
tools such as ``split`` cut a file into: ``x.tar.001``, ``x.tar.002`` or ``x.tar.aa``, ``x.tar.ab``.
"""

import io
import re
import tarfile
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from index.errors import EvaluationError
from model.regular_files import open_file

_PART = re.compile(
    r"(?P<stem>.+\.tar)(?P<mark>[._-]?(?:part)?[._-]?)(?P<place>[0-9]+|[a-z]{2,})", re.I
)
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PK\x03\x04": "zip",
}
BLOCK = 512  # bytes: a tar's unit


def find_parts(source: Path) -> tuple[Path, ...]:
    """Return the files of the archive that a path names, in order; empty if it names none.

    Args:
        source: a tar, any of its parts, or the name that the parts have in common.

    Raises:
        EvaluationError: a part is missing.
    """
    if source.suffix.lower() == ".tar" and source.is_file():
        return (source,)
    named = _PART.fullmatch(source.name)
    if not (named and source.is_file()) and source.suffix.lower() != ".tar":
        return ()
    stem = named["stem"] if named else source.name
    kinds: dict[tuple[str, int], dict[str, Path]] = {}  # (mark, letters) -> parts
    for path in sorted(source.parent.glob(f"{_escaped(stem)}?*")):
        part = _PART.fullmatch(path.name)
        if part and part["stem"] == stem and path.is_file():
            letters = len(part["place"]) if part["place"].isalpha() else 0
            kinds.setdefault((part["mark"], letters), {})[part["place"]] = path
    for (_, letters), parts in kinds.items():
        if source not in parts.values() and named:
            continue
        if not letters or "a" * letters in parts:  # not another suffix, such as .tar.gz
            return _ordered(source.parent / stem, parts)
    return ()


def compression(file: Path) -> str | None:
    """Return the name of the compression that a file begins with; None if it is not compressed."""
    with open_file(file) as opened:
        head = opened.read(8)
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


class Archive:
    """An uncompressed tar.

    Args:
        parts: its files, in order.

    Attributes:
        name: of the archive, as messages show it.
        modified: latest modification of a part, in nanoseconds.

    Raises:
        EvaluationError: a part cannot be read, or is compressed.
    """

    def __init__(self, parts: tuple[Path, ...]) -> None:
        self.name = str(parts[0] if len(parts) == 1 else f"{parts[0]} ... {parts[-1].name}")
        self._parts = parts
        try:
            packed = compression(parts[0])
            status = [part.stat() for part in parts]
        except OSError as error:
            raise EvaluationError(f"{self.name} cannot be read: {error.strerror}") from error
        if packed:
            raise EvaluationError(
                f"{parts[0]} is compressed ({packed}), so its images cannot be read in place: "
                "unpack it, and name the folder or the uncompressed tar"
            )
        self.modified = max(one.st_mtime_ns for one in status)
        self._starts = [0, *accumulate(one.st_size for one in status)]

    @property
    def size(self) -> int:
        """Return the number of bytes of all parts."""
        return self._starts[-1]

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the joined parts, fewer at the end.

        Raises:
            OSError: a part cannot be read.
        """
        pieces = []
        while size > 0 and offset < self.size:
            part = bisect_right(self._starts, offset) - 1
            with open_file(self._parts[part]) as file:
                file.seek(offset - self._starts[part])
                piece = file.read(min(size, self._starts[part + 1] - offset))
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return b"".join(pieces)

    def members(self) -> Iterator[tuple[str, int, int]]:
        """Yield each regular file's name, position and size in bytes; links are left out.

        Raises:
            EvaluationError: it is no tar, or is cut short.
        """
        end = 0
        try:
            with tarfile.open(fileobj=io.BufferedReader(_Joined(self)), mode="r:") as tar:
                for member in tar:
                    if member.issparse():
                        raise EvaluationError(f"{self.name} holds sparse files: unpack it")
                    padded = -(-member.size // BLOCK) * BLOCK if member.isreg() else 0
                    end = member.offset_data + padded
                    if member.isreg():
                        yield member.name, member.offset_data, member.size
        except (tarfile.TarError, OSError, EOFError) as error:
            raise EvaluationError(f"{self.name} cannot be read as a tar: {error}") from error
        # Python's reader takes any block that is no header for the end.
        if self.read(end, BLOCK) != bytes(BLOCK):
            raise EvaluationError(
                f"{self.name} has no tar header at byte {end:,} and does not end there; it is cut "
                "short, or parts are missing"
            )


def _ordered(archive: Path, parts: dict[str, Path]) -> tuple[Path, ...]:
    """Return parts in the order of their numbers or letters, of which none may be missing."""
    files = {_number(place): path for place, path in parts.items()}
    numbers = sorted(files)
    gaps = sorted(set(range(min(numbers[0], 1), numbers[-1] + 1)) - set(numbers))
    if gaps:
        before = [files[number].name for number in numbers if number < gaps[0]]
        where = f"after {before[-1]}" if before else f"before {files[numbers[0]].name}"
        raise EvaluationError(f"a part of the archive {archive} is missing {where}")
    return tuple(files[number] for number in numbers)


def _number(place: str) -> int:
    """Return the number of a part: its own, or that of its letters, from aa = 0."""
    if not place.isalpha():
        return int(place)
    number = 0
    for letter in place.lower():
        number = number * 26 + ord(letter) - ord("a")
    return number


class _Joined(io.RawIOBase):
    """An archive's parts as one file."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._archive.size}
        self._place = origin[whence] + offset
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        data = self._archive.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _escaped(name: str) -> str:
    """Return a name for `Path.glob` that stands for itself."""
    return re.sub(r"([*?\[])", r"[\1]", name)
