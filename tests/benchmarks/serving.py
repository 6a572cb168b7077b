"""What serving loses on the way: the service against the same work done in a loop.

    python -m tests.benchmarks.serving [--gallery FOLDER] [--seconds 8] [--turns 5]

Takes a gallery of 2,172 exemplars (`tests.benchmarks.gallery`), then measures in turns, several
times:

    loop      decode on as many threads as the service, embed at the best batch size, search
    whence    `whence serve`, saturated by `tests.benchmarks.load`, a line in its log a request
    plain     `tests.benchmarks.plain_handler`: one image at a time, PyTorch as it comes, pooled
              features alone
    plain_engine   one image at a time with the model and engine of the service
    one       the in-process time of one image, and of `whence` and `plain` with one client, with
              the service's own times by stage (`timing_ms` of its answers)
    layer     the service with an embedder that costs nothing, asked about images of 32 pixels,
              less decoding, embedding and searching them in process: what the web layer takes

Prints JSON; ratios are medians over the turns, and `..._cpu_ms` is the processor time of an image,
which says more than the clock where others use the machine, too. Exit status 1 where a ratio misses
its aim.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import FastAPI, File

from app.http.server import run_server
from app.inference.pipeline import CPU_BATCH
from app.main import create_app, open_published_attributor
from app.settings import Settings
from app.telemetry.logs import configure_logging
from index.answering.attribution import Attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import open_published
from model.images import ImageLimits, decode_image
from tests.benchmarks.gallery import Gallery, add_gallery_options, gallery_of
from tests.benchmarks.load import run_load
from tests.benchmarks.servers import Server, machine, serving, whence_serving
from tests.fakes import FakeEmbedder, patches

AT_LEAST = {"whence_to_loop": 1.0, "whence_to_plain": 2.0}
AT_MOST = {"one_client_to_plain": 0.6}
IN_FLIGHT = 16
TINY = 32


def run_loop(
    attributor: Attributor,
    images: Sequence[bytes],
    batch: int,
    threads: int,
    seconds: float,
    *,
    search: bool = True,
) -> tuple[int, float]:
    """Images done and seconds taken: decoding goes on while a batch is embedded, as served."""

    def ready(data: bytes) -> Any:
        return attributor.embedder.preprocess(decode_image(data, ImageLimits()).pixels)

    done, began = 0, time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        batches = [images[i : i + batch] for i in range(0, len(images), batch)]
        coming = [pool.submit(ready, data) for data in batches[0]]
        number = 0
        while time.perf_counter() - began < seconds:
            pixels = [future.result() for future in coming]
            number += 1
            coming = [pool.submit(ready, data) for data in batches[number % len(batches)]]
            embeddings = attributor.embedder.embed_pixels(pixels)
            if search:
                attributor.rank(embeddings)
            done += len(pixels)
        elapsed = time.perf_counter() - began
        for future in coming:
            future.cancel()
    return done, elapsed


def one_image(attributor: Attributor, images: Sequence[bytes], seconds: float) -> float:
    """Median milliseconds of one image, decoded, embedded and searched."""
    times: list[float] = []
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        image = decode_image(images[len(times) % len(images)], ImageLimits())
        attributor.attribute([image.pixels])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def stages_of_one(url: str, images: Sequence[bytes]) -> dict[str, float]:
    """Median milliseconds of each stage, of one client's requests, and of the whole exchange."""
    times: dict[str, list[float]] = {}
    with httpx.Client(base_url=url) as client:
        for data in images:
            began = time.perf_counter()
            answer = client.post("/attribute", files={"image": data}).raise_for_status()
            times.setdefault("exchange", []).append(1000 * (time.perf_counter() - began))
            for stage, value in answer.json()["timing_ms"].items():
                times.setdefault(stage, []).append(value)
    return {stage: round(statistics.median(values), 2) for stage, values in times.items()}


def one_at_a_time_app(data: Path) -> FastAPI:
    """The service's own model and engine in a plain handler: one image at a time."""
    app = FastAPI()
    attributor = open_published_attributor(Settings(data=data), None)

    @app.get("/health/ready")
    async def ready() -> None:
        """Answer 200: everything is loaded before the server listens."""

    @app.post("/attribute")
    async def attribute(image: Annotated[bytes, File()]) -> list[str]:
        # Not `def`, of which FastAPI runs many at a time on threads.
        [found] = attributor.attribute([decode_image(image, ImageLimits()).pixels])
        return [concept.concept.name for concept in found.concepts]

    return app


def prepare_weightless(root: Path) -> tuple[DataFolder, Path]:
    """A data folder with an index of `FakeEmbedder`'s, and a folder of tiny query images."""
    source, queries = root / "weightless-source", root / "weightless-queries"
    queries.mkdir()
    for number in range(200):
        concept = source / f"concept-{number // 4}"
        concept.mkdir(parents=True, exist_ok=True)
        patches(number, TINY).save(concept / f"{number}.png")
    for number in range(16):
        patches(number, TINY).save(queries / f"{number}.png")
    data = DataFolder(root / "weightless")
    rebuild(data, read_sources([source]), FakeEmbedder(), RebuildOptions(canary_rate=0))
    return data, queries


def open_weightless(data: Path) -> Attributor:
    """What answers with an embedder that costs nothing."""
    return Attributor(FakeEmbedder(), open_published(DataFolder(data).index))


def serve_weightless(data: Path, port: int) -> None:
    """As `whence serve` does."""
    settings = Settings(data=data, port=port)
    configure_logging(settings.log_level, settings.log_format)
    run_server(create_app(settings, open_weightless(data)), settings)


def work_of(attributor: Attributor, images: Sequence[bytes], seconds: float) -> float:
    """Milliseconds of processor time of an image, in batches as large as the service's."""
    done, began, worked = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        some = [images[(done + i) % len(images)] for i in range(CPU_BATCH)]
        attributor.attribute([decode_image(data, ImageLimits()).pixels for data in some])
        done += len(some)
    return 1000 * (time.process_time() - worked) / done


def measure_layer(options: argparse.Namespace) -> dict[str, float]:
    """What the web layer adds to the work."""
    with tempfile.TemporaryDirectory() as name:
        return measure_weightless(*prepare_weightless(Path(name)), options)


def measure_weightless(
    data: DataFolder, queries: Path, options: argparse.Namespace
) -> dict[str, float]:
    """The service with an embedder that costs nothing, and the same work in process."""
    images = [path.read_bytes() for path in sorted(queries.iterdir())]
    attributor = open_weightless(data.root)
    found: dict[str, list[float]] = {}
    me = ("-m", "tests.benchmarks.serving", "--data", str(data.root), "--serve", "weightless")
    with serving(*me) as server:
        run_load(server.url, queries, seconds=options.seconds, in_flight=IN_FLIGHT)
        for _ in range(options.turns):
            worked = server.cpu_seconds()
            busy = run_load(server.url, queries, seconds=options.seconds, in_flight=IN_FLIGHT)
            worked = server.cpu_seconds() - worked
            alone = run_load(server.url, queries, seconds=options.seconds, in_flight=1)
            turn = {
                "per_second": busy["answered_per_second"],
                "cpu_ms": 1000 * worked / busy["statuses"]["200"],
                "in_process_cpu_ms": work_of(attributor, images, options.seconds),
                "one_client_p50_ms": alone["p50_ms"],
                "one_image_ms": one_image(attributor, images, options.seconds),
            }
            turn["own_cpu_ms"] = turn["cpu_ms"] - turn["in_process_cpu_ms"]
            turn["own_ms"] = turn["one_client_p50_ms"] - turn["one_image_ms"]
            for name, value in turn.items():
                found.setdefault(name, []).append(value)
    attributor.snapshot.close()
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def measure(gallery: Gallery, options: argparse.Namespace) -> dict[str, Any]:
    """In turns, so that a busy neighbour hits all alike."""
    data, queries = gallery.data, gallery.queries
    images = [path.read_bytes() for path in sorted(queries.iterdir())]
    attributor = open_published_attributor(Settings(data=data.root), None)  # the same engine
    threads = Settings().decode_processes
    sizes = {}
    for size in (1, 4, 8, 16):
        done, elapsed = run_loop(attributor, images, size, threads, 2)
        sizes[size] = done / elapsed
    best = max(sizes, key=lambda b: sizes[b])
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    def saturate(name: str, server: Server) -> None:
        worked = server.cpu_seconds()
        answered = run_load(server.url, queries, seconds=options.seconds, in_flight=IN_FLIGHT)
        note(name, answered["answered_per_second"])
        worked = server.cpu_seconds() - worked
        note(f"{name}_cpu_ms", 1000 * worked / answered["statuses"]["200"])

    def loop() -> None:
        worked = time.process_time()
        done, elapsed = run_loop(attributor, images, best, threads, options.seconds)
        note("loop", done / elapsed)
        note("loop_cpu_ms", 1000 * (time.process_time() - worked) / done)

    me = ("-m", "tests.benchmarks.serving", "--data", str(data.root), "--serve")
    with (
        whence_serving(data.root) as whence,
        serving("-m", "tests.benchmarks.plain_handler", str(gallery.plain)) as plain,
        serving(*me, "plain_engine") as plain_engine,
    ):
        for server in (whence, plain, plain_engine):  # warm
            run_load(server.url, queries, seconds=options.seconds, in_flight=IN_FLIGHT)
        for _ in range(options.turns):
            loop()
            saturate("whence", whence)
            saturate("plain", plain)
            saturate("plain_engine", plain_engine)
            note("one_image_ms", one_image(attributor, images, options.seconds))
            for name, server in (("one_client", whence), ("one_client_plain", plain)):
                alone = run_load(server.url, queries, seconds=options.seconds, in_flight=1)
                note(f"{name}_p50_ms", alone["p50_ms"])
        stages = stages_of_one(whence.url, images)
    attributor.snapshot.close()
    median = {name: round(statistics.median(values), 2) for name, values in found.items()}

    def ratio(over: str, under: str) -> float:
        pairs = zip(found[over], found[under], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return {
        "machine": machine(),
        "exemplars": attributor.snapshot.manifest.exemplars,
        "jpeg_bytes": round(statistics.mean(map(len, images))),
        "images_per_second_by_batch": {b: round(value, 1) for b, value in sizes.items()},
        **median,
        "stages_ms": stages,
        "layer": measure_layer(options),
        "cpu_whence_to_loop": round(median["whence_cpu_ms"] / median["loop_cpu_ms"], 3),
        "whence_to_loop": ratio("whence", "loop"),
        "whence_to_plain": ratio("whence", "plain"),
        "whence_to_plain_engine": ratio("whence", "plain_engine"),
        "one_client_to_one_image": ratio("one_client_p50_ms", "one_image_ms"),
        "one_client_to_plain": ratio("one_client_p50_ms", "one_client_plain_p50_ms"),
    }


def main() -> int:
    """Measure and print, or be one of the servers."""
    parser = argparse.ArgumentParser()
    add_gallery_options(parser)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--serve", choices=["plain_engine", "weightless"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.serve == "weightless":
        serve_weightless(options.data, options.port)
        return 0
    if options.serve:
        uvicorn.run(one_at_a_time_app(options.data), port=options.port, log_level="critical")
        return 0
    with gallery_of(options) as gallery:
        report = measure(gallery, options)
    print(json.dumps(report, indent=1))
    low = [name for name, aim in AT_LEAST.items() if report[name] < aim]
    high = [name for name, aim in AT_MOST.items() if report[name] > aim]
    return int(bool(low or high))


if __name__ == "__main__":
    sys.exit(main())
