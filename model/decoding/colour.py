"""Convert pixels of any colour space to sRGB by their ICC profile, and make such profiles.

Sources: ICC.1:2022 (the layout of profiles); ITU-T H.273 (code points of primaries and transfer).
"""

import functools
import io
import itertools
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

from model.errors import UnsupportedImageError

SPACES = {
    "L": b"GRAY",
    "RGB": b"RGB ",
    "CMYK": b"CMYK",
}  # Pillow's mode -> a profile's space
DEVICES = {b"scnr", b"mntr", b"prtr", b"spac"}  # classes of profiles that images may have
MAX_CACHED = 65_536  # bytes of a profile: matrices and curves are smaller, printers' tables larger
MAX_CHANGE = 1  # of 255 levels, by a profile that counts as sRGB


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image of mode L, RGB or CMYK to mode RGB in sRGB.

    A damaged profile, one of other channels than the image's, and one that changes no colour
    visibly (sRGB's own) are ignored.
    """
    transform = _transform(profile, image.mode) if profile else None
    if transform is None:
        return image.convert("RGB")  # a copy, without a reference to the file
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    return converted


def is_changed_by(profile: bytes | None, mode: str) -> bool:
    """Return True if `to_srgb` gives other pixels with this profile than without."""
    return profile is not None and _transform(profile, mode) is not None


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    if len(profile) > MAX_CACHED:
        return _build(profile, mode)
    return _cached(profile, mode)


def _build(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Returns the transform of a profile; None if it has no effect or cannot be used."""
    fits = profile[16:20] == SPACES.get(mode) and profile[12:16] in DEVICES
    if not fits or profile[36:40] != b"acsp":
        return None
    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        before = _samples(mode)
        after = ImageCms.applyTransform(before, transform)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    assert after is not None
    change = np.asarray(after, dtype=int) - np.asarray(before.convert("RGB"), dtype=int)
    return transform if np.abs(change).max() > MAX_CHANGE else None


_cached = functools.lru_cache(maxsize=64)(_build)


@functools.cache
def _samples(mode: str) -> Image.Image:
    """Returns an image of colours spread over a mode's colour space."""
    levels = range(256) if mode == "L" else range(0, 256, 51)
    channels = len(Image.new(mode, (1, 1)).getbands())
    colours = np.array(list(itertools.product(levels, repeat=channels)), np.uint8)
    return Image.frombytes(mode, (len(colours), 1), colours.tobytes())


# Profiles from code points, primaries and gamma


@dataclass(frozen=True)
class Primaries:
    """CIE 1931 chromaticities (x, y) of white and of the three primaries; sRGB's by default."""

    white: tuple[float, ...] = (0.3127, 0.3290)
    red: tuple[float, ...] = (0.64, 0.33)
    green: tuple[float, ...] = (0.30, 0.60)
    blue: tuple[float, ...] = (0.15, 0.06)


PRIMARIES = {  # H.273, table 2
    1: Primaries(),
    9: Primaries((0.3127, 0.3290), (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    11: Primaries((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # DCI-P3
    12: Primaries((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
# H.273, table 3. Video's curves (1, 6, 14, 15) are treated as sRGB's, as in browsers.
CURVES: dict[int, float | None] = {
    1: None, 6: None, 13: None, 14: None, 15: None, 4: 2.2, 5: 2.8, 8: 1.0,
}  # fmt: skip
HIGH_DYNAMIC_RANGE = {16: "PQ", 18: "HLG"}


@dataclass(frozen=True)
class CodePoints:
    """Colour code points of H.273, in PNG's cICP chunk and in boxes of AVIF and HEIC."""

    primaries: int
    transfer: int

    @property
    def known(self) -> bool:
        """Return True if `profile` supports both numbers."""
        known = self.transfer in CURVES or self.transfer in HIGH_DYNAMIC_RANGE
        return known and self.primaries in PRIMARIES

    def profile(self) -> bytes | None:
        """Returns the ICC profile; None for sRGB.

        Raises:
            UnsupportedImageError: the transfer is one of high dynamic range, which has no one
                rendering in sRGB.
        """
        if name := HIGH_DYNAMIC_RANGE.get(self.transfer):
            raise UnsupportedImageError(
                f"the image is of high dynamic range ({name}), which is not read: save it in "
                "standard dynamic range"
            )
        curve = CURVES[self.transfer]
        if self.primaries == 1 and curve is None:
            return None
        return rgb_profile(PRIMARIES[self.primaries], curve)


@functools.lru_cache(maxsize=64)
def rgb_profile(primaries: Primaries, gamma: float | None) -> bytes | None:
    """Make the ICC profile (version 2, matrix and curves) of an RGB colour space.

    Args:
        primaries: of the space.
        gamma: exponent from samples to light; None is sRGB's curve.

    Returns:
        The profile; None if the primaries span no colour space.
    """
    try:
        matrix = _to_d50(primaries)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return None
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > 100:
        return None
    if gamma is None:
        levels = np.linspace(0, 1, 1024)
        light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
        values = np.rint(light * 65535).astype(">u2").tobytes()
        curve = b"curv\0\0\0\0" + struct.pack(">I", len(levels)) + values
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 4) + b"RGB\0" + bytes(78),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
        b"wtpt": _xyz(D50),
        **{kind: _xyz(matrix[:, i]) for i, kind in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table = struct.pack(">I", len(tags))
    start = 128 + 4 + 12 * len(tags)
    body = b""
    for kind, value in tags.items():
        table += kind + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI", start + len(body), 0x02200000) + b"mntrRGB XYZ " + bytes(12)
    header += b"acsp" + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + table + body


D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def _to_d50(primaries: Primaries) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Returns (3, 3): columns are the XYZ of red, green and blue, adapted to D50 (Bradford)."""
    columns = np.stack([_of_xy(xy) for xy in (primaries.red, primaries.green, primaries.blue)], 1)
    white = _of_xy(primaries.white)
    matrix = columns * np.linalg.solve(columns, white)
    gain = (BRADFORD @ D50) / (BRADFORD @ white)
    adapted: np.ndarray[tuple[int, int], np.dtype[np.float64]] = (
        np.linalg.inv(BRADFORD) @ np.diag(gain) @ BRADFORD @ matrix
    )
    return adapted


def _of_xy(xy: tuple[float, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _xyz(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    numbers = [round(float(value) * 65536) for value in values]
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *numbers)
