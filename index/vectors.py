"""The exemplars' embeddings, one set a facet: the `VectorStore` protocol and its FAISS form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import SnapshotError
from index.inverted import read_inverted
from model.config import Facet

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

CANDIDATES = 4  # codes of an inverted file that are ranked exactly, for each hit asked for
SELECTIVE = 0.1  # part of all rows; where more candidates are needed, exact search is as good


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


@dataclass(frozen=True)
class Inverted:
    """A facet's inverted file, and how many of its lists a search looks into."""

    index: faiss.IndexIVF
    probes: int


class FaissStore:
    """Inner product over memory-mapped vectors: exact, or by an inverted file and then exactly.

    Args:
        indexes: each facet's vectors.
        inverted: the inverted file of those facets that have one.
    """

    def __init__(
        self, indexes: Mapping[Facet, faiss.Index], inverted: Mapping[Facet, Inverted] | None = None
    ) -> None:
        self._indexes = dict(indexes)
        self._inverted = dict(inverted or {})
        counts = {index.ntotal for index in self._indexes.values()}
        counts |= {inverted.index.ntotal for inverted in self._inverted.values()}
        if len(counts) != 1:
            raise SnapshotError(
                f"the facets' vectors disagree in number ({sorted(counts)}); run `whence rebuild`"
            )
        self.count = int(counts.pop())

    @classmethod
    def open(
        cls, folder: Path, facets: Sequence[Facet], probes: Mapping[Facet, int] | None = None
    ) -> "FaissStore":
        """Map the vectors of a snapshot into memory; processes that do share it.

        Args:
            folder: of the snapshot.
            facets: that it has.
            probes: lists to look into, of those facets that have an inverted file.

        Raises:
            SnapshotError: a file is missing or is not a FAISS index.
        """
        indexes = {facet: _read(folder / file_name(facet)) for facet in facets}
        inverted = {
            facet: Inverted(read_inverted(folder / inverted_name(facet)), count)
            for facet, count in (probes or {}).items()
        }
        return cls(indexes, inverted)

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
        inverted = self._inverted.get(facet)
        if inverted and CANDIDATES * k <= self.count * SELECTIVE:
            return self._search_inverted(inverted, facet, queries, k, mask)
        parameters = faiss.SearchParameters(sel=mask.selector) if mask else None  # type: ignore[call-arg]
        similarities, rows = self._indexes[facet].search(queries, k, params=parameters)
        return similarities, rows

    def _search_inverted(
        self, inverted: Inverted, facet: Facet, queries: Floats, k: int, mask: Mask | None
    ) -> tuple[Floats, Rows]:
        chosen = {"sel": mask.selector} if mask else {}
        # With the search, never on the index: other threads search it, too.
        parameters = faiss.SearchParametersIVF(nprobe=inverted.probes, **chosen)  # type: ignore[call-arg]
        candidates = inverted.index.search(queries, CANDIDATES * k, params=parameters)[1]
        similarities = np.full((len(queries), k), -1, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for i, query in enumerate(queries):
            near = candidates[i][candidates[i] >= 0]
            exact = self.vectors(facet, near) @ query
            best = np.argsort(-exact, kind="stable")[:k]
            similarities[i, : len(best)], rows[i, : len(best)] = exact[best], near[best]
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


def _read(path: Path) -> faiss.Index:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise SnapshotError(f"the vectors {path} cannot be read; run `whence rebuild`") from error


def inverted_name(facet: Facet) -> str:
    """The file of a facet's inverted file, where there is one."""
    return f"{facet}.ivf.faiss"


def file_name(facet: Facet) -> str:
    """The file of a facet's vectors."""
    return f"{facet}.faiss"
