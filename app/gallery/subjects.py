"""The recurring subjects: each one thing, always of the same shape and colours.

A subject is drawn around (0, 0) and fits the square from (-1, -1) to (1, 1); where the canvas is
placed decides where it stands in a picture.
"""

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np

from app.gallery.canvas import Canvas, arc, curve

Subject = Callable[[Canvas], None]

HOLE = "#00000000"  # Drawn over a shape, it lets the background through.


def red_teapot(c: Canvas) -> None:
    """A round enamel pot with a row of cream dots."""
    red, dark, cream = "#d62828", "#a11622", "#fff3dc"
    c.stroke(curve([(-0.5, -0.18), (-0.9, -0.25), (-0.98, 0.2), (-0.55, 0.45)]), 0.13, dark)
    upper = curve([(0.5, 0.12), (0.7, 0.0), (0.78, -0.26), (0.92, -0.36)])
    lower = curve([(1.0, -0.28), (0.94, -0.06), (0.86, 0.34), (0.5, 0.55)])
    c.polygon(np.concatenate([upper, lower]), dark)
    c.ellipse(0, 0.75, 0.42, 0.1, dark)
    c.ellipse(0, 0.2, 0.74, 0.6, red)
    c.ellipse(0, -0.34, 0.42, 0.13, dark)
    c.ellipse(0, -0.39, 0.36, 0.11, red)
    c.disc(0, -0.56, 0.12, cream)
    for x in np.linspace(-0.52, 0.52, 6):
        c.disc(x, 0.3 - 0.12 * x**2, 0.075, cream)
    c.ellipse(-0.34, -0.05, 0.16, 0.07, "#ff8a80", turn=-0.6)


def blue_robot(c: Canvas) -> None:
    """A boxy tin robot with yellow eyes and one antenna."""
    blue, deep, steel, glow = "#2f6fde", "#1b3f8b", "#b9c6d8", "#ffd23f"
    c.stroke([(0, -0.75), (0, -0.92)], 0.06, steel)
    c.disc(0, -0.92, 0.09, "#ff5d5d")
    for side in (-1, 1):
        c.stroke(curve([(side * 0.45, -0.02), (side * 0.72, 0.12), (side * 0.7, 0.42)]), 0.13, deep)
        c.disc(side * 0.7, 0.48, 0.13, steel)
        c.box(side * 0.24 - 0.12, 0.6, 0.24, 0.32, deep, corner=0.05)
        c.box(side * 0.26 - 0.18, 0.84, 0.36, 0.14, steel, corner=0.06)
        c.box(side * 0.5 - 0.07, -0.6, 0.14, 0.22, steel, corner=0.04)
    c.box(-0.5, -0.78, 1.0, 0.6, blue, corner=0.14)
    c.box(-0.38, -0.66, 0.76, 0.34, deep, corner=0.1)
    for side in (-1, 1):
        c.disc(side * 0.19, -0.49, 0.12, glow)
        c.disc(side * 0.19, -0.49, 0.05, "#3a2b00")
    c.box(-0.45, -0.13, 0.9, 0.78, blue, corner=0.1)
    c.box(-0.3, 0.02, 0.6, 0.42, steel, corner=0.06)
    c.polygon(arc(0, 0.36, 0.2, 0.24, math.pi, math.tau), "#fff6e0")
    c.stroke([(0, 0.34), (0.1, 0.18)], 0.045, "#e63946")
    for x in (-0.2, 0.0, 0.2):
        c.disc(x, 0.55, 0.05, glow)


def striped_lighthouse(c: Canvas) -> None:
    """A white tower with red bands on a grey rock."""
    red, white, dark = "#d7263d", "#fbf7ef", "#2b2d42"
    c.blob([(-0.75, 0.98), (-0.6, 0.7), (-0.1, 0.62), (0.5, 0.68), (0.78, 0.98)], "#6c757d")

    def half_width(y: float) -> float:
        return 0.2 + 0.14 * (y + 0.45) / 1.2

    bands = np.linspace(-0.45, 0.75, 7)
    for i, (top, bottom) in enumerate(pairwise(bands)):
        a, b = half_width(top), half_width(bottom)
        c.polygon([(-a, top), (a, top), (b, bottom), (-b, bottom)], red if i % 2 else white)
    c.box(-0.28, -0.5, 0.56, 0.08, dark, corner=0.02)
    c.box(-0.15, -0.76, 0.3, 0.27, "#ffe066")
    for x in (-0.15, 0.0, 0.15):
        c.stroke([(x, -0.76), (x, -0.5)], 0.025, dark)
    c.polygon([(-0.22, -0.75), (0, -0.98), (0.22, -0.75)], red)
    c.box(-0.08, 0.5, 0.16, 0.25, dark, corner=0.06)
    c.box(-0.05, -0.08, 0.1, 0.13, dark, corner=0.04)


def green_cactus(c: Canvas) -> None:
    """A two-armed cactus with a pink flower in a terracotta pot."""
    green, light, pot, rim = "#2a9d5c", "#7bd389", "#c8643b", "#a94f2b"
    c.stroke(curve([(0, 0.2), (-0.5, 0.15), (-0.52, -0.25)]), 0.26, green)
    c.stroke(curve([(0, 0.0), (0.52, -0.08), (0.55, -0.5)]), 0.26, green)
    c.stroke([(0, 0.5), (0, -0.6)], 0.5, green)
    for x in (-0.13, 0.0, 0.13):
        c.stroke([(x, 0.4), (x, -0.62)], 0.03, light)
    c.stroke(curve([(-0.4, 0.14), (-0.52, 0.05), (-0.52, -0.25)]), 0.03, light)
    c.stroke(curve([(0.4, -0.06), (0.54, -0.18), (0.55, -0.5)]), 0.03, light)
    for angle in np.arange(5) * math.tau / 5:
        petal = (0.12 * math.cos(angle), -0.84 + 0.1 * math.sin(angle))
        c.disc(*petal, 0.09, "#ff5fa2")
    c.disc(0, -0.84, 0.07, "#ffd166")
    c.polygon([(-0.44, 0.5), (0.44, 0.5), (0.32, 0.98), (-0.32, 0.98)], pot)
    c.box(-0.5, 0.42, 1.0, 0.16, rim, corner=0.04)


def paper_boat(c: Canvas) -> None:
    """A folded boat of squared paper."""
    white, fold, shade, rule, red = "#fdfdf8", "#c3d3e6", "#8fa6c4", "#5f93c9", "#e4572e"
    c.polygon([(0, -0.8), (-0.46, 0.25), (0, 0.25)], white)
    c.polygon([(0, -0.8), (0.46, 0.25), (0, 0.25)], fold)
    for y in (-0.4, -0.22, -0.04, 0.14):
        c.stroke([(-0.44 * (y + 0.8), y), (0, y)], 0.022, rule)
    c.polygon([(-1, -0.05), (-0.5, 0.7), (0, 0.28)], fold)
    c.polygon([(1, -0.05), (0.5, 0.7), (0, 0.28)], shade)
    c.polygon([(-1, -0.05), (-0.4, 0.22), (0.4, 0.22), (0.5, 0.7), (-0.5, 0.7)], white)
    c.polygon([(0.3, 0.22), (1, -0.05), (0.5, 0.7), (-0.1, 0.7)], fold)
    for y in (0.34, 0.46, 0.58):
        c.stroke([(-0.95 + y * 0.62, y), (0.95 - y * 0.62, y)], 0.022, rule)
    c.polygon([(-1, -0.05), (-0.9, -0.005), (-0.42, 0.7), (-0.5, 0.7)], red)
    c.polygon([(0, -0.8), (-0.13, -0.5), (0.13, -0.5)], red)


def brass_key(c: Canvas) -> None:
    """An old key with a clover bow."""
    brass, light, dark = "#c9952c", "#f2cf73", "#8c6215"
    c.box(-0.07, -0.3, 0.14, 1.2, brass, corner=0.05)
    c.box(0.05, 0.5, 0.3, 0.12, brass, corner=0.02)
    c.box(0.05, 0.72, 0.38, 0.16, brass, corner=0.02)
    for x, y in ((0, -0.75), (-0.24, -0.42), (0.24, -0.42)):
        c.disc(x, y, 0.25, brass)
    c.disc(0, -0.5, 0.24, brass)
    for x, y in ((0, -0.77), (-0.26, -0.41), (0.26, -0.41)):
        c.disc(x, y, 0.16, light)
        c.disc(x, y, 0.12, HOLE)
    c.disc(0, -0.53, 0.08, dark)
    for y in (-0.2, -0.08, 0.92):
        c.box(-0.12, y - 0.03, 0.24, 0.06, dark, corner=0.02)
    c.stroke([(-0.03, 0.05), (-0.03, 0.82)], 0.035, light)


def fox_mask(c: Canvas) -> None:
    """A painted carnival mask of a fox."""
    orange, cream, ink, gold = "#f2762e", "#fff4e3", "#2d1e2f", "#ffc145"
    for side in (-1, 1):
        c.polygon([(side * 0.2, -0.42), (side * 0.78, -0.98), (side * 0.86, -0.1)], orange)
        c.polygon([(side * 0.42, -0.5), (side * 0.72, -0.8), (side * 0.75, -0.3)], ink)
    face = [(-0.86, -0.1), (-0.45, -0.52), (0, -0.45), (0.45, -0.52), (0.86, -0.1)]
    c.blob([*face, (0.42, 0.5), (0, 0.95), (-0.42, 0.5)], orange)
    for side in (-1, 1):
        cheek = [(0.04, 0.2), (0.5, 0.12), (0.82, 0.0), (0.42, 0.5), (0.02, 0.9)]
        c.blob([(side * x, y) for x, y in cheek], cream)
        eye = [(0.16, 0.02), (0.34, -0.16), (0.6, -0.17), (0.4, 0.02)]
        c.blob([(side * x, y) for x, y in eye], ink)
        c.disc(side * 0.37, -0.08, 0.05, gold)
        c.stroke([(side * 0.26, 0.36), (side * 0.54, 0.26)], 0.025, ink)
    c.polygon([(0, -0.42), (0.1, -0.22), (0, 0.02), (-0.1, -0.22)], gold)
    c.ellipse(0, 0.82, 0.15, 0.11, ink)


def hot_air_balloon(c: Canvas) -> None:
    """A striped envelope over a wicker basket."""
    gores = ["#ef476f", "#fff1d0", "#118ab2", "#ffd166", "#118ab2", "#fff1d0", "#ef476f"]
    for side in (-1, 1):
        c.stroke([(side * 0.36, 0.34), (side * 0.14, 0.74)], 0.025, "#5b4636")
    edges = np.linspace(-1, 1, len(gores) + 1)
    heights = np.linspace(0, 1, 30)
    # The outline of the envelope: a round crown that tapers to the mouth.
    half = 0.74 * np.sin(np.pi * heights**0.78) ** 0.7 * (1 - 0.22 * heights) + 0.2 * heights**3
    y = -0.96 + 1.4 * heights
    for left, right, colour in zip(edges[:-1], edges[1:], gores, strict=True):
        sides = [math.sin(edge * math.pi / 2) for edge in (left, right)]
        down = np.stack([half * sides[0], y], axis=1)
        up = np.stack([half * sides[1], y], axis=1)[::-1]
        c.polygon(np.concatenate([down, up]), colour)
    c.box(-0.2, 0.4, 0.4, 0.06, "#073b4c", corner=0.02)
    c.box(-0.17, 0.72, 0.34, 0.26, "#a9713a", corner=0.05)
    c.box(-0.2, 0.7, 0.4, 0.07, "#6f4518", corner=0.03)
    for x in (-0.07, 0.06):
        c.stroke([(x, 0.79), (x, 0.95)], 0.02, "#6f4518")


def sailor_cat(c: Canvas) -> None:
    """A grey cat with a sailor's hat and a red scarf."""
    fur, dark, cream, navy = "#7d8597", "#4a5061", "#f6efe4", "#1d3557"
    c.stroke(curve([(0.35, 0.85), (0.8, 0.8), (0.85, 0.35), (0.68, 0.2)]), 0.14, dark)
    c.blob([(-0.45, 0.95), (-0.42, 0.4), (0, 0.12), (0.42, 0.4), (0.45, 0.95)], fur)
    c.ellipse(0, 0.72, 0.22, 0.26, cream)
    for side in (-1, 1):
        c.ellipse(side * 0.2, 0.93, 0.15, 0.08, cream)
        c.polygon([(side * 0.12, -0.4), (side * 0.52, -0.72), (side * 0.54, -0.1)], dark)
    c.ellipse(0, -0.12, 0.56, 0.43, fur)
    for side in (-1, 1):
        c.ellipse(side * 0.22, -0.16, 0.12, 0.14, "#e9f27c")
        c.ellipse(side * 0.22, -0.16, 0.045, 0.12, "#1b1b1e")
        for slope in (-0.03, 0.05):
            c.stroke([(side * 0.25, 0.06), (side * 0.66, 0.06 + slope)], 0.015, cream)
        c.ellipse(side * 0.09, 0.1, 0.12, 0.09, cream)
    c.polygon([(-0.07, -0.01), (0.07, -0.01), (0, 0.07)], "#ff8fa3")
    c.ellipse(0, -0.6, 0.4, 0.17, "#ffffff")
    c.box(-0.36, -0.6, 0.72, 0.16, navy, corner=0.06)
    c.disc(0, -0.77, 0.07, "#e63946")
    c.polygon([(-0.36, 0.26), (0.36, 0.26), (0.16, 0.38), (-0.16, 0.38)], "#e63946")
    c.polygon([(-0.02, 0.34), (0.22, 0.62), (0.02, 0.58)], "#b3202c")


def diving_helmet(c: Canvas) -> None:
    """A copper helmet with a barred round window."""
    copper, dark, light, glass = "#b8693d", "#7a3f20", "#e9a777", "#1f6f78"
    c.blob([(-0.85, 0.9), (-0.6, 0.5), (0.6, 0.5), (0.85, 0.9), (0, 0.98)], dark)
    c.box(-0.55, 0.36, 1.1, 0.22, light, corner=0.06)
    for side in (-1, 1):
        c.disc(side * 0.68, -0.12, 0.2, dark)
        c.disc(side * 0.72, -0.12, 0.12, glass)
    c.ellipse(0, -0.16, 0.7, 0.68, copper)
    c.box(-0.1, -0.98, 0.2, 0.2, dark, corner=0.06)
    c.ellipse(0, -0.5, 0.28, 0.1, light)
    c.ellipse(0, -0.5, 0.2, 0.06, glass)
    c.disc(0, 0.0, 0.43, light)
    c.disc(0, 0.0, 0.35, glass)
    c.ellipse(-0.12, -0.12, 0.14, 0.07, "#9fe0d8", turn=-0.7)
    for offset in (-0.12, 0.12):
        c.stroke([(offset, -0.34), (offset, 0.34)], 0.045, dark)
        c.stroke([(-0.34, offset), (0.34, offset)], 0.045, dark)
    for angle in np.arange(8) * math.tau / 8 + 0.39:
        c.disc(0.39 * math.cos(angle), 0.39 * math.sin(angle), 0.035, dark)
    for x in np.linspace(-0.42, 0.42, 5):
        c.disc(x, 0.47, 0.045, dark)


def purple_owl(c: Canvas) -> None:
    """A plump violet owl with mint eyes."""
    violet, deep, lilac, mint = "#7b2cbf", "#3c096c", "#d6b3ff", "#8ef9d0"
    for side in (-1, 1):
        c.polygon([(side * 0.15, -0.6), (side * 0.6, -0.98), (side * 0.58, -0.4)], deep)
    c.blob([(-0.62, -0.3), (0, -0.78), (0.62, -0.3), (0.66, 0.4), (0, 0.92), (-0.66, 0.4)], violet)
    for side in (-1, 1):
        wing = [(0.6, -0.1), (0.84, 0.3), (0.62, 0.75), (0.46, 0.4)]
        c.blob([(side * x, y) for x, y in wing], deep)
        for toe in (0.12, 0.22, 0.32):
            c.ellipse(side * toe, 0.92, 0.05, 0.08, "#ffb703")
    c.ellipse(0, 0.4, 0.4, 0.42, lilac)
    for row, y in enumerate((0.2, 0.38, 0.56)):
        for x in np.arange(-1.0 + row % 2 / 2, 1.1) * 0.2:
            c.polygon(arc(x, y, 0.085, 0.1, 0, math.pi), violet)
    for side in (-1, 1):
        c.disc(side * 0.26, -0.28, 0.29, lilac)
        c.disc(side * 0.26, -0.28, 0.2, mint)
        c.disc(side * 0.24, -0.28, 0.11, "#10002b")
        c.disc(side * 0.24 + 0.04, -0.33, 0.035, "#ffffff")
    c.polygon([(-0.1, -0.16), (0.1, -0.16), (0, 0.08)], "#ffb703")


def toadstool_house(c: Canvas) -> None:
    """A spotted toadstool with a door, a window and a chimney."""
    cap, spot, stem, wood = "#c1121f", "#fff7e6", "#f1e3c6", "#7f4f24"
    c.box(0.32, -0.85, 0.16, 0.4, "#8d6b53", corner=0.02)
    c.blob([(-0.34, 0.0), (0.34, 0.0), (0.44, 0.9), (0, 0.98), (-0.44, 0.9)], stem)
    c.ellipse(0, 0.08, 0.82, 0.14, "#e0c9a0")
    roof = [(-0.94, 0.08), (-0.8, -0.4), (-0.3, -0.82), (0.3, -0.82), (0.8, -0.4), (0.94, 0.08)]
    c.polygon(np.concatenate([curve(roof), arc(0, 0.06, 0.94, 0.1, 0, math.pi)]), cap)
    for x, y, radius in ((-0.5, -0.28, 0.15), (0.05, -0.52, 0.17), (0.56, -0.22, 0.13)):
        c.disc(x, y, radius, spot)
    for x, y, radius in ((-0.08, -0.14, 0.1), (-0.76, -0.02, 0.08), (0.3, -0.02, 0.07)):
        c.disc(x, y, radius, spot)
    c.polygon(
        np.concatenate([arc(-0.1, 0.56, 0.15, 0.2, math.pi), [(0.05, 0.94), (-0.25, 0.94)]]), wood
    )
    c.disc(0.0, 0.72, 0.025, "#ffd166")
    c.disc(0.24, 0.45, 0.11, wood)
    c.disc(0.24, 0.45, 0.08, "#ffe08a")
    c.stroke([(0.24, 0.37), (0.24, 0.53)], 0.02, wood)


def pink_flamingo(c: Canvas) -> None:
    """A flamingo on one leg."""
    pink, deep, pale = "#ff6f91", "#d83f6f", "#ffc2d1"
    c.stroke([(0.1, 0.3), (0.1, 0.97)], 0.05, deep)
    c.stroke([(0.1, 0.97), (-0.08, 0.97)], 0.05, deep)
    c.stroke([(0.22, 0.3), (0.38, 0.62), (0.12, 0.7)], 0.05, deep)
    neck = [(-0.3, 0.1), (-0.62, -0.1), (-0.5, -0.4), (-0.2, -0.6), (-0.3, -0.86), (-0.52, -0.84)]
    c.stroke(curve(neck), 0.14, pink)
    c.ellipse(-0.46, -0.82, 0.15, 0.12, pink)
    c.blob([(-0.56, -0.9), (-0.78, -0.78), (-0.82, -0.58), (-0.7, -0.66), (-0.58, -0.74)], pale)
    c.blob([(-0.8, -0.72), (-0.84, -0.54), (-0.76, -0.56), (-0.7, -0.68)], "#22223b")
    c.disc(-0.46, -0.85, 0.03, "#22223b")
    c.blob([(-0.45, 0.12), (0.0, -0.2), (0.5, -0.05), (0.95, 0.14), (0.4, 0.4), (-0.2, 0.4)], pink)
    c.blob([(-0.12, 0.08), (0.3, -0.06), (0.85, 0.16), (0.3, 0.28)], deep)
    c.blob([(0.02, 0.08), (0.3, 0.0), (0.7, 0.14), (0.3, 0.18)], pale)


def tin_rocket(c: Canvas) -> None:
    """A silver rocket with orange fins and its flame."""
    tin, shade, orange, window = "#e3e8ee", "#a8b4c2", "#ff7b00", "#3ec1d3"
    c.blob([(-0.2, 0.6), (0.2, 0.6), (0.12, 0.86), (0, 1.0), (-0.12, 0.86)], "#ffba08")
    c.blob([(-0.1, 0.6), (0.1, 0.6), (0, 0.84)], "#fff3b0")
    for side in (-1, 1):
        fin = [(side * 0.26, 0.05), (side * 0.68, 0.5), (side * 0.66, 0.8), (side * 0.22, 0.6)]
        c.polygon(fin, orange)
    hull = [(0, -0.98), (0.3, -0.5), (0.36, 0.1), (0.22, 0.66)]
    right = curve(hull)
    c.polygon(np.concatenate([right, right[::-1] * (-1, 1)]), tin)
    c.polygon(np.concatenate([right, [(0.08, 0.66), (0.12, 0.0), (0, -0.98)]]), shade)
    nose = right[right[:, 1] < -0.55]
    c.polygon(np.concatenate([nose, nose[::-1] * (-1, 1)]), orange)
    c.disc(0, -0.22, 0.2, orange)
    c.disc(0, -0.22, 0.14, window)
    c.ellipse(-0.04, -0.27, 0.05, 0.03, "#d7fbff", turn=-0.6)
    c.box(-0.24, 0.6, 0.48, 0.1, "#4a4e69", corner=0.03)
    for x in (-0.18, 0.0, 0.18):
        c.disc(x, 0.28, 0.035, "#4a4e69")


def jade_beetle(c: Canvas) -> None:
    """A jade beetle with gold trim, seen from above."""
    jade, deep, gold, ink = "#12a37f", "#066650", "#f4c95d", "#11231f"
    for side in (-1, 1):
        for start, knee, foot in ((-0.25, -0.5, -0.62), (0.1, 0.08, 0.2), (0.4, 0.62, 0.86)):
            c.stroke([(side * 0.3, start), (side * 0.72, knee), (side * 0.86, foot)], 0.06, ink)
        c.stroke(
            curve([(side * 0.1, -0.72), (side * 0.26, -0.92), (side * 0.5, -0.96)]), 0.045, ink
        )
    c.ellipse(0, -0.66, 0.24, 0.2, deep)
    c.ellipse(0, -0.36, 0.44, 0.26, gold)
    c.ellipse(0, -0.38, 0.4, 0.23, jade)
    c.ellipse(0, 0.3, 0.56, 0.66, gold)
    for side in (-1, 1):
        wing = np.concatenate([arc(0, 0.3, 0.51, 0.61, -math.pi / 2, math.pi / 2), [(0.02, 0.3)]])
        c.polygon(wing * (side, 1), jade)
        c.stroke(curve([(side * 0.2, -0.12), (side * 0.33, 0.3), (side * 0.16, 0.76)]), 0.04, deep)
        c.disc(side * 0.12, -0.74, 0.05, gold)
    c.stroke([(0, -0.3), (0, 0.9)], 0.04, gold)
    for y in (0.05, 0.3, 0.55):
        for side in (-1, 1):
            c.disc(side * 0.11, y, 0.045, gold)


SUBJECTS: Mapping[str, Subject] = {
    "Blue robot": blue_robot,
    "Brass key": brass_key,
    "Diving helmet": diving_helmet,
    "Fox mask": fox_mask,
    "Green cactus": green_cactus,
    "Hot-air balloon": hot_air_balloon,
    "Jade beetle": jade_beetle,
    "Paper boat": paper_boat,
    "Pink flamingo": pink_flamingo,
    "Purple owl": purple_owl,
    "Red teapot": red_teapot,
    "Sailor cat": sailor_cat,
    "Striped lighthouse": striped_lighthouse,
    "Tin rocket": tin_rocket,
    "Toadstool house": toadstool_house,
}
