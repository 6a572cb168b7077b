"""The product's evidence of single exemplars for a query, in galleries of any size.

As in `index.answering.ranking`: each facet's cosine is counted in standard deviations above the
query's mean cosine with a fixed cohort, and `index.answering.ranking.combine` makes one number of
the facets'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from index.answering.ranking import Doubles, Embeddings, cohort_moments, combine
from index.stores.vectors import Floats, Rows
from model.config import Facet

PAIRS = 4096  # query-exemplar pairs scored exactly at a time
ROUNDOFF = 2.0**-24  # of float32, relative
CONFIDENCE = 8  # deviations of the accumulated rounding error that are allowed for
# What is taken for granted of `combine`, and held by tests: no facet's rise lowers it, and it
# changes by at most this times the sum of its arguments' changes.
STEEPNESS = 2.0


@dataclass(frozen=True)
class Candidates:
    """P pairs of a query and an exemplar, by query."""

    queries: Rows  # (P,)
    rows: Rows  # (P,)
    scores: Doubles  # (P,) of float32 precision


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
        bounds: list[Doubles] = []
        for facet, vectors in queries.items():
            against = vectors.astype(np.float64) @ cohort[facet].astype(np.float64).T  # (Q, C)
            self._mean[facet], self._deviation[facet] = cohort_moments(against)
            error = CONFIDENCE * vectors.shape[1] ** 0.5 * ROUNDOFF
            bounds.append(error / self._deviation[facet])
        self.tolerance: Doubles = STEEPNESS * np.sum(bounds, axis=0)

    def __len__(self) -> int:
        return len(self.tolerance)

    def limits(self, least: Doubles) -> dict[Facet, Floats]:
        """Cosines that an exemplar must reach in one facet at least to score ``least`` (Q,).

        Below the level c in every facet, a score is at most that of c in all of them; so c is
        sought at which that is the score in question.

        Returns:
            facet -> (Q, 1), for `candidates`.
        """
        high = 3 / np.min(list(self._deviation.values()), axis=0)  # beyond any level
        low = -high
        for _ in range(64):
            middle = (low + high) / 2
            short = combine(dict.fromkeys(self._queries, middle)) < least - self.tolerance
            low, high = np.where(short, middle, low), np.where(short, high, middle)
        limits: dict[Facet, Floats] = {}
        for facet, deviation in self._deviation.items():
            cosine = (self._mean[facet] + low * deviation).astype(np.float32)
            limits[facet] = np.nextafter(cosine, np.float32(-np.inf))[:, None]
        return limits

    def candidates(self, exemplars: Embeddings, limits: Mapping[Facet, Floats]) -> Candidates:
        """Every pair that may score the ``least`` that ``limits`` were made for, and some below.

        Args:
            exemplars: facet -> (N, D) unit vectors.
            limits: from `limits`.

        Returns:
            Pairs with scores within `tolerance` of the exact ones.
        """
        cosines = {  # (Q, N)
            facet: vectors @ exemplars[facet].T for facet, vectors in self._queries.items()
        }
        reached = [cosines[facet] >= limit for facet, limit in limits.items()]
        places = np.flatnonzero(np.logical_or.reduce(reached))  # flat: much faster than np.nonzero
        queries, rows = np.divmod(places, reached[0].shape[1])
        levels = {
            facet: self._level(facet, queries, own.ravel()[places])
            for facet, own in cosines.items()
        }
        return Candidates(queries, rows, combine(levels))

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
            levels[facet] = self._level(facet, queries, products.sum(axis=1))
        return combine(levels)

    def _level(self, facet: Facet, queries: Rows, cosines: Floats | Doubles) -> Doubles:
        """`index.answering.ranking.standardise` of single pairs, each of (P,)."""
        return (cosines - self._mean[facet][queries]) / self._deviation[facet][queries]
