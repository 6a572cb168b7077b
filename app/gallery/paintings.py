"""Artists of brush and pen."""

import math

import numpy as np
from numpy.random import Generator
from PIL import ImageDraw

from app.gallery import texture
from app.gallery.canvas import Pixels
from app.gallery.texture import Field, palette


def pointillist(rgb: Pixels, rng: Generator) -> Pixels:
    """Dots of pure pigment on a cream ground."""
    n = len(rgb)
    pigments = palette(
        "#e4572e #f3a712 #f7e08b #3f8f5b #a8c686 #2e6fb7 #8fc1e3 #6b4c9a #e79ac1 #29335c"
    )
    picture: Pixels = np.broadcast_to(palette("#f6ead2"), rgb.shape)
    for per_side, radius in ((46, 0.62), (72, 0.5)):
        dots = texture.cells(n, rng, per_side, jitter=0.7, shape="round")
        seen = dots.at_sites(rgb)
        strayed = seen + texture.scatter(rng, seen.shape, 0.16)
        colours = 0.4 * seen + 0.6 * pigments[texture.nearest(strayed, pigments)]
        inside = 1 - texture.step(dots.nearest, radius, per_side / n)
        picture = texture.over(picture, colours[dots.owner], inside)
    return picture


def watercolour(rgb: Pixels, rng: Generator) -> Pixels:
    """Thin washes that pool at their edges, on rough white paper."""
    n = len(rgb)
    pigments = palette("#e8788a #f3b562 #f6e27f #7fb685 #4f9da6 #6c8ebf #9a7fb8 #56607a #fbf7ee")
    run = [texture.drift(n, rng, 14, 0.05) + texture.drift(n, rng, 50, 0.018) for _ in range(2)]
    wash = 0.15 + 0.85 * texture.smooth(texture.displace(rgb, *run), 0.02)
    wash = 0.45 * wash + 0.55 * pigments[texture.nearest(wash, pigments)]
    wash = texture.blur(wash, 0.004)

    pooled = 0.45 * texture.outlines(wash, 0.006)
    granulation = texture.drift(n, rng, 70, 0.22)
    density = 0.44 + 0.5 * texture.clouds(n, rng, 6) + granulation + pooled
    edge = texture.drift(n, rng, 22, 0.05) + texture.drift(n, rng, 60, 0.03)
    painted = texture.step(texture.from_border(n) + edge, 0.058, 0.016)
    tooth = 1 - 0.05 * texture.clouds(n, rng, n // 3)
    return (1 - (1 - wash) * (density * painted)[..., None]) * tooth[..., None]


def crosshatch(rgb: Pixels, rng: Generator) -> Pixels:
    """Sepia pen strokes, layer over layer in the shadows."""
    n, pitch = len(rgb), 62
    paper, ink = palette("#f3e6cc #4a2c17")
    dark = 1 - texture.tone(texture.smooth(rgb, 0.012))
    picture = paper * (0.96 + 0.06 * texture.clouds(n, rng, 5))[..., None]
    for angle, begins in ((0.75, 0.24), (2.3, 0.5), (0.1, 0.72), (1.5, 0.88)):
        course = texture.along(n, angle) * pitch + texture.clouds(n, rng, 9) / 2
        lines = texture.stripes(course, 0.16 + 0.3 * dark, n / pitch)
        pressure = 0.55 + 0.45 * texture.clouds(n, rng, 30)
        picture = texture.over(picture, ink, lines * pressure * texture.step(dark, begins, 0.08))
    contours = texture.step(texture.outlines(rgb, 0.0025), 0.55, 0.55)
    return texture.over(picture, ink, 0.9 * contours)


def impasto(rgb: Pixels, rng: Generator) -> Pixels:
    """Thick strokes that follow the shapes and catch the light."""
    n = len(rgb)
    warm = np.clip((rgb - 0.5) * 1.25 + palette("#8f847a"), 0, 1)
    # The alpha channel carries the paint's thickness: a stroke covers it as fresh paint does.
    sheet = texture.to_image(np.concatenate([warm, np.full((n, n, 1), 0.5, np.float32)], axis=2))
    pen, flow = ImageDraw.Draw(sheet), _flow(rgb, rng)
    for per_side, length, width in ((22, 0.05, 0.012), (36, 0.028, 0.007), (50, 0.016, 0.005)):
        places = rng.integers(n, size=(per_side**2, 2))
        _brush(pen, warm, flow, places, rng, reach=length * n, width=width * n)
    painted = texture.from_image(sheet)
    down, across = np.gradient(texture.blur(painted[..., 3], 0.002), axis=(0, 1))
    shine: Field = np.clip(1 - 0.0033 * n * np.asarray(down + across), 0.6, 1.5)
    return painted[..., :3] * shine[..., None]


def _flow(rgb: Pixels, rng: Generator) -> Field:
    """The angle of the brush at each pixel: along edges, and in swirls where there are none."""
    n = len(rgb)
    down, across = np.gradient(texture.blur(texture.tone(texture.blur(rgb, 0.02)), 0.02))
    along_edges = np.arctan2(down, across) + math.pi / 2
    return np.where(np.hypot(down, across) * n > 1.2, along_edges, texture.drift(n, rng, 4, 5))


def _brush(
    pen: ImageDraw.ImageDraw,
    rgb: Pixels,
    flow: Field,
    places: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    rng: Generator,
    *,
    reach: float,
    width: float,
) -> None:
    """Paints a stroke of three bristles at each of `places` (k, 2), rows and columns."""
    rows, columns = places.T
    angle, count = flow[rows, columns], len(places)
    forth = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    aside = forth[:, ::-1] * (-1, 1)
    paint = rgb[rows, columns] + texture.scatter(rng, (count, 1), 0.06)
    for bristle in (-1, 0, 1):
        middle = places[:, ::-1] + aside * (bristle * width)
        lines = np.concatenate([middle - forth * reach, middle + forth * reach], axis=1)
        tint = paint + texture.scatter(rng, (count, 1), 0.035)
        thickness = rng.random((count, 1), dtype=np.float32)
        fills = np.clip(np.concatenate([tint, thickness], axis=1), 0, 1) * 255
        for line, fill in zip(lines.tolist(), fills.astype(int).tolist(), strict=True):
            pen.line(line, fill=tuple(fill), width=max(1, round(width)))
