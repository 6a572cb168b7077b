"""Refuse run-length coded bitmaps whose decoding is slow."""

import struct

from model.errors import ImageTooCostlyError

MAX_PIXELS = 4_000_000  # of a run-length coded bitmap; Pillow decodes them in Python
RUN_LENGTHS = {1, 2}  # BITMAPINFOHEADER's compression: of 8 and of 4 bits a pixel


def check_bitmap(data: bytes) -> None:
    """Check the header of a BMP or DIB; other bytes pass.

    Raises:
        ImageTooCostlyError: it is run-length coded and has more than `MAX_PIXELS`.
    """
    header = data[14:34] if data[:2] == b"BM" else data[:20]
    if len(header) < 20:
        return
    length, width, height, _, _, compression = struct.unpack("<IiiHHI", header)
    bitmap = data[:2] == b"BM" or length in {40, 52, 56, 64, 108, 124}
    if bitmap and compression in RUN_LENGTHS and width * abs(height) > MAX_PIXELS:
        raise ImageTooCostlyError(
            f"the image is a run-length coded bitmap of {width} x {abs(height)} pixels; at most "
            f"{MAX_PIXELS:,} pixels are decoded of this kind: save it as PNG"
        )
