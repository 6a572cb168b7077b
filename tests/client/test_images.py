"""A picture is answered alike however it is handed over: the server sees the same pixels.

The right pixels are those of the file by its path, which `tests/model` compares with other readers.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from model.decoding.colour import PRIMARIES, rgb_profile
from model.images import decode_image
from tests.pictures import encode, gray_tiff, oriented, png, png_chunk, red_and_blue
from whence_client.images import image_bytes

P3 = rgb_profile(PRIMARIES[12], None)


def colours() -> Image.Image:
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([x * 5, y * 7, 255 - x * 4], -1).astype(np.uint8))


def lab() -> Image.Image:
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    made = ImageCms.profileToProfile(colours(), *spaces, outputMode="LAB")
    assert made is not None
    return made


def files() -> dict[str, bytes]:
    """Files by the mode in which Pillow opens them, and what else there is to lose."""
    alpha = colours().copy()
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    floats = np.linspace(0, 1, 32 * 32, dtype="<f4").tobytes()
    wide = np.linspace(0, 2**32 - 1, 32 * 32).astype("<u4").tobytes()
    return {
        "1": encode(colours().convert("1")),
        "L": encode(colours().convert("L")),
        "LA": encode(alpha.convert("LA")),
        "La": encode(alpha.convert("LA"), "TIFF", tiffinfo={338: 1}),
        "P": encode(colours().quantize(40), "GIF"),
        "PA": encode(colours().quantize(40).convert("PA"), "TIFF"),
        "RGB with a profile": encode(colours(), icc_profile=P3),
        "RGB turned": encode(colours(), "JPEG", exif=oriented(6)),
        "RGBA turned, with a profile": encode(alpha, icc_profile=P3, exif=oriented(8)),
        "RGB with a transparent colour": encode(red_and_blue(), transparency=(255, 0, 0)),
        "RGB with gamma": png(
            32, 32, 8, 2, (b"\0" + bytes(range(96))) * 32, png_chunk(b"gAMA", b"\0\1\x86\xa0")
        ),
        "CMYK": encode(colours().convert("CMYK"), "TIFF"),
        "CMYK turned": encode(colours().convert("CMYK"), "JPEG", exif=oriented(3)),
        "YCbCr": encode(colours().convert("YCbCr"), "TIFF"),
        "LAB": encode(lab(), "TIFF"),
        "I;16": encode(Image.fromarray(np.linspace(0, 65535, 1024).reshape(32, 32).astype("u2"))),
        "I": gray_tiff(32, 32, 32, wide),
        "F": gray_tiff(32, 32, 32, floats, sample_format=3),
    }


@pytest.mark.parametrize("name", files())
def test_a_picture_is_sent_as_the_file_it_was_opened_from(name: str, tmp_path: Path) -> None:
    data = files()[name]
    path = tmp_path / "picture"
    path.write_bytes(data)
    expected = np.asarray(decode_image(image_bytes(path)).pixels, int)
    buffer = io.BytesIO()
    buffer.write(data)  # and its position is at the end
    with path.open("rb") as file:
        given: list[Any] = [data, bytearray(data), memoryview(data), buffer, file, str(path)]
        for image in given:
            assert image_bytes(image) == data
    with Image.open(path) as opened:
        found = np.asarray(decode_image(image_bytes(opened)).pixels, int)
        before = dict(opened.getexif())
        image_bytes(opened)
        assert dict(opened.getexif()) == before
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBX",
        "RGBa",
        "CMYK",
        "YCbCr",
        "HSV",
        "LAB",
        "I",
        "F",
        "I;16",
    ],
)
def test_pixels_of_every_mode_are_sent(mode: str) -> None:
    whole = colours()
    if mode == "LAB":
        image = lab()
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(whole.convert("L")).astype("u2") * 257)
    elif mode == "I":
        image = Image.fromarray(np.asarray(whole.convert("L")).astype("i4") * 257)
    elif mode in {"La", "PA", "RGBa"}:
        first = {"La": "LA", "PA": "P", "RGBa": "RGBA"}[mode]
        image = whole.convert(first).convert(mode)
    else:
        image = whole.convert(mode)
    gray = mode in {"L", "LA", "La", "I", "F", "I;16"}
    expected = whole.convert("L").convert("RGB") if gray else whole
    if mode in {"1", "P", "PA"}:
        expected = image.convert("RGB")
    found = decode_image(image_bytes(image)).pixels
    difference = np.subtract(np.asarray(found, int), np.asarray(expected, int))
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_a_turned_tiff_opened_by_its_path_is_sent_upright(
    mode: str, orientation: int, compression: str | None, loaded: bool, tmp_path: Path
) -> None:
    gray = colours().convert("L")
    deep = Image.fromarray(np.asarray(gray).astype("u2") * 257)
    image = deep if mode == "I;16" else colours().convert(mode)
    path = tmp_path / "picture.tif"
    image.save(path, exif=oriented(orientation), compression=compression)
    expected = np.asarray(decode_image(path.read_bytes()).pixels, int)
    with Image.open(path) as opened:
        if loaded:
            opened.load()
            path.unlink()
        found = np.asarray(decode_image(image_bytes(opened)).pixels, int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_the_frame_that_is_shown_is_sent_with_what_was_changed(tmp_path: Path) -> None:
    path = tmp_path / "picture.tif"
    first, second = colours().convert("L"), colours().convert("L").point(lambda value: 255 - value)
    first.save(path, save_all=True, append_images=[second])
    with Image.open(path) as opened:
        opened.seek(1)
        assert np.array_equal(decode_image(image_bytes(opened)).pixels, second.convert("RGB"))
        opened.paste(7, (0, 0, 48, 32))
        assert np.all(np.asarray(decode_image(image_bytes(opened)).pixels) == 7)


def test_an_array_is_a_picture_of_srgb() -> None:
    array = np.asarray(colours())
    assert np.array_equal(decode_image(image_bytes(array)).pixels, array)
    assert np.array_equal(decode_image(image_bytes(array[::-1, ::2])).pixels, array[::-1, ::2])


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((32, 32), np.uint8), ValueError),
        (np.zeros((32, 32, 4), np.uint8), ValueError),
        (np.zeros((32, 32, 3), np.float32), ValueError),
        (io.StringIO("text"), TypeError),
        (17, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_picture_is_an_error(image: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"array|open|path"):
        image_bytes(image)
