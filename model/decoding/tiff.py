"""Decode TIFFs that Pillow refuses or decodes wrongly: deep samples, planes, white as zero.

Pillow decodes usual TIFFs (`pillow_decodes`). The samples of others are read from their strips or
tiles here. Source: TIFF 6.0; Adobe's technical notes for deflate.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from model.decoding.samples import to_8_bits, white_of
from model.errors import UndecodableImageError, UnsupportedImageError

Samples: TypeAlias = NDArray[Any]

LITTLE, BIG = (b"II*\0", b"II+\0"), (b"MM\0*", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, Y_CB_CR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4
FORMATS = {UNSIGNED: "unsigned", SIGNED: "signed", FLOAT: "floating-point", UNDEFINED: "untyped"}
PLAIN = 1
LOSSLESS = {5, 8, 32946, 32773, 34925, 50000}  # LZW, deflate (twice), PackBits, LZMA, Zstandard
# Bytes that one byte can hold: PackBits repeats up to 128 times by two bytes, LZW names up to 4096
# bytes by 12 bits, and deflate 258 by two bits.
MOST_UNPACKED = {PLAIN: 1, 32773: 64, 5: 2_731, 8: 1_032, 32946: 1_032}
ASSOCIATED, UNASSOCIATED = 1, 2
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, INKS: 4}  # samples without the extra ones
MAX_SAMPLES = 8  # a pixel


@dataclass(frozen=True)
class Layout:
    """Layout of a TIFF's samples, from its first directory."""

    width: int
    height: int
    photometric: int
    bits: tuple[int, ...]  # of each sample
    kind: int  # a key of FORMATS
    planes: bool  # True if each sample has a plane of its own
    extra: tuple[int, ...]  # kinds of the extra samples
    compression: int
    predictor: int
    fill_order: int
    subsampling: tuple[int, ...]  # of the chroma of YCbCr

    def __str__(self) -> str:
        bits = "/".join(map(str, sorted(set(self.bits))))
        kind = FORMATS.get(self.kind, f"format {self.kind}")
        planes = ", in planes" if self.planes else ""
        return (
            f"a TIFF of {len(self.bits)} {kind} samples of {bits} bits{planes} (photometric "
            f"interpretation {self.photometric}, compression {self.compression})"
        )


def is_tiff(data: bytes) -> bool:
    """Return True if the first bytes are those of a TIFF, of 32-bit or 64-bit offsets."""
    return data.startswith(LITTLE + BIG)


class Tiff:
    """The first directory of a TIFF.

    Raises:
        UndecodableImageError: it is damaged.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data.startswith(LITTLE) else ">"
        header = 16 if data[2:4] in (b"+\0", b"\0+") else 8
        try:
            self._tags = TiffImagePlugin.ImageFileDirectory_v2(data[:header])
            file = io.BytesIO(data)
            file.seek(self._tags.next)
            self._tags.load(file)
            self.layout = self._layout()
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many types for damaged directories
            raise UndecodableImageError(
                "the image could not be decoded: its header is cut short or damaged"
            ) from error

    def _layout(self) -> Layout:
        def one(tag: int, default: int) -> int:
            value = self._tags.get(tag, default)
            return int(value[0] if isinstance(value, tuple) else value)

        jpeg = one(259, PLAIN) == 6
        photometric = Y_CB_CR if jpeg else one(262, 0)
        samples = one(277, 3 if one(259, PLAIN) in {6, 7} and photometric in {2, 6} else 1)
        if not 1 <= samples <= 64:
            raise ValueError("no such number of samples")
        bits = tuple(self._tags.get(258, (1,)))
        bits = bits * samples if len(bits) == 1 else bits[:samples]
        kinds = set(self._tags.get(339, (UNSIGNED,)))
        return Layout(
            width=one(256, 0),
            height=one(257, 0),
            photometric=photometric,
            bits=bits,
            kind=kinds.pop() if len(kinds) == 1 else -1,
            planes=one(284, 1) == 2 and samples > 1,
            extra=tuple(self._tags.get(338, ())),
            compression=one(259, PLAIN),
            predictor=one(317, 1),
            fill_order=one(266, 1),
            subsampling=tuple(self._tags.get(530, (2, 2))),
        )

    @property
    def profile(self) -> bytes | None:
        """Returns the ICC profile, if there is one."""
        profile = self._tags.get(34675)
        return profile if isinstance(profile, bytes) else None

    @property
    def orientation(self) -> int:
        """Returns EXIF's number of the orientation."""
        value = self._tags.get(274, 1)
        return value if isinstance(value, int) else 1

    def check_length(self) -> None:
        """Compare the length of the file with its size in pixels.

        Raises:
            UndecodableImageError: the pixels would need more bytes, however well compressed.
        """
        layout = self.layout
        ratio = MOST_UNPACKED.get(layout.compression)
        needed = layout.width * layout.height * sum(layout.bits) // 8
        if ratio and layout.photometric != Y_CB_CR and needed > ratio * len(self._data):
            raise _damaged()

    def decode(self) -> tuple[Image.Image, Image.Image | None]:
        """Decode the image, if `pillow_decodes` is False for its layout.

        Returns:
            An image of mode L, RGB or CMYK, and its opacity, of mode L, if it has any.

        Raises:
            UnsupportedImageError: the kind of samples or their compression is not supported.
            UndecodableImageError: the samples are cut short or damaged.
        """
        layout = self.layout
        count = COLOURS.get(layout.photometric)
        unpacks = layout.compression in {PLAIN, *LOSSLESS}
        whole = layout.bits[0] in {8, 16, 32, 64} and len(set(layout.bits)) == 1
        if layout.kind not in {UNSIGNED, FLOAT} or count is None or not whole or not unpacks:
            raise _unsupported(layout)
        if layout.predictor not in {1, 2, 3} or layout.fill_order != 1:
            raise _unsupported(layout)
        if not count <= len(layout.bits) <= MAX_SAMPLES:
            raise _unsupported(layout)
        samples = self._samples()
        colour, alpha = samples[..., :count], None
        extra = layout.extra or (UNASSOCIATED,) * (len(layout.bits) - count)
        place = next((i for i, kind in enumerate(extra) if kind in {1, 2}), None)
        if place is not None and count + place < len(layout.bits):
            alpha = samples[..., count + place]
        return _shown(colour, alpha, layout, associated=place is not None and extra[place] == 1)

    def _samples(self) -> Samples:
        """Return the stored samples, (H, W, S)."""
        layout = self.layout
        letter = "f" if layout.kind == FLOAT else "u"
        size = layout.bits[0] // 8
        if letter == "f" and size == 1:
            raise _unsupported(layout)
        dtype = np.dtype(f"{self._order}{letter}{size}")
        tags = self._tags
        tiled = 324 in tags
        offsets = tags.get(324 if tiled else 273, ())
        counts = tags.get(325 if tiled else 279, ())
        width = int(tags[322]) if tiled else layout.width
        height = int(tags[323]) if tiled else min(int(tags.get(278, 2**32 - 1)), layout.height)
        if width < 1 or height < 1 or len(offsets) != len(counts):
            raise _damaged()
        across, down = -(-layout.width // width), -(-layout.height // height)
        planes = len(layout.bits) if layout.planes else 1
        depth = 1 if layout.planes else len(layout.bits)
        # A block may be larger than the image, but by no more than a tile's padding.
        if width * height > 4 * layout.width * layout.height + 2**20:
            raise _damaged()
        if len(offsets) != planes * across * down:
            raise _damaged()
        samples = np.empty((layout.height, layout.width, planes * depth), dtype)
        for number, (offset, length) in enumerate(zip(offsets, counts, strict=True)):
            plane, place = divmod(number, across * down)
            y, x = (place // across) * height, (place % across) * width
            rows = height if tiled else min(height, layout.height - y)
            packed = self._data[offset : offset + length]
            block = _unpack(packed, rows, width * depth * size, layout.compression)
            values = _values(block, (rows, width, depth), dtype, layout.predictor)
            target = samples[y : y + rows, x : x + width, plane * depth : (plane + 1) * depth]
            target[...] = values[: target.shape[0], : target.shape[1]]
        return samples


def _unpack(packed: bytes, rows: int, row: int, compression: int) -> bytes:
    """Decompress a strip or a tile of ``rows`` rows of ``row`` bytes.

    Pillow's libtiff does it: the bytes are given to it as a TIFF of 8-bit grey.
    """
    if compression == PLAIN:
        if len(packed) < rows * row:
            raise _damaged()
        return packed[: rows * row]
    start = 8 + 2 + 9 * 12 + 4
    tags = {
        256: row, 257: rows, 258: 8, 259: compression, 262: BLACK_IS_ZERO, 273: start, 277: 1,
        278: rows, 279: len(packed),
    }  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    file = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + packed
    try:
        with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
            return image.tobytes()
    except OSError as error:
        raise _damaged() from error


def _values(
    block: bytes, shape: tuple[int, int, int], dtype: np.dtype[Any], predictor: int
) -> Samples:
    """Return a block's (rows, width, samples), its predictor undone (TIFF 6.0, section 14)."""
    rows, width, depth = shape
    if predictor == 3:  # Adobe's technical note 3: bytes by significance, as differences
        differences = np.frombuffer(block, np.uint8).reshape(rows, width * dtype.itemsize, depth)
        summed = np.cumsum(differences, axis=1, dtype=np.uint8)
        by_place = summed.reshape(rows, dtype.itemsize, width * depth).transpose(0, 2, 1)
        return np.ascontiguousarray(by_place).view(dtype.newbyteorder(">")).reshape(shape)
    values = np.frombuffer(block, dtype).reshape(shape)
    if predictor == 2:
        unsigned = np.dtype(f"{dtype.byteorder}u{dtype.itemsize}")
        native = values.view(unsigned).astype(unsigned.newbyteorder("="))
        summed = np.cumsum(native, axis=1, dtype=native.dtype)
        return summed.astype(unsigned).view(dtype)
    return values


def pillow_decodes(layout: Layout) -> bool:
    """Return True if Pillow decodes this layout correctly, or refuses it.

    Each case was compared with independent readers in `tests/model/decoding/test_samples.py`.
    """
    bits = max(layout.bits, default=0)
    opaque = len(layout.bits) == COLOURS.get(layout.photometric)
    if layout.kind != UNSIGNED:
        return False
    if layout.photometric == Y_CB_CR:
        return not layout.planes and (layout.compression != PLAIN or layout.subsampling == (1, 1))
    if layout.planes:
        return opaque and (bits == 8 or (bits == 16 and layout.compression != PLAIN))
    if bits <= 8:
        return opaque or layout.photometric not in {WHITE_IS_ZERO, INKS}
    if layout.photometric == RGB:
        return bits == 16 and len(layout.bits) <= 4 and ASSOCIATED not in layout.extra
    return opaque and bits <= 16 and layout.photometric in {BLACK_IS_ZERO, INKS}


def _shown(
    colour: Samples, alpha: Samples | None, layout: Layout, *, associated: bool
) -> tuple[Image.Image, Image.Image | None]:
    white = float(2 ** layout.bits[0] - 1) if layout.kind == UNSIGNED else white_of(colour)
    opacity = None
    if alpha is not None:
        opaque = white if layout.kind == UNSIGNED else 1.0
        opacity = np.nan_to_num(alpha.astype(np.float32) / opaque).clip(0, 1)
        if associated:
            colour = colour / np.maximum(opacity, 1e-6)[..., None]
    shown = to_8_bits(colour, white, inverted=layout.photometric == WHITE_IS_ZERO)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[shown.shape[2]]
    image = Image.frombytes(mode, (layout.width, layout.height), shown.tobytes())
    if opacity is None:
        return image, None
    return image, Image.fromarray(np.rint(opacity * 255).astype(np.uint8))


def _unsupported(layout: Layout) -> UnsupportedImageError:
    return UnsupportedImageError(
        f"the image is {layout}, which is not read: save it with 8 bits a sample, or as PNG"
    )


def _damaged() -> UndecodableImageError:
    return UndecodableImageError(
        "the image could not be decoded (its strips or tiles do not fill it); it may be cut short "
        "or damaged"
    )
