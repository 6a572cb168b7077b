"""Chooses an inverted file: for which vectors, of how many lists, and how many a search visits."""

import math
from collections.abc import Callable

import numpy as np

from index.stores.vectors import IndexType, Rows

EXACT_FLOATS = 40_000_000  # numbers in a facet's vectors up to which exact search takes some 5 ms
NEIGHBOURS = 10
RECALL = 0.993  # of the NEIGHBOURS nearest, on queries seen while building; 0.99 holds for others


def wants_inverted(index_type: IndexType, count: int, dimension: int) -> bool:
    """Whether vectors of this many rows get an inverted file."""
    if index_type == "auto":
        return count * dimension > EXACT_FLOATS
    return index_type == "ivf"


def list_count(count: int) -> int:
    """Lists of an inverted file of ``count`` vectors: the power of two nearest to 4 roots of it."""
    nearest: int = 2 ** round(math.log2(4 * math.sqrt(max(1, count))))
    return max(1, min(nearest, count // 8))


def fewest_probes(lists: int, truth: Rows, search: Callable[[int], Rows]) -> int:
    """The fewest lists, in steps of a half, with which a search finds `RECALL` of the truth.

    Args:
        lists: how many there are.
        truth: (Q, k) the nearest rows of some queries.
        search: (Q, any) the rows found for them, given how many lists to look into.
    """
    probes = 1
    while probes < lists:
        found = search(probes)
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(truth, found, strict=True))
        if hits >= RECALL * truth.size:
            break
        probes += math.ceil(probes / 2)
    return min(probes, lists)
