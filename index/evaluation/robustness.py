"""Evaluate pairs with perturbed query images: recompressed, resized, cropped, as a screenshot."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from PIL import Image, ImageFilter, ImageOps

from index.evaluation.pairs import Answer, Pair, PairsReport, Scores, evaluate_pairs

Perturbation = Callable[[Image.Image], Image.Image]  # RGB to RGB
Progress = Callable[[str, int, int], None]  # (perturbation, done, total)

WINDOW, TITLE_BAR = (242, 242, 242), (58, 62, 66)  # a screenshot's greys


def unchanged(image: Image.Image) -> Image.Image:
    """Return the image itself."""
    return image


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Compress an image as JPEG and decode it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as again:
        return again.convert("RGB")


def half_size(image: Image.Image) -> Image.Image:
    """Halve both sides."""
    size = max(1, image.width // 2), max(1, image.height // 2)
    return image.resize(size, Image.Resampling.BICUBIC)


def fit_within(image: Image.Image, side: int) -> Image.Image:
    """Reduce to a longest side of ``side`` pixels; a smaller image is unchanged."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return small


def crop(image: Image.Image, share: float) -> Image.Image:
    """Crop a share of the width and of the height, half of it at each edge."""
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def screenshot(image: Image.Image) -> Image.Image:
    """Add a window as in a screenshot: a light border all around, a dark bar above."""
    margin = max(2, round(max(image.size) * 0.06))
    window = Image.new("RGB", (image.width + 2 * margin, image.height + 3 * margin), WINDOW)
    window.paste(TITLE_BAR, (0, 0, window.width, margin))
    window.paste(image, (margin, 2 * margin))
    return window


def blur(image: Image.Image) -> Image.Image:
    """Blur by a Gaussian with a radius of 1/256 of the longest side."""
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 256))


PERTURBATIONS: Mapping[str, Perturbation] = {
    "clean": unchanged,
    "jpeg 80": partial(jpeg, quality=80),
    "jpeg 50": partial(jpeg, quality=50),
    "jpeg 30": partial(jpeg, quality=30),
    "half size": half_size,
    "128 px": partial(fit_within, side=128),
    "20% crop": partial(crop, share=0.2),
    "flip": ImageOps.mirror,
    "screenshot": screenshot,
    "blur": blur,
}


@dataclass(frozen=True)
class RobustnessRow:
    """Metrics of `evaluate_pairs` under one perturbation."""

    perturbation: str
    macro: Scores
    by_kind: dict[str, Scores]
    attributed_correctly: float
    false_attribution_rate: float | None
    failed: int

    @classmethod
    def of(cls, perturbation: str, report: PairsReport) -> "RobustnessRow":
        """Make the row of a report."""
        return cls(
            perturbation=perturbation,
            macro=report.macro,
            by_kind=report.by_kind,
            attributed_correctly=report.attributed_correctly,
            false_attribution_rate=report.false_attribution_rate,
            failed=report.failed,
        )


@dataclass(frozen=True)
class RobustnessReport:
    """Result of `evaluate_robustness`."""

    rows: list[RobustnessRow]  # the clean one first

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)


def evaluate_robustness(
    pairs: Sequence[Pair],
    ask: Callable[[Perturbation, Sequence[Pair]], Iterable[Answer]],
    progress: Progress | None = None,
) -> RobustnessReport:
    """Ask every query under every perturbation, one perturbation after the other.

    Args:
        pairs: from `index.evaluation.pairs.read_pairs`.
        ask: answers pairs in order, each query image perturbed.
        progress: called with (perturbation, queries done, queries in all).
    """
    report = progress or (lambda *_: None)
    return RobustnessReport(
        [
            RobustnessRow.of(
                name, evaluate_pairs(pairs, partial(ask, perturb), partial(report, name))
            )
            for name, perturb in PERTURBATIONS.items()
        ]
    )
