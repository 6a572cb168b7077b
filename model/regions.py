"""Regions of an image: the part that is asked about, and the squares in which it is read.

A backbone sees the central square of its input. An image that is much longer than wide, or wider
than long, is therefore read in several squares along its longer side. They overlap up to a ratio of
about 6:1; of a still longer image the gaps between them are not read.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image

from model.decoding.limits import DEFAULT_LIMITS, ImageLimits
from model.errors import RegionError, RegionTooSmallError

ORDINARY = (4, 3)  # longer to shorter side up to which an image is read once
MOST = 7  # squares of one image


class Region(NamedTuple):
    """A rectangle in pixels of an upright image."""

    x: int  # of the left edge
    y: int  # of the upper edge
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def check(self, size: tuple[int, int], limits: ImageLimits = DEFAULT_LIMITS) -> None:
        """Compare the region with the image that it is of.

        Args:
            size: width and height of the upright image.
            limits: `min_side` is that of a region, too.

        Raises:
            RegionError: it does not lie in the image.
            RegionTooSmallError: one of its sides is under ``limits.min_side``.
        """
        left, top, right, bottom = self.box
        if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
            raise RegionError(
                f"the region {','.join(map(str, self))} reaches beyond the image, which is "
                f"{size[0]} x {size[1]} pixels upright; give x,y,width,height within it"
            )
        if min(self.width, self.height) < limits.min_side:
            raise RegionTooSmallError(
                f"the region is {self.width} x {self.height} pixels; at least {limits.min_side} on "
                "each side are needed to describe it"
            )


def parts_of(size: tuple[int, int], region: Region | None = None) -> tuple[Region, ...]:
    """Return the parts of an image that are read, in upright pixels, from left or top on.

    Up to a ratio of 4:3 that is the whole region. Of a longer one it is an odd number of squares,
    so that one of them is the central one. Neighbours overlap by at least half, unless that would
    take more than `MOST` squares; beyond about 6:1 what these see leaves gaps.

    Args:
        size: width and height of the upright image.
        region: to read instead of the whole image; it lies in the image.
    """
    whole = region or Region(0, 0, *size)
    short, long = sorted((whole.width, whole.height))
    if long * ORDINARY[1] <= short * ORDINARY[0]:
        return (whole,)
    count = min(MOST, 1 + 2 * math.ceil((long - short) / short))
    steps = [round(place * (long - short) / (count - 1)) for place in range(count)]
    if whole.width > whole.height:
        return tuple(Region(whole.x + step, whole.y, short, short) for step in steps)
    return tuple(Region(whole.x, whole.y + step, short, short) for step in steps)


def tries(parts: Sequence[Region]) -> int:
    """Return how many unrelated squares give as high a best score by chance as these parts do.

    That is the fewest squares that cover them, since overlapping squares have similar scores.
    Measured on unrelated photographs, three squares of a ratio of 1.5:1 count as 1.7, three of 2:1
    as 1.9, and seven of 5:1 as 4.2.
    """
    first, last = parts[0], parts[-1]
    along = max(last.x + last.width - first.x, last.y + last.height - first.y)
    across = min(first.width, first.height)
    return min(len(parts), math.ceil(along / across))


def crops(
    image: Image.Image, size: tuple[int, int], parts: Sequence[Region]
) -> Iterator[Image.Image]:
    """Yield the parts of an image; the image itself where a part is all of it.

    Args:
        image: the upright pixels, perhaps decoded at a fraction of their size.
        size: width and height at full size.
        parts: in pixels at full size.
    """
    across, down = image.width / size[0], image.height / size[1]
    for part in parts:
        if part == (0, 0, *size):
            yield image
            continue
        left, top, right, bottom = part.box
        first = math.floor(left * across), math.floor(top * down)
        last = (
            max(first[0] + 1, min(image.width, round(right * across))),
            max(first[1] + 1, min(image.height, round(bottom * down))),
        )
        yield image.crop((*first, *last))
