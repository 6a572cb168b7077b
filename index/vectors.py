"""The exemplars' embeddings, one set a facet: the `VectorStore` protocol and its FAISS form."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import SnapshotError
from model.config import Facet

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Mask:
    """Rows that a search passes over.

    Args:
        hidden: (H,) their numbers, in any order.
        count: rows in all.
    """

    def __init__(self, hidden: Rows, count: int) -> None:
        self.visible = np.ones(count, dtype=np.bool_)  # (count,)
        self.visible[hidden] = False
        self.remaining = int(self.visible.sum())

    @cached_property
    def selector(self) -> faiss.IDSelector:
        """The visible rows for FAISS; passed with a search and never changed."""
        return faiss.IDSelectorBitmap(np.packbits(self.visible, bitorder="little"))  # type: ignore[call-arg,arg-type]


class VectorStore(Protocol):
    """Nearest neighbours by inner product of unit vectors; rows are those of the catalog."""

    @property
    def count(self) -> int:
        """Rows of each facet."""

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


class FaissStore:
    """Exact inner product in memory, one FAISS index a facet."""

    def __init__(self, indexes: Mapping[Facet, faiss.Index]) -> None:
        self._indexes = dict(indexes)
        counts = {index.ntotal for index in self._indexes.values()}
        if len(counts) != 1:
            raise SnapshotError(
                f"the facets' vectors disagree in number ({sorted(counts)}); run `whence rebuild`"
            )
        self.count = int(counts.pop())

    @classmethod
    def open(cls, folder: Path, facets: Sequence[Facet]) -> "FaissStore":
        """Open the vectors of a snapshot.

        Raises:
            SnapshotError: a file is missing or is not a FAISS index.
        """
        indexes = {}
        for facet in facets:
            path = folder / file_name(facet)
            try:
                indexes[facet] = faiss.read_index(str(path))
            except RuntimeError as error:
                raise SnapshotError(
                    f"the vectors {path} cannot be read; run `whence rebuild`"
                ) from error
        return cls(indexes)

    def dimension(self, facet: Facet) -> int:
        """Length of a facet's vectors."""
        return int(self._indexes[facet].d)

    def search(
        self, facet: Facet, queries: Floats, k: int, mask: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """See `VectorStore.search`."""
        queries = self._checked(facet, queries)
        # FAISS pads short results with row -1; asking for no more than there is avoids it.
        k = min(k, mask.remaining if mask else self.count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        parameters = faiss.SearchParameters(sel=mask.selector) if mask else None  # type: ignore[call-arg]
        similarities, rows = self._indexes[facet].search(queries, k, params=parameters)
        return similarities, rows

    def vectors(self, facet: Facet, rows: Rows) -> Floats:
        """See `VectorStore.vectors`."""
        vectors: Floats = self._indexes[facet].reconstruct_batch(rows)
        return vectors

    def similarities(self, facet: Facet, query: Floats, rows: Rows) -> Floats:
        """See `VectorStore.similarities`."""
        self._checked(facet, query[None])
        return self.vectors(facet, rows) @ query

    def _checked(self, facet: Facet, queries: Floats) -> Floats:
        # FAISS answers a wrong dimension with an assertion that says nothing.
        if queries.ndim != 2 or queries.shape[1] != self.dimension(facet):
            raise SnapshotError(
                f"the {facet} query has shape {queries.shape}, the index holds vectors of length "
                f"{self.dimension(facet)}; index and model do not belong together: run "
                "`whence rebuild`"
            )
        return np.ascontiguousarray(queries, dtype=np.float32)


def write_vectors(folder: Path, facet: Facet, vectors: Floats) -> Path:
    """Write one facet's (N, D) unit vectors for `FaissStore.open`.

    Raises:
        SnapshotError: a vector is not finite or not of unit norm.
    """
    norms = np.linalg.norm(vectors, axis=1)
    # NaN fails the comparison, too.
    wrong = np.flatnonzero(~(np.abs(norms - 1) < 1e-3))
    if len(wrong):
        raise SnapshotError(
            f"{len(wrong)} {facet} embeddings are not unit vectors (the first is row {wrong[0]}); "
            "the model is damaged or its features are constant: train it again"
        )
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    path = folder / file_name(facet)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's own; it names the cause at its end
        raise OSError(f"{path}: {error}") from error
    return path


def file_name(facet: Facet) -> str:
    """The file of a facet's vectors."""
    return f"{facet}.faiss"
