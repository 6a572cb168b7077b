"""Bytes or a file -> an upright 8-bit RGB image within limits, or a named error."""

import contextlib
import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import (
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    TrainingError,
    UndecodableImageError,
    UnsupportedImageError,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")
TIFF_BITS_PER_SAMPLE = 258
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"})

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
        data = path.read_bytes()
    except OSError as error:
        raise UndecodableImageError(
            f"the file could not be read: {error.strerror or error}"
        ) from error
    return decode_image(data, limits, enough=enough)


def find_images(folder: Path) -> list[Path]:
    """All image files below ``folder``, by suffix, in a stable order; hidden ones are left out.

    Links are followed, to files and to folders alike. A folder that several links lead to is read
    once, and one that lies above ``folder`` is not, so that no loop has an effect.

    Raises:
        OSError: a folder cannot be read; `folder_fault` puts it into words.
    """
    known = {_identity(parent) for parent in folder.resolve().parents}
    return sorted(_walk(folder, known))


def folder_fault(error: OSError) -> str:
    """What to tell of a folder that cannot be read."""
    if isinstance(error, PermissionError):
        return f"{error.filename} cannot be read by this user; check its permissions"
    return f"{error.filename} cannot be read: {error.strerror or error}"


def list_training_images(paths: list[Path]) -> list[Path]:
    """The image files named by ``paths``: files, or folders searched to any depth; no repeats.

    Raises:
        TrainingError: a path does not exist or cannot be read, or nothing was found at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        try:
            if not path.exists():
                raise TrainingError(f"--images {path}: there is no such file or folder")
            for image in [path] if path.is_file() else find_images(path):
                found.setdefault(image.resolve())
        except OSError as error:
            raise TrainingError(f"--images {path}: {folder_fault(error)}") from error
    if not found:
        raise TrainingError(
            f"no images were found below {', '.join(map(str, paths))} "
            f"(files ending in {', '.join(sorted(SUFFIXES))})"
        )
    return list(found)


def _walk(folder: Path, known: set[tuple[int, int]]) -> Iterator[Path]:
    if (identity := _identity(folder)) in known:
        return
    known.add(identity)
    # Asks the system once a folder; Path.rglob asks once a file.
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    # Where a folder and a link to it lie side by side, its own name is the one that is given.
    for entry in sorted(shown, key=lambda entry: (entry.is_symlink(), entry.name)):
        if entry.is_dir():
            yield from _walk(Path(entry.path), known)
        elif f".{entry.name.rpartition('.')[2].lower()}" in SUFFIXES and entry.is_file():
            yield Path(entry.path)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


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
    signatures = [Image.OPEN[name][1] for name in FORMATS]
    if any(begins(data[:16]) is True for begins in signatures if begins):
        return UndecodableImageError(
            "the image could not be decoded: its header is cut short, damaged or of a rare variant"
        )
    return UnsupportedImageError(
        f"these bytes are not an image of an accepted type ({', '.join(FORMATS)})"
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
