"""Calibration: turn a score into a p-value, a likelihood ratio, a share and a verdict.

It needs no known pairs. The null distribution is that of the best concept's score when the true
source is not in the index: exemplars and augmented views of them are ranked with their own concept
left out. Some exemplars have near-duplicates in other concepts, so that their source is present
under another name, and the null's upper tail is too heavy. So an exponential tail is fitted to the
centre, as for an empirical null (Efron 2004).
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PrivateAttr

from model.config import Facet, Frozen

Doubles = NDArray[np.float64]
Verdict = Literal["attributed", "uncertain", "no_match"]

DEFAULT_RATE = 0.01
MEDIAN, TAIL = 0.5, 0.25  # tail probabilities at the two scores that determine the tail's scale
MIN_FITTED = 40  # null scores needed to fit a tail; fewer are counted
SHAPE = 0.1  # of the p-values with the source present: P(p <= x) = x^SHAPE
MIN_SUPPORT = 2  # likelihood ratio from which on a score supports a source in the index
CREDIBLE = 0.9  # part of the concepts' shares that the candidates hold together


class Scaling(Frozen):
    """Brings the statistics of a concept to one scale, that of the null distribution.

    The tail of a statistic's best lead is exponential above the upper quartile; a score is the
    largest, over statistics, of minus the logarithm of that tail probability. This is Tippett's
    combination of p-values by their minimum. Statistics of one concept depend on each other, so the
    score's own null distribution is kept (`Calibration.null_scores`) in place of a correction.

    Attributes:
        quartiles: upper quartile of each statistic's best leads.
        scales: of the exponential tails, between the median and the upper quartile. Statistics
            beyond those listed do not count: in a version built before there were several, a score
            is the lead of the sum.
        deviations: of each facet, the unit of standardised similarities. Without it, as in such a
            version, the unit is the deviation of the query's own cosines with the cohort.
    """

    quartiles: tuple[float, ...] = (0.0,)
    scales: tuple[float, ...] = (1.0,)
    deviations: dict[Facet, float] = Field(default_factory=dict)

    def fitted(self, leads: Doubles) -> "Scaling":
        """Return this with tails fitted to the best leads (S, N) of N null queries."""
        tails = [_tail(one) for one in leads]
        return Scaling(
            quartiles=tuple(quartile for quartile, _ in tails),
            scales=tuple(scale for _, scale in tails),
            deviations=self.deviations,
        )

    def scores(self, leads: Doubles) -> Doubles:
        """Return the scores (...) of leads (S, ...), or of the first statistics alone."""
        scores: Doubles = leads[0]
        if len(self.scales) > 1:
            scaled = [
                (lead - quartile) / scale - math.log(TAIL)
                for lead, quartile, scale in zip(leads, self.quartiles, self.scales, strict=False)
            ]
            scores = np.maximum.reduce(scaled)
        return scores


class Calibration(Frozen):
    """The null distribution of a snapshot's best scores.

    Attributes:
        scaling: of the statistics that make a score.
        null_scores: best score of each null query, highest first; empty if the index has fewer than
            two concepts, of which none can be left out. Then every p-value is 1.
        group_scores: group size -> best score of each null group of that size, highest first. A
            version built before there were any has none.
    """

    format: Literal[2, 3, 4] = 4
    scaling: Scaling = Scaling()
    null_scores: tuple[float, ...]
    group_scores: dict[int, tuple[float, ...]] = Field(default_factory=dict)
    _tries: int = PrivateAttr(1)

    def of_best(self, tries: int) -> "Calibration":
        """Return the calibration of the best of several scores of an image.

        The best of m independent scores has the p-value 1 - (1 - p)^m (Sidak 1967).

        Args:
            tries: m, from `model.regions.tries`.
        """
        if tries == self._tries:
            return self
        other = self.model_copy()
        other._tries = tries
        return other

    def of_size(self, images: int) -> "Calibration":
        """Return the calibration of a group's scores.

        Between two sizes with null groups the quantiles are interpolated in the logarithm of the
        size. Beyond the largest one its null is used: the means of more images spread less, so it
        asks for more than is needed. Without null groups the null of single images is used, for the
        same reason.
        """
        sizes = sorted({1, *self.group_scores})
        smaller = max((size for size in sizes if size <= images), default=1)
        larger = min((size for size in sizes if size >= images), default=smaller)
        below, above = self._scores_of(smaller), self._scores_of(larger)
        if smaller == larger:
            return Calibration(null_scores=below)
        weight = math.log(images / smaller) / math.log(larger / smaller)
        count = min(len(below), len(above))
        levels = (np.arange(count) + 0.5) / count
        scores = (1 - weight) * np.quantile(below, levels) + weight * np.quantile(above, levels)
        return Calibration(null_scores=tuple(sorted(scores.tolist(), reverse=True)))

    def _scores_of(self, size: int) -> tuple[float, ...]:
        return self.null_scores if size == 1 else self.group_scores[size]

    def p_value(self, score: float) -> float:
        """Return the probability of a score this high if the source is not in the index; above 0.

        In the lower three quarters of the null this is the conformal p-value, (1 + number of null
        scores >= score) / (n + 1) (Vovk et al. 2005). Above, it is an exponential tail, with the
        null's scale between its median and its upper quartile, and at least 1 / (n + 1), since n
        images are no evidence of rarer events.
        """
        p_value = self._p_value(score)
        if self._tries == 1 or p_value >= 1:
            return p_value
        return -math.expm1(self._tries * math.log1p(-p_value))

    def _p_value(self, score: float) -> float:
        """Return the p-value of a single score."""
        count = len(self.null_scores)
        least = 1 / (count + 1)
        if count >= MIN_FITTED and score > self._quartile:
            return max(least, TAIL * math.exp((self._quartile - score) / self._scale))
        return (1 + self.count_from(score)) * least

    def count_from(self, score: float) -> int:
        """Return the number of null queries whose score is at least ``score``."""
        return int(np.searchsorted(-self._null, -score, side="right"))

    def threshold(self, rate: float = DEFAULT_RATE) -> float:
        """Return the lowest score with p <= rate; infinite if the null is too small for this rate.

        For a rate of 1 it is -infinity, since no p-value is above 1.
        """
        count = len(self.null_scores)
        if rate >= 1:
            return -math.inf
        if self._tries > 1:
            rate = -math.expm1(math.log1p(-rate) / self._tries)
        if math.floor(rate * (count + 1) + 1e-9) < 1:
            return math.inf
        if count >= MIN_FITTED and rate < TAIL:
            limit = self._quartile + self._scale * math.log(TAIL / rate)
            while self._p_value(limit) > rate:  # due to rounding
                limit = float(np.nextafter(limit, math.inf))
            return limit
        # p <= rate needs at most rate * (n + 1) - 1 null scores at or above the score.
        allowed = math.floor(rate * (count + 1) + 1e-9) - 1
        return float(np.nextafter(self.null_scores[allowed], math.inf))

    def likelihood_ratio(self, score: float) -> float:
        """Return the likelihood ratio of a score: source in the index against source absent.

        With the source absent p-values are uniform. With it present their density is modelled as
        SHAPE p^(SHAPE-1) (Sellke, Bayarri & Berger 2001), which is the ratio. n null images support
        no ratio above n + 1 or below 1 / (n + 1).
        """
        p_value, limit = self.p_value(score), len(self.null_scores) + 1
        ratio: float = SHAPE * p_value ** (SHAPE - 1)
        return min(max(ratio, 1 / limit), float(limit))

    def shares(self, scores: Sequence[float] | Doubles) -> tuple[Doubles, float]:
        """Return the concepts' shares (C,) and the unattributed share; their sum is 1.

        With prior odds of 1, the probability of a source in the index is R / (1 + R), where R is
        the best score's likelihood ratio. It is divided in proportion to exp(score / scale), the
        reciprocal of a score's tail probability, with the scale of the null's tail.

        Args:
            scores: (C,) the best first.
        """
        values = np.asarray(scores, dtype=np.float64)
        if not len(values) or not self.null_scores:
            return np.zeros(len(values)), 1.0
        ratio = self.likelihood_ratio(float(values[0]))
        above = np.maximum(values, 0) / self._scale
        top = above.max()
        weights = np.exp(above - top) - np.exp(-top)  # against overflow
        if not weights.sum():
            return np.zeros(len(values)), 1.0
        return weights / weights.sum() * (ratio / (1 + ratio)), 1 / (1 + ratio)

    def candidates(self, scores: Sequence[float] | Doubles) -> int:
        """Return the number of first concepts that hold `CREDIBLE` of the supported ones' shares.

        It is 0 if the best score does not support a source in the index (a ratio under 2).
        """
        shares = self._supported_shares(scores)
        if not shares.sum():
            return 0
        held = np.cumsum(shares) / shares.sum()
        return int(np.searchsorted(held, CREDIBLE - 1e-12)) + 1

    def verdict(self, scores: Sequence[float] | Doubles, rate: float = DEFAULT_RATE) -> Verdict:
        """Return the verdict on ranked scores, best first.

        ``no_match``: the best score has p > rate. ``uncertain``: p <= rate, but no concept has at
        least half of the shares of the concepts that the evidence supports (a ratio of 2 or more),
        so that more than one may be the source. ``attributed``: otherwise.
        """
        if not len(scores) or self.p_value(float(scores[0])) > rate:
            return "no_match"
        shares = self._supported_shares(scores)
        return "uncertain" if len(shares) and shares[0] < shares.sum() / 2 else "attributed"

    def _supported_shares(self, scores: Sequence[float] | Doubles) -> Doubles:
        """Return the shares of the first concepts whose own ratio is `MIN_SUPPORT` or more.

        A crowd of concepts that nothing supports by themselves has no say, however many they are.
        """
        # Only concepts close to the first have such a ratio.
        count = next(
            (
                n
                for n, score in enumerate(scores)
                if self.likelihood_ratio(float(score)) < MIN_SUPPORT
            ),
            len(scores),
        )
        return self.shares(scores)[0][:count]

    @cached_property
    def _null(self) -> Doubles:
        return np.asarray(self.null_scores, dtype=np.float64)

    @cached_property
    def _quartile(self) -> float:
        return _tail(self._null)[0]

    @cached_property
    def _scale(self) -> float:
        return _tail(self._null)[1]


def _tail(values: Doubles) -> tuple[float, float]:
    """Return the upper quartile of null values, and the scale of an exponential tail above it."""
    if not len(values):
        return 0.0, 1.0
    median, quartile = np.quantile(values, [MEDIAN, 1 - TAIL]).tolist()
    return quartile, max((quartile - median) / math.log(MEDIAN / TAIL), 1e-3)
