"""Embedding with all facets against the pooled features alone, on the same images in one run.

    python -m tests.benchmarks.embedding_time [--backbone NAME] [--backbone-option K=V]

Without weights the backbone's are random: they change no time. Medians of interleaved rounds.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from timm.models import create_model

from model.backbone import create_backbone, create_random_backbone, parse_options
from model.config import DescriptorConfig, ModelConfig, TrainConfig
from model.descriptors import FACETS, DescriptorExtractor
from model.embedder import AttributionModel
from model.head import AttributionHead

ROUNDS = 15


def build(arguments: argparse.Namespace) -> AttributionModel:
    """The product's model with heads of the default size."""
    options = parse_options(arguments.backbone_option)
    backbone = (
        create_backbone(arguments.backbone, weights=arguments.weights, options=options)
        if arguments.weights
        else create_random_backbone(arguments.backbone, options=options)
    )
    size = backbone.config.input_size
    with torch.inference_mode():
        descriptors = DescriptorExtractor()(backbone(torch.zeros(2, 3, size, size)))
    recipes = TrainConfig().descriptors
    heads = {
        name: AttributionHead(
            torch.zeros(values.shape[1]),
            torch.randn(
                min(values.shape[1], recipes.get(name, DescriptorConfig()).components),
                values.shape[1],
            ),
        )
        for name, values in descriptors.items()
    }
    config = ModelConfig(
        backbone=backbone.config,
        facets={facet: dict(weights) for facet, weights in FACETS.items()},
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
    )
    return AttributionModel(backbone, heads, config).eval()


def main() -> None:
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone-option", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = build(arguments)
    pooled = create_model(arguments.backbone, num_classes=0).eval()
    pooled = pooled.to(memory_format=torch.channels_last)
    for batch in (1, 8, 32):
        size = model.config.backbone.input_size
        pixels = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
        times: dict[str, list[float]] = {"pooled": [], "facets": []}
        with torch.inference_mode():
            for _ in range(ROUNDS):
                for name, run in (("pooled", pooled), ("facets", model)):
                    began = time.perf_counter()
                    run(pixels)
                    times[name].append((time.perf_counter() - began) / batch * 1000)
        alone, whole = (statistics.median(times[name][2:]) for name in ("pooled", "facets"))
        print(
            f"batch {batch:2d}: pooled {alone:6.1f} ms an image, all facets {whole:6.1f} ms, "
            f"ratio {whole / alone:.2f}"
        )


if __name__ == "__main__":
    main()
