"""Metrics of rankings and of likelihood ratios, as the literature defines them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np

AbcProtocol = Literal["official", "one-gallery"]  # `index.evaluation.abc`


def average_precision(ranked: Sequence[str], true: Collection[str]) -> float:
    """Return the mean of the precision at each true item's rank, 0 for items not ranked."""
    found, total = 0, 0.0
    for rank, item in enumerate(ranked, start=1):
        if item in true:
            found += 1
            total += found / rank
    return total / len(true)


def hit_at(ranked: Sequence[str], true: Collection[str], k: int) -> float:
    """Return 1 if any true item is among the first k, else 0."""
    return float(any(item in true for item in ranked[:k]))


def macro_mean(values: Mapping[str, Sequence[float]]) -> float:
    """Return the mean of the groups' means."""
    means = [sum(group) / len(group) for group in values.values()]
    return sum(means) / len(means)


def cllr(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Return the log-likelihood-ratio cost in bits (Brummer & du Preez 2006).

    The mean of what ratios cost where the proposition holds, log2(1 + 1 / R), and where it does
    not, log2(1 + R). 0 is perfect; 1 is what a ratio of 1 costs, whatever is asked.

    Args:
        present: ratios where the source is present.
        absent: ratios where it is not.

    Returns:
        None if either is empty.
    """
    if not present or not absent:
        return None
    with_source, without = np.asarray(present, np.float64), np.asarray(absent, np.float64)
    return float((np.log2(1 + 1 / with_source).mean() + np.log2(1 + without).mean()) / 2)


def min_cllr(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Return `cllr` after the optimal monotone recalibration: the cost of discrimination alone.

    Isotonic regression by pooling adjacent violators (Ayer et al. 1955), both kinds weighing alike.
    """
    if not present or not absent:
        return None
    scores = np.concatenate([present, absent])
    truth = np.concatenate([np.ones(len(present)), np.zeros(len(absent))])
    weight = np.where(truth == 1, 0.5 / len(present), 0.5 / len(absent))
    _, group = np.unique(scores, return_inverse=True)  # equal ratios stay equal
    mass, true = np.bincount(group, weight), np.bincount(group, weight * truth)
    blocks: list[tuple[float, float]] = []  # (mass, mass of what is true), rates ascending
    for one in zip(mass.tolist(), true.tolist(), strict=True):
        blocks.append(one)
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = (blocks[-1][0] + last[0], blocks[-1][1] + last[1])
    total, part = np.array(blocks).T
    rate = part / total
    # x log2 x is 0 at 0, where a block is all of one kind.
    costs = -part * np.log2(np.where(part > 0, rate, 1))
    costs -= (total - part) * np.log2(np.where(total > part, 1 - rate, 1))
    return float(costs.sum())
