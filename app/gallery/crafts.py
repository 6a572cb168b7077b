"""Artists of glass, stone, paper, tubes and pixels."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from app.gallery import texture
from app.gallery.canvas import Canvas, Pixels, Place, arc, to_hex
from app.gallery.texture import palette


def stained_glass(rgb: Pixels, rng: Generator) -> Pixels:
    """Glowing panes held by lead."""
    n, per_side = len(rgb), 9
    glass = palette(
        "#0b3c8c #1f6fd1 #39a9db #7a1fa2 #c2185b #d7263d "
        "#f46036 #ffb400 #fff0a8 #0f8b5f #7bc950 #123a2d"
    )
    plain = texture.smooth(rgb, 0.03)
    panes = texture.cells(n, rng, per_side, jitter=0.9, shape="round")
    mean = panes.means(plain)
    strayed = mean + texture.scatter(rng, mean.shape, 0.07)
    colours = 0.25 * mean + 0.75 * glass[texture.nearest(strayed, glass)]
    shapes = glass[texture.nearest(plain, glass)]
    lit = 1.25 - 0.55 * panes.nearest + texture.drift(n, rng, 40, 0.3)
    picture = (0.4 * colours[panes.owner] + 0.6 * shapes) * lit[..., None]
    lead = 1 - texture.step(panes.second - panes.nearest, 0.075, per_side / n)
    frames = texture.step(texture.outlines(shapes, 0.005), 0.46, 0.42)
    return texture.over(picture, palette("#120d12"), np.maximum(lead, frames))


def mosaic(rgb: Pixels, rng: Generator) -> Pixels:
    """Square stones of terracotta, teal and gold set in grout."""
    n, per_side = len(rgb), 36
    stones = palette(
        "#b5532d #d98e4f #e8c170 #f3e3c3 #2a7d7b #7db9a8 #1d4e63 #5b3a29 #8c2f39 #c9ced1"
    )
    tiles = texture.cells(n, rng, per_side, jitter=0.22, shape="square")
    seen = tiles.at_sites(texture.blur(rgb, 0.006))
    colours = 0.2 * seen + 0.8 * stones[texture.nearest(seen, stones)]
    colours = colours * (1 + texture.scatter(rng, (len(colours), 1), 0.07))
    bevel = 1 - 0.25 * tiles.offset.sum(axis=0)
    grout = 1 - texture.step(tiles.second - tiles.nearest, 0.17, 2 * per_side / n)
    return texture.over(colours[tiles.owner] * bevel[..., None], palette("#8f8371"), grout)


def papercut(rgb: Pixels, rng: Generator) -> Pixels:
    """Sheets of coloured paper cut and stacked, each with its shadow."""
    n = len(rgb)
    lowest, *sheets = palette("#14213d #2b4c6f #4f8a8b #a3c9a8 #f2d388 #f4978e #fff3e2")
    run = [texture.drift(n, rng, 12, 0.02) for _ in range(2)]
    light = texture.tone(texture.smooth(texture.displace(rgb, *run), 0.03))
    picture: Pixels = np.broadcast_to(lowest, rgb.shape)
    fall = max(1, round(0.012 * n))
    for i, sheet in enumerate(sheets):
        cut = texture.blur((light > (i + 0.7) / 7).astype(np.float32), 0.002)
        shadow = texture.blur(np.roll(cut, (fall, fall), axis=(0, 1)), 0.014)
        picture = texture.over(picture * (1 - 0.5 * shadow[..., None]), sheet, cut)
    return picture * (0.96 + 0.07 * texture.clouds(n, rng, n // 3))[..., None]


def crystal(rgb: Pixels, rng: Generator) -> Pixels:
    """Triangular facets in rose, violet and ice."""
    n, per_side = len(rgb), 25
    ice = palette("#2d1e4f #5b3e96 #8f63c9 #c58be0 #f3a9c6 #ffd6d1 #a7e3ee #5bb8d6 #f8f4ff")
    triangles = _triangles(per_side, rng)
    columns, rows = np.clip(triangles.mean(axis=1) * n, 0, n - 1).astype(int).T
    seen = texture.blur(rgb, 0.01)[rows, columns]
    glint = 1 + texture.scatter(rng, (len(seen), 1), 0.06)
    colours = (0.3 * seen + 0.7 * ice[texture.nearest(seen, ice)]) * glint
    c = Canvas(n)
    for triangle, colour in zip(triangles, colours, strict=True):
        c.polygon(triangle, to_hex(colour))
    return c.rgb()


def _triangles(per_side: int, rng: Generator) -> NDArray[np.float64]:
    """Covers the sheet with the triangles of a jittered grid: (k, 3, 2)."""
    side = per_side + 1
    stray = 0.6 * (rng.random((side, side, 2)) - 0.5)
    # A little larger than the sheet, so that the jitter leaves no gap along its border.
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-0.06, 1.06, side)]), axis=-1)
    corners = grid + stray / per_side
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]
    odd = np.indices((per_side, per_side)).sum(axis=0) % 2 == 1
    # Neighbours are cut along different diagonals: one direction alone would read as a grain.
    falling, rising = (odd, ((a, b, c), (a, c, d))), (~odd, ((a, b, d), (b, c, d)))
    halves = [
        np.stack([corner[where] for corner in half], axis=1)
        for where, cut in (falling, rising)
        for half in cut
    ]
    return np.concatenate(halves)


def bauhaus(rgb: Pixels, rng: Generator) -> Pixels:
    """Quarter circles and blocks in primary colours, smaller where there is more to see."""
    n = len(rgb)
    inks = "#e63322 #f5c518 #1f4e9c #111111 #f3ead7 #8fb9c9"
    names = inks.split()
    c = Canvas(n)
    for place, shares in _tiles(texture.nearest(rgb, palette(inks)), len(names)):
        second, first = np.argsort(shares, kind="stable")[-2:]
        with c.at(place):
            c.box(0, 0, 1, 1, names[first])
            if shares[second] > 0.08 or rng.random() < 0.18:
                _mark(c, names[second if shares[second] > 0 else first - 1], rng)
    return c.rgb() * texture.grain(n, rng, 0.02)


def _tiles(kinds: NDArray[np.intp], count: int) -> Iterator[tuple[Place, NDArray[np.float64]]]:
    """Yields square tiles, each with every ink's share; where inks mix, the tiles are smaller."""
    n = len(kinds)
    pending = [(x / 5, y / 5, 1 / 5) for x in range(5) for y in range(5)]
    while pending:
        x, y, side = pending.pop()
        rows, columns = (slice(int(at * n), int((at + side) * n) + 1) for at in (y, x))
        shares = np.bincount(kinds[rows, columns].ravel(), minlength=count)
        shares = shares / shares.sum()
        if shares.max() < 0.8 and side > 0.05:
            half = side / 2
            pending += [(x + dx, y + dy, half) for dx in (0, half) for dy in (0, half)]
        else:
            yield Place(x, y, side), shares


def _mark(c: Canvas, ink: str, rng: Generator) -> None:
    """Draws a quarter circle, a disc or a triangle into the tile from (0, 0) to (1, 1)."""
    corner = int(rng.integers(4))
    shape = rng.choice(["quarter", "disc", "triangle"], p=[0.6, 0.2, 0.2])
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
    if shape == "quarter":
        start = corner * math.pi / 2
        rim = arc(*corners[corner], 1, 1, start, start + math.pi / 2)
        c.polygon(np.concatenate([rim, [corners[corner]]]), ink)
    elif shape == "disc":
        c.disc(0.5, 0.5, 0.36, ink)
    else:
        del corners[corner]
        c.polygon(corners, ink)


def pixel_art(rgb: Pixels, rng: Generator) -> Pixels:
    """Big square pixels in sixteen colours, dithered."""
    n, side = len(rgb), 52
    colours = palette(
        "#1a1c2c #5d275d #b13e53 #ef7d57 #ffcd75 #a7f070 #38b764 #257179 "
        "#29366f #3b5dc9 #41a6f6 #73eff7 #f4f4f4 #94b0c2 #566c86 #333c57"
    )
    small = texture.from_image(texture.to_image(rgb).resize((side, side), Image.Resampling.BOX))
    bayer = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) / 16 - 0.47
    dither = np.tile(np.roll(bayer, rng.integers(4), axis=0), (side // 4, side // 4))
    small = colours[texture.nearest(small + np.float32(0.14) * dither[..., None], colours)]
    return texture.from_image(texture.to_image(small).resize((n, n), Image.Resampling.NEAREST))


def neon(rgb: Pixels, rng: Generator) -> Pixels:
    """Glowing tubes on a dark brick wall."""
    tubes = palette("#ff2e88 #ff8a2a #f9f871 #3dffa2 #22d3ff #9d5cff")
    plain = texture.smooth(rgb, 0.015)
    colour = texture.blur(tubes[texture.nearest(plain * 1.3 - 0.1, tubes)], 0.01)
    line = texture.step(texture.outlines(plain, 0.0045), 0.5, 0.62)[..., None]
    light = colour * line
    wall = _bricks(len(rgb), rng) * (1 + 3 * texture.blur(light, 0.06))
    halo = 1.5 * texture.blur(light, 0.04) + 0.55 * texture.blur(light, 0.012)
    return wall + halo + 0.7 * light + 0.3 * line**4


def _bricks(n: int, rng: Generator) -> Pixels:
    """A wall at night."""
    brick, joint = palette("#1a1026 #0a0612")
    across, down = texture.axes(n)
    offset = np.floor(down * 20) % 2 / 2 + rng.random(dtype=np.float32)
    courses = texture.stripes(down * 20, 0.12, n / 20)
    heads = texture.stripes(across * 9 + offset, 0.06, n / 9)
    return texture.over(np.broadcast_to(brick, (n, n, 3)), joint, np.maximum(courses, heads))
