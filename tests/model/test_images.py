import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from model.decoding import decoder
from model.errors import (
    ImageError,
    ImageTooLargeError,
    ImageTooSmallError,
    UndecodableImageError,
    UnsupportedImageError,
)
from model.images import (
    FORMATS,
    ImageLimits,
    decode_image,
    read_image,
)
from tests.pictures import (
    BLUE,
    RED,
    WHITE,
    encode,
    gray_tiff,
    noise,
    oriented,
    png,
    png_bomb,
    png_chunk,
    red_and_blue,
)

LOSSLESS = ("PNG", "TIFF", "BMP", "DIB")
ROOT = Path(__file__).parents[2]


def decode(data: bytes) -> Image.Image:
    image = decode_image(data).pixels
    assert image.mode == "RGB"
    return image


def colour(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    value = decode(data).getpixel(at)
    assert isinstance(value, tuple)
    return value


def flat(mode: str, value: float | tuple[int, ...]) -> Image.Image:
    return Image.new(mode, (32, 32), value)


def assert_close(data: bytes, expected: Image.Image, tolerance: float) -> None:
    found = decode(data)
    assert found.size == expected.size
    difference = np.asarray(found, dtype=float) - np.asarray(expected, dtype=float)
    assert np.abs(difference).mean() < tolerance


# What is answered


@pytest.mark.parametrize("format_name", LOSSLESS)
def test_lossless_formats_keep_every_pixel(format_name: str) -> None:
    image = noise()
    assert np.array_equal(decode(encode(image, format_name)), image)


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_accepted_format_is_read(format_name: str) -> None:
    assert_close(encode(red_and_blue(), format_name), red_and_blue(), tolerance=6)


def test_sha256_is_of_the_file() -> None:
    data = encode(noise())
    assert decode_image(data).sha256 == decode_image(bytes(data)).sha256
    assert decode_image(data).sha256 != decode_image(data + b"\0").sha256


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_colours(format_name: str) -> None:
    # Adobe's JPEGs store CMYK inverted; read as it stands, red would come out as cyan.
    assert_close(encode(red_and_blue().convert("CMYK"), format_name), red_and_blue(), tolerance=3)


def test_lab_is_converted() -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(red_and_blue(), *profiles, outputMode="LAB")
    assert lab is not None
    assert_close(encode(lab, "TIFF"), red_and_blue(), tolerance=10)


def test_palette_is_looked_up() -> None:
    paletted = red_and_blue().quantize(4)
    for format_name in ("PNG", "GIF", "TIFF", "BMP", "DIB"):
        assert colour(encode(paletted, format_name)) == RED
        assert colour(encode(paletted, format_name), (63, 31)) == BLUE


def test_one_bit_is_black_and_white() -> None:
    image = Image.new("1", (32, 32))
    image.paste(1, (16, 0, 32, 32))
    for format_name in ("PNG", "TIFF", "BMP", "GIF"):
        assert colour(encode(image, format_name)) == (0, 0, 0)
        assert colour(encode(image, format_name), (31, 0)) == WHITE


def test_16_bit_gray_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    for order in "<>":
        image = Image.fromarray(ramp.astype(f"{order}u2"))
        for format_name in ("PNG", "TIFF"):
            found = np.asarray(decode(encode(image, format_name)), dtype=float)[..., 0]
            assert np.abs(found - ramp / 257).max() <= 0.51


def test_16_bit_colour_is_scaled() -> None:
    rows = (b"\0" + struct.pack(">HHH", 0x8000, 0xFFFF, 0x0100) * 32) * 32
    assert colour(png(32, 32, 16, 2, rows)) == (128, 255, 1)


def test_16_bit_colour_with_alpha_is_laid_over_white() -> None:
    rows = (b"\0" + struct.pack(">HHHH", 0xFFFF, 0, 0, 0x8000) * 32) * 32
    assert colour(png(32, 32, 16, 6, rows)) == pytest.approx((255, 127, 127), abs=1)


def test_12_bit_gray_is_scaled_by_its_own_white() -> None:
    samples = b"\x80\x08\x00" * (32 * 16)  # 0x800, 0x800, ...
    assert colour(gray_tiff(32, 32, 12, samples)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 0.5, 1.0), (0, 128, 255)),  # white is 1
        ((0.0, 0.25, 0.5), (0, 64, 128)),  # a dark picture stays dark
        ((0.0, 128.0, 255.0), (0, 128, 255)),
        ((0.0, 32768.0, 65535.0), (0, 128, 255)),
        ((0.0, 5e5, 1e6), (0, 128, 255)),
        ((float("nan"), float("inf"), -1.0), (0, 255, 0)),
        ((0.0, 0.5, 1.7), (0, 128, 255)),  # a highlight
    ],
)
def test_float_gray_is_scaled(values: tuple[float, ...], expected: tuple[int, ...]) -> None:
    data = gray_tiff(48, 16, 32, struct.pack("<3f", *values) * 16 * 16, sample_format=3)
    assert [colour(data, (x, 0))[0] for x in range(3)] == pytest.approx(expected, abs=1)


def test_signed_gray_has_no_agreed_white() -> None:
    data = gray_tiff(32, 32, 32, struct.pack("<2i", 0, 10**9) * 512, sample_format=2)
    with pytest.raises(UnsupportedImageError, match="signed samples of 32 bits"):
        decode(data)


def transparent_files() -> dict[str, bytes]:
    ramp = flat("RGBA", (255, 0, 0, 0))
    ramp.paste((255, 0, 0, 255), (16, 0, 32, 32))
    gray = flat("LA", (0, 0))
    gray.paste((0, 255), (16, 0, 32, 32))
    rows = (b"\0" + bytes(16) + b"\1" * 16) * 32
    palette = png_chunk(b"PLTE", bytes((9, 9, 9, *RED))) + png_chunk(b"tRNS", b"\0\xff")
    keyed = (b"\0" + b"\7\7\7" * 16 + bytes(RED) * 16) * 32
    key = png_chunk(b"tRNS", struct.pack(">HHH", 7, 7, 7))
    return {
        "RGBA PNG": encode(ramp),
        "RGBA WebP": encode(ramp, "WEBP", lossless=True),
        "RGBA GIF": encode(ramp, "GIF"),
        "RGBA TIFF": encode(ramp, "TIFF"),
        "RGBA AVIF": encode(ramp, "AVIF"),
        "LA PNG": encode(gray),
        "LA TIFF": encode(gray, "TIFF"),
        "premultiplied LA TIFF": encode(gray, "TIFF", tiffinfo={338: 1}),
        "palette with alpha": png(32, 32, 8, 3, rows, palette),
        "colour key": png(32, 32, 8, 2, keyed, key),
    }


@pytest.mark.parametrize("name", transparent_files())
def test_transparency_is_laid_over_white(name: str) -> None:
    data = transparent_files()[name]
    assert colour(data, (2, 2)) == pytest.approx(WHITE, abs=2)
    opaque = (0, 0, 0) if "LA" in name else RED
    assert colour(data, (29, 2)) == pytest.approx(opaque, abs=2)


def test_half_transparency_is_mixed() -> None:
    assert colour(encode(flat("RGBA", (255, 0, 0, 128)))) == pytest.approx((255, 127, 127), abs=1)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format_name: str, orientation: int) -> None:
    upright = red_and_blue(64, 48)
    upright.paste((0, 255, 0), (0, 24, 64, 48))  # no symmetry is left
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    stored = upright if turn is None else upright.transpose(turn)
    data = encode(stored, format_name, exif=oriented(orientation))
    assert_close(data, upright, tolerance=6)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0junkjunk",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 99) + bytes(4),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 2, 4, 2**31) + bytes(4),
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(exif: bytes) -> None:
    for format_name in ("JPEG", "PNG", "WEBP"):
        assert_close(encode(red_and_blue(), format_name, exif=exif), red_and_blue(), tolerance=3)


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "AVIF", "TIFF"])
def test_first_frame_of_an_animation_is_taken(format_name: str) -> None:
    frames = {"save_all": True, "append_images": [flat("RGB", BLUE), flat("RGB", WHITE)]}
    if format_name != "TIFF":
        frames["duration"] = 100
    assert colour(encode(flat("RGB", RED), format_name, **frames)) == pytest.approx(RED, abs=3)


def test_first_picture_of_a_stereo_jpeg_is_taken() -> None:
    data = encode(flat("RGB", RED), "MPO", save_all=True, append_images=[flat("RGB", BLUE)])
    assert colour(data) == pytest.approx(RED, abs=3)


def test_a_large_colour_profile_does_no_harm() -> None:
    data = encode(red_and_blue(), "JPEG", icc_profile=b"x" * 3_000_000)
    assert_close(data, red_and_blue(), tolerance=3)


# What is refused


@pytest.mark.parametrize(
    "data", [b"hello, I am no image\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7"]
)
def test_other_files_are_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WEBP"):
        decode_image(data)


def test_formats_beyond_the_list_are_unsupported() -> None:
    for format_name in ("PPM", "TGA", "ICO", "JPEG2000"):
        with pytest.raises(UnsupportedImageError):
            decode_image(encode(noise(), format_name))


def test_an_empty_file_is_undecodable() -> None:
    with pytest.raises(UndecodableImageError, match="empty"):
        decode_image(b"")


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("part", [0.01, 0.3, 0.9])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
def test_truncated_files_are_undecodable(format_name: str, part: float) -> None:
    data = encode(noise(), format_name)
    with pytest.raises(UndecodableImageError, match="cut short"):
        decode_image(data[: max(16, int(part * len(data)))])


def test_a_compressed_note_is_not_unfolded_into_gigabytes() -> None:
    data = encode(noise(), "PNG", icc_profile=bytes(30_000_000))
    tracemalloc.start()
    assert np.array_equal(decoder.decode(data, lambda *_: None).pixels, noise())
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("size", [(1, 1), (15, 100), (100, 15)])
def test_small_images_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmallError, match=f"{size[0]} x {size[1]} pixels; at least 16"):
        decode_image(encode(Image.new("RGB", size)))


def test_limits_are_inclusive() -> None:
    limits = ImageLimits(max_pixels=64 * 32, max_side=64, min_side=32)
    assert decode_image(encode(red_and_blue()), limits).pixels.size == (64, 32)
    for tighter in (ImageLimits(64 * 32 - 1, 64, 32), ImageLimits(64 * 32, 63, 32)):
        with pytest.raises(ImageTooLargeError, match="64 x 32"):
            decode_image(encode(red_and_blue()), tighter)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_frame_larger_than_its_screen_counts() -> None:
    data = bytearray(encode(flat("P", 0), "GIF"))
    frame = data.index(b",")
    data[frame + 5 : frame + 9] = struct.pack("<HH", 12_000, 12_000)
    with pytest.raises(ImageTooLargeError):
        decode_image(bytes(data))


@pytest.mark.parametrize("side", [7_500, 20_000])
def test_a_pixel_bomb_is_refused_from_its_header(side: int, tmp_path: Path) -> None:
    """In a process that may grow by far less than the pixels would take."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_bomb(side))
    assert bomb.stat().st_size < 5_000
    script = """if True:
        import resource, sys
        from model.errors import ImageTooLargeError
        from model.images import decode_image
        from tests.pictures import encode, noise
        data = open(sys.argv[1], "rb").read()
        decode_image(encode(noise()))
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**24, used + 2**24))
        try:
            decode_image(data)
        except ImageTooLargeError as error:
            print(error)
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is limited the way Linux does it")
    done = subprocess.run(
        [sys.executable, "-c", script, str(bomb)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "50,000,000 pixels" in done.stdout


def damaged_files() -> st.SearchStrategy[bytes]:
    files = [encode(noise(24, 24), name) for name in FORMATS]
    files += [encode(noise(24, 24).convert("RGBA"), name) for name in ("PNG", "WEBP", "TIFF")]
    files.append(encode(noise(24, 24), "JPEG", exif=oriented(6)))
    change = st.tuples(st.integers(0, 2**31), st.integers(0, 255))

    def damage(file: bytes, changes: list[tuple[int, int]], length: float) -> bytes:
        data = bytearray(file)
        for place, value in changes:
            data[place % min(len(data), 200)] = value
        return bytes(data[: int(len(data) * length)])

    return st.builds(
        damage,
        st.sampled_from(files),
        st.lists(change, max_size=6),
        st.one_of(st.just(1.0), st.floats(0, 1)),
    )


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=400, deadline=None)
@given(damaged_files())
def test_damage_of_any_kind_is_a_named_error(data: bytes) -> None:
    try:
        image = decode_image(data, ImageLimits(max_pixels=10**6)).pixels
    except ImageError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert image.mode == "RGB"


# Files


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(UndecodableImageError, match="No such file"):
        read_image(tmp_path / "gone.png")


# Decoding at a fraction of the size


@pytest.mark.parametrize(
    ("size", "min_decode_side", "expected"),
    [
        ((1024, 2048), 256, (256, 512)),
        ((1024, 2048), 300, (512, 1024)),
        ((4096, 4096), 128, (512, 512)),  # no less than an eighth
        ((500, 2000), 256, (500, 2000)),
        ((1024, 2048), None, (1024, 2048)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_is_of_use(size, min_decode_side, expected) -> None:
    data = encode(Image.new("RGB", size), "JPEG")
    assert decode_image(data, min_decode_side=min_decode_side).pixels.size == expected


@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
@pytest.mark.parametrize("side", [None, 128])
def test_the_size_is_that_of_the_upright_image_also_if_it_is_decoded_reduced(
    orientation: int | None, side: int | None
) -> None:
    exif = {"exif": oriented(orientation)} if orientation else {}
    data = encode(Image.new("RGB", (1025, 2047)), "JPEG", **exif)
    decoded = decode_image(data, min_decode_side=side)
    assert decoded.size == ((2047, 1025) if orientation in {6, 8} else (1025, 2047))
    assert (decoded.pixels.size == decoded.size) == (side is None)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(format_name: str) -> None:
    data = encode(Image.new("RGB", (1024, 1024)), format_name)
    assert decode_image(data, min_decode_side=64).pixels.size == (1024, 1024)


def test_limits_and_identity_are_those_of_the_whole_jpeg() -> None:
    data = encode(Image.new("RGB", (1024, 1024)), "JPEG")
    assert decode_image(data, min_decode_side=64).sha256 == decode_image(data).sha256
    with pytest.raises(ImageTooLargeError, match="1024 x 1024"):
        decode_image(data, ImageLimits(max_side=1000), min_decode_side=64)
    assert decode_image(data, ImageLimits(min_side=1000), min_decode_side=64).pixels.size == (
        128,
        128,
    )


def test_a_jpeg_of_inks_is_decoded_at_a_fraction_with_its_colours() -> None:
    whole = Image.new("CMYK", (1024, 1024), (255, 0, 0, 0))
    data = encode(whole, "JPEG")
    small, large = decode_image(data, min_decode_side=256).pixels, decode_image(data).pixels
    assert small.size == (256, 256)
    assert np.abs(np.subtract(small.getpixel((9, 9)), large.getpixel((9, 9)))).max() <= 1


def test_a_damaged_tiff_leaves_nothing_in_the_log() -> None:
    # Pillow warns of each fault in words that hold a part of the file, and Python keeps them all.
    program = """
from model.images import decode_image
from tests.pictures import encode, noise
data = bytearray(encode(noise(), "TIFF"))
entries = int.from_bytes(data[4:8], "little") + 2
count = int.from_bytes(data[entries - 2 : entries], "little")
for entry in range(entries, entries + 12 * count, 12):
    if int.from_bytes(data[entry : entry + 2], "little") not in range(256, 280):
        data[entry + 4 : entry + 8] = (2**20).to_bytes(4, "little")  # a count beyond the file
try:
    decode_image(bytes(data))
except Exception as error:
    print(type(error).__name__)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
