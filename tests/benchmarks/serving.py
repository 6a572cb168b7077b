"""What serving loses on the way: the service against the same work done in a loop.

    python -m tests.benchmarks.serving [--backbone mobilenetv2_100] [--weights FILE] [--images DIR]

Builds an index, then measures in turns, several times:

    loop      decode on as many threads as the service, embed at the best batch size, search
    whence    `whence serve`, saturated by `tests.benchmarks.load`
    plain     a FastAPI handler that does one image at a time
    one       the in-process time of one image, and the service's with one client
    layer     the service with an embedder that costs nothing: what the web layer takes

Prints JSON; ratios are medians over the turns. Exit status 1 where one misses its aim.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import uvicorn
from fastapi import FastAPI, File
from PIL import Image, ImageDraw

from app.main import create_app, open_published_attributor
from app.settings import Settings
from index.attribution import Attributor
from index.layout import DataFolder
from index.rebuild import rebuild
from index.snapshot import open_published
from index.source import read_sources
from model.backbone import create_backbone, create_random_backbone
from model.checkpoint import load_embedder
from model.images import ImageLimits, decode_image
from model.train import train_model
from tests.benchmarks.load import run_load
from tests.benchmarks.servers import machine, serving, whence_serving
from tests.fakes import FakeEmbedder

AIMS = {"whence_to_loop": 0.85, "whence_to_plain": 1.3, "one_client_to_one_image": 1.25}
IN_FLIGHT = 24
SIDE = 512


def draw_photo(number: int) -> bytes:
    """A JPEG of 512 pixels, about as heavy as a photograph."""
    generator = np.random.default_rng(number)
    image = Image.new("RGB", (SIDE, SIDE * 3 // 4))
    for scale, weight in ((8, 0.7), (64, 0.4), (384, 0.08)):
        coarse = generator.integers(0, 256, (scale * 3 // 4, scale, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize(image.size, Image.Resampling.BICUBIC)
        image = Image.blend(image, layer, weight)
    canvas = ImageDraw.Draw(image)
    for _ in range(20):
        x, y, radius = generator.integers(0, SIDE, 3) // (1, 1, 6)
        canvas.ellipse((x, y, x + radius, y + radius), outline=tuple(generator.integers(0, 256, 3)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def prepare(root: Path, options: argparse.Namespace) -> tuple[DataFolder, Path]:
    """A data folder with an index, and a folder of query images."""
    queries = root / "queries"
    source = root / "source"
    queries.mkdir()
    if options.images:
        found = [path.read_bytes() for path in sorted(options.images.iterdir())[: options.count]]
    else:
        found = [draw_photo(number) for number in range(options.count)]
    for number, data in enumerate(found):
        (queries / f"{number:04d}.jpg").write_bytes(data)
        concept = source / f"concept-{number // 4}"
        concept.mkdir(parents=True, exist_ok=True)
        (concept / f"{number:04d}.jpg").write_bytes(data)
    data = DataFolder(root / "data")
    if options.weights:
        backbone = create_backbone(options.backbone, weights=options.weights)
    else:
        backbone = create_random_backbone(options.backbone)
    files = sorted(queries.iterdir())
    trained = train_model(files, backbone, models=data.models, features=data.features)
    embedder = load_embedder(data.models, trained.model_id)
    rebuild(data, read_sources([source]), embedder, canary_rate=0)
    return data, queries


def run_loop(
    attributor: Attributor, images: Sequence[bytes], batch: int, threads: int, seconds: float
) -> float:
    """Images a second: decoding goes on while a batch is embedded, as in the service."""

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
            attributor.rank(attributor.embedder.embed_pixels(pixels))
            done += len(pixels)
        elapsed = time.perf_counter() - began
        for future in coming:
            future.cancel()
    return done / elapsed


def one_image(attributor: Attributor, images: Sequence[bytes], seconds: float) -> float:
    """Median milliseconds of one image, decoded, embedded and searched."""
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        image = decode_image(images[len(times) % len(images)], ImageLimits())
        attributor.attribute([image.pixels])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def plain_app(data: Path) -> FastAPI:
    """What one writes first: decode, embed and search in the handler."""
    app = FastAPI()
    attributor = open_published_attributor(Settings(data=data), None)

    @app.get("/health/ready")
    def ready() -> None:
        """It is."""

    @app.post("/attribute")
    def attribute(image: Annotated[bytes, File()]) -> list[str]:
        [found] = attributor.attribute([decode_image(image, ImageLimits()).pixels])
        return [concept.concept.name for concept in found.concepts]

    return app


def weightless_app(data: Path) -> FastAPI:
    """The service with an embedder that costs nothing."""
    source = data / "source"
    for number in range(200):
        concept = source / f"concept-{number // 4}"
        concept.mkdir(parents=True, exist_ok=True)
        (concept / f"{number}.jpg").write_bytes(draw_photo(number))
    folder, embedder = DataFolder(data), FakeEmbedder()
    rebuild(folder, read_sources([source]), embedder, canary_rate=0)
    return create_app(Settings(data=data), Attributor(embedder, open_published(folder.index)))


def measure(data: DataFolder, queries: Path, options: argparse.Namespace) -> dict[str, Any]:
    """In turns, so that a busy neighbour hits all alike."""
    images = [path.read_bytes() for path in sorted(queries.iterdir())]
    attributor = open_published_attributor(Settings(data=data.root), None)  # the same engine
    threads = Settings().decode_threads
    sizes = {b: run_loop(attributor, images, b, threads, 2) for b in (1, 4, 8, 16)}
    best = max(sizes, key=lambda b: sizes[b])
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    load: Callable[..., dict[str, Any]] = lambda server, **more: run_load(  # noqa: E731
        server.url, queries, seconds=options.seconds, **more
    )
    me = ("-m", "tests.benchmarks.serving", "--data", str(data.root), "--serve")
    with whence_serving(data.root) as whence, serving(*me, "plain") as plain:
        load(whence, in_flight=IN_FLIGHT)
        for _ in range(options.turns):
            note("loop", run_loop(attributor, images, best, threads, options.seconds))
            note("whence", load(whence, in_flight=IN_FLIGHT)["answered_per_second"])
            note("plain", load(plain, in_flight=IN_FLIGHT)["answered_per_second"])
            note("one_image_ms", one_image(attributor, images, options.seconds))
            note("one_client_p50_ms", load(whence, in_flight=1)["p50_ms"])
    attributor.snapshot.close()
    with serving(*me, "weightless") as weightless:
        note("layer", load(weightless, in_flight=IN_FLIGHT)["answered_per_second"])
    median = {name: round(statistics.median(values), 2) for name, values in found.items()}

    def ratio(over: str, under: str) -> float:
        pairs = zip(found[over], found[under], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return {
        "machine": machine(),
        "backbone": options.backbone,
        "jpeg_bytes": round(statistics.mean(map(len, images))),
        "images_per_second_by_batch": {b: round(value, 1) for b, value in sizes.items()},
        **median,
        "layer_ms_a_request": round(1000 / median["layer"], 3),
        "whence_to_loop": ratio("whence", "loop"),
        "whence_to_plain": ratio("whence", "plain"),
        "one_client_to_one_image": ratio("one_client_p50_ms", "one_image_ms"),
    }


def main() -> int:
    """Measure and print, or be one of the servers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, help="queries; by default drawn ones")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--serve", choices=["plain", "weightless"])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.serve:
            make = {
                "plain": lambda: plain_app(options.data),
                "weightless": lambda: weightless_app(Path(name)),
            }
            uvicorn.run(make[options.serve](), port=options.port, log_level="critical")
            return 0
        report = measure(*prepare(Path(name), options), options)
    print(json.dumps(report, indent=1))
    return int(
        report["whence_to_loop"] < AIMS["whence_to_loop"]
        or report["whence_to_plain"] < AIMS["whence_to_plain"]
        or report["one_client_to_one_image"] > AIMS["one_client_to_one_image"]
    )


if __name__ == "__main__":
    sys.exit(main())
