"""Ranking metrics, as the attribution literature defines them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

AbcProtocol = Literal["official", "one-gallery"]  # `index.evaluation.abc`


def average_precision(ranked: Sequence[str], true: Collection[str]) -> float:
    """Mean, over all true items, of the precision at each one's rank; 0 for one not ranked."""
    found, total = 0, 0.0
    for rank, item in enumerate(ranked, start=1):
        if item in true:
            found += 1
            total += found / rank
    return total / len(true)


def hit_at(ranked: Sequence[str], true: Collection[str], k: int) -> float:
    """1 if any true item is among the first k, else 0."""
    return float(any(item in true for item in ranked[:k]))


def macro_mean(values: Mapping[str, Sequence[float]]) -> float:
    """Mean over groups of each group's mean."""
    means = [sum(group) / len(group) for group in values.values()]
    return sum(means) / len(means)
