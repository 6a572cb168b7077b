"""A request that asks for heatmaps beside one that does not, over ASGI in one process.

    python -m tests.benchmarks.explain_cost [--data DIR] [--backbone NAME] [--threads N]

Without a data folder one is made: drawn pictures, and a backbone with random weights, which change
no time. Medians of interleaved rounds; every answer is checked to hold what it was asked for.
Beside the time on the clock stands the processor's, which other work on the machine moves less.
"""

import argparse
import io
import statistics
import tempfile
import time
from pathlib import Path

import torch
from fastapi.testclient import TestClient
from PIL import Image

from app.main import create_app
from app.settings import Settings
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from model.checkpoint import load_embedder
from tests.benchmarks.pictures import draw_pictures, save_small_model

ROUNDS = 25
WARM = 3
CAP = 15
REQUESTS = {  # name -> parameters, exemplars explained
    "plain": ({}, 0),
    "explain, 1 exemplar": ({"explain": True, "top_k": 1, "exemplars": 1}, 1),
    "explain, 3 exemplars": ({"explain": True, "top_k": 3, "exemplars": 1}, 3),
    "explain, 6 exemplars": ({"explain": True, "top_k": 6, "exemplars": 1}, 6),  # the usual cap
    "explain, 15 exemplars": ({"explain": True}, 15),
}


def make(data: DataFolder, backbone: str) -> None:
    """An index of 100 pictures of 10 concepts."""
    draw_pictures(data.root / "source", range(100), side=512)
    model_id = save_small_model(data.models, backbone, 224)
    embedder = load_embedder(data.models, model_id, device="cpu")
    rebuild(data, read_sources([data.root / "source"]), embedder, RebuildOptions(canary_rate=0))


def query() -> bytes:
    """A picture of 512 x 512 pixels as a JPEG."""
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), range(7, 8), side=512)
        [path] = Path(folder).rglob("*.jpg")
        buffer = io.BytesIO()
        Image.open(path).rotate(5).save(buffer, "JPEG", quality=90)
        return buffer.getvalue()


def main() -> None:
    """Time each kind of request and print the ratios to the plain one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.data is None:
            make(DataFolder(Path(folder)), arguments.backbone)
        settings = Settings(data=arguments.data or Path(folder), device="cpu", max_explained=CAP)
        measure(settings, query())


def measure(settings: Settings, image: bytes) -> None:
    """Ask and print."""
    clock: dict[str, list[float]] = {name: [] for name in REQUESTS}
    processor: dict[str, list[float]] = {name: [] for name in REQUESTS}
    sizes: list[int] = []
    with TestClient(create_app(settings)) as client:
        for turn in range(ROUNDS + WARM):
            for name, (parameters, count) in REQUESTS.items():
                began, worked = time.perf_counter(), time.process_time()
                response = client.post("/attribute", files={"image": image}, params=parameters)
                took, work = time.perf_counter() - began, time.process_time() - worked
                hits = [hit for c in response.json()["concepts"] for hit in c["exemplars"]]
                found = [hit["heatmaps"] for hit in hits if hit["heatmaps"]]
                assert len(found) == count, f"{name}: {len(found)} exemplars explained"
                if turn >= WARM:
                    clock[name].append(1000 * took)
                    processor[name].append(1000 * work)
                if turn == 0:
                    urls = [h[key] for h in found for key in ("query_url", "exemplar_url")]
                    sizes += (len(client.get(url).raise_for_status().content) for url in urls)
    for name in REQUESTS:
        row = []
        for unit, times in (("clock", clock), ("processor", processor)):
            whole, plain = (statistics.median(times[which]) for which in (name, "plain"))
            row.append(f"{unit} {whole:7.1f} ms, {whole / plain:5.2f} x")
        print(f"{name:22s} {'; '.join(row)}")
    print(f"a heatmap is {statistics.median(sizes):.0f} bytes, at most {max(sizes)}")


if __name__ == "__main__":
    main()
