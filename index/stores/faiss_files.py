"""The exemplars' vectors as FAISS files in the version's folder, mapped into memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from index.errors import SnapshotError
from index.stores.inverted import (
    MIN_CODES_PER_HIT,
    ListScan,
    choose_probes,
    lists_for,
    read_inverted,
    write_inverted,
)
from index.stores.lists import is_large, wants_inverted
from index.stores.vectors import (
    Floats,
    IndexType,
    Mask,
    Rows,
    Scan,
    StoreAccess,
    VectorStore,
    VectorWriter,
    checked_queries,
    checked_vectors,
    require_all,
    scan_by_searches,
)
from model.config import Facet

EXTRA_CANDIDATES = 64  # codes ranked exactly beyond the k that are asked for
MIN_PRODUCT_QUERIES = 16  # queries from which on a matrix product is fastest


@dataclass(frozen=True)
class Inverted:
    """A facet's inverted file and the number of lists to probe."""

    index: faiss.IndexIVF
    probes: int


def inner_products(query: Floats, vectors: Floats) -> Floats:
    """Return the inner products (N,) of a query (D,) with vectors (N, D), both in C order.

    The vectors need not be aligned; in FAISS's files they are not. One thread computes them: BLAS
    would start several, which wait for one another on a busy machine.
    """
    products = np.empty(len(vectors), dtype=np.float32)
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        *map(faiss.swig_ptr, (products, query, vectors)), vectors.shape[1], len(vectors)
    )
    return products


def _mapped(index: faiss.Index) -> Floats:
    """Return the (N, D) vectors of a flat index without a copy; valid while the index exists."""
    vectors: Floats = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)  # type: ignore[attr-defined]
    return vectors.reshape(index.ntotal, index.d)


def _selector(mask: Mask) -> faiss.IDSelector:
    """Return FAISS's selector of the visible rows; it refers to the mask's bitmap."""
    return faiss.IDSelectorBitmap(mask.bitmap)  # type: ignore[call-arg,arg-type]


class FaissStore:
    """Searches memory-mapped vectors exactly, or candidates of an inverted file exactly.

    Args:
        indexes: facet -> flat index.
        inverted: facet -> inverted file, of facets that have one.
    """

    def __init__(
        self, indexes: Mapping[Facet, faiss.Index], inverted: Mapping[Facet, Inverted] | None = None
    ) -> None:
        self._indexes = dict(indexes)
        self._inverted = dict(inverted or {})
        # Read directly: FAISS's `reconstruct_batch` wakes threads for every few rows.
        self._vectors = {facet: _mapped(index) for facet, index in self._indexes.items()}
        counts = {index.ntotal for index in self._indexes.values()}
        counts |= {inverted.index.ntotal for inverted in self._inverted.values()}
        if len(counts) != 1:
            raise SnapshotError(
                f"the facets' vectors disagree in number ({sorted(counts)}); run `whence rebuild`"
            )
        self.count = int(counts.pop())
        self.erased: Rows = np.empty(0, dtype=np.int64)  # a version's files never change

    @classmethod
    def open(
        cls, folder: Path, facets: Sequence[Facet], probes: Mapping[Facet, int] | None = None
    ) -> "FaissStore":
        """Map the vectors of a snapshot into memory, which processes share.

        Args:
            folder: of the snapshot.
            facets: of the snapshot.
            probes: number of lists to probe, of facets that have an inverted file.

        Raises:
            SnapshotError: a file is missing or is not a FAISS index.
        """
        indexes = {facet: _read(folder / file_name(facet)) for facet in facets}
        inverted = {
            facet: Inverted(read_inverted(folder / inverted_name(facet)), count)
            for facet, count in (probes or {}).items()
        }
        return cls(indexes, inverted)

    def check(self) -> None:
        """See `VectorStore.check`; open files can always be searched."""

    def erase(self, rows: Rows) -> None:
        """See `VectorStore.erase`: masks hide the rows until the version is pruned."""

    def dimension(self, facet: Facet) -> int:
        """See `VectorStore.dimension`."""
        return int(self._indexes[facet].d)

    def search(
        self, facet: Facet, queries: Floats, k: int, mask: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """See `VectorStore.search`."""
        queries = self._checked(facet, queries)
        # FAISS pads short results with row -1; k is limited to avoid it.
        k = min(k, mask.remaining if mask else self.count)
        if not k:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        inverted = self._inverted.get(facet)
        if inverted and MIN_CODES_PER_HIT * k <= self.count / 4:  # else exact search is as fast
            return self._search_inverted(inverted, facet, queries, k, mask)
        parameters = faiss.SearchParameters(sel=_selector(mask)) if mask else None  # type: ignore[call-arg]
        similarities, rows = self._indexes[facet].search(queries, k, params=parameters)
        return similarities, rows

    def _search_inverted(
        self, inverted: Inverted, facet: Facet, queries: Floats, k: int, mask: Mask | None
    ) -> tuple[Floats, Rows]:
        chosen = {"sel": _selector(mask)} if mask else {}
        lists = lists_for(inverted.index, inverted.probes, k)
        # nprobe is a parameter of the search, since other threads use the index, too.
        parameters = faiss.SearchParametersIVF(nprobe=lists, **chosen)  # type: ignore[call-arg]
        candidates = inverted.index.search(queries, k + EXTRA_CANDIDATES, params=parameters)[1]
        similarities = np.full((len(queries), k), -1, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for i, query in enumerate(queries):
            near = candidates[i][candidates[i] >= 0]
            exact = inner_products(query, self.vectors(facet, near))
            best = np.argsort(-exact, kind="stable")[:k]
            similarities[i, : len(best)], rows[i, : len(best)] = exact[best], near[best]
        return similarities, rows

    def scan(
        self, facet: Facet, queries: Floats, depth: int, mask: Mask | None = None
    ) -> Sequence[Scan]:
        """See `VectorStore.scan`."""
        if inverted := self._inverted.get(facet):
            queries = self._checked(facet, queries)
            return [ListScan(inverted.index, inverted.probes, query) for query in queries]
        return scan_by_searches(self, facet, queries, depth, mask)

    def inverted(self, facet: Facet) -> bool:
        """See `VectorStore.inverted`."""
        return facet in self._inverted

    def vectors(self, facet: Facet, rows: Rows) -> Floats:
        """See `VectorStore.vectors`."""
        return self._vectors[facet][rows]

    def similarities(self, facet: Facet, query: Floats, rows: Rows) -> Floats:
        """See `VectorStore.similarities`."""
        [query] = self._checked(facet, query[None])
        return inner_products(query, self.vectors(facet, rows))

    def compare(self, facet: Facet, queries: Floats) -> Floats | None:
        """See `VectorStore.compare`."""
        if is_large(self, facet):
            return None
        every = self._vectors[facet]
        queries = self._checked(facet, queries)
        if len(queries) < MIN_PRODUCT_QUERIES:
            return np.stack([inner_products(query, every) for query in queries])
        cosines: Floats = queries @ every.T
        return cosines

    def _checked(self, facet: Facet, queries: Floats) -> Floats:
        # FAISS raises an assertion without a message for a wrong dimension.
        return checked_queries(facet, queries, self.dimension(facet))


def open_engine(address: str | None, access: StoreAccess) -> "FaissEngine":  # noqa: ARG001
    """Return the engine of files; see `index.stores.registry`."""
    return FaissEngine()


class FaissEngine:
    """Stores vectors as files in the version's folder."""

    address: str | None = None

    def write(
        self,
        folder: Path,
        version: str,  # noqa: ARG002
        count: int,
        dimensions: Mapping[Facet, int],
    ) -> VectorWriter:
        """See `VectorEngine.write`."""
        return _FaissWriter(folder, count, dimensions)

    def open(
        self,
        folder: Path,
        version: str,  # noqa: ARG002
        count: int,  # noqa: ARG002
        dimensions: Mapping[Facet, int],
        probes: Mapping[Facet, int],
    ) -> VectorStore:
        """See `VectorEngine.open`."""
        return FaissStore.open(folder, list(dimensions), probes)

    def publish(self, version: str) -> None:
        """See `VectorEngine.publish`: files need no action."""

    def remove(self, version: str) -> None:
        """See `VectorEngine.remove`: the files are removed with the folder."""


class _FaissWriter:
    def __init__(self, folder: Path, count: int, dimensions: Mapping[Facet, int]) -> None:
        self._folder = folder
        self._vectors = {
            facet: np.zeros((count, length), np.float32) for facet, length in dimensions.items()
        }
        self._written = np.zeros(count, dtype=np.bool_)

    def upsert(self, rows: Rows, vectors: Mapping[Facet, Floats]) -> None:
        for facet, matrix in self._vectors.items():
            matrix[rows] = checked_vectors(facet, vectors[facet], matrix.shape[1])
        self._written[rows] = True

    def finish(self, index_type: IndexType, asked: Mapping[Facet, Floats]) -> dict[Facet, int]:
        require_all(int(self._written.sum()), len(self._written))
        probes: dict[Facet, int] = {}
        for facet in list(self._vectors):
            vectors = self._vectors.pop(facet)  # FAISS holds a copy of one facet at a time
            exact = write_vectors(self._folder, facet, vectors)
            if wants_inverted(index_type, *vectors.shape):
                inverted = self._folder / inverted_name(facet)
                write_inverted(inverted, vectors)
                probes[facet] = choose_probes(inverted, exact, asked[facet])
        return probes


def write_vectors(folder: Path, facet: Facet, vectors: Floats) -> Path:
    """Write one facet's (N, D) unit vectors for `FaissStore.open`.

    Raises:
        SnapshotError: a vector is not finite or not of unit norm.
    """
    checked_vectors(facet, vectors, vectors.shape[1])
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    path = folder / file_name(facet)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's message ends with the cause
        raise OSError(f"{path}: {error}") from error
    return path


def _read(path: Path) -> faiss.Index:
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise SnapshotError(f"the vectors {path} cannot be read; run `whence rebuild`") from error


def inverted_name(facet: Facet) -> str:
    """Return the file name of a facet's inverted file."""
    return f"{facet}.ivf.faiss"


def file_name(facet: Facet) -> str:
    """Return the file name of a facet's vectors."""
    return f"{facet}.faiss"
