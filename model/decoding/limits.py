"""Limits on an image's size and on the time of its decoding."""

from dataclasses import dataclass, field

from model.errors import ImageTooLargeError, ImageTooSmallError


@dataclass(frozen=True)
class ImageLimits:
    """Limits on an image's size, in pixels, and on the time of its decoding.

    Attributes:
        max_pixels: width times height.
        max_side: of the longer side.
        min_side: of the shorter side.
        seconds: processor time to decode a small image; `model.decoding.worker.allowance` gives
            larger ones more.
    """

    max_pixels: int = 50_000_000
    max_side: int = 20_000
    min_side: int = 16
    seconds: float = field(default=3.0, repr=False)  # caches name their entries by the others

    def check(self, width: int, height: int) -> None:
        """Compare an image's size with these limits.

        Raises:
            ImageTooLargeError: more than ``max_pixels``, or a side over ``max_side``.
            ImageTooSmallError: a side under ``min_side``.
        """
        if width * height > self.max_pixels or max(width, height) > self.max_side:
            raise ImageTooLargeError(
                f"the image is {width} x {height} pixels; at most {self.max_pixels:,} pixels and "
                f"{self.max_side:,} on a side are accepted: send it smaller"
            )
        if min(width, height) < self.min_side:
            raise ImageTooSmallError(
                f"the image is {width} x {height} pixels; at least {self.min_side} on each side "
                "are needed to describe it"
            )


DEFAULT_LIMITS = ImageLimits()
