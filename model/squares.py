"""The squares of an image that a network reads, at the size of its input."""

from typing import NamedTuple

from PIL import Image

from model.regions import crops, parts_of

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Square(NamedTuple):
    """Describes the central square of an image that a network reads."""

    side: int  # S, of the network's input in pixels
    resized: int  # shorter side of the resized image that the square is cut from
    interpolation: str  # a key of `RESAMPLING`

    def of(self, image: Image.Image) -> Image.Image:
        """Return the square of an image, S x S.

        Only the region that the square keeps is resized.
        """
        size, short = self.side, self.resized
        width, height = image.size
        if width <= height:
            resized = short, int(short * height / width)
        else:
            resized = int(short * width / height), short
        left, top = (round((side - size) / 2) for side in resized)
        across, down = width / resized[0], height / resized[1]
        return image.resize(
            (size, size),
            RESAMPLING[self.interpolation],
            box=(left * across, top * down, (left + size) * across, (top + size) * down),
        )

    def column(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return the squares of an image's parts, one below the other.

        Args:
            image: upright, of mode RGB, perhaps decoded at a fraction of its size.
            size: width and height at full size.
        """
        parts = parts_of(size)
        column = Image.new("RGB", (self.side, self.side * len(parts)))
        for place, part in enumerate(crops(image, size, parts)):
            column.paste(self.of(part), (0, self.side * place))
        return column

    def split(self, column: Image.Image) -> list[Image.Image]:
        """Return the squares of a column, from the top."""
        tops = range(0, column.height, self.side)
        return [column.crop((0, top, self.side, top + self.side)) for top in tops]
