"""Every engine of the forward pass beside eager float32: speed, and how near its embeddings are.

    python -m tests.benchmarks.engines [--model data/models/ID] [--images FOLDER]
        [--backbone NAME|starter] [--weights FILE] [--threads N] [--engines onnx,openvino,...]
        [--batches 1,8,32]

The whole model: backbone, descriptors and heads. With --model one that `whence train` made; else a
backbone and heads in closed form, fitted to pictures. Its weights are the starter's or those of
--weights, else random: they change no time, but how far bfloat16 strays.
Each round runs every engine once, one after the other; shown are medians of rounds. Processor time
(of all threads) is the steadier figure where other things run as well.
"""

import argparse
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cosine_similarity

from model.backbone import Backbone, create_random_backbone, parse_options
from model.checkpoint import load_embedder
from model.config import ModelConfig, TrainConfig
from model.descriptors import FACETS, DescriptorExtractor
from model.embedder import AttributionModel, Embedder
from model.engines import ENGINES, Engine, EngineName, build_engine, by_speed, probe
from model.errors import ImageError
from model.folders import find_images
from model.head import AttributionHead
from model.images import read_image
from model.starter import NAME as STARTER
from model.starter import choose_backbone
from model.whitening import principal_map


def read_pixels(backbone: Backbone, folder: Path | None, count: int) -> torch.Tensor:
    """(N, 3, S, S) of pictures spread over the folder, or of made-up ones."""
    if folder is None:
        return probe(backbone.config, count)
    files = find_images(folder)
    pixels = []
    for path in files[:: max(1, len(files) // count)][:count]:
        try:
            pixels.append(backbone.preprocess(read_image(path).pixels))
        except ImageError as error:
            print(f"left out: {path.name}: {error}")
    return torch.stack(pixels)


@torch.inference_mode()
def fitted_model(arguments: argparse.Namespace) -> AttributionModel:
    """The backbone, and heads fitted in closed form to what it sees in the pictures."""
    options = parse_options(arguments.backbone_option)
    if arguments.backbone == STARTER or arguments.weights:
        backbone = choose_backbone(
            arguments.backbone, weights=arguments.weights, options=options, report=print
        )
    else:
        backbone = create_random_backbone(arguments.backbone, options=options)
    pixels = read_pixels(backbone, arguments.images, arguments.fit)
    rows = [DescriptorExtractor()(backbone(batch)) for batch in pixels.split(16)]
    heads = {}
    for name, recipe in TrainConfig().descriptors.items():
        fitted = principal_map(
            torch.cat([row[name] for row in rows]),
            power=recipe.power,
            components=recipe.components,
            standardise=recipe.standardise,
        )
        heads[name] = AttributionHead(fitted.mean.float(), fitted.weight.float())
    config = ModelConfig(
        backbone=backbone.config,
        facets={facet: dict(weights) for facet, weights in FACETS.items()},
        dimensions={name: (head.dimension, len(head.mean)) for name, head in heads.items()},
    )
    return AttributionModel(backbone, heads, config)


def build_all(
    names: list[EngineName], embedder: Embedder, largest: torch.Tensor, export: Path
) -> dict[EngineName, Engine]:
    """The engines that can be built here, each with the seconds until it has run once."""
    engines: dict[EngineName, Engine] = {}
    for name in names:
        began = time.perf_counter()
        try:
            engine = build_engine(embedder._model, name, embedder.device, export)
            engine(largest)
            engine(largest[:1])
        except Exception as error:
            print(f"{name}: cannot be used here: {str(error).splitlines()[0]}")
            continue
        engines[name] = engine
        print(f"{name}: first answer after {time.perf_counter() - began:.1f} s", flush=True)
    return engines


@torch.inference_mode()
def main() -> None:
    """Build, compare, time and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone-option", action="append", default=[])
    parser.add_argument("--fit", type=int, default=64, help="pictures the heads are fitted to")
    parser.add_argument("--check", type=int, default=32, help="pictures that are compared")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", default=",".join(ENGINES[1:]))
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--export", type=Path, default=Path("build/engines.onnx"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.model:
        folder = arguments.model
        embedder = load_embedder(folder.parent, folder.name, device=arguments.device)
    else:
        embedder = Embedder(fitted_model(arguments), "fitted", device=arguments.device)
        arguments.export.unlink(missing_ok=True)
    device, backbone = embedder.device, embedder._model.backbone
    pixels = read_pixels(backbone, arguments.images, arguments.check).to(device)
    batches = [int(size) for size in arguments.batches.split(",")]
    names = [name for name in ENGINES if name in ("eager", *arguments.engines.split(","))]
    repeated = pixels.repeat(-(-max(batches) // len(pixels)), 1, 1, 1)
    engines = build_all(names, embedder, repeated[: max(batches)], arguments.export)
    print(f"auto would try: {', '.join([*by_speed(embedder._model, device), 'eager'])}")

    cosines = {name: compare(engine, embedder._model, pixels) for name, engine in engines.items()}
    rates: dict[tuple[str, int], tuple[float, float, float]] = {}
    for size in batches:
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        repeats = max(1, 4 // size)
        for _ in range(arguments.rounds):
            for name, engine in engines.items():
                wall, processor = time.perf_counter(), time.process_time()
                for _ in range(repeats):
                    engine(repeated[:size])
                if device.type == "cuda":
                    torch.cuda.synchronize()
                images = size * repeats / 1000
                spent[name].append(
                    (
                        (time.perf_counter() - wall) / images,
                        (time.process_time() - processor) / images,
                    )
                )
        for name, rounds in spent.items():
            ratios = [e[1] / own[1] for e, own in zip(spent["eager"], rounds, strict=True)]
            wall, processor = (statistics.median(column) for column in zip(*rounds, strict=True))
            rates[name, size] = wall, processor, statistics.median(ratios)
    print_table(rates, cosines, batches, arguments.threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{backbone.config.name}, {arguments.threads} threads; "
        f"peak memory of all together {peak:.1f} GiB"
    )


def compare(engine: Engine, model: AttributionModel, pixels: torch.Tensor) -> dict[str, float]:
    """Facet -> least cosine to eager float32, over the pictures."""
    least: dict[str, float] = {}
    for batch in pixels.split(8):
        expected = model(batch)
        for facet, found in engine(batch).items():
            cosine = float(cosine_similarity(found.float(), expected[facet]).min())
            least[facet] = min(cosine, least.get(facet, 1.0))
    return least


def print_table(
    rates: dict[tuple[str, int], tuple[float, float, float]],
    cosines: dict[EngineName, dict[str, float]],
    batches: list[int],
    threads: int,
) -> None:
    """Markdown, for README.md: processor time, and how many times eager's throughput that is."""
    print(f"\nms an image (processor time of {threads} threads; in brackets wall clock), ratio")
    print("| engine |" + "".join(f" batch {size} |" for size in batches) + " best | least cosine |")
    print("|---|" + "---|" * (len(batches) + 2))
    best_eager = min(rates["eager", size][1] for size in batches)
    for name, found in cosines.items():
        timed = [rates[name, size] for size in batches]
        cells = "".join(f" {own:.1f} ({wall:.1f}), x{ratio:.2f} |" for wall, own, ratio in timed)
        best = best_eager / min(rates[name, size][1] for size in batches)
        near = ", ".join(
            f"{facet} {np.floor(value * 1e5) / 1e5:.5f}" for facet, value in found.items()
        )
        print(f"| {name} |{cells} **x{best:.2f}** | {near} |")


if __name__ == "__main__":
    main()
