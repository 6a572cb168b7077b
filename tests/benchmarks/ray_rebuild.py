"""A rebuild with Ray workers on this machine beside one in a single process, and a worker killed.

    python -m tests.benchmarks.ray_rebuild [--images 5000] [--side 96] [--json FILE]

Draws a gallery, and embeds it three times with the same real model and an empty cache each time:
in one process, by Ray workers, and by Ray workers of which one is killed (kill -9) halfway. Each
process uses one thread, so that two workers are two cores. Prints JSON; exit status 1 unless every
image was embedded each time, and vectors and index are the same.
"""

import argparse
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from index.building.embedding import embed_files
from index.building.ray_embedding import ray_embedding
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import open_published
from model.checkpoint import load_embedder, save_model
from model.saved import latest_model
from tests.fakes import patches, tiny_model

MODEL = "mobilenetv3_small_100"
Result = dict[str, Any]


def workers() -> list[int]:
    """The processes below this one that hold a worker of ours."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it ended
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if b"MapWorker(MapBatches(_Worker))" in command:
            found.append(int(folder.name))

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == os.getpid() or (parent > 1 and is_below(parent))

    return [process for process in found if is_below(process)]


def run(models: Path, source: Path, how: str, root: Path) -> Result:
    """One rebuild from nothing; its vectors are left in ``root``."""
    torch.set_num_threads(1)
    data = DataFolder(root)
    model = latest_model(models)
    load = partial(load_embedder, models, model, device="cpu")
    times: list[tuple[float, int]] = []
    killed: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage != "embedding":
            return
        times.append((time.perf_counter(), done))
        if how == "killed" and not killed and done >= total // 2:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    context = nullcontext(embed_files) if how == "alone" else ray_embedding("local", load)
    exemplars = read_sources([source])
    began = time.perf_counter()
    with context as embed:
        connected = time.perf_counter()
        options = RebuildOptions(embed=embed, canary_rate=0)
        summary = rebuild(data, exemplars, load(), options, progress=progress)
    whole = time.perf_counter() - began
    first, last = times[0], times[-1]
    with closing(open_published(data.index)) as snapshot:
        rows = np.arange(snapshot.vectors.count)
        for facet in snapshot.manifest.dimensions:
            np.save(root / f"{facet}.npy", snapshot.vectors.vectors(facet, rows))
        (root / "scores.json").write_text(json.dumps(snapshot.calibration.null_scores))
    return {
        "embedded": summary.embedded,
        "exemplars": summary.exemplars,
        "skipped": len(summary.skipped),
        "images_a_second_at_work": round((last[1] - first[1]) / (last[0] - first[0]), 1),
        "images_a_second_with_start": round(last[1] / (last[0] - connected), 1),
        "start_of_the_cluster_seconds": round(connected - began, 1),
        "seconds": round(whole, 1),
        "killed_workers": len(killed),
    }


def draw_gallery(source: Path, images: int, side: int) -> None:
    """Pictures of coloured patches, ten a concept."""
    for seed in range(images):
        folder = source / f"concept-{seed // 10:05}"
        folder.mkdir(parents=True, exist_ok=True)
        patches(seed, side=side, cells=8).save(folder / f"{seed}.jpg", quality=90)


def apart(work: Callable[[], Result]) -> Result:
    """Run in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    outcome: Result = {"cores": os.cpu_count(), "images": arguments.images}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw_gallery(root / "source", arguments.images, arguments.side)
        model = tiny_model(MODEL, dimension=64, input_size=arguments.side)
        save_model(root / "models", model, {})
        for how in ("alone", "ray", "killed"):
            outcome[how] = apart(partial(run, root / "models", root / "source", how, root / how))
            print(how, outcome[how], file=sys.stderr, flush=True)
        largest = 0.0
        same = True
        for how in ("ray", "killed"):
            for path in (root / "alone").glob("*.npy"):
                difference = np.abs(np.load(path) - np.load(root / how / path.name))
                largest = max(largest, float(difference.max()))
            scores = [json.loads((root / h / "scores.json").read_text()) for h in ("alone", how)]
            same &= scores[0] == scores[1]
    outcome |= {"largest_difference_of_a_number": largest, "same_calibration": same}
    complete = all(
        outcome[how]["embedded"] == outcome[how]["exemplars"] == arguments.images
        for how in ("alone", "ray", "killed")
    )
    print(json.dumps(outcome, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return int(not (complete and same and largest == 0 and outcome["killed"]["killed_workers"]))


if __name__ == "__main__":
    sys.exit(main())
