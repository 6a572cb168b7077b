"""Ranking AbC queries by counting in blocks, beside concatenating, scoring and sorting for each.

    python -m tests.benchmarks.abc_ranks [--distractors 1000000] [--queries 200] [--naive 20]

Writes about 3 GB of seeded, structured vectors to a temporary folder, once, and removes them.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from index.evaluation.features import BLOCK
from index.evaluation.ranks import rank_true
from index.evaluation.scores import ExemplarScorer
from index.ranking import Embeddings, combine

DIMENSION = 768
EXEMPLARS = 8  # of a query, on average
QUERIES_PER_MODEL = 10
CLUSTERS = 2000
COHORT = 1024

Floats = NDArray[np.float32]


def main() -> None:
    options = parse()
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        distractors, centres = write_distractors(Path(folder), options.distractors, generator)
        queries, exemplars, owner = draw_models(options.queries, centres, generator)
        cohort = np.array(distractors[:: max(1, len(distractors) // COHORT)][:COHORT])
        np.asarray(distractors).sum()  # both ways find the file in memory
        load = os.getloadavg()[0]

        started = time.perf_counter()
        ranks = by_counting(queries, exemplars, owner, distractors, cohort)
        counting = time.perf_counter() - started
        counting_memory = peak_memory()

        asked = np.linspace(0, len(queries) - 1, min(options.naive, len(queries))).astype(int)
        started = time.perf_counter()
        sorted_ranks = [by_sorting(queries[q], exemplars[owner[q]], distractors) for q in asked]
        naive = (time.perf_counter() - started) / len(asked) * len(queries)
        naive_memory = peak_memory()

        exact = [
            in_float64(queries[q], exemplars[owner[q]], distractors, cohort) for q in asked
        ]
    differing = sum(a != b for q, row in zip(asked, exact, strict=True) for a, b in zip(ranks[q], row))
    float32 = sum(
        a != b for row, other in zip(exact, sorted_ranks, strict=True) for a, b in zip(row, other)
    )
    print(
        json.dumps(
            {
                "distractors": len(distractors),
                "dimension": DIMENSION,
                "queries": len(queries),
                "true_exemplars_ranked": sum(map(len, ranks)),
                "median_rank": float(np.median(np.concatenate(ranks))),
                "counting_seconds": round(counting, 2),
                "counting_peak_gib": round(counting_memory, 2),
                "naive_seconds": round(naive, 1),
                "naive_timed_on_queries": len(asked),
                "naive_peak_gib": round(naive_memory, 2),
                "ratio": round(naive / counting, 1),
                "ranks_checked": sum(map(len, exact)),
                "ranks_unlike_float64_sort": differing,
                "float32_sort_ranks_unlike_float64_sort": float32,
                "cpus": os.cpu_count(),
                "load_before": round(load, 1),
            },
            indent=1,
        )
    )
    sys.exit(differing != 0)
