"""Augmented views for pre-training: crops per image, other changes per batch as tensors."""

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

SMALLEST_CROP, SMALLEST_SMALL_CROP = 0.08, 0.35  # share of the area
LUMA = (0.299, 0.587, 0.114)


def draw_crop(image: Image.Image, size: int, generator: np.random.Generator) -> torch.Tensor:
    """Draw a random crop of an RGB image and resize it: (3, size, size) uint8.

    The crop has an aspect from 3:4 to 4:3 and an area from a smallest share to the whole. The
    smallest share is that of ``size`` pixels a side, at least `SMALLEST_CROP`, and at most
    `SMALLEST_SMALL_CROP` for small images.
    """
    width, height = image.size
    native = (size / min(width, height)) ** 2
    smallest = max(SMALLEST_CROP, min(native, SMALLEST_SMALL_CROP))
    side = math.sqrt(generator.uniform(smallest, 1.0) * width * height)
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)) / 2)
    crop_width, crop_height = min(width, side * aspect), min(height, side / aspect)
    left = generator.uniform(0, width - crop_width)
    top = generator.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    return _to_tensor(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


def central_crop(image: Image.Image, size: int) -> torch.Tensor:
    """Cut the central square of an RGB image and resize it: (3, size, size) uint8."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return _to_tensor(image.resize((size, size), Image.Resampling.BICUBIC, box=box))


class BatchAugmentation:
    """Augments a batch of views as SimCLR does (Chen et al. 2020) and joins some to mosaics.

    Small images, enlarged, hold no fine detail. A mosaic shows four images of the batch at half the
    size, side by side: more of the world in one input, at the sharpness of a real photograph.

    Args:
        mosaic: share of the batch shown as mosaics.
    """

    def __init__(self, *, mosaic: float) -> None:
        self.mosaic = mosaic

    def __call__(self, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment (2, B, 3, S, S) uint8, two views of each image: the same shape, float in [0, 1].

        Both views of a mosaic show the same four images. ``generator`` is of the CPU, so that the
        draws do not depend on the device.
        """
        views, count, *_ = pixels.shape
        x = pixels.float() / 255
        x = _mosaics(x, int(self.mosaic * count), generator)
        x = x.flatten(0, 1)  # (2 B, 3, S, S)
        x = _flip(x, generator)
        x = _recolour(x, generator)
        x = _refocus(x, generator)
        return x.clamp(0, 1).view(views, count, *x.shape[1:])


def _mosaics(x: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Join each of the first ``count`` images of (2, B, 3, S, S) with three others at half size."""
    if not count or x.shape[-1] % 2:
        return x
    size = x.shape[-1] // 2
    half = F.avg_pool2d(x.flatten(0, 1), 2).view(*x.shape[:3], size, size)
    for place in range(4):
        rows = torch.arange(count) if not place else _draw_rows(count, x.shape[1], generator)
        top, left = size * (place // 2), size * (place % 2)
        x[:, :count, :, top : top + size, left : left + size] = half[:, rows]
    return x


def _draw_rows(count: int, among: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(among, (count,), generator=generator)


def _flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    flipped = _chance(len(x), 0.5, generator, x.device)
    return torch.where(flipped[:, None, None, None], x.flip(-1), x)


def _recolour(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast, saturation and cast; one image in ten is grey. (B, 3, S, S)."""

    def factor(spread: float, channels: int = 1) -> torch.Tensor:
        drawn = torch.rand(len(x), channels, 1, 1, generator=generator)
        return (1 + spread * (2 * drawn - 1)).to(x.device)

    saturation = factor(0.5)
    saturation[_chance(len(x), 0.1, generator, x.device)] = 0
    luma = torch.tensor(LUMA, device=x.device)[None, :, None, None]
    grey = (x * luma).sum(dim=1, keepdim=True)
    x = (grey + saturation * (x - grey)) * factor(0.15, channels=3)
    middle = grey.mean(dim=(2, 3), keepdim=True)
    return (middle + factor(0.4) * (x - middle)) * factor(0.35)


def _refocus(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur or sharpen half of the images, by up to a small kernel's width. (B, 3, S, S)."""
    rows = _chance(len(x), 0.5, generator, x.device).nonzero()[:, 0]
    weight = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=x.device) / 16
    some = x[rows]
    soft = F.pad(some, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    soft = F.conv2d(F.conv2d(soft, weight.view(1, 1, 1, 5)), weight.view(1, 1, 5, 1))
    soft = soft.view_as(some)
    amount = 2 * torch.rand(len(rows), 1, 1, 1, generator=generator).to(x.device) - 1
    # -1 is as soft as the kernel; above 0 adds what it would take away, once again.
    x[rows] = some + amount * (some - soft)
    return x


def _chance(
    count: int, share: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    return (torch.rand(count, generator=generator) < share).to(device)


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)  # an array of its own: (S, S, 3)
