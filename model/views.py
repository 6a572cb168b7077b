"""Augmented views of one image: the positives of contrastive learning."""

import hashlib
import io

import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2


class RandomViews:
    """Draws augmented views of an image that keep its content.

    Crop, flip, colour, blur and recompression as in SimCLR (Chen et al. 2020), a little milder in
    colour, because colour helps to recognise a source. A view depends only on ``seed``, the
    image's key and the view's number, so that interrupted work continues with the very same views.

    Args:
        count: views per image.
        size: pixels a side.
        seed: of all randomness here.
    """

    def __init__(self, count: int, size: int, seed: int = 0) -> None:
        self.count = count
        self.size = size
        self.seed = seed
        self._draw = v2.Compose(
            [
                v2.RandomResizedCrop(size, scale=(0.35, 1.0), ratio=(0.75, 1.333), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.3, 0.3, 0.2, 0.03)], p=0.8),
                v2.RandomGrayscale(p=0.05),
                v2.RandomApply([v2.Lambda(blur)], p=0.3),
                v2.RandomApply([v2.Lambda(recompress)], p=0.5),
            ]
        )

    def __repr__(self) -> str:  # goes into the key of a feature bank
        return f"RandomViews(count={self.count}, size={self.size}, seed={self.seed})"

    def __call__(self, image: Image.Image, key: str) -> list[Image.Image]:
        """Return ``count`` views of an RGB image, each ``size`` x ``size``."""
        return [self.view(image, key, number) for number in range(self.count)]

    def view(self, image: Image.Image, key: str, number: int) -> Image.Image:
        """Return one view, the same at every call."""
        digest = hashlib.sha256(f"{self.seed}/{key}/{number}".encode()).digest()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
            drawn: Image.Image = self._draw(image)
        return drawn


def blur(image: Image.Image) -> Image.Image:
    """Blur an image by a Gaussian with a radius drawn from 0.1 to 1.5 pixels."""
    return image.filter(ImageFilter.GaussianBlur(0.1 + 1.4 * float(torch.rand(()))))


def recompress(image: Image.Image) -> Image.Image:
    """Compress an image as JPEG at a quality drawn from 30 to 90."""
    quality = int(torch.randint(30, 91, ()).item())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as again:
        return again.convert("RGB")
