"""A step of pre-training on the CPU, beside the same step without what makes it fast.

    python -m tests.benchmarks.pretrain_step [--backbone NAME] [--size 64] [--images 12] [--steps 6]

Strided depthwise convolutions have no fast bfloat16 gradient in oneDNN;
`model.pretraining.pretrain` computes them in float32. Rows: the step as it is, all of it in
bfloat16, all of it in float32. The three take turns, so that other
work on the machine troubles all alike.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch import nn

import model.pretraining.pretrain
from model.backbone import create_random_backbone
from model.config import PretrainConfig
from model.pretraining.augment import BatchAugmentation
from model.pretraining.pretrain import Learner

OPTIONS = {"pad_type": "same"}


def stepper(arguments: argparse.Namespace, *, detour: bool) -> Callable[[], float]:
    """A function that takes one step and gives the processor's seconds it took."""
    config = PretrainConfig(input_sizes=(arguments.size,))
    learner = Learner(create_random_backbone(arguments.backbone, options=OPTIONS), None, config)
    if detour:
        model.pretraining.pretrain._avoid_slow_kernels(learner)
    optimizer = model.pretraining.pretrain._optimizer(learner.train(), config)
    shape = (2, arguments.images, 3, arguments.size, arguments.size)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    augment = BatchAugmentation(mosaic=0.3)

    def step() -> float:
        started = time.process_time()
        loss = learner(augment(pixels, generator))
        optimizer.zero_grad()
        loss.total.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), config.clip)
        optimizer.step()
        return time.process_time() - started

    return step


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--backbone", default="mobilenetv2_100")
    options.add_argument("--size", type=int, default=64)
    options.add_argument("--images", type=int, default=12)
    options.add_argument("--steps", type=int, default=6)
    arguments = options.parse_args()
    rows = {
        "as it is": (stepper(arguments, detour=True), nullcontext()),
        "all in bfloat16": (stepper(arguments, detour=False), nullcontext()),
        "all in float32": (
            stepper(arguments, detour=False),
            patch.object(model.pretraining.pretrain, "_bfloat16", lambda _: nullcontext()),
        ),
    }
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for number in range(arguments.steps + 1):
        for name, (step, changed) in rows.items():
            with changed:
                seconds = step()
            if number:  # the first step of each also chooses kernels
                taken[name].append(seconds)
    best = min(taken["as it is"])
    for name, seconds in taken.items():
        print(f"{name:20} {min(seconds) * 1e3:7.1f} ms a step, {min(seconds) / best:.2f} times")


if __name__ == "__main__":
    main()
