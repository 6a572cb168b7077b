"""Parameters of inverted files: when to use one, its number of lists, the lists to probe."""

import math
from collections.abc import Callable

import numpy as np

from index.stores.vectors import IndexType, Rows, VectorStore
from model.config import Facet

EXACT_FLOATS = 5_000_000  # floats in a facet's vectors up to which search is exact: some 0.6 ms
COMPARED_FLOATS = 40_000_000  # up to which a query is compared with all vectors that are exact
NEIGHBOURS = 10
RECALL = 0.993  # at NEIGHBOURS, on queries used while building; other queries get 0.99


def wants_inverted(index_type: IndexType, count: int, dimension: int) -> bool:
    """Return True if (count, dimension) vectors get an inverted file."""
    if index_type == "auto":
        return count * dimension > EXACT_FLOATS
    return index_type == "ivf"


def is_large(vectors: VectorStore, facet: Facet) -> bool:
    """Return True if a facet's vectors are too many to compare a query with all of them."""
    floats = vectors.count * vectors.dimension(facet)
    return vectors.inverted(facet) or floats > COMPARED_FLOATS


def list_count(count: int) -> int:
    """Return the number of lists for ``count`` vectors: the power of 2 nearest 4 sqrt(count)."""
    nearest: int = 2 ** round(math.log2(4 * math.sqrt(max(1, count))))
    return max(1, min(nearest, count // 8))


def fewest_probes(lists: int, truth: Rows, search: Callable[[int], Rows]) -> int:
    """Return the fewest probed lists, in steps of a half, that give a search `RECALL`.

    Args:
        lists: number of lists.
        truth: (Q, k) exact nearest rows of some queries.
        search: returns the (Q, any) rows found for these queries with a number of probed lists.
    """
    probes = 1
    while probes < lists:
        found = search(probes)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(truth, found, strict=True))
        if hits >= RECALL * truth.size:
            break
        probes += math.ceil(probes / 2)
    return min(probes, lists)
