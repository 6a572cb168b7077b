"""The formats that are read, and their recognition by a file's first bytes."""

import pillow_heif
from PIL import Image

from model.decoding.jxl import is_jxl

PILLOW = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "HEIF")
FORMATS = (*PILLOW, "JXL")

pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)


def begins_image(head: bytes) -> bool:
    """Returns True if a file's first bytes are those of an image of one of `FORMATS`."""
    Image.init()
    signatures = [Image.OPEN[name][1] for name in PILLOW]
    first = head[:16].ljust(16, b"\0")  # Pillow takes as many for granted
    known = any(begins(first) is True for begins in signatures if begins)
    return known or is_jxl(head)
