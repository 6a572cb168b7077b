import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from model.errors import RegionError, RegionTooSmallError
from model.images import ImageLimits
from model.regions import MOST, Region, crops, parts_of, tries
from tests.pictures import noise

sides = st.integers(1, 3000)


@given(width=sides, height=sides)
def test_an_image_up_to_four_to_three_is_read_as_it_is(width: int, height: int) -> None:
    parts = parts_of((width, height))
    ordinary = 3 * max(width, height) <= 4 * min(width, height)
    assert (parts == (Region(0, 0, width, height),)) == ordinary
    assert ordinary or len(parts) > 1


@given(width=sides, height=sides)
def test_a_long_image_is_read_in_squares_from_one_end_to_the_other(width: int, height: int) -> None:
    parts = parts_of((width, height))
    if len(parts) == 1:
        return
    short, long = sorted((width, height))
    along = [part.x if width > height else part.y for part in parts]
    assert {(part.width, part.height) for part in parts} == {(short, short)}
    assert {part.y if width > height else part.x for part in parts} == {0}
    assert (along[0], along[-1]) == (0, long - short)
    assert len(parts) <= MOST
    assert len(parts) % 2 == 1
    assert abs(along[len(along) // 2] - (long - short) / 2) <= 1  # the central square
    if long <= 4 * short:
        assert max(np.diff(along)) <= short / 2 + 1  # neighbours overlap by half
    if long <= 6 * short:
        assert max(np.diff(along)) <= 7 / 8 * short + 1  # what is seen leaves no gap


def test_three_to_one_has_five_squares_and_all_of_a_region_is_relative_to_it() -> None:
    assert [part.x for part in parts_of((300, 100))] == [0, 50, 100, 150, 200]
    inside = parts_of((900, 900), Region(10, 20, 100, 300))
    assert [tuple(part) for part in inside] == [
        (10, 20 + step, 100, 100) for step in (0, 50, 100, 150, 200)
    ]
    assert parts_of((900, 900), Region(10, 20, 100, 100)) == (Region(10, 20, 100, 100),)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((100, 100), 1), ((133, 100), 1), ((150, 100), 2), ((100, 200), 2), ((300, 100), 3),
     ((301, 100), 4), ((100, 550), 6), ((5000, 100), 7)],
)  # fmt: skip
def test_overlapping_squares_count_as_the_fewest_that_cover_them(size, expected: int) -> None:
    assert tries(parts_of(size)) == expected


@pytest.mark.parametrize("region", [(0, 0, 101, 20), (90, 0, 20, 20), (0, 45, 20, 20)])
def test_a_region_beyond_the_image_is_refused_with_the_images_size(region) -> None:
    with pytest.raises(RegionError, match="100 x 60"):
        Region(*region).check((100, 60))


@pytest.mark.parametrize("region", [(0, 0, 15, 50), (0, 0, 50, 0), (99, 0, 1, 60)])
def test_a_region_of_few_pixels_is_refused(region) -> None:
    with pytest.raises(RegionTooSmallError, match="at least 16"):
        Region(*region).check((100, 60))
    Region(0, 0, 15, 50).check((100, 60), ImageLimits(min_side=15))


def test_crops_are_the_pixels_of_the_parts() -> None:
    image = noise(90, 30)
    whole, part = crops(image, image.size, [Region(0, 0, 90, 30), Region(10, 5, 20, 25)])
    assert whole is image
    assert np.array_equal(np.asarray(part), np.asarray(image)[5:30, 10:30])


@given(factor=st.sampled_from([2, 4, 8]), width=st.integers(64, 900), height=st.integers(64, 900))
def test_crops_of_an_image_decoded_reduced_show_the_same_part(
    factor: int, width: int, height: int
) -> None:
    small = Image.new("L", (-(-width // factor), -(-height // factor)))
    for part, crop in zip(
        parts_of((width, height)),
        crops(small, (width, height), parts_of((width, height))),
        strict=True,
    ):
        assert abs(crop.width - part.width / factor) <= 1.5
        assert abs(crop.height - part.height / factor) <= 1.5
