"""Rank concepts by the similarities of their exemplars to a query.

For each query:

1. The *standardised similarity* of an exemplar in a facet is its cosine above the query's mean
   cosine with a fixed cohort of exemplars stored in the snapshot, since some queries are near all
   exemplars. The unit is the usual deviation of such cosines, one number of each facet
   (`index.answering.calibration.Scaling`): a query's own deviation grows with its strongest
   likenesses, and dividing by it would hide them.
2. In each facet the part above the exemplar's *usual level*, the standardised usual similarity
   (`index.answering.neighbours`), counts twice, since an exemplar near all of its category is
   weaker evidence. An exemplar's evidence is the weighted mean of that over facets.
3. Two statistics of a concept are computed: the sum of its best exemplars with decreasing weights,
   since exemplars of a concept are redundant, and its best exemplar alone. The *lead* of each is
   its value less the mean of the query's third to eighth concepts: a typical error is another
   concept of the same category, and then several have similar values.
4. A concept's *score* is the larger of its leads, each expressed as the logarithm of a tail
   probability of the null distribution (`index.answering.calibration.Scaling`).

Candidates are the concepts of each facet's nearest exemplars. Their similarities are all computed
exactly, so a sum does not depend on the search that found the candidates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from index.answering.calibration import Scaling
from index.answering.neighbours import Neighbours
from index.stores.lists import is_large
from index.stores.vectors import Floats, Mask, Rows, Scan, VectorStore, Visible
from model.config import Facet

Embeddings = Mapping[Facet, Floats]  # facet -> (N, D) of unit norm
Doubles = NDArray[np.float64]
Numbers = NDArray[np.int32]  # of concepts or rows: a million take 4 MB

DEPTH = 200  # nearest exemplars of each facet whose concepts are candidates
CONCEPTS = 8  # fewest candidates
MAX_COMPLETED = 64  # in a large index, exemplars of a concept whose exemplars are all compared
MAX_ADDED = 1024  # most exemplars compared to complete such concepts
DEEPER = 4  # a further round's depth, relative to the one before
BLOCK = 2**25  # most cosines computed at once
RIVALS = slice(2, CONCEPTS)  # ranks of the concepts whose mean is subtracted
DECAY = 0.7  # weight of an exemplar relative to the one before
COUNTED = 8  # most exemplars that count
MAX_DEEPER = (
    COUNTED  # exemplars that a further round finds of a concept and facet, in a large index
)
FACET_WEIGHTS: Mapping[Facet, float] = {"subject": 1.0, "style": 1.2}
NOTABLE = 0.25  # part of a concept's lead from which on a facet is in `found_by`


@dataclass(frozen=True)
class RankedConcept:
    """A concept's place in one query's ranking."""

    number: int  # in the catalog
    score: float  # over facets and exemplars, above the query's rivals; see `Scaling`
    facets: dict[Facet, float]  # highest standardised similarity in each
    found_by: tuple[Facet, ...]  # facets with a notable part of its lead, the stronger first
    rows: Rows  # its exemplars, the one with the most evidence first
    similarities: dict[Facet, Floats]  # cosine of each of ``rows``
    levels: dict[Facet, Doubles]  # the same, standardised
    rivals: Mapping[Facet, float]  # mean level of the query's rivals in each facet

    def dominant_facet(self, place: int) -> Facet:
        """Return the facet with most of the evidence of the exemplar at a position of ``rows``."""
        return max(self.levels, key=lambda facet: self.levels[facet][place] - self.rivals[facet])


@dataclass(frozen=True, eq=False)
class Ranking(Sequence[RankedConcept]):
    """The candidate concepts of one query, best first, in arrays; items are made on access.

    Attributes:
        numbers: (C,) the concepts' numbers.
        scores: (C,) descending.
        statistics: (S, C) the sum of their exemplars' evidence, and the highest.
        starts: (C,) position of each concept's first exemplar in the arrays below.
        sizes: (C,) number of each concept's exemplars.
        rows: (R,) exemplars.
        similarities: facet -> (R,) their cosines with the query.
        levels: facet -> (R,) the same, standardised.
        evidence: (R,) all facets together.
        rivals: facet -> the mean level of the third to eighth highest concepts in it.
        rival: (S,) of each statistic, the mean of its third to eighth highest value.
        query: facet -> (D,) the query's unit vector.
    """

    numbers: Numbers
    scores: Doubles
    statistics: Doubles
    starts: Rows
    sizes: Rows
    rows: Rows
    similarities: Mapping[Facet, Floats]
    levels: Mapping[Facet, Doubles]
    evidence: Doubles
    rivals: Mapping[Facet, float] = field(default_factory=dict)
    rival: Doubles = field(default_factory=lambda: np.zeros(2))
    query: Mapping[Facet, Floats] = field(default_factory=dict)

    @property
    def leads(self) -> Doubles:
        """Return the concepts' leads (S, C): their statistics less the rivals' means."""
        leads: Doubles = self.statistics - self.rival[:, None]
        return leads

    def in_order(self, scaling: Scaling) -> "Ranking":
        """Return the concepts best first, those of equal scores by number, with their rivals."""
        rival = np.array([rivals_mean(np.sort(values)[::-1]) for values in self.statistics])
        scores = scaling.scores(self.statistics - rival[:, None])
        order = np.lexsort((self.numbers, -self.statistics[0], -scores))
        best = (
            {facet: np.maximum.reduceat(level, self.starts) for facet, level in self.levels.items()}
            if len(order)
            else {facet: np.empty(0) for facet in self.levels}
        )
        return replace(
            self,
            numbers=self.numbers[order],
            scores=scores[order],
            statistics=self.statistics[:, order],
            starts=self.starts[order],
            sizes=self.sizes[order],
            rivals={facet: rivals_mean(np.sort(one)[::-1]) for facet, one in best.items()},
            rival=rival,
        )

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
            found_by=notable_facets({facet: best[facet] - self.rivals[facet] for facet in best}),
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
    """A query's cosines with all exemplars, in one facet.

    Args:
        cosines: (N,) of every exemplar.
        cohort: (C,) the rows of the cohort.
    """

    def __init__(self, cosines: Floats, cohort: Rows) -> None:
        self._cosines = cosines
        self._cohort = cohort

    def nearest(self, depth: int, visible: Visible) -> Rows:
        """Return the ``depth`` nearest visible exemplars, best first."""
        distances = np.where(visible, -self._cosines, np.inf)
        rows = np.arange(len(visible))
        if depth < len(visible):
            rows = np.argpartition(distances, depth - 1)[:depth]
        rows = rows[visible[rows]]
        return rows[np.argsort(distances[rows])]

    def cosines(self, rows: Rows) -> Floats:
        """Return the exact cosines (R,) of exemplars."""
        return self._cosines[rows]

    def cohort(self) -> Floats:
        """Return the cosines (C,) of the cohort."""
        return self._cosines[self._cohort]


class _Scanned:
    """A query's cosines by a scan of a vector store, in one facet.

    Args:
        store: the exemplars' vectors.
        facet: to search.
        query: (D,) unit vector.
        cohort: (C, D) the cohort's vectors.
        scan: of the query.
    """

    def __init__(
        self, store: VectorStore, facet: Facet, query: Floats, cohort: Floats, scan: Scan
    ) -> None:
        self._store = store
        self._facet = facet
        self._query = query
        self._cohort = cohort
        self.nearest = scan.nearest

    def cosines(self, rows: Rows) -> Floats:
        """Return the exact cosines (R,) of exemplars."""
        return self._store.similarities(self._facet, self._query, rows)

    def cohort(self) -> Floats:
        """Return the cosines (C,) of the cohort."""
        # Imported here: commands read snapshots without FAISS.
        from index.stores.faiss_files import inner_products

        return inner_products(self._query, self._cohort)


Views = Mapping[Facet, _Compared | _Scanned]


class Ranker:
    """Ranks the concepts of one snapshot.

    Args:
        vectors: the exemplars' embeddings.
        concept_of_row: (N,) each exemplar's concept number.
        cohort: exemplars that standardise similarities.
        neighbours: each exemplar's nearest exemplars of other concepts.
        hidden: (H,) hidden rows.
        scaling: of the statistics; by default a concept's score is the lead of its sum.
    """

    def __init__(
        self,
        vectors: VectorStore,
        concept_of_row: Sequence[int] | Rows | Numbers,
        cohort: Cohort,
        neighbours: Neighbours,
        hidden: Rows | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self._scaling = scaling or Scaling()
        self._vectors = vectors
        self._concept_of_row: Numbers = np.asarray(concept_of_row, dtype=np.int32)
        if hidden is None:
            hidden = np.empty(0, dtype=np.int64)
        visible = np.ones(len(self._concept_of_row), np.bool_)
        visible[hidden] = False
        self._mask = Mask(hidden, len(visible)) if len(hidden) else None
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
        every = np.arange(len(visible))
        absent = self._absent if len(hidden) else None
        self._usual = {facet: neighbours.usual(facet, every, absent) for facet in neighbours.lists}
        self._large = any(is_large(vectors, facet) for facet in cohort.vectors)

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
            depth: nearest exemplars of each facet whose concepts are candidates; the size of the
                index ranks every concept.
            concepts: fewest candidates, if there are as many; until they are found, the search is
                repeated among the remaining concepts.
            excluded: for each query the concepts to leave out.

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
            own_excluded = left_out[part]
            extra = max(int(self._sizes(numbers).sum()) for numbers in own_excluded)
            views = [
                self._views(facet, vectors[part], depth + extra)
                for facet, vectors in queries.items()
            ]
            for place, (own, numbers) in enumerate(
                zip(zip(*views, strict=True), own_excluded, strict=True), start
            ):
                seen = dict(zip(queries, own, strict=True))
                vectors = {facet: matrix[place] for facet, matrix in queries.items()}
                yield replace(self._rank_one(seen, numbers, depth, concepts), query=vectors)

    def _views(
        self, facet: Facet, queries: Floats, depth: int
    ) -> Sequence[_Compared] | Sequence[_Scanned]:
        """Return the view of each of the queries (Q, D) in one facet."""
        every = self._vectors.compare(facet, queries)
        if every is not None:
            return [_Compared(one, self._cohort_rows) for one in every]
        scans = self._vectors.scan(facet, queries, depth, self._mask)
        return [
            _Scanned(self._vectors, facet, query, self._cohort[facet], scan)
            for query, scan in zip(queries, scans, strict=True)
        ]

    def _rank_one(self, query: Views, excluded: Numbers, depth: int, concepts: int) -> Ranking:
        """Rank one query's candidates."""
        cohort = {facet: view.cohort().astype(np.float64) for facet, view in query.items()}
        if len(excluded):
            members = _members(~np.isin(self._concept_of_row[self._cohort_rows], excluded))
            cohort = {facet: cosines[members] for facet, cosines in cohort.items()}
        found = self._find(query, excluded, depth, concepts)
        return self._score(query, found, cohort, excluded)

    def _find(self, query: Views, excluded: Numbers, depth: int, concepts: int) -> list[Rows]:
        """Return exemplars of the candidates, as found in each round, by row.

        If the nearest exemplars are of too few concepts, there is another round without the
        concepts found so far, `DEEPER` times as deep. So a few large concepts cost one more round.
        No round depends on the number of concepts wanted, so that the first concepts and their
        scores do not, either.
        """
        there = self._concepts - int(np.count_nonzero(self._sizes(excluded)))
        visible = self._without(self._visible, excluded) if len(excluded) else self._visible
        found: list[Rows] = []
        left = min(concepts, there)
        while True:
            nearest = [view.nearest(depth, visible) for view in query.values()]
            if found and self._large:
                nearest = [self._few_of_each(rows) for rows in nearest]
            found.append(np.unique(np.concatenate(nearest)))
            numbers = np.unique(self._concept_of_row[found[-1]])
            left -= len(numbers)
            if left <= 0 or depth >= len(visible):
                return found
            visible = self._without(visible, numbers)
            depth *= DEEPER

    def _without(self, visible: Visible, numbers: Numbers) -> Visible:
        """Return the visible rows (N,) without those of some concepts."""
        visible = visible.copy()
        visible[self._rows(numbers)] = False
        return visible

    def _few_of_each(self, rows: Rows) -> Rows:
        """Return the first `MAX_DEEPER` exemplars of each concept of ``rows``, best first."""
        concepts = self._concept_of_row[rows]
        order = np.argsort(concepts, kind="stable")
        starts = np.flatnonzero(np.diff(concepts[order], prepend=-1))
        place = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
        return rows[order[place < MAX_DEEPER]]

    def _score(
        self,
        query: Views,
        found: Sequence[Rows],
        cohort: Mapping[Facet, Doubles],
        excluded: Numbers,
    ) -> Ranking:
        """Rank the concepts of the exemplars found in each round.

        In a small index all exemplars of these concepts are compared. In a large one the exemplars
        found are compared, and concepts of up to `MAX_COMPLETED` exemplars are completed, by at
        most `MAX_ADDED` exemplars in all: those of the first round first, and of these the best by
        the exemplars found.
        """
        rows = np.concatenate(found)
        concepts = self._concept_of_row[rows]
        order = np.argsort(concepts, kind="stable")
        starts = np.flatnonzero(np.diff(concepts[order], prepend=-1))
        numbers = concepts[order[starts]]
        sizes = self._sizes(numbers)
        if not self._large:
            rows = self._rows(numbers)
            similarities = {facet: view.cosines(rows) for facet, view in query.items()}
            return self._compare(similarities, rows, sizes, sizes, cohort, excluded).in_order(
                self._scaling
            )
        counts = np.diff(starts, append=len(rows))
        rounds = np.repeat(np.arange(len(found)), [len(part) for part in found])[order[starts]]
        rows = rows[order]
        similarities = {facet: view.cosines(rows) for facet, view in query.items()}
        missing = np.where(sizes <= MAX_COMPLETED, sizes - counts, 0)
        chosen = missing > 0
        if missing.sum() > MAX_ADDED:
            sums = self._compare(similarities, rows, counts, sizes, cohort, excluded).statistics[0]
            first = np.lexsort((numbers, -sums, rounds))
            chosen[first] &= np.cumsum(missing[first]) <= MAX_ADDED
        if chosen.any():
            added = np.setdiff1d(self._rows(numbers[chosen]), rows, assume_unique=True)
            rows = np.concatenate([rows, added])
            order = np.argsort(self._concept_of_row[rows], kind="stable")
            rows = rows[order]
            similarities = {
                facet: np.concatenate([cosines, query[facet].cosines(added)])[order]
                for facet, cosines in similarities.items()
            }
            counts = np.where(chosen, sizes, counts)
        return self._compare(similarities, rows, counts, sizes, cohort, excluded).in_order(
            self._scaling
        )

    def _compare(
        self,
        similarities: Mapping[Facet, Floats],
        rows: Rows,
        counts: Rows,
        sizes: Rows,
        cohort: Mapping[Facet, Doubles],
        excluded: Numbers,
    ) -> Ranking:
        """Score concepts by some of their exemplars, in the order of the concepts' numbers.

        Args:
            similarities: facet -> (R,) exact cosines of the exemplars.
            rows: (R,) the exemplars, grouped by concept.
            counts: (C,) number of these for each concept, at least 1.
            sizes: (C,) number of exemplars of each concept in the index.
            cohort: facet -> the cohort's cosines.
            excluded: concepts to leave out.
        """
        usual = self._usual_similarities(rows, excluded)
        levels: dict[Facet, Doubles] = {}
        near: list[Doubles] = []
        background: list[Doubles] = []
        large = sizes.max(initial=0) > COUNTED
        for facet, cosines in similarities.items():
            mean, deviation = cohort_moments(cohort[facet])
            deviation = np.asarray(self._scaling.deviations.get(facet, deviation))
            levels[facet] = (cosines - mean) / deviation
            # Without neighbours the usual level is the cohort's mean.
            level = (usual[facet] - mean) / deviation
            near.append(np.where(np.isnan(level), 0.0, level))
            if large:
                background.append(np.sort((cohort[facet] - mean) / deviation))
        evidence = combine(levels)
        statistics = score_concepts(
            np.array(list(levels.values())),
            np.array(near),
            counts,
            np.array(background),
            sizes,
            weights=[FACET_WEIGHTS[facet] for facet in levels],
        )
        starts = np.cumsum(counts) - counts
        numbers = self._concept_of_row[rows[starts]]
        scores = statistics[0]
        return Ranking(
            numbers, scores, statistics, starts, counts, rows, similarities, levels, evidence
        )

    def _usual_similarities(self, rows: Rows, excluded: Numbers) -> Mapping[Facet, Doubles]:
        """Return the usual similarity of exemplars, without hidden rows and excluded concepts."""
        if not len(excluded):
            return {facet: usual[rows] for facet, usual in self._usual.items()}
        return {
            facet: self._neighbours.usual(facet, rows, lambda near: self._absent(near, excluded))
            for facet in self._usual
        }

    def _absent(self, rows: Rows, excluded: Numbers | None = None) -> NDArray[np.bool_]:
        absent = ~self._visible[rows]
        if excluded is not None:
            absent |= np.isin(self._concept_of_row[rows], excluded)
        return absent

    def _rows(self, numbers: Numbers) -> Rows:
        """Return the visible rows of concepts, grouped by concept."""
        sizes = self._sizes(numbers)
        shifts = self._starts[numbers] - (np.cumsum(sizes) - sizes)
        rows: Rows = self._order[np.repeat(shifts, sizes) + np.arange(sizes.sum())].astype(np.int64)
        return rows

    def _sizes(self, numbers: Numbers) -> Rows:
        sizes: Rows = self._starts[numbers + 1] - self._starts[numbers]
        return sizes


def _members(kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cohort's members to keep: all if fewer than two, which have no deviation."""
    return kept if np.count_nonzero(kept) > 1 else np.ones_like(kept)


def standardise(
    similarities: Mapping[Facet, Floats], cohort: Mapping[Facet, Floats]
) -> tuple[dict[Facet, Doubles], dict[Facet, Doubles]]:
    """Return cosines in standard deviations above the cohort's mean.

    Args:
        similarities: facet -> (..., N) cosines of queries with exemplars.
        cohort: facet -> (..., C) cosines of the same queries with the cohort.

    Returns:
        The exemplars' levels and the cohort's own, in the same shapes; float64.
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
    """Return the mean and deviation of cosines with the cohort: (..., C) -> (...) twice.

    The deviation is at least 10^-6.
    """
    return cosines.mean(axis=-1), np.maximum(cosines.std(axis=-1), 1e-6)


def usual_deviation(cohort: Floats) -> float:
    """Return the median over a cohort's vectors (C, D) of the deviation of cosines with the others.

    It is at least 10^-6; 1 for a single vector.
    """
    count = len(cohort)
    if count < 2:
        return 1.0
    cosines = (cohort @ cohort.T).astype(np.float64)
    others = cosines[~np.eye(count, dtype=np.bool_)].reshape(count, count - 1)
    return float(np.median(cohort_moments(others)[1]))


def combine(levels: Mapping[Facet, Doubles]) -> Doubles:
    """Return each exemplar's evidence: the mean of its standardised similarities over facets."""
    return np.asarray(sum(levels.values()) / len(levels), dtype=np.float64)


def score_concepts(
    evidence: Doubles,
    usual: Doubles,
    counts: Rows,
    background: Doubles,
    sizes: Rows | None = None,
    weights: Sequence[float] | None = None,
) -> Doubles:
    """Return two statistics of each concept: the sum of its evidence, and its highest evidence.

    The sum is over k = 1 ... `COUNTED` of DECAY^(k-1) g_k, where g_k is the k-th highest value of g
    over its exemplars: the weighted mean over facets of max(0, e) + max(0, e - u), e being the
    evidence in the facet and u the usual level. By chance the k-th best of n unrelated exemplars
    rises with n, from the background's quantile at 1 - k / (`COUNTED` + 1) to that at
    1 - k / (n + 1). For n above `COUNTED` this difference is subtracted from e, so that large
    concepts have no advantage. The highest evidence is g_1. To both, 10^-3 of the highest mean of e
    over facets is added, to order concepts whose sums are 0.

    Args:
        evidence: (F, R) of some exemplars of concept 0, then some of concept 1, ..., by facet.
        usual: (F, R) their usual levels.
        counts: (C,) number of these for each concept, at least 1, R in all.
        background: (F, B) evidence of the cohort, ascending; used only for n above `COUNTED`.
        sizes: (C,) number of exemplars n of each concept; by default ``counts``. Exemplars not in
            ``evidence`` count as evidence below 0.
        weights: (F,) of the facets; by default equal.

    Returns:
        (2, C) float64.
    """
    if not len(counts):
        return np.empty((2, 0))
    given = np.ones(len(evidence)) if weights is None else np.asarray(weights)
    shares = given / given.sum()
    mean = evidence.mean(axis=0)
    starts = np.cumsum(counts) - counts
    weight: Doubles = shares @ (np.maximum(evidence, 0) + np.maximum(evidence - usual, 0))
    sizes = counts if sizes is None else sizes
    if counts.max() == 1 and sizes.max() <= COUNTED:
        alone = weight + 1e-3 * mean
        return np.stack([alone, alone])
    order = np.lexsort((-weight, np.repeat(np.arange(len(counts)), counts)))
    # The exemplars that count, with their rank k = 0, 1, ... in their concept.
    counted = np.minimum(counts, COUNTED)
    first = np.cumsum(counted) - counted
    k = np.arange(counted.sum()) - np.repeat(first, counted)
    best = order[np.repeat(starts, counted) + k]
    excess = weight[best]
    size = np.repeat(sizes, counted)
    large = np.flatnonzero(size > COUNTED)
    if len(large):
        rank, rows = k[large] + 1, best[large]
        by_chance = _quantile(background, 1 - rank / (size[large] + 1))
        rest = evidence[:, rows] - by_chance + _quantile(background, 1 - rank / (COUNTED + 1))
        excess[large] = shares @ (np.maximum(rest, 0) + np.maximum(rest - usual[:, rows], 0))
    highest = np.maximum.reduceat(mean, starts)
    return np.stack([np.add.reduceat(excess * DECAY**k, first), excess[first]]) + 1e-3 * highest


def rivals_mean(descending: Doubles) -> float:
    """Return the mean of the third to eighth value; 0 if there are fewer than three."""
    rivals = descending[RIVALS]
    return float(rivals.mean()) if len(rivals) else 0.0


def _quantile(ascending: Doubles, level: Doubles) -> Doubles:
    """Return quantiles (F, N) of sorted values (F, B); levels (N,) under 0 count as 0."""
    places = (np.maximum(level, 0) * (ascending.shape[1] - 1)).astype(np.int64)
    return np.asarray(ascending[:, places], dtype=np.float64)


def notable_facets(leads: Mapping[Facet, float]) -> tuple[Facet, ...]:
    """Return the facets with a notable part of a concept's lead over its rivals, strongest first.

    Args:
        leads: facet -> level of the concept's best exemplar less the rivals' level.
    """
    order = sorted(leads, key=lambda facet: -leads[facet])
    whole = sum(max(lead, 0.0) for lead in leads.values())
    return tuple(
        facet
        for place, facet in enumerate(order)
        if not place or leads[facet] > NOTABLE * whole > 0
    )
