"""Each format, mode and depth is read as an independent reader reads it, or refused by name.

The right samples are those that tifffile, imagecodecs and libvips read; the formulas from samples
to colours are those of TIFF 6.0 (photometric interpretation, extra samples).
"""

import io
import itertools
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from model.decoding.png import read_png
from model.errors import ImageError, UnsupportedImageError
from model.images import decode_image
from tests.pictures import encode, noise, png, png_chunk

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
COLOURS = np.stack([X / (WIDTH - 1), Y / (HEIGHT - 1), (X + Y) / (WIDTH + HEIGHT - 2)], -1)
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}
DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8"]
PACKED: dict[str, dict[str, Any]] = {
    "plain": {},
    "deflate": {"compression": "zlib"},
    "LZW": {"compression": "lzw"},
    "LZW with differences": {"compression": "lzw", "predictor": True},
    "tiles": {"compression": "zlib", "tile": (16, 16)},
}


def tiff(dtype: str, photo: str, extra: str | None, planes: bool, order: str, packed: str) -> bytes:
    count = CHANNELS[photo]
    samples = COLOURS if count == 3 else COLOURS[..., :1]
    if count == 4:
        samples = np.concatenate([COLOURS, COLOURS[..., :1] * 0.3], -1)
    if extra:
        alpha = 0.2 + 0.8 * COLOURS[..., 2:3]
        shown = samples * alpha if extra == "assocalpha" else samples
        samples = np.concatenate([shown, alpha], -1)
    kind = np.dtype(dtype)
    top = 1 if kind.kind == "f" else np.iinfo(kind).max
    values = (samples * top).astype(kind) if top == 1 else np.rint(samples * top).astype(kind)
    options: dict[str, Any] = {"extrasamples": [extra]} if extra else {}
    if values.shape[-1] > 1:
        options["planarconfig"] = "separate" if planes else "contig"
        values = np.moveaxis(values, -1, 0) if planes else values
    else:
        values = values[..., 0]
    if "tile" not in PACKED[packed]:
        options["rowsperstrip"] = 7
    file = io.BytesIO()
    options |= {"photometric": photo, "byteorder": order, "metadata": None} | PACKED[packed]
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def shown(data: bytes, photo: str, extra: str | None, planes: bool) -> np.ndarray:
    """(H, W, 3) of 0 to 255, from the samples as tifffile reads them."""
    values = tifffile.imread(io.BytesIO(data))
    top = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
    samples = np.atleast_3d(np.moveaxis(values, 0, -1) if planes else values) / top
    alpha = samples[..., -1:] if extra else np.ones((HEIGHT, WIDTH, 1))
    samples = samples[..., : CHANNELS[photo]]
    if extra == "assocalpha":
        samples = samples / alpha
    if photo == "miniswhite":
        samples = 1 - samples
    if photo == "separated":
        samples = (1 - samples[..., :3]) * (1 - samples[..., 3:])
    return (samples * alpha + 1 - alpha) * 255


TABLE = [
    row
    for row in itertools.product(
        DTYPES, CHANNELS, (None, "unassalpha", "assocalpha"), (False, True), "<>", PACKED
    )
    if not (row[3] and CHANNELS[row[1]] == 1 and not row[2])
    and not (row[5].endswith("differences") and row[0][0] == "f")
]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiffs_are_read_as_tifffile_reads_them_or_refused(dtype: str) -> None:
    for row in TABLE:
        _, photo, extra, planes, *_ = row
        if row[0] != dtype:
            continue
        data = tiff(*row)
        if dtype[0] == "i":
            with pytest.raises(UnsupportedImageError, match="signed"):
                decode_image(data)
            continue
        expected = shown(data, photo, extra, planes)
        found = np.asarray(decode_image(data).pixels, float)
        assert np.abs(found - expected).max() <= 2.5, row


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("name", ["png", "jpegxl"])
def test_png_and_jpeg_xl_are_read_as_imagecodecs_reads_them(
    name: str, dtype: str, channels: int
) -> None:
    top = np.iinfo(dtype).max
    stack = np.concatenate([COLOURS, COLOURS[..., :1]], -1)[..., :channels]
    values = np.rint(stack * top).astype(dtype)
    options = {"lossless": True} if name == "jpegxl" else {}
    data = getattr(imagecodecs, f"{name}_encode")(np.squeeze(values), **options)
    samples = np.atleast_3d(getattr(imagecodecs, f"{name}_decode")(data)) / top
    alpha = samples[..., -1:] if channels in {2, 4} else np.ones((HEIGHT, WIDTH, 1))
    colour = samples[..., :1] if channels < 3 else samples[..., :3]
    expected = (colour * alpha + 1 - alpha) * 255
    found = np.asarray(decode_image(data).pixels, float)
    assert np.abs(found - expected).max() <= 2


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_one_transparent_gray_is_white_as_libvips_shows_it(depth: int) -> None:
    top = 2**depth - 1
    values = (np.arange(32) * top // 31).astype(np.uint16)
    if depth == 16:
        row = values.astype(">u2").tobytes()
    else:
        bits = ((values[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8)
        row = np.packbits(bits.ravel()).tobytes()
    key = int(values[9])
    data = png(32, 32, depth, 0, (b"\0" + row) * 32, png_chunk(b"tRNS", struct.pack(">H", key)))
    vips = pyvips.Image.new_from_buffer(data, "").flatten(
        background=[65535 if depth == 16 else 255]
    )
    scale = 257 if depth == 16 else 1
    expected = vips.numpy().reshape(32, 32, -1)[..., 0] / scale
    found = np.asarray(decode_image(data).pixels, float)[..., 0]
    assert found[0, 9] == 255
    assert np.abs(found - expected).max() <= 1


def test_a_transparent_colour_of_16_bits_is_refused_where_it_occurs() -> None:
    rows = (b"\0" + struct.pack(">HHH", 0x8000, 0xFFFF, 0x0100) * 32) * 32
    with pytest.raises(UnsupportedImageError, match="transparent colour"):
        decode_image(png(32, 32, 16, 2, rows, png_chunk(b"tRNS", bytes.fromhex("8000ffff0100"))))
    other = png(32, 32, 16, 2, rows, png_chunk(b"tRNS", bytes(6)))
    assert decode_image(other).pixels.getpixel((0, 0)) == (128, 255, 1)


# A PNG's chunks that are no pixels


def wrong(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


LONG = b"x" * (2 * 2**20)
NOTES = {
    "compressed text of 2 MiB": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "text of 70 MiB in all": png_chunk(b"tEXt", b"workflow\0" + LONG) * 35,
    "text of a bomb": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(2**28))),
    "XMP of a bomb": png_chunk(
        b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2**28))
    ),
    "text of an unknown method": png_chunk(b"zTXt", b"workflow\0\7abc"),
    "text that is no deflate": png_chunk(b"zTXt", b"workflow\0\0abc"),
    "a profile of an unknown method": png_chunk(b"iCCP", b"p\0\7abc"),
    "a profile of a bomb": png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(2**28))),
    "a wrong checksum of text": wrong(png_chunk(b"tEXt", b"a\0b")),
    "a wrong checksum of transparency": wrong(png_chunk(b"tRNS", bytes(6))),
    "a wrong checksum of gamma": wrong(png_chunk(b"gAMA", bytes(4))),
    "an unknown chunk": png_chunk(b"abCd", b"1"),
    "short chunks": b"".join(png_chunk(k, b"1") for k in (b"pHYs", b"sRGB", b"cHRM", b"acTL")),
    "damaged EXIF": png_chunk(b"eXIf", b"junk"),
}


@pytest.mark.parametrize("place", ["before the pixels", "after them"])
@pytest.mark.parametrize("name", NOTES)
def test_pixels_are_read_whatever_stands_beside_them(name: str, place: str) -> None:
    data = encode(noise())
    cut = 33 if place == "before the pixels" else len(data) - 12
    assert np.array_equal(decode_image(data[:cut] + NOTES[name] + data[cut:]).pixels, noise())


def test_a_png_of_pixels_alone_is_not_copied() -> None:
    data = encode(noise())
    assert read_png(data).data is data


def test_a_wrong_checksum_of_a_critical_chunk_is_an_error() -> None:
    data = encode(noise().quantize(8))
    place = data.index(b"PLTE")
    with pytest.raises(ImageError):
        decode_image(data[: place + 9] + b"\xff\xfe" + data[place + 11 :])


def test_pillows_own_limit_of_the_process_has_no_effect() -> None:
    assert Image.MAX_IMAGE_PIXELS is None
