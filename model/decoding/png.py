"""Select the chunks of a PNG on which its pixels depend, for decoding by Pillow.

Pillow decompresses text and profiles before the pixels, and refuses the file if they are large, of
an unknown method or of a wrong checksum. Here, as in libpng, damaged ancillary chunks are dropped
and the pixels are decoded.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from model.decoding.colour import CodePoints, Primaries, rgb_profile
from model.errors import UndecodableImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GRAY, RGB = 0, 2  # colour types
SAMPLES = {GRAY: 1, RGB: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
MOST_INFLATED = 1_032  # bytes from one of deflate: 258 by a code of one bit, twice
MAX_PROFILE = 4 * 2**20  # bytes, decompressed
MAX_TEXT = 2**20  # bytes of EXIF or XMP, decompressed; they contain the orientation
CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
KEYWORDS = {b"XML:com.adobe.xmp", b"Raw profile type exif"}  # of text with the orientation


@dataclass(frozen=True)
class Png:
    """A PNG prepared for decoding.

    Attributes:
        data: the file without the chunks that have no effect on pixels.
        depth: bits a sample.
        profile: the ICC profile of its colours; None is sRGB.
        key: the samples of the transparent colour, where Pillow gets it wrong: in grey of every
            depth, and in RGB of 16 bits.
    """

    data: bytes
    depth: int
    profile: bytes | None
    key: tuple[int, ...] | None

    def check_length(self) -> None:
        """Compare the length of the file with its size in pixels.

        Raises:
            UndecodableImageError: the pixels would need more bytes, however well compressed.
        """
        width, height = png_size(self.data)
        row = 1 + width * self.depth * SAMPLES.get(self.data[25], 1) // 8
        if row * height > MOST_INFLATED * len(self.data):
            raise UndecodableImageError(
                f"the image could not be decoded: its {len(self.data):,} bytes cannot hold the "
                f"{width} x {height} pixels of its header; it may be cut short"
            )


def is_png(data: bytes) -> bool:
    """Return True if the bytes begin with a PNG's signature and header."""
    return data[:8] == SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 33


def png_size(data: bytes) -> tuple[int, int]:
    """Returns width and height from the header; ``data`` must satisfy `is_png`."""
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def read_png(data: bytes) -> Png:
    """Read a PNG's colour chunks and keep the chunks for Pillow; ``data`` must satisfy `is_png`."""
    depth, colour_type = data[24], data[25]
    kept: list[tuple[int, int]] = []
    colour = _Colour()
    key: tuple[int, ...] | None = None
    end = len(SIGNATURE)
    for kind, start, end in _chunks(data):
        body = data[start + 8 : end - 4] if kind not in CRITICAL else b""
        if kind in CRITICAL:
            kept.append((start, end))
        elif not _intact(data, start, end):
            continue
        elif kind == b"tRNS" and (colour_type == GRAY or (colour_type, depth) == (RGB, 16)):
            if len(body) == (2 if colour_type == GRAY else 6):
                key = struct.unpack(f">{len(body) // 2}H", body)
        elif kind in {b"tRNS", b"eXIf"} or (kind in TEXTS and _has_orientation(kind, body)):
            kept.append((start, end))
        elif kind in colour.CHUNKS:
            colour.chunks.setdefault(kind, body)
            if _is_harmless(kind, body):
                kept.append((start, end))
        elif _is_harmless(kind, body):
            kept.append((start, end))
    kept.append((end, len(data)))  # the last chunk of a truncated file
    return Png(_joined(data, kept), depth, colour.profile(), key)


TEXTS = {b"tEXt", b"zTXt", b"iTXt"}


@dataclass
class _Colour:
    """Chunks of colour; `CHUNKS` is their order of precedence (PNG, third edition)."""

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
            return None  # 2.2 stands for sRGB's own curve
        return rgb_profile(primaries, gamma)


def _gamma(chunk: bytes) -> float | None:
    """Returns the exponent from samples to light; None if it is missing or implausible."""
    value = int.from_bytes(chunk) if len(chunk) == 4 else 0
    return 100_000 / value if 10_000 <= value <= 500_000 else None


def _primaries(chunk: bytes) -> Primaries:
    """Returns a cHRM chunk's primaries; sRGB's if it is missing or about equal."""
    if len(chunk) != 32:
        return Primaries()
    values = [value / 100_000 for value in struct.unpack(">8I", chunk)]
    white, red, green, blue = (tuple(values[i : i + 2]) for i in range(0, 8, 2))
    found, srgb = Primaries(white, red, green, blue), Primaries()
    expected = (*srgb.white, *srgb.red, *srgb.green, *srgb.blue)
    near = all(abs(a - b) < 0.002 for a, b in zip(values, expected, strict=True))
    return srgb if near else found


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, end) of each complete chunk, to the end of the image."""
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


def _intact(data: bytes, start: int, end: int) -> bool:
    checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
    return checksum == int.from_bytes(data[end - 4 : end])


# Lengths of small chunks that Pillow reads safely: keeping them saves a copy of the pixels.
HARMLESS = {b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"pHYs": 9, b"tIME": 7}


def _is_harmless(kind: bytes, body: bytes) -> bool:
    if kind == b"iCCP":
        return len(body) < MAX_TEXT // 4 and _profile(body, MAX_TEXT // 2) is not None
    return HARMLESS.get(kind) == len(body)


def _has_orientation(kind: bytes, body: bytes) -> bool:
    """Return True for text that may hold the orientation, and that Pillow can decompress."""
    keyword, _, rest = body.partition(b"\0")
    if keyword not in KEYWORDS or len(rest) > MAX_TEXT:
        return False
    if kind == b"zTXt":
        return rest[:1] == b"\0" and _inflated(rest[1:], MAX_TEXT) is not None
    if kind == b"iTXt" and rest[:1] == b"\1":
        text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
        return rest[1:2] == b"\0" and _inflated(text, MAX_TEXT) is not None
    return True


def _profile(body: bytes, limit: int = MAX_PROFILE) -> bytes | None:
    rest = body.partition(b"\0")[2]
    return _inflated(rest[1:], limit) if rest[:1] == b"\0" else None


def _inflated(packed: bytes, limit: int) -> bytes | None:
    """Returns the decompressed bytes; None if they are damaged or more than ``limit``."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(packed, limit)
    except zlib.error:
        return None
    return inflated if inflater.eof else None


def _joined(data: bytes, kept: list[tuple[int, int]]) -> bytes:
    runs: list[list[int]] = [[0, len(SIGNATURE)]]
    for start, end in kept:
        if start == runs[-1][1]:
            runs[-1][1] = end
        else:
            runs.append([start, end])
    if len(runs) == 1:
        return data  # no chunk was dropped: no copy
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in runs)
