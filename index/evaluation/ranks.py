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

from collections.abc import Iterable, Sequence

import numpy as np

from index.evaluation.scores import ExemplarScorer
from index.ranking import Doubles, Embeddings
from index.vectors import Rows


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
    # Of query q, reached[q][k] images score at least its k lowest thresholds and no other.
    reached = [np.zeros(len(ladder) + 1, dtype=np.int64) for ladder in ladders]
    for block in blocks:
        close: list[Rows] = []
        for query, row in enumerate(scorer.approximate(block)):
            sure, near = _place(row, ladders[query], float(scorer.tolerance[query]))
            reached[query] += sure
            close.append(near)
        counts = [len(near) for near in close]
        if sum(counts):
            queries = np.repeat(np.arange(len(scorer)), counts)
            scores = scorer.exact(queries, block, np.concatenate(close))
            edges = np.cumsum(counts)[:-1]
            for query, own in enumerate(np.split(scores, edges)):
                places = np.searchsorted(ladders[query], own, side="right")
                reached[query] += np.bincount(places, minlength=len(ladders[query]) + 1)
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


def _place(scores: Doubles, ladder: Doubles, tolerance: float) -> tuple[Rows, Rows]:
    """Sort one query's approximate scores of a block onto its ladder of thresholds.

    Args:
        scores: (B,), each within ``tolerance`` of the exact one.
        ladder: (E,) exact thresholds, ascending.
        tolerance: see above.

    Returns:
        (E + 1,) how many surely reach exactly so many thresholds (those that reach none are left
        out), and the columns that are too near a threshold to tell.
    """
    # Most of a gallery scores below the lowest threshold: one comparison is all it costs.
    columns = np.flatnonzero(scores >= ladder[0] - tolerance)
    values = scores[columns]
    places = np.searchsorted(ladder, values, side="right")
    fenced = np.concatenate([[-np.inf], ladder, [np.inf]])
    near = (values - fenced[places] <= tolerance) | (fenced[places + 1] - values <= tolerance)
    return np.bincount(places[~near], minlength=len(ladder) + 1), columns[near]
