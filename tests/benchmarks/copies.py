"""Copies found by embedding: the limits from unrelated pictures, and how many altered copies pass.

    python -m tests.benchmarks.copies --data DATA --works FOLDER --unrelated FOLDER... [--count 500]

Takes the newest model in DATA. From each folder of unrelated pictures, or tar shard, `--count` are
drawn; every pair of them counts as unrelated, near-duplicates apart. The works are altered as
people alter copies, and compared with the unaltered ones and their mirror images. Prints JSON.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from index.takedowns.copies import FACET, CopyLimits, embed_works, measure_limits
from index.takedowns.fingerprints import FingerprintIndex, as_fingerprints, fingerprint
from index.thumbnails import thumbnail_of
from model.checkpoint import load_embedder
from model.embedder import Embedder
from model.images import ImageLimits, decode_image
from model.pretraining.shards import collect_images
from model.saved import latest_model

BATCH = 32


def drawn(folder: Path, count: int) -> list[Image.Image]:
    """Thumbnails of pictures drawn at random."""
    images = collect_images([folder]).images
    order = np.random.default_rng(0).permutation(len(images))[:count]
    limits = ImageLimits(min_side=1)
    return [thumbnail_of(decode_image(images[i].read(), limits).pixels) for i in order]


def alterations(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """The picture as people alter it."""
    pixels, (width, height) = np.asarray(image).astype(np.int16), image.size
    yield "5 grey levels", Image.fromarray(np.clip(pixels + 5, 0, 255).astype(np.uint8))
    border = max(1, round(0.01 * max(image.size)))
    yield "1% border", ImageOps.expand(image, border, (255, 255, 255))
    for percent in (2, 10):
        x, y = max(1, percent * width // 100), max(1, percent * height // 100)
        yield f"{percent}% crop", image.crop((x, y, width - x, height - y))
    yield "16 colours", image.quantize(16).convert("RGB")
    yield "greyscale", image.convert("L").convert("RGB")
    yield "mirrored", ImageOps.mirror(image)
    yield "mirrored, greyscale", ImageOps.mirror(image).convert("L").convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    yield "JPEG 30", Image.open(buffer).convert("RGB")


def embedded(embedder: Embedder, images: list[Image.Image]) -> np.ndarray:
    """(N, D) subject embeddings."""
    parts = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    return np.concatenate([embedder.embed(part)[FACET] for part in parts])


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--works", type=Path, required=True)
    parser.add_argument("--unrelated", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = options.data / "models"
    embedder = load_embedder(models, latest_model(models), device="cpu")
    unrelated = [image for folder in options.unrelated for image in drawn(folder, options.count)]
    prints = as_fingerprints(map(fingerprint, unrelated))
    limits = measure_limits(embedded(embedder, unrelated), range(len(unrelated)), prints)
    works = drawn(options.works, 10**6)
    originals = embed_works(embedder, {str(n): image for n, image in enumerate(works)})
    altered: dict[str, list[Image.Image]] = {}
    for image in works:
        for name, other in alterations(image):
            altered.setdefault(name, []).append(other)
    pairs = np.stack(list(originals.values()))  # (N, 2, D)
    index = FingerprintIndex(as_fingerprints(map(fingerprint, works)))
    report = {}
    for name, images in altered.items():
        vectors = embedded(embedder, images)
        cosines = np.einsum("nd,nvd->nv", vectors, pairs).max(axis=1)
        own = as_fingerprints(map(fingerprint, images))
        places, rows = index.near_duplicates(own)
        report[name] = summary(cosines, limits, len(set(places[places == rows].tolist())))
    result = {"limits": limits.model_dump(), "works": len(works), "found": report}
    print(json.dumps(result, indent=1))
    return 0


def summary(cosines: np.ndarray, limits: CopyLimits, by_fingerprint: int) -> dict[str, object]:
    """Counts of one alteration."""
    return {
        "fingerprint": by_fingerprint,
        "certain": int((cosines >= limits.certain).sum()),
        "certain or possible": int((cosines >= limits.possible).sum()),
        "lowest cosine": round(float(cosines.min()), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
