"""The ranks of a query's true exemplars in a gallery of any size, by counting in blocks.

The ranking that is measured: images by score, highest first; of equal scores a wrong image comes
before a true exemplar, and true exemplars keep the order in which they are listed. (What a stable
sort makes of "the gallery, then the exemplars"; no method gains by tying.) So the rank of a query's
i-th best true exemplar is i plus the number of wrong images that score at least as high, and that
number can be counted block by block, at the cost of one matrix product and one comparison a score.

Scores come from a float32 product. Those that lie so near a true exemplar's that rounding could
decide are scored again, one by one, in float64: the ranks are those of an exact computation, and
depend neither on the blocks nor on the library that multiplies.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from index.answering.ranking import Doubles, Embeddings
from index.evaluation.scores import ExemplarScorer
from index.stores.vectors import Rows


def rank_true(
    scorer: ExemplarScorer,
    gallery: Iterable[Embeddings],
    true_scores: Sequence[Doubles],
    *,
    in_gallery: bool,
) -> list[Rows]:
    """Ranks of each query's true exemplars, from 1.

    Args:
        scorer: of Q queries.
        gallery: the images that all queries share, in blocks: facet -> (N, D) unit vectors.
        true_scores: for each query the exact scores (E,) of its true exemplars; E may differ
            between queries.
        in_gallery: whether ``gallery`` holds every query's true exemplars, too; else each query's
            own are added to it.

    Returns:
        For each query (E,) int64, all different, in the order of its true exemplars.
    """
    counts = count_at_least(scorer, gallery, true_scores)
    ranks = []
    for own, wrong in zip(true_scores, counts, strict=True):
        order = np.argsort(-own, kind="stable")
        if in_gallery:
            wrong = wrong - (own >= own[:, None]).sum(axis=1)
        rank = np.empty_like(wrong)
        rank[order] = np.arange(1, len(own) + 1) + wrong[order]
        ranks.append(rank)
    return ranks


def count_at_least(
    scorer: ExemplarScorer, blocks: Iterable[Embeddings], thresholds: Sequence[Doubles]
) -> list[Rows]:
    """For each query, how many images score at least each of its thresholds.

    Args:
        scorer: of Q queries.
        blocks: the gallery: facet -> (N, D) unit vectors, any number of times.
        thresholds: for each query (E,) exact scores, in any order; E may differ between queries.

    Returns:
        For each query (E,) int64, in the order of its thresholds.
    """
    ladders = [np.sort(own) for own in thresholds]
    limits = scorer.limits(np.array([ladder[0] for ladder in ladders]))
    # Of query q, reached[q][k] images score at least its k lowest thresholds and no other.
    reached = [np.zeros(len(ladder) + 1, dtype=np.int64) for ladder in ladders]
    for block in blocks:
        found = scorer.candidates(block, limits)
        near = np.zeros(len(found.scores), dtype=bool)
        for query, part in _by_query(found.queries):
            places, near[part] = _place(found.scores[part], ladders[query], scorer.tolerance[query])
            reached[query] += np.bincount(places[~near[part]], minlength=len(reached[query]))
        queries = found.queries[near]
        scores = scorer.exact(queries, block, found.rows[near])
        for query, part in _by_query(queries):
            places, _ = _place(scores[part], ladders[query], 0.0)
            reached[query] += np.bincount(places, minlength=len(reached[query]))
    return [
        # An image that reaches more than the j lowest thresholds reaches threshold j.
        np.cumsum(steps[::-1])[::-1][1:][np.searchsorted(ladder, own)]
        for steps, ladder, own in zip(reached, ladders, thresholds, strict=True)
    ]


def recall_at(ranks: Sequence[int], k: int) -> float:
    """The share of the true exemplars that is among the first k."""
    return sum(rank <= k for rank in ranks) / len(ranks)


def average_precision(ranks: Sequence[int]) -> float:
    """Mean, over the true exemplars, of the precision at each one's rank."""
    return sum(place / rank for place, rank in enumerate(sorted(ranks), start=1)) / len(ranks)


def _by_query(queries: Rows) -> Iterator[tuple[int, slice]]:
    """Each query in an ascending list, and where it stands there."""
    starts = np.flatnonzero(np.diff(queries, prepend=-1)).tolist()
    for start, end in itertools.pairwise([*starts, len(queries)]):
        yield int(queries[start]), slice(start, end)


def _place(scores: Doubles, ladder: Doubles, tolerance: float) -> tuple[Rows, NDArray[np.bool_]]:
    """Place one query's scores on its ladder of thresholds.

    Args:
        scores: (N,), each within ``tolerance`` of the exact one.
        ladder: (E,) exact thresholds, ascending.
        tolerance: see above.

    Returns:
        (N,) how many thresholds each score reaches, and (N,) whether it is too near one to tell.
    """
    places = np.searchsorted(ladder, scores, side="right")
    fenced = np.concatenate([[-np.inf], ladder, [np.inf]])
    near = (scores - fenced[places] <= tolerance) | (fenced[places + 1] - scores <= tolerance)
    return places, near
