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

from index.stores.lists import wants_inverted
from index.stores.vectors import Floats, Mask, Rows, VectorStore
from model.config import Facet

Embeddings = Mapping[Facet, Floats]  # facet -> (N, D) of unit norm
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]  # of concepts or rows: a million take 4 MB

# Chosen on the development pairs; docs/method.md has the rows beside them.
DEPTH = 200  # nearest exemplars of each facet that name the candidates
CONCEPTS = 8  # candidates to find at least
WHOLE = 64  # of a concept with more exemplars, in a large index, only those found are compared
COMPLETED = 1024  # exemplars of smaller concepts compared beside those found, at most
BLOCK = 2**25  # cosines computed at once, at most
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
    levels: dict[Facet, Doubles]  # the same, standardised

    def dominant_facet(self, place: int) -> Facet:
        """The facet that holds most of the evidence of the exemplar at a place of ``rows``."""
        return max(self.levels, key=lambda facet: FACET_WEIGHT[facet] * self.levels[facet][place])


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
        return RankedConcept(
            number=int(self.numbers[place]),
            score=float(self.scores[place]),
            facets=best,
            found_by=_speakers(best),
            rows=self.rows[own][order],
            similarities={facet: s[own][order] for facet, s in self.similarities.items()},
            levels=levels,
        )


@dataclass(frozen=True)
class Cohort:
    """The exemplars that every query is compared with, fixed when the snapshot is built."""

    rows: Rows  # (C,) in the catalog
    vectors: Embeddings  # facet -> (C, D)


class _Compared:
    """A query's view of an index that is compared with it as a whole, in one facet.

    Args:
        cosines: (N,) of every exemplar.
        cohort: (C,) the rows of the cohort.
        hidden: (H,) rows to pass over.
    """

    def __init__(self, cosines: Floats, cohort: Rows, hidden: Rows) -> None:
        self._cosines = cosines
        self._cohort = cohort
        self._hidden = hidden

    def nearest(self, depth: int, passed: Rows) -> Rows:
        """The ``depth`` nearest exemplars, those of ``passed`` and hidden ones left out."""
        distances = -self._cosines
        distances[self._hidden] = np.inf
        distances[passed] = np.inf
        if depth < len(distances):
            rows = np.argpartition(distances, depth - 1)[:depth]
        else:
            rows = np.arange(len(distances))
        return rows[np.isfinite(distances[rows])]

    def cosines(self, rows: Rows) -> Floats:
        """(R,) exact cosines of exemplars."""
        return self._cosines[rows]

    def cohort(self) -> Floats:
        """(C,) cosines of the cohort."""
        return self._cosines[self._cohort]


class _Searched:
    """A query's view of an index that is searched, in one facet.

    Args:
        store: the exemplars' vectors.
        facet: which of them.
        query: (D,) unit vector.
        cohort: (C, D) the cohort's vectors.
        hidden: (H,) rows to pass over.
        hits: (K,) the nearest visible exemplars, best first, from the first search.
    """

    def __init__(
        self,
        store: VectorStore,
        facet: Facet,
        query: Floats,
        cohort: Floats,
        hidden: Rows,
        hits: Rows,
    ) -> None:
        self._store = store
        self._facet = facet
        self._query = query
        self._cohort = cohort
        self._hidden = hidden
        self._hits: Rows | None = hits[hits >= 0]

    def nearest(self, depth: int, passed: Rows) -> Rows:
        """The ``depth`` nearest exemplars, those of ``passed`` and hidden ones left out.

        The first time they are taken from the first search.
        """
        if self._hits is not None:
            hits, self._hits = self._hits, None
            return (hits[~np.isin(hits, passed)] if len(passed) else hits)[:depth]
        mask = Mask(np.union1d(self._hidden, passed), self._store.count)
        rows: Rows = self._store.search(self._facet, self._query[None], depth, mask)[1][0]
        return rows[rows >= 0]

    def cosines(self, rows: Rows) -> Floats:
        """(R,) exact cosines of exemplars."""
        return self._store.similarities(self._facet, self._query, rows)

    def cohort(self) -> Floats:
        """(C,) cosines of the cohort."""
        # Imported here: commands read snapshots without FAISS.
        from index.stores.faiss_files import inner_products

        return inner_products(self._query, self._cohort)


Views = Mapping[Facet, _Compared | _Searched]


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
        visible = np.ones(len(self._concept_of_row), np.bool_)
        visible[self._hidden] = False
        members = _members(visible[cohort.rows])
        self._cohort_rows = cohort.rows[members]
        self._cohort = {facet: matrix[members] for facet, matrix in cohort.vectors.items()}
        # Visible rows grouped by concept: those of concept c are order[starts[c]:starts[c + 1]].
        rows = np.flatnonzero(visible)
        concepts = self._concept_of_row[rows]
        self._order: Numbers = rows[np.argsort(concepts, kind="stable")].astype(np.int32)
        counts = np.bincount(concepts, minlength=self._concept_of_row.max(initial=-1) + 1)
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        self._concepts = int(np.count_nonzero(counts))
        self._large = any(
            wants_inverted("auto", vectors.count, vectors.dimension(facet))
            for facet in cohort.vectors
        )

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
        left_out = [
            np.array(sorted(numbers), dtype=np.int32)
            for numbers in excluded or [frozenset[int]()] * count
        ]
        block = max(1, BLOCK // max(1, len(self._concept_of_row)))
        for start in range(0, count, block):
            part = slice(start, start + block)
            gone = left_out[part]
            extra = max(int(self._sizes(numbers).sum()) for numbers in gone)
            views = [
                self._views(facet, vectors[part], depth + extra)
                for facet, vectors in queries.items()
            ]
            for own, numbers in zip(zip(*views, strict=True), gone, strict=True):
                yield self._rank_one(dict(zip(queries, own, strict=True)), numbers, depth, concepts)

    def _views(
        self, facet: Facet, queries: Floats, depth: int
    ) -> Sequence[_Compared] | Sequence[_Searched]:
        """Each query's (Q, D) view of the exemplars in one facet."""
        every = self._vectors.compare(facet, queries)
        if every is not None:
            return [_Compared(one, self._cohort_rows, self._hidden) for one in every]
        mask = Mask(self._hidden, self._vectors.count) if len(self._hidden) else None
        hits = self._vectors.search(facet, queries, depth, mask)[1]
        cohort, hidden = self._cohort[facet], self._hidden
        return [
            _Searched(self._vectors, facet, query, cohort, hidden, rows)
            for query, rows in zip(queries, hits, strict=True)
        ]

    def _rank_one(self, query: Views, excluded: Numbers, depth: int, concepts: int) -> Ranking:
        """Rank one query's candidates.

        Where the nearest exemplars are of too few concepts, they are searched again without the
        concepts known so far, twice as deep each time, so that a few large concepts cost a few
        searches. No search looks at how many concepts are wanted: the concepts found first, and
        their scores, are the same for any number.
        """
        concepts_of_cohort = self._concept_of_row[self._cohort_rows]
        members = _members(~np.isin(concepts_of_cohort, excluded))
        cohort = {facet: view.cohort()[members] for facet, view in query.items()}
        there = self._concepts - int(np.count_nonzero(self._sizes(excluded)))
        known, scored = excluded, list[Ranking]()
        while True:
            passed = self._rows(known)
            found = np.unique(np.concatenate([v.nearest(depth, passed) for v in query.values()]))
            scored.append(self._score(query, found, cohort))
            known = np.concatenate([known, scored[-1].numbers])
            enough = len(known) - len(excluded) >= min(concepts, there)
            if enough or depth >= len(self._concept_of_row):
                return _joined(scored)
            depth *= 2

    def _score(self, query: Views, found: Rows, cohort: Mapping[Facet, Floats]) -> Ranking:
        """Score the concepts of the exemplars ``found`` (F,), in the order of their numbers.

        All exemplars of these concepts are compared where the index is small. In a large one those
        that were found are, and so are, concept after concept as these rank them, the rest of
        concepts of up to `WHOLE` exemplars, `COMPLETED` exemplars in all.
        """
        numbers, counts = np.unique(self._concept_of_row[found], return_counts=True)
        sizes = self._sizes(numbers)
        if not self._large:
            return self._compare(query, self._rows(numbers), sizes, sizes, cohort)
        rows = found[np.argsort(self._concept_of_row[found], kind="stable")]
        ranking = self._compare(query, rows, counts, sizes, cohort)
        order = np.lexsort((numbers, -ranking.scores))
        missing = np.where(sizes <= WHOLE, sizes - counts, 0)[order]
        chosen = np.sort(order[(missing > 0) & (np.cumsum(missing) <= COMPLETED)])
        if not len(chosen):
            return ranking
        whole = self._rows(numbers[chosen])
        rows = np.union1d(rows, whole)
        rows = rows[np.argsort(self._concept_of_row[rows], kind="stable")]
        counts[chosen] = sizes[chosen]
        return self._compare(query, rows, counts, sizes, cohort)

    def _compare(
        self,
        query: Views,
        rows: Rows,
        counts: Rows,
        sizes: Rows,
        cohort: Mapping[Facet, Floats],
    ) -> Ranking:
        """Score concepts by some of their exemplars.

        Args:
            query: each facet's view.
            rows: (R,) the exemplars, concept after concept.
            counts: (C,) how many there are of each concept, at least 1.
            sizes: (C,) how many exemplars each concept has in the index.
            cohort: facet -> the cohort's cosines.
        """
        similarities = {facet: view.cosines(rows) for facet, view in query.items()}
        levels, background = standardise(similarities, cohort)
        evidence = combine(levels)
        scores = score_concepts(evidence, counts, np.sort(combine(background)), sizes)
        starts = np.cumsum(counts) - counts
        numbers = self._concept_of_row[rows[starts]]
        return Ranking(numbers, scores, starts, counts, rows, similarities, levels, evidence)

    def _rows(self, numbers: Numbers) -> Rows:
        """Concept after concept its rows, which lie side by side in the order."""
        sizes = self._sizes(numbers)
        shifts = self._starts[numbers] - (np.cumsum(sizes) - sizes)
        rows: Rows = self._order[np.repeat(shifts, sizes) + np.arange(sizes.sum())].astype(np.int64)
        return rows

    def _sizes(self, numbers: Numbers) -> Rows:
        sizes: Rows = self._starts[numbers + 1] - self._starts[numbers]
        return sizes


def _joined(parts: Sequence[Ranking]) -> Ranking:
    """One ranking of all concepts, best first, those of equal score by their number."""
    numbers = np.concatenate([part.numbers for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    order = np.lexsort((numbers, -scores))
    facets = list(parts[0].levels)
    return Ranking(
        numbers[order],
        scores[order],
        (np.cumsum(sizes) - sizes)[order],
        sizes[order],
        np.concatenate([part.rows for part in parts]),
        {f: np.concatenate([part.similarities[f] for part in parts]) for f in facets},
        {f: np.concatenate([part.levels[f] for part in parts]) for f in facets},
        np.concatenate([part.evidence for part in parts]),
    )


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


def score_concepts(
    evidence: Doubles, counts: Rows, background: Doubles, sizes: Rows | None = None
) -> Doubles:
    """Each concept's score from its exemplars' evidence.

    sum over k = 1 ... `COUNTED` of DECAY^(k-1) max(0, e_k - floor(n, k)), e_k being the k-th
    highest evidence of the concept's n exemplars. The floor is `FLOOR` up to `COUNTED` exemplars.
    Beyond, the k-th best of n unrelated exemplars rises with n by chance alone, from the
    background's quantile at 1 - k / (`COUNTED` + 1) to that at 1 - k / (n + 1), and the floor rises
    as much: a concept does not climb just by being large. A trace of e_1 orders the concepts that
    have nothing else.

    Args:
        evidence: (R,) some exemplars of concept 0, then some of concept 1, ...
        counts: (C,) how many of each concept, each at least 1, R in all.
        background: (B,) evidence of the cohort, ascending.
        sizes: (C,) the exemplars that each concept has, n; by default those that are given. The
            ones that are not given count as evidence below the floor.

    Returns:
        (C,) float64.
    """
    starts = np.cumsum(counts) - counts
    descending = evidence[np.lexsort((-evidence, np.repeat(np.arange(len(counts)), counts)))]
    # Of each concept the exemplars that count: place k = 0, 1, ... in its own order.
    counted = np.minimum(counts, COUNTED)
    first = np.cumsum(counted) - counted
    k = np.arange(counted.sum()) - np.repeat(first, counted)
    best = descending[np.repeat(starts, counted) + k]
    size = np.repeat(np.maximum(counts if sizes is None else sizes, COUNTED), counted)
    by_chance = _quantile(background, 1 - (k + 1) / (size + 1))
    allowed = _quantile(background, 1 - (k + 1) / (COUNTED + 1))
    excess = np.maximum(best - FLOOR - (by_chance - allowed), 0)
    weighed = np.append(excess * DECAY**k, 0)  # so that no concepts have no scores
    total: Doubles = np.add.reduceat(weighed, first)[: len(counts)] + 1e-3 * descending[starts]
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
