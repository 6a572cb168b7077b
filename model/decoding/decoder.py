"""Decode images in this process. `model.decoding.worker` calls it, in a process with limits."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, ImageOps, UnidentifiedImageError

from model.content import HEAD, describe
from model.decoding.bmp import check_bitmap
from model.decoding.colour import SPACES, CodePoints, is_changed_by, to_srgb
from model.decoding.formats import FORMATS, PILLOW, begins_image
from model.decoding.gif import first_image
from model.decoding.jpeg import check_jpeg, is_jpeg
from model.decoding.jxl import decode_jxl, is_jxl, jxl_size
from model.decoding.png import is_png, png_size, read_png
from model.decoding.samples import to_8_bits
from model.decoding.tiff import Tiff, is_tiff, pillow_decodes
from model.decoding.webp import check_webp, webp_size
from model.errors import ImageError, UndecodableImageError, UnsupportedImageError

ORIENTATION = ExifTags.Base.Orientation
SIDEWAYS = range(5, 9)  # orientations that exchange width and height
JXL_BYTES = 16  # a pixel, as libjxl holds it: floating-point samples

# Every size is compared with `ImageLimits` before a pixel is decoded. Pillow's own limit applies to
# the whole process, so settings could not raise it, and its error names no size.
Image.MAX_IMAGE_PIXELS = None
# Pillow's warnings write parts of a damaged file to the log, and Python keeps each text in memory.
warnings.filterwarnings("ignore", module=r"PIL\.")
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # several processes decode at the same time


class Check(Protocol):
    """Admits an image by its size."""

    def __call__(self, width: int, height: int, stored: int = 4, /) -> None:
        """Raise an error unless an image may be decoded.

        Args:
            width: pixels.
            height: pixels.
            stored: bytes that its decoder holds for a pixel.
        """


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


class Decoded(NamedTuple):
    """A decoded image of mode RGB, and its width and height at full size."""

    pixels: Image.Image
    size: tuple[int, int]


def decode(data: bytes, check: Check, min_decode_side: int | None = None) -> Decoded:
    """Decode one image to mode RGB: first frame, upright, alpha over white, 8-bit sRGB.

    Args:
        data: the encoded image.
        check: called with the size, before any pixel is decoded.
        min_decode_side: see `model.images.decode_image`.

    Raises:
        ImageError: as `model.images.decode_image`.
        MemoryError: this process may take no more memory.
    """
    with _faults_named(data):
        picture = _picture(data, check, min_decode_side)
        pixels = _to_rgb(picture)
        return Decoded(pixels, picture.full or pixels.size)


def size_of(data: bytes) -> tuple[int, int]:
    """Returns an image's width and height from its header.

    Raises:
        UnsupportedImageError: not one of `FORMATS`.
        UndecodableImageError: the header is cut short or damaged.
    """
    with _faults_named(data):
        if is_tiff(data):
            layout = Tiff(data).layout
            return layout.width, layout.height
        if size := _size(data):
            return size
        with Image.open(io.BytesIO(first_image(data)), formats=PILLOW) as image:
            return image.size


def media_type(data: bytes) -> str:
    """Returns the media type of an image that `decode` reads.

    Raises:
        ImageError: it is damaged, or of another format.
    """
    if is_png(data):
        return "image/png"
    if is_jxl(data):
        return "image/jxl"
    if is_tiff(data):
        return "image/tiff"
    with (
        _faults_named(data),
        Image.open(io.BytesIO(first_image(data)), formats=PILLOW) as image,
    ):
        return image.get_format_mimetype() or "application/octet-stream"


def decodes_differently(data: bytes) -> bool:
    """Return True if `decode` gives other pixels of this file than version 1 of decoding did.

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
        with Image.open(io.BytesIO(first_image(data)), formats=PILLOW) as image:
            profile = image.info.get("icc_profile")
            return image.format == "HEIF" or any(is_changed_by(profile, mode) for mode in SPACES)
    except Exception:  # decoding raises the named error
        return True


@contextlib.contextmanager
def _faults_named(data: bytes) -> Iterator[None]:
    """Turn errors of decoders into an `ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
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


def _picture(data: bytes, check: Check, min_decode_side: int | None) -> _Picture:
    """Decode the pixels, by the decoder of the format."""
    if is_jxl(data):
        check(*jxl_size(data), JXL_BYTES)
        return _Picture(*decode_jxl(data))
    if is_tiff(data):
        tiff = Tiff(data)
        layout = tiff.layout
        check(layout.width, layout.height, max(4, sum(layout.bits) // 8))
        tiff.check_length()
        if not pillow_decodes(layout):
            colour, opacity = (_upright(part, tiff.orientation) for part in tiff.decode())
            assert colour is not None
            return _Picture(colour, tiff.profile, opacity)
        white = float(2 ** max(layout.bits) - 1)
        return _by_pillow(data, check, white=white)
    if is_png(data):
        check(*png_size(data))
        png = read_png(data)
        png.check_length()
        picture = _by_pillow(png.data, check, key=png.key, depth=png.depth)
        return _Picture(picture.colour, png.profile, picture.opacity)
    if is_jpeg(data):
        check_jpeg(data, check)
    elif size := webp_size(data):
        check(*size)
        check_webp(data)
    check_bitmap(data)
    return _by_pillow(first_image(data), check, min_decode_side=min_decode_side)


def _by_pillow(
    data: bytes,
    check: Check,
    *,
    min_decode_side: int | None = None,
    white: float = 65535.0,
    key: tuple[int, ...] | None = None,
    depth: int = 8,
) -> _Picture:
    """Decode an image by Pillow.

    Args:
        data: the encoded image.
        check: called with its size.
        min_decode_side: see `model.images.decode_image`.
        white: the value of white in grey of more than 8 bits.
        key: the samples of a PNG's transparent colour.
        depth: bits of these samples.
    """
    with Image.open(io.BytesIO(data), formats=PILLOW) as image:
        check(image.width, image.height)
        width, height = image.size
        if min_decode_side:
            image.draft(None, (min_decode_side, min_decode_side))
        reduced = image.size != (width, height)
        image.load()
        try:
            turned = image.getexif().get(ORIENTATION) in SIDEWAYS
            ImageOps.exif_transpose(image, in_place=True)
            if turned:
                width, height = height, width
        except Exception as error:  # damaged EXIF data is no reason to refuse intact pixels
            if isinstance(error, MemoryError):
                raise
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
