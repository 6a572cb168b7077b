"""A request that asks for heatmaps beside one that does not, over ASGI in one process.

    python -m tests.benchmarks.explain_cost [--data DIR] [--backbone NAME] [--threads N]

Without a data folder one is made: drawn pictures, and a backbone with random weights, which change
no time. Medians of interleaved rounds; every answer is checked to hold what it was asked for.
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
from index.layout import DataFolder
from index.rebuild import rebuild
from index.source import read_sources
from model.checkpoint import load_embedder
from tests.benchmarks.pictures import draw_pictures, save_small_model

ROUNDS = 25
WARM = 3
REQUESTS = {  # name -> parameters, exemplars explained
    "plain": ({}, 0),
    "explain, 1 exemplar": ({"explain": True, "top_k": 1, "exemplars": 1}, 1),
    "explain, 3 exemplars": ({"explain": True, "top_k": 3, "exemplars": 1}, 3),
    "explain, 15 exemplars": ({"explain": True}, 15),  # the default of 5 concepts with 3 each
}


def make(data: DataFolder, backbone: str) -> None:
    """An index of 100 pictures of 10 concepts."""
    draw_pictures(data.root / "source", range(100), side=512)
    model_id = save_small_model(data.models, backbone, 224)
    embedder = load_embedder(data.models, model_id, device="cpu")
    rebuild(data, read_sources([data.root / "source"]), embedder, canary_rate=0)


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
        settings = Settings(data=arguments.data or Path(folder), device="cpu")
        measure(settings, query())


def measure(settings: Settings, image: bytes) -> None:
    """Ask and print."""
    times: dict[str, list[float]] = {name: [] for name in REQUESTS}
    made: dict[str, list[float]] = {name: [] for name in REQUESTS}
    sizes: list[int] = []
    with TestClient(create_app(settings)) as client:
        for turn in range(ROUNDS + WARM):
            for name, (parameters, count) in REQUESTS.items():
                began = time.perf_counter()
                response = client.post("/attribute", files={"image": image}, params=parameters)
                took = time.perf_counter() - began
                answer = response.json()
                found = [
                    hit["heatmaps"]
                    for concept in answer["concepts"]
                    for hit in concept["exemplars"]
                    if hit["heatmaps"]
                ]
                assert len(found) == count, f"{name}: {len(found)} exemplars explained"
                if turn >= WARM:
                    times[name].append(1000 * took)
                    made[name].append(answer["timing_ms"]["explain"])
                if turn == 0:
                    for heatmaps in found:
                        for url in (heatmaps["query_url"], heatmaps["exemplar_url"]):
                            sizes.append(len(client.get(url).raise_for_status().content))
    plain = statistics.median(times["plain"])
    for name, values in times.items():
        whole = statistics.median(values)
        part = statistics.median(made[name])
        print(f"{name:22s} {whole:7.1f} ms, of it heatmaps {part:6.1f} ms; {whole / plain:.2f} x")
    print(f"a heatmap is {statistics.median(sizes):.0f} bytes, at most {max(sizes)}")


if __name__ == "__main__":
    main()
