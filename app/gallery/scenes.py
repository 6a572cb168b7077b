"""What the invented artists look at: scenes in plain colours, before any style touches them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from app.gallery import motifs
from app.gallery.canvas import Canvas, Place, arc, curve, mix


@dataclass(frozen=True)
class Mood:
    """The colours one scene is seen in."""

    sky: str
    horizon: str
    light: str
    far: str
    near: str
    accents: tuple[str, str, str]


Scene = Callable[[Canvas, Mood, Generator], None]

MOODS = (
    Mood("#3f8fd2", "#d9eef7", "#fff3b0", "#7fa8c9", "#2f6b3c", ("#e4572e", "#f2c14e", "#f7f3e9")),
    Mood("#33265c", "#f78c6b", "#ffe8a3", "#8a4f7d", "#2b1d3f", ("#ffd166", "#ef476f", "#fbe7d3")),
    Mood("#0b1d3a", "#3e5c8a", "#f5f1d6", "#2d4a73", "#0d1526", ("#ffb703", "#e07a5f", "#a8dadc")),
    Mood("#f2b880", "#fde8c8", "#ffffff", "#c98f63", "#6b4226", ("#b23a48", "#2a7f7a", "#fff1da")),
    Mood("#86c5c0", "#f4efd3", "#fff8e1", "#5f9f8f", "#23504a", ("#f08a5d", "#b83b5e", "#f9ed69")),
    Mood("#b8a9d9", "#fcdde6", "#ffffff", "#8d86c9", "#3d3a6b", ("#ff6f91", "#ffc75f", "#f9f7fb")),
)


def mountains(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Snowy peaks behind hills."""
    _open_air(c, mood, rng, horizon=0.5)
    for depth in (0.0, 0.4):
        for x in rng.permutation(np.linspace(0.05, 0.95, 4)):
            with c.at(Place(x, 0.72 + 0.12 * depth, rng.uniform(0.25, 0.52) * (1 - 0.6 * depth))):
                motifs.peak(c, mix(mood.far, mood.near, depth))
    for depth in (0.5, 0.75, 1.0):
        c.polygon(_hills(rng, 0.62 + 0.3 * depth, 0.12, 5), mix(mood.far, mood.near, depth))


def sea(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Waves and sails under a low sun."""
    horizon = rng.uniform(0.42, 0.58)
    light = _open_air(c, mood, rng, horizon=horizon)
    c.polygon(_hills(rng, horizon + 0.03, 0.1, 5), mix(mood.far, mood.horizon, 0.4))
    c.box(-0.1, horizon, 1.2, 1.2, mix(mood.sky, mood.near, 0.35))
    deep = mix(mood.sky, mood.near, 0.75)
    x = np.linspace(-0.1, 1.1, 40)
    for i, depth in enumerate(np.linspace(0.05, 1, 7)):
        y = horizon + 0.02 + 0.42 * depth**1.4
        crest = y + 0.022 * depth * np.sin(x * (34 - 20 * depth) + rng.uniform(0, 6))
        pale = 0.5 * (1 - depth) + 0.12 * (i % 2)
        c.polygon(_down_from(x, crest), mix(deep, mood.horizon, pale))
        c.ellipse(light, y, 0.13 * (1.2 - depth), 0.006, mood.light)
    for _ in range(rng.integers(1, 4)):
        size = rng.uniform(0.1, 0.22)
        with c.at(Place(rng.uniform(0.1, 0.9), horizon + size, size)):
            motifs.sailboat(c, mood.near, mood.accents[2], _accent(mood, rng))


def still_life(c: Canvas, mood: Mood, rng: Generator) -> None:
    """A jug and fruit on a table."""
    c.gradient(mix(mood.sky, mood.horizon, 0.3), mood.horizon)
    edge, shadow = rng.uniform(0.58, 0.68), mix(mood.near, "#000000", 0.35)
    c.box(-0.1, edge, 1.2, 0.6, mix(mood.near, mood.accents[1], 0.35))
    c.box(-0.1, edge, 1.2, 0.025, mix(mood.near, mood.accents[1], 0.6))
    with c.at(Place(rng.uniform(0.25, 0.75), edge + 0.12, 0.46)):
        c.ellipse(0, 0, 0.42, 0.08, shadow)
        motifs.jug(c, _accent(mood, rng))
    for x in rng.permutation(np.linspace(0.1, 0.9, 6))[: rng.integers(3, 6)]:
        with c.at(Place(x, edge + rng.uniform(0.16, 0.36), rng.uniform(0.12, 0.2))):
            motifs.fruit(c, _accent(mood, rng), mood.near, shadow)


def skyline(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Towers with lit windows."""
    _open_air(c, mood, rng, horizon=0.5)
    for depth in (0.15, 0.55, 1.0):
        x = -0.05
        while x < 1.0:
            width, top = rng.uniform(0.1, 0.2), 0.2 + 0.3 * depth + rng.uniform(0, 0.25)
            wall = mix(mood.far, mood.near, depth)
            c.box(x, top, width, 1.1, wall)
            if rng.random() < 0.35:
                c.polygon([(x, top), (x + width / 2, top - 0.1), (x + width, top)], wall)
            if depth > 0.5:
                lit = mix(mood.accents[int(depth < 1)], mood.light, 0.4)
                _windows(c, x, top, width, lit, rng)
            x += width + rng.uniform(0, 0.03)


def forest(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Firs that fade into the mist, and flowers in front."""
    _open_air(c, mood, rng, horizon=0.5)
    trunk = mix(mood.near, "#5a3a1a", 0.5)
    for depth in (0.2, 0.5, 0.8):
        colour = mix(mood.horizon, mood.near, depth)
        c.polygon(_hills(rng, 0.7 + 0.16 * depth, 0.06, 6), mix(colour, mood.far, 0.35))
        for x in rng.permutation(np.linspace(0, 1, 8))[: rng.integers(3, 5)]:
            with c.at(Place(x, 0.72 + 0.2 * depth, 0.32 + 0.42 * depth + rng.uniform(0, 0.1))):
                motifs.pine(c, trunk, colour)
    c.polygon(_hills(rng, 0.98, 0.06, 5), mood.near)
    for x in rng.random(5):
        with c.at(Place(x, rng.uniform(0.9, 0.98), 0.06)):
            motifs.flower(c, _accent(mood, rng), mood.light)


def garden(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Tall flowers against the sky."""
    _open_air(c, mood, rng, horizon=0.45)
    c.polygon(_hills(rng, 0.75, 0.15, 5), mood.far)
    c.polygon(_hills(rng, 0.92, 0.1, 5), mood.near)
    for i, x in enumerate(rng.permutation(np.linspace(0.08, 0.92, 8))):
        y, foot = rng.uniform(0.3, 0.75), x + rng.uniform(-0.08, 0.08)
        bend = ((x + foot) / 2, (y + 1) / 2)
        c.stroke(curve([(foot, 1.05), bend, (x, y)]), 0.016, mood.near)
        leaf = mix(mood.near, mood.far, 0.4)
        c.ellipse(bend[0] + 0.04, bend[1] + 0.05, 0.06, 0.02, leaf, turn=-0.6)
        with c.at(Place(x, y, rng.uniform(0.16, 0.3))):
            motifs.flower(c, mood.accents[i % 3], mood.accents[(i + 1) % 3])


def village(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Gabled houses and trees on rolling fields."""
    _open_air(c, mood, rng, horizon=0.4)
    roof, window, wall = mood.accents
    for depth in (0.1, 0.5, 0.9):
        ground = 0.55 + 0.34 * depth
        c.polygon(_hills(rng, ground, 0.08, 5), mix(mood.far, mood.near, 0.2 + 0.7 * depth))
        for x in rng.permutation(np.linspace(0.1, 0.9, 5))[:3]:
            with c.at(Place(x, ground + 0.06, (0.16 + 0.15 * depth) * rng.uniform(0.8, 1.2))):
                if rng.random() < 0.35:
                    motifs.tree(c, mood.near, mix(mood.near, window, 0.3))
                else:
                    motifs.house(c, wall, roof, mood.near, window)


def river(c: Canvas, mood: Mood, rng: Generator) -> None:
    """A river that winds down from the hills."""
    _open_air(c, mood, rng, horizon=0.42)
    for depth in (0.0, 0.3, 0.6):
        c.polygon(_hills(rng, 0.5 + 0.1 * depth, 0.16, 5), mix(mood.far, mood.near, depth))
    c.box(-0.1, 0.55, 1.2, 0.6, mix(mood.near, mood.accents[1], 0.3))
    t = np.linspace(0, 1, 24)
    swing = rng.uniform(0.12, 0.24) * (0.3 + t)
    middle, half = 0.5 + swing * np.sin(t * 7 + rng.uniform(0, 6)), 0.015 + 0.2 * t**1.6
    y = 0.53 + 0.55 * t
    left, right = (np.stack([middle + side * half, y], axis=1) for side in (-1, 1))
    c.polygon(np.concatenate([left, right[::-1]]), mix(mood.sky, mood.horizon, 0.55))
    for depth in np.sort(rng.random(7)):
        i, side = int(depth * 15), rng.choice([-1, 1])
        x = middle[i] + side * (half[i] + 0.06 + 0.2 * depth)
        with c.at(Place(x, y[i], 0.14 + 0.24 * depth)):
            motifs.tree(c, mood.near, mix(mood.near, mood.accents[0], 0.15))


def arrangement(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Discs, triangles, arcs and bars: nothing but themselves."""
    c.gradient(mood.horizon, mix(mood.horizon, mood.light, 0.5))
    colours = rng.permutation([mood.near, mood.far, mood.sky, *mood.accents]).tolist()
    for i, colour in enumerate(colours):
        x, y = rng.uniform(0.15, 0.85, 2)
        with c.at(Place(x, y, rng.uniform(0.12, 0.26), rng.uniform(0, math.tau))):
            if i % 3 == 0:
                c.disc(0, 0, 1, colour)
                c.disc(0, 0, 0.55, colours[i + 1])
            elif i % 3 == 1:
                c.polygon([(1, 0), (-0.67, 0.75), (-0.65, -0.76)], colour)
            else:
                c.stroke(arc(0, 0, 1, 1, 0, 3.6), 0.35, colour)
    for _ in range(4):
        x, y = rng.uniform(0.1, 0.9, 2)
        with c.at(Place(x, y, 0.35, rng.uniform(-1, 1))):
            c.stroke([(-1, 0), (1, 0)], rng.uniform(0.035, 0.1), mood.near)


def aquarium(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Fish among weeds and bubbles."""
    c.gradient(mix(mood.sky, mood.horizon, 0.4), mix(mood.sky, mood.near, 0.6))
    c.polygon(_hills(rng, 0.95, 0.08, 6), mood.accents[2])
    for x in rng.random(6):
        bends = [(x + 0.04 * (-1) ** i, 1.02 - 0.12 * i) for i in range(rng.integers(3, 7))]
        c.stroke(curve(bends), 0.03, mix(mood.near, mood.far, 0.5))
    for y in (0.2, 0.42, 0.64):
        scales, fins = rng.permutation(mood.accents)[:2].tolist()
        x, size, mirrored = rng.uniform(0.25, 0.75), rng.uniform(0.13, 0.2), rng.random() < 0.5
        with c.at(Place(x, y, size, mirrored=mirrored)):
            motifs.fish(c, scales, fins)
    for x, y in rng.random((12, 2)):
        c.disc(x, 0.8 * y, rng.uniform(0.006, 0.02), mix(mood.horizon, "#ffffff", 0.5))


def sitter(c: Canvas, mood: Mood, rng: Generator) -> None:
    """Somebody who sits for a portrait."""
    c.gradient(mood.sky, mood.horizon)
    c.disc(rng.uniform(0.3, 0.7), 0.4, 0.36, mix(mood.horizon, mood.light, 0.6))
    hair = str(rng.choice(["#2b1b17", "#7a3b1d", "#d9a441", "#4a2c4a"]))
    skin = str(rng.choice(["#f2c9a5", "#c98d63", "#8a5a3b", "#f7dcc4"]))
    blush, line = mix(skin, mood.accents[0], 0.35), mix(skin, "#000000", 0.35)
    locks = [(0.24, 0.35), (0.5, 0.08), (0.76, 0.35), (0.74, 0.75), (0.5, 0.8), (0.26, 0.75)]
    c.blob(locks, hair)
    shoulders = [(0.06, 1.1), (0.16, 0.82), (0.5, 0.7), (0.84, 0.82), (0.94, 1.1)]
    c.blob(shoulders, mood.accents[0])
    c.box(0.43, 0.58, 0.14, 0.2, mix(skin, "#000000", 0.15), corner=0.05)
    c.polygon([(0.37, 0.75), (0.63, 0.75), (0.5, 0.92)], mood.accents[2])
    c.ellipse(0.5, 0.45, 0.185, 0.235, skin)
    parting = curve([(0.7, 0.4), (0.56, 0.28), (0.3, 0.42)])
    c.polygon(np.concatenate([arc(0.5, 0.4, 0.2, 0.22, math.pi, math.tau), parting]), hair)
    for mirrored in (False, True):
        with c.at(Place(0.5, 0, mirrored=mirrored)):
            c.ellipse(0.075, 0.45, 0.032, 0.02, "#ffffff")
            c.disc(0.075, 0.45, 0.017, mood.near)
            c.stroke(curve([(0.035, 0.405), (0.08, 0.39), (0.12, 0.41)]), 0.012, hair)
            c.disc(0.11, 0.53, 0.03, blush)
    c.stroke(curve([(0.5, 0.44), (0.485, 0.52), (0.51, 0.525)]), 0.01, line)
    c.stroke(curve([(0.45, 0.585), (0.5, 0.605), (0.55, 0.585)]), 0.018, "#b23a48")


def bridge(c: Canvas, mood: Mood, rng: Generator) -> None:
    """A stone bridge over still water."""
    _open_air(c, mood, rng, horizon=0.34)
    c.polygon(_hills(rng, 0.52, 0.16, 5), mood.far)
    water, stone = mix(mood.sky, mood.horizon, 0.4), mix(mood.accents[2], mood.far, 0.25)
    beyond = mix(mood.far, mood.horizon, 0.5)
    c.box(-0.1, 0.74, 1.2, 0.5, water)
    deck, count = rng.uniform(0.4, 0.46), int(rng.integers(2, 5))
    c.box(-0.1, deck, 1.2, 0.36, stone)
    c.box(-0.1, 0.76, 1.2, 0.34, mix(water, stone, 0.2))
    for y in np.arange(deck + 0.07, 0.74, 0.06):
        c.stroke([(-0.1, y), (1.1, y)], 0.005, mix(stone, mood.near, 0.3))
    c.box(-0.1, deck - 0.03, 1.2, 0.04, mood.accents[0])
    half, rise = 0.36 / count, 0.64 - deck
    for x in (np.arange(count) + 0.5) / count:
        vault = arc(x, 0.68, half, rise, math.pi, math.tau)
        foot = [(x + half, 0.76), (x - half, 0.76)]
        c.polygon(np.concatenate([vault, foot]), beyond)
        c.polygon(np.concatenate([vault, foot]) * (1, -0.8) + (0, 1.368), mix(water, beyond, 0.3))
    for y in np.linspace(0.8, 0.98, 6):
        x = rng.uniform(0, 0.8)
        c.stroke([(x, y), (x + 0.2, y)], 0.008, mix(water, "#ffffff", 0.5))


SCENES: Mapping[str, Scene] = {
    "mountains": mountains,
    "sea": sea,
    "still life": still_life,
    "skyline": skyline,
    "forest": forest,
    "garden": garden,
    "village": village,
    "river": river,
    "arrangement": arrangement,
}
"""What every artist has drawn."""

UNSEEN_SCENES: Mapping[str, Scene] = {"aquarium": aquarium, "sitter": sitter, "bridge": bridge}
"""What no artist has drawn yet: kept for the queries."""


def _accent(mood: Mood, rng: Generator) -> str:
    """One of the mood's accents."""
    return mood.accents[rng.integers(len(mood.accents))]


def _down_from(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The outline of everything below a line."""
    return np.concatenate([np.stack([x, y], axis=1), [(1.1, 1.1), (-0.1, 1.1)]])


def _hills(rng: Generator, height: float, rise: float, knots: int) -> NDArray[np.float64]:
    """The outline of rolling ground whose top lies up to `rise` above `height`."""
    x, y = np.linspace(-0.1, 1.1, knots), height - rise * rng.random(knots)
    return _down_from(*curve(np.stack([x, y], axis=1)).T)


def _open_air(c: Canvas, mood: Mood, rng: Generator, *, horizon: float) -> float:
    """Draws the sky with clouds and a sun or moon; returns how far across the light stands."""
    c.gradient(mood.sky, mood.horizon)
    x, y = rng.uniform(0.15, 0.85), rng.uniform(0.14, horizon - 0.12)
    with c.at(Place(x, y, rng.uniform(0.06, 0.12))):
        motifs.sun(c, mood.light, mix(mood.sky, mood.light, 0.35))
    for _ in range(rng.integers(3)):
        with c.at(Place(rng.random(), rng.uniform(0.08, horizon - 0.08), rng.uniform(0.06, 0.13))):
            motifs.cloud(c, mix(mood.horizon, "#ffffff", 0.35))
    return float(x)


def _windows(c: Canvas, left: float, top: float, width: float, lit: str, rng: Generator) -> None:
    """Lights some of a tower's windows."""
    for x in np.arange(left + 0.025, left + width - 0.03, 0.042):
        for y in np.arange(top + 0.04, 1.0, 0.065):
            if rng.random() < 0.45:
                c.box(x, y, 0.022, 0.034, lit)
