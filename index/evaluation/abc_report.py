"""Ranks and shares of AbC queries, and the metrics computed from them."""

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from index.errors import EvaluationError
from index.evaluation.abc_release import Query
from index.evaluation.abc_shares import Bin, calibration_curve, cross_entropy
from index.evaluation.metrics import AbcProtocol
from index.evaluation.ranks import average_precision, recall_at

COLUMNS = ["model", "class_id", "category", "prompt", "query", "gallery", "ranks", "shares"]
Metric = Literal["recall_at_5", "recall_at_10", "recall_at_100", "map"]
METRICS: tuple[Metric, ...] = ("recall_at_5", "recall_at_10", "recall_at_100", "map")
RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class QueryRanks:
    """Ranks of one query's true exemplars, and the shares stated for it."""

    query: Query
    gallery: int  # number of ranked images
    ranks: tuple[int, ...]  # from 1, in the order of the model's exemplars
    shares: tuple[float, ...] = ()  # the true concept's, then others'; empty if not calibrated

    def metrics(self) -> list[float]:
        """Return the values of `METRICS`."""
        recalls = [recall_at(self.ranks, k) for k in (5, 10, 100)]
        return [*recalls, average_precision(self.ranks)]


@dataclass(frozen=True)
class CrossEntropy:
    """Means over queries, in nats."""

    stated: float  # of the stated shares
    gallery: float  # of the uniform distribution over the gallery
    least: float  # of the uniform distribution over the true exemplars: no other is lower


@dataclass(frozen=True)
class AbcScores:
    """Means over a group of queries."""

    queries: int
    models: int
    recall_at_5: float
    recall_at_10: float
    recall_at_100: float
    map: float
    intervals: dict[Metric, tuple[float, float]] | None  # 95%; None for one model
    cross_entropy: CrossEntropy | None  # None if shares were not calibrated


@dataclass(frozen=True)
class AbcReport:
    """Result of one split."""

    name: str  # of the run's folder
    split: str
    protocol: AbcProtocol
    model_id: str
    models: int
    exemplars: int  # of all models, without repeats
    distractors: int
    unreadable: list[dict[str, str]]  # path and reason of the distractors that were left out
    overall: AbcScores
    by_prompt: dict[str, AbcScores]
    calibration_curve: list[Bin]

    def as_dict(self) -> dict[str, object]:
        """Return the fields for JSON."""
        return asdict(self)


def score(ranks: Sequence[QueryRanks]) -> AbcScores:
    """Compute the metrics of a group of queries from their ranks and shares."""
    values = np.array([item.metrics() for item in ranks])
    means = {
        metric: math.fsum(column) / len(ranks)
        for metric, column in zip(METRICS, values.T.tolist(), strict=True)
    }
    groups = np.unique([item.query.model for item in ranks], return_inverse=True)[1]
    return AbcScores(
        queries=len(ranks),
        models=int(groups.max()) + 1,
        **means,
        intervals=bootstrap(values, groups),
        cross_entropy=_cross_entropy(ranks),
    )


def bootstrap(
    values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    groups: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
) -> dict[Metric, tuple[float, float]] | None:
    """Return percentile intervals of the means by resampling whole models (cluster bootstrap).

    Queries of one model are not independent: they share its exemplars (Field & Welsh 2007,
    "Bootstrapping clustered data").

    Args:
        values: (Q, 4) of `METRICS`.
        groups: (Q,) model of each query, from 0.
    """
    models = int(groups.max()) + 1
    if models < 2:
        return None
    sums = np.zeros((models, values.shape[1]))
    np.add.at(sums, groups, values)
    drawn = np.random.default_rng(SEED).multinomial(
        models, np.full(models, 1 / models), size=RESAMPLES
    )
    means = (drawn @ sums) / (drawn @ np.bincount(groups))[:, None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
    return dict(zip(METRICS, zip(low, high, strict=True), strict=True))


def curve(ranks: Sequence[QueryRanks]) -> list[Bin]:
    """Return the calibration curve of a group of queries."""
    return calibration_curve([item.shares for item in ranks])


def read_ranks(path: Path) -> list[QueryRanks]:
    """Read the ranks written by a run.

    Raises:
        EvaluationError: the file is damaged or no file of ranks.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header != COLUMNS:
            raise EvaluationError(f"{path} is not a file of ranks: its columns are {header}")
        return [
            QueryRanks(
                Query(int(model), class_id, category, prompt, query),
                int(gallery),
                tuple(map(int, ranks.split())),
                tuple(map(float, shares.split())),
            )
            for model, class_id, category, prompt, query, gallery, ranks, shares in rows
        ]
    except (ValueError, csv.Error) as error:
        raise EvaluationError(f"{path} is damaged ({error}); delete it and run again") from error


def resume_ranks(path: Path) -> int:
    """Return the number of queries in a file of ranks, after removing an unfinished line."""
    written = path.read_bytes() if path.exists() else b""
    complete = written.rfind(b"\n") + 1
    if not complete:
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
        return 0
    os.truncate(path, complete)
    return len(read_ranks(path))


def append_ranks(path: Path, ranks: Sequence[QueryRanks]) -> None:
    """Append lines to a file of ranks and sync them."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for item in ranks:
            one = item.query
            writer.writerow(
                [
                    *(one.model, one.class_id, one.category, one.prompt, one.path, item.gallery),
                    " ".join(map(str, item.ranks)),
                    " ".join(map(repr, item.shares)),
                ]
            )
        file.flush()
        os.fsync(file.fileno())


def _cross_entropy(ranks: Sequence[QueryRanks]) -> CrossEntropy | None:
    if not all(item.shares for item in ranks):
        return None
    stated = [cross_entropy(item.shares, len(item.ranks), item.gallery) for item in ranks]
    return CrossEntropy(
        stated=math.fsum(stated) / len(ranks),
        gallery=math.fsum(math.log(item.gallery) for item in ranks) / len(ranks),
        least=math.fsum(math.log(len(item.ranks)) for item in ranks) / len(ranks),
    )
