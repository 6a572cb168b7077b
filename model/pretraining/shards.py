"""Where the images of pre-training lie: files of folders, and members of tar shards."""

import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from model.errors import TrainingError
from model.images import DEFAULT_LIMITS, FORMATS, SUFFIXES, find_images, folder_fault

SHARD = ".tar"
MOST_BYTES = 20 * 2**20  # of one image, encoded; what is larger is left out unread


@dataclass(frozen=True)
class ImageRef:
    """The encoded bytes of one image, and its size in pixels."""

    path: Path  # the image's own file, or the shard that holds it
    name: str  # of the file, or of the shard's member
    offset: int  # of its first byte in that file
    length: int  # bytes
    short_side: int
    area: int

    def read(self) -> bytes:
        """Its encoded bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)

    @property
    def label(self) -> str | None:
        """The class that its file name begins with (``n02132136`` of ``n02132136_171.JPEG``)."""
        prefix, mark, _ = Path(self.name).name.partition("_")
        return prefix if mark else None


@dataclass(frozen=True)
class Collection:
    """What was found."""

    images: list[ImageRef]
    unreadable: list[str]  # names of images whose header cannot be read, or that are too large


def collect_images(paths: Sequence[Path]) -> Collection:
    """All images below ``paths``: image files, tar shards, and folders of either at any depth.

    Only headers are read. A shard is read in place, never unpacked; it must not be compressed.

    Raises:
        TrainingError: a path does not exist or cannot be read, a shard is damaged or compressed, or
            there is no readable image at all.
    """
    images: dict[tuple[Path, int], ImageRef] = {}
    unreadable: list[str] = []
    for path in paths:
        try:
            if not path.exists():
                raise TrainingError(f"--images {path}: there is no such file or folder")
            for found in _entries(path):
                measured = _measured(found)
                if measured is None:
                    unreadable.append(f"{found.path}: {found.name}")
                else:
                    images.setdefault((found.path, found.offset), measured)
        except OSError as error:
            raise TrainingError(f"--images {path}: {folder_fault(error)}") from error
    if not images:
        raise TrainingError(
            f"no readable images were found below {', '.join(map(str, paths))} (tar shards, or "
            f"files ending in {', '.join(sorted(SUFFIXES))}; {len(unreadable)} unreadable)"
        )
    return Collection(list(images.values()), unreadable)


def _entries(path: Path) -> Iterator[ImageRef]:
    if path.is_dir():
        for shard in sorted(path.rglob("*")):
            if shard.suffix.lower() == SHARD and shard.is_file():
                yield from _members(shard)
        files = find_images(path)
    elif path.suffix.lower() == SHARD:
        yield from _members(path)
        files = []
    else:
        files = [path]
    for file in files:
        yield ImageRef(file.resolve(), file.name, 0, file.stat().st_size, 0, 0)


def _members(shard: Path) -> Iterator[ImageRef]:
    size = shard.stat().st_size
    members = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                # A forged size must not send the reader back, or beyond the end.
                if member.size < 0 or member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} reaches beyond its end")
                members.append(member)
            end = archive.offset
        # At a header that is damaged or missing, tarfile stops as if the archive ended there.
        if not _ends_at(shard, end):
            raise tarfile.ReadError(f"after {len(members)} members, at byte {end:,}")
    except (tarfile.TarError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise TrainingError(
            f"shard {shard} cannot be read ({error}): it is cut short, damaged or compressed; "
            "write it again as a plain tar, or leave it out"
        ) from error
    for member in members:
        if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
            yield ImageRef(shard.resolve(), member.name, member.offset_data, member.size, 0, 0)


def _ends_at(shard: Path, end: int) -> bool:
    """Whether nothing but zeros follows, at least the two blocks that end an archive."""
    length = 0
    with shard.open("rb") as file:
        file.seek(end)
        while block := file.read(2**20):
            if block.count(0) != len(block):
                return False
            length += len(block)
    return length >= 2 * tarfile.BLOCKSIZE


def _measured(found: ImageRef) -> ImageRef | None:
    """With its size, from its header; None where there is none, or it is too large to be read."""
    if found.length > MOST_BYTES:
        return None
    try:
        # Own files by their path, so that their pixels are not read; a member is at no offset 0.
        source = io.BytesIO(found.read()) if found.offset else found.path
        with Image.open(source, formats=FORMATS) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if width * height > DEFAULT_LIMITS.max_pixels or max(width, height) > DEFAULT_LIMITS.max_side:
        return None
    return replace(found, short_side=min(width, height), area=width * height)
