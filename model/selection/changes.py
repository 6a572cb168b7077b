"""Strong changes of pictures, whose sources are known: what selection asks about.

A style is imposed by two statistics of another picture: its colours (mean and covariance) and its
texture (the amplitude spectrum, smoothed over frequencies, so that no detail is copied). A crop
keeps an eighth to a third of the area; a collage puts two pictures side by side.
"""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from PIL import Image, ImageOps

SMOOTHED = 9  # frequencies, in each direction
STRONGEST = 6.0  # factor by which an amplitude is changed, at most
AREA = (0.12, 0.35)  # of a crop
ASPECT = (0.75, 1.333)
JITTER = 0.25  # of brightness and contrast, at most


def impose_style(content: Image.Image, style: Image.Image, size: int) -> Image.Image:
    """Give a picture the colours and the texture of another: RGB, ``size`` pixels a side."""
    x, y = _square(content, size), _square(style, size)
    x = _with_colours(x, y)
    spectrum, wanted = (torch.fft.fft2(one) for one in (x, y))
    gain = _smoothed(wanted.abs()) / _smoothed(spectrum.abs()).clamp(min=1e-6)
    gain = gain.clamp(1 / STRONGEST, STRONGEST)
    gain[:, 0, 0] = 1  # the mean
    textured = torch.fft.ifft2(spectrum * gain).real
    return _picture(_with_colours(textured, y))


def crop(image: Image.Image, size: int, random: np.random.Generator) -> Image.Image:
    """Cut a small part, perhaps mirrored, in another light."""
    width, height = image.size
    area = random.uniform(*AREA) * width * height
    aspect = np.exp(random.uniform(*np.log(ASPECT)))
    across = min(width, max(1, round(np.sqrt(area * aspect))))
    down = min(height, max(1, round(np.sqrt(area / aspect))))
    left = int(random.integers(width - across + 1))
    top = int(random.integers(height - down + 1))
    part = image.resize(
        (size, size), Image.Resampling.BICUBIC, (left, top, left + across, top + down)
    )
    return _relit(ImageOps.mirror(part) if random.random() < 0.5 else part, random)


def collage(
    first: Image.Image, second: Image.Image, size: int, random: np.random.Generator
) -> Image.Image:
    """Put two pictures side by side, in either order, in another light."""
    halves = [ImageOps.fit(one, (size // 2, size)) for one in (first, second)]
    if random.random() < 0.5:
        halves.reverse()
    whole = Image.new("RGB", (size, size))
    for number, half in enumerate(halves):
        whole.paste(half, (number * (size // 2), 0))
    return _relit(whole, random)


def _relit(image: Image.Image, random: np.random.Generator) -> Image.Image:
    x = np.asarray(image, np.float32)
    contrast, brightness = 1 + random.uniform(-JITTER, JITTER, 2)
    mean = x.mean()
    changed = ((x - mean) * contrast + mean) * brightness
    return Image.fromarray(changed.clip(0, 255).astype(np.uint8))


def _square(image: Image.Image, size: int) -> torch.Tensor:
    """Returns the central square, (3, size, size) float64 in [0, 1]."""
    pixels = np.asarray(ImageOps.fit(image, (size, size)), np.float64) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _picture(x: torch.Tensor) -> Image.Image:
    values: NDArray[np.float64] = x.permute(1, 2, 0).numpy()
    return Image.fromarray((255 * values.clip(0, 1)).round().astype(np.uint8))


def _with_colours(x: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
    """Give (3, S, S) pixels the mean and the covariance of the colours of others."""
    flat, other = x.flatten(1), of.flatten(1)
    mean, wanted = flat.mean(dim=1, keepdim=True), other.mean(dim=1, keepdim=True)
    eye = 1e-4 * torch.eye(3, dtype=x.dtype)
    own = torch.linalg.cholesky(torch.cov(flat) + eye)
    theirs = torch.linalg.cholesky(torch.cov(other) + eye)
    changed = theirs @ torch.linalg.solve_triangular(own, flat - mean, upper=False) + wanted
    whole: torch.Tensor = changed.reshape(x.shape)
    return whole


def _smoothed(amplitude: torch.Tensor) -> torch.Tensor:
    # Frequencies go round: the highest is next to the lowest negative one.
    edge = SMOOTHED // 2
    around = F.pad(amplitude[None], (edge, edge, edge, edge), mode="circular")
    return F.avg_pool2d(around, SMOOTHED, stride=1)[0]
