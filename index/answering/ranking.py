"""From exemplar hits of every facet to ranked concepts.

For each query:

1. The *standardised similarity* of an exemplar in a facet is its cosine in standard deviations
   above the mean of a fixed cohort of exemplars kept with the snapshot. Some queries are close to
   everything; this makes them comparable, and needs no score but the cohort's.
2. The *evidence* of an exemplar is the mean over facets. What it has beyond the exemplar's *usual
   level*, the standardised similarity of its nearest strangers (`index.answering.neighbours`),
   counts twice: an exemplar that is near everything of its category says less.
3. A concept adds up its best exemplars, each counting less than the one before, since exemplars of
   a concept repeat one another. Its *score* is that sum less the mean of the query's third to
   eighth concepts: the usual mistake is another thing of the same category, and then several
   concepts stand equally high.

Candidates are the concepts of each facet's nearest exemplars. All their similarities are computed
exactly, so a sum does not depend on how the candidates were found.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from index.answering.neighbours import Neighbours
from index.stores.lists import wants_inverted
from index.stores.vectors import Floats, Mask, Rows, VectorStore
from model.config import Facet

Embeddings = Mapping[Facet, Floats]  # facet -> (N, D) of unit norm
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]  # of concepts or rows: a million take 4 MB

DEPTH = 200  # nearest exemplars of each facet that name the candidates
CONCEPTS = 8  # candidates to find at least
WHOLE = 64  # of a concept with more exemplars, in a large index, only those found are compared
COMPLETED = 1024  # exemplars of smaller concepts compared beside those found, at most
BLOCK = 2**25  # cosines computed at once, at most
RIVALS = slice(2, CONCEPTS)  # places of a query's concepts that others are measured against
DECAY = 0.7  # each further exemplar counts this much of the one before
COUNTED = 8  # exemplars that count, at most
SPEAKS = 0.25  # part of the evidence from which on a facet is said to have found a concept


@dataclass(frozen=True)
class RankedConcept:
    """A concept's place in one query's ranking."""

    number: int  # in the catalog
    score: float  # over facets and exemplars, above the query's rivals
    facets: dict[Facet, float]  # highest standardised similarity in each
    found_by: tuple[Facet, ...]  # the facets that speak for it, the stronger first
    rows: Rows  # its exemplars, the one with the most evidence first
    similarities: dict[Facet, Floats]  # cosine of each of ``rows``
    levels: dict[Facet, Doubles]  # the same, standardised
    rivals: Mapping[Facet, float]  # the level that the query's rivals reach in each facet

    def dominant_facet(self, place: int) -> Facet:
        """The facet that holds most of the evidence of the exemplar at a place of ``rows``."""
        return max(self.levels, key=lambda facet: self.levels[facet][place] - self.rivals[facet])


@dataclass(frozen=True, eq=False)
class Ranking(Sequence[RankedConcept]):
    """The candidate concepts of one query, best first: arrays, made into objects when looked at.

    Attributes:
        numbers: (C,) the concepts' numbers.
        sums: (C,) what their exemplars add up to, descending.
        starts: (C,) where the exemplars of each begin in the arrays below.
        sizes: (C,) how many exemplars each has.
        rows: (R,) exemplars.
        similarities: facet -> (R,) their cosines with the query.
        levels: facet -> (R,) the same, standardised.
        evidence: (R,) all facets together.
        rivals: facet -> the mean level of the third to eighth highest concepts in it.
        rival: the mean sum of the third to eighth concept.
    """

    numbers: Numbers
    sums: Doubles
    starts: Rows
    sizes: Rows
    rows: Rows
    similarities: Mapping[Facet, Floats]
    levels: Mapping[Facet, Doubles]
    evidence: Doubles
    rivals: Mapping[Facet, float] = field(default_factory=dict)
    rival: float = 0.0

    @property
    def scores(self) -> Doubles:
        """(C,) the concepts' scores, descending: their sums above the rivals'."""
        scores: Doubles = self.sums - self.rival
        return scores

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
            score=float(self.sums[place] - self.rival),
            facets=best,
            found_by=_speakers({facet: best[facet] - self.rivals[facet] for facet in best}),
            rows=self.rows[own][order],
            similarities={facet: s[own][order] for facet, s in self.similarities.items()},
            levels=levels,
            rivals=self.rivals,
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
        neighbours: what each exemplar is near of other concepts.
        hidden: rows that are as if they were not in the index.
    """

    def __init__(
        self,
        vectors: VectorStore,
        concept_of_row: Sequence[int] | Rows | Numbers,
        cohort: Cohort,
        neighbours: Neighbours,
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
        self._neighbours = neighbours
        self._visible = visible
        everything = np.arange(len(visible))
        gone = self._gone if len(self._hidden) else None
        self._usual = {
            facet: neighbours.usual(facet, everything, gone) for facet in neighbours.lists
        }
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
            scored.append(self._score(query, found, cohort, excluded))
            known = np.concatenate([known, scored[-1].numbers])
            enough = len(known) - len(excluded) >= min(concepts, there)
            if enough or depth >= len(self._concept_of_row):
                return _joined(scored)
            depth *= 2

    def _score(
        self, query: Views, found: Rows, cohort: Mapping[Facet, Floats], excluded: Numbers
    ) -> Ranking:
        """Score the concepts of the exemplars ``found`` (F,), in the order of their numbers.

        All exemplars of these concepts are compared where the index is small. In a large one those
        that were found are, and so are, concept after concept as these rank them, the rest of
        concepts of up to `WHOLE` exemplars, `COMPLETED` exemplars in all.
        """
        numbers, counts = np.unique(self._concept_of_row[found], return_counts=True)
        sizes = self._sizes(numbers)
        if not self._large:
            return self._compare(query, self._rows(numbers), sizes, sizes, cohort, excluded)
        rows = found[np.argsort(self._concept_of_row[found], kind="stable")]
        ranking = self._compare(query, rows, counts, sizes, cohort, excluded)
        order = np.lexsort((numbers, -ranking.scores))
        missing = np.where(sizes <= WHOLE, sizes - counts, 0)[order]
        chosen = np.sort(order[(missing > 0) & (np.cumsum(missing) <= COMPLETED)])
        if not len(chosen):
            return ranking
        whole = self._rows(numbers[chosen])
        rows = np.union1d(rows, whole)
        rows = rows[np.argsort(self._concept_of_row[rows], kind="stable")]
        counts[chosen] = sizes[chosen]
        return self._compare(query, rows, counts, sizes, cohort, excluded)

    def _compare(
        self,
        query: Views,
        rows: Rows,
        counts: Rows,
        sizes: Rows,
        cohort: Mapping[Facet, Floats],
        excluded: Numbers,
    ) -> Ranking:
        """Score concepts by some of their exemplars.

        Args:
            query: each facet's view.
            rows: (R,) the exemplars, concept after concept.
            counts: (C,) how many there are of each concept, at least 1.
            sizes: (C,) how many exemplars each concept has in the index.
            cohort: facet -> the cohort's cosines.
            excluded: concepts to leave out.
        """
        similarities = {facet: view.cosines(rows) for facet, view in query.items()}
        usual = self._usual_similarities(rows, excluded)
        both, background = standardise(
            {facet: np.concatenate([similarities[facet], usual[facet]]) for facet in query}, cohort
        )
        levels = {facet: level[: len(rows)] for facet, level in both.items()}
        evidence = combine(levels)
        # An exemplar without neighbours is measured against the cohort alone.
        usual_level = np.nan_to_num(
            combine({facet: level[len(rows) :] for facet, level in both.items()}), nan=0.0
        )
        sums = score_concepts(evidence, usual_level, counts, np.sort(combine(background)), sizes)
        starts = np.cumsum(counts) - counts
        numbers = self._concept_of_row[rows[starts]]
        return Ranking(numbers, sums, starts, counts, rows, similarities, levels, evidence)

    def _usual_similarities(self, rows: Rows, excluded: Numbers) -> Mapping[Facet, Doubles]:
        """The usual similarity of exemplars, as if excluded concepts were not in the index."""
        if not len(excluded):
            return {facet: usual[rows] for facet, usual in self._usual.items()}
        return {
            facet: self._neighbours.usual(facet, rows, lambda near: self._gone(near, excluded))
            for facet in self._usual
        }

    def _gone(self, rows: Rows, excluded: Numbers | None = None) -> NDArray[np.bool_]:
        gone = ~self._visible[rows]
        if excluded is not None:
            gone |= np.isin(self._concept_of_row[rows], excluded)
        return gone

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
    """One ranking of all concepts, best first, those of equal sum by their number."""
    numbers = np.concatenate([part.numbers for part in parts])
    sums = np.concatenate([part.sums for part in parts])
    sizes = np.concatenate([part.sizes for part in parts])
    order = np.lexsort((numbers, -sums))
    starts = np.cumsum(sizes) - sizes
    facets = list(parts[0].levels)
    levels = {f: np.concatenate([part.levels[f] for part in parts]) for f in facets}
    return Ranking(
        numbers[order],
        sums[order],
        starts[order],
        sizes[order],
        np.concatenate([part.rows for part in parts]),
        {f: np.concatenate([part.similarities[f] for part in parts]) for f in facets},
        levels,
        np.concatenate([part.evidence for part in parts]),
        {
            f: _rivals(np.sort(np.maximum.reduceat(level, starts))[::-1]) if len(starts) else 0.0
            for f, level in levels.items()
        },
        _rivals(sums[order]),
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
    """Each exemplar's evidence: the mean of its standardised similarities over facets."""
    return np.asarray(np.mean(np.stack(list(levels.values())), axis=0), dtype=np.float64)


def score_concepts(
    evidence: Doubles,
    usual: Doubles,
    counts: Rows,
    background: Doubles,
    sizes: Rows | None = None,
) -> Doubles:
    """Add up each concept's exemplars.

    sum over k = 1 ... `COUNTED` of DECAY^(k-1) g_k, g_k being the k-th highest of its exemplars'
    g = max(0, e) + max(0, e - u), e the evidence and u the usual level of the exemplar. The k-th
    best of n unrelated exemplars rises with n by chance alone, from the background's quantile at
    1 - k / (`COUNTED` + 1) to that at 1 - k / (n + 1); beyond `COUNTED` exemplars as much is taken
    from e: a concept does not climb just by being large. A trace of the highest e orders the
    concepts that have nothing else.

    Args:
        evidence: (R,) some exemplars of concept 0, then some of concept 1, ...
        usual: (R,) their usual levels.
        counts: (C,) how many of each concept, each at least 1, R in all.
        background: (B,) evidence of the cohort, ascending.
        sizes: (C,) the exemplars that each concept has, n; by default those that are given. The
            ones that are not given count as evidence below 0.

    Returns:
        (C,) float64.
    """
    if not len(counts):
        return np.empty(0)
    starts = np.cumsum(counts) - counts
    weight = np.maximum(evidence, 0) + np.maximum(evidence - usual, 0)
    order = np.lexsort((-evidence, -weight, np.repeat(np.arange(len(counts)), counts)))
    # Of each concept the exemplars that count: place k = 0, 1, ... in its own order.
    counted = np.minimum(counts, COUNTED)
    first = np.cumsum(counted) - counted
    k = np.arange(counted.sum()) - np.repeat(first, counted)
    best = order[np.repeat(starts, counted) + k]
    size = np.repeat(np.maximum(counts if sizes is None else sizes, COUNTED), counted)
    by_chance = _quantile(background, 1 - (k + 1) / (size + 1))
    allowed = _quantile(background, 1 - (k + 1) / (COUNTED + 1))
    rest = evidence[best] - (by_chance - allowed)
    excess = np.maximum(rest, 0) + np.maximum(rest - usual[best], 0)
    highest = np.maximum.reduceat(evidence, starts)
    total: Doubles = np.add.reduceat(excess * DECAY**k, first) + 1e-3 * highest
    return total


def _rivals(descending: Doubles) -> float:
    """The mean of the third to eighth value; 0 where there are fewer than three."""
    rivals = descending[RIVALS]
    return float(rivals.mean()) if len(rivals) else 0.0


def _quantile(ascending: Doubles, level: Doubles) -> Doubles:
    """Quantiles of sorted values; levels under 0 count as 0."""
    places = (np.maximum(level, 0) * (len(ascending) - 1)).astype(np.int64)
    return np.asarray(ascending[places], dtype=np.float64)


def _speakers(leads: Mapping[Facet, float]) -> tuple[Facet, ...]:
    """The facets that hold a notable part of a concept's lead over its rivals, the stronger first.

    Args:
        leads: facet -> how far its best exemplar lies above the rivals' in it.
    """
    order = sorted(leads, key=lambda facet: -leads[facet])
    whole = sum(max(lead, 0.0) for lead in leads.values())
    return tuple(
        facet for place, facet in enumerate(order) if not place or leads[facet] > SPEAKS * whole > 0
    )
