"""Small copies of pictures, for catalogs, fingerprints and reports."""

from PIL import Image

THUMBNAIL = 320  # pixels, longest side


def thumbnail_of(image: Image.Image) -> Image.Image:
    """Return a copy of an image, shrunk to `THUMBNAIL` pixels on its longest side if larger."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
