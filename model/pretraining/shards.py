"""List the images for pre-training: image files of folders, and members of tar shards."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from model.content import HEAD, PICTURE_SUFFIXES
from model.errors import ImageError, TrainingError
from model.folders import (
    Skip,
    Skipped,
    first_of,
    is_folder,
    list_files,
    named,
    not_an_image_because,
    only_images,
    unused_name,
)
from model.images import DEFAULT_LIMITS, ImageLimits, begins_image, read_size
from model.regular_files import open_file, shown

SHARD = ".tar"
MAX_BYTES_PER_PIXEL = 4  # of the pixel limit; larger files are skipped unread


@dataclass(frozen=True)
class ImageRef:
    """Location of one encoded image, and its size in pixels."""

    path: Path  # the image's own file, or the shard that holds it
    name: str  # of the file, or of the shard's member
    offset: int  # of its first byte in that file
    length: int  # bytes
    short_side: int
    area: int

    def read(self) -> bytes:
        """Read the encoded bytes."""
        with open_file(self.path) as file:
            file.seek(self.offset)
            return file.read(self.length)

    @property
    def label(self) -> str | None:
        """Return the class in its file name (``n02132136`` of ``n02132136_171.JPEG``)."""
        prefix, mark, _ = Path(self.name).name.partition("_")
        return prefix if mark else None


@dataclass(frozen=True)
class Collection:
    """Images found, and other files."""

    images: list[ImageRef]
    skipped: list[Skipped]  # all other files, each with the reason


def collect_images(paths: Sequence[Path], limits: ImageLimits = DEFAULT_LIMITS) -> Collection:
    """Returns all images below ``paths``: image files, tar shards, and folders of either.

    Folders are walked as in `model.folders`. Only headers are read. A shard, a file whose name ends
    in ``.tar``, is read in place, never unpacked; it must not be compressed.

    Raises:
        TrainingError: a path does not exist or cannot be read, a shard is damaged or compressed, or
            there is no readable image at all.
    """
    images: dict[tuple[Path, int], ImageRef] = {}
    skipped: list[Skipped] = []
    for path in paths:
        for found in _entries(path, skipped.append):
            measured = _measured(found, limits)
            if isinstance(measured, Skipped):
                skipped.append(measured)
            else:
                images.setdefault((found.path, found.offset), measured)
    if not images:
        raise TrainingError(
            f"no readable images were found below {named(paths)} (image files, or shards whose "
            f"names end in {SHARD}){first_of(skipped)}"
        )
    return Collection(list(images.values()), skipped)


def _entries(path: Path, skip: Skip) -> Iterator[ImageRef]:
    given = [path] if not (folder := is_folder(path)) else list_files(path, skip)
    shards = [file for file in given if file.suffix.lower() == SHARD]
    others = [file for file in given if file.suffix.lower() != SHARD]
    for shard in shards:
        try:
            yield from _members(shard, skip)
        except OSError as error:
            if not folder:
                raise TrainingError(f"--images {shown(path)}: {error.strerror or error}") from error
            skip(_unreadable(shown(shard), error))
    for file in only_images(others, skip) if folder else others:
        try:
            yield ImageRef(file.resolve(), file.name, 0, file.stat().st_size, 0, 0)
        except OSError as error:
            skip(_unreadable(shown(file), error))


def _unreadable(place: str, error: OSError) -> Skipped:
    return Skipped(place, f"the file could not be read: {error.strerror or error}")


def _members(shard: Path, skip: Skip) -> Iterator[ImageRef]:
    size = shard.stat().st_size
    members = []
    try:
        with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                # A forged size must not move the reader backwards, or beyond the end.
                if member.size < 0 or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                members.append(member)
            end = archive.offset
        # tarfile takes a damaged or missing header for the end of the archive.
        if not _ends_at(shard, end):
            raise tarfile.ReadError(f"after {len(members)} members, at byte {end:,}")
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise TrainingError(
            f"shard {shard} cannot be read ({error}): it is cut short, damaged or compressed; "
            "write it again as a plain tar, or leave it out"
        ) from error
    with open_file(shard) as file:
        for member in members:
            if member.isdir():
                continue
            if reason := _unused(member, file):
                skip(Skipped(f"{shown(shard)}: {member.name}", reason))
            else:
                yield ImageRef(shard.resolve(), member.name, member.offset_data, member.size, 0, 0)


def _unused(member: tarfile.TarInfo, file: BinaryIO) -> str | None:
    """Returns the reason to skip a member of a shard; None for an image, by bytes or name."""
    if not member.isfile():
        return "a link or a special file in a shard"
    *folders, name = [part for part in member.name.split("/") if part not in {"", "."}] or [""]
    reasons = [unused_name(part, folder=True) for part in folders]
    if reason := next(filter(None, [*reasons, unused_name(name, folder=False)]), None):
        return reason
    if Path(name).suffix.lower() in PICTURE_SUFFIXES:
        return None
    file.seek(member.offset_data)
    head = file.read(min(HEAD, member.size))
    return None if begins_image(head) else not_an_image_because(head)


def _ends_at(shard: Path, end: int) -> bool:
    """Return True if only zeros follow, at least the two blocks that end an archive."""
    length = 0
    with open_file(shard) as file:
        file.seek(end)
        while block := file.read(2**20):
            if block.count(0) != len(block):
                return False
            length += len(block)
    return length >= 2 * tarfile.BLOCKSIZE


def _measured(found: ImageRef, limits: ImageLimits) -> ImageRef | Skipped:
    """Returns the image with the size from its header, or the reason to skip it."""
    place = shown(found.path) if not found.offset else f"{shown(found.path)}: {found.name}"
    if found.length > (limit := MAX_BYTES_PER_PIXEL * limits.max_pixels):
        return Skipped(place, f"it has {found.length:,} bytes, over {limit:,}")
    try:
        # Files are opened, so that their pixels are not read; members have an offset above 0.
        with io.BytesIO(found.read()) if found.offset else open_file(found.path) as file:
            width, height = read_size(file, limits)
        replace(limits, min_side=1).check(width, height)
    except ImageError as error:
        return Skipped(place, str(error))
    except OSError as error:
        return _unreadable(place, error)
    return replace(found, short_side=min(width, height), area=width * height)
