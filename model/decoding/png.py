"""The chunks of a PNG that pixels depend on; Pillow is given no others.

Pillow unpacks text and profiles before it comes to the pixels, and refuses the file where they are
large, of an unknown method or of a wrong checksum. As libpng does, an ancillary chunk that is
damaged is left out here, and the pixels are read.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.decoding.colour import CodePoints, Primaries, rgb_profile

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB = 0, 2  # colour types
MOST_PROFILE = 4 * 2**20  # bytes, unpacked
MOST_NOTE = 2**20  # bytes of EXIF or XMP, unpacked; the orientation stands in them
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
NOTES = {b"XML:com.adobe.xmp", b"Raw profile type exif"}  # keywords of text that holds orientation


@dataclass(frozen=True)
class Png:
    """A PNG as it is decoded.

    Attributes:
        data: the file without the chunks that have no effect on pixels.
        depth: bits a sample.
        profile: the ICC profile of its colours; None is sRGB.
        key: the sample or samples that stand for full transparency, where Pillow does not read
            them rightly: of grey at every depth, of RGB at 16 bits.
    """

    data: bytes
    depth: int
    profile: bytes | None
    key: tuple[int, ...] | None


def is_png(data: bytes) -> bool:
    """Tell a PNG by its signature and the header that follows it."""
    return data[:8] == SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 33


def png_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from the header of a PNG; `is_png` holds of it."""
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def read_png(data: bytes) -> Png:
    """Divide a PNG into what Pillow decodes and what is read here; `is_png` holds of it."""
    depth, colour_type = data[24], data[25]
    kept: list[tuple[int, int]] = []
    notes: dict[bytes, bytes] = {}
    colour = _Colour()
    key: tuple[int, ...] | None = None
    end = len(SIGNATURE)
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4] if kind not in CRITICAL else b""
        if kind in CRITICAL:
            kept.append((start, end))
        elif not _whole(data, start, end) or kind in notes:
            continue
        elif kind == b"tRNS" and (colour_type == GRAY or (colour_type, depth) == (RGB, 16)):
            if len(body) == (2 if colour_type == GRAY else 6):
                key = struct.unpack(f">{len(body) // 2}H", body)
        elif kind in {b"tRNS", b"eXIf"} or (kind in TEXTS and _is_note(kind, body)):
            kept.append((start, end))
        elif kind in colour.CHUNKS:
            colour.chunks.setdefault(kind, body)
            if _is_harmless(kind, body):
                kept.append((start, end))
        elif _is_harmless(kind, body):
            kept.append((start, end))
    kept.append((end, len(data)))  # a part of a chunk, where the file is cut short
    return Png(_joined(data, kept), depth, colour.profile(), key)


TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


@dataclass
class _Colour:
    """What the chunks about colour say; the first in the order of PNG, third edition, counts."""

    CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
    chunks: dict[bytes, bytes] = field(default_factory=dict)

    def profile(self) -> bytes | None:
        """Returns the ICC profile; None for sRGB.

        Raises:
            UnsupportedImageError: the colours are those of high dynamic range.
        """
        cicp = self.chunks.get(b"cICP", b"")
        if len(cicp) == 4 and (found := CodePoints(cicp[0], cicp[1])).known:
            return found.profile()
        packed = self.chunks.get(b"iCCP")
        if packed and (profile := _profile(packed)):
            return profile
        if b"sRGB" in self.chunks:
            return None
        gamma = _gamma(self.chunks.get(b"gAMA", b""))
        primaries = _primaries(self.chunks.get(b"cHRM", b""))
        if primaries == Primaries() and (gamma is None or abs(gamma - 2.2) < 0.03):
            return None  # 2.2 is how files say sRGB's own curve
        return rgb_profile(primaries, gamma)


def _gamma(chunk: bytes) -> float | None:
    """Returns the exponent from samples to light; None where there is none, or no such."""
    value = int.from_bytes(chunk) if len(chunk) == 4 else 0
    return 100_000 / value if 10_000 <= value <= 500_000 else None


def _primaries(chunk: bytes) -> Primaries:
    """Returns a cHRM chunk's primaries; sRGB's where it says no other, or nothing."""
    if len(chunk) != 32:
        return Primaries()
    values = [value / 100_000 for value in struct.unpack(">8I", chunk)]
    white, red, green, blue = (tuple(values[i : i + 2]) for i in range(0, 8, 2))
    found, srgb = Primaries(white, red, green, blue), Primaries()
    expected = (*srgb.white, *srgb.red, *srgb.green, *srgb.blue)
    near = all(abs(a - b) < 0.002 for a, b in zip(values, expected, strict=True))
    return srgb if near else found


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, byte after the last) of each whole chunk, to the end of the image."""
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if end > len(data):
            return
        kind = data[start + 4 : start + 8]
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end


def _whole(data: bytes, start: int, end: int) -> bool:
    checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
    return checksum == int.from_bytes(data[end - 4 : end])


# Bytes of small chunks that Pillow reads without a fault: leaving them in saves copying the pixels.
HARMLESS = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"pHYs": 9, b"tIME": 7}


def _is_harmless(kind: bytes, body: bytes) -> bool:
    if kind == b"iCCP":
        return len(body) < MOST_NOTE // 4 and _profile(body, MOST_NOTE // 2) is not None
    return HARMLESS.get(kind) == len(body)


def _is_note(kind: bytes, body: bytes) -> bool:
    """Tell text that may say how the picture is turned, and that Pillow can unpack."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in NOTES or len(rest) > MOST_NOTE:
        return False
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _unpacked(rest[1:], MOST_NOTE) is not None
    if kind == b"iTXt" and rest[:1] == b"\1":
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return rest[1:2] == b"\0" and _unpacked(text, MOST_NOTE) is not None
    return True


def _profile(body: bytes, most: int = MOST_PROFILE) -> bytes | None:
    rest = body.partition(b"\0")[2]
    return _unpacked(rest[1:], most) if rest[:1] == b"\0" else None


def _unpacked(packed: bytes, most: int) -> bytes | None:
    """Returns what deflate packed; None where it is damaged or larger than ``most`` bytes."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(packed, most)
    except zlib.error:
        return None
    return unpacked if unpacker.eof else None


def _joined(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    runs: list[list[int]] = [[0, len(SIGNATURE)]]
    for start, end in kept:
        if start == runs[-1][1]:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    if len(runs) == 1:
        return data  # nothing to leave out, and nothing to copy
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in runs)
