"""Pictures in tar shards of one or more parts, read in place: no member is unpacked.

A member is read by its position, so a shard must not be compressed. Parts are the pieces that tools
such as ``split`` cut a file into: ``x.tar.001``, ``x.tar.002`` or ``x.tar.aa``, ``x.tar.ab``.
"""

import hashlib
import re
import tarfile
from bisect import bisect_right
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from model.content import HEAD, PICTURE_SUFFIXES, TAR
from model.errors import SourceError
from model.folders import not_an_image_because, unused_name
from model.images import begins_image
from model.regular_files import open_file, shown
from model.sources.listings import Listings
from model.sources.local import LocalFile
from model.sources.picture import (
    Picture,
    Stamp,
    changed_error,
    opened,
    require_version,
    unchanged,
)
from model.sources.remote import RemoteFile

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
_CHECKED = 2**20  # bytes hashed, or read behind the last member, at once
SIDE_FILES = (".json", ".cls", ".txt")  # of a picture's name, in a shard of WebDataset
_KEPT_TEXT = 2**16  # bytes of such a file that are kept with its shard's listing
_KIND = "tar 1"  # of listings; another number for another content of their rows


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar shard, such as a picture."""

    shard: Picture
    version: str  # text of the shard's stamp when its members were listed
    path: str  # its name in the shard, with folders
    offset: int  # of its first byte
    size: int
    regular: bool = True  # False for a link or a device
    sha256: str = ""  # of its bytes, if it is known
    text: bytes | None = None  # all of its bytes, if they are known
    unusable: str | None = None  # why its bytes are no picture, if they were looked at; "" if so

    @property
    def address(self) -> str:
        """Return the shard's address and the member's path behind ``#``."""
        return f"{self.shard.address}#{self.path}"

    @property
    def name(self) -> str:
        """Return the path's last part."""
        return self.path.rpartition("/")[2]

    @property
    def stamp(self) -> Stamp:
        """Return the shard's stamp with the place in it."""
        stamp = require_version(self.shard, self.version)
        text = f"{stamp.text}#{self.offset}+{self.size}" if stamp.text else ""
        return Stamp(text, stamp.changed, self.sha256)

    @property
    def identity(self) -> Hashable:
        """Return the shard's identity and the place in it."""
        return self.shard.identity, self.offset

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return the member's bytes from a position on, all or some of them.

        Raises:
            SourceError: the shard is gone, has changed or was cut short since it was listed.
        """
        left = max(0, self.size - offset)
        wanted = left if size is None else min(size, left)
        if self.text is not None:
            return self.text[offset : offset + wanted]
        with unchanged(self.shard, self.version):
            data = self.shard.read(wanted, self.offset + offset)
        if len(data) < wanted:
            raise SourceError(
                f"shard {shown(self.shard.address)} ends within {self.path}: it was cut short "
                "while it was read; run the command again once it is whole"
            )
        # A server may tell neither a version nor the time of a change.
        unknown = self.sha256 and not self.version and wanted == self.size
        if unknown and hashlib.sha256(data).hexdigest() != self.sha256:
            raise changed_error(shown(self.shard.address))
        return data


def members(shard: Picture, listings: Listings | None = None) -> Iterator[Member]:
    """Yield the members of a shard that are no folders, in order.

    Args:
        shard: the tar.
        listings: keeps the members of a shard at a URL, which is read whole without it.

    Raises:
        SourceError: it is no tar, is compressed or damaged, is cut short, or changes meanwhile.
        OSError: it cannot be read.
    """
    if not isinstance(shard, RemoteFile):
        yield from _scanned(shard)
        return
    shard = shard.described()
    version = shard.stamp.text
    if listings and (rows := listings.get(shard, _KIND)) is not None:
        for path, offset, size, regular, sha256, text, unusable in rows:
            content = None if text is None else text.encode("latin-1")
            yield Member(shard, version, path, offset, size, regular, sha256, content, unusable)
        return
    found = []
    for member in map(_known, _scanned(shard)):
        found.append(member)
        yield member
    if listings:
        listings.keep(shard, _KIND, map(_row, found))


def _row(member: Member) -> list[object]:
    """Return a member for `Listings`, its bytes as text of Latin-1."""
    text = None if member.text is None else member.text.decode("latin-1")
    return [
        member.path, member.offset, member.size, member.regular, member.sha256, text,
        member.unusable,
    ]  # fmt: skip


def _known(member: Member) -> Member:
    """Return a member of a shard at a URL with all that is asked of it later, but for a picture.

    The shard comes by whole, so that a picture is read again only if it was not embedded yet.
    """
    if not member.regular:
        return member
    member = replace(member, sha256=_hash(member))
    suffix = Path(member.path).suffix.lower()
    if suffix in SIDE_FILES:
        return replace(member, text=member.read()) if member.size <= _KEPT_TEXT else member
    return member if suffix in PICTURE_SUFFIXES else replace(member, unusable=_unusable(member))


def _scanned(shard: Picture) -> Iterator[Member]:
    """Yield the members that a shard's headers tell of."""
    name, version = shown(shard.address), shard.stamp.text
    if packed := compression(shard.read(HEAD)):
        raise SourceError(
            f"{name} is compressed ({packed}), so its images cannot be read in place: unpack it, "
            "or write it again as a plain tar"
        )
    size, count, end = shard.size, 0, 0
    with opened(shard) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    # A forged size must not move the reader backwards, or beyond the end.
                    if member.size < 0 or member.offset_data + member.size > size:
                        raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                    if member.issparse():
                        raise SourceError(f"{name} holds sparse files: unpack it")
                    count += 1
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps all of them
                    if not member.isdir():
                        yield Member(
                            shard,
                            version,
                            member.name,
                            member.offset_data,
                            member.size,
                            member.isreg(),
                        )
                end = tar.offset
        except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
            require_version(shard, version)
            raise SourceError(
                f"shard {name} cannot be read ({error}): it is cut short, damaged or compressed; "
                "write it again as a plain tar, or leave it out"
            ) from error
        # tarfile takes a damaged or missing header for the end of the archive.
        if not _ends_at(shard, end):
            require_version(shard, version)
            raise SourceError(
                f"shard {name} cannot be read (after {count} members, at byte {end:,}, comes "
                "neither a header nor the end): it is cut short or damaged; write it again as a "
                "plain tar, or leave it out"
            )
    require_version(shard, version)


def _hash(member: Member) -> str:
    digest = hashlib.sha256()
    for start in range(0, member.size, _CHECKED):
        digest.update(member.read(_CHECKED, start))
    return digest.hexdigest()


def not_a_picture(member: Member) -> str | None:
    """Returns the reason to skip a member; None for an image, by its name or its bytes.

    Raises:
        OSError: the shard cannot be read.
    """
    if not member.regular:
        return "a link or a special file in a shard"
    *folders, name = [part for part in member.path.split("/") if part not in {"", "."}] or [""]
    reasons = [unused_name(part, folder=True) for part in folders]
    if reason := next(filter(None, [*reasons, unused_name(name, folder=False)]), None):
        return reason
    if Path(name).suffix.lower() in PICTURE_SUFFIXES:
        return None
    return (_unusable(member) if member.unusable is None else member.unusable) or None


def _unusable(member: Member) -> str:
    """Return why a member is no picture by its bytes; empty for one that begins like one."""
    head = member.read(HEAD)
    return "" if begins_image(head) else not_an_image_because(head)


def compression(head: bytes) -> str | None:
    """Returns the compression of a file that begins with these bytes; None if it has none."""
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def find_shard(source: Path) -> "LocalFile | JoinedFile | None":
    """Returns the shard that a path names; None if it names none.

    Args:
        source: a tar, any of its parts, or the name that the parts have in common.

    Raises:
        SourceError: a part is missing, or cannot be read.
    """
    parts = find_parts(source)
    if not parts:
        return None
    return LocalFile(parts[0]) if parts == (source,) else JoinedFile(parts)


def find_parts(source: Path) -> tuple[Path, ...]:
    """Returns the files of the shard that a path names, in order; empty if it names none.

    Raises:
        SourceError: a part is missing.
    """
    if source.suffix.lower() == TAR and source.is_file():
        return (source,)
    named = _PART.fullmatch(source.name)
    if not (named and source.is_file()) and source.suffix.lower() != TAR:
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


@dataclass(frozen=True)
class JoinedFile:
    """Parts of a file, read as one.

    Args:
        parts: the files, in order.
    """

    parts: tuple[Path, ...]

    @property
    def address(self) -> str:
        """Return the path of the whole, which the parts' names begin with."""
        named = _PART.fullmatch(self.parts[0].name)
        return str(self.parts[0].with_name(named["stem"])) if named else str(self.parts[0])

    @property
    def name(self) -> str:
        """Return the last part of the whole's path."""
        return Path(self.address).name

    @property
    def size(self) -> int:
        """Return the number of bytes of all parts."""
        return self._starts[-1]

    @property
    def stamp(self) -> Stamp:
        """Return a stamp of all parts' sizes and times."""
        stamps = [LocalFile(part).stamp for part in self.parts]
        return Stamp(" ".join(one.text for one in stamps), max(one.changed for one in stamps))

    @property
    def identity(self) -> Hashable:
        """Return the first part's device and inode."""
        return LocalFile(self.parts[0]).identity

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(part.stat().st_size for part in self.parts)]

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return bytes from a position on, fewer at the end."""
        pieces = []
        left = self.size - offset if size is None else size
        while left > 0 and offset < self.size:
            part = bisect_right(self._starts, offset) - 1
            with open_file(self.parts[part]) as file:
                file.seek(offset - self._starts[part])
                piece = file.read(min(left, self._starts[part + 1] - offset))
            if not piece:
                break
            pieces.append(piece)
            offset, left = offset + len(piece), left - len(piece)
        return b"".join(pieces)


def _ends_at(shard: Picture, end: int) -> bool:
    """Return True if only zeros follow, at least the two blocks that end a tar."""
    length = 0
    while block := shard.read(_CHECKED, end + length):
        if block.count(0) != len(block):
            return False
        length += len(block)
    return length >= 2 * tarfile.BLOCKSIZE


def _ordered(whole: Path, parts: dict[str, Path]) -> tuple[Path, ...]:
    """Return parts in the order of their numbers or letters, of which none may be missing."""
    files = {_number(place): path for place, path in parts.items()}
    numbers = sorted(files)
    gaps = sorted(set(range(min(numbers[0], 1), numbers[-1] + 1)) - set(numbers))
    if gaps:
        before = [files[number].name for number in numbers if number < gaps[0]]
        where = f"after {before[-1]}" if before else f"before {files[numbers[0]].name}"
        raise SourceError(f"a part of the archive {whole} is missing {where}")
    return tuple(files[number] for number in numbers)


def _number(place: str) -> int:
    """Return the number of a part: its own, or that of its letters, from aa = 0."""
    if not place.isalpha():
        return int(place)
    number = 0
    for letter in place.lower():
        number = number * 26 + ord(letter) - ord("a")
    return number


def _escaped(name: str) -> str:
    """Return a name for `Path.glob` that stands for itself."""
    return re.sub(r"([*?\[])", r"[\1]", name)
