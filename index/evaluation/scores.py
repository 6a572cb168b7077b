"""Scores of single exemplars for a query, in galleries of any size.

A score is an exemplar's evidence in `index.answering.ranking`: each facet's cosine, in standard
deviations above the query's mean cosine with a fixed cohort, combined over the facets by
`index.answering.ranking.combine`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from index.answering.ranking import Doubles, Embeddings, cohort_moments, combine
from index.stores.vectors import Floats, Rows
from model.config import Facet

PAIRS = 4096  # query-exemplar pairs scored exactly at a time
ROUNDOFF = 2.0**-24  # of float32, relative
CONFIDENCE = 8  # standard deviations of the accumulated rounding error in the bound
# Lipschitz constant of `combine`, which is also monotone in every facet; tests check both.
LIPSCHITZ = 2.0


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
        background: (Q, C) each query's scores of the cohort, ascending.
        tolerance: (Q,) bound of a fast score's error. The error of a float32 dot product of D
            terms, summed in any order, is at most ``CONFIDENCE * sqrt(D) * ROUNDOFF`` times the
            terms' absolute sum, with a probability of failure of 10^-10 (Higham & Mary 2019, "A
            new approach to probabilistic rounding error analysis"). For unit vectors that sum is
            at most 1; measured errors are a small part of the bound.
    """

    def __init__(self, queries: Embeddings, cohort: Embeddings) -> None:
        self._queries = queries
        self._mean: dict[Facet, Doubles] = {}  # (Q,)
        self._deviation: dict[Facet, Doubles] = {}  # (Q,)
        bounds: list[Doubles] = []
        levels: dict[Facet, Doubles] = {}
        for facet, vectors in queries.items():
            against = vectors.astype(np.float64) @ cohort[facet].astype(np.float64).T  # (Q, C)
            mean, deviation = self._mean[facet], self._deviation[facet] = cohort_moments(against)
            levels[facet] = (against - mean[:, None]) / deviation[:, None]
            error = CONFIDENCE * vectors.shape[1] ** 0.5 * ROUNDOFF
            bounds.append(error / deviation)
        self.background: Doubles = np.sort(combine(levels), axis=1)
        self.tolerance: Doubles = LIPSCHITZ * np.sum(bounds, axis=0)

    def __len__(self) -> int:
        return len(self.tolerance)

    def limits(self, least: Doubles) -> dict[Facet, Floats]:
        """Return lower limits of the cosines of exemplars that score at least ``least`` (Q,).

        Such an exemplar reaches the limit in one facet or more. With all facets below a level c,
        a score is at most that of c in all facets; bisection finds the c whose score is ``least``.

        Returns:
            facet -> (Q, 1), for `candidates`.
        """
        high = 3 / np.min(list(self._deviation.values()), axis=0)  # above any level
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
        """Return all pairs that may score at least the ``least`` of ``limits``, and some others.

        Args:
            exemplars: facet -> (N, D) unit vectors.
            limits: from `limits`.

        Returns:
            Pairs with scores within `tolerance` of the exact ones.
        """
        cosines = {  # (Q, N)
            facet: vectors @ exemplars[facet].T for facet, vectors in self._queries.items()
        }
        above = [cosines[facet] >= limit for facet, limit in limits.items()]
        places = np.flatnonzero(np.logical_or.reduce(above))  # flat: much faster than np.nonzero
        queries, rows = np.divmod(places, above[0].shape[1])
        levels = {
            facet: self._level(facet, queries, own.ravel()[places])
            for facet, own in cosines.items()
        }
        return Candidates(queries, rows, combine(levels))

    def fast(self, exemplars: Embeddings) -> Doubles:
        """Return the scores (Q, N) of all pairs, within `tolerance` of the exact ones."""
        levels: dict[Facet, Doubles] = {}
        for facet, vectors in self._queries.items():
            mean, deviation = self._mean[facet][:, None], self._deviation[facet][:, None]
            levels[facet] = (vectors @ exemplars[facet].T - mean) / deviation
        return combine(levels)

    def exact(self, queries: Rows, exemplars: Embeddings, rows: Rows) -> Doubles:
        """Return the scores of single pairs, in float64.

        Equal vectors get equal scores: each product is summed by itself, in one order, which a
        matrix product does not guarantee.

        Args:
            queries: (P,) query of each pair.
            exemplars: facet -> (N, D) unit vectors.
            rows: (P,) exemplar of each pair.

        Returns:
            (P,) float64.
        """
        parts = [
            self._exact(queries[start : start + PAIRS], exemplars, rows[start : start + PAIRS])
            for start in range(0, len(queries), PAIRS)
        ]
        return np.concatenate([np.empty(0), *parts])

    def exact_rows(self, exemplars: Embeddings, rows: Sequence[Rows]) -> list[Doubles]:
        """Return the `exact` scores of some exemplars a query: Q arrays of rows to Q of scores."""
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
        """Standardise the cosines (P,) of single pairs, as in `index.answering.ranking`."""
        return (cosines - self._mean[facet][queries]) / self._deviation[facet][queries]
