"""Fill the embedding cache: decode and prepare images ahead of the model, which runs in batches."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from index.building.embedding_cache import EmbeddedImage, EmbeddingCache
from index.takedowns.fingerprints import fingerprint
from index.thumbnails import thumbnail_of
from model.config import Facet
from model.errors import ImageError
from model.explain import Patches
from model.images import DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_batches
from model.sources.picture import Picture, decode_picture
from model.squares import Square
from model.views import RandomViews

BATCH = 32


class ImageEmbedder(Protocol):
    """The part of `model.embedder.Embedder` that the index uses."""

    @property
    def model_id(self) -> str:
        """Return the model's id, which changes with anything that changes an embedding."""

    @property
    def input_size(self) -> int:
        """Return the side of the backbone's input in pixels."""

    @property
    def min_decode_side(self) -> int:
        """Return the shorter side in pixels to which images may be decoded reduced."""

    @property
    def square(self) -> Square | None:
        """Return the square of an image that `preprocess` reads; None if it reads all of it."""

    def normalise(self, square: Image.Image) -> torch.Tensor:
        """Return the pixels of a `square` for `embed_pixels`."""

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        """Return the pixels of an RGB image for `embed_pixels`."""

    def embed(self, images: Sequence[Image.Image]) -> dict[Facet, NDArray[np.float32]]:
        """Return an (N, D) float32 matrix of unit vectors for each facet."""

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict[Facet, NDArray[np.float32]]:
        """Embed images that `preprocess` prepared; see `embed`."""

    def embed_with_patches(
        self, pixels: Sequence[torch.Tensor]
    ) -> tuple[dict[Facet, NDArray[np.float32]], list[Patches]]:
        """Embed as `embed_pixels` does, and return the patches for `contributions`."""

    def contributions(
        self, facet: Facet, pictures: Sequence[Patches], others: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return each image's cosine with its vector by region: (N, G, G) from (N, D)."""

    def view_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image that the backbone sees: left, top, right, bottom."""


class EmbedFiles(Protocol):
    """A function that fills the cache, such as `embed_files`."""

    def __call__(
        self,
        cache: EmbeddingCache,
        files: "Sequence[ImageFile]",
        embedder: ImageEmbedder,
        *,
        workers: int = 0,
        limits: ImageLimits = DEFAULT_LIMITS,
        progress: Callable[[int, int], None] | None = None,
    ) -> "EmbeddingReport":
        """See `embed_files`."""


@dataclass(frozen=True)
class ImageFile:
    """A picture to embed: as it is, or one augmented view of it."""

    picture: Picture
    sha256: str
    view: int | None = None

    @property
    def key(self) -> str:
        """Return its key in the cache."""
        return self.sha256 if self.view is None else f"{self.sha256}/view-{self.view}"


@dataclass(frozen=True)
class Prepared:
    """A file that is ready for the forward pass."""

    file: ImageFile
    width: int
    height: int
    thumbnail: bytes
    fingerprint: bytes
    pixels: torch.Tensor


@dataclass(frozen=True)
class EmbeddingReport:
    """Result of `embed_files`."""

    embedded: int
    unreadable: dict[str, str]  # cache key -> reason


def embed_files(
    cache: EmbeddingCache,
    files: Sequence[ImageFile],
    embedder: ImageEmbedder,
    *,
    workers: int = 0,
    limits: ImageLimits = DEFAULT_LIMITS,
    progress: Callable[[int, int], None] | None = None,
) -> EmbeddingReport:
    """Embed the files that the cache lacks; each batch is stored at once.

    Args:
        cache: of the embedder's model.
        files: to embed.
        embedder: the model.
        workers: threads that prepare images, and processes that decode them; at least one.
        limits: limits on an image's size.
        progress: called with (done, total), counting the files that the cache lacked.
    """
    by_key = {file.key: file for file in files}
    todo = [by_key[key] for key in cache.missing(by_key)]
    batches = prepare_batches(todo, Preparer(embedder, limits), batch=BATCH, workers=workers)
    unreadable: dict[str, str] = {}
    done = 0
    for batch in batches:
        images, failed = embed_prepared(batch, embedder)
        cache.add(images)
        unreadable |= failed
        done += len(batch)
        if progress:
            progress(done, len(todo))
    return EmbeddingReport(embedded=len(todo) - len(unreadable), unreadable=unreadable)


def embed_prepared(
    batch: "Sequence[Prepared | tuple[str, str]]", embedder: ImageEmbedder
) -> tuple[list[EmbeddedImage], dict[str, str]]:
    """Run one forward pass over files that a `Preparer` prepared.

    Returns:
        The embedded images, and the failed files as cache key -> reason.
    """
    prepared = [item for item in batch if isinstance(item, Prepared)]
    failed = dict(item for item in batch if not isinstance(item, Prepared))
    if not prepared:
        return [], failed
    vectors = embedder.embed_pixels([item.pixels for item in prepared])
    images = [
        EmbeddedImage(
            key=item.file.key,
            width=item.width,
            height=item.height,
            thumbnail=item.thumbnail,
            fingerprint=item.fingerprint,
            vectors={facet: matrix[i] for facet, matrix in vectors.items()},
        )
        for i, item in enumerate(prepared)
    ]
    return images, failed


class Preparer:
    """Decodes files for the forward pass; returns (key, reason) for a file it cannot read."""

    def __init__(self, embedder: ImageEmbedder, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self._preprocess = embedder.preprocess
        self._limits = limits
        self._views = RandomViews(1, embedder.input_size)

    def __call__(self, file: ImageFile) -> "Prepared | tuple[str, str]":
        """Read, check and decode one file; safe in several threads."""
        try:
            decoded = decode_picture(file.picture, self._limits)
        except ImageError as error:
            return file.key, str(error)
        if decoded.sha256 != file.sha256:  # else another image would be cached under this hash
            return file.key, "the file changed while it was read; run the rebuild again"
        image = decoded.pixels
        width, height = image.size
        if file.view is None:
            small = thumbnail_of(image)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=85)
            return Prepared(
                file,
                width,
                height,
                buffer.getvalue(),
                fingerprint(small),
                self._preprocess(image),
            )
        view = self._views.view(image, file.sha256, file.view)
        return Prepared(file, width, height, b"", b"", self._preprocess(view))
