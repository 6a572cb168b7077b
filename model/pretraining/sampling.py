"""Sampling of images, sizes and crops for the batches of pre-training."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from PIL import Image

from model.config import PretrainConfig
from model.errors import ImageError
from model.images import ImageLimits, decode_image
from model.preparing import prepare_ahead
from model.pretraining.augment import central_crop, draw_crop
from model.pretraining.shards import ImageRef

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One image at one size; ``number`` distinguishes the samples of an image in an epoch."""

    image: int
    size: int
    number: int


def plan_epoch(
    images: Sequence[ImageRef], config: PretrainConfig, epoch: int
) -> list[list[Sample]]:
    """Plan the batches of an epoch: every image once, a large one up to ``config.draws`` times.

    An image is sampled at the sizes that it can fill, smaller ones more often, so that each size
    takes the same share of the work. A batch has one size. ``epoch_images`` bounds the total.
    """
    generator = np.random.default_rng([config.seed, epoch])
    smallest = min(config.input_sizes)
    by_size: dict[int, list[Sample]] = {}
    for number, image in enumerate(images):
        fits = [s for s in config.input_sizes if image.short_side * config.enlarge >= s]
        share = np.array([s**-2.0 for s in fits])
        times = int(np.clip(round(image.area / smallest**2), 1, config.draws))
        for draw, place in enumerate(generator.choice(len(fits), times, p=share / share.sum())):
            by_size.setdefault(fits[place], []).append(Sample(number, fits[place], draw))
    batches: list[list[Sample]] = []
    count = config.batch_size
    for _, draws in sorted(by_size.items()):
        order = generator.permutation(len(draws)).tolist()
        cut = [
            [draws[i] for i in order[start : start + count]]
            for start in range(0, len(order), count)
        ]
        # The last, incomplete batch is dropped: its statistics would be poor.
        batches += [batch for batch in cut if len(batch) == count] or cut[:1]
    taken = len(batches)
    if config.epoch_images:
        taken = min(taken, max(1, round(config.epoch_images / config.batch_size)))
    return [batches[i] for i in generator.permutation(len(batches))[:taken].tolist()]


def _decode(ref: ImageRef) -> Image.Image:
    """Decode an image; return a grey one if its pixels are damaged."""
    try:
        # As large as its header said when it was found to be within the limits.
        return decode_image(ref.read(), ImageLimits(ref.area, ref.area)).pixels
    except (ImageError, OSError) as error:
        log.warning("%s: %s; grey in its place", ref.picture.address, error)
        return Image.new("RGB", (ref.short_side, ref.short_side), "grey")


def two_crops(image: Image.Image, draw: Sample, *, seed: tuple[int, ...]) -> torch.Tensor:
    """Cut two random crops, (2, 3, S, S), that depend on the seed and the sample alone."""
    generator = np.random.default_rng([*seed, draw.image, draw.number])
    return torch.stack([draw_crop(image, draw.size, generator) for _ in range(2)])


def one_crop(image: Image.Image, draw: Sample) -> torch.Tensor:
    """Cut the central square, (3, S, S)."""
    return central_crop(image, draw.size)


def load_samples(
    images: Sequence[ImageRef],
    plan: Sequence[Sequence[Sample]],
    crop: Callable[[Image.Image, Sample], torch.Tensor],
    workers: int,
) -> Iterator[torch.Tensor]:
    """Yield the batches of a plan: (V, B, 3, S, S) uint8 each, or (B, 3, S, S) of one view.

    Args:
        images: of the plan.
        plan: the samples of each batch.
        crop: cuts one or more views of an image; called in several threads.
        workers: threads that crop, and processes that decode; at least one.
    """

    def draw(sample: Sample) -> torch.Tensor:
        return crop(_decode(images[sample.image]), sample)

    crops = prepare_ahead(
        (sample for batch in plan for sample in batch),
        draw,
        ahead=max(map(len, plan), default=0) + max(1, workers),
        workers=workers,
    )
    for batch in plan:
        drawn = list(islice(crops, len(batch)))
        yield torch.stack(drawn, dim=drawn[0].ndim - 3)


def plan_once(count: int, size: int, batch_size: int) -> list[list[Sample]]:
    """Plan batches that hold each of ``count`` images once, in order."""
    return [
        [Sample(i, size, 0) for i in range(start, min(start + batch_size, count))]
        for start in range(0, count, batch_size)
    ]
