"""Images that are read in several squares: the strongest evidence of each concept counts.

Every square is ranked by itself (`index.answering.ranking`), and a concept's score is the highest
of its scores. The highest of several scores is high by chance more often than one is, which
`Calibration.of_best` takes into account.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from index.answering.ranking import Doubles, Ranking
from index.building.embedding import ImageEmbedder
from index.stores.vectors import Floats
from model.config import Facet
from model.regions import Region, crops, parts_of


@dataclass(frozen=True)
class Squares:
    """The embedded squares of a batch of images."""

    vectors: Mapping[Facet, Floats]  # facet -> (N, D) of all squares, image by image
    parts: tuple[tuple[Region, ...], ...]  # the squares of each image, N in all


@dataclass(frozen=True, eq=False)
class Best:
    """The concepts of one image, best first, each by the square in which it scores highest."""

    scores: Doubles  # (C,) descending
    squares: NDArray[np.int64]  # (C,) which of the rankings
    places: NDArray[np.int64]  # (C,) the concept's place in it


def embed_squares(
    embedder: ImageEmbedder, images: Sequence[Image.Image], region: Region | None = None
) -> Squares:
    """Embed upright RGB images at full size, the long ones in several squares.

    Args:
        embedder: of the model.
        images: at least one.
        region: part of every image to embed; it lies in each of them.
    """
    parts = tuple(parts_of(image.size, region) for image in images)
    read = [
        crop
        for image, own in zip(images, parts, strict=True)
        for crop in crops(image, image.size, own)
    ]
    return Squares(embedder.embed(read), parts)


def seen_in(embedder: ImageEmbedder, part: Region) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of what the backbone sees of a part of an image."""
    left, top, right, bottom = embedder.view_box(part.width, part.height)
    return part.x + left, part.y + top, part.x + right, part.y + bottom


def compared(embedder: ImageEmbedder, parts: Sequence[Region]) -> tuple[Region, ...]:
    """Return what the backbone sees of the parts of an image, in whole pixels."""
    boxes = [[round(edge) for edge in seen_in(embedder, part)] for part in parts]
    return tuple(
        Region(left, top, right - left, bottom - top) for left, top, right, bottom in boxes
    )


def best_of(rankings: Sequence[Ranking]) -> Best:
    """Join the rankings of an image's squares; concepts of equal scores come by number."""
    if len(rankings) == 1:
        count = len(rankings[0])
        return Best(rankings[0].scores, np.zeros(count, np.int64), np.arange(count))
    numbers = np.concatenate([ranking.numbers for ranking in rankings])
    scores = np.concatenate([ranking.scores for ranking in rankings])
    squares = np.repeat(np.arange(len(rankings)), [len(ranking) for ranking in rankings])
    places = np.concatenate([np.arange(len(ranking)) for ranking in rankings])
    by_concept = np.lexsort((squares, -scores, numbers))
    first = np.ones(len(by_concept), dtype=np.bool_)
    first[1:] = np.diff(numbers[by_concept]) != 0
    best = by_concept[first]  # one of each concept, by number
    order = best[np.argsort(-scores[best], kind="stable")]
    return Best(scores[order], squares[order], places[order])
