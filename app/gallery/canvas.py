"""A sheet to draw shapes on, in coordinates that do not depend on the picture's size."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

Point = tuple[float, float]
Points = Sequence[Point] | NDArray[np.float64]
Pixels = NDArray[np.floating]
"""A picture as (n, n, 3), or (n, n, 4) with its coverage, values in 0..1."""

OVERSAMPLING = 2  # Pillow draws jagged edges; drawing larger and shrinking makes them smooth.


def mix(first: str, second: str, amount: float) -> str:
    """Blends two `#rrggbb` colours: `first` at 0, `second` at 1."""
    ends = zip(ImageColor.getrgb(first)[:3], ImageColor.getrgb(second)[:3], strict=True)
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in ends)


def to_hex(colour: NDArray[np.float32]) -> str:
    """A colour given as numbers in 0..1 as `#rrggbb`."""
    return "#" + (np.clip(colour, 0, 1) * 255).astype(np.uint8).tobytes().hex()


def curve(points: Points, *, closed: bool = False, steps: int = 10) -> NDArray[np.float64]:
    """A Catmull-Rom curve through `points`."""
    knots = np.asarray(points, dtype=np.float64)
    knots = (
        np.concatenate([knots[-1:], knots, knots[:2]])
        if closed
        else np.concatenate([knots[:1], knots, knots[-1:]])
    )
    before, start, end, after = (knots[i : len(knots) - 3 + i, None] for i in range(4))
    t = np.linspace(0, 1, steps)[:, None]  # (steps, 1), against knots of (segments, 1, 2)
    course = 2 * start + (end - before) * t
    course = course + (2 * before - 5 * start + 4 * end - after) * t**2
    course = course + (3 * start - before - 3 * end + after) * t**3
    return (course / 2).reshape(-1, 2)


def arc(
    x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = math.tau
) -> NDArray[np.float64]:
    """Points along an ellipse from one angle to another, in radians, clockwise from the right."""
    angles = np.linspace(start, end, 48)
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1)


@dataclass(frozen=True)
class Place:
    """Where a drawing stands: its origin, the length of its unit, its turn and its mirroring."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0
    mirrored: bool = False

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """Takes points from the drawing's own coordinates to the sheet's."""
        local = np.asarray(points, dtype=np.float64)
        across, down = local[:, 0] * (-1 if self.mirrored else 1), local[:, 1]
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        turned = np.stack([across * cos - down * sin, across * sin + down * cos], axis=1)
        return turned * self.scale + (self.x, self.y)


class Canvas:
    """A square sheet, transparent at first, whose corners are (0, 0) and (1, 1)."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._side = size * OVERSAMPLING
        self._sheet = Image.new("RGBA", (self._side, self._side))
        self._draw = ImageDraw.Draw(self._sheet)
        self._place = Place()

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Draws what follows in the coordinates of `place`."""
        before, self._place = self._place, place
        yield
        self._place = before

    def polygon(self, points: Points, fill: str) -> None:
        """Fills the area inside `points`."""
        self._draw.polygon(self._to_sheet(points), fill=fill)

    def blob(self, points: Points, fill: str) -> None:
        """Fills the rounded area whose outline passes through `points`."""
        self.polygon(curve(points, closed=True), fill)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: str, *, turn: float = 0.0
    ) -> None:
        """Fills an ellipse, turned about its own centre."""
        self.polygon(Place(x, y, turn=turn)(arc(0, 0, rx, ry)), fill)

    def disc(self, x: float, y: float, radius: float, fill: str) -> None:
        """Fills a circle."""
        self.ellipse(x, y, radius, radius, fill)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, *, corner: float = 0.0
    ) -> None:
        """Fills a rectangle given by its top left corner, its own corners rounded."""
        left, top, right, bottom = x + corner, y + corner, x + width - corner, y + height - corner
        quarter = math.pi / 2
        corners = [(right, bottom), (left, bottom), (left, top), (right, top)]
        outline = [
            arc(cx, cy, corner, corner, i * quarter, (i + 1) * quarter)
            for i, (cx, cy) in enumerate(corners)
        ]
        self.polygon(np.concatenate(outline), fill)

    def stroke(self, points: Points, width: float, fill: str) -> None:
        """Draws a line of one width with round joints and ends."""
        line = self._to_sheet(points)
        thickness = max(1, round(width * self._place.scale * self._side))
        self._draw.line(line, fill=fill, width=thickness)
        for joint in line:
            self._draw.circle(joint, thickness / 2, fill=fill)

    def gradient(self, top: str, bottom: str) -> None:
        """Fills the sheet with a vertical blend."""
        ends = np.array([ImageColor.getrgb(top), ImageColor.getrgb(bottom)], dtype=np.float64)
        t = np.linspace(0, 1, self._side)[:, None]
        column = (ends[0] + (ends[1] - ends[0]) * t).astype(np.uint8)[:, None]
        self._sheet.paste(Image.fromarray(column).resize((self._side, self._side)), (0, 0))

    def rgba(self) -> Pixels:
        """The drawing and its coverage, (n, n, 4)."""
        small = self._sheet.reduce(OVERSAMPLING)
        return np.asarray(small, dtype=np.float32) / np.float32(255)

    def rgb(self) -> Pixels:
        """The drawing alone, (n, n, 3), for a sheet that is covered everywhere."""
        return self.rgba()[..., :3]

    def _to_sheet(self, points: Points) -> list[tuple[float, float]]:
        """Points as Pillow takes them, in pixels of the larger sheet."""
        return [(x, y) for x, y in (self._place(points) * self._side).tolist()]
