"""Small copies of pictures, for catalogs, fingerprints and reports."""

import io

from PIL import Image

THUMBNAIL = 320  # pixels, longest side
PREVIEW = 1024  # the same of a preview


def thumbnail_of(image: Image.Image) -> Image.Image:
    """Return a copy of an image, shrunk to `THUMBNAIL` pixels on its longest side if larger."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small


def preview_jpeg(image: Image.Image) -> bytes:
    """Return an RGB image as a JPEG of at most `PREVIEW` pixels on its longest side."""
    small = image.copy()
    small.thumbnail((PREVIEW, PREVIEW))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
