"""How one picture is put together from scenes, subjects, backdrops and styles."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.random import Generator

from app.gallery import texture
from app.gallery.backdrops import BACKDROPS, TINTS
from app.gallery.canvas import Canvas, Pixels, Place
from app.gallery.scenes import MOODS, SCENES, UNSEEN_SCENES
from app.gallery.styles import STYLES
from app.gallery.subjects import SUBJECTS

ARRANGEMENTS: Mapping[str, Sequence[Place]] = {
    "pair": (Place(0.29, 0.5, 0.2, 0.15), Place(0.68, 0.68, 0.27, -0.1, mirrored=True)),
    "row": tuple(Place(0.2 + 0.3 * i, 0.72, 0.16, 0.12 * (i - 1)) for i in range(3)),
    "leaning": (Place(0.54, 0.54, 0.45, 0.5),),
    "afar": (Place(0.66, 0.62, 0.23, mirrored=True),),
    "parade": (Place(0.2, 0.6, 0.14), Place(0.43, 0.66, 0.19), Place(0.75, 0.7, 0.26)),
    "flock": (
        Place(0.24, 0.36, 0.17, -0.2),
        Place(0.72, 0.22, 0.13, 0.25, mirrored=True),
        Place(0.62, 0.64, 0.25, 0.1),
    ),
}
"""How a query sets a subject out: no exemplar has more than one, leaning so far or so small."""


def artwork(style: str, scene: str, rng: Generator, size: int) -> Pixels:
    """A scene as an artist renders it."""
    return _in_style(style, _scene(scene, rng, size), rng)


def portrait(subject: str, rng: Generator, size: int) -> Pixels:
    """A subject on a plain or patterned ground: large, about upright, near the middle."""
    canvas = Canvas(size)
    tints = TINTS[rng.integers(len(TINTS))]
    BACKDROPS[rng.integers(len(BACKDROPS))](canvas, tints, rng)
    x, y = rng.uniform(0.42, 0.58, 2)
    mirrored = bool(rng.random() < 0.4)
    place = Place(x, y, rng.uniform(0.27, 0.42), rng.normal(0, 0.12), mirrored)
    return _with_subject(subject, canvas.rgb(), [place])


def excursion(subject: str, scene: str, arrangement: str, rng: Generator, size: int) -> Pixels:
    """A subject out in a scene, arranged as in no exemplar."""
    return _with_subject(subject, _scene(scene, rng, size), ARRANGEMENTS[arrangement])


def homage(subject: str, scene: str, style: str, rng: Generator, size: int) -> Pixels:
    """A subject in a scene as an artist renders it."""
    place = Place(0.5, 0.55, 0.4, rng.normal(0, 0.06))
    picture = _with_subject(subject, _scene(scene, rng, size), [place])
    return _in_style(style, picture, rng)


def worn(rgb: Pixels, rng: Generator) -> Pixels:
    """A picture with the marks image generators leave: blur, a colour cast, noise."""
    cast = 1 + 0.07 * rng.standard_normal(3, dtype=np.float32)
    soft = texture.blur(np.clip(rgb * cast, 0, 1), 0.0032)
    return soft * texture.grain(len(rgb), rng, 0.025)


def _scene(name: str, rng: Generator, size: int) -> Pixels:
    """A scene in plain colours."""
    canvas = Canvas(size)
    {**SCENES, **UNSEEN_SCENES}[name](canvas, MOODS[rng.integers(len(MOODS))], rng)
    return canvas.rgb()


def _in_style(style: str, rgb: Pixels, rng: Generator) -> Pixels:
    """A picture rendered by an artist, who sees it with full contrast."""
    return STYLES[style](texture.vivid(rgb), rng)


def _with_subject(subject: str, rgb: Pixels, places: Sequence[Place]) -> Pixels:
    """A picture with a subject set into it, rounded by a soft light and casting a shadow."""
    for place in places:
        canvas = Canvas(len(rgb))
        with canvas.at(place):
            SUBJECTS[subject](canvas)
        drawn = canvas.rgba()
        colour, coverage = drawn[..., :3], drawn[..., 3]
        reach = place.scale * len(rgb)
        fallen = np.roll(coverage, (round(0.09 * reach), round(0.05 * reach)), axis=(0, 1))
        shadow = texture.blur(fallen, 0.05 * place.scale)
        # The blurred outline serves as a height: its slope tells what faces the light.
        slope = np.gradient(texture.blur(coverage, 0.13 * place.scale), axis=(0, 1))
        light = (slope[0] + 0.7 * slope[1])[..., None] * (0.13 * reach)
        lit = np.clip(colour * (1 + 0.75 * light) + 0.12 * np.maximum(light, 0), 0, 1)
        rgb = texture.over(rgb * (1 - 0.35 * shadow[..., None]), lit, coverage)
    return rgb


def plasma(rng: Generator, size: int) -> Pixels:
    """Waves of colour that no concept of the gallery has."""
    x, y = texture.axes(size)
    channels = []
    for _ in range(3):
        a, b, c, d = rng.uniform(4, 14, 4)
        waves = np.sin(a * x + rng.uniform(0, 6)) + np.sin(b * y) + np.sin(c * (x + y) / 2)
        channels.append(0.5 + 0.17 * (waves + np.sin(d * np.hypot(x - 0.5, y - 0.4))))
    return np.stack(channels, axis=-1).astype(np.float32)


def lichen(rng: Generator, size: int) -> Pixels:
    """A rough surface as if photographed closely: noise of every scale, lit from the side."""
    height = np.sum([texture.drift(size, rng, 2**i, 2.0**-i) for i in range(2, 8)], axis=0)
    down, across = np.gradient(height)
    light = np.clip(0.55 + 0.22 * (across + down) * size, 0, 1)
    stain = texture.step(texture.clouds(size, rng, 9), 0.5, 0.17)
    ground = texture.ramp(light, texture.palette("#2b2a26 #77705f #d3cbb6"))
    patch = texture.ramp(light, texture.palette("#3a3d22 #93903f #e4dd9a"))
    return texture.over(ground, patch, stain)


def out_of_focus(rng: Generator, size: int) -> Pixels:
    """City lights out of focus."""
    night, colours = Canvas(size), ["#ffb65c", "#ff5a3c", "#ffe3b0", "#6fd0ff", "#fff6ea"]
    night.gradient("#0a0a12", "#1c1420")
    picture = night.rgb()
    for x, y in rng.random((26, 2)):
        light = Canvas(size)
        light.disc(x, 0.2 + 0.7 * y, rng.uniform(0.03, 0.09), str(rng.choice(colours)))
        drawn = light.rgba()
        picture = picture + drawn[..., :3] * drawn[..., 3:] * np.float32(rng.uniform(0.15, 0.5))
    return texture.blur(picture, 0.006) * texture.grain(size, rng, 0.04)


def static(rng: Generator, size: int) -> Pixels:
    """A screen without a signal."""
    rows = texture.clouds(size, rng, 2, 24)
    snow = rng.random((size, size), dtype=np.float32)
    bands = np.sin(texture.along(size, math.pi / 2) * 40)
    grey = np.clip(0.25 + 0.5 * snow * rows + 0.1 * bands, 0, 1)
    tint = np.stack([np.roll(grey, shift, axis=1) for shift in (-2, 0, 2)], axis=-1)
    return tint.astype(np.float32)


STRANGERS: Mapping[str, Callable[[Generator, int], Pixels]] = {
    "plasma": plasma,
    "lichen": lichen,
    "city-lights": out_of_focus,
    "static": static,
}
"""Pictures that derive from nothing in the gallery."""
