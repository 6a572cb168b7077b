"""The approximate index of large collections: an inverted file of 8-bit codes.

A search probes the ``probes`` lists nearest to the query, takes the best codes there, and ranks
them by their exact vectors (`index.stores.faiss_files.FaissStore`). ``probes`` is chosen for each
index: the fewest lists with which real queries reach the required recall.
"""

import math
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.errors import SnapshotError
from index.stores.lists import NEIGHBOURS, fewest_probes, list_count
from index.stores.vectors import Floats, Rows, Visible

TRAINING = 32  # training vectors a list
BLOCK = 65_536  # vectors encoded at once
MIN_CODES_PER_HIT = 8  # in the probed lists together
AHEAD = 4  # lists put in order, relative to those that are read first
BUFFER = 16_384  # codes whose similarities FAISS collects at once
LEAST = -4.0  # below every inner product of unit vectors and their codes


def write_inverted(path: Path, vectors: Floats) -> None:
    """Train, fill and write the inverted file of (N, D) unit vectors.

    Raises:
        OSError: it cannot be written.
    """
    count, dimension = vectors.shape
    lists = list_count(count)
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dimension, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.min_points_per_centroid = 1  # no warning about small indexes
    index.cp.max_points_per_centroid = TRAINING
    generator = np.random.default_rng(0)
    sample = np.sort(generator.permutation(count)[: lists * TRAINING])
    index.train(np.ascontiguousarray(vectors[sample]))
    for start in range(0, count, BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # FAISS's message ends with the cause
        raise OSError(f"{path}: {error}") from error


def read_inverted(path: Path) -> faiss.IndexIVF:
    """Map an inverted file into memory; only probed lists are read.

    Raises:
        SnapshotError: it is missing or no inverted file.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    except RuntimeError as error:
        raise SnapshotError(f"the vectors {path} cannot be read; run `whence rebuild`") from error
    if not isinstance(index, faiss.IndexIVF):
        raise SnapshotError(f"the vectors {path} are no inverted file; run `whence rebuild`")
    # By default each search starts 32 threads that read lists ahead.
    lists: Any = faiss.downcast_InvertedLists(index.invlists)  # type: ignore[arg-type]
    lists.prefetch_nthread = 0
    return index


def lists_for(index: faiss.IndexIVF, probes: int, k: int) -> int:
    """Return the number of lists to probe for the ``k`` nearest vectors, at least ``probes``."""
    return max(probes, math.ceil(MIN_CODES_PER_HIT * k * index.nlist / max(1, index.ntotal)))


class ListScan:
    """One query's scan of an inverted file, which reads each list once, the nearest first.

    Args:
        index: the inverted file.
        probes: fewest lists to read.
        query: (D,) unit vector in C order.
    """

    def __init__(self, index: faiss.IndexIVF, probes: int, query: Floats) -> None:
        self._index = index
        self._probes = probes
        self._query = query[None]
        # The lists in order and their centres' similarities; the first ``_read`` are read.
        self._lists: Rows = np.empty(0, dtype=np.int64)
        self._centres: Floats = np.empty(0, dtype=np.float32)
        self._read = 0
        self._rows: Rows = np.empty(0, dtype=np.int64)
        self._cosines: Floats = np.empty(0, dtype=np.float32)  # by the codes

    def nearest(self, depth: int, visible: Visible) -> Rows:
        """See `index.stores.vectors.Scan.nearest`; the rows are ordered by their codes."""
        every = self._index.nlist
        lists = self._read or min(every, lists_for(self._index, self._probes, depth))
        while True:
            self._read_lists(lists)
            kept = np.flatnonzero(visible[self._rows])
            if len(kept) >= depth or lists == every:
                break
            lists = min(every, 2 * lists)
        distances = -self._cosines[kept]
        if len(kept) > depth:
            best = np.argpartition(distances, depth - 1)[:depth]
            kept, distances = kept[best], distances[best]
        return self._rows[kept[np.argsort(distances)]]

    def _read_lists(self, count: int) -> None:
        """Read the nearest ``count`` lists, without those read already."""
        if count <= self._read:
            return
        if count > len(self._lists):
            ahead = min(AHEAD * count, self._index.nlist)
            [centres], [lists] = self._index.quantizer.search(self._query, ahead)
            fresh = ~np.isin(lists, self._lists[: self._read])  # equal centres may change places
            self._lists = np.concatenate([self._lists[: self._read], lists[fresh]])
            self._centres = np.concatenate([self._centres[: self._read], centres[fresh]])
        lists, centres = self._lists[self._read : count], self._centres[self._read : count]
        self._read = count
        found: Any = faiss.RangeSearchResult(1)
        found.buffer_size = BUFFER
        # The number of lists is a parameter, since other threads use the index, too.
        parameters = faiss.SearchParametersIVF(nprobe=len(lists))  # type: ignore[call-arg]
        pointer: Any = faiss.swig_ptr
        self._index.range_search_preassigned_c(  # type: ignore[attr-defined]
            1, pointer(self._query), LEAST, pointer(lists), pointer(centres),
            found, False, parameters,
        )  # fmt: skip
        values: Any = faiss.rev_swig_ptr
        size = int(values(found.lims, 2)[1])
        self._rows = np.concatenate([self._rows, values(found.labels, size)])
        self._cosines = np.concatenate([self._cosines, values(found.distances, size)])


def choose_probes(inverted: Path, vectors: Path, queries: Floats) -> int:
    """Choose the fewest probed lists with which ``queries`` find their nearest vectors.

    Args:
        inverted: path of an inverted file, from `write_inverted`.
        vectors: path of the FAISS file of the same vectors.
        queries: (Q, D) representative queries.
    """
    index = read_inverted(inverted)
    exact = faiss.read_index(str(vectors), faiss.IO_FLAG_MMAP_IFC)
    k = min(NEIGHBOURS, exact.ntotal)

    def search(probes: int) -> Rows:
        parameters = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
        # Candidates are ranked exactly afterwards, so 4 k of them may be searched.
        found: Rows = index.search(queries, 4 * k, params=parameters)[1]
        return found

    return fewest_probes(index.nlist, exact.search(queries, k)[1], search)
