"""Exclude withdrawn works and their copies from training images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from index.takedowns.fingerprints import fingerprint
from index.takedowns.in_force import Takedowns
from index.thumbnails import thumbnail_of
from model.errors import ImageError
from model.images import DEFAULT_LIMITS, DecodedImage, ImageLimits, decode_image
from model.pretraining.shards import ImageRef
from model.sources.picture import Picture, decode_picture

STEP = 256  # images between two reports of progress

Image = TypeVar("Image")
Progress = Callable[[str, int, int], None]  # (stage, done, total)


def leave_out_withdrawn(
    pictures: Sequence[Picture],
    takedowns: Takedowns,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> tuple[list[Picture], list[Picture]]:
    """Split pictures into usable and withdrawn ones (same content, or near-duplicates).

    Every picture is read and decoded once, unless no takedown is in force. One that cannot be
    decoded counts as usable: training skips it.

    Args:
        pictures: to train on.
        takedowns: in force.
        workers: threads that decode, at least one.
        limits: limits on an image's size.
        progress: called with ("scanning", done, total).
    """
    return _split(pictures, takedowns, partial(decode_picture, limits=limits), workers, progress)


def leave_out_withdrawn_references(
    images: Sequence[ImageRef],
    takedowns: Takedowns,
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> tuple[list[ImageRef], list[ImageRef]]:
    """Split images for pre-training, in files and shards, as `leave_out_withdrawn` does."""
    return _split(images, takedowns, _decode, workers, progress)


def _split(
    images: Sequence[Image],
    takedowns: Takedowns,
    decode: Callable[[Image], DecodedImage],
    workers: int,
    progress: Progress | None,
) -> tuple[list[Image], list[Image]]:
    kept: list[Image] = []
    withdrawn: list[Image] = []
    if not takedowns.active:
        return list(images), withdrawn
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for start in range(0, len(images), STEP):
            part = images[start : start + STEP]
            read = list(pool.map(partial(_identify, decode=decode), part))
            near = takedowns.of_fingerprints([one[1] for one in read if one])
            copies = iter(near)
            for image, one in zip(part, read, strict=True):
                gone = one and (next(copies) or takedowns.of_exemplar(one[0], ""))
                (withdrawn if gone else kept).append(image)
            if progress:
                progress("scanning", start + len(part), len(images))
    return kept, withdrawn


def _decode(image: ImageRef) -> DecodedImage:
    # As large as its header said when it was found to be within the limits.
    try:
        return decode_image(image.read(), ImageLimits(image.area, image.area, min_side=1))
    except OSError as error:
        raise ImageError(f"{image.picture.address} cannot be read") from error


def _identify(image: Image, decode: Callable[[Image], DecodedImage]) -> tuple[str, bytes] | None:
    """Return the SHA-256 and fingerprint of an image; None if it cannot be decoded."""
    try:
        decoded = decode(image)
    except ImageError:
        return None
    return decoded.sha256, fingerprint(thumbnail_of(decoded.pixels))
