"""List the images for pre-training: image files of folders, and members of tar shards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import ImageError, TrainingError
from model.folders import Skip, Skipped, first_of
from model.images import DEFAULT_LIMITS, ImageLimits, read_size
from model.regular_files import shown
from model.sources.listing import list_pictures
from model.sources.picture import Picture, max_bytes, opened
from model.sources.remote import is_url, shown_url


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


def collect_images(
    sources: Sequence[Path | str],
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    listed: Callable[[Sequence[Path | str], Skip], list[Picture]] = list_pictures,
) -> Collection:
    """Returns all images of ``sources``.

    Only headers are read. Shards are read in place, never unpacked.

    Args:
        sources: paths or URLs.
        limits: limits on an image's size.
        listed: lists the pictures of sources, as `model.sources.listing.list_pictures` does.

    Raises:
        TrainingError: a path does not exist or cannot be read, or there is no readable image at
            all.
        SourceError: a shard is damaged or compressed, or a URL cannot be read.
    """
    images: list[ImageRef] = []
    skipped: list[Skipped] = []
    for found in listed(sources, skipped.append):
        measured = _measured(found, limits)
        if isinstance(measured, Skipped):
            skipped.append(measured)
        else:
            images.append(measured)
    if not images:
        names = ", ".join(
            shown_url(one) if is_url(one) else shown(one) for one in map(str, sources)
        )
        raise TrainingError(f"no readable images were found below {names}{first_of(skipped)}")
    return Collection(images, skipped)


def _unreadable(place: str, error: OSError) -> Skipped:
    return Skipped(place, f"the file could not be read: {error.strerror or error}")


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
