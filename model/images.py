"""Bytes or a file -> an upright 8-bit RGB image within limits, or a named error."""

import contextlib
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from model.content import HEAD, describe
from model.errors import (
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UndecodableImageError,
    UnsupportedImageError,
)
from model.regular_files import read_file

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
TIFF_BITS_PER_SAMPLE = 258

# `ImageLimits` is the limit that counts; Pillow's own warning would be a second, vaguer one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Its others repeat parts of a damaged file to the log, and Python keeps the text of each for ever.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """What is accepted; sides and areas in pixels."""

    max_pixels: int = 50_000_000
    max_side: int = 20_000
    min_side: int = 16


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class DecodedImage:
    """An image and the identity of the bytes it came from."""

    pixels: Image.Image  # mode RGB, upright
    sha256: str  # of the encoded bytes


def decode_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, enough: int | None = None
) -> DecodedImage:
    """Decode one image: first frame, EXIF orientation applied, alpha over white, 8-bit RGB.

    The size is checked from the header, before any pixel is decoded, so that a small file cannot
    unfold into gigabytes.

    Args:
        data: the encoded image.
        limits: what is accepted.
        enough: pixels on the shorter side that the caller can make use of, such as
            `Embedder.enough`. A JPEG that keeps them at a half, a quarter or an eighth of its size
            is decoded at that size, in a fraction of the time.

    Raises:
        UnsupportedImageError: not one of `FORMATS`.
        ImageTooLargeError: more than ``limits.max_pixels`` or a side over ``limits.max_side``.
        ImageTooSmallError: a side under ``limits.min_side``.
        UndecodableImageError: the pixels are truncated or damaged.
    """
    if not data:
        raise UndecodableImageError("the image is empty: 0 bytes were given")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image.width, image.height, limits)
            if enough:
                image.draft(None, (enough, enough))
            rgb = _to_rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Image.DecompressionBombError:
        raise ImageTooLargeError(
            f"the image has more than {limits.max_pixels:,} pixels; send it smaller"
        ) from None
    except Exception as error:
        # Decoders trip over damage each in its own way (OSError, SyntaxError, ZeroDivisionError,
        # RuntimeError, ...); their text names no file and no path.
        raise UndecodableImageError(
            f"the image could not be decoded ({error}); it may be cut short or damaged"
        ) from error
    return DecodedImage(rgb, hashlib.sha256(data).hexdigest())


def read_image(
    path: Path, limits: ImageLimits = DEFAULT_LIMITS, *, enough: int | None = None
) -> DecodedImage:
    """`decode_image` of a file.

    Raises:
        ImageError: as `decode_image`, or the file cannot be read.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UndecodableImageError(
            f"the file could not be read: {error.strerror or error}"
        ) from error
    return decode_image(data, limits, enough=enough)


def begins_image(head: bytes) -> bool:
    """Tells from a file's first bytes whether it is an image of one of `FORMATS`, whole or not."""
    Image.init()
    signatures = [Image.OPEN[name][1] for name in FORMATS]
    return any(begins(head[:16]) is True for begins in signatures if begins)


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        raise ImageTooLargeError(
            f"the image is {width} x {height} pixels; at most {limits.max_pixels:,} pixels and "
            f"{limits.max_side:,} on a side are accepted: send it smaller"
        )
    if min(width, height) < limits.min_side:
        raise ImageTooSmallError(
            f"the image is {width} x {height} pixels; at least {limits.min_side} on each side are "
            "needed to describe it"
        )


def _unidentified(data: bytes) -> ImageError:
    """Tells an image damaged in its first bytes from what never was one."""
    if begins_image(data):
        return UndecodableImageError(
            "the image could not be decoded: its header is cut short, damaged or of a rare variant"
        )
    kind = describe(data[:HEAD])
    return UnsupportedImageError(
        f"these bytes are not an image of an accepted type ({', '.join(FORMATS)})"
        f"{f': they are {kind}' if kind else ''}"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    """The pixels upright, without transparency, in 8-bit RGB."""
    image.load()
    white = _white(image)
    # The pixels are whole: a broken note about them is no reason to refuse them.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if white is not None:
        return _from_deep_gray(image, white)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image)
        return paper
    return image.convert("RGB")


def _white(image: Image.Image) -> float | None:
    """The value of white in grey of more than 8 bits; None for every other image."""
    if image.mode.startswith("I;16"):
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS_PER_SAMPLE, (16,))[0]
        return float(2**bits - 1)
    if image.mode in {"I", "F"}:
        # Nothing says where white lies: the first usual place that holds every value.
        values = np.asarray(image)
        top = float(np.max(values, where=np.isfinite(values), initial=0.0))
        return next((white for white in (1.0, 255.0, 65535.0) if top <= white), top)
    return None


def _from_deep_gray(image: Image.Image, white: float) -> Image.Image:
    """Scales what `Image.convert` would clip."""
    gray = np.array(image, dtype=np.float32)  # a copy, changed in place: it can be large
    np.nan_to_num(gray, copy=False, posinf=white)
    gray *= 255.0 / white
    np.rint(gray.clip(0.0, 255.0, out=gray), out=gray)
    return Image.fromarray(gray.astype(np.uint8)).convert("RGB")
