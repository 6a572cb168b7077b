"""What search and ranking cost a query, beside plain FAISS searches of the same vectors.

    python -m tests.benchmarks.ranking_cost [--counts 2172 100000 1000000] [--sizes 1 1000]
        [--dimensions 512 512] [--queries 200] [--folder DIR]

Draws structured vectors for two facets (concepts in clusters, with a falling spectrum), writes them
as a rebuild does, and asks single queries, one after the other. Two things are timed in turns:

    ranking    `Ranker.rank`, the shares and the objects of the five concepts that are shown
    faiss      the nearest 200 of each facet by `faiss.Index.search`, exact or by the inverted file

Prints JSON: milliseconds a query (median, and of the processor), their ratio, how many concepts
were ranked, and the bytes of the ranker's own arrays. Exit status 1 if ranking takes longer than
`AIM_MS` in the median. With ``--folder`` the drawn vectors are kept there and used again.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.answering.calibration import Calibration
from index.answering.neighbours import ENTRY, LISTED, Neighbours
from index.answering.ranking import DEPTH, Cohort, Ranker
from index.building.writing import COHORT_SIZE
from index.stores.faiss_files import FaissStore, file_name, inverted_name, write_vectors
from index.stores.inverted import choose_probes, read_inverted, write_inverted
from index.stores.lists import wants_inverted
from index.stores.vectors import Floats
from model.config import Facet
from tests.benchmarks.servers import machine

AIM_MS = 1.5
FACETS: tuple[Facet, Facet] = ("subject", "style")
CLUSTERS, NEAR, SHOWN = 2000, 20, 5
SEEN = 100  # queries that choose how many lists a search looks into


def draw(count: int, size: int, dimension: int, queries: int, seed: int) -> tuple[Floats, Floats]:
    """(count, D) unit vectors, and queries near some.

    Groups of ``size`` rows, or of `NEAR` where that is more, lie side by side around a point of
    their own, and these points around `CLUSTERS` centres. A query lies as far from its group's
    point as the group's rows do.
    """
    size = max(size, NEAR)
    generator = np.random.default_rng(seed)
    spectrum = (np.arange(1, dimension + 1) ** -0.4).astype(np.float32)

    def spread(rows: int) -> Floats:
        return generator.standard_normal((rows, dimension), dtype=np.float32) * spectrum

    centres = spread(min(CLUSTERS, max(1, count // NEAR)))
    concepts = spread(-(-count // size))
    concepts += centres[generator.integers(0, len(centres), len(concepts))]
    vectors = np.empty((count, dimension), dtype=np.float32)
    for start in range(0, count, 50_000):
        rows = np.arange(start, min(count, start + 50_000))
        part = concepts[rows // size] + 0.7 * spread(len(rows))
        vectors[rows] = part / np.linalg.norm(part, axis=1, keepdims=True)
    # Both facets ask about the same concepts.
    asked = np.random.default_rng(seed=0).integers(0, len(concepts), queries)
    near = concepts[asked] + 0.7 * spread(queries)
    return vectors, near / np.linalg.norm(near, axis=1, keepdims=True)


def prepare(folder: Path, count: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Write both facets' vectors and queries, unless they are there: probes by facet."""
    done = folder / "probes.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    probes: dict[Facet, int] = {}
    for number, (facet, dimension) in enumerate(zip(FACETS, options.dimensions, strict=True)):
        vectors, queries = draw(count, size, dimension, options.queries + SEEN, seed=number)
        np.save(folder / f"{facet}-queries.npy", queries)
        exact = write_vectors(folder, facet, vectors)
        if wants_inverted("auto", count, dimension):
            write_inverted(folder / inverted_name(facet), vectors)
            del vectors
            probes[facet] = choose_probes(folder / inverted_name(facet), exact, queries[:SEEN])
    done.write_text(json.dumps(probes))
    return dict(probes)


def timed(ask: Callable[[int], object], number: int) -> tuple[float, float]:
    """Milliseconds by the clock, and of the processor."""
    began, worked = time.perf_counter(), time.process_time()
    ask(number)
    return 1000 * (time.perf_counter() - began), 1000 * (time.process_time() - worked)


def measure(folder: Path, count: int, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    probes = prepare(folder, count, size, options)
    store = FaissStore.open(folder, FACETS, probes)
    queries = {f: np.load(folder / f"{f}-queries.npy")[SEEN:] for f in FACETS}
    members = np.sort(np.random.default_rng(1).permutation(count)[:COHORT_SIZE])
    cohort = Cohort(members, {facet: store.vectors(facet, members) for facet in FACETS})
    near = np.zeros((count, LISTED), ENTRY)  # which ones they are does not change the cost
    near["row"] = np.random.default_rng(2).integers(count, size=near.shape)
    near["similarity"] = np.linspace(0.9, 0.1, LISTED)
    neighbours = Neighbours(dict.fromkeys(FACETS, near))
    ranker = Ranker(store, np.arange(count, dtype=np.int32) // size, cohort, neighbours)
    calibration = Calibration(null_scores=tuple(np.linspace(9, 1, 1500).tolist()))
    plain: dict[Facet, Callable[[Floats], object]] = {}
    for facet in FACETS:
        if facet in probes:
            index = read_inverted(folder / inverted_name(facet))
            parameters = faiss.SearchParametersIVF(nprobe=probes[facet])  # type: ignore[call-arg]
            plain[facet] = lambda q, i=index, p=parameters: i.search(q, DEPTH, params=p)  # type: ignore[misc]
        else:
            flat = faiss.read_index(str(folder / file_name(facet)), faiss.IO_FLAG_MMAP_IFC)
            plain[facet] = lambda q, i=flat: i.search(q, DEPTH)  # type: ignore[misc]
    ranked: list[int] = []

    def rank(number: int) -> None:
        one = {facet: matrix[number : number + 1] for facet, matrix in queries.items()}
        [ranking] = ranker.rank(one)
        calibration.verdict(ranking.scores)
        assert len(ranking[:SHOWN]) == min(SHOWN, -(-count // size))
        ranked.append(len(ranking))

    def search(number: int) -> None:
        for facet, matrix in queries.items():
            plain[facet](matrix[number : number + 1])

    for number in range(options.queries):  # warm: pages and kernels
        rank(number)
        search(number)
    times: dict[str, list[tuple[float, float]]] = {"ranking": [], "faiss": []}
    for number in range(options.queries):
        times["ranking"].append(timed(rank, number))
        times["faiss"].append(timed(search, number))
    clock = {name: statistics.median(t for t, _ in pairs) for name, pairs in times.items()}
    work = {name: statistics.median(w for _, w in pairs) for name, pairs in times.items()}
    return {
        "exemplars": count,
        "concept_of": size,
        "lists": probes,
        "ranking_ms": round(clock["ranking"], 3),
        "ranking_p95_ms": round(
            statistics.quantiles([t for t, _ in times["ranking"]], n=20)[-1], 3
        ),
        "faiss_ms": round(clock["faiss"], 3),
        "ranking_to_faiss": round(clock["ranking"] / clock["faiss"], 2),
        "ranking_cpu_ms": round(work["ranking"], 3),
        "faiss_cpu_ms": round(work["faiss"], 3),
        "concepts_ranked": statistics.median(ranked),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--counts", type=int, nargs="+", default=[2172, 100_000, 1_000_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--dimensions", type=int, nargs=2, default=[512, 512])
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for count in options.counts:
            for size in options.sizes:
                name = f"{count}-{size}-{'-'.join(map(str, options.dimensions))}"
                folder = (options.folder or Path(temporary)) / name
                rows.append(measure(folder, count, size, options))
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "dimensions": options.dimensions, "rows": rows}))
    return int(any(row["ranking_ms"] > AIM_MS for row in rows))


if __name__ == "__main__":
    sys.exit(main())
