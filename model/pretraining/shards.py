"""List the images for pre-training: image files of folders, and members of tar shards."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import ImageError, SourceError, TrainingError
from model.folders import Skip, Skipped, first_of, is_folder, list_files, named, only_images
from model.images import DEFAULT_LIMITS, ImageLimits, read_size
from model.regular_files import shown
from model.sources.local import LocalFile
from model.sources.picture import Picture, max_bytes, opened
from model.sources.tar import SHARD, Member, members, not_a_picture


@dataclass(frozen=True)
class ImageRef:
    """Location of one encoded image, and its size in pixels."""

    picture: Picture
    length: int  # bytes
    short_side: int
    area: int

    def read(self) -> bytes:
        """Read the encoded bytes."""
        return self.picture.read()

    @property
    def label(self) -> str | None:
        """Return the class in its file name (``n02132136`` of ``n02132136_171.JPEG``)."""
        prefix, mark, _ = self.picture.name.partition("_")
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
    images: dict[Hashable, ImageRef] = {}
    skipped: list[Skipped] = []
    for path in paths:
        for found in _entries(path, skipped.append):
            measured = _measured(found, limits)
            if isinstance(measured, Skipped):
                skipped.append(measured)
            else:
                images.setdefault(found.identity, measured)
    if not images:
        raise TrainingError(
            f"no readable images were found below {named(paths)} (image files, or shards whose "
            f"names end in {SHARD}){first_of(skipped)}"
        )
    return Collection(list(images.values()), skipped)


def _entries(path: Path, skip: Skip) -> Iterator[Picture]:
    given = [path] if not (folder := is_folder(path)) else list_files(path, skip)
    shards = [file for file in given if file.suffix.lower() == SHARD]
    others = [file for file in given if file.suffix.lower() != SHARD]
    for shard in shards:
        try:
            yield from _pictures(shard, skip)
        except SourceError as error:
            raise TrainingError(str(error)) from error
        except OSError as error:
            if not folder:
                raise TrainingError(f"--images {shown(path)}: {error.strerror or error}") from error
            skip(_unreadable(shown(shard), error))
    for file in only_images(others, skip) if folder else others:
        yield LocalFile(file.absolute())


def _unreadable(place: str, error: OSError) -> Skipped:
    return Skipped(place, f"the file could not be read: {error.strerror or error}")


def _pictures(shard: Path, skip: Skip) -> list[Member]:
    """Returns the pictures in a shard, once all of it is known to be whole."""
    pictures = []
    for member in members(LocalFile(shard.absolute())):
        if reason := not_a_picture(member):
            skip(Skipped(shown(member.address), reason))
        else:
            pictures.append(member)
    return pictures


def _measured(found: Picture, limits: ImageLimits) -> ImageRef | Skipped:
    """Returns the image with the size from its header, or the reason to skip it."""
    place = shown(found.address)
    try:
        size, limit = found.size, max_bytes(limits)
        if size > limit:
            return Skipped(place, f"it has {size:,} bytes, over {limit:,}")
        with opened(found) as file:
            width, height = read_size(file, limits)
        replace(limits, min_side=1).check(width, height)
    except ImageError as error:
        return Skipped(place, str(error))
    except OSError as error:
        return _unreadable(place, error)
    return ImageRef(found, size, min(width, height), width * height)
