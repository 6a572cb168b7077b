"""Decode an encoded image to upright 8-bit sRGB within limits, or raise a named error."""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from model.content import HEAD, describe
from model.decoding.colour import SPACES, CodePoints, is_changed_by, to_srgb
from model.decoding.jxl import decode_jxl, is_jxl, jxl_size
from model.decoding.png import is_png, png_size, read_png
from model.decoding.samples import to_8_bits
from model.decoding.tiff import Tiff, is_tiff, pillow_decodes
from model.decoding.webp import webp_size
from model.errors import (
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UndecodableImageError,
    UnsupportedImageError,
)
from model.regular_files import read_file

PILLOW = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "HEIF")
FORMATS = (*PILLOW, "JXL")
DECODING = 2  # version of `decode_image`, increased when its pixels change: `decodes_differently`
ORIENTATION = ExifTags.Base.Orientation
SIDEWAYS = range(5, 9)  # orientations that exchange width and height
HEADER = 65_536  # bytes that contain the size

pillow_heif.register_heif_opener(thumbnails=False)

# Every size is compared with `ImageLimits` before a pixel is decoded. Pillow's own limit applies to
# the whole process, so settings could not raise it, and its error names no size.
Image.MAX_IMAGE_PIXELS = None
# Pillow's warnings write parts of a damaged file to the log, and Python keeps each text in memory.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class ImageLimits:
    """Limits on an image's size, in pixels."""

    max_pixels: int = 50_000_000
    max_side: int = 20_000
    min_side: int = 16

    def check(self, width: int, height: int) -> None:
        """Compare an image's size with these limits.

        Raises:
            ImageTooLargeError: more than ``max_pixels``, or a side over ``max_side``.
            ImageTooSmallError: a side under ``min_side``.
        """
        if width * height > self.max_pixels or max(width, height) > self.max_side:
            raise ImageTooLargeError(
                f"the image is {width} x {height} pixels; at most {self.max_pixels:,} pixels and "
                f"{self.max_side:,} on a side are accepted: send it smaller"
            )
        if min(width, height) < self.min_side:
            raise ImageTooSmallError(
                f"the image is {width} x {height} pixels; at least {self.min_side} on each side "
                "are needed to describe it"
            )


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and the hash of its encoded bytes."""

    pixels: Image.Image  # mode RGB, upright, sRGB; smaller than ``size`` if decoded reduced
    sha256: str  # of the encoded bytes
    size: tuple[int, int]  # width and height of the upright image at full size


@dataclass(frozen=True)
class _Picture:
    """Upright pixels before the conversion to sRGB.

    Attributes:
        colour: an image of any mode, with or without transparency.
        profile: its ICC profile.
        opacity: an image of mode L, if the transparency is not part of ``colour``.
        full: width and height at full size, if ``colour`` was decoded reduced.
    """

    colour: Image.Image
    profile: bytes | None = None
    opacity: Image.Image | None = None
    full: tuple[int, int] | None = None


def decode_image(
    data: bytes, limits: ImageLimits = DEFAULT_LIMITS, *, min_decode_side: int | None = None
) -> DecodedImage:
    """Decode one image: first frame, upright, alpha over white, 8-bit sRGB.

    The size is checked from the header, before any pixel is decoded, so that a decompression bomb
    is refused. Colours are converted to sRGB by the file's ICC profile, or by a PNG's chunks cICP,
    gAMA and cHRM. Damaged metadata is ignored.

    Args:
        data: the encoded image.
        limits: limits on its size.
        min_decode_side: pixels on the shorter side that the caller needs. A JPEG whose half,
            quarter or eighth still has them is decoded at that size, in a fraction of the time.

    Raises:
        UnsupportedImageError: not one of `FORMATS`, or samples that cannot be converted correctly.
        ImageTooLargeError: more than ``limits.max_pixels`` or a side over ``limits.max_side``.
        ImageTooSmallError: a side under ``limits.min_side``.
        UndecodableImageError: the pixels are truncated or damaged.
    """
    if not data:
        raise UndecodableImageError("the image is empty: 0 bytes were given")
    with _faults_named(data):
        picture = _picture(data, limits, min_decode_side)
        pixels = _to_rgb(picture)
    return DecodedImage(pixels, hashlib.sha256(data).hexdigest(), picture.full or pixels.size)


def read_image(
    path: Path, limits: ImageLimits = DEFAULT_LIMITS, *, min_decode_side: int | None = None
) -> DecodedImage:
    """Read and decode an image file; see `decode_image`.

    Raises:
        ImageError: as in `decode_image`, or the file cannot be read.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UndecodableImageError(
            f"the file could not be read: {error.strerror or error}"
        ) from error
    return decode_image(data, limits, min_decode_side=min_decode_side)


def read_size(file: BinaryIO) -> tuple[int, int]:
    """Read an image's width and height from its header.

    Args:
        file: at the image's first byte; seekable.

    Raises:
        UnsupportedImageError: not one of `FORMATS`.
        UndecodableImageError: the header is cut short or damaged.
    """
    begin = file.tell()
    data = file.read(HEADER)
    with _faults_named(data):
        if is_tiff(data):
            layout = Tiff(data + file.read()).layout
            return layout.width, layout.height
        if size := _size(data):
            return size
        file.seek(begin)
        with Image.open(file, formats=PILLOW) as image:
            return image.size


def begins_image(head: bytes) -> bool:
    """Returns True if a file's first bytes are those of an image of one of `FORMATS`."""
    Image.init()
    signatures = [Image.OPEN[name][1] for name in PILLOW]
    first = head[:16].ljust(16, b"\0")  # Pillow takes as many for granted
    known = any(begins(first) is True for begins in signatures if begins)
    return known or is_jxl(head)


def media_type(data: bytes) -> str:
    """Returns the media type of an image that `decode_image` reads."""
    if is_png(data):
        return "image/png"
    if is_jxl(data):
        return "image/jxl"
    if is_tiff(data):
        return "image/tiff"
    with Image.open(io.BytesIO(data), formats=PILLOW) as image:
        return image.get_format_mimetype() or "application/octet-stream"


def decodes_differently(data: bytes) -> bool:
    """Return True if `decode_image` gives other pixels of this file than `DECODING` 1 did.

    That version ignored colour profiles and read TIFFs by Pillow alone.
    """
    try:
        if is_jxl(data):
            return True
        if is_png(data):
            png = read_png(data)
            return png.key is not None or any(is_changed_by(png.profile, m) for m in ("L", "RGB"))
        if is_tiff(data) and not pillow_decodes(Tiff(data).layout):
            return True
        with Image.open(io.BytesIO(data), formats=PILLOW) as image:
            profile = image.info.get("icc_profile")
            return image.format == "HEIF" or any(is_changed_by(profile, mode) for mode in SPACES)
    except Exception:  # decoding raises the named error
        return True


@contextlib.contextmanager
def _faults_named(data: bytes) -> Iterator[None]:
    """Turn errors of decoders into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:
        # Decoders raise many types for damaged files (OSError, SyntaxError, ZeroDivisionError,
        # RuntimeError, ...); their messages name no path.
        raise UndecodableImageError(
            f"the image could not be decoded ({error}); it may be cut short or damaged"
        ) from error


def _size(data: bytes) -> tuple[int, int] | None:
    """Returns (width, height) of formats whose decoder must not see an unchecked file."""
    if is_png(data):
        return png_size(data)
    return jxl_size(data) if is_jxl(data) else webp_size(data)


def _unidentified(data: bytes) -> ImageError:
    """Returns the error for bytes that no decoder recognises: damaged, or no image at all."""
    if begins_image(data):
        return UndecodableImageError(
            "the image could not be decoded: its header is cut short, damaged or of a rare variant"
        )
    kind = describe(data[:HEAD])
    return UnsupportedImageError(
        f"these bytes are not an image of an accepted type ({', '.join(FORMATS)})"
        f"{f': they are {kind}' if kind else ''}"
    )


def _picture(data: bytes, limits: ImageLimits, min_decode_side: int | None) -> _Picture:
    """Decode the pixels, by the decoder of the format."""
    if size := _size(data):
        limits.check(*size)
    if is_jxl(data):
        return _Picture(*decode_jxl(data))
    if is_tiff(data):
        tiff = Tiff(data)
        limits.check(tiff.layout.width, tiff.layout.height)
        if not pillow_decodes(tiff.layout):
            colour, opacity = (_upright(part, tiff.orientation) for part in tiff.decode())
            assert colour is not None
            return _Picture(colour, tiff.profile, opacity)
        white = float(2 ** max(tiff.layout.bits) - 1)
        return _by_pillow(data, limits, white=white)
    if is_png(data):
        png = read_png(data)
        picture = _by_pillow(png.data, limits, key=png.key, depth=png.depth)
        return _Picture(picture.colour, png.profile, picture.opacity)
    return _by_pillow(data, limits, min_decode_side=min_decode_side)


def _by_pillow(
    data: bytes,
    limits: ImageLimits,
    *,
    min_decode_side: int | None = None,
    white: float = 65535.0,
    key: tuple[int, ...] | None = None,
    depth: int = 8,
) -> _Picture:
    """Decode an image by Pillow.

    Args:
        data: the encoded image.
        limits: limits on its size.
        min_decode_side: as in `decode_image`.
        white: the value of white in grey of more than 8 bits.
        key: the samples of a PNG's transparent colour.
        depth: bits of these samples.
    """
    with Image.open(io.BytesIO(data), formats=PILLOW) as image:
        limits.check(image.width, image.height)
        width, height = image.size
        if min_decode_side:
            image.draft(None, (min_decode_side, min_decode_side))
        reduced = image.size != (width, height)
        image.load()
        # Damaged EXIF data is no reason to refuse intact pixels.
        with contextlib.suppress(Exception):
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            ImageOps.exif_transpose(image, in_place=True)
            if turned:
                width, height = height, width
        full = (width, height) if reduced else None
        profile = image.info.get("icc_profile") or _nclx_profile(image)
        opacity = _keyed(image, key, depth) if key else None
        if image.mode.startswith("I;16"):
            gray = Image.fromarray(to_8_bits(np.asarray(image), white))
            return _Picture(gray, profile, opacity, full)
        if image.mode in {"I", "F"}:
            raise UnsupportedImageError(
                "the image has samples of 32 bits, whose value of white is unknown: save it with "
                "8 or 16 bits a sample"
            )
        return _Picture(image, profile, opacity, full)


def _nclx_profile(image: Image.Image) -> bytes | None:
    """Return the ICC profile of the colours that a HEIC's nclx box names; None for sRGB.

    Raises:
        UnsupportedImageError: the colours are those of high dynamic range.
    """
    box = image.info.get("nclx_profile")
    if not box:
        return None
    points = CodePoints(box["color_primaries"], box["transfer_characteristics"])
    return points.profile() if points.known else None


def _keyed(image: Image.Image, key: tuple[int, ...], depth: int) -> Image.Image | None:
    """Returns the opacity of a PNG in which one colour is fully transparent.

    Raises:
        UnsupportedImageError: the colour has 16 bits a sample; Pillow keeps 8, so that it cannot be
            distinguished from others.
    """
    if len(key) == 1:
        value = key[0] if depth == 16 else key[0] * 255 // (2**depth - 1)
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
        return Image.fromarray(np.where(samples == value, 0, 255).astype(np.uint8))
    if (np.asarray(image) == [value >> 8 for value in key]).all(axis=-1).any():
        raise UnsupportedImageError(
            "the image is a PNG of 16 bits a sample with one transparent colour, which is not "
            "read: save it with an alpha channel"
        )
    return None


def _upright(image: Image.Image | None, orientation: int) -> Image.Image | None:
    """Returns an image turned upright from EXIF's ``orientation``."""
    if image is None or orientation not in range(2, 9):
        return image
    image.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _to_rgb(picture: _Picture) -> Image.Image:
    """Convert to sRGB, with transparency over white."""
    image, profile, opacity = picture.colour, picture.profile, picture.opacity
    if image.mode == "La":
        image = image.convert("LA")
    if opacity is None and image.has_transparency_data:
        if image.mode == "LA":
            image, opacity = image.getchannel("L"), image.getchannel("A")
        else:
            image = image.convert("RGBA")
            opacity = image.getchannel("A")
    if image.mode in {"1", "I;16"}:
        image = image.convert("L")
    elif image.mode not in SPACES:
        image = image.convert("RGB")
    rgb = to_srgb(image, profile)
    if opacity is None:
        return rgb
    paper = Image.new("RGB", rgb.size, "white")
    paper.paste(rgb, mask=opacity)
    return paper
