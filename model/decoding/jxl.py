"""Decode JPEG XL by libjxl; Pillow does not read it."""

from types import ModuleType

import numpy as np
from PIL import Image

from model.errors import UnsupportedImageError

try:
    import pylibjxl
except ImportError:  # there are no wheels for Linux on ARM
    pylibjxl = None  # type: ignore[assignment]

NAKED = b"\xff\x0a"
BOXED = b"\0\0\0\x0cJXL \r\n\x87\n"


def is_jxl(data: bytes) -> bool:
    """Return True if the first bytes are those of a JPEG XL codestream or container."""
    return data.startswith((NAKED, BOXED))


def jxl_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from the header, before a pixel is decoded.

    Raises:
        UnsupportedImageError: libjxl is not installed.
        RuntimeError: the header is cut short or damaged.
    """
    header = _libjxl().probe(data)
    return header["width"], header["height"]


def decode_jxl(data: bytes) -> tuple[Image.Image, bytes | None]:
    """Decode the first frame, upright, at 8 bits a sample.

    libjxl applies the orientation of the codestream's header; EXIF's repeats it and is not applied
    (ISO/IEC 18181-2).

    Returns:
        An image of mode L, LA, RGB or RGBA and the ICC profile of its pixels, if there is one.

    Raises:
        UnsupportedImageError: libjxl is not installed.
        RuntimeError: the pixels are cut short or damaged.
    """
    pixels, notes = _libjxl().decode(data, metadata=True)
    gray = pixels.ndim == 3 and pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if gray else pixels))
    return image, notes.get("icc")


def _libjxl() -> ModuleType:
    if pylibjxl is None:
        raise UnsupportedImageError(
            "JPEG XL is not read on this machine, for which pylibjxl has no wheel: send PNG or JPEG"
        )
    library: ModuleType = pylibjxl
    return library
