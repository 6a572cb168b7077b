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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from index.stores.vectors import Floats, Mask, Rows, VectorStore
from model.config import Facet

Embeddings = Mapping[Facet, Floats]  # facet -> (N, D) of unit norm
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]  # of concepts or rows: a million take 4 MB

# Chosen on the development pairs; docs/method.md has the rows beside them.
DEPTH = 200  # nearest exemplars of each facet that name the candidates
CONCEPTS = 8  # candidates to find at least
FACET_WEIGHT: Mapping[Facet, float] = {"subject": 1.0, "style": 1.4}
SHARPNESS = 0.3  # of the soft maximum over facets; 0 is the mean, infinity the maximum
FLOOR = 0.5  # evidence below this counts as zero
DECAY = 0.7  # each further exemplar counts this much of the one before
COUNTED = 8  # exemplars that count, at most
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
    dominant: tuple[Facet, ...]  # of each of ``rows`` the facet that holds most of its evidence


@dataclass(frozen=True, eq=False)
class Ranking(Sequence[RankedConcept]):
    """The candidate concepts of one query, best first: arrays, made into objects when looked at.

    Attributes:
        numbers: (C,) the concepts' numbers.
        scores: (C,) their scores, descending.
        starts: (C,) where the exemplars of each begin in the arrays below.
        sizes: (C,) how many exemplars each has.
        rows: (R,) exemplars.
        similarities: facet -> (R,) their cosines with the query.
        levels: facet -> (R,) the same, standardised.
        evidence: (R,) all facets together.
    """

    numbers: Numbers
    scores: Doubles
    starts: Rows
    sizes: Rows
    rows: Rows
    similarities: Mapping[Facet, Floats]
    levels: Mapping[Facet, Doubles]
    evidence: Doubles

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, place: int) -> RankedConcept: ...
    @overload
    def __getitem__(self, place: slice) -> list[RankedConcept]: ...
    def __getitem__(self, place: int | slice) -> RankedConcept | list[RankedConcept]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        start = self.starts[place]
        own = slice(start, start + self.sizes[place])
        order = np.argsort(-self.evidence[own], kind="stable")
        levels = {facet: level[own][order] for facet, level in self.levels.items()}
        best = {facet: float(level.max()) for facet, level in levels.items()}
        facets = list(levels)
        dominant = np.argmax([FACET_WEIGHT[facet] * levels[facet] for facet in facets], axis=0)
        return RankedConcept(
            number=int(self.numbers[place]),
            score=float(self.scores[place]),
            facets=best,
            found_by=_speakers(best),
            rows=self.rows[own][order],
            similarities={facet: s[own][order] for facet, s in self.similarities.items()},
            dominant=tuple(facets[place] for place in dominant),
        )


@dataclass(frozen=True)
class Cohort:
    """The exemplars that every query is compared with, fixed when the snapshot is built."""

    rows: Rows  # (C,) in the catalog
    vectors: Embeddings  # facet -> (C, D)


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
        concept_of_row: Sequence[int] | Rows | Numbers,
        cohort: Cohort,
        hidden: Rows | None = None,
    ) -> None:
        self._vectors = vectors
        self._concept_of_row: Numbers = np.asarray(concept_of_row, dtype=np.int32)
        self._hidden: Rows = np.empty(0, dtype=np.int64) if hidden is None else hidden
        self._mask = self._hiding(self._hidden)
        visible = np.ones(len(self._concept_of_row), np.bool_)
        visible[self._hidden] = False
        members = _members(visible[cohort.rows])
        self._cohort = {facet: matrix[members] for facet, matrix in cohort.vectors.items()}
        self._cohort_concepts = self._concept_of_row[cohort.rows[members]]
        # Visible rows grouped by concept: those of concept c are order[starts[c]:starts[c + 1]].
        rows = np.flatnonzero(visible)
        concepts = self._concept_of_row[rows]
        self._order: Numbers = rows[np.argsort(concepts, kind="stable")].astype(np.int32)
        counts = np.bincount(concepts, minlength=self._concept_of_row.max(initial=-1) + 1)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._concepts = int(np.count_nonzero(counts))

    def rank(
        self,
        queries: Embeddings,
        *,
        depth: int = DEPTH,
        concepts: int = CONCEPTS,
        excluded: Sequence[frozenset[int]] | None = None,
    ) -> Iterator[Ranking]:
        """Rank the candidate concepts of each query, best first.

        Args:
            queries: facet -> (Q, D) unit vectors.
            depth: nearest exemplars of each facet that name candidates; at the size of the index
                every concept is ranked.
            concepts: candidates to find at least, if there are as many: where the nearest exemplars
                name fewer, the nearest of the remaining concepts are searched.
            excluded: for each query the concepts to leave out, as if they were not in the index.

        Yields:
            One ranking a query, in order.
        """
        count = len(next(iter(queries.values())))
        left_out = [_sorted(numbers) for numbers in excluded or [frozenset[int]()] * count]
        extra = max((int(self._sizes(numbers).sum()) for numbers in left_out), default=0)
        hits = {
            facet: self._vectors.search(facet, vectors, depth + extra, self._mask)[1]
            for facet, vectors in queries.items()
        }
        for i, gone in enumerate(left_out):
            query = {facet: vectors[i] for facet, vectors in queries.items()}
            named = self._named([rows[i] for rows in hits.values()], gone, depth)
            numbers = self._deepened(query, named, gone, depth, concepts)
            yield self._ranking(query, numbers, gone)

    def _named(self, hits: Sequence[Rows], excluded: Numbers, depth: int) -> Numbers:
        """The concepts of the first ``depth`` hits of each facet that are not excluded."""
        found = [self._concept_of_row[rows[rows >= 0]] for rows in hits]
        if len(excluded):
            found = [numbers[~np.isin(numbers, excluded)][:depth] for numbers in found]
        return np.unique(np.concatenate(found))

    def _deepened(
        self,
        query: Mapping[Facet, Floats],
        named: Numbers,
        excluded: Numbers,
        depth: int,
        concepts: int,
    ) -> Numbers:
        """The concepts ``named`` and, until they are enough, those of the nearest other exemplars.

        Each search passes over all exemplars of the concepts known so far and is twice as deep as
        the one before, so that a few large concepts cost a few searches. The candidates are the
        same, and so are their scores, whatever ``concepts`` is, but for those that it adds.
        """
        there = self._concepts - int(np.count_nonzero(self._sizes(excluded)))
        while len(named) < min(concepts, there) and depth < len(self._concept_of_row):
            depth *= 2
            known = np.concatenate([named, excluded])
            mask = self._hiding(np.union1d(self._hidden, self._rows(known)))
            hits = [
                self._vectors.search(facet, vector[None], depth, mask)[1][0]
                for facet, vector in query.items()
            ]
            named = np.union1d(named, self._named(hits, excluded, depth))
        return named

    def _ranking(
        self, query: Mapping[Facet, Floats], numbers: Numbers, excluded: Numbers
    ) -> Ranking:
        sizes = self._sizes(numbers)
        rows = self._rows(numbers)
        similarities = {
            facet: self._vectors.similarities(facet, vector, rows)
            for facet, vector in query.items()
        }
        members = _members(~np.isin(self._cohort_concepts, excluded))
        levels, background = standardise(
            similarities,
            {facet: (self._cohort[facet] @ vector)[members] for facet, vector in query.items()},
        )
        evidence = combine(levels)
        scores = score_concepts(evidence, sizes, np.sort(combine(background)))
        order = np.lexsort((numbers, -scores))
        return Ranking(
            numbers[order],
            scores[order],
            (np.cumsum(sizes) - sizes)[order],
            sizes[order],
            rows,
            similarities,
            levels,
            evidence,
        )

    def _hiding(self, rows: Rows) -> Mask | None:
        return Mask(rows, len(self._concept_of_row)) if len(rows) else None

    def _rows(self, numbers: Numbers) -> Rows:
        """Concept after concept its rows, which lie side by side in the order."""
        sizes = self._sizes(numbers)
        shifts = self._starts[numbers] - (np.cumsum(sizes) - sizes)
        rows: Rows = self._order[np.repeat(shifts, sizes) + np.arange(sizes.sum())].astype(np.int64)
        return rows

    def _sizes(self, numbers: Numbers) -> Rows:
        sizes: Rows = self._starts[numbers + 1] - self._starts[numbers]
        return sizes


def _sorted(numbers: frozenset[int]) -> Numbers:
    return np.array(sorted(numbers), dtype=np.int32)


def _members(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The members of a cohort to keep: all if fewer than two would be, which have no deviation."""
    return kept if np.count_nonzero(kept) > 1 else np.ones_like(kept)


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

    sum over k = 1 ... `COUNTED` of DECAY^(k-1) max(0, e_k - floor(n, k)), e_k being the k-th
    highest evidence of the concept's n exemplars. The floor is `FLOOR` up to `COUNTED` exemplars.
    Beyond, the k-th best of n unrelated exemplars rises with n by chance alone, from the
    background's quantile at 1 - k / (`COUNTED` + 1) to that at 1 - k / (n + 1), and the floor rises
    as much: a concept does not climb just by being large. A trace of e_1 orders the concepts that
    have nothing else.

    Args:
        evidence: (N,) the exemplars of concept 0, then those of concept 1, ...
        sizes: (C,) exemplars of each concept, each at least 1, N in all.
        background: (B,) evidence of the cohort, ascending.

    Returns:
        (C,) float64.
    """
    starts = np.cumsum(sizes) - sizes
    descending = evidence[np.lexsort((-evidence, np.repeat(np.arange(len(sizes)), sizes)))]
    # Of each concept the exemplars that count: place k = 0, 1, ... in its own order.
    counted = np.minimum(sizes, COUNTED)
    first = np.cumsum(counted) - counted
    k = np.arange(counted.sum()) - np.repeat(first, counted)
    best = descending[np.repeat(starts, counted) + k]
    size = np.repeat(np.maximum(sizes, COUNTED), counted)
    by_chance = _quantile(background, 1 - (k + 1) / (size + 1))
    allowed = _quantile(background, 1 - (k + 1) / (COUNTED + 1))
    excess = np.maximum(best - FLOOR - (by_chance - allowed), 0)
    total: Doubles = np.add.reduceat(excess * DECAY**k, first) + 1e-3 * descending[starts]
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
