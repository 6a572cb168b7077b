"""Takedowns in a server that holds an index of 1,000,000 exemplars.

    python -m tests.benchmarks.takedown_large [--count 1000000] [--takedowns 20] [--withdrawn 1000]

Writes an index of drawn vectors, fingerprints with the spectrum of photographs, and a log in which
`--withdrawn` works are withdrawn already; starts `whence serve` on it in a process of its own; then
takes concepts down, half of them over HTTP, half by the log that the command writes, with
`--in-flight` requests under way. A takedown is effective when `GET /concepts/{id}` answers 404.
Beside it, in one run: comparing all that is withdrawn with all rows, as at every takedown before.

Prints JSON; exit status 1 if a takedown takes a second, or any request failed.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from app.auth.keys import KeyFile
from index.answering.calibration import Calibration
from index.answering.neighbours import ENTRY, LISTED, Neighbours, write_neighbours
from index.answering.ranking import Cohort
from index.catalog import Concept, Exemplar, write_catalog
from index.layout import DataFolder
from index.snapshot import (
    CALIBRATION,
    CATALOG,
    COHORT,
    FINGERPRINTS,
    MANIFEST,
    Manifest,
    building,
    file_record,
    new_version,
    open_published,
    publish,
    write_cohort,
)
from index.stores.faiss_files import write_vectors
from index.takedowns.fingerprints import GRID, LENGTH, FingerprintIndex, Fingerprints
from index.takedowns.log import TakedownLog
from index.takedowns.records import Content
from index.takedowns.withdrawal import withdraw
from model.checkpoint import load_embedder
from tests.benchmarks.pictures import draw_pictures, save_small_model
from tests.benchmarks.servers import whence_serving
from tests.benchmarks.swap_under_load import Asked, keep_asking, until

EFFECTIVE, PER_CONCEPT = 1.0, 20


def draw_fingerprints(count: int, generator: np.random.Generator) -> Fingerprints:
    """(count, LENGTH) small pictures whose amplitudes fall with frequency, as photographs' do."""
    y, x = np.meshgrid(np.fft.fftfreq(GRID), np.fft.rfftfreq(GRID), indexing="ij")
    falling = 1 / np.maximum(np.hypot(y, x), 1 / GRID)
    prints = np.empty((count, LENGTH), dtype=np.uint8)
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        noise = generator.standard_normal((size, GRID, GRID, 1))
        spectrum = np.fft.rfft2(noise, axes=(1, 2)) * falling[..., None]
        pictures = np.fft.irfft2(spectrum, s=(GRID, GRID), axes=(1, 2))
        pictures *= 45 / pictures.std(axis=(1, 2, 3), keepdims=True)
        tint = generator.standard_normal((size, 1, 1, 3)) * 25
        tint = tint + 128 + 40 * generator.standard_normal((size, 1, 1, 1))
        block = (pictures + tint).clip(0, 255).astype(np.uint8)
        prints[start : start + size] = block.reshape(size, LENGTH)
    return prints


def build(data: DataFolder, picture: Path, count: int) -> None:
    """Publish an index of ``count`` drawn exemplars, made with a small real model."""
    generator = np.random.default_rng(0)
    embedder = load_embedder(data.models, save_small_model(data.models))
    buffer = io.BytesIO()
    Image.open(picture).resize((32, 32)).save(buffer, "JPEG", quality=60)
    thumbnail = buffer.getvalue()
    lengths = {f: v.shape[1] for f, v in embedder.embed([Image.open(picture)]).items()}
    concepts = [
        Concept(n, f"concept-{n:06d}", f"Concept {n}", None, PER_CONCEPT)
        for n in range(count // PER_CONCEPT)
    ]
    exemplars = [
        Exemplar(
            row, f"exemplar-{row}", f"concept-{row // PER_CONCEPT:06d}", f"{row:064x}",
            f"{row}.jpg", 160, 160,
        )
        for row in range(count)
    ]  # fmt: skip
    version = new_version()
    with building(data.index, version) as folder:
        write_catalog(
            folder / CATALOG, concepts, exemplars, ((e.sha256, thumbnail) for e in exemplars)
        )
        members = np.sort(generator.permutation(count)[:1024])
        cohort = {}
        for facet, length in lengths.items():
            near = np.zeros((count, LISTED), ENTRY)
            near["row"] = generator.integers(count, size=near.shape)
            near["similarity"] = -np.sort(-generator.random(near.shape), axis=1)
            write_neighbours(folder, Neighbours({facet: near}))
            vectors = generator.standard_normal((count, length), dtype=np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            write_vectors(folder, facet, vectors)
            cohort[facet] = vectors[members]
        np.save(folder / FINGERPRINTS, draw_fingerprints(count, generator))
        write_cohort(folder / COHORT, Cohort(members, cohort))
        scores = tuple(np.linspace(9, 1, 1500).tolist())
        (folder / CALIBRATION).write_text(Calibration(null_scores=scores).model_dump_json())
        manifest = Manifest(
            version=version,
            model_id=embedder.model_id,
            build_id="benchmark",
            created_at=datetime.now(UTC),
            dimensions=lengths,
            probes={},
            concepts=len(concepts),
            exemplars=count,
            sources=[],
            files={path.name: file_record(path) for path in sorted(folder.iterdir())},
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json())
    publish(data.index, version)


async def measure(
    url: str, key: str, data: DataFolder, picture: bytes, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds until each takedown was effective, and requests that failed meanwhile."""
    asked: list[Asked] = []
    seconds: dict[str, list[float]] = {"http": [], "log": []}
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=url, timeout=120, headers=headers) as client:
        state = {"phase": "on"}
        workers = [
            asyncio.create_task(keep_asking(client, [picture], state, asked))
            for _ in range(options.in_flight)
        ]
        await asyncio.sleep(2)
        for number in range(options.takedowns):
            concept = f"concept-{number * 7:06d}"

            async def gone(wanted: str = concept) -> bool:
                return (await client.get(f"/concepts/{wanted}")).status_code == 404

            began = time.perf_counter()
            if number % 2:
                wanted = {"kind": "concept", "id": concept, "reason": "benchmark"}
                (await client.post("/takedowns", json=wanted)).raise_for_status()
            else:
                withdraw(data, "concept", concept, reason="benchmark")
            await until(gone)
            seconds["http" if number % 2 else "log"].append(time.perf_counter() - began)
        state["phase"] = "stop"
        await asyncio.gather(*workers)
    return {
        "requests": len(asked),
        "failed": sum(bool(a.failure) for a in asked),
        "takedown_seconds": {
            how: {"median": round(float(np.median(each)), 3), "slowest": round(max(each), 3)}
            for how, each in seconds.items()
        },
    }


def compare(data: DataFolder, withdrawn: int) -> dict[str, float]:
    """Seconds of finding near-duplicates of one content, and of every withdrawn one."""
    snapshot = open_published(data.index)
    known = draw_fingerprints(withdrawn, np.random.default_rng(1))
    times = {}
    began = time.perf_counter()
    pictures = FingerprintIndex(snapshot.fingerprints)
    times["preparing"] = time.perf_counter() - began
    for name, count in (("one concept", PER_CONCEPT), ("all withdrawn", withdrawn)):
        began = time.perf_counter()
        pictures.near_duplicates(known[:count])
        times[name] = time.perf_counter() - began
    snapshot.close()
    return {name: round(value, 3) for name, value in times.items()}


def main() -> int:
    """Build, serve, measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--takedowns", type=int, default=20)
    parser.add_argument("--withdrawn", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, source = DataFolder(Path(name) / "data"), Path(name) / "source"
        draw_pictures(source, range(1))
        [picture] = source.glob("*/*")
        build(data, picture, options.count)
        key = KeyFile(data.keys).add("benchmark", scope="admin")
        prints = draw_fingerprints(options.withdrawn, np.random.default_rng(1))
        TakedownLog(data.takedowns).add_all(
            (
                ("image", f"{number}.jpg", [Content(
                    sha256=f"{2**200 + number:064x}",
                    fingerprint=base64.b64encode(one.tobytes()).decode(),
                )])
                for number, one in enumerate(prints)
            ),
            reason="benchmark",
        )  # fmt: skip
        compared = compare(data, options.withdrawn)
        began = time.perf_counter()
        with whence_serving(data.root, WHENCE_LOG_LEVEL="warning") as server:
            started = time.perf_counter() - began
            measured = asyncio.run(measure(server.url, key, data, picture.read_bytes(), options))
    result = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "exemplars": options.count,
        "withdrawn_before": options.withdrawn,
        "ready_after_seconds": round(started, 1),
        **measured,
        "near_duplicates_seconds": compared,
    }
    print(json.dumps(result, indent=1))
    slowest = max(each["slowest"] for each in measured["takedown_seconds"].values())
    return int(slowest >= EFFECTIVE or bool(measured["failed"]))


if __name__ == "__main__":
    sys.exit(main())
