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


def jpeg_of_scans(scans: int, side: int) -> bytes:
    """Encode a grey progressive JPEG of ``scans`` scans, each of a few bytes without coefficients.

    A scan is runs of blocks that hold nothing (T.81, G.1.2.2): decoders pass over every block of
    each scan.
    """

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body

    blocks = (-(-side // 8)) ** 2
    run = 2**14  # the shortest of the longest kind: 14 further bits, all zero
    bits = "0" * 15 * -(-blocks // run)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, bytes((1, 1, 0, 1, 63, 0))) + coded
    return b"".join(
        (
            b"\xff\xd8",
            segment(0xDB, b"\0" + b"\1" * 64),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes((1, 0x11, 0))),
            segment(0xC4, b"\x10" + bytes((1, *[0] * 15)) + b"\xe0"),
            scan * scans,
            b"\xff\xd9",
        )
    )


def rle_bitmap(side: int) -> bytes:
    """Encode a run-length coded 8-bit BMP in which each row is one ending without pixels."""
    coded = b"\1\0\0\0" * side + b"\0\1"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(coded), 0, 0, 256, 0)
    start = 14 + len(header) + 1024
    return (
        b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start) + header + bytes(1024) + coded
    )


def gif_of_comments(size: int) -> bytes:
    """Encode a GIF with ``size`` bytes of comments before its picture."""
    data = encode(noise(32, 32).convert("P"), "GIF")
    start = data.index(b",\0\0\0\0")
    block = b"!\xfe" + (b"\xff" + b"a" * 255) * 16 + b"\0"
    return data[:start] + block * (size // len(block)) + data[start:]


def webp_header(side: int) -> bytes:
    """Encode the header of a lossless WebP of ``side`` x ``side`` pixels, and nothing else."""
    bits = struct.pack("<I", (side - 1) | (side - 1) << 14)
    body = b"WEBPVP8L" + struct.pack("<I", 1000) + b"\x2f" + bits + b"\0"
    return b"RIFF" + struct.pack("<I", 1012) + body


def tiff_of_tags(size: int, tags: int) -> bytes:
    """Encode a TIFF of ``tags`` further tags, each of which holds ``size`` bytes, all the same."""
    known = [(256, 4, 1, 32), (257, 4, 1, 32), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    known += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 32), (279, 4, 1, 1024)]
    entries = known + [(32768 + number, 7, size, 8) for number in range(tags)]
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (
        b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + struct.pack("<H", len(entries))
        + directory + bytes(4)
    )  # fmt: skip
