"""From a score to a p-value, a share and a verdict, by a null distribution built without pairs.

The null answers: how high does the best concept score when the true source is not in the index?
Augmented views of exemplars are asked with their own concept left out, and their best scores kept.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.config import Frozen

Doubles = NDArray[np.float64]
Verdict = Literal["attributed", "uncertain", "no_match"]

DEFAULT_RATE = 0.01
TAIL = 0.1  # share of the null whose mean excess gives the tail's scale


class Calibration(Frozen):
    """The null distribution of a snapshot's best scores.

    Attributes:
        null_scores: best score of each null query, highest first; empty when the index has fewer
            than two concepts, so that nothing can be left out. Then every p-value is 1.
    """

    format: Literal[1] = 1
    null_scores: tuple[float, ...]

    def p_value(self, score: float) -> float:
        """How often a query from no concept of the index scores this high: conformal, never 0.

        (1 + number of null scores >= score) / (n + 1), which holds for any distribution as long as
        null queries and real ones are exchangeable (Vovk et al. 2005).
        """
        above = int(np.searchsorted(-self._null, -score, side="right"))
        return (1 + above) / (len(self.null_scores) + 1)

    def threshold(self, rate: float = DEFAULT_RATE) -> float:
        """The score from which p <= rate; infinite if the null is too small to tell.

        For a rate of 1 it lies below every score: every p-value is at most 1.
        """
        # p <= rate needs at most rate * (n + 1) - 1 null scores at or above the score.
        allowed = math.floor(rate * (len(self.null_scores) + 1) + 1e-9) - 1
        if allowed < 0:
            return math.inf
        if allowed >= len(self.null_scores):
            return -math.inf
        return float(np.nextafter(self.null_scores[allowed], math.inf))

    def shares(
        self, scores: Sequence[float] | Doubles, rate: float = DEFAULT_RATE
    ) -> tuple[Doubles, float]:
        """Divide the answer among concepts (C,) and what stays unattributed; the sum is 1.

        A score's weight is rate / p, with p from an exponential fit of the null's upper tail, since
        the conformal p-value cannot fall under 1 / (n + 1); "no source here" weighs 1. So a concept
        right at the threshold and alone gets one half.
        """
        limit = self.threshold(rate)
        if limit == -math.inf and self.null_scores:
            limit = self.null_scores[-1]  # below it, p cannot rise any more
        if not math.isfinite(limit):
            return np.zeros(len(scores)), 1.0
        exponents = (np.asarray(scores, dtype=np.float64) - limit) / self._tail_scale
        top = max(0.0, float(exponents.max(initial=0.0)))  # against overflow
        weights, rest = np.exp(exponents - top), math.exp(-top)
        total = float(weights.sum()) + rest
        return weights / total, rest / total

    def verdict(self, scores: Sequence[float] | Doubles, rate: float = DEFAULT_RATE) -> Verdict:
        """The answer in one word, from the ranked scores, best first.

        ``no_match``: the best score has p > rate. ``uncertain``: it has p <= rate, but no concept
        holds the larger part of what the concepts share, so that more than one may be the source.
        ``attributed``: the rest.
        """
        if not len(scores) or self.p_value(scores[0]) > rate:
            return "no_match"
        shares, unattributed = self.shares(scores, rate)
        return "attributed" if shares[0] >= (1 - unattributed) / 2 else "uncertain"

    @cached_property
    def _null(self) -> Doubles:
        return np.asarray(self.null_scores, dtype=np.float64)

    @cached_property
    def _tail_scale(self) -> float:
        count = max(1, int(len(self.null_scores) * TAIL))
        tail = self._null[: count + 1]
        return max(float((tail[:-1] - tail[-1]).mean()) if len(tail) > 1 else 0.0, 1e-3)
