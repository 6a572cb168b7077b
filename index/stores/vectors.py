"""Protocols of a vector store: the exemplars' embeddings, one set of vectors a facet.

A `VectorEngine` stores the vectors of index versions: it writes those of a version that is being
built (`VectorWriter`), opens them (`VectorStore`), and is told of each publication and removal.
Engines are in modules of their own, and `index.stores.registry` finds them by address.
"""

import json
from collections.abc import Mapping, Sequence
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
Visible = NDArray[np.bool_]  # of all rows: True for those that a search may find

IndexType = Literal["auto", "exact", "ivf"]

ADDRESS = "store.txt"  # in a version's folder: the address of the remote store of its vectors
ADDRESSES = (ADDRESS, "milvus.txt")  # the second is of earlier versions of Whence
ERASED = "erased.json"  # in a version's folder: rows whose vectors were deleted


class Mask:
    """Hides rows from a search.

    Args:
        hidden: (H,) hidden rows, in any order.
        count: rows in all.
    """

    def __init__(self, hidden: Rows, count: int) -> None:
        self.hidden = hidden
        self.visible = np.ones(count, dtype=np.bool_)  # (count,)
        self.visible[hidden] = False
        self.remaining = int(self.visible.sum())

    @cached_property
    def bitmap(self) -> NDArray[np.uint8]:
        """Return the visible rows as bits, (count / 8, rounded up), the lowest bit first."""
        return np.packbits(self.visible, bitorder="little")


class Scan(Protocol):
    """Finds the nearest rows of one query, again with fewer visible rows."""

    def nearest(self, depth: int, visible: Visible) -> Rows:
        """Return the ``depth`` nearest visible rows, best first; fewer if no more are found."""


class VectorStore(Protocol):
    """Searches nearest neighbours by inner product of unit vectors; rows are the catalog's.

    While a remote store cannot be reached, all methods but `erased` raise
    `VectorStoreUnavailableError`. They work again, without reopening, once it can.
    """

    @property
    def count(self) -> int:
        """Return the number of rows, erased ones included."""

    @property
    def erased(self) -> Rows:
        """Return the rows whose vectors were deleted, ascending; callers must mask them."""

    def check(self) -> None:
        """Check that the store can be searched now."""

    def erase(self, rows: Rows) -> None:
        """Delete the vectors of withdrawn rows, if the store can; masks hide them anyway."""

    def dimension(self, facet: Facet) -> int:
        """Return the length of a facet's vectors."""

    def search(
        self, facet: Facet, queries: Floats, k: int, mask: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """Return the k nearest neighbours of each query, best first.

        Args:
            facet: facet whose vectors are searched.
            queries: (Q, D) unit vectors.
            k: number of neighbours, at most that of visible rows.
            mask: hides rows.

        Returns:
            similarities (Q, k) and rows (Q, k); row -1 where an approximate search found fewer.
        """

    def scan(
        self, facet: Facet, queries: Floats, depth: int, mask: Mask | None = None
    ) -> Sequence[Scan]:
        """Begin a scan for each query.

        Args:
            facet: facet whose vectors are searched.
            queries: (Q, D) unit vectors.
            depth: number of rows that will be asked for first.
            mask: hides rows of this first time; `Scan.nearest` is told the visible rows.
        """

    def inverted(self, facet: Facet) -> bool:
        """Return True if a facet is searched by an inverted file."""

    def vectors(self, facet: Facet, rows: Rows) -> Floats:
        """Return the (R, D) vectors of rows (R,), exactly as written."""

    def similarities(self, facet: Facet, query: Floats, rows: Rows) -> Floats:
        """Return the exact inner products (R,) of one query (D,) with rows (R,)."""

    def compare(self, facet: Facet, queries: Floats) -> Floats | None:
        """Return the exact inner products (Q, N) with all rows; None if a search costs less."""


class _Searches:
    """A scan by searches, each with a mask.

    Args:
        store: to search.
        facet: to search.
        query: (D,) unit vector.
        hits: (K,) rows found by the first search, best first.
    """

    def __init__(self, store: VectorStore, facet: Facet, query: Floats, hits: Rows) -> None:
        self._store = store
        self._facet = facet
        self._query = query
        self._hits: Rows | None = hits[hits >= 0]

    def nearest(self, depth: int, visible: Visible) -> Rows:
        """See `Scan.nearest`. The first call uses the hits of the first search."""
        if self._hits is not None:
            hits, self._hits = self._hits, None
            return hits[visible[hits]][:depth]
        mask = Mask(np.flatnonzero(~visible), len(visible))
        rows: Rows = self._store.search(self._facet, self._query[None], depth, mask)[1][0]
        return rows[rows >= 0]


def scan_by_searches(
    store: VectorStore, facet: Facet, queries: Floats, depth: int, mask: Mask | None
) -> Sequence[Scan]:
    """Return `VectorStore.scan` of a store whose searches have no state; one search begins all."""
    hits = store.search(facet, queries, depth, mask)[1]
    return [_Searches(store, facet, query, rows) for query, rows in zip(queries, hits, strict=True)]


class VectorWriter(Protocol):
    """Writes the vectors of a version that is being built."""

    def upsert(self, rows: Rows, vectors: Mapping[Facet, Floats]) -> None:
        """Write some rows, in any order; a row written twice keeps the last vector.

        Args:
            rows: (R,) row numbers.
            vectors: facet -> (R, D) unit vectors, for every facet.

        Raises:
            SnapshotError: a vector is of the wrong length, not finite or not of unit norm.
        """

    def finish(self, index_type: IndexType, asked: Mapping[Facet, Floats]) -> dict[Facet, int]:
        """Complete the version's vectors, so that they can be opened.

        Args:
            index_type: exact search or inverted files.
            asked: facet -> (Q, D) representative queries, by which the number of probed lists of
                an inverted file is chosen.

        Returns:
            The number of probed lists of each facet that has an inverted file.

        Raises:
            SnapshotError: rows are missing.
        """


@dataclass(frozen=True)
class StoreAccess:
    """Token and time limit of remote stores."""

    token: str = field(default="", repr=False)  # a user and password, or an API key
    seconds: float = 10.0  # timeout of a request


class VectorEngine(Protocol):
    """Stores the vectors of versions."""

    @property
    def address(self) -> str | None:
        """Return the address for manifests; None if the vectors are in the version's folder."""

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
            count: expected number of rows.
            dimensions: expected lengths of vectors.
            probes: from `VectorWriter.finish`.

        Raises:
            SnapshotError: the vectors are missing or others than expected.
        """

    def publish(self, version: str) -> None:
        """Follow the publication or rollback of a version."""

    def remove(self, version: str) -> None:
        """Delete a version's vectors outside its folder."""


def require_all(written: int, count: int) -> None:
    """Check that all rows of a version were written.

    Raises:
        SnapshotError: fewer or more rows were written.
    """
    if written != count:
        raise SnapshotError(
            f"{written} of {count} vectors were written; run `whence rebuild` once more"
        )


def checked_queries(facet: Facet, queries: Floats, dimension: int) -> Floats:
    """Return queries as (Q, D) float32 in C order, after a check of their shape.

    Raises:
        SnapshotError: their length is not that of the index's vectors.
    """
    if queries.ndim != 2 or queries.shape[1] != dimension:
        raise SnapshotError(
            f"the {facet} query has shape {queries.shape}, the index holds vectors of length "
            f"{dimension}; index and model do not belong together: run `whence rebuild`"
        )
    return np.ascontiguousarray(queries, dtype=np.float32)


def checked_vectors(facet: Facet, vectors: Floats, dimension: int) -> Floats:
    """Return (N, D) vectors after a check of their length and unit norm.

    Raises:
        SnapshotError: they are of another length, not finite or not of unit norm.
    """
    if vectors.ndim != 2 or vectors.shape[1] != dimension:
        raise SnapshotError(
            f"{facet} vectors have shape {vectors.shape}; the index needs vectors of length "
            f"{dimension}"
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
    """Return the rows of a version whose vectors were deleted; none if it keeps them in files.

    Raises:
        SnapshotError: the list of these rows cannot be read.
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
    """Return the address of a version's vector store; None if its folder has the vectors.

    Unlike the manifest, the address is written before the first vector of a version being built.

    Raises:
        OSError: the address cannot be read.
    """
    for name in ADDRESSES:
        if (folder / name).exists():
            return (folder / name).read_text(encoding="utf-8").strip()
    return None
