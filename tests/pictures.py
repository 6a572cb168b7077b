"""Encoded test images, in usual and rare variants of formats."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pillow_heif
import pylibjxl
from PIL import Image

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    """Encode an image as a file's bytes."""
    if format_name == "JXL":
        exif = options.pop("exif", None)
        icc = options.pop("icc_profile", None)
        exif = exif.tobytes() if isinstance(exif, Image.Exif) else exif
        return pylibjxl.encode(np.asarray(image), exif=exif, icc=icc, **options)
    buffer = io.BytesIO()
    if format_name == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, **options)
    else:
        image.save(buffer, format_name, **options)
    return buffer.getvalue()


def red_and_blue(width: int = 64, height: int = 32) -> Image.Image:
    """Return an image whose left half is red and right half blue."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def noise(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Return an image of random pixels, which hardly compresses."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def png(
    width: int, height: int, depth: int, color_type: int, rows: bytes, more: bytes = b""
) -> bytes:
    """Encode raw rows (each begins with a filter byte) as a PNG of a variant unknown to Pillow."""
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + more
        + png_chunk(b"IDAT", zlib.compress(rows, 9))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """Encode one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_bomb(side: int) -> bytes:
    """Return a PNG of a few kilobytes whose header has ``side`` x ``side`` pixels."""
    return png(side, side, 1, 0, bytes(2**20))


def gray_tiff(
    width: int, height: int, bits: int, samples: bytes, *, sample_format: int = 1
) -> bytes:
    """Encode raw samples as a little-endian grey TIFF, in depths that Pillow does not write.

    ``sample_format`` is 1 for unsigned integers, 2 for signed ones and 3 for floats.
    """
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 10 * 12 + 4),
        (277, 1), (278, height), (279, len(samples)), (339, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + samples


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF data with an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
