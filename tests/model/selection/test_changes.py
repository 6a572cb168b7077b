import numpy as np
from PIL import Image

from model.selection.changes import collage, crop, impose_style
from tests.fakes import patches


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float64)


def test_an_imposed_style_has_the_colours_of_the_other_and_the_places_of_the_content() -> None:
    content, style = patches(1, 64), patches(2, 64, cells=16)
    styled = impose_style(content, style, 64)
    assert styled.size == (64, 64)
    mean, wanted = (pixels(one).mean(axis=(0, 1)) for one in (styled, style))
    assert np.abs(mean - wanted).max() < 15  # values beyond black and white are cut

    def grey(image: Image.Image) -> np.ndarray:
        return pixels(image.convert("L")).ravel()

    alike = abs(np.corrcoef(grey(styled), grey(content))[0, 1])
    assert alike > 2 * abs(np.corrcoef(grey(styled), grey(style))[0, 1])


def test_a_plain_picture_is_changed_without_a_fault() -> None:
    plain = Image.new("RGB", (40, 30), "red")
    for content, style in ((plain, patches(1)), (patches(1), plain), (plain, plain)):
        assert impose_style(content, style, 32).size == (32, 32)
    random = np.random.default_rng(0)
    assert crop(Image.new("RGB", (1, 1)), 32, random).size == (32, 32)
    assert collage(plain, patches(1), 33, random).size == (33, 33)


def test_a_crop_shows_a_small_part_of_the_picture() -> None:
    ramp = np.zeros((100, 100, 3), np.uint8)
    ramp[..., 0] = np.arange(100)[None] + 50
    for seed in range(20):
        part = pixels(crop(Image.fromarray(ramp), 64, np.random.default_rng(seed)))[..., 0]
        assert part.max() - part.min() < 100  # of 100 levels, at most 1.35 times two thirds


def test_a_collage_shows_both_pictures_in_either_order() -> None:
    red, blue = Image.new("RGB", (50, 80), (200, 0, 0)), Image.new("RGB", (90, 40), (0, 0, 200))
    sides = set()
    for seed in range(20):
        whole = pixels(collage(red, blue, 64, np.random.default_rng(seed)))
        left, right = whole[:, :32].mean(axis=(0, 1)), whole[:, 32:].mean(axis=(0, 1))
        assert (left[0] > left[2]) != (right[0] > right[2])
        sides.add(bool(left[0] > left[2]))
    assert sides == {True, False}
