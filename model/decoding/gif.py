"""Leave out the notes of a GIF; Pillow keeps all of them in memory."""

import re

SIGNATURES = (b"GIF87a", b"GIF89a")
EXTENSION, GRAPHIC_CONTROL = b"!", 0xF9
TRANSPARENT = 1  # flag of a graphic control extension
_BLOCK = re.compile(rb"[!,;]")  # an extension, an image or the end; decoders pass other bytes over


def first_image(data: bytes) -> bytes:
    """Returns a GIF without the extensions before its first image, except the transparent colour.

    Comments and applications' data can be of any length. Other bytes are returned as they are.
    Source: GIF89a, sections 23 to 26.
    """
    if not data.startswith(SIGNATURES) or len(data) < 13:
        return data
    start = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    place, control = start, b""
    while (found := _BLOCK.search(data, place)) and found[0] == EXTENSION:
        begin = found.start()
        place = _end_of_sub_blocks(data, begin + 2)
        if data[begin + 1 : begin + 3] == bytes((GRAPHIC_CONTROL, 4)) and place >= begin + 8:
            extension = data[begin : begin + 7] + b"\0"
            control = extension if extension[3] & TRANSPARENT else control
    if place == start:
        return data
    return data[:start] + control + data[found.start() if found else len(data) :]


def _end_of_sub_blocks(data: bytes, place: int) -> int:
    """Returns the place after the empty sub-block that ends an extension, or the data's end."""
    while place < len(data) and data[place]:
        place += 1 + data[place]
    return min(place + 1, len(data))
