"""Embeddings of many image files in memory-mapped files, resumed after a kill and shared by runs.

    <folder>/<key>/images.json     the files' paths, in the order of the rows
    <folder>/<key>/<facet>.npy     (N, D) float32, a row an image
    <folder>/<key>/state.npy       (N,) uint8: 0 pending, 1 embedded, 2 not a readable image

Evaluation's galleries of a million images need no thumbnails and no catalog, so they bypass the
embedding cache of a rebuild.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from index.answering.ranking import Embeddings
from index.building.embedding import ImageEmbedder
from index.errors import EvaluationError
from index.stores.vectors import Floats, Rows
from model.config import Facet
from model.errors import ImageError
from model.images import DECODING, DEFAULT_LIMITS, ImageLimits, read_image

PENDING, EMBEDDED, UNREADABLE = 0, 1, 2
STATE, IMAGES = "state.npy", "images.json"

BATCH = 64  # images between two writes
BLOCK = 16_384  # rows read at a time

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class ImageFeatures:
    """Embeddings of N image files.

    Attributes:
        folder: of these files.
        images: the image files, one a row.
        readable: (N,) True if the file could be decoded; the other rows hold zeros.
        vectors: facet -> (N, D) float32 memory map of unit vectors.
    """

    folder: Path
    images: Sequence[Path]
    readable: NDArray[np.bool_]
    vectors: dict[Facet, Floats]

    @property
    def count(self) -> int:
        """Return the number of images that have an embedding."""
        return int(self.readable.sum())

    @property
    def unreadable(self) -> list[Path]:
        """Return the files that have no embedding."""
        return [self.images[row] for row in np.flatnonzero(~self.readable).tolist()]

    def take(self, rows: Rows) -> Embeddings:
        """Load the embeddings of some rows: facet -> (R, D)."""
        return {facet: np.asarray(vectors[rows]) for facet, vectors in self.vectors.items()}

    def blocks(self, size: int = BLOCK) -> Iterator[Embeddings]:
        """Yield all embeddings in order, in blocks: facet -> (at most ``size``, D)."""
        for start in range(0, len(self.images), size):
            readable = self.readable[start : start + size]
            block = {facet: v[start : start + size] for facet, v in self.vectors.items()}
            yield block if readable.all() else {f: v[readable] for f, v in block.items()}


def embed_images(
    folder: Path,
    images: Sequence[Path],
    embedder: ImageEmbedder,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImageFeatures:
    """Embed those image files that have no embedding yet.

    Every batch is written before it is marked as done, so that a killed run loses one batch at
    most and the next run writes the same files.

    Args:
        folder: of the embedder's model; holds any number of such sets, keyed by the files' paths,
            sizes and times.
        images: the files, without repeats.
        embedder: the model.
        workers: processes that decode; 0 decodes in this one.
        limits: limits on an image's size.
        progress: called with (images done, images in all).

    Raises:
        EvaluationError: a file is missing, none is a readable image, or an embedding is not a unit
            vector.
    """
    place = folder / _key(images, limits)
    place.mkdir(parents=True, exist_ok=True)
    _replace(place / IMAGES, json.dumps([str(path) for path in images], indent=0).encode())
    if not (place / STATE).exists():
        fresh = io.BytesIO()
        np.save(fresh, np.full(len(images), PENDING, dtype=np.uint8))
        _replace(place / STATE, fresh.getvalue())
    state = open_memmap(place / STATE, mode="r+")
    _embed_pending(place, images, state, embedder, workers, limits, progress)
    readable = np.asarray(state) == EMBEDDED
    if not readable.any():
        raise EvaluationError(
            f"none of the {len(images)} images could be read, such as {images[0]}"
        )
    vectors: dict[Facet, Floats] = {
        facet: np.load(place / f"{facet}.npy", mmap_mode="r")
        for facet in get_args(Facet)
        if (place / f"{facet}.npy").exists()
    }
    return ImageFeatures(place, images, readable, vectors)


def _embed_pending(
    place: Path,
    images: Sequence[Path],
    state: "np.memmap[tuple[int, ...], np.dtype[np.uint8]]",
    embedder: ImageEmbedder,
    workers: int,
    limits: ImageLimits,
    progress: Progress | None,
) -> None:
    pending: Rows = np.flatnonzero(state == PENDING)
    done = len(images) - len(pending)
    started = bool((state == EMBEDDED).any())
    loader = DataLoader(
        _Pixels([images[row] for row in pending], embedder, limits),
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=list,
    )
    maps: dict[Facet, np.memmap[tuple[int, ...], np.dtype[np.float32]]] = {}
    for batch in loader:
        rows, pending = pending[: len(batch)], pending[len(batch) :]
        readable = np.array([pixels is not None for pixels in batch])
        if readable.any():
            made = embedder.embed_pixels([pixels for pixels in batch if pixels is not None])
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
        state[rows] = np.where(readable, EMBEDDED, UNREADABLE)
        state.flush()
        done += len(batch)
        if progress:
            progress(done, len(images))


class _Pixels(Dataset["torch.Tensor | None"]):
    """The preprocessed pixels of each file, or None if it is not a readable image."""

    def __init__(
        self, images: Sequence[Path], embedder: ImageEmbedder, limits: ImageLimits
    ) -> None:
        self._limits = limits
        self._images = images
        self._preprocess = embedder.preprocess

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor | None:
        try:
            return self._preprocess(read_image(self._images[index], self._limits).pixels)
        except ImageError:
            return None


def _require_unit(facet: Facet, vectors: Floats) -> None:
    # NaN fails the comparison, too.
    wrong = ~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-3)
    if wrong.any():
        raise EvaluationError(
            f"{int(wrong.sum())} {facet} embeddings are not unit vectors; the model is damaged or "
            "its features are constant: train it again"
        )


def _key(images: Sequence[Path], limits: ImageLimits) -> str:
    """Returns a hash of the files' paths, sizes and times, and of the decoding."""
    digest = hashlib.sha256(f"{DECODING}\0{limits}\n".encode())
    for path in images:
        try:
            stat = path.stat()
        except OSError as error:
            raise EvaluationError(f"the image {path} cannot be read: {error.strerror}") from error
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.replace(path)
