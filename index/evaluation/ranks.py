"""Ranks of a query's true exemplars in a gallery of any size, counted in blocks.

Images are ranked by score, highest first. Of equal scores a wrong image comes before a true
exemplar, so that no method gains by ties, and true exemplars keep their listed order. (A stable
sort of the gallery followed by the exemplars gives this ranking.) So the rank of a query's i-th
best true exemplar is i plus the number of wrong images that score at least as high. That number is
counted block by block, by one matrix product and one comparison a score.

Scores come from a float32 product. Scores so near a true exemplar's that rounding could decide are
computed again, one by one, in float64. So the ranks are exact, and depend neither on the blocks
nor on the library that multiplies.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from index.answering.ranking import Doubles, Embeddings
from index.evaluation.scores import Candidates, ExemplarScorer
from index.stores.vectors import Rows


def rank_true(
    scorer: ExemplarScorer,
    gallery: Iterable[Embeddings],
    true_scores: Sequence[Doubles],
    *,
    in_gallery: bool,
) -> list[Rows]:
    """Return the ranks of each query's true exemplars, from 1.

    Args:
        scorer: of Q queries.
        gallery: the images that all queries share, in blocks: facet -> (N, D) unit vectors.
        true_scores: for each query the exact scores (E,) of its true exemplars; E may differ
            between queries.
        in_gallery: True if ``gallery`` contains the true exemplars; otherwise each query's own are
            added to it.

    Returns:
        For each query (E,) int64, all different, in the order of its true exemplars.
    """
    counts = count_at_least(scorer, gallery, true_scores)
    return ranks_of(counts, true_scores, in_gallery=in_gallery)


def ranks_of(
    counts: Sequence[Rows], true_scores: Sequence[Doubles], *, in_gallery: bool
) -> list[Rows]:
    """Return the ranks of each query's true exemplars from counts: see `rank_true`.

    Args:
        counts: from `count_at_least`, with the true scores as thresholds.
        true_scores: as in `rank_true`.
        in_gallery: True if the counts contain the true exemplars.
    """
    ranks = []
    for own, wrong in zip(true_scores, counts, strict=True):
        order = np.argsort(-own, kind="stable")
        if in_gallery:
            wrong = wrong - (own >= own[:, None]).sum(axis=1)
        rank = np.empty_like(wrong)
        rank[order] = np.arange(1, len(own) + 1) + wrong[order]
        ranks.append(rank)
    return ranks


class Highest:
    """The highest scores of each query in a gallery, exact.

    Args:
        scorer: of Q queries; its cohort is a part of the gallery.
        number: of scores to keep for each query.

    Attributes:
        scores: (Q, number) float64, descending; -infinity where the gallery is smaller.
    """

    def __init__(self, scorer: ExemplarScorer, number: int) -> None:
        self.scores: Doubles = np.full((len(scorer), number), -np.inf)
        background = scorer.background
        enough = background.shape[1] >= number
        # The gallery's highest scores are at least the cohort's.
        self._floor = background[:, -number] if enough else self.scores[:, -1].copy()

    @property
    def least(self) -> Doubles:
        """Return the score (Q,) that an image must reach to be among the highest."""
        return np.maximum(self._floor, self.scores[:, -1])

    def add(self, scorer: ExemplarScorer, block: Embeddings, found: Candidates) -> None:
        """Keep the highest scores of a block's candidates.

        Args:
            scorer: the same.
            block: facet -> (N, D) unit vectors.
            found: all pairs of the block that score at least `least`, and maybe others.
        """
        kept = found.scores >= (self.least - scorer.tolerance)[found.queries]
        queries = found.queries[kept]
        exact = scorer.exact(queries, block, found.rows[kept])
        for query, part in _by_query(queries):
            both = np.concatenate([self.scores[query], exact[part]])
            self.scores[query] = -np.sort(-both)[: self.scores.shape[1]]


def count_at_least(
    scorer: ExemplarScorer,
    blocks: Iterable[Embeddings],
    thresholds: Sequence[Doubles],
    highest: Highest | None = None,
) -> list[Rows]:
    """Count for each query the images that score at least each of its thresholds.

    Args:
        scorer: of Q queries.
        blocks: the gallery: facet -> (N, D) unit vectors, any number of times.
        thresholds: for each query (E,) exact scores, in any order; E may differ between queries.
        highest: is given the blocks' highest scores.

    Returns:
        For each query (E,) int64, in the order of its thresholds.
    """
    ladders = [np.sort(own) for own in thresholds]
    lowest = np.array([ladder[0] for ladder in ladders])
    limits = scorer.limits(lowest)
    # counts[q][k]: images of query q that score at least its k lowest thresholds and no other.
    counts = [np.zeros(len(ladder) + 1, dtype=np.int64) for ladder in ladders]
    for block in blocks:
        if highest:
            limits = scorer.limits(np.minimum(lowest, highest.least))
        found = scorer.candidates(block, limits)
        if highest:
            highest.add(scorer, block, found)
        near = np.zeros(len(found.scores), dtype=bool)
        for query, part in _by_query(found.queries):
            places, near[part] = _place(found.scores[part], ladders[query], scorer.tolerance[query])
            counts[query] += np.bincount(places[~near[part]], minlength=len(counts[query]))
        queries = found.queries[near]
        scores = scorer.exact(queries, block, found.rows[near])
        for query, part in _by_query(queries):
            places, _ = _place(scores[part], ladders[query], 0.0)
            counts[query] += np.bincount(places, minlength=len(counts[query]))
    return [
        # An image that scores at least more than the j lowest thresholds scores at least the j-th.
        np.cumsum(steps[::-1])[::-1][1:][np.searchsorted(ladder, own)]
        for steps, ladder, own in zip(counts, ladders, thresholds, strict=True)
    ]


def recall_at(ranks: Sequence[int], k: int) -> float:
    """Return the share of the true exemplars among the first k."""
    return sum(rank <= k for rank in ranks) / len(ranks)


def average_precision(ranks: Sequence[int]) -> float:
    """Return the mean of the precision at each true exemplar's rank."""
    return sum(place / rank for place, rank in enumerate(sorted(ranks), start=1)) / len(ranks)


def _by_query(queries: Rows) -> Iterator[tuple[int, slice]]:
    """Yield each query of an ascending list with the slice of its entries."""
    starts = np.flatnonzero(np.diff(queries, prepend=-1)).tolist()
    for start, end in itertools.pairwise([*starts, len(queries)]):
        yield int(queries[start]), slice(start, end)


def _place(scores: Doubles, ladder: Doubles, tolerance: float) -> tuple[Rows, NDArray[np.bool_]]:
    """Count the thresholds that each score of a query is at least.

    Args:
        scores: (N,), each within ``tolerance`` of the exact score.
        ladder: (E,) exact thresholds, ascending.
        tolerance: see above.

    Returns:
        (N,) number of thresholds, and (N,) True if a threshold lies within the tolerance.
    """
    places = np.searchsorted(ladder, scores, side="right")
    fenced = np.concatenate([[-np.inf], ladder, [np.inf]])
    near = (scores - fenced[places] <= tolerance) | (fenced[places + 1] - scores <= tolerance)
    return places, near
