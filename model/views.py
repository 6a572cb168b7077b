"""Augmented views of one image: the positives of contrastive learning."""

import hashlib
import io
import math

import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as F  # noqa: N812

AREA = (0.35, 1.0)  # share of the image that a crop keeps
ASPECT = (0.75, 1.333)  # of a crop, width by height
CROPS = 10  # attempts to draw a crop that fits, before the central one is taken
JITTER = 0.8  # probability of other colours
BRIGHTNESS, CONTRAST, SATURATION = (0.7, 1.3), (0.7, 1.3), (0.8, 1.2)  # factors
HUE = (-0.03, 0.03)  # shift, in turns
GREY, BLUR, RECOMPRESS = 0.05, 0.3, 0.5  # probabilities


class RandomViews:
    """Draws augmented views of an image that keep its content; safe in several threads.

    Crop, flip, colour, blur and recompression as in SimCLR (Chen et al. 2020), a little milder in
    colour, because colour helps to recognise a source. A view depends only on ``seed``, the
    image's key and the view's number, so that interrupted work continues with the very same views.
    The draws are those of torchvision's transforms of these names, from a generator of the view's
    own instead of the process's.

    Args:
        count: views per image.
        size: pixels a side.
        seed: of all randomness here.
    """

    def __init__(self, count: int, size: int, seed: int = 0) -> None:
        self.count = count
        self.size = size
        self.seed = seed

    def __repr__(self) -> str:  # goes into the key of a feature bank
        return f"RandomViews(count={self.count}, size={self.size}, seed={self.seed})"

    def __call__(self, image: Image.Image, key: str) -> list[Image.Image]:
        """Return ``count`` views of an RGB image, each ``size`` x ``size``."""
        return [self.view(image, key, number) for number in range(self.count)]

    def view(self, image: Image.Image, key: str, number: int) -> Image.Image:
        """Return one view, the same at every call."""
        digest = hashlib.sha256(f"{self.seed}/{key}/{number}".encode()).digest()
        draw = _Draws(int.from_bytes(digest[:8], "little", signed=True))
        left, top, width, height = _crop(image, draw)
        size = [self.size, self.size]
        view: Image.Image = F.resized_crop(image, top, left, height, width, size, antialias=True)
        if draw.happens(0.5):
            view = F.horizontal_flip(view)
        if draw.happens(JITTER):
            view = _jitter(view, draw)
        if draw.happens(GREY):
            view = F.rgb_to_grayscale(view, num_output_channels=3)
        if draw.happens(BLUR):
            view = blur(view, 0.1 + 1.4 * draw.number())
        if draw.happens(RECOMPRESS):
            view = recompress(view, draw.integer(30, 91))
        return view


class _Draws:
    """Draws random numbers from a generator of its own."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def number(self) -> float:
        """Return a number from 0 to 1."""
        return float(torch.rand((), generator=self._generator))

    def happens(self, probability: float) -> bool:
        """Return True with a probability."""
        return float(torch.rand(1, generator=self._generator)) < probability

    def between(self, low: float, high: float) -> float:
        """Return a number of an interval."""
        return float(torch.empty(1).uniform_(low, high, generator=self._generator))

    def integer(self, low: int, end: int) -> int:
        """Return an integer from ``low`` to ``end`` - 1."""
        return int(torch.randint(low, end, (1,), generator=self._generator))

    def order(self, count: int) -> list[int]:
        """Return the numbers below ``count`` in a random order."""
        drawn: list[int] = torch.randperm(count, generator=self._generator).tolist()
        return drawn


def _crop(image: Image.Image, draw: _Draws) -> tuple[int, int, int, int]:
    """Draw a crop: left, top, width and height."""
    width, height = image.size
    ratios = torch.log(torch.tensor(ASPECT)).tolist()
    for _ in range(CROPS):
        area = width * height * draw.between(*AREA)
        aspect = float(torch.exp(torch.tensor(draw.between(*ratios))))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top = draw.integer(0, height - down + 1)
            return draw.integer(0, width - across + 1), top, across, down
    across, down = width, height
    if width / height < ASPECT[0]:
        down = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        across = round(height * ASPECT[1])
    return (width - across) // 2, (height - down) // 2, across, down


def _jitter(image: Image.Image, draw: _Draws) -> Image.Image:
    """Change brightness, contrast, saturation and hue, in a random order."""
    order = draw.order(4)
    changes = [
        (F.adjust_brightness, draw.between(*BRIGHTNESS)),
        (F.adjust_contrast, draw.between(*CONTRAST)),
        (F.adjust_saturation, draw.between(*SATURATION)),
        (F.adjust_hue, draw.between(*HUE)),
    ]
    for place in order:
        change, value = changes[place]
        image = change(image, value)
    return image


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Blur an image by a Gaussian with a radius in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as again:
        return again.convert("RGB")
