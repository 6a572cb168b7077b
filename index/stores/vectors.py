"""Protocols of a store of the exemplars' embeddings, one set of vectors a facet.

A `VectorEngine` keeps the vectors of versions: it takes those of a version that is being built
(`VectorWriter`), opens them (`VectorStore`), and follows what is published and removed. Engines
are in modules of their own, and `index.stores.registry` finds them by address.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from index.errors import SnapshotError
from model.config import Facet

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

IndexType = Literal["auto", "exact", "ivf"]

ADDRESS = "store.txt"  # in a version's folder: the store of its vectors, if they lie elsewhere
ADDRESSES = (ADDRESS, "milvus.txt")  # the second is of earlier versions of Whence
ERASED = "erased.json"  # in a version's folder: rows whose vectors were deleted


class Mask:
    """Rows that a search passes over.

    Args:
        hidden: (H,) their numbers, in any order.
        count: rows in all.
    """

    def __init__(self, hidden: Rows, count: int) -> None:
        self.hidden = hidden
        self.visible = np.ones(count, dtype=np.bool_)  # (count,)
        self.visible[hidden] = False
        self.remaining = int(self.visible.sum())

    @cached_property
    def bitmap(self) -> NDArray[np.uint8]:
        """(count / 8, rounded up) the visible rows, a bit each, the lowest bit first."""
        return np.packbits(self.visible, bitorder="little")


class VectorStore(Protocol):
    """Nearest neighbours by inner product of unit vectors; rows are those of the catalog.

    Where the vectors are elsewhere, all of it but `erased` raises `VectorStoreUnavailableError`
    while they cannot be reached, and answers again, without being opened anew, once they can.
    """

    @property
    def count(self) -> int:
        """Rows of each facet, erased ones included."""

    @property
    def erased(self) -> Rows:
        """Rows whose vectors are gone for good, ascending; they must be hidden from searches."""

    def check(self) -> None:
        """Return if it can be searched now."""

    def erase(self, rows: Rows) -> None:
        """Delete the vectors of withdrawn rows, where the store can; a mask hides them anyway."""

    def dimension(self, facet: Facet) -> int:
        """Length of a facet's vectors."""

    def search(
        self, facet: Facet, queries: Floats, k: int, mask: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """The k nearest of each query, best first.

        Args:
            facet: which vectors to search.
            queries: (Q, D) unit vectors.
            k: no more are returned than there are visible rows.
            mask: rows to pass over.

        Returns:
            similarities (Q, k) and rows (Q, k); row -1 where an approximate search found fewer.
        """

    def vectors(self, facet: Facet, rows: Rows) -> Floats:
        """The (R, D) vectors of chosen rows (R,), exactly as they were written."""

    def similarities(self, facet: Facet, query: Floats, rows: Rows) -> Floats:
        """Exact inner products of one query (D,) with chosen rows (R,)."""

    def compare(self, facet: Facet, queries: Floats) -> Floats | None:
        """Exact inner products (Q, N) of queries with all rows; None if a search costs less."""


class VectorWriter(Protocol):
    """Takes the vectors of a version that is being built."""

    def upsert(self, rows: Rows, vectors: Mapping[Facet, Floats]) -> None:
        """Write some rows, in any order; of a row that comes twice the last counts.

        Args:
            rows: (R,) their numbers.
            vectors: facet -> (R, D) unit vectors, every facet.

        Raises:
            SnapshotError: a vector is of the wrong length, not finite or not of unit norm.
        """

    def finish(self, index_type: IndexType, asked: Mapping[Facet, Floats]) -> dict[Facet, int]:
        """Complete what was written, so that it can be opened.

        Args:
            index_type: how to search.
            asked: facet -> (Q, D) queries such as will be asked, which choose how many lists of an
                inverted file a search looks into.

        Returns:
            That number, of those facets that have an inverted file.

        Raises:
            SnapshotError: rows are missing.
        """


@dataclass(frozen=True)
class StoreAccess:
    """How stores outside the version's folder are reached."""

    token: str = field(default="", repr=False)  # a user and password, or an API key
    seconds: float = 10.0  # that a store may take to answer before it counts as gone


class VectorEngine(Protocol):
    """Keeps the vectors of versions."""

    @property
    def address(self) -> str | None:
        """What a manifest remembers of it; None if the vectors lie in the version's folder."""

    def write(
        self, folder: Path, version: str, count: int, dimensions: Mapping[Facet, int]
    ) -> VectorWriter:
        """Begin a version of ``count`` rows, whose folder is being built."""

    def open(
        self,
        folder: Path,
        version: str,
        count: int,
        dimensions: Mapping[Facet, int],
        probes: Mapping[Facet, int],
    ) -> VectorStore:
        """Open a version's vectors.

        Args:
            folder: of the version, finished or being built.
            version: its name.
            count: rows it must have.
            dimensions: lengths that its vectors must have.
            probes: what `VectorWriter.finish` returned.

        Raises:
            SnapshotError: the vectors are missing or not those.
        """

    def publish(self, version: str) -> None:
        """Follow the publication of a version, or its return."""

    def remove(self, version: str) -> None:
        """Delete what there is of a version's vectors outside its folder."""


def require_all(written: int, count: int) -> None:
    """Refuse a version that has not got all its rows.

    Raises:
        SnapshotError: fewer or more were written.
    """
    if written != count:
        raise SnapshotError(
            f"{written} of {count} vectors were written; run `whence rebuild` once more"
        )


def checked_queries(facet: Facet, queries: Floats, dimension: int) -> Floats:
    """Queries as every store wants them: (Q, D) float32, row by row.

    Raises:
        SnapshotError: they are of another length than the index's vectors.
    """
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise SnapshotError(
            f"the {facet} query has shape {queries.shape}, the index holds vectors of length "
            f"{dimension}; index and model do not belong together: run `whence rebuild`"
        )
    return np.ascontiguousarray(queries, dtype=np.float32)


def checked_vectors(facet: Facet, vectors: Floats, dimension: int) -> Floats:
    """Vectors that may be written: (N, D) of unit norm.

    Raises:
        SnapshotError: they are of another length, not finite or not of unit norm.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise SnapshotError(
            f"{facet} vectors of shape {vectors.shape} do not go among those of length {dimension}"
        )
    norms = np.linalg.norm(vectors, axis=1)
    # NaN fails the comparison, too.
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
    if len(wrong):
        raise SnapshotError(
            f"{len(wrong)} {facet} embeddings are not unit vectors (the first is row {wrong[0]}); "
            "the model is damaged or its features are constant: train it again"
        )
    return vectors


def read_erased(folder: Path) -> Rows:
    """The rows of a version whose vectors were deleted, wherever they were; none in files.

    Raises:
        SnapshotError: the file that names them cannot be read.
    """
    try:
        text = (folder / ERASED).read_text(encoding="utf-8")
        return np.asarray(json.loads(text), dtype=np.int64)
    except FileNotFoundError:
        return np.empty(0, dtype=np.int64)
    except (OSError, ValueError) as error:
        raise SnapshotError(
            f"{folder / ERASED}, which names rows that were erased, cannot be read ({error}); run "
            "`whence rebuild`"
        ) from error


def read_address(folder: Path) -> str | None:
    """Return the store that has the vectors of a version; None if they lie in its folder.

    Unlike the manifest, it is there from the first vector on, in a version that is being built.

    Raises:
        OSError: it cannot be read.
    """
    for name in ADDRESSES:
        if (folder / name).exists():
            return (folder / name).read_text(encoding="utf-8").strip()
    return None
