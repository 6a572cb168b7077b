"""Decode an encoded image to upright 8-bit sRGB within limits, or raise a named error.

Files come from strangers, so that all of it happens in `model.decoding.processes`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from model.decoding.formats import FORMATS, begins_image
from model.decoding.limits import DEFAULT_LIMITS, ImageLimits
from model.decoding.processes import decoders
from model.decoding.tiff import is_tiff
from model.errors import ImageError, UndecodableImageError, UnreadableImageError
from model.regions import parts_of
from model.regular_files import read_file
from model.squares import Square

__all__ = [
    "DECODING", "DEFAULT_LIMITS", "FORMATS", "DecodedImage", "ImageLimits", "begins_image",
    "decode_image", "decodes_differently", "media_type", "read_image", "read_size",
]  # fmt: skip

DECODING = 2  # version of `decode_image`, increased when its pixels change: `decodes_differently`
HEADER = 65_536  # bytes that contain the size


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and the hash of its encoded bytes."""

    pixels: Image.Image  # mode RGB, upright, sRGB; smaller than ``size`` if decoded reduced; or
    # a column of squares, if these were asked for
    sha256: str  # of the encoded bytes
    size: tuple[int, int]  # width and height of the upright image at full size


def decode_image(
    data: bytes,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    min_decode_side: int | None = None,
    square: Square | None = None,
    check: Callable[[], None] = lambda: None,
) -> DecodedImage:
    """Decode one image: first frame, upright, alpha over white, 8-bit sRGB.

    The size is checked from the header, before any pixel is decoded, so that a decompression bomb
    is refused. Colours are converted to sRGB by the file's ICC profile, or by a PNG's chunks cICP,
    gAMA and cHRM. Damaged metadata is ignored.

    Args:
        data: the encoded image.
        limits: limits on its size and its decoding.
        min_decode_side: pixels on the shorter side that the caller needs. A JPEG whose half,
            quarter or eighth still has them is decoded at that size, in a fraction of the time.
        square: of the parts of the image that a network reads. Only these squares are returned, as
            a `Square.column`.
        check: called about ten times a second; an error that it raises ends the decoding.

    Raises:
        UnsupportedImageError: not one of `FORMATS`, or samples that cannot be converted correctly.
        ImageTooLargeError: more than ``limits.max_pixels`` or a side over ``limits.max_side``.
        ImageTooSmallError: a side under ``limits.min_side``.
        ImageTooCostlyError: more time or memory than an image of its size may take.
        UndecodableImageError: the pixels are truncated or damaged.
        DecodersUnavailableError: no process can be started that decodes.
        Exception: of ``check``.
    """
    if not data:
        raise UndecodableImageError("the image is empty: 0 bytes were given")
    hashed: list[str] = []  # by this process, while the other one decodes

    def hash_once() -> None:
        if not hashed:
            hashed.append(hashlib.sha256(data).hexdigest())

    pixels, size = decoders().decode(data, limits, min_decode_side, square, check, hash_once)
    if square and pixels.size != (square.side, square.side * len(parts_of(size))):
        raise UndecodableImageError("the image could not be decoded: its decoder failed")
    return DecodedImage(pixels, hashed[0], size)


def read_image(
    path: Path,
    limits: ImageLimits = DEFAULT_LIMITS,
    *,
    min_decode_side: int | None = None,
    square: Square | None = None,
) -> DecodedImage:
    """Read and decode an image file; see `decode_image`.

    Raises:
        ImageError: as in `decode_image`, or the file cannot be read.
        DecodersUnavailableError: as in `decode_image`.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UnreadableImageError(
            f"the file could not be read: {error.strerror or error}"
        ) from error
    return decode_image(data, limits, min_decode_side=min_decode_side, square=square)


def read_size(file: BinaryIO, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Read an image's width and height from its header.

    Args:
        file: at the image's first byte.
        limits: limits on the time to read it.

    Raises:
        UnsupportedImageError: not one of `FORMATS`.
        UndecodableImageError: the header is cut short or damaged.
        ImageTooCostlyError: reading the header takes too long.
        DecodersUnavailableError: as in `decode_image`.
    """
    data = file.read(HEADER)
    if not is_tiff(data):
        try:
            return _size(data, limits)
        except UndecodableImageError:  # the header may be longer
            if len(data) < HEADER:
                raise
    return _size(data + file.read(), limits)


def _size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    width, height = decoders().read("size_of", data, limits)
    return int(width), int(height)


def media_type(data: bytes) -> str:
    """Returns the media type of an image that `decode_image` reads."""
    return str(decoders().read("media_type", data, DEFAULT_LIMITS))


def decodes_differently(data: bytes) -> bool:
    """Return True if `decode_image` gives other pixels of this file than `DECODING` 1 did.

    That version ignored colour profiles and read TIFFs by Pillow alone.
    """
    try:
        return decoders().read("decodes_differently", data, DEFAULT_LIMITS) is not False
    except ImageError:  # decoding raises it again
        return True
