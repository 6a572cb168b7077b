"""Vectors of many images by their content, kept between runs and resumed after a kill.

    <folder>/hashes.sqlite    SHA-256 of the images' files, by address and stamp
    <folder>/<key>/           a `model.content_bank.ContentBank` with an array for each facet

An image that was embedded is found again under any name, in any folder or shard, and beside any
other images. Evaluation's galleries of a million images need no thumbnails and no catalog, so they
bypass the embedding cache of a rebuild.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from index.answering.ranking import Embeddings
from index.building.embedding import ImageEmbedder
from index.errors import EvaluationError
from index.stores.vectors import Floats, Rows
from model.config import Facet
from model.content_bank import ContentBank
from model.errors import ImageError
from model.folders import Skipped
from model.images import DECODING, DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_batches
from model.regular_files import shown
from model.sources.hashes import hash_pictures
from model.sources.picture import Picture, Refusal, decode_picture

BATCH = 64  # images between two writes
BLOCK = 16_384  # rows read at a time

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class Features:
    """Unit vectors of N images.

    Attributes:
        key: names the vectors: other vectors have another key.
        vectors: facet -> (M, D) memory map of unit vectors.
        rows: (N,) the rows that are used.
    """

    key: str
    vectors: dict[Facet, Floats]
    rows: Rows

    @property
    def count(self) -> int:
        """Return N."""
        return len(self.rows)

    def take(self, places: Rows) -> Embeddings:
        """Load the vectors of some of the images: facet -> (P, D).

        Args:
            places: (P,) from 0 to N - 1.
        """
        return self._load(self.rows[places])

    def blocks(self, size: int = BLOCK) -> Iterator[Embeddings]:
        """Yield all vectors in order, in blocks: facet -> (at most ``size``, D)."""
        for start in range(0, self.count, size):
            rows = self.rows[start : start + size]
            # A slice of a memory map is not copied.
            whole = np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows)))
            yield self._load(slice(int(rows[0]), int(rows[-1]) + 1) if whole else rows)

    def _load(self, rows: Rows | slice) -> Embeddings:
        return {facet: np.asarray(vectors[rows]) for facet, vectors in self.vectors.items()}


@dataclass(frozen=True)
class ImageFeatures(Features):
    """Embeddings of images; images that are not readable are not among the N.

    Attributes:
        images: all M of them.
        unreadable: the images without an embedding, and the reason.
    """

    images: Sequence[Picture]
    unreadable: list[Skipped]


def embed_images(
    folder: Path,
    images: Sequence[Picture],
    embedder: ImageEmbedder,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImageFeatures:
    """Embed those images whose content has no embedding yet.

    Every batch is written before it is marked as done, so that a killed run loses one batch at
    most. Images that could not be read or decoded for another reason than their content are tried
    again by each run.

    Args:
        folder: of the embedder's model; holds the embeddings of any number of images.
        images: without repeats.
        embedder: the model.
        workers: threads that prepare images, and processes that decode them; at least one.
        limits: limits on an image's size.
        progress: called with (images done, images in all).

    Raises:
        EvaluationError: an image is missing, or an embedding is not a unit vector.
        SourceError: a remote place failed.
    """
    hashes = hash_pictures(folder, images, limits=limits, workers=workers, progress=progress)
    recipe = hashlib.sha256(f"{DECODING}\0{limits}".encode()).hexdigest()[:16]
    with ContentBank(folder / recipe) as bank:
        failed = _embed_missing(bank, images, hashes, embedder, workers, limits, progress)
        rows = bank.rows(sha256 for sha256 in hashes if sha256)
        arrays = bank.arrays()
    places = [
        rows.get(sha256, failed.get(sha256, CHANGED)) if sha256 else None for sha256 in hashes
    ]
    key = hashlib.sha256(recipe.encode())
    for sha256 in hashes:
        key.update(f"{sha256}\n".encode())
    return ImageFeatures(
        key=key.hexdigest()[:16],
        vectors={facet: arrays[facet] for facet in get_args(Facet) if facet in arrays},
        rows=np.array([row for row in places if isinstance(row, int)], dtype=np.int64),
        images=images,
        unreadable=[
            Skipped(shown(one.address), row or _why_unreadable(one, limits))
            for one, row in zip(images, places, strict=True)
            if not isinstance(row, int)
        ],
    )


CHANGED = "the file changed while it was read; run the command again"


def _why_unreadable(image: Picture, limits: ImageLimits) -> str:
    """Returns the reason for which a picture's bytes cannot be read.

    Raises:
        EvaluationError: there is no such file any more.
    """
    try:
        image.stamp  # noqa: B018 - it tells whether the file is there
        decode_picture(image, limits)
    except ImageError as error:
        return str(error)
    except OSError as error:
        raise EvaluationError(
            f"the image {shown(image.address)} cannot be read: {error.strerror}"
        ) from error
    return CHANGED


def _embed_missing(
    bank: ContentBank,
    images: Sequence[Picture],
    hashes: Sequence[str | None],
    embedder: ImageEmbedder,
    workers: int,
    limits: ImageLimits,
    progress: Progress | None,
) -> dict[str, str]:
    """Embed the images whose content the bank lacks.

    Returns:
        The reason for each that could not be decoded now, but may be in another run, by SHA-256.
    """
    failed: dict[str, str] = {}
    first = {sha256: place for place, sha256 in reversed(list(enumerate(hashes))) if sha256}
    known = bank.rows(first)
    todo = sorted(place for sha256, place in first.items() if sha256 not in known)
    done = len(images) - len(todo)
    batches = prepare_batches(
        (images[place] for place in todo),
        _Pixels(embedder, limits),
        batch=BATCH,
        workers=workers,
    )
    for batch in batches:
        places, todo = todo[: len(batch)], todo[len(batch) :]
        readable: dict[str, torch.Tensor] = {}
        reasons: dict[str, str] = {}
        for place, item in zip(places, batch, strict=True):
            sha256 = hashes[place]
            assert sha256
            if isinstance(item, Refusal):
                (reasons if item.lasting else failed)[sha256] = item.reason
            elif item[0] == sha256:  # else it changed, and another image would have its place
                readable[sha256] = item[1]
        if readable:
            made = embedder.embed_pixels(list(readable.values()))
            for facet, vectors in made.items():
                _require_unit(facet, vectors)
            bank.add(list(readable), dict(made.items()))
        bank.refuse(reasons)
        done += len(batch)
        if progress:
            progress(done, len(images))
    return failed


class _Pixels:
    """Prepares an image's hash and pixels, or the reason why it cannot be decoded.

    Safe in several threads.
    """

    def __init__(self, embedder: ImageEmbedder, limits: ImageLimits) -> None:
        self._limits = limits
        self._preprocess = embedder.preprocess

    def __call__(self, image: Picture) -> tuple[str, torch.Tensor] | Refusal:
        """Read, decode and preprocess one image."""
        try:
            decoded = decode_picture(image, self._limits)
        except ImageError as error:
            return Refusal(str(error), error.lasting)
        return decoded.sha256, self._preprocess(decoded.pixels)


def _require_unit(facet: Facet, vectors: Floats) -> None:
    # NaN fails the comparison, too.
    wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if wrong.any():
        raise EvaluationError(
            f"{int(wrong.sum())} {facet} embeddings are not unit vectors; the model is damaged or "
            "its features are constant: train it again"
        )
