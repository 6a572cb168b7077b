"""Colours come out as the profile means them.

The right values are worked out here with NumPy, from published primaries and curves, and by
libvips, which reads profiles with code of its own. Neither knows `model.decoding`.
"""

import io
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
import pyvips
from PIL import Image, ImageCms

from model.decoding.colour import (
    PRIMARIES,
    CodePoints,
    Primaries,
    is_changed_by,
    rgb_profile,
    to_srgb,
)
from model.errors import UnsupportedImageError
from model.images import decode_image
from tests.pictures import encode, noise, oriented, png_chunk
from whence_client.images import image_bytes

# Linear RGB of the space -> XYZ (D65), as published: Adobe RGB (1998) 4.3.6.1, SMPTE RP 431-2 with
# D65, ITU-R BT.2020; and of sRGB, IEC 61966-2-1.
SRGB = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
ADOBE = np.array(
    [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
)
P3 = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0, 0.04511, 1.04394]])
WIDE = {
    "Adobe RGB": (Primaries(green=(0.21, 0.71)), 563 / 256, ADOBE),
    "Display P3": (PRIMARIES[12], None, P3),
}


def curve(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def light(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def muted() -> Image.Image:
    """Colours of sRGB, none at an end of the scale."""
    y, x = np.mgrid[0:48, 0:64]
    values = np.stack([40 + 2.5 * x, 40 + 3.5 * y, 220 - 1.5 * x - 1.2 * y], -1)
    return Image.fromarray(values.astype(np.uint8))


def stored_in(matrix: np.ndarray, gamma: float | None) -> Image.Image:
    """`muted` in the numbers of another space."""
    there = light(np.asarray(muted()) / 255) @ SRGB.T @ np.linalg.inv(matrix).T
    there = there.clip(0, 1)
    values = curve(there) if gamma is None else there ** (1 / gamma)
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def difference(data: bytes, expected: Image.Image) -> float:
    found = decode_image(data).pixels
    assert found.size == expected.size
    return np.abs(np.subtract(np.asarray(found, int), np.asarray(expected, int))).max()


def gray_profile(gamma: float) -> bytes:
    xyz = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    trc = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": xyz, b"kTRC": trc}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for kind, value in tags.items():
        table += kind + struct.pack(">II", start + len(body), len(value))
        body += value
    header = struct.pack(">I4xI", start + len(body), 0x02200000) + b"mntrGRAYXYZ " + bytes(12)
    header = (header + b"acsp" + bytes(28) + xyz[8:]).ljust(128, b"\0")
    return header + table + body


def vips_profile(name: str) -> bytes:
    """One of the profiles that libvips brings along: srgb, p3, cmyk."""
    image = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb")
    return image.icc_transform(name, input_profile="srgb").get("icc-profile-data")


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "JXL"])
@pytest.mark.parametrize("space", WIDE)
def test_colours_of_a_wide_space_are_those_of_srgb(format_name: str, space: str) -> None:
    primaries, gamma, matrix = WIDE[space]
    quality = {"WEBP": {"lossless": True}, "JXL": {"lossless": True}}
    lossy = {"quality": 100, "subsampling": 0} if format_name == "JPEG" else {"quality": 100}
    options = quality.get(format_name, lossy if format_name not in {"PNG", "TIFF"} else {})
    stored = stored_in(matrix, gamma)
    profile = rgb_profile(primaries, gamma)
    if format_name == "HEIF":
        stored = stored.copy()
        stored.info["icc_profile"] = profile
        options |= {"chroma": 444}
    else:
        options |= {"icc_profile": profile}
    if format_name == "AVIF":
        options |= {"subsampling": "4:4:4"}
    data = encode(stored, format_name, **options)
    lossless = format_name in {"PNG", "TIFF", "WEBP", "JXL"}
    of_lossy = np.abs(np.subtract(decode_image(data).pixels, np.asarray(muted(), float))).mean()
    assert of_lossy < 2.5
    assert not lossless or difference(data, muted()) <= 3
    assert difference(encode(stored_in(matrix, gamma)), muted()) > 12  # without its profile


def nclx(image: Image.Image, primaries: int, transfer: int) -> bytes:
    """A HEIC that names its colours in its nclx box alone."""
    image = image.copy()
    image.info.clear()
    return encode(
        image, "HEIF", quality=100, chroma=444, color_primaries=primaries,
        transfer_characteristics=transfer,
    )  # fmt: skip


def test_a_heic_without_a_profile_has_the_colours_of_its_nclx_box() -> None:
    _, _, matrix = WIDE["Display P3"]
    stored = stored_in(matrix, None)
    data = nclx(stored, 12, 13)
    assert difference(data, muted()) <= 6
    assert difference(nclx(stored, 1, 13), muted()) > 12
    with Image.open(io.BytesIO(data)) as image:
        sent = image_bytes(image)
    assert difference(sent, muted()) <= 6
    for transfer in (16, 18):
        with pytest.raises(UnsupportedImageError, match="high dynamic range"):
            decode_image(nclx(stored, 9, transfer))


def test_libvips_agrees_on_its_own_profile() -> None:
    image = pyvips.Image.new_from_memory(muted().tobytes(), 64, 48, 3, "uchar")
    stored = image.copy(interpretation="srgb").icc_transform("p3", input_profile="srgb")
    assert difference(stored.pngsave_buffer(), muted()) <= 2


@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_inks_are_shown_as_their_profile_says(format_name: str) -> None:
    image = pyvips.Image.new_from_memory(muted().tobytes(), 64, 48, 3, "uchar")
    inks = image.copy(interpretation="srgb").icc_transform("cmyk", input_profile="srgb")
    shown = inks.icc_transform("srgb", black_point_compensation=True)
    expected = Image.frombytes("RGB", (64, 48), shown.write_to_memory())
    if format_name == "JPEG":
        data = inks.jpegsave_buffer(Q=100, subsample_mode="off")
    else:
        data = inks.tiffsave_buffer()
    assert difference(data, expected) <= 8
    with_none = Image.frombytes("CMYK", (64, 48), inks.write_to_memory())
    assert difference(encode(with_none, "TIFF"), expected) > 20


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF"])
def test_gray_is_shown_as_its_profile_says(format_name: str) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
    expected = Image.fromarray(np.rint(curve((ramp / 255) ** 1.5) * 255).astype(np.uint8))
    options = {"quality": 100} if format_name == "JPEG" else {}
    data = encode(Image.fromarray(ramp), format_name, icc_profile=gray_profile(1.5), **options)
    assert difference(data, expected.convert("RGB")) <= 2
    assert difference(encode(Image.fromarray(ramp)), expected.convert("RGB")) > 20


def test_palettes_transparency_and_orientation_come_with_a_profile() -> None:
    primaries, gamma, matrix = WIDE["Adobe RGB"]
    profile = rgb_profile(primaries, gamma)
    stored = stored_in(matrix, gamma)
    turned = encode(
        stored.transpose(Image.Transpose.ROTATE_90), icc_profile=profile, exif=oriented(6)
    )
    assert difference(turned, muted()) <= 3
    paletted = stored.quantize(200, dither=Image.Dither.NONE)
    same = encode(paletted.convert("RGB"), icc_profile=profile)
    assert difference(encode(paletted, icc_profile=profile), decode_image(same).pixels) == 0
    half = stored.copy()
    half.putalpha(128)
    over_white = Image.blend(Image.new("RGB", (64, 48), "white"), muted(), 128 / 255)
    assert difference(encode(half, icc_profile=profile), over_white) <= 2


BROKEN = {
    "no profile": b"x" * 3000,
    "empty": b"",
    "cut short": rgb_profile(PRIMARIES[12], None)[:150],
    "of another colour space": gray_profile(1.5),
    "with a tag beyond its end": rgb_profile(PRIMARIES[12], 1.8)[:-300],
    "a table of links": rgb_profile(PRIMARIES[12], 1.8).replace(b"mntr", b"link"),
    "with forged counts": rgb_profile(PRIMARIES[12], 1.8).replace(
        b"curv\0\0\0\0\0\0\0\1", b"curv\0\0\0\0\xff\xff\xff\xff"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "TIFF"])
def test_a_profile_that_is_damaged_or_does_not_fit_is_ignored(name: str, format_name: str) -> None:
    plain = decode_image(encode(muted(), format_name)).pixels
    assert difference(encode(muted(), format_name, icc_profile=BROKEN[name]), plain) == 0


def test_profiles_damaged_anywhere_refuse_nothing() -> None:
    profile = rgb_profile(PRIMARIES[9], 2.4)
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(profile)
        for place in generator.integers(0, len(profile), 4):
            damaged[place] = generator.integers(0, 256)
        assert to_srgb(muted(), bytes(damaged)).size == muted().size


def test_profiles_of_srgb_cost_nothing_and_change_nothing() -> None:
    pillow = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (pillow, vips_profile("srgb"), rgb_profile(Primaries(), None)):
        assert not is_changed_by(profile, "RGB")
        assert difference(encode(noise(), icc_profile=profile), noise()) == 0
    assert is_changed_by(vips_profile("p3"), "RGB")


def with_chunks(image: Image.Image, *chunks: bytes) -> bytes:
    data = encode(image)
    return data[:33] + b"".join(chunks) + data[33:]


def gama(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values: int) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *values))


SRGB_CHRM = chrm(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_CHRM = chrm(31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)
P3_CICP = png_chunk(b"cICP", bytes((12, 13, 0, 1)))


def test_what_a_png_says_of_its_colours_counts() -> None:
    adobe = stored_in(ADOBE, 563 / 256)
    assert difference(with_chunks(adobe, gama(45470), ADOBE_CHRM), muted()) <= 3
    assert difference(with_chunks(stored_in(P3, None), P3_CICP), muted()) <= 2
    linear = Image.fromarray(np.rint(light(np.asarray(muted()) / 255) * 255).astype(np.uint8))
    assert difference(with_chunks(linear, gama(100_000)), muted()) <= 8


def test_what_counts_most_is_cicp_then_the_profile_then_srgb_then_gamma() -> None:
    chunks = [
        P3_CICP,
        png_chunk(b"iCCP", b"p\0\0" + zlib.compress(gray_profile(1.0))),
        png_chunk(b"sRGB", b"\0"),
        gama(100_000),
    ]
    seen = [decode_image(with_chunks(muted(), *chunks[start:])).pixels for start in range(4)]
    assert np.array_equal(seen[1], seen[2])  # a profile that does not fit, and sRGB
    assert np.array_equal(seen[2], muted())
    assert all(not np.array_equal(one, seen[2]) for one in (seen[0], seen[3]))


@pytest.mark.parametrize(
    "chunk",
    [
        gama(45455), gama(45000), gama(0), gama(2**32 - 1), SRGB_CHRM, chrm(*[0] * 8),
        chrm(*[2**32 - 1] * 8), png_chunk(b"gAMA", b""), png_chunk(b"cHRM", b"1"),
        png_chunk(b"cICP", bytes((1, 13, 0, 1))), png_chunk(b"cICP", bytes((99, 99, 0, 1))),
        png_chunk(b"cICP", b""), png_chunk(b"sRGB", b""),
    ],
)  # fmt: skip
def test_srgb_in_other_words_and_nonsense_change_nothing(chunk: bytes) -> None:
    assert difference(with_chunks(muted(), chunk), muted()) == 0


@pytest.mark.parametrize("transfer", [16, 18])
def test_high_dynamic_range_is_refused_by_name(transfer: int) -> None:
    with pytest.raises(UnsupportedImageError, match="high dynamic range"):
        decode_image(with_chunks(muted(), png_chunk(b"cICP", bytes((9, transfer, 0, 1)))))
    with pytest.raises(UnsupportedImageError):
        CodePoints(9, transfer).profile()


def test_made_profiles_are_monotonous() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (16, 1))).convert("RGB")
    shown = to_srgb(ramp, rgb_profile(PRIMARIES[9], 1.8))
    assert all(a <= b for a, b in pairwise(np.asarray(shown)[0, :, 0].tolist()))
