"""Small copies of pictures, for catalogs, fingerprints and reports."""

import io

from PIL import Image

THUMBNAIL = 320  # pixels, longest side
PREVIEW = 1024  # the same of a preview


def thumbnail_of(image: Image.Image) -> Image.Image:
    """Return a copy of an image, shrunk to `THUMBNAIL` pixels on its longest side if larger."""
    return _shrunk(image, THUMBNAIL)


def preview_jpeg(image: Image.Image) -> bytes:
    """Return an RGB image as a JPEG of at most `PREVIEW` pixels on its longest side."""
    buffer = io.BytesIO()
    _shrunk(image, PREVIEW).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _shrunk(image: Image.Image, longest: int) -> Image.Image:
    share = longest / max(image.size)
    if share >= 1:
        return image.copy()
    width, height = (max(1, round(side * share)) for side in image.size)
    # As good as bicubic for shrinking, in half the time.
    return image.resize((width, height), Image.Resampling.HAMMING, reducing_gap=2.0)
