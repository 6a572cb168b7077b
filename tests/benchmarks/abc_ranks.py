"""Ranking AbC queries by counting in blocks, beside concatenating, scoring and sorting for each.

    python -m tests.benchmarks.abc_ranks [--distractors 1000000] [--queries 200] [--naive 20]

Both ways answer the same question, one facet of 768 dimensions, over vectors in a memory-mapped
file of 3 GB, written to a temporary folder and removed again. The naive way is timed on some of the
queries and extrapolated. Ranks are checked against a full stable sort of float64 scores.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from index.answering.ranking import Embeddings
from index.evaluation.features import BLOCK
from index.evaluation.ranks import rank_true
from index.evaluation.scores import ExemplarScorer

DIMENSION = 768
CLUSTERS = 2000
COHORT = 1024
QUERIES_PER_MODEL = 10

Floats = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Models:
    """Fine-tuned models: their exemplars and the images they made."""

    queries: Floats  # (Q, D)
    exemplars: list[Floats]  # of each query, (E, D)


def main() -> None:
    """Measure, check, print as JSON; exit status 1 if a rank is wrong or the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--distractors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--naive", type=int, default=20, help="queries the naive way is timed on")
    options = parser.parse_args()
    world = World(np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        gallery = world.write_distractors(Path(folder) / "gallery.npy", options.distractors)
        models = world.draw_models(options.queries)
        cohort = gallery[:: max(1, len(gallery) // COHORT)][:COHORT].copy()
        gallery.max()  # so that both ways find the file in memory

        ranks, counting = timed(lambda: by_counting(models, gallery, cohort))
        counting_memory = peak_memory()
        sample = np.linspace(0, options.queries - 1, options.naive, dtype=int).tolist()
        phases = np.zeros(3)
        for query in sample:
            phases += time_sorting(models.queries[query], models.exemplars[query], gallery)
        naive_memory = peak_memory()
        wrong = sum(
            int((ranks[query] != in_float64(models, query, gallery)).sum()) for query in sample
        )
    naive = phases / len(sample) * options.queries
    report = {
        "distractors": len(gallery),
        "queries": options.queries,
        "true_exemplars": sum(map(len, ranks)),
        "rank_quartiles": np.quantile(np.concatenate(ranks), [0.25, 0.5, 0.75]).tolist(),
        "counting": {"seconds": round(counting, 1), "peak_gib": counting_memory},
        "naive": {
            "seconds": round(float(naive.sum()), 1),
            "extrapolated_from_queries": len(sample),
            "of_it": dict(
                zip(("concatenating", "scoring", "sorting"), naive.round(1).tolist(), strict=True)
            ),
            "peak_gib": naive_memory,
        },
        "times_faster": round(float(naive.sum()) / counting, 1),
        "ranks_checked": sum(len(ranks[query]) for query in sample),
        "ranks_wrong": wrong,
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(report, indent=1))
    missed = wrong > 0 or naive.sum() < 30 * counting or naive_memory >= 8
    sys.exit(1 if missed else 0)


class World:
    """Seeded vectors with structure: clusters, and a spectrum that falls as real features' does."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._spectrum = (np.arange(1, DIMENSION + 1) ** -0.4).astype(np.float32)
        self._centres = self._draw(CLUSTERS)

    def write_distractors(self, path: Path, count: int) -> Floats:
        """(N, D) unit vectors in a file, each near the centre of a cluster."""
        written = open_memmap(path, mode="w+", dtype=np.float32, shape=(count, DIMENSION))
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            near = self._centres[self._generator.integers(0, CLUSTERS, size)]
            written[start : start + size] = unit(near + self._draw(size))
        written.flush()
        gallery: Floats = np.load(path, mmap_mode="r")
        return gallery

    def draw_models(self, queries: int) -> Models:
        """Models of 1 to 15 exemplars; a query lies at some distance from its model's exemplars."""
        made: list[Floats] = []
        exemplars: list[Floats] = []
        while len(made) < queries:
            centre = self._centres[self._generator.integers(CLUSTERS)] + self._draw(1)[0]
            own = unit(centre + 0.7 * self._draw(int(self._generator.integers(1, 16))))
            for _ in range(QUERIES_PER_MODEL):
                made.append(unit(centre + 4 * self._draw(1)[0]))
                exemplars.append(own)
        return Models(np.stack(made[:queries]), exemplars[:queries])

    def _draw(self, count: int) -> Floats:
        drawn = self._generator.standard_normal((count, DIMENSION), dtype=np.float32)
        return drawn * self._spectrum


def by_counting(models: Models, gallery: Floats, cohort: Floats) -> list[NDArray[np.int64]]:
    """What `whence evaluate abc` does: all queries together, the gallery in blocks."""
    scorer = ExemplarScorer({"subject": models.queries}, {"subject": cohort})
    counts = [len(own) for own in models.exemplars]
    rows = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    true = scorer.exact_rows({"subject": np.concatenate(models.exemplars)}, rows)
    return rank_true(scorer, blocks(gallery), true, in_gallery=False)


def time_sorting(query: Floats, exemplars: Floats, gallery: Floats) -> NDArray[np.float64]:
    """Seconds of the naive way's three steps for one query."""
    whole, concatenating = timed(lambda: np.concatenate([gallery, exemplars]))
    scores, scoring = timed(lambda: whole @ query)
    _, sorting = timed(lambda: np.argsort(-scores))
    return np.array([concatenating, scoring, sorting])


def in_float64(models: Models, query: int, gallery: Floats) -> NDArray[np.int64]:
    """Ranks by a full stable sort of float64 cosines, gallery first."""
    asked = models.queries[query].astype(np.float64)
    parts = [*(block["subject"] for block in blocks(gallery)), models.exemplars[query]]
    scores = [(part * asked).sum(axis=1) for part in parts]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(1, len(order) + 1)
    return places[len(gallery) :]


def blocks(gallery: Floats) -> Iterator[Embeddings]:
    """The gallery as `index.evaluation.features` hands it out."""
    for start in range(0, len(gallery), BLOCK):
        yield {"subject": gallery[start : start + BLOCK]}


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the seconds it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def unit(x: Floats) -> Floats:
    """Rows of unit norm."""
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), dtype=np.float32)


def peak_memory() -> float:
    """The most memory this process has held so far in GiB, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


if __name__ == "__main__":
    main()
