"""Fields of numbers over a picture: the raw material of every style's marks.

Lengths are shares of the picture's side, so a style looks the same at every size.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageFilter

from app.gallery.canvas import Canvas, Pixels

Field = NDArray[np.floating]
"""One number for each pixel, (n, n)."""

Colours = NDArray[np.floating]
"""Colours in rows, (k, 3), or a single one, (3,)."""

# Lightness, red to green, blue to yellow: distances here follow the eye better than RGB's.
_OPPONENT = np.array([[0.6, 0.5, 0.25], [1.2, -0.5, 0.25], [0.2, 0.0, -0.5]], dtype=np.float32)


def palette(colours: str) -> Colours:
    """The colours named in a text such as `"#102030 #ffffff"`, (k, 3)."""
    rows = [ImageColor.getrgb(colour) for colour in colours.split()]
    return np.array(rows, dtype=np.float32) / np.float32(255)


def axes(n: int) -> tuple[Field, Field]:
    """How far across and how far down each pixel lies, each in 0..1."""
    down, across = np.indices((n, n), dtype=np.float32) / np.float32(n)
    return across, down


def along(n: int, angle: float) -> Field:
    """How far each pixel lies in the direction of `angle`."""
    across, down = axes(n)
    return across * math.cos(angle) + down * math.sin(angle)


def from_border(n: int) -> Field:
    """How far each pixel lies from the nearest border."""
    across, down = axes(n)
    return np.minimum(np.minimum(across, 1 - across), np.minimum(down, 1 - down))


def to_image(values: Field | Pixels) -> Image.Image:
    """Values in 0..1 as an 8-bit picture."""
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def from_image(image: Image.Image) -> Pixels:
    """An 8-bit picture as values in 0..1."""
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def blur(values: Pixels, radius: float) -> Pixels:
    """A Gaussian blur."""
    return from_image(to_image(values).filter(ImageFilter.GaussianBlur(radius * len(values))))


def smooth(rgb: Pixels, width: float) -> Pixels:
    """Drops details narrower than `width` and keeps edges sharp."""
    pixels = max(3, 2 * round(width * len(rgb) / 2) + 1)
    return from_image(to_image(rgb).filter(ImageFilter.MedianFilter(pixels)))


def clouds(n: int, rng: Generator, across: int, down: int | None = None) -> Field:
    """Smooth noise in 0..1 with about `across` by `down` bumps."""
    bumps = Image.fromarray(rng.random((down or across, across), dtype=np.float32))
    spread = np.asarray(bumps.resize((n, n), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.clip(spread, 0, 1)


def drift(n: int, rng: Generator, bumps: int, reach: float) -> Field:
    """Smooth noise around 0, for moving things by up to half of `reach` either way."""
    return (clouds(n, rng, bumps) - 0.5) * reach


def grain(n: int, rng: Generator, amount: float) -> Pixels:
    """A factor for each pixel, (n, n, 1), around 1: the tooth of paper."""
    return 1 + scatter(rng, (n, n, 1), amount)


def scatter(rng: Generator, shape: tuple[int, ...], amount: float) -> NDArray[np.float32]:
    """Normal noise around 0."""
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(amount)


def step(values: Field, at: float, softness: float) -> Field:
    """Rises from 0 to 1 around `at`, over a range of `softness`."""
    rise: Field = np.clip((values - at) / softness + 0.5, 0, 1)
    return rise


def lightness(rgb: Pixels) -> Field:
    """How light each pixel is, 0 to 1."""
    light: Field = rgb @ np.array([0.3, 0.59, 0.11], dtype=np.float32)
    return light


def tone(rgb: Pixels) -> Field:
    """Lightness, stretched so that the picture's darkest parts are 0 and its lightest 1."""
    light = lightness(rgb)
    low, high = np.percentile(light, [3, 97])
    return step(light, (low + high) / 2, max(high - low, 0.05))


def vivid(rgb: Pixels) -> Pixels:
    """Spreads lightness halfway to an even distribution and strengthens colour.

    A night scene and a misty one then both give an artist darks, middles and lights to work with.
    """
    light = lightness(rgb)
    counts, edges = np.histogram(light, bins=64, range=(0, 1))
    even = np.interp(light, edges[1:], np.cumsum(counts) / light.size).astype(np.float32)
    grey = light[..., None]
    return np.clip((grey + even[..., None]) / 2 + 1.2 * (rgb - grey), 0, 1)


def outlines(rgb: Pixels, softness: float) -> Field:
    """How strongly the colour changes at each pixel: about 1 on the edge of a shape."""
    down, across = np.gradient(blur(rgb, softness), axis=(0, 1))
    steepness = np.sqrt((down**2 + across**2).sum(axis=2))
    strength: Field = np.clip(steepness * (6 * softness * len(rgb)), 0, 1)
    return strength


def nearest(rgb: Pixels | Colours, colours: Colours) -> NDArray[np.intp]:
    """Which row of `colours` each colour of `rgb`, (..., 3), is closest to."""
    seen, inks = rgb @ _OPPONENT.T, colours @ _OPPONENT.T
    distance = (inks**2).sum(axis=1) - 2 * (seen @ inks.T)  # less a term that all inks share
    return np.asarray(distance.argmin(axis=-1), dtype=np.intp)


def ramp(values: Field, colours: Colours) -> Pixels:
    """Each value's colour on a scale that runs evenly through `colours`."""
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, stops, colours[:, i]) for i in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def stripes(phase: Field, share: Field | float, period: float) -> Field:
    """Coverage by lines: one to each whole number of `phase`, taking `share` of the room.

    Args:
        phase: Rises by one from a line to the next.
        share: How much of each period is line, from 0 to 1.
        period: The usual distance between lines in pixels: it keeps their edges a pixel soft.
    """
    distance = np.abs(2 * (phase % 1) - 1)
    return np.clip((share - distance) * (period / 2) + 0.5, 0, 1).astype(np.float32)


def over(below: Pixels, colour: Pixels | Colours, coverage: Field) -> Pixels:
    """Lays a colour, or another picture, over a picture as far as it covers it."""
    return below + (colour - below) * coverage[..., None]


def stamp(below: Pixels, canvas: Canvas) -> Pixels:
    """Lays a drawing over a picture."""
    drawn = canvas.rgba()
    return over(below, drawn[..., :3], drawn[..., 3])


def displace(rgb: Pixels, across: Field, down: Field) -> Pixels:
    """Takes each pixel from somewhere else: an offset in shares of the side."""
    n = len(rgb)
    rows, columns = np.indices((n, n))
    rows = np.clip(rows + np.rint(down * n).astype(int), 0, n - 1)
    columns = np.clip(columns + np.rint(across * n).astype(int), 0, n - 1)
    moved: Pixels = rgb[rows, columns]
    return moved


@dataclass(frozen=True)
class Cells:
    """The picture cut into cells, each the neighbourhood of a site on a jittered grid."""

    owner: NDArray[np.intp]  # (n, n): the site nearest to each pixel
    nearest: Field  # distance to it, in spacings
    second: Field  # distance to the next nearest
    offset: NDArray[np.float32]  # (2, n, n): from the site to the pixel, in spacings
    sites: NDArray[np.intp]  # (2, k): rows and columns

    def at_sites(self, rgb: Pixels) -> Colours:
        """The colour under each site, (k, 3)."""
        seen: Colours = rgb[self.sites[0], self.sites[1]]
        return seen

    def means(self, rgb: Pixels) -> Colours:
        """The mean colour of each cell, (k, 3)."""
        count = self.sites.shape[1]
        sizes = np.maximum(np.bincount(self.owner.ravel(), minlength=count), 1)
        sums = [np.bincount(self.owner.ravel(), rgb[..., i].ravel(), count) for i in range(3)]
        return (np.stack(sums, axis=1) / sizes[:, None]).astype(np.float32)


def cells(
    n: int, rng: Generator, per_side: int, *, jitter: float, shape: Literal["round", "square"]
) -> Cells:
    """Cuts a picture of `n` pixels into about `per_side` by `per_side` cells.

    Args:
        n: The picture's side in pixels.
        rng: Where the jitter comes from.
        per_side: Cells along one side.
        jitter: How far sites stray from a regular grid, in spacings.
        shape: Which neighbourhood a site has: "round" cells are Voronoi's.
    """
    grid = per_side + 2  # One ring of sites lies outside, so that the border has neighbours too.
    spacing = n / per_side
    stray = jitter * (rng.random((2, grid, grid), dtype=np.float32) - 0.5)
    places = np.indices((grid, grid)).astype(np.float32) - 0.5 + stray
    pixel = (np.indices((n, n)).astype(np.float32) + 0.5) / np.float32(spacing)
    home = pixel.astype(np.intp) + 1

    first = np.full((n, n), np.inf, dtype=np.float32)
    second = first.copy()
    owner = np.zeros((n, n), dtype=np.intp)
    flat = places.reshape(2, -1)
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            candidate = np.clip(home[0] + row, 0, grid - 1) * grid
            candidate = candidate + np.clip(home[1] + column, 0, grid - 1)
            reach = np.abs(pixel - flat[:, candidate])
            distance = np.hypot(*reach) if shape == "round" else reach.max(axis=0)
            closer = distance < first
            second = np.where(closer, first, np.minimum(second, distance))
            first = np.where(closer, distance, first)
            owner = np.where(closer, candidate, owner)
    sites = np.clip((flat * spacing).astype(np.intp), 0, n - 1)
    return Cells(owner, first, second, pixel - flat[:, owner], sites)
