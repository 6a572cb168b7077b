"""What a CUDA device gives, and how much of it the service keeps.

    python -m tests.benchmarks.cuda_serving [--backbone vit_base_patch16_224] [--weights FILE]

Builds an index, then measures images a second in turns, several times:

    forward   the forward pass alone, of a batch that lies on the device
    decode    decoding 512-pixel JPEGs on as many threads as the service, and the forward pass
    whence    `whence serve`, saturated by `tests.benchmarks.load`

and p50 and p99 at half the rate that saturates it. Prints JSON with the device's name; ratios are
medians over the turns. Exit status 1 where the service reaches less than 0.7 of the forward pass
alone, was not all 200, or the client was too slow; 2 without a CUDA device. The service takes more
images at once than by default (WHENCE_MAX_QUEUE), so that batches fill.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from app.inference.pipeline import DEVICE_BATCH
from app.main import open_published_attributor
from app.settings import Settings
from index.layout import DataFolder
from model.embedder import Embedder
from model.engines import probe
from tests.benchmarks.gallery import add_gallery_options, gallery_of
from tests.benchmarks.load import reached, run_load
from tests.benchmarks.servers import machine, whence_serving
from tests.benchmarks.serving import run_loop

AIM = 0.7  # of the forward pass alone
IN_FLIGHT = 3 * DEVICE_BATCH  # decoding, waiting and in the forward pass
ROOM = str(2 * IN_FLIGHT)
NO_DEVICE = 2  # the exit status


def forward_rate(embedder: Embedder, batch: int, seconds: float) -> float:
    """Images a second of the forward pass that the service runs, on pixels already there."""
    model = embedder._model  # what no caller of the embedder needs
    pixels = probe(model.config.backbone, batch).to(embedder.device)
    with torch.inference_mode():
        for _ in range(3):
            embedder._run(pixels)
        torch.cuda.synchronize()
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            embedder._run(pixels)
            torch.cuda.synchronize()
            done += batch
        return done / (time.perf_counter() - began)


def measure(data: DataFolder, queries: Path, options: argparse.Namespace) -> dict[str, Any]:
    """In turns, so that a busy neighbour hits all alike."""
    images = [path.read_bytes() for path in sorted(queries.iterdir())]
    settings = Settings(data=data.root, device="cuda")
    attributor = open_published_attributor(settings, None)
    embedder = attributor.embedder
    assert isinstance(embedder, Embedder)
    found: dict[str, list[float]] = {"forward": [], "decode": [], "whence": []}
    loads = []
    environment = {
        "WHENCE_DEVICE": "cuda",
        "WHENCE_MAX_QUEUE": ROOM,
    }
    with whence_serving(data.root, **environment) as server:
        busy = {"in_flight": IN_FLIGHT, "processes": options.processes}
        run_load(server.url, queries, seconds=options.seconds, **busy)
        for _ in range(options.turns):
            found["forward"].append(forward_rate(embedder, DEVICE_BATCH, options.seconds))
            threads = settings.decode_processes
            done, elapsed = run_loop(
                attributor, images, DEVICE_BATCH, threads, options.seconds, search=False
            )
            found["decode"].append(done / elapsed)
            loads.append(run_load(server.url, queries, seconds=options.seconds, **busy))
            found["whence"].append(loads[-1]["answered_per_second"])
        half = run_load(
            server.url,
            queries,
            rate=statistics.median(found["whence"]) / 2,
            seconds=4 * options.seconds,
            processes=options.processes,
        )
    attributor.snapshot.close()

    def ratio(over: str, under: str) -> float:
        pairs = zip(found[over], found[under], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 3)

    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name(embedder.device),
        "backbone": options.backbone,
        "engine": embedder.engine,
        "batch": DEVICE_BATCH,
        "max_queue": int(ROOM),
        "images_per_second": {n: round(statistics.median(v), 1) for n, v in found.items()},
        "decode_to_forward": ratio("decode", "forward"),
        "whence_to_decode": ratio("whence", "decode"),
        "whence_to_forward": ratio("whence", "forward"),
        "statuses": sorted({status for load in [*loads, half] for status in load["statuses"]}),
        "at_half_load": half,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    add_gallery_options(parser)
    parser.set_defaults(backbone="vit_base_patch16_224")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--processes", type=int, default=4, help="of the client")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("cuda_serving: there is no CUDA device here, so nothing to measure", file=sys.stderr)
        return NO_DEVICE
    with gallery_of(options) as gallery:
        report = measure(gallery.data, gallery.queries, options)
    print(json.dumps(report, indent=1))
    return int(
        report["whence_to_forward"] < AIM
        or report["statuses"] != ["200"]
        or not reached(report["at_half_load"])
    )


if __name__ == "__main__":
    sys.exit(main())
