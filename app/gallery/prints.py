"""Artists of the press."""

import math

import numpy as np
from numpy.random import Generator

from app.gallery import texture
from app.gallery.canvas import Canvas, Pixels
from app.gallery.texture import Field, palette


def woodcut(rgb: Pixels, rng: Generator) -> Pixels:
    """Black lines carved along the grain, over one block of ochre red."""
    n, pitch = len(rgb), 46
    paper, red, ink = palette("#f4ecd8 #c8452d #17130f")
    light = texture.tone(texture.smooth(rgb, 0.012))
    course = texture.along(n, 1.35) * pitch + texture.clouds(n, rng, 5) * 5 + light * 2
    gouges = 0.35 * texture.clouds(n, rng, n // 3, n // 24)
    lines = texture.stripes(course, 1.25 - (1.45 + gouges) * light, n / pitch)
    middle_tones = texture.step(light, 0.27, 0.11) * (1 - texture.step(light, 0.63, 0.11))
    picture = texture.over(np.broadcast_to(paper, rgb.shape), red, middle_tones)
    picture = texture.over(picture, ink, lines)
    return texture.over(picture, ink, texture.step(texture.outlines(rgb, 0.004), 0.55, 0.45))


def ukiyo(rgb: Pixels, rng: Generator) -> Pixels:
    """Flat washes of indigo and vermilion with wave scales, printed from wood and sealed in red."""
    n = len(rgb)
    washes = palette("#1d3461 #2f5d8c #7ba7bc #c9d6c3 #f2e3c2 #e2a66f #d1495b #3b3a36")
    kinds = texture.nearest(texture.smooth(rgb, 0.02), washes)
    _, down = texture.axes(n)
    picture = texture.over(washes[kinds], washes[0], 1 - texture.step(down, 0.067, 0.167))
    picture = texture.over(picture, washes[3], 0.55 * _wave_scales(n) * (kinds <= 1))
    contours = texture.step(texture.outlines(picture, 0.003), 0.6, 0.6)
    picture = texture.over(picture, palette("#1b1b2f"), 0.8 * contours)
    picture = picture * (0.93 + 0.12 * texture.clouds(n, rng, 4, 90))[..., None]
    margin = 1 - texture.step(texture.from_border(n), 0.03, 1 / n)
    return texture.over(texture.stamp(picture, _seal(n)), palette("#f6ecd6"), margin)


def _wave_scales(n: int) -> Field:
    """Seigaiha: rows of concentric arcs, each row shifted by half a scale."""
    across, down = texture.axes(n)
    row = np.floor(down * 22)
    from_middle = (across * 11 + row % 2 / 2) % 1 - 0.5
    return texture.stripes(3 * np.hypot(from_middle * 2, down * 22 - row), 0.3, n / 60)


def _seal(n: int) -> Canvas:
    """The artist's red seal, in the lower right corner."""
    c, red, cream = Canvas(n), "#c1272d", "#f2e3c2"
    c.box(0.87, 0.83, 0.075, 0.11, red, corner=0.012)
    for y in (0.86, 0.885, 0.91):
        c.stroke([(0.887, y), (0.928, y)], 0.008, cream)
    c.stroke([(0.907, 0.85), (0.907, 0.92)], 0.008, cream)
    return c


def risograph(rgb: Pixels, rng: Generator) -> Pixels:
    """Three bright inks in coarse screens, printed a little out of register."""
    n = len(rgb)
    yellow, pink, teal = palette("#ffe000 #ff48a5 #00858f")
    plain = texture.smooth(rgb, 0.01)
    grey = texture.lightness(plain)[..., None]
    red, green, blue = np.moveaxis(1 - np.clip(grey + 1.5 * (plain - grey), 0, 1), 2, 0)
    dark = 1 - texture.tone(plain)
    picture: Pixels = np.broadcast_to(palette("#f7f3e8"), rgb.shape)
    separations = ((yellow, blue, 0.0), (pink, green, 1.31), (teal, 0.75 * red + 0.25 * dark, 0.78))
    for ink, amount, angle in separations:
        shift = rng.integers(-1, 2, 2) * max(1, n // 110)
        shifted = np.roll(amount, shift.tolist(), axis=(0, 1))
        coverage = texture.step(0.85 * shifted**1.3 - _screen(n, angle), 0, 0.2)
        worn = 0.92 - 0.25 * (rng.random((n, n), dtype=np.float32) < 0.12)
        picture = picture * (1 - (1 - ink) * (coverage * worn)[..., None])
    return picture


def _screen(n: int, angle: float) -> Field:
    """A halftone screen: how much ink each pixel needs before it prints."""
    first, second = (texture.along(n, angle + turn) * 58 for turn in (0, math.pi / 2))
    ridges: Field = np.cos(math.tau * first) + np.cos(math.tau * second)
    return ridges / 4 + 0.5


def blueprint(rgb: Pixels, rng: Generator) -> Pixels:
    """White construction lines and hatching on Prussian blue."""
    n = len(rgb)
    blue, white = palette("#123f7c #eaf4ff")
    across, down = texture.axes(n)
    light = texture.tone(texture.smooth(rgb, 0.012))
    picture = blue * (0.9 + 0.2 * texture.clouds(n, rng, 4))[..., None]
    for pitch, strength in ((40, 0.1), (8, 0.22)):
        grid = [texture.stripes(axis * pitch, 0.06, n / pitch) for axis in (across, down)]
        picture = texture.over(picture, white, np.maximum(*grid) * strength)
    hatching = texture.stripes(texture.along(n, 2.36) * 52, 0.24, n / 52)
    picture = texture.over(picture, white, 0.5 * hatching * (1 - texture.step(light, 0.3, 0.02)))
    picture = texture.over(picture, white, 0.16 * texture.step(light, 0.72, 0.02))
    contours = texture.step(texture.outlines(rgb, 0.0025), 0.5, 0.55)
    return texture.stamp(texture.over(picture, white, contours), _title_block(n))


def _title_block(n: int) -> Canvas:
    """The frame of a technical drawing, with its title block."""
    c, white, blue = Canvas(n), "#eaf4ff", "#123f7c"
    c.stroke([(0.03, 0.03), (0.97, 0.03), (0.97, 0.97), (0.03, 0.97), (0.03, 0.03)], 0.005, white)
    c.box(0.68, 0.86, 0.29, 0.11, white)
    c.box(0.684, 0.864, 0.282, 0.102, blue)
    for y, end in ((0.888, 0.92), (0.915, 0.86), (0.942, 0.9)):
        c.stroke([(0.705, y), (end, y)], 0.006, white)
    return c


def op_art(rgb: Pixels, rng: Generator) -> Pixels:
    """Black and white rings that swell over whatever is light."""
    n, pitch = len(rgb), 17
    across, down = texture.axes(n)
    x, y = rng.uniform(0.2, 0.8, 2)
    rings = np.hypot(across - np.float32(x), down - np.float32(y)) * pitch
    course = rings + 2.6 * texture.tone(texture.blur(rgb, 0.03))
    light = texture.tone(texture.blur(rgb, 0.012))
    lines = texture.stripes(course, 0.86 - 0.72 * light, n / pitch)
    return texture.ramp(lines, palette("#fdfdfb #0a0a0f"))
