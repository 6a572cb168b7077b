"""From a score to a p-value, a likelihood ratio, a share and a verdict; without known pairs.

The null distribution says how high the best concept scores when the true source is not in the
index: exemplars and augmented views of them are asked with their own concept left out. Its upper
tail is not theirs alone: some exemplars have near-twins in other concepts, which are sources that
are present under another name. So the tail is continued from the middle, as an empirical null is
fitted to the centre where it is clean (Efron 2004).
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
MEDIAN, TAIL = 0.5, 0.25  # parts of the null above the levels between which the tail is fitted
FITTED = 40  # null scores from which on a tail is fitted; fewer are only counted
SHAPE = 0.1  # of the p-values of images whose source is present: p <= x in x^SHAPE of them
SUPPORTS = 2  # the ratio from which on a score supports a source in the index
CREDIBLE = 0.9  # part of what the concepts share that the named candidates hold


class Calibration(Frozen):
    """The null distribution of a snapshot's best scores.

    Attributes:
        null_scores: best score of each null query, highest first; empty when the index has fewer
            than two concepts, so that nothing can be left out. Then every p-value is 1.
    """

    format: Literal[2] = 2
    null_scores: tuple[float, ...]

    def p_value(self, score: float) -> float:
        """How often a query from no concept of the index scores this high: never 0.

        In the lower three quarters of the null the conformal count, (1 + number of null scores >=
        score) / (n + 1) (Vovk et al. 2005); above, an exponential tail with the scale that the null
        has between its median and its upper quartile, but no less than 1 / (n + 1): n images
        cannot tell of anything rarer.
        """
        count = len(self.null_scores)
        least = 1 / (count + 1)
        if count >= FITTED and score > self._quartile:
            return max(least, TAIL * math.exp((self._quartile - score) / self._scale))
        above = int(np.searchsorted(-self._null, -score, side="right"))
        return (1 + above) * least

    def threshold(self, rate: float = DEFAULT_RATE) -> float:
        """The score from which p <= rate; infinite if the null is too small to tell.

        For a rate of 1 it lies below every score: every p-value is at most 1.
        """
        count = len(self.null_scores)
        if rate >= 1:
            return -math.inf
        if math.floor(rate * (count + 1) + 1e-9) < 1:
            return math.inf
        if count >= FITTED and rate < TAIL:
            limit = self._quartile + self._scale * math.log(TAIL / rate)
            while self.p_value(limit) > rate:  # by rounding alone
                limit = float(np.nextafter(limit, math.inf))
            return limit
        # p <= rate needs at most rate * (n + 1) - 1 null scores at or above the score.
        allowed = math.floor(rate * (count + 1) + 1e-9) - 1
        return float(np.nextafter(self.null_scores[allowed], math.inf))

    def likelihood_ratio(self, score: float) -> float:
        """How much likelier such a score is with the source in the index than without.

        p-values are uniform without; with it they are taken to have the density SHAPE p^(SHAPE-1)
        (Sellke, Bayarri & Berger 2001), so the ratio is that density. n null images support no
        ratio beyond n + 1, nor one below 1 / (n + 1).
        """
        p_value, most = self.p_value(score), len(self.null_scores) + 1
        ratio: float = SHAPE * p_value ** (SHAPE - 1)
        return min(max(ratio, 1 / most), float(most))

    def shares(self, scores: Sequence[float] | Doubles) -> tuple[Doubles, float]:
        """Divide the answer among concepts (C,) and what stays unattributed; the sum is 1.

        With even odds beforehand, a source in the index has the probability R / (1 + R), R being
        the best score's likelihood ratio. Concepts take of it in proportion to exp(score / scale),
        the scale being that of the null's tail: to the reciprocals of their tail probabilities.

        Args:
            scores: the best first.
        """
        values = np.asarray(scores, dtype=np.float64)
        if not len(values) or not self.null_scores:
            return np.zeros(len(values)), 1.0
        ratio = self.likelihood_ratio(float(values[0]))
        above = np.maximum(values, 0) / self._scale
        most = above.max()
        weights = np.exp(above - most) - np.exp(-most)  # against overflow
        if not weights.sum():
            return np.zeros(len(values)), 1.0
        return weights / weights.sum() * (ratio / (1 + ratio)), 1 / (1 + ratio)

    def candidates(self, scores: Sequence[float] | Doubles) -> int:
        """How many of the first concepts hold `CREDIBLE` of what the concepts share.

        None if the best score does not support a source in the index (a ratio under 2).
        """
        if not len(scores) or self.likelihood_ratio(float(scores[0])) < SUPPORTS:
            return 0
        shares, _ = self.shares(scores)
        if not shares.sum():
            return 0
        held = np.cumsum(shares) / shares.sum()
        return int(np.searchsorted(held, CREDIBLE - 1e-12)) + 1

    def verdict(self, scores: Sequence[float] | Doubles, rate: float = DEFAULT_RATE) -> Verdict:
        """The answer in one word, from the ranked scores, best first.

        ``no_match``: the best score has p > rate. ``uncertain``: it has p <= rate, but no concept
        holds the larger part of what the concepts share, so that more than one may be the source.
        ``attributed``: the rest.
        """
        if not len(scores) or self.p_value(float(scores[0])) > rate:
            return "no_match"
        shares, _ = self.shares(scores)
        return "attributed" if shares[0] >= shares.sum() / 2 else "uncertain"

    @cached_property
    def _null(self) -> Doubles:
        return np.asarray(self.null_scores, dtype=np.float64)

    @cached_property
    def _quartile(self) -> float:
        return float(np.quantile(self._null, 1 - TAIL)) if len(self._null) else 0.0

    @cached_property
    def _scale(self) -> float:
        if not len(self._null):
            return 1.0
        spread = self._quartile - float(np.quantile(self._null, MEDIAN))
        return max(spread / math.log(MEDIAN / TAIL), 1e-3)
