"""From exemplar hits of every facet to ranked concepts.

For each query:

1. The *standardised similarity* of an exemplar in a facet is its cosine in standard deviations
   above the mean of a fixed cohort of exemplars kept with the snapshot. Some queries are close to
   everything; this makes them comparable, and needs no score but the cohort's.
2. The *evidence* of an exemplar is the soft maximum over facets, so that a subject or a style may
   carry it alone: a sum would let an unremarkable facet drown a remarkable one.
3. The *score* of a concept is what its best exemplars' evidence has over what unrelated exemplars
   would show, each further exemplar counting less, since exemplars of a concept repeat one another.

Candidates are the concepts of each facet's nearest exemplars. All their similarities are computed
exactly, so a score does not depend on how the candidates were found.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.stores.vectors import Floats, Mask, Rows, VectorStore
from model.config import Facet

Embeddings = Mapping[Facet, Floats]  # facet -> (N, D) of unit norm
Doubles = NDArray[np.float64]

# Chosen on the development pairs; docs/method.md has the rows beside them.
DEPTH = 200  # nearest exemplars of each facet that name the candidates
FACET_WEIGHT: Mapping[Facet, float] = {"subject": 1.0, "style": 1.4}
SHARPNESS = 0.3  # of the soft maximum over facets; 0 is the mean, infinity the maximum
FLOOR = 0.5  # evidence below this says nothing
DECAY = 0.7  # each further exemplar counts this much of the one before
MOST = 8  # exemplars that count, at most
SPEAKS = 0.25  # part of the evidence from which on a facet is said to have found a concept


@dataclass(frozen=True)
class RankedConcept:
    """A concept's place in one query's ranking."""

    number: int  # in the catalog
    score: float  # combined over facets and exemplars
    facets: dict[Facet, float]  # highest standardised similarity in each
    found_by: tuple[Facet, ...]  # the facets that speak for it, the stronger first
    rows: Rows  # its exemplars, the one with the most evidence first
    similarities: dict[Facet, Floats]  # cosine of each of ``rows``
    loudest: tuple[Facet, ...]  # of each of ``rows`` the facet that holds most of its evidence


@dataclass(frozen=True)
class Cohort:
    """The exemplars that every query is compared with, fixed when the snapshot is built."""

    rows: Rows  # (C,) in the catalog
    vectors: Embeddings  # facet -> (C, D)

    def among(self, visible: NDArray[np.bool_]) -> "Cohort":
        """Those of its members whose rows are visible; all, if there would be fewer than two."""
        members = visible[self.rows]
        if members.sum() < 2:
            return self
        return Cohort(
            self.rows[members], {facet: rows[members] for facet, rows in self.vectors.items()}
        )


class Ranker:
    """Ranks the concepts of one snapshot.

    Args:
        vectors: the exemplars' embeddings.
        concept_of_row: (N,) each exemplar's concept number.
        cohort: what queries are compared with.
        hidden: rows that are as if they were not in the index.
    """

    def __init__(
        self,
        vectors: VectorStore,
        concept_of_row: Sequence[int] | Rows,
        cohort: Cohort,
        hidden: Rows | None = None,
    ) -> None:
        self._vectors = vectors
        self._concept_of_row = np.asarray(concept_of_row, dtype=np.int64)
        self._mask: Mask | None = None
        rows = np.arange(len(self._concept_of_row))
        if hidden is not None and len(hidden):
            self._mask = Mask(hidden, len(rows))
            rows = rows[self._mask.visible]
            cohort = cohort.among(self._mask.visible)
        self._cohort = cohort.vectors
        self._cohort_concepts = self._concept_of_row[cohort.rows]
        # Visible rows grouped by concept: those of concept c are order[starts[c]:starts[c + 1]].
        self._order = rows[np.argsort(self._concept_of_row[rows], kind="stable")]
        counts = np.bincount(
            self._concept_of_row[rows], minlength=self._concept_of_row.max(initial=-1) + 1
        )
        self._starts = np.concatenate([[0], np.cumsum(counts)])

    def rank(
        self,
        queries: Embeddings,
        *,
        depth: int = DEPTH,
        without: Sequence[frozenset[int]] | None = None,
        top: int | None = None,
    ) -> list[list[RankedConcept]]:
        """Rank the candidate concepts of each query, best first.

        Args:
            queries: facet -> (Q, D) unit vectors.
            depth: nearest exemplars of each facet that name candidates; at the size of the index
                every concept is ranked.
            without: for each query the concepts to leave out, as if they were not in the index.
            top: concepts of each ranking to give; all by default.
        """
        removed = without or [frozenset[int]()] * len(next(iter(queries.values())))
        extra = max((sum(map(self._size, numbers)) for numbers in removed), default=0)
        hits = {
            facet: self._vectors.search(facet, vectors, depth + extra, self._mask)[1]
            for facet, vectors in queries.items()
        }
        return [
            self._rank_one(
                {facet: vectors[i] for facet, vectors in queries.items()},
                {facet: rows[i] for facet, rows in hits.items()},
                gone,
                top,
            )
            for i, gone in enumerate(removed)
        ]

    def _rank_one(
        self,
        query: Mapping[Facet, Floats],
        hits: Mapping[Facet, Rows],
        removed: frozenset[int],
        top: int | None,
    ) -> list[RankedConcept]:
        found = np.concatenate(list(hits.values()))
        named = np.unique(self._concept_of_row[found[found >= 0]])
        numbers = named[~np.isin(named, list(removed))] if removed else named
        if not len(numbers):
            return []
        sizes = self._starts[numbers + 1] - self._starts[numbers]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        # Concept after concept its rows, which lie side by side in the order.
        rows = self._order[
            np.repeat(self._starts[numbers] - starts, sizes) + np.arange(sizes.sum())
        ]
        similarities = {
            facet: self._vectors.similarities(facet, vector, rows)
            for facet, vector in query.items()
        }
        members = self._members(removed)
        levels, background = standardise(
            similarities,
            {facet: (self._cohort[facet] @ vector)[members] for facet, vector in query.items()},
        )
        evidence = combine(levels)
        facets = list(levels)
        loudest = np.argmax([FACET_WEIGHT[facet] * levels[facet] for facet in facets], axis=0)
        scores = score_concepts(evidence, sizes, np.sort(combine(background)))
        best = {facet: np.maximum.reduceat(level, starts) for facet, level in levels.items()}
        ranked = []
        for place in np.lexsort((numbers, -scores))[:top]:
            part = slice(starts[place], starts[place] + sizes[place])
            inside = np.argsort(-evidence[part], kind="stable")
            ranked.append(
                RankedConcept(
                    number=int(numbers[place]),
                    score=float(scores[place]),
                    facets={facet: float(values[place]) for facet, values in best.items()},
                    found_by=_speakers({f: float(v[place]) for f, v in best.items()}),
                    rows=rows[part][inside],
                    similarities={f: s[part][inside] for f, s in similarities.items()},
                    loudest=tuple(facets[place] for place in loudest[part][inside]),
                )
            )
        return ranked

    def _members(self, removed: frozenset[int]) -> NDArray[np.bool_] | slice:
        """The cohort without concepts that are left out: they are not to be known of at all."""
        if not removed:
            return slice(None)
        members = ~np.isin(self._cohort_concepts, list(removed))
        return members if members.sum() > 1 else slice(None)  # one has no deviation

    def _size(self, number: int) -> int:
        return int(self._starts[number + 1] - self._starts[number])


def standardise(
    similarities: Mapping[Facet, Floats], cohort: Mapping[Facet, Floats]
) -> tuple[dict[Facet, Doubles], dict[Facet, Doubles]]:
    """Cosines in standard deviations above the cohort's mean.

    Args:
        similarities: facet -> (..., N) cosines of queries with exemplars.
        cohort: facet -> (..., C) cosines of the same queries with the cohort.

    Returns:
        The same for the exemplars, and for the cohort itself; float64.
    """
    levels: dict[Facet, Doubles] = {}
    background: dict[Facet, Doubles] = {}
    for facet, cosines in similarities.items():
        reference = cohort[facet].astype(np.float64)
        mean, deviation = (moment[..., None] for moment in cohort_moments(reference))
        levels[facet] = (cosines - mean) / deviation
        background[facet] = (reference - mean) / deviation
    return levels, background


def cohort_moments(cosines: Doubles) -> tuple[Doubles, Doubles]:
    """Mean and deviation of each query's cosines with the cohort: (..., C) -> (...) twice.

    The deviation of a cohort that is all alike counts as 10^-6.
    """
    return cosines.mean(axis=-1), np.maximum(cosines.std(axis=-1), 1e-6)


def combine(levels: Mapping[Facet, Doubles]) -> Doubles:
    """Each exemplar's evidence: log-mean-exp of its weighted standardised similarities.

    log((e^(b w1 z1) + ... + e^(b wF zF)) / F) / b, b being `SHARPNESS`, w `FACET_WEIGHT`.
    """
    weighted = np.stack([FACET_WEIGHT[facet] * level for facet, level in levels.items()])
    soft = np.logaddexp.reduce(SHARPNESS * weighted, axis=0) - np.log(len(weighted))
    return np.asarray(soft / SHARPNESS, dtype=np.float64)


def score_concepts(evidence: Doubles, sizes: NDArray[np.int64], background: Doubles) -> Doubles:
    """Each concept's score from its exemplars' evidence.

    sum over k = 1 ... `MOST` of DECAY^(k-1) max(0, e_k - floor(n, k)), e_k being the k-th highest
    evidence of the concept's n exemplars. The floor is `FLOOR` up to `MOST` exemplars. Beyond, the
    k-th best of n unrelated exemplars rises with n by chance alone, from the background's quantile
    at 1 - k / (`MOST` + 1) to that at 1 - k / (n + 1), and the floor rises as much: a concept does
    not climb just by being large. A trace of e_1 orders the concepts that have nothing else.

    Args:
        evidence: (N,) the exemplars of concept 0, then those of concept 1, ...
        sizes: (C,) exemplars of each concept, each at least 1, N in all.
        background: (B,) evidence of the cohort, ascending.

    Returns:
        (C,) float64.
    """
    # In the smallest type that holds them: short integers are sorted by counting.
    group = np.repeat(np.arange(len(sizes), dtype=np.min_scalar_type(len(sizes))), sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order = np.argsort(-evidence, kind="stable")
    descending = evidence[order[np.argsort(group[order], kind="stable")]]
    k = np.arange(len(evidence)) - np.repeat(starts, sizes)  # 0, 1, ... within each concept
    by_chance = _quantile(background, 1 - (k + 1) / (np.maximum(sizes, MOST)[group] + 1))
    allowed = _quantile(background, 1 - (k + 1) / (MOST + 1))
    excess = np.maximum(descending - FLOOR - (by_chance - allowed), 0)
    counted = np.append(DECAY ** np.arange(MOST), 0)[np.minimum(k, MOST)]
    total: Doubles = np.add.reduceat(excess * counted, starts) + 1e-3 * descending[starts]
    return total


def _quantile(ascending: Doubles, level: Doubles) -> Doubles:
    """Quantiles of sorted values; levels under 0 count as 0."""
    places = (np.maximum(level, 0) * (len(ascending) - 1)).astype(np.int64)
    return np.asarray(ascending[places], dtype=np.float64)


def _speakers(best: Mapping[Facet, float]) -> tuple[Facet, ...]:
    """The facets that hold a notable part of the evidence, the stronger first."""
    power = {facet: SHARPNESS * FACET_WEIGHT[facet] * level for facet, level in best.items()}
    top = max(power.values())
    parts = {facet: math.exp(value - top) for facet, value in power.items()}
    whole = sum(parts.values())
    order = sorted(parts, key=lambda facet: -parts[facet])
    return tuple(facet for facet in order if parts[facet] >= SPEAKS * whole)
