import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from model.views import RandomViews, blur, recompress
from tests.fakes import patches


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return patches(0, side=64)


@pytest.mark.parametrize("shape", [(64, 64), (200, 40), (16, 16), (17, 90)])
def test_views_are_rgb_squares_of_the_asked_size(shape: tuple[int, int]) -> None:
    views = RandomViews(5, 48)(Image.new("RGB", shape, "red"), "key")
    assert [(view.mode, view.size) for view in views] == [("RGB", (48, 48))] * 5


def test_a_view_is_the_same_at_every_call_whatever_was_drawn_before(image: Image.Image) -> None:
    first = RandomViews(4, 32, seed=3)(image, "key")
    torch.rand(17)
    again = RandomViews(2, 32, seed=3)
    for number in (3, 0, 2, 1):
        assert np.array_equal(pixels(again.view(image, "key", number)), pixels(first[number]))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((3, "key", 1), id="number"),
        pytest.param((3, "another", 0), id="key"),
        pytest.param((4, "key", 0), id="seed"),
    ],
)
def test_views_differ_between_numbers_keys_and_seeds(image: Image.Image, other) -> None:
    seed, key, number = other
    drawn = RandomViews(2, 32, seed=seed).view(image, key, number)
    reference = RandomViews(2, 32, seed=3).view(image, "key", 0)
    assert np.abs(pixels(drawn) - pixels(reference)).max() > 20


def test_drawing_views_leaves_the_global_generator_alone(image: Image.Image) -> None:
    before = torch.random.get_rng_state()
    RandomViews(3, 32)(image, "key")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_drawing_views_leaves_the_image_alone(image: Image.Image) -> None:
    before = pixels(image).copy()
    RandomViews(10, 32)(image, "key")
    assert np.array_equal(pixels(image), before)


def test_views_keep_what_an_image_shows() -> None:
    # Any view of a red picture stays closer to it than to a blue one.
    red, blue = np.array([200, 30, 30]), np.array([30, 30, 200])
    image = Image.new("RGB", (40, 40), tuple(red.tolist()))
    for view in RandomViews(40, 32)(image, "key"):
        colour = pixels(view).mean((0, 1))
        if np.ptp(colour) < 5:
            continue  # one in twenty is grey
        assert np.linalg.norm(colour - red) < np.linalg.norm(colour - blue)


@pytest.mark.parametrize("change", [partial(blur, radius=1.0), partial(recompress, quality=40)])
def test_a_damaged_picture_keeps_size_and_mode_and_most_of_its_look(
    change, image: Image.Image
) -> None:
    changed = change(image)
    difference = np.abs(pixels(changed) - pixels(image)).mean()
    assert (changed.mode, changed.size) == (image.mode, image.size)
    assert 0 < difference < 40


def test_threads_draw_the_same_views_at_the_same_time(image: Image.Image) -> None:
    views = RandomViews(1, 32)
    keys = [str(number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: pixels(views(image, key)[0]), keys))
    for key, drawn in zip(keys, together, strict=True):
        assert np.array_equal(drawn, pixels(views(image, key)[0]))


@pytest.mark.parametrize("shape", [(64, 64), (200, 40), (40, 200)])
def test_the_draws_are_those_of_torchvision(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    transforms = v2.Compose(
        [
            v2.RandomResizedCrop(48, scale=(0.35, 1.0), ratio=(0.75, 1.333), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.2, 0.03)], p=0.8),
            v2.RandomGrayscale(p=0.05),
            v2.RandomApply(
                [v2.Lambda(lambda view: blur(view, 0.1 + 1.4 * float(torch.rand(()))))], p=0.3
            ),
            v2.RandomApply(
                [v2.Lambda(lambda view: recompress(view, int(torch.randint(30, 91, ()))))], p=0.5
            ),
        ]
    )
    for number in range(20):
        digest = hashlib.sha256(f"5/key/{number}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            expected = pixels(transforms(image))
        assert np.array_equal(
            pixels(RandomViews(1, 48, seed=5).view(image, "key", number)), expected
        )


def test_the_recipe_of_views_names_all_that_changes_them() -> None:
    recipes = {
        repr(RandomViews(*recipe)) for recipe in [(2, 32, 0), (3, 32, 0), (2, 33, 0), (2, 32, 1)]
    }
    assert len(recipes) == 4
