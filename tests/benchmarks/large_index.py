"""A million vectors: the inverted file beside exact search, in one run.

    python -m tests.benchmarks.large_index [--count 1000000] [--out FOLDER]

Draws structured vectors (concepts in clusters, with a falling spectrum), writes them as a rebuild
does, and asks single queries, one after the other. Prints JSON; writes the curve of recall and
latency over the lists looked into as CSV and, where matplotlib is installed, PNG. Exit status 1 if
recall@10 falls under 0.99 or the inverted file is not `TIMES` times faster than exact search.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from index.stores.faiss_files import FaissStore, Inverted, file_name, inverted_name, write_vectors
from index.stores.inverted import choose_probes, read_inverted, write_inverted

DIMENSION, CLUSTERS, EXEMPLARS, K = 768, 2000, 20, 10
TIMES, RECALL = 50, 0.99
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from index.stores.faiss_files import FaissStore

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split(":")[0]: line.split() for line in lines}
    return {name: int(values[name][1]) * 1024 for name in ("RssAnon", "RssFile")}

before = resident()
store = FaissStore.open(Path(sys.argv[1]), ["subject"], {"subject": int(sys.argv[2])})
opened = resident()
for query in np.load(sys.argv[3]):
    store.search("subject", query[None], 10)
after = resident()
import json
print(json.dumps([before, opened, after]))
"""


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(count, D) unit vectors, and 1000 queries near some of them.

    `CLUSTERS` clusters hold concepts of `EXEMPLARS` vectors each; everything is spread with a
    spectrum that falls as real features' does. A query lies as far from its exemplar as another
    exemplar of the concept.
    """
    generator = np.random.default_rng(seed)
    spectrum = (np.arange(1, DIMENSION + 1) ** -0.4).astype(np.float32)

    def spread(size: int) -> np.ndarray:
        return generator.standard_normal((size, DIMENSION), dtype=np.float32) * spectrum

    clusters = spread(CLUSTERS)
    concepts = spread(count // EXEMPLARS)
    concepts += clusters[generator.integers(0, CLUSTERS, len(concepts))]
    vectors = np.empty((count, DIMENSION), dtype=np.float32)
    for start in range(0, count, 50_000):
        part = vectors[start : start + 50_000]
        part[:] = 0.7 * spread(len(part))
        part += concepts[np.arange(start, start + len(part)) % len(concepts)]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    asked = generator.permutation(len(concepts))[:1000]
    queries = concepts[asked] + 0.7 * spread(len(asked))
    return vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def milliseconds(ask: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Median time of single queries."""
    ask(queries[0])
    times = []
    for query in queries:
        began = time.perf_counter()
        ask(query)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "large_index")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    vectors, queries = draw(arguments.count, seed=0)
    seen, asked = queries[:200], queries[200:]  # one part chooses the lists, the other judges
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_vectors(folder, "subject", vectors)
        began = time.perf_counter()
        write_inverted(folder / inverted_name("subject"), vectors)
        built = time.perf_counter() - began
        del vectors
        exact_file, inverted_file = folder / file_name("subject"), folder / inverted_name("subject")
        began = time.perf_counter()
        probes = choose_probes(inverted_file, exact_file, seen)
        chosen = time.perf_counter() - began
        exact = FaissStore.open(folder, ["subject"])
        truth = exact.search("subject", asked, K)[1]
        exact_ms = milliseconds(lambda query: exact.search("subject", query[None], K), asked[:30])
        index = read_inverted(inverted_file)
        curve = []
        for count in sorted({2**power for power in range(9)} | {probes}):
            flat = faiss.read_index(str(exact_file), faiss.IO_FLAG_MMAP_IFC)
            store = FaissStore({"subject": flat}, {"subject": Inverted(index, count)})
            found = store.search("subject", asked, K)[1]
            recall = np.mean(
                [len(np.intersect1d(a, b)) / K for a, b in zip(truth, found, strict=True)]
            )
            ms = milliseconds(
                lambda query, s=store: s.search("subject", query[None], K), asked[:300]
            )
            curve.append({"lists": count, "recall_at_10": float(recall), "milliseconds": ms})
        np.save(folder / "queries.npy", asked)
        memory = subprocess.run(
            [sys.executable, "-c", MEMORY, name, str(probes), folder / "queries.npy"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        before, opened, after = json.loads(memory)
        sizes = {path.name: path.stat().st_size for path in folder.glob("*.faiss")}
    here = next(row for row in curve if row["lists"] == probes)
    result = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, {faiss.omp_get_max_threads()} used",
        "vectors": arguments.count,
        "dimension": DIMENSION,
        "lists": index.nlist,
        "lists_looked_into": probes,
        "build_seconds": round(built, 1),
        "choosing_seconds": round(chosen, 1),
        "exact_ms": round(exact_ms, 2),
        "inverted_ms": round(here["milliseconds"], 3),
        "times_faster": round(exact_ms / here["milliseconds"], 1),
        "recall_at_10": round(here["recall_at_10"], 4),
        "own_bytes_a_vector": round((after["RssAnon"] - before["RssAnon"]) / arguments.count, 1),
        "mapped_bytes_a_vector": round((after["RssFile"] - before["RssFile"]) / arguments.count, 1),
        "own_bytes_a_vector_before_queries": round(
            (opened["RssAnon"] - before["RssAnon"]) / arguments.count, 1
        ),
        "file_bytes_a_vector": {k: round(v / arguments.count) for k, v in sizes.items()},
    }
    print(json.dumps(result, indent=1))
    save_curve(arguments.out, curve, exact_ms)
    return int(result["times_faster"] < TIMES or result["recall_at_10"] < RECALL)


def save_curve(folder: Path, curve: list[dict[str, float]], exact_ms: float) -> None:
    """The curve as CSV, and drawn."""
    with (folder / "large_index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(curve[0]))
        writer.writeheader()
        writer.writerows(curve)
    print(f"curve in {folder}")
    try:
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot
    except ImportError:
        return
    figure, axes = pyplot.subplots(figsize=(6, 4))
    axes.plot([r["milliseconds"] for r in curve], [r["recall_at_10"] for r in curve], "o-")
    for row in curve:
        axes.annotate(f"{row['lists']:.0f}", (row["milliseconds"], row["recall_at_10"]))
    axes.axvline(exact_ms, linestyle="--", color="gray", label=f"exact: {exact_ms:.0f} ms")
    axes.axhline(RECALL, linestyle=":", color="gray")
    axes.set(xscale="log", xlabel="milliseconds a query", ylabel="recall@10")
    axes.set_title("Lists looked into")
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "large_index.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
