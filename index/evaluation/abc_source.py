"""The vectors that an AbC run ranks, from images (`abc_images`) or from a file (`abc_features`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from index.evaluation.abc_release import Split
from index.evaluation.features import Features
from index.stores.vectors import Rows
from model.folders import Skipped

Progress = Callable[[str, int, int], None]  # (stage, done, total)

SEED = 0


@dataclass(frozen=True)
class SplitFeatures:
    """The vectors of one split.

    Attributes:
        queries: of its synthesized images.
        exemplars: of all its models.
        query_rows: (Q,) place in ``queries`` of each query.
        true_rows: for each model (E,) places in ``exemplars``, in the order of its list.
    """

    queries: Features
    exemplars: Features
    query_rows: Rows
    true_rows: Sequence[Rows]


class Source(Protocol):
    """Vectors of splits and distractors."""

    @property
    def model_id(self) -> str:
        """Return the name of the method that made the vectors."""

    def load(
        self, splits: Sequence[Split], report: Progress
    ) -> tuple[list[SplitFeatures], Features]:
        """Return the splits' vectors and those of the distractors."""

    @property
    def unreadable(self) -> list[Skipped]:
        """Return the distractors that `load` left out."""


def draw(count: int, limit: int | None) -> Rows:
    """Return ``limit`` of ``count`` rows, drawn at random with a fixed seed, in order; or all."""
    if limit is None or limit >= count:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, limit, replace=False))
