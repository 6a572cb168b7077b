"""Which images pre-training draws, at which size and in which batch; and their crops."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from model.config import PretrainConfig
from model.errors import ImageError
from model.images import decode_image
from model.pretraining.augment import central_crop, draw_crop
from model.pretraining.shards import ImageRef

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """One image at one size; ``number`` tells the draws of an image in an epoch apart."""

    image: int
    size: int
    number: int


def plan_epoch(images: Sequence[ImageRef], config: PretrainConfig, epoch: int) -> list[list[Draw]]:
    """The batches of an epoch: every image once, a large one as often as it fills the input.

    An image takes part at the sizes that it can fill; over many draws each of those gets the same
    share of the work, so the smaller ones more draws. Batches have one size each. Of all these,
    ``epoch_images`` are drawn where that is set.
    """
    generator = np.random.default_rng([config.seed, epoch])
    smallest = min(config.input_sizes)
    by_size: dict[int, list[Draw]] = {}
    for number, image in enumerate(images):
        fits = [s for s in config.input_sizes if image.short_side * config.enlarge >= s]
        share = np.array([s**-2.0 for s in fits])
        times = int(np.clip(round(image.area / smallest**2), 1, config.draws))
        for draw, place in enumerate(generator.choice(len(fits), times, p=share / share.sum())):
            by_size.setdefault(fits[place], []).append(Draw(number, fits[place], draw))
    batches: list[list[Draw]] = []
    count = config.batch_size
    for _, draws in sorted(by_size.items()):
        order = generator.permutation(len(draws)).tolist()
        cut = [
            [draws[i] for i in order[start : start + count]]
            for start in range(0, len(order), count)
        ]
        # What is left over makes no batch of its own: too few images have no statistics.
        batches += [batch for batch in cut if len(batch) == count] or cut[:1]
    taken = len(batches)
    if config.epoch_images:
        taken = min(taken, max(1, round(config.epoch_images / config.batch_size)))
    return [batches[i] for i in generator.permutation(len(batches))[:taken].tolist()]


class _Draws(Dataset[torch.Tensor]):
    """(V, 3, S, S) uint8 of each draw: its views."""

    def __init__(
        self,
        images: Sequence[ImageRef],
        plan: Sequence[Sequence[Draw]],
        crop: Callable[[Image.Image, Draw], torch.Tensor],
    ) -> None:
        self._images = images
        self._plan = plan
        self._crop = crop

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One batch: (V, B, 3, S, S), or (B, 3, S, S) for a crop that gives one view."""
        drawn = [self._crop(_decode(self._images[draw.image]), draw) for draw in self._plan[index]]
        return torch.stack(drawn, dim=drawn[0].ndim - 3)


def _decode(ref: ImageRef) -> Image.Image:
    """An image; where its header was whole but its pixels are not, a grey one in its place."""
    try:
        return decode_image(ref.read()).pixels
    except (ImageError, OSError) as error:
        log.warning("%s in %s: %s; grey in its place", ref.name, ref.path, error)
        return Image.new("RGB", (ref.short_side, ref.short_side), "grey")


def two_crops(image: Image.Image, draw: Draw, *, seed: tuple[int, ...]) -> torch.Tensor:
    """Two random crops, (2, 3, S, S), that depend on the seed and the draw alone."""
    generator = np.random.default_rng([*seed, draw.image, draw.number])
    return torch.stack([draw_crop(image, draw.size, generator) for _ in range(2)])


def one_crop(image: Image.Image, draw: Draw) -> torch.Tensor:
    """The image's middle, (3, S, S)."""
    return central_crop(image, draw.size)


def load_draws(
    images: Sequence[ImageRef],
    plan: Sequence[Sequence[Draw]],
    crop: Callable[[Image.Image, Draw], torch.Tensor],
    workers: int,
) -> "DataLoader[torch.Tensor]":
    """The batches of a plan, each (V, B, 3, S, S) uint8, or (B, 3, S, S) of one view."""
    return DataLoader(_Draws(images, plan, crop), batch_size=None, num_workers=workers)


def plan_once(count: int, size: int, batch_size: int) -> list[list[Draw]]:
    """The batches that have each of ``count`` images once, in order."""
    return [
        [Draw(i, size, 0) for i in range(start, min(start + batch_size, count))]
        for start in range(0, count, batch_size)
    ]
