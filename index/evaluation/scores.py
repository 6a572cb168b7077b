"""The product's evidence of single exemplars for a query, in galleries of any size.

As in `index.ranking`: each facet's cosine is counted in standard deviations above the query's mean
cosine with a fixed cohort, and `index.ranking.combine` makes one number of the facets'.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.ranking import Doubles, Embeddings, combine
from index.vectors import Floats, Rows
from model.config import Facet

PAIRS = 4096  # query-exemplar pairs scored exactly at a time
ROUNDOFF = 2.0**-24  # of float32, relative
CONFIDENCE = 8  # deviations of the accumulated rounding error that are allowed for
STEEPNESS = 2.0  # `combine` changes by at most this times the sum of its arguments' changes


class ExemplarScorer:
    """Scores Q queries against exemplars: fast within a known tolerance, or exactly.

    Args:
        queries: facet -> (Q, D) unit vectors.
        cohort: facet -> (C, D) unit vectors that every query is compared with.

    Attributes:
        tolerance: (Q,) how far a fast score may lie from the exact one. A float32 dot product of D
            terms, summed in whatever order, is off by at most ``CONFIDENCE * sqrt(D) * ROUNDOFF``
            of the terms' absolute sum, but for a chance of one in 10^10 (Higham & Mary 2019, "A new
            approach to probabilistic rounding error analysis"); for unit vectors that sum is at
            most 1, and the errors seen are a small part of the bound.
    """

    def __init__(self, queries: Embeddings, cohort: Embeddings) -> None:
        self._queries = queries
        self._mean: dict[Facet, Doubles] = {}  # (Q,)
        self._deviation: dict[Facet, Doubles] = {}  # (Q,)
        self._scaled: dict[Facet, Floats] = {}  # (Q, D) queries over their deviation
        self._shift: dict[Facet, Floats] = {}  # (Q, 1)
        bounds: list[Doubles] = []
        for facet, vectors in queries.items():
            against = vectors.astype(np.float64) @ cohort[facet].astype(np.float64).T  # (Q, C)
            mean, deviation = against.mean(axis=1), np.maximum(against.std(axis=1), 1e-6)
            self._mean[facet], self._deviation[facet] = mean, deviation
            self._scaled[facet] = (vectors / deviation[:, None]).astype(np.float32)
            self._shift[facet] = (-mean / deviation).astype(np.float32)[:, None]
            bounds.append(CONFIDENCE * vectors.shape[1] ** 0.5 * ROUNDOFF / deviation)
        self.tolerance: Doubles = STEEPNESS * np.sum(bounds, axis=0)

    def __len__(self) -> int:
        return len(self.tolerance)

    def approximate(self, exemplars: Embeddings) -> Doubles:
        """Every query's score of every exemplar, each within `tolerance` of the exact one.

        Args:
            exemplars: facet -> (N, D) unit vectors.

        Returns:
            (Q, N), of float32 precision.
        """
        levels: dict[Facet, NDArray[Any]] = {}  # float32, where the ranker has float64
        for facet, scaled in self._scaled.items():
            levels[facet] = scaled @ exemplars[facet].T
            levels[facet] += self._shift[facet]
        return combine(levels)

    def exact(self, queries: Rows, exemplars: Embeddings, rows: Rows) -> Doubles:
        """Scores of single pairs, in float64.

        Equal vectors get equal scores wherever they lie: each is summed by itself, in one order,
        which no matrix product promises.

        Args:
            queries: (P,) which query.
            exemplars: facet -> (N, D) unit vectors.
            rows: (P,) which exemplar.

        Returns:
            (P,) float64.
        """
        parts = [
            self._exact(queries[start : start + PAIRS], exemplars, rows[start : start + PAIRS])
            for start in range(0, len(queries), PAIRS)
        ]
        return np.concatenate([np.empty(0), *parts])

    def exact_rows(self, exemplars: Embeddings, rows: Sequence[Rows]) -> list[Doubles]:
        """`exact` for some exemplars of each query: Q arrays of rows, Q arrays of scores."""
        counts = [len(own) for own in rows]
        queries = np.repeat(np.arange(len(self)), counts)
        scores = self.exact(queries, exemplars, np.concatenate(rows))
        return np.split(scores, np.cumsum(counts)[:-1])

    def _exact(self, queries: Rows, exemplars: Embeddings, rows: Rows) -> Doubles:
        levels: dict[Facet, Doubles] = {}
        for facet, vectors in self._queries.items():
            products = vectors[queries].astype(np.float64) * exemplars[facet][rows]  # (P, D)
            centred = products.sum(axis=1) - self._mean[facet][queries]
            levels[facet] = centred / self._deviation[facet][queries]
        return combine(levels)
