"""All that is to be measured on a CUDA device, in twelve minutes at most.

    python -m tests.benchmarks.cuda [--backbone vit_base_patch16_224] [--minutes 12] [--json FILE]

Measures in this order, and leaves out what no longer fits into the minutes:

    features     images a second of backbone and descriptors, batches of 16 and 64, by engine: eager
                 float32, bfloat16, compiled, and compiled with CUDA graphs
    pretraining  views a second of a training step of vit_tiny_patch16_224 at 128 pixels, with the
                 backbone as teacher, in batches of 64 and 256
    selection    seconds of the choice of settings on 2,000 made-up pictures
    serving      `tests.benchmarks.cuda_serving`, in a process of its own

Prints JSON with the device's name. Exit status 2 without a CUDA device. No such device was at hand
when this was written: the script itself was run on none.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from model.axes import principal_axes
from model.backbone import Backbone, create_random_backbone
from model.config import PretrainConfig, SelectionConfig, TrainConfig
from model.descriptors import DescriptorExtractor
from model.engines import probe
from model.pretraining.distillation import Distiller, measure_teacher
from model.pretraining.pretrain import Learner
from model.selection.choose import choose_settings
from model.selection.questions import ALL_DEPTHS
from model.sources.local import local_files

NO_DEVICE = 2  # the exit status
TURNS = 20


def rate(run: Callable[[], object], images: int, device: torch.device) -> float:
    """Images a second of a function, after it has warmed up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    for _ in range(TURNS):
        run()
    torch.cuda.synchronize(device)
    return round(TURNS * images / (time.perf_counter() - began), 1)


def features(backbone: Backbone, device: torch.device) -> dict[str, float]:
    """Backbone and descriptors by engine and batch."""
    extractor = DescriptorExtractor()

    def read(pixels: torch.Tensor) -> Any:
        return extractor(backbone(pixels))

    def half(pixels: torch.Tensor) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            found = backbone(pixels)
        return extractor(found)

    ways: dict[str, Callable[[torch.Tensor], Any]] = {
        "eager": read,
        "bfloat16": half,
        "compile": torch.compile(half),
        "compile, CUDA graphs": torch.compile(half, mode="reduce-overhead"),
    }
    found = {}
    for batch in (16, 64):
        pixels = probe(backbone.config, batch).to(device)
        for name, run in ways.items():
            with torch.inference_mode():
                found[f"{name}, {batch}"] = rate(lambda run=run, p=pixels: run(p), batch, device)
    return found


def pretraining(teacher: Backbone, device: torch.device) -> dict[str, float]:
    """Views a second of a training step: forward, backward, no optimiser."""
    found = {}
    options = {"img_size": teacher.config.input_size, "input_size": teacher.config.input_size}
    student = create_random_backbone("vit_tiny_patch16_224", options=options)
    student.to(device)
    size = teacher.config.input_size
    measured = measure_teacher(teacher, [probe(teacher.config, 64)] * 4, TrainConfig())
    distiller = Distiller(teacher, student, measured, size)
    learner = Learner(student, distiller, PretrainConfig(input_sizes=(size,))).to(device).train()
    for batch in (64, 256):
        views = torch.rand(2, batch // 2, 3, size, size, device=device)

        def step(views: torch.Tensor = views) -> None:
            learner.zero_grad()
            learner(views).total.backward()

        found[f"views, {batch}"] = rate(step, batch, device)
    return found


def selection(backbone: Backbone, device: torch.device, folder: Path) -> dict[str, Any]:
    """The whole choice on made-up pictures of 256 pixels."""
    random = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(2000)]
    for path in paths:
        coarse = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((256, 256)).save(path)
    pictures = local_files(paths)
    began = time.perf_counter()
    axes = principal_axes(backbone, pictures, ALL_DEPTHS, device=device)
    chosen = choose_settings(
        backbone, axes, pictures, {}, SelectionConfig(), TrainConfig(), device=device, workers=4
    )
    seconds = round(time.perf_counter() - began, 1)
    return {"seconds": seconds, "parts": chosen.record.get("seconds"), "note": chosen.note}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("cuda: there is no CUDA device here, so nothing to measure", file=sys.stderr)
        return NO_DEVICE
    device = torch.device("cuda")
    end = time.monotonic() + 60 * options.minutes
    backbone = create_random_backbone(options.backbone).to(device)
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(device)}
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], Any]] = {
            "features": lambda: features(backbone, device),
            "pretraining": lambda: pretraining(backbone, device),
            "selection": lambda: selection(backbone, device, Path(folder)),
        }
        for name, run in parts.items():
            if time.monotonic() < end - 120:
                report[name] = run()
                print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    left = end - time.monotonic()
    if left > 120:
        command = [sys.executable, "-m", "tests.benchmarks.cuda_serving", "--turns", "2"]
        done = subprocess.run(
            [*command, "--backbone", options.backbone],
            capture_output=True,
            text=True,
            timeout=left,
            check=False,
        )
        report["serving"] = json.loads(done.stdout) if done.stdout else done.stderr[-500:]
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
