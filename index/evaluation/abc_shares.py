"""Shares of the evidence in the AbC benchmark, as `index.answering.calibration` states them.

The exemplars of a model are a concept, and so is each distractor by itself. A query's concepts are
scored as in `index.answering.ranking`, but without usual levels, and by the mean evidence over the
facets as if it were one facet. The calibration is fitted to distractors in the place of queries,
whose source is not in the gallery. Only the highest scoring concepts have a share above 0: a share
needs a score above the query's rivals.

Over images, a concept's share is divided evenly among its exemplars, and the unattributed share
evenly among the whole gallery. The cross-entropy between this distribution and the uniform one over
a query's true exemplars (Wang et al. 2023) is -log(share / E + unattributed / N), for
E true exemplars among N images.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index.answering.calibration import MIN_FITTED, Calibration
from index.answering.ranking import RIVALS, Doubles, score_concepts

NULL_QUERIES = 512
HIGHEST = RIVALS.stop + 1  # distractors' scores needed for a query; a null query finds itself, too
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Stated shares of an interval, and how often they were right."""

    concepts: int
    stated: float  # mean share
    true: float  # part of them that are the query's true concept


def concept_scores(
    concepts: Sequence[Doubles], distractors: Doubles, background: Doubles
) -> Doubles:
    """Return the scores of a query's concepts, above its rivals.

    Args:
        concepts: the exemplars' evidence (E,) of each model in the gallery.
        distractors: the highest scores of distractors, descending; -infinity is none.
        background: (C,) evidence of the cohort, ascending.

    Returns:
        The models' scores, then those of the distractors.
    """
    singles = distractors[np.isfinite(distractors)]
    # As one facet: the mean evidence over facets, of which a few highest are known.
    evidence = np.concatenate([*concepts, singles])[None]
    counts = np.array([*map(len, concepts), *[1] * len(singles)])
    sums, _ = score_concepts(evidence, np.zeros_like(evidence), counts, background[None])
    rivals = -np.sort(-sums)[RIVALS]
    scores: Doubles = sums - (rivals.mean() if len(rivals) else 0.0)
    return scores


def calibrate(best: Sequence[float]) -> Calibration | None:
    """Return the calibration by the best scores of null queries; None if they are too few."""
    if len(best) < MIN_FITTED:
        return None
    return Calibration(null_scores=tuple(sorted(best, reverse=True)))


def stated_shares(calibration: Calibration, scores: Doubles, true: int) -> tuple[float, ...]:
    """Return the true concept's share, then the other concepts' shares above 0.

    Args:
        calibration: from `calibrate`.
        scores: from `concept_scores`.
        true: position of the true concept.
    """
    order = np.argsort(-scores, kind="stable")
    shares, _ = calibration.shares(scores[order])
    others = shares[(order != true) & (shares > 0)]
    return (float(shares[order == true][0]), *others.tolist())


def cross_entropy(shares: Sequence[float], true: int, gallery: int) -> float:
    """Return the cross-entropy in nats of one query; see above.

    Args:
        shares: from `stated_shares`.
        true: E.
        gallery: N.
    """
    unattributed = max(0.0, 1 - math.fsum(shares))
    return -math.log(max(shares[0] / true + unattributed / gallery, 1e-300))


def calibration_curve(stated: Sequence[Sequence[float]]) -> list[Bin]:
    """Group the shares of all queries in ten intervals of equal width, and leave out empty ones.

    Args:
        stated: of each query, from `stated_shares`; a true concept's share of 0 is not counted.
    """
    pairs = [(share, place == 0) for own in stated for place, share in enumerate(own) if share > 0]
    bins = []
    for number in range(BINS):
        own = [pair for pair in pairs if min(int(pair[0] * BINS), BINS - 1) == number]
        if own:
            share, true = (math.fsum(column) / len(own) for column in zip(*own, strict=True))
            bins.append(Bin(len(own), share, true))
    return bins
