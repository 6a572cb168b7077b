"""The grounds a subject's exemplars stand on: patterns and plain rooms in soft colours."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from app.gallery.canvas import Canvas, arc, mix

Tints = tuple[str, str, str]
Backdrop = Callable[[Canvas, Tints, Generator], None]

TINTS: tuple[Tints, ...] = (
    ("#f6e7d2", "#f2c9a1", "#d98f6f"),
    ("#dceaf2", "#a9cbe0", "#6f9fc0"),
    ("#e3efdc", "#b5d3a5", "#7fae7a"),
    ("#f7dfe3", "#efb3bf", "#cf7f93"),
    ("#fdf3c7", "#f5d97a", "#dba63f"),
    ("#e7e0f3", "#c3b3e0", "#8f7cba"),
    ("#d5f0ea", "#94d3c6", "#4f9f95"),
    ("#47506b", "#343b54", "#7c88a8"),
)


def studio(c: Canvas, tints: Tints, rng: Generator) -> None:
    """A wall that runs into the floor without an edge."""
    c.gradient(tints[0], tints[1])
    c.ellipse(rng.uniform(0.3, 0.7), 0.95, 0.7, 0.22, mix(tints[1], tints[2], 0.35))


def room(c: Canvas, tints: Tints, rng: Generator) -> None:
    """A panelled wall above a plain table."""
    c.gradient(tints[1], tints[0])
    for x in np.arange(6) / 5 + rng.uniform(-0.1, 0):
        c.box(float(x), -0.1, 0.012, 1.0, mix(tints[1], tints[2], 0.4))
    edge = rng.uniform(0.62, 0.74)
    c.box(-0.1, edge, 1.2, 0.5, tints[2])
    c.box(-0.1, edge, 1.2, 0.02, mix(tints[2], "#ffffff", 0.4))


def dots(c: Canvas, tints: Tints, rng: Generator) -> None:
    """Polka dots in staggered rows."""
    c.gradient(tints[0], tints[0])
    step = rng.uniform(0.1, 0.17)
    for row, y in enumerate(np.arange(0, 1.1, step / 2)):
        for x in np.arange(row % 2 * step / 2, 1.1, step):
            c.disc(float(x), float(y), step * 0.16, tints[1])


def awning(c: Canvas, tints: Tints, rng: Generator) -> None:
    """Broad slanting stripes."""
    c.gradient(tints[0], tints[0])
    width, slant = rng.uniform(0.07, 0.12), rng.uniform(-0.6, 0.6)
    for x in np.arange(-0.8, 1.8, 2 * width):
        edges = [(x, 0), (x + width, 0), (x + width + slant, 1), (x + slant, 1)]
        c.polygon(edges, mix(tints[0], tints[1], 0.7))


def sunburst(c: Canvas, tints: Tints, rng: Generator) -> None:
    """Rays from behind the subject."""
    c.gradient(tints[0], tints[0])
    x, y, count = rng.uniform(0.35, 0.65), rng.uniform(0.45, 0.8), 14
    for angle in np.arange(count) * math.tau / count + rng.uniform(0, 1):
        ray = [
            (x + 1.6 * math.cos(a), y + 1.6 * math.sin(a)) for a in (angle, angle + math.pi / count)
        ]
        c.polygon([(x, y), *ray], mix(tints[0], tints[1], 0.75))
    c.disc(x, y, 0.12, tints[1])


def terrazzo(c: Canvas, tints: Tints, rng: Generator) -> None:
    """Chips of stone scattered over plaster."""
    c.gradient(tints[0], tints[0])
    for x, y in rng.random((45, 2)):
        chip = arc(0, 0, 1, 1)[::9] * rng.uniform(0.012, 0.045, (6, 1)) + (x, y)
        c.polygon(chip, tints[1] if rng.random() < 0.7 else tints[2])


def checked_floor(c: Canvas, tints: Tints, rng: Generator) -> None:
    """Tiles that run to the horizon."""
    horizon, vanishing = rng.uniform(0.5, 0.62), rng.uniform(0.35, 0.65)
    c.gradient(tints[1], tints[0])
    c.box(-0.1, horizon, 1.2, 0.6, tints[0])
    rows = horizon + (1.05 - horizon) * np.linspace(0, 1, 7) ** 1.7
    for row, (top, bottom) in enumerate(pairwise(rows)):
        near = [(y - horizon) / (1 - horizon) for y in (top, bottom)]
        for column in range(-14 + row % 2, 14, 2):
            left, right = 0.2 * column, 0.2 * (column + 1)
            corners = [
                (left, near[0], top),
                (right, near[0], top),
                (right, near[1], bottom),
                (left, near[1], bottom),
            ]
            c.polygon([(vanishing + x * depth, y) for x, depth, y in corners], tints[2])


def arches(c: Canvas, tints: Tints, rng: Generator) -> None:
    """A niche of nested arches."""
    c.gradient(tints[2], tints[2])
    x = rng.uniform(0.4, 0.6)
    for i, half in enumerate(np.linspace(0.52, 0.28, 4)):
        colour = mix(tints[2], tints[0], (i + 1) / 4)
        c.disc(x, 0.5, half, colour)
        c.box(x - half, 0.5, 2 * half, 0.6, colour)
    c.box(-0.1, 0.88, 1.2, 0.2, tints[1])


BACKDROPS: tuple[Backdrop, ...] = (
    studio,
    room,
    dots,
    awning,
    sunburst,
    terrazzo,
    checked_floor,
    arches,
)
