"""Check the segments of a JPEG; libjpeg's time grows with their number times the pixels."""

import re
from collections.abc import Callable

from model.errors import ImageTooCostlyError, UndecodableImageError

SOI, EOI, SOS, TEM = 0xD8, 0xD9, 0xDA, 0x01
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers with the size; T.81, table B.1
HUFFMAN_FRAMES = {*range(0xC0, 0xC8)}
MAX_SCANS = 100  # encoders write about ten; libjpeg passes over all pixels for each
MAX_SEGMENTS = 5_000  # a profile of 16 MiB has 256, a note of 100 MiB 1,600
PIXELS_PER_BYTE = 1_024  # Huffman codes take at least a bit for each block of 64 pixels: 512
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not those that occur inside a scan


def is_jpeg(data: bytes) -> bool:
    """Return True if the first bytes are those of a JPEG."""
    return data.startswith(b"\xff\xd8\xff")


def check_jpeg(data: bytes, check: Callable[[int, int], None]) -> None:
    """Check a JPEG's segments up to the end of its first image; ``data`` must satisfy `is_jpeg`.

    Args:
        data: the encoded image.
        check: called with width and height.

    Raises:
        ImageTooCostlyError: more than `MAX_SCANS` scans or `MAX_SEGMENTS` segments.
        UndecodableImageError: the header announces more pixels than so many bytes can hold.
    """
    place = segments = scans = 0
    sized = False
    while found := _MARKER.search(data, place):
        place, kind = found.end(), found[0][1]
        if kind == EOI:
            return
        segments += 1
        if segments > MAX_SEGMENTS:
            raise _too_costly("segments", MAX_SEGMENTS)
        if kind in {SOI, TEM}:
            continue
        if kind == SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise _too_costly("scans", MAX_SCANS)
        elif kind in FRAMES and not sized and place + 7 <= len(data):
            sized = True
            height = int.from_bytes(data[place + 3 : place + 5])
            width = int.from_bytes(data[place + 5 : place + 7])
            check(width, height)
            if kind in HUFFMAN_FRAMES and width * height > PIXELS_PER_BYTE * len(data):
                raise UndecodableImageError(
                    f"the image could not be decoded: its {len(data):,} bytes cannot hold the "
                    f"{width} x {height} pixels of its header; it may be cut short"
                )
        place += max(2, int.from_bytes(data[place : place + 2]))


def _too_costly(parts: str, limit: int) -> ImageTooCostlyError:
    return ImageTooCostlyError(
        f"the image is a JPEG of more than {limit:,} {parts}, which costs too much to decode: save "
        "it anew"
    )
