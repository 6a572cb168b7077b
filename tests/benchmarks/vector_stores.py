"""FAISS and Milvus Lite side by side: writing, searching, and the same answers.

    python -m tests.benchmarks.vector_stores [--count 100000] [--json FILE]
    python -m tests.benchmarks.vector_stores --data FOLDER --pairs FILE [--json FILE]

The first draws structured vectors (`large_index.draw`), writes them as a rebuild does, and asks
single queries, one after the other; each store and type of index runs in a process of its own, and
so does the comparison of facets as fields of one collection with a collection each. Prints JSON.

The second writes the vectors of a data folder's published index into Milvus Lite, too, and asks
every pair of both, as a server would. Exit status 1 unless all verdicts
and rankings are the same and scores, shares and p-values equal to 1e-5.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pymilvus import DataType, MilvusClient

from index.answering.attribution import Attribution, open_attributor
from index.evaluation.pairs import read_pairs
from index.layout import DataFolder
from index.snapshot import Snapshot, new_version
from index.stores.lists import list_count
from index.stores.registry import VectorStores
from index.stores.vectors import Floats, IndexType, StoreAccess, VectorStore
from model.config import Facet
from model.images import read_image
from tests.benchmarks.large_index import draw

K, DEPTH, EVIDENCE, BLOCK, LAYOUT = 10, 200, 2000, 10_000, 10_000
PROBES = 4  # lists that the comparison of layouts looks into; for given rows it must be all
STORES = {"FAISS": None, "Milvus Lite": "vectors.db"}
TOLERANCE = 1e-5
Result = dict[str, Any]
SECONDS = 600.0  # that Milvus may take: a busy machine is no failure


def both_times(ask: Callable[[Floats], object], queries: Floats) -> list[float]:
    """Median milliseconds of single queries: by the clock, and of processor time.

    The second hardly changes when other work runs on the machine. Milvus Lite runs in this process.
    """
    ask(queries[0])
    spent = []
    for query in queries:
        began = time.perf_counter(), time.process_time()
        ask(query)
        spent.append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return [round(1000 * float(median), 2) for median in np.median(spent, axis=0)]


def resident() -> float:
    """MiB of memory that the process holds."""
    [line] = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in s]
    return int(line.split()[1]) / 1024


def write(
    address: str | None, folder: Path, kind: IndexType, vectors: dict[Facet, Floats], seen: Floats
) -> tuple[VectorStore, Result]:
    """Write a version as a rebuild does, and open it."""
    count = len(next(iter(vectors.values())))
    dimensions = {facet: matrix.shape[1] for facet, matrix in vectors.items()}
    version = folder / new_version()
    version.mkdir()
    engine = VectorStores(StoreAccess(seconds=SECONDS)).engine(address)
    began, spent = time.perf_counter(), time.process_time()
    writer = engine.write(version, version.name, count, dimensions)
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        writer.upsert(rows, {facet: matrix[rows] for facet, matrix in vectors.items()})
    upserted = time.perf_counter()
    asked = {facet: np.ascontiguousarray(seen[:, :length]) for facet, length in dimensions.items()}
    for matrix in asked.values():
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    probes = writer.finish(kind, asked)
    finished = time.perf_counter()
    store = engine.open(version, version.name, count, dimensions, probes)
    opened = time.perf_counter()
    return store, {
        "upserts_a_second": round(count / (upserted - began)),
        "finish_seconds": round(finished - upserted, 1),
        "vectors_a_second_in_all": round(count / (finished - began)),
        "processor_seconds_in_all": round(time.process_time() - spent, 1),
        "open_seconds": round(opened - finished, 2),
        "probes": probes,
    }


def measure(count: int, kind: IndexType, name: str, folder: Path) -> Result:
    """One store with one type of index."""
    vectors, queries = draw(count, seed=0)
    seen, asked = queries[:100], queries[-100:]  # one part chooses the lists, the other judges
    address = STORES[name] and str(folder / STORES[name])
    store, result = write(address, folder, kind, {"subject": vectors}, seen)
    truth = np.argsort(-(asked @ vectors.T), axis=1)[:, :K]
    del vectors
    found = store.search("subject", asked, K)[1]
    rows = np.random.default_rng(0).permutation(count)[:EVIDENCE]
    result |= {
        "recall_at_10": float(
            np.mean([len(np.intersect1d(*pair)) / K for pair in zip(truth, found, strict=True)])
        ),
        f"search_{K}_ms": both_times(lambda q: store.search("subject", q[None], K), asked[:30]),
        f"search_{DEPTH}_ms": both_times(
            lambda q: store.search("subject", q[None], DEPTH), asked[:30]
        ),
        f"similarities_of_{EVIDENCE}_ms": both_times(
            lambda q: store.similarities("subject", q, rows), asked[:10]
        ),
        f"vectors_of_{EVIDENCE}_ms": both_times(
            lambda _: store.vectors("subject", rows), asked[:5]
        ),
        "disk_bytes_a_vector": round(
            sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / count
        ),
        "resident_mib": round(resident()),
    }
    return result


def measure_layout(count: int, kind: IndexType, together: bool, folder: Path) -> Result:
    """Two facets as fields of one collection, or a collection each; without Whence's own code."""
    client = MilvusClient(str(folder / "layout.db"))
    vectors, queries = draw(count, seed=0)
    short = vectors[:, :512] / np.linalg.norm(vectors[:, :512], axis=1, keepdims=True)
    facets = {"subject": vectors, "style": short}
    groups = [list(facets)] if together else [[facet] for facet in facets]
    place = {facet: f"layout_{number}" for number, group in enumerate(groups) for facet in group}
    lists = list_count(count) if kind == "ivf" else 0
    index = {"index_type": "IVF_FLAT", "params": {"nlist": lists}} if lists else {}
    began = time.perf_counter()
    for group in groups:
        schema = client.create_schema(auto_id=False)
        schema.add_field("row", DataType.INT64, is_primary=True)
        indexes = client.prepare_index_params()
        for facet in group:
            schema.add_field(facet, DataType.FLOAT_VECTOR, dim=facets[facet].shape[1])
            indexes.add_index(facet, metric_type="IP", **({"index_type": "FLAT"} | index))
        client.create_collection(place[group[0]], schema=schema)
        for start in range(0, count, 1000):
            rows = range(start, min(start + 1000, count))
            records = [{"row": r, **{facet: facets[facet][r] for facet in group}} for r in rows]
            client.upsert(place[group[0]], records)
        client.flush(place[group[0]])
        client.create_index(place[group[0]], indexes, sync=False)
        client.load_collection(place[group[0]])
    written = time.perf_counter() - began
    rows = np.random.default_rng(0).permutation(count)[:EVIDENCE].tolist()
    within = {DEPTH: "", EVIDENCE: f"row in {rows}"}
    probes = {DEPTH: PROBES, EVIDENCE: lists}

    def ask(limit: int) -> Callable[[Floats], object]:
        def both(query: Floats) -> None:
            for facet, matrix in facets.items():
                client.search(
                    place[facet],
                    [query[: matrix.shape[1]]],
                    anns_field=facet,
                    limit=limit,
                    filter=within[limit],
                    output_fields=["row"],
                    search_params={"params": {"nprobe": probes[limit]} if lists else {}},
                )

        return both

    asked = queries[-30:]
    return {
        "write_seconds": round(written, 1),
        f"search_{DEPTH}_ms": both_times(ask(DEPTH), asked),
        f"similarities_of_{EVIDENCE}_ms": both_times(ask(EVIDENCE), asked[:10]),
        "resident_mib": round(resident()),
    }


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """Run in a process and a folder of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(1, context) as pool:
        result = pool.submit(function, *arguments, Path(name)).result()
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}


def compare_speed(count: int) -> Result:
    """Each store with each type of index, and the two layouts of facets."""
    outcome: Result = {
        "machine": f"{os.cpu_count()} cores, {faiss.omp_get_max_threads()} used by FAISS",
        "vectors": count,
    }
    for kind in ("exact", "ivf"):
        for name in STORES:
            outcome[f"{name}, {kind}"] = apart(measure, count, kind, name)
            print(name, kind, outcome[f"{name}, {kind}"], file=sys.stderr, flush=True)
    for kind in ("exact", "ivf"):
        for label, together in (("fields", True), ("collections", False)):
            key = f"facets as {label}, {kind}, {min(count, LAYOUT)} rows"
            outcome[key] = apart(measure_layout, min(count, LAYOUT), kind, together)
            print(key, outcome[key], file=sys.stderr, flush=True)
    return outcome


def compare_answers(data: Path, pairs: Path) -> Result:
    """The same pairs asked of the same index on each store."""
    known = read_pairs(pairs)
    images = [read_image(pair.path).pixels for pair in known]
    attributor = open_attributor(DataFolder(data), device="cpu")
    parts = [attributor.embedder.embed(images[i : i + 32]) for i in range(0, len(images), 32)]
    queries = {facet: np.concatenate([part[facet] for part in parts]) for facet in parts[0]}
    snapshot, manifest = attributor.snapshot, attributor.snapshot.manifest
    rows = np.arange(manifest.exemplars)
    vectors = {facet: snapshot.vectors.vectors(facet, rows) for facet in manifest.dimensions}
    answers: dict[str, list[Attribution]] = {}
    milliseconds: Result = {}
    with tempfile.TemporaryDirectory() as name:
        for store, file in STORES.items():
            attributor.snapshot = snapshot
            if file:
                address = str(Path(name) / file)
                written, _ = write(
                    address, Path(name), "exact", vectors, next(iter(vectors.values()))
                )
                attributor.snapshot = Snapshot(
                    snapshot.folder, manifest, snapshot.catalog, written,
                    snapshot.fingerprint_index, snapshot.cohort, snapshot.neighbours,
                    snapshot.calibration, snapshot.hidden_rows, snapshot.hidden,
                )  # fmt: skip
            began, spent = time.perf_counter(), time.process_time()
            answers[store] = attributor.rank(queries, top_k=manifest.concepts, depth=DEPTH)
            milliseconds[store] = [
                round(1000 * seconds / len(known), 1)
                for seconds in (time.perf_counter() - began, time.process_time() - spent)
            ]
    one, other = answers.values()
    both = [
        (a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x.concepts, y.concepts, strict=True)
    ]
    return {
        "pairs": len(known),
        "ranked_concepts": len(both),
        "other_verdicts": sum(x.verdict != y.verdict for x, y in zip(one, other, strict=True)),
        "other_places": sum(a.concept.id != b.concept.id for a, b in both),
        "largest_difference_of_score": max(abs(a.score - b.score) for a, b in both),
        "largest_difference_of_share": max(abs(a.share - b.share) for a, b in both),
        "largest_difference_of_p_value": max(abs(a.p_value - b.p_value) for a, b in both),
        "milliseconds_a_pair": milliseconds,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    failed = False
    if arguments.data:
        outcome = compare_answers(arguments.data, arguments.pairs)
        failed = bool(outcome["other_verdicts"] or outcome["other_places"]) or any(
            value > TOLERANCE for key, value in outcome.items() if key.startswith("largest")
        )
    else:
        outcome = compare_speed(arguments.count)
    print(json.dumps(outcome, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
