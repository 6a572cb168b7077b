"""The squares that a network reads are the same wherever they are cut out."""

import numpy as np
import pytest

from model.images import decode_image
from model.regions import crops, parts_of
from model.squares import RESAMPLING, Square
from tests.pictures import encode, noise

SIZES = [(64, 64), (300, 200), (200, 300), (900, 200), (160, 1100), (33, 41)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("interpolation", RESAMPLING)
def test_squares_of_the_decoding_process_are_those_of_the_whole_image(
    size: tuple[int, int], interpolation: str
) -> None:
    square = Square(32, 37, interpolation)
    data = encode(noise(*size))
    whole, cut = decode_image(data), decode_image(data, square=square)
    assert (cut.size, cut.sha256) == (whole.size, whole.sha256)
    parts = crops(whole.pixels, whole.size, parts_of(whole.size))
    for own, expected in zip(square.split(cut.pixels), parts, strict=True):
        assert np.array_equal(own, square.of(expected))


def test_squares_of_a_jpeg_decoded_reduced_are_those_of_its_reduced_pixels() -> None:
    square = Square(64, 64, "bicubic")
    data = encode(noise(1600, 1000), "JPEG")
    whole = decode_image(data, min_decode_side=256)
    assert whole.pixels.size != whole.size
    cut = decode_image(data, min_decode_side=256, square=square)
    parts = list(crops(whole.pixels, whole.size, parts_of(whole.size)))
    assert len(parts) > 1
    for own, expected in zip(square.split(cut.pixels), parts, strict=True):
        assert np.array_equal(own, square.of(expected))
