"""The approximate index of large collections: an inverted file of 8-bit codes.

A search probes the ``probes`` lists nearest to the query, takes the best codes there, and ranks
them by their exact vectors (`index.stores.faiss_files.FaissStore`). ``probes`` is chosen for each
index: the fewest lists with which real queries reach the required recall.
"""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.errors import SnapshotError
from index.stores.lists import NEIGHBOURS, fewest_probes, list_count
from index.stores.vectors import Floats, Rows

TRAINING = 32  # training vectors a list
BLOCK = 65_536  # vectors encoded at once


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
