"""Things that scenes are made of, each drawn in its own coordinates: the unit is its height."""

import math

import numpy as np

from app.gallery.canvas import Canvas, arc, curve, mix


def sun(c: Canvas, light: str, glow: str) -> None:
    """A sun or moon with its halo, around the middle."""
    c.disc(0, 0, 1.5, glow)
    c.disc(0, 0, 1.0, light)


def peak(c: Canvas, rock: str) -> None:
    """A mountain with snow on it, from its foot up."""
    c.polygon([(-0.65, 0), (0, -1), (0.65, 0)], rock)
    c.polygon([(0, -1), (0.65, 0), (0.1, 0)], mix(rock, "#000000", 0.18))
    c.polygon([(-0.18, -0.72), (0, -1), (0.18, -0.72), (0.06, -0.8), (-0.05, -0.7)], "#fdfdfd")


def tree(c: Canvas, trunk: str, leaves: str) -> None:
    """A tree with a round crown, from its foot up."""
    c.stroke([(0, 0), (0, -0.6)], 0.09, trunk)
    c.ellipse(0, -0.7, 0.26, 0.34, leaves)
    c.ellipse(-0.07, -0.78, 0.13, 0.18, mix(leaves, "#ffffff", 0.2))


def pine(c: Canvas, trunk: str, needles: str) -> None:
    """A fir of four tiers, from its foot up."""
    c.box(-0.03, -0.17, 0.06, 0.17, trunk)
    for tier in range(4):
        y, half = -0.15 - 0.2 * tier, 0.26 * (1 - 0.2 * tier)
        c.polygon([(-half, y), (0, y - 0.36), (half, y)], mix(needles, "#ffffff", 0.06 * tier))


def flower(c: Canvas, petals: str, heart: str) -> None:
    """A flower seen from the front, around its heart."""
    for angle in np.arange(7) * math.tau / 7:
        x, y = 0.3 * math.cos(angle), 0.3 * math.sin(angle)
        c.ellipse(x, y, 0.25, 0.15, petals, turn=angle)
    c.disc(0, 0, 0.17, heart)


def house(c: Canvas, wall: str, roof: str, door: str, window: str) -> None:
    """A gabled house with two windows, from its foot up."""
    c.box(-0.42, -0.58, 0.84, 0.58, wall)
    c.polygon([(-0.52, -0.54), (0, -1), (0.52, -0.54)], roof)
    c.box(-0.08, -0.28, 0.16, 0.28, door)
    for x in (-0.31, 0.15):
        c.box(x, -0.43, 0.16, 0.17, window)


def sailboat(c: Canvas, hull: str, mainsail: str, jib: str) -> None:
    """A boat with two sails, from its waterline up."""
    c.polygon([(0, -1), (0, -0.16), (0.5, -0.16)], mainsail)
    c.polygon([(-0.06, -0.84), (-0.06, -0.16), (-0.36, -0.16)], jib)
    c.polygon([(-0.5, -0.12), (0.6, -0.12), (0.36, 0.06), (-0.34, 0.06)], hull)


def jug(c: Canvas, glaze: str) -> None:
    """A jug with one handle, from its foot up."""
    handle = [(0.16, -0.8), (0.52, -0.74), (0.3, -0.3)]
    c.stroke(curve(handle), 0.07, glaze)
    body = [(-0.16, -0.98), (0.16, -0.98), (0.36, -0.36), (0.22, 0), (-0.22, 0), (-0.36, -0.36)]
    c.blob(body, glaze)
    c.ellipse(0, -0.98, 0.17, 0.045, mix(glaze, "#000000", 0.4))
    c.ellipse(-0.16, -0.45, 0.055, 0.18, mix(glaze, "#ffffff", 0.5), turn=0.15)


def fruit(c: Canvas, skin: str, stalk: str, shadow: str) -> None:
    """A round fruit lying on something, from where it rests up."""
    c.ellipse(0.1, 0, 0.55, 0.12, shadow)
    c.disc(0, -0.5, 0.5, skin)
    c.disc(-0.15, -0.65, 0.18, mix(skin, "#ffffff", 0.45))
    c.stroke([(0, -0.97), (0.08, -1.2)], 0.07, stalk)


def fish(c: Canvas, scales: str, fins: str) -> None:
    """A fish that swims to the right, around its middle; the unit is half its length."""
    c.polygon([(-0.6, 0), (-1.3, -0.5), (-1.15, 0), (-1.3, 0.5)], fins)
    c.polygon([(-0.4, -0.3), (0.3, -0.3), (-0.35, -0.85)], fins)
    c.ellipse(0, 0, 1, 0.55, scales)
    band = [arc(0, 0, width, 0.52, -1.4, 1.4) for width in (0.1, 0.35)]
    c.polygon(np.concatenate([band[0], band[1][::-1]]), fins)
    c.disc(0.6, -0.12, 0.14, "#ffffff")
    c.disc(0.63, -0.12, 0.07, "#111111")


def cloud(c: Canvas, colour: str) -> None:
    """A flat-bottomed cloud around its middle."""
    for x, y, radius in (
        (-0.7, 0.1, 0.3),
        (-0.2, -0.15, 0.45),
        (0.4, -0.05, 0.4),
        (0.8, 0.15, 0.25),
    ):
        c.disc(x, y, radius, colour)
    c.box(-1, 0.05, 2.05, 0.35, colour, corner=0.17)
