"""Vectors of many images in memory-mapped files; those of image files are resumed after a kill.

    <folder>/<key>/images.json         the images' names, in the order of the rows
    <folder>/<key>/<facet>.npy         (N, D) float32, a row an image
    <folder>/<key>/state.npy           (N,) uint8: 0 pending, 1 embedded, 2 not a readable image
    <folder>/<key>/unreadable.jsonl    row and reason of each image of state 2

Evaluation's galleries of a million images need no thumbnails and no catalog, so they bypass the
embedding cache of a rebuild.
"""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.lib.format import open_memmap

from index.answering.ranking import Embeddings
from index.building.embedding import ImageEmbedder
from index.errors import EvaluationError
from index.stores.vectors import Floats, Rows
from model.config import Facet
from model.errors import ImageError
from model.folders import Skipped
from model.images import DECODING, DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_batches
from model.regular_files import shown
from model.sources.picture import Picture, decode_picture

PENDING, EMBEDDED, UNREADABLE = 0, 1, 2
STATE, IMAGES, REASONS = "state.npy", "images.json", "unreadable.jsonl"

UNREAD = "the file could not be read"  # beginning of a reason

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
            whole = rows[-1] - rows[0] == len(rows) - 1
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
    """Embed those images that have no embedding yet, and try again to read files that could not be.

    Every batch is written before it is marked as done, so that a killed run loses one batch at
    most and the next run writes the same files.

    Args:
        folder: of the embedder's model; holds any number of such sets, keyed by the images' names
            and stamps.
        images: without repeats.
        embedder: the model.
        workers: threads that prepare images, and processes that decode them; at least one.
        limits: limits on an image's size.
        progress: called with (images done, images in all).

    Raises:
        EvaluationError: an image is missing, or an embedding is not a unit vector.
    """
    place = folder / _key(images, limits)
    place.mkdir(parents=True, exist_ok=True)
    _replace(place / IMAGES, json.dumps([shown(one.address) for one in images], indent=0).encode())
    if not (place / STATE).exists():
        fresh = io.BytesIO()
        np.save(fresh, np.full(len(images), PENDING, dtype=np.uint8))
        _replace(place / STATE, fresh.getvalue())
    state = open_memmap(place / STATE, mode="r+")
    for row, reason in _reasons(place).items():
        # Permissions and disks are mended without a change of the file.
        if state[row] == UNREADABLE and reason.startswith(UNREAD):
            state[row] = PENDING
    _embed_pending(place, images, state, embedder, workers, limits, progress)
    vectors: dict[Facet, Floats] = {
        facet: np.load(place / f"{facet}.npy", mmap_mode="r")
        for facet in get_args(Facet)
        if (place / f"{facet}.npy").exists()
    }
    return ImageFeatures(
        key=place.name,
        vectors=vectors,
        rows=np.flatnonzero(state == EMBEDDED),
        images=images,
        unreadable=_unreadable(place, images, state),
    )


def _embed_pending(
    place: Path,
    images: Sequence[Picture],
    state: "np.memmap[tuple[int, ...], np.dtype[np.uint8]]",
    embedder: ImageEmbedder,
    workers: int,
    limits: ImageLimits,
    progress: Progress | None,
) -> None:
    pending: Rows = np.flatnonzero(state == PENDING)
    done = len(images) - len(pending)
    started = bool((state == EMBEDDED).any())
    batches = prepare_batches(
        (images[row] for row in pending), _Pixels(embedder, limits), batch=BATCH, workers=workers
    )
    maps: dict[Facet, np.memmap[tuple[int, ...], np.dtype[np.float32]]] = {}
    for batch in batches:
        rows, pending = pending[: len(batch)], pending[len(batch) :]
        readable = np.array([not isinstance(pixels, str) for pixels in batch])
        if readable.any():
            made = embedder.embed_pixels([one for one in batch if not isinstance(one, str)])
            for facet, vectors in made.items():
                _require_unit(facet, vectors)
                if facet not in maps:
                    maps[facet] = open_memmap(
                        place / f"{facet}.npy",
                        # A file from before the first finished batch is written anew.
                        mode="r+" if started else "w+",
                        dtype=np.float32,
                        shape=(len(images), vectors.shape[1]),
                    )
                maps[facet][rows[readable]] = vectors
                maps[facet].flush()
            started = True
        if not readable.all():
            faults = zip(rows.tolist(), batch, strict=True)
            _note(place / REASONS, [(row, one) for row, one in faults if isinstance(one, str)])
        state[rows] = np.where(readable, EMBEDDED, UNREADABLE)
        state.flush()
        done += len(batch)
        if progress:
            progress(done, len(images))


class _Pixels:
    """Prepares an image's pixels, or the reason why it cannot be read; safe in several threads."""

    def __init__(self, embedder: ImageEmbedder, limits: ImageLimits) -> None:
        self._limits = limits
        self._preprocess = embedder.preprocess

    def __call__(self, image: Picture) -> torch.Tensor | str:
        """Read, decode and preprocess one image."""
        try:
            return self._preprocess(decode_picture(image, self._limits).pixels)
        except ImageError as error:
            return str(error)


def _note(path: Path, faults: Sequence[tuple[int, str]]) -> None:
    """Append rows and reasons; a row may be listed more than once."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(fault) + "\n" for fault in faults)
        file.flush()
        os.fsync(file.fileno())


def _unreadable(
    place: Path,
    images: Sequence[Picture],
    state: "np.memmap[tuple[int, ...], np.dtype[np.uint8]]",
) -> list[Skipped]:
    reasons = _reasons(place)
    rows = np.flatnonzero(state == UNREADABLE).tolist()
    return [
        Skipped(shown(images[row].address), reasons.get(row, "not a readable image"))
        for row in rows
    ]


def _reasons(place: Path) -> dict[int, str]:
    """Return the last reason noted for each row."""
    path, reasons = place / REASONS, dict[int, str]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a line that a kill cut short
            row, reason = json.loads(line)
            reasons[row] = reason
    return reasons


def _require_unit(facet: Facet, vectors: Floats) -> None:
    # NaN fails the comparison, too.
    wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if wrong.any():
        raise EvaluationError(
            f"{int(wrong.sum())} {facet} embeddings are not unit vectors; the model is damaged or "
            "its features are constant: train it again"
        )


def _key(images: Sequence[Picture], limits: ImageLimits) -> str:
    """Return a hash of the images' names and stamps, and of the decoding."""
    digest = hashlib.sha256(f"{DECODING}\0{limits}\n".encode())
    for one in images:
        try:
            digest.update(f"{shown(one.address)}\0{one.stamp.text}\n".encode())
        except OSError as error:
            raise EvaluationError(
                f"the image {shown(one.address)} cannot be read: {error.strerror}"
            ) from error
    return digest.hexdigest()[:16]


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)
