import numpy as np
import pytest
import torch
from PIL import Image

from model.pretraining.augment import BatchAugmentation, central_crop, draw_crop
from tests.fakes import patches


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views(count: int = 8, size: int = 32) -> torch.Tensor:
    """Two equal views of pictures of noise: (2, count, 3, size, size) uint8."""
    one = torch.randint(0, 256, (count, 3, size, size), generator=generator(), dtype=torch.uint8)
    return torch.stack([one, one])


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (33, 200)])
def test_a_crop_has_the_asked_size(size: tuple[int, int]) -> None:
    crop = draw_crop(patches(0).resize(size), 32, np.random.default_rng(0))
    assert crop.shape == (3, 32, 32)
    assert crop.dtype == torch.uint8


def test_crops_differ_and_depend_on_the_generator_alone() -> None:
    image = patches(1, side=96)
    one, same, other = (draw_crop(image, 32, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_crop_lies_within_the_image_and_takes_its_share_of_it() -> None:
    # A picture whose red and green say where each pixel lies.
    place = np.linspace(0, 255, 256).astype(np.uint8)
    grid = np.stack([*np.meshgrid(place, place), np.zeros((256, 256), np.uint8)], axis=2)
    image, shares = Image.fromarray(grid), []
    for seed in range(300):
        crop = draw_crop(image, 128, np.random.default_rng(seed)).float()
        spans = [float(channel.max() - channel.min()) / 255 for channel in crop[:2]]
        shares.append(spans[0] * spans[1])
    assert 0.2 < min(shares) < 0.35  # down to 128 of 256 pixels a side, a quarter of the area
    assert max(shares) > 0.9


def test_the_central_crop_is_the_middle_square() -> None:
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    assert torch.equal(
        central_crop(image, 32)[:, 4:-4, 4:-4].amax(dim=(1, 2)), torch.tensor([0, 0, 255])
    )


def test_a_batch_keeps_its_shape_and_range() -> None:
    result = BatchAugmentation(mosaic=0.5)(views(), generator())
    assert result.shape == (2, 8, 3, 32, 32)
    assert result.dtype == torch.float32
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert torch.isfinite(result).all()


def test_equal_draws_give_equal_batches() -> None:
    one, same, other = (BatchAugmentation(mosaic=0.5)(views(), generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_batch_given_is_not_changed() -> None:
    given = views()
    before = given.clone()
    BatchAugmentation(mosaic=1.0)(given, generator())
    assert torch.equal(given, before)


def test_a_mosaic_shows_four_images_of_the_batch() -> None:
    # Flat colours stay flat under every other change, so tiles can be told apart.
    flat = torch.arange(16, dtype=torch.uint8)[:, None, None, None] * 16
    batch = flat.expand(2, 16, 3, 32, 32)

    def tiles(share: float) -> list[int]:
        result = BatchAugmentation(mosaic=share)(batch, generator())
        quarters = result.unfold(3, 16, 16).unfold(4, 16, 16).mean(dim=(2, 5, 6))  # (2, 16, 2, 2)
        return [len(set(image.flatten().tolist())) for image in quarters[0].round(decimals=2)]

    assert tiles(0.0) == [1] * 16
    assert tiles(0.5)[8:] == [1] * 8
    assert max(tiles(0.5)[:8]) == 4
