"""Do heatmaps point at what makes two pictures similar? Cover it and see how the cosine falls.

    python -m tests.benchmarks.heatmap_deletion --data DIR --pairs pairs.csv [--each 2]

Each query is explained by the nearest exemplar of the concept it comes from, in both facets. Then
the fifth of what the model sees that adds most is covered with the query's mean colour, or the
fifth that adds least, or a fifth drawn at random (mean of `DRAWS`), in blocks of 2 x 2 cells, and
the query is embedded again.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from index.answering.attribution import Attributor, open_attributor
from index.layout import DataFolder
from model.images import read_image

PART = 0.2
BLOCK = 2  # cells a side
DRAWS = 5

Order = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def cover(
    pixels: torch.Tensor, heatmap: NDArray[np.float32], first: Callable[[NDArray], NDArray]
) -> torch.Tensor:
    """(3, S, S) with the blocks that come first in ``first``'s order covered."""
    side = heatmap.shape[0] // BLOCK
    blocks = heatmap.reshape(side, BLOCK, side, BLOCK).sum(axis=(1, 3))
    chosen = np.zeros(side * side, dtype=bool)
    chosen[first(blocks.ravel())[: round(PART * side * side)]] = True
    mask = Image.fromarray(chosen.reshape(side, side)).resize(pixels.shape[1:], Image.NEAREST)
    hidden = torch.from_numpy(np.array(mask))
    mean = pixels.mean(dim=(1, 2), keepdim=True)
    return torch.where(hidden, mean, pixels)


def measure(
    attributor: Attributor, path: Path, concepts: set[str], generator: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Facet -> cosine as it is and after covering; empty where the concept is not in the index."""
    embedder, snapshot = attributor.embedder, attributor.snapshot
    pixels = embedder.preprocess(read_image(path).pixels)
    queries, [seen] = embedder.embed_with_patches([pixels])
    own = [e for e in snapshot.catalog.exemplars() if e.concept_id in concepts]
    found: dict[str, dict[str, float]] = {}
    for facet, matrix in queries.items():
        if not own:
            continue
        rows = np.array([exemplar.row for exemplar in own])
        cosines = snapshot.vectors.similarities(facet, matrix[0], rows)
        vector = snapshot.vectors.vectors(facet, rows[[cosines.argmax()]])
        [heatmap] = embedder.contributions(facet, [seen], vector)
        ways: list[Callable[[NDArray], NDArray]] = [
            lambda blocks: np.argsort(-blocks),
            np.argsort,
            *[lambda blocks: generator.permutation(len(blocks))] * DRAWS,
        ]
        covered = [cover(pixels, heatmap, way) for way in ways]
        after = embedder.embed_pixels(covered)[facet] @ vector[0]
        found[facet] = {
            "as it is": float(cosines.max()),
            "most": float(after[0]),
            "random": float(after[2:].mean()),
            "least": float(after[1]),
        }
    return found


def main() -> None:
    """Print the mean cosines of both facets, and by kind of query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--each", type=int, default=2, help="take every n-th query")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    attributor = open_attributor(DataFolder(arguments.data), device="cpu")
    ids = {
        concept.name: concept.id for concept in attributor.snapshot.catalog.concepts(limit=10**6)
    }
    generator = np.random.default_rng(0)
    with arguments.pairs.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:: arguments.each]
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        concepts = {ids[name] for name in row["concepts"].split(";") if name in ids}
        path = arguments.pairs.parent / row["path"]
        for facet, values in measure(attributor, path, concepts, generator).items():
            for kind in ("all", row["kind"]):
                results.setdefault((facet, kind), []).append(values)
    for (facet, kind), values in sorted(results.items()):
        means = {name: np.mean([value[name] for value in values]) for name in values[0]}
        ahead = np.mean([value["most"] < value["random"] for value in values])
        line = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        print(f"{facet:8s} {kind:14s} n={len(values):3d}  {line}; most < random in {ahead:.0%}")


if __name__ == "__main__":
    main()
